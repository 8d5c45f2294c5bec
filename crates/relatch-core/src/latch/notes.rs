//! Messages of the client's that expect no answer: notifications, and answers to the server's requests.
//!
//! Decides whether one goes on at once, waits its turn, or is let go (§3.7). One at a time per latch, in order.

use std::collections::VecDeque;

use super::reading::{self, Reading};
use super::{Accepted, LatchState};
use crate::effect::{Connection, Effect, What};
use crate::exchange::{Client, ExState};
use crate::fault::Fault;
use crate::input::Told;
use crate::upstream::{Absence, Attempt, Machine, Outcome, Purpose, Why};
use crate::{AttemptId, ExId, Gen, LatchId, NoteId, journal, policy};
use relatch_wire::failure::Code;
use relatch_wire::method;
use relatch_wire::request_id::RequestId;

impl Machine {
    pub(crate) fn told(&mut self, id: LatchId, note: NoteId, told: Told) {
        let now = self.now;
        let answerable = match told {
            Told::Answer(Some(generation)) => self.answerable(id, generation),
            Told::Initialized | Told::Cancelled(_) | Told::Answer(None) | Told::Other => false,
        };
        let Some(latch) = self.latches.get_mut(&id) else {
            self.out.push(Effect::DropNote { note });
            return;
        };
        latch.used(now);
        self.dirty.insert(id);
        match told {
            Told::Initialized => {
                let again = std::mem::replace(&mut latch.initialized, true);
                let known = latch.generation.is_some() && latch.announced == latch.generation;
                if again || known || matches!(latch.state, LatchState::Ended) {
                    // A relatch sends its own.
                    self.out.push(Effect::DropNote { note });
                } else {
                    latch.notes.push_back((note, Told::Initialized, Accepted::NotYet));
                }
                self.out.push(Effect::Record { latch: id });
            }
            Told::Cancelled(request) => self.cancelled(id, note, &request),
            Told::Answer(Some(generation)) if answerable => {
                self.send_note(id, generation, note);
            }
            Told::Answer(_) => self.out.push(Effect::DropNote { note }),
            Told::Other => {
                let quiet = matches!(latch.state, LatchState::Bound(_));
                if latch.notes.len() >= policy::NOTES_PER_LATCH || matches!(latch.state, LatchState::Ended) {
                    self.out.push(Effect::DropNote { note });
                    self.journal(journal::What::Skipped, Some(id), |entry| {
                        entry.detail = Some("too many notifications wait".to_owned());
                    });
                } else if quiet && self.reach_is_up() && (!self.is_paused() || self.has_running(id)) {
                    self.enqueue(id, note, Accepted::NotYet);
                } else {
                    self.out.push(Effect::Accept { note });
                    self.enqueue(id, note, Accepted::Yes);
                }
            }
        }
    }

    fn enqueue(&mut self, id: LatchId, note: NoteId, accepted: Accepted) {
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.notes.push_back((note, Told::Other, accepted));
        }
    }

    fn reach_is_up(&self) -> bool {
        self.away().is_none()
    }

    /// Whether the session that asked may still be waiting for this answer.
    fn answerable(&self, id: LatchId, generation: Gen) -> bool {
        let Some(latch) = self.latches.get(&id) else { return false };
        latch.may_live() == Some(generation)
            || self
                .attempts_of(id)
                .any(|(_, a)| a.generation == generation && matches!(a.purpose, Purpose::Exchange(_)))
    }

    fn send_note(&mut self, id: LatchId, generation: Gen, note: NoteId) -> AttemptId {
        self.send(
            id,
            generation,
            What::Note(note),
            Purpose::Note(note),
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        )
    }

    fn cancelled(&mut self, id: LatchId, note: NoteId, request: &RequestId) {
        let name = self.policy.name.clone();
        let deaf = self.planted(Fault::SendsTheCancelled);
        let found: Option<ExId> =
            self.latches.get(&id).into_iter().flat_map(|l| &l.exchanges).map(|(ex, _)| *ex).find(|ex| {
                self.exchanges
                    .get(ex)
                    .is_some_and(|e| e.ask.id == *request && e.ask.method != method::INITIALIZE)
            });
        let Some((ex, exchange)) = found.and_then(|ex| self.exchanges.get_mut(&ex).map(|e| (ex, e))) else {
            self.out.push(Effect::DropNote { note });
            return;
        };
        match exchange.state {
            ExState::Waiting | ExState::Looking(_) if deaf => self.out.push(Effect::DropNote { note }),
            ExState::Waiting | ExState::Looking(_) => {
                let failure = exchange.cancelled(&name, exchange.ran());
                self.out.push(Effect::DropNote { note });
                self.give_back(ex, Some(failure));
            }
            ExState::Sent(attempt) | ExState::Passing(attempt) | ExState::Doubted(attempt) => {
                if exchange.client == Client::Waits {
                    exchange.client = Client::Cancelled;
                }
                match self.attempts.get(attempt).map(|a| a.generation) {
                    Some(generation) => {
                        // Some servers answer what was cancelled, others leave its connection open for ever.
                        self.timers.set(Why::AttemptLimit(attempt), self.now.plus(policy::CANCELLED_MS));
                        self.send_note(id, generation, note);
                    }
                    None => self.out.push(Effect::DropNote { note }),
                }
            }
        }
    }

    /// The latch can't send now: nobody is kept waiting to hear that a message was taken.
    pub(crate) fn accept_waiting_notes(&mut self, id: LatchId) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        for (note, _, accepted) in latch.notes.iter_mut().filter(|(.., a)| *a == Accepted::NotYet) {
            *accepted = Accepted::Yes;
            self.out.push(Effect::Accept { note: *note });
        }
    }

    /// Sends the next message, unless one is under way.
    pub(crate) fn flush_notes(&mut self, id: LatchId, generation: Gen) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        if latch.note.is_some() {
            return;
        }
        let Some((note, told, accepted)) = latch.notes.pop_front() else { return };
        if latch.notes.is_empty() {
            // Its room is let go: most sessions send one message of this sort, and then none for long.
            latch.notes = VecDeque::new();
        }
        let late = match told {
            Told::Initialized => latch.announced.replace(generation) == Some(generation),
            Told::Answer(asked) => asked != Some(generation),
            Told::Cancelled(_) | Told::Other => false,
        };
        if late {
            self.out.push(Effect::DropNote { note });
            self.dirty.insert(id);
            return;
        }
        if told == Told::Initialized {
            self.out.push(Effect::Record { latch: id });
        }
        let attempt = self.send_note(id, generation, note);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.note = Some(Box::new((attempt, note, told, accepted)));
        }
    }

    pub(crate) fn note_over(&mut self, id: AttemptId, attempt: &Attempt, note: NoteId, outcome: Outcome<'_>) {
        let latch_id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let queued = match latch.note.as_deref() {
            Some((current, _, told, accepted)) if *current == id => Some((told.clone(), *accepted)),
            _ => None,
        };
        let taken = queued.as_ref().map(|(_, accepted)| *accepted);
        if queued.is_some() {
            latch.note = None;
        }
        let has_id = latch.has_id;
        let again = match &outcome {
            Outcome::Refused(refusal) if reading::read(refusal, has_id) == Reading::Gone => true,
            Outcome::Cut(cut) => !cut.wrote,
            Outcome::Answered(_)
            | Outcome::Refused(_)
            | Outcome::Session(_)
            | Outcome::Listed(_)
            | Outcome::Limit => false,
        };
        // An answer to a server's request is not queued at first; one that was never written waits for its turn.
        let kept = match queued {
            // A session that has not heard of it yet is told again; another one is told by whoever binds it.
            Some((Told::Initialized, _)) if !matches!(outcome, Outcome::Cut(_)) => None,
            Some((told, accepted)) => Some((told, accepted)),
            None if matches!(&outcome, Outcome::Cut(_)) && self.answerable(latch_id, attempt.generation) => {
                Some((Told::Answer(Some(attempt.generation)), Accepted::NotYet))
            }
            None => None,
        };
        match kept.filter(|_| again) {
            Some((told, accepted)) => {
                if accepted == Accepted::NotYet {
                    self.out.push(Effect::Accept { note });
                }
                let shuffles = self.planted(Fault::ShufflesNotes);
                if let Some(latch) = self.latches.get_mut(&latch_id) {
                    if told == Told::Initialized && latch.announced == Some(attempt.generation) {
                        latch.announced = None;
                        self.out.push(Effect::Record { latch: latch_id });
                    }
                    if shuffles {
                        latch.notes.push_back((note, told, Accepted::Yes));
                    } else {
                        latch.notes.push_front((note, told, Accepted::Yes));
                    }
                }
            }
            None => {
                let unheard = !matches!(taken, Some(Accepted::Yes));
                // A client that is told 404 takes its session for gone, and an absence is not its business.
                if let Outcome::Refused(refusal) = &outcome
                    && unheard
                    && (again
                        || refusal.status == 404
                        || matches!(reading::read(refusal, has_id), Reading::Gateway | Reading::NotMcp))
                {
                    self.out.push(Effect::Accept { note });
                }
                self.out.push(Effect::DropNote { note });
            }
        }
        match outcome {
            Outcome::Refused(_) if again => {
                self.session_refused(latch_id, attempt.generation, None);
            }
            Outcome::Refused(refusal)
                if matches!(reading::read(&refusal, has_id), Reading::Gateway | Reading::NotMcp) =>
            {
                self.missing(&refusal);
            }
            Outcome::Cut(cut) if !cut.wrote => self.mark_away(Absence {
                code: Code::UpstreamDown,
                cause: &cut.cause,
                confirmed: true,
                after: None,
            }),
            Outcome::Cut(cut) => self.connection_broke(&cut.cause),
            Outcome::Refused(_)
            | Outcome::Answered(_)
            | Outcome::Session(_)
            | Outcome::Listed(_)
            | Outcome::Limit => {}
        }
    }
}
