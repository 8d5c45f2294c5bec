//! What machines read of `serve`: metrics, and whether it is alive and ready.

use std::net::TcpStream;

use crate::stage::{self, Home, Serve, until};

#[test]
fn metrics_are_the_same_report_as_the_status_and_name_nobody_but_the_configured() {
    let peer = stage::echo();
    let home = Home::new();
    let serve = Serve::start(&home, &[&format!("gmail={}", peer.url())]);
    let session = serve.session("gmail");
    serve.call("gmail", &session, 1);
    let bearer = format!("Bearer {}", serve.token.as_deref().unwrap());
    let answer = serve.http("GET", "/metrics", &[("Authorization", &bearer)], "");
    assert_eq!(answer.status, 200);
    let status = home.server_status("gmail");
    for line in [
        format!("relatch_calls_total{{upstream=\"gmail\"}} {}", status["totals"]["calls"]),
        format!("relatch_sessions{{upstream=\"gmail\"}} {}", status["sessions"].as_array().unwrap().len()),
        format!(
            "relatch_upstream_health{{upstream=\"gmail\",state=\"{}\"}} 1",
            status["health"].as_str().unwrap()
        ),
    ] {
        assert!(answer.body.lines().any(|told| told == line), "no `{line}` in\n{}", answer.body);
    }
    assert!(!answer.body.contains("stage"), "the client's name is no label");
    assert_eq!(serve.http("POST", "/metrics", &[("Authorization", &bearer)], "").status, 405);
    assert_eq!(serve.http("GET", "/metrics", &[], "").status, 403);
    // With a request to an upstream, `Authorization` is the upstream's.
    assert_eq!(serve.http("GET", "/gmail/mcp", &[("Authorization", &bearer)], "").status, 403);
}

#[test]
fn a_keeper_that_is_told_to_end_is_not_ready_while_it_still_answers_a_call() {
    let (asked, called) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (asked, wait) = (std::sync::Mutex::new(asked), std::sync::Mutex::new(wait));
    let peer = stage::server(move |got, stream| {
        asked.lock().unwrap().send(()).unwrap();
        let _ = wait.lock().unwrap().recv_timeout(stage::PATIENCE);
        let id = &got.message()["id"];
        stage::reply_json(stream, "200 OK", &serde_json::json!({"jsonrpc": "2.0", "id": id, "result": {}}));
    });
    let home = Home::new();
    let mut serve = Serve::start(&home, &[&format!("gmail={}", peer.url())]);
    let session = serve.session("gmail");
    let answers = |path| serve.http("GET", path, &[], "");
    assert_eq!((answers("/readyz").status, answers("/livez").status), (200, 200));
    let token = serve.token.clone().unwrap();
    let headers =
        [("Content-Type", "application/json"), ("Relatch-Token", &token), ("Mcp-Session-Id", &session)];
    let answer = std::thread::scope(|scope| {
        let serve = &serve;
        let call =
            scope.spawn(move || serve.http("POST", "/gmail/mcp", &headers, &stage::call(1).to_string()));
        called.recv_timeout(stage::PATIENCE).unwrap();
        serve.program.signal("TERM");
        until("it is not ready", || TcpStream::connect(serve.address).is_err().then_some(()));
        go.send(()).unwrap();
        call.join().unwrap()
    });
    assert!(answer.message().get("result").is_some(), "{answer:?}");
    assert!(serve.program.ended().0.success());
}
