//! An answer as a stream of events that its client may leave and come back to.
//!
//! relatch numbers the events itself, so a client can resume even where the server can't. What has gone out is kept
//! within bounds; a client whose connection is gone has a while to come back by `Last-Event-ID` before it counts as
//! left. Event ids are of this process: after a restart they name nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use relatch_core::policy;
use relatch_wire::era::Revision;
use relatch_wire::request_id::RequestId;
use relatch_wire::sse;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::body::Aborted;
use crate::exchange::{Chunk, Final, Piece};
use crate::intake::{Asked, Heard};
use crate::{lock, words};

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
/// Streams of one latch that can be resumed at a time; beyond it the oldest can't be any more, those first whose answer
/// is out.
const STREAMS: usize = 32;
/// Requests of one latch that are remembered when their streams are gone, so that who comes back too late is told.
const REMEMBERED: usize = 64;
/// What all finished answers of a keeper may hold together while they are kept for a while, in bytes.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// How long a client that has lost its stream is asked to wait before it comes back, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// The way to a client's socket.
pub(crate) type Out = mpsc::Sender<Result<Bytes, Aborted>>;

/// The client's connection is gone.
pub(crate) struct Gone;

/// Sends bytes to a client.
pub(crate) async fn put(out: &Out, bytes: Bytes) -> Result<(), Gone> {
    out.send(Ok(bytes)).await.map_err(|_| Gone)
}

/// The streams of one latch that its client may come back to.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Streams whose answer is on its way, and those whose answer is out and kept for a while.
    running: BTreeMap<u64, mpsc::Sender<Return>>,
    finished: BTreeMap<u64, mpsc::Sender<Return>>,
    /// The requests of streams that are gone.
    gone: VecDeque<(u64, RequestId)>,
}

/// A client that comes back: the last event that it has, and where it reads now.
#[derive(Debug)]
pub(crate) struct Return {
    after: u64,
    out: Out,
}

impl Streams {
    /// Brings a client back to the stream that this event is of. The channel is given back where there is none.
    pub(crate) async fn resume(&self, event: EventId, out: Out) -> Result<(), Out> {
        let stream = {
            let known = lock(&self.known);
            known.running.get(&event.stream).or_else(|| known.finished.get(&event.stream)).cloned()
        };
        let Some(stream) = stream else { return Err(out) };
        stream.send(Return { after: event.number, out }).await.map_err(|refused| refused.0.out)
    }

    /// The request of a stream that is gone.
    pub(crate) fn gone(&self, number: u64) -> Option<RequestId> {
        let known = lock(&self.known);
        known.gone.iter().find(|(stream, _)| *stream == number).map(|(_, id)| id.clone())
    }

    fn enter(&self, number: u64) -> mpsc::Receiver<Return> {
        let (come, back) = mpsc::channel(1);
        let mut known = lock(&self.known);
        known.running.insert(number, come);
        // A running call needs its place more than one whose answer is out.
        if known.running.len() + known.finished.len() > STREAMS && known.finished.pop_first().is_none() {
            known.running.pop_first();
        }
        back
    }

    fn finishes(&self, number: u64) {
        let mut known = lock(&self.known);
        if let Some(come) = known.running.remove(&number) {
            known.finished.insert(number, come);
        }
    }

    fn leave(&self, number: u64, id: &RequestId) {
        let mut known = lock(&self.known);
        known.running.remove(&number);
        known.finished.remove(&number);
        known.gone.push_back((number, id.clone()));
        if known.gone.len() > REMEMBERED {
            known.gone.pop_front();
        }
    }
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
        // A string takes whatever is written to it.
        let _ = write!(text, "{keeper}{}-{}", self.stream, self.number);
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
        stream.answer(rest).await;
        let until = stream.finish();
        stream.linger(until).await;
    }
}

/// The same for an answer that is there: its events go into the channel at once, and what is left is to keep them.
pub(crate) async fn whole(asked: Asked, answer: Final, out: Out) -> impl Future<Output = ()> {
    let mut stream = Stream::begin(asked, out);
    stream.answer([Piece::Final(answer)].into()).await;
    let until = stream.finish();
    stream.linger(until)
}

/// What finished answers hold now, all together.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Room among them, for as long as it is held.
struct Room(usize);

impl Room {
    fn take(bytes: usize) -> Option<Room> {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= LINGER_BYTES);
        LINGERING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok().map(|_| Room(bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        LINGERING.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Whether somebody reads.
enum Reader {
    There(Out),
    /// Not since then.
    Away(Instant),
}

struct Stream {
    keeper: Arc<str>,
    /// The priming event is out, or the revision has none.
    primed: bool,
    resumable: bool,
    asked: Asked,
    /// The last id given, and how it is written down.
    id: EventId,
    name: String,
    reader: Reader,
    /// Framed and not sent yet: where the events are in it that are to be kept, and the room that they take.
    framed: BytesMut,
    events: Vec<(u64, Range<usize>)>,
    rooms: Option<OwnedSemaphorePermit>,
    tail: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Some of the tail has been dropped, and may have been in one piece with what is left.
    shortened: bool,
    /// The answer went by without being kept.
    too_long: bool,
    back: mpsc::Receiver<Return>,
    /// What it holds among the finished ones.
    room: Option<Room>,
    /// Where it can be found; without that, what is kept open so that nobody ever comes back by it.
    streams: Result<Arc<Streams>, mpsc::Sender<Return>>,
}

enum Next {
    Piece(Option<Piece>),
    Held(Bytes),
    Back(Option<Return>),
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
        let number = asked.number();
        let (streams, back) = match asked.streams() {
            Some(streams) => {
                let back = streams.enter(number);
                (Ok(streams), back)
            }
            None => {
                let (never, back) = mpsc::channel(1);
                (Err(never), back)
            }
        };
        Stream {
            keeper: asked.event_prefix(),
            primed: asked.revision().is_none_or(|revision| revision < Revision::V2025_11_25),
            resumable: streams.is_ok(),
            asked,
            id: EventId { stream: number, number: 0 },
            name: String::new(),
            reader: Reader::There(out),
            framed: BytesMut::new(),
            events: Vec::new(),
            rooms: None,
            tail: VecDeque::new(),
            bytes: 0,
            shortened: false,
            too_long: false,
            back,
            room: None,
            streams,
        }
    }

    /// Sends the events that are there without waiting, which only the first piece of a body can; what is left is given
    /// back.
    fn ahead(&mut self, mut first: VecDeque<Piece>) -> VecDeque<Piece> {
        while self.framed.len() < AT_ONCE
            && let Some(piece) = first.pop_front().or_else(|| self.asked.ready())
        {
            match piece {
                Piece::Begun => self.prime(),
                Piece::Event(text, room) => self.event_in(&text, room),
                Piece::Early | Piece::Long { .. } | Piece::Final(_) => {
                    first.push_front(piece);
                    break;
                }
            }
        }
        if let Some(framed) = self.take_framed()
            && let Reader::There(out) = &self.reader
            && out.try_send(Ok(framed)).is_err()
        {
            self.reader = Reader::Away(Instant::now());
        }
        self.rooms = None;
        first
    }

    async fn answer(&mut self, mut first: VecDeque<Piece>) {
        let mut comments = interval_at(Instant::now() + COMMENT, COMMENT);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ready = match &self.reader {
                Reader::There(_) => first.pop_front().or_else(|| self.asked.ready()),
                Reader::Away(_) => first.pop_front(),
            };
            if ready.is_none() || self.framed.len() >= AT_ONCE {
                self.flush().await;
            }
            // A client that never had an id can't come back: it has left, which dropping `asked` reports.
            if matches!(self.reader, Reader::Away(_)) && (self.id.number == 0 || !self.resumable) {
                return;
            }
            let next = match (ready, &self.reader) {
                (Some(piece), _) => Next::Piece(Some(piece)),
                (None, Reader::There(out)) => tokio::select! {
                    biased;
                    heard = self.asked.hear() => Next::of(heard),
                    Some(back) = self.back.recv() => Next::Back(Some(back)),
                    _ = comments.tick() => Next::Comment,
                    () = out.closed() => Next::Gone,
                },
                (None, Reader::Away(since)) => tokio::select! {
                    biased;
                    Some(back) = self.back.recv() => Next::Back(Some(back)),
                    heard = self.asked.hear() => Next::of(heard),
                    () = sleep_until(*since + COME_BACK) => Next::Over,
                },
            };
            match next {
                Next::Piece(Some(Piece::Begun)) => self.prime(),
                Next::Piece(Some(Piece::Early)) | Next::Comment => {
                    self.framed.extend_from_slice(sse::comment());
                }
                // Without an id: a client that leaves a held call has left.
                Next::Held(words) => sse::write_event(&mut self.framed, None, None, &words),
                Next::Piece(Some(Piece::Event(text, room))) => self.event_in(&text, room),
                Next::Piece(Some(Piece::Long { chunks, .. })) => {
                    self.flush().await;
                    self.long(chunks).await;
                }
                Next::Piece(Some(Piece::Final(last))) => {
                    match last {
                        Final::Message { text, .. } => self.event(&text),
                        Final::Challenge(challenge) => self.event(&challenge.instead),
                        Final::Whole => {}
                    }
                    return self.flush().await;
                }
                Next::Piece(None) => {
                    let text = words::session_ended(self.asked.upstream(), &self.asked.id);
                    self.event(&text);
                    return self.flush().await;
                }
                Next::Back(Some(back)) => self.welcome(back).await,
                Next::Gone => self.reader = Reader::Away(Instant::now()),
                Next::Back(None) | Next::Over => return,
            }
        }
    }

    /// The answer is out, or found nobody: then it is kept for a while. What was written is kept too, since nobody knows
    /// whether it arrived; a client that comes back for it would wait for ever.
    async fn linger(mut self, until: Option<Instant>) {
        while let Some(until) = until {
            tokio::select! {
                back = self.back.recv() => match back {
                    Some(back) => self.welcome(back).await,
                    // Others have taken its place.
                    None => break,
                },
                () = sleep_until(until) => break,
            }
            self.reader = Reader::Away(Instant::now());
        }
        if let Ok(streams) = &self.streams {
            streams.leave(self.id.stream, &self.asked.id);
        }
    }

    /// The client's body ends here; until when what is out is kept, if it is.
    fn finish(&mut self) -> Option<Instant> {
        self.asked.let_go();
        if let Ok(streams) = &self.streams {
            streams.finishes(self.id.stream);
        }
        let written = matches!(self.reader, Reader::There(_));
        self.reader = Reader::Away(Instant::now());
        if !self.resumable || (self.tail.is_empty() && !self.too_long) {
            return None;
        }
        let room = Room::take(self.bytes);
        if written && (self.too_long || self.bytes > TAIL_BYTES || room.is_none()) {
            self.tail.clear();
            self.bytes = 0;
            let text = words::not_kept(self.asked.upstream(), &self.asked.id);
            let mut framed = BytesMut::new();
            self.next_id();
            sse::write_event(&mut framed, Some(&self.name), None, &text);
            self.keep(self.id.number, framed.freeze());
        } else if self.shortened {
            self.compact();
        }
        self.room = room;
        Some(Instant::now() + if written { LINGER_WRITTEN } else { LINGER })
    }

    async fn send(&mut self, bytes: Bytes) {
        if let Reader::There(out) = &self.reader
            && self.asked.meanwhile(put(out, bytes)).await.is_err()
        {
            self.reader = Reader::Away(Instant::now());
        }
    }

    /// Sends what is framed.
    async fn flush(&mut self) {
        if let Some(framed) = self.take_framed() {
            self.send(framed).await;
        }
        self.rooms = None;
    }

    /// Takes what is framed, its events kept.
    fn take_framed(&mut self) -> Option<Bytes> {
        let framed = self.framed.split().freeze();
        for (number, at) in std::mem::take(&mut self.events) {
            self.keep(number, framed.slice(at));
        }
        (!framed.is_empty()).then_some(framed)
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

    /// An event that takes room until it is sent.
    fn event_in(&mut self, text: &[u8], room: OwnedSemaphorePermit) {
        self.event(text);
        match &mut self.rooms {
            Some(rooms) => rooms.merge(room),
            None => self.rooms = Some(room),
        }
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

    fn keep(&mut self, number: u64, event: Bytes) {
        self.bytes += event.len();
        self.tail.push_back((number, event));
        while self.tail.len() > 1 && (self.tail.len() > TAIL_EVENTS || self.bytes > TAIL_BYTES) {
            if let Some((_, old)) = self.tail.pop_front() {
                self.bytes -= old.len();
                self.shortened = true;
            }
        }
    }

    /// Copies what is kept, so that it holds on to nothing that has been dropped.
    fn compact(&mut self) {
        let mut all = BytesMut::with_capacity(self.bytes);
        for (_, event) in &self.tail {
            all.extend_from_slice(event);
        }
        let mut all = all.freeze();
        for (_, event) in &mut self.tail {
            *event = all.split_to(event.len());
        }
    }

    /// A client is back: it gets what it has missed, and from now on what comes.
    async fn welcome(&mut self, back: Return) {
        self.reader = Reader::There(back.out);
        let missed: Vec<Bytes> = self
            .tail
            .iter()
            .filter(|(number, _)| *number > back.after)
            .map(|(_, event)| event.clone())
            .collect();
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
                    self.too_long = true;
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
            self.event(&text);
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
