//! When a change of health is worth telling somebody: down, recovered, flapping.
//!
//! Decides by time alone: a short outage is nobody's business, and one that comes again and again is told of as such.
//! It sees health as [`Glance`]s, as often as its caller likes to look; nothing here waits or sends.

use std::collections::VecDeque;

use super::State;
use crate::At;

/// An outage that ended before this is not told of.
pub const SETTLED_MS: u64 = 5_000;
/// While health flaps, whatever is told has held for so long.
pub const FLAPPING_SETTLED_MS: u64 = 60_000;
/// So many outages ...
pub const FLAPS: usize = 3;
/// ... within this time are flapping, which is told once in this time.
pub const FLAPPING_MS: u64 = 300_000;

/// What is to be seen of an upstream's health at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Health in one word.
    pub state: State,
    /// Since when it is so.
    pub since: At,
    /// New sessions are refused one after the other.
    pub flapping: bool,
}

/// A change that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is down, and has been since.
    Down {
        /// When the outage began.
        since: At,
    },
    /// It is back from an outage that was told.
    Recovered {
        /// When the outage began.
        since: At,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// It comes and goes.
    Flapping {
        /// Outages within the last [`FLAPPING_MS`].
        outages: usize,
    },
}

impl Turn {
    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Turn::Down { .. } => "down",
            Turn::Recovered { .. } => "recovered",
            Turn::Flapping { .. } => "flapping",
        }
    }
}

/// What was seen and told of one upstream.
#[derive(Debug, Default)]
pub struct Turns {
    /// The outage that was told of, by its beginning.
    told: Option<At>,
    /// The outage that is, by its beginning.
    outage: Option<At>,
    /// Since when it is well.
    well: Option<At>,
    /// When the last outages began.
    outages: VecDeque<At>,
    flapping_told: Option<At>,
}

impl Turns {
    /// Takes a look; at most one thing is told.
    pub fn see(&mut self, now: At, glance: Glance) -> Option<Turn> {
        while self.outages.front().is_some_and(|at| now.since(*at) >= FLAPPING_MS) {
            self.outages.pop_front();
        }
        match glance.state {
            State::Down => {
                self.well = None;
                if self.outage.is_none() {
                    self.outage = Some(glance.since.min(now));
                    // More than enough is enough.
                    if self.outages.len() >= 100 {
                        self.outages.pop_front();
                    }
                    self.outages.push_back(now);
                }
            }
            State::Healthy | State::Degraded => {
                self.outage = None;
                self.well.get_or_insert(now);
            }
            // Neither is news: the one is on its way, of the other nothing is known.
            State::Recovering | State::Unknown => {}
        }
        let outages = self.outages.len();
        let flapping = glance.flapping || outages >= FLAPS;
        if flapping && self.flapping_told.is_none_or(|at| now.since(at) >= FLAPPING_MS) {
            self.flapping_told = Some(now);
            return Some(Turn::Flapping { outages });
        }
        let settled = |at: At, ms: u64| now.since(at) >= if flapping { FLAPPING_SETTLED_MS } else { ms };
        match (self.told, self.outage, self.well) {
            (None, Some(since), _) if glance.state == State::Down && settled(since, SETTLED_MS) => {
                self.told = Some(since);
                Some(Turn::Down { since })
            }
            (Some(since), None, Some(well)) if settled(well, 0) => {
                self.told = None;
                Some(Turn::Recovered { since, ms: well.since(since) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Health as spans of time, looked at every 250 ms; what is told, and when.
    fn told(spans: &[(State, u64)]) -> Vec<(u64, &'static str)> {
        let mut turns = Turns::default();
        let (mut now, mut told) = (0, Vec::new());
        for (state, ms) in spans {
            let since = At(now);
            let end = now + ms;
            while now < end {
                let glance = Glance { state: *state, since, flapping: false };
                told.extend(turns.see(At(now), glance).map(|turn| (now, turn.as_str())));
                now += 250;
            }
        }
        told
    }

    use State::{Degraded, Down, Healthy, Recovering, Unknown};

    #[test]
    fn an_outage_of_less_than_five_seconds_is_told_to_nobody() {
        assert_eq!(told(&[(Healthy, 60_000), (Down, 4_750), (Healthy, 60_000)]), []);
        assert_eq!(told(&[(Healthy, 60_000), (Down, 3_000), (Recovering, 30_000), (Healthy, 60_000)]), []);
    }

    #[test]
    fn a_longer_one_is_told_once_and_so_is_its_end() {
        assert_eq!(
            told(&[(Healthy, 60_000), (Down, 600_000), (Recovering, 1_000), (Healthy, 600_000)]),
            [(65_000, "down"), (661_000, "recovered")]
        );
        // An upstream that answers, if badly, is back.
        assert_eq!(told(&[(Down, 10_000), (Degraded, 1_000)]), [(5_000, "down"), (10_000, "recovered")]);
    }

    #[test]
    fn silence_is_no_recovery_and_no_second_outage() {
        assert_eq!(
            told(&[(Down, 60_000), (Unknown, 600_000), (Down, 60_000), (Healthy, 1_000)]),
            [(5_000, "down"), (720_000, "recovered")]
        );
        assert_eq!(told(&[(Unknown, 3_600_000), (Healthy, 60_000), (Unknown, 600_000)]), []);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_of_once_in_five_minutes() {
        let mut spans = Vec::new();
        for _ in 0..60 {
            spans.extend([(Healthy, 7_000), (Down, 3_000)]);
        }
        let told = told(&spans);
        assert_eq!(told, [(27_000, "flapping"), (327_000, "flapping")]);
    }

    #[test]
    fn while_it_flaps_only_what_has_lasted_is_told() {
        let mut spans = vec![];
        for _ in 0..3 {
            spans.extend([(Healthy, 7_000), (Down, 3_000)]);
        }
        spans.extend([(Healthy, 1_000), (Down, 70_000), (Healthy, 3_000), (Down, 20_000), (Healthy, 70_000)]);
        assert_eq!(told(&spans), [(27_000, "flapping"), (91_000, "down"), (184_000, "recovered")]);
    }

    #[test]
    fn sessions_that_are_refused_one_after_the_other_are_flapping_too() {
        let mut turns = Turns::default();
        let glance = Glance { state: Recovering, since: At(0), flapping: true };
        assert_eq!(turns.see(At(0), glance), Some(Turn::Flapping { outages: 0 }));
        assert_eq!(turns.see(At(299_999), glance), None);
        assert_eq!(turns.see(At(300_000), glance), Some(Turn::Flapping { outages: 0 }));
    }

    #[test]
    fn the_end_of_an_outage_says_how_long_it_was() {
        let mut turns = Turns::default();
        let glance = |state, since| Glance { state, since: At(since), flapping: false };
        assert_eq!(turns.see(At(1_000), glance(Down, 1_000)), None);
        assert_eq!(turns.see(At(6_000), glance(Down, 1_000)), Some(Turn::Down { since: At(1_000) }));
        let recovered = Turn::Recovered { since: At(1_000), ms: 8_000 };
        assert_eq!(turns.see(At(9_000), glance(Healthy, 9_000)), Some(recovered));
    }
}
