//! What servers said of themselves, kept for clients that start before their server: `DIR/copies.sqlite`.
//!
//! A copy belongs to one upstream at one address, to what its client asked for, and to the credentials that it came with.
//! These are its [`Subject`], of which the file holds nothing but digests with a key of its own. Several keepers use the
//! file at once. It decides which copies are too old, too large or too many; whatever it can't read is as if it were not
//! there. When a copy is given out is decided in the core.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::rand::SecureRandom;
use ring::{hmac, rand};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::sqlite::{begun, own_folder, private, settled};

/// The format that this version writes.
pub const COPY_FORMAT: u32 = 1;
/// A copy is given out for so long after the server has said the same for the last time: 30 days.
pub const COPY_AGE_MS: i64 = 30 * 24 * 3_600_000;
/// The largest copy, in bytes.
pub const COPY_BYTES: usize = 4 * 1024 * 1024;
/// The copies of one user.
const COPIES: i64 = 256;
/// Their bytes together.
const ALL_BYTES: i64 = 64 * 1024 * 1024;
/// The layout of the tables; a copy has its own format besides.
const LAYOUT: i64 = 1;
/// The file in its folder.
const FILE: &str = "copies.sqlite";

/// Whose copy, and of what. It holds credentials and is never shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The upstream's configured name.
    pub upstream: String,
    /// Its whole address.
    pub address: String,
    /// The revision that the client asks for.
    pub revision: String,
    /// What else of the client's `initialize` an answer may depend on.
    pub client: String,
    /// Names and values of whatever tells one user of the upstream from another.
    pub credentials: Vec<(String, Vec<u8>)>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// The format version, [`COPY_FORMAT`] when written by this version.
    pub format: u32,
    /// When it said so last: milliseconds since the Unix epoch.
    pub made: i64,
    /// Its whole answer to `initialize`.
    pub initialize: String,
    /// Its lists, by the method that asks for them.
    #[serde(default)]
    pub lists: BTreeMap<String, ListCopy>,
}

/// The pages of a whole list: the cursor that asks for each, and the whole answer.
pub type Pages = Vec<(Option<String>, String)>;

/// A whole list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListCopy {
    /// When the server gave it: milliseconds since the Unix epoch.
    pub made: i64,
    /// Its pages.
    pub pages: Pages,
}

/// What a server has just said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Its answer to `initialize`.
    pub initialize: Option<String>,
    /// Whole lists, by the method that asks for them.
    pub lists: BTreeMap<String, Pages>,
}

/// The file.
#[derive(Debug)]
pub struct CopyStore {
    connection: Mutex<Connection>,
    key: hmac::Key,
}

impl CopyStore {
    /// Opens the file in `dir`, which is made if it is missing. One that is damaged makes way for a new one.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a newer version wrote it; [`StoreError::Place`] when the folder can't be used;
    /// otherwise the database's own failure.
    pub fn open(dir: &Path) -> Result<CopyStore, StoreError> {
        match CopyStore::try_open(dir) {
            Err(StoreError::Sqlite(fault)) if is_damaged(&fault) => {
                let path = dir.join(FILE);
                for name in [FILE.to_owned(), format!("{FILE}-wal"), format!("{FILE}-shm")] {
                    match std::fs::remove_file(dir.join(name)) {
                        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                            return Err(StoreError::Place { path, cause });
                        }
                        Ok(()) | Err(_) => {}
                    }
                }
                CopyStore::try_open(dir)
            }
            outcome => outcome,
        }
    }

    /// What a test looks at.
    #[cfg(test)]
    pub(crate) fn looked_at(&self, look: impl FnOnce(&Connection)) {
        look(&self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn try_open(dir: &Path) -> Result<CopyStore, StoreError> {
        let path = dir.join(FILE);
        own_folder(dir, FILE).map_err(|cause| StoreError::Place { path: dir.to_owned(), cause })?;
        private(&path).map_err(|cause| StoreError::Place { path: path.clone(), cause })?;
        let mut connection = begun(&path)?;
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = step.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > LAYOUT {
            return Err(StoreError::Newer { path, found });
        }
        step.execute_batch(
            "CREATE TABLE IF NOT EXISTS secret (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), key BLOB NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS copies (
                 id TEXT PRIMARY KEY NOT NULL,
                 who TEXT NOT NULL,
                 made INTEGER NOT NULL,
                 bytes INTEGER NOT NULL,
                 copy TEXT NOT NULL
             ) STRICT;
             CREATE INDEX IF NOT EXISTS copies_by_who ON copies (who);",
        )?;
        let mut fresh = [0; 32];
        rand::SystemRandom::new().fill(&mut fresh).map_err(|_| StoreError::Place {
            path: path.clone(),
            cause: std::io::Error::other("the operating system gives no random bytes"),
        })?;
        // Whoever comes first, it is one key.
        step.execute("INSERT OR IGNORE INTO secret (only_one, key) VALUES (1, ?1)", [&fresh[..]])?;
        let key: Vec<u8> = step.query_row("SELECT key FROM secret", [], |row| row.get(0))?;
        step.pragma_update(None, "user_version", LAYOUT)?;
        step.commit()?;
        settled(&connection)?;
        Ok(CopyStore { connection: Mutex::new(connection), key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// The copy of this subject, without what is too old; none where there is none, or none that can be read.
    ///
    /// # Errors
    /// The database's own failure.
    pub fn find(&self, subject: &Subject, now_ms: i64) -> Result<Option<Copy>, StoreError> {
        let text: Option<String> = self
            .connection()
            .prepare_cached("SELECT copy FROM copies WHERE id = ?1")?
            .query_row([self.id(subject)], |row| row.get(0))
            .optional()?;
        let Some(mut copy) = text.as_deref().and_then(read) else { return Ok(None) };
        if is_old(copy.made, now_ms) {
            return Ok(None);
        }
        copy.lists.retain(|_, list| !is_old(list.made, now_ms));
        Ok(Some(copy))
    }

    /// Keeps what the server has just said to this subject. A list without an answer to `initialize` is nothing, and a
    /// copy of a newer format stays as it is.
    ///
    /// # Errors
    /// The database's own failure.
    pub fn keep(&self, subject: &Subject, news: News, now_ms: i64) -> Result<(), StoreError> {
        let (id, who) = (self.id(subject), self.who(subject));
        let mut connection = self.connection();
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let present: Option<String> = step
            .prepare_cached("SELECT copy FROM copies WHERE id = ?1")?
            .query_row([&id], |row| row.get(0))
            .optional()?;
        if present.as_deref().is_some_and(is_newer) {
            return Ok(());
        }
        let present = present.as_deref().and_then(read);
        let Some(copy) = renewed(present, news, now_ms) else { return Ok(()) };
        let text = serde_json::to_string(&copy).unwrap_or_default();
        let bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
        step.prepare_cached(
            "INSERT OR REPLACE INTO copies (id, who, made, bytes, copy) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id, who, copy.made, bytes, text])?;
        trim(&step, now_ms)?;
        step.commit()?;
        Ok(())
    }

    /// Forgets the copy of this subject: what its server said does not hold any more.
    ///
    /// # Errors
    /// The database's own failure.
    pub fn remove(&self, subject: &Subject) -> Result<(), StoreError> {
        self.connection().prepare_cached("DELETE FROM copies WHERE id = ?1")?.execute([self.id(subject)])?;
        Ok(())
    }

    /// Forgets every copy under these credentials of this upstream: it has refused them.
    ///
    /// # Errors
    /// The database's own failure.
    pub fn refuse(&self, subject: &Subject) -> Result<(), StoreError> {
        self.connection()
            .prepare_cached("DELETE FROM copies WHERE who = ?1")?
            .execute([self.who(subject)])?;
        Ok(())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, subject: &Subject) -> String {
        let Subject { upstream, address, revision, client, credentials } = subject;
        self.digest("copy", &[upstream, address, revision, client], credentials)
    }

    fn who(&self, subject: &Subject) -> String {
        let Subject { upstream, address, revision: _, client: _, credentials } = subject;
        self.digest("who", &[upstream, address], credentials)
    }

    /// Keyed, since a digest of a credential that anybody could compute would be a way to guess it.
    fn digest(&self, what: &str, words: &[&String], credentials: &[(String, Vec<u8>)]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        part(what.as_bytes());
        words.iter().for_each(|word| part(word.as_bytes()));
        for (name, value) in credentials {
            part(name.as_bytes());
            part(value);
        }
        context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The copy with the news in it.
fn renewed(present: Option<Copy>, news: News, now_ms: i64) -> Option<Copy> {
    let News { initialize, lists } = news;
    let mut copy = match (initialize, present) {
        (Some(initialize), Some(present)) => Copy { initialize, made: now_ms, ..present },
        (Some(initialize), None) => {
            Copy { format: COPY_FORMAT, made: now_ms, initialize, lists: BTreeMap::new() }
        }
        (None, present) => present?,
    };
    if copy.initialize.len() > COPY_BYTES {
        return None;
    }
    copy.lists.retain(|_, list| !is_old(list.made, now_ms));
    for (method, pages) in lists {
        copy.lists.remove(&method);
        let size = |pages: &Pages| pages.iter().map(|(_, text)| text.len()).sum::<usize>();
        let rest: usize = copy.lists.values().map(|list| size(&list.pages)).sum();
        if copy.initialize.len() + rest + size(&pages) <= COPY_BYTES {
            copy.lists.insert(method, ListCopy { made: now_ms, pages });
        }
    }
    Some(copy)
}

/// The too old ones go, then the oldest beyond the bounds.
fn trim(step: &Transaction<'_>, now_ms: i64) -> Result<(), StoreError> {
    step.execute("DELETE FROM copies WHERE made < ?1", [now_ms.saturating_sub(COPY_AGE_MS)])?;
    step.execute(
        "DELETE FROM copies WHERE id IN (
             SELECT id FROM (
                 SELECT id, row_number() OVER newest AS n, sum(bytes) OVER newest AS total FROM copies
                 WINDOW newest AS (ORDER BY made DESC, id ROWS UNBOUNDED PRECEDING)
             ) WHERE n > ?1 OR total > ?2)",
        params![COPIES, ALL_BYTES],
    )?;
    Ok(())
}

fn is_old(made: i64, now_ms: i64) -> bool {
    // One from the future is as wrong as an old one, but for what clocks do.
    now_ms.saturating_sub(made) > COPY_AGE_MS || made.saturating_sub(now_ms) > 24 * 3_600_000
}

fn read(text: &str) -> Option<Copy> {
    serde_json::from_str::<Copy>(text).ok().filter(|copy| copy.format <= COPY_FORMAT)
}

fn is_newer(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    serde_json::from_str::<Version>(text).is_ok_and(|found| found.format > COPY_FORMAT)
}

fn is_damaged(fault: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(fault.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
