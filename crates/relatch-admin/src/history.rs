//! The last day of an upstream, with dates: the JSON that `/api/events` and the control socket tell.
//!
//! Drawn from [`History`], which is fed with the one health report; nothing is
//! computed here but dates.

use jiff::Timestamp;
use relatch_core::At;
use relatch_core::health::State;
use relatch_core::health::history::History;
use serde::{Deserialize, Serialize};

use crate::schema::LatencyStatus;

/// What a day saw of one upstream; like all of the schema, fields are added and never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerHistory {
    /// The configured name.
    pub name: String,
    /// When its health turned, oldest first; each turn holds until the next.
    pub turns: Vec<TurnStatus>,
    /// What was counted in each minute, oldest first; quiet minutes are left out.
    pub minutes: Vec<MinuteStatus>,
}

/// Health turned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnStatus {
    /// When.
    pub at: Timestamp,
    /// To what.
    pub health: State,
    /// Why, as it was first said; none when healthy.
    pub reason: Option<String>,
}

/// What was counted within one minute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MinuteStatus {
    /// When it began.
    pub at: Timestamp,
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
    /// Of the answers to `tools/call`, in milliseconds; none when there was none.
    pub latency_ms: Option<LatencyStatus>,
}

/// The history of one upstream from `from` on. `date` turns the keeper's own time into dates.
#[must_use]
pub fn server_history(
    name: &str,
    history: &History,
    from: At,
    date: &dyn Fn(At) -> Timestamp,
) -> ServerHistory {
    ServerHistory {
        name: name.to_owned(),
        turns: history
            .turns(from)
            .map(|turn| TurnStatus { at: date(turn.at), health: turn.state, reason: turn.reason.clone() })
            .collect(),
        minutes: history
            .minutes(from)
            .map(|minute| MinuteStatus {
                at: date(minute.at),
                calls: minute.calls,
                relatched: minute.relatched,
                resent: minute.resent,
                held: minute.held,
                given_back: minute.given_back,
                latency_ms: minute
                    .latency
                    .map(|latency| LatencyStatus { p50: latency.p50, p99: latency.p99 }),
            })
            .collect(),
    }
}
