//! What every store must do, run on each of them; and what only the file has to do.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;

use relatch_core::record::{FORMAT, Record, RecordError, SessionRecord};
use relatch_store::{Change, MemoryStore, SqliteStore, Store, StoreError};

fn record(id: &str, last_used: i64) -> Record {
    Record {
        format: FORMAT,
        id: id.to_owned(),
        upstream: "gmail".to_owned(),
        url: "http://127.0.0.1:8761/mcp".to_owned(),
        opened: 5,
        last_used,
        initialize: r#"{"protocolVersion":"2025-11-25","x":1.10}"#.to_owned(),
        revision: "2025-11-25".to_owned(),
        initialized: true,
        session: Some(SessionRecord {
            id: Some("up".into()),
            revision: "2025-11-25".into(),
            server: Some(("s".into(), "1".into())),
            unknown: BTreeMap::from([("added_later".to_owned(), serde_json::json!(1.5))]),
        }),
        generation: 3,
        level: Some(r#"{"level":"debug"}"#.to_owned()),
        subscriptions: BTreeMap::from([("file:///a".to_owned(), "{}".to_owned())]),
        lists: BTreeMap::from([("tools".to_owned(), BTreeMap::from([("write".to_owned(), u64::MAX)]))]),
        hints: BTreeMap::from([("write".to_owned(), (false, true))]),
        tell: None,
        unknown: BTreeMap::from([("added_later".to_owned(), serde_json::json!({"a": [1, null]}))]),
    }
}

fn ids(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.id.as_str()).collect()
}

fn none() -> HashSet<String> {
    HashSet::new()
}

fn a_record_comes_back_as_it_was(store: &dyn Store) {
    assert!(store.get("a").unwrap().is_none());
    store.put(&record("a", 10)).unwrap();
    assert_eq!(store.get("a").unwrap().unwrap(), record("a", 10));
    let changed = Record { generation: 4, session: None, ..record("a", 11) };
    store.put(&changed).unwrap();
    assert_eq!(store.get("a").unwrap().unwrap(), changed);
    store.remove("a").unwrap();
    store.remove("a").unwrap();
    assert!(store.get("a").unwrap().is_none());
}

fn an_upstream_has_its_own_records(store: &dyn Store) {
    store.put(&record("late", 30)).unwrap();
    store.put(&record("early", 10)).unwrap();
    store.put(&Record { upstream: "files".into(), ..record("other", 20) }).unwrap();
    assert_eq!(ids(&store.all("gmail").unwrap()), ["early", "late"]);
    assert_eq!(ids(&store.all("files").unwrap()), ["other"]);
    assert!(store.all("nobody").unwrap().is_empty());
}

fn a_touch_moves_the_last_use_and_never_back(store: &dyn Store) {
    store.put(&record("a", 10)).unwrap();
    store.touch("a", 50).unwrap();
    store.touch("a", 40).unwrap();
    store.touch("nobody", 40).unwrap();
    assert_eq!(store.get("a").unwrap().unwrap().last_used, 50);
    assert_eq!(store.all("gmail").unwrap()[0].last_used, 50);
}

fn old_records_end_unless_they_are_kept(store: &dyn Store) {
    for (id, last_used) in [("old", 10), ("old-open", 11), ("new", 95)] {
        store.put(&record(id, last_used)).unwrap();
    }
    let ended = store.expire(100, 50, 10, &HashSet::from(["old-open".to_owned()])).unwrap();
    assert_eq!(ended, ["old"]);
    assert_eq!(ids(&store.all("gmail").unwrap()), ["old-open", "new"]);
}

fn too_many_records_end_from_the_least_recently_used(store: &dyn Store) {
    for n in 0..6 {
        store.put(&record(&format!("s{n}"), n)).unwrap();
    }
    store.touch("s0", 100).unwrap();
    let ended = store.expire(100, 1_000, 3, &HashSet::from(["s2".to_owned()])).unwrap();
    assert_eq!(ended, ["s1", "s3", "s4"]);
    assert_eq!(ids(&store.all("gmail").unwrap()), ["s2", "s5", "s0"]);
}

fn a_record_of_a_newer_version_is_kept_and_refused(store: &dyn Store) {
    store.put(&Record { format: FORMAT + 1, ..record("newer-session-id", 1) }).unwrap();
    store.put(&record("readable", 2)).unwrap();
    let refused = |result: Result<_, StoreError>| matches!(result, Err(StoreError::Record(RecordError::Newer { found })) if found == FORMAT + 1);
    assert!(refused(store.get("newer-session-id")));
    assert_eq!(ids(&store.all("gmail").unwrap()), ["readable"]);
    let unreadable = store.unreadable().unwrap();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].0, "newer-se", "a session id is never shown whole");
    assert!(matches!(store.put(&record("newer-session-id", 3)), Err(StoreError::Kept)));
    assert_eq!(store.expire(i64::MAX, 1, 0, &none()).unwrap(), ["readable"]);
    assert!(refused(store.get("newer-session-id")));
}

fn changes_are_taken_together_and_one_that_is_refused_leaves_the_others(store: &dyn Store) {
    store.put(&Record { format: FORMAT + 1, ..record("newer", 1) }).unwrap();
    for (id, last_used) in [("over", 2), ("used", 3), ("renewed", 4)] {
        store.put(&record(id, last_used)).unwrap();
    }
    let renewed = Record { generation: 4, ..record("renewed", 5) };
    let changes = BTreeMap::from([
        ("new", Change::Put(Box::new(record("new", 6)))),
        ("newer", Change::Put(Box::new(record("newer", 7)))),
        ("nobody", Change::Touch(8)),
        ("over", Change::Remove),
        ("renewed", Change::Put(Box::new(renewed.clone()))),
        ("used", Change::Touch(9)),
    ]);
    let changes = changes.into_iter().map(|(id, change)| (id.to_owned(), change)).collect();
    assert!(matches!(store.take(&changes)[..], [StoreError::Kept]));
    assert_eq!(ids(&store.all("gmail").unwrap()), ["renewed", "new", "used"]);
    assert_eq!(store.get("renewed").unwrap().unwrap(), renewed);
    assert_eq!(store.get("used").unwrap().unwrap().last_used, 9);
    assert_eq!(store.unreadable().unwrap().len(), 1, "that of the newer version is as it was");
    assert!(store.take(&BTreeMap::new()).is_empty());
}

const CONTRACT: [fn(&dyn Store); 7] = [
    a_record_comes_back_as_it_was,
    an_upstream_has_its_own_records,
    a_touch_moves_the_last_use_and_never_back,
    old_records_end_unless_they_are_kept,
    too_many_records_end_from_the_least_recently_used,
    a_record_of_a_newer_version_is_kept_and_refused,
    changes_are_taken_together_and_one_that_is_refused_leaves_the_others,
];

#[test]
fn the_memory_store_holds_the_contract() {
    for clause in CONTRACT {
        clause(&MemoryStore::new());
    }
}

#[test]
fn the_sqlite_store_holds_the_contract() {
    for clause in CONTRACT {
        let dir = tempfile::tempdir().unwrap();
        clause(&SqliteStore::open(dir.path()).unwrap());
    }
}

#[test]
fn where_the_file_takes_none_of_them_each_change_has_its_own_failure() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.put(&record("a", 1)).unwrap();
    let other = rusqlite::Connection::open(dir.path().join("sessions.sqlite")).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON sessions WHEN NEW.id = 'b' BEGIN SELECT RAISE(ROLLBACK, 'no b'); END",
        )
        .unwrap();
    let put = |id: &str| (id.to_owned(), Change::Put(Box::new(record(id, 2))));
    let refused = store.take(&BTreeMap::from([put("a"), put("b"), put("c")]));
    assert!(matches!(&refused[..], [StoreError::Sqlite(_)]), "{refused:?}");
    assert_eq!(ids(&store.all("gmail").unwrap()), ["a", "c"]);
    assert_eq!(store.get("a").unwrap().unwrap().last_used, 2, "what went ahead of it is there");
}

#[test]
fn records_outlive_the_store_that_wrote_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("not/yet/there");
    SqliteStore::open(&dir).unwrap().put(&record("a", 10)).unwrap();
    assert_eq!(SqliteStore::open(&dir).unwrap().get("a").unwrap().unwrap(), record("a", 10));
}

#[test]
fn every_file_of_the_store_is_private() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.put(&record("a", 10)).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 3, "database, write-ahead log and lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_second_keeper_is_locked_out_and_told_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(dir.path()).unwrap();
    let Err(StoreError::Locked { holder, .. }) = SqliteStore::open(dir.path()) else {
        panic!("two keepers may not have one store");
    };
    assert_eq!(holder, Some(std::process::id()));
    drop(first);
    SqliteStore::open(dir.path()).unwrap();
}

/// Runs only as the child of the next test: opens the store, says so, and waits to be killed.
#[test]
fn child_that_holds_the_store() {
    let Some(dir) = std::env::var_os("RELATCH_TEST_STORE") else { return };
    let store = SqliteStore::open(dir.as_ref()).unwrap();
    store.put(&record("a", 10)).unwrap();
    println!("ready");
    let _ = std::io::stdin().lines().next();
    drop(store);
}

#[test]
fn a_killed_keeper_leaves_its_records_and_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_holds_the_store", "--nocapture"])
        .env("RELATCH_TEST_STORE", dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(child.stdout.take().unwrap());
    assert!(said.lines().map_while(Result::ok).any(|line| line.ends_with("ready")));
    let Err(StoreError::Locked { holder, .. }) = SqliteStore::open(dir.path()) else {
        panic!("another process has it");
    };
    assert_eq!(holder, Some(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(SqliteStore::open(dir.path()).unwrap().get("a").unwrap().is_some());
}

#[test]
fn a_ruined_row_is_reported_and_kept_until_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let file = rusqlite::Connection::open(dir.path().join("sessions.sqlite")).unwrap();
    file.execute("INSERT INTO sessions VALUES ('ruin', 'gmail', 1, 10, '{\"format\":1')", []).unwrap();
    drop(file);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert!(store.all("gmail").unwrap().is_empty());
    assert!(matches!(store.unreadable().unwrap()[..], [(_, RecordError::Unreadable(_))]));
    assert!(matches!(store.get("ruin"), Err(StoreError::Record(RecordError::Unreadable(_)))));
    assert!(store.expire(20, 50, 10, &none()).unwrap().is_empty());
    assert_eq!(store.expire(100, 50, 10, &none()).unwrap(), ["ruin"]);
}

#[test]
fn a_store_of_a_newer_version_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let file = rusqlite::Connection::open(dir.path().join("sessions.sqlite")).unwrap();
    file.pragma_update(None, "user_version", 2).unwrap();
    drop(file);
    assert!(matches!(SqliteStore::open(dir.path()), Err(StoreError::Newer { found: 2, .. })));
}

#[test]
fn a_folder_with_other_things_in_it_is_not_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |dir: &std::path::Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o777;
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("photo.png"), "").unwrap();
    std::fs::set_permissions(shared.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let Err(StoreError::Place { cause, .. }) = SqliteStore::open(shared.path()) else { panic!("refused") };
    assert!(cause.to_string().contains("a folder of its own"), "{cause}");
    assert_eq!((mode(shared.path()), std::fs::read_dir(shared.path()).unwrap().count()), (0o755, 1));

    let file = shared.path().join("photo.png");
    let Err(StoreError::Place { cause, .. }) = SqliteStore::open(&file) else { panic!("refused") };
    assert_eq!(cause.to_string(), "it is a file, and no folder");

    let empty = tempfile::tempdir().unwrap();
    std::fs::set_permissions(empty.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(SqliteStore::open(empty.path()).unwrap());
    assert_eq!(mode(empty.path()), 0o700);
}
