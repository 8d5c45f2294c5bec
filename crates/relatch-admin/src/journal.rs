//! The dated record of what happened to each upstream: the last entries in memory, and in a private file where the
//! keeper has a folder for it.
//!
//! It decides only what is kept: the newest [`KEPT`] entries in memory, and on disk two files of at most
//! [`FILE_LIMIT`] bytes each. A file that can't be written costs the file's copy and nothing else.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use relatch_core::journal::Entry;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Entries kept in memory.
pub const KEPT: usize = 2_000;
/// Bytes after which the file is set aside and a new one begun; the one set aside before is dropped.
pub const FILE_LIMIT: u64 = 1024 * 1024;
/// How far a follower may fall behind before it misses entries (and is told so).
const FOLLOWER_SLACK: usize = 256;

/// An entry with its date and its upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dated {
    /// When.
    pub at: Timestamp,
    /// The upstream's configured name.
    pub upstream: String,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// The record of one keeper.
#[derive(Debug)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Arc<Dated>>,
    followers: broadcast::Sender<Arc<Dated>>,
    file: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Journal {
    /// A journal that ends with the process.
    #[must_use]
    pub fn in_memory() -> Arc<Journal> {
        Arc::new(Journal {
            inner: Mutex::new(Inner {
                entries: VecDeque::new(),
                followers: broadcast::Sender::new(FOLLOWER_SLACK),
                file: None,
            }),
        })
    }

    /// A journal that goes on in `dir`, a private folder of this keeper alone: `journal.jsonl`, mode 0600.
    ///
    /// # Errors
    /// When the file can't be opened for writing.
    pub fn in_dir(dir: &Path) -> io::Result<Arc<Journal>> {
        let path = dir.join("journal.jsonl");
        let mut entries = VecDeque::new();
        for old in [set_aside(&path), path.clone()] {
            read_entries(&old, &mut entries);
        }
        let file = Kept::open(path)?;
        let journal = Journal::in_memory();
        {
            let mut inner = journal.lock();
            inner.entries = entries;
            inner.file = Some(file);
        }
        Ok(journal)
    }

    /// Adds an entry.
    pub fn record(&self, at: Timestamp, upstream: &str, entry: Entry) {
        let dated = Arc::new(Dated { at, upstream: upstream.to_owned(), entry });
        let mut inner = self.lock();
        if inner.entries.len() == KEPT {
            inner.entries.pop_front();
        }
        inner.entries.push_back(Arc::clone(&dated));
        if let Some(file) = &mut inner.file
            && let Err(cause) = file.append(&dated)
        {
            tracing::warn!(%cause, path = %file.path.display(), "the journal goes on in memory only");
            inner.file = None;
        }
        // Nobody following is no failure.
        let _ = inner.followers.send(dated);
    }

    /// The entries at or after `since`, oldest first.
    #[must_use]
    pub fn since(&self, since: Option<Timestamp>) -> Vec<Arc<Dated>> {
        self.lock()
            .entries
            .iter()
            .filter(|entry| since.is_none_or(|since| entry.at >= since))
            .cloned()
            .collect()
    }

    /// The entries at or after `since`, and from there on each new one: none is missed and none comes twice.
    #[must_use]
    pub fn follow(&self, since: Option<Timestamp>) -> (Vec<Arc<Dated>>, broadcast::Receiver<Arc<Dated>>) {
        let inner = self.lock();
        let past = inner
            .entries
            .iter()
            .filter(|entry| since.is_none_or(|since| entry.at >= since))
            .cloned()
            .collect();
        (past, inner.followers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn open(path: PathBuf) -> io::Result<Kept> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let bytes = file.metadata()?.len();
        Ok(Kept { path, file, bytes })
    }

    fn append(&mut self, entry: &Dated) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > FILE_LIMIT {
            std::fs::rename(&self.path, set_aside(&self.path))?;
            *self = Kept::open(self.path.clone())?;
        }
        self.file.write_all(&line)?;
        self.bytes += length;
        Ok(())
    }
}

fn set_aside(path: &Path) -> PathBuf {
    path.with_file_name("journal.1.jsonl")
}

/// Lines that this version can't read stay in the file and are not shown.
fn read_entries(path: &Path, entries: &mut VecDeque<Arc<Dated>>) {
    let Ok(file) = File::open(path) else { return };
    // A file grown beyond its limit by other hands is not read to its end.
    let reader = BufReader::new(io::Read::take(file, 2 * FILE_LIMIT));
    for line in reader.split(b'\n').map_while(Result::ok) {
        if let Ok(entry) = serde_json::from_slice::<Dated>(&line) {
            if entries.len() == KEPT {
                entries.pop_front();
            }
            entries.push_back(Arc::new(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use relatch_core::journal::What;

    use super::*;

    fn entry(detail: &str) -> Entry {
        Entry {
            what: What::Relatched,
            latch: None,
            generation: None,
            subject: None,
            ms: None,
            detail: Some(detail.to_owned()),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn details(entries: &[Arc<Dated>]) -> Vec<String> {
        entries.iter().filter_map(|entry| entry.entry.detail.clone()).collect()
    }

    #[test]
    fn a_journal_keeps_the_newest_entries_only() {
        let journal = Journal::in_memory();
        for n in 0..KEPT + 10 {
            journal.record(at(0), "gmail", entry(&n.to_string()));
        }
        let kept = journal.since(None);
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].entry.detail.as_deref(), Some("10"));
    }

    #[test]
    fn a_follower_gets_the_past_and_then_each_new_entry_once() {
        let journal = Journal::in_memory();
        journal.record(at(0), "gmail", entry("too old"));
        journal.record(at(10), "gmail", entry("past"));
        let (past, mut coming) = journal.follow(Some(at(10)));
        journal.record(at(20), "gmail", entry("new"));
        assert_eq!(details(&past), ["past"]);
        assert_eq!(coming.try_recv().unwrap().entry.detail.as_deref(), Some("new"));
        assert!(coming.try_recv().is_err());
    }

    #[test]
    fn a_journal_in_a_folder_goes_on_after_a_restart_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::in_dir(dir.path()).unwrap();
        journal.record(at(1), "gmail", entry("before"));
        drop(journal);
        // A line from a newer version, and one cut off by a crash.
        let mut file = OpenOptions::new().append(true).open(dir.path().join("journal.jsonl")).unwrap();
        file.write_all(b"{\"at\":\"2030-01-01T00:00:00Z\",\"upstream\":\"x\",\"what\":\"later\"}\n{\"at\"\n")
            .unwrap();
        let journal = Journal::in_dir(dir.path()).unwrap();
        journal.record(at(2), "gmail", entry("after"));
        assert_eq!(details(&journal.since(None)), ["before", "after"]);
        let mode = std::fs::metadata(dir.path().join("journal.jsonl")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_files_of_a_journal_stay_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::in_dir(dir.path()).unwrap();
        let long = "x".repeat(100_000);
        for _ in 0..40 {
            journal.record(at(1), "gmail", entry(&long));
        }
        let sizes: Vec<u64> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= FILE_LIMIT), "{sizes:?}");
    }

    #[test]
    fn an_entry_is_one_flat_line() {
        let dated = Dated { at: at(0), upstream: "gmail".into(), entry: entry("generation 2") };
        assert_eq!(
            serde_json::to_string(&dated).unwrap(),
            r#"{"at":"2023-11-14T22:13:20Z","upstream":"gmail","what":"relatched","latch":null,"generation":null,"subject":null,"ms":null,"detail":"generation 2"}"#
        );
    }
}
