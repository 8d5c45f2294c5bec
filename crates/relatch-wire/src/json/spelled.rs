//! Strings as JSON spells them, and what they read as.

use std::borrow::Cow;

use crate::stop;

/// How a string is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As it reads.
    Plain,
    /// With escapes in it.
    Escaped,
}

/// A string where it stands: a member's name, or a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'b> {
    /// Without its quotes.
    spelled: &'b [u8],
    spelling: Spelling,
}

impl<'b> Text<'b> {
    /// What was read, without its quotes.
    #[inline]
    pub(crate) fn new(spelled: &'b [u8], spelling: Spelling) -> Self {
        Self { spelled, spelling }
    }

    /// As spelled, without its quotes.
    pub(crate) fn spelled(self) -> &'b [u8] {
        self.spelled
    }

    /// What it reads as; `None` with a lone surrogate, which is in no name that a reader looks for.
    pub(crate) fn decoded(self) -> Option<Cow<'b, str>> {
        match self.spelling {
            Spelling::Plain => std::str::from_utf8(self.spelled).ok().map(Cow::Borrowed),
            Spelling::Escaped => unescape(&[b"\"", self.spelled, b"\""].concat()).map(Cow::Owned),
        }
    }

    /// What names are told apart by: what it reads as, or what stands there where that is nothing. Nearly all are
    /// spelled plainly, and those are looked at where they stand.
    #[inline]
    pub(crate) fn name(self) -> Cow<'b, [u8]> {
        match self.spelling {
            Spelling::Plain => Cow::Borrowed(self.spelled),
            Spelling::Escaped => match self.decoded() {
                Some(name) => Cow::Owned(name.into_owned().into_bytes()),
                None => Cow::Borrowed(self.spelled),
            },
        }
    }

    /// Whether it reads as this.
    pub(crate) fn is(self, name: &str) -> bool {
        *self.name() == *name.as_bytes()
    }
}

/// The text of a JSON string as spelled, quotes included.
pub(crate) fn decode(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if stop::first(inner, [b'\\']) < inner.len() {
        unescape(raw).map(Cow::Owned)
    } else {
        std::str::from_utf8(inner).ok().map(Cow::Borrowed)
    }
}

fn unescape(raw: &[u8]) -> Option<String> {
    serde_json::from_slice(raw).ok()
}

/// A string, as JSON spells it.
pub(crate) fn quote(text: &str) -> String {
    if stop::in_text(text.as_bytes()) < text.len() {
        return serde_json::Value::from(text).to_string();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    quoted.push_str(text);
    quoted.push('"');
    quoted
}
