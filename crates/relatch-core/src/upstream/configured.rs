//! The user has decided otherwise about an upstream that is at work: other settings, other credentials, another address.
//!
//! Settings count from the next request on. Where the address is another one, every latch is bound anew, its session being
//! of the former address: attempts that are open there run on, and what they find says nothing of the present one.

use super::timers::Why;
use super::{Attempt, Machine, Reach};
use crate::effect::Effect;
use crate::exchange::Copying;
use crate::latch::{Doubtful, LatchState, Loss};
use crate::policy::Policy;
use crate::{Gen, LatchId, journal};

impl Machine {
    pub(super) fn reconfigured(&mut self, policy: &Policy, moved: bool, headers: bool) {
        let changes = self.policy.changes(policy, moved, headers);
        if changes.is_empty() {
            return;
        }
        self.policy = policy.clone();
        self.journal(journal::What::Configured, None, |entry| entry.detail = Some(changes.join(", ")));
        if moved {
            self.move_on();
        }
        if moved || headers {
            let parked: Vec<LatchId> = self
                .latches
                .values()
                .filter(|latch| matches!(latch.state, LatchState::Parked(_)))
                .map(|latch| latch.id)
                .collect();
            for id in parked {
                self.unpark(id);
            }
        }
        self.knocked = true;
    }

    /// What is known was known of the former address.
    fn move_on(&mut self) {
        let now = self.now;
        self.reach = Reach::Up;
        self.timers.clear(Why::Scout);
        self.spoken = false;
        self.gateway_seen = None;
        self.back_at = None;
        self.cleared.clear();
        self.idle_look = None;
        self.probed = super::watch::Found::Answer;
        self.tracker.moved(now);
        let mut asking = Vec::new();
        for (id, latch) in self.latches.iter_mut() {
            latch.former = latch.begun;
            // Whoever reads it after a restart finds the session at the present address, without an id of the former.
            self.out.push(Effect::Record { latch: *id });
            latch.unanswered = 0;
            latch.rested = 0;
            self.dirty.insert(*id);
            if let LatchState::Refused(loss) = &mut latch.state {
                loss.not_before = None;
                loss.trouble = None;
                if let Doubtful::Asking(attempt) = loss.doubt {
                    asking.push(attempt);
                }
                if loss.may_live().is_some() {
                    loss.doubt = Doubtful::Replaced;
                }
            }
        }
        for attempt in asking {
            self.abort(attempt);
        }
        for (ex, exchange) in self.exchanges.iter_mut() {
            // A copy of what the former address said is none of the present one's.
            match exchange.copy {
                Copying::Found(_) => exchange.copy = Copying::Unsought,
                Copying::Sought => {
                    exchange.copy = Copying::Missing;
                    self.fresh.insert(*ex);
                }
                Copying::Unsought | Copying::Missing => {}
            }
        }
    }

    /// A session of the former address makes way for one of the present.
    pub(super) fn replace_former(&mut self, id: LatchId, generation: Gen) -> bool {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id).filter(|latch| latch.is_former(generation)) else {
            return false;
        };
        latch.state = LatchState::Refused(Loss::new(Some(generation), now, Doubtful::Replaced));
        self.dirty.insert(id);
        true
    }

    /// Whether an attempt is at a former address. From here on its latch is at hand.
    pub(super) fn is_elsewhere(&mut self, attempt: &Attempt) -> bool {
        self.latches.get_mut(&attempt.latch).is_some_and(|latch| latch.is_former(attempt.generation))
    }

    /// Its credentials may be new: it tries again.
    pub(super) fn unpark(&mut self, id: LatchId) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let LatchState::Parked(loss) = &latch.state else { return };
        latch.state = match (loss.doubt, loss.generation) {
            (Doubtful::Replaced, Some(generation)) => LatchState::Bound(generation),
            _ => LatchState::Refused(Box::new(Loss { not_before: None, ..(**loss).clone() })),
        };
        self.dirty.insert(id);
    }
}
