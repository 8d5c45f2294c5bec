//! Announced restarts: a server that goes and comes back between `pause` and `resume`, and commands that are started anew.

mod world;

use std::path::Path;
use std::time::Duration;

use relatch_core::journal::What;
use relatch_net::announced::{NoRestart, Restart, Restarted};
use relatch_net::keeper::Keeper;
use world::*;

const MINUTE: Duration = Duration::from_secs(60);

async fn echo(seen: Seen) -> Say {
    json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, seen.id()))
}

#[tokio::test]
async fn a_call_that_comes_in_a_pause_meets_the_new_server_and_the_old_one_sees_nothing_of_it() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    assert_eq!(client.call(1, "t").await.json().await["id"], 1);
    assert_eq!(world.keeper.pause("x", MINUTE), Some(0));
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(2, "t").await }
    });
    until("it is held", || world.journalled().contains(&What::Held)).await;
    assert_eq!(world.keeper.drained("x", MINUTE).await, Some(0));
    let before = server.seen(|_| true).len();
    assert_eq!(server.seen(|seen| seen.id() == "2").len(), 0);
    let at = server.kill().await;
    let server = Server::ordinary_at(at, echo).await;
    let (since, waiting) = world.keeper.resume("x").unwrap();
    assert!(since.is_some() && waiting == 1 && before > 0);
    let answer = asking.await.unwrap().json().await;
    assert!(answer["id"] == 2 && answer["result"].is_object(), "{answer}");
    assert_eq!(server.seen(|seen| seen.method() == "tools/call").len(), 1);
    assert_eq!(world.keeper.report("x").unwrap().totals.given_back, 0);
    assert_eq!(world.keeper.resume("x"), Some((None, 0)), "there is nothing to resume");
    assert_eq!(world.keeper.pause("y", MINUTE), None);
}

#[tokio::test]
async fn who_waits_for_a_running_call_hears_how_many_are_left_when_the_time_is_over() {
    let server = Server::ordinary(|seen| async move {
        if seen.json()["params"]["name"] == "slow" {
            std::future::pending::<()>().await;
        }
        echo(seen).await
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call(1, "slow").await }
    });
    until("it runs", || world.keeper.load("x").is_some_and(|load| load.exchanges == 1 && load.attempts == 1))
        .await;
    assert_eq!(world.keeper.pause("x", MINUTE), Some(1));
    assert_eq!(world.keeper.drained("x", Duration::from_millis(50)).await, Some(1));
    slow.abort();
}

#[tokio::test]
async fn a_server_that_relatch_does_not_run_is_not_started_anew() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    assert_eq!(world.keeper.restart("x", at_once()).await, Err(NoRestart::NoCommand));
    assert_eq!(world.keeper.restart("y", at_once()).await, Err(NoRestart::Unknown));
}

// A server of a few lines of shell. It notes its start, answers with its number, and lets the call `slow` wait for the
// file `go`; if there is a file `broken`, it does not start.
const SERVER: &str = r#"
hear() { read -r line || exit 0; id=${line#*'"id":'}; id=${id%%[,\}]*}; }
[ -e broken ] && { echo 'SyntaxError: of course' >&2; exit 1; }
echo $$ >>started
hear; echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"serverInfo\":{\"name\":\"s\",\"version\":\"1\"}}}"
hear
while :; do
  hear
  case $line in
    *'"slow"'*) touch running; while [ ! -e go ]; do sleep 0.02; done;;
  esac
  echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"pid\":$$}}"
done
"#;

fn at_once() -> Restart {
    Restart { drain: Duration::ZERO, stop_first: false }
}

fn call(id: u32, tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
}

/// The processes that were started, in order.
fn started(folder: &Path) -> Vec<i64> {
    let text = std::fs::read_to_string(folder.join("started")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a process id")).collect()
}

/// One call, and which process answered it.
async fn asked(stdio: &mut Stdio, id: u32) -> i64 {
    stdio.say(&call(id, "t")).await;
    let answer = stdio.hear_json().await;
    assert_eq!(answer["id"], id, "{answer}");
    answer["result"]["pid"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

async fn one_runs(keeper: &Keeper) {
    until("one process runs", || keeper.open_sockets("x") == Some(1)).await;
}

#[tokio::test]
async fn a_command_is_started_anew_beside_the_old_one_which_finishes_its_call() {
    let folder = tempfile::tempdir().unwrap();
    let mut stdio = Stdio::running(SERVER, folder.path()).await;
    stdio.open().await;
    let old = asked(&mut stdio, 1).await;
    stdio.say(&call(2, "slow")).await;
    until("the call runs", || folder.path().join("running").exists()).await;
    let keeper = std::sync::Arc::clone(&stdio.keeper);
    let restart = Restart { drain: MINUTE, stop_first: false };
    let restarting = tokio::spawn(async move { keeper.restart("x", restart).await });
    until("the new one is there", || started(folder.path()).len() == 2).await;
    until("it is bound", || stdio.keeper.report("x").unwrap().totals.relatched == 1).await;
    let new = asked(&mut stdio, 3).await;
    assert_ne!(old, new);
    assert!(!restarting.is_finished(), "the old one has its call");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let answer = stdio.hear_json().await;
    assert_eq!((answer["id"].as_i64(), answer["result"]["pid"].as_i64()), (Some(2), Some(old)));
    let done = restarting.await.unwrap();
    assert_eq!(done, Ok(Restarted { renewed: 1, ..Restarted::default() }));
    one_runs(&stdio.keeper).await;
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_ends_with_its_process_and_says_that_it_may_have_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut stdio = Stdio::running(SERVER, folder.path()).await;
    stdio.open().await;
    stdio.say(&call(2, "slow")).await;
    until("the call runs", || folder.path().join("running").exists()).await;
    let restart = Restart { drain: Duration::from_millis(50), stop_first: false };
    let done = stdio.keeper.restart("x", restart).await;
    assert_eq!(done, Ok(Restarted { renewed: 1, cut: 1, ..Restarted::default() }));
    let answer = stdio.hear_json().await;
    assert_eq!(answer["id"], 2);
    assert_eq!(answer["error"]["data"]["relatch"]["executed"], "unknown", "{answer}");
    one_runs(&stdio.keeper).await;
    assert_eq!(asked(&mut stdio, 3).await, started(folder.path())[1]);
}

#[tokio::test]
async fn a_command_that_does_not_start_any_more_leaves_the_old_process_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut stdio = Stdio::running(SERVER, folder.path()).await;
    stdio.open().await;
    let old = asked(&mut stdio, 1).await;
    std::fs::write(folder.path().join("broken"), "").unwrap();
    let done = stdio.keeper.restart("x", at_once()).await.unwrap();
    assert_eq!((done.renewed, done.stayed, done.pending), (0, 1, 0));
    assert!(done.cause.is_some_and(|cause| cause.contains("SyntaxError: of course")));
    assert_eq!(asked(&mut stdio, 2).await, old);
    let report = stdio.keeper.report("x").unwrap();
    assert_eq!(report.conditions.iter().map(|c| c.kind.code).collect::<Vec<_>>(), ["replacement-failed"]);
    std::fs::remove_file(folder.path().join("broken")).unwrap();
    let done = stdio.keeper.restart("x", at_once()).await.unwrap();
    assert_eq!((done.renewed, done.cause), (1, None));
    assert_ne!(asked(&mut stdio, 3).await, old);
    one_runs(&stdio.keeper).await;
}

#[tokio::test]
async fn stopped_first_the_old_process_is_gone_before_the_new_one_starts() {
    let folder = tempfile::tempdir().unwrap();
    // Two at a time would be noticed.
    let script =
        format!("mkdir alone || {{ echo 'two of them' >&2; exit 9; }}\ntrap 'rmdir alone' EXIT\n{SERVER}");
    let mut stdio = Stdio::running(&script, folder.path()).await;
    stdio.open().await;
    let old = asked(&mut stdio, 1).await;
    let refused = stdio.keeper.restart("x", at_once()).await.unwrap();
    assert!(refused.stayed == 1 && refused.cause.is_some_and(|cause| cause.contains("two of them")));
    assert_eq!(asked(&mut stdio, 2).await, old);
    let stop_first = Restart { drain: MINUTE, stop_first: true };
    let done = stdio.keeper.restart("x", stop_first).await.unwrap();
    assert_eq!(done, Restarted { renewed: 1, ..Restarted::default() });
    assert_ne!(asked(&mut stdio, 3).await, old);
    // While somebody else has it paused, it is left alone.
    stdio.keeper.pause("x", MINUTE);
    assert_eq!(stdio.keeper.restart("x", stop_first).await, Err(NoRestart::Paused));
}

#[tokio::test]
async fn stopped_first_and_broken_the_command_is_said_to_be_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut stdio = Stdio::running(SERVER, folder.path()).await;
    stdio.open().await;
    asked(&mut stdio, 1).await;
    std::fs::write(folder.path().join("broken"), "").unwrap();
    let done = stdio.keeper.restart("x", Restart { drain: MINUTE, stop_first: true }).await.unwrap();
    assert_eq!((done.renewed, done.pending), (0, 1));
    assert!(done.cause.is_some_and(|cause| cause.contains("SyntaxError: of course")));
    // Mended, it comes up: what was known of the broken one says nothing of it.
    std::fs::remove_file(folder.path().join("broken")).unwrap();
    let done = stdio.keeper.restart("x", Restart { drain: MINUTE, stop_first: true }).await.unwrap();
    assert_eq!(done, Restarted { renewed: 1, ..Restarted::default() });
}

#[tokio::test]
async fn one_process_that_sessions_share_is_started_anew_once_for_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let shared = relatch_net::upstream::command::Command { shared: true, ..shell(SERVER, folder.path()) };
    let world = World::running(shared).await;
    let (one, two) = (world.opened().await, world.opened().await);
    let mut old = Vec::new();
    for client in [&one, &two] {
        old.push(client.call(1, "t").await.json().await["result"]["pid"].as_i64().expect("a process"));
    }
    assert_eq!(old[0], old[1]);
    std::fs::write(folder.path().join("broken"), "").unwrap();
    let done = world.keeper.restart("x", at_once()).await.unwrap();
    assert_eq!((done.renewed, done.stayed), (0, 2), "{done:?}");
    assert_eq!(one.call(2, "t").await.json().await["result"]["pid"], old[0]);
    std::fs::remove_file(folder.path().join("broken")).unwrap();
    let done = world.keeper.restart("x", at_once()).await.unwrap();
    assert_eq!(done, Restarted { renewed: 2, ..Restarted::default() });
    for client in [&one, &two] {
        let new = client.call(3, "t").await.json().await["result"]["pid"].as_i64().expect("a process");
        assert!(new == started(folder.path())[1] && new != old[0], "{new}");
    }
    one_runs(&world.keeper).await;
}
