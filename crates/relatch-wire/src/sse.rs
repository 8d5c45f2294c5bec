//! Server-sent events: a bounded incremental reader, and writers.
//!
//! Framing follows the WHATWG HTML standard, §9.2.5 and §9.2.6. An event of ordinary size is given whole; a longer one
//! is handed on in pieces, so that memory stays bounded. What an event says, and whether a stream is resumed, is not
//! decided here.

mod write;

use bytes::Bytes;

pub use self::write::{
    VOID_EVENT, begin_event, comment, continue_event, end_event, retry, void_event, whole_characters,
    write_event, write_priming,
};
use crate::stop;

/// The longest `id` or `event` line that is read, in bytes of its value.
pub const MAX_FIELD: usize = 8 * 1024;

/// Up to this many bytes of data an event is given whole: 1 MiB.
pub const WHOLE_EVENT: usize = 1024 * 1024;

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SseItem {
    /// A whole event.
    Event {
        /// The `id` line of this event, if it has one.
        id: Option<String>,
        /// Its type, if it names one.
        event: Option<String>,
        /// Its data lines, joined by line feeds.
        data: Bytes,
    },
    /// A comment line: only a sign of life.
    Comment,
    /// The server's reconnection time in milliseconds.
    Retry(u64),
    /// An id without data: a priming event (2025-11-25 basic/transports, SEP-1699).
    Id(String),
    /// An event longer than the limit begins. Comments inside it are not told; a type that comes behind its data and
    /// is another one (as in a voided event) is [`SseItem::Broken`].
    LongBegin {
        /// The `id` line, if it came before the data.
        id: Option<String>,
        /// The type, if it came before the data.
        event: Option<String>,
        /// The data so far.
        head: Bytes,
    },
    /// More data of the long event.
    LongMore(Bytes),
    /// The long event is complete. An `id` line that came behind its data follows as [`SseItem::Id`].
    LongEnd,
    /// The stream can't be read any further, and why; nothing follows.
    Broken(String),
}

/// Reads a stream of events fed in chunks of any size.
#[derive(Debug)]
pub struct SseReader {
    limit: usize,
    line: Line,
    /// The last byte was a carriage return, so a line feed belongs to it.
    after_cr: bool,
    /// No line has ended yet, and no byte order mark has come.
    at_start: bool,
    id: Option<String>,
    event: Option<String>,
    data: Data,
}

/// Where in a line the reader is that has not come whole.
#[derive(Debug)]
enum Line {
    /// In the name of the field, up to its colon; as many bytes of it as tell the names apart.
    Name(Name),
    /// Just behind the colon, where one space may be left out.
    Colon(Field),
    /// In the value, and what has come of it; of data nothing, since it goes to the event's at once.
    Value(Field, Vec<u8>),
    /// The rest of the line says nothing.
    Skip,
    /// The stream is broken.
    Dead,
}

/// The beginning of a field's name. It needs no memory of its own, which every line would ask for.
#[derive(Debug, Default)]
struct Name {
    bytes: [u8; NAME_ROOM + 1],
    len: usize,
}

impl Name {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Data,
    Id,
    Event,
    Retry,
}

impl Field {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"data" => Some(Self::Data),
            b"id" => Some(Self::Id),
            b"event" => Some(Self::Event),
            b"retry" => Some(Self::Retry),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Data {
    /// No data line yet.
    None,
    /// All of the data so far.
    Whole(Vec<u8>),
    /// Data of a long event that has not been handed on yet.
    Long { piece: Vec<u8>, late_id: Option<String> },
}

/// The longest field names that mean something are `event` and `retry`.
const NAME_ROOM: usize = 5;
/// From this size on the data of an event grows fourfold.
const GROWN: usize = 64 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";

impl SseReader {
    /// A reader that gives events of up to `limit_whole` bytes of data whole, see [`WHOLE_EVENT`].
    pub fn new(limit_whole: usize) -> Self {
        Self {
            limit: limit_whole,
            line: Line::Name(Name::default()),
            after_cr: false,
            at_start: true,
            id: None,
            event: None,
            data: Data::None,
        }
    }

    /// Reads on; items are appended to `out`.
    pub fn feed(&mut self, chunk: &[u8], out: &mut Vec<SseItem>) {
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            if matches!(self.line, Line::Dead) {
                return;
            }
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let (text, tail) = rest.split_at(stop::line_end(rest));
            let read = match tail.split_first() {
                Some((&end, tail)) => {
                    self.after_cr = end == b'\r';
                    rest = tail;
                    if self.at_line_start() { self.whole_line(text, out) } else { self.last_piece(text, out) }
                }
                None => {
                    rest = tail;
                    self.piece(text, out)
                }
            };
            if let Err(why) = read {
                return self.break_off(why, out);
            }
        }
        self.hand_on(out);
    }

    /// The stream has ended. An incomplete event is discarded, as the standard has it; a long one, whose beginning has
    /// been handed on, is [`SseItem::Broken`].
    pub fn finish(&mut self, out: &mut Vec<SseItem>) {
        if matches!(self.data, Data::Long { .. }) {
            let why = format!("the stream ended inside an event of more than {} bytes", self.limit);
            self.break_off(why, out);
        }
        self.line = Line::Dead;
    }

    /// Nothing of the line has been read. The first one of all may begin with a byte order mark, which is looked for byte
    /// by byte.
    fn at_line_start(&self) -> bool {
        !self.at_start && matches!(&self.line, Line::Name(name) if name.text().is_empty())
    }

    /// A line that has come at once, as nearly all do, without its end.
    #[inline(always)]
    fn whole_line(&mut self, line: &[u8], out: &mut Vec<SseItem>) -> Result<(), String> {
        let (field, value) = match begins(line) {
            Some(known) => known,
            None => match line {
                [] => {
                    self.dispatch(out);
                    return Ok(());
                }
                [b':', ..] => {
                    self.comment(out);
                    return Ok(());
                }
                // A name without a colon is a field with an empty value.
                name => match Field::of(name) {
                    Some(field) => (field, &b""[..]),
                    None => return Ok(()),
                },
            },
        };
        let value = match value {
            [b' ', value @ ..] => value,
            value => value,
        };
        if field == Field::Data {
            self.data_line_begins(out);
            self.data_bytes(value, out);
            return Ok(());
        }
        if room(field, 0, value)? { self.field_ends(field, value, out) } else { Ok(()) }
    }

    /// A piece of a line, without its end.
    fn piece(&mut self, mut text: &[u8], out: &mut Vec<SseItem>) -> Result<(), String> {
        if self.at_line_start()
            && let Some((field, value)) = begins(text)
        {
            self.line = Line::Colon(field);
            if field == Field::Data {
                self.data_line_begins(out);
            }
            text = value;
        }
        while let Some(&byte) = text.first() {
            match &mut self.line {
                Line::Name(name) => {
                    if byte == b':' {
                        let comment = name.text().is_empty();
                        let field = Field::of(name.text());
                        self.line = field.map_or(Line::Skip, Line::Colon);
                        if comment {
                            self.comment(out);
                        }
                        if field == Some(Field::Data) {
                            self.data_line_begins(out);
                        }
                    } else {
                        name.push(byte);
                        if self.at_start && name.text() == BOM {
                            *name = Name::default();
                            self.at_start = false;
                        } else if name.text().len() > NAME_ROOM {
                            self.line = Line::Skip;
                        }
                    }
                    text = text.get(1..).unwrap_or_default();
                }
                Line::Colon(field) => {
                    self.line = Line::Value(*field, Vec::new());
                    text = text.strip_prefix(b" ").unwrap_or(text);
                }
                Line::Value(Field::Data, _) => {
                    self.data_bytes(text, out);
                    return Ok(());
                }
                Line::Value(field, value) => {
                    if room(*field, value.len(), text)? {
                        value.extend_from_slice(text);
                    } else {
                        self.line = Line::Skip;
                    }
                    return Ok(());
                }
                Line::Skip | Line::Dead => return Ok(()),
            }
        }
        Ok(())
    }

    /// The last piece of a line that has come in several.
    #[inline(never)]
    fn last_piece(&mut self, text: &[u8], out: &mut Vec<SseItem>) -> Result<(), String> {
        self.piece(text, out)?;
        self.at_start = false;
        match std::mem::replace(&mut self.line, Line::Name(Name::default())) {
            Line::Name(name) => self.whole_line(name.text(), out),
            Line::Colon(field) => self.field_ends(field, b"", out),
            Line::Value(field, value) => self.field_ends(field, &value, out),
            Line::Skip => Ok(()),
            Line::Dead => {
                self.line = Line::Dead;
                Ok(())
            }
        }
    }

    fn comment(&self, out: &mut Vec<SseItem>) {
        if !matches!(self.data, Data::Long { .. }) {
            out.push(SseItem::Comment);
        }
    }

    fn field_ends(&mut self, field: Field, value: &[u8], out: &mut Vec<SseItem>) -> Result<(), String> {
        match field {
            Field::Data => {}
            Field::Id => {
                if !value.contains(&0) {
                    let id = lossy(value);
                    match &mut self.data {
                        Data::Long { late_id, .. } => *late_id = Some(id),
                        Data::None | Data::Whole(_) => self.id = Some(id),
                    }
                }
            }
            Field::Event => {
                let event = lossy(value);
                if matches!(self.data, Data::Long { .. }) {
                    // The beginning has gone on under another type, which can't be taken back here.
                    let known = self.event.as_deref().unwrap_or("message");
                    if event != known && !(event.is_empty() && known == "message") {
                        return Err(format!("a long event turned into `{event}` after its data"));
                    }
                } else {
                    self.event = Some(event).filter(|event| !event.is_empty());
                }
            }
            Field::Retry => {
                if let Some(ms) = digits(value) {
                    out.push(SseItem::Retry(ms));
                }
            }
        }
        Ok(())
    }

    fn data_line_begins(&mut self, out: &mut Vec<SseItem>) {
        match &self.data {
            Data::None => self.data = Data::Whole(Vec::new()),
            Data::Whole(_) | Data::Long { .. } => self.data_bytes(b"\n", out),
        }
    }

    fn data_bytes(&mut self, bytes: &[u8], out: &mut Vec<SseItem>) {
        match &mut self.data {
            Data::None => self.data = Data::Whole(bytes.to_vec()),
            // As large as it is: most events have one line.
            Data::Whole(data) if data.capacity() == 0 && bytes.len() <= self.limit => *data = bytes.to_vec(),
            Data::Whole(data) => {
                if data.capacity() - data.len() < bytes.len() {
                    if data.len() >= GROWN {
                        // Each growth copies what is there: doubled each time, that is all of it once more.
                        let most = (self.limit + 1).saturating_sub(data.len());
                        data.reserve_exact((data.len() * 3).min(most).max(bytes.len()));
                    } else {
                        // Half as much again, which need not be given back in the end.
                        data.reserve_exact(bytes.len().max(data.len() / 2));
                    }
                }
                data.extend_from_slice(bytes);
                if data.len() > self.limit {
                    let head = Bytes::from(std::mem::take(data));
                    out.push(SseItem::LongBegin { id: self.id.take(), event: self.event.clone(), head });
                    self.data = Data::Long { piece: Vec::new(), late_id: None };
                }
            }
            Data::Long { piece, .. } => piece.extend_from_slice(bytes),
        }
    }

    fn hand_on(&mut self, out: &mut Vec<SseItem>) {
        if let Data::Long { piece, .. } = &mut self.data
            && !piece.is_empty()
        {
            out.push(SseItem::LongMore(Bytes::from(std::mem::take(piece))));
        }
    }

    #[inline(never)]
    fn dispatch(&mut self, out: &mut Vec<SseItem>) {
        self.hand_on(out);
        let id = self.id.take();
        let event = self.event.take();
        match (std::mem::replace(&mut self.data, Data::None), id) {
            (Data::Long { late_id, .. }, _) => {
                out.push(SseItem::LongEnd);
                out.extend(late_id.map(SseItem::Id));
            }
            (Data::None, Some(id)) => out.push(SseItem::Id(id)),
            (Data::Whole(data), Some(id)) if data.is_empty() => out.push(SseItem::Id(id)),
            (Data::Whole(mut data), id) => {
                // Room to grow is not held on to: who keeps events counts what they say.
                if data.capacity() > data.len() + data.len() / 2 {
                    data.shrink_to_fit();
                }
                out.push(SseItem::Event { id, event, data: data.into() });
            }
            (Data::None, None) => {}
        }
    }

    fn break_off(&mut self, why: String, out: &mut Vec<SseItem>) {
        self.hand_on(out);
        self.line = Line::Dead;
        self.data = Data::None;
        out.push(SseItem::Broken(why));
    }
}

impl Default for SseReader {
    fn default() -> Self {
        Self::new(WHOLE_EVENT)
    }
}

/// The field of a line, if it is known, and what is behind its colon.
#[inline]
fn begins(line: &[u8]) -> Option<(Field, &[u8])> {
    match line {
        [b'd', b'a', b't', b'a', b':', value @ ..] => Some((Field::Data, value)),
        [b'i', b'd', b':', value @ ..] => Some((Field::Id, value)),
        [b'e', b'v', b'e', b'n', b't', b':', value @ ..] => Some((Field::Event, value)),
        [b'r', b'e', b't', b'r', b'y', b':', value @ ..] => Some((Field::Retry, value)),
        _ => None,
    }
}

/// Whether a value of so many bytes has room for more; the stream is broken by an id or type that has none.
#[inline]
fn room(field: Field, len: usize, more: &[u8]) -> Result<bool, String> {
    let (name, most) = match field {
        Field::Data => return Ok(true),
        Field::Id => ("id", MAX_FIELD),
        Field::Event => ("event", MAX_FIELD),
        // Twenty digits hold every number of 64 bits; what is longer is no time.
        Field::Retry => return Ok(len + more.len() <= 20),
    };
    if len + more.len() > most {
        return Err(format!("an `{name}` line is longer than {most} bytes"));
    }
    Ok(true)
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[inline(always)]
fn lossy(value: &[u8]) -> String {
    // The type of nearly every event.
    if value == b"message" {
        return "message".to_owned();
    }
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(value).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(limit: usize, text: &[u8]) -> Vec<SseItem> {
        let mut out = Vec::new();
        let mut reader = SseReader::new(limit);
        reader.feed(text, &mut out);
        reader.finish(&mut out);
        out
    }

    fn read(text: &str) -> Vec<SseItem> {
        read_with(WHOLE_EVENT, text.as_bytes())
    }

    fn event(id: Option<&str>, event: Option<&str>, data: &str) -> SseItem {
        SseItem::Event {
            id: id.map(Into::into),
            event: event.map(Into::into),
            data: Bytes::copy_from_slice(data.as_bytes()),
        }
    }

    #[test]
    fn the_standards_own_examples_read_as_it_says() {
        assert_eq!(read("data: YHOO\ndata: +2\ndata: 10\n\n"), [event(None, None, "YHOO\n+2\n10")]);
        assert_eq!(
            read(
                ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"
            ),
            [SseItem::Comment, event(Some("1"), None, "first event"), event(Some(""), None, "second event")]
        );
        assert_eq!(read("data\n\ndata\ndata\n\ndata:"), [event(None, None, ""), event(None, None, "\n")]);
        assert_eq!(
            read("data:test\n\ndata: test\n\n"),
            [event(None, None, "test"), event(None, None, "test")]
        );
    }

    #[test]
    fn every_line_end_and_a_byte_order_mark_are_known() {
        for text in ["\u{feff}data: a\n\n", "data: a\r\n\r\n", "data: a\r\r", "\u{feff}\r\ndata: a\r\n\n"] {
            assert_eq!(read(text), [event(None, None, "a")], "{text:?}");
        }
        assert_eq!(read("x: 1\n\u{feff}data: a\n\n"), []);
        assert_eq!(read("\u{feff}\u{feff}data: a\n\n"), []);
        assert_eq!(read("\u{feff}:\n"), [SseItem::Comment]);
    }

    #[test]
    fn odd_fields_are_ignored() {
        assert_eq!(read("retry: 10\n"), [SseItem::Retry(10)]);
        assert_eq!(read("retry: 1x\nretry:\nretry: -1\nretry: 99999999999999999999999999\n"), []);
        assert_eq!(read("id: a\0b\ndata: x\n\n"), [event(None, None, "x")]);
        assert_eq!(read("Data: x\nfoo: y\ndatax: z\n\n"), []);
        assert_eq!(read("event: message\nid: 5\ndata: \n\n"), [SseItem::Id("5".into())]);
        assert_eq!(read("id: 6\n\n"), [SseItem::Id("6".into())]);
        assert_eq!(read("event: ping\n\ndata: x\n\n"), [event(None, None, "x")]);
    }

    #[test]
    fn a_long_event_is_handed_on_in_pieces() {
        let items = read_with(
            4,
            b"id: 7\nevent: message\ndata: abcdef\ndata: gh\nevent: message\nid: 8\n\ndata: x\n\n",
        );
        assert_eq!(
            items,
            [
                SseItem::LongBegin {
                    id: Some("7".into()),
                    event: Some("message".into()),
                    head: Bytes::from_static(b"abcdef")
                },
                SseItem::LongMore(Bytes::from_static(b"\ngh")),
                SseItem::LongEnd,
                SseItem::Id("8".into()),
                event(None, None, "x"),
            ]
        );
    }

    #[test]
    fn a_long_event_that_does_not_end_well_is_broken() {
        let items = read_with(4, b"data: abcdef");
        assert!(matches!(items.as_slice(), [SseItem::LongBegin { .. }, SseItem::Broken(_)]), "{items:?}");
        let mut voided = Vec::new();
        begin_event(&mut voided, None, None, b"abcdef");
        void_event(&mut voided);
        let items = read_with(4, &voided);
        assert!(matches!(items.as_slice(), [SseItem::LongBegin { .. }, SseItem::Broken(_)]), "{items:?}");
        assert_eq!(read_with(9, &voided), [event(None, Some(VOID_EVENT), "abcdef")]);
    }

    #[test]
    fn an_endless_id_breaks_the_stream_and_an_endless_comment_does_not() {
        let long = format!("id: {}\n\ndata: x\n\n", "a".repeat(MAX_FIELD + 1));
        assert!(matches!(read(&long).as_slice(), [SseItem::Broken(why)] if why.contains("8192")));
        let long = format!("id: {}\n\n", "a".repeat(MAX_FIELD));
        assert!(matches!(read(&long).as_slice(), [SseItem::Id(_)]));
        let long = format!(":{0}\n{0}: {0}\ndata: x\n\n", "a".repeat(MAX_FIELD * 2));
        assert_eq!(read(&long), [SseItem::Comment, event(None, None, "x")]);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        write_priming(&mut out, "p");
        write_event(&mut out, Some("1"), Some("message"), b" a\nb\r\nc");
        write_event(&mut out, Some("no\nid"), None, b"x");
        out.extend_from_slice(comment());
        out.extend_from_slice(&retry(3000));
        assert_eq!(
            read_with(WHOLE_EVENT, &out),
            [
                SseItem::Id("p".into()),
                event(Some("1"), Some("message"), " a\nb\nc"),
                event(None, None, "x"),
                SseItem::Comment,
                SseItem::Retry(3000),
            ]
        );
    }
}
