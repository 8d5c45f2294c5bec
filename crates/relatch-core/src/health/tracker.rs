//! Dated evidence of one upstream, and what it adds up to.
//!
//! [`Judgement::Healthy`] holds a [`Fresh`], and a `Fresh` comes only from evidence younger than its bound: nothing can
//! be called healthy otherwise.

use std::collections::{BTreeMap, VecDeque};

use super::condition::{Condition, Kind};
use super::history::MINUTE_MS;
use super::{Facets, HealthReport, LastFailure, LastSuccess, Latency, ServerSeen, State, Totals};
use crate::upstream::Pause;
use crate::{At, policy};
use relatch_wire::failure::Code;

/// Evidence that was fresh when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh(At);

impl Fresh {
    /// Evidence of `at`, seen at `now`; `None` when it is older than the bound.
    #[must_use]
    pub fn new(at: At, now: At) -> Option<Fresh> {
        (now.since(at) < policy::FRESH_MS).then_some(Fresh(at))
    }
}

/// What the evidence adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It answered, lately.
    Healthy(Fresh),
    /// A relatch or a question is under way.
    Recovering { since: At },
    /// Its restart has been announced.
    Paused(Pause),
    /// It answers, and something fails.
    Degraded { since: At, cause: String },
    /// It can't be reached.
    Down { since: At, code: &'static str, cause: String },
    /// There is no fresh evidence.
    Unknown { since: At },
}

impl Judgement {
    pub(crate) fn state(&self) -> State {
        match self {
            Judgement::Healthy(_) => State::Healthy,
            Judgement::Recovering { .. } | Judgement::Paused(_) => State::Recovering,
            Judgement::Degraded { .. } => State::Degraded,
            Judgement::Down { .. } => State::Down,
            Judgement::Unknown { .. } => State::Unknown,
        }
    }
}

/// The evidence of one upstream.
#[derive(Debug)]
pub(crate) struct Tracker {
    began: At,
    /// What it added up to after the last fact.
    pub(crate) state: State,
    /// The last sign of life, of whatever kind.
    heard: Option<At>,
    /// The last answer.
    answer: Option<At>,
    /// When servers that do not share sessions were last seen.
    not_shared: Option<At>,
    /// When a client's own handshake was last refused.
    opening_refused: Option<At>,
    /// Something has failed since.
    bad: bool,
    /// Healthy since, while it is.
    well_since: Option<At>,
    unsettled: Option<At>,
    success: Option<LastSuccess>,
    failure: Option<LastFailure>,
    timeouts: u32,
    silent: Option<(At, String)>,
    facets: Facets,
    conditions: BTreeMap<&'static str, Condition>,
    pub(crate) totals: Totals,
    latencies: VecDeque<(At, u64)>,
}

const LATENCIES: usize = 512;
/// Why calls wait for an upstream whose restart has been announced.
const PAUSED: &str = "paused while its server restarts";

impl Tracker {
    pub(crate) fn new(now: At) -> Tracker {
        Tracker {
            began: now,
            state: State::Unknown,
            heard: None,
            answer: None,
            not_shared: None,
            opening_refused: None,
            bad: false,
            well_since: None,
            unsettled: None,
            success: None,
            failure: None,
            timeouts: 0,
            silent: None,
            facets: Facets::default(),
            conditions: BTreeMap::new(),
            totals: Totals::default(),
            latencies: VecDeque::new(),
        }
    }

    /// What was evidence is of a former address; what was counted stays.
    pub(crate) fn moved(&mut self, now: At) {
        let fresh = Tracker::new(now);
        *self = Tracker { totals: self.totals, latencies: std::mem::take(&mut self.latencies), ..fresh };
    }

    pub(crate) fn last_heard(&self) -> Option<At> {
        self.heard
    }

    pub(crate) fn last_answer(&self) -> Option<At> {
        self.answer
    }

    pub(crate) fn bad_news(&self) -> bool {
        self.bad
    }

    pub(crate) fn timeouts(&self) -> u32 {
        self.timeouts
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    pub(crate) fn unsettled_since(&self, now: At) -> At {
        self.unsettled.unwrap_or(now)
    }

    /// A sign of life.
    pub(crate) fn heard(&mut self, now: At) {
        if self.bad {
            self.well_since = None;
        }
        self.heard = Some(now);
        self.bad = false;
        self.timeouts = 0;
        self.silent = None;
        self.unsettled = None;
    }

    /// A sign of life that proves the MCP server itself to be there.
    pub(crate) fn fresh(&mut self, now: At) {
        if self.well_since.is_none() || self.answer.is_none_or(|at| Fresh::new(at, now).is_none()) {
            self.well_since = Some(now);
        }
        self.answer = Some(now);
        if self.not_shared.is_some_and(|at| now.since(at) >= policy::NOT_SHARED_MS) {
            self.not_shared = None;
            self.conditions.remove("sessions-not-shared");
        }
        if self.opening_refused.is_some_and(|at| Fresh::new(at, now).is_none()) {
            self.opening_refused = None;
            self.conditions.remove("handshake-refused");
        }
    }

    /// An answer to a request of anybody's.
    pub(crate) fn answered(&mut self, now: At, method: &str, ms: u64, call: bool) {
        self.heard(now);
        self.fresh(now);
        match &mut self.success {
            // With each answer: its room is kept.
            Some(last) => {
                (last.at, last.ms) = (now, ms);
                method.clone_into(&mut last.method);
            }
            None => self.success = Some(LastSuccess { at: now, method: method.to_owned(), ms }),
        }
        self.counted(now, ms, call);
    }

    /// An answer is counted, whatever it says of the upstream.
    pub(crate) fn counted(&mut self, now: At, ms: u64, call: bool) {
        if call {
            self.facets.last_call = Some(true);
            self.totals.answered += 1;
            self.totals.answered_ms += ms;
            if self.latencies.len() == LATENCIES {
                self.latencies.pop_front();
            }
            self.latencies.push_back((now, ms));
        }
    }

    pub(crate) fn failed(&mut self, now: At, method: &str, cause: &str) {
        self.bad = true;
        self.noted(now, method, cause);
    }

    /// Something has failed that is no evidence against the upstream.
    pub(crate) fn noted(&mut self, now: At, method: &str, cause: &str) {
        self.failure = Some(LastFailure { at: now, method: method.to_owned(), cause: cause.to_owned() });
    }

    pub(crate) fn timed_out(&mut self, now: At, method: &str) {
        self.timeouts += 1;
        self.failed(now, method, "no answer in time");
    }

    /// Something came that is no good news.
    pub(crate) fn doubt(&mut self, now: At) {
        self.bad = true;
        self.unsettled.get_or_insert(now);
    }

    pub(crate) fn away(&mut self, now: At, confirmed: bool) {
        self.bad = true;
        self.unsettled.get_or_insert(now);
        if confirmed {
            self.facets.session = None;
        }
    }

    pub(crate) fn silent(&mut self, now: At, cause: &str) {
        let since = self.silent.as_ref().map_or(now, |(at, _)| *at);
        self.silent = Some((since, cause.to_owned()));
    }

    pub(crate) fn session(&mut self, now: At, alive: bool) {
        self.facets.session = Some(alive);
        if !alive {
            self.unsettled.get_or_insert(now);
        }
    }

    pub(crate) fn credentials(&mut self, now: At, accepted: bool, upstream: &str) {
        self.facets.credentials = Some(accepted);
        if accepted {
            self.conditions.remove("credentials-refused");
        } else {
            let cause = format!("`{upstream}` answered 401 or 403");
            self.stands("credentials-refused", now, cause, "Calls of this client are refused");
        }
    }

    /// The upstream accepts the credentials that it was given.
    pub(crate) fn accepted(&mut self) {
        if self.facets.credentials != Some(true) {
            self.credentials(self.began, true, "");
        }
    }

    /// A call ended without an answer of its upstream's.
    pub(crate) fn call_failed(&mut self) {
        self.facets.last_call = Some(false);
    }

    pub(crate) fn revision(&mut self, now: At, change: Option<(&str, &str)>) {
        match change {
            None => drop(self.conditions.remove("revision-changed")),
            Some((promised, found)) => {
                let cause =
                    format!("the client was promised {promised}, and the restarted server speaks {found}");
                let effect = "Calls go on; features of the older revision may be missing";
                self.stands("revision-changed", now, cause, effect);
            }
        }
    }

    pub(crate) fn not_shared(&mut self, now: At) {
        self.not_shared = Some(now);
        let cause = "one server at this address refuses a session that another one knows".to_owned();
        let effect = "Calls are sent again until they reach the right server";
        self.stands("sessions-not-shared", now, cause, effect);
    }

    /// A latch can't get a new session, and why; it rests until then, where it rests.
    pub(crate) fn trouble(&mut self, now: At, code: Code, cause: &str, rests: Option<At>) {
        let effect = match (code, rests) {
            (Code::SessionFlapping, Some(until)) => {
                format!("Calls are given back; the next handshake is in {} s", until.since(now) / 1_000)
            }
            _ => "No new session can be opened; calls wait and are then given back".to_owned(),
        };
        self.stands(code.as_str(), now, cause.to_owned(), &effect);
    }

    /// A client's own handshake was refused; if that does not go on, it is forgotten.
    pub(crate) fn opening_refused(&mut self, now: At, cause: &str) {
        self.trouble(now, Code::HandshakeRefused, cause, None);
        self.opening_refused = Some(now);
    }

    /// No new session was to be had in place of a living one.
    pub(crate) fn not_replaced(&mut self, now: At, cause: &str) {
        self.stands("replacement-failed", now, cause.to_owned(), "Calls go on in the old session");
    }

    /// A new session is to be had.
    pub(crate) fn replaceable(&mut self) {
        self.conditions.remove("replacement-failed");
    }

    /// The last latch that had this trouble has it no more.
    pub(crate) fn no_more(&mut self, trouble: Code) {
        self.conditions.remove(trouble.as_str());
    }

    fn stands(&mut self, code: &'static str, now: At, cause: String, effect: &str) {
        let Some(kind) = Kind::of(code) else {
            debug_assert!(false, "`{code}` is no condition");
            return;
        };
        let since = self.conditions.get(code).map_or(now, |c| c.since);
        self.conditions.insert(code, Condition { kind, since, cause, effect: effect.to_owned() });
    }

    /// When the next condition is shown that has not stood for long enough yet.
    pub(crate) fn next_shown(&self, now: At) -> Option<At> {
        self.conditions.values().map(Condition::shows).filter(|at| *at > now).min()
    }

    pub(crate) fn judge_silence(&self) -> Judgement {
        match &self.silent {
            Some((since, cause)) => {
                Judgement::Down { since: *since, code: "upstream-silent", cause: cause.clone() }
            }
            None => Judgement::Unknown { since: self.began },
        }
    }

    /// A trouble that stands, if it is shown by now and degrades.
    pub(crate) fn judge_trouble(&self, now: At) -> Option<Judgement> {
        let trouble = self.conditions.values().find(|c| c.shows() <= now && c.kind.degrades)?;
        Some(Judgement::Degraded { since: trouble.since, cause: trouble.cause.clone() })
    }

    /// Without an outage or a relatch: what the evidence says.
    pub(crate) fn judge(&self, now: At) -> Judgement {
        let mut shown = self.conditions.values().filter(|c| c.shows() <= now);
        let Some(answer) = self.answer else {
            // A refusal is evidence, too.
            return match shown.find(|c| Fresh::new(c.since, now).is_some()) {
                Some(c) => Judgement::Degraded { since: c.since, cause: c.cause.clone() },
                None => Judgement::Unknown { since: self.began },
            };
        };
        let Some(fresh) = Fresh::new(answer, now) else {
            return Judgement::Unknown { since: answer.plus(policy::FRESH_MS) };
        };
        if self.conditions.is_empty() {
            return Judgement::Healthy(fresh);
        }
        if let Some(degraded) = self.judge_trouble(now) {
            return degraded;
        }
        match self.conditions.values().find(|c| c.shows() > now && c.kind.degrades) {
            // It may pass; where no session works, it is not called well for that.
            Some(c) if self.facets.session != Some(true) => Judgement::Recovering { since: c.since },
            Some(_) | None => Judgement::Healthy(fresh),
        }
    }

    /// The facets as far as the evidence for them still counts: what was good is not known to be so for ever.
    fn facets(&self, now: At) -> Facets {
        let fresh = self.answer.is_some_and(|at| Fresh::new(at, now).is_some());
        let known = |fact: Option<bool>| fact.filter(|good| fresh || !good);
        Facets {
            session: known(self.facets.session),
            credentials: known(self.facets.credentials),
            ..self.facets
        }
    }

    /// A judgement's word, and since when it holds.
    pub(crate) fn word(&self, judgement: &Judgement) -> (State, At) {
        let since = match judgement {
            Judgement::Healthy(fresh) => self.well_since.unwrap_or(fresh.0),
            Judgement::Recovering { since }
            | Judgement::Paused(Pause { since, .. })
            | Judgement::Degraded { since, .. }
            | Judgement::Down { since, .. }
            | Judgement::Unknown { since } => *since,
        };
        (judgement.state(), since)
    }

    pub(crate) fn report(
        &self,
        now: At,
        judgement: Judgement,
        (configured, reachable): (Option<bool>, Option<bool>),
        next_attempt: Option<At>,
        server: Option<ServerSeen>,
        waiting: usize,
    ) -> HealthReport {
        let state = judgement.state();
        let (since, reason) = match &judgement {
            Judgement::Healthy(fresh) => (self.well_since.unwrap_or(fresh.0), None),
            Judgement::Recovering { since } => (*since, Some("a new session is being opened".to_owned())),
            Judgement::Paused(pause) => (pause.since, Some(PAUSED.to_owned())),
            Judgement::Degraded { since, cause } | Judgement::Down { since, cause, .. } => {
                (*since, Some(cause.clone()))
            }
            Judgement::Unknown { since } => (
                *since,
                Some(match self.answer {
                    Some(answer) => format!("no answer seen for {} s", now.since(answer) / 1_000),
                    None => match &self.failure {
                        Some(failure) => {
                            format!("no answer seen yet; {} failed: {}", failure.method, failure.cause)
                        }
                        None => "no answer seen yet".to_owned(),
                    },
                }),
            ),
        };
        let root = match &judgement {
            Judgement::Down { since, code, cause } => down(*since, code, cause),
            Judgement::Paused(pause) => paused(*pause, now),
            _ => None,
        };
        let pause = match judgement {
            Judgement::Paused(pause) => Some(pause),
            _ => None,
        };
        let explained =
            |c: &Condition| root.as_ref().is_some_and(|r| c.kind.depends_on.contains(&r.kind.code));
        let shown = self.conditions.values().filter(|c| c.shows() <= now && !explained(c)).cloned();
        let mut conditions: Vec<Condition> = shown.collect();
        conditions.extend(root);
        conditions.sort_by_key(|c| c.since);
        HealthReport {
            at: now,
            state,
            since,
            reason,
            facets: Facets { configured, reachable, ..self.facets(now) },
            conditions,
            pause,
            last_success: self.success.clone(),
            last_failure: self.failure.clone(),
            next_attempt,
            server,
            sessions: Vec::new(),
            waiting,
            totals: self.totals,
            latency: latency(self.latencies.iter()).unwrap_or_default(),
            recent: latency(self.latencies.iter().rev().take_while(|(at, _)| now.since(*at) < MINUTE_MS)),
        }
    }
}

/// The condition of an upstream that is down.
fn down(since: At, code: &str, cause: &str) -> Option<Condition> {
    let effect = match code {
        "upstream-silent" => "Calls wait for their answers",
        "certificate-refused" | "unknown-host" | "proxy-refused" => {
            "Calls are given back at once; none of them has run"
        }
        _ => "Calls wait, and are given back when their hold ends",
    };
    let (cause, effect) = (cause.to_owned(), effect.to_owned());
    Some(Condition { kind: Kind::of(code)?, since, cause, effect })
}

/// The condition of an upstream whose restart has been announced.
fn paused(pause: Pause, now: At) -> Option<Condition> {
    let cause = PAUSED.to_owned();
    let effect =
        format!("New calls wait, for {} more at most; those that run go to their end", pause.rest(now));
    Some(Condition { kind: Kind::of("paused")?, since: pause.since, cause, effect })
}

/// Of these answers, in whatever order; `None` when there are none.
fn latency<'a>(answers: impl Iterator<Item = &'a (At, u64)>) -> Option<Latency> {
    let mut sorted: Vec<u64> = answers.map(|(_, ms)| *ms).collect();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    let at = |share: f64| sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0) as f64;
    Some(Latency { p50: at(0.5), p99: at(0.99) })
}
