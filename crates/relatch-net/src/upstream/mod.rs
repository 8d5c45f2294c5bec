//! The server's side: connections to upstreams, the requests that they carry, and what comes back.

pub(crate) mod attempt;
pub mod broken;
pub mod dial;
pub(crate) mod events;
pub(crate) mod job;
pub(crate) mod place;
pub mod socket;
pub mod target;

pub use attempt::retry_after;
