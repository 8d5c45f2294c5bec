//! Settling doubt about a session by asking it.
//!
//! The sequence of the design (§3.3): `ping` on the session in doubt; if that is refused in the same way, a handshake
//! for a second session and the same `ping` on it as control. And the shorter one for replicas that do not share
//! sessions (§3.2): `ping` over fresh connections. One diagnosis per latch at a time; nothing else is sent meanwhile.

use relatch_wire::failure::{Code, Executed};

use super::reading::{self, Door, Reading};
use super::{Latch, LatchState};
use crate::effect::{Connection, Effect, What};
use crate::exchange::{Delivery, ExState};
use crate::input::{Answer, Refusal, SessionFacts};
use crate::upstream::{
    Absence, Attempt, Cleared, Machine, Outcome, Purpose, Question, Why, door_words, executed_by, rpc_digest,
};
use crate::{At, AttemptId, ExId, Gen, LatchId, journal, policy};

/// A diagnosis under way.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) step: Asked,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) began: At,
    pub(crate) second: Option<Second>,
}

/// The second session of a diagnosis.
#[derive(Debug)]
pub(crate) struct Second {
    /// What its server said of itself.
    facts: SessionFacts,
    /// `notifications/initialized` may have reached it.
    told: bool,
}

/// What has been asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// `ping` on the session in doubt.
    Ping(AttemptId),
    /// A second session is to be opened, when there is a permit for it.
    Line(Same),
    /// A second session.
    Trial(Gen, Same),
    /// `notifications/initialized` on it.
    TrialInitialized(AttemptId, Gen, Same),
    /// `ping` on it.
    Control(AttemptId, Gen, Same),
    /// `ping` on the session in doubt, over a fresh connection; so many are left.
    Replica(AttemptId, u32),
}

/// The refusal that the answer in doubt and the `ping` have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Same {
    status: u16,
    digest: u64,
}

/// An answer that raised the doubt, kept until it is settled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) ex: Option<ExId>,
    pub(crate) attempt: AttemptId,
    same: Same,
    raised: Raised,
}

/// What raised a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// A JSON-RPC error about the session, in an answer that is one.
    Answer,
    /// An HTTP refusal; whether its text is about the session.
    Refusal { speaks: bool },
}

/// What a diagnosis found.
enum Finding {
    /// The session lives, or nothing was found against it, or the answer is not about it.
    PassOn,
    /// It is gone, by its own server's word: requests that got this very refusal did not run.
    Gone(Same),
    /// Nobody who could tell is there.
    Away(String),
}

impl Machine {
    /// An answer raised doubt. Returns false where no diagnosis is to be had: the answer is to be passed on.
    pub(crate) fn doubt(
        &mut self,
        attempt: &Attempt,
        ex: Option<ExId>,
        id: AttemptId,
        status: u16,
        digest: u64,
        raised: Raised,
    ) -> bool {
        let now = self.now;
        self.cleared.retain(|c| c.until > now);
        if self.cleared.iter().any(|c| c.status == status && c.digest == digest) {
            return false;
        }
        if ex.is_none() && self.is_paused() {
            // No client waits to hear of it, and every session is asked when the pause is over.
            return false;
        }
        let subject = Subject { ex, attempt: id, same: Same { status, digest }, raised };
        let Some(latch) = self.latches.get_mut(&attempt.latch) else { return false };
        match &mut latch.state {
            LatchState::Bound(generation) if *generation == attempt.generation => {
                let generation = *generation;
                let latch = attempt.latch;
                let ping =
                    self.ping(latch, generation, Question::Diagnose, Connection::Young, policy::PING_MS);
                let diagnosis =
                    Diagnosis { step: Asked::Ping(ping), subjects: vec![subject], began: now, second: None };
                if let Some(latch) = self.latches.get_mut(&latch) {
                    latch.state = LatchState::Doubted(generation, Box::new(diagnosis));
                }
                let detail = format!("HTTP {status} to `{}`", self.title_of(&attempt.purpose));
                self.journal(journal::What::Suspected, Some(latch), |entry| entry.detail = Some(detail));
            }
            LatchState::Doubted(generation, diagnosis)
                if *generation == attempt.generation && !matches!(diagnosis.step, Asked::Replica(..)) =>
            {
                diagnosis.subjects.push(subject);
            }
            _ => return false,
        }
        if let Some(exchange) = ex.and_then(|ex| self.exchanges.get_mut(&ex)) {
            exchange.state = ExState::Doubted(id);
        }
        true
    }

    fn diagnosis(&mut self, id: LatchId, generation: Gen) -> Option<&mut Diagnosis> {
        match self.latches.get_mut(&id).map(|l| &mut l.state) {
            Some(LatchState::Doubted(g, diagnosis)) if *g == generation => Some(diagnosis),
            _ => None,
        }
    }

    pub(crate) fn diagnose_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let latch = attempt.latch;
        let has_id = self.latches.get(&latch).is_some_and(|l| l.has_id);
        let Some(diagnosis) = self.diagnosis(latch, attempt.generation) else { return };
        if !matches!(diagnosis.step, Asked::Ping(a) if a == id) {
            return;
        }
        let knows = |same: Same| diagnosis.subjects.iter().any(|s| s.same == same);
        let same = match &outcome {
            Outcome::Answered(Answer::Error { code, message }) => {
                let same = Same { status: 200, digest: rpc_digest(*code, message) };
                knows(same).then_some(same)
            }
            Outcome::Refused(refusal) => {
                let same = Same { status: refusal.status, digest: refusal.digest };
                if reading::read(refusal, has_id) == Reading::Gone {
                    self.settle_doubt(latch, attempt.generation, Finding::Gone(same));
                    return;
                }
                knows(same).then_some(same)
            }
            Outcome::Answered(Answer::Result)
            | Outcome::Session(_)
            | Outcome::Listed(_)
            | Outcome::Cut(_)
            | Outcome::Limit => None,
        };
        match outcome {
            Outcome::Refused(refusal)
                if matches!(reading::read(&refusal, has_id), Reading::Gateway | Reading::NotMcp)
                    || (refusal.status == 503 && same.is_none()) =>
            {
                self.missing(&refusal);
                let cause = door_words(&self.policy.url, &refusal);
                self.settle_doubt(latch, attempt.generation, Finding::Away(cause));
                return;
            }
            Outcome::Cut(cut) => {
                let known = self.away().is_some();
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: !cut.wrote || known,
                    after: None,
                });
            }
            _ => {}
        }
        let Some(same) = same else {
            self.settle_doubt(latch, attempt.generation, Finding::PassOn);
            return;
        };
        if !self.trial_is_due(latch) {
            self.settle_doubt(latch, attempt.generation, Finding::PassOn);
            return;
        }
        if let Some(diagnosis) = self.diagnosis(latch, attempt.generation) {
            diagnosis.step = Asked::Line(same);
        }
        self.timers.set(Why::DoubtEnds(latch), self.now.plus(policy::PERMIT_WITHIN_MS));
        self.dirty.insert(latch);
    }

    /// No permit has come in time: nothing was found.
    pub(crate) fn doubt_ends(&mut self, id: LatchId) {
        if let Some(LatchState::Doubted(old, diagnosis)) = self.latches.get(&id).map(|l| &l.state)
            && let Asked::Line(_) = diagnosis.step
        {
            let old = *old;
            self.settle_doubt(id, old, Finding::PassOn);
        }
    }

    /// Opens the second session of a diagnosis: there is a permit for it.
    pub(crate) fn begin_trial(&mut self, id: LatchId) {
        let now = self.now;
        let Some(LatchState::Doubted(old, diagnosis)) = self.latches.get(&id).map(|l| &l.state) else {
            return;
        };
        let Asked::Line(same) = diagnosis.step else { return };
        let old = *old;
        self.timers.clear(Why::DoubtEnds(id));
        if self.latches.get(&id).is_some_and(|latch| latch.is_former(old)) {
            // A second session would be at another address, and its control proves nothing of this one.
            self.settle_doubt(id, old, Finding::PassOn);
            return;
        }
        let generation = self.next_generation(id);
        self.send(
            id,
            generation,
            What::Initialize { ex: None },
            Purpose::Trial,
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        );
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.trial_at = Some(now);
        }
        if let Some(diagnosis) = self.diagnosis(id, old) {
            diagnosis.step = Asked::Trial(generation, same);
        }
    }

    /// While the upstream is away, nobody can settle this doubt.
    pub(crate) fn doubt_in_vain(&mut self, id: LatchId) {
        let Some(cause) = self.away().map(|away| away.cause.clone()) else { return };
        if let Some(LatchState::Doubted(old, diagnosis)) = self.latches.get(&id).map(|l| &l.state)
            && let Asked::Line(_) = diagnosis.step
        {
            let old = *old;
            self.settle_doubt(id, old, Finding::Away(cause));
        }
    }

    fn trial_is_due(&self, latch: LatchId) -> bool {
        let now = self.now;
        self.latches
            .get(&latch)
            .is_some_and(|l| l.trial_at.is_none_or(|at| now.since(at) >= policy::TRIAL_EVERY_MS))
    }

    /// Whether this failure in answer to a `ping` is worth a diagnosis now: elsewhere it is what an absent server's
    /// proxy says, and the next `ping` asks again.
    pub(crate) fn may_try(&self, latch: LatchId, refusal: &Refusal<'_>) -> bool {
        let plain = refusal.status == 503 && !reading::speaks_of_session(refusal.body);
        !plain && self.trial_is_due(latch)
    }

    /// The session in doubt of the trial that this attempt belongs to.
    fn tried(&self, attempt: &Attempt) -> Option<(Gen, Same)> {
        match self.latches.get(&attempt.latch).map(|l| &l.state) {
            Some(LatchState::Doubted(old, diagnosis)) => match diagnosis.step {
                Asked::Trial(g, same) | Asked::TrialInitialized(_, g, same) | Asked::Control(_, g, same)
                    if g == attempt.generation =>
                {
                    Some((*old, same))
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn trial_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let latch = attempt.latch;
        let Some((old, same)) = self.tried(attempt) else {
            if matches!(outcome, Outcome::Session(_)) {
                self.send_delete(latch, attempt.generation);
            }
            return;
        };
        let session = match outcome {
            Outcome::Session(session) => session,
            // Whatever stands in the server's place now: it says nothing about the session.
            Outcome::Refused(refusal)
                if matches!(reading::read_door(&refusal), Door::Missing | Door::Later) =>
            {
                self.missing(&refusal);
                let cause = door_words(&self.policy.url, &refusal);
                self.settle_doubt(latch, old, Finding::Away(cause));
                return;
            }
            Outcome::Cut(cut) => {
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: !cut.wrote,
                    after: None,
                });
                self.settle_doubt(latch, old, Finding::Away(cut.cause));
                return;
            }
            Outcome::Answered(_) | Outcome::Refused(_) => {
                self.not_about_the_session(latch, old, same);
                return;
            }
            Outcome::Listed(_) | Outcome::Limit => {
                self.settle_doubt(latch, old, Finding::PassOn);
                return;
            }
        };
        debug_assert!(self.attempts.get(id).is_none(), "the trial is over");
        if let Some(diagnosis) = self.diagnosis(latch, old) {
            diagnosis.second = Some(Second { facts: session, told: true });
        }
        let generation = attempt.generation;
        let told = self.send(
            latch,
            generation,
            What::Initialized,
            Purpose::Initialized,
            Connection::Young,
            Some(policy::REBUILD_STEP_MS),
        );
        if let Some(diagnosis) = self.diagnosis(latch, old) {
            diagnosis.step = Asked::TrialInitialized(told, generation, same);
        }
    }

    /// Whether this `initialized` was a trial's; if so, the control follows.
    pub(crate) fn trial_initialized_over(
        &mut self,
        id: AttemptId,
        attempt: &Attempt,
        outcome: &Outcome<'_>,
    ) -> bool {
        let latch = attempt.latch;
        let Some((old, same)) = self.tried(attempt) else { return false };
        let ours = matches!(
            self.diagnosis(latch, old).map(|d| &d.step),
            Some(Asked::TrialInitialized(a, _, _)) if *a == id
        );
        if ours {
            let generation = attempt.generation;
            let control = self.ping(latch, generation, Question::Control, Connection::Young, policy::PING_MS);
            if let Some(diagnosis) = self.diagnosis(latch, old) {
                diagnosis.step = Asked::Control(control, generation, same);
                if let (Some(second), Outcome::Cut(cut)) = (&mut diagnosis.second, outcome) {
                    second.told = cut.wrote;
                }
            }
        }
        ours
    }

    pub(crate) fn control_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let latch = attempt.latch;
        let Some((old, same)) = self.tried(attempt) else { return };
        if !matches!(self.diagnosis(latch, old).map(|d| &d.step), Some(Asked::Control(a, _, _)) if *a == id) {
            return;
        }
        let now = match outcome {
            Outcome::Answered(Answer::Result) => None,
            Outcome::Answered(Answer::Error { code, message }) => {
                let now = Same { status: 200, digest: rpc_digest(code, message) };
                (now == same).then_some(now)
            }
            Outcome::Refused(refusal) => Some(Same { status: refusal.status, digest: refusal.digest }),
            Outcome::Cut(_) | Outcome::Limit | Outcome::Session(_) | Outcome::Listed(_) => {
                // Nobody has said anything, so nothing is found.
                self.send_delete(latch, attempt.generation);
                self.settle_doubt(latch, old, Finding::PassOn);
                return;
            }
        };
        match now {
            None => {
                let subjects = self.take_subjects(latch, old);
                let Some(second) = self.diagnosis(latch, old).and_then(|d| d.second.take()) else { return };
                self.promote(latch, old, attempt.generation, &second.facts, second.told);
                self.judge_subjects(subjects, &Finding::Gone(same));
            }
            Some(now) if now == same => {
                self.send_delete(latch, attempt.generation);
                self.not_about_the_session(latch, old, same);
            }
            Some(_) => {
                self.send_delete(latch, attempt.generation);
                self.settle_doubt(latch, old, Finding::PassOn);
            }
        }
    }

    fn not_about_the_session(&mut self, latch: LatchId, old: Gen, same: Same) {
        let until = self.now.plus(policy::CLEARED_MS);
        if self.cleared.len() >= 64 {
            self.cleared.remove(0);
        }
        self.cleared.push(Cleared { status: same.status, digest: same.digest, until });
        self.settle_doubt(latch, old, Finding::PassOn);
    }

    /// A session that answered a moment ago is refused: do several servers answer at this address?
    pub(crate) fn ask_replicas(&mut self, id: LatchId, generation: Gen, ex: Option<ExId>) {
        let now = self.now;
        if let Some(exchange) = ex.and_then(|ex| self.exchanges.get_mut(&ex)) {
            exchange.misled += 1;
        }
        let ping = self.ping(id, generation, Question::Replica, Connection::Fresh, policy::PING_MS);
        if let Some(latch) = self.latches.get_mut(&id) {
            let step = Asked::Replica(ping, policy::REPLICA_PINGS - 1);
            let diagnosis = Diagnosis { step, subjects: Vec::new(), began: now, second: None };
            latch.state = LatchState::Doubted(generation, Box::new(diagnosis));
        }
    }

    pub(crate) fn replica_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let (latch, generation) = (attempt.latch, attempt.generation);
        let has_id = self.latches.get(&latch).is_some_and(|l| l.has_id);
        let left = match self.diagnosis(latch, generation).map(|d| &d.step) {
            Some(Asked::Replica(a, left)) if *a == id => *left,
            _ => return,
        };
        let alive = match outcome {
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) => true,
            Outcome::Refused(refusal) => match reading::read(&refusal, has_id) {
                Reading::Gone | Reading::Suspected | Reading::Redirected => false,
                Reading::Gateway | Reading::NotMcp | Reading::Later => {
                    self.missing(&refusal);
                    self.bound_again(latch, generation);
                    return;
                }
                Reading::AboutRequest | Reading::Credentials | Reading::WrongPlace => true,
            },
            Outcome::Cut(cut) => {
                // The refusal stands; what was refused waits for the address to answer again.
                let known = self.away().is_some();
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: !cut.wrote || known,
                    after: None,
                });
                self.bound_again(latch, generation);
                return;
            }
            Outcome::Limit => false,
        };
        if alive {
            self.tracker.not_shared(self.now);
            self.journal(journal::What::Cleared, Some(latch), |entry| {
                entry.detail = Some("another server at this address knows the session".to_owned());
            });
            // What was refused goes out on a connection of its own.
            let waiting = self.latches.get(&latch).map(|l| l.waiting.clone()).unwrap_or_default();
            for ex in &waiting {
                if let Some(exchange) = self.exchanges.get_mut(ex) {
                    exchange.fresh = exchange.refused_by.remove(&generation);
                }
            }
            self.bound_again(latch, generation);
        } else if left > 0 {
            let ping = self.ping(latch, generation, Question::Replica, Connection::Fresh, policy::PING_MS);
            if let Some(diagnosis) = self.diagnosis(latch, generation) {
                diagnosis.step = Asked::Replica(ping, left - 1);
            }
        } else {
            self.lose(latch, generation);
        }
    }

    fn bound_again(&mut self, id: LatchId, generation: Gen) {
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.state = LatchState::Bound(generation);
        }
        self.dirty.insert(id);
    }

    fn take_subjects(&mut self, id: LatchId, generation: Gen) -> Vec<Subject> {
        self.diagnosis(id, generation).map(|d| std::mem::take(&mut d.subjects)).unwrap_or_default()
    }

    fn settle_doubt(&mut self, id: LatchId, generation: Gen, finding: Finding) {
        let subjects = self.take_subjects(id, generation);
        let took = self.latches.get(&id).and_then(Latch::doubted_since).map(|began| self.now.since(began));
        match finding {
            Finding::PassOn => {
                self.bound_again(id, generation);
                self.journal(journal::What::Cleared, Some(id), |entry| entry.ms = took);
            }
            Finding::Away(_) => self.bound_again(id, generation),
            Finding::Gone(_) => self.lose(id, generation),
        }
        self.judge_subjects(subjects, &finding);
    }

    /// What becomes of the answers that were kept.
    fn judge_subjects(&mut self, subjects: Vec<Subject>, finding: &Finding) {
        for subject in subjects {
            let (attempt, status) = (subject.attempt, subject.same.status);
            // One that is nobody's request was not kept.
            let Some(ex) = subject.ex else { continue };
            if !self.exchanges.get(&ex).is_some_and(|e| e.state == ExState::Doubted(attempt)) {
                self.out.push(Effect::Drop { attempt });
                continue;
            }
            let proven = match finding {
                Finding::Away(cause) if (500..=599).contains(&status) => {
                    self.out.push(Effect::Drop { attempt });
                    self.again_or_back(ex, Delivery::Unknown, cause);
                    continue;
                }
                Finding::PassOn | Finding::Away(_) => None,
                Finding::Gone(same) => Some(
                    *same == subject.same
                        && match status {
                            503 => true,
                            _ if executed_by(status) == Executed::No => true,
                            // These statuses are also what a handler's own failure looks like.
                            _ => subject.raised != Raised::Refusal { speaks: false },
                        },
                ),
            };
            match proven {
                None if subject.raised == Raised::Answer => {
                    self.out.push(Effect::Pass { ex, attempt });
                    self.forget(ex);
                }
                None => self.pass_refusal(attempt, ex, executed_by(status)),
                Some(true) => self.refused_and_lost(attempt, ex),
                Some(false) if executed_by(status) == Executed::No => {
                    self.pass_refusal(attempt, ex, Executed::No);
                }
                Some(false) => {
                    self.out.push(Effect::Drop { attempt });
                    let cause = format!("HTTP {status} came in its place, and the session was lost");
                    self.again_or_back(ex, Delivery::Unknown, &cause);
                }
            }
        }
    }

    /// The diagnosis proved that it did not run.
    fn refused_and_lost(&mut self, attempt: AttemptId, ex: ExId) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let Some(generation) = exchange.seen_by.last().copied() else { return };
        let latch = exchange.latch;
        let began = self.now;
        let of = Attempt {
            latch,
            generation,
            purpose: Purpose::Exchange(ex),
            sent: began,
            begun: None,
            taken_over: false,
        };
        self.refused_as_gone(attempt, &of, ex);
    }
}

impl Latch {
    /// The second session of a diagnosis, once it is open.
    pub(crate) fn trial(&self) -> Option<Gen> {
        match &self.state {
            LatchState::Doubted(_, diagnosis) => match &diagnosis.step {
                Asked::TrialInitialized(_, generation, _) | Asked::Control(_, generation, _) => {
                    Some(*generation)
                }
                Asked::Ping(_) | Asked::Line(_) | Asked::Trial(..) | Asked::Replica(..) => None,
            },
            LatchState::Opening(_)
            | LatchState::Bound(_)
            | LatchState::Refused(_)
            | LatchState::Relatching(..)
            | LatchState::Parked(_)
            | LatchState::Ended => None,
        }
    }

    /// Its diagnosis waits for a permit.
    pub(crate) fn wants_a_trial(&self) -> bool {
        matches!(&self.state, LatchState::Doubted(_, diagnosis) if matches!(diagnosis.step, Asked::Line(_)))
    }

    /// The answer to a client's request is kept until a doubt is settled.
    pub(crate) fn keeps_an_answer(&self) -> bool {
        match &self.state {
            LatchState::Doubted(_, diagnosis) => diagnosis.subjects.iter().any(|s| s.ex.is_some()),
            _ => false,
        }
    }

    /// The oldest exchange that waits for it, those among them whose answers raised a doubt.
    pub(crate) fn first_waiting(&self) -> Option<ExId> {
        let doubted = match &self.state {
            LatchState::Doubted(_, diagnosis) => diagnosis.subjects.iter().filter_map(|s| s.ex).min(),
            _ => None,
        };
        self.waiting.first().copied().into_iter().chain(doubted).min()
    }

    /// How long the doubt has lasted.
    pub(crate) fn doubted_since(&self) -> Option<At> {
        match &self.state {
            LatchState::Doubted(_, diagnosis) => Some(diagnosis.began),
            _ => None,
        }
    }
}
