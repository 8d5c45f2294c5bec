//! Text as `render` makes it, turned into lines of the screen: its colours, cut to a width or wrapped. Decides nothing
//! about the words.

use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span};

use crate::render::{Style, Tint};

/// The look of a tint.
pub(super) fn look(style: Style, tint: Tint) -> Look {
    let look = Look::new();
    match (style, tint) {
        (Style::Plain, _) => look,
        (Style::Coloured, Tint::Good) => look.fg(Color::Green),
        (Style::Coloured, Tint::Busy) => look.fg(Color::Yellow),
        (Style::Coloured, Tint::Bad) => look.fg(Color::Red),
        (Style::Coloured, Tint::Faint) => look.add_modifier(Modifier::DIM),
        (Style::Coloured, Tint::Strong) => look.add_modifier(Modifier::BOLD),
    }
}

/// The lines of a text that `render` has coloured. Nothing in it but our own tints has escapes: the rest is cleaned.
pub(super) fn lines(text: &str) -> Vec<Line<'static>> {
    text.lines().map(line).collect()
}

fn line(text: &str) -> Line<'static> {
    let mut spans = Vec::new();
    let mut look = Look::new();
    for (n, piece) in text.split('\x1b').enumerate() {
        let mut rest = piece;
        if n > 0
            && let Some((code, after)) = piece.strip_prefix('[').and_then(|piece| piece.split_once('m'))
        {
            rest = after;
            look = [Tint::Good, Tint::Busy, Tint::Bad, Tint::Faint, Tint::Strong]
                .into_iter()
                .find(|tint| tint.code() == code)
                .map_or(Look::new(), |tint| self::look(Style::Coloured, tint));
        }
        if !rest.is_empty() {
            spans.push(Span::styled(rest.to_owned(), look));
        }
    }
    Line::from(spans)
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text, cut with an ellipsis where it is wider than `room`.
pub(super) fn cut(text: &str, room: usize) -> String {
    fit(Line::from(text.to_owned()), room).spans.into_iter().map(|span| span.content.into_owned()).collect()
}

/// The text in exactly `room` columns, on the left or the right of them.
pub(super) fn pad(text: &str, room: usize, right: bool) -> String {
    let text = cut(text, room);
    let space = " ".repeat(room.saturating_sub(width(&text)));
    if right { space + &text } else { text + &space }
}

/// The line, cut with an ellipsis where it is wider than `room`.
pub(super) fn fit(line: Line<'static>, room: usize) -> Line<'static> {
    if line.width() <= room {
        return line;
    }
    let mut cells = cells(&line);
    while cells.iter().map(|(_, _, width)| width).sum::<usize>() > room.saturating_sub(1)
        && cells.pop().is_some()
    {}
    let look = cells.last().map(|(_, look, _)| *look).unwrap_or_default();
    cells.push(("…".to_owned(), look, 1));
    if room == 0 { Line::default() } else { joined(cells) }
}

/// The line on as many lines as it takes, broken between words, those after the first indented by `hang`.
pub(super) fn wrap(line: &Line<'static>, room: usize, hang: usize) -> Vec<Line<'static>> {
    let room = room.max(1);
    let hang = if hang * 2 > room { 0 } else { hang };
    let mut rest = cells(line);
    let mut made = Vec::new();
    loop {
        let indent = if made.is_empty() { 0 } else { hang };
        let (mut taken, mut fits) = (0, 0);
        for (_, _, width) in &rest {
            if taken + width > room - indent {
                break;
            }
            taken += width;
            fits += 1;
        }
        let broken = if fits == rest.len() {
            fits
        } else {
            // What does not fit goes on with its last word, unless that is all there is.
            let words = rest[..=fits].iter().rposition(|(text, _, _)| text == " ");
            let written = rest.iter().position(|(text, _, _)| text != " ").unwrap_or(0);
            words.filter(|at| *at > written).unwrap_or(fits.max(1))
        };
        let after = rest.split_off(broken.min(rest.len()));
        let mut cells: Vec<Cell> = vec![(" ".to_owned(), Look::new(), 1); indent];
        cells.extend(rest);
        made.push(joined(cells));
        rest = after.into_iter().skip_while(|(text, _, _)| text == " ").collect();
        if rest.is_empty() {
            return made;
        }
    }
}

/// What stands in one place of the screen, how it looks, and how wide it is.
type Cell = (String, Look, usize);

fn cells(line: &Line<'static>) -> Vec<Cell> {
    line.styled_graphemes(Look::new())
        .map(|cell| (cell.symbol.to_owned(), cell.style, Span::raw(cell.symbol).width()))
        .collect()
}

fn joined(cells: Vec<Cell>) -> Line<'static> {
    let mut spans: Vec<Span<'static>> = Vec::new();
    for (text, look, _) in cells {
        match spans.last_mut() {
            Some(last) if last.style == look => last.content.to_mut().push_str(&text),
            _ => spans.push(Span::styled(text, look)),
        }
    }
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(lines: &[Line<'static>]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn colours_of_render_are_colours_of_the_screen() {
        let text = format!("a {} b", Style::Coloured.tint(Tint::Bad, "✗ down"));
        let line = lines(&text).remove(0);
        assert_eq!(line.to_string(), "a ✗ down b");
        assert_eq!(line.spans[1], Span::styled("✗ down", Look::new().fg(Color::Red)));
        assert_eq!(line.spans[2].style, Look::new());
    }

    #[test]
    fn what_is_too_wide_is_cut_by_columns_and_not_by_letters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("日本語のサーバー", 6), "日本…");
        assert_eq!(width(&pad("日本語のサーバー", 6, false)), 6);
        assert_eq!(pad("12", 4, true), "  12");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn what_is_too_long_goes_on_below_with_whole_words() {
        let line = Line::from("  last failure  ping 3s ago: refused");
        assert_eq!(plain(&wrap(&line, 22, 4)), ["  last failure  ping", "    3s ago: refused"]);
        assert_eq!(plain(&wrap(&Line::from("abcdefgh"), 3, 4)), ["abc", "def", "gh"]);
        assert_eq!(plain(&wrap(&Line::from("日本語"), 4, 0)), ["日本", "語"]);
        assert_eq!(plain(&wrap(&Line::from("日"), 1, 0)), ["日"]);
        assert_eq!(plain(&wrap(&Line::default(), 5, 2)), [""]);
    }
}
