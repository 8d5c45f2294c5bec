//! Single fields of params and results: what is found is what another parser finds, at the place that is named.

use std::ops::Range;

use relatch_wire::digest::digest_json;
use relatch_wire::envelope::MAX_DEPTH;
use relatch_wire::lists::items;
use relatch_wire::method::{self, ListKind};
use relatch_wire::{RequestId, params};
use serde_json::Value;

use crate::is_json;

pub(crate) fn fields(input: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(input).ok();
    let same = |found: Option<String>, path: &str| {
        if let (Some(found), Some(value)) = (found, &value) {
            assert_eq!(Some(found.as_str()), value.pointer(path).and_then(Value::as_str), "{path}");
        }
    };
    same(params::name(input), "/name");
    same(params::uri(input), "/uri");
    same(params::cursor(input), "/cursor");
    same(params::level(input), "/level");
    same(params::meta_protocol_version(input), "/_meta/io.modelcontextprotocol~1protocolVersion");
    same(params::protocol_version(input).map(|(version, _)| version), "/protocolVersion");
    same(params::client_identity(input).map(|client| client.name), "/clientInfo/name");

    let at = |found: Option<(RequestId, Range<usize>)>, path: &str| {
        let Some((id, span)) = found else { return };
        assert_eq!(&input[span], id.raw().as_bytes(), "{path}");
        if let Some(value) = &value {
            let there = value.pointer(path);
            assert!(there.is_some_and(|there| there.is_string() || there.is_number()), "{path}: {there:?}");
            assert_eq!(id.as_text().as_deref(), there.and_then(Value::as_str), "{path}");
        }
    };
    at(params::progress_token_span(input), "/_meta/progressToken");
    at(params::cancelled_request_id(input), "/requestId");
    at(params::notified_progress_token(input), "/progressToken");
    if let Some((_, progress)) = params::progress_fields(input) {
        assert!(progress.is_finite());
        if let Some(value) = &value {
            assert_eq!(value.pointer("/progress").and_then(Value::as_f64), Some(progress));
        }
    }

    for kind in ListKind::ALL {
        let Some(page) = items(input, *kind) else { continue };
        assert!(*kind == ListKind::Tools && page.hints.len() == page.items.len() || page.hints.is_empty());
        let Some(value) = &value else { continue };
        let list = value.get(kind.items_member()).and_then(Value::as_array).expect("a list");
        assert_eq!(list.len(), page.items.len());
        for ((key, _), item) in page.items.iter().zip(list) {
            let there = item.get(kind.key_member()).and_then(Value::as_str);
            assert!(key.is_empty() || there == Some(key), "{key} and {there:?}");
        }
        for ((_, hints), item) in page.hints.iter().zip(list) {
            // Unknown is never taken for repeatable.
            let says = |hint: &str| item.pointer(&format!("/annotations/{hint}")) == Some(&Value::Bool(true));
            assert!(!hints.read_only || says("readOnlyHint"));
            assert!(!hints.idempotent || says("idempotentHint"));
        }
    }

    let digest = digest_json(input);
    // Who hands over a body has looked at its UTF-8 already, once for all of it.
    if nesting(input) < MAX_DEPTH && std::str::from_utf8(input).is_ok() {
        assert_eq!(digest.is_some(), is_json(input), "a text is JSON, or it is not");
    }
    if let (Some(digest), Ok(text)) = (digest, std::str::from_utf8(input)) {
        let spaced = [" \r\n\t", text, "\n "].concat();
        assert_eq!(digest_json(spaced.as_bytes()), Some(digest), "space counts");
        assert_ne!(digest_json(format!("[{text}]").as_bytes()), Some(digest), "brackets do not count");
    }
    if let Ok(text) = std::str::from_utf8(input) {
        id(text);
        assert_eq!(method::row_of(text).is_some(), method::METHODS.iter().any(|row| row.name == text));
        if let Some(kind) = ListKind::from_method(text) {
            assert_eq!(kind.method(), text);
        }
    }
}

/// An id is exactly a JSON string or number, and is one with every other spelling of its text.
fn id(text: &str) {
    let Some(id) = RequestId::from_raw(text) else {
        let plain =
            serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_string() || value.is_number());
        let bare = text.trim() == text && text.len() <= relatch_wire::request_id::MAX_ID_LEN;
        assert!(!(plain && bare), "an id that is refused");
        return;
    };
    assert_eq!(id.raw(), text);
    assert!(is_json(text.as_bytes()));
    if let Some(decoded) = id.as_text() {
        assert_eq!(RequestId::text(&decoded), id);
        let escaped: String = decoded.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        if let Some(other) = RequestId::from_raw(&format!("\"{escaped}\"")) {
            assert_eq!(other, id);
        }
    }
}

/// How deep brackets go at most, strings and all.
fn nesting(text: &[u8]) -> usize {
    text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count()
}
