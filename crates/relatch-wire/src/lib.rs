//! The messages of MCP as bytes: envelope, framing, methods, revisions, headers, and the errors that relatch
//! answers itself.
//!
//! A message is read only as far as its envelope needs; everything else stays the bytes that came, so that unknown
//! members, number spelling and key order survive. What relatch changes in somebody else's message is listed in one
//! place, [`rewrite::Exception`].
//!
//! This crate is *not* a typed model of MCP, does no I/O, reads no clock and decides nothing about sessions or about
//! sending again: it tells what a message says, and the core draws the conclusions. Every reader is bounded and none
//! panics on input.

pub mod digest;
pub mod envelope;
pub mod era;
pub mod failure;
pub mod handshake;
pub mod headers;
mod json;
pub mod line;
pub mod lists;
pub mod method;
pub mod params;
pub mod request_id;
pub mod rewrite;
pub mod scan;
pub mod sse;
mod stop;
pub mod tell;

pub use envelope::{Body, Envelope, Kind, Malformed, read_body};
pub use request_id::RequestId;
