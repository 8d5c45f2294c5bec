//! The legacy handshake as bytes, and the plain messages that relatch sends of its own accord.
//!
//! It reads what an `initialize` answer says about the server and makes that answer advertise `listChanged`. When a
//! handshake is due, and what a changed answer means, is the core's business.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::digest::digest;
use crate::envelope::{Envelope, splice};
use crate::era::Revision;
use crate::json;
use crate::method;
use crate::params::protocol_version;
use crate::request_id::RequestId;

/// What the result of `initialize` says (basic/lifecycle#initialization).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    /// `protocolVersion` as it came.
    pub revision_text: String,
    /// The revision, if it is a known one.
    pub revision: Option<Revision>,
    /// `serverInfo.name`
    pub name: Option<String>,
    /// `serverInfo.version`
    pub version: Option<String>,
    /// The server itself announces changed tools.
    pub tools_list_changed: bool,
    /// The server itself announces changed prompts.
    pub prompts_list_changed: bool,
    /// The server itself announces changed resources.
    pub resources_list_changed: bool,
    /// It has tools.
    pub has_tools: bool,
    /// It has prompts.
    pub has_prompts: bool,
    /// It has resources.
    pub has_resources: bool,
    /// Its resources can be subscribed to.
    pub has_resource_subscribe: bool,
    /// It takes `logging/setLevel`.
    pub has_logging: bool,
    /// The digest of `instructions`; that of no text if there are none.
    pub instructions_digest: u64,
}

impl ServerHello {
    /// Reads the raw `result` of an `initialize` answer; `None` if it has no `protocolVersion`, for then it is none.
    pub fn read(result: &[u8]) -> Option<Self> {
        // Each object is gone through once: a server that comes back to a thousand sessions says this a thousand times.
        let [revision, capabilities, server, instructions] = json::each_member_at(
            result,
            0,
            ["protocolVersion", "capabilities", "serverInfo", "instructions"],
        )?;
        let revision_text = text_at(result, revision)?;
        let [name, version] = members_of(result, server, ["name", "version"]);
        let [tools, prompts, resources, logging] =
            members_of(result, capabilities, ["tools", "prompts", "resources", "logging"]);
        let [tools_list_changed] = members_of(result, tools.clone(), ["listChanged"]);
        let [prompts_list_changed] = members_of(result, prompts.clone(), ["listChanged"]);
        let [resources_list_changed, subscribe] =
            members_of(result, resources.clone(), ["listChanged", "subscribe"]);
        let is_object = |span: Option<Range<usize>>| {
            span.and_then(|span| result.get(span)).is_some_and(|raw| raw.starts_with(b"{"))
        };
        let is_true = |span: Option<Range<usize>>| span.and_then(|span| result.get(span)) == Some(b"true");
        Some(Self {
            revision: Revision::parse(&revision_text),
            revision_text,
            name: text_at(result, name),
            version: text_at(result, version),
            tools_list_changed: is_true(tools_list_changed),
            prompts_list_changed: is_true(prompts_list_changed),
            resources_list_changed: is_true(resources_list_changed),
            has_tools: is_object(tools),
            has_prompts: is_object(prompts),
            has_resources: is_object(resources),
            has_resource_subscribe: is_true(subscribe),
            has_logging: is_object(logging),
            instructions_digest: digest(text_at(result, instructions).unwrap_or_default().as_bytes()),
        })
    }
}

/// These members of the object that lies there; none where there is no object.
fn members_of<const N: usize>(
    bytes: &[u8],
    object: Option<Range<usize>>,
    names: [&str; N],
) -> [Option<Range<usize>>; N] {
    object.and_then(|span| json::each_member_at(bytes, span.start, names)).unwrap_or([const { None }; N])
}

/// The text that lies there, where it is one.
fn text_at(bytes: &[u8], span: Option<Range<usize>>) -> Option<String> {
    Some(json::decode(bytes.get(span?)?)?.into_owned())
}

/// `initialize` with the client's own params, byte for byte but for `protocolVersion` where `revision` is given.
pub fn initialize_message(id: &RequestId, params: &[u8], revision: Option<&str>) -> Bytes {
    let asked = revision.and_then(|revision| Some((revision, protocol_version(params)?.1)));
    match asked {
        Some((revision, span)) => {
            let params = splice(&Bytes::copy_from_slice(params), span, &json::quote(revision));
            request_message(id, method::INITIALIZE, Some(&params))
        }
        None => request_message(id, method::INITIALIZE, Some(params)),
    }
}

/// `notifications/initialized`
pub fn initialized_message() -> Bytes {
    notification_message(method::INITIALIZED, None)
}

/// `ping`
pub fn ping_message(id: &RequestId) -> Bytes {
    request_message(id, method::PING, None)
}

/// A request with these raw params.
pub fn request_message(id: &RequestId, method: &str, params: Option<&[u8]>) -> Bytes {
    message(&format!(r#"{{"jsonrpc":"2.0","id":{},"method":{}"#, id.raw(), json::quote(method)), params)
}

/// A notification with these raw params.
pub fn notification_message(method: &str, params: Option<&[u8]>) -> Bytes {
    message(&format!(r#"{{"jsonrpc":"2.0","method":{}"#, json::quote(method)), params)
}

/// `notifications/cancelled` for this request, with the reason as its text.
pub fn cancelled_message(request: &RequestId, reason: &str) -> Bytes {
    let params = format!(r#"{{"requestId":{},"reason":{}}}"#, request.raw(), json::quote(reason));
    notification_message(method::CANCELLED, Some(params.as_bytes()))
}

/// The `initialize` answer with `listChanged` true in each of the capabilities `tools`, `prompts` and `resources` that
/// it has; every other byte stays. Anything that is no such answer comes back as it is.
pub fn advertise_list_changed(result_message: &Bytes) -> Bytes {
    let edits = list_changed_edits(result_message).unwrap_or_default();
    let mut message = result_message.clone();
    // From the back, so that the offsets before it stay right.
    for (span, new) in edits.into_iter().rev() {
        message = splice(&message, span, new);
    }
    message
}

/// The `initialize` answer without these capabilities; every other byte outside of `capabilities` stays. Anything that is
/// no such answer comes back as it is.
pub fn without_capabilities(result_message: &Bytes, names: &[&str]) -> Bytes {
    let rest = || {
        let result = Envelope::read(result_message).ok()?.result_span()?;
        let all = json::member_at(result_message, result.start, "capabilities")?;
        let mut members = json::Members::open(result_message, all.start, 0).ok()?;
        let (mut kept, mut dropped) = (Vec::new(), false);
        while let Some(member) = members.next().ok()? {
            if names.iter().any(|name| member.key.is(name)) {
                dropped = true;
            } else {
                let key = std::str::from_utf8(member.key.spelled()).ok()?;
                kept.push(format!(
                    "\"{key}\":{}",
                    std::str::from_utf8(result_message.get(member.value)?).ok()?
                ));
            }
        }
        dropped.then(|| splice(result_message, all, &format!("{{{}}}", kept.join(","))))
    };
    rest().unwrap_or_else(|| result_message.clone())
}

fn list_changed_edits(message: &[u8]) -> Option<Vec<(Range<usize>, &'static str)>> {
    let result = Envelope::read(message).ok()?.result_span()?;
    let capabilities = json::member_at(message, result.start, "capabilities")?;
    let mut edits = Vec::new();
    for name in ["tools", "prompts", "resources"] {
        let Some(capability) = json::member_at(message, capabilities.start, name) else { continue };
        let Some(raw) = message.get(capability.clone()).filter(|raw| raw.starts_with(b"{")) else { continue };
        if let Some(value) = json::member_at(message, capability.start, "listChanged") {
            edits.push((value, "true"));
        } else if !names_member(raw, "listChanged") {
            let empty = raw.get(1..).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"}"));
            let new = if empty { "\"listChanged\":true" } else { "\"listChanged\":true," };
            edits.push((capability.start + 1..capability.start + 1, new));
        }
    }
    edits.sort_by_key(|(span, _)| span.start);
    Some(edits)
}

/// Whether the object names this member at all, be it twice.
fn names_member(raw: &[u8], name: &str) -> bool {
    let Ok(mut members) = json::Members::open(raw, 0, 0) else { return false };
    while let Ok(Some(member)) = members.next() {
        if member.key.is(name) {
            return true;
        }
    }
    false
}

fn message(head: &str, params: Option<&[u8]>) -> Bytes {
    let params = params.unwrap_or_default();
    let mut out = BytesMut::with_capacity(head.len() + params.len() + 12);
    out.extend_from_slice(head.as_bytes());
    if !params.is_empty() {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params);
    }
    out.extend_from_slice(b"}");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Kind;

    const ANSWER: &[u8] = br#"{"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":false},"prompts":{ },"resources":{"subscribe":true},"logging":{},"x":{"n":1.10}},"serverInfo":{"name":"s","version":"1.2"},"instructions":"hi"},"jsonrpc":"2.0","id":1}"#;

    #[test]
    fn the_answer_of_a_server_is_read() {
        let result = Envelope::read(ANSWER).unwrap();
        let hello = ServerHello::read(result.result(ANSWER).unwrap()).unwrap();
        assert_eq!(hello.revision, Some(Revision::V2025_06_18));
        assert_eq!((hello.name.as_deref(), hello.version.as_deref()), (Some("s"), Some("1.2")));
        assert!(hello.has_tools && hello.has_prompts && hello.has_resources && hello.has_logging);
        assert!(hello.has_resource_subscribe);
        assert!(!hello.tools_list_changed && !hello.prompts_list_changed && !hello.resources_list_changed);
        assert_eq!(hello.instructions_digest, digest(b"hi"));

        let bare = ServerHello::read(br#"{"protocolVersion":"2099-01-01"}"#).unwrap();
        assert_eq!((bare.revision, bare.revision_text.as_str(), bare.has_tools), (None, "2099-01-01", false));
        assert_eq!(ServerHello::read(br#"{"capabilities":{}}"#), None);
    }

    #[test]
    fn what_a_server_says_twice_it_does_not_say_and_the_rest_it_does() {
        let twice = br#" {"protocolVersion":"1","serverInfo":{"name":"a","name":"b","version":"2"},
            "capabilities":{"tools":{},"tools":{},"prompts":{"listChanged":true,"x":[{"listChanged":false}]},
            "resources":{"subscribe":true,"subscribe":true,"listChanged":true},"logging":[]},"instructions":5}"#;
        let hello = ServerHello::read(twice).unwrap();
        assert_eq!((hello.name, hello.version.as_deref()), (None, Some("2")));
        assert!(!hello.has_tools && hello.has_prompts && hello.has_resources && !hello.has_logging);
        assert!(hello.prompts_list_changed && hello.resources_list_changed && !hello.has_resource_subscribe);
        assert_eq!(hello.instructions_digest, digest(b""));
        assert_eq!(ServerHello::read(br#"{"protocolVersion":"1","protocolVersion":"1"}"#), None);
        assert_eq!(ServerHello::read(br#"{"protocolVersion":"1""#), None);
    }

    #[test]
    fn list_changed_is_advertised_where_the_capability_exists_and_nothing_else_moves() {
        let out = advertise_list_changed(&Bytes::from_static(ANSWER));
        let expected = String::from_utf8(ANSWER.to_vec())
            .unwrap()
            .replace(r#"{"listChanged":false}"#, r#"{"listChanged":true}"#)
            .replace(r#""prompts":{ }"#, r#""prompts":{"listChanged":true }"#)
            .replace(r#"{"subscribe":true}"#, r#"{"listChanged":true,"subscribe":true}"#);
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        assert_eq!(advertise_list_changed(&out), out);

        for other in [&br#"{"jsonrpc":"2.0","id":1,"result":{}}"#[..], b"", b"[]", b"{\"jsonrpc\":"] {
            assert_eq!(advertise_list_changed(&Bytes::from_static(other)), other);
        }
    }

    #[test]
    fn capabilities_are_taken_out_and_the_others_stay_as_they_were() {
        let out = without_capabilities(&Bytes::from_static(ANSWER), &["logging", "tasks", "tools"]);
        let expected = String::from_utf8(ANSWER.to_vec())
            .unwrap()
            .replace(r#""tools":{"listChanged":false},"#, "")
            .replace(r#","logging":{}"#, "");
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        assert_eq!(without_capabilities(&out, &["logging", "tasks"]), out);
        for other in [&br#"{"jsonrpc":"2.0","id":1,"result":{}}"#[..], b"", b"[]", b"{\"jsonrpc\":"] {
            assert_eq!(without_capabilities(&Bytes::from_static(other), &["tools"]), other);
        }
    }

    #[test]
    fn a_repeated_handshake_keeps_the_clients_params() {
        let params = br#"{"x":1.10, "protocolVersion" : "2025-11-25","capabilities":{}}"#;
        let id = RequestId::text("relatch-1");
        let same = initialize_message(&id, params, None);
        assert!(same.windows(params.len()).any(|window| window == params));
        let asked = initialize_message(&id, params, Some("2025-06-18"));
        let envelope = Envelope::read(&asked).unwrap();
        assert_eq!(
            envelope.params(&asked),
            Some(&br#"{"x":1.10, "protocolVersion" : "2025-06-18","capabilities":{}}"#[..])
        );
    }

    #[test]
    fn plain_messages_are_messages() {
        let id = RequestId::number(4);
        assert_eq!(ping_message(&id), &br#"{"jsonrpc":"2.0","id":4,"method":"ping"}"#[..]);
        assert_eq!(initialized_message(), &br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#[..]);
        let cancelled = cancelled_message(&id, "gone \"for good\"");
        let envelope = Envelope::read(&cancelled).unwrap();
        assert_eq!(envelope.kind, Kind::Notification { method: method::CANCELLED.into() });
    }
}
