//! The rehearsal tells the truth about a world with and without relatch, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

fn drill(temp: &Path, line: &[&str]) -> (i32, Value) {
    let ended = Command::new(env!("CARGO_BIN_EXE_relatch"))
        .arg("drill")
        .args(line)
        .arg("--json")
        .env("TMPDIR", temp)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let account = serde_json::from_slice(&ended.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ended.stderr)));
    (ended.status.code().unwrap(), account)
}

fn outcomes(account: &Value) -> Vec<(&str, &str)> {
    let scenes = account["scenes"].as_array().unwrap();
    scenes.iter().map(|scene| (scene["code"].as_str().unwrap(), scene["outcome"].as_str().unwrap())).collect()
}

#[test]
fn without_relatch_a_client_loses_every_call_around_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let (code, account) = drill(temp.path(), &["--direct"]);
    assert_eq!(code, 1);
    assert_eq!(
        outcomes(&account),
        [
            ("call", "answered"),
            ("restart", "lost"),
            ("downtime", "lost"),
            ("in-flight", "lost"),
            ("tools-changed", "lost"),
        ]
    );
    assert_eq!(
        (&account["ok"], &account["mode"], &account["lost"]),
        (&false.into(), &"direct".into(), &4.into())
    );
    let scene = |n: usize| &account["scenes"][n];
    assert_eq!(scene(1)["note"], "HTTP 404: Session not found");
    assert_eq!(scene(3)["executions"], 1, "the call in flight had run");

    nothing_is_left(&account, temp.path());
}

/// Four servers were started, each its own process; they and their files are gone.
fn nothing_is_left(account: &Value, temp: &Path) {
    let timeline = account["timeline"].as_array().unwrap();
    let started: Vec<u32> = timeline
        .iter()
        .filter_map(|line| {
            line["text"].as_str()?.strip_prefix("started as process ")?.split([' ', ',']).next()?.parse().ok()
        })
        .collect();
    assert_eq!(started.len(), 4, "{timeline:#?}");
    for pid in &started {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    assert_eq!(std::fs::read_dir(temp).unwrap().count(), 0, "no file is left");
    let times: Vec<u64> = timeline.iter().map(|line| line["ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn through_relatch_a_client_loses_nothing_and_nothing_runs_twice() {
    let temp = tempfile::tempdir().unwrap();
    let (code, account) = drill(temp.path(), &[]);
    assert_eq!(
        outcomes(&account),
        [
            ("call", "answered"),
            ("restart", "answered"),
            ("downtime", "answered"),
            ("in-flight", "told-the-truth"),
            ("tools-changed", "answered"),
        ],
        "{account:#}"
    );
    assert_eq!(
        (code, &account["ok"], &account["lost"], &account["ran_twice"]),
        (0, &true.into(), &0.into(), &0.into())
    );
    let scenes = account["scenes"].as_array().unwrap();
    assert!(scenes.iter().all(|scene| scene["executions"] == 1), "{account:#}");
    nothing_is_left(&account, temp.path());
}

/// A server that the test ends, whatever happens.
struct Owned {
    temp: tempfile::TempDir,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.temp.path().join("pid")) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

impl Owned {
    /// The server, the command that restarts it, and what waits for the end of the first one.
    fn start() -> (Owned, String, String, std::thread::JoinHandle<()>) {
        let owned = Owned { temp: tempfile::tempdir().unwrap() };
        let dir = owned.temp.path();
        let relatch = env!("CARGO_BIN_EXE_relatch");
        let mut first = Command::new(relatch)
            .args(["drill-server", "--ledger"])
            .arg(owned.ledger())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let port = ready["port"].as_u64().unwrap();
        std::fs::write(dir.join("pid"), first.id().to_string()).unwrap();
        // Its end has to be noticed, or it stays a zombie that looks alive.
        let reaped = std::thread::spawn(move || drop(first.wait()));
        let restart = format!(
            "cd '{}' && kill -9 $(cat pid) && sleep 1 && ( '{relatch}' drill-server --port {port} --ledger ledger & echo $! > pid )",
            dir.display()
        );
        (owned, format!("http://127.0.0.1:{port}/mcp"), restart, reaped)
    }

    fn ledger(&self) -> PathBuf {
        self.temp.path().join("ledger")
    }
}

#[test]
fn with_the_users_own_server_only_harmless_things_are_called() {
    let (owned, url, restart, reaped) = Owned::start();
    let scratch = tempfile::tempdir().unwrap();
    let (code, account) = drill(scratch.path(), &[&url, "--restart", &restart, "--direct"]);
    assert_eq!(code, 1);
    assert_eq!(
        outcomes(&account),
        [
            ("call", "answered"),
            ("restart", "lost"),
            ("downtime", "lost"),
            ("in-flight", "skipped"),
            ("tools-changed", "skipped"),
        ],
        "{account:#}"
    );
    assert!(!owned.ledger().exists(), "no tool of the user's server was called");
    reaped.join().unwrap();
}

#[test]
fn through_relatch_the_users_own_server_may_restart() {
    let (owned, url, restart, reaped) = Owned::start();
    let scratch = tempfile::tempdir().unwrap();
    let (code, account) = drill(scratch.path(), &[&url, "--restart", &restart]);
    assert_eq!(
        outcomes(&account),
        [
            ("call", "answered"),
            ("restart", "answered"),
            ("downtime", "answered"),
            ("in-flight", "skipped"),
            ("tools-changed", "skipped"),
        ],
        "{account:#}"
    );
    assert_eq!((code, &account["ok"], &account["lost"]), (0, &true.into(), &0.into()));
    assert!(!owned.ledger().exists(), "no tool of the user's server was called");
    reaped.join().unwrap();
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_relatch"))
        .args(["drill", "http://127.0.0.1:9/mcp", "--restart", "true", "--direct"])
        .env("TMPDIR", temp.path())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(
        said.starts_with("error: The client can't connect to `http://127.0.0.1:9/mcp`\n  cause: "),
        "{said}"
    );
}
