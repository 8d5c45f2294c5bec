//! Faults that can be planted into a machine, so that the simulator can show that it would find them.
//!
//! Without the cargo feature `faults` none can be planted, and every place that asks for one is compiled away.

use crate::upstream::Machine;

/// A mistake that a core could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A call that may have run is sent again.
    ResendsUnknown,
    /// Of a call that may have run it is said that it did not.
    ClaimsUnrun,
    /// An error goes to the client twice.
    AnswersTwice,
    /// A refusal by an older session counts against the one in use.
    ForgetsGeneration,
    /// An answer goes to whoever waits, in whatever session.
    MixesUpAnswers,
    /// Evidence never grows old.
    BelievesOldEvidence,
    /// What its client cancelled goes out all the same.
    SendsTheCancelled,
    /// A hold has no end.
    HoldsForEver,
    /// A new session is used without what the client had set in the old one.
    SkipsRebuilding,
    /// A session that only may be gone is given up.
    GuessesGone,
    /// Sessions that flap are opened again without a rest.
    NeverRests,
    /// Every latch opens its session at once.
    IgnoresHandshakeCap,
    /// Sessions that are replaced are left behind.
    LeavesSessions,
    /// What changed behind a lost session is not told.
    KeepsChangesSecret,
    /// A message that was not taken goes behind the others.
    ShufflesNotes,
    /// An early byte never comes.
    SaysNothingEarly,
    /// What comes in a pause goes out.
    IgnoresPauses,
    /// A living session is given up when no other is to be had in its place.
    GivesUpTheOld,
    /// A call is answered from a copy.
    CopiesCalls,
}

impl Machine {
    /// Plants a fault.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Whether this fault is planted.
    pub(crate) fn planted(&self, fault: Fault) -> bool {
        cfg!(feature = "faults") && self.fault == Some(fault)
    }
}
