//! The columns of the list: as wide as what stands in them, and as many as there is room for. What stands in them comes
//! from `render`.

use std::collections::BTreeSet;

use ratatui::style::Style as Look;
use ratatui::text::{Line, Span};

use super::model::{Past, Row};
use super::picture;
use super::text::{look, pad, width};
use super::view::Sight;
use crate::render::status::{ago, latency, mark, session};
use crate::render::{Tint, clean};

/// The widest name that is shown whole.
const NAME: usize = 24;

/// All columns, in their order.
const COLUMNS: [Column; 9] = [
    Column { heading: "NAME", right: false, least: 0, spare: 0 },
    Column { heading: "HEALTH", right: false, least: 9, spare: 0 },
    Column { heading: "FOR", right: true, least: 7, spare: 1 },
    Column { heading: "CALLS/MIN", right: true, least: 0, spare: 2 },
    Column { heading: "P50/P99", right: true, least: 9, spare: 4 },
    Column { heading: "RELATCHED", right: true, least: 0, spare: 5 },
    Column { heading: "GIVEN BACK", right: true, least: 0, spare: 3 },
    Column { heading: "SESSION", right: false, least: 9, spare: 6 },
    Column { heading: "KEEPER", right: false, least: 0, spare: 7 },
];
const KEEPER: usize = 8;

struct Column {
    heading: &'static str,
    right: bool,
    /// Columns stand still while ages grow in them.
    least: usize,
    /// Where there is no room, the highest goes first; those with 0 stay.
    spare: u8,
}

#[derive(Clone, Default)]
struct Cell {
    text: String,
    look: Look,
}

/// The rows of a list, each with all its cells.
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
    /// The columns that there is room for, and their widths.
    shown: Vec<(usize, usize)>,
    gap: usize,
}

impl Table {
    pub(super) fn of(rows: &[Row<'_>], sight: &Sight, room: usize) -> Table {
        let rows: Vec<Vec<Cell>> = rows.iter().map(|row| cells(row, sight)).collect();
        let wide = |n: usize, column: &Column| {
            let cells = rows.iter().map(|cells| width(&cells[n].text));
            cells.chain([width(column.heading), column.least]).max().unwrap_or(0)
        };
        let mut shown: Vec<(usize, usize)> =
            COLUMNS.iter().enumerate().map(|(n, column)| (n, wide(n, column))).collect();
        shown[0].1 = shown[0].1.min(NAME);
        // Where a name alone says too little, its keeper does.
        let mut names = BTreeSet::new();
        let twice = rows.iter().any(|cells| !names.insert(&cells[0].text));
        let spare = |n: usize| if twice && n == KEEPER { 1 } else { COLUMNS[n].spare };
        let mut table = Table { shown, gap: 2, rows: Vec::new() };
        while table.width() > room {
            // First the columns stand closer, then one after the other goes.
            if table.gap == 2 {
                table.gap = 1;
                continue;
            }
            let last = table.shown.iter().map(|(n, _)| *n).max_by_key(|n| spare(*n));
            let Some(last) = last.filter(|n| spare(*n) > 0) else {
                let over = table.width() - room;
                table.shown[0].1 = table.shown[0].1.saturating_sub(over).max(4);
                break;
            };
            table.shown.retain(|(n, _)| *n != last);
            table.gap = 2;
        }
        Table { rows, ..table }
    }

    /// Of all columns that are shown, and the mark of the selected row before them.
    pub(super) fn width(&self) -> usize {
        2 + self.shown.iter().map(|(_, width)| width + self.gap).sum::<usize>().saturating_sub(self.gap)
    }

    pub(super) fn heading(&self) -> String {
        let heading = |(n, width): &(usize, usize)| pad(COLUMNS[*n].heading, *width, COLUMNS[*n].right);
        let cells: Vec<String> = self.shown.iter().map(heading).collect();
        format!("  {}", cells.join(&" ".repeat(self.gap)))
    }

    pub(super) fn row(&self, row: usize) -> Line<'static> {
        let mut line = Line::default();
        for (at, (n, width)) in self.shown.iter().enumerate() {
            if at > 0 {
                line.spans.push(Span::raw(" ".repeat(self.gap)));
            }
            let cell = &self.rows[row][*n];
            line.spans.push(Span::styled(pad(&cell.text, *width, COLUMNS[*n].right), cell.look));
        }
        line
    }
}

fn cells(row: &Row<'_>, sight: &Sight) -> Vec<Cell> {
    let plain = |text: String| Cell { text, look: Look::new() };
    let tinted = |text: String, tint| Cell { text, look: look(sight.style, tint) };
    match row {
        Row::Upstream { keeper, server, past } => {
            let (mark, tint) = mark(server.health);
            let calls = match past {
                Past::Told(history) => picture::calls_per_minute(history, sight.now).to_string(),
                Past::Coming | Past::Untold => "–".to_owned(),
            };
            vec![
                plain(clean(&server.name).into_owned()),
                tinted(format!("{mark} {}", server.health.as_str()), tint),
                plain(ago(server.since, sight.now)),
                plain(calls),
                plain(latency(server)),
                plain(server.totals.relatched.to_string()),
                plain(server.totals.given_back.to_string()),
                plain(session(server, sight.now)),
                tinted(format!("{} {}", keeper.kind.as_str(), keeper.pid), Tint::Faint),
            ]
        }
        Row::Silent { pid, .. } => {
            let mut cells = vec![plain(format!("keeper {pid}")), tinted("✗ hangs".to_owned(), Tint::Bad)];
            cells.resize(COLUMNS.len(), Cell::default());
            cells
        }
    }
}
