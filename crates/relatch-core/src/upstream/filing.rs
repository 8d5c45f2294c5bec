//! The sets that spare a walk over all latches: who waits for a permit, who is unsettled, in trouble, attached.
//!
//! Decides where a latch stands in them after each look at it. Nearly every look finds a bound latch that has carried a
//! call and stands where it stood: of such a one nothing is touched.

use super::Machine;
use crate::LatchId;
use crate::latch::{Latch, LatchState, Resting};

impl Machine {
    /// Keeps the sets that spare a walk over all latches, and the line for permits.
    pub(super) fn file(&mut self, id: LatchId) {
        let resting = self.latches.get(&id).and_then(|latch| self.resting(latch));
        if let Some(latch) = self.latches.get_mut(&id) {
            let before = std::mem::replace(&mut latch.filed, resting);
            if resting.is_some() && before == resting {
                return;
            }
        }
        let place = self.place(id);
        self.line.set(id, place);
        let latch = self.latches.get(&id);
        let unsettled = latch.is_some_and(|l| {
            l.wanted(self.now)
                && matches!(
                    l.state,
                    LatchState::Doubted(..) | LatchState::Refused(_) | LatchState::Relatching(..)
                )
        });
        let attached = latch.is_some_and(|l| l.attached && !matches!(l.state, LatchState::Ended));
        let before = match latch.and_then(Latch::loss).and_then(|loss| Some((loss, loss.trouble.as_ref()?))) {
            Some((loss, (code, cause))) => {
                self.tracker.trouble(self.now, *code, cause, loss.not_before);
                self.troubled.insert(id, *code)
            }
            None => self.troubled.remove(&id),
        };
        if let Some(code) = before
            && !self.troubled.values().any(|other| *other == code)
        {
            self.tracker.no_more(code);
        }
        if unsettled {
            self.unsettled.insert(id)
        } else {
            self.unsettled.remove(&id)
        };
        if attached {
            self.attached.insert(id)
        } else {
            self.attached.remove(&id)
        };
    }

    /// How a latch is filed that is in none of these sets, but for its client's being there; `None` of any other.
    fn resting(&self, latch: &Latch) -> Option<Resting> {
        let bound = matches!(latch.state, LatchState::Bound(_));
        let rests = bound && !latch.has_to_be_heard() && !self.wishes_for_another(latch);
        rests.then_some(Resting { attached: latch.attached })
    }
}
