//! A pause: somebody has announced that the server restarts, so nothing new goes to it until it is said to be back.
//!
//! Decides what still goes out meanwhile, how long calls wait for its end, and what follows that end. Running exchanges go
//! on to theirs, with the messages without answer that belong to them, the rest of their cut streams and the settling of
//! doubts about their answers; sessions that are over get their DELETE; a handshake that is out is gone through with.
//! Nothing else is sent. The clock of a hold stands still, so a pause costs no call anything but time; a pause has an end of
//! its own, since whoever announced it may never come back.

use super::timers::Why;
use super::{Machine, Purpose, Reach};
use crate::effect::Effect;
use crate::exchange::Exchange;
use crate::exchange::words::seconds;
use crate::latch::{Gap, Heard, Knows, Latch, LatchState};
use crate::{At, ExId, LatchId, journal, policy};
use relatch_wire::method;

/// A pause that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Since when.
    pub since: At,
    /// It ends by itself then.
    pub until: At,
}

impl Pause {
    /// What is left of it, for people.
    pub(crate) fn rest(&self, now: At) -> String {
        seconds(self.until.since(now))
    }
}

/// Why a pause ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PauseEnd {
    /// Somebody says that the server is back.
    Resumed,
    /// Its time has run out.
    RanOut,
}

impl Machine {
    /// The pause that holds now, if one does.
    #[must_use]
    pub fn pause(&self) -> Option<Pause> {
        self.pause
    }

    /// How many requests of clients are at the upstream, or may be.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let sent = self.exchanges.values().filter(|e| e.attempt().is_some()).count();
        let opening = |(id, latch): (&LatchId, &Latch)| match latch.state {
            LatchState::Opening(ex) => self.opening_under_way(*id, ex),
            _ => false,
        };
        sent + self.latches.iter().filter(|latch| opening(*latch)).count()
    }

    /// How many latches, among those that are wanted, have no session that is known to live.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let unheard = |latch: &Latch| match latch.state {
            LatchState::Bound(_) => latch.has_to_be_heard(),
            LatchState::Doubted(..) | LatchState::Refused(_) | LatchState::Relatching(..) => true,
            LatchState::Opening(_) | LatchState::Parked(_) | LatchState::Ended => false,
        };
        self.latches.values().filter(|latch| latch.wanted(self.now) && unheard(latch)).count()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_some() && !self.planted(crate::fault::Fault::IgnoresPauses)
    }

    /// From now on nothing new goes to the upstream, for so long at most. A pause that holds gets this end instead.
    pub(super) fn paused(&mut self, ms: u64) {
        let now = self.now;
        let ms = ms.min(policy::PAUSE_MAX_MS);
        let before = self.pause;
        let until = now.plus(ms);
        self.pause = Some(Pause { since: before.map_or(now, |pause| pause.since), until });
        self.timers.set(Why::PauseRunsOut, until);
        self.move_holds(before.map_or(0, |pause| pause.until.since(now)), ms);
        self.dirty.extend(self.latches.keys().copied());
        let words = format!("for at most {}", seconds(ms));
        let running = self.in_flight() as u64;
        self.journal(journal::What::Paused, None, |entry| {
            entry.detail = Some(words);
            entry.count = (running > 0).then_some(running);
        });
    }

    /// The server is said to be back, or nobody says so in time: it is asked about everything that was known of it.
    pub(super) fn resumed(&mut self, end: PauseEnd) {
        let now = self.now;
        let Some(Pause { since, until }) = self.pause.take() else { return };
        self.timers.clear(Why::PauseRunsOut);
        self.move_holds(until.since(now), 0);
        let waiting = self.waiting.len() as u64;
        self.journal(journal::What::Resumed, None, |entry| {
            entry.ms = Some(now.since(since));
            entry.count = (waiting > 0).then_some(waiting);
            entry.detail =
                (end == PauseEnd::RanOut).then(|| "by itself: nobody resumed it in time".to_owned());
        });
        // Another server may be there by now: connections are those of the old one, and sessions may be.
        self.out.push(Effect::CloseIdle);
        self.back_at = Some(now);
        self.cleared.clear();
        self.idle_look = None;
        for (id, latch) in self.latches.iter_mut() {
            self.dirty.insert(*id);
            // A session that an announced restart takes is none that flaps.
            latch.unanswered = 0;
            latch.rested = 0;
            if let LatchState::Refused(loss) = &mut latch.state {
                loss.not_before = None;
                loss.trouble = None;
            }
            if matches!(latch.state, LatchState::Bound(_) | LatchState::Doubted(..)) {
                latch.knows = Knows::PerhapsNothing;
                latch.heard = Heard::No;
                latch.compare_at = now;
                if latch.gap == Gap::Closed {
                    latch.gap = Gap::Open;
                }
            }
        }
        if let Reach::Away(away) = &mut self.reach {
            // When to come back, the old server said.
            away.not_before = None;
            self.timers.set(Why::Scout, now);
        }
        self.knocked = true;
    }

    /// What is left of the pause, by which holds that begin now are longer.
    pub(super) fn rest_of_pause(&self, ex: &Exchange) -> u64 {
        match self.pause {
            Some(pause) if has_a_clock(ex) => pause.until.since(self.now),
            Some(_) | None => 0,
        }
    }

    /// The clock of every hold stands still for so long from now on, and not for as long as it did.
    fn move_holds(&mut self, before: u64, after: u64) {
        let mut moved: Vec<(ExId, At)> = Vec::new();
        for (ex, exchange) in self.exchanges.iter_mut().filter(|(_, exchange)| has_a_clock(exchange)) {
            if let Some(deadline) = &mut exchange.deadline {
                *deadline = At(deadline.0.saturating_sub(before)).plus(after);
                moved.push((*ex, *deadline));
            }
        }
        for (ex, deadline) in moved {
            if self.timers.get(Why::HoldEnds(ex)).is_some() {
                self.timers.set(Why::HoldEnds(ex), deadline);
            }
        }
    }

    /// Whether messages without answer go on to this latch's session in spite of a pause: they may belong to what runs.
    pub(crate) fn has_running(&self, id: LatchId) -> bool {
        self.attempts_of(id).any(|(_, attempt)| matches!(attempt.purpose, Purpose::Exchange(_)))
    }
}

/// Whether its hold stands still in a pause: clients do not wait for a handshake any longer because of one.
fn has_a_clock(exchange: &Exchange) -> bool {
    exchange.ask.method != method::INITIALIZE
}
