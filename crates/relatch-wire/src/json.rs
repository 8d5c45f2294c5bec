//! A strict scanner over whole JSON texts that yields spans instead of values.
//!
//! It checks the grammar of RFC 8259 and the depth bound, finds members and elements, and leaves every value where it
//! is. It does not check UTF-8 (callers that need it do so once for a whole body) and builds no tree.

mod cursor;
mod spelled;

use std::borrow::Cow;
use std::ops::Range;

pub(crate) use self::cursor::{Cursor, Fault};
pub(crate) use self::spelled::{Text, decode, quote};
use crate::envelope::MAX_DEPTH;

/// One member of an object: its name, and where its value lies.
pub(crate) struct Member<'b> {
    pub(crate) key: Text<'b>,
    pub(crate) value: Range<usize>,
}

/// The members of one object, in order.
#[derive(Clone, Copy)]
pub(crate) struct Members<'b> {
    cursor: Cursor<'b>,
    depth: usize,
    turn: Turn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Later,
    Over,
}

impl<'b> Members<'b> {
    /// Opens the object at `at`, which lies inside `outer` open levels.
    pub(crate) fn open(bytes: &'b [u8], at: usize, outer: usize) -> Result<Self, Fault> {
        Self::open_at(Cursor::new(bytes, at), outer)
    }

    #[inline]
    fn open_at(mut cursor: Cursor<'b>, outer: usize) -> Result<Self, Fault> {
        opens(&mut cursor, outer, b'{')?;
        Ok(Self { cursor, depth: outer + 1, turn: Turn::First })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Member<'b>>, Fault> {
        let Some(key) = self.next_key()? else { return Ok(None) };
        Ok(Some(Member { key, value: self.value()? }))
    }

    /// The next member's name; its value is read next, by [`Members::value`] or [`Members::inside`].
    #[inline(always)]
    pub(crate) fn next_key(&mut self) -> Result<Option<Text<'b>>, Fault> {
        if self.another()? { self.key().map(Some) } else { Ok(None) }
    }

    /// Whether there is another member. If so, it is read by [`Members::key`] and then its value, or by
    /// [`Members::take`].
    #[inline(always)]
    pub(crate) fn another(&mut self) -> Result<bool, Fault> {
        next_begins(&mut self.cursor, &mut self.turn, b'}')
    }

    #[inline(always)]
    pub(crate) fn key(&mut self) -> Result<Text<'b>, Fault> {
        self.cursor.key()
    }

    /// The value of the member, if name and value are spelled just so.
    #[inline(always)]
    pub(crate) fn take(&mut self, spelled: &[u8], value: &[u8]) -> Option<Range<usize>> {
        if !self.cursor.take_all(spelled) {
            return None;
        }
        let end = self.cursor.at();
        Some(end - value.len()..end)
    }

    /// The value of the member whose name was read.
    #[inline(always)]
    pub(crate) fn value(&mut self) -> Result<Range<usize>, Fault> {
        let start = self.cursor.at();
        self.cursor.value(self.depth)?;
        Ok(start..self.cursor.at())
    }

    /// The same, each member of a value that is an object being told to `look` ahead of its own value.
    #[inline(always)]
    pub(crate) fn inside(
        &mut self,
        mut look: impl FnMut(&mut Members<'b>, Text<'b>) -> Result<(), Fault>,
    ) -> Result<Range<usize>, Fault> {
        if self.cursor.peek() != Some(b'{') {
            return self.value();
        }
        let start = self.cursor.at();
        let mut members = Members::open_at(self.cursor, self.depth)?;
        while let Some(key) = members.next_key()? {
            look(&mut members, key)?;
        }
        self.cursor = members.cursor;
        Ok(start..self.cursor.at())
    }

    /// What follows the closing brace, once [`Members::next`] has said `None`.
    pub(crate) fn behind(&self) -> Cursor<'b> {
        self.cursor
    }
}

/// The elements of one array, in order.
pub(crate) struct Elements<'b> {
    cursor: Cursor<'b>,
    depth: usize,
    turn: Turn,
}

impl<'b> Elements<'b> {
    pub(crate) fn open(bytes: &'b [u8], at: usize, outer: usize) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes, at);
        opens(&mut cursor, outer, b'[')?;
        Ok(Self { cursor, depth: outer + 1, turn: Turn::First })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Range<usize>>, Fault> {
        if !next_begins(&mut self.cursor, &mut self.turn, b']')? {
            return Ok(None);
        }
        let start = self.cursor.at();
        self.cursor.value(self.depth)?;
        Ok(Some(start..self.cursor.at()))
    }

    /// The offset just behind the closing bracket, once [`Elements::next`] has said `None`.
    pub(crate) fn end(&self) -> usize {
        self.cursor.at()
    }
}

#[inline]
fn opens(cursor: &mut Cursor<'_>, outer: usize, bracket: u8) -> Result<(), Fault> {
    cursor.token();
    if outer >= MAX_DEPTH {
        return Err(Fault::TooDeep(cursor.at()));
    }
    if cursor.take(bracket) { Ok(()) } else { cursor.fault() }
}

#[inline(always)]
fn next_begins(cursor: &mut Cursor<'_>, turn: &mut Turn, close: u8) -> Result<bool, Fault> {
    if *turn == Turn::Over {
        return Ok(false);
    }
    cursor.token();
    if cursor.take(close) {
        *turn = Turn::Over;
        return Ok(false);
    }
    if *turn == Turn::Later {
        if !cursor.take(b',') {
            return cursor.fault();
        }
        cursor.token();
    }
    *turn = Turn::Later;
    Ok(true)
}

/// The value of the one member `name` of the object at `at`; nothing if the object is odd or names it twice.
pub(crate) fn member_at(bytes: &[u8], at: usize, name: &str) -> Option<Range<usize>> {
    let [found] = members_at(bytes, at, [name])?;
    found
}

/// The values of these members of the object at `at`, where they are; nothing if the object is odd or names one of them
/// twice.
pub(crate) fn members_at<const N: usize>(
    bytes: &[u8],
    at: usize,
    names: [&str; N],
) -> Option<[Option<Range<usize>>; N]> {
    let (found, twice) = look_for(bytes, at, names)?;
    (!twice.contains(&true)).then_some(found)
}

/// The same, each by itself: one that is named twice is none, and the others are what they are.
pub(crate) fn each_member_at<const N: usize>(
    bytes: &[u8],
    at: usize,
    names: [&str; N],
) -> Option<[Option<Range<usize>>; N]> {
    let (mut found, twice) = look_for(bytes, at, names)?;
    for (place, twice) in found.iter_mut().zip(twice) {
        place.take_if(|_| twice);
    }
    Some(found)
}

/// Where these members of the object at `at` are, and which of them are named twice; nothing if the object is odd.
#[expect(clippy::type_complexity, reason = "two rows side by side, read where they are made")]
fn look_for<const N: usize>(
    bytes: &[u8],
    at: usize,
    names: [&str; N],
) -> Option<([Option<Range<usize>>; N], [bool; N])> {
    let mut members = Members::open(bytes, at, 0).ok()?;
    let (mut found, mut twice) = ([const { None }; N], [false; N]);
    while let Some(member) = members.next().ok()? {
        let named = names.iter().zip(found.iter_mut().zip(&mut twice)).find(|(name, _)| member.key.is(name));
        if let Some((_, (place, twice))) = named {
            *twice |= place.replace(member.value).is_some();
        }
    }
    Some((found, twice))
}

/// The value at the end of a path of member names, starting from the object that `bytes` holds.
pub(crate) fn find(bytes: &[u8], path: &[&str]) -> Option<Range<usize>> {
    let mut span = 0..bytes.len();
    for name in path {
        span = member_at(bytes, span.start, name)?;
    }
    Some(span)
}

/// The string at the end of a path of member names.
pub(crate) fn find_text(bytes: &[u8], path: &[&str]) -> Option<String> {
    let span = find(bytes, path)?;
    decode(bytes.get(span)?).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(text: &str) -> bool {
        let mut cursor = Cursor::new(text.as_bytes(), 0);
        cursor.token();
        cursor.value(0).and_then(|()| cursor.end()).is_ok()
    }

    #[test]
    fn the_grammar_is_that_of_rfc_8259() {
        for text in [
            "0",
            "-0",
            "1.10",
            "1e5",
            "1E-5",
            "-12.5e+3",
            "123456789012345678901234567890",
            "\"\"",
            r#""\u00e9\n\"""#,
            "[]",
            "{}",
            "[1,[2,{\"a\":[]}],{}]",
            " { \"a\" : [ true , false , null ] } ",
            "\"\\ud800\"",
        ] {
            assert!(valid(text), "{text}");
        }
        for text in [
            "",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nul",
            "[",
            "[1,]",
            "[1 2]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "[}",
            "{]",
            "1 1",
            "[1]]",
            "NaN",
        ] {
            assert!(!valid(text), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_exactly() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(valid(&nested(MAX_DEPTH)));
        let deep = nested(MAX_DEPTH + 1);
        assert_eq!(Cursor::new(deep.as_bytes(), 0).value(0), Err(Fault::TooDeep(MAX_DEPTH)));
        assert!(Cursor::new(b"[[]]", 0).value(MAX_DEPTH - 1).is_err());
        assert!(Cursor::new(b"[]", 0).value(MAX_DEPTH - 1).is_ok());
    }

    #[test]
    fn a_member_named_twice_is_not_found() {
        assert_eq!(find(br#"{"a":1,"\u0061":2}"#, &["a"]), None);
        assert_eq!(find(br#" {"b":{"a":1}}"#, &["b", "a"]), Some(11..12));
    }
}
