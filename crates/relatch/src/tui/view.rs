//! The screen, drawn from the model: a list of all upstreams, the story of one, a journal, the keys. Pure; it decides what
//! there is room for, and takes every word about an upstream from `render`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};
use relatch_admin::{Dated, KeeperStatus};
use relatch_core::health::State;

use super::model::{Id, Model, Page, Past, Row, Seen};
use super::picture::{self, Stretch};
use super::table::Table;
use super::text::{cut, fit, lines, look, pad, width, wrap};
use crate::render::log::Columns;
use crate::render::status::{count, mark, reason, story};
use crate::render::{Style, Tint, clean};

/// Below this height the journal leaves its place to the list, and below the other one each upstream is a line alone.
const ROOM_FOR_JOURNAL: u16 = 16;
const ROOM_FOR_STRIPS: u16 = 10;
/// A strip that stands behind the columns has at least this many.
const STRIP: usize = 30;
/// Lines of a reason that are shown in the list; the story has it whole.
const REASON: usize = 2;
/// Columns of the words before a picture.
const LABELS: usize = 11;

/// From where it is looked at.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
    pub(super) style: Style,
}

/// What there is room for in a row.
#[derive(Clone, Copy, Debug)]
struct Shape {
    room: usize,
    /// By the columns.
    taken: usize,
    strips: bool,
}

impl Shape {
    /// How wide a strip behind the columns is, where it is wide enough.
    fn beside(self) -> Option<usize> {
        Some(self.room.saturating_sub(self.taken + 2)).filter(|left| *left >= STRIP)
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, sight: &Sight) -> Seen {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), area.height);
    let rows = model.rows();
    let selected = model.selected(&rows);
    put(frame, 0, vec![sight.heading(model, width)]);
    put(frame, height.saturating_sub(1), vec![sight.footer(model, width)]);
    let body = Rect { y: 1, height: height.saturating_sub(2), ..area };
    if model.help {
        put(frame, body.y, clipped(sight.help(width), 0, body));
        return Seen { top: model.top(), most: model.scroll, page: usize::from(body.height) };
    }
    match (model.page, rows.get(selected)) {
        (Page::Story, Some(row)) => sight.story(frame, model, row, body),
        (Page::Journal, Some(row)) => sight.journal(frame, model, row, body),
        (Page::List, Some(_)) => sight.list(frame, model, &rows, selected, body),
        (Page::List | Page::Story | Page::Journal, None) => {
            put(frame, body.y, clipped(sight.nobody(model, width), 0, body));
            Seen::default()
        }
    }
}

impl Sight {
    fn tint(&self, tint: Tint, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), look(self.style, tint))
    }

    fn stretch(&self, model: &Model, columns: usize) -> Stretch {
        Stretch::until(self.now, model.minutes() * 60_000, columns)
    }

    fn clock(&self, at: Timestamp, form: &str) -> String {
        at.to_zoned(self.zone.clone()).strftime(form).to_string()
    }

    /// How many are well, and what time it is, so that a view that stands still is seen to.
    fn heading(&self, model: &Model, width: usize) -> Line<'static> {
        let span = format!("last {}  ", minutes(model.minutes()));
        let clock = self.clock(self.now, "%H:%M:%S");
        // The first that there is room for; the last is cut.
        let mut left = Line::default();
        let mut right = String::new();
        for (titled, words, span) in [
            (true, true, &*span),
            (false, true, &*span),
            (true, false, &*span),
            (false, false, &*span),
            (false, false, ""),
        ] {
            left = self.counts(model, titled, words);
            right = format!("{span}{clock}");
            if left.width() + 1 + self::width(&right) <= width {
                break;
            }
        }
        let mut line = fit(left, width.saturating_sub(self::width(&right) + 1));
        let space = width.saturating_sub(line.width() + self::width(&right));
        line.spans.push(Span::raw(" ".repeat(space)));
        line.spans.push(Span::raw(right));
        line
    }

    fn counts(&self, model: &Model, titled: bool, words: bool) -> Line<'static> {
        let (counts, silent) = model.counts();
        let total: usize = counts.values().sum();
        let mut spans = Vec::new();
        if titled {
            spans.extend([self.tint(Tint::Strong, "relatch top"), Span::raw("  ")]);
        }
        if words && total > 0 {
            spans.push(Span::raw(format!("{}: ", count(total, "upstream"))));
        }
        let order = [State::Down, State::Degraded, State::Recovering, State::Unknown, State::Healthy];
        let mut said = Vec::new();
        for health in order {
            if let Some(number) = counts.get(&health) {
                let (mark, tint) = mark(health);
                let word = if words { format!(" {}", health.as_str()) } else { String::new() };
                said.push(self.tint(tint, format!("{mark} {number}{word}")));
            }
        }
        if silent > 0 {
            said.push(self.tint(Tint::Bad, format!("✗ {}", hanging(silent))));
        }
        for (n, one) in said.into_iter().enumerate() {
            if n > 0 {
                spans.push(Span::raw(" · "));
            }
            spans.push(one);
        }
        Line::from(spans)
    }

    /// What came of the last wish, or which keys there are.
    fn footer(&self, model: &Model, width: usize) -> Line<'static> {
        if let Some(said) = model.said(self.now) {
            return fit(Line::from(self.tint(Tint::Strong, clean(said).into_owned())), width);
        }
        let hints: &[&str] = match (model.help, model.page) {
            (true, _) => &["any key goes back · q quit", "q quit"],
            (false, Page::List) if model.rows().is_empty() => &["? help · q quit"],
            (false, Page::List) => &[
                "↑↓ select · Enter story · r reconnect · l journal · +/- zoom · ? help · q quit",
                "Enter story · r reconnect · ? help",
                "? help · q quit",
            ],
            (false, Page::Story | Page::Journal) => &[
                "↑↓ scroll · Tab next · r reconnect · l journal · Enter story · Esc back · ? help",
                "Esc back · r reconnect · ? help",
                "Esc back",
            ],
        };
        let hint = hints.iter().find(|hint| self::width(hint) <= width).or(hints.last());
        fit(Line::from(self.tint(Tint::Faint, *hint.unwrap_or(&""))), width)
    }

    fn nobody(&self, model: &Model, width: usize) -> Vec<Line<'static>> {
        let mut text = Vec::new();
        if let Some(cause) = model.unreadable() {
            text.push(Line::default());
            text.push(Line::from(self.tint(Tint::Bad, "The folder of keepers can't be read")));
            text.push(Line::from(format!("  cause: {}", clean(cause))));
        } else if model.nobody() {
            text.push(Line::default());
            text.push(Line::from(self.tint(Tint::Strong, "No keeper of this user runs")));
            text.push(Line::from(
                "Start one with `relatch serve NAME=URL`, or let a client start `relatch stdio URL`",
            ));
            text.push(Line::default());
            text.push(Line::from("Looking for one: it appears here as soon as it runs"));
        } else {
            text.push(Line::from("Asking the keepers"));
        }
        text.iter().flat_map(|line| wrap(line, width, 2)).collect()
    }

    fn help(&self, width: usize) -> Vec<Line<'static>> {
        let keys = [
            ("↑ ↓ j k", "select an upstream; scroll"),
            ("Enter", "its story: conditions, sessions, calls and latency over time"),
            ("l", "its journal"),
            ("r", "reconnect it: a new session for each of its clients, now"),
            ("Tab ← →", "the next upstream, within a story or a journal"),
            ("+ -", "look at less or more time: 10 min, 30 min, 1 h, 6 h, 24 h"),
            ("PgUp PgDn g G", "by pages; to the first and the last"),
            ("Esc", "back to the list"),
            ("Ctrl-L", "draw the screen anew"),
            ("q Ctrl-C", "quit"),
        ];
        let strip = [
            (picture::Mark::Health(State::Healthy), "healthy"),
            (picture::Mark::Relatched, "healthy, and a new session was opened in place of a dead one"),
            (picture::Mark::Health(State::Degraded), "degraded"),
            (picture::Mark::Health(State::Recovering), "recovering"),
            (picture::Mark::Health(State::Down), "down"),
            (picture::Mark::Health(State::Unknown), "unknown: no fresh evidence"),
            (picture::Mark::Before, "before its keeper began"),
        ];
        let mut text = vec![Line::from(self.tint(Tint::Strong, "Keys"))];
        for (key, does) in keys {
            text.extend(wrap(&Line::from(format!("  {}  {does}", pad(key, 13, false))), width, 17));
        }
        text.push(Line::default());
        text.push(Line::from(self.tint(Tint::Strong, "In the strip of time, the worst of each column")));
        for (mark, means) in strip {
            let (drawn, tint) = mark.drawn();
            let line = vec![Span::raw("  "), self.tint(tint, drawn), Span::raw(format!("  {means}"))];
            text.extend(wrap(&Line::from(line), width, 5));
        }
        text
    }

    fn list(
        &self,
        frame: &mut Frame<'_>,
        model: &Model,
        rows: &[Row<'_>],
        selected: usize,
        body: Rect,
    ) -> Seen {
        let room = usize::from(body.width);
        let journal = if body.height < ROOM_FOR_JOURNAL { 0 } else { (body.height / 4).min(9) };
        let place = body.height.saturating_sub(1 + journal);
        let table = Table::of(rows, self, room);
        let shape = Shape { room, taken: table.width(), strips: body.height >= ROOM_FOR_STRIPS };
        let heights: Vec<usize> =
            rows.iter().map(|row| self.below(model, row, shape, false).len() + 1).collect();
        let top = top(model.top(), selected, &heights, usize::from(place));
        let mut shown = Vec::new();
        for (n, row) in rows.iter().enumerate().skip(top) {
            if shown.len() >= usize::from(place) {
                break;
            }
            shown.push(self.first(model, row, table.row(n), n == selected, shape));
            shown.extend(self.below(model, row, shape, true));
        }
        shown.truncate(usize::from(place));
        put(frame, body.y, vec![fit(Line::from(self.tint(Tint::Faint, table.heading())), room)]);
        put(frame, body.y + 1, shown);
        if journal > 0 {
            let lines = self.newest(model, None, usize::from(journal - 1), room);
            let mut text = vec![self.rule("journal", room)];
            text.extend(lines);
            put(frame, body.y + body.height - journal, text);
        }
        Seen { top, most: 0, page: usize::from(place) / heights.get(top).copied().unwrap_or(1).max(1) }
    }

    /// The line of a row, with its strip where there is room behind the columns.
    fn first(
        &self,
        model: &Model,
        row: &Row<'_>,
        columns: Line<'static>,
        selected: bool,
        shape: Shape,
    ) -> Line<'static> {
        let mut line = Line::from(if selected { "▸ " } else { "  " });
        line.spans.extend(columns.spans);
        if selected {
            line.style = line.style.add_modifier(Modifier::BOLD);
        }
        if let (Row::Upstream { keeper, past, .. }, Some(left)) = (row, shape.beside()) {
            line.spans.push(Span::raw("  "));
            line.spans.extend(self.strip(model, keeper, *past, left).spans);
        }
        fit(line, shape.room)
    }

    /// What stands below it: why it is not well, and its strip where there is no room beside. Only `drawn` if it is seen.
    fn below(&self, model: &Model, row: &Row<'_>, shape: Shape, drawn: bool) -> Vec<Line<'static>> {
        let room = shape.room;
        let told = |words: String| {
            let mut lines = wrap(&Line::from(format!("    {words}")), room, 4);
            if lines.len() > REASON {
                lines.truncate(REASON);
                let last = lines.pop().map(|line| line.to_string()).unwrap_or_default();
                lines.push(Line::from(cut(&format!("{last} …"), room)));
            }
            lines
        };
        match row {
            Row::Upstream { keeper, server, past } => {
                let mut lines = match server.health {
                    State::Healthy => Vec::new(),
                    State::Recovering | State::Degraded | State::Down | State::Unknown => {
                        told(reason(server, self.now))
                    }
                };
                if shape.strips && shape.beside().is_none() {
                    let mut line = Line::from("    ");
                    if drawn {
                        line.spans.extend(self.strip(model, keeper, *past, room.saturating_sub(4)).spans);
                    }
                    lines.push(line);
                }
                lines
            }
            Row::Silent { cause, last, .. } => {
                let names = last.map(names).filter(|names| !names.is_empty());
                let names = names.map_or(String::new(), |names| format!(" · it had {names}"));
                told(format!("{}{names}", clean(cause)))
            }
        }
    }

    fn strip(&self, model: &Model, keeper: &KeeperStatus, past: Past<'_>, columns: usize) -> Line<'static> {
        match past {
            Past::Told(history) => self.stretch(model, columns).strip(history, self.style),
            Past::Coming => Line::default(),
            Past::Untold => fit(Line::from(self.tint(Tint::Faint, untold(keeper))), columns),
        }
    }

    fn story(&self, frame: &mut Frame<'_>, model: &Model, row: &Row<'_>, body: Rect) -> Seen {
        let room = usize::from(body.width);
        let (text, picture) = match row {
            Row::Upstream { keeper, server, past } => (
                story(keeper, server, self.now, self.style, Some(room)),
                self.picture(model, keeper, *past, room),
            ),
            Row::Silent { pid, cause, last } => {
                let mut text =
                    format!("keeper {pid}  {}\n  {}\n", self.style.tint(Tint::Bad, "✗ hangs"), clean(cause));
                if let Some(last) = last.map(names).filter(|names| !names.is_empty()) {
                    text.push_str(&format!("  it had {last}\n"));
                }
                (text, Vec::new())
            }
        };
        let mut text: Vec<Line<'static>> =
            lines(&text).iter().flat_map(|line| wrap(line, room, if room < 60 { 4 } else { 16 })).collect();
        let entries = self.newest(model, Some(&row.id()), 10, room);
        text.push(Line::default());
        text.push(self.rule("journal", room));
        text.extend(entries);
        // The picture stays in sight where at least as much is left for the words.
        let fixed = usize::from(body.height) >= 2 * picture.len() + 4;
        let mut place = body;
        if fixed && !picture.is_empty() {
            place.height -= u16::try_from(picture.len()).unwrap_or(0);
            put(frame, place.y + place.height, picture);
        } else {
            text.push(Line::default());
            text.extend(picture);
        }
        let (all, page) = (text.len(), usize::from(place.height));
        let most = all.saturating_sub(page);
        put(frame, place.y, clipped(text, model.scroll.min(most), place));
        Seen { top: model.top(), most, page }
    }

    /// Health, calls and latency over time, one below the other.
    fn picture(
        &self,
        model: &Model,
        keeper: &KeeperStatus,
        past: Past<'_>,
        room: usize,
    ) -> Vec<Line<'static>> {
        let labels = if room < 50 { 0 } else { LABELS };
        let stretch = self.stretch(model, room.saturating_sub(labels));
        let mut text = vec![self.rule(&format!("last {}", minutes(model.minutes())), room)];
        let history = match past {
            Past::Told(history) => history,
            Past::Coming => return text,
            Past::Untold => {
                text.extend(wrap(&Line::from(untold(keeper)), room, 0));
                return text;
            }
        };
        let labelled = |label: String, line: Line<'static>| {
            let label = if labels == 0 { String::new() } else { pad(&label, LABELS, false) };
            let mut labelled = Line::from(self.tint(Tint::Faint, label));
            labelled.spans.extend(line.spans);
            labelled
        };
        text.push(labelled("health".into(), stretch.strip(history, self.style)));
        let calls = stretch.calls(history);
        let (p50, p99) = (stretch.latency(history, |ms| ms.p50), stretch.latency(history, |ms| ms.p99));
        let plots = [("calls/min", "", calls), ("p50", " ms", p50), ("p99", " ms", p99)];
        for (name, unit, values) in plots {
            let most = picture::highest(&values);
            let most = if most > 0.0 { format!("≤ {}{unit}", digits(most)) } else { "none".to_owned() };
            let said = [name.to_owned(), most];
            if labels == 0 {
                text.push(Line::from(self.tint(Tint::Faint, said.join(" "))));
            }
            for (row, bar) in picture::bars(&values, 2).into_iter().enumerate() {
                text.push(labelled(said[row].clone(), Line::from(bar)));
            }
        }
        let form = if model.minutes() > 60 { "%a %H:%M" } else { "%H:%M" };
        let from = self.now - jiff::SignedDuration::from_mins(model.minutes());
        let axis = room.saturating_sub(labels);
        let (left, right) = (self.clock(from, form), self.clock(self.now, form));
        let space = axis.saturating_sub(width(&left) + width(&right));
        let axis = format!("{left}{}{right}", " ".repeat(space));
        text.push(labelled(String::new(), Line::from(self.tint(Tint::Faint, axis))));
        text
    }

    fn journal(&self, frame: &mut Frame<'_>, model: &Model, row: &Row<'_>, body: Rect) -> Seen {
        let room = usize::from(body.width);
        let id = row.id();
        let title = match &id {
            Id::Upstream(_, name) => format!("journal of {}", clean(name)),
            Id::Keeper(pid) => format!("journal of keeper {pid}"),
        };
        put(frame, body.y, vec![self.rule(&title, room)]);
        let place = Rect { y: body.y + 1, height: body.height.saturating_sub(1), ..body };
        let page = usize::from(place.height);
        let entries: Vec<Dated> = model.journal(Some(&id)).cloned().collect();
        let columns = self.columns(&entries);
        let text: Vec<Line<'static>> = entries
            .iter()
            .flat_map(|entry| lines(&columns.line(entry)))
            .flat_map(|line| wrap(&line, room, 14))
            .collect();
        let most = text.len().saturating_sub(page);
        if text.is_empty() {
            put(frame, place.y, vec![Line::from("Nothing has happened yet")]);
        }
        put(frame, place.y, clipped(text, most - model.scroll.min(most), place));
        Seen { top: model.top(), most, page }
    }

    /// The last lines of the journal, of one or of all.
    fn newest(&self, model: &Model, of: Option<&Id>, number: usize, room: usize) -> Vec<Line<'static>> {
        let mut entries: Vec<Dated> = model.journal(of).rev().take(number).cloned().collect();
        entries.reverse();
        let columns = self.columns(&entries);
        entries.iter().flat_map(|entry| lines(&columns.line(entry))).map(|line| fit(line, room)).collect()
    }

    fn columns(&self, entries: &[Dated]) -> Columns {
        Columns::of(entries, &self.now.to_zoned(self.zone.clone()), self.style)
    }

    fn rule(&self, title: &str, room: usize) -> Line<'static> {
        let line = "─".repeat(room.saturating_sub(width(title) + 4));
        fit(Line::from(self.tint(Tint::Faint, format!("── {title} {line}"))), room)
    }
}

/// Lines from the left edge on.
fn put(frame: &mut Frame<'_>, y: u16, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let room = area.height.saturating_sub(y);
    for (n, line) in (0..room).zip(&lines) {
        frame.render_widget(line, Rect { y: y + n, height: 1, ..area });
    }
}

/// What is seen of a text in a place.
fn clipped(text: Vec<Line<'static>>, scroll: usize, place: Rect) -> Vec<Line<'static>> {
    text.into_iter().skip(scroll).take(usize::from(place.height)).collect()
}

/// The first row that is drawn: where it was, moved just so far that the selected one is seen whole.
fn top(was: usize, selected: usize, heights: &[usize], room: usize) -> usize {
    let mut top = was.min(selected);
    while top < selected && heights[top..=selected].iter().sum::<usize>() > room {
        top += 1;
    }
    // No place is left empty at the end while there are rows above.
    while top > 0 && heights[top - 1..].iter().sum::<usize>() <= room {
        top -= 1;
    }
    top
}

fn names(keeper: &KeeperStatus) -> String {
    let names: Vec<String> =
        keeper.servers.iter().map(|server| format!("`{}`", clean(&server.name))).collect();
    names.join(", ")
}

fn hanging(keepers: usize) -> String {
    if keepers == 1 { "1 keeper hangs".to_owned() } else { format!("{keepers} keepers hang") }
}

fn untold(keeper: &KeeperStatus) -> String {
    format!("no history: keeper {} is of a version that tells none ({})", keeper.pid, clean(&keeper.version))
}

fn minutes(minutes: i64) -> String {
    if minutes < 60 { format!("{minutes} min") } else { format!("{} h", minutes / 60) }
}

fn digits(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests;
