//! Servers that are commands, each a few lines of shell that behave badly, behind the stdio side.

mod world;

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
