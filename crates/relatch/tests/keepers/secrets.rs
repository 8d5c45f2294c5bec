//! Secrets stay where they belong, and only who has the token is let in.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::stage::{self, Home, Piped, Serve, call};

/// Every file and folder below, with its mode.
fn modes(dir: &Path, found: &mut Vec<(String, u32)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        found.push((path.display().to_string(), meta.mode() & 0o777));
        if meta.is_dir() {
            modes(&path, found);
        }
    }
}

#[test]
fn no_secret_is_shown_kept_or_told_to_another_client() {
    let mut peer = stage::echo();
    let home = Home::new();
    let url = format!("{}?key=SECRET3", peer.url());
    let line = ["--name", "piped", "--header", "Authorization: Bearer SECRET1", "--hold", "1s"];
    let mut command = home.relatch(&["stdio", &url]);
    let mut piped = Piped::spawn(command.args(line).env("RELATCH_LOG", "trace"));
    let mut command = home.relatch(&["serve", &format!("own={url}"), &format!("configured={url}")]);
    command.args(["--header", "configured=X-Key: SECRET1", "--listen", "127.0.0.1:0", "--hold", "1s"]);
    let mut serve = Serve::spawn(command.env("RELATCH_LOG", "trace"));
    let token = serve.token.clone().unwrap();

    // The client's own token goes along with everything that it asks; arguments of tools are nobody's business either.
    let own = ("Authorization", "Bearer SECRET2");
    let secret_call = |id| {
        let mut message = call(id);
        message["params"]["arguments"] = json!({"password": "SECRET4"});
        message
    };
    piped.initialize();
    piped.send(&secret_call(1));
    assert!(piped.answer(1).get("result").is_some());
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": stage::handshake()});
    let mut shown = String::new();
    let mut sessions = Vec::new();
    for name in ["own", "configured"] {
        let opened = serve.post(name, None, &[own], &initialize);
        let session = opened.header("mcp-session-id").unwrap().to_owned();
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        serve.post(name, Some(&session), &[own], &initialized);
        assert!(serve.post(name, Some(&session), &[own], &secret_call(1)).message().get("result").is_some());
        sessions.push((name, session));
    }
    let reached = |key: &str, value: &str| peer.got().iter().any(|got| got.header(key) == Some(value));
    assert!(reached("authorization", "Bearer SECRET1") && reached("authorization", "Bearer SECRET2"));
    assert!(reached("x-key", "SECRET1") && peer.got().iter().all(|got| got.target == "/mcp?key=SECRET3"));

    // Trouble has the longest messages: the server goes away, and other clients are told so.
    peer.stop();
    piped.send(&secret_call(2));
    shown.push_str(&piped.answer(2).to_string());
    for (name, session) in &sessions {
        shown.push_str(&serve.post(name, Some(session), &[own], &secret_call(2)).body);
        shown.push_str(&serve.post(name, None, &[], &initialize).body);
    }
    for line in [
        &["status"][..],
        &["status", "--json"],
        &["status", "own"],
        &["status", "piped"],
        &["log"],
        &["log", "--json"],
    ] {
        let (_, out, err) = home.typed(line);
        assert!(!out.is_empty(), "{line:?} {err}");
        shown.push_str(&out);
        shown.push_str(&err);
    }
    let api = serve.http("GET", "/api/status", &[("Relatch-Token", &token)], "");
    assert_eq!(api.status, 200);
    shown.push_str(&api.body);
    shown.push_str(&home.typed(&["reconnect", "--all"]).1);

    let mut found = Vec::new();
    modes(home.path(), &mut found);
    assert!(found.iter().any(|(path, _)| path.ends_with(".sock")), "{found:?}");
    for (path, mode) in &found {
        let folder = Path::new(path).is_dir();
        let right = if folder { 0o700 } else { 0o600 };
        assert!(*mode == right, "{path} has mode {mode:o}");
        if path.ends_with(".jsonl") {
            shown.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    for name in ["token", "serve-0.jsonl", "stdio-0.jsonl", "sessions.sqlite"] {
        assert!(found.iter().any(|(path, _)| path.ends_with(name)), "{name}: {found:?}");
    }

    serve.program.signal("TERM");
    let (_, said) = serve.program.ended();
    assert!(said.contains(" INFO "), "the log is on: {said}");
    let (_, also_said) = piped.close();
    shown.push_str(&said);
    shown.push_str(&also_said);
    for secret in ["SECRET", "scripted-session", &token] {
        let at = shown
            .find(secret)
            .map(|at| shown[at.saturating_sub(300)..].chars().take(400).collect::<String>());
        assert!(at.is_none(), "{secret} is shown: {}", at.unwrap_or_default());
    }
    assert!(shown.contains("key=…"), "the address is shown without its key");
}

#[test]
fn only_who_has_the_token_and_comes_from_here_is_let_in() {
    let peer = stage::echo();
    let home = Home::new();
    let serve = Serve::start(&home, &[&format!("x={}", peer.url()), "--allow-host", "mcp.example.com"]);
    let token = ("Relatch-Token", serve.token.as_deref().unwrap());
    let wrong = "0".repeat(token.1.len());
    let own = serve.address.to_string();
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": stage::handshake()}).to_string();
    let typed = ("Content-Type", "application/json");
    let both = ("Accept", "application/json, text/event-stream");
    let api =
        [("/api/status", "GET"), ("/api/events", "GET"), ("/api/reconnect", "POST"), ("/nothing", "GET")];
    for (path, method) in [("/x/mcp", "POST"), ("/x/mcp", "GET"), ("/x/mcp", "DELETE")].into_iter().chain(api)
    {
        for (headers, words) in [
            (&[][..], "`Relatch-Token` header is missing or wrong"),
            (&[("Relatch-Token", wrong.as_str())], "`Relatch-Token` header is missing or wrong"),
            (&[token, ("Host", "evil.example.com")], "`Host: evil.example.com` is not allowed"),
            (
                &[token, ("Origin", "http://evil.example.com")],
                "`Origin: http://evil.example.com` is not allowed",
            ),
            (&[token, ("Origin", "null")], "`Origin: null` is not allowed"),
        ] {
            let headers: Vec<(&str, &str)> = headers.iter().copied().chain([typed, both]).collect();
            let answer = serve.http(method, path, &headers, if method == "POST" { &body } else { "" });
            assert_eq!(answer.status, 403, "{method} {path} {headers:?}: {answer:?}");
            assert!(answer.body.contains(words), "{answer:?}");
        }
    }
    assert!(peer.got().is_empty(), "nothing reached the server");
    let origin = format!("http://{own}");
    for more in [None, Some(("Origin", origin.as_str())), Some(("Host", "mcp.example.com"))] {
        let headers: Vec<(&str, &str)> = [token, typed, both].into_iter().chain(more).collect();
        let answer = serve.http("POST", "/x/mcp", &headers, &body);
        assert_eq!(answer.status, 200, "{more:?} {answer:?}");
        assert!(answer.header("mcp-session-id").is_some());
    }
    assert_eq!(serve.http("GET", "/api/status", &[token], "").status, 200);
    // The start page says in plain words how to sign in; it, too, is for nobody who comes from elsewhere.
    let start = serve.http("GET", "/", &[], "");
    assert!(start.status == 403 && start.body.contains("<code>relatch page</code>"), "{start:?}");
    for foreign in [("Host", "evil.example.com"), ("Origin", "http://evil.example.com")] {
        for path in ["/", "/page.js", "/open/code"] {
            let answer = serve.http("GET", path, &[foreign], "");
            assert!(answer.status == 403 && answer.body.contains("is not allowed"), "{answer:?}");
        }
    }
    let livez = serve.http("GET", "/livez", &[], "");
    assert_eq!((livez.status, livez.body.as_str()), (200, "alive\n"));
    assert_eq!(serve.http("GET", "/livez", &[("Host", "evil.example.com")], "").status, 403);
    // Its line to paste has the token, its status not.
    assert!(serve.printed.contains(&format!("--header \"Relatch-Token: {}\"", token.1)));
    assert!(!peer.got().iter().any(|got| got.header("relatch-token").is_some()));

    let open = Home::new();
    let serve = Serve::start(&open, &[&format!("x={}", peer.url()), "--no-token"]);
    assert!(serve.token.is_none() && !serve.printed.contains("Relatch-Token"));
    assert_eq!(serve.post("x", None, &[], &serde_json::from_str(&body).unwrap()).status, 200);
    let foreign = serve.post(
        "x",
        None,
        &[("Origin", "http://evil.example.com")],
        &serde_json::from_str(&body).unwrap(),
    );
    assert_eq!(foreign.status, 403);
}

#[test]
fn a_folder_or_token_that_others_could_use_keeps_serve_from_starting() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let state = home.path().join("kept");
    drop(Serve::start(&home, &["x=http://127.0.0.1:9/mcp", "--state-dir", state.to_str().unwrap()]));
    std::fs::set_permissions(state.join("token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, out, err) = home.typed(&[
        "serve",
        "x=http://127.0.0.1:9/mcp",
        "--listen",
        "127.0.0.1:0",
        "--state-dir",
        state.to_str().unwrap(),
    ]);
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.starts_with("error: The token for clients can't be kept\n  cause: "), "{err}");
}
