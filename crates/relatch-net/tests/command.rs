//! Servers that are commands, each a few lines of shell that behave badly, behind the stdio side.

mod world;

use http::{HeaderMap, Method};
use relatch_core::policy::Policy;
use relatch_net::keeper::ServerConfig;
use relatch_net::upstream::command::Command;
use world::*;

/// Reads a message and the id that it has.
const HEAR: &str = r#"hear() { read -r line || exit 0; id=${line#*'"id":'}; id=${id%%[,\}]*}; }
"#;

/// Lets its client in.
const OPEN: &str = r#"hear; echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"serverInfo\":{\"name\":\"s\",\"version\":\"1\"}}}"
hear
"#;

/// Answers whatever it is asked.
const SERVE: &str = r#"while :; do hear; echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{}}"; done
"#;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;

#[tokio::test]
async fn a_call_is_told_of_the_end_of_its_process_though_another_program_holds_the_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{HEAR}if mkdir first 2>/dev/null; then setsid sleep 60 <&0 & fi\n{OPEN}hear; echo $! >left; exit 7"
    );
    let mut stdio = Stdio::running(&script, folder.path()).await;
    stdio.open().await;
    stdio.say(CALL).await;
    let answer = stdio.hear_json().await;
    assert_eq!(answer["id"], 1);
    // It was read: it may have run.
    assert_eq!(answer["error"]["data"]["relatch"]["executed"], "unknown", "{answer}");
    let left = std::fs::read_to_string(folder.path().join("left")).unwrap();
    std::process::Command::new("kill").arg(left.trim()).status().unwrap();
}

#[tokio::test]
async fn a_process_that_takes_nothing_any_more_is_replaced_and_the_call_runs_in_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{HEAR}{OPEN}if mkdir first 2>/dev/null; then exec 0<&-; mkdir deaf; exec sleep 60; fi\n{SERVE}"
    );
    let mut stdio = Stdio::running(&script, folder.path()).await;
    stdio.open().await;
    until("it takes nothing any more", || folder.path().join("deaf").is_dir()).await;
    stdio.say(CALL).await;
    let answer = stdio.hear_json().await;
    assert!(answer["id"] == 1 && answer["result"].is_object(), "{answer}");
}

#[tokio::test]
async fn a_process_that_says_nothing_any_more_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "{HEAR}{OPEN}if mkdir first 2>/dev/null; then exec >/dev/null; mkdir mute; while :; do hear; done; fi\n{SERVE}"
    );
    let mut stdio = Stdio::running(&script, folder.path()).await;
    stdio.open().await;
    until("it says nothing any more", || folder.path().join("mute").is_dir()).await;
    stdio.say(CALL).await;
    let answer = stdio.hear_json().await;
    assert!(answer["id"] == 1, "{answer}");
    stdio.say(&CALL.replace("\"id\":1", "\"id\":2")).await;
    let answer = stdio.hear_json().await;
    assert!(answer["id"] == 2 && answer["result"].is_object(), "{answer}");
}

#[tokio::test]
async fn a_process_whose_answer_to_initialize_is_none_is_not_left_running() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{HEAR}echo $$ >>started\n{SERVE}");
    let mut stdio = Stdio::running(&script, folder.path()).await;
    stdio.say(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#)
        .await;
    assert!(stdio.hear_json().await["error"].is_object());
    assert!(!std::fs::read_to_string(folder.path().join("started")).unwrap().is_empty());
    let keeper = &stdio.keeper;
    until("none runs", || keeper.open_sockets("x") == Some(0)).await;
}

/// Whether a process is there and no corpse.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

#[tokio::test]
async fn two_sessions_that_share_a_process_each_get_the_answer_to_their_own_request_under_their_own_id() {
    let folder = tempfile::tempdir().unwrap();
    // Both calls are there before either is answered, the second one first.
    let script = format!(
        r#"{HEAR}echo $$ >>started
tell() {{ echo "{{\"jsonrpc\":\"2.0\",\"id\":$1,\"result\":{{\"tool\":\"$2\"}}}}"; }}
tool() {{ tool=${{line#*'"name":"'}}; tool=${{tool%%'"'*}}; }}
next() {{ hear; case $line in *'"ping"'*) tell "$id" none; next;; esac; }}
{OPEN}while :; do
next; first=$id; tool; one=$tool
next; tool; [ "$first" = "$id" ] && exit 1
tell "$id" "$tool"; tell "$first" "$one"
done
"#
    );
    let shared = Command { shared: true, ..shell(&script, folder.path()) };
    let world = World::running(shared).await;
    let (one, two) = (world.opened().await, world.opened().await);
    for _ in 0..3 {
        let (to_one, to_two) = tokio::join!(one.call(1, "of-one"), two.call(1, "of-two"));
        for (answer, tool) in [(to_one.json().await, "of-one"), (to_two.json().await, "of-two")] {
            assert!(answer["id"] == 1 && answer["result"]["tool"] == tool, "{tool}: {answer}");
        }
    }
    let started = std::fs::read_to_string(folder.path().join("started")).unwrap();
    assert_eq!((started.lines().count(), world.keeper.open_sockets("x")), (1, Some(1)));
    one.send(Method::DELETE, "/x/mcp", "".into(), &[]).await;
    assert!(alive(&started), "another session is at it");
    two.send(Method::DELETE, "/x/mcp", "".into(), &[]).await;
    until("it ends with its last session", || !alive(&started)).await;
    assert_eq!(world.keeper.open_sockets("x"), Some(0));
}

#[tokio::test]
async fn a_shared_process_that_does_not_open_fails_every_session_that_waits_for_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let shared = Command {
        shared: true,
        ..shell("echo $$ >>started; read -r line; echo no account >&2; exit 3", folder.path())
    };
    let world = World::running(shared).await;
    let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
    let client = world.client();
    let (one, two) = tokio::join!(client.post(hello), client.post(hello));
    for answer in [one.json().await, two.json().await] {
        let words = answer["error"]["data"]["relatch"]["cause"].to_string();
        assert!(words.contains("exited with status 3; on stderr it had said `no account`"), "{answer}");
    }
    until("none runs", || world.keeper.open_sockets("x") == Some(0)).await;
}

#[tokio::test]
async fn a_keeper_that_ends_takes_the_processes_of_former_places_along() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("{HEAR}echo $$ >>started\n{OPEN}hear; mkdir asked; while :; do hear; done");
    let world = World::running(shell(&script, folder.path())).await;
    let client = world.opened().await;
    // A call that runs keeps its process, wherever others are started by then.
    let calling = tokio::spawn(async move { client.call(1, "t").await.json().await });
    until("the call runs", || folder.path().join("asked").is_dir()).await;
    let started = std::fs::read_to_string(folder.path().join("started")).unwrap();
    let other = Command { env: vec![("A".to_owned(), "b".to_owned())], ..shell(&script, folder.path()) };
    let policy = Policy { process: true, ..Policy::new("x", "sh") };
    let applied =
        world.keeper.apply(vec![ServerConfig { policy, headers: HeaderMap::new(), address: other.into() }]);
    assert_eq!(applied.changed, [("x".to_owned(), vec!["env, cwd, inherit_env or shared".to_owned()])]);
    assert!(alive(&started));
    world.keeper.close().await;
    assert!(!alive(&started));
    assert_eq!(calling.await.unwrap()["error"]["data"]["relatch"]["executed"], "unknown");
    until("every process has ended", || {
        let started_by_now = std::fs::read_to_string(folder.path().join("started")).unwrap();
        started_by_now.lines().all(|pid| !alive(pid))
    })
    .await;
}
