//! Small readers of raw `params`: the few fields that routing needs.
//!
//! Each returns `None` on anything odd (no object, another type, a member named twice) and never refuses a message:
//! what a peer makes of odd params is the peer's affair.

use std::ops::Range;

use crate::digest::{digest, digest_json};
use crate::json;
use crate::request_id::RequestId;

/// Where a request of the modern era says its revision (2026-07-28, basic/index#_meta).
pub(crate) const META_REVISION: &str = "io.modelcontextprotocol/protocolVersion";

/// A program's name and version, as it gives them (`Implementation` in the schema).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its `name`.
    pub name: String,
    /// Its `version`.
    pub version: String,
}

/// `name`, as in `tools/call` and `prompts/get`.
pub fn name(params: &[u8]) -> Option<String> {
    json::find_text(params, &["name"])
}

/// `uri`, as in `resources/read`, `resources/subscribe` and `notifications/resources/updated`.
pub fn uri(params: &[u8]) -> Option<String> {
    json::find_text(params, &["uri"])
}

/// `cursor` of a list request (server/utilities/pagination).
pub fn cursor(params: &[u8]) -> Option<String> {
    json::find_text(params, &["cursor"])
}

/// `level` of `logging/setLevel`.
pub fn level(params: &[u8]) -> Option<String> {
    json::find_text(params, &["level"])
}

/// The token under which a request wants progress (basic/utilities/progress).
pub fn progress_token(params: &[u8]) -> Option<RequestId> {
    progress_token_span(params).map(|(token, _)| token)
}

/// The token under which a request wants progress, and where its value lies in `params`.
pub fn progress_token_span(params: &[u8]) -> Option<(RequestId, Range<usize>)> {
    id_at(params, &["_meta", "progressToken"])
}

/// The request that `notifications/cancelled` names, and where its value lies in `params`
/// (basic/utilities/cancellation).
pub fn cancelled_request_id(params: &[u8]) -> Option<(RequestId, Range<usize>)> {
    id_at(params, &["requestId"])
}

/// Token and value of `notifications/progress`.
pub fn progress_fields(params: &[u8]) -> Option<(RequestId, f64)> {
    let [token, raw] = json::members_at(params, 0, ["progressToken", "progress"])?;
    let token = RequestId::from_raw(std::str::from_utf8(params.get(token?)?).ok()?)?;
    let raw = params.get(raw?)?;
    if !matches!(raw.first(), Some(b'-' | b'0'..=b'9')) {
        return None;
    }
    let progress: f64 = std::str::from_utf8(raw).ok()?.parse().ok()?;
    progress.is_finite().then_some((token, progress))
}

/// The token of `notifications/progress`, and where its value lies in `params`.
pub fn notified_progress_token(params: &[u8]) -> Option<(RequestId, Range<usize>)> {
    id_at(params, &["progressToken"])
}

/// A digest of the `capabilities` of `initialize` (basic/lifecycle): the same for every order and spacing of them.
pub fn capabilities_digest(params: &[u8]) -> u64 {
    let raw = json::find(params, &["capabilities"]).and_then(|span| params.get(span)).unwrap_or(b"{}");
    digest_json(raw).unwrap_or_else(|| digest(raw))
}

/// `protocolVersion` of `initialize`, and where its value lies in `params` (basic/lifecycle).
pub fn protocol_version(params: &[u8]) -> Option<(String, Range<usize>)> {
    let span = json::find(params, &["protocolVersion"])?;
    Some((json::decode(params.get(span.clone())?)?.into_owned(), span))
}

/// The revision that a request of the modern era carries (2026-07-28, basic/index#_meta).
pub fn meta_protocol_version(params: &[u8]) -> Option<String> {
    json::find_text(params, &["_meta", META_REVISION])
}

/// The trace that a request belongs to (`_meta.traceparent`, W3C trace context).
pub fn traceparent(params: &[u8]) -> Option<String> {
    json::find_text(params, &["_meta", "traceparent"])
}

/// `clientInfo` of `initialize`; a missing version is empty.
pub fn client_identity(params: &[u8]) -> Option<Identity> {
    Some(Identity {
        name: json::find_text(params, &["clientInfo", "name"])?,
        version: json::find_text(params, &["clientInfo", "version"]).unwrap_or_default(),
    })
}

fn id_at(params: &[u8], path: &[&str]) -> Option<(RequestId, Range<usize>)> {
    let span = json::find(params, path)?;
    let raw = std::str::from_utf8(params.get(span.clone())?).ok()?;
    Some((RequestId::from_raw(raw)?, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_call_are_read() {
        let params =
            br#"{"name":"send_\u006dail","arguments":{"name":"x"},"_meta":{"progressToken":5,"a":1}}"#;
        assert_eq!(name(params).as_deref(), Some("send_mail"));
        let (token, span) = progress_token_span(params).unwrap();
        assert_eq!((token, &params[span]), (RequestId::number(5), &b"5"[..]));
        assert_eq!(cursor(br#"{"cursor":"c"}"#).as_deref(), Some("c"));
        assert_eq!(uri(br#"{"uri":"file:///a"}"#).as_deref(), Some("file:///a"));
        assert_eq!(level(br#"{"level":"debug"}"#).as_deref(), Some("debug"));
    }

    #[test]
    fn the_fields_of_a_handshake_are_read() {
        let params =
            br#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
        let (version, span) = protocol_version(params).unwrap();
        assert_eq!((version.as_str(), &params[span]), ("2025-11-25", &b"\"2025-11-25\""[..]));
        assert_eq!(client_identity(params), Some(Identity { name: "c".into(), version: "1".into() }));
        let modern = br#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        assert_eq!(meta_protocol_version(modern).as_deref(), Some("2026-07-28"));
    }

    #[test]
    fn capabilities_are_the_same_in_any_order() {
        let one = capabilities_digest(br#"{"capabilities":{"roots":{},"sampling":{}}}"#);
        assert_eq!(one, capabilities_digest(br#"{"x":1,"capabilities":{ "sampling":{}, "roots":{} }}"#));
        assert_ne!(one, capabilities_digest(br#"{"capabilities":{"roots":{}}}"#));
        assert_eq!(capabilities_digest(b"{}"), capabilities_digest(br#"{"capabilities":{}}"#));
    }

    #[test]
    fn progress_has_a_token_and_a_number() {
        assert_eq!(
            progress_fields(br#"{"progressToken":"t","progress":0.5}"#),
            Some((RequestId::text("t"), 0.5))
        );
        assert_eq!(progress_fields(br#"{"progressToken":"t","progress":"5"}"#), None);
        assert_eq!(progress_fields(br#"{"progressToken":"t","progress":1e999}"#), None);
        assert_eq!(progress_fields(br#"{"progress":1}"#), None);
    }

    #[test]
    fn odd_params_say_nothing() {
        for params in
            [&b""[..], b"null", b"[]", b"{", b"{\"name\":5}", b"{\"name\":\"a\",\"name\":\"b\"}", b"\xff"]
        {
            assert_eq!(name(params), None);
            assert_eq!(progress_token(params), None);
            assert_eq!(cancelled_request_id(params), None);
        }
    }
}
