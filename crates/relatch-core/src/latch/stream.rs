//! The standing stream to the upstream: opened for a client that is there, opened again when it breaks.
//!
//! The client's own standing stream is the shell's and never drops for anything that happens here.

use super::reading::{self, Reading};
use super::{Gap, LatchState, Raised};
use crate::effect::{Connection, Effect, What};
use crate::upstream::{Attempt, Machine, Outcome, Purpose, Why};
use crate::{At, AttemptId, Gen, LatchId, policy};

/// Where the standing stream stands.
#[derive(Debug)]
pub(crate) enum StreamState {
    /// Not open, and to be opened when somebody wants it.
    Off,
    /// GET is out.
    Asked(AttemptId, Option<At>),
    /// It is open.
    Open(AttemptId),
    /// It broke at `.1` and is opened again at `.0`.
    Again(At, At),
    /// The server offers none to this session.
    Unoffered,
}

impl StreamState {
    pub(crate) fn attempt(&self) -> Option<AttemptId> {
        match self {
            StreamState::Asked(attempt, _) | StreamState::Open(attempt) => Some(*attempt),
            StreamState::Off | StreamState::Again(..) | StreamState::Unoffered => None,
        }
    }
}

impl Machine {
    pub(crate) fn attached(&mut self, id: LatchId, there: bool) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.attached = there;
        latch.used(now);
        self.dirty.insert(id);
        if !there && let Some(stream) = latch.stream.attempt() {
            latch.stream = StreamState::Off;
            self.abort(stream);
        }
    }

    /// Opens the standing stream, when a client is there for it.
    pub(crate) fn open_stream(&mut self, id: LatchId, generation: Gen) {
        let now = self.now;
        let Some(latch) = self.latches.get(&id) else { return };
        if !latch.attached || !latch.initialized || latch.announced != Some(generation) {
            return;
        }
        let lost = match latch.stream {
            StreamState::Off => None,
            StreamState::Again(at, lost) if at <= now => Some(lost),
            StreamState::Again(at, ..) => {
                self.timers.set(Why::StreamAgain(id), at);
                return;
            }
            StreamState::Asked(..) | StreamState::Open(_) | StreamState::Unoffered => return,
        };
        let attempt = self.send(id, generation, What::Stream, Purpose::Stream, Connection::Any, None);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.stream = StreamState::Asked(attempt, lost);
        }
    }

    pub(crate) fn stream_begun(&mut self, id: AttemptId, attempt: &Attempt) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&attempt.latch) else { return };
        let StreamState::Asked(current, lost) = latch.stream else { return };
        if current != id {
            return;
        }
        latch.stream = StreamState::Open(id);
        if lost.is_some_and(|lost| now.since(lost) > policy::STREAM_GRACE_MS) && latch.gap == Gap::Closed {
            latch.gap = Gap::Open;
            self.dirty.insert(attempt.latch);
        }
    }

    /// The standing stream belongs to a session that is not in use any more.
    pub(crate) fn drop_stream(&mut self, id: LatchId) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let stream = latch.stream.attempt();
        latch.stream = StreamState::Off;
        if let Some(stream) = stream {
            self.out.push(Effect::Withdraw { attempt: stream });
            self.abort(stream);
        }
    }

    /// The stream was refused for its credentials: it is asked for with others.
    fn stream_unwelcome(&mut self, attempt: &Attempt) {
        self.park(attempt.latch, attempt.generation);
        let later = self.now.plus(policy::STREAM_DOUBTED_MS);
        if let Some(latch) = self.latches.get_mut(&attempt.latch)
            && matches!(latch.state, LatchState::Bound(_))
        {
            latch.stream = StreamState::Again(later, self.now);
        }
    }

    pub(crate) fn stream_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&attempt.latch) else { return };
        let was_open = matches!(latch.stream, StreamState::Open(current) if current == id);
        let asked = matches!(latch.stream, StreamState::Asked(current, _) if current == id);
        if !was_open && !asked {
            return;
        }
        let lost = match latch.stream {
            StreamState::Asked(_, Some(lost)) => lost,
            _ => now,
        };
        match outcome {
            Outcome::Cut(cut) => {
                let at =
                    now.plus(cut.retry.unwrap_or(policy::RESUME_AFTER_MS).min(policy::STREAM_DOUBTED_MS));
                latch.stream = StreamState::Again(at, lost);
                if was_open && !cut.resumable {
                    // Closed in the middle without a way to go on: the server may be gone. Look at once.
                    self.connection_broke(&cut.cause);
                } else if !cut.wrote {
                    self.connection_broke(&cut.cause);
                }
            }
            Outcome::Refused(refusal) => {
                let has_id = latch.has_id;
                latch.stream = match reading::read_stream(&refusal, has_id) {
                    // Some servers have no stream and say so with a 404; POST decides about the session.
                    Reading::Gone | Reading::Suspected if has_id => {
                        StreamState::Again(now.plus(policy::STREAM_DOUBTED_MS), lost)
                    }
                    Reading::Credentials => StreamState::Off,
                    Reading::Gateway | Reading::Later => StreamState::Again(
                        now.plus(refusal.retry_after.unwrap_or(policy::STREAM_PAUSE_MS)),
                        lost,
                    ),
                    Reading::Gone
                    | Reading::Suspected
                    | Reading::AboutRequest
                    | Reading::WrongPlace
                    | Reading::Redirected
                    | Reading::NotMcp => StreamState::Unoffered,
                };
                if reading::read_stream(&refusal, has_id) == Reading::Gateway {
                    // Nobody is behind the gateway, or it has no way for streams: a question tells.
                    self.idle_closed();
                } else if reading::read_stream(&refusal, has_id) == Reading::Credentials {
                    self.stream_unwelcome(attempt);
                } else if has_id
                    && matches!(reading::read_stream(&refusal, has_id), Reading::Gone | Reading::Suspected)
                {
                    let (latch, generation) = (attempt.latch, attempt.generation);
                    if matches!(self.latches.get(&latch).map(|l| &l.state), Some(LatchState::Bound(g)) if *g == generation)
                    {
                        let raised = Raised::Refusal { speaks: false };
                        self.doubt(attempt, None, id, refusal.status, refusal.digest, raised);
                    }
                }
            }
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) | Outcome::Limit => {
                latch.stream = StreamState::Again(now.plus(policy::STREAM_PAUSE_MS), lost);
            }
        }
    }
}
