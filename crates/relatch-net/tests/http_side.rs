//! The HTTP side in front of scripted servers: everything passes, byte for byte, in both directions.

mod world;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Method;
use relatch_core::health::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use world::*;

/// An ordinary server whose calls are answered with this result, as raw JSON.
async fn answering(result: &'static str) -> Server {
    Server::ordinary(move |seen| async move {
        json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id()))
    })
    .await
}

#[tokio::test]
async fn a_session_opens_and_its_calls_are_answered() {
    let server = answering(r#"{"content":[],"n":1.10,"big":123456789012345678901234567890}"#).await;
    let world = World::before(&server).await;
    let mut client = world.client();
    let opened = client.open("2025-06-18").await;
    assert_eq!(opened.kind(), "application/json");
    let text = opened.text().await;
    assert!(
        text.starts_with(
            r#"{"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true}"#
        ),
        "{text}"
    );

    let sent = "{ \"method\":\"tools/call\", \"x-unknown\": {\"b\":1,\"a\":1.10},\n \"params\":{\"name\":\"echo\",\"arguments\":{\"n\":123456789012345678901234567890,\"v\":1.10}},\"id\":\"a\\u0062\",\"jsonrpc\":\"2.0\" }";
    let answer = client.post(sent).await;
    assert_eq!((answer.status, answer.kind()), (200, "application/json"));
    assert_eq!(
        answer.text().await,
        r#"{"jsonrpc":"2.0","id":"ab","result":{"content":[],"n":1.10,"big":123456789012345678901234567890}}"#
            .replace("\"ab\"", "\"a\\u0062\"")
    );
    let calls = server.seen(|seen| seen.method() == "tools/call");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].body, sent);
    assert_eq!(calls[0].header("mcp-protocol-version"), Some("2025-06-18"));
    assert_eq!(calls[0].header("accept"), Some("application/json, text/event-stream"));
    assert_eq!(calls[0].header("accept-encoding"), Some("identity"));
    assert!(calls[0].header("mcp-session-id").unwrap().starts_with("upstream-"));
    let first = &server.seen(|seen| seen.method() == "initialize")[0];
    assert_eq!((first.header("mcp-session-id"), first.header("mcp-protocol-version")), (None, None));
    assert_eq!(first.json()["params"]["clientInfo"]["name"], "test");
}

#[tokio::test]
async fn an_answer_as_events_stays_events_and_what_comes_before_it_goes_on_at_once() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let server = Server::ordinary(move |_| {
        let told = told.clone();
        async move {
            let (voice, said) = sse();
            told.send(voice).unwrap();
            said
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let call = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":"p"}}}"#;
    let asking = tokio::spawn({
        let (client, call) = (client.clone(), call.to_owned());
        async move { client.post(&call).await }
    });
    let voice = soon("the call arrives", tell.recv()).await.unwrap();
    let progress = |n: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":"p","progress":{n}}}}}"#
        )
    };
    voice.event(&progress("1")).await;
    let mut answer = asking.await.unwrap();
    assert_eq!((answer.status, answer.kind()), (200, "text/event-stream"));
    assert_eq!(answer.event().await.unwrap(), progress("1"));
    // A value that does not grow is not told.
    voice.event(&progress("1")).await;
    voice.event(&progress("1.5")).await;
    assert_eq!(answer.event().await.unwrap(), progress("1.5"));
    let last = r#"{"id":5,"result":{"v":1.10},"jsonrpc":"2.0"}"#;
    voice.event(last).await;
    voice.event(&progress("9")).await;
    assert_eq!(answer.event().await.unwrap(), last);
    assert_eq!(answer.event().await, None);
}

#[tokio::test]
async fn a_server_asks_its_client_and_the_answer_finds_its_way_back() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let answers: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&answers);
    let server = Server::ordinary(move |seen| {
        let (told, heard) = (told.clone(), Arc::clone(&heard));
        async move {
            if seen.method() == "tools/call" {
                let (voice, said) = sse();
                told.send(voice).unwrap();
                said
            } else {
                heard.lock().unwrap().push(String::from_utf8(seen.body.to_vec()).unwrap());
                say(202, "", "")
            }
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(1, "t").await }
    });
    let voice = soon("the call arrives", tell.recv()).await.unwrap();
    voice.event(r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"x":1.10}}"#).await;
    let mut answer = asking.await.unwrap();
    let asked = answer.event_json().await;
    assert_eq!(
        (asked["method"].as_str(), &asked["params"]["x"].to_string()[..]),
        (Some("sampling/createMessage"), "1.1")
    );
    let id = asked["id"].as_str().unwrap().to_owned();
    assert_eq!(id, "1:1");
    let reply = client.post(&format!(r#"{{"id":"{id}","result":{{"y":1.10}},"jsonrpc":"2.0"}}"#)).await;
    assert_eq!(reply.status, 202);
    until("the answer arrives", || !answers.lock().unwrap().is_empty()).await;
    assert_eq!(answers.lock().unwrap()[0], r#"{"id":1,"result":{"y":1.10},"jsonrpc":"2.0"}"#);
    // A second answer, and one that nobody asked for, go nowhere.
    client.post(&format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{{}}}}"#)).await;
    client.post(r#"{"jsonrpc":"2.0","id":"1:7","result":{}}"#).await;
    // What the server takes back is taken back under the id that the client knows.
    voice.event(r#"{"jsonrpc":"2.0","id":"e","method":"elicitation/create","params":{}}"#).await;
    assert_eq!(answer.event_json().await["id"], "1:\"e\"");
    voice.event(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"e"}}"#).await;
    assert_eq!(answer.event_json().await["params"]["requestId"], "1:\"e\"");
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(answer.event_json().await["id"], 1);
    assert_eq!(answers.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_standing_stream_brings_what_the_server_says_and_a_second_one_takes_over() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let manners = Arc::new(told);
    let server = Server::start(move |seen| {
        let told = Arc::clone(&manners);
        async move {
            match (seen.verb.clone(), seen.method().as_str()) {
                (Method::GET, _) => {
                    let (voice, said) = sse();
                    told.send(voice).unwrap();
                    said
                }
                (_, "initialize") => {
                    let mut said = json(format!(
                        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                        seen.id()
                    ));
                    said.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
                    said
                }
                _ => say(202, "", ""),
            }
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut first = client.listen().await;
    assert_eq!((first.status, first.kind()), (200, "text/event-stream"));
    let voice = soon("the stream is opened", tell.recv()).await.unwrap();
    let news = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1.10}}"#;
    voice.event(news).await;
    assert_eq!(first.event().await.unwrap(), news);
    let mut second = client.listen().await;
    assert_eq!(first.event().await, None);
    voice.event(news).await;
    assert_eq!(second.event().await.unwrap(), news);
    // Nobody listens, so nothing is listened to; and a client that comes back is listened for.
    drop(second);
    soon("the server's stream is let go", voice.closed()).await;
    let mut third = client.listen().await;
    let voice = soon("a stream is opened anew", tell.recv()).await.unwrap();
    voice.event(news).await;
    assert_eq!(third.event().await.unwrap(), news);
}

#[tokio::test]
async fn a_connection_without_a_whole_request_is_closed_and_one_that_carries_an_answer_is_not() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut stream = client.listen().await;
    assert_eq!(stream.status, 200);
    let mut idle = TcpStream::connect(world.at).await.unwrap();
    let mut half = TcpStream::connect(world.at).await.unwrap();
    half.write_all(b"POST /x/mcp HTTP/1.1\r\nhost: ").await.unwrap();
    let mut line = client.line().await;
    line.call(1, "echo").await;
    for _ in 0..6 {
        assert!(stream.chunk().await.unwrap().unwrap().starts_with(b":"), "a sign of life");
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(15)).await;
        tokio::time::resume();
    }
    for (what, socket) in [("an idle one", &mut idle), ("one with half a head", &mut half)] {
        let mut rest = Vec::new();
        soon(what, socket.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty(), "{what}");
    }
    assert!(stream.chunk().await.unwrap().unwrap().starts_with(b":"), "it goes on");
}

/// Time goes on by this much, in steps that let everything run that is due.
async fn goes_by(seconds: u64) {
    tokio::time::pause();
    for _ in 0..seconds {
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    tokio::time::resume();
}

fn raw_post(client: &Client, body: &str) -> Vec<u8> {
    format!(
        "POST /x/mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n{body}",
        client.at,
        client.sid.as_deref().expect("a session"),
        body.len()
    )
    .into_bytes()
}

/// Reads until this is there.
async fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        let mut some = [0; 64 * 1024];
        let count = soon("an answer", socket.read(&mut some)).await.expect("a socket");
        assert!(count > 0, "closed after {} bytes", all.len());
        all.extend_from_slice(&some[..count]);
    }
    all
}

#[tokio::test]
async fn a_connection_rests_for_its_while_from_the_end_of_a_call_and_is_closed_then() {
    let (go, goes) = tokio::sync::watch::channel(false);
    let server = Server::ordinary(move |seen| {
        let mut goes = goes.clone();
        async move {
            if seen.json()["params"]["name"] == "slow" {
                drop(goes.wait_for(|go| *go).await);
            }
            json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id()))
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut socket = TcpStream::connect(world.at).await.unwrap();
    socket.write_all(&raw_post(&client, &call_text(1, "slow"))).await.unwrap();
    until("the call is with the server", || {
        !server.seen(|seen| seen.json()["params"]["name"] == "slow").is_empty()
    })
    .await;
    // Over two looks at the connection it runs; just ahead of the next it ends.
    goes_by(59).await;
    go.send_replace(true);
    read_until(&mut socket, br#""id":1,"result":{}}"#).await;
    goes_by(25).await;
    socket.write_all(&raw_post(&client, &call_text(2, "quick"))).await.unwrap();
    read_until(&mut socket, br#""id":2,"result":{}}"#).await;
    goes_by(65).await;
    assert_eq!(soon("it is closed", socket.read(&mut [0; 16])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_a_long_answer() {
    const LONG: usize = 16 * 1024 * 1024;
    let server = Server::ordinary(move |seen| async move {
        let uri = "x".repeat(LONG);
        json(format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"resources":[{{"uri":"{uri}"}}]}}}}"#,
            seen.id()
        ))
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    // A list is handed over in one piece, most of which the socket does not take yet; a call's answer comes in several.
    for (method, end) in [("resources/list", &br#"x"}]}}"#[..]), ("tools/call", b"0\r\n\r\n")] {
        let mut socket = TcpStream::connect(world.at).await.unwrap();
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"long"}}}}"#);
        socket.write_all(&raw_post(&client, &body)).await.unwrap();
        let mut head = [0; 12];
        soon("the answer begins", socket.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        goes_by(100).await;
        assert!(read_until(&mut socket, end).await.len() > LONG, "{method}");
    }
}

#[tokio::test]
async fn an_ended_session_is_ended_upstream_and_answered_404() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let ended = client.send(Method::DELETE, "/x/mcp", "".into(), &[]).await;
    assert_eq!(ended.status, 200);
    until("DELETE goes upstream", || !server.seen(|seen| seen.verb == Method::DELETE).is_empty()).await;
    let refused = client.call(1, "echo").await;
    assert_eq!(refused.status, 404);
    assert_eq!(
        refused.text().await,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#
    );
    assert_eq!(client.listen().await.status, 404);
}

#[tokio::test]
async fn a_batch_is_split_and_answered_together_on_the_one_revision_that_has_it() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let mut client = world.client();
    client.open("2025-03-26").await;
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}},{"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","id":"b","method":"tools/list"}]"#;
    let answers = client.post(batch).await.json().await;
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|answer| answer["id"].to_string()).collect();
    assert_eq!(ids, ["1", "\"b\""]);
    until("the notification arrives", || server.methods().contains(&"notifications/x".to_owned())).await;

    let client = world.opened().await;
    let refused = client.post(batch).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json().await["error"]["code"], -32600);
}

#[tokio::test]
async fn the_modern_eras_question_is_answered_at_once_and_never_forwarded() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let client = world.client();
    let probe =
        client.post(r#"{"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover"}"#).await;
    assert_eq!(probe.status, 200);
    let probe = probe.json().await;
    assert_eq!(
        (&probe["id"], &probe["error"]["code"]),
        (&"server-discover-probe-1".into(), &(-32601).into())
    );
    let modern = r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let refused = client.post(modern).await;
    assert_eq!(refused.status, 400);
    let refused = refused.json().await;
    assert_eq!((refused["error"]["code"].as_i64(), refused["id"].as_i64()), (Some(-32022), Some(3)));
    assert!(server.methods().is_empty());
}

#[tokio::test]
async fn a_bad_request_is_refused_for_what_is_wrong_with_it() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let client = world.client();
    let post = |body: &'static str, more: &'static [(&str, &str)]| {
        let client = client.clone();
        async move { client.send(Method::POST, "/x/mcp", body.into(), more).await }
    };
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let missing = post(call, &[]).await;
    assert_eq!(missing.status, 400);
    assert_eq!(missing.json().await["error"]["message"], "Bad Request: Mcp-Session-Id header is required");
    for (body, more, status) in [
        (call, &[("mcp-session-id", "unknown")][..], 404),
        (call, &[("content-type", "text/plain")], 415),
        (call, &[("accept", "text/html")], 406),
        (call, &[("mcp-protocol-version", "1999-01-01")], 400),
        (call, &[("host", "evil.example.com")], 403),
        (call, &[("origin", "http://evil.example.com")], 403),
        ("{", &[], 400),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, &[], 400),
        ("[]", &[], 400),
    ] {
        let answer = post(body, more).await;
        assert_eq!(answer.status, status, "{body} {more:?}");
    }
    let id_is_null = post(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, &[]).await.json().await;
    assert_eq!(id_is_null["error"]["code"], -32600);
    assert_eq!(post("{", &[]).await.json().await["error"]["code"], -32700);
    let elsewhere = client.send(Method::POST, "/y/mcp", call.into(), &[]).await;
    assert_eq!(elsewhere.status, 404);
    assert!(elsewhere.text().await.contains("`/x/mcp`"));
    assert_eq!(client.send(Method::PUT, "/x/mcp", "".into(), &[]).await.status, 405);
    assert_eq!(client.send(Method::GET, "/livez", "".into(), &[]).await.status, 200);
    let status = client.send(Method::GET, "/api/status", "".into(), &[]).await;
    assert_eq!(status.text().await, r#"{"token":false}"#);
    let large = vec![b' '; 33 * 1024 * 1024];
    let large = client.send(Method::POST, "/x/mcp", large.into(), &[]).await;
    assert_eq!(large.status, 413);
    assert!(server.methods().is_empty());
}

#[tokio::test]
async fn a_clients_headers_go_to_its_upstream_and_relatchs_own_do_not() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let mut client = world.client();
    client.more = vec![
        ("authorization", "Bearer a".to_owned()),
        ("x-mine", "1".to_owned()),
        ("relatch-token", "secret".to_owned()),
        ("origin", "http://localhost:3000".to_owned()),
        ("cookie", "c=1".to_owned()),
    ];
    client.open("2025-11-25").await;
    client.call(1, "echo").await;
    let call = &server.seen(|seen| seen.method() == "tools/call")[0];
    assert_eq!(call.header("authorization"), Some("Bearer a"));
    assert_eq!(call.header("x-mine"), Some("1"));
    assert_eq!(call.header("cookie"), Some("c=1"));
    assert_eq!(call.header("host"), Some(server.at.to_string().as_str()));
    for absent in ["relatch-token", "origin"] {
        assert_eq!(call.header(absent), None);
    }
}

#[tokio::test]
async fn a_trace_goes_through_as_it_came_in_the_header_and_in_the_message() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let mut client = world.opened().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client.more = vec![
        ("traceparent", parent.to_owned()),
        ("tracestate", "vendor=opaque".to_owned()),
        ("baggage", "user=1".to_owned()),
    ];
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{{"name":"t","_meta":{{"traceparent":"{parent}","tracestate":"vendor=opaque"}}}}}}"#
    );
    assert_eq!(client.post(&call).await.status, 200);
    let seen = &server.seen(|seen| seen.method() == "tools/call")[0];
    assert_eq!(seen.body, call);
    for (name, value) in [("traceparent", parent), ("tracestate", "vendor=opaque"), ("baggage", "user=1")] {
        assert_eq!(seen.header(name), Some(value));
    }
}

#[tokio::test]
async fn what_an_upstream_refuses_comes_back_under_the_requests_own_id() {
    let server = Server::ordinary(|seen| async move {
        match seen.json()["params"]["name"].as_str().unwrap_or_default() {
            "rpc" => say(
                400,
                "application/json",
                r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32602,"message":"bad arguments","data":1.10}}"#,
            ),
            "html" => say(405, "text/html", "<h1>No</h1>"),
            "challenge" => {
                let mut said = say(401, "text/plain", "sign in");
                said.headers_mut().insert("www-authenticate", "Bearer realm=\"r\"".parse().unwrap());
                said
            }
            "null-id" => json(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"no"}}"#),
            other => panic!("{other}"),
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let rpc = client.call(1, "rpc").await;
    assert_eq!(rpc.status, 200);
    assert_eq!(
        rpc.text().await,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"bad arguments","data":1.10}}"#
    );
    let html = client.call(2, "html").await;
    assert_eq!(html.status, 200);
    let html = html.json().await;
    assert_eq!(html["id"], 2);
    assert_eq!(html["error"]["data"]["relatch"]["code"], "upstream-status");
    assert_eq!(html["error"]["data"]["relatch"]["status"], 405);
    let null = client.call(3, "null-id").await.json().await;
    assert_eq!((null["id"].as_i64(), null["error"]["code"].as_i64()), (Some(3), Some(-32603)));
    let challenge = client.call(4, "challenge").await;
    assert_eq!(challenge.status, 401);
    assert_eq!(challenge.headers["www-authenticate"], "Bearer realm=\"r\"");
    assert_eq!(challenge.text().await, "sign in");
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_upstream_and_two_calls_may_bear_one_id() {
    let (told, mut tell) = mpsc::unbounded_channel::<(Seen, Voice)>();
    let server = Server::ordinary(move |seen| {
        let told = told.clone();
        async move {
            let (voice, said) = sse();
            told.send((seen, voice)).unwrap();
            said
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { client.call(9, "t").await })
    };
    let first = ask();
    let (seen_first, voice_first) = soon("the first call", tell.recv()).await.unwrap();
    let second = ask();
    let (seen_second, voice_second) = soon("the second call", tell.recv()).await.unwrap();
    assert_eq!(seen_first.id(), "9");
    assert!(seen_second.id().starts_with("\"relatch-"), "{}", seen_second.id());
    voice_second.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"n":2}}}}"#, seen_second.id())).await;
    let mut second = second.await.unwrap();
    assert_eq!(second.event().await.unwrap(), r#"{"jsonrpc":"2.0","id":9,"result":{"n":2}}"#);
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9,"reason":"r"}}"#;
    assert_eq!(client.post(cancel).await.status, 202);
    until("the cancellation arrives", || server.methods().contains(&"notifications/cancelled".to_owned()))
        .await;
    assert_eq!(server.seen(|seen| seen.method() == "notifications/cancelled")[0].body, cancel);
    voice_first.event(r#"{"jsonrpc":"2.0","id":9,"error":{"code":-1,"message":"cancelled"}}"#).await;
    let mut first = first.await.unwrap();
    assert_eq!(first.event_json().await["error"]["code"], -1);
}

#[tokio::test]
async fn a_client_that_loses_its_connection_in_the_middle_of_a_call_comes_back_for_the_answer() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let server = Server::ordinary(move |_| {
        let told = told.clone();
        async move {
            let (voice, said) = sse();
            told.send(voice).unwrap();
            said
        }
    })
    .await;
    let world = World::before(&server).await;
    let mut client = world.client();
    client.open("2025-11-25").await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(5, "t").await }
    });
    let voice = soon("the call arrives", tell.recv()).await.unwrap();
    voice.event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1}}"#).await;
    let mut first = asking.await.unwrap();
    assert_eq!(first.event_json().await["params"]["n"], 1);
    assert_eq!(first.retry.as_deref(), Some("1000"), "a client of this revision is told when to come back");
    let seen = first.last_id.clone().expect("events are numbered");
    drop(first);

    // What comes while it is away is kept.
    voice.event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"n":2}}"#).await;
    let back = [("accept", "text/event-stream"), ("last-event-id", seen.as_str())];
    let mut again = client.send(Method::GET, "/x/mcp", Bytes::new(), &back).await;
    assert_eq!(again.event_json().await["params"]["n"], 2);
    voice.event(r#"{"jsonrpc":"2.0","id":5,"result":{"v":1}}"#).await;
    assert_eq!(again.event_json().await["result"]["v"], 1);
    assert_eq!(again.event().await, None, "the stream ends with its answer");
    assert_eq!(server.seen(|seen| seen.method() == "tools/call").len(), 1);
}

#[tokio::test]
async fn an_answer_that_found_nobody_is_kept_for_the_client_that_comes_back() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let server = Server::ordinary(move |_| {
        let told = told.clone();
        async move {
            let (voice, said) = sse();
            told.send(voice).unwrap();
            said
        }
    })
    .await;
    let world = World::before(&server).await;
    let mut client = world.client();
    client.open("2025-11-25").await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(5, "t").await }
    });
    let voice = soon("the call arrives", tell.recv()).await.unwrap();
    let mut first = asking.await.unwrap();
    let primed = loop {
        // The priming event says nothing, so it is looked for in the bytes.
        let chunk = first.chunk().await.expect("a priming event").unwrap();
        let text = String::from_utf8(chunk.to_vec()).unwrap();
        if let Some(id) = text.lines().find_map(|line| line.strip_prefix("id: ")) {
            break id.to_owned();
        }
    };
    drop(first);
    voice.event(r#"{"jsonrpc":"2.0","id":5,"result":{"v":1}}"#).await;
    let back = [("accept", "text/event-stream"), ("last-event-id", primed.as_str())];
    let mut again = client.send(Method::GET, "/x/mcp", Bytes::new(), &back).await;
    assert_eq!(again.event_json().await["result"]["v"], 1);
    // Another client's session has no such stream: it gets nothing of this one, and its wait is over.
    let other = world.opened().await;
    let mut strange = other.send(Method::GET, "/x/mcp", Bytes::new(), &back).await;
    assert_eq!(strange.status, 200);
    assert_eq!(strange.event().await, None);
}

#[tokio::test]
async fn an_answer_that_was_written_and_never_arrived_is_there_for_the_client_that_comes_back() {
    for (size, whole) in [(1, true), (2 * 1024 * 1024, false)] {
        let server = Server::ordinary(move |seen| async move {
            let (voice, said) = sse();
            tokio::spawn(async move {
                voice.event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1}}"#).await;
                let (text, id) = ("x".repeat(size), seen.id());
                voice.event(&format!(r#"{{"jsonrpc":"2.0","result":{{"text":"{text}"}},"id":{id}}}"#)).await;
            });
            said
        })
        .await;
        let world = World::before(&server).await;
        let mut client = world.client();
        client.open("2025-11-25").await;
        let mut first = client.call(5, "t").await;
        assert_eq!(first.event_json().await["params"]["n"], 1);
        let seen = first.last_id.clone().expect("events are numbered");
        // All of it is on the way, as far as relatch can know; to this client nothing came behind the first event.
        while first.chunk().await.is_some() {}
        let back = [("accept", "text/event-stream"), ("last-event-id", seen.as_str())];
        let mut again = client.send(Method::GET, "/x/mcp", Bytes::new(), &back).await;
        let answer = again.event_json().await;
        assert_eq!(answer["id"], 5);
        match whole {
            true => assert_eq!(answer["result"]["text"], "x"),
            false => assert_eq!(answer["error"]["data"]["relatch"]["code"], "answer-broken"),
        }
        assert_eq!(again.event().await, None, "the stream ends with its answer");
        assert_eq!(server.seen(|seen| seen.method() == "tools/call").len(), 1);
    }
}

#[tokio::test]
async fn who_has_no_token_gets_nothing_but_a_sign_of_life() {
    let server = answering("{}").await;
    let world = World::guarded(&server.url(), |_| {}, None, Some("t".repeat(64))).await;
    let mut client = world.client();
    for path in ["/x/mcp", "/y/mcp", "/nothing"] {
        assert_eq!(client.send(Method::GET, path, "".into(), &[]).await.status, 403, "{path}");
    }
    // The site has other ways to know who asks, so it is asked, and told that the token did not come. It is never
    // asked about an upstream.
    let status = client.send(Method::GET, "/api/status", "".into(), &[]).await;
    assert_eq!(status.text().await, r#"{"token":false}"#);
    assert_eq!(client.send(Method::GET, "/livez", "".into(), &[]).await.status, 200);
    assert_eq!(client.send(Method::GET, "/readyz", "".into(), &[]).await.status, 200);
    client.more = vec![("relatch-token", "t".repeat(64))];
    let status = client.send(Method::GET, "/api/status", "".into(), &[]).await;
    assert_eq!(status.text().await, r#"{"token":true}"#);
    assert_eq!(client.send(Method::GET, "/nothing", "".into(), &[]).await.status, 404);
    client.open("2025-11-25").await;
    assert_eq!(client.call(1, "t").await.json().await["id"], 1);
    assert!(server.seen(|seen| seen.header("relatch-token").is_some()).is_empty());
}

#[tokio::test]
async fn what_the_site_tells_comes_piece_by_piece_and_ends_when_the_side_closes() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let mut events = world.client().send(Method::GET, "/api/events", "".into(), &[]).await;
    assert_eq!(events.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    world.stop().await;
    assert!(events.chunk().await.is_none());
}

#[tokio::test]
async fn a_server_that_vanishes_while_nothing_is_asked_of_it_is_found_out() {
    let server = answering("{}").await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    assert_eq!(client.call(1, "t").await.status, 200);
    let turns = world.keeper.turns();
    let state = || world.keeper.summary("x").unwrap().state;
    assert_eq!(state(), State::Healthy);
    // The client has no stream open and asks nothing more: only the idle connection can tell.
    let at = server.kill().await;
    until("it is down", || state() == State::Down).await;
    assert!(turns.has_changed().unwrap());
    let _back = Server::ordinary_at(at, |_| async { say(500, "", "") }).await;
    until("it is healthy again", || state() == State::Healthy).await;
}

#[tokio::test]
async fn a_client_that_takes_no_events_gets_json_and_one_that_takes_nothing_else_gets_events() {
    let server = Server::ordinary(|seen| async move {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id());
        match seen.json()["params"]["name"].as_str() {
            Some("events") => say(200, "text/event-stream", format!("data: {answer}\n\n")),
            _ => json(answer),
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    for (tool, accept, kind) in [
        ("events", "application/json", "application/json"),
        ("json", "text/event-stream", "text/event-stream"),
        ("events", "application/json, text/event-stream", "text/event-stream"),
        ("json", "*/*", "application/json"),
        ("json", "", "application/json"),
    ] {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
        let answer = client.send(Method::POST, "/x/mcp", body.into(), &[("accept", accept)]).await;
        assert_eq!((answer.status, answer.kind()), (200, kind), "{tool} {accept}");
    }
}

#[tokio::test]
async fn a_notification_that_the_upstream_refuses_is_refused() {
    let server = Server::ordinary(|_| async move { say(403, "text/plain", "no") }).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let refused = client.post(r#"{"jsonrpc":"2.0","method":"custom"}"#).await;
    assert_eq!((refused.status, refused.text().await.as_str()), (403, "no"));
}

#[tokio::test]
async fn answers_that_are_out_displace_no_running_call_and_who_is_too_late_for_one_is_told() {
    let (told, mut tell) = mpsc::unbounded_channel::<(Seen, Voice)>();
    let server = Server::ordinary(move |seen| {
        let told = told.clone();
        async move {
            let (voice, said) = sse();
            told.send((seen, voice)).unwrap();
            said
        }
    })
    .await;
    let world = World::before(&server).await;
    let mut client = world.client();
    client.open("2025-11-25").await;
    let ask = |id: u64| {
        let client = client.clone();
        tokio::spawn(async move { client.call(id, "t").await })
    };
    let asking = ask(5);
    let (_, long) = soon("the long call arrives", tell.recv()).await.unwrap();
    long.event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"n":1}}"#).await;
    let mut first = asking.await.unwrap();
    assert_eq!(first.event_json().await["params"]["n"], 1);
    let seen = first.last_id.clone().expect("events are numbered");
    let mut early = None;
    for id in 100..140 {
        let asking = ask(id);
        let (_, voice) = soon("a short call arrives", tell.recv()).await.unwrap();
        voice.event(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"n":2}}"#).await;
        let mut short = asking.await.unwrap();
        assert_eq!(short.event_json().await["params"]["n"], 2);
        early = early.or(short.last_id.clone());
        voice.event(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).await;
        assert_eq!(short.event_json().await["id"], id);
    }

    drop(first);
    let back = |seen: &str| {
        let (client, seen) = (client.clone(), seen.to_owned());
        async move {
            let headers = [("accept", "text/event-stream"), ("last-event-id", seen.as_str())];
            client.send(Method::GET, "/x/mcp", Bytes::new(), &headers).await
        }
    };
    let mut again = back(&seen).await;
    long.event(r#"{"jsonrpc":"2.0","id":5,"result":{"v":1}}"#).await;
    assert_eq!(again.event_json().await["result"]["v"], 1);

    // The oldest short one has lost its place: its client hears so, under its id, and no stream stays open for it.
    let early = early.expect("events are numbered");
    let (stream, _) = early.rsplit_once('-').expect("an event id");
    let mut late = back(&format!("{stream}-0")).await;
    let broken = late.event_json().await;
    assert_eq!(
        (broken["id"].as_u64(), &broken["error"]["data"]["relatch"]["code"]),
        (Some(100), &"answer-broken".into())
    );
    assert_eq!(late.event().await, None);
    // And one that nobody remembers ends at once.
    let (keeper, _) = stream.rsplit_once('.').unwrap_or(("", stream));
    let unknown =
        if keeper.is_empty() { early.replace(stream, "999999") } else { format!("{keeper}.999999-1") };
    let mut nothing = back(&unknown).await;
    assert_eq!(soon("it ends", nothing.event()).await, None);
}
