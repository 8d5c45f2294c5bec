//! The client's side: what may come in, and how answers go out.

pub(crate) mod body;
pub mod http;
pub(crate) mod metrics;
pub mod origin;
pub(crate) mod post;
pub(crate) mod reply;
mod spool;
mod standing;
pub mod stdio;
pub(crate) mod stream;
pub(crate) mod streams;
