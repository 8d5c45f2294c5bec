//! What was true of an upstream over the last day: when its health turned, and what each minute saw.
//!
//! Fed with reports, by whoever has a clock and leisure; the path of a call knows nothing of it. Decides what is kept:
//! a day, and no more than [`TURNS`] turns. Computes no health of its own.

use std::collections::VecDeque;

use super::{HealthReport, Latency, State, Totals};
use crate::At;

/// How far back it reaches, in milliseconds.
pub const REACH_MS: u64 = 24 * 3_600_000;
/// Turns that are kept; of more than that in a day the oldest go.
pub const TURNS: usize = 1_000;
/// The span that is counted together, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;

/// The last day of one upstream.
#[derive(Clone, Debug)]
pub struct History {
    turns: VecDeque<Turn>,
    minutes: VecDeque<Minute>,
    counted: Totals,
}

/// Health turned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When. It holds until the next turn.
    pub at: At,
    /// To what.
    pub state: State,
    /// Why, as it was first said; `None` when healthy.
    pub reason: Option<String>,
}

/// What was counted within one minute; minutes without anything are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Minute {
    /// When it began.
    pub at: At,
    /// Exchanges asked for.
    pub calls: u64,
    /// Upstream sessions bound in place of a dead one.
    pub relatched: u64,
    /// Exchanges sent a second time.
    pub resent: u64,
    /// Exchanges that had to wait.
    pub held: u64,
    /// Exchanges given back with an error of relatch's own.
    pub given_back: u64,
    /// Of the answers to `tools/call`; `None` when there was none.
    pub latency: Option<Latency>,
}

impl History {
    /// Nothing was known before `began`.
    #[must_use]
    pub fn new(began: At) -> History {
        let unknown = Turn { at: began, state: State::Unknown, reason: None };
        History { turns: VecDeque::from([unknown]), minutes: VecDeque::new(), counted: Totals::default() }
    }

    /// Takes in a report; reports come in the order of their time. The more often, the finer: at every turn, and a few
    /// times a minute. What a report counts falls into the minute of its own time.
    pub fn see(&mut self, report: &HealthReport) {
        self.turn(report);
        self.count(report);
        let horizon = At(report.at.0.saturating_sub(REACH_MS));
        // The last turn before the horizon still holds behind it.
        while self.turns.len() > TURNS || self.turns.get(1).is_some_and(|next| next.at <= horizon) {
            self.turns.pop_front();
        }
        while self.minutes.front().is_some_and(|minute| minute.at.plus(MINUTE_MS) <= horizon) {
            self.minutes.pop_front();
        }
    }

    /// The turns at or after `from`, oldest first.
    pub fn turns(&self, from: At) -> impl Iterator<Item = &Turn> {
        self.turns.iter().filter(move |turn| turn.at >= from)
    }

    /// The minutes that began at or after `from`, oldest first.
    pub fn minutes(&self, from: At) -> impl Iterator<Item = &Minute> {
        self.minutes.iter().filter(move |minute| minute.at >= from)
    }

    fn turn(&mut self, report: &HealthReport) {
        let Some(last) = self.turns.back() else { return };
        if last.state == report.state {
            return;
        }
        // A state may date itself back behind the one that it follows; it holds from when it was seen.
        let at = if report.since > last.at { report.since } else { report.at };
        self.turns.push_back(Turn { at, state: report.state, reason: report.reason.clone() });
    }

    fn count(&mut self, report: &HealthReport) {
        let (now, before) = (report.totals, std::mem::replace(&mut self.counted, report.totals));
        let seen = Minute {
            at: At(report.at.0 - report.at.0 % MINUTE_MS),
            calls: now.calls.saturating_sub(before.calls),
            relatched: now.relatched.saturating_sub(before.relatched),
            resent: now.resent.saturating_sub(before.resent),
            held: now.held.saturating_sub(before.held),
            given_back: now.given_back.saturating_sub(before.given_back),
            latency: report.recent,
        };
        match self.minutes.back_mut().filter(|minute| minute.at == seen.at) {
            Some(minute) => {
                minute.calls += seen.calls;
                minute.relatched += seen.relatched;
                minute.resent += seen.resent;
                minute.held += seen.held;
                minute.given_back += seen.given_back;
                minute.latency = seen.latency.or(minute.latency);
            }
            None if now != before => self.minutes.push_back(seen),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Facets;

    fn report(at: u64, state: State, since: u64) -> HealthReport {
        HealthReport {
            at: At(at),
            state,
            since: At(since),
            reason: (state != State::Healthy).then(|| format!("since {since}")),
            facets: Facets::default(),
            conditions: Vec::new(),
            last_success: None,
            last_failure: None,
            next_attempt: None,
            server: None,
            sessions: Vec::new(),
            waiting: 0,
            totals: Totals::default(),
            latency: Latency::default(),
            recent: None,
            pause: None,
        }
    }

    fn counting(at: u64, calls: u64, recent: Option<(f64, f64)>) -> HealthReport {
        HealthReport {
            totals: Totals { calls, relatched: calls / 10, ..Totals::default() },
            recent: recent.map(|(p50, p99)| Latency { p50, p99 }),
            ..report(at, State::Healthy, 0)
        }
    }

    fn turns(history: &History) -> Vec<(u64, State)> {
        history.turns(At(0)).map(|turn| (turn.at.0, turn.state)).collect()
    }

    #[test]
    fn a_day_begins_unknown_and_each_turn_is_kept_with_its_time_and_reason() {
        let mut history = History::new(At(5));
        history.see(&report(100, State::Unknown, 5));
        history.see(&report(1_000, State::Healthy, 900));
        history.see(&report(2_000, State::Healthy, 900));
        history.see(&report(70_000, State::Unknown, 60_900));
        assert_eq!(turns(&history), [(5, State::Unknown), (900, State::Healthy), (60_900, State::Unknown)]);
        assert_eq!(history.turns(At(0)).last().unwrap().reason.as_deref(), Some("since 60900"));
        assert_eq!(history.turns(At(901)).count(), 1);
    }

    #[test]
    fn a_state_that_dates_itself_back_does_not_erase_the_one_before_it() {
        let mut history = History::new(At(0));
        history.see(&report(100, State::Healthy, 100));
        history.see(&report(500, State::Recovering, 500));
        // Down since the same moment: it was known only a little later.
        history.see(&report(520, State::Down, 500));
        history.see(&report(900, State::Recovering, 500));
        history.see(&report(950, State::Healthy, 950));
        let expected = [
            (0, State::Unknown),
            (100, State::Healthy),
            (500, State::Recovering),
            (520, State::Down),
            (900, State::Recovering),
            (950, State::Healthy),
        ];
        assert_eq!(turns(&history), expected);
    }

    #[test]
    fn counts_fall_into_the_minute_of_their_report_and_quiet_minutes_are_left_out() {
        let mut history = History::new(At(0));
        history.see(&counting(1_000, 10, Some((2.0, 9.0))));
        history.see(&counting(59_999, 25, Some((3.0, 8.0))));
        history.see(&counting(119_000, 25, None));
        history.see(&counting(185_000, 26, None));
        let minutes: Vec<Minute> = history.minutes(At(0)).copied().collect();
        assert_eq!(minutes.len(), 2);
        assert_eq!((minutes[0].at, minutes[0].calls, minutes[0].relatched), (At(0), 25, 2));
        assert_eq!(minutes[0].latency, Some(Latency { p50: 3.0, p99: 8.0 }));
        assert_eq!((minutes[1].at, minutes[1].calls, minutes[1].latency), (At(180_000), 1, None));
        assert_eq!(history.minutes(At(1)).count(), 1);
    }

    #[test]
    fn a_day_is_kept_and_what_held_at_its_beginning_stays() {
        let mut history = History::new(At(0));
        history.see(&HealthReport {
            totals: Totals { calls: 1, ..Totals::default() },
            ..report(1_000, State::Healthy, 1_000)
        });
        let later = REACH_MS + 2 * MINUTE_MS;
        history.see(&counting(later, 2, None));
        assert_eq!(turns(&history), [(1_000, State::Healthy)]);
        assert_eq!(history.minutes(At(0)).count(), 1);
    }

    #[test]
    fn a_server_that_flaps_all_day_costs_a_bounded_place() {
        let mut history = History::new(At(0));
        for n in 1..5_000_u64 {
            let state = if n.is_multiple_of(2) { State::Healthy } else { State::Down };
            history.see(&HealthReport {
                totals: Totals { calls: n, ..Totals::default() },
                ..report(n * 30_000, state, n * 30_000)
            });
        }
        assert_eq!(history.turns(At(0)).count(), TURNS);
        assert!(history.minutes(At(0)).count() as u64 <= REACH_MS / MINUTE_MS + 1);
    }
}
