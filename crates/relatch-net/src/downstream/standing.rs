//! A client's standing stream: what waits for it, as events, and a comment now and then.
//!
//! It is read by the connection that it goes out on: a thousand clients have it open for days, and a task and a channel for
//! each would take as much again. What waits, and for whom, is the outbox's matter.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use relatch_core::LatchId;
use relatch_wire::sse;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::stream::{COMMENT, EventId};
use crate::driver::Upstream;
use crate::outbox::Outbox;

/// The body of a standing stream.
pub(crate) struct Standing {
    /// None once it has ended.
    next: Option<Pin<Box<Coming>>>,
}

/// The next piece on its way, with what brings the one after it.
type Coming = dyn Future<Output = Option<(Bytes, Reading)>> + Send;

/// One reader of an outbox. Dropped, it has left.
struct Reading {
    up: Arc<Upstream>,
    latch: LatchId,
    outbox: Arc<Outbox>,
    reader: u64,
    comments: Interval,
    stop: watch::Receiver<bool>,
}

impl Standing {
    /// The stream of this reader, until another has taken over, its session is over, or `stop` turns true. A comment is
    /// its first piece, so that its client sees that it stands.
    pub(crate) fn new(
        up: Arc<Upstream>,
        latch: LatchId,
        outbox: Arc<Outbox>,
        reader: u64,
        stop: watch::Receiver<bool>,
    ) -> Standing {
        let mut comments = interval_at(Instant::now() + COMMENT, COMMENT);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reading = Reading { up, latch, outbox, reader, comments, stop };
        Standing { next: Some(Box::pin(async { Some((Bytes::from_static(sse::comment()), reading)) })) }
    }

    /// The next piece; none at its end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (piece, next) = match ready!(next.as_mut().poll(cx)) {
            Some((piece, reading)) => (Some(piece), Some(Box::pin(reading.next()) as _)),
            None => (None, None),
        };
        self.next = next;
        Poll::Ready(piece)
    }
}

impl Reading {
    async fn next(mut self) -> Option<(Bytes, Reading)> {
        let piece = tokio::select! {
            biased;
            message = self.outbox.next(self.reader) => {
                let (number, message) = message?;
                let id = EventId { stream: 0, number }.text(&self.up.common.events);
                let mut framed = BytesMut::with_capacity(message.len() + 48);
                sse::write_event(&mut framed, Some(&id), None, &message);
                framed.freeze()
            }
            _ = self.comments.tick() => Bytes::from_static(sse::comment()),
            () = super::http::stopped(&mut self.stop) => return None,
        };
        Some((piece, self))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (up, latch, reader) = (Arc::clone(&self.up), self.latch, self.reader);
        match Handle::try_current() {
            // In its turn: the server's own stream is closed with the last reader, and what has come by it is read first.
            Ok(runtime) => drop(runtime.spawn(async move { up.detach(latch, reader) })),
            Err(_) => up.detach(latch, reader),
        }
    }
}
