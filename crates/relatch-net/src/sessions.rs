//! Downstream sessions by their ids: which upstream and which latch an id stands for, and when it was used last.
//!
//! When a session ends is decided by its keeper and its machine.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use relatch_core::LatchId;

use crate::lock;

/// How often the use of a session is noted in its record, in milliseconds.
const TOUCH_MS: u64 = 10 * 60 * 1000;

/// All downstream sessions of a keeper.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_id: Mutex<HashMap<Arc<str>, Session>>,
}

/// One downstream session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The upstream's name.
    pub(crate) upstream: Arc<str>,
    /// Its latch there.
    pub(crate) latch: LatchId,
    /// When it was used last, in milliseconds of the keeper's clock.
    pub(crate) used: u64,
    touched: u64,
}

impl Sessions {
    /// A new session.
    pub(crate) fn insert(&self, id: Arc<str>, upstream: Arc<str>, latch: LatchId, now: u64) {
        lock(&self.by_id).insert(id, Session { upstream, latch, used: now, touched: now });
    }

    /// The latch of this id at this upstream, and whether its record is to hear of the use.
    pub(crate) fn used(&self, id: &str, upstream: &str, now: u64) -> Option<(LatchId, bool)> {
        let mut by_id = lock(&self.by_id);
        let session = by_id.get_mut(id).filter(|session| &*session.upstream == upstream)?;
        session.used = now;
        let touch = now.saturating_sub(session.touched) > TOUCH_MS;
        if touch {
            session.touched = now;
        }
        Some((session.latch, touch))
    }

    /// Whether anything is known by this id.
    pub(crate) fn knows(&self, id: &str) -> bool {
        lock(&self.by_id).contains_key(id)
    }

    /// The session is over.
    pub(crate) fn remove(&self, id: &str) {
        lock(&self.by_id).remove(id);
    }

    /// All ids.
    pub(crate) fn ids(&self) -> HashSet<String> {
        lock(&self.by_id).keys().map(ToString::to_string).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.by_id).len()
    }

    /// All of them with their ids, the least recently used first.
    pub(crate) fn oldest_first(&self) -> Vec<(Arc<str>, Session)> {
        let mut all: Vec<_> =
            lock(&self.by_id).iter().map(|(id, session)| (Arc::clone(id), session.clone())).collect();
        all.sort_by_key(|(_, session)| session.used);
        all
    }
}
