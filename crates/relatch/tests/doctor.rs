//! Servers with faults that no real peer shows, and what `relatch doctor` says of them.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What a server got.
#[derive(Clone, Debug, Default)]
struct Asked {
    http: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }
}

/// What it answers; status 0 is silence.
struct Said {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    /// The connection stays open behind the body, as a stream's does.
    stream: bool,
}

fn said(status: u16, kind: &str, body: impl Into<String>) -> Said {
    Said { status, headers: vec![("content-type", kind.to_owned())], body: body.into(), stream: false }
}

fn silence() -> Said {
    said(0, "", "")
}

impl Said {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Said {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server as a function of what it is asked, with everything that it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, heard) = (Arc::new(answer), Arc::clone(&asked));
        // Ends with the process of the test; each connection has a thread.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, heard) = (Arc::clone(&answer), Arc::clone(&heard));
                std::thread::spawn(move || {
                    let _ = serve(&stream, &*answer, &heard);
                });
            }
        });
        Server { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until something like this was asked.
    fn heard(&self, what: &str, like: impl Fn(&Asked) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.asked().iter().any(&like) {
            assert!(Instant::now() < end, "{what} did not come: {:#?}", self.asked());
            std::thread::yield_now();
        }
    }
}

fn serve(
    stream: &TcpStream,
    answer: &(dyn Fn(&Asked) -> Said + Send + Sync),
    heard: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    match reader.read_line(&mut line) {
        Ok(0) => return Ok(()),
        Ok(_) => {}
        // What is no HTTP is answered as servers do.
        Err(_) => return writer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    }
    let mut words = line.split(' ').map(str::to_owned);
    let mut asked = Asked {
        http: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..Asked::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    asked.body = serde_json::from_slice(&body).unwrap_or_default();
    let said = answer(&asked);
    heard.lock().unwrap().push(asked);
    if said.status == 0 {
        // Nothing is said until the client is gone.
        let _ = reader.read(&mut [0]);
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} x\r\n", said.status);
    for (name, value) in &said.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // Closed by the server's own word, so that no test waits for an idle connection to be closed.
    if !said.stream {
        head.push_str(&format!("connection: close\r\ncontent-length: {}\r\n", said.body.len()));
    }
    writer.write_all(format!("{head}\r\n{}", said.body).as_bytes())?;
    if said.stream {
        let _ = reader.read(&mut [0]);
    }
    Ok(())
}

fn result(asked: &Asked, result: &Value) -> Said {
    said(
        200,
        "application/json",
        json!({ "jsonrpc": "2.0", "id": asked.body["id"], "result": result }).to_string(),
    )
}

fn error(asked: &Asked, status: u16, code: i64, message: &str) -> Said {
    let error = json!({ "code": code, "message": message });
    said(
        status,
        "application/json",
        json!({ "jsonrpc": "2.0", "id": asked.body["id"], "error": error }).to_string(),
    )
}

/// A server that is well, with sessions that it really keeps.
#[derive(Clone, Default)]
struct Well {
    living: Arc<Mutex<BTreeSet<String>>>,
}

impl Well {
    fn answer(&self, asked: &Asked) -> Said {
        let foreign = |name: &str| asked.header(name).is_some_and(|value| value.contains(".invalid"));
        if foreign("host") || foreign("origin") {
            return error(asked, 403, -32000, "Forbidden");
        }
        let mut living = self.living.lock().unwrap();
        if asked.method() == "initialize" {
            let id = format!("5e551041-0000-4000-8000-{:012}", living.len() + 100);
            living.insert(id.clone());
            let hello = json!({
                "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
                "serverInfo": { "name": "scripted", "version": "1" },
            });
            return result(asked, &hello).with("mcp-session-id", id);
        }
        let Some(id) = asked.header("mcp-session-id") else {
            return error(asked, 400, -32000, "Bad Request: Session ID required");
        };
        if !living.contains(id) {
            return error(asked, 404, -32001, "Session not found");
        }
        if asked.header("mcp-protocol-version") == Some("1999-01-01") {
            return error(asked, 400, -32000, "Bad Request: Unsupported protocol version");
        }
        match (asked.http.as_str(), asked.method()) {
            ("DELETE", _) => {
                // Its number stays taken, so that no id comes twice.
                let ended = id.to_owned();
                living.remove(&ended);
                living.insert(format!("ended {ended}"));
                said(200, "text/plain", "")
            }
            ("GET", _) => said(405, "text/plain", ""),
            (_, "ping") => result(asked, &json!({})),
            (_, "tools/list") => result(asked, &json!({ "tools": [{ "name": "danger" }] })),
            (_, method) if method.starts_with("notifications/") => said(202, "text/plain", ""),
            (_, method) => error(asked, 200, -32601, &format!("Method not found: {method}")),
        }
    }

    /// How many sessions nobody has ended.
    fn left(&self) -> usize {
        self.living.lock().unwrap().iter().filter(|id| !id.starts_with("ended ")).count()
    }
}

fn command(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relatch"));
    command.arg("doctor").args(line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn doctor(line: &[&str]) -> Output {
    command(line).output().unwrap()
}

fn report(line: &[&str]) -> (i32, Value) {
    let ended = doctor(&[line, &["--json"]].concat());
    let report = serde_json::from_slice(&ended.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ended.stderr)));
    (ended.status.code().unwrap(), report)
}

/// The level and the words of the finding with this code.
fn finding<'a>(report: &'a Value, code: &str) -> (&'a str, String) {
    let all = report["findings"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["code"] == code);
    let found = found.unwrap_or_else(|| panic!("no `{code}` in {report:#}"));
    (found["level"].as_str().unwrap(), found.to_string())
}

#[test]
fn a_server_that_is_well_passes_and_nothing_is_left_behind_in_it() {
    let well = Well::default();
    let inside = well.clone();
    let server = Server::start(move |asked| inside.answer(asked));
    let (code, report) = report(&[&server.url, "--header", "Authorization: Bearer s3cret"]);
    assert_eq!((code, &report["ok"]), (0, &true.into()), "{report:#}");
    assert_eq!(
        report["counts"],
        json!({ "wrong": 0, "note": 0, "unknown": 0, "ok": report["counts"]["ok"] })
    );
    assert_eq!(well.left(), 0, "every session was ended");
    assert_eq!(report["sessions"]["opened"], report["sessions"]["ended"]);

    let asked = server.asked();
    assert_eq!(report["requests"], asked.len(), "it says how much it asked");
    assert!(asked.len() < 80, "{}", asked.len());
    assert!(asked.iter().all(|asked| asked.method() != "tools/call"));
    let without = asked.iter().filter(|asked| asked.header("authorization") != Some("Bearer s3cret"));
    assert_eq!(without.count(), 1, "once it is asked whether the credentials are needed");
    assert!(!report.to_string().contains("s3cret"));
}

#[test]
fn a_secret_that_a_server_repeats_is_not_printed() {
    let server = Server::start(|asked| {
        let sent = asked.header("authorization").unwrap_or_default();
        said(401, "text/plain", format!("not good enough: {sent}"))
            .with("www-authenticate", format!("Bearer realm=\"{sent}\""))
    });
    let ended = doctor(&[&server.url, "--header", "Authorization: Bearer s3cret"]);
    let words = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "nothing could be examined");
    assert!(words.contains("HTTP 401") && words.contains("not good enough"), "{words}");
    assert!(words.contains("renew the token"), "{words}");
    assert!(!format!("{ended:?}").contains("s3cret"), "{ended:?}");
}

#[test]
fn a_dead_session_that_is_answered_500_is_wrong_and_relatch_would_have_to_ask() {
    let well = Well::default();
    let server = Server::start(move |asked| match well.answer(asked) {
        gone if gone.status == 404 => said(500, "text/plain", "Internal Server Error"),
        other => other,
    });
    let (code, report) = report(&[&server.url]);
    assert_eq!(code, 1);
    let (level, words) = finding(&report, "dead-session");
    assert_eq!(level, "wrong");
    assert!(words.contains("asks `ping` first"), "{words}");
}

#[test]
fn a_delete_that_ends_nothing_and_a_stream_that_never_begins_are_wrong() {
    let well = Well::default();
    let server = Server::start(move |asked| match asked.http.as_str() {
        "DELETE" => said(200, "text/plain", ""),
        "GET" => silence(),
        _ => well.answer(asked),
    });
    let (code, report) = report(&[&server.url]);
    assert_eq!(code, 1);
    assert_eq!(finding(&report, "delete").0, "wrong");
    assert_eq!(finding(&report, "stream").0, "wrong");
}

#[test]
fn replicas_that_do_not_share_sessions_are_recognised() {
    let well = Well::default();
    let count = Mutex::new(0);
    let server = Server::start(move |asked| {
        let mut count = count.lock().unwrap();
        *count += u32::from(asked.method() == "ping");
        // The pings over one connection are done by then.
        if asked.method() == "ping" && (24..=25).contains(&*count) {
            return error(asked, 404, -32001, "Session not found");
        }
        well.answer(asked)
    });
    let (code, report) = report(&[&server.url]);
    assert_eq!(code, 1);
    assert_eq!(finding(&report, "sessions-not-shared").0, "wrong");
}

#[test]
fn a_server_that_stops_answering_is_asked_three_times_and_no_more() {
    let well = Well::default();
    let server = Server::start(move |asked| match asked.method() {
        "initialize" | "notifications/initialized" => well.answer(asked),
        _ => silence(),
    });
    let (code, report) = report(&[&server.url]);
    assert_eq!(code, 1);
    assert_eq!(finding(&report, "silent").0, "wrong");
    assert!(server.asked().len() < 12, "{:#?}", server.asked());
    assert_eq!(finding(&report, "dead-session").0, "unknown");
}

#[test]
fn an_address_without_path_is_told_where_mcp_is_spoken() {
    let well = Well::default();
    let inside = well.clone();
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/mcp" => inside.answer(asked),
        _ => said(404, "text/html", "<!DOCTYPE html><h1>Not Found</h1>"),
    });
    let (code, report) = report(&[server.url.trim_end_matches("/mcp")]);
    assert_eq!(code, 1);
    let (level, words) = finding(&report, "not-mcp");
    assert_eq!(level, "wrong");
    assert!(words.contains(&format!("The same server speaks MCP at `{}`", server.url)), "{words}");
    assert_eq!(well.left(), 0, "the session that showed it was ended");
}

#[test]
fn an_old_server_is_recognised_by_its_first_event() {
    let server = Server::start(|asked| match asked.http.as_str() {
        "GET" => Said {
            stream: true,
            ..said(200, "text/event-stream", "event: endpoint\ndata: /messages?id=1\n\n")
        },
        _ => said(405, "text/plain", "Method Not Allowed"),
    });
    let (code, report) = report(&[&server.url]);
    assert_eq!(code, 1);
    let (level, words) = finding(&report, "old-transport");
    assert_eq!(level, "note");
    assert!(words.contains("nothing can be resumed") && words.contains("opens another stream"), "{words}");
}

#[test]
fn a_redirect_within_the_server_is_followed_and_one_to_elsewhere_is_not() {
    let well = Well::default();
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/mcp" => said(307, "text/plain", "").with("location", "/mcp/"),
        _ => well.answer(asked),
    });
    let (code, followed) = report(&[&server.url]);
    assert_eq!(code, 0, "a redirect is no fault: {followed:#}");
    assert_eq!(finding(&followed, "redirect").0, "note");
    assert_eq!(followed["url"], format!("{}/", server.url));

    let elsewhere =
        Server::start(|_| said(308, "text/plain", "").with("location", "http://example.invalid/mcp"));
    let (code, refused) = report(&[&elsewhere.url]);
    assert_eq!(code, 1);
    assert_eq!(finding(&refused, "redirected").0, "wrong");
    assert_eq!(elsewhere.asked().len(), 1, "nothing more is sent");
}

#[test]
fn nothing_that_listens_and_tls_where_there_is_none_are_told_plainly() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, refused) = report(&[&format!("http://{free}/mcp")]);
    assert_eq!(code, 1);
    assert!(finding(&refused, "unreachable").1.contains("ECONNREFUSED"));

    let server = Server::start(|_| said(200, "text/plain", ""));
    let (code, plain) = report(&[&server.url.replace("http:", "https:")]);
    assert_eq!(code, 1);
    assert!(finding(&plain, "tls").1.contains("does not speak TLS"), "{plain:#}");
}

#[test]
fn a_restart_command_that_fails_is_said_with_its_last_words() {
    let well = Well::default();
    let inside = well.clone();
    let server = Server::start(move |asked| inside.answer(asked));
    let (code, report) = report(&[&server.url, "--restart", "echo no such unit >&2; exit 5"]);
    let (level, words) = finding(&report, "restart");
    assert_eq!((code, level), (0, "unknown"));
    assert!(words.contains("no such unit") && words.contains("exit status: 5"), "{words}");
    assert_eq!(well.left(), 0);
}

#[test]
fn a_session_that_its_server_forgets_while_idle_is_noted() {
    let well = Well::default();
    let inside = well.clone();
    let opened = Mutex::new(0);
    // The sixth session is the one that is left alone: it is forgotten as soon as it is there.
    let server = Server::start(move |asked| {
        let said = inside.answer(asked);
        if asked.method() == "initialize" {
            *opened.lock().unwrap() += 1;
        }
        if *opened.lock().unwrap() == 6 {
            inside.living.lock().unwrap().clear();
        }
        said
    });
    let (code, report) = report(&[&server.url, "--idle", "10ms"]);
    assert_eq!(code, 0);
    assert_eq!(finding(&report, "idle-session").0, "note");
}

#[test]
fn an_interrupted_examination_ends_its_sessions() {
    let well = Well::default();
    let inside = well.clone();
    let server = Server::start(move |asked| match asked.method() {
        "tools/list" => silence(),
        _ => inside.answer(asked),
    });
    let child = command(&[&server.url]).spawn().unwrap();
    server.heard("tools/list", |asked| asked.method() == "tools/list");
    interrupt(&child);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let words = String::from_utf8_lossy(&ended.stderr);
    assert!(words.contains("interrupted"), "{words}");
    assert_eq!(well.left(), 0, "{:#?}", server.asked());
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn what_is_typed_wrong_is_usage() {
    let empty = tempfile::tempdir().unwrap();
    for (line, words) in [
        (vec!["localhost:8761/mcp"], "http://localhost:8761/mcp"),
        (vec!["ftp://a/b"], "http://"),
        (vec!["http://127.0.0.1:1/mcp", "--header", "Bearer s3cret"], "colon"),
        (vec!["http://127.0.0.1:1/mcp", "--idle", "10"], "unit"),
    ] {
        let ended = doctor(&line);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && !said.contains("s3cret"), "{said}");
    }
    let ended = command(&["gmail"]).env("RELATCH_RUNTIME_DIR", empty.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("Give the address"), "{said}");
}
