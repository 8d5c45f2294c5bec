//! Answers that a client may come back to: those on their way, and what is kept of those that are out.
//!
//! What is kept takes no task of its own: it waits here until its client comes back, its time is over, or others take its
//! place. What of a stream is kept is decided in [`super::stream`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use relatch_wire::request_id::RequestId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::stream::{EventId, Out, put};
use crate::lock;

/// Streams of one latch that can be resumed at a time; beyond it the oldest can't be any more, those first whose answer
/// is out.
const STREAMS: usize = 32;
/// Requests of one latch that are remembered when their streams are gone, so that who comes back too late is told.
const REMEMBERED: usize = 64;
/// What all finished answers of a keeper may hold together while they are kept for a while, in bytes.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// What is over is looked for no more often than this.
const SWEEP: Duration = Duration::from_secs(1);

/// The streams of one latch that its client may come back to.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Streams whose answer is on its way, and those whose answer is out and kept for a while.
    running: BTreeMap<u64, mpsc::Sender<Return>>,
    finished: BTreeMap<u64, Finished>,
    /// The requests of streams that are gone.
    gone: VecDeque<(u64, RequestId)>,
    /// Somebody looks for what is over.
    swept: bool,
}

/// An answer that is out.
#[derive(Debug)]
struct Finished {
    request: RequestId,
    kept: Kept,
    until: Instant,
}

/// What is kept of an answer that is out.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Its events, numbered.
    pub(crate) events: VecDeque<(u64, Bytes)>,
    /// For how long.
    pub(crate) span: Duration,
    /// The room that it takes; none for the words that say that there is none.
    pub(crate) _room: Option<Room>,
}

/// A client that comes back: the last event that it has, and where it reads now.
#[derive(Debug)]
pub(crate) struct Return {
    pub(crate) after: u64,
    pub(crate) out: Out,
}

/// What finished answers hold now, all together.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Room among them, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Room(usize);

impl Room {
    pub(crate) fn take(bytes: usize) -> Option<Room> {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= LINGER_BYTES);
        LINGERING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok().map(|_| Room(bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        LINGERING.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Streams {
    /// Brings a client back to the stream that this event is of. The channel is given back where there is none.
    pub(crate) async fn resume(&self, event: EventId, mut out: Out) -> Result<(), Out> {
        let running = lock(&self.known).running.get(&event.stream).cloned();
        if let Some(running) = running {
            match running.send(Return { after: event.number, out }).await {
                Ok(()) => return Ok(()),
                // It has finished meanwhile.
                Err(refused) => out = refused.0.out,
            }
        }
        let missed: Vec<Bytes> = {
            let known = lock(&self.known);
            let Some(finished) = known.finished.get(&event.stream) else { return Err(out) };
            let missed = finished.kept.events.iter().filter(|(number, _)| *number > event.number);
            missed.map(|(_, event)| event.clone()).collect()
        };
        tokio::spawn(async move {
            for event in missed {
                if put(&out, event).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// The request of a stream that is gone.
    pub(crate) fn gone(&self, number: u64) -> Option<RequestId> {
        let known = lock(&self.known);
        known.gone.iter().find(|(stream, _)| *stream == number).map(|(_, id)| id.clone())
    }

    /// A stream has begun; who comes back to it is brought here.
    pub(crate) fn enter(&self, number: u64) -> mpsc::Receiver<Return> {
        let (come, back) = mpsc::channel(1);
        let mut known = lock(&self.known);
        known.running.insert(number, come);
        known.make_room();
        back
    }

    /// A stream that has begun is over.
    pub(crate) fn finishes(self: &Arc<Self>, number: u64, request: &RequestId, kept: Option<Kept>) {
        // In one step: who comes back meanwhile finds the one or the other.
        let mut known = lock(&self.known);
        let had_place = known.running.remove(&number).is_some();
        // Where others have taken its place there is none for what is left of it, either.
        self.put(known, number, request, kept.filter(|_| had_place));
    }

    /// An answer is out, and this is kept of it.
    pub(crate) fn keep(self: &Arc<Self>, number: u64, request: &RequestId, kept: Option<Kept>) {
        self.put(lock(&self.known), number, request, kept);
    }

    fn put(
        self: &Arc<Self>,
        mut known: MutexGuard<'_, Known>,
        number: u64,
        request: &RequestId,
        kept: Option<Kept>,
    ) {
        let Some(kept) = kept else { return known.part_from(number, request.clone()) };
        let until = Instant::now() + kept.span;
        known.finished.insert(number, Finished { request: request.clone(), kept, until });
        known.make_room();
        if !std::mem::replace(&mut known.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Lets go what was kept long enough; when there is something to do again.
    fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut known = lock(&self.known);
        while let Some(number) =
            known.finished.iter().find(|(_, finished)| finished.until <= now).map(|(number, _)| *number)
        {
            known.drop_finished(number);
        }
        let due = known.finished.values().map(|finished| finished.until).min();
        known.swept = due.is_some();
        due.map(|due| due.max(now + SWEEP))
    }
}

impl Known {
    /// A running call needs its place more than one whose answer is out.
    fn make_room(&mut self) {
        if self.running.len() + self.finished.len() <= STREAMS {
            return;
        }
        match self.finished.first_key_value().map(|(number, _)| *number) {
            Some(oldest) => self.drop_finished(oldest),
            None => drop(self.running.pop_first()),
        }
    }

    fn drop_finished(&mut self, number: u64) {
        if let Some(finished) = self.finished.remove(&number) {
            self.part_from(number, finished.request);
        }
    }

    fn part_from(&mut self, number: u64, request: RequestId) {
        self.gone.push_back((number, request));
        if self.gone.len() > REMEMBERED {
            self.gone.pop_front();
        }
    }
}

/// Lives while something is kept.
async fn sweep(streams: Weak<Streams>) {
    while let Some(due) = streams.upgrade().and_then(|streams| streams.sweep()) {
        sleep_until(due).await;
    }
}
