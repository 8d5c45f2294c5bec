//! Writers of events, comments and the reconnection time.
//!
//! What an event says is given; a long one is written in pieces. When one is voided is not decided here.

use bytes::BufMut;

use crate::stop;

/// The event type that voids a half-written long event: no client takes it for a message.
pub const VOID_EVENT: &str = "relatch-void";

/// Writes one event. Data with line breaks becomes several data lines; an id or type that holds a line break or NUL
/// can't be written and is left out.
pub fn write_event(out: &mut impl BufMut, id: Option<&str>, event: Option<&str>, data: &[u8]) {
    begin_event(out, id, event, data);
    end_event(out);
}

/// Writes the beginning of an event whose data goes on with [`continue_event`] and ends with [`end_event`].
pub fn begin_event(out: &mut impl BufMut, id: Option<&str>, event: Option<&str>, head: &[u8]) {
    for (name, value) in [("event", event), ("id", id)] {
        if let Some(value) = value
            && !value.contains(['\r', '\n', '\0'])
        {
            out.put_slice(name.as_bytes());
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\n");
        }
    }
    out.put_slice(b"data: ");
    continue_event(out, head);
}

/// Writes more data of an event that has begun.
pub fn continue_event(out: &mut impl BufMut, piece: &[u8]) {
    let mut rest = piece;
    loop {
        let (line, tail) = rest.split_at(stop::line_end(rest));
        out.put_slice(line);
        if tail.is_empty() {
            return;
        }
        out.put_slice(b"\ndata: ");
        rest = tail.strip_prefix(b"\r\n").or_else(|| tail.get(1..)).unwrap_or_default();
    }
}

/// How many bytes of a piece of an event are whole characters: what stands behind them is the beginning of one whose rest
/// is to come. An event that is voided has to end at a character's edge, since there are readers that take no stream
/// any further that is not UTF-8. Bytes that are no UTF-8 at all count as they are.
pub fn whole_characters(piece: &[u8]) -> usize {
    for (behind, &byte) in piece.iter().rev().take(3).enumerate() {
        let due = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if behind + 1 < due { piece.len() - behind - 1 } else { piece.len() };
    }
    piece.len()
}

/// Ends an event that has begun.
pub fn end_event(out: &mut impl BufMut) {
    out.put_slice(b"\n\n");
}

/// Ends an event that has begun in such a way that no client takes it for a message.
pub fn void_event(out: &mut impl BufMut) {
    out.put_slice(b"\nevent: ");
    out.put_slice(VOID_EVENT.as_bytes());
    out.put_slice(b"\n\n");
}

/// Writes a priming event: an id, and empty data.
pub fn write_priming(out: &mut impl BufMut, id: &str) {
    write_event(out, Some(id), None, b"");
}

/// A comment, which keeps a connection alive and says nothing.
pub const fn comment() -> &'static [u8] {
    b": \n\n"
}

/// The reconnection time, in milliseconds.
pub fn retry(ms: u64) -> Vec<u8> {
    format!("retry: {ms}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cut_anywhere_ends_at_the_edge_of_a_character() {
        let text = "a é 漢 😀 z";
        for at in 0..=text.len() {
            let piece = &text.as_bytes()[..at];
            let whole = whole_characters(piece);
            assert!(std::str::from_utf8(&piece[..whole]).is_ok(), "{at}");
            assert_eq!(whole, (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap(), "{at}");
        }
        for odd in [&b"a\x80\x80\x80\x80"[..], b"a\xff", b"\x80", b"\xc3\xa9\xa9"] {
            assert_eq!(whole_characters(odd), odd.len());
        }
    }
}
