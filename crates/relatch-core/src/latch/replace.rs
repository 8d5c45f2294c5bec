//! Putting a new session in the place of one that lives, by wish.
//!
//! Decides when the new one is begun beside the old one, which takes its client's requests until the new one is there, and
//! that the old one goes on where the new one can't be had. The handshake itself is `relatch`'s; the old session's running
//! exchanges go to their end in it, as ever.

use std::collections::BTreeMap;

use super::{Doubtful, Farewell, Knows, Latch, LatchState, Loss};
use crate::effect::{Connection, Effect, What};
use crate::input::Told;
use crate::upstream::{Machine, Purpose};
use crate::{At, AttemptId, Gen, LatchId, journal, policy};

/// What has come of a wish for new sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replacement {
    /// Latches that have yet to get theirs.
    pub pending: usize,
    /// Latches that have one.
    pub bound: usize,
    /// Latches whose old session goes on.
    pub stayed: usize,
    /// Why it does, of the last of them.
    pub cause: Option<String>,
}

/// A handshake for a session that is to take the place of one that is in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside {
    pub(crate) attempt: AttemptId,
    pub(crate) generation: Gen,
    pub(crate) since: At,
}

/// A wish under way.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// Latches that have yet to get a session, and their newest one when it was wished.
    latches: BTreeMap<LatchId, Gen>,
    bound: usize,
    stayed: usize,
    cause: Option<String>,
}

impl Machine {
    /// What has come of the last [`Input::Replace`](crate::Input::Replace).
    #[must_use]
    pub fn replacement(&self) -> Replacement {
        let Wish { latches, bound, stayed, cause } = &self.wish;
        Replacement { pending: latches.len(), bound: *bound, stayed: *stayed, cause: cause.clone() }
    }

    /// The session of a latch that takes its requests.
    #[must_use]
    pub fn in_use(&self, latch: LatchId) -> Option<Gen> {
        self.latches.get(&latch).and_then(Latch::in_use)
    }

    /// How many requests of clients are at sessions that another one has replaced.
    #[must_use]
    pub fn in_flight_of_older(&self) -> usize {
        let older = |id: &LatchId, latch: &Latch| {
            let newest = latch.in_use();
            let attempts = self.attempts_of(*id).filter(|(_, a)| matches!(a.purpose, Purpose::Exchange(_)));
            attempts.filter(|(_, a)| newest.is_some_and(|newest| a.generation < newest)).count()
        };
        self.latches.iter().map(|(id, latch)| older(id, latch)).sum()
    }

    /// Every latch that has a session, or is about to, gets a new one beside it.
    pub(crate) fn replace(&mut self) {
        let has_one = |latch: &Latch| {
            matches!(
                latch.state,
                LatchState::Bound(_)
                    | LatchState::Doubted(..)
                    | LatchState::Opening(_)
                    | LatchState::Relatching(..)
            )
        };
        self.wish = Wish::default();
        for (id, latch) in self.latches.iter_mut().filter(|(_, latch)| has_one(latch)) {
            self.wish.latches.insert(*id, Gen(latch.begun));
            // It is bound anew now, and not when its client comes back.
            latch.seen = Some(self.now);
            latch.unanswered = 0;
            latch.rested = 0;
            self.dirty.insert(*id);
        }
        for (id, latch) in self.latches.iter_mut() {
            // One that rests, since its sessions died young, rests no more: what is started now is another server.
            if let LatchState::Refused(loss) = &mut latch.state {
                loss.not_before = None;
                loss.trouble = None;
                latch.unanswered = 0;
                latch.rested = 0;
                latch.seen = Some(self.now);
                self.dirty.insert(*id);
            }
        }
        let words = match self.wish.latches.len() {
            1 => "the one that lives".to_owned(),
            living => format!("the {living} that live"),
        };
        self.journal(journal::What::Restarting, None, |entry| entry.detail = Some(words));
    }

    /// Whether a handshake beside the session in use is due: its client has finished its own.
    pub(crate) fn wishes_for_another(&self, latch: &Latch) -> bool {
        let LatchState::Bound(generation) = latch.state else { return false };
        let telling = latch.note.as_ref().is_some_and(|sent| sent.2 == Told::Initialized);
        !telling
            && latch.beside.is_none()
            && latch.initialized
            && latch.announced == Some(generation)
            && self.wish.latches.get(&latch.id).is_some_and(|newest| generation <= *newest)
    }

    /// A handshake of relatch's own, for the next session of this latch.
    pub(super) fn send_handshake(&mut self, id: LatchId) -> (Gen, AttemptId) {
        let generation = self.next_generation(id);
        let attempt = self.send(
            id,
            generation,
            What::Initialize { ex: None },
            Purpose::Handshake,
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        );
        (generation, attempt)
    }

    /// Opens another session beside the one in use: there is a permit for it.
    pub(crate) fn begin_beside(&mut self, id: LatchId) {
        let (generation, attempt) = self.send_handshake(id);
        let since = self.now;
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.beside = Some(Box::new(Beside { attempt, generation, since }));
        }
    }

    /// This session is to be replaced, and lives. Returns false where its client has yet to finish its own handshake.
    pub(super) fn wish_for_another(&mut self, id: LatchId, generation: Gen) -> bool {
        let now = self.now;
        let settled = |latch: &&mut Latch| latch.initialized && latch.announced == Some(generation);
        let Some(latch) = self.latches.get_mut(&id).filter(settled) else { return false };
        latch.state = LatchState::Refused(Loss::new(Some(generation), now, Doubtful::Wished));
        self.dirty.insert(id);
        true
    }

    /// No other session is to be had in place of this one, which lives and goes on.
    pub(super) fn stays(&mut self, id: LatchId, cause: &str) {
        self.goes_on(id, cause);
        if self.policy.process {
            // What failed for one of them would fail for each.
            let waits = |latch: &&Latch| match &latch.state {
                LatchState::Refused(loss) => loss.doubt == Doubtful::Wished,
                _ => self.wishes_for_another(latch),
            };
            let others: Vec<LatchId> = self.latches.values().filter(waits).map(|latch| latch.id).collect();
            for other in others {
                self.goes_on(other, cause);
            }
        }
    }

    /// The same of one whose new session was opened, and gone before it could be used.
    pub(super) fn stays_without(&mut self, id: LatchId, other: Gen, cause: &str) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.old.insert(other, Farewell::Forget);
        // It had been told, or none would have been wished.
        latch.announced = latch.loss().and_then(|loss| loss.generation);
        latch.knows = Knows::NotTheLatest;
        self.out.push(Effect::Record { latch: id });
        self.stays(id, cause);
    }

    /// The session in use goes on, or the one that was to be replaced.
    pub(super) fn goes_on(&mut self, id: LatchId, cause: &str) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        if let Some(generation) = latch.loss().and_then(|loss| loss.generation) {
            latch.state = LatchState::Bound(generation);
            latch.old.remove(&generation);
        }
        self.dirty.insert(id);
        self.journal(journal::What::Stayed, Some(id), |entry| entry.detail = Some(cause.to_owned()));
        if self.wish.latches.remove(&id).is_some() {
            self.wish.stayed += 1;
            self.wish.cause = Some(cause.to_owned());
        }
    }

    /// A latch has got a session.
    pub(super) fn wish_fulfilled(&mut self, id: LatchId, generation: Gen) {
        if self.wish.latches.get(&id).is_some_and(|newest| generation > *newest) {
            self.wish.latches.remove(&id);
            self.wish.bound += 1;
        }
    }

    /// A latch is over, and what was wished for it.
    pub(super) fn wish_is_void(&mut self, id: LatchId) {
        self.wish.latches.remove(&id);
    }
}
