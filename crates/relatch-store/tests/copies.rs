//! What is kept for clients that start before their server: whose it is, how long it holds, and what a damaged file does.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use relatch_store::copies::{COPY_AGE_MS, COPY_BYTES, CopyStore, News, Subject};

const NOW: i64 = 1_795_654_920_000;

fn subject() -> Subject {
    Subject {
        upstream: "gmail".to_owned(),
        address: "http://127.0.0.1:8761/mcp?key=s3cret".to_owned(),
        revision: "2025-11-25".to_owned(),
        client: "{}".to_owned(),
        credentials: vec![("authorization".to_owned(), b"Bearer s3cret".to_vec())],
    }
}

fn hello(text: &str) -> News {
    News { initialize: Some(text.to_owned()), lists: BTreeMap::new() }
}

fn list(text: &str) -> News {
    News {
        initialize: None,
        lists: BTreeMap::from([("tools/list".to_owned(), vec![(None, text.to_owned())])]),
    }
}

#[test]
fn a_copy_is_for_whom_it_was_made_and_for_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = CopyStore::open(dir.path()).unwrap();
    store.keep(&subject(), hello("h"), NOW).unwrap();
    store.keep(&subject(), list("l"), NOW).unwrap();
    let copy = store.find(&subject(), NOW).unwrap().unwrap();
    assert_eq!((copy.initialize.as_str(), copy.made), ("h", NOW));
    assert_eq!(copy.lists["tools/list"].pages, [(None, "l".to_owned())]);
    let others = [
        Subject { upstream: "other".to_owned(), ..subject() },
        Subject { address: "http://127.0.0.1:8762/mcp".to_owned(), ..subject() },
        Subject { revision: "2025-06-18".to_owned(), ..subject() },
        Subject { client: r#"{"roots":{}}"#.to_owned(), ..subject() },
        Subject { credentials: Vec::new(), ..subject() },
        Subject { credentials: vec![("authorization".to_owned(), b"Bearer other".to_vec())], ..subject() },
        // What is one thing here is not another there.
        Subject { credentials: vec![("authorizationBearer s3cret".to_owned(), Vec::new())], ..subject() },
    ];
    for other in others {
        assert_eq!(store.find(&other, NOW).unwrap(), None);
    }
}

#[test]
fn another_keeper_of_the_same_folder_has_it_too_and_both_may_write() {
    let dir = tempfile::tempdir().unwrap();
    let one = CopyStore::open(dir.path()).unwrap();
    let other = CopyStore::open(dir.path()).unwrap();
    one.keep(&subject(), hello("h"), NOW).unwrap();
    other.keep(&subject(), list("l"), NOW + 5).unwrap();
    for store in [one, other] {
        let copy = store.find(&subject(), NOW + 5).unwrap().unwrap();
        assert_eq!((copy.made, copy.lists["tools/list"].made), (NOW, NOW + 5));
    }
}

#[test]
fn many_keepers_that_write_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let dir = dir.path();
            scope.spawn(move || {
                let store = CopyStore::open(dir).unwrap();
                for m in 0..5 {
                    let mine = Subject { client: format!("{n}/{m}"), ..subject() };
                    store.keep(&mine, hello("h"), NOW).unwrap();
                    store.keep(&mine, list("l"), NOW).unwrap();
                }
            });
        }
    });
    let store = CopyStore::open(dir.path()).unwrap();
    for n in 0..30 {
        let mine = Subject { client: format!("{}/{}", n / 5, n % 5), ..subject() };
        assert!(store.find(&mine, NOW).unwrap().unwrap().lists.contains_key("tools/list"), "{n}");
    }
}

#[test]
fn what_the_server_said_long_ago_is_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = CopyStore::open(dir.path()).unwrap();
    store.keep(&subject(), hello("h"), NOW).unwrap();
    store.keep(&subject(), list("l"), NOW).unwrap();
    assert!(store.find(&subject(), NOW + COPY_AGE_MS).unwrap().is_some());
    assert!(store.find(&subject(), NOW + COPY_AGE_MS + 1).unwrap().is_none());
    // The server says the same again, but nobody asked for the list.
    store.keep(&subject(), hello("h"), NOW + COPY_AGE_MS + 1).unwrap();
    assert!(store.find(&subject(), NOW + COPY_AGE_MS + 1).unwrap().unwrap().lists.is_empty());
}

#[test]
fn credentials_that_were_refused_and_answers_that_do_not_hold_take_their_copies_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = CopyStore::open(dir.path()).unwrap();
    let older = Subject { revision: "2025-06-18".to_owned(), ..subject() };
    let stranger = Subject { credentials: Vec::new(), ..subject() };
    for subject in [&subject(), &older, &stranger] {
        store.keep(subject, hello("h"), NOW).unwrap();
    }
    store.remove(&older).unwrap();
    assert!(store.find(&older, NOW).unwrap().is_none());
    assert!(store.find(&subject(), NOW).unwrap().is_some());
    store.refuse(&older).unwrap();
    assert!(store.find(&subject(), NOW).unwrap().is_none());
    assert!(store.find(&stranger, NOW).unwrap().is_some());
}

#[test]
fn there_are_bounds_for_one_copy_and_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = CopyStore::open(dir.path()).unwrap();
    store.keep(&subject(), hello("h"), NOW).unwrap();
    store.keep(&subject(), list(&"l".repeat(COPY_BYTES)), NOW).unwrap();
    assert!(store.find(&subject(), NOW).unwrap().unwrap().lists.is_empty());
    for n in 0..300 {
        let one = Subject { client: n.to_string(), ..subject() };
        store.keep(&one, hello("h"), NOW + 1 + n).unwrap();
    }
    let there = |n: i64| store.find(&Subject { client: n.to_string(), ..subject() }, NOW).unwrap().is_some();
    assert!(!there(43) && there(44) && there(299));
    for n in 300..320 {
        let one = Subject { client: n.to_string(), ..subject() };
        store.keep(&one, hello(&"h".repeat(COPY_BYTES - 100)), NOW + 1 + n).unwrap();
    }
    assert!(there(319) && there(305) && !there(303) && !there(299));
}

#[test]
fn the_file_is_private_and_holds_no_credential() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("copies");
    let store = CopyStore::open(&folder).unwrap();
    store.keep(&subject(), hello("h"), NOW).unwrap();
    drop(store);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"s3cret"), "{}", path.display());
    }
    assert!(!format!("{:?}", subject()).contains("s3cret"));
}

#[test]
fn what_can_not_be_read_is_as_if_it_were_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copies.sqlite");
    std::fs::write(&path, "no database at all, and long enough to be looked at as one".repeat(50)).unwrap();
    let store = CopyStore::open(dir.path()).unwrap();
    store.keep(&subject(), hello("h"), NOW).unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute("UPDATE copies SET copy = '{\"format\":1'", []).unwrap();
    assert!(store.find(&subject(), NOW).unwrap().is_none());
    store.keep(&subject(), hello("again"), NOW).unwrap();
    assert_eq!(store.find(&subject(), NOW).unwrap().unwrap().initialize, "again");
}

#[test]
fn what_a_newer_version_wrote_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = CopyStore::open(dir.path()).unwrap();
    store.keep(&subject(), hello("h"), NOW).unwrap();
    let raw = rusqlite::Connection::open(dir.path().join("copies.sqlite")).unwrap();
    let newer = r#"{"format":2,"all":"else"}"#;
    raw.execute("UPDATE copies SET copy = ?1", [newer]).unwrap();
    assert!(store.find(&subject(), NOW).unwrap().is_none());
    store.keep(&subject(), hello("again"), NOW).unwrap();
    let text: String = raw.query_row("SELECT copy FROM copies", [], |row| row.get(0)).unwrap();
    assert_eq!(text, newer);
    raw.pragma_update(None, "user_version", 9).unwrap();
    let words = CopyStore::open(dir.path()).unwrap_err().to_string();
    assert!(words.contains("newer version"), "{words}");
}
