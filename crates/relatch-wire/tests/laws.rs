//! The laws of the wire: how bytes are cut makes no difference, what is written is read, what is not ours stays, and
//! nothing panics.

#![expect(clippy::unwrap_used, reason = "a test may panic, and so may what feeds it")]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use relatch_wire::digest::digest_json;
use relatch_wire::envelope::{Body, Envelope, Kind, MAX_DEPTH, read_body};
use relatch_wire::handshake::{ServerHello, advertise_list_changed, initialize_message};
use relatch_wire::line::{LineReader, one_line};
use relatch_wire::lists::items;
use relatch_wire::method::ListKind;
use relatch_wire::request_id::MAX_ID_LEN;
use relatch_wire::rewrite::{server_request_id, split_server_request_id};
use relatch_wire::scan::{IdReplacer, TopLevel};
use relatch_wire::sse::{MAX_FIELD, SseItem, SseReader, write_event};
use relatch_wire::{RequestId, headers, params};

fn law() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

/// Cuts a text at these places, whatever they are.
fn cut<'t>(text: &'t [u8], places: &[prop::sample::Index]) -> Vec<&'t [u8]> {
    let mut at: Vec<usize> = places.iter().map(|place| place.index(text.len() + 1)).collect();
    at.push(0);
    at.push(text.len());
    at.sort_unstable();
    at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

/// Any JSON value, spelled with odd numbers, escapes and spaces.
fn json_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1.10".to_owned()),
        Just("-0".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just("1E+5".to_owned()),
        Just(r#""\ud83d\ude00\"}{][""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(" ,"))),
            prop::collection::vec((json_key(), inner), 0..4).prop_map(|members| object(&members, "\n")),
        ]
    })
}

fn json_key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(r#""id""#.to_owned()),
        Just(r#""result""#.to_owned()),
        Just(r#""\u0069d""#.to_owned()),
        Just(r#""name""#.to_owned()),
        Just(r#""_meta""#.to_owned()),
        "[a-z\u{e9}]{1,3}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ]
}

fn object(members: &[(String, String)], space: &str) -> String {
    let members: Vec<_> =
        members.iter().map(|(key, value)| format!("{space}{key}{space}:{space}{value}{space}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Any legal id: a string in any spelling, a number of any length.
fn raw_id() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,5})?",
        r#""([a-z\u{e9}\u{1f600}:]|\\[\\"/bfnrt]|\\u[0-9a-fA-F]{4}){0,12}""#,
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\u0061\/""#.to_owned()),
        Just("1.10".to_owned()),
    ]
}

/// A message in three parts: what stands before its id, the id, and what stands behind.
fn message() -> impl Strategy<Value = (String, String, String)> {
    let kind = prop_oneof![
        (Just("\"method\""), any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap())),
        (Just("\"result\""), json_value()),
        (
            Just("\"error\""),
            json_value().prop_map(|data| format!(r#"{{"code":-1,"message":"m","data":{data}}}"#))
        ),
    ];
    let others = prop::collection::vec(json_value(), 0..3);
    (raw_id(), kind, others, prop::sample::select(vec!["", " ", "\r\n\t"]), any::<prop::sample::Index>())
        .prop_map(|(id, (name, value), others, space, place)| {
            let mut members =
                vec![("\"jsonrpc\"".to_owned(), "\"2.0\"".to_owned()), (name.to_owned(), value)];
            members.extend(others.into_iter().enumerate().map(|(n, value)| (format!("\"x{n}\""), value)));
            let place = place.index(members.len() + 1);
            let spell = |members: &[(String, String)]| {
                let text = object(members, space);
                text[1..text.len() - 1].to_owned()
            };
            let (before, behind) = members.split_at(place);
            let comma = |list: &[(String, String)]| if list.is_empty() { "" } else { "," };
            (
                format!("{{{}{}\"id\"{space}:{space}", spell(before), comma(before)),
                id,
                format!("{space}{}{}}}{space}", comma(behind), spell(behind)),
            )
        })
}

/// `params` in which what every call is looked at for may stand anywhere, in any spelling, or twice.
fn named_params() -> impl Strategy<Value = String> {
    let meta_key = prop::sample::select(vec![
        r#""progressToken""#,
        r#""progress\u0054oken""#,
        r#""io.modelcontextprotocol/protocolVersion""#,
        r#""io.modelcontextprotocol\/protocolVersion""#,
        r#""other""#,
    ]);
    let value = || prop_oneof![json_value(), raw_id(), Just(r#""2026-07-28""#.to_owned())];
    let meta = prop::collection::vec((meta_key.prop_map(str::to_owned), value()), 0..4)
        .prop_map(|members| object(&members, " "));
    let key = || {
        prop::sample::select(vec![r#""name""#, r#""n\u0061me""#, r#""arguments""#]).prop_map(str::to_owned)
    };
    let meta_name = prop::sample::select(vec![r#""_meta""#, r#""\u005fmeta""#]).prop_map(str::to_owned);
    let member = prop_oneof![
        3 => (key(), value()),
        2 => (meta_name, prop_oneof![4 => meta, 1 => json_value()]),
    ];
    prop_oneof![
        9 => prop::collection::vec(member, 0..5).prop_map(|members| object(&members, "")),
        1 => json_value(),
    ]
}

proptest! {
    #![proptest_config(law())]

    #[test]
    fn what_is_found_on_the_way_is_what_a_look_finds(raw in named_params(), batch in any::<bool>()) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"params":{raw},"method":"m"}}"#);
        let (text, envelope) = if batch {
            let text = Bytes::from(format!(" [ {text}]"));
            let Ok(Body::Batch(mut batch)) = read_body(&text) else { panic!("{text:?}") };
            let (span, envelope) = batch.remove(0);
            (text.slice(span), envelope)
        } else {
            let text = Bytes::from(text);
            let envelope = Envelope::read(&text).unwrap();
            (text, envelope)
        };
        let found = envelope.params(&text).unwrap();
        prop_assert_eq!(found, raw.as_bytes());
        prop_assert_eq!(envelope.param_name(&text), params::name(found));
        prop_assert_eq!(envelope.progress_token(&text), params::progress_token(found));
        prop_assert_eq!(envelope.meta_protocol_version(&text), params::meta_protocol_version(found));
    }

    #[test]
    fn another_id_keeps_every_other_byte((before, id, behind) in message(), new in raw_id(), places in cuts()) {
        let text = Bytes::from(format!("{before}{id}{behind}"));
        let new = RequestId::from_raw(&new).unwrap();
        let expected = format!("{before}{new}{behind}");

        let envelope = Envelope::read(&text).unwrap();
        prop_assert_eq!(envelope.id().map(RequestId::raw), Some(id.as_str()));
        prop_assert_eq!(&envelope.with_id(&text, &new)[..], expected.as_bytes());

        let mut replacer = IdReplacer::new(new);
        let mut top = TopLevel::new();
        let mut out = BytesMut::new();
        for piece in cut(&text, &places) {
            replacer.feed(piece, &mut out);
            top.feed(piece);
        }
        prop_assert_eq!(&out[..], expected.as_bytes());
        prop_assert!(replacer.is_complete() && top.is_complete());
        prop_assert_eq!(top.id(), envelope.id());
        let null = envelope.result(&text) == Some(b"null");
        prop_assert_eq!(top.saw_result(), matches!(envelope.kind, Kind::Result { .. }) && !null);
        prop_assert_eq!(top.saw_error(), matches!(envelope.kind, Kind::Error { .. }));
    }

    #[test]
    fn a_batch_is_its_messages(messages in prop::collection::vec(message(), 1..5)) {
        let texts: Vec<_> = messages.iter().map(|(before, id, behind)| format!("{before}{id}{behind}")).collect();
        let body = format!(" [{}]", texts.join(","));
        let Ok(Body::Batch(batch)) = read_body(body.as_bytes()) else { panic!("a batch") };
        prop_assert_eq!(batch.len(), texts.len());
        for ((span, envelope), text) in batch.iter().zip(&texts) {
            prop_assert_eq!(&body[span.clone()], text.trim());
            prop_assert_eq!(envelope, &Envelope::read(text.trim().as_bytes()).unwrap());
        }
    }

    #[test]
    fn an_id_survives_every_spelling(text in any::<String>(), generation in any::<u32>()) {
        let id = RequestId::text(&text);
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let other = RequestId::from_raw(&format!("\"{escaped}\"")).unwrap();
        prop_assert_eq!(&id, &other);
        prop_assert_eq!(other.as_text(), Some(text));
        for id in [id, other] {
            prop_assert_eq!(RequestId::from_raw(id.raw()), Some(id.clone()));
            let sent = RequestId::from_raw(server_request_id(generation, &id).raw()).unwrap();
            let (back, original) = split_server_request_id(&sent).unwrap();
            prop_assert_eq!((back, original.raw()), (generation, id.raw()));
        }
    }

    #[test]
    fn an_id_comes_back_from_whatever_it_was_mapped_to((before, id, behind) in message(), generation in any::<u32>()) {
        let text = Bytes::from(format!("{before}{id}{behind}"));
        let own = RequestId::from_raw(&id).unwrap();
        // A client's request, under an id of relatch's, and its answer.
        let mapped = RequestId::text("relatch-a1b2-3");
        let up = Envelope::read(&text).unwrap().with_id(&text, &mapped);
        let there = Envelope::read(&up).unwrap();
        prop_assert_eq!(there.id(), Some(&mapped));
        prop_assert_eq!(there.with_id(&up, &own), text.clone());
        // A server's request, under an id with its generation, and the client's answer.
        let down = server_request_id(generation, &own);
        let told = Envelope::read(&text).unwrap().with_id(&text, &down);
        let read = Envelope::read(&told).unwrap().id().cloned().unwrap();
        let (back, original) = split_server_request_id(&read).unwrap();
        prop_assert_eq!((back, original.raw()), (generation, id.as_str()));
        prop_assert_eq!(Envelope::read(&told).unwrap().with_id(&told, &original), text);
    }

    #[test]
    fn null_is_no_id_of_a_request_and_no_name_of_an_error(spaces in "[ \t\r\n]{0,3}", id in raw_id()) {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{spaces}null{spaces},"method":"m"}}"#);
        prop_assert!(Envelope::read(request.as_bytes()).unwrap_err().message.contains("`id` is null"));
        let error = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{spaces}null{spaces},"error":{{"code":-1}}}}"#));
        let envelope = Envelope::read(&error).unwrap();
        prop_assert_eq!(envelope.id(), None);
        let named = envelope.with_id(&error, &RequestId::from_raw(&id).unwrap());
        prop_assert_eq!(Envelope::read(&named).unwrap().id().map(|id| id.raw().to_owned()), Some(id));
    }

    #[test]
    fn what_another_peer_added_passes_through_a_handshake_untouched(extra in json_value(), version in "[0-9-]{1,10}") {
        let params = format!(r#"{{"x":{extra},"protocolVersion":"{version}","y":{extra}}}"#);
        let asked = initialize_message(&RequestId::number(1), params.as_bytes(), Some("2025-06-18"));
        let expected = params.replacen(&format!(r#""protocolVersion":"{version}""#), r#""protocolVersion":"2025-06-18""#, 1);
        // A name that stands twice says nothing, and is left alone.
        let envelope = Envelope::read(&asked).unwrap();
        prop_assert_eq!(envelope.params(&asked), Some(expected.as_bytes()));

        let hello = |tools: &str| format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"x":{extra},"protocolVersion":"{version}","capabilities":{{"y":{extra},"tools":{tools}}}}}}}"#
        );
        let told = advertise_list_changed(&Bytes::from(hello(r#"{ "z" : 1.10 }"#)));
        prop_assert_eq!(String::from_utf8(told.to_vec()).unwrap(), hello(r#"{"listChanged":true, "z" : 1.10 }"#));
    }

    #[test]
    fn a_line_of_just_the_bound_passes_and_one_byte_more_is_refused_with_it(limit in 1..300_usize, places in cuts(), end in prop::sample::select(vec!["\n", "\r\n", ""])) {
        for (size, passes) in [(limit, true), (limit + 1, false)] {
            let text = format!("{}{end}", "x".repeat(size));
            let (mut reader, mut out) = (LineReader::with_limit(limit), Vec::new());
            cut(text.as_bytes(), &places).into_iter().for_each(|piece| reader.feed(piece, &mut out));
            reader.finish(&mut out);
            prop_assert_eq!(out.len(), 1);
            match &out[0] {
                Ok(line) => prop_assert!(passes && line.len() == limit),
                Err(long) => prop_assert!(!passes && long.to_string().contains(&limit.to_string())),
            }
        }
    }

    #[test]
    fn an_event_of_just_the_bound_is_whole_and_one_byte_more_comes_in_pieces(limit in 1..300_usize, lines in 1..5_usize, places in cuts()) {
        for (size, whole) in [(limit, true), (limit + 1, false)] {
            // Line feeds between data lines count, too.
            let breaks = (lines - 1).min(size / 2);
            let data = format!("{}{}", "\n".repeat(breaks), "x".repeat(size - breaks));
            let mut text = Vec::new();
            write_event(&mut text, None, None, data.as_bytes());
            let items = read_events(limit, &cut(&text, &places));
            match items.as_slice() {
                [SseItem::Event { data: read, .. }] => prop_assert!(whole && read == data.as_bytes()),
                [SseItem::LongBegin { head, .. }, SseItem::LongEnd] => prop_assert!(!whole && head == data.as_bytes()),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn the_fields_of_an_event_keep_their_bound_and_break_the_stream_by_its_name(name in prop::sample::select(vec!["id", "event"]), places in cuts()) {
        for (size, passes) in [(MAX_FIELD, true), (MAX_FIELD + 1, false)] {
            let text = format!("{name}: {}\ndata: x\n\n", "y".repeat(size));
            match read_events(usize::MAX, &cut(text.as_bytes(), &places)).as_slice() {
                [SseItem::Event { .. }] => prop_assert!(passes),
                [SseItem::Broken(why)] => prop_assert!(!passes && why.contains("8192") && why.contains(name)),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn the_depth_bound_holds_whatever_is_nested(objects in prop::collection::vec(any::<bool>(), MAX_DEPTH), leaf in prop::sample::select(vec!["", "1"])) {
        // The message itself is the first level.
        for (levels, passes) in [(MAX_DEPTH - 1, true), (MAX_DEPTH, false)] {
            let mut value = leaf.to_owned();
            for object in &objects[..levels] {
                value = match (object, value.is_empty()) {
                    (true, true) => "{}".to_owned(),
                    (true, false) => format!(r#"{{"a":{value}}}"#),
                    (false, _) => format!("[{value}]"),
                };
            }
            let text = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"m","params":{value}}}"#);
            match Envelope::read(text.as_bytes()) {
                Ok(_) => prop_assert!(passes),
                Err(malformed) => {
                    prop_assert!(!passes && malformed.message.contains("128 levels"));
                    prop_assert_eq!(malformed.id, Some(RequestId::number(7)));
                }
            }
        }
    }

    #[test]
    fn ids_of_just_their_bound_are_taken_and_one_byte_more_is_refused_by_its_name(text in any::<bool>()) {
        for (size, passes) in [(MAX_ID_LEN, true), (MAX_ID_LEN + 1, false)] {
            let id = if text { format!("\"{}\"", "x".repeat(size - 2)) } else { "9".repeat(size) };
            prop_assert_eq!(RequestId::from_raw(&id).is_some(), passes);
            match Envelope::read(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#).as_bytes()) {
                Ok(_) => prop_assert!(passes),
                Err(malformed) => prop_assert!(!passes && malformed.message.contains(&MAX_ID_LEN.to_string())),
            }
        }
        let id = "!~".repeat(headers::MAX_SESSION_ID / 2);
        prop_assert!(headers::valid_session_id(id.as_bytes()));
        prop_assert!(!headers::valid_session_id([id, "x".to_owned()].concat().as_bytes()));
    }

    #[test]
    fn the_scanner_takes_what_another_parser_takes(tokens in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\u00\"", "\"\\n\"", "1", "-", ".5", "e3", "0", "true", "null", "nul", " ", "\n",
    ]), 0..8)) {
        let text = tokens.concat();
        let valid = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(digest_json(text.as_bytes()).is_some(), valid, "{}", text);
    }

    #[test]
    fn a_digest_does_not_know_the_order_of_members(members in prop::collection::btree_map("[a-z]{1,4}", json_value(), 0..6)) {
        let spell = |(key, value): (&String, &String)| (format!("\"{key}\""), value.clone());
        let one: Vec<_> = members.iter().map(spell).collect();
        let two: Vec<_> = members.iter().rev().map(spell).collect();
        let digest = digest_json(object(&one, "").as_bytes());
        prop_assert!(digest.is_some());
        prop_assert_eq!(digest, digest_json(object(&two, " ").as_bytes()));
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut(
        text in prop::collection::vec(prop::sample::select(b"ab{ \r\n\n".to_vec()), 0..60),
        limit in 1_usize..12,
        places in cuts(),
    ) {
        let read = |pieces: &[&[u8]]| {
            let mut reader = LineReader::with_limit(limit);
            let mut out = Vec::new();
            pieces.iter().for_each(|piece| reader.feed(piece, &mut out));
            reader.finish(&mut out);
            out
        };
        let whole = read(&[&text]);
        prop_assert_eq!(&read(&cut(&text, &places)), &whole);
        for line in whole.iter().flatten() {
            prop_assert!(!line.contains(&b'\n') && line.len() <= limit);
        }
    }

    #[test]
    fn one_line_means_the_same(value in json_value()) {
        let line = one_line(&Bytes::from(value.clone()));
        prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        prop_assert_eq!(digest_json(&line), digest_json(value.as_bytes()));
    }

    #[test]
    fn events_are_the_same_however_they_are_cut(text in stream(), limit in 0_usize..24, places in cuts()) {
        prop_assert_eq!(read_events(limit, &cut(&text, &places)), read_events(limit, &[&text]));
    }

    #[test]
    fn events_are_those_of_the_standard(text in stream()) {
        prop_assert_eq!(read_events(usize::MAX, &[&text]), plain_reading(&text));
    }

    #[test]
    fn a_long_event_is_the_whole_one_in_pieces(text in stream(), limit in 0_usize..24) {
        let mut whole = read_events(usize::MAX, &[&text]);
        whole.retain(|item| matches!(item, SseItem::Event { .. }));
        let mut events = Vec::new();
        for item in read_events(limit, &[&text]) {
            match item {
                SseItem::Event { data, .. } | SseItem::LongBegin { head: data, .. } => events.push(data.to_vec()),
                SseItem::LongMore(piece) => events.last_mut().unwrap().extend_from_slice(&piece),
                // The type of a long event may not change after its data.
                SseItem::Broken(_) => return Ok(()),
                _ => {}
            }
        }
        let whole: Vec<_> = whole
            .into_iter()
            .filter_map(|item| if let SseItem::Event { data, .. } = item { Some(data.to_vec()) } else { None })
            .collect();
        prop_assert_eq!(events, whole);
    }

    #[test]
    fn an_event_that_is_written_is_read(
        id in prop::option::of("[^\r\n\0]{0,12}"),
        event in prop::option::of("[^\r\n]{1,12}"),
        data in any::<String>(),
        places in cuts(),
    ) {
        prop_assume!(event.as_ref().is_none_or(|event| !event.contains('\0')));
        let mut out = Vec::new();
        write_event(&mut out, id.as_deref(), event.as_deref(), data.as_bytes());
        let read = read_events(usize::MAX, &cut(&out, &places));
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        let expected = match id {
            Some(id) if data.is_empty() => SseItem::Id(id),
            id => SseItem::Event { id, event, data: data.into() },
        };
        prop_assert_eq!(read, [expected]);
    }

    #[test]
    fn nothing_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), places in cuts()) {
        read_everything(&bytes, &cut(&bytes, &places));
    }

    #[test]
    fn nothing_panics_on_a_damaged_message(
        (before, id, behind) in message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
        places in cuts(),
    ) {
        let mut text = format!("{before}{id}{behind}").into_bytes();
        for (place, byte) in damage {
            let place = place.index(text.len());
            text[place] = byte;
        }
        text.truncate(end.index(text.len() + 1));
        read_everything(&text, &cut(&text, &places));
    }
}

/// A stream of events, well-formed or not.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            &b"data: x"[..], b"data:", b"data", b"data:  yy", b"id: 1", b"id", b"id: a\0", b"event: e", b"event:",
            b"retry: 12", b"retry: 1a", b": c", b":", b"foo: bar", b"datax", b"\xef\xbb\xbf", b"dat", b"a: z",
            b"event: message", b"id: 12345678", b"retry: 123456789012345678901", b"event: mess\tage",
        ]).prop_map(<[u8]>::to_vec),
        // Long enough for whatever looks at many bytes at once, with other control characters in it.
        1 => prop::collection::vec(prop::sample::select(b"ab\t\x0b\x0c\0\x0e\xc3\xa9".to_vec()), 0..150)
            .prop_map(|text| [&b"data: "[..], &text].concat()),
        5 => prop::sample::select(vec![&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Reads a stream in pieces; the pieces of a long event are joined.
fn read_events(limit: usize, pieces: &[&[u8]]) -> Vec<SseItem> {
    let mut reader = SseReader::new(limit);
    let mut out = Vec::new();
    pieces.iter().for_each(|piece| reader.feed(piece, &mut out));
    reader.finish(&mut out);
    if limit < usize::MAX {
        // Where a reconnection time stands between the pieces of a long event depends on the cut.
        out.retain(|item| !matches!(item, SseItem::Retry(_)));
    }

    let mut joined: Vec<SseItem> = Vec::new();
    for item in out {
        match (joined.last_mut(), item) {
            (Some(SseItem::LongBegin { head, .. }), SseItem::LongMore(piece)) => {
                *head = [&head[..], &piece[..]].concat().into();
            }
            (_, item) => joined.push(item),
        }
    }
    joined
}

/// The standard's algorithm, word for word, over a whole stream.
fn plain_reading(text: &[u8]) -> Vec<SseItem> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut line = Vec::new();
    let mut bytes = text.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' => lines.push(std::mem::take(&mut line)),
            b'\r' => {
                let _ = bytes.next_if(|next| **next == b'\n');
                lines.push(std::mem::take(&mut line));
            }
            byte => line.push(*byte),
        }
    }
    let mut out = Vec::new();
    let (mut id, mut event, mut data) = (None, None, None::<Vec<u8>>);
    for line in &lines {
        if line.is_empty() {
            let event = event.take().filter(|event: &String| !event.is_empty());
            match (id.take(), data.take()) {
                (Some(id), None) => out.push(SseItem::Id(id)),
                (Some(id), Some(data)) if data.is_empty() => out.push(SseItem::Id(id)),
                (id, Some(data)) => out.push(SseItem::Event { id, event, data: data.into() }),
                (None, None) => {}
            }
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(0) => {
                out.push(SseItem::Comment);
                continue;
            }
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (&line[..], &b""[..]),
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" => match &mut data {
                None => data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            b"id" if !value.contains(&0) => id = Some(text()),
            b"event" => event = Some(text()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                // What 64 bits do not hold is no time.
                out.extend(text().parse().ok().map(SseItem::Retry));
            }
            _ => {}
        }
    }
    // A comment is a sign of life before its line has ended.
    if line.starts_with(b":") {
        out.push(SseItem::Comment);
    }
    out
}

/// Everything that reads what a peer sends.
fn read_everything(bytes: &[u8], pieces: &[&[u8]]) {
    let owned = Bytes::copy_from_slice(bytes);
    let id = RequestId::number(1);
    for envelope in match read_body(bytes) {
        Ok(Body::One(envelope)) => vec![envelope],
        Ok(Body::Batch(batch)) => batch.into_iter().map(|(_, envelope)| envelope).collect(),
        Err(_) => Vec::new(),
    } {
        // Also with bytes that the envelope was not read from.
        for bytes in [owned.clone(), Bytes::new()] {
            let _ = (envelope.params(&bytes), envelope.result(&bytes), envelope.error(&bytes));
            let _ = (envelope.with_id(&bytes, &id), envelope.with_params_value(&bytes, 0..1, "2"));
            let _ = (envelope.param_name(&bytes), envelope.progress_token(&bytes));
            let _ = envelope.meta_protocol_version(&bytes);
        }
    }
    let _ = (params::name(bytes), params::progress_token(bytes), params::cancelled_request_id(bytes));
    let _ = (params::progress_fields(bytes), params::protocol_version(bytes), params::client_identity(bytes));
    let _ = (params::meta_protocol_version(bytes), ServerHello::read(bytes), digest_json(bytes));
    let _ = (advertise_list_changed(&owned), initialize_message(&id, bytes, Some("x")), one_line(&owned));
    for kind in ListKind::ALL {
        let _ = items(bytes, *kind);
    }
    let text = String::from_utf8_lossy(bytes);
    let _ =
        (RequestId::from_raw(&text), headers::accepts(&text), headers::forwarded_downstream_header(&text));
    let _ = headers::valid_session_id(bytes);

    let (mut top, mut replacer, mut out) = (TopLevel::new(), IdReplacer::new(id), BytesMut::new());
    let (mut lines, mut found) = (LineReader::with_limit(8), Vec::new());
    for piece in pieces {
        top.feed(piece);
        replacer.feed(piece, &mut out);
        lines.feed(piece, &mut found);
    }
    lines.finish(&mut found);
    read_events(4, pieces);
}
