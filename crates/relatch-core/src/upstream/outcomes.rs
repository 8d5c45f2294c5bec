//! What becomes of an exchange when an attempt of it ends: answered, refused, cut.
//!
//! Gathers what `exchange::verdict` needs and carries out what it says; what a refusal means is read in
//! `latch::reading`.

use relatch_wire::failure::{Code, Executed};
use relatch_wire::method::RetryClass;

use super::timers::Why;
use super::{Absence, Attempt, Machine, Outcome, Purpose};
use crate::effect::{Connection, Effect, Failure, What};
use crate::exchange::{Client, Delivery, ExState, Exchange, Verdict, verdict};
use crate::fault::Fault;
use crate::input::{Answer, Cut, CutKind, Keep, Refusal};
use crate::latch::reading::{self, Reading};
use crate::latch::{Emptied, Knows, Latch, Raised};
use crate::{AttemptId, ExId, Gen, LatchId, policy};

impl Machine {
    pub(super) fn exchange_over(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, outcome: Outcome<'_>) {
        let current = self.exchanges.get(&ex).is_some_and(|e| e.attempt() == Some(id));
        if !current {
            self.take_off(id);
            self.out.push(Effect::Drop { attempt: id });
            return;
        }
        match outcome {
            Outcome::Answered(answer) => {
                self.take_off(id);
                self.exchange_answered(id, attempt, ex, answer);
            }
            Outcome::Refused(refusal) => {
                self.take_off(id);
                self.exchange_refused(id, attempt, ex, &refusal);
            }
            Outcome::Cut(cut) => self.exchange_cut(id, attempt, ex, &cut),
            Outcome::Limit => {
                // Only one that its client has cancelled has a limit.
                let rest = self.attempts_of(attempt.latch).find(|(_, a)| a.purpose == Purpose::Resume(id));
                if let Some(rest) = rest.map(|(rest, _)| rest) {
                    self.abort(rest);
                }
                let cause = "the client cancelled it, and no answer came".to_owned();
                let cut = Cut { wrote: true, kind: CutKind::Garbled, cause, resumable: false, retry: None };
                self.exchange_cut(id, attempt, ex, &cut);
            }
            Outcome::Session(_) | Outcome::Listed(_) => {
                debug_assert!(false, "not an end of a client's request");
            }
        }
    }

    fn exchange_answered(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, answer: Answer<'_>) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let (latch, passing) = (exchange.latch, matches!(exchange.state, ExState::Passing(_)));
        if let Answer::Error { code, message } = answer
            && !passing
            && reading::error_raises_doubt(code, message)
        {
            let digest = rpc_digest(code, message);
            if self.doubt(attempt, Some(ex), id, 200, digest, Raised::Answer) {
                return;
            }
        }
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        let keep = std::mem::replace(&mut exchange.ask.keep, Keep::Nothing);
        let (took, call) = (self.now.since(attempt.sent), exchange.ask.tool.is_some());
        if self.elsewhere {
            self.tracker.counted(self.now, took, call);
        } else {
            // An answer to a client is evidence, unless it comes from a former address.
            self.tracker.answered(self.now, &exchange.ask.method, took, call);
        }
        if let Some(latch) = self.latches.get_mut(&latch)
            && latch.in_use() == Some(attempt.generation)
        {
            latch.unanswered = 0;
            latch.rested = 0;
        }
        if answer == Answer::Result {
            self.remember(latch, attempt.generation, keep);
        }
        let to = if self.planted(Fault::MixesUpAnswers) {
            self.exchanges.keys().next().copied().unwrap_or(ex)
        } else {
            ex
        };
        self.out.push(Effect::Pass { ex: to, attempt: id });
        self.forget(ex);
    }

    /// What a successful request changes in its session.
    fn remember(&mut self, id: LatchId, generation: Gen, keep: Keep) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        // The session that has taken the old one's place has not been told.
        let sets = matches!(keep, Keep::Level(_) | Keep::Subscribe(..));
        let late = latch.in_use() != Some(generation);
        if sets && late && latch.knows == Knows::All {
            latch.knows = Knows::NotTheLatest;
        }
        let listed = matches!(keep, Keep::List(_));
        let changed = match keep {
            Keep::Nothing => false,
            Keep::Level(params) => latch.wishes_mut().level.replace(params.clone()) != Some(params),
            Keep::Subscribe(uri, params) => {
                let subscriptions = &mut latch.wishes_mut().subscriptions;
                let room = subscriptions.len() < policy::SUBSCRIPTIONS || subscriptions.contains_key(&uri);
                room && subscriptions.insert(uri, params).is_none()
            }
            Keep::Unsubscribe(uri) => latch.wishes_mut().subscriptions.remove(&uri).is_some(),
            Keep::List(kind) => {
                latch.lists.insert(kind);
                // The client has the newest page by now; its digests belong into the record.
                true
            }
        };
        if changed {
            self.out.push(Effect::Record { latch: id });
        }
        if late && listed {
            // The client has just seen what an older server has.
            self.compare_anew(id);
        }
    }

    fn exchange_refused(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, refusal: &Refusal<'_>) {
        let has_id = self.latches.get(&attempt.latch).is_some_and(|l| l.has_id);
        let name = self.policy.name.clone();
        match reading::read(refusal, has_id) {
            Reading::Gone => self.refused_as_gone(id, attempt, ex),
            Reading::Suspected if self.planted(Fault::GuessesGone) => {
                self.refused_as_gone(id, attempt, ex);
            }
            Reading::AboutRequest => self.pass_refusal(id, ex, Executed::No),
            Reading::Credentials => {
                self.tracker.credentials(self.now, false, &name);
                self.challenge(attempt.latch, id, &[ex]);
            }
            Reading::Later => self.come_back_later(id, ex, refusal),
            Reading::WrongPlace => {
                let again = self.exchanges.get_mut(&ex).is_some_and(|e| {
                    e.fresh = true;
                    e.sendings < 2 && verdict(e.class, Delivery::Refused) == Verdict::SendAgain
                });
                if again {
                    self.out.push(Effect::Drop { attempt: id });
                    self.wait_again(ex);
                } else {
                    self.pass_refusal(id, ex, Executed::No);
                }
            }
            Reading::Gateway => self.gateway(id, ex, refusal),
            Reading::Redirected => {
                let failure = self
                    .exchanges
                    .get(&ex)
                    .map(|e| e.redirected(&name, refusal.location, executed_by(refusal.status)));
                self.out.push(Effect::Drop { attempt: id });
                self.give_back(ex, failure);
            }
            Reading::NotMcp => {
                let cause = door_words(&self.policy.url, refusal);
                self.mark_away(Absence {
                    code: Code::EndpointMissing,
                    cause: &cause,
                    confirmed: true,
                    after: refusal.retry_after,
                });
                // That an application answers 501 for what it has begun can't be told from here.
                let silent = refusal.status < 300 || refusal.status == 501;
                let delivery = if silent { Delivery::Unknown } else { Delivery::Refused };
                self.out.push(Effect::Drop { attempt: id });
                self.again_or(ex, delivery, &cause, Exchange::garbled);
            }
            Reading::Suspected => {
                if refusal.status == 503 && (self.policy.gateway_errors_refused || !has_id) {
                    self.gateway(id, ex, refusal);
                } else if !has_id
                    || !self.doubt(
                        attempt,
                        Some(ex),
                        id,
                        refusal.status,
                        refusal.digest,
                        Raised::Refusal { speaks: reading::speaks_of_session(refusal.body) },
                    )
                {
                    self.pass_refusal(id, ex, executed_by(refusal.status));
                }
            }
        }
    }

    /// A session refused the exchange as its own is gone: the exchange did not run.
    pub(crate) fn refused_as_gone(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId) {
        let (stateful, name) = (self.policy.stateful, self.policy.name.clone());
        let in_use = self.latches.get(&attempt.latch).and_then(Latch::in_use) == Some(attempt.generation);
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        let fresh_refused = exchange.refused_by.iter().any(|g| *g != attempt.generation) && in_use;
        exchange.refused_by.insert(attempt.generation);
        let misled = exchange.misled;
        if verdict(exchange.class, Delivery::Refused) == Verdict::GiveBack {
            let failure = exchange.never_replayed(&name);
            self.out.push(Effect::Drop { attempt: id });
            self.give_back(ex, Some(failure));
        } else if stateful && exchange.class != RetryClass::Always {
            self.out.push(Effect::Drop { attempt: id });
            self.tell_emptied(attempt.latch, ex, Emptied::Heard(attempt.generation));
        } else if fresh_refused || misled > policy::REPLICA_PINGS || exchange.sendings >= policy::SENDINGS {
            self.pass_refusal(id, ex, Executed::No);
        } else {
            self.out.push(Effect::Drop { attempt: id });
            self.wait_again(ex);
        }
        self.session_refused(attempt.latch, attempt.generation, Some(ex));
    }

    fn gateway(&mut self, id: AttemptId, ex: ExId, refusal: &Refusal<'_>) {
        self.gateway_seen = Some(self.now);
        let cause = door_words(&self.policy.url, refusal);
        self.mark_away(Absence { code: Code::UpstreamDown, cause: &cause, confirmed: true, after: None });
        let delivery = if self.policy.gateway_errors_refused { Delivery::Refused } else { Delivery::Unknown };
        self.out.push(Effect::Drop { attempt: id });
        self.again_or(ex, delivery, &cause, Exchange::behind_gateway);
    }

    fn come_back_later(&mut self, id: AttemptId, ex: ExId, refusal: &Refusal<'_>) {
        let tries = self.exchanges.get(&ex).map_or(0, |e| e.sendings);
        let pause = refusal.retry_after.unwrap_or_else(|| 1_000 << tries.min(5));
        let hold = self.policy.hold_ms;
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        let at = self.now.plus(pause);
        let end = exchange.deadline.unwrap_or_else(|| self.now.plus(hold));
        let again = at < end
            && exchange.sendings < policy::SENDINGS
            && verdict(exchange.class, Delivery::Refused) == Verdict::SendAgain;
        if again {
            exchange.not_before = Some(at);
            self.out.push(Effect::Drop { attempt: id });
            self.wait_again(ex);
        } else {
            self.pass_refusal(id, ex, Executed::No);
        }
    }

    fn exchange_cut(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, cut: &Cut) {
        let name = self.policy.name.clone();
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        let alive =
            self.latches.get(&attempt.latch).is_some_and(|l| l.may_live() == Some(attempt.generation));
        if !cut.wrote {
            exchange.sendings = exchange.sendings.saturating_sub(1);
            exchange.written = false;
            exchange.seen_by.remove(&attempt.generation);
        }
        let client = exchange.client;
        if cut.wrote
            && cut.resumable
            && alive
            && self.away().is_none_or(|away| !away.confirmed)
            && matches!(self.exchanges.get(&ex).map(|e| e.state), Some(ExState::Sent(_)))
            && self.try_resume(id, ex, cut.retry)
        {
            return;
        }
        self.take_off(id);
        // It may end by the rest of its stream, and then nobody else has cleared the limit that a cancellation sets.
        self.timers.clear(Why::AttemptLimit(id));
        self.out.push(Effect::Withdraw { attempt: id });
        self.out.push(Effect::Drop { attempt: id });
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        if client == Client::Cancelled {
            let executed = if cut.wrote { Executed::Unknown } else { exchange.ran() };
            let failure = exchange.cancelled(&name, executed);
            self.give_back(ex, Some(failure));
            return;
        }
        if matches!(exchange.state, ExState::Passing(_)) {
            let failure = exchange.broken_off(&name, &cut.cause);
            self.give_back(ex, Some(failure));
            self.connection_broke(&cut.cause);
            return;
        }
        match (cut.wrote, cut.kind) {
            (false, CutKind::Tls) => {
                let failure = exchange.certificate(&name, &cut.cause);
                self.give_back(ex, Some(failure));
            }
            (false, CutKind::UnknownHost) => {
                let failure = exchange.unknown_host(&name, &cut.cause);
                self.give_back(ex, Some(failure));
            }
            (false, CutKind::Proxy) => {
                let failure = exchange.proxy(&name, &cut.cause);
                self.give_back(ex, Some(failure));
            }
            (_, CutKind::Garbled | CutKind::Elsewhere) => {
                let failure = exchange.garbled(&name, &cut.cause);
                self.give_back(ex, Some(failure));
            }
            (false, CutKind::Connection) => {
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: true,
                    after: None,
                });
                self.again_or_back(ex, Delivery::NotSent, &cut.cause);
            }
            (true, CutKind::Tls | CutKind::UnknownHost | CutKind::Proxy | CutKind::Connection) => {
                self.connection_broke(&cut.cause);
                self.again_or_back(ex, Delivery::Unknown, &cut.cause);
            }
        }
    }

    /// Carries out the verdict for an exchange that got no answer because its connection broke.
    pub(crate) fn again_or_back(&mut self, ex: ExId, delivery: Delivery, cause: &str) {
        self.again_or(ex, delivery, cause, Exchange::unknown);
    }

    /// Carries out the verdict for an exchange that got no answer; `unknown` says it of one that may have run.
    fn again_or(
        &mut self,
        ex: ExId,
        delivery: Delivery,
        cause: &str,
        unknown: fn(&Exchange, &str, &str) -> Failure,
    ) {
        let name = self.policy.name.clone();
        if let Some(exchange) = self.exchanges.get_mut(&ex) {
            exchange.maybe_ran |= delivery == Delivery::Unknown;
        }
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let exhausted = exchange.sendings >= policy::SENDINGS;
        if self.planted(Fault::ResendsUnknown) && delivery == Delivery::Unknown {
            return self.wait_again(ex);
        }
        match verdict(exchange.class, delivery) {
            Verdict::SendAgain | Verdict::WaitThenSend if !exhausted => self.wait_again(ex),
            Verdict::SendAgain | Verdict::WaitThenSend => {
                let waited = self.now.since(exchange.asked);
                let failure = exchange.held_too_long(&name, Code::UpstreamDown, waited, cause);
                self.give_back(ex, Some(failure));
            }
            Verdict::GiveBack => {
                let mut failure = match delivery {
                    Delivery::Refused => exchange.never_replayed(&name),
                    Delivery::NotSent | Delivery::Unknown | Delivery::Answered => {
                        unknown(exchange, &name, cause)
                    }
                };
                if self.planted(Fault::ClaimsUnrun) {
                    failure.executed = Executed::No;
                }
                self.give_back(ex, Some(failure));
            }
            Verdict::PassOn => debug_assert!(false, "an answer is passed on, not judged"),
        }
    }

    /// One connection broke: whether the upstream is away, a scout will tell.
    pub(crate) fn connection_broke(&mut self, cause: &str) {
        self.mark_away(Absence { code: Code::UpstreamDown, cause, confirmed: false, after: None });
    }

    /// A gateway or somebody else answers in the upstream's place.
    pub(crate) fn missing(&mut self, refusal: &Refusal<'_>) {
        if (502..=504).contains(&refusal.status) {
            self.gateway_seen = Some(self.now);
        }
        let code = match refusal.status {
            // "Not implemented" is what a web server says to a POST.
            501 => Code::EndpointMissing,
            429 | 500..=599 => Code::UpstreamDown,
            _ => Code::EndpointMissing,
        };
        let cause = door_words(&self.policy.url, refusal);
        self.mark_away(Absence { code, cause: &cause, confirmed: true, after: refusal.retry_after });
    }

    fn try_resume(&mut self, id: AttemptId, ex: ExId, retry: Option<u64>) -> bool {
        let pause = retry.unwrap_or(policy::RESUME_AFTER_MS);
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return false };
        if exchange.client != Client::Waits
            || exchange.resumes >= policy::RESUMES
            || pause > policy::RESUME_WITHIN_MS
        {
            return false;
        }
        exchange.resumes += 1;
        self.timers.set(Why::ResumeDue(id), self.now.plus(pause));
        true
    }

    pub(super) fn resume(&mut self, of: AttemptId) {
        let Some(attempt) = self.attempts.get(of) else { return };
        let (latch, generation) = (attempt.latch, attempt.generation);
        let limit = Some(policy::RESUME_WITHIN_MS);
        self.send(latch, generation, What::Resume { of }, Purpose::Resume(of), Connection::Any, limit);
    }

    /// The rest of a stream ended, or was not to be had: the attempt that it belongs to is cut.
    pub(super) fn resume_over(&mut self, of: AttemptId, outcome: Outcome<'_>) {
        let cut = match outcome {
            // Refused or not to be reached: the server is away, and the client is told at once.
            Outcome::Cut(cut) => Cut { wrote: true, resumable: cut.resumable && cut.wrote, ..cut },
            Outcome::Limit => Cut {
                wrote: true,
                kind: CutKind::Connection,
                cause: "the stream broke, and the server did not answer when asked for its rest".to_owned(),
                resumable: false,
                retry: None,
            },
            Outcome::Refused(refusal) => Cut {
                wrote: true,
                kind: CutKind::Connection,
                cause: format!("the stream broke and can't be resumed: HTTP {}", refusal.status),
                resumable: false,
                retry: None,
            },
            // The answer itself is reported as the other attempt's.
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) => return,
        };
        let Some(attempt) = self.attempts.get(of).copied() else { return };
        if let Purpose::Exchange(ex) = attempt.purpose {
            self.exchange_over(of, &attempt, ex, Outcome::Cut(cut));
        }
    }
}

/// Whether a call may have run that got this status.
pub(crate) fn executed_by(status: u16) -> Executed {
    match status {
        // What came of it is to be seen elsewhere; and the words of proxies that stopped waiting for a server.
        303 | 408 | 499 => Executed::Unknown,
        300..=499 => Executed::No,
        _ => Executed::Unknown,
    }
}

/// A digest of a JSON-RPC error, to tell two of them apart.
pub(crate) fn rpc_digest(code: i64, message: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in code.to_le_bytes().iter().chain(message.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// What an answer in the upstream's place looks like, for people.
pub(crate) fn door_words(url: &str, refusal: &Refusal<'_>) -> String {
    match refusal.status {
        status @ 200..=299 if reading::looks_like_html(refusal.body) => {
            format!("`{url}` answers HTTP {status} with a web page")
        }
        status @ 200..=299 => format!("`{url}` answers HTTP {status} with something that is no MCP message"),
        status => format!("`{url}` answers HTTP {status}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn errors_that_differ_in_a_code_or_a_letter_have_digests_of_their_own() {
        let (codes, words) =
            (-32_800..-32_000, ["a", "b", "aa", "ab", "ba", "session not found", "Session not found"]);
        let digests: BTreeSet<u64> =
            codes.clone().flat_map(|code| words.map(|message| rpc_digest(code, message))).collect();
        assert_eq!(digests.len(), codes.count() * words.len());
    }

    #[test]
    fn only_a_refusal_before_dispatch_says_that_a_call_did_not_run() {
        for (statuses, executed) in [
            (&[302, 307, 400, 403, 404, 409, 429][..], Executed::No),
            (&[200, 303, 408, 499, 500, 503, 599][..], Executed::Unknown),
        ] {
            for status in statuses {
                assert_eq!(executed_by(*status), executed, "{status}");
            }
        }
    }
}
