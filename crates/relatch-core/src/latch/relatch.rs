//! Losing a session and binding a new one in its place.
//!
//! Decides when a handshake begins, what each of its answers means, and what is replayed. Single flight per latch: a
//! latch in [`LatchState::Relatching`] has one step under way, however many requests wait.

use std::collections::VecDeque;

use relatch_wire::failure::{Code, Executed};
use relatch_wire::method::RetryClass;

use super::reading::{self, Door, Reading};
use super::{Doubtful, Farewell, Gap, Latch, LatchState, Loss, Replay, Step, StreamState};
use crate::effect::{Connection, Effect, What};
use crate::exchange::words;
use crate::input::{Answer, CutKind, Restored, SessionFacts};
use crate::upstream::{Absence, Attempt, Machine, Outcome, Purpose, Question, Why};
use crate::{AttemptId, ExId, Gen, LatchId, journal, policy};

impl Machine {
    /// The number of the next upstream session of this latch.
    pub(crate) fn next_generation(&mut self, id: LatchId) -> Gen {
        let Some(latch) = self.latches.get_mut(&id) else { return Gen(0) };
        latch.begun += 1;
        Gen(latch.begun)
    }

    pub(crate) fn restored(&mut self, id: LatchId, restored: Restored) {
        let state = match restored.bound {
            Some(generation) => LatchState::Bound(generation),
            None => LatchState::Refused(Loss::new(None, self.now, Doubtful::Gone)),
        };
        let mut latch = Latch::new(id, self.now, state, restored.client);
        latch.begun = restored.begun.max(restored.bound.map_or(0, |g| g.0));
        latch.generation = restored.bound;
        latch.has_id = restored.has_id;
        latch.initialized = restored.initialized;
        latch.announced = restored.bound;
        latch.promised = restored.revision;
        latch.server = restored.server;
        latch.level = restored.level;
        latch.subscriptions = restored.subscriptions;
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
                self.tracker.answered(self.now, "initialize", took, false);
                self.tracker.handshake(self.now, None);
                self.out.push(Effect::Pass { ex, attempt: id });
                self.adopt(attempt.latch, attempt.generation, &session);
                self.forget(ex);
                if let Some(latch) = self.latches.get_mut(&attempt.latch) {
                    latch.promised = session.server.protocol.clone();
                    latch.state = LatchState::Bound(attempt.generation);
                    latch.generation = Some(attempt.generation);
                    latch.bound = Some(self.now);
                }
                self.out.push(Effect::Record { latch: attempt.latch });
            }
            Outcome::Answered(answer) => {
                let took = self.now.since(attempt.sent);
                self.tracker.answered(self.now, "initialize", took, false);
                if let Answer::Error { code, message } = answer {
                    self.tracker.handshake(self.now, Some(&words::refused_with(code, message)));
                }
                self.out.push(Effect::Pass { ex, attempt: id });
                self.forget(ex);
                self.ended(attempt.latch);
            }
            Outcome::Refused(refusal) => match reading::read_door(&refusal) {
                Door::Credentials => {
                    self.tracker.credentials(self.now, false, &name);
                    self.challenge(attempt.latch, id, &[ex]);
                    self.ended(attempt.latch);
                }
                Door::Refused => {
                    let cause = format!("`initialize` was refused with HTTP {}", refusal.status);
                    self.tracker.handshake(self.now, Some(&cause));
                    self.pass_refusal(id, ex, Executed::No);
                    self.ended(attempt.latch);
                }
                Door::Redirected => {
                    let failure = exchange.redirected(&name, refusal.location);
                    self.out.push(Effect::Drop { attempt: id });
                    self.give_back(ex, Some(failure));
                }
                Door::Later | Door::Missing => {
                    self.out.push(Effect::Drop { attempt: id });
                    self.missing(&refusal);
                    self.hold_no_longer_than(ex, refusal.retry_after);
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

    /// The server names a time beyond the hold: waiting is of no use.
    fn hold_no_longer_than(&mut self, ex: ExId, retry_after: Option<u64>) {
        let Some(pause) = retry_after else { return };
        let name = self.policy.name.clone();
        let hold = self.policy.hold_ms;
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        let end = exchange.deadline.unwrap_or_else(|| exchange.asked.plus(hold));
        if self.now.plus(pause) > end {
            let cause = self.why_waiting(exchange.latch);
            let failure = exchange.come_back_later(&name, pause, &cause);
            self.give_back(ex, Some(failure));
        }
    }

    fn silent_handshake(&mut self) {
        let cause = format!(
            "`{}` accepts the connection and does not answer `initialize` within {} s",
            self.policy.url,
            policy::HANDSHAKE_STEP_MS / 1_000
        );
        self.mark_away(Absence { code: Code::UpstreamDown, cause: &cause, confirmed: true, after: None });
    }

    /// What a server says of itself is taken over; what changed is journalled.
    fn adopt(&mut self, id: LatchId, generation: Gen, session: &SessionFacts) {
        self.spoken = true;
        self.tracker.credentials(self.now, true, "");
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let before = latch.server.replace(session.server.clone());
        let digest = latch.digest.replace(session.digest);
        latch.has_id = session.has_id;
        latch.answered = Some(now);
        let promised = latch.promised.clone();
        let first = before.is_none();
        let mut changes = Vec::new();
        if let Some(before) = &before {
            if before.version != session.server.version || before.name != session.server.name {
                let name = |s: &crate::health::ServerSeen| {
                    format!(
                        "{} {}",
                        s.name.as_deref().unwrap_or("a server without name"),
                        s.version.as_deref().unwrap_or("")
                    )
                };
                changes.push(format!("{} → {}", name(before), name(&session.server)));
            }
            if before.protocol != session.server.protocol {
                changes.push(format!("revision {} → {}", before.protocol, session.server.protocol));
            }
        }
        if !first && digest.is_some_and(|d| d != session.digest) {
            changes.push("instructions differ".to_owned());
        }
        if !changes.is_empty() {
            self.journal(journal::What::ServerChanged, Some(id), |entry| {
                entry.generation = Some(generation);
                entry.detail = Some(changes.join("; "));
            });
        }
        let moved = !promised.is_empty() && promised != session.server.protocol;
        self.tracker.revision(now, moved.then_some((&promised, &session.server.protocol)));
    }

    /// A request on this session was refused as the session's being gone. Whether one more question is worth it
    /// depends on how lately the session answered.
    pub(crate) fn session_refused(&mut self, id: LatchId, generation: Gen, ex: Option<ExId>) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let LatchState::Bound(bound) = latch.state else { return };
        if bound != generation {
            return;
        }
        let lively = latch.answered.is_some_and(|at| now.since(at) < policy::LIVELY_MS);
        if lively && latch.has_id && self.away().is_none() {
            self.ask_replicas(id, generation, ex);
        } else {
            self.lose(id, generation);
        }
    }

    /// The session is gone as far as its server says.
    pub(crate) fn lose(&mut self, id: LatchId, generation: Gen) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.state = LatchState::Refused(Loss::new(Some(generation), now, Doubtful::Gone));
        latch.old.insert(generation, Farewell::Forget);
        let flaps = latch.unanswered;
        let mut rest = None;
        if flaps >= policy::FLAPS {
            let span =
                if latch.rested == 0 { policy::REST_MS } else { (latch.rested * 2).min(policy::REST_MAX_MS) };
            latch.rested = span;
            rest = Some(span);
            if let LatchState::Refused(loss) = &mut latch.state {
                loss.not_before = Some(now.plus(span));
                loss.trouble = Some((
                    Code::SessionFlapping,
                    format!("{flaps} new sessions in a row were refused before one answered a request"),
                ));
            }
        }
        let stream = latch.stream.attempt();
        latch.stream = StreamState::Off;
        if let Some(stream) = stream {
            self.out.push(Effect::Withdraw { attempt: stream });
            self.abort(stream);
        }
        if let Gap::Comparing(attempt, _) = self.latch_gap(id) {
            self.abort(attempt);
        }
        self.journal(journal::What::Lost, Some(id), |entry| entry.generation = Some(generation));
        self.tracker.session(now, false);
        if let Some(rest) = rest {
            self.tracker.flapping(now, Some(rest));
            self.timers.set(Why::RestEnds(id), now.plus(rest));
        }
        self.dirty.insert(id);
    }

    fn latch_gap(&mut self, id: LatchId) -> Gap {
        self.latches.get_mut(&id).map_or(Gap::Closed, |l| std::mem::replace(&mut l.gap, Gap::Open))
    }

    /// Begins to relatch, if anybody wants it and nothing stands against it.
    pub(crate) fn advance_refused(&mut self, id: LatchId) {
        let now = self.now;
        let Some(latch) = self.latches.get(&id) else { return };
        let LatchState::Refused(loss) = &latch.state else { return };
        if matches!(loss.doubt, Doubtful::Asking(_)) || !latch.wanted(now) {
            return;
        }
        if let Some(at) = loss.not_before.filter(|at| *at > now) {
            self.timers.set(Why::RestEnds(id), at);
            if matches!(loss.trouble, Some((Code::SessionFlapping, _))) {
                self.give_back_flapping(id, at.since(now));
            }
            return;
        }
        if self.away().is_some() {
            self.scout_for_request();
            return;
        }
        match (loss.doubt, loss.generation) {
            (Doubtful::AskFirst, Some(generation)) => {
                self.ask_first(id, generation);
            }
            _ => {
                self.begin_handshake(id);
            }
        }
    }

    fn give_back_flapping(&mut self, id: LatchId, rest: u64) {
        let name = self.policy.name.clone();
        let waiting: Vec<ExId> =
            self.latches.get(&id).map(|l| l.waiting.iter().copied().collect()).unwrap_or_default();
        for ex in waiting {
            let failure = self.exchanges.get(&ex).map(|e| e.flapping(&name, rest));
            self.give_back(ex, failure);
        }
    }

    /// Asks a session that a missing endpoint has made doubtful.
    pub(crate) fn ask_first(&mut self, id: LatchId, generation: Gen) -> AttemptId {
        let attempt = self.ping(id, generation, Question::StillThere, Connection::Young, policy::PING_MS);
        if let Some(Latch { state: LatchState::Refused(loss), .. }) = self.latches.get_mut(&id) {
            loss.doubt = Doubtful::Asking(attempt);
        }
        attempt
    }

    pub(crate) fn still_there_over(&mut self, attempt: &Attempt, outcome: Outcome<'_>) {
        let id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let LatchState::Refused(loss) = &mut latch.state else { return };
        let generation = attempt.generation;
        loss.doubt = Doubtful::AskFirst;
        let has_id = latch.has_id;
        match outcome {
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) => {
                self.alive_after_all(id, generation)
            }
            Outcome::Refused(refusal) => match reading::read(&refusal, has_id) {
                // Also what a proxy without a route says: only the handshake tells, and it goes on in the scout's place.
                Reading::Gone => {
                    self.set_doubt(id, Doubtful::Gone);
                    let handshake = self.begin_handshake(id);
                    self.scout_goes_on(handshake);
                }
                Reading::Gateway | Reading::NotMcp | Reading::Later | Reading::Redirected => {
                    self.missing(&refusal);
                }
                Reading::Suspected if refusal.status >= 500 => self.missing(&refusal),
                Reading::AboutRequest | Reading::Credentials | Reading::WrongPlace | Reading::Suspected => {
                    self.alive_after_all(id, generation);
                }
            },
            Outcome::Cut(cut) => self.mark_away(Absence {
                code: Code::UpstreamDown,
                cause: &cut.cause,
                confirmed: !cut.wrote,
                after: None,
            }),
            Outcome::Limit => {
                self.set_doubt(id, Doubtful::Gone);
                let handshake = self.begin_handshake(id);
                self.scout_goes_on(handshake);
            }
        }
    }

    fn set_doubt(&mut self, id: LatchId, doubt: Doubtful) {
        if let Some(Latch { state: LatchState::Refused(loss), .. }) = self.latches.get_mut(&id) {
            loss.doubt = doubt;
        }
    }

    fn alive_after_all(&mut self, id: LatchId, generation: Gen) {
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.state = LatchState::Bound(generation);
        latch.old.remove(&generation);
        latch.gap = Gap::Mild;
        self.journal(journal::What::Cleared, Some(id), |entry| {
            entry.detail = Some("the session answers; its endpoint was missing for a while".to_owned());
        });
        self.mark_back();
        self.dirty.insert(id);
    }

    /// Sends `initialize` for a new session of this latch, unless too many handshakes are under way.
    pub(crate) fn begin_handshake(&mut self, id: LatchId) -> Option<AttemptId> {
        let turns =
            self.attempts.values().filter(|a| matches!(a.purpose, Purpose::Handshake | Purpose::Trial));
        if turns.count() >= policy::HANDSHAKES {
            self.timers.set(Why::RestEnds(id), self.now.plus(policy::REST_MS));
            return None;
        }
        let generation = self.next_generation(id);
        let attempt = self.send(
            id,
            generation,
            What::Initialize { ex: None },
            Purpose::Handshake,
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        );
        let now = self.now;
        let latch = self.latches.get_mut(&id)?;
        let loss = match std::mem::replace(&mut latch.state, LatchState::Ended) {
            LatchState::Refused(loss) | LatchState::Relatching(loss, ..) | LatchState::Parked(loss) => loss,
            LatchState::Bound(old) | LatchState::Doubted(old, _) => {
                Loss::new(Some(old), now, Doubtful::Replaced)
            }
            LatchState::Opening(_) | LatchState::Ended => Loss::new(None, now, Doubtful::Gone),
        };
        latch.state = LatchState::Relatching(loss, generation, Step::Handshake(attempt));
        Some(attempt)
    }

    pub(crate) fn handshake_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let latch_id = attempt.latch;
        self.another_turn();
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let generation = attempt.generation;
        let LatchState::Relatching(loss, current, Step::Handshake(_)) = &mut latch.state else {
            if matches!(outcome, Outcome::Session(_)) {
                self.send_delete(latch_id, generation);
            }
            self.out.push(Effect::Drop { attempt: id });
            return;
        };
        debug_assert_eq!(*current, generation);
        let mut loss = loss.clone();
        if let Outcome::Session(session) = outcome {
            self.adopt(latch_id, generation, &session);
            self.announce(latch_id, generation);
            return;
        }
        // A session that was to be replaced by wish still lives, as far as anybody knows.
        if loss.doubt == Doubtful::Replaced {
            loss.doubt = Doubtful::AskFirst;
        }
        let known = loss.generation.is_some() && latch.has_id;
        match outcome {
            Outcome::Refused(refusal) => match reading::read_door(&refusal) {
                Door::Credentials => {
                    let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
                    loss.trouble = None;
                    latch.state = LatchState::Parked(loss);
                    let name = self.policy.name.clone();
                    self.tracker.credentials(self.now, false, &name);
                    self.challenge(latch_id, id, &waiting);
                    return;
                }
                Door::Later | Door::Missing => {
                    if known && loss.doubt == Doubtful::Gone {
                        loss.doubt = Doubtful::AskFirst;
                    }
                    latch.state = LatchState::Refused(loss);
                    let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
                    self.missing(&refusal);
                    for ex in waiting {
                        self.hold_no_longer_than(ex, refusal.retry_after);
                    }
                }
                Door::Redirected => {
                    let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
                    latch.state = LatchState::Refused(loss);
                    let cause = format!("`{}` redirects elsewhere", self.policy.url);
                    self.handshake_failed(latch_id, Code::Redirected, cause);
                    let name = self.policy.name.clone();
                    for ex in waiting {
                        let failure = self.exchanges.get(&ex).map(|e| e.redirected(&name, refusal.location));
                        self.give_back(ex, failure);
                    }
                }
                Door::Refused => {
                    latch.state = LatchState::Refused(loss);
                    let text: String = refusal.body.chars().take(200).collect();
                    let cause = format!("`initialize` was refused with HTTP {}: {text}", refusal.status);
                    self.handshake_failed(latch_id, Code::HandshakeRefused, cause);
                }
            },
            Outcome::Answered(answer) => {
                latch.state = LatchState::Refused(loss);
                let cause = match answer {
                    Answer::Error { code, message } => words::refused_with(code, message),
                    Answer::Result => "`initialize` got a result that is none".to_owned(),
                };
                self.handshake_failed(latch_id, Code::HandshakeRefused, cause);
            }
            Outcome::Cut(cut) => {
                let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
                latch.state = LatchState::Refused(loss);
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: true,
                    after: None,
                });
                if cut.kind == CutKind::Tls {
                    let name = self.policy.name.clone();
                    for ex in waiting {
                        let failure = self.exchanges.get(&ex).map(|e| e.certificate(&name, &cut.cause));
                        self.give_back(ex, failure);
                    }
                }
            }
            Outcome::Limit => {
                latch.state = LatchState::Refused(loss);
                self.silent_handshake();
            }
            Outcome::Session(_) | Outcome::Listed(_) => debug_assert!(false, "no end of a handshake"),
        }
        self.out.push(Effect::Drop { attempt: id });
        self.dirty.insert(latch_id);
    }

    /// A server that speaks MCP refuses the handshake: try again, ever more rarely.
    fn handshake_failed(&mut self, id: LatchId, code: Code, cause: String) {
        self.mark_back();
        let tries = self.latches.get(&id).map_or(0, |l| match &l.state {
            LatchState::Refused(loss) => loss.tries,
            _ => 0,
        });
        let pause = self.backoff(tries + 2);
        let at = self.now.plus(pause);
        if let Some(Latch { state: LatchState::Refused(loss), .. }) = self.latches.get_mut(&id) {
            loss.tries += 1;
            loss.not_before = Some(at);
            loss.trouble = Some((code, cause.clone()));
        }
        self.tracker.handshake(self.now, Some(&cause));
        self.tracker.failed(self.now, "initialize", &cause);
        self.timers.set(Why::RestEnds(id), at);
    }

    /// Latches that waited for a handshake's turn look again.
    fn another_turn(&mut self) {
        let refused: Vec<LatchId> = self
            .unsettled
            .iter()
            .copied()
            .filter(|id| self.latches.get(id).is_some_and(|l| matches!(l.state, LatchState::Refused(_))))
            .collect();
        self.dirty.extend(refused);
    }

    /// Tells the new session that its client is initialized, as the client has told its first.
    fn announce(&mut self, id: LatchId, generation: Gen) {
        let attempt = self.send(
            id,
            generation,
            What::Initialized,
            Purpose::Initialized,
            Connection::Young,
            Some(policy::HANDSHAKE_STEP_MS),
        );
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.announced = Some(generation);
        latch.initialized = true;
        if let LatchState::Relatching(_, _, step) = &mut latch.state {
            *step = Step::Initialized(attempt);
        }
    }

    /// The trial of a diagnosis has proved itself: it goes on as the new session.
    pub(crate) fn promote(&mut self, id: LatchId, old: Gen, generation: Gen) {
        self.lose(id, old);
        let Some(latch) = self.latches.get_mut(&id) else { return };
        // The old one was found gone only by comparison; it gets its DELETE.
        latch.old.insert(old, Farewell::Delete);
        let loss = Loss::new(Some(old), self.now, Doubtful::Gone);
        latch.announced = Some(generation);
        latch.state = LatchState::Relatching(loss, generation, Step::Initialized(AttemptId(0)));
        self.rebuild(id, generation);
    }

    pub(crate) fn initialized_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        if self.trial_initialized_over(id, attempt) {
            return;
        }
        let latch_id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        if !matches!(&latch.state, LatchState::Relatching(_, _, Step::Initialized(a)) if *a == id) {
            return;
        }
        if self.gone_again(latch_id, attempt, &outcome) {
            return;
        }
        if !matches!(outcome, Outcome::Answered(_)) {
            self.skipped(latch_id, "notifications/initialized");
        }
        self.rebuild(latch_id, attempt.generation);
    }

    /// The new session was refused before it was bound.
    fn gone_again(&mut self, id: LatchId, attempt: &Attempt, outcome: &Outcome<'_>) -> bool {
        let Some(latch) = self.latches.get_mut(&id) else { return true };
        match outcome {
            Outcome::Refused(refusal) if reading::read(refusal, latch.has_id) == Reading::Gone => {
                latch.unanswered += 1;
                latch.generation = Some(attempt.generation);
                self.lose(id, attempt.generation);
                true
            }
            Outcome::Cut(cut) if !cut.wrote => {
                latch.generation = Some(attempt.generation);
                if let LatchState::Relatching(loss, ..) = &latch.state {
                    let loss = Loss {
                        generation: Some(attempt.generation),
                        doubt: Doubtful::AskFirst,
                        ..loss.clone()
                    };
                    latch.state = LatchState::Refused(loss);
                }
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: true,
                    after: None,
                });
                true
            }
            Outcome::Refused(_)
            | Outcome::Cut(_)
            | Outcome::Answered(_)
            | Outcome::Session(_)
            | Outcome::Listed(_)
            | Outcome::Limit => false,
        }
    }

    fn skipped(&mut self, id: LatchId, step: &str) {
        self.journal(journal::What::Skipped, Some(id), |entry| entry.subject = Some(step.to_owned()));
    }

    /// Replays what the session has to know before requests go to it.
    fn rebuild(&mut self, id: LatchId, generation: Gen) {
        let Some(latch) = self.latches.get(&id) else { return };
        let mut steps: VecDeque<Replay> = VecDeque::new();
        steps.extend(latch.level.clone().map(Replay::Level));
        steps.extend(latch.subscriptions.values().cloned().map(Replay::Subscribe));
        self.next_step(id, generation, steps);
    }

    fn next_step(&mut self, id: LatchId, generation: Gen, mut steps: VecDeque<Replay>) {
        let Some(replay) = steps.pop_front() else {
            self.bind(id, generation);
            return;
        };
        let what = match replay {
            Replay::Level(params) => What::SetLevel(params),
            Replay::Subscribe(params) => What::Subscribe(params),
        };
        let limit = Some(policy::REBUILD_STEP_MS);
        let attempt = self.send(id, generation, what, Purpose::Rebuild, Connection::Any, limit);
        if let Some(Latch { state: LatchState::Relatching(_, _, step), .. }) = self.latches.get_mut(&id) {
            *step = Step::Rebuild(attempt, steps);
        }
    }

    pub(crate) fn rebuild_over(&mut self, id: AttemptId, attempt: &Attempt, outcome: Outcome<'_>) {
        let latch_id = attempt.latch;
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let LatchState::Relatching(_, _, Step::Rebuild(current, steps)) = &mut latch.state else { return };
        if *current != id {
            return;
        }
        let steps = std::mem::take(steps);
        if self.gone_again(latch_id, attempt, &outcome) {
            return;
        }
        if !matches!(outcome, Outcome::Answered(Answer::Result)) {
            self.skipped(latch_id, "a log level or subscription");
        }
        self.next_step(latch_id, attempt.generation, steps);
    }

    /// The new session takes the place of the old one.
    fn bind(&mut self, id: LatchId, generation: Gen) {
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let loss = match &latch.state {
            LatchState::Relatching(loss, ..) => loss.clone(),
            _ => return,
        };
        latch.state = LatchState::Bound(generation);
        latch.generation = Some(generation);
        latch.bound = Some(now);
        latch.unanswered += 1;
        latch.gap = Gap::Open;
        let stream = latch.stream.attempt();
        latch.stream = StreamState::Off;
        if let Some(old) = loss.generation.filter(|old| *old != generation) {
            let farewell = match loss.doubt {
                Doubtful::Gone => latch.old.get(&old).copied().unwrap_or(Farewell::Forget),
                Doubtful::AskFirst | Doubtful::Asking(_) | Doubtful::Replaced => Farewell::Delete,
            };
            latch.old.insert(old, farewell);
        }
        if let Some(stream) = stream {
            self.out.push(Effect::Withdraw { attempt: stream });
            self.abort(stream);
        }
        self.tracker.totals.relatched += 1;
        self.tracker.session(now, true);
        self.tracker.handshake(now, None);
        self.tracker.flapping(now, None);
        let took = now.since(loss.at);
        self.journal(journal::What::Relatched, Some(id), |entry| {
            entry.generation = Some(generation);
            entry.ms = Some(took);
        });
        self.out.push(Effect::Record { latch: id });
        self.dirty.insert(id);
    }

    /// Somebody asks for new sessions.
    pub(crate) fn reconnect(&mut self, which: Option<LatchId>) {
        let ids: Vec<LatchId> = match which {
            Some(id) => vec![id],
            None => self.latches.keys().copied().collect(),
        };
        for id in ids {
            let Some(latch) = self.latches.get_mut(&id) else { continue };
            match &mut latch.state {
                LatchState::Bound(_) => {
                    self.journal(journal::What::Reconnect, Some(id), |_| {});
                    if self.away().is_none() {
                        self.begin_handshake(id);
                    }
                }
                LatchState::Refused(loss) => {
                    loss.not_before = None;
                    loss.trouble = None;
                    latch.unanswered = 0;
                    latch.last_used = self.now;
                    self.dirty.insert(id);
                }
                LatchState::Parked(loss) => {
                    let loss = loss.clone();
                    latch.state = LatchState::Refused(loss);
                    latch.last_used = self.now;
                    self.dirty.insert(id);
                }
                LatchState::Opening(_)
                | LatchState::Doubted(..)
                | LatchState::Relatching(..)
                | LatchState::Ended => {}
            }
        }
        self.scout();
    }

    /// The downstream session is over.
    pub(crate) fn ended(&mut self, id: LatchId) {
        let name = self.policy.name.clone();
        let Some(latch) = self.latches.get_mut(&id) else { return };
        if matches!(latch.state, LatchState::Ended) {
            return;
        }
        let live = latch.may_live().filter(|_| latch.has_id);
        let stream = latch.stream.attempt();
        let notes: Vec<_> = latch.notes.drain(..).collect();
        latch.state = LatchState::Ended;
        latch.stream = StreamState::Off;
        latch.attached = false;
        for (note, _, _) in notes {
            self.out.push(Effect::DropNote { note });
        }
        let exchanges: Vec<ExId> =
            self.exchanges.iter().filter(|(_, e)| e.latch == id).map(|(ex, _)| *ex).collect();
        for ex in exchanges {
            let Some(exchange) = self.exchanges.get(&ex) else { continue };
            let attempt = exchange.attempt();
            let ran = if attempt.is_some() && exchange.class != RetryClass::Always {
                Executed::Unknown
            } else {
                Executed::No
            };
            let failure = exchange.session_ended(&name, ran);
            self.give_back(ex, Some(failure));
            if let Some(attempt) = attempt {
                self.abort(attempt);
                self.out.push(Effect::Drop { attempt });
            }
        }
        if let Some(stream) = stream {
            self.abort(stream);
        }
        // What else is under way is not worth waiting for, but a handshake may yet open a session that has to end.
        let idle: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, a)| {
                a.latch == id
                    && !matches!(
                        a.purpose,
                        Purpose::Handshake | Purpose::Trial | Purpose::Open(_) | Purpose::Delete
                    )
            })
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in idle {
            if self.looking == Some(attempt) {
                self.looking = None;
            }
            self.abort(attempt);
        }
        if let Some(generation) = live {
            self.send_delete(id, generation);
        }
        for why in [Why::RestEnds(id), Why::StreamAgain(id), Why::CompareDue(id)] {
            self.timers.clear(why);
        }
        self.journal(journal::What::Left, Some(id), |_| {});
        self.out.push(Effect::Close { latch: id });
        self.dirty.insert(id);
    }

    /// An ended latch goes when its last attempt is over.
    pub(crate) fn bury(&mut self, id: LatchId) {
        if !self.attempts.values().any(|a| a.latch == id) {
            self.latches.remove(&id);
        }
    }
}

impl Loss {
    pub(crate) fn new(generation: Option<Gen>, at: crate::At, doubt: Doubtful) -> Loss {
        Loss { generation, at, doubt, not_before: None, tries: 0, trouble: None }
    }
}
