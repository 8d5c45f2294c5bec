//! The way of an answer to the client that asked: pieces in their order, with back-pressure counted in bytes.
//!
//! An attempt puts pieces in, a front (HTTP or stdio) takes them out and writes them down in its own way. Decides
//! nothing; whose pieces flow is said by the core.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::lock;
use crate::quiet::Quiet;

/// How many bytes of events may wait for one exchange's client before its attempt is read no further.
const EVENT_ROOM: usize = 1024 * 1024;

/// How many chunks of a long answer may wait for the client.
const LONG_ROOM: usize = 4;

/// One step of an answer.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The client is to hear something now, although there is nothing to tell.
    Early,
    /// The upstream has begun a stream of events.
    Begun,
    /// A message that belongs to the exchange and comes before its answer.
    Event(Bytes, OwnedSemaphorePermit),
    /// The answer, too long to be whole here. A `Final` follows it.
    Long {
        /// Whether it came as an event.
        sse: bool,
        /// Its bytes.
        chunks: mpsc::Receiver<Chunk>,
    },
    /// The end.
    Final(Final),
}

/// A part of a long answer. Only [`Chunk::End`] says that it is whole: a channel that just ends has broken off.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// The next bytes.
    Bytes(Bytes),
    /// There is no more: the answer is whole.
    End,
}

/// How an answer came from its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As a JSON body.
    Json,
    /// As an event.
    Event,
    /// As an event of a stream that the server numbers, so that it can be resumed.
    Numbered,
}

/// An attempt that is driven by the front that waits for it, until that front has something else to do: as a task of
/// its own it would cost a hop at either end.
pub(crate) struct Running {
    /// Never locked: it makes the whole `Sync`.
    work: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
    halt: Arc<Halt>,
}

/// Whether work that is driven by a front is to end. Whoever drives it is woken by that alone: most work ends by itself.
#[derive(Debug, Default)]
pub(crate) struct Halt {
    told: AtomicBool,
    driver: Mutex<Option<Waker>>,
}

impl Halt {
    fn tell(&self) {
        self.told.store(true, Ordering::SeqCst);
        let driver = lock(&self.driver).take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn is_told(&self, cx: &Context<'_>) -> bool {
        set(&mut lock(&self.driver), cx);
        self.told.load(Ordering::SeqCst)
    }
}

/// Who looks now is woken from now on.
fn set(waker: &mut Option<Waker>, cx: &Context<'_>) {
    if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
    }
}

/// More than this of one connection go on by themselves: each is looked at whenever the connection is.
const RESTS: usize = 8;

/// Attempts whose answers have gone on and which still read to their ends. A client's connection drives them along: as
/// tasks of their own they would wake a second thread at the end of nearly every call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rests(Arc<Mutex<Vec<Running>>>);

impl Rests {
    /// One more, from the work that drove it so far and drives these.
    pub(crate) fn take(&self, running: Running) {
        let mut rests = lock(&self.0);
        if rests.len() < RESTS {
            rests.push(running);
        } else {
            running.apart();
        }
    }

    /// Drives them on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) {
        lock(&self.0).retain_mut(|running| Pin::new(running).poll(cx).is_pending());
    }

    /// From now on they go on by themselves.
    pub(crate) fn apart(&self) {
        for running in std::mem::take(&mut *lock(&self.0)) {
            running.apart();
        }
    }
}

/// How to end an attempt in the middle.
#[derive(Debug)]
pub(crate) enum Stop {
    /// One that is a task.
    Task(AbortHandle),
    /// One that its front drives, or drove.
    Front(Arc<Halt>),
}

impl Running {
    /// This work, and how to end it. Boxed by who made it, where it is: it is large, and would be copied on its way here.
    pub(crate) fn new(work: Pin<Box<dyn Future<Output = ()> + Send>>) -> (Running, Stop) {
        let halt = Arc::new(Halt::default());
        let stop = Stop::Front(Arc::clone(&halt));
        (Running { work: Mutex::new(work), halt }, stop)
    }

    /// Goes on without its front.
    pub(crate) fn apart(self) {
        // At the end of the process there is nothing left to go on with.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(Quiet::new(self));
        }
    }
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Running { work, halt } = self.get_mut();
        if halt.is_told(cx) {
            return Poll::Ready(());
        }
        work.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Stop {
    /// Ends it.
    pub(crate) fn now(self) {
        match self {
            Stop::Task(task) => task.abort(),
            // What has ended by itself does not listen any more.
            Stop::Front(halt) => halt.tell(),
        }
    }
}

/// How an exchange ends.
#[derive(Debug)]
pub(crate) enum Final {
    /// With a whole JSON-RPC message.
    Message {
        /// The message.
        text: Bytes,
        /// How it came.
        shape: Shape,
    },
    /// With the long answer that went before.
    Whole,
    /// With the upstream's own refusal of the client's credentials.
    Challenge(Box<Challenge>),
}

/// An upstream's refusal of the client's credentials.
#[derive(Debug)]
pub(crate) struct Challenge {
    /// 401 or 403.
    pub(crate) status: StatusCode,
    /// What of its headers goes back.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
    /// The error that says the same where no status can be given any more.
    pub(crate) instead: Bytes,
}

/// The end into which an exchange's pieces are put. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Sink {
    way: Arc<Way>,
    /// Whether the client takes messages before the answer here.
    pub(crate) takes_events: bool,
}

/// The end from which a front takes an exchange's pieces.
#[derive(Debug)]
pub(crate) struct Pieces(Arc<Way>);

/// What lies between the two. Nearly every exchange has one piece, its answer, so there is room for one, and whatever
/// else may be needed is made when it is.
#[derive(Debug, Default)]
struct Way(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    first: Option<Piece>,
    /// Those behind the first.
    others: VecDeque<Piece>,
    front: Option<Waker>,
    sinks: usize,
    /// The front has left.
    left: bool,
    room: Option<Arc<Semaphore>>,
}

impl Waiting {
    fn next(&mut self) -> Option<Piece> {
        let piece = self.first.take()?;
        self.first = self.others.pop_front();
        Some(piece)
    }
}

impl Sink {
    /// Both ends. What waits between them is bounded by [`EVENT_ROOM`] and by there being one final piece.
    pub(crate) fn open(takes_events: bool) -> (Sink, Pieces) {
        let way = Arc::new(Way::default());
        lock(&way.0).sinks = 1;
        (Sink { way: Arc::clone(&way), takes_events }, Pieces(way))
    }

    /// Puts a piece in at once; it is let go when the client has left.
    pub(crate) fn put(&self, piece: Piece) {
        let mut waiting = lock(&self.way.0);
        if waiting.left {
            // A front that is gone has said so itself.
            return;
        }
        match waiting.first {
            None => waiting.first = Some(piece),
            Some(_) => waiting.others.push_back(piece),
        }
        let front = waiting.front.take();
        drop(waiting);
        if let Some(front) = front {
            front.wake();
        }
    }

    /// Puts an event in as soon as there is room for it.
    pub(crate) async fn event(&self, message: Bytes) {
        if self.event_now(&message) {
            return;
        }
        if let Ok(permit) = self.room().acquire_many_owned(size_of(&message)).await {
            self.put(Piece::Event(message, permit));
        }
    }

    /// Puts an event in if there is room for it now.
    pub(crate) fn event_now(&self, message: &Bytes) -> bool {
        match self.room().try_acquire_many_owned(size_of(message)) {
            Ok(permit) => {
                self.put(Piece::Event(message.clone(), permit));
                !lock(&self.way.0).left
            }
            Err(_) => false,
        }
    }

    /// Begins a long answer.
    pub(crate) fn long(&self, sse: bool) -> mpsc::Sender<Chunk> {
        let (chunks, taken) = mpsc::channel(LONG_ROOM);
        self.put(Piece::Long { sse, chunks: taken });
        chunks
    }

    fn room(&self) -> Arc<Semaphore> {
        let mut waiting = lock(&self.way.0);
        Arc::clone(waiting.room.get_or_insert_with(|| Arc::new(Semaphore::new(EVENT_ROOM))))
    }
}

/// How much of the room an event takes.
fn size_of(message: &Bytes) -> u32 {
    u32::try_from(message.len().clamp(1, EVENT_ROOM)).unwrap_or(u32::MAX)
}

impl Clone for Sink {
    fn clone(&self) -> Sink {
        lock(&self.way.0).sinks += 1;
        Sink { way: Arc::clone(&self.way), takes_events: self.takes_events }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let mut waiting = lock(&self.way.0);
        waiting.sinks -= 1;
        let front = if waiting.sinks == 0 { waiting.front.take() } else { None };
        drop(waiting);
        if let Some(front) = front {
            front.wake();
        }
    }
}

impl Pieces {
    /// The next piece; none when no more can come.
    pub(crate) async fn recv(&mut self) -> Option<Piece> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next piece, if it is there already.
    pub(crate) fn ready(&mut self) -> Option<Piece> {
        lock(&self.0.0).next()
    }

    /// The same as a step of something else.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        let mut waiting = lock(&self.0.0);
        if let Some(piece) = waiting.next() {
            return Poll::Ready(Some(piece));
        }
        if waiting.sinks == 0 {
            return Poll::Ready(None);
        }
        set(&mut waiting.front, cx);
        Poll::Pending
    }

    /// The next piece, after what may bring it was driven on by whoever asks: a piece of its own wakes nobody.
    pub(crate) fn poll_driven(
        &mut self,
        cx: &mut Context<'_>,
        drive: impl FnOnce(&mut Context<'_>),
    ) -> Poll<Option<Piece>> {
        lock(&self.0.0).front = None;
        drive(cx);
        self.poll_recv(cx)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0.0);
        waiting.left = true;
        // What they hold may itself wait for a lock.
        let unread = (waiting.first.take(), std::mem::take(&mut waiting.others));
        drop(waiting);
        drop(unread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pieces: &mut Pieces) -> Poll<Option<Piece>> {
        pieces.poll_recv(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn pieces_come_in_their_order_and_end_with_the_last_sink() {
        let (sink, mut pieces) = Sink::open(true);
        assert!(next(&mut pieces).is_pending());
        let other = sink.clone();
        sink.put(Piece::Early);
        other.put(Piece::Begun);
        assert!(sink.event_now(&Bytes::from_static(b"1")));
        drop(sink);
        assert!(matches!(next(&mut pieces), Poll::Ready(Some(Piece::Early))));
        assert!(matches!(next(&mut pieces), Poll::Ready(Some(Piece::Begun))));
        other.put(Piece::Final(Final::Whole));
        assert!(matches!(next(&mut pieces), Poll::Ready(Some(Piece::Event(..)))));
        assert!(matches!(next(&mut pieces), Poll::Ready(Some(Piece::Final(Final::Whole)))));
        assert!(next(&mut pieces).is_pending());
        drop(other);
        assert!(matches!(next(&mut pieces), Poll::Ready(None)));
    }

    #[test]
    fn events_have_their_room_until_they_are_written_and_none_behind_a_client_that_left() {
        let (sink, mut pieces) = Sink::open(true);
        let large = Bytes::from(vec![b' '; EVENT_ROOM]);
        assert!(sink.event_now(&large));
        assert!(!sink.event_now(&Bytes::from_static(b"1")));
        let Poll::Ready(Some(taken)) = next(&mut pieces) else { panic!("no event") };
        assert!(!sink.event_now(&Bytes::from_static(b"1")), "it is not written yet");
        drop(taken);
        assert!(sink.event_now(&large));
        drop(pieces);
        assert!(!sink.event_now(&large), "nobody is there");
        // What lay unread gave its room back.
        assert_eq!(sink.room().available_permits(), EVENT_ROOM);
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_piece_and_by_the_end() {
        let (sink, mut pieces) = Sink::open(false);
        let waits =
            tokio::spawn(async move { (pieces.recv().await.is_some(), pieces.recv().await.is_none()) });
        tokio::task::yield_now().await;
        sink.put(Piece::Early);
        tokio::task::yield_now().await;
        drop(sink);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), waits).await;
        assert!(matches!(waited, Ok(Ok((true, true)))), "{waited:?}");
    }
}
