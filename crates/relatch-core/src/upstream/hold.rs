//! The bounded wait of an exchange (§3.5): when it begins, when its client gets a first byte, and how it ends.

use std::collections::BTreeSet;

use relatch_wire::failure::Code;
use relatch_wire::method::{self};

use super::Machine;
use super::timers::Why;
use crate::effect::Effect;
use crate::exchange::{Copying, ExState};
use crate::fault::Fault;
use crate::input::CutKind;
use crate::latch::LatchState;
use crate::{At, ExId, LatchId, journal, policy};

/// One hold of one upstream: from the first exchange that waits until none does.
#[derive(Debug)]
pub(super) struct Span {
    since: At,
    waiting: BTreeSet<ExId>,
    held: u64,
    given_back: u64,
    dropped: u64,
}

/// How an exchange stopped waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// It was sent.
    Sent,
    /// It was given back.
    GivenBack,
    /// Its client cancelled it or left.
    Dropped,
}

/// A hold of one exchange that took no longer is told of by its beginning alone.
const SHORT_MS: u64 = 1_000;

impl Machine {
    /// An exchange that did not leave at once begins to wait: its deadlines are set, it is counted.
    pub(super) fn begin_hold(&mut self, ex: ExId) {
        let now = self.now;
        let endless = self.planted(Fault::HoldsForEver);
        let rest = self.exchanges.get(&ex).map_or(0, |exchange| self.rest_of_pause(exchange));
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        if exchange.state != ExState::Waiting {
            return;
        }
        // What was seen by then is old when it goes out.
        exchange.looked = false;
        let handshake = exchange.ask.method == method::INITIALIZE;
        let hold =
            if handshake { self.policy.hold_ms.min(policy::HANDSHAKE_HOLD_MS) } else { self.policy.hold_ms };
        let hold = if endless { u64::MAX } else { hold.saturating_add(rest) };
        let deadline = match exchange.deadline {
            Some(deadline) if !exchange.written => deadline,
            Some(_) | None => now.plus(hold),
        };
        exchange.deadline = Some(deadline);
        exchange.written = false;
        let early = (exchange.ask.accepts_sse && !handshake && !exchange.early)
            .then(|| exchange.asked.plus(policy::EARLY_MS).max(now.plus(policy::EARLY_GRACE_MS)));
        self.timers.set(Why::HoldEnds(ex), deadline);
        if let Some(early) = early {
            self.timers.set(Why::EarlyDue(ex), early);
        }
        self.postponed |= self.away().is_some_and(|away| away.not_before.is_some_and(|at| at > deadline));
        self.count_held(ex);
    }

    /// A request that waits for its upstream, or for a new session, is told of once.
    fn count_held(&mut self, ex: ExId) {
        let Some(exchange) = self.exchanges.get(&ex) else { return };
        if exchange.copy == Copying::Sought {
            // It counts when there is none.
            return;
        }
        let (latch, title) = (exchange.latch, exchange.title().to_owned());
        let waits = match self.latches.get(&latch).map(|l| &l.state) {
            Some(LatchState::Opening(opening)) => !self.opening_under_way(latch, *opening),
            Some(LatchState::Bound(_)) => self.away().is_some() || self.is_paused(),
            Some(
                LatchState::Doubted(..)
                | LatchState::Refused(_)
                | LatchState::Relatching(..)
                | LatchState::Parked(_)
                | LatchState::Ended,
            )
            | None => true,
        };
        let news = waits && !exchange.held;
        if news {
            if let Some(exchange) = self.exchanges.get_mut(&ex) {
                exchange.held = true;
            }
            self.tracker.totals.held += 1;
            if let Some(span) = &mut self.span {
                span.held += 1;
                span.waiting.insert(ex);
                return;
            }
            self.span = Some(Span {
                since: self.now,
                waiting: BTreeSet::from([ex]),
                held: 1,
                given_back: 0,
                dropped: 0,
            });
            let why = self.why_waiting(latch);
            self.journal(journal::What::Held, Some(latch), |entry| {
                entry.subject = Some(title);
                entry.detail = Some(why);
            });
        }
    }

    /// An exchange waits no more. With the last of them the hold is over, and is told of where one line did not say
    /// all of it.
    pub(crate) fn waited(&mut self, ex: ExId, how: Waited) {
        let Some(span) = &mut self.span else { return };
        if !span.waiting.remove(&ex) {
            return;
        }
        match how {
            Waited::Sent => {}
            Waited::GivenBack => span.given_back += 1,
            Waited::Dropped => span.dropped += 1,
        }
        if !span.waiting.is_empty() {
            return;
        }
        let Some(Span { since, held, given_back, dropped, .. }) = self.span.take() else { return };
        let took = self.now.since(since);
        if held == 1 && took <= SHORT_MS {
            return;
        }
        let sent = held - given_back - dropped;
        let parts = [(sent, "sent"), (given_back, "given back"), (dropped, "dropped by the client")];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")).collect();
        self.journal(journal::What::HoldEnded, None, |entry| {
            entry.ms = Some(took);
            entry.count = Some(held);
            entry.detail = Some(parts.join(", "));
        });
    }

    /// Why an exchange of this latch can't go out now, for people.
    pub(crate) fn why_waiting(&self, latch: LatchId) -> String {
        if self.is_paused() {
            return "its restart has been announced, and it is paused until that is done".to_owned();
        }
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
        let patience = exchange.asked.plus(policy::HANDSHAKE_LEAST_MS);
        // A handshake that is out is no wait for an upstream that is away, and takes the time that it takes.
        if exchange.ask.method == method::INITIALIZE
            && patience > self.now
            && self.away().is_none()
            && self.opening_under_way(latch, ex)
        {
            self.timers.set(Why::HoldEnds(ex), patience);
            return;
        }
        let cause = self.why_waiting(latch);
        let trouble = self.latches.get(&latch).and_then(|l| match &l.state {
            LatchState::Refused(loss) | LatchState::Relatching(loss, ..) => loss.trouble.as_ref(),
            _ => None,
        });
        let code = match (self.pause, self.away(), trouble) {
            (Some(_), ..) => Code::Paused,
            (None, Some(away), _) => away.code,
            (None, None, Some((code, _))) => *code,
            (None, None, None) => Code::UpstreamDown,
        };
        let since = self.pause.map(|pause| pause.since).or(self.away().map(|away| away.since));
        let name = self.policy.name.clone();
        let waited = self.now.since(exchange.asked);
        let mut failure = if code == Code::Paused {
            exchange.paused_too_long(&name, waited)
        } else if code == Code::CommandFailed {
            exchange.command_failed(&name, &self.policy.url, waited, &cause)
        } else if code == Code::HandshakeRefused {
            exchange.handshake_refused(&name, &cause)
        } else if code == Code::EndpointMissing && !self.spoken && exchange.ask.method == method::INITIALIZE {
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
        if self.planted(Fault::SaysNothingEarly) {
            return;
        }
        let Some(exchange) = self.exchanges.get_mut(&ex) else { return };
        if exchange.state == ExState::Waiting {
            exchange.early = true;
            self.out.push(Effect::Early { ex });
            self.count_held(ex);
        }
    }

    /// The upstream says when to come back: who can't wait so long is told so at once.
    pub(crate) fn give_back_postponed(&mut self) {
        let now = self.now;
        let Some((at, cause)) = self.away().and_then(|away| Some((away.not_before?, away.cause.clone())))
        else {
            return;
        };
        let name = self.policy.name.clone();
        let impatient: Vec<ExId> = self
            .waiting
            .iter()
            .copied()
            .filter(|ex| self.timers.get(Why::HoldEnds(*ex)).is_some_and(|end| end < at))
            .collect();
        for ex in impatient {
            let failure = self.exchanges.get(&ex).map(|e| e.come_back_later(&name, at.since(now), &cause));
            self.give_back(ex, failure);
        }
    }

    /// The address can't be reached whatever is waited for: whoever waits is told so at once.
    pub(super) fn give_back_hopeless(&mut self, kind: CutKind, cause: &str) {
        let name = self.policy.name.clone();
        let waiting: Vec<ExId> = self.waiting.iter().copied().collect();
        for ex in waiting {
            let failure = self.exchanges.get(&ex).map(|e| match kind {
                CutKind::Tls => e.certificate(&name, cause),
                CutKind::Proxy => e.proxy(&name, cause),
                CutKind::UnknownHost | CutKind::Garbled | CutKind::Elsewhere | CutKind::Connection => {
                    e.unknown_host(&name, cause)
                }
            });
            self.give_back(ex, failure);
        }
    }
}
