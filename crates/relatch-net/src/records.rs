//! The one writer to the store of records.
//!
//! Writing happens beside the path of messages, in order and with the newest state of a record winning. Where records
//! live, and how they are read, is the store's matter.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use relatch_core::record::Record;
use relatch_store::Store;
use tokio::sync::oneshot;

use crate::lock;

/// What is to become of one record.
#[derive(Debug)]
enum Change {
    Put(Box<Record>),
    Touch(i64),
    Remove,
}

#[derive(Default)]
struct Waiting {
    changes: BTreeMap<String, Change>,
    flushes: Vec<oneshot::Sender<()>>,
    writer: bool,
}

/// Hands changes to the store, one writer at a time.
pub(crate) struct Writer {
    store: Option<Arc<dyn Store>>,
    waiting: Mutex<Waiting>,
}

impl Writer {
    /// A writer to this store, or one that keeps nothing.
    pub(crate) fn new(store: Option<Arc<dyn Store>>) -> Arc<Writer> {
        Arc::new(Writer { store, waiting: Mutex::default() })
    }

    /// Whether anything is kept at all.
    pub(crate) fn keeps(&self) -> bool {
        self.store.is_some()
    }

    /// Stores this state of a record soon.
    pub(crate) fn put(self: &Arc<Self>, record: Record) {
        self.change(record.id.clone(), Change::Put(Box::new(record)));
    }

    /// Notes a use soon.
    pub(crate) fn touch(self: &Arc<Self>, id: &str, last_used: i64) {
        self.change(id.to_owned(), Change::Touch(last_used));
    }

    /// Forgets a record soon.
    pub(crate) fn remove(self: &Arc<Self>, id: &str) {
        self.change(id.to_owned(), Change::Remove);
    }

    /// Waits until everything said so far is stored.
    pub(crate) async fn flush(self: &Arc<Self>) {
        if self.store.is_none() {
            return;
        }
        let (done, wait) = oneshot::channel();
        lock(&self.waiting).flushes.push(done);
        self.start();
        // The writer can't be gone without having answered.
        drop(wait.await);
    }

    /// The record of this downstream id, as it is after everything said so far.
    pub(crate) async fn get(self: &Arc<Self>, id: &str) -> Option<Record> {
        let store = self.store.clone()?;
        self.flush().await;
        let id = id.to_owned();
        let found = tokio::task::spawn_blocking(move || store.get(&id)).await.ok()?;
        found.inspect_err(|cause| tracing::warn!("a session record can't be read: {cause}")).ok()?
    }

    /// Forgets what was not used for this long, and the oldest beyond this many, but none of those kept.
    pub(crate) async fn expire(self: &Arc<Self>, max_age_ms: i64, max_count: usize, keep: HashSet<String>) {
        let Some(store) = self.store.clone() else { return };
        let now = jiff::Timestamp::now().as_millisecond();
        let expired =
            tokio::task::spawn_blocking(move || store.expire(now, max_age_ms, max_count, &keep)).await;
        match expired {
            Ok(Ok(gone)) if gone.is_empty() => {}
            Ok(Ok(gone)) => tracing::info!("{} session records have expired", gone.len()),
            Ok(Err(cause)) => tracing::warn!("session records can't be expired: {cause}"),
            Err(fault) => tracing::error!("expiring session records ended early: {fault}"),
        }
    }

    fn change(self: &Arc<Self>, id: String, change: Change) {
        if self.store.is_none() {
            return;
        }
        {
            let mut waiting = lock(&self.waiting);
            match (waiting.changes.get_mut(&id), change) {
                (Some(Change::Put(record)), Change::Touch(at)) => record.last_used = at,
                (Some(Change::Remove), Change::Touch(_)) => {}
                (_, change) => {
                    waiting.changes.insert(id, change);
                }
            }
        }
        self.start();
    }

    fn start(self: &Arc<Self>) {
        let Some(store) = self.store.clone() else { return };
        if std::mem::replace(&mut lock(&self.waiting).writer, true) {
            return;
        }
        let writer = Arc::clone(self);
        tokio::task::spawn_blocking(move || writer.write(store.as_ref()));
    }

    fn write(&self, store: &dyn Store) {
        loop {
            let (changes, flushes) = {
                let mut waiting = lock(&self.waiting);
                if waiting.changes.is_empty() && waiting.flushes.is_empty() {
                    waiting.writer = false;
                    break;
                }
                (std::mem::take(&mut waiting.changes), std::mem::take(&mut waiting.flushes))
            };
            for (id, change) in changes {
                let done = match change {
                    Change::Put(record) => store.put(&record),
                    Change::Touch(at) => store.touch(&id, at),
                    Change::Remove => store.remove(&id),
                };
                if let Err(cause) = done {
                    tracing::warn!("a session record can't be stored: {cause}");
                }
            }
            for done in flushes {
                // Who waited may have left.
                let _ = done.send(());
            }
        }
    }
}
