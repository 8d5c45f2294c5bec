//! One request of a client's and its one final answer.
//!
//! Holds what is known of an exchange; what follows from it is in [`verdict`] and in the machine.

mod verdict;
pub(crate) mod words;

use std::hash::{Hash, Hasher};

use relatch_wire::method::RetryClass;
use relatch_wire::request_id::RequestId;

pub use verdict::{Delivery, Verdict, verdict};

use crate::few::Few;
use crate::input::{Ask, CopySeen};
use crate::{At, AttemptId, Gen, LatchId};

/// An exchange that is not over.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) latch: LatchId,
    pub(crate) ask: Ask,
    /// Of the id that the client gave it.
    pub(crate) print: Print,
    pub(crate) class: RetryClass,
    pub(crate) asked: At,
    pub(crate) state: ExState,
    /// The hold ends here; set when it first waits.
    pub(crate) deadline: Option<At>,
    /// An attempt of it has been written since the deadline was set.
    pub(crate) written: bool,
    /// A sending of it ended without a word on whether it ran.
    pub(crate) maybe_ran: bool,
    /// How often it was written, refusals included.
    pub(crate) sendings: u32,
    /// Sessions that have seen its id.
    pub(crate) seen_by: Few<Gen>,
    /// Sessions that refused it as gone.
    pub(crate) refused_by: Few<Gen>,
    /// How often a session that is alive refused it as gone.
    pub(crate) misled: u32,
    /// Not before this: the server asked for a pause.
    pub(crate) not_before: Option<At>,
    /// A `ping` has gone ahead of it.
    pub(crate) looked: bool,
    /// The next attempt needs a new connection.
    pub(crate) fresh: bool,
    pub(crate) client: Client,
    /// It was counted as held.
    pub(crate) held: bool,
    /// Its client has early headers.
    pub(crate) early: bool,
    /// Tries to resume its stream since one brought something new.
    pub(crate) resumes: u32,
    /// It was asked of a session whose state is gone, as its client has heard meanwhile.
    pub(crate) outdated: bool,
    pub(crate) copy: Copying,
}

/// What is left of a request's id at a glance: equal ids have the same print, others hardly ever do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Print(u64);

/// What is known of a copy of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Copying {
    /// Nothing: nobody has looked.
    Unsought,
    /// The shell is looking.
    Sought,
    /// There is none.
    Missing,
    /// There is one.
    Found(Box<CopySeen>),
}

/// Whether somebody still waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// Yes.
    Waits,
    /// Its connection is gone.
    Left,
    /// It has told the server to stop.
    Cancelled,
}

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExState {
    /// It waits for its latch or its upstream.
    Waiting,
    /// A `ping` goes ahead of it.
    Looking(AttemptId),
    /// An attempt is under way.
    Sent(AttemptId),
    /// A long answer streams through; it is never sent again.
    Passing(AttemptId),
    /// Its answer is kept while the session is asked about.
    Doubted(AttemptId),
}

impl Print {
    fn of(id: &RequestId) -> Print {
        let mut end = End(0);
        id.hash(&mut end);
        Print(end.finish())
    }
}

/// The last bytes that it is fed: ids that count up differ there.
struct End(u64);

impl Hasher for End {
    fn write(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(8)..] {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Exchange {
    /// A request that has just come.
    pub(crate) fn new(latch: LatchId, ask: Ask, class: RetryClass, now: At) -> Exchange {
        Exchange {
            latch,
            print: Print::of(&ask.id),
            ask,
            class,
            asked: now,
            state: ExState::Waiting,
            deadline: None,
            written: false,
            maybe_ran: false,
            sendings: 0,
            seen_by: Few::None,
            refused_by: Few::None,
            misled: 0,
            not_before: None,
            looked: false,
            fresh: false,
            client: Client::Waits,
            held: false,
            early: false,
            resumes: 0,
            outdated: false,
            copy: Copying::Unsought,
        }
    }

    pub(crate) fn attempt(&self) -> Option<AttemptId> {
        match self.state {
            ExState::Waiting | ExState::Looking(_) => None,
            ExState::Sent(a) | ExState::Passing(a) | ExState::Doubted(a) => Some(a),
        }
    }

    /// The tool's name, or the method: what a person calls it.
    pub(crate) fn title(&self) -> &str {
        self.ask.tool.as_deref().unwrap_or(&self.ask.method)
    }
}
