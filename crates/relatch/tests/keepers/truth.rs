//! `status`, `log` and `reconnect` against keepers that run: every word has its evidence.

use serde_json::{Value, json};

use crate::stage::{self, Home, Piped, Real, Serve, until};

/// Waits until the upstream `name` is as `health` says, and gives its status.
fn becomes(home: &Home, name: &str, health: &str) -> Value {
    until(&format!("`{name}` is {health}"), || {
        let server = home.server_status(name);
        (server["health"] == health).then_some(server)
    })
}

/// A transcript without what differs from run to run: times, process ids, ports, session ids.
fn steady(text: &str, replaced: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in replaced {
        text = text.replace(from, to);
    }
    let span = |word: &str| {
        word == "<1s"
            || word.strip_suffix('s').is_some_and(|n| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()))
    };
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            let clock = word.len() == 12 && word.as_bytes()[2] == b':' && word.as_bytes()[8] == b'.';
            let (bare, colon) = word.strip_suffix(':').map_or((word, ""), |bare| (bare, ":"));
            if word == "ms" && words.last().is_some_and(|last: &String| last == "<1" || last.contains('/')) {
                words.pop();
                words.push("P".to_owned());
                continue;
            }
            words.push(if span(bare) || clock { format!("…{colon}") } else { word.to_owned() });
        }
        lines.push(format!("{}{}", " ".repeat(indent), words.join(" ")));
    }
    lines.join("\n")
}

#[test]
fn every_keeper_of_the_user_is_in_one_table_and_each_word_has_its_evidence() {
    let (files, mut gmail) = (stage::echo(), stage::echo());
    let home = Home::new();
    let mut client = Piped::start(&home, &files.url(), &["--name", "files"]);
    // Keepers stand in the order in which they began.
    stage::until("the first keeper", || home.typed(&["status"]).1.contains("files").then_some(()));
    let serve = Serve::start(
        &home,
        &[&format!("gmail={}", gmail.url()), "linear=http://127.0.0.1:9/mcp", "--hold", "2s"],
    );

    // Nothing was asked of anybody yet: nothing is known.
    let (code, out, _) = home.typed(&["status"]);
    assert_eq!((code, out.lines().count()), (1, 4), "{out}");
    assert_eq!(out.matches("? unknown").count(), 3, "{out}");
    assert_eq!(out.matches("no answer seen yet · no client is attached\n").count(), 3, "{out}");

    client.initialize();
    client.call(1);
    let session = serve.session("gmail");
    serve.call("gmail", &session, 1);
    let refused = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": stage::handshake()});
    assert_eq!(
        serve.post("linear", None, &[], &refused).message()["error"]["data"]["relatch"]["code"],
        "upstream-down"
    );
    let (code, out, err) = home.typed(&["status"]);
    assert_eq!((code, err.as_str()), (1, ""));
    let (serving, piping) = (serve.program.pid().to_string(), client.program.pid().to_string());
    let pids = [(serving.as_str(), "PID"), (piping.as_str(), "PID")];
    let table = steady(&out, &pids);
    assert!(
        table.starts_with(
            "NAME HEALTH FOR SESSION CALLS RELATCHED GIVEN BACK P50/P99 KEEPER EVIDENCE\nfiles ✓ healthy … g1 … 2 0 0 P stdio PID "
        ),
        "{out}"
    );
    assert!(table.contains("\ngmail ✓ healthy … g1 … 2 0 0 P serve PID "), "{out}");
    assert!(
        table.contains("\nlinear ✗ down … – 1 0 1 – serve PID connection refused (ECONNREFUSED 127.0.0.1:9)"),
        "{out}"
    );
    let advice = "\n  The server can't be reached for …: Calls wait, and are given back when their hold ends\n  hint: Start the server; relatch finds it by itself (`relatch explain upstream-down`)";
    assert!(table.ends_with(advice), "{out}");

    // The story of one has its session, its client and its counts, and is judged by itself.
    let (code, out, _) = home.typed(&["status", "gmail"]);
    assert_eq!(code, 0, "{out}");
    let address = gmail.url();
    let story = steady(&out, &[pids[0], (&address, "ADDRESS"), (&session[..8], "SESSION8")]);
    for line in [
        "gmail ✓ healthy for …",
        "  address ADDRESS",
        "  server scripted 1.0.0, MCP 2025-06-18 (legacy)",
        "  known address: right · reachable: yes · session: alive · credentials: accepted · last call: answered",
        "  calls 2 · relatched 0 · resent 0 · held 0 · given back 0 (may have run: 0)",
        "  keeper serve, process PID, relatch 0.1.0, running for …",
        "  SESSION CLIENT STATE GENERATION OPENED BOUND LAST USED OPEN CALLS",
        "  SESSION8 stage 1 bound 1 … ago … ago … ago 0",
    ] {
        assert!(story.lines().any(|told| told == line), "no `{line}` in\n{story}");
    }

    // The log is one, in the order of dates, of both keepers.
    let (code, out, _) = home.typed(&["log"]);
    assert_eq!(code, 0);
    let log = steady(&out, &[]);
    for line in [
        "… files attached stage 1",
        "… gmail attached stage 1",
        "… linear away connection refused (ECONNREFUSED 127.0.0.1:9)",
    ] {
        assert!(log.lines().any(|told| told == line), "no `{line}` in\n{log}");
    }
    assert!(home.typed(&["log", "files"]).1.lines().all(|line| line.contains("  files ")));

    // A relatch on request: a new session on both sides of the house, the clients' ids go on.
    let (code, out, _) = home.typed(&["reconnect", "--all"]);
    assert_eq!(code, 0);
    assert!(out.contains(&format!("files  relatching 1 session (process {piping})\n")), "{out}");
    assert!(out.contains(&format!("gmail  relatching 1 session (process {serving})\n")), "{out}");
    for name in ["files", "gmail"] {
        until("it is relatched", || (home.server_status(name)["totals"]["relatched"] == 1).then_some(()));
    }
    assert!(serve.call("gmail", &session, 2).get("result").is_some());
    assert!(client.call(2).get("result").is_some());
    let (code, out, _) = home.typed(&["reconnect", "files"]);
    assert_eq!((code, out), (0, format!("files  relatching 1 session (process {piping})\n")));

    for line in [&["status", "gmial"][..], &["log", "gmial"], &["reconnect", "gmial"]] {
        let (code, out, err) = home.typed(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert!(err.ends_with("hint: The known ones are `files`, `gmail`, `linear`\n"), "{err}");
    }
    gmail.stop();
    client.close();
    drop(serve);
    for line in [&["status"][..], &["reconnect", "--all"]] {
        assert_eq!(home.typed(line).0, 3, "{line:?}");
    }
    // What they wrote is there without them.
    let (code, out, _) = home.typed(&["log", "files"]);
    assert_eq!(code, 0);
    assert!(out.contains("  attached  ") && out.contains("  left  "), "{out}");
}

#[test]
fn a_server_that_goes_is_down_soon_though_nobody_calls_and_healthy_when_it_is_back() {
    let home = Home::new();
    let server = Real::start(&home, 0);
    let mut client = Piped::start(&home, &server.url(), &["--name", "piped"]);
    client.initialize();
    let serve = Serve::start(&home, &[&format!("streamed={}", server.url())]);
    let session = serve.session("streamed");
    let token = serve.token.clone().unwrap();
    let stream = [("Accept", "text/event-stream"), ("Relatch-Token", &token), ("Mcp-Session-Id", &session)];
    let standing = serve.open("GET", "/streamed/mcp", &stream, "");
    assert_eq!(standing.status, 200);
    for name in ["piped", "streamed"] {
        let server = becomes(&home, name, "healthy");
        assert!(server["last_success"]["at"].is_string() && server["reason"].is_null(), "{server:#}");
    }

    let port = server.kill();
    for name in ["piped", "streamed"] {
        let down = becomes(&home, name, "down");
        assert!(down["reason"].as_str().is_some_and(|why| why.contains("ECONNREFUSED")), "{down:#}");
        assert_eq!(down["conditions"][0]["code"], "upstream-down");
        assert_eq!(down["facets"]["reachable"], false);
    }

    let server = Real::start(&home, port);
    for name in ["piped", "streamed"] {
        let back = becomes(&home, name, "healthy");
        assert_eq!(back["totals"]["relatched"], 1, "{back:#}");
        assert_eq!((&back["conditions"], &back["facets"]["reachable"]), (&json!([]), &json!(true)));
    }
    drop((standing, server));
}

#[test]
fn a_call_that_waits_is_counted_and_answered_when_its_server_is_back() {
    let mut peer = stage::echo();
    let home = Home::new();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
    client.initialize();
    peer.stop();
    client.send(&stage::call(1));
    // The keeper may see the server go before it sees the call.
    until("the call is held", || {
        let server = home.server_status("x");
        let held = server["waiting"] == 1 && server["totals"]["held"] == 1;
        (held && server["health"] == "down").then_some(())
    });
    peer.start();
    assert!(client.answer(1).get("result").is_some());
    assert_eq!(becomes(&home, "x", "healthy")["waiting"], 0);
}

#[test]
fn a_server_that_refuses_the_handshake_is_not_called_unknown() {
    let peer = stage::Peer::new(|got, stream| {
        let error = json!({"code": -32603, "message": "no licence"});
        stage::reply_json(
            stream,
            "200 OK",
            &json!({"jsonrpc": "2.0", "id": got.message()["id"], "error": error}),
        );
    });
    let home = Home::new();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
    assert!(client.initialize().get("error").is_some());
    // At first it may be a server that has just begun to listen.
    assert_eq!(home.server_status("x")["health"], "unknown");
    let server = stage::until("the refusal to be shown", || {
        Some(home.server_status("x")).filter(|server| server["health"] == "degraded")
    });
    assert_eq!(server["conditions"][0]["code"], "handshake-refused");
    assert_eq!(server["reason"], "`initialize` was answered with the error -32603: no licence");
}
