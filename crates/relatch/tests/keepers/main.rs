//! Running keepers, the built program itself, between a client of the tests and servers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod announced;
mod bad_input;
mod config;
mod doctor;
mod hooks;
mod journal;
mod machines;
mod one_report;
mod page;
mod reload;
mod restart;
mod secrets;
mod stage;
mod strangers;
mod tell;
mod top;
#[cfg(feature = "otel")]
mod traces;
mod truth;
