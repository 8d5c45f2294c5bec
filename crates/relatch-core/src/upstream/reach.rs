//! Whether the upstream can be reached, and the asking while it can't be.
//!
//! While it is away nothing is sent but one scout at a time: a `ping` on a session, or the handshake that a latch
//! needs anyway. What a scout's answer means for its latch is decided where that answer is read.

use relatch_wire::failure::Code;

use super::timers::Why;
use super::{Machine, Purpose, Question};
use crate::effect::{Connection, Effect, What};
use crate::journal;
use crate::latch::{Doubtful, Gap, Heard, Knows, Latch, LatchState, StreamState};
use crate::{At, AttemptId, LatchId, policy};

/// Whether the upstream can be reached.
#[derive(Debug)]
pub(crate) enum Reach {
    /// As far as is known.
    Up,
    /// No, or in doubt.
    Away(Away),
}

/// What is known while an upstream is away.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) since: At,
    pub(crate) code: Code,
    pub(crate) cause: String,
    /// Evidence says so; otherwise one connection broke and a scout has yet to tell.
    pub(crate) confirmed: bool,
    pub(crate) tries: u32,
    pub(crate) last_try: Option<At>,
    pub(crate) scout: Option<AttemptId>,
    /// The upstream itself asks to be left alone until then.
    pub(crate) not_before: Option<At>,
    /// The newest evidence of its absence.
    pub(crate) seen: At,
}

/// Why an upstream is called away.
pub(crate) struct Absence<'a> {
    pub(crate) code: Code,
    pub(crate) cause: &'a str,
    pub(crate) confirmed: bool,
    /// The server's own word on when to come back.
    pub(crate) after: Option<u64>,
}

impl Machine {
    pub(crate) fn away(&self) -> Option<&Away> {
        match &self.reach {
            Reach::Up => None,
            Reach::Away(away) => Some(away),
        }
    }

    /// Why it can't be reached, by evidence that came after this.
    #[must_use]
    pub fn away_since(&self, at: At) -> Option<&str> {
        self.away().filter(|away| away.confirmed && away.seen > at).map(|away| away.cause.as_str())
    }

    /// Evidence says that the upstream is away, or may be.
    pub(crate) fn mark_away(&mut self, absence: Absence<'_>) {
        if self.elsewhere {
            return;
        }
        let now = self.now;
        let code = match absence.code {
            Code::UpstreamDown if self.policy.process => Code::CommandFailed,
            code => code,
        };
        let first = self.away().is_none();
        if first {
            let undecided = self.latches.values().filter(|l| l.wants_a_trial()).map(|l| l.id);
            self.dirty.extend(undecided);
            self.out.push(Effect::CloseIdle);
            self.reach = Reach::Away(Away {
                since: now,
                code,
                cause: absence.cause.to_owned(),
                confirmed: false,
                tries: 0,
                last_try: None,
                scout: None,
                not_before: None,
                seen: now,
            });
        }
        let Reach::Away(away) = &mut self.reach else { return };
        away.cause = absence.cause.to_owned();
        away.code = code;
        let news = absence.confirmed && !away.confirmed;
        away.confirmed |= absence.confirmed;
        away.seen = now;
        away.not_before = absence.after.map(|pause| now.plus(pause));
        let (tries, idle) = (away.tries, away.scout.is_none());
        if let Some(pause) = absence.after {
            self.postponed = true;
            self.timers.set(Why::Scout, now.plus(pause));
        } else if idle {
            // One connection that broke is asked about at once; one that breaks each time is not.
            let pause = if first && !absence.confirmed { 0 } else { self.backoff(tries) };
            let at = now.plus(pause);
            if self.timers.get(Why::Scout).is_none_or(|set| at < set) {
                self.timers.set(Why::Scout, at);
            }
        }
        // Fresh evidence of absence lets a client be answered from a copy.
        if self.policy.copies && absence.confirmed {
            self.dirty.extend(self.waiting.iter().filter_map(|ex| Some(self.exchanges.get(ex)?.latch)));
        }
        if news {
            let detail = absence.cause.to_owned();
            self.journal(journal::What::Away, None, |entry| entry.detail = Some(detail));
        }
        self.tracker.away(now, absence.confirmed);
    }

    /// The upstream has answered as an MCP server does.
    pub(crate) fn mark_back(&mut self) {
        if self.elsewhere {
            return;
        }
        self.timers.clear(Why::Scout);
        let Reach::Away(away) = std::mem::replace(&mut self.reach, Reach::Up) else { return };
        if away.confirmed {
            let gone = self.now.since(away.since);
            self.probed = super::watch::Found::Answer;
            self.journal(journal::What::Back, None, |entry| {
                entry.ms = Some(gone);
                entry.count = Some(u64::from(away.tries));
            });
            self.back_at = Some(self.now);
            // What was found of the server that went away need not hold of the one that came.
            self.cleared.clear();
        }
        for (id, latch) in self.latches.iter_mut() {
            self.dirty.insert(*id);
            if matches!(latch.state, LatchState::Bound(_)) && away.confirmed {
                latch.knows = Knows::PerhapsNothing;
                latch.heard = Heard::No;
                if latch.gap == Gap::Closed {
                    latch.gap = Gap::Open;
                }
            }
        }
    }

    /// The pause before try number `tries`, with jitter.
    pub(crate) fn backoff(&mut self, tries: u32) -> u64 {
        let (first, last) = if self.policy.local { (100, 1_000) } else { (1_000, 30_000) };
        let pause = (first << tries.min(8)).min(last);
        let spread = pause / 5;
        pause - spread / 2 + self.chance(spread.max(1))
    }

    /// A request came, or the time has: ask the upstream, unless somebody does.
    pub(crate) fn scout(&mut self) {
        let Some(away) = self.away() else { return };
        if away.scout.is_some() || self.is_paused() {
            return;
        }
        let now = self.now;
        if let Some(at) = away.not_before.filter(|at| *at > now) {
            self.timers.set(Why::Scout, at);
            return;
        }
        let Some(latch) = self.scouting_latch() else { return };
        if let Reach::Away(away) = &mut self.reach {
            away.last_try = Some(now);
            away.tries += 1;
        }
        let attempt = self.probe(latch);
        let mut again = None;
        if let Reach::Away(away) = &mut self.reach {
            away.scout = attempt;
            if attempt.is_none() {
                again = Some(away.tries);
            }
        }
        if let Some(tries) = again {
            let at = now.plus(self.backoff(tries));
            self.timers.set(Why::Scout, at);
        }
    }

    /// Scouts at once when a request has just come, but not more often than the first pause.
    pub(crate) fn scout_for_request(&mut self) {
        let Some(away) = self.away() else { return };
        let gap = if self.policy.local { 100 } else { 1_000 };
        let soon =
            away.last_try.map_or(self.now, |last| last.plus(gap)).max(away.not_before.unwrap_or(At(0)));
        if away.scout.is_some() || self.is_paused() {
            return;
        }
        if soon <= self.now {
            self.scout();
        } else if self.timers.get(Why::Scout).is_none_or(|at| soon < at) {
            self.timers.set(Why::Scout, soon);
        }
    }

    /// Somebody waits for it to come back: the next scout has its time.
    pub(crate) fn keep_scouting(&mut self) {
        let Some(away) = self.away() else { return };
        if away.scout.is_none() && self.timers.get(Why::Scout).is_none() {
            let (tries, not_before) = (away.tries, away.not_before.unwrap_or(At(0)));
            let at = self.now.plus(self.backoff(tries)).max(not_before);
            self.timers.set(Why::Scout, at);
        }
    }

    /// The latch whose exchange has waited longest, else one whose client is there.
    fn scouting_latch(&self) -> Option<LatchId> {
        let able = |id: &LatchId| {
            self.latches.get(id).is_some_and(|latch| match &latch.state {
                // Its handshake asks already, if it is out.
                LatchState::Opening(ex) => !self.opening_under_way(*id, *ex),
                LatchState::Bound(_) => true,
                LatchState::Refused(loss) => loss.not_before.is_none_or(|at| at <= self.now),
                LatchState::Doubted(..)
                | LatchState::Relatching(..)
                | LatchState::Parked(_)
                | LatchState::Ended => false,
            })
        };
        let oldest =
            self.latches.values().filter_map(|latch| latch.waiting.first().map(|ex| (*ex, latch.id)));
        let mut waiting: Vec<_> = oldest.filter(|(_, id)| able(id)).collect();
        waiting.sort();
        waiting.first().map(|(_, id)| *id).or_else(|| {
            self.latches.values().filter(|l| l.wanted(self.now) && able(&l.id)).map(|l| l.id).next_back()
        })
    }

    /// Sends for this latch whatever tells most about its upstream.
    fn probe(&mut self, id: LatchId) -> Option<AttemptId> {
        let latch = self.latches.get(&id)?;
        match &latch.state {
            LatchState::Opening(ex) => {
                let ex = *ex;
                Some(self.send_opening(id, ex))
            }
            LatchState::Bound(generation) => {
                let generation = *generation;
                Some(self.ping(id, generation, Question::Scout, Connection::Young, policy::PING_MS))
            }
            LatchState::Refused(loss) => match (loss.doubt, latch.asks_first()) {
                (Doubtful::Asking(attempt), _) => Some(attempt),
                (_, Some(generation)) => Some(self.ask_first(id, generation)),
                (_, None) => self.begin_handshake(id),
            },
            LatchState::Doubted(..)
            | LatchState::Relatching(..)
            | LatchState::Parked(_)
            | LatchState::Ended => None,
        }
    }

    /// An attempt is over; if it was the scout, another may go.
    pub(crate) fn scout_returned(&mut self, attempt: AttemptId) {
        let Reach::Away(away) = &mut self.reach else { return };
        if away.scout == Some(attempt) {
            away.scout = None;
            let tries = away.tries;
            // Whatever reads the answer either marks the upstream back or sends another scout; this is the net below.
            let at = self.now.plus(self.backoff(tries));
            self.timers.set(Why::Scout, at);
        }
    }

    /// The scout's work is carried on by another attempt.
    pub(crate) fn scout_goes_on(&mut self, attempt: Option<AttemptId>) {
        if let (Reach::Away(away), Some(attempt)) = (&mut self.reach, attempt) {
            away.scout = Some(attempt);
            self.timers.clear(Why::Scout);
        }
    }

    /// Probes an idle upstream on the latch that was used last.
    pub(crate) fn idle_probe(&mut self) {
        if !self.policy.local || self.away().is_some() || self.is_paused() || self.attempts.open() > 0 {
            return;
        }
        if let Some(due) =
            self.tracker.last_heard().map(|at| at.plus(policy::PROBE_MS)).filter(|at| *at > self.now)
        {
            self.timers.set(Why::IdleProbe, due);
            return;
        }
        let latest = self
            .attached
            .iter()
            .filter_map(|id| self.latches.get(id))
            .filter(|l| matches!(l.state, LatchState::Bound(_)))
            .max_by_key(|l| (l.last_used, l.id));
        if let Some((id, Some(generation))) = latest.map(|l| (l.id, l.in_use())) {
            self.ping(id, generation, Question::Idle, Connection::Young, policy::PING_MS);
        }
    }

    /// The upstream closed a connection that carried nothing: it may be gone, so it is asked at once. A standing
    /// stream tells by itself, and so does whatever is under way.
    pub(crate) fn idle_closed(&mut self) {
        let now = self.now;
        let streams = |latch: &Latch| matches!(latch.stream, StreamState::Open(_));
        if !self.policy.local
            || self.away().is_some()
            || self.is_paused()
            || self.attempts.open() > 0
            || self.latches.values().any(streams)
        {
            return;
        }
        if let Some(due) = self.idle_look.map(|(at, pause)| at.plus(pause)).filter(|at| *at > now) {
            self.timers.set(Why::IdleLook, due);
            return;
        }
        if self.look_now() {
            // A server that closes what is idle closes this one, too: it is asked ever more rarely.
            let pause = self.idle_look.map_or(policy::IDLE_LOOK_MS, |(_, pause)| 2 * pause);
            self.idle_look = Some((now, pause.min(policy::PROBE_MS)));
        }
    }

    /// Nothing could happen for a while. Nobody's patience is spent by that; connections from before may be dead, and
    /// what was true may not be so any more.
    pub(crate) fn woke(&mut self, ms: u64) {
        self.journal(journal::What::Woke, None, |entry| entry.ms = Some(ms));
        self.timers.put_off(ms, |why| {
            matches!(
                why,
                Why::AttemptLimit(_)
                    | Why::HoldEnds(_)
                    | Why::DoubtEnds(_)
                    | Why::ResumeDue(_)
                    | Why::PauseRunsOut
            )
        });
        if let Some(pause) = &mut self.pause {
            pause.until = pause.until.plus(ms);
        }
        for exchange in self.exchanges.values_mut() {
            exchange.deadline = exchange.deadline.map(|at| at.plus(ms));
        }
        self.out.push(Effect::CloseIdle);
        if self.policy.local && self.away().is_none() && !self.is_paused() && self.attempts.open() == 0 {
            self.look_now();
        }
    }

    /// Asks the upstream on the latch that was used last, if a client is there.
    fn look_now(&mut self) -> bool {
        let now = self.now;
        let latest = self
            .latches
            .values()
            .filter(|l| matches!(l.state, LatchState::Bound(_)) && l.wanted(now))
            .max_by_key(|l| (l.last_used, l.id));
        let Some((id, Some(generation))) = latest.map(|l| (l.id, l.in_use())) else { return false };
        self.ping(id, generation, Question::Idle, Connection::Young, policy::PING_MS);
        true
    }

    /// Keeps the idle probe armed while a client is there.
    pub(crate) fn arm_idle_probe(&mut self) {
        if self.policy.local && !self.attached.is_empty() && self.timers.get(Why::IdleProbe).is_none() {
            self.timers.set(Why::IdleProbe, self.now.plus(policy::PROBE_MS));
        }
    }

    pub(crate) fn ping(
        &mut self,
        latch: LatchId,
        generation: crate::Gen,
        question: Question,
        connection: Connection,
        limit: u64,
    ) -> AttemptId {
        self.send(latch, generation, What::Ping, Purpose::Ping(question), connection, Some(limit))
    }
}
