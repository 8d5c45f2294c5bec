//! The dated record of what happened to each upstream: the last entries in memory, and in private files where the
//! keeper has a folder for them.
//!
//! Decides what is kept: the newest [`KEPT`] entries in memory, of which none is longer than [`SUBJECT`] and
//! [`DETAIL`] allow. The files are written on a thread of its own, so that no disk makes a connection wait;
//! they are read by [`read`], whether their keeper lives or not.

mod files;
pub mod read;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use relatch_core::journal::Entry;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::schema::JournalStatus;
use files::Writer;
pub use files::{JournalFolder, SLOTS};

/// Entries kept in memory.
pub const KEPT: usize = 2_000;
/// Characters of a subject; the rest is cut off.
pub const SUBJECT: usize = 200;
/// Characters of a detail; the rest is cut off.
pub const DETAIL: usize = 500;
/// How far a follower may fall behind before it misses entries (and is told so).
const FOLLOWER_SLACK: usize = 256;

/// An entry with its date, its upstream and its keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dated {
    /// When.
    pub at: Timestamp,
    /// The upstream's configured name.
    pub upstream: String,
    /// The process of the keeper that wrote it.
    #[serde(default)]
    pub pid: u32,
    /// Its number among the entries of this keeper.
    #[serde(default)]
    pub seq: u64,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// The record of one keeper.
#[derive(Debug)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Arc<Dated>>,
    followers: broadcast::Sender<Arc<Dated>>,
    seq: u64,
}

impl Journal {
    /// A journal that ends with the process.
    #[must_use]
    pub fn in_memory() -> Arc<Journal> {
        Arc::new(Journal { inner: Journal::empty(), writer: None })
    }

    /// A journal that goes on in files of `folder`. Nothing is waited for: a folder that can't be written costs the
    /// files and nothing else, and [`Journal::status`] says so. A `serve` keeper takes over what the one before it
    /// wrote.
    #[must_use]
    pub fn in_folder(folder: JournalFolder) -> Arc<Journal> {
        let inner = Journal::empty();
        let into = Arc::clone(&inner);
        let writer = Writer::start(folder, move |past| {
            let mut inner = lock(&into);
            for entry in past.into_iter().rev() {
                if inner.entries.len() == KEPT {
                    break;
                }
                inner.entries.push_front(Arc::new(entry));
            }
        });
        Arc::new(Journal { inner, writer: Some(writer) })
    }

    fn empty() -> Arc<Mutex<Inner>> {
        Arc::new(Mutex::new(Inner {
            entries: VecDeque::new(),
            followers: broadcast::Sender::new(FOLLOWER_SLACK),
            seq: 0,
        }))
    }

    /// Adds an entry. Waits for no disk.
    pub fn record(&self, at: Timestamp, upstream: &str, mut entry: Entry) {
        shorten(&mut entry.subject, SUBJECT);
        shorten(&mut entry.detail, DETAIL);
        let mut inner = self.lock();
        inner.seq += 1;
        let dated = Arc::new(Dated {
            at,
            upstream: upstream.to_owned(),
            pid: std::process::id(),
            seq: inner.seq,
            entry,
        });
        if inner.entries.len() == KEPT {
            inner.entries.pop_front();
        }
        inner.entries.push_back(Arc::clone(&dated));
        if let Some(writer) = &self.writer {
            writer.write(Arc::clone(&dated));
        }
        // Nobody following is no failure.
        let _ = inner.followers.send(dated);
    }

    /// Where it goes on beyond this process, and what stands against that.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        match &self.writer {
            Some(writer) => writer.status(),
            None => JournalStatus { dir: None, fault: None },
        }
    }

    /// Waits until what was recorded is in the file, or can't be; at most so long.
    pub fn flush(&self, within: Duration) {
        if let Some(writer) = &self.writer {
            writer.flush(within);
        }
    }

    /// The entries at or after `since`, oldest first.
    #[must_use]
    pub fn since(&self, since: Option<Timestamp>) -> Vec<Arc<Dated>> {
        self.follow(since).0
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
        lock(&self.inner)
    }
}

/// The folder of journals inside a state folder.
#[must_use]
pub fn folder_in(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("journal")
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts a text that a peer may have had a hand in.
fn shorten(text: &mut Option<String>, characters: usize) {
    if let Some(text) = text
        && let Some((at, _)) = text.char_indices().nth(characters)
    {
        text.truncate(at);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use relatch_core::journal::What;

    use super::*;

    fn entry(detail: &str) -> Entry {
        Entry { detail: Some(detail.to_owned()), ..Entry::new(What::Relatched) }
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
    fn what_a_peer_may_have_written_is_cut_to_its_bound() {
        let journal = Journal::in_memory();
        let long = "ä".repeat(100_000);
        journal.record(at(0), "gmail", Entry { subject: Some(long.clone()), ..entry(&long) });
        let kept = &journal.since(None)[0].entry;
        assert_eq!(kept.subject.as_ref().unwrap().chars().count(), SUBJECT + 1);
        assert_eq!(kept.detail.as_ref().unwrap().chars().count(), DETAIL + 1);
    }

    #[test]
    fn an_entry_is_one_flat_line() {
        let dated =
            Dated { at: at(0), upstream: "gmail".into(), pid: 7, seq: 3, entry: entry("generation 2") };
        assert_eq!(
            serde_json::to_string(&dated).unwrap(),
            r#"{"at":"2023-11-14T22:13:20Z","upstream":"gmail","pid":7,"seq":3,"what":"relatched","latch":null,"generation":null,"subject":null,"ms":null,"detail":"generation 2"}"#
        );
    }
}
