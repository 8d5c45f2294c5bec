//! Columns of text: as wide as their widest cell, two spaces apart, nothing behind the last.
//!
//! Where the reader's lines are shorter than that, columns are left out in a given order; if it still does not fit, the
//! last column stands below its row.

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
    /// The last column has a line of its own.
    last_below: bool,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Side)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new(), last_below: false }
    }

    /// `below` is printed under the row as it is.
    pub(crate) fn row(&mut self, cells: Vec<Cell>, below: String) {
        self.rows.push((cells, below));
    }

    /// Makes it fit into lines of this width: first without these columns, one after the other, then with the last
    /// column below.
    pub(crate) fn fit(mut self, width: Option<usize>, spare: &[&str]) -> Table {
        let Some(width) = width else { return self };
        for heading in spare {
            if self.width() <= width {
                return self;
            }
            if let Some(n) = self.columns.iter().position(|(known, _)| known == heading) {
                self.columns.remove(n);
                for (cells, _) in &mut self.rows {
                    cells.remove(n);
                }
            }
        }
        self.last_below = self.width() > width;
        self
    }

    fn width(&self) -> usize {
        self.widths().iter().map(|width| width + 2).sum::<usize>().saturating_sub(2)
    }

    fn widths(&self) -> Vec<usize> {
        let widest = |n: usize, heading: &str| {
            let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(n)).map(|cell| width(&cell.text));
            cells.chain([width(heading)]).max().unwrap_or_default()
        };
        self.columns.iter().enumerate().map(|(n, (heading, _))| widest(n, heading)).collect()
    }

    pub(crate) fn render(&self, style: Style, indent: &str) -> String {
        let widths = self.widths();
        let in_line = self.columns.len() - usize::from(self.last_below);
        let mut text = String::new();
        let line = |cells: &[Cell]| {
            let mut line = indent.to_owned();
            for (n, (cell, (_, side))) in cells.iter().zip(&self.columns).take(in_line).enumerate() {
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
            if let Some(cell) = cells.get(in_line) {
                text.push_str(&format!("{indent}  {}\n", cell.text));
            }
            text.push_str(below);
        }
        text
    }
}

/// Characters are counted; that is exact for everything printed here but wide scripts in foreign names.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_the_last_one_below() {
        let table = || {
            let mut table = Table::new(&[("NAME", Side::Left), ("N", Side::Right), ("WHY", Side::Left)]);
            table.row(vec![Cell::new("files"), Cell::new("12"), Cell::new("it works")], String::new());
            table
        };
        let drawn = |width| table().fit(width, &["N"]).render(Style::Plain, "");
        assert_eq!(drawn(None), "NAME    N  WHY\nfiles  12  it works\n");
        assert_eq!(drawn(Some(19)), drawn(None));
        assert_eq!(drawn(Some(18)), "NAME   WHY\nfiles  it works\n");
        assert_eq!(drawn(Some(10)), "NAME\nfiles\n  it works\n");
    }
}
