//! The names of things inside a machine: plain numbers, each of its own type.

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);
    };
}

number! {
    /// A point in time: milliseconds since the keeper began, time in suspension counted.
    At(u64)
}
number! {
    /// One latch, that is one downstream session. Given by the shell, unique in a keeper.
    LatchId(u64)
}
number! {
    /// One exchange: a request of the client's and its one final answer. Given by the shell.
    ExId(u64)
}
number! {
    /// One sending of something to one upstream session. Given by the machine.
    AttemptId(u64)
}
number! {
    /// One message of the client's that expects no answer. Given by the shell.
    NoteId(u64)
}
number! {
    /// Which upstream session of a latch: counts up with every handshake that the latch begins.
    Gen(u32)
}

impl At {
    /// This much later.
    #[must_use]
    pub fn plus(self, ms: u64) -> At {
        At(self.0.saturating_add(ms))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: At) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
