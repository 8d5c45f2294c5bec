//! Columns of text: as wide as their widest cell, two spaces apart, nothing behind the last.

use super::{Style, Tint};

/// On which side a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A cell and its colour.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tint: Option<Tint>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), tint: None }
    }

    pub(crate) fn tinted(text: impl Into<String>, tint: Tint) -> Cell {
        Cell { text: text.into(), tint: Some(tint) }
    }
}

/// A heading, rows, and lines that belong below a row.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<(Vec<Cell>, String)>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Side)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// `below` is printed under the row as it is.
    pub(crate) fn row(&mut self, cells: Vec<Cell>, below: String) {
        self.rows.push((cells, below));
    }

    pub(crate) fn render(&self, style: Style, indent: &str) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(n, (heading, _))| {
                let cells =
                    self.rows.iter().filter_map(|(cells, _)| cells.get(n)).map(|cell| width(&cell.text));
                cells.chain([width(heading)]).max().unwrap_or_default()
            })
            .collect();
        let mut text = String::new();
        let line = |cells: &[Cell]| {
            let mut line = indent.to_owned();
            for (n, (cell, (_, side))) in cells.iter().zip(&self.columns).enumerate() {
                let room = " ".repeat(widths[n].saturating_sub(width(&cell.text)));
                let shown = cell.tint.map_or(cell.text.clone(), |tint| style.tint(tint, &cell.text));
                let gap = if n == 0 { "" } else { "  " };
                match side {
                    Side::Left => line.push_str(&format!("{gap}{shown}{room}")),
                    Side::Right => line.push_str(&format!("{gap}{room}{shown}")),
                }
            }
            format!("{}\n", line.trim_end())
        };
        let headings: Vec<Cell> =
            self.columns.iter().map(|(heading, _)| Cell::tinted(*heading, Tint::Faint)).collect();
        text.push_str(&line(&headings));
        for (cells, below) in &self.rows {
            text.push_str(&line(cells));
            text.push_str(below);
        }
        text
    }
}

/// Characters are counted; that is exact for everything printed here but wide scripts in foreign names.
fn width(text: &str) -> usize {
    text.chars().count()
}
