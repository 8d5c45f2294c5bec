//! The only place that prints. Data goes to stdout, words to stderr; nothing needs colour to be understood.
//!
//! The files below turn what is known into text and print nothing; [`out`] and [`failure`] print. Text from the
//! network passes [`clean`] first, so that no server writes to a terminal.

pub(crate) mod adopt;
pub(crate) mod announced;
pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod drill;
pub(crate) mod explain;
mod lines;
pub(crate) mod log;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod status;
mod table;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};

use crate::config::fault::Faulty;
use crate::exit;

/// A command that could not do its work: what happened, why, and what can be done.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened, to which thing.
    pub(crate) what: String,
    /// Why, the nearest cause first.
    pub(crate) causes: Vec<String>,
    /// One thing that can be carried out.
    pub(crate) hint: Option<String>,
    /// One of [`crate::exit`].
    pub(crate) exit: u8,
    /// What is wrong with a configuration file, where that is the cause.
    pub(crate) faulty: Option<Box<Faulty>>,
}

impl Failure {
    /// Something that does not work.
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), causes: Vec::new(), hint: None, exit: exit::NO, faulty: None }
    }

    /// A wrong command line.
    pub(crate) fn usage(what: impl Into<String>) -> Failure {
        Failure::new(what).exit(exit::USAGE)
    }

    pub(crate) fn cause(mut self, cause: impl fmt::Display) -> Failure {
        self.causes.push(cause.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(mut self, exit: u8) -> Failure {
        self.exit = exit;
        self
    }
}

impl From<Faulty> for Failure {
    fn from(faulty: Faulty) -> Failure {
        let mut failure = Failure::usage(config::sum(&faulty));
        failure.faulty = Some(Box::new(faulty));
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => {
                let mut failure = Failure::new(error.to_string());
                failure.causes = error.chain().skip(1).map(ToString::to_string).collect();
                failure
            }
        }
    }
}

/// Whether the reader sees colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Coloured,
}

/// The colours that are used, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    Good,
    Busy,
    Bad,
    Faint,
    Strong,
}

impl Tint {
    /// Between `ESC [` and `m`.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Tint::Good => "32",
            Tint::Busy => "33",
            Tint::Bad => "31",
            Tint::Faint => "2",
            Tint::Strong => "1",
        }
    }
}

impl Style {
    pub(crate) fn stdout() -> Style {
        Style::of(io::stdout().is_terminal())
    }

    pub(crate) fn stderr() -> Style {
        Style::of(io::stderr().is_terminal())
    }

    fn of(terminal: bool) -> Style {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        if terminal && !unwanted { Style::Coloured } else { Style::Plain }
    }

    pub(crate) fn coloured(self) -> bool {
        self == Style::Coloured
    }

    pub(crate) fn tint(self, tint: Tint, text: &str) -> String {
        match self {
            Style::Plain => text.to_owned(),
            Style::Coloured => format!("\x1b[{}m{text}\x1b[0m", tint.code()),
        }
    }
}

/// How many characters fit into a line of stdout; none where it is no terminal.
pub(crate) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Prints data. `false` when the reader is gone, which is no failure.
#[must_use]
pub(crate) fn out(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Shows this in place of what the terminal shows. `false` when the reader is gone.
#[must_use]
pub(crate) fn redraw(text: &str, first: bool) -> bool {
    // What stood there goes once; then to the upper left, each line to its end, and whatever is below.
    let clear = if first { "\x1b[2J" } else { "" };
    out(&format!("{clear}\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
}

/// Prints words. Nobody listening is no failure.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether somebody sees a question, and can answer it.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Prints why a command could not do its work.
pub(crate) fn failure(failure: &Failure) {
    say(&failure_text(failure, Style::stderr()));
}

pub(crate) fn failure_text(failure: &Failure, style: Style) -> String {
    let mut text = match &failure.faulty {
        // One that is about the file as a whole is all there is to say.
        Some(faulty) if faulty.faults.iter().all(|fault| fault.place.is_none()) => {
            return config::faults(faulty, style).trim_end().to_owned() + "\n";
        }
        Some(faulty) => config::faults(faulty, style),
        None => String::new(),
    };
    text += &format!("{} {}\n", style.tint(Tint::Bad, "error:"), clean(&failure.what));
    for cause in &failure.causes {
        text.push_str(&format!("  cause: {}\n", clean(cause)));
    }
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("{} {}\n", style.tint(Tint::Strong, "hint:"), clean(hint)));
    }
    text
}

/// Prints that relatch itself is at fault.
pub(crate) fn bug(what: &str) {
    say(&format!(
        "error: relatch {} met a bug of its own: {}\nhint: Report the line above together with what you did\n",
        env!("CARGO_PKG_VERSION"),
        clean(what)
    ));
}

/// Text from elsewhere without control characters: a line stays a line, and a terminal is not written to.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// A span of time as people say it, to two parts: `<1s`, `3s`, `14m`, `2h 10m`, `3d 4h`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0 => "<1s".to_owned(),
        1..60 => format!("{seconds}s"),
        60..600 if !seconds.is_multiple_of(60) => format!("{minutes}m {}s", seconds % 60),
        60..3_600 => format!("{minutes}m"),
        3_600..86_400 if !minutes.is_multiple_of(60) => format!("{hours}h {}m", minutes % 60),
        3_600..86_400 => format!("{hours}h"),
        _ if !hours.is_multiple_of(24) => format!("{days}d {}h", hours % 24),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_people_say_them() {
        for (ms, said) in [
            (0, "<1s"),
            (3_999, "3s"),
            (60_000, "1m"),
            (95_000, "1m 35s"),
            (14 * 60_000 + 20_000, "14m"),
            (7_800_000, "2h 10m"),
            (7_200_000, "2h"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(span(ms), said);
        }
    }

    #[test]
    fn a_failure_has_its_causes_and_a_hint() {
        let failure = Failure::new("Upstream `files` \x1b[31mexited").cause("no `npx`").hint("Install it");
        assert_eq!(
            failure_text(&failure, Style::Plain),
            "error: Upstream `files`  [31mexited\n  cause: no `npx`\nhint: Install it\n"
        );
    }

    #[test]
    fn a_failure_keeps_its_hint_on_the_way_through_anyhow() {
        let kept: Failure =
            anyhow::Error::from(Failure::new("a").hint("b").exit(exit::REFUSED)).context("around").into();
        assert_eq!((kept.exit, kept.hint.as_deref()), (exit::REFUSED, Some("b")));
        let made: Failure = anyhow::anyhow!("root").context("middle").context("top").into();
        assert_eq!((made.what.as_str(), made.causes), ("top", vec!["middle".to_owned(), "root".to_owned()]));
    }
}
