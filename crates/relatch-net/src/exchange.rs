//! The way of an answer to the client that asked: pieces in their order, with back-pressure counted in bytes.
//!
//! An attempt puts pieces in, a front (HTTP or stdio) takes them out and writes them down in its own way. Decides
//! nothing; whose pieces flow is said by the core.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

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
    stop: Option<oneshot::Receiver<()>>,
}

/// How to end an attempt in the middle.
#[derive(Debug)]
pub(crate) enum Stop {
    /// One that is a task.
    Task(AbortHandle),
    /// One that its front drives, or drove.
    Front(oneshot::Sender<()>),
}

impl Running {
    /// This work, and how to end it.
    pub(crate) fn new(work: impl Future<Output = ()> + Send + 'static) -> (Running, Stop) {
        let (stop, stopped) = oneshot::channel();
        (Running { work: Mutex::new(Box::pin(work)), stop: Some(stopped) }, Stop::Front(stop))
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
        let Running { work, stop } = self.get_mut();
        match stop.as_mut().map(|stop| Pin::new(stop).poll(cx)) {
            Some(Poll::Ready(Ok(()))) => return Poll::Ready(()),
            // It has left the desk, and goes on to its end.
            Some(Poll::Ready(Err(_))) => *stop = None,
            Some(Poll::Pending) | None => {}
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
            Stop::Front(stop) => drop(stop.send(())),
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
    Challenge {
        /// 401 or 403.
        status: StatusCode,
        /// What of its headers goes back.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
        /// The error that says the same where no status can be given any more.
        instead: Bytes,
    },
}

/// The end into which an exchange's pieces are put. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pieces: mpsc::UnboundedSender<Piece>,
    room: Arc<Semaphore>,
    /// Whether the client takes messages before the answer here.
    pub(crate) takes_events: bool,
}

/// The end from which a front takes an exchange's pieces.
pub(crate) type Pieces = mpsc::UnboundedReceiver<Piece>;

impl Sink {
    /// Both ends. What waits between them is bounded by [`EVENT_ROOM`] and by there being one final piece.
    pub(crate) fn open(takes_events: bool) -> (Sink, Pieces) {
        let (pieces, taken) = mpsc::unbounded_channel();
        (Sink { pieces, room: Arc::new(Semaphore::new(EVENT_ROOM)), takes_events }, taken)
    }

    /// Puts a piece in at once; it is let go when the client has left.
    pub(crate) fn put(&self, piece: Piece) {
        // A front that is gone has said so itself.
        drop(self.pieces.send(piece));
    }

    /// Puts an event in as soon as there is room for it.
    pub(crate) async fn event(&self, message: Bytes) {
        if self.event_now(&message) {
            return;
        }
        let size = u32::try_from(message.len().clamp(1, EVENT_ROOM)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(size).await {
            self.put(Piece::Event(message, permit));
        }
    }

    /// Puts an event in if there is room for it now.
    pub(crate) fn event_now(&self, message: &Bytes) -> bool {
        let size = u32::try_from(message.len().clamp(1, EVENT_ROOM)).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).try_acquire_many_owned(size) {
            Ok(permit) => self.pieces.send(Piece::Event(message.clone(), permit)).is_ok(),
            Err(_) => false,
        }
    }

    /// Begins a long answer.
    pub(crate) fn long(&self, sse: bool) -> mpsc::Sender<Chunk> {
        let (chunks, taken) = mpsc::channel(LONG_ROOM);
        self.put(Piece::Long { sse, chunks: taken });
        chunks
    }
}
