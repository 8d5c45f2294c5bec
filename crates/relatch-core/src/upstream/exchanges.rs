//! The life of an exchange: asked, waiting, sent, answered.
//!
//! The verdict itself is `exchange::verdict`; this file gathers what it needs and carries out what it says.

use relatch_wire::failure::{Code, Executed};
use relatch_wire::method::{self, RetryClass};

use super::timers::Why;
use super::{Absence, Attempt, Machine, Outcome, Purpose, Question, Reach};
use crate::effect::{Connection, Effect, Failure, IdRule, What};
use crate::exchange::{Client, Delivery, ExState, Exchange, Verdict, verdict};
use crate::health::ClientSeen;
use crate::input::{Answer, Ask, Begun, Cut, CutKind, Keep, Refusal};
use crate::latch::reading::{self, Reading};
use crate::latch::{Latch, LatchState};
use crate::{AttemptId, ExId, Gen, LatchId, journal, policy};

impl Machine {
    pub(super) fn opened(&mut self, id: LatchId, ex: ExId, ask: Ask, client: Option<ClientSeen>) {
        let mut latch = Latch::new(id, self.now, LatchState::Opening(ex), client);
        latch.waiting.insert(ex);
        let detail = latch.client.as_ref().map(|c| format!("{} {}", c.name, c.version));
        self.latches.insert(id, latch);
        self.journal(journal::What::Attached, Some(id), |entry| entry.detail = detail);
        self.take(id, ex, ask, RetryClass::Always);
    }

    pub(super) fn asked(&mut self, id: LatchId, ex: ExId, ask: Ask) {
        let now = self.now;
        let crowded = self.exchanges.len() >= policy::WAITING && self.waiting() >= policy::WAITING;
        let Some(latch) = self.latches.get_mut(&id) else {
            debug_assert!(false, "asked of a latch that is not there");
            return;
        };
        latch.last_used = now;
        let repeatable = ask.tool.as_ref().is_some_and(|tool| latch.repeatable.contains(tool));
        let class = self.policy.class(&ask.method, ask.tool.as_deref(), repeatable);
        let ended = matches!(latch.state, LatchState::Ended);
        let bounds = if latch.waiting.len() >= policy::WAITING_PER_LATCH {
            Some((policy::WAITING_PER_LATCH, "session"))
        } else if crowded {
            Some((policy::WAITING, "upstream"))
        } else {
            None
        };
        if !ended && bounds.is_none() {
            latch.waiting.insert(ex);
            if let LatchState::Parked(loss) = &latch.state {
                // Its credentials may be new: try again with this request's.
                latch.state = match (loss.doubt, loss.generation) {
                    (crate::latch::Doubtful::Replaced, Some(generation)) => LatchState::Bound(generation),
                    _ => LatchState::Refused(crate::latch::Loss { not_before: None, ..loss.clone() }),
                };
            }
        }
        self.take(id, ex, ask, class);
        let name = self.policy.name.clone();
        if ended {
            let failure = self.exchanges.get(&ex).map(|e| e.session_ended(&name, Executed::No));
            self.give_back(ex, failure);
        } else if let Some((bound, whose)) = bounds {
            let failure = self.exchanges.get(&ex).map(|e| e.too_many_waiting(&name, bound, whose));
            self.give_back(ex, failure);
        }
    }

    fn take(&mut self, latch: LatchId, ex: ExId, ask: Ask, class: RetryClass) {
        self.tracker.totals.calls += 1;
        let exchange = Exchange {
            latch,
            ask,
            class,
            asked: self.now,
            state: ExState::Waiting,
            deadline: None,
            written: false,
            sendings: 0,
            seen_by: Default::default(),
            refused_by: Default::default(),
            misled: 0,
            not_before: None,
            fresh: false,
            client: Client::Waits,
            held: false,
            resumes: 0,
        };
        self.exchanges.insert(ex, exchange);
        self.fresh.insert(ex);
        self.dirty.insert(latch);
    }

    fn waiting(&self) -> usize {
        self.exchanges.values().filter(|e| e.state == ExState::Waiting).count()
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

    /// An exchange that did not leave at once begins to wait: its deadlines are set, it is counted.
    pub(super) fn begin_hold(&mut self, ex: ExId) {
        let now = self.now;
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        if exchange.state != ExState::Waiting {
            return;
        }
        let handshake = exchange.ask.method == method::INITIALIZE;
        let hold =
            if handshake { self.policy.hold_ms.min(policy::HANDSHAKE_HOLD_MS) } else { self.policy.hold_ms };
        let deadline = match exchange.deadline {
            Some(deadline) if !exchange.written => deadline,
            Some(_) | None => now.plus(hold),
        };
        exchange.deadline = Some(deadline);
        exchange.written = false;
        let news = !exchange.held;
        exchange.held = true;
        let early = (exchange.ask.accepts_sse && !handshake).then(|| exchange.asked.plus(policy::EARLY_MS));
        let (latch, title) = (exchange.latch, exchange.title().to_owned());
        self.timers.set(Why::HoldEnds(ex), deadline);
        if let Some(early) = early.filter(|at| *at > now) {
            self.timers.set(Why::EarlyDue(ex), early);
        }
        if news {
            self.tracker.totals.held += 1;
            let why = self.why_waiting(latch);
            self.journal(journal::What::Held, Some(latch), |entry| {
                entry.subject = Some(title);
                entry.detail = Some(why);
            });
        }
    }

    /// Why an exchange of this latch can't go out now, for people.
    pub(crate) fn why_waiting(&self, latch: LatchId) -> String {
        if let Some(away) = self.away() {
            return away.cause.clone();
        }
        match self.latches.get(&latch).map(|l| &l.state) {
            Some(LatchState::Refused(loss) | LatchState::Relatching(loss, ..)) => match &loss.trouble {
                Some((_, cause)) => cause.clone(),
                None => "a new session is being opened".to_owned(),
            },
            Some(LatchState::Doubted(..)) => "the session is being asked about".to_owned(),
            Some(LatchState::Opening(_)) => "`initialize` has no answer yet".to_owned(),
            Some(LatchState::Parked(_)) => "the upstream refuses the credentials".to_owned(),
            Some(LatchState::Bound(_) | LatchState::Ended) | None => "another message goes first".to_owned(),
        }
    }

    pub(super) fn hold_ends(&mut self, ex: ExId) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        if !matches!(exchange.state, ExState::Waiting | ExState::Looking(_)) {
            return;
        }
        let latch = exchange.latch;
        let cause = self.why_waiting(latch);
        let trouble = self.latches.get(&latch).and_then(|l| match &l.state {
            LatchState::Refused(loss) | LatchState::Relatching(loss, ..) => loss.trouble.as_ref(),
            _ => None,
        });
        let code = match (self.away(), trouble) {
            (Some(away), _) => away.code,
            (None, Some((code, _))) => *code,
            (None, None) => Code::UpstreamDown,
        };
        let since = self.away().map(|away| away.since);
        let name = self.policy.name.clone();
        let waited = self.now.since(exchange.asked);
        let opening = exchange.ask.method == method::INITIALIZE;
        let mut failure = if code == Code::HandshakeRefused {
            exchange.handshake_refused(&name, &cause)
        } else if opening && code == Code::EndpointMissing && !self.spoken {
            exchange.not_mcp(&name, &self.policy.url, code, &cause)
        } else {
            exchange.held_too_long(&name, code, waited, &cause)
        };
        if let Some(since) = since {
            failure = failure.since(since);
        }
        self.give_back(ex, Some(failure));
    }

    pub(super) fn early(&mut self, ex: ExId) {
        if self.exchanges.get(&ex).is_some_and(|e| e.state == ExState::Waiting && e.client == Client::Waits) {
            self.out.push(Effect::Early { ex });
        }
    }

    /// Everything that waits on a bound latch goes out in its original order, as far as it may.
    pub(super) fn start_waiting(&mut self, id: LatchId, generation: Gen) {
        let Some(latch) = self.latches.get(&id) else { return };
        if latch.note.as_ref().is_some_and(|(_, _, told, _)| *told == crate::input::Told::Initialized) {
            return;
        }
        let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
        for ex in waiting {
            let Some(exchange) = self.exchanges.get(&ex) else { continue };
            if let Some(at) = exchange.not_before.filter(|at| *at > self.now) {
                self.timers.set(Why::PauseEnds(ex), at);
                continue;
            }
            if exchange.class != RetryClass::Always {
                if self.looking.is_some() {
                    continue;
                }
                if self.needs_a_look() {
                    let look =
                        self.ping(id, generation, Question::Look(ex), Connection::Young, policy::LOOK_MS);
                    self.looking = Some(look);
                    self.leave_waiting(ex, ExState::Looking(look));
                    continue;
                }
            }
            self.send_exchange(ex, generation);
        }
    }

    /// Whether a `ping` goes ahead of a call that may not repeat.
    fn needs_a_look(&self) -> bool {
        let old = self.tracker.bad_news()
            || self.tracker.last_heard().is_none_or(|at| self.now.since(at) > policy::LOOK_AFTER_MS);
        let cheap = self.policy.local
            || self.gateway_seen.is_some_and(|at| self.now.since(at) < policy::GATEWAY_MEMORY_MS);
        old && cheap && self.open_attempts() == 0
    }

    fn leave_waiting(&mut self, ex: ExId, state: ExState) {
        self.timers.clear(Why::PauseEnds(ex));
        if !matches!(state, ExState::Looking(_)) {
            self.timers.clear(Why::HoldEnds(ex));
            self.timers.clear(Why::EarlyDue(ex));
        }
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        exchange.state = state;
        if let Some(latch) = self.latches.get_mut(&exchange.latch) {
            latch.waiting.remove(&ex);
        }
    }

    fn send_exchange(&mut self, ex: ExId, generation: Gen) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let latch = exchange.latch;
        let taken = exchange.seen_by.contains(&generation)
            || self.exchanges.iter().any(|(other, e)| {
                *other != ex && e.latch == latch && e.attempt().is_some() && e.ask.id == exchange.ask.id
            });
        let id = if taken { IdRule::Mapped } else { IdRule::Own };
        let connection = match (exchange.fresh, exchange.class) {
            (true, _) => Connection::Fresh,
            (false, RetryClass::Always) => Connection::Any,
            (false, RetryClass::IfNotDelivered | RetryClass::Never) => Connection::Young,
        };
        let again = exchange.sendings > 0;
        let title = exchange.title().to_owned();
        let attempt =
            self.send(latch, generation, What::Exchange { ex, id }, Purpose::Exchange(ex), connection, None);
        self.leave_waiting(ex, ExState::Sent(attempt));
        if let Some(exchange) = self.exchanges.get_mut(&ex) {
            exchange.sendings += 1;
            exchange.written = true;
            exchange.fresh = false;
            exchange.not_before = None;
            exchange.seen_by.insert(generation);
        }
        if again {
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
        if exchange.client == Client::Left || exchange.client == Client::Cancelled {
            self.forget(ex);
            return;
        }
        exchange.state = ExState::Waiting;
        let id = exchange.latch;
        self.fresh.insert(ex);
        self.dirty.insert(id);
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.waiting.insert(ex);
        }
    }

    pub(super) fn begun(&mut self, id: AttemptId, begun: Begun) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.begun = Some(begun);
        let attempt = Attempt { purpose: attempt.purpose.clone(), ..*attempt };
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
            }
            Purpose::Stream => self.stream_begun(id, &attempt),
            Purpose::Resume(of) => {
                // The stream goes on: earlier tries are forgiven.
                if let Some(Purpose::Exchange(ex)) = self.attempts.get(&of).map(|a| a.purpose.clone())
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

    pub(super) fn exchange_over(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, outcome: Outcome<'_>) {
        let current = self.exchanges.get(&ex).is_some_and(|e| e.attempt() == Some(id));
        if !current {
            self.attempts.remove(&id);
            self.out.push(Effect::Drop { attempt: id });
            return;
        }
        match outcome {
            Outcome::Answered(answer) => {
                self.attempts.remove(&id);
                self.exchange_answered(id, attempt, ex, answer);
            }
            Outcome::Refused(refusal) => {
                self.attempts.remove(&id);
                self.exchange_refused(id, attempt, ex, &refusal);
            }
            Outcome::Cut(cut) => self.exchange_cut(id, attempt, ex, &cut),
            Outcome::Session(_) | Outcome::Listed(_) | Outcome::Limit => {
                debug_assert!(false, "not an end of a client's request");
            }
        }
    }

    fn exchange_answered(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, answer: Answer<'_>) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let (latch, passing) = (exchange.latch, matches!(exchange.state, ExState::Passing(_)));
        let keep = exchange.ask.keep.clone();
        let (method, took) = (exchange.title().to_owned(), self.now.since(attempt.sent));
        let call = exchange.ask.tool.is_some();
        if let Answer::Error { code, message } = answer
            && !passing
            && reading::error_raises_doubt(code, message)
        {
            let digest = rpc_digest(code, message);
            if self.doubt(attempt, Some(ex), id, 200, digest, true) {
                return;
            }
        }
        let ok = answer == Answer::Result;
        self.tracker.answered(self.now, &method, took, call);
        if let Some(latch) = self.latches.get_mut(&latch)
            && latch.in_use() == Some(attempt.generation)
        {
            latch.unanswered = 0;
            latch.rested = 0;
        }
        if ok {
            self.remember(latch, keep);
        }
        self.out.push(Effect::Pass { ex, attempt: id });
        self.forget(ex);
    }

    /// What a successful request changes in its session.
    fn remember(&mut self, id: LatchId, keep: Keep) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let changed = match keep {
            Keep::Nothing => false,
            Keep::Level(params) => latch.level.replace(params.clone()) != Some(params),
            Keep::Subscribe(uri, params) => {
                let room = latch.subscriptions.len() < policy::SUBSCRIPTIONS
                    || latch.subscriptions.contains_key(&uri);
                room && latch.subscriptions.insert(uri, params).is_none()
            }
            Keep::Unsubscribe(uri) => latch.subscriptions.remove(&uri).is_some(),
            Keep::List(kind) => {
                latch.lists.insert(kind);
                // The client has the newest page by now; its digests belong into the record.
                true
            }
        };
        if changed {
            self.out.push(Effect::Record { latch: id });
        }
    }

    fn exchange_refused(&mut self, id: AttemptId, attempt: &Attempt, ex: ExId, refusal: &Refusal<'_>) {
        let has_id = self.latches.get(&attempt.latch).is_some_and(|l| l.has_id);
        let name = self.policy.name.clone();
        match reading::read(refusal, has_id) {
            Reading::Gone => self.refused_as_gone(id, attempt, ex),
            Reading::AboutRequest => self.pass_refusal(id, ex, Executed::No),
            Reading::Credentials => {
                self.tracker.credentials(self.now, false, &name);
                self.challenge(attempt.latch, id, &[ex]);
            }
            Reading::Later => self.come_back_later(id, ex, refusal),
            Reading::WrongPlace => {
                let again = self.exchanges.get_mut(&ex).is_some_and(|e| {
                    !std::mem::replace(&mut e.fresh, true)
                        && e.sendings < 2
                        && verdict(e.class, Delivery::Refused) == Verdict::SendAgain
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
                let failure = self.exchanges.get(&ex).map(|e| e.redirected(&name, refusal.location));
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
                let delivery = if refusal.status < 300 { Delivery::Unknown } else { Delivery::Refused };
                self.out.push(Effect::Drop { attempt: id });
                let back = |e: &&Exchange| verdict(e.class, delivery) == Verdict::GiveBack;
                match self.exchanges.get(&ex).filter(back) {
                    Some(exchange) if delivery == Delivery::Unknown => {
                        let failure = exchange.garbled(&name, &cause);
                        self.give_back(ex, Some(failure));
                    }
                    Some(_) | None => self.again_or_back(ex, delivery, &cause),
                }
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
                        reading::speaks_of_session(refusal.body),
                    )
                {
                    self.pass_refusal(id, ex, executed_by(refusal.status));
                }
            }
        }
    }

    fn gateway(&mut self, id: AttemptId, ex: ExId, refusal: &Refusal<'_>) {
        self.gateway_seen = Some(self.now);
        let cause = door_words(&self.policy.url, refusal);
        self.mark_away(Absence { code: Code::UpstreamDown, cause: &cause, confirmed: true, after: None });
        let delivery = if self.policy.gateway_errors_refused { Delivery::Refused } else { Delivery::Unknown };
        self.out.push(Effect::Drop { attempt: id });
        self.again_or_back(ex, delivery, &cause);
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
            let failure = exchange.state_lost(&name);
            self.out.push(Effect::Drop { attempt: id });
            self.give_back(ex, Some(failure));
        } else if fresh_refused || misled > policy::REPLICA_PINGS || exchange.sendings >= policy::SENDINGS {
            self.pass_refusal(id, ex, Executed::No);
        } else {
            self.out.push(Effect::Drop { attempt: id });
            self.wait_again(ex);
        }
        self.session_refused(attempt.latch, attempt.generation, Some(ex));
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
            && self.away().is_none()
            && matches!(self.exchanges.get(&ex).map(|e| e.state), Some(ExState::Sent(_)))
            && self.try_resume(id, ex, cut.retry)
        {
            return;
        }
        self.attempts.remove(&id);
        self.out.push(Effect::Withdraw { attempt: id });
        self.out.push(Effect::Drop { attempt: id });
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        if client == Client::Cancelled {
            let failure = exchange.cancelled(&name, Executed::Unknown);
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
            (_, CutKind::Garbled) => {
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
            (true, CutKind::Tls | CutKind::UnknownHost | CutKind::Connection) => {
                self.connection_broke(&cut.cause);
                self.again_or_back(ex, Delivery::Unknown, &cut.cause);
            }
        }
    }

    /// One connection broke: whether the upstream is away, a scout will tell.
    pub(crate) fn connection_broke(&mut self, cause: &str) {
        self.mark_away(Absence { code: Code::UpstreamDown, cause, confirmed: false, after: None });
        self.scout_soon();
    }

    pub(crate) fn scout_soon(&mut self) {
        if let Reach::Away(away) = &self.reach
            && away.scout.is_none()
            && self.timers.get(Why::Scout).is_none_or(|at| at > self.now)
            && !away.confirmed
        {
            self.timers.set(Why::Scout, self.now);
        }
    }

    /// Carries out the verdict for an exchange that got no answer.
    pub(crate) fn again_or_back(&mut self, ex: ExId, delivery: Delivery, cause: &str) {
        let name = self.policy.name.clone();
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let exhausted = exchange.sendings >= policy::SENDINGS;
        match verdict(exchange.class, delivery) {
            Verdict::SendAgain | Verdict::WaitThenSend if !exhausted => self.wait_again(ex),
            Verdict::SendAgain | Verdict::WaitThenSend => {
                let waited = self.now.since(exchange.asked);
                let failure = exchange.held_too_long(&name, Code::UpstreamDown, waited, cause);
                self.give_back(ex, Some(failure));
            }
            Verdict::GiveBack => {
                let failure = match delivery {
                    Delivery::Refused => exchange.never_replayed(&name),
                    Delivery::NotSent | Delivery::Unknown | Delivery::Answered => {
                        exchange.unknown(&name, cause)
                    }
                };
                self.give_back(ex, Some(failure));
            }
            Verdict::PassOn => debug_assert!(false, "an answer is passed on, not judged"),
        }
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
        let Some(attempt) = self.attempts.get(&of) else { return };
        let (latch, generation) = (attempt.latch, attempt.generation);
        self.send(latch, generation, What::Resume { of }, Purpose::Resume(of), Connection::Any, None);
    }

    /// The rest of a stream ended, or was not to be had: the attempt that it belongs to is cut.
    pub(super) fn resume_over(&mut self, of: AttemptId, outcome: Outcome<'_>) {
        let cut = match outcome {
            Outcome::Cut(cut) => Cut { wrote: true, ..cut },
            Outcome::Refused(refusal) => Cut {
                wrote: true,
                kind: CutKind::Connection,
                cause: format!("the stream broke and can't be resumed: HTTP {}", refusal.status),
                resumable: false,
                retry: None,
            },
            // The answer itself is reported as the other attempt's.
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) | Outcome::Limit => return,
        };
        let Some(attempt) = self.attempts.get(&of) else { return };
        let attempt = Attempt { purpose: attempt.purpose.clone(), ..*attempt };
        if let Purpose::Exchange(ex) = attempt.purpose {
            self.exchange_over(of, &attempt, ex, Outcome::Cut(cut));
        }
    }

    pub(super) fn look_over(&mut self, attempt: &Attempt, ex: ExId, outcome: Outcome<'_>) {
        self.looking = None;
        let bound = self
            .latches
            .get(&attempt.latch)
            .is_some_and(|l| matches!(l.state, LatchState::Bound(g) if g == attempt.generation));
        let has_id = self.latches.get(&attempt.latch).is_some_and(|l| l.has_id);
        let waits = self.exchanges.get(&ex).is_some_and(|e| matches!(e.state, ExState::Looking(_)));
        if waits {
            self.wait_again(ex);
        }
        // Other latches may have held calls back for this look.
        let others: Vec<LatchId> =
            self.exchanges.values().filter(|e| e.state == ExState::Waiting).map(|e| e.latch).collect();
        self.dirty.extend(others);
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
                | Reading::Suspected => self.go_unseen(ex, attempt, bound),
            },
            Outcome::Cut(cut) if !cut.wrote => self.mark_away(Absence {
                code: Code::UpstreamDown,
                cause: &cut.cause,
                confirmed: true,
                after: None,
            }),
            Outcome::Cut(cut) => self.connection_broke(&cut.cause),
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) | Outcome::Limit => {
                self.go_unseen(ex, attempt, bound);
            }
        }
    }

    /// The look found nothing against it: the call goes out now, whatever the look was answered.
    fn go_unseen(&mut self, ex: ExId, attempt: &Attempt, bound: bool) {
        let waits = self.exchanges.get(&ex).is_some_and(|e| e.state == ExState::Waiting);
        if bound && waits {
            self.send_exchange(ex, attempt.generation);
        }
    }

    /// A gateway or somebody else answers in the upstream's place.
    pub(crate) fn missing(&mut self, refusal: &Refusal<'_>) {
        if (502..=504).contains(&refusal.status) {
            self.gateway_seen = Some(self.now);
        }
        let code = match refusal.status {
            500..=599 => Code::UpstreamDown,
            _ => Code::EndpointMissing,
        };
        let cause = door_words(&self.policy.url, refusal);
        self.mark_away(Absence { code, cause: &cause, confirmed: true, after: refusal.retry_after });
    }

    pub(crate) fn hinted(&mut self, id: LatchId, hints: Vec<(String, bool, bool)>) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        for (tool, read_only, idempotent) in hints {
            if read_only || idempotent {
                if latch.repeatable.len() < 10_000 {
                    latch.repeatable.insert(tool);
                }
            } else {
                latch.repeatable.remove(&tool);
            }
        }
    }

    pub(crate) fn pass_refusal(&mut self, attempt: AttemptId, ex: ExId, executed: Executed) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let method = exchange.title().to_owned();
        self.tracker.failed(self.now, &method, "the upstream refused it");
        self.out.push(Effect::PassRefusal { ex, attempt, executed });
        self.forget(ex);
    }

    /// The upstream's own 401 or 403 goes to everyone who waits for this latch, or to these.
    pub(crate) fn challenge(&mut self, latch: LatchId, attempt: AttemptId, exchanges: &[ExId]) {
        self.journal(journal::What::CredentialsRefused, Some(latch), |_| {});
        for ex in exchanges {
            self.out.push(Effect::Challenge { ex: *ex, attempt });
            self.forget(*ex);
        }
        self.out.push(Effect::Drop { attempt });
    }

    /// Ends an exchange with an error of relatch's own.
    pub(crate) fn give_back(&mut self, ex: ExId, failure: Option<Failure>) {
        let (Some(exchange), Some(failure)) = (self.exchanges.get(&ex), failure) else { return };
        let (latch, title, client) = (exchange.latch, exchange.title().to_owned(), exchange.client);
        let deliberate = matches!(failure.code, Code::Cancelled | Code::SessionEnded);
        if !deliberate {
            self.tracker.totals.given_back += 1;
            self.tracker.failed(self.now, &title, failure.cause.as_deref().unwrap_or(&failure.message));
            let unknown = failure.code == Code::DeliveryUnknown;
            let what = if unknown { journal::What::DeliveryUnknown } else { journal::What::GivenBack };
            self.tracker.totals.delivery_unknown += u64::from(unknown);
            let detail = failure.cause.clone().unwrap_or_else(|| failure.code.as_str().to_owned());
            self.journal(what, Some(latch), |entry| {
                entry.subject = Some(title);
                entry.detail = Some(detail);
            });
        }
        if client != Client::Left {
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
        for why in [Why::HoldEnds(ex), Why::EarlyDue(ex), Why::PauseEnds(ex)] {
            self.timers.clear(why);
        }
        let Some(exchange) = self.exchanges.remove(&ex) else { return };
        if let Some(latch) = self.latches.get_mut(&exchange.latch) {
            latch.waiting.remove(&ex);
        }
        self.dirty.insert(exchange.latch);
    }
}

/// Whether a call may have run that got this status.
pub(crate) fn executed_by(status: u16) -> Executed {
    if !(300..500).contains(&status) { Executed::Unknown } else { Executed::No }
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
