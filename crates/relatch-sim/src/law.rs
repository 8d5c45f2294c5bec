//! What must hold in every world, by name.

use std::fmt;

use relatch_core::At;

/// One promise of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Law {
    /// A call that may not repeat runs at most once, and whatever may repeat is sent a bounded number of times.
    RunsOnce,
    /// Who is told that a call did not run is told the truth.
    ClaimIsTrue,
    /// A request gets one answer, not two.
    AnsweredOnce,
    /// Every request is answered, unless its client has gone.
    NothingLost,
    /// An answer comes by the newest attempt of its own exchange.
    RightAttempt,
    /// Nothing is sent for a client that left, cancelled or has its answer.
    NotForTheGone,
    /// Requests go to sessions that exist, in the order in which they were asked.
    RightSession,
    /// What a session has to know reaches it before a call does.
    Rebuilt,
    /// A session that lives is not given up, and one that is given up gets one DELETE.
    LivingSessionsKept,
    /// No session that relatch opened is left behind at the server.
    NoSessionLeaks,
    /// Nothing waits longer than its hold.
    WaitIsBounded,
    /// While an upstream is paused, nothing new is sent to it, and nobody calls it down.
    PauseKept,
    /// A client that waits gets a first byte in time, where it takes one.
    FirstBytes,
    /// `healthy` rests on a fresh answer.
    FreshHealth,
    /// `down` is not said of an upstream that has answered since.
    HonestDown,
    /// One handshake at a time for each latch, a few for each upstream, and rests between those that lead nowhere.
    NoStorm,
    /// A message without answer reaches the server at most once, in order, and in its own session.
    NotesOnce,
    /// A client is told when its lists have changed.
    ChangesTold,
    /// A copy goes to whom it was found for, to nobody else's credentials, and never in place of a call or to a client that
    /// has had a session.
    CopiesHonest,
    /// What is kept for later is let go exactly once, and there is never much of it.
    NothingPilesUp,
    /// A keeper that starts from its records goes on as the one before.
    RecordsHoldAll,
    /// Once the world behaves, calls are answered and health says so.
    Heals,
    /// The machine never asks to be woken again and again.
    Settles,
    /// The machine's own checks hold.
    Invariant,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which one.
    pub law: Law,
    /// When, in the world's own time.
    pub at: At,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} broken at {} ms: {}", self.law, self.at.0, self.what)
    }
}
