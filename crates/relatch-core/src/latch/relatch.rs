//! Losing a session and opening a new one in its place.
//!
//! Decides when a handshake begins and what each of its answers means; what follows it is in `rebuild`. Single flight per latch: a
//! latch in [`LatchState::Relatching`] has one step under way, however many requests wait.

use std::sync::Arc;

use relatch_wire::failure::{Code, Executed};

use super::reading::{self, Door, Reading};
use super::{Doubtful, Farewell, Gap, Heard, Hello, Knows, Latch, LatchState, Loss, Raised, Step};
use crate::effect::{Connection, Effect};
use crate::exchange::words;
use crate::fault::Fault;
use crate::input::{Answer, Refusal, SessionFacts};
use crate::upstream::{Absence, Attempt, Machine, Outcome, Question, Why};
use crate::{At, AttemptId, ExId, Gen, LatchId, journal, policy};

/// A handshake's answer that is none.
const NO_RESULT: &str = "`initialize` got a result that is none";

impl Machine {
    /// The number of the next upstream session of this latch.
    pub(crate) fn next_generation(&mut self, id: LatchId) -> Gen {
        let Some(latch) = self.latches.get_mut(&id) else { return Gen(0) };
        latch.begun += 1;
        if latch.generation.is_some() {
            // A keeper that starts anew must not give this number to another session.
            self.out.push(Effect::Record { latch: id });
        }
        Gen(latch.begun)
    }

    pub(super) fn silent_handshake(&mut self) {
        let cause = format!(
            "`{}` accepts the connection and does not answer `initialize` within {} s",
            self.policy.url,
            policy::HANDSHAKE_STEP_MS / 1_000
        );
        // One that is merely slow is not called down for it.
        let confirmed = self.tracker.timeouts() >= policy::TIMEOUTS_DOWN;
        self.mark_away(Absence { code: Code::UpstreamDown, cause: &cause, confirmed, after: None });
    }

    /// What a server says of itself is taken over, and what of it changed.
    pub(crate) fn adopt(&mut self, id: LatchId, session: &SessionFacts) {
        self.spoken |= !self.elsewhere;
        // A new session is to be had after all.
        self.tracker.replaceable();
        self.tracker.credentials(self.now, true, "");
        let now = self.now;
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let said = latch.hello.replace(self.hellos.of(Hello::of(session)));
        let before = said.as_ref().map(|hello| &hello.server);
        latch.has_id = session.has_id;
        latch.answered = Some(now);
        let promised = Arc::clone(&latch.promised);
        let mut changes = Vec::new();
        if let Some(before) = before {
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
        if said.as_ref().and_then(|hello| hello.digest).is_some_and(|d| d != session.digest) {
            changes.push("instructions differ".to_owned());
        }
        let offers = said.as_ref().and_then(|hello| hello.offers.as_ref()).unwrap_or(&session.offers);
        let lost = offers.difference(&session.offers).map(|name| format!("no {name} any more"));
        let gained = session.offers.difference(offers).map(|name| format!("{name} besides"));
        changes.extend(lost.chain(gained));
        latch.changes = changes;
        let moved = !promised.is_empty() && *promised != *session.server.protocol;
        self.tracker.revision(now, moved.then_some((&promised, &session.server.protocol)));
    }

    /// A request on this session was refused as the session's being gone. Whether one more question is worth it
    /// depends on how lately the session answered.
    pub(crate) fn session_refused(&mut self, id: LatchId, generation: Gen, ex: Option<ExId>) {
        let now = self.now;
        if self.is_paused() {
            // The restart that was announced: each session is asked when that is said to be over.
            return;
        }
        let Some(latch) = self.latches.get_mut(&id) else { return };
        let LatchState::Bound(bound) = latch.state else { return };
        if bound != generation {
            if self.planted(Fault::ForgetsGeneration) {
                self.lose(id, bound);
            }
            return;
        }
        // One that answered only before an outage was lost in it, as far as anybody can tell.
        let back = self.back_at;
        let lively = latch
            .answered
            .is_some_and(|at| now.since(at) < policy::LIVELY_MS && back.is_none_or(|back| at >= back));
        if lively && latch.has_id && self.away().is_none() && !self.session_ended {
            self.ask_replicas(id, generation, ex);
        } else {
            self.lose(id, generation);
        }
    }

    /// The session is gone as far as its server says.
    pub(crate) fn lose(&mut self, id: LatchId, generation: Gen) {
        let (now, restless) = (self.now, self.planted(Fault::NeverRests));
        let Some(latch) = self.latches.get_mut(&id) else { return };
        latch.part_from_older(generation);
        latch.state = LatchState::Refused(Loss::new(Some(generation), now, Doubtful::Gone));
        latch.knows = Knows::All;
        latch.heard = Heard::Yes;
        latch.old.insert(generation, Farewell::Forget);
        let steady = |at: Option<At>| at.is_some_and(|at| now.since(at) >= policy::STEADY_MS);
        if steady(latch.bound) || steady(latch.answered) {
            // One that lived so long does not flap, even if nobody asked anything of it.
            latch.unanswered = 0;
            latch.rested = 0;
        }
        let flaps = latch.unanswered;
        let mut rest = None;
        if flaps >= policy::FLAPS && !restless {
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
        self.drop_stream(id);
        if let Gap::Comparing(attempt, ..) = self.latch_gap(id) {
            self.abort(attempt);
        }
        self.out.push(Effect::Record { latch: id });
        let words = self.refused_words();
        self.journal(journal::What::Lost, Some(id), |entry| {
            entry.generation = Some(generation);
            entry.detail = words;
        });
        if let Some(rest) = rest {
            self.journal(journal::What::Flapping, Some(id), |entry| {
                entry.ms = Some(rest);
                entry.count = Some(u64::from(flaps));
            });
        }
        self.tracker.session(now, false);
        if let Some(rest) = rest {
            self.timers.set(Why::RestEnds(id), now.plus(rest));
        }
        self.dirty.insert(id);
    }

    fn latch_gap(&mut self, id: LatchId) -> Gap {
        self.latches.get_mut(&id).map_or(Gap::Closed, |l| std::mem::replace(&mut l.gap, Gap::Open))
    }

    /// What stands against a handshake now: without it, the latch gets one by its permit.
    pub(crate) fn advance_refused(&mut self, id: LatchId) {
        let now = self.now;
        let Some(latch) = self.latches.get(&id) else { return };
        let LatchState::Refused(loss) = &latch.state else { return };
        if !latch.wanted(now) {
            return;
        }
        if let Some(at) = loss.not_before.filter(|at| *at > now) {
            self.timers.set(Why::RestEnds(id), at);
            if matches!(loss.trouble, Some((Code::SessionFlapping, _))) && !self.is_paused() {
                self.give_back_flapping(id, at.since(now));
            }
            return;
        }
        if self.away().is_some() {
            self.keep_scouting();
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
                    self.scout_by_handshake(id);
                }
                Reading::Gateway | Reading::NotMcp | Reading::Later | Reading::Redirected => {
                    self.missing(&refusal);
                }
                Reading::Suspected if refusal.status >= 500 => {
                    if self.may_try(id, &refusal) {
                        if let Some(latch) = self.latches.get_mut(&id) {
                            latch.state = LatchState::Bound(generation);
                            latch.old.remove(&generation);
                            latch.knows = Knows::PerhapsNothing;
                            latch.gap = Gap::Open;
                        }
                        self.out.push(Effect::Record { latch: id });
                        self.mark_back();
                        let of = AttemptId(0);
                        let raised = Raised::Refusal { speaks: false };
                        self.doubt(attempt, None, of, refusal.status, refusal.digest, raised);
                    } else {
                        self.missing(&refusal);
                    }
                }
                Reading::Credentials => {
                    self.alive_after_all(id, generation);
                    self.park(id, generation);
                }
                Reading::AboutRequest | Reading::WrongPlace | Reading::Suspected => {
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
                // Whoever says nothing may live, and gets its DELETE when another is bound.
                self.set_doubt(id, Doubtful::Replaced);
                self.scout_by_handshake(id);
            }
        }
    }

    /// While the upstream is away, the handshake that this latch needs is its scout; otherwise it waits in line.
    fn scout_by_handshake(&mut self, id: LatchId) {
        if self.away().is_some() {
            let handshake = self.begin_handshake(id);
            self.scout_goes_on(handshake);
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
        latch.knows = Knows::PerhapsNothing;
        latch.gap = Gap::Open;
        self.out.push(Effect::Record { latch: id });
        self.journal(journal::What::Cleared, Some(id), |entry| {
            entry.detail = Some("the session answers; its endpoint was missing for a while".to_owned());
        });
        self.mark_back();
        if let Some(latch) = self.latches.get_mut(&id) {
            latch.heard = Heard::Yes;
        }
        self.dirty.insert(id);
    }

    /// Sends `initialize` for a new session of this latch, unless all permits are taken.
    pub(crate) fn begin_handshake(&mut self, id: LatchId) -> Option<AttemptId> {
        if self.is_paused() {
            return None;
        }
        if let Some(latch) = self.latches.get_mut(&id)
            && let LatchState::Refused(loss) = &latch.state
            && let Some(beside) = latch.beside.take()
        {
            // It is under way already.
            let step = Step::Handshake(beside.attempt);
            latch.state = LatchState::Relatching(loss.clone(), beside.generation, step);
            return Some(beside.attempt);
        }
        if self.attempts.permits() >= policy::PERMITS && !self.planted(Fault::IgnoresHandshakeCap) {
            return None;
        }
        let (generation, attempt) = self.send_handshake(id);
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
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let generation = attempt.generation;
        if let Some(beside) = latch.beside.take_if(|beside| beside.attempt == id) {
            // What it was begun beside is in use still, or was lost meanwhile; while it is in doubt it is not left.
            let loss = match &latch.state {
                LatchState::Bound(old) => Some(Loss::new(Some(*old), beside.since, Doubtful::Wished)),
                LatchState::Refused(loss) => Some(loss.clone()),
                _ => None,
            };
            match loss {
                Some(loss) => latch.state = LatchState::Relatching(loss, generation, Step::Handshake(id)),
                None => self
                    .goes_on(latch_id, "the session in use is being asked about, and is not left meanwhile"),
            }
        }
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        let ours = matches!(&latch.state, LatchState::Relatching(_, _, Step::Handshake(a)) if *a == id);
        let Some(loss) = latch.loss().filter(|_| ours) else {
            if matches!(outcome, Outcome::Session(_)) {
                self.send_delete(latch_id, generation);
            }
            self.out.push(Effect::Drop { attempt: id });
            return;
        };
        let mut loss = Box::new(loss.clone());
        if let Outcome::Session(session) = outcome {
            self.adopt(latch_id, &session);
            self.rebuild(latch_id, generation, loss);
            if attempt.taken_over {
                self.out.push(Effect::Drop { attempt: id });
            }
            return;
        }
        let may_stay = loss.doubt == Doubtful::Wished && !self.planted(Fault::GivesUpTheOld);
        if may_stay && !self.elsewhere && self.stays_instead(latch_id, &outcome) {
            self.out.push(Effect::Drop { attempt: id });
            return;
        }
        if loss.doubt == Doubtful::Wished && self.planted(Fault::GivesUpTheOld) {
            loss.doubt = Doubtful::Gone;
        }
        let Some(latch) = self.latches.get_mut(&latch_id) else { return };
        // A session that was to be replaced still lives, as far as anybody knows.
        if matches!(loss.doubt, Doubtful::Replaced | Doubtful::Wished) {
            loss.doubt = Doubtful::AskFirst;
        }
        let known = loss.generation.is_some() && latch.has_id;
        if self.elsewhere {
            // What a former address says counts for nothing: the present one is asked.
            latch.state = LatchState::Refused(Box::new(Loss { not_before: None, trouble: None, ..*loss }));
            self.out.push(Effect::Drop { attempt: id });
            self.dirty.insert(latch_id);
            return;
        }
        match outcome {
            Outcome::Refused(refusal) => match reading::read_door(&refusal) {
                Door::Credentials => {
                    let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
                    loss.trouble = None;
                    latch.state = LatchState::Parked(loss);
                    let name = self.policy.name.clone();
                    self.mark_back();
                    self.tracker.credentials(self.now, false, &name);
                    self.challenge(latch_id, id, &waiting);
                    return;
                }
                Door::Later | Door::Missing => {
                    if known && loss.doubt == Doubtful::Gone {
                        loss.doubt = Doubtful::AskFirst;
                    }
                    latch.state = LatchState::Refused(loss);
                    self.missing(&refusal);
                }
                Door::Redirected => {
                    let waiting: Vec<ExId> = latch.waiting.iter().copied().collect();
                    latch.state = LatchState::Refused(loss);
                    let cause = format!("`{}` redirects elsewhere", self.policy.url);
                    self.handshake_failed(latch_id, Code::Redirected, cause);
                    let name = self.policy.name.clone();
                    for ex in waiting {
                        let failure = self
                            .exchanges
                            .get(&ex)
                            .map(|e| e.redirected(&name, refusal.location, Executed::No));
                        self.give_back(ex, failure);
                    }
                }
                Door::Refused => {
                    latch.state = LatchState::Refused(loss);
                    let cause = refused_by(&refusal);
                    self.handshake_failed(latch_id, Code::HandshakeRefused, cause);
                }
            },
            Outcome::Answered(answer) => {
                latch.state = LatchState::Refused(loss);
                let cause = match answer {
                    Answer::Error { code, message } => words::refused_with(code, message),
                    Answer::Result => NO_RESULT.to_owned(),
                };
                self.handshake_failed(latch_id, Code::HandshakeRefused, cause);
            }
            Outcome::Cut(cut) => {
                latch.state = LatchState::Refused(loss);
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: true,
                    after: None,
                });
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

    /// The handshake of a session that was wished for has failed. Returns false where that is not to be overlooked: the
    /// upstream refuses the credentials.
    fn stays_instead(&mut self, id: LatchId, outcome: &Outcome<'_>) -> bool {
        let url = self.policy.url.clone();
        let door = match outcome {
            // What refuses for a process is its end.
            Outcome::Refused(refusal) if !self.policy.process => Some(reading::read_door(refusal)),
            _ => None,
        };
        let cause = match outcome {
            Outcome::Refused(_) if door == Some(Door::Credentials) => return false,
            Outcome::Refused(_) if door == Some(Door::Redirected) => format!("`{url}` redirects elsewhere"),
            Outcome::Refused(refusal) => refused_by(refusal),
            Outcome::Answered(Answer::Error { code, message }) => words::refused_with(*code, message),
            Outcome::Answered(Answer::Result) => NO_RESULT.to_owned(),
            Outcome::Cut(cut) => cut.cause.clone(),
            Outcome::Limit => {
                format!("`initialize` got no answer within {} s", policy::HANDSHAKE_STEP_MS / 1_000)
            }
            Outcome::Session(_) | Outcome::Listed(_) => return false,
        };
        self.stays(id, &cause);
        match outcome {
            // Nobody is there, so that the old session may be gone, too.
            Outcome::Refused(refusal) if matches!(door, Some(Door::Later | Door::Missing)) => {
                self.missing(refusal);
            }
            Outcome::Cut(_) if !self.policy.process => self.mark_away(Absence {
                code: Code::UpstreamDown,
                cause: &cause,
                confirmed: true,
                after: None,
            }),
            Outcome::Limit if !self.policy.process => self.silent_handshake(),
            _ => self.tracker.not_replaced(self.now, &cause),
        }
        true
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
        self.tracker.failed(self.now, "initialize", &cause);
        self.timers.set(Why::RestEnds(id), at);
    }

    /// The upstream refused the credentials of something that relatch sent by itself: nothing more of that sort, until
    /// the client's next request brings others.
    pub(crate) fn park(&mut self, id: LatchId, generation: Gen) {
        let now = self.now;
        let name = self.policy.name.clone();
        let Some(latch) = self.latches.get_mut(&id) else { return };
        if !matches!(latch.state, LatchState::Bound(g) if g == generation) || !latch.waiting.is_empty() {
            // What waits goes out with its own credentials, and hears of it.
            return;
        }
        latch.state = LatchState::Parked(Loss::new(Some(generation), now, Doubtful::Replaced));
        if let Gap::Comparing(attempt, ..) = latch.gap {
            latch.gap = Gap::Open;
            self.abort(attempt);
        }
        self.tracker.credentials(now, false, &name);
        let words = self.refused_words();
        self.journal(journal::What::CredentialsRefused, Some(id), |entry| entry.detail = words);
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
                LatchState::Bound(generation) => {
                    let generation = *generation;
                    latch.used(self.now);
                    self.dirty.insert(id);
                    if !self.wish_for_another(id, generation)
                        && let Some(latch) = self.latches.get_mut(&id)
                    {
                        let loss = Loss::new(Some(generation), self.now, Doubtful::Replaced);
                        latch.state = LatchState::Refused(loss);
                    }
                    self.journal(journal::What::Reconnect, Some(id), |_| {});
                }
                LatchState::Refused(loss) => {
                    loss.not_before = None;
                    loss.trouble = None;
                    latch.unanswered = 0;
                    latch.used(self.now);
                    self.dirty.insert(id);
                }
                LatchState::Parked(loss) => {
                    let loss = loss.clone();
                    latch.state = LatchState::Refused(loss);
                    latch.used(self.now);
                    self.dirty.insert(id);
                }
                LatchState::Opening(_)
                | LatchState::Doubted(..)
                | LatchState::Relatching(..)
                | LatchState::Ended => {}
            }
        }
        self.knocked = true;
    }
}

/// A handshake's refusal, for people.
fn refused_by(refusal: &Refusal<'_>) -> String {
    let text: String = refusal.body.chars().take(200).collect();
    format!("`initialize` was refused with HTTP {}: {text}", refusal.status)
}
