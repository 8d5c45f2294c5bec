//! What is to be seen of a machine: evidence, report, snapshot, and its own invariants.

use std::collections::BTreeMap;

use relatch_wire::method::ListKind;

use super::{Absence, Attempt, Machine, Outcome, Purpose, Question, Reach};
use crate::fault::Fault;
use crate::health::{HealthReport, Judgement, SessionSeen, State};
use crate::input::Answer;
use crate::latch::reading::{self, Reading};
use crate::latch::{Heard, LatchState, Raised};
use crate::{Gen, LatchId, journal, policy};
use relatch_wire::failure::Code;

/// What a probe found, as far as its journal is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Answer,
    Refusal(u16),
    Cut,
    /// No answer in time, so often in a row.
    Silence(u32),
}

/// What a record has to hold of a latch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The generation in use, or in use last.
    pub bound: Option<Gen>,
    /// How many handshakes were begun.
    pub begun: u32,
    /// Whether the client has sent `notifications/initialized`.
    pub initialized: bool,
    /// The revision that the client was promised.
    pub revision: String,
    /// Raw params of the last `logging/setLevel`.
    pub level: Option<String>,
    /// Address to raw params.
    pub subscriptions: BTreeMap<String, String>,
    /// Kinds of lists that the client knows.
    pub lists: Vec<ListKind>,
    /// Tools that may be repeated.
    pub repeatable: Vec<String>,
}

impl Machine {
    /// What a record has to hold of this latch; `None` when there is none, or it has ended.
    #[must_use]
    pub fn snapshot(&self, id: LatchId) -> Option<Snapshot> {
        let latch = self.latches.get(&id).filter(|l| !matches!(l.state, LatchState::Ended))?;
        // A session that has not heard of its client's being ready is of no use to whoever reads the record.
        let heard = |generation: &Gen| !latch.initialized || latch.announced == Some(*generation);
        Some(Snapshot {
            bound: latch.generation.filter(heard),
            begun: latch.begun,
            initialized: latch.initialized,
            revision: latch.promised.to_string(),
            level: latch.wishes().level.clone(),
            subscriptions: latch.wishes().subscriptions.clone(),
            lists: latch.lists.iter().collect(),
            repeatable: latch.repeatable.iter().flat_map(|tools| tools.iter()).cloned().collect(),
        })
    }

    /// Draws conclusions about reach from any outcome, before its own reader does.
    pub(super) fn hear(&mut self, attempt: &Attempt, outcome: &Outcome<'_>) {
        let now = self.now;
        if attempt.purpose == Purpose::Delete {
            // What a session that is over says, or does not say, is no evidence.
            return;
        }
        match outcome {
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) => {
                self.mark_back();
                self.tracker.accepted();
                let took = now.since(attempt.sent);
                match attempt.purpose {
                    Purpose::Ping(_) => self.tracker.answered(now, "ping", took, false),
                    Purpose::List(kind) => self.tracker.answered(now, kind.method(), took, false),
                    Purpose::Note(_) | Purpose::Initialized | Purpose::Rebuild => {
                        self.tracker.heard(now);
                        self.tracker.fresh(now);
                    }
                    // Their own readers say more of it.
                    Purpose::Exchange(_)
                    | Purpose::Open(_)
                    | Purpose::Handshake
                    | Purpose::Trial
                    | Purpose::Stream
                    | Purpose::Resume(_)
                    | Purpose::Delete => {}
                }
                if let Outcome::Session(_) = outcome {
                    self.tracker.answered(now, "initialize", took, false);
                }
                if let Some(latch) = self.latches.get_mut(&attempt.latch)
                    && latch.in_use() == Some(attempt.generation)
                {
                    latch.answered = Some(now);
                    latch.heard = Heard::Yes;
                    self.tracker.session(now, true);
                }
            }
            Outcome::Refused(refusal) => {
                let has_id = self.latches.get(&attempt.latch).is_some_and(|l| l.has_id);
                let read = match attempt.purpose {
                    Purpose::Stream => reading::read_stream,
                    _ => reading::read,
                };
                let alive =
                    !matches!(attempt.purpose, Purpose::Open(_) | Purpose::Handshake | Purpose::Trial)
                        && match read(refusal, has_id) {
                            Reading::AboutRequest | Reading::Credentials => true,
                            Reading::Later => refusal.status == 429,
                            Reading::Gone
                            | Reading::WrongPlace
                            | Reading::Gateway
                            | Reading::Redirected
                            | Reading::NotMcp
                            | Reading::Suspected => false,
                        };
                if alive {
                    self.mark_back();
                    self.tracker.heard(now);
                } else {
                    self.tracker.doubt(now);
                }
            }
            Outcome::Cut(cut) => self.tracker.failed(now, purpose_words(&attempt.purpose), &cut.cause),
            Outcome::Limit => self.tracker.timed_out(now, purpose_words(&attempt.purpose)),
        }
    }

    /// An answer to a client is evidence, unless it comes from a former address.
    pub(crate) fn answer_seen(&mut self, method: &str, ms: u64, call: bool) {
        if self.elsewhere {
            self.tracker.counted(self.now, ms, call);
        } else {
            self.tracker.answered(self.now, method, ms, call);
        }
    }

    /// A session was asked whether it has survived. Whatever came of it, it is not asked again; and a server that is too
    /// busy to answer one `ping` is not sent more of them.
    pub(super) fn survival_over(&mut self, id: crate::AttemptId, attempt: &Attempt, outcome: &Outcome<'_>) {
        if let Some(latch) = self.latches.get_mut(&attempt.latch)
            && latch.heard == Heard::Asking(id)
        {
            latch.heard = Heard::Yes;
        }
        if matches!(outcome, Outcome::Limit) {
            for latch in self.latches.values_mut().filter(|l| l.heard == Heard::No) {
                latch.heard = Heard::Yes;
                self.dirty.insert(latch.id);
            }
        }
    }

    /// The journal is told what an idle probe found when that is news: a healthy server writes nothing.
    pub(super) fn probe_found(&mut self, latch: LatchId, outcome: &Outcome<'_>) {
        let (found, words) = match outcome {
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) => {
                (Found::Answer, "it answers again".to_owned())
            }
            Outcome::Refused(refusal) => {
                (Found::Refusal(refusal.status), format!("refused with HTTP {}", refusal.status))
            }
            Outcome::Cut(cut) => (Found::Cut, cut.cause.clone()),
            Outcome::Limit => {
                // One more than enough is no news.
                let times = self.tracker.timeouts().min(policy::TIMEOUTS_DOWN);
                let words = format!("no answer within {} s", policy::PING_MS / 1_000);
                let words = if times > 1 { format!("{words}, {times} times in a row") } else { words };
                (Found::Silence(times), words)
            }
        };
        if found != self.probed {
            self.probed = found;
            self.journal(journal::What::Probed, Some(latch), |entry| {
                entry.subject = Some("ping".to_owned());
                entry.detail = Some(words);
            });
        }
    }

    /// What an attempt was sent for, as its exchange or its method is called.
    pub(crate) fn title_of(&self, purpose: &Purpose) -> String {
        let exchange = match purpose {
            Purpose::Exchange(ex) | Purpose::Open(ex) => self.exchanges.get(ex),
            Purpose::Handshake
            | Purpose::Trial
            | Purpose::Initialized
            | Purpose::Rebuild
            | Purpose::Ping(_)
            | Purpose::List(_)
            | Purpose::Note(_)
            | Purpose::Stream
            | Purpose::Resume(_)
            | Purpose::Delete => None,
        };
        exchange.map_or(purpose_words(purpose), crate::exchange::Exchange::title).to_owned()
    }

    /// A `ping` that asked whether the upstream is there.
    pub(super) fn scout_over(&mut self, attempt: &Attempt, outcome: Outcome<'_>) {
        let (id, generation) = (attempt.latch, attempt.generation);
        let has_id = self.latches.get(&id).is_some_and(|l| l.has_id);
        match outcome {
            Outcome::Answered(Answer::Error { code, message })
                if reading::error_raises_doubt(code, message) =>
            {
                let digest = super::rpc_digest(code, message);
                self.doubt(attempt, None, crate::AttemptId(0), 200, digest, Raised::Answer);
            }
            Outcome::Answered(_) | Outcome::Session(_) | Outcome::Listed(_) => self.mark_back(),
            Outcome::Refused(refusal) => match reading::read(&refusal, has_id) {
                Reading::Gone => {
                    let bound = self
                        .latches
                        .get(&id)
                        .is_some_and(|l| matches!(l.state, LatchState::Bound(g) if g == generation));
                    if self.away().is_none() {
                        self.session_refused(id, generation, None);
                    } else if bound {
                        // A proxy without a route says the same: only the handshake tells, in the scout's place.
                        self.lose(id, generation);
                        let rests = self.latches.get(&id).is_some_and(
                            |l| matches!(&l.state, LatchState::Refused(loss) if loss.not_before.is_some()),
                        );
                        if !rests {
                            let handshake = self.begin_handshake(id);
                            self.scout_goes_on(handshake);
                        }
                    }
                }
                Reading::Gateway | Reading::NotMcp | Reading::Later | Reading::Redirected => {
                    self.missing(&refusal);
                }
                Reading::Suspected if refusal.status >= 500 && !self.may_try(id, &refusal) => {
                    self.missing(&refusal);
                }
                Reading::Suspected => {
                    self.mark_back();
                    if has_id {
                        let of = crate::AttemptId(0);
                        let raised = Raised::Refusal { speaks: false };
                        self.doubt(attempt, None, of, refusal.status, refusal.digest, raised);
                    }
                }
                Reading::Credentials => {
                    self.mark_back();
                    self.park(id, generation);
                }
                Reading::AboutRequest | Reading::WrongPlace => self.mark_back(),
            },
            Outcome::Cut(cut) => {
                let known = self.away().is_some();
                self.mark_away(Absence {
                    code: Code::UpstreamDown,
                    cause: &cut.cause,
                    confirmed: !cut.wrote || known,
                    after: None,
                });
            }
            Outcome::Limit => {
                // A busy server can't answer; a connection that is accepted is no proof of absence.
                if self.away().is_some_and(|away| !away.confirmed || away.tries > policy::TIMEOUTS_DOWN) {
                    self.mark_back();
                }
                if self.tracker.timeouts() < policy::TIMEOUTS_DOWN {
                    // Whether it is stuck or busy is worth knowing before the evidence is old.
                    self.timers.set(super::Why::IdleProbe, self.now.plus(policy::PROBE_AGAIN_MS));
                }
                if self.tracker.timeouts() >= policy::TIMEOUTS_DOWN {
                    let cause = format!(
                        "`{}` accepts connections and did not answer {} pings in a row",
                        self.policy.url,
                        self.tracker.timeouts()
                    );
                    self.tracker.silent(self.now, &cause);
                }
            }
        }
    }

    /// Health in one word, from what is known now.
    pub(super) fn judge(&self, now: crate::At) -> Judgement {
        if let Some(pause) = self.pause {
            return Judgement::Paused(pause);
        }
        if let Reach::Away(away) = &self.reach
            && away.scout.is_none()
            && now.since(away.seen) >= policy::FRESH_MS
        {
            // Nobody asks any more, so nobody knows.
            return Judgement::Unknown { since: away.seen.plus(policy::FRESH_MS) };
        }
        if let Reach::Away(away) = &self.reach
            && away.confirmed
        {
            let cause = away.cause.clone();
            return Judgement::Down { since: away.since, code: away.code.as_str(), cause };
        }
        if self.tracker.is_silent() {
            return self.tracker.judge_silence();
        }
        // Where no new session is to be had, that is what there is to say.
        if self.away().is_none()
            && !self.unsettled.is_empty()
            && self.unsettled.iter().all(|id| self.troubled.contains_key(id))
            && let Some(judgement) = self.tracker.judge_trouble(now)
        {
            return judgement;
        }
        if self.away().is_some() || !self.unsettled.is_empty() {
            let since = self.away().map_or(self.tracker.unsettled_since(now), |away| away.since);
            return Judgement::Recovering { since };
        }
        if self.planted(Fault::BelievesOldEvidence) {
            return self.tracker.judge(self.tracker.last_answer().unwrap_or(now));
        }
        self.tracker.judge(now)
    }

    /// Health and no more: for those who look often.
    #[must_use]
    pub fn glance(&self, now: crate::At) -> crate::health::turns::Glance {
        let now = self.now.max(now);
        let (state, since) = self.tracker.word(&self.judge(now));
        let flapping = self.troubled.values().any(|code| *code == Code::SessionFlapping);
        crate::health::turns::Glance { state, since, flapping }
    }

    /// Health in one word, as it was after the last fact.
    #[must_use]
    pub fn state(&self) -> State {
        self.tracker.state
    }

    /// What is true of the upstream at this moment.
    #[must_use]
    pub fn report(&self, now: crate::At) -> HealthReport {
        let sessions = self.latches.values().filter(|l| !matches!(l.state, LatchState::Ended));
        let sessions = sessions.map(|l| SessionSeen {
            latch: l.id,
            generation: l.generation.unwrap_or_default(),
            state: l.word(),
            opened: l.opened,
            bound: l.bound,
            last_used: l.last_used,
            client: l.client.as_deref().cloned(),
            open: l.exchanges.len(),
            copy: l.copied.as_ref().map(|copy| copy.made),
        });
        HealthReport { sessions: sessions.collect(), ..self.summary(now) }
    }

    /// The same without its sessions, of which there may be thousands.
    #[must_use]
    pub fn summary(&self, now: crate::At) -> HealthReport {
        let now = self.now.max(now);
        let judgement = self.judge(now);
        let next = match &self.reach {
            _ if self.pause.is_some() => self.pause.map(|pause| pause.until),
            Reach::Away(_) => self.timers.get(super::Why::Scout),
            Reach::Up => {
                self.latches.keys().filter_map(|id| self.timers.get(super::Why::RestEnds(*id))).min()
            }
        };
        let server = self
            .latches
            .values()
            // What a copy says is no evidence of what is there.
            .filter(|l| l.hello.is_some() && l.copied.is_none())
            .max_by_key(|l| l.bound)
            .and_then(|l| l.hello.as_ref().map(|hello| hello.server.clone()));
        let waiting = self.waiting.len();
        let reachable = match &self.reach {
            Reach::Away(away) if away.confirmed => Some(false),
            Reach::Away(_) => None,
            Reach::Up => {
                self.tracker.last_heard().filter(|at| now.since(*at) < policy::FRESH_MS).map(|_| true)
            }
        };
        self.tracker.report(now, judgement, (self.configured(), reachable), next, server, waiting)
    }

    /// Whether the configured address is that of an MCP server, as far as is known.
    fn configured(&self) -> Option<bool> {
        let wrong = match &self.reach {
            Reach::Away(away) => match away.code {
                Code::CertificateRefused | Code::UnknownHost => true,
                Code::EndpointMissing => !self.spoken,
                _ => false,
            },
            Reach::Up => self.troubled.values().any(|code| *code == Code::Redirected),
        };
        if wrong { Some(false) } else { self.spoken.then_some(true) }
    }

    /// What must hold after every fact. Only our own mistakes can break it.
    #[cfg(debug_assertions)]
    pub(super) fn check(&self) {
        use crate::exchange::ExState;
        if let Some(look) = self.looking {
            debug_assert!(self.attempts.get(look).is_some(), "a look is awaited that is not under way");
        }
        for (id, latch) in self.latches.iter() {
            if let Some(filed) = latch.filed {
                let elsewhere =
                    self.unsettled.contains(id) || self.troubled.contains_key(id) || self.line.has(*id);
                debug_assert!(!elsewhere, "{id:?} is filed as one that rests");
                debug_assert_eq!(self.attached.contains(id), filed.attached, "{id:?}");
            }
            debug_assert!(
                latch.attempts.iter().all(|a| self.attempts.get(*a).is_some_and(|a| a.latch == *id))
            );
            debug_assert!(latch.exchanges.iter().all(|(ex, _)| self.exchanges.contains_key(ex)), "{id:?}");
            if let crate::latch::Gap::Comparing(a, ..) = &latch.gap {
                debug_assert!(self.attempts.get(*a).is_some(), "{id:?} compares and nothing is under way");
            }
            for ex in &latch.waiting {
                let exchange = self.exchanges.get(ex);
                debug_assert!(
                    exchange.is_some_and(|e| e.state == ExState::Waiting && e.latch == *id),
                    "{ex:?} waits in {id:?} and is {:?}",
                    exchange.map(|e| e.state)
                );
            }
            if let Some(beside) = &latch.beside {
                debug_assert!(self.attempts.get(beside.attempt).is_some(), "{id:?} waits for no handshake");
            }
            if let LatchState::Relatching(_, _, step) = &latch.state {
                use crate::latch::Step;
                let (Step::Handshake(a) | Step::Rebuild(a, _)) = step;
                debug_assert!(self.attempts.get(*a).is_some(), "{id:?} relatches and nothing is under way");
            }
        }
        for (ex, exchange) in self.exchanges.iter() {
            let latch = self.latches.get(&exchange.latch);
            debug_assert!(
                latch.is_some_and(|l| l.exchanges.contains(&(*ex, exchange.print))),
                "{ex:?} has no latch"
            );
            debug_assert_eq!(self.waiting.contains(ex), exchange.state == ExState::Waiting, "{ex:?}");
            match exchange.state {
                ExState::Waiting => {
                    debug_assert!(latch.is_some_and(|l| l.waiting.contains(ex)), "{ex:?} waits nowhere");
                    debug_assert!(
                        self.timers.get(super::Why::HoldEnds(*ex)).is_some(),
                        "{ex:?} waits without an end"
                    );
                }
                ExState::Sent(a) | ExState::Passing(a) | ExState::Looking(a) => {
                    debug_assert!(self.attempts.get(a).is_some(), "{ex:?} is sent and nothing is under way");
                }
                ExState::Doubted(_) => {
                    debug_assert!(
                        latch.is_some_and(|l| matches!(l.state, LatchState::Doubted(..))),
                        "{ex:?} is doubted and nobody asks"
                    );
                }
            }
        }
    }
}

fn purpose_words(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Exchange(_) => "a request",
        Purpose::Open(_) | Purpose::Handshake | Purpose::Trial => "initialize",
        Purpose::Initialized => "notifications/initialized",
        Purpose::Rebuild => "rebuilding",
        Purpose::Ping(
            Question::Look(_)
            | Question::Scout
            | Question::Idle
            | Question::Survived
            | Question::StillThere
            | Question::Diagnose
            | Question::Control
            | Question::Replica,
        ) => "ping",
        Purpose::List(kind) => kind.method(),
        Purpose::Note(_) => "a notification",
        Purpose::Stream | Purpose::Resume(_) => "the stream",
        Purpose::Delete => "DELETE",
    }
}
