//! Whatever stands at the server's address, the client is told what it is, under its request's own id, and goes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::{self, Got, Home, Peer, Piped, Serve, reply, reply_json};

/// What a peer does, and what the client reads of it: `code executed: message / cause`, or the server's own words.
type Case = (&'static str, fn(&Got, &mut TcpStream), &'static str);

/// Peers that are no MCP server, or refuse its handshake. `ADDRESS` stands for the peer's own.
const AT_THE_DOOR: &[Case] = &[
    (
        "a web page",
        web_page,
        "endpoint-missing no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / `ADDRESS` answers HTTP 200 with a web page",
    ),
    (
        "a web page that says 404",
        not_found,
        "endpoint-missing no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / `ADDRESS` answers HTTP 404",
    ),
    (
        "headers without end",
        endless_headers,
        "not-mcp no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / the answer's head is longer than 64 KiB or has more than 100 headers",
    ),
    (
        "a body without end",
        endless_body,
        "not-mcp no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / the answer is longer than 32 MiB and shows no `result`",
    ),
    (
        "an event without end",
        endless_event,
        "not-mcp no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / an event is longer than 32 MiB",
    ),
    (
        "half an event",
        half_event,
        "upstream-down no: `x` did not answer within 4 s: the stream ended before the answer. No session was opened. / the stream ended before the answer",
    ),
    (
        "an event that is no message",
        garbage_event,
        "not-mcp no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / an event of the answer is no message: The body is not JSON: unexpected byte at offset 1",
    ),
    (
        "half of a message",
        half_json,
        "endpoint-missing no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / `ADDRESS` answers HTTP 200 with something that is no MCP message",
    ),
    (
        "JSON of somebody else's",
        foreign_json,
        "endpoint-missing no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / `ADDRESS` answers HTTP 200 with something that is no MCP message",
    ),
    ("an error", rpc_error, "-32603: no licence"),
    ("an error with 400", rpc_error_400, "-32603: no licence"),
    ("400 in plain text", plain_400, "upstream-status no: `x` answered with HTTP status 400: go away / "),
    (
        "500",
        status_500,
        "upstream-down no: `x` did not answer within 3 s: `ADDRESS` answers HTTP 500. No session was opened. / `ADDRESS` answers HTTP 500",
    ),
    (
        "come back in an hour",
        in_an_hour,
        "upstream-busy no: `x` asks to come back in 60 min. `initialize` did not run. / `ADDRESS` answers HTTP 503",
    ),
    (
        "another address",
        elsewhere,
        "redirected no: `x` redirects to `https://login.example/?next=…`, which relatch does not follow. `initialize` did not run. / ",
    ),
    (
        "another protocol",
        ssh,
        "not-mcp no: What answers at `ADDRESS` is no MCP server. No session with `x` was opened. / the answer is not valid HTTP (invalid HTTP version parsed)",
    ),
    (
        "a closed connection",
        closes,
        "upstream-down no: `x` did not answer within 4 s: connection closed before the answer was whole (HOST). No session was opened. / connection closed before the answer was whole (HOST)",
    ),
    (
        "nothing, ever",
        silent,
        "upstream-down no: `x` did not answer within 5 s: `initialize` has no answer yet. No session was opened. / `initialize` has no answer yet",
    ),
];

/// Servers that took the handshake and answer a call badly.
const AT_A_CALL: &[Case] = &[
    (
        "a web page",
        web_page,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / `ADDRESS` answers HTTP 200 with a web page",
    ),
    (
        "headers without end",
        endless_headers,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / the answer's head is longer than 64 KiB or has more than 100 headers",
    ),
    (
        "a body without end",
        endless_body,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / the answer is longer than 32 MiB and shows no `result`",
    ),
    (
        "an event without end",
        endless_event,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / an event is longer than 32 MiB",
    ),
    (
        "half an event",
        half_event,
        "delivery-unknown unknown: The connection to `x` broke after `echo` was sent. It may have run. relatch did not send it again. / the stream ended before the answer",
    ),
    (
        "an event that is no message",
        garbage_event,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / an event of the answer is no message: The body is not JSON: unexpected byte at offset 1",
    ),
    (
        "half of a message",
        half_json,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / `ADDRESS` answers HTTP 200 with something that is no MCP message",
    ),
    (
        "JSON of somebody else's",
        foreign_json,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / `ADDRESS` answers HTTP 200 with something that is no MCP message",
    ),
    ("an error", rpc_error, "-32603: no licence"),
    ("an error with 400", rpc_error_400, "-32603: no licence"),
    ("400 in plain text", plain_400, "upstream-status no: `x` answered with HTTP status 400: go away / "),
    ("500", status_500, "upstream-status unknown: `x` answered with HTTP status 500: Traceback / "),
    ("come back in an hour", in_an_hour, "upstream-status no: `x` answered with HTTP status 503: later / "),
    (
        "another address",
        elsewhere,
        "redirected no: `x` redirects to `https://login.example/?next=…`, which relatch does not follow. `echo` did not run. / ",
    ),
    (
        "another protocol",
        ssh,
        "answer-broken unknown: `x` answered `echo` with something that is no MCP answer. It may have run. relatch did not send it again. / the answer is not valid HTTP (invalid HTTP version parsed)",
    ),
    (
        "a closed connection",
        closes,
        "delivery-unknown unknown: The connection to `x` broke after `echo` was sent. It may have run. relatch did not send it again. / connection closed before the answer was whole (HOST)",
    ),
];

fn web_page(_: &Got, stream: &mut TcpStream) {
    reply(stream, "200 OK", "Content-Type: text/html\r\n", "<!DOCTYPE html><p>Hello");
}

fn not_found(_: &Got, stream: &mut TcpStream) {
    reply(stream, "404 Not Found", "Content-Type: text/html\r\n", "<html>Nothing here</html>");
}

fn endless_headers(_: &Got, stream: &mut TcpStream) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\n");
    while write!(stream, "X-More: {}\r\n", "x".repeat(1_000)).is_ok() {}
}

fn endless_body(_: &Got, stream: &mut TcpStream) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n\"");
    while write!(stream, "{}", "x".repeat(64_000)).is_ok() {}
}

fn endless_event(_: &Got, stream: &mut TcpStream) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ");
    while write!(stream, "{}", "x".repeat(64_000)).is_ok() {}
}

fn half_event(_: &Got, stream: &mut TcpStream) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {{\"jsonr");
}

fn garbage_event(_: &Got, stream: &mut TcpStream) {
    reply(stream, "200 OK", "Content-Type: text/event-stream\r\n", "event: message\ndata: {nonsense\n\n");
}

fn half_json(_: &Got, stream: &mut TcpStream) {
    reply(stream, "200 OK", "Content-Type: application/json\r\n", "{\"jsonrpc\":");
}

fn foreign_json(_: &Got, stream: &mut TcpStream) {
    reply(stream, "200 OK", "Content-Type: application/json\r\n", "{\"ok\":true}");
}

fn error(got: &Got) -> Value {
    json!({"jsonrpc": "2.0", "id": got.message()["id"], "error": {"code": -32603, "message": "no licence"}})
}

fn rpc_error(got: &Got, stream: &mut TcpStream) {
    reply_json(stream, "200 OK", &error(got));
}

fn rpc_error_400(got: &Got, stream: &mut TcpStream) {
    reply_json(stream, "400 Bad Request", &error(got));
}

fn plain_400(_: &Got, stream: &mut TcpStream) {
    reply(stream, "400 Bad Request", "Content-Type: text/plain\r\n", "go away");
}

fn status_500(_: &Got, stream: &mut TcpStream) {
    reply(stream, "500 Internal Server Error", "", "Traceback");
}

fn in_an_hour(_: &Got, stream: &mut TcpStream) {
    reply(stream, "503 Service Unavailable", "Retry-After: 3600\r\n", "later");
}

fn elsewhere(_: &Got, stream: &mut TcpStream) {
    reply(stream, "302 Found", "Location: https://login.example/?next=s3cret\r\n", "");
}

fn ssh(_: &Got, stream: &mut TcpStream) {
    let _ = write!(stream, "SSH-2.0-OpenSSH_9.9\r\n");
}

fn closes(_: &Got, _: &mut TcpStream) {}

fn silent(_: &Got, stream: &mut TcpStream) {
    let _ = stream.read(&mut [0]);
}

/// What a person reads of an answer.
fn told(answer: &Value, peer: &Peer) -> String {
    let error = &answer["error"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let relatch = &error["data"]["relatch"];
    let told = if relatch.is_null() {
        format!("{}: {}", error["code"], text(&error["message"]))
    } else {
        assert!(relatch["hint"].is_string() && relatch["upstream"] == "x", "{answer:#}");
        format!(
            "{} {}: {} / {}",
            text(&relatch["code"]),
            text(&relatch["executed"]),
            text(&error["message"]),
            text(&relatch["cause"])
        )
    };
    // How long exactly depends on the machine.
    let told = (0..10).fold(told, |told, tenths| {
        told.replace(&format!(".{tenths} s."), " s.").replace(&format!(".{tenths} s:"), " s:")
    });
    told.replace(&peer.url(), "ADDRESS").replace(&peer.address.to_string(), "HOST")
}

/// Plays every case at the same time; what was told otherwise than expected.
fn play(cases: &'static [Case], told: fn(&'static Case) -> Vec<String>) {
    let played: Vec<_> = cases.iter().map(|case| (case, std::thread::spawn(move || told(case)))).collect();
    let mut wrong = String::new();
    for ((name, _, expected), playing) in played {
        let all = playing.join().unwrap_or_else(|_| vec!["it failed, see above".to_owned()]);
        for told in all.iter().filter(|told| told != expected) {
            wrong.push_str(&format!("{name}\n  expected {expected}\n  was told {told}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_client_is_told_what_stands_at_the_address_instead_of_a_server() {
    play(AT_THE_DOOR, |(_, script, _)| {
        let peer = Peer::new(script);
        let home = Home::new();
        let mut client = Piped::start(&home, &peer.url(), &["--name", "x", "--hold", "4s"]);
        let began = Instant::now();
        let over_stdio = told(&client.ask(7, "initialize", stage::handshake()), &peer);
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        // Nothing but the handshake was asked for, and the keeper goes on: its status has it, its end is in order.
        assert_ne!(home.server_status("x")["health"], "healthy");
        let (exit, said) = client.close();
        assert!(exit.success() && said.is_empty(), "{exit} {said}");

        let serve = Serve::start(&home, &[&format!("x={}", peer.url()), "--hold", "4s"]);
        let message =
            json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": stage::handshake()});
        let answer = serve.post("x", None, &[], &message);
        assert_eq!((answer.status, &answer.message()["id"]), (200, &json!(7)));
        vec![over_stdio, told(&answer.message(), &peer)]
    });
}

#[test]
fn a_call_that_is_answered_with_something_else_ends_with_words_and_the_session_goes_on() {
    play(AT_A_CALL, |(_, script, _)| {
        let peer = stage::server(move |got, stream| {
            if got.message()["params"]["name"] == "echo" {
                return script(got, stream);
            }
            reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": got.message()["id"], "result": {}}));
        });
        let home = Home::new();
        let mut client = Piped::start(&home, &peer.url(), &["--name", "x", "--hold", "4s"]);
        client.initialize();
        let over_stdio = told(&client.call(7), &peer);
        let well = client.ask(8, "tools/call", json!({"name": "well"}));
        assert!(well.get("result").is_some(), "{well}");
        let (exit, said) = client.close();
        assert!(exit.success() && said.is_empty(), "{exit} {said}");

        let serve = Serve::start(&home, &[&format!("x={}", peer.url()), "--hold", "4s"]);
        let session = serve.session("x");
        let answer = serve.post("x", Some(&session), &[], &stage::call(7));
        assert_eq!((answer.status, &answer.message()["id"]), (200, &json!(7)));
        let calls = peer.got().iter().filter(|got| got.message()["params"]["name"] == "echo").count();
        assert_eq!(calls, 2, "each call was sent once");
        vec![over_stdio, told(&answer.message(), &peer)]
    });
}

#[test]
fn credentials_that_are_refused_reach_the_client_with_their_challenge() {
    let peer = Peer::new(|_, stream| {
        let challenge = "WWW-Authenticate: Bearer realm=\"x\", resource_metadata=\"http://a.example/\"\r\n";
        reply(stream, "401 Unauthorized", challenge, "sign in");
    });
    let home = Home::new();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
    let answer = client.ask(7, "initialize", stage::handshake());
    let relatch = &answer["error"]["data"]["relatch"];
    assert_eq!((&relatch["code"], &relatch["status"]), (&json!("credentials-refused"), &json!(401)));
    assert!(relatch["challenge"].as_str().is_some_and(|text| text.starts_with("Bearer realm")), "{answer}");

    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": stage::handshake()});
    let answer = serve.post("x", None, &[], &message);
    assert_eq!((answer.status, answer.body.as_str()), (401, "sign in"));
    assert!(answer.header("www-authenticate").is_some_and(|text| text.contains("resource_metadata")));
}

#[test]
fn what_a_client_sends_that_is_no_message_is_answered_and_nothing_ends() {
    let peer = stage::echo();
    let home = Home::new();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
    let early = client.ask(1, "tools/list", json!({}));
    assert_eq!(early["error"]["message"], "There is no session: `initialize` has to come first");
    client.initialize();
    for (line, code) in [("{nonsense", -32700), ("\u{7}", -32700), ("17", -32600), ("[]", -32600)] {
        client.send_text(line);
        let error = client.next();
        assert_eq!((&error["error"]["code"], &error["id"]), (&json!(code), &Value::Null), "{line}: {error}");
    }
    client.send_text("");
    assert!(client.call(2).get("result").is_some());

    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let session = serve.session("x");
    let token = serve.token.clone().unwrap();
    let head = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("Relatch-Token", &token),
        ("Mcp-Session-Id", &session),
    ];
    for (body, code) in [("{nonsense", -32700), ("", -32700), ("17", -32600)] {
        let answer = serve.http("POST", "/x/mcp", &head, body);
        assert_eq!((answer.status, &answer.message()["error"]["code"]), (400, &json!(code)), "{body}");
    }
    let unknown = serve.post("y", None, &[], &stage::call(1));
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("`/x/mcp`"), "{unknown:?}");
    assert!(serve.call("x", &session, 2).get("result").is_some());
}

#[test]
fn a_keeper_that_can_not_start_says_why_and_what_to_do() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, out, err) = home.typed(&["serve", "x=http://127.0.0.1:9/mcp", "--listen", &address]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with(&format!("error: relatch can't listen on `{address}`\n  cause: ")), "{err}");
    assert!(err.ends_with("run `relatch status`, or choose one with `--listen`\n"), "{err}");

    let (code, _, err) = home.typed(&["serve", "x=http://127.0.0.1:9/mcp", "--listen", "192.0.2.1:7332"]);
    assert_eq!(code, 1);
    assert!(err.contains("hint: Give an address of this machine to `--listen`"), "{err}");

    let first = Serve::start(&home, &["x=http://127.0.0.1:9/mcp"]);
    let (code, _, err) = home.typed(&["serve", "x=http://127.0.0.1:9/mcp", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 4);
    assert!(err.starts_with("error: Another keeper serves the sessions in this folder\n  cause: "), "{err}");
    assert!(err.contains(&format!("process {}", first.program.pid())), "{err}");

    let blocked = home.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let blocked = blocked.display().to_string();
    let (code, _, err) = home.typed(&["serve", "x=http://127.0.0.1:9/mcp", "--state-dir", &blocked]);
    assert_eq!(code, 4);
    assert!(err.contains(&blocked) && err.contains("hint: "), "{err}");
    let (code, _, err) = home.typed(&["stdio", "http://127.0.0.1:99999/mcp"]);
    assert_eq!(code, 2);
    assert!(err.contains("invalid port number"), "{err}");
}
