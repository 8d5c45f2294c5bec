//! The life of an exchange: asked, sent, over. Its waiting is in `hold`, the ends of its attempts in `outcomes`.
//!
//! Decides what goes out on a bound latch, in which order, on what connection, and whether a `ping` goes ahead.

use std::sync::Arc;

use relatch_wire::failure::{Code, Executed};
use relatch_wire::method::{self, RetryClass};

use super::hold::Waited;
use super::timers::Why;
use super::{Absence, Attempt, Machine, Outcome, Purpose, Question};
use crate::effect::{Connection, Effect, Failure, IdRule, What};
use crate::exchange::{Client, ExState, Exchange, Print};
use crate::fault::Fault;
use crate::health::ClientSeen;
use crate::input::{Ask, Begun, Told};
use crate::latch::reading::{self, Reading};
use crate::latch::{Emptied, Heard, Latch, LatchState};
use crate::{AttemptId, ExId, Gen, LatchId, journal, policy};

impl Machine {
    pub(super) fn opened(&mut self, id: LatchId, ex: ExId, ask: Ask, client: Option<ClientSeen>) {
        let client = client.map(|client| self.clients.of(client));
        let latch = Latch::new(id, self.now, LatchState::Opening(ex), client);
        let detail = latch.client.as_ref().map(|c| format!("{} {}", c.name, c.version));
        self.latches.insert(id, latch);
        self.journal(journal::What::Attached, Some(id), |entry| entry.detail = detail);
        let crowded = self.waiting.len() >= policy::WAITING;
        self.take(id, ex, ask, RetryClass::Always);
        if crowded {
            let name = &self.policy.name;
            let failure =
                self.exchanges.get(&ex).map(|e| e.too_many_waiting(name, policy::WAITING, "upstream"));
            self.give_back(ex, failure);
        }
    }

    pub(super) fn asked(&mut self, id: LatchId, ex: ExId, ask: Ask) {
        let now = self.now;
        let crowded = self.waiting.len() >= policy::WAITING;
        let Some(latch) = self.latches.get_mut(&id) else {
            // It ended while the request was on its way here.
            let exchange = Exchange::new(id, ask, RetryClass::Never, now);
            let failure = exchange.session_ended(&self.policy.name, Executed::No);
            self.out.push(Effect::Answer { ex, failure });
            return;
        };
        latch.used(now);
        let repeatable = ask.tool.as_ref().is_some_and(|tool| latch.may_repeat(tool));
        let class = self.policy.class(&ask.method, ask.tool.as_deref(), repeatable);
        let ended = matches!(latch.state, LatchState::Ended);
        let bounds = if latch.waiting.len() >= policy::WAITING_PER_LATCH {
            Some((policy::WAITING_PER_LATCH, "session"))
        } else if crowded {
            Some((policy::WAITING, "upstream"))
        } else {
            None
        };
        if bounds.is_none() && matches!(latch.state, LatchState::Parked(_)) {
            // It tries again with this request's credentials.
            self.unpark(id);
        }
        self.take(id, ex, ask, class);
        if ended {
            let name = &self.policy.name;
            let failure = self.exchanges.get(&ex).map(|e| e.session_ended(name, Executed::No));
            self.give_back(ex, failure);
        } else if let Some((bound, whose)) = bounds {
            let name = &self.policy.name;
            let failure = self.exchanges.get(&ex).map(|e| e.too_many_waiting(name, bound, whose));
            self.give_back(ex, failure);
        }
    }

    fn take(&mut self, latch: LatchId, ex: ExId, ask: Ask, class: RetryClass) {
        self.tracker.totals.calls += 1;
        self.idle_look = None;
        let exchange = Exchange::new(latch, ask, class, self.now);
        let print = exchange.print;
        self.exchanges.insert(ex, exchange);
        self.waits(latch, ex, print);
        self.knocked = true;
    }

    /// It is among what waits for its latch.
    fn waits(&mut self, id: LatchId, ex: ExId, print: Print) {
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.exchanges.insert((ex, print));
            latch.waiting.insert(ex);
        }
        self.waiting.insert(ex);
        self.fresh.insert(ex);
        self.dirty.insert(id);
    }

    pub(super) fn left(&mut self, ex: ExId) {
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        match exchange.state {
            ExState::Waiting | ExState::Looking(_) => {
                let latch = exchange.latch;
                let opening = self
                    .latches
                    .get(&latch)
                    .is_some_and(|l| matches!(l.state, LatchState::Opening(e) if e == ex));
                self.forget(ex);
                if opening {
                    self.ended(latch);
                }
            }
            ExState::Sent(_) | ExState::Passing(_) | ExState::Doubted(_) => exchange.client = Client::Left,
        }
    }

    /// Everything that waits on a bound latch goes out in its original order, as far as it may.
    pub(super) fn start_waiting(&mut self, id: LatchId, generation: Gen) {
        let Some(latch) = self.latches.get(&id).filter(|latch| !latch.waiting.is_empty()) else { return };
        let initialized = |told: &Told| *told == Told::Initialized;
        if latch.note.as_ref().is_some_and(|sent| initialized(&sent.2))
            || latch.notes.iter().any(|(_, told, _)| initialized(told))
        {
            return;
        }
        for ex in &latch.waiting.clone() {
            let ex = *ex;
            if self.is_outdated(ex) {
                self.tell_emptied(id, ex, Emptied::No);
                continue;
            }
            let Some(exchange) = self.exchanges.get(&ex) else { continue };
            if let Some(at) = exchange.not_before.filter(|at| *at > self.now) {
                self.timers.set(Why::PauseEnds(ex), at);
                continue;
            }
            if exchange.class != RetryClass::Always && !exchange.looked {
                if self.looking.is_some() {
                    continue;
                }
                if self.needs_a_look() {
                    // By an idle connection, where there is one: that it still carries is what there is to find out, the
                    // call may follow on it, and a `ping` that is lost with it is asked again.
                    let look =
                        self.ping(id, generation, Question::Look(ex), Connection::Any, policy::LOOK_MS);
                    self.looking = Some(look);
                    self.leave_waiting(ex, ExState::Looking(look));
                    continue;
                }
            }
            self.send_exchange(ex, generation);
        }
    }

    /// The client hears that a session's state is gone; what it has asked before it could know of that is not run.
    pub(super) fn tell_emptied(&mut self, id: LatchId, ex: ExId, now: Emptied) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.emptied = now;
        for (other, _) in &latch.exchanges {
            if let Some(other) = self.exchanges.get_mut(other) {
                other.outdated = true;
            }
        }
        let failure = self.exchanges.get(&ex).map(|e| e.state_lost(&self.policy.name));
        self.give_back(ex, failure);
    }

    /// Whether this call would meet a session without the state that its client counts on.
    fn is_outdated(&self, ex: ExId) -> bool {
        self.exchanges.get(&ex).is_some_and(|e| {
            let unheard = || self.latches.get(&e.latch).is_some_and(|l| l.emptied == Emptied::Unheard);
            self.policy.stateful && e.class != RetryClass::Always && (e.outdated || unheard())
        })
    }

    /// Whether a `ping` goes ahead of a call that may not repeat.
    fn needs_a_look(&self) -> bool {
        if cfg!(relatch_blind) {
            return false;
        }
        let old = self.tracker.bad_news()
            || self.tracker.last_heard().is_none_or(|at| self.now.since(at) > policy::LOOK_AFTER_MS);
        let cheap = self.policy.local
            || self.gateway_seen.is_some_and(|at| self.now.since(at) < policy::GATEWAY_MEMORY_MS);
        old && cheap && self.attempts.open() == 0
    }

    fn leave_waiting(&mut self, ex: ExId, state: ExState) {
        self.timers.clear(Why::PauseEnds(ex));
        if !matches!(state, ExState::Looking(_)) {
            self.timers.clear(Why::HoldEnds(ex));
            self.timers.clear(Why::EarlyDue(ex));
            self.timers.clear(Why::CopyDue(ex));
        }
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        exchange.state = state;
        if let Some(latch) = self.latches.get_mut(&exchange.latch) {
            latch.waiting.remove(&ex);
        }
        self.waiting.remove(&ex);
        if !matches!(state, ExState::Looking(_)) {
            self.waited(ex, Waited::Sent);
        }
    }

    fn send_exchange(&mut self, ex: ExId, generation: Gen) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let latch = exchange.latch;
        let taken = exchange.seen_by.contains(&generation)
            || self.latches.get(&latch).into_iter().flat_map(|l| &l.exchanges).any(|(other, print)| {
                *print == exchange.print
                    && *other != ex
                    && self
                        .exchanges
                        .get(other)
                        .is_some_and(|e| e.attempt().is_some() && e.ask.id == exchange.ask.id)
            });
        let id = if taken { IdRule::Mapped } else { IdRule::Own };
        let connection = match (exchange.fresh, exchange.class) {
            (true, _) => Connection::Fresh,
            (false, RetryClass::Always) => Connection::Any,
            (false, RetryClass::IfNotDelivered | RetryClass::Never) => Connection::Young,
        };
        let attempt =
            self.send(latch, generation, What::Exchange { ex, id }, Purpose::Exchange(ex), connection, None);
        self.leave_waiting(ex, ExState::Sent(attempt));
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        let again = exchange.sendings > 0;
        exchange.sendings += 1;
        exchange.written = true;
        exchange.looked = false;
        exchange.fresh = false;
        exchange.not_before = None;
        exchange.seen_by.insert(generation);
        if again {
            let title = exchange.title().to_owned();
            self.tracker.totals.resent += 1;
            self.journal(journal::What::Resent, Some(latch), |entry| entry.subject = Some(title));
        }
    }

    pub(crate) fn send_opening(&mut self, id: LatchId, ex: ExId) -> AttemptId {
        let generation = self.next_generation(id);
        let attempt = self.send(
            id,
            generation,
            What::Initialize { ex: Some(ex) },
            Purpose::Open(ex),
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        );
        if let Some(exchange) = self.exchanges.get_mut(&ex) {
            // It stays in `waiting`, so that its hold goes on until an answer is there.
            exchange.sendings += 1;
        }
        attempt
    }

    /// The exchange goes back to wait for its latch, and is sent again from there.
    pub(crate) fn wait_again(&mut self, ex: ExId) {
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        match exchange.client {
            Client::Left => self.forget(ex),
            Client::Cancelled => {
                let failure = exchange.cancelled(&self.policy.name, exchange.ran());
                self.give_back(ex, Some(failure));
            }
            Client::Waits => {
                exchange.state = ExState::Waiting;
                let (id, print) = (exchange.latch, exchange.print);
                self.waits(id, ex, print);
            }
        }
    }

    pub(super) fn begun(&mut self, id: AttemptId, begun: Begun) {
        let Some(attempt) = self.attempts.begun(id, begun).copied() else { return };
        match attempt.purpose {
            Purpose::Exchange(ex) => {
                let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
                if exchange.state != ExState::Sent(id) {
                    return;
                }
                if begun == Begun::Long {
                    exchange.state = ExState::Passing(id);
                    self.timers.clear(Why::EarlyDue(ex));
                }
                self.out.push(Effect::Flow { ex, attempt: id });
                self.mark_back();
                if let Some(latch) = self.latches.get_mut(&attempt.latch)
                    && latch.in_use() == Some(attempt.generation)
                {
                    latch.heard = Heard::Yes;
                }
            }
            Purpose::Stream => self.stream_begun(id, &attempt),
            Purpose::Resume(of) => {
                self.timers.clear(Why::AttemptLimit(id));
                // Only what is new forgives earlier tries: a server that has lost the answer opens and ends such
                // streams for ever.
                if begun == Begun::News
                    && let Some(Purpose::Exchange(ex)) = self.attempts.get(of).map(|a| a.purpose)
                    && let Some(exchange) = self.exchanges.get_mut(&ex)
                {
                    exchange.resumes = 0;
                }
            }
            Purpose::Open(_)
            | Purpose::Handshake
            | Purpose::Trial
            | Purpose::Initialized
            | Purpose::Rebuild
            | Purpose::Ping(_)
            | Purpose::List(_)
            | Purpose::Note(_)
            | Purpose::Delete => {}
        }
    }

    /// The `ping` ahead of a call is over; what other latches held back for it may go.
    pub(super) fn look_is_over(&mut self) {
        self.looking = None;
        let others = self.waiting.iter().filter_map(|ex| Some(self.exchanges.get(ex)?.latch));
        self.dirty.extend(others);
    }

    pub(super) fn look_over(&mut self, attempt: &Attempt, ex: ExId, outcome: Outcome<'_>) {
        self.look_is_over();
        let has_id = self.latches.get(&attempt.latch).is_some_and(|l| l.has_id);
        let waits = self.exchanges.get(&ex).is_some_and(|e| matches!(e.state, ExState::Looking(_)));
        if waits {
            self.wait_again(ex);
        }
        match outcome {
            Outcome::Refused(refusal) => match reading::read(&refusal, has_id) {
                Reading::Gone => self.session_refused(attempt.latch, attempt.generation, None),
                Reading::Gateway | Reading::NotMcp => self.missing(&refusal),
                Reading::Suspected if matches!(refusal.status, 500 | 503) => self.missing(&refusal),
                Reading::AboutRequest
                | Reading::Credentials
                | Reading::Later
                | Reading::WrongPlace
                | Reading::Redirected
                | Reading::Suspected => self.go_unseen(ex),
            },
            Outcome::Cut(cut) if !cut.wrote => self.mark_away(Absence {
                code: Code::UpstreamDown,
                cause: &cut.cause,
                confirmed: true,
                after: None,
            }),
            Outcome::Cut(cut) => self.connection_broke(&cut.cause),
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) | Outcome::Limit => {
                self.go_unseen(ex);
            }
        }
    }

    /// The look found nothing against it: the call goes out in its order, whatever the look was answered.
    fn go_unseen(&mut self, ex: ExId) {
        if let Some(exchange) = self.exchanges.get_mut(&ex) {
            exchange.looked = true;
        }
    }

    pub(crate) fn hinted(&mut self, id: LatchId, hints: Vec<(String, bool, bool)>) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let mut tools = latch.repeatable.take().map(Arc::unwrap_or_clone).unwrap_or_default();
        for (tool, read_only, idempotent) in hints {
            if read_only || idempotent {
                if tools.len() < 10_000 {
                    tools.insert(tool);
                }
            } else {
                tools.remove(&tool);
            }
        }
        latch.repeatable = (!tools.is_empty()).then(|| self.tools.of(tools));
    }

    pub(crate) fn pass_refusal(&mut self, attempt: AttemptId, ex: ExId, executed: Executed) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let method = exchange.title().to_owned();
        let executed = exchange.ran_with(executed);
        if self.policy.process || self.session_ended {
            // No answer of anybody's: what refuses is the end of a process, or of a stream.
            let cause = self.refused_words().unwrap_or_default();
            let failure = if self.policy.process {
                exchange.command_ended(&self.policy.name, &self.policy.url, executed, &cause)
            } else {
                exchange.stream_ended(&self.policy.name, executed, &cause)
            };
            self.out.push(Effect::Drop { attempt });
            return self.give_back(ex, Some(failure));
        }
        match executed {
            Executed::No => self.tracker.noted(self.now, &method, "the upstream refused it"),
            Executed::Unknown => self.tracker.failed(self.now, &method, "the upstream refused it"),
        }
        self.call_failed(ex);
        self.out.push(Effect::PassRefusal { ex, attempt, executed });
        self.forget(ex);
    }

    /// The upstream's own 401 or 403 goes to everyone who waits for this latch, or to these.
    pub(crate) fn challenge(&mut self, latch: LatchId, attempt: AttemptId, exchanges: &[ExId]) {
        let words = self.refused_words();
        self.journal(journal::What::CredentialsRefused, Some(latch), |entry| entry.detail = words);
        for ex in exchanges {
            self.call_failed(*ex);
            self.waited(*ex, Waited::GivenBack);
            self.out.push(Effect::Challenge { ex: *ex, attempt });
            self.forget(*ex);
        }
        self.out.push(Effect::Drop { attempt });
    }

    /// This exchange ends without an answer of its upstream's; a call among them is told of.
    fn call_failed(&mut self, ex: ExId) {
        if self.exchanges.get(&ex).is_some_and(|e| e.ask.method == method::TOOLS_CALL) {
            self.tracker.call_failed();
        }
    }

    /// Ends an exchange with an error of relatch's own.
    pub(crate) fn give_back(&mut self, ex: ExId, failure: Option<Failure>) {
        let (Some(exchange), Some(failure)) = (self.exchanges.get(&ex), failure) else { return };
        let (latch, title, client) = (exchange.latch, exchange.title().to_owned(), exchange.client);
        let repeats = exchange.class == RetryClass::Always;
        let deliberate = matches!(failure.code, Code::Cancelled | Code::SessionEnded);
        if !deliberate {
            self.tracker.totals.given_back += 1;
            self.call_failed(ex);
            self.tracker.noted(self.now, &title, failure.cause.as_deref().unwrap_or(&failure.message));
            let unknown = failure.executed == Executed::Unknown && !repeats;
            let what = if unknown { journal::What::DeliveryUnknown } else { journal::What::GivenBack };
            self.tracker.totals.delivery_unknown += u64::from(unknown);
            let detail = failure.cause.clone().unwrap_or_else(|| failure.code.as_str().to_owned());
            self.journal(what, Some(latch), |entry| {
                entry.subject = Some(title);
                entry.detail = Some(detail);
            });
        }
        self.waited(ex, if deliberate { Waited::Dropped } else { Waited::GivenBack });
        if client != Client::Left {
            if self.planted(Fault::AnswersTwice) {
                self.out.push(Effect::Answer { ex, failure: failure.clone() });
            }
            self.out.push(Effect::Answer { ex, failure });
        }
        let opening =
            self.latches.get(&latch).is_some_and(|l| matches!(l.state, LatchState::Opening(e) if e == ex));
        self.forget(ex);
        if opening {
            self.ended(latch);
        }
    }

    /// The exchange is over.
    pub(crate) fn forget(&mut self, ex: ExId) {
        for why in [Why::HoldEnds(ex), Why::EarlyDue(ex), Why::PauseEnds(ex), Why::CopyDue(ex)] {
            self.timers.clear(why);
        }
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let (id, print) = (exchange.latch, exchange.print);
        // An `initialize` waits until it is answered.
        let opening = exchange.ask.method == method::INITIALIZE && exchange.client == Client::Waits;
        self.exchanges.remove(&ex);
        self.waited(ex, if opening { Waited::Sent } else { Waited::Dropped });
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.waiting.remove(&ex);
            latch.exchanges.remove(&(ex, print));
        }
        self.waiting.remove(&ex);
        self.fresh.remove(&ex);
        self.dirty.insert(id);
    }
}
