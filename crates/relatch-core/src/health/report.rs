//! The one snapshot that every view renders: status, page, terminal view, metrics and the API.
//!
//! Times are [`At`]; the shell turns them into dates. A report says nothing that its machine has no evidence for.

use serde::{Deserialize, Serialize};

use super::Condition;
use crate::upstream::Pause;
use crate::{At, Gen, LatchId};

/// Health in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An answer came within the freshness bound.
    Healthy,
    /// A relatch or a hold is in progress.
    Recovering,
    /// Some things fail: credentials, one method, slow answers.
    Degraded,
    /// Evidence says that it can't be reached.
    Down,
    /// No fresh evidence.
    Unknown,
}

impl State {
    /// The word that people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::Recovering => "recovering",
            State::Degraded => "degraded",
            State::Down => "down",
            State::Unknown => "unknown",
        }
    }
}

/// What a machine knows about its upstream at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// The moment it was drawn.
    pub at: At,
    /// Health in one word.
    pub state: State,
    /// Since when it is so.
    pub since: At,
    /// Why, for people; `None` when healthy.
    pub reason: Option<String>,
    /// The separate facets behind the word.
    pub facets: Facets,
    /// Named troubles, oldest first.
    pub conditions: Vec<Condition>,
    /// The announced restart that calls wait for, where there is one.
    pub pause: Option<Pause>,
    /// The last answer seen.
    pub last_success: Option<LastSuccess>,
    /// The last failure seen.
    pub last_failure: Option<LastFailure>,
    /// When relatch tries again by itself, where it waits to.
    pub next_attempt: Option<At>,
    /// The server, as its last handshake named it.
    pub server: Option<ServerSeen>,
    /// The latches, oldest first.
    pub sessions: Vec<SessionSeen>,
    /// Exchanges that wait now.
    pub waiting: usize,
    /// Counts since the keeper began.
    pub totals: Totals,
    /// Of the last answers to `tools/call`.
    pub latency: Latency,
    /// Of those among them that came within the last minute; `None` when none did.
    pub recent: Option<Latency>,
}

/// Five separate truths; `None` is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facets {
    /// The configured address is that of an MCP server: one has answered there. It is not when its host has no
    /// address, its certificate is refused, or only something else has ever answered.
    #[serde(default)]
    pub configured: Option<bool>,
    /// Something answers at the address.
    pub reachable: Option<bool>,
    /// The latest latch has a session that is believed alive.
    pub session: Option<bool>,
    /// The upstream accepts the client's credentials.
    pub credentials: Option<bool>,
    /// The last call got an answer of its upstream's.
    pub last_call: Option<bool>,
}

/// The last answer seen.
#[derive(Clone, Debug, PartialEq)]
pub struct LastSuccess {
    /// When.
    pub at: At,
    /// Of which method.
    pub method: String,
    /// How long it took.
    pub ms: u64,
}

/// The last failure seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// When.
    pub at: At,
    /// Of which method.
    pub method: String,
    /// Why, for people.
    pub cause: String,
}

/// The server, as its last handshake named it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSeen {
    /// `serverInfo.name`.
    pub name: Option<String>,
    /// `serverInfo.version`.
    pub version: Option<String>,
    /// The negotiated revision.
    pub protocol: String,
    /// `legacy` or `modern`.
    pub era: &'static str,
}

/// One latch, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSeen {
    /// Which latch; the shell adds the first characters of its downstream id.
    pub latch: LatchId,
    /// How many handshakes it has begun.
    pub generation: Gen,
    /// The latch's state in a word: `opening`, `bound`, `doubted`, `refused`, `relatching`, `parked`, `ended`; `late` where the client was answered from a copy and has had no session yet.
    pub state: &'static str,
    /// When the client opened it.
    pub opened: At,
    /// When the present upstream session was bound.
    pub bound: Option<At>,
    /// The client's last message.
    pub last_used: At,
    /// The client, as its `initialize` named it.
    pub client: Option<ClientSeen>,
    /// Exchanges under way or waiting.
    pub open: usize,
    /// Its client was answered from a copy of what the server said then, in milliseconds since the Unix epoch, and has
    /// had no session yet.
    pub copy: Option<i64>,
}

/// The client, as its `initialize` named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSeen {
    /// `clientInfo.name`.
    pub name: String,
    /// `clientInfo.version`.
    pub version: String,
}

/// Counts since the keeper began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Exchanges asked for.
    pub calls: u64,
    /// Upstream sessions bound in place of a dead one.
    pub relatched: u64,
    /// Exchanges sent a second time.
    pub resent: u64,
    /// Exchanges that had to wait.
    pub held: u64,
    /// Exchanges given back with an error of relatch's own.
    pub given_back: u64,
    /// Of these, the ones that may have run.
    pub delivery_unknown: u64,
    /// Answers to `tools/call`.
    #[serde(default)]
    pub answered: u64,
    /// How long they took together, in milliseconds.
    #[serde(default)]
    pub answered_ms: u64,
}

/// Of the last answers to `tools/call`, in milliseconds; zero when there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}
