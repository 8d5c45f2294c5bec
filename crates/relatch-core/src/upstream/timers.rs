//! Every wait of a machine, with its reason. At most one deadline per reason.

use std::collections::{BTreeMap, BTreeSet};

use crate::{At, AttemptId, ExId, LatchId};

/// When to wake the machine, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// When.
    pub at: At,
    /// Why.
    pub why: Why,
}

/// The reasons to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// When an attempt of relatch's own has taken too long.
    AttemptLimit(AttemptId),
    /// When an exchange has waited as long as it may.
    HoldEnds(ExId),
    /// When a waiting client needs a first byte.
    EarlyDue(ExId),
    /// When an exchange may be answered from a copy.
    CopyDue(ExId),
    /// When the server's pause for an exchange is over.
    PauseEnds(ExId),
    /// When a cut stream is to be resumed.
    ResumeDue(AttemptId),
    /// When a doubt that waits for a permit is given up.
    DoubtEnds(LatchId),
    /// When a latch may try a handshake again.
    RestEnds(LatchId),
    /// When a standing stream is to be opened again.
    StreamAgain(LatchId),
    /// When a comparison that was put off is due.
    CompareDue(LatchId),
    /// When an upstream that is away is to be asked again.
    Scout,
    /// When an idle upstream is to be probed.
    IdleProbe,
    /// When the journal is owed the number of things that it was spared.
    JournalDue,
    /// When a connection that closed while idle is to be asked about.
    IdleLook,
    /// When a pause ends by itself.
    PauseRunsOut,
    /// When a condition has stood for long enough to be shown.
    ConditionShows,
}

/// The deadlines of one machine.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_why: BTreeMap<Why, At>,
    by_time: BTreeSet<Deadline>,
}

impl Timers {
    pub(crate) fn set(&mut self, why: Why, at: At) {
        self.clear(why);
        self.by_why.insert(why, at);
        self.by_time.insert(Deadline { at, why });
    }

    pub(crate) fn clear(&mut self, why: Why) {
        if let Some(at) = self.by_why.remove(&why) {
            self.by_time.remove(&Deadline { at, why });
        }
    }

    pub(crate) fn get(&self, why: Why) -> Option<At> {
        self.by_why.get(&why).copied()
    }

    pub(crate) fn first(&self) -> Option<Deadline> {
        self.by_time.first().copied()
    }

    /// Puts these deadlines off by so many milliseconds.
    pub(crate) fn put_off(&mut self, ms: u64, which: impl Fn(Why) -> bool) {
        let moved: Vec<Deadline> = self
            .by_why
            .iter()
            .filter(|(why, _)| which(**why))
            .map(|(why, at)| Deadline { at: *at, why: *why })
            .collect();
        for Deadline { at, why } in moved {
            self.set(why, at.plus(ms));
        }
    }

    /// Takes the first deadline that is due.
    pub(crate) fn due(&mut self, now: At) -> Option<Why> {
        let first = self.first().filter(|d| d.at <= now)?;
        self.clear(first.why);
        Some(first.why)
    }
}
