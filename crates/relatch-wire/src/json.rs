//! A strict scanner over whole JSON texts that yields spans instead of values.
//!
//! It checks the grammar of RFC 8259 and the depth bound, finds members and elements, and leaves every value where it
//! is. It does not check UTF-8 (callers that need it do so once for a whole body) and builds no tree.

use std::borrow::Cow;
use std::ops::Range;

use crate::envelope::MAX_DEPTH;
use crate::stop;

/// Why a text could not be scanned, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The byte at this offset (or the end of the text) does not fit the grammar.
    Syntax(usize),
    /// The value that opens at this offset lies deeper than [`MAX_DEPTH`].
    TooDeep(usize),
}

/// A position in a text, moved on by what the grammar allows.
pub(crate) struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    pub(crate) fn new(bytes: &'b [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    #[cold]
    pub(crate) fn fault<T>(&self) -> Result<T, Fault> {
        Err(Fault::Syntax(self.at))
    }

    /// Only white space may be left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.fault() }
    }

    /// A string with its quotes.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Range<usize>, Fault> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.fault();
        }
        let mut at = start + 1;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            // Most names, and many texts, end within a word.
            let stop = rest.first_chunk().and_then(|word| stop::in_word(*word, [b'"', b'\\']));
            at += stop.unwrap_or_else(|| stop::first_or_control(rest, [b'"', b'\\']));
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(start..self.at);
                }
                Some(b'\\') => {
                    self.at = at + 1;
                    self.escape()?;
                    at = self.at;
                }
                _ => {
                    self.at = at;
                    return self.fault();
                }
            }
        }
    }

    /// A member's name, its colon, and the space around them; the cursor ends on the value.
    pub(crate) fn key(&mut self) -> Result<Range<usize>, Fault> {
        let key = self.string()?;
        self.space();
        if !self.take(b':') {
            return self.fault();
        }
        self.space();
        Ok(key)
    }

    /// A string, number or literal: any value without members or elements.
    #[inline]
    pub(crate) fn scalar(&mut self) -> Result<Range<usize>, Fault> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => return self.fault(),
        }
        Ok(start..self.at)
    }

    /// Any value, inside `outer` levels that are already open.
    #[inline]
    pub(crate) fn value(&mut self, outer: usize) -> Result<Range<usize>, Fault> {
        match self.peek() {
            Some(b'{' | b'[') => self.nested(outer),
            _ => self.scalar(),
        }
    }

    fn nested(&mut self, outer: usize) -> Result<Range<usize>, Fault> {
        let start = self.at;
        let mut open = Open::new(outer);
        loop {
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    let object = bracket == b'{';
                    if !open.push(object) {
                        return Err(Fault::TooDeep(self.at));
                    }
                    self.at += 1;
                    self.space();
                    if self.take(if object { b'}' } else { b']' }) {
                        open.pop();
                    } else {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => {
                    self.scalar()?;
                }
            }
            loop {
                let Some(object) = open.innermost() else { return Ok(start..self.at) };
                self.space();
                if self.take(b',') {
                    self.space();
                    if object {
                        self.key()?;
                    }
                    break;
                }
                if !self.take(if object { b'}' } else { b']' }) {
                    return self.fault();
                }
                open.pop();
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return self.fault();
                    }
                    self.at += 1;
                }
                Ok(())
            }
            _ => self.fault(),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(())
        } else {
            self.fault()
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.fault() } else { Ok(()) }
    }
}

/// The open brackets of one value, a bit for each: objects are ones.
struct Open {
    kinds: u128,
    count: usize,
    room: usize,
}

impl Open {
    fn new(outer: usize) -> Self {
        Self { kinds: 0, count: 0, room: MAX_DEPTH.saturating_sub(outer) }
    }

    fn push(&mut self, object: bool) -> bool {
        if self.count == self.room {
            return false;
        }
        self.kinds = self.kinds << 1 | u128::from(object);
        self.count += 1;
        true
    }

    fn pop(&mut self) {
        self.kinds >>= 1;
        self.count = self.count.saturating_sub(1);
    }

    fn innermost(&self) -> Option<bool> {
        (self.count > 0).then_some(self.kinds & 1 == 1)
    }
}

/// One member of an object: the name as spelled, and where its value lies.
pub(crate) struct Member<'b> {
    pub(crate) key: &'b [u8],
    pub(crate) value: Range<usize>,
}

impl<'b> Member<'b> {
    /// The decoded name; `None` for a name with a lone surrogate, which no reader looks for.
    pub(crate) fn key(&self) -> Option<Cow<'b, str>> {
        decode(self.key)
    }

    /// Whether this is its decoded name. Nearly all are spelled plainly, and those are compared as they stand.
    pub(crate) fn is(&self, name: &str) -> bool {
        let plain = inner(self.key);
        plain == name.as_bytes() || (plain.contains(&b'\\') && self.key().is_some_and(|key| key == name))
    }
}

/// A string without its quotes, as spelled.
pub(crate) fn inner(raw: &[u8]) -> &[u8] {
    raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default()
}

/// The members of one object, in order.
pub(crate) struct Members<'b> {
    bytes: &'b [u8],
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
        let mut cursor = Cursor::new(bytes, at);
        cursor.space();
        if outer >= MAX_DEPTH {
            return Err(Fault::TooDeep(cursor.at()));
        }
        if !cursor.take(b'{') {
            return cursor.fault();
        }
        Ok(Self { bytes, cursor, depth: outer + 1, turn: Turn::First })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Member<'b>>, Fault> {
        let Some(key) = self.next_key()? else { return Ok(None) };
        Ok(Some(Member { key, value: self.value()? }))
    }

    /// The next member's name as spelled; its value is read next, by [`Members::value`] or [`Members::inside`].
    pub(crate) fn next_key(&mut self) -> Result<Option<&'b [u8]>, Fault> {
        if !next_begins(&mut self.cursor, &mut self.turn, b'}')? {
            return Ok(None);
        }
        let key = self.cursor.key()?;
        Ok(Some(self.bytes.get(key).unwrap_or_default()))
    }

    /// The value of the member whose name was read.
    pub(crate) fn value(&mut self) -> Result<Range<usize>, Fault> {
        self.cursor.value(self.depth)
    }

    /// The same, each member of a value that is an object being told to `look` ahead of its own value.
    pub(crate) fn inside(
        &mut self,
        mut look: impl FnMut(&mut Members<'b>, &'b [u8]) -> Result<(), Fault>,
    ) -> Result<Range<usize>, Fault> {
        if self.cursor.peek() != Some(b'{') {
            return self.value();
        }
        let start = self.cursor.at();
        let mut members = Members::open(self.bytes, start, self.depth)?;
        while let Some(key) = members.next_key()? {
            look(&mut members, key)?;
        }
        self.cursor.at = members.end();
        Ok(start..self.cursor.at)
    }

    /// The offset just behind the closing brace, once [`Members::next`] has said `None`.
    pub(crate) fn end(&self) -> usize {
        self.cursor.at()
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
        cursor.space();
        if outer >= MAX_DEPTH {
            return Err(Fault::TooDeep(cursor.at()));
        }
        if !cursor.take(b'[') {
            return cursor.fault();
        }
        Ok(Self { cursor, depth: outer + 1, turn: Turn::First })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Range<usize>>, Fault> {
        if !next_begins(&mut self.cursor, &mut self.turn, b']')? {
            return Ok(None);
        }
        self.cursor.value(self.depth).map(Some)
    }

    /// The offset just behind the closing bracket, once [`Elements::next`] has said `None`.
    pub(crate) fn end(&self) -> usize {
        self.cursor.at()
    }
}

fn next_begins(cursor: &mut Cursor<'_>, turn: &mut Turn, close: u8) -> Result<bool, Fault> {
    if *turn == Turn::Over {
        return Ok(false);
    }
    cursor.space();
    if cursor.take(close) {
        *turn = Turn::Over;
        return Ok(false);
    }
    if *turn == Turn::Later {
        if !cursor.take(b',') {
            return cursor.fault();
        }
        cursor.space();
    }
    *turn = Turn::Later;
    Ok(true)
}

/// The text of a JSON string as spelled, quotes included.
pub(crate) fn decode(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        serde_json::from_slice(raw).ok().map(Cow::Owned)
    } else {
        std::str::from_utf8(inner).ok().map(Cow::Borrowed)
    }
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
    let mut members = Members::open(bytes, at, 0).ok()?;
    let mut found = [const { None }; N];
    while let Some(member) = members.next().ok()? {
        let named = names.iter().zip(&mut found).find(|(name, _)| member.is(name));
        if let Some((_, place)) = named
            && place.replace(member.value).is_some()
        {
            return None;
        }
    }
    Some(found)
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

/// A string, as JSON spells it.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(text: &str) -> bool {
        let mut cursor = Cursor::new(text.as_bytes(), 0);
        cursor.space();
        cursor.value(0).and_then(|_| cursor.end()).is_ok()
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
