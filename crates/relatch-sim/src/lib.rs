//! A simulated world for relatch's core: everything around [`relatch_core::upstream::Machine`], in virtual time, from one
//! seed.
//!
//! [`play`] lets clients ask, tell, cancel and leave, lets a server restart, forget, stall and answer in every dialect,
//! and hides it behind proxies and balancers. What must hold is written down in [`Law`] and checked after every fact by a
//! reference that knows nothing of the machine's reasons: only what it was told, what it did, and what the server ran.
//!
//! What this crate is *not*: it holds no decision of relatch's, and nothing of it is in the program. It opens no socket
//! and reads no clock; the same seed plays the same story, line by line.

mod chance;
mod client;
mod dialect;
mod law;
mod reference;
mod server;
mod setting;
mod world;

pub use law::{Breach, Law};
pub use relatch_core::fault::Fault;
pub use world::{Counts, Options, Played, Telling, play};
