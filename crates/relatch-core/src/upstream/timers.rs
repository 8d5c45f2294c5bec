//! Every wait of a machine, with its reason. At most one deadline per reason.

use crate::sorted::{Map, Set};
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

impl Why {
    const KINDS: usize = 16;

    #[inline]
    fn kind(self) -> usize {
        match self {
            Why::AttemptLimit(_) => 0,
            Why::HoldEnds(_) => 1,
            Why::EarlyDue(_) => 2,
            Why::CopyDue(_) => 3,
            Why::PauseEnds(_) => 4,
            Why::ResumeDue(_) => 5,
            Why::DoubtEnds(_) => 6,
            Why::RestEnds(_) => 7,
            Why::StreamAgain(_) => 8,
            Why::CompareDue(_) => 9,
            Why::Scout => 10,
            Why::IdleProbe => 11,
            Why::JournalDue => 12,
            Why::IdleLook => 13,
            Why::PauseRunsOut => 14,
            Why::ConditionShows => 15,
        }
    }
}

/// The deadlines of one machine.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_why: Map<Why, At>,
    by_time: Set<Deadline>,
    /// How many are set of each kind. After most facts many are cleared that were never set.
    of_kind: [usize; Why::KINDS],
}

impl Timers {
    pub(crate) fn set(&mut self, why: Why, at: At) {
        match self.by_why.insert(why, at) {
            Some(before) => self.by_time.remove(&Deadline { at: before, why }),
            None => self.of_kind[why.kind()] += 1,
        }
        self.by_time.insert(Deadline { at, why });
    }

    #[inline]
    pub(crate) fn clear(&mut self, why: Why) {
        if self.of_kind[why.kind()] > 0 {
            self.unset(why);
        }
    }

    fn unset(&mut self, why: Why) {
        if let Some(at) = self.by_why.remove(&why) {
            self.by_time.remove(&Deadline { at, why });
            self.of_kind[why.kind()] -= 1;
        }
    }

    #[inline]
    pub(crate) fn get(&self, why: Why) -> Option<At> {
        if self.of_kind[why.kind()] == 0 {
            return None;
        }
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
