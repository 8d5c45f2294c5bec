//! What is read quickly, held against what reads it plainly: another parser, and texts that differ in one place only.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;
use relatch_wire::digest::digest_json;
use relatch_wire::envelope::{Envelope, Kind, PARSE_ERROR, read_body};
use relatch_wire::{RequestId, params};
use serde_json::Value;
use serde_json::value::RawValue;

fn law() -> ProptestConfig {
    ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() }
}

/// The inside of a string: runs of every length up to where many bytes are looked at in one go, escapes, and characters
/// of every width between them.
fn inside() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ -!#-\\[\\]-~]{0,12}",
        1 => "[a-z]{50,150}",
        2 => prop::sample::select(vec![
            r"\n", r#"\""#, r"\\", r"\/", r"\b\f\r\t", r"\u0061", r"\u00e9", r"\ud83d\ude00", "\u{e9}", "\u{6f22}",
            "\u{1f600}", "\u{7f}",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn number() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?"
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", " ", "\n", "\t\r\n  "])
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        3 => inside().prop_map(|text| format!("\"{text}\"")),
        2 => number(),
        1 => prop::sample::select(vec!["true", "false", "null", "[]", "{}", "[ ]", "{\n}"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 1..4), space()).prop_map(|(list, space)| format!(
                "[{space}{}{space}]",
                list.join(&format!("{space},{space}"))
            )),
            (prop::collection::vec((inside(), inner), 1..4), space()).prop_map(|(members, space)| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{value}")).collect();
                format!("{{{}{space}}}", members.join(&format!("{space},")))
            }),
        ]
    })
}

/// What is done to a text in one place.
#[derive(Debug, Clone)]
enum Damage {
    Put(u8),
    Insert(&'static str),
    Remove,
    End,
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, Damage)>> {
    let tokens = vec![
        "\"", "\\", "\\u", "\\u00g0", "\\x", "{", "}", "[", "]", ",", ":", "-", ".", "e", "0", "\u{1}", "\n",
        " ", "tru",
    ];
    let one = prop_oneof![
        any::<u8>().prop_map(Damage::Put),
        prop::sample::select(tokens).prop_map(Damage::Insert),
        Just(Damage::Remove),
        Just(Damage::End),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), one), 0..3)
}

fn damaged(text: &str, damages: &[(prop::sample::Index, Damage)]) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    for (place, damage) in damages {
        let at = place.index(text.len() + 1);
        let next = (at + 1).min(text.len());
        match damage {
            Damage::Put(byte) => {
                text.splice(at..next, [*byte]);
            }
            Damage::Insert(token) => {
                text.splice(at..at, token.bytes());
            }
            Damage::Remove => {
                text.splice(at..next, []);
            }
            Damage::End => text.truncate(at),
        }
    }
    text
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

proptest! {
    #![proptest_config(law())]

    #[test]
    fn a_damaged_value_is_json_where_another_parser_says_so(text in value(), damages in damage()) {
        let text = damaged(&text, &damages);
        // The digest does not look at UTF-8, which the bodies of messages are asked for.
        if std::str::from_utf8(&text).is_ok() {
            prop_assert_eq!(digest_json(&text).is_some(), is_json(&text), "{}", String::from_utf8_lossy(&text));
        }
        // A body that is no message is no JSON, or something else is said of it.
        let said_no_json = read_body(&text).is_err_and(|malformed| malformed.code == PARSE_ERROR);
        prop_assert!(!said_no_json || !is_json(&text));
    }

    #[test]
    fn a_damaged_message_is_never_taken_where_another_parser_refuses_it(params in value(), damages in damage(), id in number()) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#);
        let text = damaged(&text, &damages);
        match read_body(&text) {
            Ok(_) => prop_assert!(is_json(&text), "{}", String::from_utf8_lossy(&text)),
            Err(malformed) => prop_assert!(malformed.code != PARSE_ERROR || !is_json(&text), "{malformed}"),
        }
    }

    #[test]
    fn what_stands_in_a_message_is_what_another_parser_finds(
        method in inside(),
        name in inside(),
        arguments in value(),
        token in prop_oneof![number(), inside().prop_map(|text| format!("\"{text}\""))],
        space in space(),
    ) {
        let text = format!(
            "{space}{{{space}\"jsonrpc\":\"2.0\",\"id\":{token}{space},\"method\":{space}\"{method}\",\"params\":{{\"name\":\"{name}\"{space},\"arguments\":{arguments},\"_meta\":{{\"progressToken\":{token}}}}}}}{space}"
        );
        let tree: Value = serde_json::from_str(&text).unwrap();
        let envelope = Envelope::read(text.as_bytes()).unwrap();
        prop_assert_eq!(envelope.method(), tree["method"].as_str());
        prop_assert_eq!(envelope.id().map(RequestId::raw), Some(token.as_str()));
        let named = envelope.param_name(text.as_bytes());
        prop_assert_eq!(named.as_deref(), tree["params"]["name"].as_str());
        let found = envelope.progress_token(text.as_bytes());
        prop_assert_eq!(found.as_ref().map(RequestId::raw), Some(token.as_str()));
        let raw = envelope.params(text.as_bytes()).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Value>(raw).unwrap(), tree["params"].clone());
        prop_assert_eq!(params::name(raw), named);
    }

    #[test]
    fn the_place_of_a_fault_is_where_the_first_odd_byte_stands(before in inside(), behind in inside(), odd in 0_u8..0x20) {
        let head = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"a":"{before}"#);
        let text = [head.as_bytes(), &[odd], behind.as_bytes(), b"\"}}"].concat();
        let malformed = Envelope::read(&text).unwrap_err();
        prop_assert!(malformed.message.ends_with(&format!("unexpected byte at offset {}", head.len())), "{malformed}");
        prop_assert_eq!(malformed.id, Some(RequestId::number(1)));
    }

    #[test]
    fn bytes_that_are_no_text_are_told_of_by_the_first_of_them(before in inside(), behind in inside(), byte in 0x80_u8..) {
        let head = format!(r#"{{"jsonrpc":"2.0","method":"{before}"#);
        let text = [head.as_bytes(), &[byte], b" ", behind.as_bytes(), b"\"}"].concat();
        let at = std::str::from_utf8(&text).unwrap_err().valid_up_to();
        let malformed = Envelope::read(&text).unwrap_err();
        prop_assert!(malformed.message.ends_with(&format!("UTF-8: invalid byte at offset {at}")), "{malformed}");
    }

    #[test]
    fn ids_are_alike_where_they_read_alike_however_long_they_are(
        one in prop_oneof![number(), "[ab]{0,40}".prop_map(|text| format!("\"{text}\"")), inside().prop_map(|text| format!("\"{text}\""))],
        other in prop_oneof![number(), "[ab]{0,40}".prop_map(|text| format!("\"{text}\""))],
        escaped in any::<bool>(),
    ) {
        // The other one once more, every character of it as an escape.
        let other = match other.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(text) if escaped => {
                format!("\"{}\"", text.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>())
            }
            _ => other,
        };
        let canonical = |raw: &str| match serde_json::from_str::<String>(raw) {
            Ok(text) => Value::from(text).to_string(),
            Err(_) => raw.to_owned(),
        };
        let ids = [&one, &other].map(|raw| RequestId::from_raw(raw).unwrap());
        let plain = [&one, &other].map(|raw| canonical(raw));
        prop_assert_eq!(ids[0].raw(), &one);
        prop_assert_eq!(ids[1].raw(), &other);
        prop_assert_eq!(ids[0].cmp(&ids[1]), plain[0].cmp(&plain[1]));
        prop_assert_eq!(ids[0] == ids[1], plain[0] == plain[1]);
        let hash = |id: &RequestId| {
            let mut hasher = DefaultHasher::new();
            id.hash(&mut hasher);
            hasher.finish()
        };
        for (id, plain) in ids.iter().zip(&plain) {
            let same = RequestId::from_raw(plain).unwrap();
            prop_assert_eq!((id.cmp(&same), hash(id)), (Ordering::Equal, hash(&same)));
        }
    }

    #[test]
    fn an_id_that_is_a_number_is_spelled_as_it_is_read(number in any::<i64>()) {
        let id = RequestId::number(number);
        prop_assert_eq!(id.raw(), number.to_string());
        let text = format!(r#"{{"jsonrpc":"2.0","id":{number},"result":null}}"#);
        prop_assert_eq!(Envelope::read(text.as_bytes()).unwrap().kind, Kind::Result { id });
    }
}

#[test]
fn an_id_is_small_since_every_call_has_several() {
    assert!(size_of::<RequestId>() <= 24, "{}", size_of::<RequestId>());
}
