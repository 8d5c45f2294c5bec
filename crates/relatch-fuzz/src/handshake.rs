//! What relatch reads and rewrites of a handshake: only `protocolVersion` and `listChanged` move, and `--tell` only adds.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use relatch_wire::handshake::{
    ServerHello, advertise_list_changed, cancelled_message, initialize_message, request_message,
};
use relatch_wire::method::ListKind;
use relatch_wire::params::{client_identity, protocol_version};
use relatch_wire::{Envelope, Kind, RequestId, digest, tell};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::is_json;

pub(crate) fn handshake(input: &[u8]) {
    asked_again(input);
    answered(input);
    told(input);
    let _ = client_identity(input);
    if let Ok(text) = std::str::from_utf8(input) {
        // Any text can stand in a reason or a method.
        let id = RequestId::text(text);
        for message in [cancelled_message(&id, text), request_message(&id, text, None)] {
            let envelope = Envelope::read(&message);
            // An id may be too long for a message, and then relatch never gives it out.
            assert!(
                envelope.is_ok() || id.raw().len() > relatch_wire::request_id::MAX_ID_LEN,
                "{envelope:?}"
            );
        }
    }
}

/// `initialize` with a client's params, for the first time and again.
fn asked_again(params: &[u8]) {
    // What the shell keeps is the `params` of a message that was read.
    let whole = [br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":"#, params, b"}"].concat();
    let Ok(envelope) = Envelope::read(&whole) else { return };
    let Some(params) = envelope.params(&whole).filter(|kept| is_json(params) && *kept == params.trim_ascii())
    else {
        return;
    };
    let id = RequestId::text("relatch-x-1");
    let same = initialize_message(&id, params, None);
    let read = Envelope::read(&same).expect("an `initialize`");
    assert_eq!(read.params(&same), Some(params), "the client's own params");
    assert_eq!(read.kind, Kind::Request { id: id.clone(), method: "initialize".to_owned() });

    let asked = initialize_message(&id, params, Some("2025-03-26"));
    let read = Envelope::read(&asked).expect("an `initialize` that asks for a revision");
    let again = read.params(&asked).expect("with params");
    match protocol_version(params) {
        Some((_, span)) => {
            let (version, now) = protocol_version(again).expect("a revision");
            assert_eq!((version.as_str(), now.start), ("2025-03-26", span.start));
            assert_eq!(
                (&again[..now.start], &again[now.end..]),
                (&params[..span.start], &params[span.end..])
            );
        }
        None => assert_eq!(again, params),
    }
}

/// A server's answer to `initialize`.
fn answered(input: &[u8]) {
    let message = Bytes::copy_from_slice(input);
    let told = advertise_list_changed(&message);
    assert_eq!(advertise_list_changed(&told), told, "told twice is told once");
    let Ok(before) = Envelope::read(&message) else {
        assert_eq!(told, message, "what is no message is left alone");
        return;
    };
    let after = Envelope::read(&told).expect("still a message");
    assert_eq!((&after.kind, after.params(&told)), (&before.kind, before.params(&message)));
    let (Some(result), Some(new)) = (before.result(&message), after.result(&told)) else {
        assert_eq!(told, message, "what has no result is left alone");
        return;
    };
    let (hello, now) = (ServerHello::read(result), ServerHello::read(new));
    assert_eq!(hello.is_some(), now.is_some());
    if let (Some(hello), Some(now)) = (&hello, now) {
        // A capability that names `listChanged` twice is left alone, and then says nothing that can be read.
        let flag = |has: bool, name: &str, told: bool| {
            assert!(!has || told || twice(new, name), "`{name}` does not tell");
        };
        flag(hello.has_tools, "tools", now.tools_list_changed);
        flag(hello.has_prompts, "prompts", now.prompts_list_changed);
        flag(hello.has_resources, "resources", now.resources_list_changed);
        let expected = ServerHello {
            tools_list_changed: now.tools_list_changed,
            prompts_list_changed: now.prompts_list_changed,
            resources_list_changed: now.resources_list_changed,
            ..hello.clone()
        };
        assert_eq!(now, expected, "something else moved");
    }
    // By the word of another parser: take the three flags out of both, and nothing differs.
    if let (Ok(mut one), Ok(mut two)) =
        (serde_json::from_slice::<Value>(result), serde_json::from_slice::<Value>(new))
    {
        for value in [&mut one, &mut two] {
            for name in ["tools", "prompts", "resources"] {
                if let Some(capability) = value.pointer_mut(&format!("/capabilities/{name}"))
                    && let Some(capability) = capability.as_object_mut()
                {
                    capability.remove("listChanged");
                }
            }
        }
        assert_eq!(one, two, "something else moved");
        if let Some(hello) = hello {
            let text = |path: &str| two.pointer(path).and_then(Value::as_str);
            assert_eq!(Some(hello.revision_text.as_str()), text("/protocolVersion"));
            if let Some(name) = hello.name {
                assert_eq!(Some(name.as_str()), text("/serverInfo/name"));
            }
            if hello.instructions_digest != digest::digest(b"") {
                let instructions = text("/instructions").unwrap_or_default();
                assert_eq!(hello.instructions_digest, digest::digest(instructions.as_bytes()));
            }
        }
    }
}

/// An answer with what `--tell` adds.
fn told(input: &[u8]) {
    let message = Bytes::copy_from_slice(input);
    let offered = tell::advertise(&message);
    assert_eq!(tell::advertise(&offered), offered, "told twice is told once");
    let item = tell::item(ListKind::Tools, None, "{}").expect("a tool");
    let listed = tell::with_item(&message, ListKind::Tools, &item);
    for told in [&offered, &listed] {
        assert_eq!(Envelope::read(told).map(|e| e.kind).ok(), Envelope::read(&message).map(|e| e.kind).ok());
    }
    // By the word of another parser: take what was added away again, and nothing differs.
    let value = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    let (Some(before), Some(mut offered)) = (value(&message), value(&offered)) else { return };
    let had = before.pointer("/result/capabilities").and_then(Value::as_object);
    if let (Some(had), Some(has)) =
        (had, offered.pointer_mut("/result/capabilities").and_then(Value::as_object_mut))
    {
        has.retain(|name, _| had.get(name).is_some_and(|value| !value.is_null()));
        let had = had.iter().filter(|(_, value)| !value.is_null());
        assert!(has.iter().all(|(name, value)| before["result"]["capabilities"][name] == *value));
        assert_eq!(has.len(), had.count(), "something else moved");
    }
    if listed != message
        && let Some(mut listed) = value(&listed)
    {
        let tools = listed.pointer_mut("/result/tools").and_then(Value::as_array_mut);
        let added = tools.and_then(Vec::pop).expect("an item");
        assert_eq!((&added["name"], &listed), (&Value::from(tell::NAME), &before), "something else moved");
    }
}

/// Whether this capability names `listChanged` more than once.
fn twice(result: &[u8], capability: &str) -> bool {
    type Members<'a> = BTreeMap<String, &'a RawValue>;
    let find = |text: &str, name: &str| {
        serde_json::from_str::<Members<'_>>(text)
            .ok()
            .and_then(|members| Some(members.get(name)?.get().to_owned()))
    };
    let capability = std::str::from_utf8(result)
        .ok()
        .and_then(|result| find(result, "capabilities"))
        .and_then(|capabilities| find(&capabilities, capability));
    capability.is_some_and(|capability| {
        let names = serde_json::from_str::<Names>(&capability).map(|names| names.0).unwrap_or_default();
        names.iter().filter(|name| *name == "listChanged").count() > 1
    })
}

/// The names of an object's members, each as often as it stands there.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Each)
    }
}
