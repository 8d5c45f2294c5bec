//! What happened, in words that a person can search: the journal's entries.
//!
//! The machine writes them as effects; the shell dates them and keeps them. The one decision here is what a storm is
//! worth: so many lines of a kind, and then a number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{At, Gen, LatchId};

/// One thing that happened to one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What kind of thing.
    pub what: What,
    /// The latch it happened to, where it was one.
    pub latch: Option<LatchId>,
    /// The generation it concerns, where there is one.
    pub generation: Option<Gen>,
    /// The method, or `tools/call NAME`, where it concerns an exchange.
    pub subject: Option<String>,
    /// How long it took, in milliseconds, where that is known.
    pub ms: Option<u64>,
    /// The rest, for people: cause, or what changed.
    pub detail: Option<String>,
    /// How many things this line stands for, where it is not one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Entry {
    /// An entry that says nothing but its kind.
    #[must_use]
    pub fn new(what: What) -> Entry {
        Entry { what, latch: None, generation: None, subject: None, ms: None, detail: None, count: None }
    }
}

/// The kinds of journal entries; their spelling is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A client opened a downstream session.
    Attached,
    /// A downstream session ended.
    Left,
    /// The upstream session was refused: it is gone.
    Lost,
    /// An answer raised doubt about the session; a diagnosis began.
    Suspected,
    /// The diagnosis found the session alive, or the answer not to be about it.
    Cleared,
    /// A probe of an idle upstream found something else than the one before it.
    Probed,
    /// A new upstream session was bound.
    Relatched,
    /// A client was answered from a copy of what the server said earlier, since it is not there yet.
    FromCopy,
    /// A client that had been answered from a copy has its session.
    Latched,
    /// The upstream can't be reached.
    Away,
    /// The upstream answers again.
    Back,
    /// An exchange was sent a second time.
    Resent,
    /// An exchange waits for its upstream: the first of a hold.
    Held,
    /// Nobody waits any more; for holds of several exchanges, and for long ones.
    HoldEnded,
    /// New sessions were refused one after the other; the latch rests.
    Flapping,
    /// An exchange was given back with an error of relatch's own.
    GivenBack,
    /// An exchange was given back and may have run.
    DeliveryUnknown,
    /// The upstream refused the client's credentials.
    CredentialsRefused,
    /// A list differs from what the client last saw; the client was told.
    ListChanged,
    /// A step of rebuilding was refused or took too long, and was skipped; or `--tell` adds nothing, since the server
    /// has something of that name itself.
    Skipped,
    /// Somebody asked for a relatch.
    Reconnect,
    /// A restart of the server was announced: nothing new goes to it.
    Paused,
    /// The announced restart is over, or took too long.
    Resumed,
    /// Somebody asked for new sessions beside those that live.
    Restarting,
    /// No new session was to be had; the old one goes on.
    Stayed,
    /// The configuration of the upstream was changed while it was at work.
    Configured,
    /// The upstream was added while its keeper was at work.
    Added,
    /// The upstream was taken out of the configuration: its sessions end.
    Removed,
    /// A configuration is faulty, and nothing of it was applied.
    ReloadRefused,
    /// A hook did not do what it was to do.
    HookFailed,
    /// The machine slept, or relatch was stopped.
    Woke,
}

impl What {
    /// Every kind.
    pub const ALL: [What; 31] = [
        What::Attached,
        What::Left,
        What::Lost,
        What::Suspected,
        What::Cleared,
        What::Probed,
        What::Relatched,
        What::FromCopy,
        What::Latched,
        What::Away,
        What::Back,
        What::Resent,
        What::Held,
        What::HoldEnded,
        What::Flapping,
        What::GivenBack,
        What::DeliveryUnknown,
        What::CredentialsRefused,
        What::ListChanged,
        What::Skipped,
        What::Reconnect,
        What::Paused,
        What::Resumed,
        What::Restarting,
        What::Stayed,
        What::Configured,
        What::Added,
        What::Removed,
        What::ReloadRefused,
        What::HookFailed,
        What::Woke,
    ];

    /// The stable word, as the journal prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            What::Attached => "attached",
            What::Left => "left",
            What::Lost => "lost",
            What::Suspected => "suspected",
            What::Cleared => "cleared",
            What::Probed => "probed",
            What::Relatched => "relatched",
            What::FromCopy => "from-copy",
            What::Latched => "latched",
            What::Away => "away",
            What::Back => "back",
            What::Resent => "resent",
            What::Held => "held",
            What::HoldEnded => "hold-ended",
            What::Flapping => "flapping",
            What::GivenBack => "given-back",
            What::DeliveryUnknown => "delivery-unknown",
            What::CredentialsRefused => "credentials-refused",
            What::ListChanged => "list-changed",
            What::Skipped => "skipped",
            What::Reconnect => "reconnect",
            What::Paused => "paused",
            What::Resumed => "resumed",
            What::Restarting => "restarting",
            What::Stayed => "stayed",
            What::Configured => "configured",
            What::Added => "added",
            What::Removed => "removed",
            What::ReloadRefused => "reload-refused",
            What::HookFailed => "hook-failed",
            What::Woke => "woke",
        }
    }

    /// How many lines of this kind one upstream may write within [`WINDOW_MS`]; what comes beyond is counted.
    #[must_use]
    pub fn lines(self) -> u64 {
        match self {
            // Whoever made such a call has to look after it: each is named for as long as that can be read.
            What::DeliveryUnknown => 200,
            What::Attached
            | What::Left
            | What::Lost
            | What::Suspected
            | What::Cleared
            | What::Probed
            | What::Relatched
            | What::FromCopy
            | What::Latched
            | What::Away
            | What::Back
            | What::Resent
            | What::Held
            | What::HoldEnded
            | What::Flapping
            | What::GivenBack
            | What::CredentialsRefused
            | What::ListChanged
            | What::Skipped
            | What::Reconnect
            | What::Paused
            | What::Resumed
            | What::Restarting
            | What::Stayed
            | What::Configured
            | What::Added
            | What::Removed
            | What::ReloadRefused
            | What::HookFailed
            | What::Woke => 20,
        }
    }
}

/// The span for which [`What::lines`] holds, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;

/// Keeps a storm from filling the journal: a thousand calls that end in one moment are a few lines and a number.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    windows: BTreeMap<What, Window>,
}

#[derive(Debug)]
struct Window {
    ends: At,
    written: u64,
    folded: u64,
}

impl Gate {
    /// Whether an entry of this kind is written now. Otherwise it is counted, and `Err` says when the number is due.
    pub(crate) fn admit(&mut self, what: What, now: At) -> Result<(), At> {
        let window = self.windows.entry(what).or_insert(Window { ends: At(0), written: 0, folded: 0 });
        if window.ends <= now && window.folded == 0 {
            *window = Window { ends: now.plus(WINDOW_MS), written: 0, folded: 0 };
        }
        if window.written < what.lines() {
            window.written += 1;
            return Ok(());
        }
        window.folded += 1;
        Err(window.ends)
    }

    /// What was counted in windows that are over, and when the next number is due.
    pub(crate) fn due(&mut self, now: At) -> (Vec<Entry>, Option<At>) {
        let mut over = Vec::new();
        for (what, window) in &mut self.windows {
            if window.ends <= now && window.folded > 0 {
                over.push(Entry { count: Some(window.folded), ..Entry::new(*what) });
                window.folded = 0;
            }
        }
        self.windows.retain(|_, window| window.ends > now);
        let next = self.windows.values().filter(|window| window.folded > 0).map(|window| window.ends).min();
        (over, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_spelling_in_code_and_in_files() {
        for what in What::ALL {
            let json = serde_json::to_string(&what).unwrap_or_default();
            assert_eq!(json, format!("\"{}\"", what.as_str()));
        }
        let words: std::collections::BTreeSet<&str> = What::ALL.iter().map(|what| what.as_str()).collect();
        assert_eq!(words.len(), What::ALL.len());
    }

    #[test]
    fn a_storm_is_a_few_lines_and_a_number() {
        let mut gate = Gate::default();
        let mut written = 0;
        let mut due = None;
        for _ in 0..1_000 {
            match gate.admit(What::GivenBack, At(5)) {
                Ok(()) => written += 1,
                Err(at) => due = Some(at),
            }
        }
        // Another kind has a window of its own.
        assert!(gate.admit(What::Away, At(5)).is_ok());
        assert_eq!((written, due), (20, Some(At(10_005))));
        assert_eq!(gate.due(At(10_004)), (vec![], Some(At(10_005))));
        let number = Entry { count: Some(980), ..Entry::new(What::GivenBack) };
        assert_eq!(gate.due(At(10_005)), (vec![number], None));
        assert!(gate.admit(What::GivenBack, At(10_006)).is_ok());
    }
}
