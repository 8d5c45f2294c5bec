//! A position in a JSON text, moved on by what the grammar of RFC 8259 allows.
//!
//! It knows the grammar and the depth bound, stops where a text leaves them, and leaves every value where it is. It does
//! not check UTF-8, and it does not look for any member or element: [`crate::json`] does, with it.
//!
//! Every message goes through here byte for byte. What nearly all texts are made of is therefore looked at first, and
//! in line: no space between tokens, names that end within eight bytes, no escapes, whole numbers.

use super::spelled::{Spelling, Text};
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

/// A position in a text.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'b> {
    /// What lies ahead. A slice that shrinks needs fewer checks than an offset into the whole.
    rest: &'b [u8],
    /// The length of the whole text.
    len: usize,
}

impl<'b> Cursor<'b> {
    pub(crate) fn new(bytes: &'b [u8], at: usize) -> Self {
        Self { rest: bytes.get(at..).unwrap_or_default(), len: bytes.len() }
    }

    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.len - self.rest.len()
    }

    /// What lies ahead.
    pub(crate) fn rest(&self) -> &'b [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next byte behind white space, which is passed over.
    #[inline]
    pub(crate) fn token(&mut self) -> Option<u8> {
        match self.peek() {
            Some(b' ' | b'\n' | b'\r' | b'\t') => {
                self.rest = behind_space(self.rest);
                self.peek()
            }
            next => next,
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn fault<T>(&self) -> Result<T, Fault> {
        Err(Fault::Syntax(self.at()))
    }

    /// Only white space may be left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        if self.token().is_none() { Ok(()) } else { self.fault() }
    }

    /// A string with its quotes.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Text<'b>, Fault> {
        if !self.take(b'"') {
            return self.fault();
        }
        let text = self.rest;
        let (run, ends) = near_end(text);
        if ends {
            self.skip(run + 1);
            return Ok(Text::new(text.get(..run).unwrap_or_default(), Spelling::Plain));
        }
        let (len, spelling) = end_of_string(text, run);
        let Some((spelled, rest)) = text.split_at_checked(len) else { return self.fault() };
        self.rest = rest;
        match (spelling, rest) {
            (Some(spelling), [b'"', rest @ ..]) => {
                self.rest = rest;
                Ok(Text::new(spelled, spelling))
            }
            _ => self.fault(),
        }
    }

    /// Takes these bytes if they are next.
    #[inline]
    pub(crate) fn take_all(&mut self, bytes: &[u8]) -> bool {
        match self.rest.strip_prefix(bytes) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A member's name, its colon, and the space around them; the cursor ends on the value.
    #[inline(always)]
    pub(crate) fn key(&mut self) -> Result<Text<'b>, Fault> {
        let key = self.string()?;
        self.token();
        if !self.take(b':') {
            return self.fault();
        }
        self.token();
        Ok(key)
    }

    /// A string, number or literal: any value without members or elements.
    #[inline(always)]
    pub(crate) fn scalar(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'1'..=b'9') if self.take_integer() => Ok(()),
            Some(b'-' | b'0'..=b'9') => {
                let (len, whole) = end_of_number(self.rest);
                self.skip(len);
                if whole { Ok(()) } else { self.fault() }
            }
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.fault(),
        }
    }

    /// Any value, inside `outer` levels that are already open.
    #[inline(always)]
    pub(crate) fn value(&mut self, outer: usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'{' | b'[') => {
                self.rest = nested(self.rest, self.len, outer)?;
                Ok(())
            }
            _ => self.scalar(),
        }
    }

    #[inline(always)]
    fn brackets(&mut self, outer: usize) -> Result<(), Fault> {
        let mut open = Open::new(outer);
        let mut named = false;
        loop {
            if named {
                self.key()?;
            }
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    named = bracket == b'{';
                    if !open.push(named) {
                        return Err(Fault::TooDeep(self.at()));
                    }
                    self.skip(1);
                    self.token();
                    if !self.take(closing(named)) {
                        continue;
                    }
                    open.pop();
                }
                _ => self.scalar()?,
            }
            loop {
                let Some(object) = open.innermost() else { return Ok(()) };
                self.token();
                if self.take(b',') {
                    self.token();
                    named = object;
                    break;
                }
                if !self.take(closing(object)) {
                    return self.fault();
                }
                open.pop();
            }
        }
    }

    /// Takes a number that is digits alone, as nearly all are.
    #[inline(always)]
    fn take_integer(&mut self) -> bool {
        let mut rest = self.rest;
        while let [b'0'..=b'9', behind @ ..] = rest {
            rest = behind;
        }
        let whole = !matches!(rest.first(), Some(b'.' | b'e' | b'E'));
        if whole {
            self.rest = rest;
        }
        whole
    }

    #[inline]
    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        if self.take_all(word) { Ok(()) } else { self.fault() }
    }

    #[inline]
    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }
}

/// What follows the array or object that `rest` begins with. Its cursor is its own: one that others see has to be kept
/// in memory at every step.
#[inline(never)]
fn nested(rest: &[u8], len: usize, outer: usize) -> Result<&[u8], Fault> {
    let mut cursor = Cursor { rest, len };
    cursor.brackets(outer)?;
    Ok(cursor.rest)
}

#[inline(never)]
fn behind_space(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Whether a backslash and this byte stand for a character. Looked up, since some texts are full of them.
fn is_escape(byte: u8) -> bool {
    const KNOWN: [bool; 256] = {
        let mut known = [false; 256];
        let mut bytes: &[u8] = b"\"\\/bfnrt";
        while let [byte, rest @ ..] = bytes {
            known[*byte as usize] = true;
            bytes = rest;
        }
        known
    };
    KNOWN.get(usize::from(byte)).copied().unwrap_or_default()
}

/// How far a string goes on without a stop within two words, and whether it ends there: most names do, and many texts.
#[inline(always)]
fn near_end(text: &[u8]) -> (usize, bool) {
    let Some((first, behind)) = text.split_first_chunk() else { return (0, false) };
    let run = stop::in_text_word(*first);
    if run < first.len() {
        return (run, first.get(run) == Some(&b'"'));
    }
    let Some(second) = behind.first_chunk() else { return (first.len(), false) };
    let run = stop::in_text_word(*second);
    (first.len() + run, second.get(run) == Some(&b'"'))
}

/// How far a string goes on whose opening quote has been read, and how it is spelled; no spelling where it does not end
/// well. Its first `known` bytes need no look.
#[inline(never)]
fn end_of_string(text: &[u8], known: usize) -> (usize, Option<Spelling>) {
    let rest = stop::behind_text(text.get(known..).unwrap_or_default());
    match rest {
        [b'"', ..] => (text.len() - rest.len(), Some(Spelling::Plain)),
        _ => end_of_escaped(text, rest),
    }
}

/// The same, where all ahead of `rest` is known.
#[inline(never)]
fn end_of_escaped<'b>(text: &'b [u8], mut rest: &'b [u8]) -> (usize, Option<Spelling>) {
    loop {
        match rest {
            [b'"', ..] => return (text.len() - rest.len(), Some(Spelling::Escaped)),
            [b'\\', byte, behind @ ..] if is_escape(*byte) => rest = behind,
            [b'\\', b'u', behind @ ..] => {
                let digits = behind.iter().take(4).take_while(|byte| byte.is_ascii_hexdigit()).count();
                rest = behind.get(digits..).unwrap_or_default();
                if digits < 4 {
                    return (text.len() - rest.len(), None);
                }
            }
            [b'\\', behind @ ..] => return (text.len() - behind.len(), None),
            _ => return (text.len() - rest.len(), None),
        }
        // The next one is seldom far.
        if let Some((word, behind)) = rest.split_first_chunk() {
            let run = stop::in_text_word(*word);
            if run < word.len() {
                rest = rest.get(run..).unwrap_or_default();
                continue;
            }
            rest = behind;
        }
        rest = stop::behind_text(rest);
    }
}

/// How far a number goes on, and whether it is whole; if not, the fault is there.
#[inline(never)]
fn end_of_number(text: &[u8]) -> (usize, bool) {
    let integer = match text {
        [b'-', b'0', rest @ ..] | [b'0', rest @ ..] => Ok(rest),
        [b'-', rest @ ..] => behind_digits(rest),
        _ => behind_digits(text),
    };
    let end = match integer {
        Ok(rest @ [b'.' | b'e' | b'E', ..]) => behind_fraction(rest),
        end => end,
    };
    match end {
        Ok(rest) => (text.len() - rest.len(), true),
        Err(rest) => (text.len() - rest.len(), false),
    }
}

/// What follows fraction and exponent; where one of them has no digits, what stands in their place.
fn behind_fraction(text: &[u8]) -> Result<&[u8], &[u8]> {
    let rest = match text {
        [b'.', rest @ ..] => behind_digits(rest)?,
        _ => text,
    };
    match rest {
        [b'e' | b'E', b'+' | b'-', rest @ ..] | [b'e' | b'E', rest @ ..] => behind_digits(rest),
        _ => Ok(rest),
    }
}

/// What follows one digit or more; where there is none, the text again.
#[inline]
fn behind_digits(text: &[u8]) -> Result<&[u8], &[u8]> {
    let mut rest = text;
    while let [b'0'..=b'9', behind @ ..] = rest {
        rest = behind;
    }
    if rest.len() < text.len() { Ok(rest) } else { Err(text) }
}

/// What closes an object, or else an array.
#[inline]
fn closing(object: bool) -> u8 {
    if object { b'}' } else { b']' }
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

    #[inline]
    fn push(&mut self, object: bool) -> bool {
        if self.count == self.room {
            return false;
        }
        self.kinds = self.kinds << 1 | u128::from(object);
        self.count += 1;
        true
    }

    #[inline]
    fn pop(&mut self) {
        self.kinds >>= 1;
        self.count = self.count.saturating_sub(1);
    }

    #[inline]
    fn innermost(&self) -> Option<bool> {
        (self.count > 0).then_some(self.kinds & 1 == 1)
    }
}
