//! Closing a gap: what may have changed while nobody could tell the client is compared, and the client is told.
//!
//! The shell compares, since it keeps the digests; this file decides when, and what is told.

use relatch_wire::method::ListKind;

use super::{Gap, LatchState};
use crate::effect::{Connection, Effect, Tell, What};
use crate::input::Listed;
use crate::upstream::{Attempt, Machine, Outcome, Purpose, Why};
use crate::{AttemptId, Gen, LatchId, journal, policy};

impl Machine {
    /// Begins the comparison that is due, if any.
    pub(crate) fn close_gap(&mut self, id: LatchId, generation: Gen) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        // A client that has not finished its own handshake has seen nothing yet.
        if !latch.initialized || !latch.wanted(now) {
            return;
        }
        match latch.gap {
            Gap::Closed | Gap::Comparing(..) => return,
            Gap::Open => {}
            Gap::Mild => {
                if let Some(due) =
                    latch.compared.map(|at| at.plus(policy::COMPARE_EVERY_MS)).filter(|due| *due > now)
                {
                    self.timers.set(Why::CompareDue(id), due);
                    return;
                }
            }
        }
        latch.compared = Some(now);
        let kinds: Vec<ListKind> = latch.lists.iter().copied().collect();
        self.compare_next(id, generation, kinds);
    }

    fn compare_next(&mut self, id: LatchId, generation: Gen, mut kinds: Vec<ListKind>) {
        if kinds.is_empty() {
            self.gap_closed(id);
            return;
        }
        let kind = kinds.remove(0);
        let attempt = self.ask_for_page(id, generation, kind, None);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.gap = Gap::Comparing(attempt, kinds);
        }
    }

    fn ask_for_page(
        &mut self,
        id: LatchId,
        generation: Gen,
        kind: ListKind,
        cursor: Option<String>,
    ) -> AttemptId {
        let what = What::List { kind, cursor };
        self.send(id, generation, what, Purpose::List(kind), Connection::Any, Some(policy::LIST_MS))
    }

    fn gap_closed(&mut self, id: LatchId) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.gap = Gap::Closed;
        let uris: Vec<String> = latch.subscriptions.keys().cloned().collect();
        for uri in uris {
            self.out.push(Effect::Tell { latch: id, tell: Tell::Updated(uri) });
        }
        self.out.push(Effect::Record { latch: id });
    }

    pub(crate) fn list_over(
        &mut self,
        id: AttemptId,
        attempt: &Attempt,
        kind: ListKind,
        outcome: Outcome<'_>,
    ) {
        let latch_id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let bound = matches!(latch.state, LatchState::Bound(g) if g == attempt.generation);
        let Gap::Comparing(current, rest) = &latch.gap else { return };
        if *current != id {
            return;
        }
        let rest = rest.clone();
        if !bound {
            latch.gap = Gap::Open;
            return;
        }
        match outcome {
            Outcome::Listed(Listed::More(cursor)) => {
                let next = self.ask_for_page(latch_id, attempt.generation, kind, Some(cursor));
                if let Some(latch) = self.latches.get_mut(&latch_id) {
                    latch.gap = Gap::Comparing(next, rest);
                }
                return;
            }
            Outcome::Listed(Listed::Same) => {}
            Outcome::Listed(Listed::Differs(changes)) => {
                self.out.push(Effect::Tell { latch: latch_id, tell: Tell::ListChanged(kind) });
                self.journal(journal::What::ListChanged, Some(latch_id), |entry| {
                    entry.subject = Some(kind.method().to_owned());
                    entry.detail = Some(changes);
                });
            }
            Outcome::Cut(_) | Outcome::Refused(_) => {
                // The outage or the refusal is found out by its own means; the comparison begins anew after it.
                latch.gap = Gap::Mild;
                return;
            }
            Outcome::Answered(_) | Outcome::Limit | Outcome::Session(_) => {
                self.journal(journal::What::Skipped, Some(latch_id), |entry| {
                    entry.subject = Some(kind.method().to_owned());
                });
            }
        }
        self.compare_next(latch_id, attempt.generation, rest);
    }
}
