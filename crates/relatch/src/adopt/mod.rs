//! `relatch adopt` and `release`: puts relatch in front of the servers in clients' configuration files, and takes it out.
//!
//! `clients` is the table of clients, `json` and `codex` read their files with the place of every key and value, `plan` and
//! `undo` say what is to change (text in, edits out), `serve` the same where a keeper is to be in front, `files` writes, `store` keeps what was there before, `probe` asks
//! servers whether their client runs OAuth. Nothing here prints, and nothing outside an entry is ever changed.

pub(crate) mod clients;
pub(crate) mod codex;
pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod json;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod serve;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod undo;
