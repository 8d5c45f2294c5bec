//! How a latch begins: with its client's own `initialize`, or from the records.
//!
//! Decides what each answer to the client's `initialize` means. A handshake that relatches is `relatch`'s.

use relatch_wire::failure::{Code, Executed};

use super::reading::{self, Door};
use super::{Doubtful, Gap, Hello, Knows, Latch, LatchState, Loss, Wishes};
use crate::effect::Effect;
use crate::exchange::words;
use crate::input::{Answer, CutKind, Restored};
use crate::upstream::{Absence, Attempt, Machine, Outcome, Why};
use crate::{AttemptId, ExId, LatchId, policy};

impl Machine {
    pub(crate) fn restored(&mut self, id: LatchId, restored: Restored) {
        let state = match restored.bound {
            Some(generation) => LatchState::Bound(generation),
            None => LatchState::Refused(Loss::new(None, self.now, Doubtful::Gone)),
        };
        let client = restored.client.map(|client| self.clients.of(client));
        let mut latch = Latch::new(id, self.now, state, client);
        latch.seen = None;
        latch.begun = restored.begun.max(restored.bound.map_or(0, |g| g.0));
        latch.generation = restored.bound;
        latch.has_id = restored.has_id;
        latch.initialized = restored.initialized;
        latch.announced = restored.bound.filter(|_| restored.initialized);
        // What was under way when the keeper ended may not have reached it.
        latch.knows = Knows::NotTheLatest;
        latch.promised = self.revisions.of(restored.revision);
        let hello = |server| self.hellos.of(Hello { server, digest: None, offers: None });
        latch.hello = restored.server.map(hello);
        if restored.level.is_some() || !restored.subscriptions.is_empty() {
            *latch.wishes_mut() = Wishes { level: restored.level, subscriptions: restored.subscriptions };
        }
        latch.lists = restored.lists.into_iter().collect();
        // Whatever the server said while the keeper was away is lost.
        latch.gap = Gap::Open;
        self.spoken = true;
        self.latches.insert(id, latch);
        self.hinted(id, restored.hints);
        self.dirty.insert(id);
    }

    pub(crate) fn opening_over(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, outcome: Outcome<'_>) {
        let opening = self
            .latches
            .get(&attempt.latch)
            .is_some_and(|l| matches!(l.state, LatchState::Opening(e) if e == ex));
        let name = self.policy.name.clone();
        if !opening {
            // The client has gone meanwhile; a session that was opened for it is ended.
            if matches!(outcome, Outcome::Session(_)) {
                self.send_delete(attempt.latch, attempt.generation);
            }
            self.out.push(Effect::Drop { attempt: id });
            return;
        }
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        match outcome {
            Outcome::Session(session) => {
                let took = self.now.since(attempt.sent);
                self.answer_seen("initialize", took, false);
                self.tracker.no_more(Code::HandshakeRefused);
                self.out.push(Effect::Pass { ex, attempt: id });
                self.adopt(attempt.latch, &session);
                self.forget(ex);
                if let Some(latch) = self.latches.get_mut(&attempt.latch) {
                    latch.promised = self.revisions.of(session.server.protocol.as_str());
                    latch.state = LatchState::Bound(attempt.generation);
                    latch.generation = Some(attempt.generation);
                    latch.bound = Some(self.now);
                }
                self.wish_fulfilled(attempt.latch, attempt.generation);
                self.out.push(Effect::Record { latch: attempt.latch });
            }
            Outcome::Answered(answer) => {
                if let Answer::Error { code, message } = answer {
                    // Somebody is there. That it works is not known by that.
                    let cause = words::refused_with(code, message);
                    self.tracker.heard(self.now);
                    self.tracker.noted(self.now, "initialize", &cause);
                    self.tracker.opening_refused(self.now, &cause);
                } else {
                    let took = self.now.since(attempt.sent);
                    self.answer_seen("initialize", took, false);
                }
                self.out.push(Effect::Pass { ex, attempt: id });
                self.forget(ex);
                self.ended(attempt.latch);
            }
            Outcome::Refused(refusal) => match reading::read_door(&refusal) {
                Door::Credentials => {
                    self.mark_back();
                    self.tracker.credentials(self.now, false, &name);
                    self.challenge(attempt.latch, id, &[ex]);
                    self.ended(attempt.latch);
                }
                Door::Refused => {
                    self.mark_back();
                    let cause = format!("`initialize` was refused with HTTP {}", refusal.status);
                    self.tracker.opening_refused(self.now, &cause);
                    self.pass_refusal(id, ex, Executed::No);
                    self.ended(attempt.latch);
                }
                Door::Redirected => {
                    let failure = exchange.redirected(&name, refusal.location, Executed::No);
                    self.out.push(Effect::Drop { attempt: id });
                    self.give_back(ex, Some(failure));
                }
                Door::Later | Door::Missing => {
                    self.out.push(Effect::Drop { attempt: id });
                    self.missing(&refusal);
                    if !self.spoken && refusal.retry_after.is_none() {
                        self.name_wrong_soon(ex);
                    }
                    self.fresh.insert(ex);
                }
            },
            Outcome::Cut(cut) => {
                self.out.push(Effect::Drop { attempt: id });
                let failure = match cut.kind {
                    CutKind::Tls => Some(exchange.certificate(&name, &cut.cause)),
                    CutKind::UnknownHost => Some(exchange.unknown_host(&name, &cut.cause)),
                    CutKind::Elsewhere => Some(exchange.endpoint_elsewhere(&name, &cut.cause)),
                    CutKind::Proxy => Some(exchange.proxy(&name, &cut.cause)),
                    CutKind::Garbled if self.spoken => Some(exchange.garbled(&name, &cut.cause)),
                    CutKind::Garbled => {
                        Some(exchange.not_mcp(&name, &self.policy.url, Code::NotMcp, &cut.cause))
                    }
                    CutKind::Connection => None,
                };
                if failure.is_some() {
                    self.give_back(ex, failure);
                } else {
                    self.mark_away(Absence {
                        code: Code::UpstreamDown,
                        cause: &cut.cause,
                        confirmed: true,
                        after: None,
                    });
                    if self.policy.process && !self.spoken {
                        self.name_wrong_soon(ex);
                    }
                    self.fresh.insert(ex);
                }
            }
            Outcome::Limit => {
                self.out.push(Effect::Drop { attempt: id });
                self.silent_handshake();
                self.fresh.insert(ex);
            }
            Outcome::Listed(_) => debug_assert!(false, "a list is no answer to `initialize`"),
        }
    }

    /// A URL that never spoke MCP and answers otherwise is most likely mistyped: say so soon.
    fn name_wrong_soon(&mut self, ex: ExId) {
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        let soon = exchange.asked.plus(policy::NEVER_SPOKEN_MS);
        let deadline = exchange.deadline.map_or(soon, |at| at.min(soon));
        exchange.deadline = Some(deadline);
        exchange.written = false;
        self.timers.set(Why::HoldEnds(ex), deadline);
    }
}
