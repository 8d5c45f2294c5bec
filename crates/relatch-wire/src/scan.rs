//! Scanners over one JSON object that comes in pieces: its top level only.
//!
//! They serve answers too long to be held: what kind of answer it is, and its id under way. They follow the brackets
//! and strings of a text and do not check the rest of its grammar; a text that is no object passes as it is. Memory
//! is bounded whatever comes.

use bytes::{BufMut, BytesMut};

use crate::json;
use crate::request_id::{MAX_ID_LEN, RequestId};
use crate::stop;

/// Watches the top level of one object.
#[derive(Debug, Default)]
pub struct TopLevel {
    walker: Walker,
    id_text: Vec<u8>,
    id: Option<RequestId>,
}

impl TopLevel {
    /// A scanner at the beginning of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on.
    pub fn feed(&mut self, chunk: &[u8]) {
        let Self { walker, id_text, id } = self;
        walker.feed(chunk, |piece| match piece {
            Piece::Other(_) => {}
            Piece::IdBegins => id_text.clear(),
            Piece::Id(text) => {
                // One byte over the bound is enough to be refused.
                let room = (MAX_ID_LEN + 1).saturating_sub(id_text.len());
                id_text.extend_from_slice(text.get(..room).unwrap_or(text));
            }
            Piece::IdEnds => *id = std::str::from_utf8(id_text).ok().and_then(RequestId::from_raw),
        });
    }

    /// A top-level `result` has begun that is not null.
    pub fn saw_result(&self) -> bool {
        self.walker.result
    }

    /// A top-level `error` has begun that is not null.
    pub fn saw_error(&self) -> bool {
        self.walker.error
    }

    /// The top-level id, once all of it has come; `None` for what is no id.
    pub fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// The closing brace of the object has come.
    pub fn is_complete(&self) -> bool {
        self.walker.place == Place::After
    }

    /// What has come is no object.
    pub fn is_foreign(&self) -> bool {
        self.walker.place == Place::Foreign
    }
}

/// Puts another id in place of the top-level `id` of a streamed message, wherever it comes; every other byte stays.
#[derive(Debug)]
pub struct IdReplacer {
    walker: Walker,
    new: RequestId,
}

impl IdReplacer {
    /// A replacer at the beginning of a message.
    pub fn new(new: RequestId) -> Self {
        Self { walker: Walker::default(), new }
    }

    /// Reads on and appends what goes out.
    pub fn feed(&mut self, chunk: &[u8], out: &mut BytesMut) {
        out.reserve(chunk.len());
        let Self { walker, new } = self;
        walker.feed(chunk, |piece| match piece {
            Piece::Other(bytes) => out.put_slice(bytes),
            Piece::IdBegins => out.put_slice(new.raw().as_bytes()),
            Piece::Id(_) | Piece::IdEnds => {}
        });
    }

    /// The closing brace of the message has come.
    pub fn is_complete(&self) -> bool {
        self.walker.place == Place::After
    }
}

/// What the walker tells of a chunk, in order.
enum Piece<'c> {
    Other(&'c [u8]),
    IdBegins,
    Id(&'c [u8]),
    IdEnds,
}

#[derive(Debug, Default)]
struct Walker {
    place: Place,
    /// The name of the current member, as spelled, without quotes.
    key: Vec<u8>,
    member: Member,
    result: bool,
    error: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the object.
    #[default]
    Before,
    /// Where a member, or the end of the object, is due.
    Between,
    Key {
        escaped: bool,
    },
    /// Where the colon is due.
    AfterKey,
    /// Where the value is due.
    BeforeValue,
    /// In a number or literal.
    Scalar,
    Text {
        escaped: bool,
    },
    /// In an array or object, this many brackets deep.
    Nested {
        depth: u64,
    },
    NestedText {
        depth: u64,
        escaped: bool,
    },
    AfterValue,
    /// Behind the object.
    After,
    /// The text is no object.
    Foreign,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Member {
    Id,
    Result,
    Error,
    #[default]
    Other,
}

/// Every letter of the longest name that counts, `result`, may be spelled `\u0000`.
const KEY_ROOM: usize = 36;

impl Walker {
    fn feed<'c>(&mut self, chunk: &'c [u8], mut tell: impl FnMut(Piece<'c>)) {
        let mut told = 0;
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            let rest = chunk.get(at..).unwrap_or_default();
            let before = self.in_id();
            // Where the next byte that matters is; those before it change nothing.
            let (skip, step) = self.step(byte, rest);
            at += skip;
            let now = self.in_id();
            if now != before {
                // Quotes belong to the value: it begins with the byte read last and ends behind it.
                let edge = if now { at } else { at + step };
                let piece = chunk.get(told..edge).unwrap_or_default();
                told = edge;
                if now {
                    tell(Piece::Other(piece));
                    tell(Piece::IdBegins);
                } else {
                    tell(Piece::Id(piece));
                    tell(Piece::IdEnds);
                }
            }
            at += step;
        }
        let piece = chunk.get(told..).unwrap_or_default();
        if !piece.is_empty() {
            tell(if self.in_id() { Piece::Id(piece) } else { Piece::Other(piece) });
        }
    }

    fn in_id(&self) -> bool {
        self.member == Member::Id
            && matches!(
                self.place,
                Place::Scalar | Place::Text { .. } | Place::Nested { .. } | Place::NestedText { .. }
            )
    }

    /// Goes on to the next byte that matters and past it: how many bytes are skipped, and whether that byte is taken.
    fn step(&mut self, byte: u8, rest: &[u8]) -> (usize, usize) {
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let (skip, next) = match self.place {
            // A byte order mark is passed over, too.
            Place::Before if space || matches!(byte, 0xef | 0xbb | 0xbf) => (0, Place::Before),
            Place::Before if byte == b'{' => (0, Place::Between),
            Place::Before => (0, Place::Foreign),
            Place::Between => match byte {
                b'"' => {
                    self.key.clear();
                    (0, Place::Key { escaped: false })
                }
                b'}' => (0, Place::After),
                _ => (0, Place::Between),
            },
            Place::Key { escaped } => {
                if byte == b'"' && !escaped {
                    self.member = member(&self.key);
                    (0, Place::AfterKey)
                } else {
                    if self.key.len() <= KEY_ROOM {
                        self.key.push(byte);
                    }
                    (0, Place::Key { escaped: byte == b'\\' && !escaped })
                }
            }
            Place::AfterKey => (0, if byte == b':' { Place::BeforeValue } else { Place::AfterKey }),
            Place::BeforeValue if space => (0, Place::BeforeValue),
            Place::BeforeValue => {
                match (self.member, byte) {
                    (_, b'n' | b',' | b'}' | b']') => {}
                    (Member::Result, _) => self.result = true,
                    (Member::Error, _) => self.error = true,
                    (Member::Id | Member::Other, _) => {}
                }
                match byte {
                    b'"' => (0, Place::Text { escaped: false }),
                    b'{' | b'[' => (0, Place::Nested { depth: 1 }),
                    b',' | b'}' | b']' => {
                        self.place = Place::AfterValue;
                        return (0, 0);
                    }
                    _ => (0, Place::Scalar),
                }
            }
            Place::Scalar => {
                if space || matches!(byte, b',' | b'}' | b']') {
                    self.place = Place::AfterValue;
                    return (0, 0);
                }
                (0, Place::Scalar)
            }
            Place::Text { escaped: true } => (0, Place::Text { escaped: false }),
            Place::Text { escaped: false } => {
                let skip = stop::first(rest, [b'"', b'\\']);
                match rest.get(skip) {
                    Some(b'"') => (skip, Place::AfterValue),
                    Some(_) => (skip, Place::Text { escaped: true }),
                    None => return (skip, 0),
                }
            }
            Place::NestedText { depth, escaped: true } => (0, Place::NestedText { depth, escaped: false }),
            Place::NestedText { depth, escaped: false } => {
                let skip = stop::first(rest, [b'"', b'\\']);
                match rest.get(skip) {
                    Some(b'"') => (skip, Place::Nested { depth }),
                    Some(_) => (skip, Place::NestedText { depth, escaped: true }),
                    None => return (skip, 0),
                }
            }
            Place::Nested { depth } => {
                let skip = stop::first(rest, [b'"', b'{', b'[', b'}', b']']);
                match rest.get(skip) {
                    Some(b'"') => (skip, Place::NestedText { depth, escaped: false }),
                    Some(b'{' | b'[') => (skip, Place::Nested { depth: depth.saturating_add(1) }),
                    Some(_) if depth == 1 => (skip, Place::AfterValue),
                    Some(_) => (skip, Place::Nested { depth: depth - 1 }),
                    None => return (skip, 0),
                }
            }
            Place::AfterValue => match byte {
                b',' => (0, Place::Between),
                b'}' => (0, Place::After),
                _ => (0, Place::AfterValue),
            },
            Place::After | Place::Foreign => return (rest.len(), 0),
        };
        self.place = next;
        (skip, 1)
    }
}

fn member(spelled: &[u8]) -> Member {
    let mut quoted = Vec::with_capacity(spelled.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(spelled);
    quoted.push(b'"');
    match json::decode(&quoted).as_deref() {
        Some("id") => Member::Id,
        Some("result") => Member::Result,
        Some("error") => Member::Error,
        _ => Member::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str, new: &str, piece: usize) -> String {
        let mut replacer = IdReplacer::new(RequestId::from_raw(new).unwrap());
        let mut out = BytesMut::new();
        for chunk in text.as_bytes().chunks(piece) {
            replacer.feed(chunk, &mut out);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_top_level_id_is_replaced_wherever_it_stands() {
        let cases = [
            (r#"{"id":1,"result":{"id":1}}"#, r#"{"id":"n","result":{"id":1}}"#),
            (
                r#"{"result":{"id":[{"id":"}\""}]},"id":"a\"b","x":"id"}"#,
                r#"{"result":{"id":[{"id":"}\""}]},"id":"n","x":"id"}"#,
            ),
            (r#" { "x":"id" , "id" : 12 , "y":{}}  "#, r#" { "x":"id" , "id" : "n" , "y":{}}  "#),
            (r#"{"\u0069d":12}"#, r#"{"\u0069d":"n"}"#),
            (r#"{"id":null}"#, r#"{"id":"n"}"#),
            (r#"{"result":[1,2]}"#, r#"{"result":[1,2]}"#),
            (r#"[{"id":1}]"#, r#"[{"id":1}]"#),
            (r#"{"id":1}{"id":1}"#, r#"{"id":"n"}{"id":1}"#),
            ("", ""),
        ];
        for (text, expected) in cases {
            for piece in [1, 2, 3, 1000] {
                assert_eq!(replaced(text, "\"n\"", piece), expected, "{text} by {piece}");
            }
        }
    }

    #[test]
    fn the_kind_of_an_answer_shows_as_soon_as_its_value_begins() {
        let mut top = TopLevel::new();
        top.feed(br#"{"jsonrpc":"2.0","error":null,"x":{"error":{},"id":3},"result" "#);
        assert!(!top.saw_result() && !top.saw_error());
        top.feed(b":[");
        assert!(top.saw_result() && !top.saw_error() && !top.is_complete());
        top.feed(br#"1,"]"],"id":4"#);
        assert_eq!(top.id(), None);
        top.feed(b"2 }");
        assert_eq!(top.id(), Some(&RequestId::number(42)));
        assert!(top.is_complete());

        let mut top = TopLevel::new();
        top.feed(br#"{"error":{"code":1},"id":"a"}"#);
        assert!(top.saw_error() && !top.saw_result());
        assert_eq!(top.id(), Some(&RequestId::text("a")));
    }

    #[test]
    fn what_is_no_object_or_no_id_says_nothing() {
        let mut top = TopLevel::new();
        top.feed(b" [1,{\"result\":1}]");
        assert!(top.is_foreign() && !top.saw_result());
        let mut top = TopLevel::new();
        top.feed(format!("{{\"id\":\"{}\"}}", "a".repeat(MAX_ID_LEN * 2)).as_bytes());
        assert_eq!((top.id(), top.is_complete()), (None, true));
    }
}
