//! What happens in the workshop, as data: said in words by `render::dev`, shown by the terminal view or as plain lines.

use std::path::PathBuf;

use jiff::Timestamp;
use relatch_admin::Dated;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    /// The server, the build or relatch itself says something.
    Line(Line),
    /// A client asks for something.
    Asked { at: Timestamp, call: u64, method: String, tool: Option<String> },
    /// A call is over.
    Ended { call: u64, ms: u64, outcome: String, failed: bool },
    /// The workshop does something else now.
    Stage(Stage),
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) said: Said,
}

/// Who says it, and what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    /// The server, on stdout or stderr.
    Server(String),
    /// The build.
    Build(String),
    /// relatch.
    Relatch(Event),
}

/// What relatch says of its own work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Files are watched.
    Watches { roots: Vec<PathBuf>, files: usize },
    /// The system does not tell of every change: they are looked for.
    Looks { why: String },
    /// These files have changed.
    Changed(Vec<PathBuf>),
    /// Somebody pressed the key.
    Asked,
    /// The build begins, with this command.
    Builds(String),
    /// It went well.
    Built { ms: u64 },
    /// It did not, and what goes on.
    BuildFailed { words: String, left: Left },
    /// These files are what the build writes, it seems.
    Products(Vec<PathBuf>),
    /// The server is up.
    Up(Up),
    /// The new server does not come up, and what goes on.
    NotUp { words: String, left: Left },
    /// Calls were not over when their time was.
    Cut { calls: usize, ms: u64 },
    /// The server has ended by itself.
    Exited { words: String, again_ms: Option<u64> },
    /// Something of the journal.
    Journal(Dated),
    /// So many lines and calls were not shown.
    Missed(u64),
}

/// A server that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Up {
    /// Its name and version, where it was asked.
    pub(crate) server: Option<String>,
    /// How long its start took.
    pub(crate) ms: u64,
    /// Clients that go on with it; none where it was started for nobody and has ended again.
    pub(crate) clients: Option<usize>,
    /// The port that was picked for it.
    pub(crate) port: Option<u16>,
}

/// What clients have when a new server does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The former server, which goes on.
    Former,
    /// Nothing: calls wait.
    Nothing,
}

/// What the workshop does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing yet.
    #[default]
    Begins,
    Builds {
        since: Timestamp,
    },
    /// Running calls have so long to end.
    Drains {
        since: Timestamp,
    },
    Starts {
        since: Timestamp,
    },
    /// All is as it should be.
    Runs {
        since: Timestamp,
    },
    /// The newest code does not run, and why.
    Failed {
        since: Timestamp,
        words: String,
        left: Left,
    },
    /// The server has crashed and is started again in a while.
    Rests {
        since: Timestamp,
        words: String,
    },
    Ends,
}

/// What somebody who looks on wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Restart,
    Quit,
}
