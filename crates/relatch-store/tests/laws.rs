//! The laws of a store: whatever is done in whatever order, every store does as the plainest map would.

#![expect(clippy::unwrap_used, reason = "a test may panic, and so may what feeds it")]

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use relatch_core::record::{FORMAT, Record, RecordError};
use relatch_store::{MemoryStore, SqliteStore, Store, StoreError};

#[derive(Clone, Debug)]
enum Step {
    Put { id: u8, upstream: u8, last_used: i64, newer: bool },
    Remove { id: u8 },
    Touch { id: u8, at: i64 },
    Expire { now: i64, age: i64, count: usize, keep: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..5_u8;
    prop_oneof![
        4 => (id(), 0..2_u8, 0..100_i64, prop::bool::weighted(0.15))
            .prop_map(|(id, upstream, last_used, newer)| Step::Put { id, upstream, last_used, newer }),
        1 => id().prop_map(|id| Step::Remove { id }),
        2 => (id(), 0..100_i64).prop_map(|(id, at)| Step::Touch { id, at }),
        2 => (0..120_i64, 0..100_i64, 0..5_usize, prop::collection::vec(id(), 0..3))
            .prop_map(|(now, age, count, keep)| Step::Expire { now, age, count, keep }),
    ]
}

fn name(id: u8) -> String {
    format!("session-{id}")
}

fn record(id: u8, upstream: u8, last_used: i64, newer: bool) -> Record {
    Record {
        format: FORMAT + u32::from(newer),
        id: name(id),
        upstream: format!("upstream-{upstream}"),
        url: "http://127.0.0.1:8931/mcp".to_owned(),
        opened: 0,
        last_used,
        initialize: "{}".to_owned(),
        revision: "2025-11-25".to_owned(),
        initialized: true,
        session: None,
        generation: 1,
        level: None,
        subscriptions: BTreeMap::new(),
        lists: BTreeMap::new(),
        hints: BTreeMap::new(),
        tell: None,
        unknown: BTreeMap::new(),
    }
}

/// One step at a store and at the model.
fn take(store: &dyn Store, model: &mut BTreeMap<String, Record>, step: &Step) {
    match step {
        Step::Put { id, upstream, last_used, newer } => {
            let record = record(*id, *upstream, *last_used, *newer);
            let held = model.get(&record.id).is_some_and(|present| present.format > FORMAT);
            match store.put(&record) {
                Err(StoreError::Kept) => assert!(held, "{record:?} is refused"),
                done => {
                    done.unwrap();
                    assert!(!held, "a record of a newer format is overwritten");
                    model.insert(record.id.clone(), record);
                }
            }
        }
        Step::Remove { id } => {
            store.remove(&name(*id)).unwrap();
            model.remove(&name(*id));
        }
        Step::Touch { id, at } => {
            store.touch(&name(*id), *at).unwrap();
            if let Some(record) = model.get_mut(&name(*id)) {
                record.last_used = record.last_used.max(*at);
            }
        }
        Step::Expire { now, age, count, keep } => {
            let keep: HashSet<String> = keep.iter().map(|id| name(*id)).collect();
            let mut over = Vec::new();
            for id in store.expire(*now, *age, *count, &keep).unwrap() {
                let record = model.remove(&id).unwrap();
                assert!(record.format <= FORMAT, "a record of a newer format is ended");
                assert!(!keep.contains(&id), "a record in use is ended");
                over.push((record.last_used, id));
            }
            let known = |record: &&Record| record.format <= FORMAT;
            let idle = |record: &&Record| !keep.contains(&record.id);
            for record in model.values().filter(known).filter(idle) {
                assert!(record.last_used >= now - age, "{record:?} is too old");
                let this = (record.last_used, record.id.clone());
                assert!(over.iter().all(|ended| *ended < this), "{over:?} end before {this:?}");
            }
            let left = model.values().filter(known).count();
            assert!(
                left <= *count || model.values().filter(known).filter(idle).count() == 0,
                "{left} of {count}"
            );
        }
    }
}

/// What a store shows is what the model holds.
fn compare(store: &dyn Store, model: &BTreeMap<String, Record>) {
    for id in (0..5).map(name) {
        match (store.get(&id), model.get(&id)) {
            (Err(StoreError::Record(RecordError::Newer { found })), Some(record)) => {
                assert_eq!(found, record.format);
            }
            (found, expected) => assert_eq!(found.unwrap().as_ref(), expected),
        }
    }
    for upstream in ["upstream-0", "upstream-1"] {
        let mut expected: Vec<Record> = model
            .values()
            .filter(|record| record.upstream == upstream && record.format <= FORMAT)
            .cloned()
            .collect();
        expected.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
        assert_eq!(store.all(upstream).unwrap(), expected);
    }
    let newer = model.values().filter(|record| record.format > FORMAT).count();
    assert_eq!(store.unreadable().unwrap().len(), newer);
}

fn plays(store: &dyn Store, steps: &[Step]) {
    let mut model = BTreeMap::new();
    for step in steps {
        take(store, &mut model, step);
        compare(store, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_is_a_plain_map(steps in prop::collection::vec(step(), 0..24)) {
        plays(&MemoryStore::new(), &steps);
    }
}

proptest! {
    // Each has a file of its own.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_sqlite_store_is_a_plain_map(steps in prop::collection::vec(step(), 0..24)) {
        let dir = tempfile::tempdir().unwrap();
        plays(&SqliteStore::open(dir.path()).unwrap(), &steps);
    }
}
