//! A keeper answers on its socket, and those who ask are never kept waiting.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use jiff::Timestamp;
use relatch_admin::history::{ServerHistory, TurnStatus};
use relatch_admin::link::{LinkError, LogLine, all_keepers, listed, status_of_all};
use relatch_admin::{Journal, Keeper, KeeperKind, KeeperStatus, ReconnectOutcome, Serving, control};
use relatch_core::health::State;
use relatch_core::journal::{Entry, What};

struct Still {
    journal: Arc<Journal>,
}

impl Keeper for Still {
    fn status(&self) -> KeeperStatus {
        KeeperStatus {
            pid: std::process::id(),
            kind: KeeperKind::Serve,
            version: "0.1.0".into(),
            since: Timestamp::from_second(1_700_000_000).unwrap(),
            servers: vec![],
            journal: self.journal.status(),
        }
    }

    fn reconnect(&self, name: Option<&str>) -> Vec<ReconnectOutcome> {
        ["gmail", "files"]
            .iter()
            .filter(|known| name.is_none_or(|name| name == **known))
            .map(|known| ReconnectOutcome { name: (*known).to_owned(), latches: 1 })
            .collect()
    }

    fn history(&self, name: Option<&str>, from: Option<Timestamp>) -> Vec<ServerHistory> {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let turns = [(1, State::Healthy), (5, State::Down)].map(|(second, health)| TurnStatus {
            at: at(second),
            health,
            reason: None,
        });
        let of = |known: &&str| ServerHistory {
            name: (*known).to_owned(),
            turns: turns.iter().filter(|turn| from.is_none_or(|from| turn.at >= from)).cloned().collect(),
            minutes: vec![],
        };
        ["gmail", "files"].iter().filter(|known| name.is_none_or(|name| name == **known)).map(of).collect()
    }

    fn serving(&self) -> Option<Serving> {
        Some(Serving {
            base: "http://127.0.0.1:7332".into(),
            config: Some("/relatch.toml".into()),
            state_dir: "/state".into(),
            token: true,
        })
    }

    fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }
}

fn still() -> Arc<Still> {
    Arc::new(Still { journal: Journal::in_memory() })
}

fn entry() -> Entry {
    Entry::new(What::Lost)
}

#[tokio::test]
async fn a_keeper_answers_status_and_reconnect_and_leaves_no_socket_behind() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("run");
    let control = control::serve(still(), &dir).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(control.path())), (0o700, 0o600));

    let status = status_of_all(&dir).await.unwrap();
    assert_eq!(status.keepers.len(), 1);
    assert_eq!(status.keepers[0].pid, std::process::id());
    let keepers = all_keepers(&dir).await.unwrap();
    assert_eq!(keepers[0].reconnect(Some("files")).await.unwrap()[0].name, "files");
    assert_eq!(keepers[0].reconnect(None).await.unwrap().len(), 2);
    assert!(keepers[0].reconnect(Some("unknown")).await.unwrap().is_empty());
    let serving = keepers[0].serving().await.unwrap().unwrap();
    assert_eq!((serving.base.as_str(), serving.token), ("http://127.0.0.1:7332", true));

    drop(control);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    assert!(status_of_all(&dir).await.unwrap().keepers.is_empty());
}

#[tokio::test]
async fn one_connection_serves_question_after_question_and_an_older_keeper_that_knows_one_less() {
    let dir = tempfile::tempdir().unwrap();
    let control = control::serve(still(), dir.path()).unwrap();
    let link = listed(dir.path()).unwrap().remove(0);
    let mut talk = link.talk().await.unwrap().unwrap();
    assert_eq!(talk.status().await.unwrap().pid, std::process::id());
    let all = talk.history(None, None).await.unwrap().unwrap();
    assert_eq!(
        all.iter().map(|server| (server.name.as_str(), server.turns.len())).collect::<Vec<_>>(),
        [("gmail", 2), ("files", 2)]
    );
    let since = Timestamp::from_second(1_700_000_002).unwrap();
    let one = talk.history(Some("files"), Some(since)).await.unwrap().unwrap();
    assert_eq!((one.len(), one[0].turns.len(), one[0].turns[0].health), (1, 1, State::Down));
    assert_eq!(talk.reconnect("files").await.unwrap().unwrap().latches, 1);
    assert!(talk.reconnect("unknown").await.unwrap().is_none());
    drop(control);
    assert!(matches!(link.talk().await, Ok(None)), "a keeper that is gone is no trouble");

    // A keeper that was built before there was such a question says so, and goes on.
    let older = dir.path().join(format!("{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&older).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
        stream.write_all(b"{\"error\":\"not a request: unknown variant `history`\"}\n").unwrap();
        asked
    });
    let link = listed(dir.path()).unwrap().remove(0);
    assert_eq!(link.talk().await.unwrap().unwrap().history(None, None).await.unwrap(), None);
    assert_eq!(answering.join().unwrap(), "{\"op\":\"history\",\"since\":null,\"name\":null}\n");
}

#[tokio::test]
async fn a_log_ends_or_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = still();
    let journal = keeper.journal();
    let _control = control::serve(keeper, dir.path()).unwrap();
    let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
    journal.record(at(1), "gmail", entry());
    journal.record(at(2), "files", entry());
    let link = all_keepers(dir.path()).await.unwrap().remove(0);

    let mut all = link.log(None, None, false).await.unwrap();
    let mut seen = 0;
    while all.next().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, 2);

    let mut followed = link.log(Some("files"), Some(at(2)), true).await.unwrap();
    let Some(LogLine::Entry(past)) = followed.next().await.unwrap() else { panic!("the past comes first") };
    assert_eq!((past.at, past.upstream.as_str()), (at(2), "files"));
    journal.record(at(3), "gmail", entry());
    journal.record(at(4), "files", entry());
    let Some(LogLine::Entry(new)) = followed.next().await.unwrap() else { panic!("then what is new") };
    assert_eq!(new.at, at(4));
}

#[tokio::test]
async fn a_keeper_that_hangs_is_reported_and_a_dead_one_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    // A listener that never answers, under the id of a process that lives (this one).
    let hanging = dir.path().join(format!("{}.sock", std::process::id()));
    let _listener = std::os::unix::net::UnixListener::bind(&hanging).unwrap();
    // A socket whose process is gone: the child has ended and been waited for.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let gone = child.id();
    child.wait().unwrap();
    let stale = dir.path().join(format!("{gone}.sock"));
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    std::fs::write(dir.path().join("note.txt"), "not a socket").unwrap();

    let status = status_of_all(dir.path()).await.unwrap();
    assert_eq!(status.unanswered.len(), 1);
    assert_eq!(status.unanswered[0].pid, std::process::id());
    assert!(status.unanswered[0].cause.contains("no answer within 2 s"), "{}", status.unanswered[0].cause);
    assert!(!stale.exists());
    assert!(hanging.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_get_an_error_line_and_endless_ones_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let control = control::serve(still(), dir.path()).unwrap();
    let path = control.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let mut read = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        stream.write_all(b"{\"op\":\"dance\"}\n").unwrap();
        read.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"error\":\"not a request"), "{line}");
        line.clear();
        stream.write_all(b"{\"op\":\"status\"}\n").unwrap();
        read.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"status\":"), "the connection goes on: {line}");
        line.clear();
        // As many bytes as the limit allows and one more: all are read, so that the answer isn't lost to a reset.
        stream.write_all(&[b'x'; 4097]).unwrap();
        read.read_line(&mut line).unwrap();
        assert!(line.contains("longer than 4096 bytes"), "{line}");
        line.clear();
        assert_eq!(read.read_line(&mut line).unwrap(), 0);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_keeper_that_ends_while_it_is_asked_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let control = control::serve(still(), dir.path()).unwrap();
    let link = all_keepers(dir.path()).await.unwrap().remove(0);
    drop(control);
    assert!(matches!(link.status().await, Err(LinkError::Broken { .. } | LinkError::Hangs { .. })));
}
