//! A client that starts before its server: it is answered from the last copy of what this very server said (§3.5).
//!
//! Decides when a copy is sought and when it is given out: `initialize`, once there is evidence that the server is not
//! there, or it is silent for long; then lists, for as long as the latch has never had a session. A client that has had
//! one knows its lists, and what a session of its own says of them may be other than what a copy says: it waits. A call
//! is never answered from a copy. What is kept, and for whom, is the shell's matter.

use relatch_wire::method::ListKind;

use super::{Doubtful, Hello, Latch, LatchState, Loss, Step};
use crate::effect::Effect;
use crate::exchange::{Copying, Exchange};
use crate::fault::Fault;
use crate::input::{CopySeen, SessionFacts};
use crate::upstream::{Machine, Purpose, Why};
use crate::{At, ExId, LatchId, journal, policy};

impl Machine {
    /// What waits for this latch and may be answered from a copy is.
    pub(crate) fn advance_copies(&mut self, id: LatchId) {
        if !self.policy.copies {
            return;
        }
        let Some(latch) = self.latches.get(&id) else { return };
        let waiting = match &latch.state {
            LatchState::Opening(ex) => vec![*ex],
            // A server that is there and refuses the handshake is no late one.
            LatchState::Refused(loss) | LatchState::Relatching(loss, _, Step::Handshake(_))
                if latch.copied.is_some() && loss.trouble.is_none() =>
            {
                let fits = |ex: &ExId| self.exchanges.get(ex).is_some_and(|e| self.has_copies(e));
                latch.waiting.iter().copied().filter(fits).collect()
            }
            LatchState::Refused(_)
            | LatchState::Relatching(..)
            | LatchState::Bound(_)
            | LatchState::Doubted(..)
            | LatchState::Parked(_)
            | LatchState::Ended => return,
        };
        for ex in waiting {
            let Some(exchange) = self.exchanges.get(&ex) else { continue };
            let due = self.copy_due(exchange);
            match &exchange.copy {
                Copying::Sought | Copying::Missing => {}
                Copying::Unsought | Copying::Found(_) if due > self.now => {
                    self.timers.set(Why::CopyDue(ex), due);
                }
                Copying::Unsought => {
                    self.out.push(Effect::SeekCopy { ex });
                    if let Some(exchange) = self.exchanges.get_mut(&ex) {
                        exchange.copy = Copying::Sought;
                    }
                }
                Copying::Found(copy) => {
                    let copy = copy.clone();
                    self.answer_from_copy(id, ex, copy);
                }
            }
        }
    }

    /// Whether there can be a copy of its answer at all.
    fn has_copies(&self, exchange: &Exchange) -> bool {
        ListKind::from_method(&exchange.ask.method).is_some() || self.planted(Fault::CopiesCalls)
    }

    /// When it may be answered from a copy: at once where the server is known not to be there, by evidence from after the
    /// client came, or fresh where the client already lives on a copy.
    fn copy_due(&self, exchange: &Exchange) -> At {
        let opens = exchange.ask.method == relatch_wire::method::INITIALIZE;
        let absent = self.away().is_some_and(|away| {
            away.confirmed
                && (away.seen >= exchange.asked || !opens && self.now.since(away.seen) < policy::FRESH_MS)
        });
        // In a pause nothing new is sent to it, and somebody has said so.
        if absent || self.is_paused() {
            self.now
        } else {
            exchange.asked.plus(if opens { policy::COPY_AFTER_MS } else { policy::COPY_LIST_AFTER_MS })
        }
    }

    /// The shell has looked.
    pub(crate) fn copy_sought(&mut self, ex: ExId, copy: Option<CopySeen>) {
        let Some(exchange) = self.exchanges.get_mut(&ex).filter(|e| e.copy == Copying::Sought) else {
            return;
        };
        let opens = exchange.ask.method == relatch_wire::method::INITIALIZE;
        exchange.copy = match copy {
            Some(copy) if !opens || copy.session.is_some() => Copying::Found(Box::new(copy)),
            Some(_) | None => {
                // It waits from now on as if there were no copies.
                self.fresh.insert(ex);
                Copying::Missing
            }
        };
        self.dirty.insert(exchange.latch);
    }

    fn answer_from_copy(&mut self, id: LatchId, ex: ExId, copy: Box<CopySeen>) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let (title, kind) = (exchange.title().to_owned(), ListKind::from_method(&exchange.ask.method));
        let detail = format!("a copy of {}; {}", copy.date, self.why_waiting(id));
        let opening = matches!(self.latches.get(&id), Some(Latch { state: LatchState::Opening(_), .. }));
        self.journal(journal::What::FromCopy, Some(id), |entry| {
            entry.subject = Some(title);
            entry.detail = Some(detail);
        });
        self.out.push(Effect::PassCopy { ex });
        self.forget(ex);
        match (opening, copy.session.clone(), kind) {
            (true, Some(session), _) => self.open_by_copy(id, ex, copy, session),
            (false, _, Some(kind)) => {
                if let Some(latch) = self.latches.get_mut(&id) {
                    latch.lists.insert(kind);
                    latch.from_copy.insert(kind);
                }
            }
            (true, None, _) | (false, _, None) => {}
        }
        self.out.push(Effect::Record { latch: id });
    }

    /// The client has its answer; its session is opened as soon as the server is there.
    fn open_by_copy(&mut self, id: LatchId, ex: ExId, copy: Box<CopySeen>, session: SessionFacts) {
        let loss = Loss::new(None, self.now, Doubtful::Gone);
        let under_way = self.attempts_of(id).find(|(_, a)| a.purpose == Purpose::Open(ex));
        let state = match under_way.map(|(attempt, a)| (attempt, a.generation)) {
            // It goes on, and its answer is the session's.
            Some((attempt, generation)) => {
                self.attempts.take_over(attempt);
                LatchState::Relatching(loss, generation, Step::Handshake(attempt))
            }
            None => LatchState::Refused(loss),
        };
        // The copy is this address's own answer.
        self.spoken = true;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.promised = self.revisions.of(session.server.protocol.as_str());
        latch.hello = Some(self.hellos.of(Hello::of(&session)));
        latch.copied = Some(copy);
        latch.state = state;
    }
}
