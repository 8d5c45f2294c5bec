//! What is true of an upstream, since when, on what evidence.
//!
//! Decides nothing about exchanges; it only draws conclusions from dated evidence.

pub mod condition;
pub mod history;
mod report;
mod tracker;
pub mod turns;

pub use condition::Condition;
pub use report::{
    ClientSeen, Facets, HealthReport, LastFailure, LastSuccess, Latency, ServerSeen, SessionSeen, State,
    Totals,
};
pub use tracker::Fresh;
pub(crate) use tracker::{Judgement, Tracker};
