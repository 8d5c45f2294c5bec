//! What a person types and reads: the built program against keepers that answer on real control sockets.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use relatch_admin::control::{self, Control};
use relatch_admin::history::ServerHistory;
use relatch_admin::schema::{
    ClientStatus, ConditionStatus, LatencyStatus, ServerStatus, SessionStatus, SuccessStatus,
};
use relatch_admin::{Journal, Keeper, KeeperKind, KeeperStatus, ReconnectOutcome};
use relatch_core::Gen;
use relatch_core::health::{Facets, State, Totals};
use relatch_core::journal::{Entry, What};

fn relatch(run: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relatch"));
    command
        .env("RELATCH_RUNTIME_DIR", run)
        .env("XDG_STATE_HOME", run.join("state"))
        .env("XDG_CONFIG_HOME", run.join("config"))
        .env_remove("RELATCH_CONFIG")
        .env("TZ", "UTC")
        .env_remove("RELATCH_LOG")
        .stdin(Stdio::null());
    command
}

fn typed(run: &Path, line: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = relatch(run).args(line).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

struct Still {
    journal: Arc<Journal>,
    servers: Vec<ServerStatus>,
}

impl Keeper for Still {
    fn status(&self) -> KeeperStatus {
        KeeperStatus {
            pid: std::process::id(),
            kind: KeeperKind::Serve,
            version: "0.1.0".into(),
            since: before(7_800),
            servers: self.servers.clone(),
            journal: self.journal.status(),
        }
    }

    fn reconnect(&self, name: Option<&str>) -> Vec<ReconnectOutcome> {
        self.servers
            .iter()
            .filter(|server| name.is_none_or(|name| name == server.name))
            .map(|server| ReconnectOutcome { name: server.name.clone(), latches: server.sessions.len() })
            .collect()
    }

    fn history(&self, _: Option<&str>, _: Option<Timestamp>) -> Vec<ServerHistory> {
        Vec::new()
    }

    fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }
}

fn before(seconds: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap()
}

fn server(name: &str, health: State) -> ServerStatus {
    let well = health == State::Healthy;
    ServerStatus {
        name: name.to_owned(),
        url: format!("http://127.0.0.1:8761/{name}"),
        health,
        since: before(600),
        reason: (!well).then(|| "refused 3 connections".to_owned()),
        facets: Facets { reachable: Some(well), ..Facets::default() },
        conditions: if well { vec![] } else { vec![condition()] },
        last_success: Some(SuccessStatus { at: before(180), method: "tools/call".into(), ms: 12.0 }),
        last_failure: None,
        pause: None,
        next_attempt: None,
        server: None,
        sessions: vec![SessionStatus {
            id: "0a1b2c3d".into(),
            generation: 4,
            state: "bound".into(),
            opened: before(7_800),
            bound: Some(before(720)),
            last_used: before(180),
            client: Some(ClientStatus { name: "claude-code".into(), version: "2.1.330".into() }),
            open: 0,
            copy: None,
        }],
        waiting: 0,
        totals: Totals { calls: 120, relatched: 3, answered: 120, ..Totals::default() },
        latency_ms: LatencyStatus { p50: 3.0, p99: 40.0 },
        stderr: Vec::new(),
    }
}

fn condition() -> ConditionStatus {
    ConditionStatus {
        code: "endpoint-missing".into(),
        title: "Something else answers at the server's address".into(),
        depends_on: vec![],
        since: before(600),
        cause: "the address answers 404".into(),
        effect: "Calls wait up to 45s".into(),
        hint: "Start the server".into(),
    }
}

/// A keeper that runs in this test's process.
struct Running {
    dir: tempfile::TempDir,
    journal: Arc<Journal>,
    control: Option<Control>,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn with(servers: Vec<ServerStatus>) -> Running {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::in_memory();
        let keeper = Arc::new(Still { journal: Arc::clone(&journal), servers });
        let control = {
            let _entered = runtime.enter();
            control::serve(keeper, dir.path()).unwrap()
        };
        Running { dir, journal, control: Some(control), runtime }
    }

    fn run(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.control.take();
    }
}

fn relatched(detail: &str) -> Entry {
    Entry {
        generation: Some(Gen(4)),
        ms: Some(12),
        detail: Some(detail.to_owned()),
        ..Entry::new(What::Relatched)
    }
}

#[test]
fn without_a_keeper_every_question_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    for line in [&["status"][..], &["status", "gmail", "--json"], &["reconnect", "--all"], &["log"]] {
        let (code, out, err) = typed(&dir.path().join("never-made"), line);
        assert_eq!((code, out.as_str()), (3, ""), "{line:?}");
        assert_eq!(
            err,
            "error: No keeper of this user runs\n\
             hint: Start one with `relatch serve NAME=URL`, or let a client start `relatch stdio URL`\n"
        );
    }
}

#[test]
fn status_is_zero_when_all_is_well_and_one_when_something_is_not() {
    let keeper = Running::with(vec![server("gmail", State::Healthy)]);
    let (code, out, err) = typed(keeper.run(), &["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("NAME   HEALTH"), "{out}");
    assert!(out.contains("\ngmail  ✓ healthy  10m  g4 12m     120          3"), "{out}");
    assert!(out.ends_with("  tools/call 3m ago (12 ms)\n"), "{out}");
    assert!(!out.contains('\x1b'), "no colour without a terminal");

    let keeper = Running::with(vec![server("gmail", State::Healthy), server("linear", State::Down)]);
    let (code, out, _) = typed(keeper.run(), &["status"]);
    assert_eq!(code, 1);
    assert!(out.contains("✗ down"), "{out}");
    assert!(out.contains("  refused 3 connections\n"), "{out}");
    assert!(
        out.contains(
            "\n  Something else answers at the server's address for 10m: the address answers 404 · Calls wait up to 45s\n"
        ),
        "{out}"
    );
    assert!(out.contains("\n  hint: Start the server (`relatch explain endpoint-missing`)\n"), "{out}");
    // One that is well is judged by itself.
    let (code, out, _) = typed(keeper.run(), &["status", "gmail"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("gmail  ✓ healthy for 10m\n"), "{out}");
    assert!(out.contains("claude-code 2.1.330"), "{out}");
}

#[test]
fn a_watched_status_is_printed_anew_when_something_turns_and_ends_with_its_reader() {
    use std::io::{BufRead, BufReader};

    let mut keeper = Running::with(vec![server("gmail", State::Healthy)]);
    let watch = |options: &[&str]| {
        let mut command = relatch(keeper.run());
        command.args(["status", "--watch"]).args(options).stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let (mut table, mut json) = (watch(&[]), watch(&["--json"]));
    let mut lines = BufReader::new(table.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut objects = BufReader::new(json.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("NAME   HEALTH"));
    assert!(lines.next().unwrap().starts_with("gmail  ✓ healthy"));
    let object: serde_json::Value = serde_json::from_str(&objects.next().unwrap()).unwrap();
    assert_eq!(object["keepers"][0]["servers"][0]["health"], "healthy");
    {
        let _entered = keeper.runtime.enter();
        keeper.control.take();
    }
    assert_eq!(lines.next().unwrap(), "No keeper of this user runs");
    assert_eq!(objects.next().unwrap(), r#"{"schema":1,"keepers":[],"unanswered":[]}"#);
    // Nobody reads any more: the next news are its end.
    drop((lines, objects));
    {
        let _entered = keeper.runtime.enter();
        let still =
            Still { journal: Arc::clone(&keeper.journal), servers: vec![server("gmail", State::Down)] };
        keeper.control = Some(control::serve(Arc::new(still), keeper.dir.path()).unwrap());
    }
    assert_eq!(table.wait().unwrap().code(), Some(0));
    assert_eq!(json.wait().unwrap().code(), Some(0));
}

#[test]
fn status_as_json_is_the_stable_schema() {
    let keeper = Running::with(vec![server("gmail", State::Healthy)]);
    let (code, out, _) = typed(keeper.run(), &["status", "--json"]);
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["keepers"][0]["pid"], std::process::id());
    assert_eq!(json["keepers"][0]["servers"][0]["totals"]["relatched"], 3);
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let keeper = Running::with(vec![server("linear", State::Healthy), server("gmail", State::Healthy)]);
    for line in [&["status", "gmial"][..], &["reconnect", "gmial"], &["log", "gmial"]] {
        let (code, out, err) = typed(keeper.run(), line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert_eq!(
            err,
            "error: No keeper has a server called `gmial`\nhint: The known ones are `gmail`, `linear`\n"
        );
    }
}

#[test]
fn a_keeper_that_hangs_is_shown_and_is_not_well() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(format!("{}.sock", std::process::id()));
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let (code, out, _) = typed(dir.path(), &["status"]);
    assert_eq!(code, 1);
    assert!(out.contains("✗ hangs") && out.contains("no answer within 2 s"), "{out}");
}

#[test]
fn reconnect_says_what_it_asked_for() {
    let keeper = Running::with(vec![server("gmail", State::Healthy), server("linear", State::Healthy)]);
    let pid = std::process::id();
    let (code, out, _) = typed(keeper.run(), &["reconnect", "gmail"]);
    assert_eq!((code, out), (0, format!("gmail  relatching 1 session (process {pid})\n")));
    let (code, out, _) = typed(keeper.run(), &["reconnect", "--all"]);
    assert_eq!((code, out.lines().count()), (0, 2));
    let (code, _, err) = typed(keeper.run(), &["reconnect"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn the_log_is_read_from_a_date_and_of_one_server() {
    let keeper = Running::with(vec![server("gmail", State::Healthy), server("linear", State::Healthy)]);
    keeper.journal.record("2020-01-01T10:00:00Z".parse().unwrap(), "gmail", relatched("long ago"));
    keeper.journal.record(before(60), "linear", relatched("elsewhere"));
    keeper.journal.record(before(30), "gmail", relatched("just now"));
    let (code, out, _) = typed(keeper.run(), &["log"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0],
        "2020-01-01 10:00:00.000  gmail     relatched            a new session after 12 ms: long ago (generation 4)"
    );
    let (_, out, _) = typed(keeper.run(), &["log", "gmail", "--since", "10m", "--json"]);
    let entry: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(entry["detail"], "just now");
    assert_eq!(entry["what"], "relatched");
    let (_, out, _) = typed(keeper.run(), &["log", "--since", "2019-01-01T00:00:00Z"]);
    assert_eq!(out.lines().count(), 3);
}

#[test]
fn a_followed_log_goes_on_and_nothing_comes_twice() {
    let keeper = Running::with(vec![server("gmail", State::Healthy)]);
    keeper.journal.record(before(1), "gmail", relatched("before"));
    let mut child = relatch(keeper.run())
        .args(["log", "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"before\""));
    keeper.journal.record(Timestamp::now(), "gmail", relatched("after"));
    assert!(lines.next().unwrap().unwrap().contains("\"after\""));
    keeper.journal.record(Timestamp::now(), "gmail", relatched("and on"));
    assert!(lines.next().unwrap().unwrap().contains("\"and on\""), "nothing came twice");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn wrong_usage_has_its_own_words_and_never_repeats_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    for (line, said) in [
        (&["stdio", "127.0.0.1:8761"][..], "is no address of an MCP server"),
        (&["stdio", "http://h/", "--name", "A b"], "`A b` can't be the name of a server"),
        (&["stdio", "http://h/", "--header", "s3cret"], "has no colon between name and value"),
        (&["stdio", "http://h/", "--header", "Host: s3cret"], "`--header Host` can't be set"),
        (&["stdio", "http://me:s3cret@h/"], "it carries a user or password"),
        (&["stdio", "http://h/", "--hold", "45"], "expected a number with its unit"),
        (
            &["stdio", "http://h/", "--replay", "a=perhaps"],
            "expected a tool or pattern and `always` or `never`",
        ),
        (&["serve", "a=http://h/", "a=http://h/"], "`a` is given twice"),
        (&["serve"], "There is no server to serve"),
        (&["serve", "--config", "/nowhere/s.toml"], "`/nowhere/s.toml` is not there"),
        (&["stdio", "gmail"], "no server of the configuration file"),
        (&["stdio", "http://h/", "--config", "x"], "takes nothing from a file"),
        (&["config", "check"], "hint: `relatch add NAME URL` makes it"),
        (&["add", "a b", "http://h/"], "`a b` can't be the name of a server"),
        (&["add", "a", "nonsense"], "`nonsense` is no address of an MCP server"),
        (&["add", "a", "nonsense"], "it does not begin with `http://` or `https://`"),
        (&["serve", "gmail"], "Write it as `gmail=URL`"),
        (&["add", "a", "http://me:s3cret@h/"], "it carries a user or password"),
        (&["add", "a", "http://h/${A"], "A `${` is not closed"),
        (&["add", "a"], "required arguments"),
        (&["add", "a", "--header", "X: 1", "--", "npx", "server"], "A command takes no header"),
        (&["add", "a", "--transport", "sse", "--", "npx", "server"], "A command takes no `--transport`"),
        (&["stdio", "--transport", "sse", "--", "npx", "server"], "A command takes no `--transport`"),
        (&["stdio", "http://h/sse", "--transport", "ssh"], "it is `auto`, `http` or `sse`"),
        (&["remove", "a"], "relatch.toml` is not there"),
        (&["config", "florist"], "unrecognized subcommand 'florist'"),
        (&["serve", "a=http://h/", "--listen", "7332"], "expected an address with its port"),
        (&["serve", "a=http://h/", "b=http://h/", "--header", "A: s3cret"], "has to say which one it is for"),
        (&["serve", "a=http://h/", "--florist"], "unexpected argument '--florist'"),
        (&["explain", "florist"], "There is no code `florist`"),
        (&["explain", "upstream-dwon"], "hint: The nearest is `upstream-down`"),
        (&["drill", "http://h/"], "--restart <CMD>"),
        (&["log", "--since", "soon"], "expected a span such as `10m`"),
        (&["florist"], "unrecognized subcommand 'florist'"),
    ] {
        let (code, out, err) = typed(dir.path(), line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {err}");
        assert!(err.contains(said), "{line:?}: {err}");
        assert!(!err.contains("s3cret"), "{line:?}: {err}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let dir = tempfile::tempdir().unwrap();
    for command in [
        "stdio",
        "serve",
        "status",
        "top",
        "reconnect",
        "log",
        "drill",
        "page",
        "explain",
        "config",
        "reload",
        "add",
        "remove",
    ] {
        let (code, out, _) = typed(dir.path(), &[command, "--help"]);
        assert_eq!(code, 0);
        assert!(out.contains("Example"), "{out}");
    }
    let (_, out, _) = typed(dir.path(), &["--help"]);
    assert!(!out.contains("drill-server"), "the rehearsal's server is nobody's business");
}

#[test]
fn a_reader_that_closes_early_is_no_bug() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = relatch(dir.path())
        .args(["explain", "delivery-unknown"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_ne!(ended.status.code(), Some(70), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn shells_and_manuals_know_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let help = typed(dir.path(), &["--help"]).1;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"status") && commands.len() > 8, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let (code, out, _) = typed(dir.path(), &["completions", shell]);
        assert_eq!(code, 0);
        for command in &commands {
            assert!(out.contains(command), "{shell} does not know `{command}`");
        }
    }
    let (code, page, _) = typed(dir.path(), &["man"]);
    assert_eq!(code, 0);
    assert!(page.contains(".TH relatch 1"), "{page}");
    let pages = dir.path().join("man1");
    assert_eq!(typed(dir.path(), &["man", pages.to_str().unwrap()]).0, 0);
    for command in &commands {
        let page = std::fs::read_to_string(pages.join(format!("relatch-{command}.1"))).unwrap();
        assert!(page.contains("Example") && page.contains(&format!("relatch\\-{command}")), "{page}");
    }
    assert!(!pages.join("relatch-drill-server.1").exists(), "hidden commands have no page");
}
