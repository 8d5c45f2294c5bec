//! Named troubles: what is fixed about each of them, in one table.
//!
//! A [`Condition`] is one that stands now. It is shown once it has stood for its kind's delay, and not while another
//! one that explains it is shown: a server that is down is said to be down, and nothing else of it is news.

use crate::At;

/// A named trouble that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is fixed about it.
    pub kind: &'static Kind,
    /// Since when.
    pub since: At,
    /// Why.
    pub cause: String,
    /// What it means for the user.
    pub effect: String,
}

/// What is fixed about a named trouble.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The stable code, a word with hyphens.
    pub code: &'static str,
    /// The trouble in a few words.
    pub title: &'static str,
    /// What can be done.
    pub hint: &'static str,
    /// The codes that explain it: while one of them is shown, this one is not.
    pub depends_on: &'static [&'static str],
    /// It is shown when it has stood for so long, in milliseconds.
    pub shows_after_ms: u64,
    /// Whether an upstream that has it is called degraded.
    pub degrades: bool,
}

/// The codes of an upstream that can't be used at all.
const AWAY: &[&str] = &[
    "upstream-down",
    "command-failed",
    "endpoint-missing",
    "upstream-silent",
    "certificate-refused",
    "unknown-host",
    "proxy-refused",
];

/// One of [`AWAY`]: it makes an upstream `down`, at once, and depends on nothing.
const fn away(code: &'static str, title: &'static str, hint: &'static str) -> Kind {
    Kind { code, title, hint, depends_on: &[], shows_after_ms: 0, degrades: false }
}

/// Every kind.
pub const KINDS: &[Kind] = &[
    away("upstream-down", "The server can't be reached", "Start the server; relatch finds it by itself"),
    away(
        "command-failed",
        "The server's command does not stay up",
        "Run the command by hand to see what it says; relatch goes on trying",
    ),
    away(
        "endpoint-missing",
        "Something else answers at the server's address",
        "Start the server behind this address, or correct the address",
    ),
    away(
        "upstream-silent",
        "The server takes connections and does not answer",
        "See what the server is busy with; restart it if it hangs, and relatch finds it by itself",
    ),
    away(
        "certificate-refused",
        "The server's certificate is not trusted",
        "Renew the certificate, or have this machine trust its issuer",
    ),
    away("unknown-host", "The server's host name has no address", "Correct the address, or look at the DNS"),
    away(
        "proxy-refused",
        "The proxy on the way to the server does not let relatch through",
        "Correct the proxy, or have it allow the server's address",
    ),
    Kind {
        code: "credentials-refused",
        title: "The server refuses the credentials",
        hint: "Sign in again in the client, or check the configured headers",
        depends_on: AWAY,
        shows_after_ms: 0,
        degrades: true,
    },
    Kind {
        code: "session-flapping",
        title: "New sessions die as soon as they are opened",
        hint: "Look at the log of the server",
        depends_on: AWAY,
        shows_after_ms: 0,
        degrades: true,
    },
    Kind {
        code: "handshake-refused",
        title: "The server refuses new sessions",
        hint: "Look at the log of the server",
        depends_on: AWAY,
        // A server that has just begun to listen may refuse once, and a client may ask for another revision next.
        shows_after_ms: 2_000,
        degrades: true,
    },
    Kind {
        code: "redirected",
        title: "The server sends its clients elsewhere",
        hint: "Configure the address that it points to, if you trust it",
        depends_on: AWAY,
        shows_after_ms: 0,
        degrades: true,
    },
    Kind {
        code: "sessions-not-shared",
        title: "Several servers share the address, but not their sessions",
        hint: "Make the balancer keep a session on one server, or share the sessions",
        depends_on: AWAY,
        shows_after_ms: 0,
        degrades: true,
    },
    Kind {
        code: "paused",
        title: "Its restart has been announced, and calls wait until it is over",
        hint: "Run `relatch resume` with its name when the server is back; the pause also ends by itself",
        depends_on: &[],
        shows_after_ms: 0,
        degrades: false,
    },
    Kind {
        code: "replacement-failed",
        title: "A new session was asked for and could not be opened; the old one goes on",
        hint: "Mend what the cause says, then run `relatch restart` with its name once more",
        depends_on: AWAY,
        shows_after_ms: 0,
        degrades: false,
    },
    Kind {
        code: "revision-changed",
        title: "The restarted server speaks another revision of MCP",
        hint: "Restart the client when it suits you",
        depends_on: &[],
        shows_after_ms: 0,
        degrades: false,
    },
];

impl Kind {
    /// The kind with this code.
    #[must_use]
    pub fn of(code: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.code == code)
    }
}

impl Condition {
    /// When it is shown, unless another explains it.
    pub(super) fn shows(&self) -> At {
        self.since.plus(self.kind.shows_after_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_stands_once_and_depends_on_codes_that_are_there_and_depend_on_nothing() {
        let codes: BTreeSet<&str> = KINDS.iter().map(|kind| kind.code).collect();
        assert_eq!(codes.len(), KINDS.len());
        for kind in KINDS {
            assert_eq!(Kind::of(kind.code), Some(kind));
            for root in kind.depends_on {
                assert!(Kind::of(root).is_some_and(|root| root.depends_on.is_empty()), "{root}");
            }
        }
        assert_eq!(Kind::of("nothing"), None);
    }

    #[test]
    fn titles_and_hints_are_single_sentences() {
        for kind in KINDS {
            for words in [kind.title, kind.hint] {
                assert!(words.starts_with(char::is_uppercase) && !words.ends_with('.'), "{words}");
            }
        }
    }
}
