//! What is wrong in a configuration file, and where. Prints nothing; `render` does.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::veil::{Sort, veiled};

/// One thing that is wrong, at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it stands; none where the whole file is meant.
    pub(crate) place: Option<Place>,
    /// What is wrong, without a secret.
    pub(crate) what: String,
    /// One thing that can be carried out.
    pub(crate) hint: Option<String>,
}

/// A stretch of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// How many characters; at least 1.
    pub(crate) width: usize,
    /// The line, with what may be secret made unreadable.
    pub(crate) text: String,
}

/// Everything that is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Faulty {
    /// The file.
    pub(crate) path: PathBuf,
    /// At least one, in the order of the file.
    pub(crate) faults: Vec<Fault>,
}

impl Faulty {
    /// One fault of the file as a whole.
    pub(crate) fn whole(path: &Path, what: impl Into<String>, hint: Option<String>) -> Faulty {
        Faulty { path: path.to_owned(), faults: vec![Fault { place: None, what: what.into(), hint }] }
    }
}

impl Place {
    /// The place of these bytes of `text`, which are a key or begin a value, as far as they stand in one line.
    pub(crate) fn of(text: &str, span: Range<usize>) -> Place {
        Place::in_line(text, span, Sort::Entry)
    }

    /// The same of bytes that may stand anywhere.
    pub(crate) fn anywhere(text: &str, span: Range<usize>) -> Place {
        Place::in_line(text, span, Sort::Perhaps)
    }

    fn in_line(text: &str, span: Range<usize>, sort: Sort) -> Place {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let begins = before.rfind('\n').map_or(0, |at| at + 1);
        let whole = text.get(begins..).unwrap_or_default().lines().next().unwrap_or_default();
        let column = before.get(begins..).unwrap_or_default().chars().count() + 1;
        let rest = text.get(start..span.end.min(text.len()).max(start)).unwrap_or_default();
        let width = rest.lines().next().unwrap_or_default().chars().count().max(1);
        Place { line, column, width, text: veiled(whole, sort) }
    }
}

/// The line of this byte, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.get(..at.min(text.len())).unwrap_or_default().matches('\n').count() + 1
}
