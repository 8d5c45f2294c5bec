//! The built program on stdio: how it ends.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Answers one request a connection, as a server with one session would, and tells each: verb and method.
fn serve(listener: TcpListener, told: &mpsc::Sender<String>) {
    for socket in listener.incoming() {
        let told = told.clone();
        std::thread::spawn(move || answer(socket.unwrap(), &told));
    }
}

fn answer(mut socket: TcpStream, told: &mpsc::Sender<String>) -> Option<()> {
    let mut reader = BufReader::new(socket.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let verb = line.split(' ').next()?.to_owned();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = message["method"].as_str().unwrap_or_default();
    let (status, body) = match (&*verb, method) {
        ("POST", "initialize") => (
            200,
            format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                message["id"]
            ),
        ),
        ("POST", _) => (202, String::new()),
        ("DELETE", _) => (200, String::new()),
        _ => (405, String::new()),
    };
    let head = "content-type: application/json\r\nmcp-session-id: one\r\nconnection: close\r\n";
    let length = body.len();
    write!(socket, "HTTP/1.1 {status} X\r\n{head}content-length: {length}\r\n\r\n{body}").ok()?;
    told.send(format!("{verb} {method}")).ok()
}

#[test]
fn a_keeper_on_stdio_that_gets_sigterm_ends_its_session_upstream_and_then_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (told, tell) = mpsc::channel();
    std::thread::spawn(move || serve(listener, &told));
    let run = tempfile::tempdir().unwrap();
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_relatch"))
        .args(["stdio", &format!("http://{at}/mcp")])
        .env("RELATCH_RUNTIME_DIR", run.path())
        .env("XDG_STATE_HOME", run.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = keeper.stdin.take().unwrap();
    let mut output = BufReader::new(keeper.stdout.take().unwrap());
    writeln!(input, r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"c","version":"1"}}}}}}"#).unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("serverInfo"), "{line}");
    writeln!(input, r#"{{"jsonrpc":"2.0","method":"notifications/initialized"}}"#).unwrap();
    let wait = |what: &str| {
        while tell.recv_timeout(Duration::from_secs(20)).expect(what) != what {}
    };
    wait("POST notifications/initialized");

    let pid = keeper.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let stopped = Instant::now();
    wait("DELETE ");
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    // Its input is still open: the signal alone ended it.
    let ended = keeper.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    drop(input);
}
