//! What people and machines read about running keepers, and the few things they may ask of them.
//!
//! [`schema`] is the stable JSON, [`journal`] the dated record of what happened, [`control`] the socket by which a
//! keeper answers, [`link`] its other end, and [`metrics`] what Prometheus reads. [`page`] is the page of `relatch serve`
//! with its API, [`history`] the last day that it draws. [`Keeper`] is the seam: whoever owns latches implements it.
//!
//! What this crate is *not*: it computes no health of its own, prints nothing, and touches no MCP connection.

pub mod announced;
pub mod control;
pub mod explain;
pub mod history;
pub mod journal;
mod keeper;
pub mod link;
pub mod metrics;
pub mod page;
pub mod reload;
pub mod runtime;
pub mod schema;

pub use journal::{Dated, Journal, JournalFolder};
pub use keeper::{Keeper, ReconnectOutcome, Serving};
pub use schema::{JournalStatus, KeeperKind, KeeperStatus, ServerStatus, Status, server_status};
