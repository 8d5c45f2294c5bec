//! The id of a JSON-RPC request, as it was spelled.
//!
//! An id is echoed exactly as it came, yet `"a"` and `"\u0061"` are one id to every peer that decodes JSON: equality,
//! order and hash are therefore those of a canonical spelling. Which ids are in flight is not decided here.

use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::json::{self, Cursor};

/// The longest spelling that is taken as an id, in bytes.
pub const MAX_ID_LEN: usize = 16 * 1024;

/// A JSON string or number that names a request (JSON-RPC 2.0 §4; MCP forbids `null`). Cheap to clone.
#[derive(Clone)]
pub struct RequestId(Spelled);

#[derive(Clone)]
enum Spelled {
    /// Canonical, and short, as nearly all are: no memory is asked for.
    Short(Short),
    /// Canonical.
    Long(Arc<str>),
    /// Spelled in another way than the canonical one.
    Odd(Arc<Odd>),
}

struct Odd {
    raw: String,
    canonical: String,
}

impl RequestId {
    /// Reads the JSON text of one string or number, without space around it; `None` for anything else and for texts
    /// longer than [`MAX_ID_LEN`].
    pub fn from_raw(raw: &str) -> Option<Self> {
        // The length first: what is too long is not worth a look.
        let mut cursor = Cursor::new(raw.as_bytes(), 0);
        let whole = raw.len() <= MAX_ID_LEN && cursor.scalar().is_ok() && cursor.at() == raw.len();
        if whole { Self::from_value(raw.as_bytes()) } else { None }
    }

    /// The same for what is known to be UTF-8, and the text of one JSON value.
    pub(crate) fn from_value(raw: &[u8]) -> Option<Self> {
        match raw.first() {
            _ if raw.len() > MAX_ID_LEN => None,
            Some(b'-' | b'0'..=b'9') => Self::canonical_as(raw),
            Some(b'"') => match canonical(raw) {
                Some(canonical) if canonical.as_bytes() != raw => {
                    let raw = std::str::from_utf8(raw).ok()?.to_owned();
                    Some(Self(Spelled::Odd(Arc::new(Odd { raw, canonical }))))
                }
                _ => Self::canonical_as(raw),
            },
            _ => None,
        }
    }

    /// The id that is this text, spelled as a JSON string.
    pub fn text(text: &str) -> Self {
        let raw = json::quote(text);
        Self(Short::of(raw.as_bytes()).map_or_else(|| Spelled::Long(raw.into()), Spelled::Short))
    }

    /// The id that is this number.
    pub fn number(number: i64) -> Self {
        let mut short = Short::default();
        match write!(short, "{number}") {
            Ok(()) => Self(Spelled::Short(short)),
            Err(fmt::Error) => Self(Spelled::Long(number.to_string().into())),
        }
    }

    /// The JSON text, as spelled.
    pub fn raw(&self) -> &str {
        match &self.0 {
            Spelled::Short(short) => short.text(),
            Spelled::Long(raw) => raw,
            Spelled::Odd(odd) => &odd.raw,
        }
    }

    /// The decoded text of an id that is a string.
    pub fn as_text(&self) -> Option<String> {
        json::decode(self.raw().as_bytes()).map(|text| text.into_owned())
    }

    /// The id of this canonical spelling, which is known to be UTF-8.
    fn canonical_as(raw: &[u8]) -> Option<Self> {
        match Short::of(raw) {
            Some(short) => Some(Self(Spelled::Short(short))),
            None => Some(Self(Spelled::Long(std::str::from_utf8(raw).ok()?.into()))),
        }
    }

    /// The bytes of the canonical spelling, which are in the order of its characters.
    fn canonical(&self) -> &[u8] {
        match &self.0 {
            Spelled::Short(short) => short.bytes(),
            Spelled::Long(raw) => raw.as_bytes(),
            Spelled::Odd(odd) => odd.canonical.as_bytes(),
        }
    }
}

/// The canonical spelling of a string that has escapes. A lone surrogate has no decoded form: then the spelling itself is
/// canonical.
fn canonical(raw: &[u8]) -> Option<String> {
    if raw.contains(&b'\\') { json::decode(raw).map(|text| json::quote(&text)) } else { None }
}

/// As many bytes as leave an id no larger than the pointers of a long one.
const SHORT: usize = 22;

/// A text of up to [`SHORT`] bytes.
#[derive(Clone, Copy, Default)]
struct Short {
    len: u8,
    bytes: [u8; SHORT],
}

impl Short {
    fn of(raw: &[u8]) -> Option<Self> {
        let mut short = Self::default();
        short.push(raw).then_some(short)
    }

    /// Takes all of these bytes, or none.
    fn push(&mut self, raw: &[u8]) -> bool {
        let from = usize::from(self.len);
        let to = from + raw.len();
        let (Some(place), Ok(len)) = (self.bytes.get_mut(from..to), u8::try_from(to)) else { return false };
        place.copy_from_slice(raw);
        self.len = len;
        true
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.push(text.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for RequestId {}

impl PartialOrd for RequestId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RequestId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(raw: &str) -> RequestId {
        RequestId::from_raw(raw).unwrap()
    }

    #[test]
    fn strings_are_equal_when_they_decode_to_the_same_text() {
        assert_eq!(id(r#""a""#), id(r#""\u0061""#));
        assert_eq!(id(r#""a\/b""#), id(r#""a/b""#));
        assert_eq!(id(r#""\u0061""#).raw(), r#""\u0061""#);
        assert_eq!(RequestId::text("é\n\""), id(r#""\u00e9\u000a\"""#));
        assert_ne!(id(r#""\ud800""#), id(r#""\ud801""#));
    }

    #[test]
    fn a_number_is_not_a_string_and_is_compared_by_its_text() {
        assert_ne!(id("1"), id("\"1\""));
        assert_ne!(id("1"), id("1.0"));
        assert_eq!(id("123456789012345678901234567890"), id("123456789012345678901234567890"));
        assert_eq!(RequestId::number(-7), id("-7"));
    }

    #[test]
    fn only_strings_and_numbers_are_ids() {
        for raw in ["", "null", "true", "{}", "[]", " 1", "1 ", "\"a", "01", "\"a\"x", "\"\n\""] {
            assert_eq!(RequestId::from_raw(raw), None, "{raw}");
        }
        let long = format!("\"{}\"", "a".repeat(MAX_ID_LEN));
        assert_eq!(RequestId::from_raw(&long), None);
    }
}
