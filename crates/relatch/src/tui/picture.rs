//! The past of an upstream as columns of characters: its health, calls and latency. Pure; it draws what the history says.

use jiff::Timestamp;
use ratatui::text::{Line, Span};
use relatch_admin::history::{MinuteStatus, ServerHistory};
use relatch_admin::schema::LatencyStatus;
use relatch_core::health::State;

use super::text;
use crate::render::{Style, Tint, status};

/// Eighths of a character's height.
const BARS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
const MINUTE_MS: i64 = 60_000;

/// A span of time, drawn from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where it begins, in milliseconds.
    from: i64,
    ms: i64,
    columns: usize,
}

/// What one column of a strip shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Before anything was known.
    Before,
    /// The worst health that held in it.
    Health(State),
    /// Healthy, and a new session was bound in place of a dead one.
    Relatched,
}

impl Mark {
    /// Every one looks different without colours, too.
    pub(super) fn drawn(self) -> (&'static str, Tint) {
        match self {
            Mark::Before => (" ", Tint::Faint),
            Mark::Health(State::Unknown) => ("·", Tint::Faint),
            Mark::Health(State::Healthy) => ("▆", status::mark(State::Healthy).1),
            Mark::Health(State::Degraded) => ("▃", status::mark(State::Degraded).1),
            Mark::Health(State::Recovering) => ("↻", status::mark(State::Recovering).1),
            Mark::Health(State::Down) => ("✗", status::mark(State::Down).1),
            Mark::Relatched => ("▲", status::mark(State::Healthy).1),
        }
    }
}

impl Stretch {
    pub(super) fn until(now: Timestamp, ms: i64, columns: usize) -> Stretch {
        Stretch { from: now.as_millisecond() - ms, ms: ms.max(1), columns }
    }

    /// Where a column begins, in milliseconds.
    fn at(&self, column: usize) -> i64 {
        let columns = i64::try_from(self.columns.max(1)).unwrap_or(i64::MAX);
        self.from + self.ms.saturating_mul(i64::try_from(column).unwrap_or(0)) / columns
    }

    /// The minutes that touch a column.
    fn minutes<'a>(
        &self,
        column: usize,
        history: &'a ServerHistory,
    ) -> impl Iterator<Item = &'a MinuteStatus> {
        let (from, to) = (self.at(column), self.at(column + 1));
        let first = history.minutes.partition_point(|minute| minute.at.as_millisecond() + MINUTE_MS <= from);
        history.minutes[first..].iter().take_while(move |minute| minute.at.as_millisecond() < to)
    }

    pub(super) fn marks(&self, history: &ServerHistory) -> Vec<Mark> {
        (0..self.columns).map(|column| self.mark(column, history)).collect()
    }

    fn mark(&self, column: usize, history: &ServerHistory) -> Mark {
        let (from, to) = (self.at(column), self.at(column + 1));
        // The turn that holds where the column begins, and those within it.
        let first = history.turns.partition_point(|turn| turn.at.as_millisecond() <= from).saturating_sub(1);
        let held = history.turns[first..].iter().take_while(|turn| turn.at.as_millisecond() < to);
        let Some(worst) = held.map(|turn| turn.health).max_by_key(|health| weight(*health)) else {
            return Mark::Before;
        };
        // A column may be narrower than a minute; the mark stands where the minute ends, so never before what led to it.
        let ends = |minute: &MinuteStatus| (minute.at.as_millisecond() + MINUTE_MS).min(self.from + self.ms);
        let relatched = self
            .minutes(column, history)
            .any(|minute| minute.relatched > 0 && (from + 1..=to).contains(&ends(minute)));
        if relatched && worst == State::Healthy { Mark::Relatched } else { Mark::Health(worst) }
    }

    /// The strip of an upstream.
    pub(super) fn strip(&self, history: &ServerHistory, style: Style) -> Line<'static> {
        let mut spans: Vec<Span<'static>> = Vec::new();
        for (mark, tint) in self.marks(history).into_iter().map(Mark::drawn) {
            let look = text::look(style, tint);
            match spans.last_mut() {
                Some(last) if last.style == look => last.content.to_mut().push_str(mark),
                _ => spans.push(Span::styled(mark, look)),
            }
        }
        Line::from(spans)
    }

    /// The most calls in any minute that touches a column.
    pub(super) fn calls(&self, history: &ServerHistory) -> Vec<Option<f64>> {
        #[expect(clippy::cast_precision_loss, reason = "calls of one minute are far below 2^53")]
        let most = |column| self.minutes(column, history).map(|minute| minute.calls as f64).reduce(f64::max);
        (0..self.columns).map(most).collect()
    }

    /// The highest p50 or p99 of any minute that touches a column.
    pub(super) fn latency(&self, history: &ServerHistory, of: fn(&LatencyStatus) -> f64) -> Vec<Option<f64>> {
        let most = |column| {
            self.minutes(column, history)
                .filter_map(|minute| minute.latency_ms.as_ref().map(of))
                .reduce(f64::max)
        };
        (0..self.columns).map(most).collect()
    }
}

/// Bars of `rows` lines, the highest value the whole height.
pub(super) fn bars(values: &[Option<f64>], rows: usize) -> Vec<String> {
    let most = highest(values).max(f64::MIN_POSITIVE);
    let eighths = rows * 8;
    let height = |value: f64| {
        #[expect(clippy::cast_precision_loss, reason = "a few lines")]
        let height = (value / most * eighths as f64).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and eighths")]
        let height = height as usize;
        // What is there is seen.
        if value > 0.0 { height.max(1) } else { 0 }
    };
    let heights: Vec<usize> = values.iter().map(|value| value.map_or(0, height)).collect();
    (0..rows)
        .rev()
        .map(|row| heights.iter().map(|height| glyph(height.saturating_sub(row * 8))).collect())
        .collect()
}

pub(super) fn highest(values: &[Option<f64>]) -> f64 {
    values.iter().flatten().copied().fold(0.0, f64::max)
}

fn glyph(eighths: usize) -> &'static str {
    match eighths {
        0 => " ",
        1..=8 => BARS[eighths - 1],
        _ => BARS[7],
    }
}

/// Which health shows where several held in one column.
fn weight(health: State) -> u8 {
    match health {
        State::Healthy => 0,
        State::Unknown => 1,
        State::Degraded => 2,
        State::Recovering => 3,
        State::Down => 4,
    }
}

/// The calls of the last minute, from the minute that is being counted and its share of the one before.
pub(super) fn calls_per_minute(history: &ServerHistory, now: Timestamp) -> u64 {
    let now = now.as_millisecond();
    let calls = history.minutes.iter().rev().take(2).map(|minute| {
        let left = minute.at.as_millisecond() + 2 * MINUTE_MS - now;
        let share = left.clamp(0, MINUTE_MS);
        minute.calls.saturating_mul(u64::try_from(share).unwrap_or(0)) / u64::try_from(MINUTE_MS).unwrap_or(1)
    });
    calls.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::stage::{at, history, server};

    fn signs(marks: &[Mark]) -> String {
        marks.iter().map(|mark| mark.drawn().0).collect()
    }

    #[test]
    fn each_column_shows_the_worst_of_its_time() {
        let history = history(&server("gmail", State::Down));
        // A column is a minute: the keeper began 25 minutes ago, and the last one turned 70 s ago.
        let stretch = Stretch::until(at(0), 30 * MINUTE_MS, 30);
        assert_eq!(signs(&stretch.marks(&history)), "     ·▆▆▆▆▆▆▆▆▆✗✗↻▆▆▆▆▆▆▲▆▆▆✗✗");
        // A column of ten minutes has more than one health.
        let stretch = Stretch::until(at(0), 30 * MINUTE_MS, 3);
        assert_eq!(signs(&stretch.marks(&history)), "·✗✗");
    }

    #[test]
    fn a_new_session_is_marked_where_nothing_worse_was() {
        let mut history = history(&server("gmail", State::Healthy));
        history.turns.truncate(2);
        let stretch = Stretch::until(at(-20), 10 * MINUTE_MS, 10);
        assert_eq!(signs(&stretch.marks(&history)), "▆▆▆▆▲▆▆▆▆▆");
    }

    #[test]
    fn bars_reach_from_nothing_to_the_highest_and_the_smallest_is_seen() {
        let values = [None, Some(0.0), Some(0.01), Some(4.0), Some(8.0)];
        assert_eq!(bars(&values, 1), ["  ▁▄█"]);
        assert_eq!(bars(&values, 2), ["    █", "  ▁██"]);
        assert_eq!(bars(&[None, None], 2), ["  ", "  "]);
    }

    #[test]
    fn calls_of_the_last_minute_are_of_two_minutes_by_their_share() {
        let minute = |second, calls| MinuteStatus {
            at: at(second),
            calls,
            ..history(&server("x", State::Healthy)).minutes[0]
        };
        let counted = |minutes: Vec<MinuteStatus>| {
            calls_per_minute(&ServerHistory { name: "x".into(), turns: vec![], minutes }, at(0))
        };
        assert_eq!(counted(vec![minute(-90, 60), minute(-30, 7)]), 30 + 7);
        assert_eq!(counted(vec![minute(-300, 60)]), 0);
        assert_eq!(counted(vec![]), 0);
        assert_eq!(counted(vec![minute(-59, 5)]), 5);
    }
}
