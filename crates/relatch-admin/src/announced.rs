//! What came of an announced restart, as a keeper tells it to whoever asked: of each upstream one outcome.

use std::pin::Pin;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An answer that takes its time.
pub type Coming<T> = Pin<Box<dyn Future<Output = Vec<T>> + Send>>;

/// How an upstream is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pausing {
    /// Running calls are waited for this long, in milliseconds.
    pub drain_ms: u64,
    /// The pause ends by itself after this, in milliseconds.
    pub for_ms: u64,
}

/// An upstream that is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseOutcome {
    /// Its configured name.
    pub name: String,
    /// Calls that ran when the pause began.
    pub running: usize,
    /// Those that still ran when their time was over.
    pub left: usize,
    /// When the pause ends by itself.
    pub until: Option<Timestamp>,
}

/// An upstream that is not paused any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeOutcome {
    /// Its configured name.
    pub name: String,
    /// Since when it was paused; none where it was not.
    pub since: Option<Timestamp>,
    /// Calls that waited.
    pub waiting: usize,
}

/// How a server that is a command is started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// Running calls get this long to be answered by the old processes, in milliseconds.
    pub drain_ms: u64,
    /// The old processes end before new ones are started.
    #[serde(default)]
    pub stop_first: bool,
}

/// An upstream that was asked for new processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartOutcome {
    /// Its configured name.
    pub name: String,
    /// Why nothing was done, where that is so.
    #[serde(default)]
    pub refused: Option<NotRestarted>,
    /// Sessions that have a new process.
    #[serde(default)]
    pub renewed: usize,
    /// Sessions whose old process goes on.
    #[serde(default)]
    pub stayed: usize,
    /// Sessions whose new process was not there in time.
    #[serde(default)]
    pub pending: usize,
    /// Calls that ended with their old process.
    #[serde(default)]
    pub cut: usize,
    /// Why not every session has a new process.
    #[serde(default)]
    pub cause: Option<String>,
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotRestarted {
    /// It is not relatch that runs it.
    NoCommand,
    /// Somebody has paused it.
    Paused,
}
