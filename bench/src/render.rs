//! What was measured, for people and for programs. The only place here that prints.

use std::io::Write as _;

use serde_json::{Map, Value, json};

use crate::figures::Spread;

/// Everything that one command measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) title: &'static str,
    /// Under what circumstances.
    pub(crate) notes: Vec<String>,
    pub(crate) tables: Vec<Table>,
    /// What must never happen and did.
    pub(crate) wrongs: Vec<String>,
}

/// Figures that belong together.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Text(String),
    Count(u64),
    /// With so many decimals.
    Number(f64, usize),
    Spread(Spread, usize),
    Nothing,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// A spread, where there were samples.
    pub(crate) fn spread(samples: impl IntoIterator<Item = f64>, decimals: usize) -> Cell {
        Spread::of(samples).map_or(Cell::Nothing, |spread| Cell::Spread(spread, decimals))
    }

    fn shown(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number, decimals) => format!("{number:.decimals$}"),
            Cell::Spread(spread, decimals) => {
                let Spread { p50, p25, p75, .. } = spread;
                format!("{p50:.decimals$} ({p25:.decimals$}–{p75:.decimals$})")
            }
            Cell::Nothing => "–".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Count(count) => json!(count),
            Cell::Number(number, _) => json!(number),
            Cell::Spread(spread, _) => json!({
                "p50": spread.p50, "p25": spread.p25, "p75": spread.p75, "samples": spread.samples,
            }),
            Cell::Nothing => Value::Null,
        }
    }
}

impl Report {
    /// The tables as text.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        std::io::stdout().write_all(self.text().as_bytes())?;
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        for table in &self.tables {
            text.push_str(&format!("\n{}\n", table.title));
            text.push_str(&table.text());
        }
        for wrong in &self.wrongs {
            text.push_str(&format!("\nwrong: {wrong}\n"));
        }
        text
    }

    /// The same as JSON.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|table| json!({"title": table.title, "columns": table.columns, "rows": table.json()}))
            .collect();
        let all = json!({
            "title": self.title, "notes": self.notes, "tables": tables, "wrongs": self.wrongs,
        });
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Table {
        Table { title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    fn text(&self) -> String {
        let head: Vec<String> = self.columns.iter().map(|column| (*column).to_owned()).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::shown).collect());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let width = |at: usize| {
            lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(&format!("  {}\n", cells.join("  ").trim_end()));
        }
        text
    }

    fn json(&self) -> Vec<Value> {
        let object = |row: &Vec<Cell>| {
            let pairs = self.columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), cell.json()));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }
}

/// Says on stderr what is being done, since a measurement takes its time.
pub(crate) fn progress(what: &str) {
    drop(writeln!(std::io::stderr(), "… {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_programs_get_the_same_figures() {
        let mut table = Table::new("calls", &["way", "p50"]);
        table.rows.push(vec![Cell::text("direct"), Cell::spread([1.0, 2.0, 3.0, 4.0, 5.0], 1)]);
        table.rows.push(vec![Cell::text("through"), Cell::Count(7)]);
        let report = Report { title: "t", tables: vec![table], ..Report::default() };
        assert_eq!(report.text(), "t\n\ncalls\n  way      p50\n  direct   3.0 (2.0–4.0)\n  through  7\n");
        let value: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(value["tables"][0]["rows"][0]["p50"]["p75"], 4.0);
        assert_eq!(value["tables"][0]["rows"][1]["p50"], 7);
    }
}
