//! Short digests that tell whether two texts differ.
//!
//! They are stable across versions and machines (records keep them) and are no defence against a peer that makes
//! collisions on purpose: nothing that matters for safety may rest on them.

use crate::json::{Cursor, Fault, decode};

/// The digest of these bytes as they are.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut state = State::new(b'b');
    state.bytes(bytes);
    state.end()
}

/// The digest of one JSON value, the same for every order of members, spacing and spelling of strings; numbers count
/// as spelled. `None` if the bytes are not exactly one value.
pub fn digest_json(bytes: &[u8]) -> Option<u64> {
    let mut cursor = Cursor::new(bytes, 0);
    cursor.token();
    let digest = value(&mut cursor, 0).ok()?;
    cursor.end().ok()?;
    Some(digest)
}

fn value(cursor: &mut Cursor<'_>, depth: usize) -> Result<u64, Fault> {
    if depth > crate::envelope::MAX_DEPTH {
        return Err(Fault::TooDeep(cursor.at()));
    }
    if cursor.take(b'{') {
        let mut members = Vec::new();
        cursor.token();
        if !cursor.take(b'}') {
            loop {
                let rest = cursor.rest();
                let quoted = cursor.key()?.spelled().len() + 2;
                let key = text(rest.get(..quoted).unwrap_or_default());
                members.push((key, value(cursor, depth + 1)?));
                if !more(cursor, b'}')? {
                    break;
                }
            }
        }
        members.sort_unstable();
        let mut state = State::new(b'o');
        for (key, value) in members {
            state.word(key);
            state.word(value);
        }
        Ok(state.end())
    } else if cursor.take(b'[') {
        let mut state = State::new(b'a');
        cursor.token();
        if !cursor.take(b']') {
            loop {
                state.word(value(cursor, depth + 1)?);
                if !more(cursor, b']')? {
                    break;
                }
            }
        }
        Ok(state.end())
    } else {
        let rest = cursor.rest();
        cursor.scalar()?;
        let raw = rest.get(..rest.len() - cursor.rest().len()).unwrap_or_default();
        if raw.first() == Some(&b'"') {
            return Ok(text(raw));
        }
        let mut state = State::new(b'n');
        state.bytes(raw);
        Ok(state.end())
    }
}

fn more(cursor: &mut Cursor<'_>, close: u8) -> Result<bool, Fault> {
    cursor.token();
    if cursor.take(close) {
        return Ok(false);
    }
    if !cursor.take(b',') {
        return cursor.fault();
    }
    cursor.token();
    Ok(true)
}

fn text(raw: &[u8]) -> u64 {
    let mut state = State::new(b's');
    match decode(raw) {
        Some(text) => state.bytes(text.as_bytes()),
        None => state.bytes(raw),
    }
    state.end()
}

/// FNV-1a with 64 bits, its high bits mixed down at the end.
struct State(u64);

impl State {
    fn new(tag: u8) -> Self {
        let mut state = Self(0xcbf2_9ce4_8422_2325);
        state.bytes(&[tag]);
        state
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn word(&mut self, word: u64) {
        self.bytes(&word.to_le_bytes());
    }

    fn end(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_space_and_spelling_of_strings_do_not_count() {
        let one = digest_json(br#"{"a":[1,{"x":"\u0061","y":null}],"b":{}}"#);
        let two = digest_json(br#" { "b" : {}, "a" : [ 1, { "y":null, "\u0078":"a" } ] } "#);
        assert!(one.is_some());
        assert_eq!(one, two);
    }

    #[test]
    fn everything_else_counts() {
        let texts = [
            "1",
            "1.0",
            "\"1\"",
            "[1]",
            "[[1]]",
            "{}",
            "[]",
            "null",
            "{\"a\":1}",
            "{\"a\":2}",
            "[1,2]",
            "[2,1]",
        ];
        for (n, one) in texts.iter().enumerate() {
            for two in texts.iter().skip(n + 1) {
                assert_ne!(digest_json(one.as_bytes()), digest_json(two.as_bytes()), "{one} {two}");
            }
        }
        assert_eq!(digest_json(b"{\"a\":}"), None);
        assert_eq!(digest_json(b"1 2"), None);
        assert_eq!(digest_json("[".repeat(100_000).as_bytes()), None);
        // Records keep digests: their values may not change between versions.
        assert_eq!(digest(b"relatch"), digest(b"relatch"));
        assert_ne!(digest(b"relatch"), digest(b"relatcg"));
    }
}
