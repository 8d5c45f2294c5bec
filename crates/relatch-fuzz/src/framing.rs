//! Events and lines: where a stream is cut makes no difference, its bytes are those of a plain reading, bounds hold.

use bytes::Bytes;
use relatch_wire::digest::digest_json;
use relatch_wire::line::{LineReader, LineTooLong, one_line};
use relatch_wire::sse::{MAX_FIELD, SseItem, SseReader, WHOLE_EVENT, write_event};

use crate::{cuts, is_json};

pub(crate) fn sse(input: &[u8]) {
    let mut first = None;
    for limit in [WHOLE_EVENT, 24, 3, 0] {
        let mut whole: Option<Vec<SseItem>> = None;
        for pieces in cuts(input) {
            let items = read_events(limit, &pieces);
            match &whole {
                None => whole = Some(items),
                Some(whole) => assert_eq!(whole, &items, "cut elsewhere, limit {limit}"),
            }
        }
        let items = whole.unwrap_or_default();
        bounded(&items, limit);
        // The bytes of the events are the same whatever the limit is, up to where a stream is broken off.
        let (data, broken) = data_of(&items);
        match &first {
            None => {
                if !broken {
                    assert_eq!(data, plain_data(input), "not the data of a plain reading");
                }
                first = Some(data);
            }
            Some(first) if broken => {
                assert!(first.len() >= data.len().saturating_sub(1), "more events than there are");
            }
            Some(first) => assert_eq!(first, &data, "limit {limit}"),
        }
        written_again(&items);
    }
}

fn read_events(limit: usize, pieces: &[&[u8]]) -> Vec<SseItem> {
    let mut reader = SseReader::new(limit);
    let mut out = Vec::new();
    for piece in pieces {
        reader.feed(piece, &mut out);
    }
    reader.finish(&mut out);
    let mut joined: Vec<SseItem> = Vec::new();
    let mut long = None;
    let mut inside = Vec::new();
    for item in out {
        match item {
            SseItem::LongBegin { .. } => {
                assert!(long.is_none(), "a long event inside another");
                long = Some(joined.len());
                joined.push(item);
            }
            SseItem::LongMore(piece) => {
                let begun = long.and_then(|at| joined.get_mut(at));
                let Some(SseItem::LongBegin { head, .. }) = begun else {
                    panic!("more of a long event that has not begun");
                };
                *head = [&head[..], &piece[..]].concat().into();
            }
            // Where a reconnection time stands between the pieces depends on the cut.
            SseItem::Retry(_) if long.is_some() => inside.push(item),
            SseItem::LongEnd | SseItem::Broken(_) => {
                assert!(long.is_some() || matches!(item, SseItem::Broken(_)), "an end of nothing");
                long = None;
                joined.append(&mut inside);
                joined.push(item);
            }
            item => {
                assert!(long.is_none(), "something inside a long event: {item:?}");
                joined.push(item);
            }
        }
    }
    joined.append(&mut inside);
    let broken = joined.iter().position(|item| matches!(item, SseItem::Broken(_)));
    assert!(
        broken.is_none_or(|at| at + 1 == joined.len() || limit < WHOLE_EVENT),
        "something behind the break"
    );
    joined
}

fn bounded(items: &[SseItem], limit: usize) {
    for item in items {
        match item {
            SseItem::Event { id, event, data } => {
                assert!(data.len() <= limit, "a whole event of {} bytes", data.len());
                for value in [id, event].into_iter().flatten() {
                    // What is no UTF-8 becomes the replacement character, three bytes for one.
                    assert!(value.len() <= 3 * MAX_FIELD && !value.contains(['\r', '\n']));
                }
            }
            SseItem::LongBegin { head, .. } => assert!(head.len() > limit, "a long event of {}", head.len()),
            SseItem::Id(id) => assert!(id.len() <= 3 * MAX_FIELD && !id.contains(['\0', '\r', '\n'])),
            SseItem::Comment
            | SseItem::Retry(_)
            | SseItem::LongMore(_)
            | SseItem::LongEnd
            | SseItem::Broken(_) => {}
        }
    }
}

/// The data of each event, and whether the stream was broken off.
fn data_of(items: &[SseItem]) -> (Vec<Vec<u8>>, bool) {
    let broken = items.iter().any(|item| matches!(item, SseItem::Broken(_)));
    let data = items.iter().filter_map(|item| match item {
        SseItem::Event { data, .. } | SseItem::LongBegin { head: data, .. } => Some(data.to_vec()),
        SseItem::Comment
        | SseItem::Retry(_)
        | SseItem::Id(_)
        | SseItem::LongMore(_)
        | SseItem::LongEnd
        | SseItem::Broken(_) => None,
    });
    (data.filter(|data| !data.is_empty()).collect(), broken)
}

/// The data of every event that has any, by lines and blank lines and nothing else.
fn plain_data(text: &[u8]) -> Vec<Vec<u8>> {
    let text = crate::without_mark(text);
    let mut events = Vec::new();
    let mut data: Vec<&[u8]> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let (line, tail) = rest.split_at(at);
        rest = tail.strip_prefix(b"\r\n").unwrap_or(&tail[1..]);
        if line.is_empty() {
            let whole = data.join(&b'\n');
            if !whole.is_empty() {
                events.push(whole);
            }
            data.clear();
        } else if line == b"data" {
            data.push(b"");
        } else if let Some(value) = line.strip_prefix(b"data:") {
            data.push(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
    events
}

/// Whole events are written so that they are read as they were.
fn written_again(items: &[SseItem]) {
    let (mut text, mut expected) = (Vec::new(), Vec::new());
    for item in items {
        if let SseItem::Event { id, event, data } = item
            && event.as_ref().is_none_or(|event| !event.contains('\0'))
        {
            write_event(&mut text, id.as_deref(), event.as_deref(), data);
            expected.push(item.clone());
        }
    }
    expected.retain(|item| !matches!(item, SseItem::Event { id: Some(_), data, .. } if data.is_empty()));
    let mut read = read_events(usize::MAX, &[&text]);
    // A replacement character can make a value longer than what was read, and then too long to be read again.
    if !read.iter().any(|item| matches!(item, SseItem::Broken(_))) {
        read.retain(|item| !matches!(item, SseItem::Id(_)));
        assert_eq!(read, expected, "written and read");
    }
}

pub(crate) fn line(input: &[u8]) {
    for limit in [usize::MAX >> 1, 64, 8, 1, 0] {
        let expected = plain_lines(limit, input);
        for pieces in cuts(input) {
            let mut reader = LineReader::with_limit(limit);
            let mut out = Vec::new();
            for piece in pieces {
                reader.feed(piece, &mut out);
            }
            reader.finish(&mut out);
            assert_eq!(out, expected, "limit {limit}");
        }
    }
    let message = Bytes::copy_from_slice(input);
    let one = one_line(&message);
    assert!(one.len() == message.len() && !one.contains(&b'\n') && !one.contains(&b'\r'));
    assert_eq!(one_line(&one), one);
    if is_json(input) {
        assert_eq!(digest_json(&one), digest_json(input), "one line means something else");
    }
}

/// Lines, by their ends and nothing else.
fn plain_lines(limit: usize, text: &[u8]) -> Vec<Result<Bytes, LineTooLong>> {
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > limit {
            lines.push(Err(LineTooLong { limit }));
        } else if !line.iter().all(u8::is_ascii_whitespace) {
            lines.push(Ok(Bytes::copy_from_slice(line)));
        }
    }
    lines
}
