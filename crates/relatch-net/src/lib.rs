//! The shell of relatch: every socket, child and timer.
//!
//! It performs what the core decides and reports what it saw; it decides nothing about sending again.

pub mod clock;
pub mod downstream;
pub mod entropy;
pub mod redact;
pub mod upstream;
