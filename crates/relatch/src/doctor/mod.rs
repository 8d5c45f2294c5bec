//! The examination of one server: how it treats sessions, restarts, eras, streams and origins.
//!
//! `client` sends one request at a time and keeps what came back, `probes` asks in order and gathers [`facts::Facts`],
//! `sdk` recognises what the server is built with, `findings` says what the facts mean, as one pure function. What
//! an answer says about a session is read by the core itself, so that the examination and relatch never disagree.
//!
//! No tool is ever called, and every session that was opened is ended by DELETE.

pub(crate) mod client;
pub(crate) mod facts;
pub(crate) mod findings;
pub(crate) mod probes;
mod restart;
pub(crate) mod sdk;
pub(crate) mod spec;
