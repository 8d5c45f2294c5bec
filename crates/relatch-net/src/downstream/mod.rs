//! The client's side: what may come in.

pub mod origin;
