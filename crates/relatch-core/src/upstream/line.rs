//! The line for permits: how much relatch does at one upstream of its own accord at the same time, and for whom first.
//!
//! A server that comes back meets all its sessions at once. A handshake, be it a diagnosis's trial, and the question
//! whether a session has survived, therefore wait for a permit. Latches with waiting exchanges go first, the longest wait at the head; then
//! those whose client is attached; then the rest. A session that is known to live takes its requests without one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Machine, Question};
use crate::effect::Connection;
use crate::fault::Fault;
use crate::latch::{Doubtful, Heard, Latch, LatchState};
use crate::{ExId, LatchId, policy};

/// A place in the line; the smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// An exchange waits for it: its oldest.
    Calls(ExId),
    /// Its client is attached.
    Attached,
    /// Its client was heard of lately.
    Quiet,
}

/// The latches that wait for a permit.
#[derive(Debug, Default)]
pub(crate) struct Line {
    places: BTreeMap<LatchId, Place>,
    order: BTreeSet<(Place, LatchId)>,
}

impl Line {
    /// Puts a latch in its place, or takes it out.
    pub(crate) fn set(&mut self, id: LatchId, place: Option<Place>) {
        let before = match place {
            Some(place) => self.places.insert(id, place),
            None => self.places.remove(&id),
        };
        if before == place {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, id));
        }
        if let Some(place) = place {
            self.order.insert((place, id));
        }
    }

    pub(crate) fn first(&self) -> Option<LatchId> {
        self.order.first().map(|(_, id)| *id)
    }

    #[cfg(debug_assertions)]
    pub(crate) fn has(&self, id: LatchId) -> bool {
        self.places.contains_key(&id)
    }
}

impl Machine {
    /// Where this latch stands in the line, if it needs a permit.
    pub(super) fn place(&self, id: LatchId) -> Option<Place> {
        let latch = self.latches.get(&id).filter(|l| l.wanted(self.now) || l.wants_a_trial())?;
        // In a pause only doubts about running exchanges are settled.
        let needs = self.away().is_none()
            && (!self.is_paused() || latch.keeps_an_answer())
            && match &latch.state {
                LatchState::Refused(loss) => {
                    !matches!(loss.doubt, Doubtful::Asking(_))
                        && loss.not_before.is_none_or(|at| at <= self.now)
                }
                LatchState::Bound(_) if latch.has_to_be_heard() => latch.heard == Heard::No,
                LatchState::Bound(_) => self.wishes_for_another(latch),
                // One handshake at a time.
                LatchState::Doubted(..) => latch.wants_a_trial() && latch.beside.is_none(),
                LatchState::Opening(_)
                | LatchState::Relatching(..)
                | LatchState::Parked(_)
                | LatchState::Ended => false,
            };
        needs.then(|| match latch.first_waiting() {
            Some(ex) => Place::Calls(ex),
            None if latch.attached => Place::Attached,
            None => Place::Quiet,
        })
    }

    /// Gives the next permit, if one is free and somebody waits for it. Returns whether it did.
    pub(super) fn give_permit(&mut self) -> bool {
        let full = self.attempts.permits() >= policy::PERMITS && !self.planted(Fault::IgnoresHandshakeCap);
        if self.away().is_some() || full {
            return false;
        }
        let Some(id) = self.line.first() else { return false };
        self.line.set(id, None);
        self.dirty.insert(id);
        // It may have lost its claim since it was looked at: nobody asks for it any more.
        if self.place(id).is_none() {
            return true;
        }
        match self.latches.get(&id).map(|l| &l.state) {
            Some(LatchState::Refused(_)) => match self.latches.get(&id).and_then(Latch::asks_first) {
                Some(generation) => {
                    self.ask_first(id, generation);
                }
                None => {
                    self.begin_handshake(id);
                }
            },
            Some(LatchState::Bound(_))
                if self.latches.get(&id).is_some_and(|latch| self.wishes_for_another(latch))
                    && !self.latches.get(&id).is_some_and(Latch::has_to_be_heard) =>
            {
                self.begin_beside(id);
            }
            Some(LatchState::Bound(generation)) => {
                let generation = *generation;
                let ping = self.ping(id, generation, Question::Survived, Connection::Young, policy::LOOK_MS);
                if let Some(latch) = self.latches.get_mut(&id) {
                    latch.heard = Heard::Asking(ping);
                }
            }
            Some(LatchState::Doubted(..)) => self.begin_trial(id),
            Some(
                LatchState::Opening(_)
                | LatchState::Relatching(..)
                | LatchState::Parked(_)
                | LatchState::Ended,
            )
            | None => {}
        }
        true
    }
}
