//! The shell of relatch: every socket, child and timer.
//!
//! It performs what the core decides and reports what it saw; it decides nothing about sending again. A [`Keeper`]
//! holds the upstreams; [`downstream::http::serve`] and [`downstream::stdio::serve`] are the two sides on which clients
//! reach them.
//!
//! [`Keeper`]: keeper::Keeper

pub mod announced;
pub mod change;
pub mod clock;
mod copies;
mod desk;
pub mod downstream;
mod driver;
pub mod entropy;
mod exchange;
pub mod hooks;
mod intake;
pub mod keeper;
mod latch;
mod lists;
mod names;
mod numbered;
mod outbox;
mod quiet;
mod records;
pub mod redact;
mod sessions;
pub mod spans;
pub mod tap;
pub mod tell;
pub mod upstream;
mod words;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock that goes on after a panic elsewhere: what it guards is consistent between any two statements that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
