//! The id of a JSON-RPC request, as it was spelled.
//!
//! An id is echoed exactly as it came, yet `"a"` and `"\u0061"` are one id to every peer that decodes JSON: equality,
//! order and hash are therefore those of a canonical spelling. Which ids are in flight is not decided here.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::json::{self, Cursor};

/// The longest spelling that is taken as an id, in bytes.
pub const MAX_ID_LEN: usize = 16 * 1024;

/// A JSON string or number that names a request (JSON-RPC 2.0 §4; MCP forbids `null`). Cheap to clone.
#[derive(Clone)]
pub struct RequestId {
    raw: Arc<str>,
    /// Present only where the canonical spelling differs.
    canonical: Option<Arc<str>>,
}

impl RequestId {
    /// Reads the JSON text of one string or number, without space around it; `None` for anything else and for texts
    /// longer than [`MAX_ID_LEN`].
    pub fn from_raw(raw: &str) -> Option<Self> {
        let bytes = raw.as_bytes();
        if bytes.len() > MAX_ID_LEN || !matches!(bytes.first(), Some(b'"' | b'-' | b'0'..=b'9')) {
            return None;
        }
        let span = Cursor::new(bytes, 0).scalar().ok()?;
        if span.end != bytes.len() {
            return None;
        }
        // A lone surrogate has no decoded form: then the spelling itself is canonical.
        let canonical = if bytes.contains(&b'\\') {
            json::decode(bytes).map(|text| json::quote(&text)).filter(|quoted| quoted != raw).map(Arc::from)
        } else {
            None
        };
        Some(Self { raw: raw.into(), canonical })
    }

    /// The id that is this text, spelled as a JSON string.
    pub fn text(text: &str) -> Self {
        Self { raw: json::quote(text).into(), canonical: None }
    }

    /// The id that is this number.
    pub fn number(number: i64) -> Self {
        Self { raw: number.to_string().into(), canonical: None }
    }

    /// The JSON text, as spelled.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The decoded text of an id that is a string.
    pub fn as_text(&self) -> Option<String> {
        json::decode(self.raw.as_bytes()).map(|text| text.into_owned())
    }

    fn canonical(&self) -> &str {
        self.canonical.as_deref().unwrap_or(&self.raw)
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
        f.write_str(&self.raw)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.raw)
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
