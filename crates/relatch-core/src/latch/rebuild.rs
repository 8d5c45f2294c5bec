//! From the answer to `initialize` to a bound session: `initialized`, then what the session has to know.
//!
//! Decides what is replayed and in which order (§3.6), and what a refusal in the middle of it means. Lists are compared
//! afterwards, by `compare`.

use std::collections::VecDeque;

use relatch_wire::failure::Code;

use super::reading::{self, Reading};
use super::{Doubtful, Emptied, Farewell, Gap, LatchState, Loss, Replay, Step, StreamState};
use crate::effect::{Connection, Effect, What};
use crate::input::{Answer, SessionFacts};
use crate::upstream::{Absence, Attempt, Machine, Outcome, Purpose};
use crate::{AttemptId, Gen, LatchId, journal, policy};

impl Machine {
    /// Tells the new session that its client is initialized, as the client has told its first.
    pub(super) fn announce(&mut self, id: LatchId, generation: Gen) {
        let attempt = self.send(
            id,
            generation,
            What::Initialized,
            Purpose::Initialized,
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        );
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.announced = Some(generation);
        latch.initialized = true;
        if let LatchState::Relatching(_, _, step) = &mut latch.state {
            *step = Step::Initialized(attempt);
        }
    }

    /// The trial of a diagnosis has proved itself: it goes on as the new session.
    pub(crate) fn promote(&mut self, id: LatchId, old: Gen, generation: Gen, session: &SessionFacts) {
        self.lose(id, old);
        self.adopt(id, generation, session);
        let Some(latch) = self.latches.get_mut(&id) else { return };
        // The old one was found gone only by comparison; it gets its DELETE.
        latch.old.insert(old, Farewell::Delete);
        let loss = Loss::new(Some(old), self.now, Doubtful::Gone);
        latch.announced = Some(generation);
        latch.initialized = true;
        self.rebuild(id, generation, loss);
    }

    pub(crate) fn initialized_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        if self.trial_initialized_over(id, attempt) {
            return;
        }
        let latch_id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        if !matches!(&latch.state, LatchState::Relatching(_, _, Step::Initialized(a)) if *a == id) {
            return;
        }
        if self.gone_again(latch_id, attempt, &outcome) {
            return;
        }
        if !matches!(outcome, Outcome::Answered(_)) {
            self.skipped(latch_id, "notifications/initialized");
        }
        if let Some(loss) = self.latches.get(&latch_id).and_then(|l| l.loss().cloned()) {
            self.rebuild(latch_id, attempt.generation, loss);
        }
    }

    /// The new session was refused before it was bound.
    fn gone_again(&mut self, id: LatchId, attempt: &Attempt, outcome: &Outcome<'_>) -> bool {
        let Some(latch) = self.latches.get_mut(&id) else { return true };
        match outcome {
            Outcome::Refused(refusal) if reading::read(refusal, latch.has_id) == Reading::Gone => {
                latch.unanswered += 1;
                latch.generation = Some(attempt.generation);
                latch.bound = None;
                self.lose(id, attempt.generation);
                true
            }
            Outcome::Cut(cut) if !cut.wrote => {
                latch.generation = Some(attempt.generation);
                if let Some(older) = latch.may_live().filter(|older| *older != attempt.generation) {
                    latch.old.insert(older, Farewell::Delete);
                }
                if let LatchState::Relatching(loss, ..) = &latch.state {
                    let loss = Loss {
                        generation: Some(attempt.generation),
                        doubt: Doubtful::AskFirst,
                        ..loss.clone()
                    };
                    latch.state = LatchState::Refused(loss);
                }
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
    fn rebuild(&mut self, id: LatchId, generation: Gen, loss: Loss) {
        let Some(latch) = self.latches.get(&id) else { return };
        let mut steps: VecDeque<Replay> = VecDeque::new();
        steps.extend(latch.level.clone().map(Replay::Level));
        steps.extend(latch.subscriptions.values().cloned().map(Replay::Subscribe));
        self.next_step(id, generation, loss, steps);
    }

    fn next_step(&mut self, id: LatchId, generation: Gen, loss: Loss, mut steps: VecDeque<Replay>) {
        let Some(replay) = steps.pop_front() else {
            self.bind(id, generation, loss);
            return;
        };
        let what = match replay {
            Replay::Level(params) => What::SetLevel(params),
            Replay::Subscribe(params) => What::Subscribe(params),
        };
        let limit = Some(policy::REBUILD_STEP_MS);
        let attempt = self.send(id, generation, what, Purpose::Rebuild, Connection::Any, limit);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.state = LatchState::Relatching(loss, generation, Step::Rebuild(attempt, steps));
        }
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
            self.skipped(latch_id, "a log level or subscription");
        }
        self.next_step(latch_id, attempt.generation, loss, steps);
    }

    /// After an outage: a session that survived it is told again what it was told. One without an id could not say
    /// that it did not survive, so it is renewed. Returns whether something was begun.
    pub(crate) fn freshen(&mut self, id: LatchId, generation: Gen) -> bool {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return false };
        if !latch.stale || !latch.initialized || !latch.wanted(now) {
            return false;
        }
        latch.stale = false;
        if !latch.has_id {
            self.lose(id, generation);
            return true;
        }
        if latch.level.is_none() && latch.subscriptions.is_empty() {
            return false;
        }
        let loss = Loss::new(Some(generation), now, Doubtful::AskFirst);
        self.rebuild(id, generation, loss);
        true
    }

    /// The new session takes the place of the old one; or the old one goes on.
    fn bind(&mut self, id: LatchId, generation: Gen, loss: Loss) {
        let (now, stateful) = (self.now, self.policy.stateful);
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.state = LatchState::Bound(generation);
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
        latch.stale = false;
        latch.gap = Gap::Open;
        latch.compare_at = now;
        let stream = latch.stream.attempt();
        latch.stream = StreamState::Off;
        // A session that was refused has been given its farewell already.
        if let Some(old) = loss.may_live() {
            latch.old.insert(old, Farewell::Delete);
        }
        if let Some(stream) = stream {
            self.out.push(Effect::Withdraw { attempt: stream });
            self.abort(stream);
        }
        self.tracker.totals.relatched += 1;
        self.tracker.session(now, true);
        let took = now.since(loss.at);
        self.journal(journal::What::Relatched, Some(id), |entry| {
            entry.generation = Some(generation);
            entry.ms = Some(took);
        });
        self.out.push(Effect::Record { latch: id });
    }
}
