//! The screen of `relatch dev`, drawn from the board: log, health and calls. Pure; it decides what there is room for, and takes
//! every word from `render`.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use relatch_admin::ServerStatus;
use relatch_core::health::State;

use super::board::{Board, Call, Seen};
use crate::render::dev::{self, clock, said, source, took};
use crate::render::status::{ago, count, latency, mark, reason};
use crate::render::{Tint, clean};
use crate::tui::text::{cut, fit, look, pad, width, wrap};
use crate::tui::view::Sight;

/// From this width on, the log stands beside the rest.
const BESIDE: u16 = 96;
/// Of a line of the log, so many columns are its time and who says it.
const MARGIN: usize = 17;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board, sight: &Sight) -> Seen {
    let area = frame.area();
    let room = usize::from(area.width);
    let mut top = vec![sight.heading(board, room), sight.stage(board, room)];
    if let Some(listening) = &board.listening {
        top.push(fit(Line::from(tint(sight, Tint::Faint, listening.url.clone())), room));
    }
    let above = u16::try_from(top.len()).unwrap_or(0).min(area.height.saturating_sub(1));
    put(frame, Rect { height: above, ..area }, top);
    put(
        frame,
        Rect { y: area.bottom().saturating_sub(1), height: 1.min(area.height), ..area },
        vec![sight.footer(board, room)],
    );
    let body = Rect { y: area.y + above, height: area.height.saturating_sub(above + 1), ..area };
    let (log, aside) = if area.width >= BESIDE {
        let left = area.width * 3 / 5;
        let line = Rect { x: left, width: 1, ..body };
        put(frame, line, vec![Line::from(tint(sight, Tint::Faint, "│")); usize::from(body.height)]);
        (Rect { width: left, ..body }, Rect { x: left + 2, width: area.width - left - 2, ..body })
    } else {
        let high = body.height * 3 / 5;
        (Rect { height: high, ..body }, Rect { y: body.y + high, height: body.height - high, ..body })
    };
    let health = sight.health(board, usize::from(aside.width));
    let most = usize::from(aside.height / 2);
    let health: Vec<Line<'static>> = health.into_iter().take(most).collect();
    let high = u16::try_from(health.len()).unwrap_or(0);
    put(frame, aside, health);
    let calls = Rect { y: aside.y + high, height: aside.height - high, ..aside };
    put(frame, calls, sight.calls(board, calls));
    sight.log(frame, board, log)
}

/// What is drawn for a workshop, beside what every view of relatch has.
trait Drawn {
    fn heading(&self, board: &Board, room: usize) -> Line<'static>;
    fn stage(&self, board: &Board, room: usize) -> Line<'static>;
    fn footer(&self, board: &Board, room: usize) -> Line<'static>;
    fn health(&self, board: &Board, room: usize) -> Vec<Line<'static>>;
    fn calls(&self, board: &Board, place: Rect) -> Vec<Line<'static>>;
    fn log(&self, frame: &mut Frame<'_>, board: &Board, place: Rect) -> Seen;
}

impl Drawn for Sight {
    fn heading(&self, board: &Board, room: usize) -> Line<'static> {
        let mut spans = vec![tint(self, Tint::Strong, format!("relatch dev  {}", clean(&board.name)))];
        if let Some(server) = &board.status {
            let (mark, look) = mark(server.health);
            spans.push(Span::raw("  "));
            spans.push(tint(self, look, format!("{mark} {}", server.health.as_str())));
            spans.push(Span::raw(format!(" · {}", count(server.sessions.len(), "client"))));
        }
        let clock = self.now.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string();
        let mut line = fit(Line::from(spans), room.saturating_sub(width(&clock) + 1));
        let space = room.saturating_sub(line.width() + width(&clock));
        line.spans.push(Span::raw(" ".repeat(space)));
        line.spans.push(Span::raw(cut(&clock, room)));
        fit(line, room)
    }

    fn stage(&self, board: &Board, room: usize) -> Line<'static> {
        let (words, tone) = dev::stage(&board.stage, self.now);
        fit(Line::from(tint(self, tone.tint(), words)), room)
    }

    fn footer(&self, board: &Board, room: usize) -> Line<'static> {
        let hints: [String; 3] = if board.scroll > 0 {
            let below = count(board.scroll, "line");
            [
                format!("{below} below · ↑↓ PgUp PgDn scroll · End the newest · r restart · q quit"),
                format!("{below} below · End the newest"),
                "End the newest".to_owned(),
            ]
        } else {
            [
                "r restart · ↑↓ PgUp PgDn scroll the log · q quit".to_owned(),
                "r restart · q quit".to_owned(),
                "q quit".to_owned(),
            ]
        };
        let hint = hints.iter().find(|hint| width(hint) <= room).or(hints.last());
        fit(Line::from(tint(self, Tint::Faint, hint.cloned().unwrap_or_default())), room)
    }

    fn health(&self, board: &Board, room: usize) -> Vec<Line<'static>> {
        let Some(server) = &board.status else { return Vec::new() };
        let mut text = vec![rule(self, "health", room)];
        let (mark, look) = mark(server.health);
        let mut first = vec![tint(self, look, format!("{mark} {}", server.health.as_str()))];
        first.push(Span::raw(format!(" for {} · {}", ago(server.since, self.now), peer(server))));
        text.extend(wrap(&Line::from(first), room, 2));
        if server.health != State::Healthy {
            text.extend(wrap(&Line::from(reason(server, self.now)), room, 2));
        }
        for condition in &server.conditions {
            let words = format!("{}: {}", condition.title, clean(&condition.hint));
            text.extend(wrap(&Line::from(tint(self, Tint::Bad, words)), room, 2));
        }
        let totals = &server.totals;
        let words = format!(
            "p50/p99 {} · relatched {} · resent {} · held {} · given back {} · may have run {}",
            latency(server),
            totals.relatched,
            totals.resent,
            totals.held,
            totals.given_back,
            totals.delivery_unknown
        );
        text.extend(wrap(&Line::from(tint(self, Tint::Faint, words)), room, 2));
        text
    }

    fn calls(&self, board: &Board, place: Rect) -> Vec<Line<'static>> {
        let (room, high) = (usize::from(place.width), usize::from(place.height));
        let (over, failed) = board.over;
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let mut text = vec![rule(self, &format!("calls {over}{failed}"), room)];
        let rows: Vec<&Call> = board.calls().rev().take(high.saturating_sub(1)).collect();
        if rows.is_empty()
            && let Some(listening) = &board.listening
        {
            text.push(Line::from("None yet. To give it to a client:"));
            text.extend(wrap(&Line::from(listening.paste.clone()), room, 2));
        }
        // Columns stand under each other.
        let outcome = |call: &&Call| call.over.as_ref().map_or(1, |over| width(&clean(&over.outcome)));
        let widest = rows.iter().map(outcome).max().unwrap_or(1);
        text.extend(rows.into_iter().rev().map(|call| self::call(self, call, widest, room)));
        text.truncate(high);
        text
    }

    fn log(&self, frame: &mut Frame<'_>, board: &Board, place: Rect) -> Seen {
        let (room, high) = (usize::from(place.width), usize::from(place.height));
        let page = high.saturating_sub(1);
        let mut text: Vec<Line<'static>> = Vec::new();
        for line in board.log() {
            let (who, look) = source(&line.said);
            let (words, tone) = said(&line.said);
            let time = short(self, line.at);
            let words = match tone {
                dev::Tone::Plain => Span::raw(words),
                dev::Tone::Good | dev::Tone::Busy | dev::Tone::Bad => tint(self, tone.tint(), words),
            };
            let spans = vec![Span::raw(format!("{time} ")), tint(self, look, format!("{who:<8}")), words];
            text.extend(wrap(&Line::from(spans), room, MARGIN));
        }
        let most = text.len().saturating_sub(page);
        let from = most - board.scroll.min(most);
        let shown: Vec<Line<'static>> = text.into_iter().skip(from).take(page).collect();
        put(frame, place, vec![rule(self, "log", room)]);
        let below =
            Rect { y: place.y + 1.min(place.height), height: place.height.saturating_sub(1), ..place };
        put(frame, below, shown);
        Seen { most, page }
    }
}

/// When, what, how long, how it ended.
fn call(sight: &Sight, call: &Call, widest: usize, room: usize) -> Line<'static> {
    let time = short(sight, call.at);
    let (ms, outcome, look) = match &call.over {
        Some(over) => {
            let look = if over.failed { Tint::Bad } else { Tint::Faint };
            (took(over.ms), clean(&over.outcome).into_owned(), look)
        }
        None => {
            let since = sight.now.as_millisecond().saturating_sub(call.at.as_millisecond());
            (took(u64::try_from(since).unwrap_or(0)), "…".to_owned(), Tint::Busy)
        }
    };
    let subject = clean(&call.subject).into_owned();
    let taken = width(&time) + 2 + 9 + 2 + widest;
    let subject = pad(&subject, room.saturating_sub(taken).clamp(4, 24), false);
    let spans = vec![
        Span::raw(format!("{time}  {subject}{}", pad(&ms, 9, true))),
        Span::raw("  "),
        tint(sight, look, outcome),
    ];
    fit(Line::from(spans), room)
}

/// The time to the second.
fn short(sight: &Sight, at: Timestamp) -> String {
    clock(at, &sight.zone).chars().take(8).collect()
}

fn peer(server: &ServerStatus) -> String {
    let Some(peer) = &server.server else { return "no session yet".to_owned() };
    let named = format!(
        "{} {}",
        peer.name.as_deref().unwrap_or_default(),
        peer.version.as_deref().unwrap_or_default()
    );
    clean(&format!("{} ({})", named.trim(), peer.protocol)).into_owned()
}

fn rule(sight: &Sight, title: &str, room: usize) -> Line<'static> {
    let line = "─".repeat(room.saturating_sub(width(title) + 4));
    fit(Line::from(tint(sight, Tint::Faint, format!("── {title} {line}"))), room)
}

fn tint(sight: &Sight, tint: Tint, text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), look(sight.style, tint))
}

/// Lines from the upper left of a place on, as far as it goes.
fn put(frame: &mut Frame<'_>, place: Rect, lines: Vec<Line<'static>>) {
    let place = place.intersection(frame.area());
    for (n, line) in (0..place.height).zip(&lines) {
        frame.render_widget(line, Rect { y: place.y + n, height: 1, ..place });
    }
}

#[cfg(test)]
mod tests;
