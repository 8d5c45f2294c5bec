//! The server's side: connections to upstreams and processes of them, the requests that they carry, and what comes
//! back.

pub(crate) mod attempt;
pub mod broken;
pub(crate) mod child;
pub mod command;
pub(crate) mod connect;
pub mod dial;
pub(crate) mod events;
pub mod holders;
pub(crate) mod http_sse;
pub(crate) mod job;
pub(crate) mod pipe;
pub(crate) mod place;
pub mod process;
pub mod proxy;
pub mod route;
pub(crate) mod shared;
pub mod socket;
pub mod target;
pub mod trust;
pub(crate) mod waiting;
pub mod way;

pub use attempt::retry_after;
