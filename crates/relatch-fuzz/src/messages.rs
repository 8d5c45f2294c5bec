//! The envelope: what is read is JSON, another id and back is the same bytes, and the scanners of long answers agree.

use bytes::{Bytes, BytesMut};
use relatch_wire::envelope::{MAX_BATCH, PARSE_ERROR};
use relatch_wire::rewrite::{server_request_id, split_server_request_id};
use relatch_wire::scan::{IdReplacer, TopLevel};
use relatch_wire::{Body, Envelope, Kind, RequestId, read_body};

use crate::{cuts, is_json, without_mark};

pub(crate) fn envelope(input: &[u8]) {
    // Long messages say nothing that short ones don't, and their bounds have tests of their own.
    if input.len() > 64 * 1024 {
        return;
    }
    scanners_take_anything(input);
    match read_body(input) {
        Ok(Body::One(envelope)) => {
            assert!(is_json(without_mark(input)), "a message that is no JSON");
            message(&Bytes::copy_from_slice(input), &envelope, true);
        }
        Ok(Body::Batch(batch)) => {
            assert!(is_json(without_mark(input)), "a batch that is no JSON");
            assert!((1..=MAX_BATCH).contains(&batch.len()), "{} messages", batch.len());
            for (span, envelope) in batch {
                let text = Bytes::copy_from_slice(&input[span]);
                // It may stand one level deeper by itself than in its batch, never less deep.
                assert_eq!(
                    Envelope::read(&text).as_ref(),
                    Ok(&envelope),
                    "a message of a batch, read by itself"
                );
                message(&text, &envelope, true);
            }
        }
        Err(malformed) => {
            assert!(
                malformed.code != PARSE_ERROR || !is_json(without_mark(input)),
                "JSON is called unreadable: {malformed}"
            );
            assert!(!malformed.message.is_empty());
        }
    }
}

fn message(text: &Bytes, envelope: &Envelope, scanned: bool) {
    for part in [envelope.params(text), envelope.result(text), envelope.error(text)].into_iter().flatten() {
        assert!(is_json(part), "a part that is no JSON");
    }
    let kinds = match &envelope.kind {
        Kind::Request { .. } | Kind::Notification { .. } => {
            envelope.result(text).is_none() && envelope.error(text).is_none() && envelope.method().is_some()
        }
        Kind::Result { .. } => envelope.result(text).is_some() && envelope.error(text).is_none(),
        Kind::Error { .. } => envelope.result(text).is_none() && envelope.error(text).is_some(),
    };
    assert!(kinds, "{:?} with the parts of another kind", envelope.kind);

    if let Some(own) = envelope.id() {
        // The same id is no change, and not even a copy.
        assert_eq!(envelope.with_id(text, own), text);
        assert_eq!(RequestId::from_raw(own.raw()).as_ref(), Some(own));
        let sent = server_request_id(7, own);
        let back = RequestId::from_raw(sent.raw()).and_then(|sent| split_server_request_id(&sent));
        let back = back.map(|(generation, id)| (generation, id.raw().to_owned()));
        assert!(
            back == Some((7, own.raw().to_owned()))
                || sent.raw().len() > relatch_wire::request_id::MAX_ID_LEN,
            "a server's id is lost: {own}"
        );
    }
    let other = RequestId::text("relatch-\u{e9}\"-1");
    let named = envelope.with_id(text, &other);
    let read = Envelope::read(&named).expect("another id makes no message unreadable");
    match &envelope.kind {
        Kind::Notification { .. } => assert_eq!(named, text, "a notification has no id to change"),
        Kind::Request { .. } | Kind::Result { .. } | Kind::Error { .. } => {
            assert_eq!(read.id(), Some(&other));
            if let Some(own) = envelope.id() {
                assert_eq!(read.with_id(&named, own), text, "mapped and mapped back");
            }
        }
    }
    assert_eq!((read.params(&named), read.result(&named)), (envelope.params(text), envelope.result(text)));
    if scanned {
        scanned_alike(text, envelope, &other, &named);
    }
}

/// The scanners of long answers see the message as the whole reader does, wherever it is cut.
fn scanned_alike(text: &Bytes, envelope: &Envelope, other: &RequestId, named: &Bytes) {
    let null = envelope.result(text) == Some(b"null");
    for pieces in cuts(text) {
        let (mut top, mut replacer, mut out) =
            (TopLevel::new(), IdReplacer::new(other.clone()), BytesMut::new());
        for piece in pieces {
            top.feed(piece);
            replacer.feed(piece, &mut out);
        }
        assert!(top.is_complete() && replacer.is_complete(), "a whole message that seems to go on");
        match &envelope.kind {
            Kind::Result { .. } => {
                assert_eq!(top.saw_result(), !null);
                assert_eq!(&out[..], &named[..], "the replacer and the splice");
                assert_eq!(top.id(), envelope.id());
            }
            Kind::Error { .. } => assert!(top.saw_error()),
            Kind::Request { .. } | Kind::Notification { .. } => {
                assert!(!top.saw_result() && !top.saw_error());
            }
        }
    }
}

/// Whatever comes, where it is cut makes no difference to the scanners.
fn scanners_take_anything(input: &[u8]) {
    let mut whole = None;
    for pieces in cuts(input) {
        let (mut top, mut replacer, mut out) =
            (TopLevel::new(), IdReplacer::new(RequestId::number(1)), BytesMut::new());
        for piece in pieces {
            top.feed(piece);
            replacer.feed(piece, &mut out);
        }
        let seen = (
            top.saw_result(),
            top.saw_error(),
            top.id().map(|id| id.raw().to_owned()),
            top.is_complete(),
            top.is_foreign(),
            replacer.is_complete(),
            out,
        );
        assert!(!seen.4 || seen.6 == input, "what is no object passes as it is");
        match &whole {
            None => whole = Some(seen),
            Some(whole) => assert_eq!(whole, &seen, "cut elsewhere"),
        }
    }
}
