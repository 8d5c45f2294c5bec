//! What came of reading the configuration again, as the keeper tells it to whoever asked.

use std::pin::Pin;

use serde::{Deserialize, Serialize};

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that the keeper reads; none where it reads none, or another than the one that was asked for.
    pub config: Option<String>,
    /// Why nothing was applied: everything that is wrong, for people.
    #[serde(default)]
    pub refused: Option<String>,
    /// Names of servers that are new.
    #[serde(default)]
    pub added: Vec<String>,
    /// Names of servers that are not served any more.
    #[serde(default)]
    pub removed: Vec<String>,
    /// Servers that go on with other settings.
    #[serde(default)]
    pub changed: Vec<Changed>,
    /// What can't change while the keeper runs, in words.
    #[serde(default)]
    pub kept: Vec<String>,
    /// What is worth a look in the file, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A server that goes on with other settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its name; `hooks` stands for no server.
    pub name: String,
    /// Which settings.
    pub what: Vec<String>,
}

/// A reload on its way.
pub type Reloading = Pin<Box<dyn Future<Output = Reloaded> + Send>>;
