//! What has to outlive the process for a downstream session to go on: one small record each.
//!
//! A record is data with a format version and nothing else. What a reader does not know it keeps (`unknown`), and a
//! record of a newer format it refuses; it never drops anything. Where records live is `relatch-store`'s matter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// Everything needed to serve a downstream session again after the keeper's own restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The format version, [`FORMAT`] when written by this version.
    pub format: u32,
    /// The downstream session id, as the client holds it. Secret: never printed whole.
    pub id: String,
    /// The upstream's configured name.
    pub upstream: String,
    /// The address that the upstream had when this was written; a record of another address is not revived.
    pub url: String,
    /// Milliseconds since the Unix epoch.
    pub opened: i64,
    /// Milliseconds since the Unix epoch.
    pub last_used: i64,
    /// The `params` of the client's own `initialize`, as raw JSON.
    pub initialize: String,
    /// The revision that the client was promised.
    pub revision: String,
    /// Whether the client has sent `notifications/initialized`.
    pub initialized: bool,
    /// The upstream session, where one was bound.
    pub session: Option<SessionRecord>,
    /// How many handshakes the latch has begun.
    pub generation: u32,
    /// The log level that the client set last, as raw `params`.
    pub level: Option<String>,
    /// Resource subscriptions: address to raw `params`.
    pub subscriptions: BTreeMap<String, String>,
    /// Digests of the lists that the client has seen: kind, then item, then digest.
    #[serde(default)]
    pub lists: BTreeMap<String, BTreeMap<String, u64>>,
    /// Annotations of tools seen in lists, for the retry class: tool to (read-only, idempotent).
    #[serde(default)]
    pub hints: BTreeMap<String, (bool, bool)>,
    /// What the client was told of beside what the server offers; `None` when nothing was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tell: Option<TellRecord>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Of a session that was opened with `--tell`: which capabilities are the server's own, and what its client has set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TellRecord {
    /// The server has tools.
    pub tools: bool,
    /// The server has prompts.
    pub prompts: bool,
    /// The server takes `logging/setLevel`.
    pub logging: bool,
    /// The least level of log messages that the client has set.
    pub level: Option<String>,
}

/// The upstream's half of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The upstream session id; `None` for an upstream that gives none.
    pub id: Option<String>,
    /// The revision that this upstream session negotiated.
    pub revision: String,
    /// The server's name and version, where it told them.
    pub server: Option<(String, String)>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Why a stored record can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer version.
    #[error("the record has format {found}, newer than {FORMAT}")]
    Newer {
        /// The format found.
        found: u32,
    },
    /// Not a record.
    #[error("the record can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl Record {
    /// Reads a stored record.
    ///
    /// # Errors
    /// [`RecordError`] names what is wrong; the stored bytes are to be kept.
    pub fn read(text: &str) -> Result<Record, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format: found } = serde_json::from_str(text)?;
        if found > FORMAT {
            return Err(RecordError::Newer { found });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The record as it is stored.
    #[must_use]
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_does_not_know_is_written_again_wherever_it_stands() {
        let text = r#"{"format":1,"id":"s","upstream":"x","url":"u","opened":1,"last_used":2,"initialize":"{}",
            "revision":"2025-11-25","initialized":true,"generation":3,"level":null,"subscriptions":{},
            "lists":{},"hints":{},"added":{"x":1.5},
            "session":{"id":"up","revision":"2025-11-25","server":["n","1"],"added":[null]}}"#;
        let written: Value = serde_json::from_str(&Record::read(text).unwrap().write()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_record_of_a_newer_format_is_refused_and_its_format_named() {
        let words = Record::read(r#"{"format":2,"all":"else"}"#).unwrap_err().to_string();
        assert!(words.contains("format 2, newer than 1"), "{words}");
    }
}
