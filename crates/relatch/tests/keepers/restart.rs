//! The keeper's own end: running calls finish, and its sessions outlive it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::stage::{self, Home, Peer, Piped, Serve, call, reply_json, until};

/// A server whose calls are answered when the test says so.
fn slow() -> (Peer, Arc<(Mutex<bool>, Condvar)>) {
    let go = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = Arc::clone(&go);
    let peer = stage::server(move |got, stream| {
        let (open, opened) = &*gate;
        let open = open.lock().unwrap();
        let (open, _) = opened.wait_timeout_while(open, stage::PATIENCE, |open| !*open).unwrap();
        drop(open);
        reply_json(
            stream,
            "200 OK",
            &json!({"jsonrpc": "2.0", "id": got.message()["id"], "result": {"late": true}}),
        );
    });
    (peer, go)
}

fn let_go(go: &(Mutex<bool>, Condvar)) {
    *go.0.lock().unwrap() = true;
    go.1.notify_all();
}

#[test]
fn told_to_stop_serve_answers_what_runs_takes_nothing_new_and_ends_well() {
    for signal in ["TERM", "INT"] {
        let (peer, go) = slow();
        let home = Home::new();
        let mut serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
        let session = serve.session("x");
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| serve.call("x", &session, 7));
            until("the call has reached the server", || {
                peer.got().iter().any(|got| got.message()["method"] == "tools/call").then_some(())
            });
            serve.program.signal(signal);
            until("nobody new is let in", || {
                std::net::TcpStream::connect(serve.address).is_err().then_some(())
            });
            let_go(&go);
            assert_eq!(calling.join().unwrap()["result"]["late"], true, "{signal}");
        });
        let (exit, said) = serve.program.ended();
        let page =
            format!("The page is at http://{}/ and `relatch page` opens it, signed in\n", serve.address);
        assert_eq!((exit.code(), said), (Some(0), page), "{signal}");
        assert_eq!(home.typed(&["status"]).0, 3, "its socket is gone");
    }
}

#[test]
fn a_call_that_does_not_end_holds_serve_up_for_a_bounded_time() {
    let (peer, go) = slow();
    let home = Home::new();
    let mut serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let session = serve.session("x");
    let token = serve.token.clone().unwrap();
    let head = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("Relatch-Token", &token),
        ("Mcp-Session-Id", &session),
    ];
    let stream = [("Accept", "text/event-stream"), ("Relatch-Token", &token), ("Mcp-Session-Id", &session)];
    let standing = serve.open("GET", "/x/mcp", &stream, "");
    std::thread::scope(|scope| {
        scope.spawn(|| serve.http("POST", "/x/mcp", &head, &call(7).to_string()));
        until("the call has reached the server", || {
            peer.got().iter().any(|got| got.message()["method"] == "tools/call").then_some(())
        });
        serve.program.signal("TERM");
        // A standing stream never ends by itself: it is closed at once.
        standing.whole();
    });
    let began = Instant::now();
    let (exit, _) = serve.program.ended();
    assert_eq!(exit.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15));
    let_go(&go);
}

#[test]
fn killed_and_started_again_serve_knows_its_clients() {
    let peer = stage::echo();
    let home = Home::new();
    let upstream = format!("x={}", peer.url());
    let mut serve = Serve::start(&home, &[&upstream]);
    let session = serve.session("x");
    assert!(serve.call("x", &session, 1).get("result").is_some());
    let (address, token) = (serve.address.to_string(), serve.token.clone());
    serve.program.child.kill().unwrap();
    serve.program.ended();

    let serve = Serve::start(&home, &[&upstream, "--listen", &address]);
    assert_eq!(serve.token, token, "the line that was pasted still holds");
    assert!(serve.call("x", &session, 2).get("result").is_some());
    assert_eq!(home.server_status("x")["sessions"][0]["id"], session[..8]);
    // The same session at the server, too: nothing was lost there.
    let calls: Vec<_> =
        peer.got().into_iter().filter(|got| got.message()["method"] == "tools/call").collect();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|got| got.header("mcp-session-id") == Some("scripted-session")));
    let unknown = serve.post("x", Some("00000000000000000000000000000000"), &[], &call(3));
    assert_eq!(unknown.status, 404);
}

#[test]
fn stdio_ends_with_its_client_and_on_a_signal() {
    let peer = stage::echo();
    let home = Home::new();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
    client.initialize();
    client.send(&call(1));
    let (exit, said) = client.close();
    assert_eq!((exit.code(), said.as_str()), (Some(0), ""));
    until("the session at the server is ended", || {
        peer.got().iter().any(|got| got.method == "DELETE").then_some(())
    });
    for signal in ["TERM", "INT"] {
        let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
        client.initialize();
        client.program.signal(signal);
        assert_eq!(client.program.ended().0.code(), Some(0), "{signal}");
    }
    assert_eq!(home.typed(&["status"]).0, 3);
}
