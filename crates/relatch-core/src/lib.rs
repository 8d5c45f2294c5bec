//! Every decision that relatch takes, as a machine without a socket, a thread or a clock.
//!
//! [`upstream::Machine`] is one upstream: its latches, its exchanges, its reach and its health. Facts go in by
//! [`upstream::Machine::on`], effects come out, and [`upstream::Machine::deadline`] says when it wants to be woken and
//! why. Time is an argument ([`At`]), chance is a seed, and the bytes of messages never enter.
//!
//! What this crate is *not*: it opens no connection, reads no clock, spawns nothing, keeps no message and prints
//! nothing. `relatch-net` performs the effects and reports what happened.

pub mod effect;
pub mod exchange;
pub mod fault;
mod few;
pub mod health;
pub mod ids;
pub mod input;
pub mod journal;
pub mod latch;
pub mod policy;
pub mod record;
pub mod shared;
mod slots;
mod sorted;
pub mod tell;
pub mod upstream;

pub use effect::Effect;
pub use ids::{At, AttemptId, ExId, Gen, LatchId, NoteId};
pub use input::Input;
