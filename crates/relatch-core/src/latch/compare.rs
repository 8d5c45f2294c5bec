//! Closing a gap: what may have changed while nobody could tell the client is compared, and the client is told.
//!
//! The shell compares, since it keeps the digests; this file decides when, and what is told.

use relatch_wire::method::ListKind;

use super::reading::{self, Reading};
use super::{Gap, LatchState, Raised};
use crate::effect::{Connection, Effect, Tell, What};
use crate::exchange::words;
use crate::fault::Fault;
use crate::few::Kinds;
use crate::input::{Answer, CutKind, Listed};
use crate::upstream::{Attempt, Machine, Outcome, Purpose, Why, rpc_digest};
use crate::{AttemptId, Gen, LatchId, journal, policy};

impl Machine {
    /// Begins the comparison that is due, if any.
    pub(crate) fn close_gap(&mut self, id: LatchId, generation: Gen) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        // A client that has not finished its own handshake has seen nothing yet.
        if latch.gap != Gap::Open || !latch.initialized || !latch.wanted(now) {
            return;
        }
        if latch.compare_at > now {
            let due = latch.compare_at;
            self.timers.set(Why::CompareDue(id), due);
            return;
        }
        latch.compare_at = now.plus(policy::COMPARE_EVERY_MS);
        let kinds = latch.lists;
        self.compare_next(id, generation, kinds);
    }

    fn compare_next(&mut self, id: LatchId, generation: Gen, mut kinds: Kinds) {
        let Some(kind) = kinds.pop_first() else {
            self.gap_closed(id);
            return;
        };
        let attempt = self.ask_for_page(id, generation, kind, None);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.gap = Gap::Comparing(attempt, kinds, 1);
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
        let uris: Vec<String> = latch.wishes().subscriptions.keys().cloned().collect();
        for uri in uris {
            self.out.push(Effect::Tell { latch: id, tell: Tell::Updated(uri) });
        }
        self.out.push(Effect::Record { latch: id });
    }

    /// The client has seen something that may not be so any more.
    pub(crate) fn compare_anew(&mut self, id: LatchId) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.compare_at = now;
        if let Gap::Comparing(attempt, ..) = std::mem::replace(&mut latch.gap, Gap::Open) {
            self.abort(attempt);
        }
        self.dirty.insert(id);
    }

    /// The comparison did not come to its end, and begins anew after this time at the earliest.
    fn compare_again(&mut self, id: LatchId, pause: u64) {
        let at = self.now.plus(pause);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.gap = Gap::Open;
            latch.compare_at = at;
        }
    }

    /// A list was refused with words that may be about the session: it is asked, and the comparison begins anew.
    fn doubt_while_comparing(
        &mut self,
        id: AttemptId,
        attempt: &Attempt,
        status: u16,
        digest: u64,
        raised: Raised,
    ) {
        let asks = self.doubt(attempt, None, id, status, digest, raised);
        self.compare_again(
            attempt.latch,
            if asks { policy::COMPARE_AGAIN_MS } else { policy::COMPARE_EVERY_MS },
        );
    }

    /// What its client knows of this list is the server's own word from now on, or the client hears that it is not.
    fn no_copy_any_more(&mut self, id: LatchId, kind: ListKind) {
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.from_copy.remove(kind);
        }
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
        let (has_id, from_copy) = (latch.has_id, latch.from_copy.contains(kind));
        let Gap::Comparing(current, rest, pages) = &latch.gap else { return };
        if *current != id {
            return;
        }
        let (rest, pages) = (*rest, *pages);
        if !bound || self.is_paused() {
            self.compare_again(latch_id, policy::COMPARE_AGAIN_MS);
            return;
        }
        match outcome {
            Outcome::Listed(Listed::More(_)) if pages >= policy::LIST_PAGES => {
                let pages = format!("longer than {pages} pages");
                self.journal(journal::What::Skipped, Some(latch_id), |entry| {
                    entry.subject = Some(kind.method().to_owned());
                    entry.detail = Some(pages);
                });
            }
            Outcome::Listed(Listed::More(cursor)) => {
                let next = self.ask_for_page(latch_id, attempt.generation, kind, Some(cursor));
                if let Some(latch) = self.latches.get_mut(&latch_id) {
                    latch.gap = Gap::Comparing(next, rest, pages + 1);
                }
                return;
            }
            Outcome::Listed(Listed::Same) => self.no_copy_any_more(latch_id, kind),
            Outcome::Listed(Listed::Differs(changes)) => {
                self.no_copy_any_more(latch_id, kind);
                if !self.planted(Fault::KeepsChangesSecret) {
                    self.out.push(Effect::Tell { latch: latch_id, tell: Tell::ListChanged(kind) });
                }
                self.journal(journal::What::ListChanged, Some(latch_id), |entry| {
                    entry.subject = Some(kind.method().to_owned());
                    entry.detail = Some(changes);
                });
            }
            Outcome::Cut(cut) if cut.kind != CutKind::Garbled => {
                self.compare_again(latch_id, policy::COMPARE_AGAIN_MS);
                self.connection_broke(&cut.cause);
                return;
            }
            Outcome::Refused(refusal) => match reading::read(&refusal, has_id) {
                Reading::Gone => {
                    self.compare_again(latch_id, policy::COMPARE_AGAIN_MS);
                    self.session_refused(latch_id, attempt.generation, None);
                    return;
                }
                Reading::Gateway | Reading::NotMcp => {
                    self.compare_again(latch_id, policy::COMPARE_AGAIN_MS);
                    self.missing(&refusal);
                    return;
                }
                Reading::Later => {
                    self.compare_again(
                        latch_id,
                        refusal.retry_after.unwrap_or(0).max(policy::COMPARE_AGAIN_MS),
                    );
                    return;
                }
                Reading::Credentials => {
                    self.compare_again(latch_id, policy::COMPARE_AGAIN_MS);
                    self.park(latch_id, attempt.generation);
                    return;
                }
                Reading::Suspected if has_id => {
                    let speaks = reading::speaks_of_session(refusal.body);
                    self.doubt_while_comparing(
                        id,
                        attempt,
                        refusal.status,
                        refusal.digest,
                        Raised::Refusal { speaks },
                    );
                    return;
                }
                // For now it can't be had; who never offers it says so with an error in a 200.
                Reading::AboutRequest | Reading::WrongPlace | Reading::Redirected | Reading::Suspected => {
                    self.compare_again(latch_id, policy::COMPARE_EVERY_MS);
                    return;
                }
            },
            Outcome::Answered(Answer::Error { code, message })
                if has_id && reading::error_raises_doubt(code, message) =>
            {
                self.doubt_while_comparing(id, attempt, 200, rpc_digest(code, message), Raised::Answer);
                return;
            }
            Outcome::Limit => {
                self.compare_again(latch_id, policy::COMPARE_EVERY_MS);
                return;
            }
            Outcome::Answered(Answer::Error { code, message }) if from_copy => {
                // The copy had such a list, and the server that is there has none: let the client ask it.
                self.no_copy_any_more(latch_id, kind);
                self.out.push(Effect::Tell { latch: latch_id, tell: Tell::ListChanged(kind) });
                let words = words::refused_with(code, message);
                self.journal(journal::What::ListChanged, Some(latch_id), |entry| {
                    entry.subject = Some(kind.method().to_owned());
                    entry.detail = Some(words);
                });
            }
            Outcome::Cut(_) | Outcome::Answered(_) | Outcome::Session(_) => {
                self.journal(journal::What::Skipped, Some(latch_id), |entry| {
                    entry.subject = Some(kind.method().to_owned());
                });
            }
        }
        self.compare_next(latch_id, attempt.generation, rest);
    }
}
