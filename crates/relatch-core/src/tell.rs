//! What `--tell` says inside the client: who answers to relatch's name there, and which log messages are sent.
//!
//! Decides by what the client was shown and asked for. Makes no message and keeps nothing; when an outage is worth
//! telling is decided in [`crate::health::turns`].

use crate::exchange::words::seconds;
use crate::health::turns::{FLAPPING_MS, Turn};

/// A level of `notifications/message`, the least severe first (RFC 5424, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `notice`
    Notice,
    /// `warning`
    Warning,
    /// `error`
    Error,
    /// `critical`
    Critical,
    /// `alert`
    Alert,
    /// `emergency`
    Emergency,
}

impl Level {
    /// Every level, the least severe first.
    pub const ALL: [Level; 8] = [
        Level::Debug,
        Level::Info,
        Level::Notice,
        Level::Warning,
        Level::Error,
        Level::Critical,
        Level::Alert,
        Level::Emergency,
    ];

    /// The level of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str() == word)
    }

    /// Its word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Alert => "alert",
            Level::Emergency => "emergency",
        }
    }

    /// Whether a client that has set `least` gets this. One that has set nothing gets what the sender decides
    /// (server/utilities/logging of 2025-03-26 to 2025-11-25), and its user has asked for it with `--tell`; a word that
    /// is no level asks for nothing.
    #[must_use]
    pub fn reaches(self, least: Option<&str>) -> bool {
        match least {
            None => true,
            Some(word) => Level::parse(word).is_some_and(|least| self >= least),
        }
    }
}

/// Who answers to the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// relatch, at once and whatever becomes of its upstream.
    Relatch,
    /// The server, which has something of this name itself.
    Server,
}

/// Who answers to the name. `listed`: whether the server's own list, as this client saw it, has the name; `None` when it
/// has not looked. Then `elsewhere` counts: whether the server's list has it as another client saw it.
#[must_use]
pub fn whose(listed: Option<bool>, elsewhere: bool) -> Whose {
    if listed.unwrap_or(elsewhere) { Whose::Server } else { Whose::Relatch }
}

/// Whether the server's refusal says that it has nothing of this kind, so that what relatch adds is all there is.
/// `offered`: whether its `initialize` answer named the capability.
#[must_use]
pub fn has_none(code: i64, offered: bool) -> bool {
    code == relatch_wire::failure::METHOD_NOT_FOUND || !offered
}

/// The log message of a turn: its level and its words. `reason` is the report's.
#[must_use]
pub fn words(upstream: &str, turn: Turn, reason: Option<&str>) -> (Level, String) {
    match turn {
        Turn::Down { .. } => {
            (Level::Warning, format!("`{upstream}` is down: {}", reason.unwrap_or("no reason known")))
        }
        Turn::Recovered { ms, .. } => (Level::Notice, format!("`{upstream}` is back after {}", seconds(ms))),
        Turn::Flapping { outages: 0 } => {
            (Level::Warning, format!("`{upstream}` refuses its new sessions one after the other"))
        }
        Turn::Flapping { outages } => (
            Level::Warning,
            format!("`{upstream}` comes and goes: {outages} outages within {}", seconds(FLAPPING_MS)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::At;

    #[test]
    fn the_servers_own_name_is_never_taken_and_relatch_answers_to_any_other() {
        let table = [
            (Some(true), false, Whose::Server),
            (Some(true), true, Whose::Server),
            (Some(false), false, Whose::Relatch),
            (Some(false), true, Whose::Relatch),
            (None, true, Whose::Server),
            (None, false, Whose::Relatch),
        ];
        for (listed, elsewhere, expected) in table {
            assert_eq!(whose(listed, elsewhere), expected, "{listed:?} {elsewhere}");
        }
    }

    #[test]
    fn a_client_gets_what_it_asked_for_and_without_a_word_everything() {
        let table = [
            (Level::Warning, None, true),
            (Level::Notice, None, true),
            (Level::Warning, Some("debug"), true),
            (Level::Warning, Some("warning"), true),
            (Level::Warning, Some("error"), false),
            (Level::Notice, Some("info"), true),
            (Level::Notice, Some("warning"), false),
            (Level::Warning, Some("emergency"), false),
            (Level::Warning, Some("loud"), false),
        ];
        for (level, least, expected) in table {
            assert_eq!(level.reaches(least), expected, "{level:?} {least:?}");
        }
        for level in Level::ALL {
            assert_eq!(Level::parse(level.as_str()), Some(level));
        }
    }

    #[test]
    fn what_a_server_never_offered_it_does_not_have_whatever_it_answers() {
        let table =
            [(-32601, true, true), (-32601, false, true), (-32603, false, true), (-32603, true, false)];
        for (code, offered, expected) in table {
            assert_eq!(has_none(code, offered), expected, "{code} {offered}");
        }
    }

    #[test]
    fn lost_is_a_warning_and_back_a_notice() {
        let (level, text) = words("gmail", Turn::Down { since: At(0) }, Some("ECONNREFUSED"));
        assert_eq!((level, text.as_str()), (Level::Warning, "`gmail` is down: ECONNREFUSED"));
        let (level, text) = words("gmail", Turn::Recovered { since: At(0), ms: 12_000 }, None);
        assert_eq!((level, text.as_str()), (Level::Notice, "`gmail` is back after 12 s"));
        let (level, text) = words("gmail", Turn::Flapping { outages: 3 }, None);
        assert_eq!((level, text.contains("3 outages")), (Level::Warning, true));
    }
}
