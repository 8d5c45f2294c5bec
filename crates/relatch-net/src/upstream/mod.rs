//! The server's side: connections to upstreams and what is known about each.

pub mod broken;
pub mod dial;
pub mod socket;
pub mod target;
