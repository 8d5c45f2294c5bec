//! The one writer to the store of records.
//!
//! Writing happens beside the path of messages, in order and with the newest state of a record winning. What comes first is
//! written at once, and what follows closely, together. Where records live, and how they are read, is the store's matter.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use relatch_core::record::Record;
use relatch_store::{Change, Store};
use tokio::sync::oneshot;

use crate::lock;

/// What changes within this after something was written is written together: a thousand sessions that are renewed at once
/// change three times each. Whoever waits for a record waits for none of it.
const TOGETHER: Duration = Duration::from_millis(20);

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
    /// Rung when somebody waits for what was said so far.
    awaited: Condvar,
}

impl Writer {
    /// A writer to this store, or one that keeps nothing.
    pub(crate) fn new(store: Option<Arc<dyn Store>>) -> Arc<Writer> {
        Arc::new(Writer { store, waiting: Mutex::default(), awaited: Condvar::new() })
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
        self.awaited.notify_one();
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
            for cause in store.take(&changes) {
                tracing::warn!("a session record can't be stored: {cause}");
            }
            let awaited = !flushes.is_empty();
            for done in flushes {
                // Who waited may have left.
                let _ = done.send(());
            }
            if !awaited {
                let nobody_waits = |waiting: &mut Waiting| waiting.flushes.is_empty();
                let rest = self.awaited.wait_timeout_while(lock(&self.waiting), TOGETHER, nobody_waits);
                drop(rest.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use relatch_core::record::RecordError;
    use relatch_store::{MemoryStore, StoreError};

    use super::*;

    /// Counts how often it is written to.
    #[derive(Default)]
    struct Counting {
        store: MemoryStore,
        taken: AtomicUsize,
    }

    impl Store for Counting {
        fn put(&self, record: &Record) -> Result<(), StoreError> {
            self.store.put(record)
        }

        fn get(&self, id: &str) -> Result<Option<Record>, StoreError> {
            self.store.get(id)
        }

        fn remove(&self, id: &str) -> Result<(), StoreError> {
            self.store.remove(id)
        }

        fn all(&self, upstream: &str) -> Result<Vec<Record>, StoreError> {
            self.store.all(upstream)
        }

        fn touch(&self, id: &str, last_used_ms: i64) -> Result<(), StoreError> {
            self.store.touch(id, last_used_ms)
        }

        fn take(&self, changes: &BTreeMap<String, Change>) -> Vec<StoreError> {
            self.taken.fetch_add(usize::from(!changes.is_empty()), Ordering::SeqCst);
            self.store.take(changes)
        }

        fn expire(
            &self,
            now_ms: i64,
            max_age_ms: i64,
            max_count: usize,
            keep: &HashSet<String>,
        ) -> Result<Vec<String>, StoreError> {
            self.store.expire(now_ms, max_age_ms, max_count, keep)
        }

        fn unreadable(&self) -> Result<Vec<(String, RecordError)>, StoreError> {
            self.store.unreadable()
        }
    }

    #[tokio::test]
    async fn what_follows_closely_is_written_together_and_is_there_for_whoever_waits() {
        let text = r#"{"format":1,"id":"s","upstream":"x","url":"u","opened":1,"last_used":2,"initialize":"{}",
            "revision":"2025-11-25","initialized":true,"generation":3,"level":null,"subscriptions":{},
            "session":null}"#;
        let record = Record::read(text).unwrap();
        let store = Arc::new(Counting::default());
        let writer = Writer::new(Some(Arc::clone(&store) as Arc<dyn Store>));
        for change in 0..300 {
            let id = format!("s{}", change % 100);
            writer.put(Record { id, generation: change, ..record.clone() });
        }
        writer.remove("s7");
        writer.flush().await;
        let found = store.all("x").unwrap();
        assert_eq!(found.len(), 99);
        assert!(found.iter().all(|record| record.generation >= 200), "{found:?}");
        let taken = store.taken.load(Ordering::SeqCst);
        assert!(taken < 100, "301 changes were written in {taken} steps");
    }
}
