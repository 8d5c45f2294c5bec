//! `pause`, `resume` and `restart` against keepers that run, and what every view says meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::stage::{self, Home, Piped, Real, Serve, reply_json, until};

#[test]
fn a_restart_between_pause_and_resume_costs_a_call_nothing_but_time_and_every_view_says_why_it_waits() {
    let home = Home::new();
    let files = Real::start(&home, 0);
    let url = files.url();
    let mut client = Piped::start(&home, &url, &["--name", "files"]);
    client.initialize();
    let write = |id: i64| json!({"name": "write", "arguments": {"note": format!("note {id}")}});
    assert!(client.ask(1, "tools/call", write(1)).get("result").is_some());
    let pid = client.program.pid();

    let (code, out, err) = home.typed(&["pause", "files", "--for", "2m"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, format!("files  paused for 2m at most; no call runs (process {pid})\n"));
    client.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": write(2)}));
    let server = until("the call waits", || {
        let server = home.server_status("files");
        (server["waiting"] == 1).then_some(server)
    });
    assert_eq!(server["health"], "recovering");
    assert_eq!(server["reason"], "paused while its server restarts");
    assert_eq!(server["conditions"][0]["code"], "paused");
    assert!(server["conditions"][0]["hint"].as_str().is_some_and(|hint| hint.contains("relatch resume")));
    assert!(server["pause"]["until"].is_string() && server["pause"]["until"] == server["next_attempt"]);
    let (code, out, _) = home.typed(&["status", "files"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("  paused while its server restarts · goes on by itself in 1m "), "{out}");

    let port = files.kill();
    let files = Real::start(&home, port);
    let (code, out, _) = home.typed(&["resume", "files"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("files  resumed after ") && out.contains("; 1 call goes on (process "), "{out}");
    assert!(client.answer(2).get("result").is_some());
    let ledger = std::fs::read_to_string(home.path().join("ledger")).unwrap();
    assert_eq!(ledger.matches("note 2").count(), 1, "{ledger}");
    let server = home.server_status("files");
    assert_eq!((&server["health"], &server["pause"]), (&json!("healthy"), &json!(null)));
    assert_eq!(server["totals"]["given_back"], 0);
    let (code, out, _) = home.typed(&["resume", "files"]);
    assert_eq!((code, out), (0, format!("files  was not paused (process {pid})\n")));
    let log = home.typed(&["log", "files"]).1;
    assert!(log.contains("  paused ") && log.contains("  resumed "), "{log}");
    drop(files);
}

#[test]
fn all_servers_of_all_keepers_are_paused_at_once_and_a_keeper_that_starts_anew_knows_of_no_pause() {
    let (files, gmail) = (stage::echo(), stage::echo());
    let home = Home::new();
    let mut client = Piped::start(&home, &files.url(), &["--name", "files"]);
    client.initialize();
    let line = format!("gmail={}", gmail.url());
    let serve = Serve::start(&home, &[&line]);
    let session = serve.session("gmail");
    let (code, out, _) = home.typed(&["pause", "--all"]);
    assert_eq!((code, out.matches("paused for 5m at most; no call runs").count()), (0, 2), "{out}");
    let header = [("Relatch-Token", serve.token.clone().unwrap())];
    let headers: Vec<(&str, &str)> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let metrics = serve.http("GET", "/metrics", &headers, "").body;
    assert!(
        metrics.contains("relatch_upstream_condition{upstream=\"gmail\",code=\"paused\"} 1\n"),
        "{metrics}"
    );
    drop(serve);
    let serve = Serve::start(&home, &[&line]);
    assert!(serve.call("gmail", &session, 1).get("result").is_some());
    assert_eq!(home.server_status("gmail")["pause"], json!(null));
    assert!(!home.server_status("files")["pause"].is_null());
    let (code, out, _) = home.typed(&["resume", "--all"]);
    assert_eq!(code, 0);
    assert!(out.contains("files  resumed after ") && out.contains("gmail  was not paused"), "{out}");
}

#[test]
fn calls_that_run_are_waited_for_and_what_is_left_of_them_is_said() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = Arc::clone(&go);
    let files = stage::server(move |got, stream| {
        until("it may go on", || wait.load(Ordering::SeqCst).then_some(()));
        reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": got.message()["id"], "result": {}}));
    });
    let home = Home::new();
    let mut client = Piped::start(&home, &files.url(), &["--name", "files"]);
    client.initialize();
    client.send(&stage::call(1));
    until("it runs", || files.got().iter().any(|got| got.body.contains("tools/call")).then_some(()));
    let (code, out, _) = home.typed(&["pause", "files", "--drain", "100ms"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("paused for 5m at most; 1 call still runs after "), "{out}");
    go.store(true, Ordering::SeqCst);
    let (code, out, _) = home.typed(&["pause", "files", "--drain", "20s"]);
    assert_eq!(code, 0, "{out}");
    assert!(client.answer(1).get("result").is_some());
}

#[test]
fn what_can_not_be_paused_or_started_anew_is_named() {
    let files = stage::echo();
    let home = Home::new();
    for line in [&["pause", "files"][..], &["resume", "files"], &["restart", "files"]] {
        assert_eq!(home.typed(line).0, 3, "{line:?}");
    }
    let _client = Piped::start(&home, &files.url(), &["--name", "files"]);
    until("it is there", || (home.typed(&["status", "files"]).0 != 3).then_some(()));
    for line in [&["pause", "flies"][..], &["resume", "flies"], &["restart", "flies"]] {
        let (code, out, err) = home.typed(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert!(err.contains("`flies`") && err.contains("`files`"), "{err}");
    }
    let (code, out, err) = home.typed(&["restart", "files"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("`files` is a server at an address, which relatch does not run"), "{err}");
    assert!(
        err.contains("hint: Run `relatch pause files`, restart it yourself, then run `relatch resume files`")
    );
    for (line, words) in [
        (&["pause", "files", "--for", "2h"][..], "longer than `1h`"),
        (&["pause", "files", "--for", "0s"], "a pause of no time is none"),
        (&["pause", "files", "--for", "1s"], "`--drain` is longer than `--for`"),
        (&["pause", "files", "--for", "soon"], "expected a number with its unit"),
        (&["pause", "files", "--all"], "cannot be used with"),
        (&["pause"], "required"),
        (&["restart"], "required"),
    ] {
        let (code, out, err) = home.typed(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert!(err.contains(words), "{line:?}: {err}");
    }
    assert_eq!(home.server_status("files")["pause"], json!(null));
}
