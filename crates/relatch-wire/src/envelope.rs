//! The envelope of one JSON-RPC message: what kind it is, its id, its method, and where its values lie.
//!
//! Everything else stays raw. The spans found here let others splice a value and keep every other byte. What a method
//! means, and whether a message fits a session, is decided elsewhere.

mod parts;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use self::parts::{Named, Part, Parts, Span};
use crate::json::{self, Cursor, Elements, Fault, Members};
use crate::method;
use crate::request_id::{MAX_ID_LEN, RequestId};
use crate::stop;

/// The deepest nesting of arrays and objects in a message that is read, the message itself counted.
pub const MAX_DEPTH: usize = 128;

/// The most messages that one batch may carry.
pub const MAX_BATCH: usize = 1_000;

/// JSON-RPC 2.0 §5.1: the text is not JSON.
pub const PARSE_ERROR: i64 = -32700;

/// JSON-RPC 2.0 §5.1: the JSON is not a message.
pub const INVALID_REQUEST: i64 = -32600;

/// What a message is (JSON-RPC 2.0 §4 and §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A call that wants an answer.
    Request {
        /// The name under which the answer comes.
        id: RequestId,
        /// The decoded method.
        method: String,
    },
    /// A call that wants none.
    Notification {
        /// The decoded method.
        method: String,
    },
    /// An answer that worked; [`Envelope::result`] has its value.
    Result {
        /// The request that it answers.
        id: RequestId,
    },
    /// An answer that did not; [`Envelope::error`] has the whole error object.
    Error {
        /// The request that it answers; none if the peer could not or did not say.
        id: Option<RequestId>,
        /// The error's `code`.
        code: i64,
        /// The error's `message`; empty if it is missing or no string.
        message: String,
    },
}

/// One message's envelope. Offsets refer to the bytes that it was read from; the same bytes are given back to its
/// methods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the message is.
    pub kind: Kind,
    id: Span,
    params: Span,
    result: Span,
    error: Span,
    named: Named,
    /// Where the closing brace stands.
    close: u32,
}

/// Why something is no message, with what there is to answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    /// [`PARSE_ERROR`] or [`INVALID_REQUEST`].
    pub code: i64,
    /// What is wrong and where.
    pub message: String,
    /// The id of the message, where it could still be read.
    pub id: Option<RequestId>,
}

/// The body of a POST, or one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// One message.
    One(Envelope),
    /// A batch (revision 2025-03-26 only): where each message lies in the body, and its envelope, whose offsets count
    /// from the start of that span.
    Batch(Batch),
}

type Batch = Vec<(Range<usize>, Envelope)>;

impl Envelope {
    /// Reads the envelope of exactly one message, in one pass.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are no UTF-8, no JSON, deeper than [`MAX_DEPTH`], or no message.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let cursor = begin(bytes)?;
        if cursor.peek() == Some(b'{') {
            return read_object(bytes, cursor.at(), 0);
        }
        match read_others(bytes, cursor)? {
            Body::One(envelope) => Ok(envelope),
            Body::Batch(_) => Err(invalid("The body is a batch where one message is expected", None)),
        }
    }

    /// The raw value of `params`.
    pub fn params<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.params.of_bytes(bytes)
    }

    /// `name` in `params`, decoded: the tool of `tools/call`, the prompt of `prompts/get`; `None` where it is missing, twice
    /// or no string.
    pub fn param_name(&self, bytes: &[u8]) -> Option<String> {
        self.named.name.of_bytes(bytes).and_then(json::decode).map(Cow::into_owned)
    }

    /// The token under which a request wants progress (basic/utilities/progress).
    pub fn progress_token(&self, bytes: &[u8]) -> Option<RequestId> {
        RequestId::from_raw(std::str::from_utf8(self.named.token.of_bytes(bytes)?).ok()?)
    }

    /// The revision that a request of the modern era carries (2026-07-28, basic/index#_meta).
    pub fn meta_protocol_version(&self, bytes: &[u8]) -> Option<String> {
        self.named.revision.of_bytes(bytes).and_then(json::decode).map(Cow::into_owned)
    }

    /// Where the value of `params` lies.
    pub fn params_span(&self) -> Option<Range<usize>> {
        self.params.range()
    }

    /// The raw value of `result`.
    pub fn result<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.result.of_bytes(bytes)
    }

    /// Where the value of `result` lies.
    pub fn result_span(&self) -> Option<Range<usize>> {
        self.result.range()
    }

    /// The raw error object.
    pub fn error<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.error.of_bytes(bytes)
    }

    /// The code, where the message is an error.
    pub fn error_code(&self) -> Option<i64> {
        match self.kind {
            Kind::Error { code, .. } => Some(code),
            Kind::Request { .. } | Kind::Notification { .. } | Kind::Result { .. } => None,
        }
    }

    /// The id, if the message has one.
    pub fn id(&self) -> Option<&RequestId> {
        match &self.kind {
            Kind::Request { id, .. } | Kind::Result { id } => Some(id),
            Kind::Error { id, .. } => id.as_ref(),
            Kind::Notification { .. } => None,
        }
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&str> {
        match &self.kind {
            Kind::Request { method, .. } | Kind::Notification { method } => Some(method),
            Kind::Result { .. } | Kind::Error { .. } => None,
        }
    }

    /// The message under another id, every other byte kept. An error answer without id gains one as its last member;
    /// a notification stays as it is. No copy is made if the id is spelled so already.
    pub fn with_id(&self, bytes: &Bytes, id: &RequestId) -> Bytes {
        match (self.id.range(), &self.kind) {
            (Some(span), _) => splice(bytes, span, id.raw()),
            (None, Kind::Error { .. }) => {
                let close = self.close as usize;
                splice(bytes, close..close, &format!(",\"id\":{}", id.raw()))
            }
            (None, _) => bytes.clone(),
        }
    }

    /// The message with the JSON text `new` in place of `span`, which counts from the start of `params`.
    pub fn with_params_value(&self, bytes: &Bytes, span: Range<usize>, new: &str) -> Bytes {
        match self.params.range() {
            Some(params) if span.start <= span.end && span.end <= params.len() => {
                splice(bytes, params.start + span.start..params.start + span.end, new)
            }
            _ => bytes.clone(),
        }
    }
}

/// Reads the envelopes of a body: one message, or an array of 1 to [`MAX_BATCH`].
///
/// # Errors
/// [`Malformed`] if the body, or any message of a batch, is malformed.
pub fn read_body(bytes: &[u8]) -> Result<Body, Malformed> {
    let cursor = begin(bytes)?;
    match cursor.peek() {
        Some(b'{') => read_object(bytes, cursor.at(), 0).map(Body::One),
        _ => read_others(bytes, cursor),
    }
}

/// Where a body begins that is text, and not too long for a [`Span`].
#[inline]
fn begin(bytes: &[u8]) -> Result<Cursor<'_>, Malformed> {
    if u32::try_from(bytes.len()).is_err() {
        return Err(invalid("The body is larger than 4 GiB", None));
    }
    // Most bodies are ASCII alone, which is quicker to see.
    if !stop::is_ascii(bytes)
        && let Err(error) = std::str::from_utf8(bytes)
    {
        let at = error.valid_up_to();
        return Err(unparsable(format!("The body is not UTF-8: invalid byte at offset {at}"), None));
    }
    // RFC 8259 §8.1 lets a reader pass over a byte order mark, and HTTP clients do.
    let mut cursor = Cursor::new(bytes, 0);
    cursor.take_all(b"\xef\xbb\xbf");
    cursor.token();
    Ok(cursor)
}

/// A body that is no object: a batch, or nothing to read.
fn read_others(bytes: &[u8], mut cursor: Cursor<'_>) -> Result<Body, Malformed> {
    if cursor.peek() == Some(b'[') {
        let (batch, end) = read_batch(bytes, cursor.at())?;
        Cursor::new(bytes, end).end().map_err(|fault| faulty(fault, bytes, None))?;
        return Ok(Body::Batch(batch));
    }
    Err(match cursor.value(0).and_then(|()| cursor.end()) {
        Ok(()) => invalid("The body is neither an object nor an array", None),
        Err(fault) => faulty(fault, bytes, None),
    })
}

/// The messages of the batch at `at`, and the offset just behind it.
fn read_batch(bytes: &[u8], at: usize) -> Result<(Batch, usize), Malformed> {
    let fault = |fault| faulty(fault, bytes, None);
    let mut elements = Elements::open(bytes, at, 0).map_err(fault)?;
    let mut batch = Vec::new();
    while let Some(span) = elements.next().map_err(fault)? {
        if batch.len() == MAX_BATCH {
            return Err(invalid(format!("The batch has more than {MAX_BATCH} messages"), None));
        }
        let message = bytes.get(span.clone()).unwrap_or_default();
        if !message.starts_with(b"{") {
            return Err(invalid(format!("Message {} of the batch is not an object", batch.len() + 1), None));
        }
        let envelope = read_object(message, 0, 1)?;
        batch.push((span, envelope));
    }
    if batch.is_empty() {
        return Err(invalid("The batch is empty", None));
    }
    Ok((batch, elements.end()))
}

/// Reads the message that opens at `at`, inside `outer` open levels; only space may stand behind it.
fn read_object(bytes: &[u8], at: usize, outer: usize) -> Result<Envelope, Malformed> {
    let mut members = Members::open(bytes, at, outer).map_err(|fault| faulty(fault, bytes, None))?;
    let mut parts = Parts::default();
    if let Err(fault) = parts.read(&mut members) {
        return Err(faulty(fault, bytes, parts.readable_id(bytes)));
    }
    if let Some(part) = parts.repeated {
        // Which of two ids counts is anybody's guess, so none is answered.
        let id = if part == Part::Id { None } else { parts.readable_id(bytes) };
        return Err(invalid(format!("The message has `{}` twice", part.name()), id));
    }
    let kind = judge(bytes, &parts)?;
    let mut behind = members.behind();
    let close = behind.at() - 1;
    behind.end().map_err(|fault| faulty(fault, bytes, None))?;
    let answers = |part, counts: bool| if counts { parts.span(part) } else { Span::default() };
    Ok(Envelope {
        id: parts.span(Part::Id),
        params: parts.span(Part::Params),
        result: answers(Part::Result, matches!(kind, Kind::Result { .. })),
        error: answers(Part::Error, matches!(kind, Kind::Error { .. })),
        named: parts.named,
        // Within 4 GiB, as `begin` has seen.
        close: close as u32,
        kind,
    })
}

fn judge(bytes: &[u8], parts: &Parts) -> Result<Kind, Malformed> {
    let text = |part| parts.value(part, bytes);
    let id = parts.readable_id(bytes);
    let refuse = |message: &str| Err(invalid(message, id.clone()));

    match text(Part::Jsonrpc) {
        Some(b"\"2.0\"") => {}
        Some(raw) if json::decode(raw).is_some_and(|version| version == "2.0") => {}
        _ => return refuse("`jsonrpc` is not \"2.0\""),
    }
    let id_is_null = id.is_none() && text(Part::Id) == Some(b"null");
    if parts.span(Part::Id).is_some() && id.is_none() && !id_is_null {
        return refuse(&format!("`id` is not a string or a number of at most {MAX_ID_LEN} bytes"));
    }
    // Some serialisers write the unused one of `result` and `error` as null.
    let result = text(Part::Result);
    let error = text(Part::Error).filter(|raw| *raw != b"null" || result.is_none());

    if let Some(raw) = text(Part::Method) {
        if result.is_some() || error.is_some() {
            return refuse("The message has `method` and an answer");
        }
        let Some(method) = method_of(raw) else { return refuse("`method` is not a string") };
        return match id {
            Some(id) => Ok(Kind::Request { id, method }),
            None if id_is_null => refuse("`id` is null, which no request may have"),
            None => Ok(Kind::Notification { method }),
        };
    }
    match (result, error) {
        (Some(result), Some(_)) if result != b"null" => refuse("The answer has `result` and `error`"),
        (_, Some(error)) => match read_error(error) {
            Some((code, message)) => Ok(Kind::Error { id, code, message }),
            None => refuse("`error` is not an object with an integer `code`"),
        },
        (Some(_), None) => match id {
            Some(id) => Ok(Kind::Result { id }),
            None => refuse("The answer has a `result` but no `id`"),
        },
        (None, None) => refuse("The message has none of `method`, `result` and `error`"),
    }
}

/// The method that a string names. Nearly all are known ones, which are text as they stand.
fn method_of(raw: &[u8]) -> Option<String> {
    let plain = raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\""));
    match plain.and_then(method::known) {
        Some(known) => Some(known.to_owned()),
        None => json::decode(raw).map(Cow::into_owned),
    }
}

fn read_error(raw: &[u8]) -> Option<(i64, String)> {
    let code = raw.get(json::find(raw, &["code"])?)?;
    let code = std::str::from_utf8(code).ok()?.parse().ok()?;
    Some((code, json::find_text(raw, &["message"]).unwrap_or_default()))
}

/// `new` in place of `span`; the same bytes if nothing changes or the span lies outside.
pub(crate) fn splice(bytes: &Bytes, span: Range<usize>, new: &str) -> Bytes {
    match (bytes.get(..span.start), bytes.get(span.clone()), bytes.get(span.end..)) {
        (Some(before), Some(old), Some(after)) if old != new.as_bytes() => {
            let mut out = Vec::with_capacity(before.len() + new.len() + after.len());
            out.extend_from_slice(before);
            out.extend_from_slice(new.as_bytes());
            out.extend_from_slice(after);
            out.into()
        }
        _ => bytes.clone(),
    }
}

fn faulty(fault: Fault, bytes: &[u8], id: Option<RequestId>) -> Malformed {
    match fault {
        Fault::Syntax(at) if at >= bytes.len() => {
            unparsable(format!("The body is not JSON: it ends after {} bytes", bytes.len()), id)
        }
        Fault::Syntax(at) => unparsable(format!("The body is not JSON: unexpected byte at offset {at}"), id),
        Fault::TooDeep(at) => {
            invalid(format!("The message is nested deeper than {MAX_DEPTH} levels, at offset {at}"), id)
        }
    }
}

fn invalid(message: impl Into<String>, id: Option<RequestId>) -> Malformed {
    Malformed { code: INVALID_REQUEST, message: message.into(), id }
}

fn unparsable(message: String, id: Option<RequestId>) -> Malformed {
    Malformed { code: PARSE_ERROR, message, id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Envelope {
        Envelope::read(text.as_bytes()).unwrap()
    }

    fn refused(text: &str) -> Malformed {
        Envelope::read(text.as_bytes()).unwrap_err()
    }

    fn id(raw: &str) -> RequestId {
        RequestId::from_raw(raw).unwrap()
    }

    #[test]
    fn each_kind_is_told_apart_whatever_the_order_of_members() {
        let text = r#" {"params":{"a":1.10},"x":[],"method":"tools\/call","id":7,"jsonrpc":"2.0"} "#;
        let envelope = read(text);
        assert_eq!(envelope.kind, Kind::Request { id: id("7"), method: "tools/call".into() });
        assert_eq!(envelope.params(text.as_bytes()), Some(&br#"{"a":1.10}"#[..]));
        assert_eq!(envelope.method(), Some("tools/call"));

        let envelope = read(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(envelope.kind, Kind::Notification { method: "notifications/initialized".into() });

        let text = r#"{"result":{"x":1},"jsonrpc":"2.0","id":"a"}"#;
        let envelope = read(text);
        assert_eq!(envelope.kind, Kind::Result { id: id("\"a\"") });
        assert_eq!(envelope.result(text.as_bytes()), Some(&br#"{"x":1}"#[..]));
        assert_eq!(envelope.error(text.as_bytes()), None);

        let text = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no"}}"#;
        let envelope = read(text);
        assert_eq!(envelope.kind, Kind::Error { id: None, code: -32000, message: "no".into() });
        assert_eq!(envelope.error(text.as_bytes()), Some(&br#"{"code":-32000,"message":"no"}"#[..]));
    }

    #[test]
    fn an_unused_half_of_an_answer_may_be_null() {
        assert!(matches!(
            read(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":null}"#).kind,
            Kind::Result { .. }
        ));
        assert!(matches!(
            read(r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1}}"#).kind,
            Kind::Error { code: 1, .. }
        ));
        assert!(matches!(read(r#"{"jsonrpc":"2.0","id":1,"result":null}"#).kind, Kind::Result { .. }));
    }

    #[test]
    fn what_is_no_message_is_refused_under_its_id_and_says_why() {
        let cases = [
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "`id` is null", None),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, "`id` is not a string or a number", None),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "`jsonrpc`", Some("1")),
            (r#"{"id":1,"method":"ping"}"#, "`jsonrpc`", Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, "`method` is not a string", Some("1")),
            (r#"{"jsonrpc":"2.0","id":1}"#, "none of", Some("1")),
            (r#"{"jsonrpc":"2.0","result":{}}"#, "no `id`", None),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1}}"#, "`result` and `error`", Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}"#, "integer `code`", Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"error":null}"#, "integer `code`", Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#, "`id` twice", None),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","meth\u006fd":"b"}"#, "`method` twice", Some("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#, "`method` and an answer", Some("1")),
            ("5", "neither", None),
            ("[]", "empty", None),
            (r#"[{"jsonrpc":"2.0","method":"a"}]"#, "batch where one", None),
        ];
        for (text, words, answered) in cases {
            let malformed = refused(text);
            assert_eq!(malformed.code, INVALID_REQUEST, "{text}");
            assert!(malformed.message.contains(words), "{text}: {malformed}");
            assert_eq!(malformed.id, answered.map(id), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_a_parse_error_with_its_place() {
        for text in [
            "",
            "  ",
            "{",
            "{\"jsonrpc\":\"2.0\",\"method\":\"a\"}x",
            r#"{"jsonrpc":"2.0","id":1,"method":"a",}"#,
            "hello",
        ] {
            let malformed = refused(text);
            assert_eq!(malformed.code, PARSE_ERROR, "{text}");
        }
        let malformed = Envelope::read(b"{\"jsonrpc\":\"\xff\"}").unwrap_err();
        assert_eq!((malformed.code, malformed.message.contains("UTF-8")), (PARSE_ERROR, true));
    }

    #[test]
    fn the_depth_bound_is_named_and_the_id_answered() {
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{}{}}}"#,
            "[".repeat(MAX_DEPTH),
            "]".repeat(MAX_DEPTH)
        );
        let malformed = refused(&deep);
        assert_eq!((malformed.code, malformed.id.clone()), (INVALID_REQUEST, Some(id("1"))));
        assert!(malformed.message.contains("128"), "{malformed}");
    }

    #[test]
    fn a_batch_gives_each_message_its_own_offsets() {
        let text =
            br#" [ {"jsonrpc":"2.0","method":"a"} , {"jsonrpc":"2.0","id":"x","method":"b","params":[1]}]"#;
        let Body::Batch(batch) = read_body(text).unwrap() else { panic!("a batch") };
        assert_eq!(batch.len(), 2);
        let (span, envelope) = &batch[1];
        let message = Bytes::copy_from_slice(&text[span.clone()]);
        assert_eq!(envelope.params(&message), Some(&b"[1]"[..]));
        assert_eq!(
            envelope.with_id(&message, &id("3")),
            &br#"{"jsonrpc":"2.0","id":3,"method":"b","params":[1]}"#[..]
        );

        let one = r#"{"jsonrpc":"2.0","method":"a"}"#;
        let full = format!("[{}]", vec![one; MAX_BATCH].join(","));
        assert!(read_body(full.as_bytes()).is_ok());
        let over = format!("[{}]", vec![one; MAX_BATCH + 1].join(","));
        assert!(read_body(over.as_bytes()).unwrap_err().message.contains("1000"));
        assert!(read_body(b"[1]").unwrap_err().message.contains("Message 1"));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let text = "\u{feff} {\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":[]}";
        assert_eq!(read(text).params(text.as_bytes()), Some(&b"[]"[..]));
    }

    #[test]
    fn an_id_is_spliced_and_nothing_else_moves() {
        let bytes = Bytes::from_static(br#"{ "jsonrpc":"2.0", "id" : 1 , "x":1.10,"result":{"id":1}}"#);
        let envelope = Envelope::read(&bytes).unwrap();
        assert_eq!(
            envelope.with_id(&bytes, &id("\"n\"")),
            &br#"{ "jsonrpc":"2.0", "id" : "n" , "x":1.10,"result":{"id":1}}"#[..]
        );
        assert_eq!(envelope.with_id(&bytes, &id("1")).as_ptr(), bytes.as_ptr());

        let bytes = Bytes::from_static(br#"{"jsonrpc":"2.0","error":{"code":1,"message":""} }"#);
        let named = Envelope::read(&bytes).unwrap().with_id(&bytes, &id("9"));
        assert_eq!(named, &br#"{"jsonrpc":"2.0","error":{"code":1,"message":""} ,"id":9}"#[..]);
        assert_eq!(Envelope::read(&named).unwrap().id(), Some(&id("9")));
    }

    #[test]
    fn a_value_in_params_is_spliced() {
        let bytes = Bytes::from_static(
            br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"r":2}}"#,
        );
        let envelope = Envelope::read(&bytes).unwrap();
        let params = envelope.params(&bytes).unwrap();
        let (_, span) = crate::params::cancelled_request_id(params).unwrap();
        assert_eq!(
            envelope.with_params_value(&bytes, span, "\"z\""),
            &br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"z","r":2}}"#[..]
        );
        assert_eq!(envelope.with_params_value(&bytes, 0..500, "x"), bytes);
    }
}
