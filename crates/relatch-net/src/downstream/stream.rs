//! An answer as a stream of events that its client may leave and come back to.
//!
//! relatch numbers the events itself, so a client can resume even where the server can't. What has gone out is kept
//! within bounds; a client whose connection is gone has a while to come back by `Last-Event-ID` before it counts as
//! left. Event ids are of this process: after a restart they name nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use relatch_core::policy;
use relatch_wire::era::Revision;
use relatch_wire::sse;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::body::{Aborted, Part};
use super::streams::{Kept, Return, Room, Streams};
use crate::exchange::{Chunk, Final, Piece};
use crate::intake::{Asked, Heard};
use crate::words;

/// A comment keeps a silent stream alive this often.
pub(crate) const COMMENT: Duration = Duration::from_secs(15);
/// Pieces of a body that may wait for the socket.
pub(crate) const AHEAD: usize = 2;
/// Events that are there go out together, as one piece of about this size: each piece is a hop, and a write.
const AT_ONCE: usize = 32 * 1024;
/// A client that lost its connection in the middle of a call may come back for so long.
const COME_BACK: Duration = Duration::from_millis(policy::ATTACHED_MS);
/// An answer that found no client is kept for so long.
const LINGER: Duration = Duration::from_secs(60);
/// And one that was written to a client's connection for so long: it may have been on its way when that broke.
const LINGER_WRITTEN: Duration = Duration::from_secs(10);
/// What is kept of one stream, in bytes and events; the newest event stays whatever its size.
const TAIL_BYTES: usize = 256 * 1024;
const TAIL_EVENTS: usize = 256;
/// How long a client that has lost its stream is asked to wait before it comes back, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The way to a client's socket.
pub(crate) type Out = mpsc::Sender<Result<Part, Aborted>>;

/// The client's connection is gone.
pub(crate) struct Gone;

/// Sends bytes to a client.
pub(crate) async fn put(out: &Out, bytes: Bytes) -> Result<(), Gone> {
    out.send(Ok(Part::Bytes(bytes))).await.map_err(|_| Gone)
}

/// The name of one event: which stream, and which event of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) stream: u64,
    pub(crate) number: u64,
}

impl EventId {
    /// As it is written down; `keeper` sets one process's ids apart from another's.
    pub(crate) fn text(self, keeper: &str) -> String {
        let mut text = String::with_capacity(keeper.len() + 24);
        self.write(keeper, &mut text);
        text
    }

    /// The same, in place of what is there.
    fn write(self, keeper: &str, text: &mut String) {
        text.clear();
        text.push_str(keeper);
        text.push_str(itoa::Buffer::new().format(self.stream));
        text.push('-');
        text.push_str(itoa::Buffer::new().format(self.number));
    }

    /// Reads an id that this process gave out.
    pub(crate) fn read(text: &str, keeper: &str) -> Option<EventId> {
        let (stream, number) = text.strip_prefix(keeper)?.split_once('-')?;
        Some(EventId { stream: stream.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Streams an answer to whoever reads it, from its first piece to its last. What is there by now is in the channel when
/// this returns, so that it goes out with the head of the answer; the rest is what is given back.
pub(crate) fn run(asked: Asked, first: VecDeque<Piece>, out: Out) -> impl Future<Output = ()> {
    let mut stream = Stream::begin(asked, out);
    let rest = stream.ahead(first);
    async move {
        let answered = stream.answer(rest).await;
        stream.finish(answered);
    }
}

/// The same for an answer that is there: all that is to be written.
pub(crate) fn whole(asked: &Asked, text: &[u8]) -> Bytes {
    let (streams, revision) = asked.streams();
    let mut pen = Pen::new(asked, revision, streams.is_some());
    let mut tail = Tail::default();
    pen.event(text);
    let framed = pen.take(&mut tail);
    if let Some(streams) = streams {
        streams.keep(pen.id.stream, &asked.id, tail.kept(&mut pen, asked, true));
    }
    framed
}

/// Whether somebody reads.
enum Reader {
    There(Out),
    /// Not since then.
    Away(Instant),
}

/// Writes events down, each under an id of its own where the client may come back for it.
struct Pen {
    keeper: Arc<str>,
    /// The priming event is out, or the revision has none.
    primed: bool,
    resumable: bool,
    /// The last id given, and how it is written down.
    id: EventId,
    name: String,
    /// What is written, and where the events are in it that are to be kept.
    framed: BytesMut,
    events: Vec<(u64, Range<usize>)>,
}

impl Pen {
    fn new(asked: &Asked, revision: Option<Revision>, resumable: bool) -> Pen {
        Pen {
            keeper: asked.event_prefix(),
            primed: revision.is_none_or(|revision| revision < Revision::V2025_11_25),
            resumable,
            id: EventId { stream: asked.number(), number: 0 },
            name: String::new(),
            framed: BytesMut::new(),
            events: Vec::new(),
        }
    }

    /// The first event has an id and says nothing, so that even a stream without any other can be resumed.
    fn prime(&mut self) {
        if std::mem::replace(&mut self.primed, true) || !self.resumable {
            return;
        }
        self.next_id();
        self.framed.extend_from_slice(&sse::retry(RETRY_MS));
        sse::write_priming(&mut self.framed, &self.name);
    }

    fn event(&mut self, text: &[u8]) {
        self.framed.reserve(text.len() + 192);
        self.prime();
        if self.resumable {
            self.next_id();
        }
        let id = self.resumable.then_some(self.name.as_str());
        let own = self.framed.len();
        sse::write_event(&mut self.framed, id, None, text);
        if self.resumable {
            self.events.push((self.id.number, own..self.framed.len()));
        }
    }

    fn next_id(&mut self) {
        self.id.number += 1;
        self.id.write(&self.keeper, &mut self.name);
    }

    /// Takes what is written, its events kept.
    fn take(&mut self, tail: &mut Tail) -> Bytes {
        let framed = self.framed.split().freeze();
        for (number, at) in self.events.drain(..) {
            tail.push(number, framed.slice(at));
        }
        framed
    }
}

/// What has gone out, as far as it is kept.
#[derive(Default)]
struct Tail {
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Some of it has been dropped, and may have been in one piece with what is left.
    shortened: bool,
    /// The answer went by without being kept.
    too_long: bool,
}

impl Tail {
    fn push(&mut self, number: u64, event: Bytes) {
        self.bytes += event.len();
        self.events.push_back((number, event));
        while self.events.len() > 1 && (self.events.len() > TAIL_EVENTS || self.bytes > TAIL_BYTES) {
            if let Some((_, old)) = self.events.pop_front() {
                self.bytes -= old.len();
                self.shortened = true;
            }
        }
    }

    /// What the client missed after this event.
    fn after(&self, number: u64) -> impl Iterator<Item = Bytes> {
        self.events.iter().filter(move |(event, _)| *event > number).map(|(_, event)| event.clone())
    }

    /// What stays of it when the answer is out, or found nobody. What was written stays too, since nobody knows whether it
    /// arrived; a client that comes back for it would wait for ever.
    fn kept(mut self, pen: &mut Pen, asked: &Asked, written: bool) -> Option<Kept> {
        if self.events.is_empty() && !self.too_long {
            return None;
        }
        let mut room = Room::take(self.bytes);
        if room.is_none() || (written && (self.too_long || self.bytes > TAIL_BYTES)) {
            room = None;
            let text = words::not_kept(asked.upstream(), &asked.id);
            let mut framed = BytesMut::new();
            pen.next_id();
            sse::write_event(&mut framed, Some(&pen.name), None, &text);
            self.events = [(pen.id.number, framed.freeze())].into();
        } else if self.shortened {
            self.compact();
        }
        Some(Kept { events: self.events, span: if written { LINGER_WRITTEN } else { LINGER }, _room: room })
    }

    /// Copies what is kept, so that it holds on to nothing that has been dropped.
    fn compact(&mut self) {
        let mut all = BytesMut::with_capacity(self.bytes);
        for (_, event) in &self.events {
            all.extend_from_slice(event);
        }
        let mut all = all.freeze();
        for (_, event) in &mut self.events {
            *event = all.split_to(event.len());
        }
    }
}

struct Stream {
    asked: Asked,
    pen: Pen,
    reader: Reader,
    /// The room that what is written and not sent yet takes.
    rooms: Option<OwnedSemaphorePermit>,
    tail: Tail,
    back: mpsc::Receiver<Return>,
    /// Where it can be found; without that, what is kept open so that nobody ever comes back by it.
    streams: Result<Arc<Streams>, mpsc::Sender<Return>>,
}

enum Next {
    Piece(Option<Piece>),
    Held(Bytes),
    Back(Return),
    Comment,
    Gone,
    Over,
}

impl Next {
    fn of(heard: Heard) -> Next {
        match heard {
            Heard::Piece(piece) => Next::Piece(piece),
            Heard::StillHeld(words) => Next::Held(words),
        }
    }
}

impl Stream {
    fn begin(asked: Asked, out: Out) -> Stream {
        let (streams, revision) = asked.streams();
        let pen = Pen::new(&asked, revision, streams.is_some());
        let (streams, back) = match streams {
            Some(streams) => {
                let back = streams.enter(pen.id.stream);
                (Ok(streams), back)
            }
            None => {
                let (never, back) = mpsc::channel(1);
                (Err(never), back)
            }
        };
        Stream { asked, pen, reader: Reader::There(out), rooms: None, tail: Tail::default(), back, streams }
    }

    /// Sends the events that are there without waiting, which only the first piece of a body can; what is left is given
    /// back.
    fn ahead(&mut self, mut first: VecDeque<Piece>) -> VecDeque<Piece> {
        while self.pen.framed.len() < AT_ONCE
            && let Some(piece) = first.pop_front().or_else(|| self.asked.ready())
        {
            match piece {
                Piece::Begun => self.pen.prime(),
                Piece::Event(text, room) => self.event_in(&text, room),
                Piece::Early | Piece::Long { .. } | Piece::Final(_) => {
                    first.push_front(piece);
                    break;
                }
            }
        }
        let framed = self.pen.take(&mut self.tail);
        if !framed.is_empty()
            && let Reader::There(out) = &self.reader
            && out.try_send(Ok(Part::Bytes(framed))).is_err()
        {
            self.reader = Reader::Away(Instant::now());
        }
        self.rooms = None;
        first
    }

    /// Whether the answer is out; otherwise its client counts as left.
    async fn answer(&mut self, mut first: VecDeque<Piece>) -> bool {
        let mut comments = interval_at(Instant::now() + COMMENT, COMMENT);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ready = match &self.reader {
                Reader::There(_) => first.pop_front().or_else(|| self.asked.ready()),
                Reader::Away(_) => first.pop_front(),
            };
            if ready.is_none() || self.pen.framed.len() >= AT_ONCE {
                self.flush().await;
            }
            // A client that never had an id can't come back: it has left, which dropping `asked` reports.
            let nameless = self.pen.id.number == 0 || !self.pen.resumable;
            if matches!(self.reader, Reader::Away(_)) && nameless {
                return false;
            }
            let next = match (ready, &self.reader) {
                (Some(piece), _) => Next::Piece(Some(piece)),
                (None, Reader::There(out)) => tokio::select! {
                    biased;
                    heard = self.asked.hear() => Next::of(heard),
                    Some(back) = self.back.recv() => Next::Back(back),
                    _ = comments.tick() => Next::Comment,
                    () = out.closed() => Next::Gone,
                },
                (None, Reader::Away(since)) => tokio::select! {
                    biased;
                    Some(back) = self.back.recv() => Next::Back(back),
                    heard = self.asked.hear() => Next::of(heard),
                    () = sleep_until(*since + COME_BACK) => Next::Over,
                },
            };
            match next {
                Next::Piece(Some(Piece::Begun)) => self.pen.prime(),
                Next::Piece(Some(Piece::Early)) | Next::Comment => {
                    self.pen.framed.extend_from_slice(sse::comment());
                }
                // Without an id: a client that leaves a held call has left.
                Next::Held(words) => sse::write_event(&mut self.pen.framed, None, None, &words),
                Next::Piece(Some(Piece::Event(text, room))) => self.event_in(&text, room),
                Next::Piece(Some(Piece::Long { chunks, .. })) => {
                    self.flush().await;
                    self.long(chunks).await;
                }
                Next::Piece(Some(Piece::Final(last))) => {
                    match last {
                        Final::Message { text, .. } => self.pen.event(&text),
                        Final::Challenge(challenge) => self.pen.event(&challenge.instead),
                        Final::Whole => {}
                    }
                    self.flush().await;
                    return true;
                }
                Next::Piece(None) => {
                    let text = words::session_ended(self.asked.upstream(), &self.asked.id);
                    self.pen.event(&text);
                    self.flush().await;
                    return true;
                }
                Next::Back(back) => self.welcome(back).await,
                Next::Gone => self.reader = Reader::Away(Instant::now()),
                Next::Over => return false,
            }
        }
    }

    /// The client's body ends here, and an answer that is out is kept for a while.
    fn finish(mut self, answered: bool) {
        self.asked.let_go();
        let Ok(streams) = &self.streams else { return };
        let written = matches!(self.reader, Reader::There(_));
        let tail = std::mem::take(&mut self.tail);
        let kept = answered.then(|| tail.kept(&mut self.pen, &self.asked, written)).flatten();
        streams.finishes(self.pen.id.stream, &self.asked.id, kept);
        // Who came back just now finds it there, or hears that it is not.
        self.back.close();
        while let Ok(Return { after, out }) = self.back.try_recv() {
            let last = EventId { stream: self.pen.id.stream, number: after };
            let (streams, words) = (Arc::clone(streams), self.not_kept());
            tokio::spawn(async move {
                if let Err(out) = streams.resume(last, out).await {
                    drop(put(&out, words).await);
                }
            });
        }
    }

    /// What a client is told that comes back for an answer that is gone.
    fn not_kept(&self) -> Bytes {
        let mut framed = BytesMut::new();
        let text = words::not_kept(self.asked.upstream(), &self.asked.id);
        sse::write_event(&mut framed, None, None, &text);
        framed.freeze()
    }

    async fn send(&mut self, bytes: Bytes) {
        if let Reader::There(out) = &self.reader
            && self.asked.meanwhile(put(out, bytes)).await.is_err()
        {
            self.reader = Reader::Away(Instant::now());
        }
    }

    /// Sends what is written.
    async fn flush(&mut self) {
        let framed = self.pen.take(&mut self.tail);
        if !framed.is_empty() {
            self.send(framed).await;
        }
        self.rooms = None;
    }

    /// An event that takes room until it is sent.
    fn event_in(&mut self, text: &[u8], room: OwnedSemaphorePermit) {
        self.pen.event(text);
        match &mut self.rooms {
            Some(rooms) => rooms.merge(room),
            None => self.rooms = Some(room),
        }
    }

    /// A client is back: it gets what it has missed, and from now on what comes.
    async fn welcome(&mut self, back: Return) {
        self.reader = Reader::There(back.out);
        let missed: Vec<Bytes> = self.tail.after(back.after).collect();
        for event in missed {
            self.send(event).await;
        }
    }

    /// A long answer as an event; one that breaks is voided, and an error follows as the next piece. It is too long to
    /// be kept: a client that comes back after it is told so.
    async fn long(&mut self, mut chunks: mpsc::Receiver<Chunk>) {
        let mut framed = BytesMut::new();
        sse::begin_event(&mut framed, None, None, b"");
        let mut after_cr = false;
        // The beginning of a character whose rest is to come.
        let mut half = Bytes::new();
        loop {
            match self.asked.chunk(&mut chunks).await {
                Some(Chunk::Bytes(bytes)) => {
                    let mut bytes = match half.is_empty() {
                        true => bytes,
                        false => [&half[..], &bytes[..]].concat().into(),
                    };
                    half = bytes.split_off(sse::whole_characters(&bytes));
                    // A line break of two bytes may be cut in two.
                    let cut = after_cr && bytes.starts_with(b"\n");
                    after_cr = bytes.ends_with(b"\r");
                    sse::continue_event(&mut framed, bytes.get(usize::from(cut)..).unwrap_or_default());
                    self.send(framed.split().freeze()).await;
                }
                Some(Chunk::End) => {
                    self.tail.too_long = true;
                    sse::continue_event(&mut framed, &half);
                    sse::end_event(&mut framed);
                    self.send(framed.freeze()).await;
                    break;
                }
                None => {
                    sse::void_event(&mut framed);
                    self.send(framed.freeze()).await;
                    return;
                }
            }
        }
        if matches!(self.reader, Reader::Away(_)) {
            let text = words::not_kept(self.asked.upstream(), &self.asked.id);
            self.pen.event(&text);
            self.flush().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_read_back_by_the_keeper_that_gave_it_out_and_by_no_other() {
        let id = EventId { stream: 7, number: 12 };
        let text = id.text("ab.");
        assert_eq!(EventId::read(&text, "ab."), Some(id));
        assert_eq!(EventId::read(&text, "cd."), None);
        for odd in ["", "ab.", "ab.7", "ab.x-1", "ab.7-", "ab.99999999999999999999-1"] {
            assert_eq!(EventId::read(odd, "ab."), None, "{odd}");
        }
    }
}
