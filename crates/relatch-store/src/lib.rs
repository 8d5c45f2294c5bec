//! Where the records of downstream sessions live, so that a session outlives its keeper.
//!
//! [`Store`] is the contract; [`MemoryStore`] forgets with its process, [`SqliteStore`] keeps a private file. A store
//! decides nothing but which records are too old or too many, and it never drops what it can't read. [`copies`] is what
//! servers said of themselves, for clients that start before them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use relatch_core::record::{Record, RecordError};

pub mod copies;
mod sqlite;

pub use sqlite::SqliteStore;

/// Records by their downstream session id. Calls block (a file's write, at most); they are short.
pub trait Store: Send + Sync {
    /// Keeps a record, in place of an older one of the same id.
    ///
    /// # Errors
    /// [`StoreError::Kept`] when the id is held by a record of a newer format; otherwise the store's own failure.
    fn put(&self, record: &Record) -> Result<(), StoreError>;

    /// The record of this id.
    ///
    /// # Errors
    /// [`StoreError::Record`] when there is one that this version can't read; it stays.
    fn get(&self, id: &str) -> Result<Option<Record>, StoreError>;

    /// Forgets the record of this id; no failure if there is none.
    ///
    /// # Errors
    /// The store's own failure.
    fn remove(&self, id: &str) -> Result<(), StoreError>;

    /// The readable records of one upstream, the least recently used first. What can't be read stays in the store; see
    /// [`Store::unreadable`].
    ///
    /// # Errors
    /// The store's own failure.
    fn all(&self, upstream: &str) -> Result<Vec<Record>, StoreError>;

    /// Notes when the client was last heard of (milliseconds since the Unix epoch), without writing the whole record.
    ///
    /// # Errors
    /// The store's own failure.
    fn touch(&self, id: &str, last_used_ms: i64) -> Result<(), StoreError>;

    /// Makes all these changes, each as [`Store::put`], [`Store::touch`] or [`Store::remove`] would, and gives back what
    /// can't be done. Together they cost little more than one.
    fn take(&self, changes: &BTreeMap<String, Change>) -> Vec<StoreError> {
        changes.iter().filter_map(|(id, change)| change.made(self, id).err()).collect()
    }

    /// Ends the records last used longer than `max_age_ms` ago and, beyond `max_count`, the least recently used
    /// ones, except the ids in `keep`. Records of a newer format are neither ended nor counted. Returns the ids that
    /// were ended.
    ///
    /// # Errors
    /// The store's own failure.
    fn expire(
        &self,
        now_ms: i64,
        max_age_ms: i64,
        max_count: usize,
        keep: &HashSet<String>,
    ) -> Result<Vec<String>, StoreError>;

    /// The records that this version can't read, for the start-up report: the first characters of the id, and why.
    ///
    /// # Errors
    /// The store's own failure.
    fn unreadable(&self) -> Result<Vec<(String, RecordError)>, StoreError>;
}

/// What is to become of a record.
#[derive(Clone, Debug)]
pub enum Change {
    /// This is its state now.
    Put(Box<Record>),
    /// Its client was last heard of then, in milliseconds since the Unix epoch.
    Touch(i64),
    /// It is over.
    Remove,
}

impl Change {
    fn made(&self, store: &(impl Store + ?Sized), id: &str) -> Result<(), StoreError> {
        match self {
            Change::Put(record) => store.put(record),
            Change::Touch(at) => store.touch(id, *at),
            Change::Remove => store.remove(id),
        }
    }
}

/// Why a store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another keeper has this store open; two may not serve the same sessions.
    #[error("the sessions in `{}` are in use by {}", dir.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The store's folder.
        dir: PathBuf,
        /// The process that has it, where it left its id.
        holder: Option<u32>,
    },
    /// The folder or file can't be used.
    #[error("`{}` can't be used: {cause}", path.display())]
    Place {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is of a newer version of relatch.
    #[error("`{}` was written by a newer version of relatch (format {found})", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: i64,
    },
    /// A record can't be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The id is held by a record that this version can't read and therefore keeps.
    #[error("a record of a newer version has this session id; it is kept")]
    Kept,
    /// The database's own failure.
    #[error("the session store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Records that end with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// As text, so that this store reads and refuses exactly as the others do.
    rows: Mutex<HashMap<String, Row>>,
}

#[derive(Clone, Debug)]
struct Row {
    upstream: String,
    last_used: i64,
    text: String,
}

impl Row {
    fn read(&self) -> Result<Record, RecordError> {
        let mut record = Record::read(&self.text)?;
        record.last_used = self.last_used;
        Ok(record)
    }
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn put(&self, record: &Record) -> Result<(), StoreError> {
        let mut rows = self.rows();
        if let Some(row) = rows.get(&record.id)
            && newer(&row.text)
        {
            return Err(StoreError::Kept);
        }
        let row =
            Row { upstream: record.upstream.clone(), last_used: record.last_used, text: record.write() };
        rows.insert(record.id.clone(), row);
        Ok(())
    }

    fn get(&self, id: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.rows().get(id).map(Row::read).transpose()?)
    }

    fn remove(&self, id: &str) -> Result<(), StoreError> {
        self.rows().remove(id);
        Ok(())
    }

    fn all(&self, upstream: &str) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Record> = self
            .rows()
            .values()
            .filter(|row| row.upstream == upstream)
            .filter_map(|row| row.read().ok())
            .collect();
        records.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
        Ok(records)
    }

    fn touch(&self, id: &str, last_used_ms: i64) -> Result<(), StoreError> {
        if let Some(row) = self.rows().get_mut(id) {
            row.last_used = row.last_used.max(last_used_ms);
        }
        Ok(())
    }

    fn expire(
        &self,
        now_ms: i64,
        max_age_ms: i64,
        max_count: usize,
        keep: &HashSet<String>,
    ) -> Result<Vec<String>, StoreError> {
        let mut rows = self.rows();
        let candidates = rows
            .iter()
            .filter(|(_, row)| !newer(&row.text))
            .map(|(id, row)| (row.last_used, id.clone()))
            .collect();
        let ended = ended(candidates, now_ms, max_age_ms, max_count, keep);
        for id in &ended {
            rows.remove(id);
        }
        Ok(ended)
    }

    fn unreadable(&self) -> Result<Vec<(String, RecordError)>, StoreError> {
        let rows = self.rows();
        Ok(rows.iter().filter_map(|(id, row)| Some((shown(id), row.read().err()?))).collect())
    }
}

/// Whether the text is a record of a format that only newer versions know. Anything else unreadable is a ruin, which
/// may be replaced and grows old like the rest.
fn newer(text: &str) -> bool {
    matches!(Record::read(text), Err(RecordError::Newer { .. }))
}

/// A session id as it may be shown.
fn shown(id: &str) -> String {
    id.chars().take(8).collect()
}

/// Which of these (last use, id) end: the too old ones, then the least recently used beyond the count.
fn ended(
    mut candidates: Vec<(i64, String)>,
    now_ms: i64,
    max_age_ms: i64,
    max_count: usize,
    keep: &HashSet<String>,
) -> Vec<String> {
    candidates.sort();
    let oldest_kept = now_ms.saturating_sub(max_age_ms);
    let mut left = candidates.len();
    let mut ended = Vec::new();
    for (last_used, id) in candidates {
        if (last_used < oldest_kept || left > max_count) && !keep.contains(&id) {
            left -= 1;
            ended.push(id);
        }
    }
    ended
}
