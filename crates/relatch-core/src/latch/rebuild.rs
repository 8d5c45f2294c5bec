//! From the answer to `initialize` to a bound session: `initialized`, then what the session has to know.
//!
//! Decides what is replayed and in which order (§3.6), and what a refusal in the middle of it means. Lists are compared
//! afterwards, by `compare`.

use std::collections::VecDeque;

use relatch_wire::failure::Code;

use super::reading::{self, Reading};
use super::{Doubtful, Emptied, Farewell, Gap, Heard, Knows, LatchState, Loss, Replay, Step};
use crate::effect::{Connection, Effect, What};
use crate::fault::Fault;
use crate::input::{Answer, SessionFacts};
use crate::upstream::{Absence, Attempt, Machine, Outcome, Purpose};
use crate::{AttemptId, Gen, LatchId, journal, policy};

impl Machine {
    /// The trial of a diagnosis has proved itself: it goes on as the new session.
    pub(crate) fn promote(
        &mut self,
        id: LatchId,
        old: Gen,
        generation: Gen,
        session: &SessionFacts,
        told: bool,
    ) {
        self.lose(id, old);
        self.adopt(id, session);
        let Some(latch) = self.latches.get_mut(&id) else { return };
        // The old one was found gone only by comparison; it gets its DELETE.
        latch.old.insert(old, Farewell::Delete);
        let loss = Loss::new(Some(old), self.now, Doubtful::Gone);
        if told {
            latch.announced = Some(generation);
            latch.initialized = true;
        }
        self.rebuild(id, generation, loss);
    }

    pub(crate) fn initialized_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        if self.trial_initialized_over(id, attempt, &outcome) {
            return;
        }
        if let Outcome::Cut(cut) = &outcome
            && !cut.wrote
            && let Some(latch) = self.latches.get_mut(&attempt.latch)
            && latch.announced == Some(attempt.generation)
        {
            latch.announced = None;
            self.out.push(Effect::Record { latch: attempt.latch });
        }
        self.rebuild_over(id, attempt, outcome);
    }

    /// The new session was refused before it was bound.
    fn gone_again(&mut self, id: LatchId, attempt: &Attempt, outcome: &Outcome<'_>) -> bool {
        let Some(latch) = self.latches.get_mut(&id) else { return true };
        // Of a process nobody else's end says anything; an address that loses a new session has lost the old one, too.
        let stays = self.policy.process && latch.loss().is_some_and(|loss| loss.doubt == Doubtful::Wished);
        match outcome {
            Outcome::Refused(refusal) if stays && reading::read(refusal, latch.has_id) == Reading::Gone => {
                let cause = self.refused_words().unwrap_or_default();
                let cause = format!("the new session was gone before it could be used: {cause}");
                self.stays_without(id, attempt.generation, &cause);
                self.tracker.not_replaced(self.now, &cause);
                true
            }
            Outcome::Refused(refusal) if reading::read(refusal, latch.has_id) == Reading::Gone => {
                latch.unanswered += 1;
                latch.generation = Some(attempt.generation);
                latch.bound = None;
                self.lose(id, attempt.generation);
                true
            }
            Outcome::Cut(cut) if !cut.wrote => {
                latch.generation = Some(attempt.generation);
                latch.part_from_older(attempt.generation);
                if let LatchState::Relatching(loss, ..) = &latch.state {
                    let mut loss = loss.clone();
                    loss.generation = Some(attempt.generation);
                    loss.doubt = Doubtful::AskFirst;
                    latch.state = LatchState::Refused(loss);
                }
                self.drop_stream(id);
                self.out.push(Effect::Record { latch: id });
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: true,
                    after: None,
                });
                true
            }
            Outcome::Refused(_)
            | Outcome::Cut(_)
            | Outcome::Answered(_)
            | Outcome::Session(_)
            | Outcome::Listed(_)
            | Outcome::Limit => false,
        }
    }

    fn skipped(&mut self, id: LatchId, step: &str) {
        self.journal(journal::What::Skipped, Some(id), |entry| entry.subject = Some(step.to_owned()));
    }

    /// Replays what the session has to know before requests go to it, and binds it.
    pub(super) fn rebuild(&mut self, id: LatchId, generation: Gen, loss: Box<Loss>) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.knows = Knows::All;
        let mut steps: VecDeque<Replay> = VecDeque::new();
        if latch.announced != Some(generation) {
            // As the client has told its first, or would have.
            latch.initialized = true;
            steps.push_back(Replay::Initialized);
        }
        steps.extend(latch.wishes().level.clone().map(Replay::Level));
        steps.extend(latch.wishes().subscriptions.values().cloned().map(Replay::Subscribe));
        if self.planted(Fault::SkipsRebuilding) {
            steps.clear();
        }
        self.next_step(id, generation, loss, steps);
    }

    fn next_step(&mut self, id: LatchId, generation: Gen, loss: Box<Loss>, mut steps: VecDeque<Replay>) {
        let Some(replay) = steps.pop_front() else {
            self.bind(id, generation, &loss);
            return;
        };
        let announces = matches!(replay, Replay::Initialized);
        let attempt = match replay {
            Replay::Initialized => {
                let limit = Some(policy::HANDSHAKE_STEP_MS);
                self.send(id, generation, What::Initialized, Purpose::Initialized, Connection::Young, limit)
            }
            Replay::Level(params) => self.send_step(id, generation, What::SetLevel(params)),
            Replay::Subscribe(params) => self.send_step(id, generation, What::Subscribe(params)),
        };
        if let Some(latch) = self.latches.get_mut(&id) {
            if announces {
                latch.announced = Some(generation);
            }
            latch.state = LatchState::Relatching(loss, generation, Step::Rebuild(attempt, steps));
        }
    }

    fn send_step(&mut self, id: LatchId, generation: Gen, what: What) -> AttemptId {
        let limit = Some(policy::REBUILD_STEP_MS);
        self.send(id, generation, what, Purpose::Rebuild, Connection::Any, limit)
    }

    pub(crate) fn rebuild_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let latch_id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let LatchState::Relatching(loss, _, Step::Rebuild(current, steps)) = &mut latch.state else { return };
        if *current != id {
            return;
        }
        let (loss, steps) = (loss.clone(), std::mem::take(steps));
        if self.gone_again(latch_id, attempt, &outcome) {
            return;
        }
        if !matches!(outcome, Outcome::Answered(Answer::Result)) {
            let announced = attempt.purpose == Purpose::Initialized;
            let step = if announced { "notifications/initialized" } else { "a log level or subscription" };
            self.skipped(latch_id, step);
        }
        self.next_step(latch_id, attempt.generation, loss, steps);
    }

    /// After an outage: a session that survived it is told again what it was told. One without an id could not say
    /// that it did not survive, so it is renewed. Returns whether something was begun.
    pub(crate) fn freshen(&mut self, id: LatchId, generation: Gen) -> bool {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return false };
        if latch.knows == Knows::All || !latch.initialized || !latch.wanted(now) {
            return false;
        }
        let perhaps_nothing = latch.knows == Knows::PerhapsNothing;
        latch.knows = Knows::All;
        if perhaps_nothing && !latch.has_id {
            self.lose(id, generation);
            return true;
        }
        let told = latch.announced == Some(generation);
        if told && latch.wishes().level.is_none() && latch.wishes().subscriptions.is_empty() {
            return false;
        }
        let loss = Loss::new(Some(generation), now, Doubtful::AskFirst);
        self.rebuild(id, generation, loss);
        true
    }

    /// The new session takes the place of the old one; or the old one goes on.
    fn bind(&mut self, id: LatchId, generation: Gen, loss: &Loss) {
        let (now, stateful) = (self.now, self.policy.stateful);
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.part_from_older(generation);
        latch.state = LatchState::Bound(generation);
        latch.heard = Heard::Yes;
        self.dirty.insert(id);
        if loss.generation == Some(generation) {
            return;
        }
        if stateful && loss.generation.is_some_and(|lost| latch.emptied != Emptied::Heard(lost)) {
            latch.emptied = Emptied::Unheard;
        }
        latch.generation = Some(generation);
        latch.bound = Some(now);
        latch.unanswered += 1;
        self.wish_fulfilled(id, generation);
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.gap = Gap::Open;
        latch.compare_at = now;
        let changes = std::mem::take(&mut latch.changes);
        // Nothing is replaced where a client came before its server.
        let what =
            if latch.copied.take().is_some() { journal::What::Latched } else { journal::What::Relatched };
        self.drop_stream(id);
        self.tracker.totals.relatched += u64::from(what == journal::What::Relatched);
        self.tracker.session(now, true);
        let took = now.since(loss.at);
        self.journal(what, Some(id), |entry| {
            entry.generation = Some(generation);
            entry.ms = Some(took);
            entry.detail = (!changes.is_empty()).then(|| changes.join("; "));
        });
        self.out.push(Effect::Record { latch: id });
    }
}
