//! What is kept of adopted entries: how each was before, so that `release` can put it back. One file, read and written whole,
//! readable by its owner alone, held by one `adopt` or `release` at a time.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::files::{private, private_folder};
use super::serve::Served;

/// The version that is written. What a later one has written is left alone.
const FORMAT: u32 = 1;

/// One adopted entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The file, behind every link.
    pub(crate) file: PathBuf,
    pub(crate) client: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    pub(crate) server: String,
    /// The entry's own text before, stretch by stretch.
    pub(crate) original: Vec<String>,
    /// What was written in its place.
    pub(crate) written: Vec<String>,
    /// The server of `relatch.toml` that it points to, where it points to a keeper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) served: Option<Served>,
    /// When.
    pub(crate) at: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Book {
    format: u32,
    entries: Vec<Record>,
}

/// Every record.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    book: Book,
    /// Whether the file could be read; one that could not is never written over.
    sound: bool,
}

/// Why the records can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// Another one is at it.
    Held,
    Unreadable(PathBuf, String),
    Unwritable(PathBuf, String),
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreFault::Held => f.write_str("Another `relatch adopt` or `relatch release` is at work"),
            StoreFault::Unreadable(path, why) => {
                write!(f, "`{}`, which says what was adopted, can't be read: {why}", path.display())
            }
            StoreFault::Unwritable(path, why) => write!(f, "`{}` can't be written: {why}", path.display()),
        }
    }
}

impl Store {
    /// The records of this user, for reading; a missing file is an empty one.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) fn look(state: &Path) -> Result<Store, StoreFault> {
        let path = state.join("adopted.json");
        let unreadable = |why: String| StoreFault::Unreadable(path.clone(), why);
        let book = match fs::read(&path) {
            Ok(bytes) => {
                let book: Book =
                    serde_json::from_slice(&bytes).map_err(|fault| unreadable(fault.to_string()))?;
                if book.format > FORMAT {
                    return Err(unreadable(format!("a later relatch wrote it (format {})", book.format)));
                }
                book
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                Book { format: FORMAT, entries: Vec::new() }
            }
            Err(cause) => return Err(unreadable(cause.to_string())),
        };
        Ok(Store { path, book, sound: true })
    }

    /// No records, for when they can't be read.
    pub(crate) fn lost(state: &Path) -> Store {
        let book = Book { format: FORMAT, entries: Vec::new() };
        Store { path: state.join("adopted.json"), book, sound: false }
    }

    /// The right to change records, until it is dropped.
    ///
    /// # Errors
    /// When another one holds it, or the folder can't be written.
    pub(crate) fn hold(state: &Path) -> Result<File, StoreFault> {
        let path = state.join("adopted.lock");
        let unwritable = |cause: std::io::Error| StoreFault::Unwritable(path.clone(), cause.to_string());
        private_folder(state).map_err(unwritable)?;
        let lock = private(OpenOptions::new().write(true).create(true).truncate(false), &path)
            .map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(StoreFault::Held),
            Err(TryLockError::Error(cause)) => Err(unwritable(cause)),
        }
    }

    /// What is kept of an entry.
    pub(crate) fn of(&self, file: &Path, entry: &Entry) -> Option<&Record> {
        let same = |record: &&Record| {
            record.file == file && record.server == entry.name && record.project == entry.project
        };
        self.book.entries.iter().find(same)
    }

    /// What was put into configuration files.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Served> {
        self.book.entries.iter().filter_map(|record| record.served.as_ref())
    }

    /// Every record.
    pub(crate) fn all(&self) -> &[Record] {
        &self.book.entries
    }

    /// Every record of a file.
    pub(crate) fn in_file(&self, file: &Path) -> impl Iterator<Item = &Record> {
        self.book.entries.iter().filter(move |record| record.file == file)
    }

    /// The other files that have records.
    pub(crate) fn files_but(&self, looked: &[&Path]) -> Vec<&Path> {
        let mut files: Vec<&Path> = self.book.entries.iter().map(|record| record.file.as_path()).collect();
        files.sort_unstable();
        files.dedup();
        files.retain(|file| !looked.contains(file));
        files
    }

    /// Keeps records, in place of older ones of the same entries, and takes others off; then writes all of them.
    ///
    /// # Errors
    /// When they can't be written; the file is as it was then.
    pub(crate) fn change(&mut self, keep: Vec<Record>, drop: &[Record]) -> Result<(), StoreFault> {
        let same =
            |a: &Record, b: &Record| (&a.file, &a.server, &a.project) == (&b.file, &b.server, &b.project);
        let mut entries = self.book.entries.clone();
        entries.retain(|old| !keep.iter().chain(drop).any(|other| same(old, other)));
        entries.extend(keep);
        if !self.sound || entries == self.book.entries {
            return Ok(());
        }
        let unwritable = |why: String| StoreFault::Unwritable(self.path.clone(), why);
        let book = Book { format: FORMAT, entries };
        let mut text = serde_json::to_vec_pretty(&book).map_err(|fault| unwritable(fault.to_string()))?;
        text.push(b'\n');
        let fresh = self.path.with_extension("new");
        private(OpenOptions::new().write(true).create(true).truncate(true), &fresh)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&fresh, &self.path))
            .map_err(|cause| unwritable(cause.to_string()))?;
        self.book = book;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(server: &str, written: &str) -> Record {
        Record {
            file: "/home/me/.cursor/mcp.json".into(),
            client: "cursor".into(),
            project: None,
            server: server.into(),
            original: vec!["{}".into()],
            written: vec![written.into()],
            served: None,
            at: "2026-11-25T20:00:00Z".into(),
        }
    }

    #[test]
    fn records_are_kept_replaced_and_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let _held = Store::hold(&state).unwrap();
        assert_eq!(Store::hold(&state).unwrap_err(), StoreFault::Held);
        let mut store = Store::look(&state).unwrap();
        store.change(vec![record("a", "1"), record("b", "1")], &[]).unwrap();
        store.change(vec![record("a", "2")], &[record("b", "1")]).unwrap();
        let again = Store::look(&state).unwrap();
        let left: Vec<&Record> = again.in_file(Path::new("/home/me/.cursor/mcp.json")).collect();
        assert_eq!(left, [&record("a", "2")]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(state.join("adopted.json")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn what_can_not_be_read_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("adopted.json");
        for text in ["{", r#"{"format": 2, "entries": []}"#] {
            fs::write(&file, text).unwrap();
            assert!(matches!(Store::look(dir.path()), Err(StoreFault::Unreadable(..))));
            let mut lost = Store::lost(dir.path());
            lost.change(vec![record("a", "1")], &[]).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }
}
