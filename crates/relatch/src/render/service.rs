//! What is said of services.

use std::path::PathBuf;

use super::clean;
use crate::service::{Found, Unit};

/// The units as they would be written, each under its place.
pub(crate) fn units(units: &[Unit]) -> String {
    let shown = units.iter().map(|unit| format!("# {}\n{}", unit.path.display(), unit.text));
    shown.collect::<Vec<_>>().join("\n")
}

/// Which files there are now.
pub(crate) fn written(units: &[Unit]) -> String {
    units.iter().map(|unit| format!("Written: {}\n", unit.path.display())).collect()
}

/// Which files there are no more.
pub(crate) fn removed(places: &[PathBuf]) -> String {
    places.iter().map(|path| format!("Removed: {}\n", path.display())).collect()
}

/// What is left to be run by hand.
pub(crate) fn commands(commands: &[Vec<String>]) -> String {
    let lines = commands.iter().map(|command| format!("  {}\n", clean(&command.join(" "))));
    format!("Start it with\n{}", lines.collect::<String>())
}

/// Whether it is installed, and whether it runs.
pub(crate) fn status(places: &[(Found, PathBuf)], runs: bool) -> String {
    if places.iter().all(|(found, _)| *found == Found::Nothing) {
        return "not installed\n".to_owned();
    }
    let mut text = if runs { "✓ runs\n" } else { "✗ does not run\n" }.to_owned();
    for (found, path) in places {
        let words = match found {
            Found::Nothing => continue,
            Found::Same | Found::Ours => "as relatch wrote it",
            Found::Edited => "changed since relatch wrote it",
            Found::Foreign => "not written by relatch",
        };
        text.push_str(&format!("  {}  {words}\n", path.display()));
    }
    text
}
