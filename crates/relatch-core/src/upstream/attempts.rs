//! The attempts that are under way, with the counts that spare a walk over all of them. Which are whose stands with each
//! latch.

use super::Machine;
use crate::input::Begun;
use crate::slots::Slots;
use crate::{At, AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::method::ListKind;

/// An attempt that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) latch: LatchId,
    pub(crate) generation: Gen,
    pub(crate) purpose: Purpose,
    pub(crate) sent: At,
    pub(crate) begun: Option<Begun>,
    /// It was a client's own `initialize`, which was answered otherwise: its answer is kept and nobody's.
    pub(crate) taken_over: bool,
}

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A client's request.
    Exchange(ExId),
    /// The client's own `initialize`.
    Open(ExId),
    /// A handshake that relatches.
    Handshake,
    /// A handshake for the second session of a diagnosis.
    Trial,
    /// `notifications/initialized` of a relatch or a trial.
    Initialized,
    /// A step of rebuilding.
    Rebuild,
    /// A `ping`, and what it asks.
    Ping(Question),
    /// A page of a list, for the comparison.
    List(ListKind),
    /// A message of the client's.
    Note(NoteId),
    /// The standing stream.
    Stream,
    /// The rest of a cut stream.
    Resume(AttemptId),
    /// The end of an upstream session.
    Delete,
}

/// What a `ping` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Is the server there, before this call goes out?
    Look(ExId),
    /// Is the upstream back?
    Scout,
    /// Is the idle upstream still there?
    Idle,
    /// Has this session survived the outage?
    Survived,
    /// Does the session live that a missing endpoint made doubtful?
    StillThere,
    /// Does the session live that an answer made doubtful?
    Diagnose,
    /// Does the same question to a new session get another answer?
    Control,
    /// Does the session live on another connection?
    Replica,
}

/// Every attempt under way.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    by_id: Slots<AttemptId, Attempt>,
    open: usize,
    permits: usize,
}

impl Attempts {
    pub(crate) fn insert(&mut self, id: AttemptId, attempt: Attempt) {
        self.open += usize::from(attempt.purpose.carries());
        self.permits += usize::from(attempt.purpose.takes_a_permit());
        self.by_id.insert(id, attempt);
    }

    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = *self.by_id.get(&id)?;
        self.by_id.remove(&id);
        self.open -= usize::from(attempt.purpose.carries());
        self.permits -= usize::from(attempt.purpose.takes_a_permit());
        Some(attempt)
    }

    pub(crate) fn get(&self, id: AttemptId) -> Option<&Attempt> {
        self.by_id.get(&id)
    }

    /// The client's own `initialize` was answered otherwise: it goes on as a handshake of relatch's.
    pub(crate) fn take_over(&mut self, id: AttemptId) {
        if let Some(attempt) = self.remove(id) {
            self.insert(id, Attempt { purpose: Purpose::Handshake, taken_over: true, ..attempt });
        }
    }

    /// Notes what has begun to come back.
    pub(crate) fn begun(&mut self, id: AttemptId, begun: Begun) -> Option<&Attempt> {
        let attempt = self.by_id.get_mut(&id)?;
        attempt.begun = Some(begun);
        Some(attempt)
    }

    /// How many carry something of a client's or relatch's, standing streams left out.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// How many permits are taken.
    pub(crate) fn permits(&self) -> usize {
        self.permits
    }
}

impl Machine {
    /// The attempts of one latch, in the order of their sending.
    pub(crate) fn attempts_of(&self, latch: LatchId) -> impl Iterator<Item = (AttemptId, &Attempt)> {
        let of_it = self.latches.get(&latch).into_iter().flat_map(|latch| &latch.attempts);
        of_it.filter_map(|id| Some((*id, self.attempts.get(*id)?)))
    }

    /// An attempt is no longer under way.
    pub(crate) fn take_off(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(id)?;
        if let Some(latch) = self.latches.get_mut(&attempt.latch) {
            latch.attempts.remove(&id);
        }
        Some(attempt)
    }
}

impl Purpose {
    fn carries(&self) -> bool {
        !matches!(self, Purpose::Stream | Purpose::Delete)
    }

    fn takes_a_permit(&self) -> bool {
        matches!(
            self,
            Purpose::Handshake | Purpose::Trial | Purpose::Ping(Question::Survived | Question::StillThere)
        )
    }
}
