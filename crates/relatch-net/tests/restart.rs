//! Servers that go and come back, clients that leave, keepers that start anew.

mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use relatch_core::journal::What;
use relatch_store::{MemoryStore, Store};
use tokio::sync::mpsc;
use world::*;

async fn echo(seen: Seen) -> Say {
    match seen.method().as_str() {
        "logging/setLevel" | "resources/subscribe" | "tools/call" => {
            json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, seen.id()))
        }
        other => panic!("{other}"),
    }
}

/// An ordinary server that counts the calls that it runs.
async fn counting_at(at: std::net::SocketAddr) -> (Server, Arc<AtomicUsize>) {
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let server = Server::ordinary_at(at, move |seen| {
        count.fetch_add(usize::from(seen.method() == "tools/call"), Ordering::SeqCst);
        echo(seen)
    })
    .await;
    (server, ran)
}

#[tokio::test]
async fn a_call_after_a_restart_is_answered_by_a_new_session_that_has_what_the_old_one_had() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let level = r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug","x":1.10}}"#;
    assert_eq!(client.post(level).await.json().await["id"], 1);
    let subscribe = r#"{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"file:///a"}}"#;
    assert_eq!(client.post(subscribe).await.json().await["id"], 2);
    let at = server.kill().await;
    let server = Server::ordinary_at(at, echo).await;
    let answer = client.call(3, "t").await.json().await;
    assert_eq!((answer["id"].as_i64(), answer["result"].is_object()), (Some(3), true));
    let calls = server.seen(|seen| seen.method() == "tools/call" && seen.id() == "3");
    assert_eq!(calls.len(), server.seen(|seen| seen.method() == "tools/call").len());
    let set = server.seen(|seen| seen.method() == "logging/setLevel");
    assert!(String::from_utf8(set[0].body.to_vec()).unwrap().contains(r#"{"level":"debug","x":1.10}"#));
    assert_eq!(server.seen(|seen| seen.method() == "resources/subscribe").len(), 1);
    assert_eq!(server.seen(|seen| seen.method() == "initialize").len(), 1);
    assert_eq!(server.seen(|seen| seen.method() == "notifications/initialized").len(), 1);
    assert!(world.journalled().contains(&What::Relatched));
}

#[tokio::test]
async fn a_call_made_while_the_server_is_away_waits_for_it() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(1, "t").await }
    });
    until("the call is held", || world.journalled().contains(&What::Held)).await;
    let (server, ran) = counting_at(at).await;
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().await["result"]["content"], serde_json::json!([]));
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    drop(server);
}

#[tokio::test]
async fn a_call_whose_client_leaves_before_it_was_sent_is_never_sent() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(1, "t").await }
    });
    until("the call is held", || world.keeper.report("x").unwrap().waiting == 1).await;
    asking.abort();
    until("the call is let go", || world.keeper.report("x").unwrap().waiting == 0).await;
    let server = Server::ordinary_at(at, echo).await;
    assert_eq!(client.call(2, "t").await.json().await["id"], 2);
    let calls = server.seen(|seen| seen.method() == "tools/call");
    assert!(calls.iter().all(|seen| seen.id() == "2"), "only the second call is sent");
}

#[tokio::test]
async fn a_call_in_flight_when_the_server_dies_is_told_the_truth_at_once() {
    for events in [false, true] {
        let (told, mut tell) = mpsc::unbounded_channel::<Option<Voice>>();
        let server = Server::ordinary(move |_| {
            let told = told.clone();
            async move {
                if events {
                    let (voice, said) = sse();
                    voice.raw(": going\n\n").await;
                    told.send(Some(voice)).unwrap();
                    said
                } else {
                    told.send(None).unwrap();
                    std::future::pending().await
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
        server.kill().await;
        drop(voice);
        let mut answer = asking.await.unwrap();
        let failure = match answer.kind() {
            "text/event-stream" => answer.event_json().await,
            _ => answer.json().await,
        };
        assert_eq!(failure["id"], 1);
        let relatch = &failure["error"]["data"]["relatch"];
        assert_eq!(
            (relatch["code"].as_str(), relatch["executed"].as_str()),
            (Some("delivery-unknown"), Some("unknown"))
        );
        assert_eq!(relatch["upstream"], "x");
    }
}

#[tokio::test]
async fn what_a_dead_server_asked_is_cancelled_at_the_client() {
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
    let mut standing = client.listen().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(1, "t").await }
    });
    let voice = soon("the call arrives", tell.recv()).await.unwrap();
    voice.event(r#"{"jsonrpc":"2.0","id":4,"method":"sampling/createMessage","params":{}}"#).await;
    let mut answer = asking.await.unwrap();
    assert_eq!(answer.event_json().await["id"], "1:4");
    server.kill().await;
    voice.cut().await;
    // By the call's own stream while it is open, else by the standing one.
    let next = answer.event_json().await;
    let cancelled = if next["method"].is_string() { next } else { standing.event_json().await };
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], "1:4");
}

#[tokio::test]
async fn a_cut_stream_that_numbered_its_events_is_resumed() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let manners = Arc::new(Mutex::new(0));
    let server = Server::start(move |seen| {
        let (told, manners) = (told.clone(), Arc::clone(&manners));
        async move {
            match (seen.verb.clone(), seen.method().as_str()) {
                (Method::GET, _) if seen.header("last-event-id").is_some() => {
                    *manners.lock().unwrap() += 1;
                    let (voice, said) = sse();
                    told.send(voice).unwrap();
                    said
                }
                (Method::GET, _) => say(405, "", ""),
                (_, "initialize") => {
                    let mut said = json(format!(
                        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                        seen.id()
                    ));
                    said.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
                    said
                }
                (_, "tools/call") => {
                    let (voice, said) = sse();
                    told.send(voice).unwrap();
                    said
                }
                (_, "ping") => json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id())),
                _ => say(202, "", ""),
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
    voice.raw("retry: 10\nid: e1\ndata:\n\n").await;
    voice.raw("id: e2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"n\":1}}\n\n").await;
    let mut answer = asking.await.unwrap();
    assert_eq!(answer.event_json().await["params"]["n"], 1);
    voice.cut().await;
    let voice = soon("the stream is resumed", tell.recv()).await.unwrap();
    let resumed = server.seen(|seen| seen.header("last-event-id").is_some());
    assert_eq!(resumed[0].header("last-event-id"), Some("e2"));
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#).await;
    assert_eq!(answer.event().await.unwrap(), r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#);
    assert_eq!(server.methods().iter().filter(|method| *method == "tools/call").count(), 1);
}

#[tokio::test]
async fn a_call_whose_stream_is_resumed_has_time_for_its_answer_at_shutdown() {
    let (told, mut tell) = mpsc::unbounded_channel::<Voice>();
    let manners = Arc::new(Mutex::new(0));
    let server = Server::start(move |seen| {
        let (told, manners) = (told.clone(), Arc::clone(&manners));
        async move {
            match (seen.verb.clone(), seen.method().as_str()) {
                (Method::GET, _) if seen.header("last-event-id").is_some() => {
                    *manners.lock().unwrap() += 1;
                    let (voice, said) = sse();
                    told.send(voice).unwrap();
                    said
                }
                (Method::GET, _) => say(405, "", ""),
                (_, "initialize") => {
                    let mut said = json(format!(
                        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                        seen.id()
                    ));
                    said.headers_mut().insert("mcp-session-id", "s1".parse().unwrap());
                    said
                }
                (_, "tools/call") => {
                    let (voice, said) = sse();
                    told.send(voice).unwrap();
                    said
                }
                (_, "ping") => json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id())),
                _ => say(202, "", ""),
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
    voice.raw("retry: 10\nid: e1\ndata:\n\n").await;
    voice.raw("id: e2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"n\":1}}\n\n").await;
    let mut answer = asking.await.unwrap();
    assert_eq!(answer.event_json().await["params"]["n"], 1);
    voice.cut().await;
    let voice = soon("the stream is resumed", tell.recv()).await.unwrap();
    let at = world.at;
    let stopping = tokio::spawn(world.stop());
    // Nobody is let in any more, so what was not sent has been given back by now.
    soon("the side closes", async {
        while tokio::net::TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#).await;
    assert_eq!(answer.event().await.unwrap(), r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#);
    stopping.abort();
}

/// An ordinary server with this tool.
async fn listing(at: std::net::SocketAddr, tool: &'static str) -> Server {
    static STARTS: AtomicUsize = AtomicUsize::new(0);
    let sid = format!("s-{tool}-{}", STARTS.fetch_add(1, Ordering::SeqCst));
    Server::start_at(at, move |seen| {
        let sid = sid.clone();
        async move {
            let said = |result: String| json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id()));
            if seen.method() == "initialize" {
                let mut said = said(r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#.into());
                said.headers_mut().insert("mcp-session-id", sid.parse().expect("a header"));
                return said;
            }
            if seen.header("mcp-session-id") != Some(&sid) {
                return say(404, "", "");
            }
            match (seen.verb.clone(), seen.method().as_str()) {
                (Method::GET, _) => {
                    let (voice, said) = sse();
                    tokio::spawn(async move { voice.closed().await });
                    said
                }
                (_, "tools/list") => said(format!(r#"{{"tools":[{{"name":"{tool}"}}]}}"#)),
                (_, "ping" | "tools/call") => said("{}".into()),
                _ => say(202, "", ""),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_is_told_that_lists_changed_exactly_when_they_did() {
    let server = listing("127.0.0.1:0".parse().unwrap(), "a").await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut standing = client.listen().await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    assert_eq!(client.post(list).await.json().await["result"]["tools"][0]["name"], "a");
    let at = server.kill().await;
    let server = listing(at, "b").await;
    assert_eq!(client.call(2, "b").await.json().await["id"], 2);
    let told = standing.event_json().await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert!(world.journalled().contains(&What::ListChanged));
    assert_eq!(client.post(list).await.json().await["result"]["tools"][0]["name"], "b");
    // Another restart that changes nothing is not told.
    let at = server.kill().await;
    let server = listing(at, "b").await;
    assert_eq!(client.call(3, "b").await.json().await["id"], 3);
    until("lists are compared", || {
        server.seen(|seen| seen.method() == "tools/list" && seen.id().contains("relatch-")).len() == 1
    })
    .await;
    let told = world.journalled().iter().filter(|what| **what == What::ListChanged).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_session_outlives_its_keeper() {
    let server = Server::ordinary(echo).await;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let world = World::with(&server.url(), |_| {}, Some(Arc::clone(&store))).await;
    let mut client = world.opened().await;
    assert_eq!(client.call(1, "t").await.json().await["id"], 1);
    world.stop().await;
    let world = World::with(&server.url(), |_| {}, Some(Arc::clone(&store))).await;
    client.at = world.at;
    let answer = client.call(2, "t").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().await["id"], 2);
    assert_eq!(
        server.seen(|seen| seen.method() == "initialize").len(),
        1,
        "the upstream session is the same"
    );
    // And one that is restored while its server forgot it.
    world.stop().await;
    let at = server.kill().await;
    let server = Server::ordinary_at(at, echo).await;
    let world = World::with(&server.url(), |_| {}, Some(Arc::clone(&store))).await;
    client.at = world.at;
    assert_eq!(client.call(3, "t").await.json().await["id"], 3);
    assert_eq!(server.seen(|seen| seen.method() == "initialize").len(), 1);
    // An ended session is not revived.
    client.send(Method::DELETE, "/x/mcp", "".into(), &[]).await;
    world.stop().await;
    let world = World::with(&server.url(), |_| {}, Some(store)).await;
    client.at = world.at;
    assert_eq!(client.call(4, "t").await.status, 404);
}

#[tokio::test]
async fn what_waits_for_a_client_is_not_given_to_other_credentials() {
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
    client.more = vec![("authorization", "Bearer mine".to_owned())];
    client.open("2025-11-25").await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move {
            let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#;
            client.send(Method::POST, "/x/mcp", body.into(), &[("accept", "application/json")]).await
        }
    });
    let voice = soon("the call arrives", tell.recv()).await.unwrap();
    // Its client takes no events there, so this waits for the standing stream.
    let news = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    voice.event(news).await;
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    let answer = asking.await.unwrap();
    assert_eq!((answer.status, answer.kind()), (200, "application/json"));
    let mut other = client.clone();
    other.more = vec![("authorization", "Bearer other".to_owned())];
    let mut foreign = other.listen().await;
    assert_eq!(foreign.status, 200);
    assert_eq!(foreign.chunk().await.unwrap().unwrap(), ": \n\n");
    let mut mine = client.listen().await;
    assert_eq!(mine.event().await.unwrap(), news);
    assert_eq!(foreign.event().await, None);
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed_and_remembered() {
    let server = Server::start(|seen| async move {
        if seen.path == "/mcp" {
            let mut said = say(307, "", "");
            said.headers_mut().insert("location", "/mcp/".parse().unwrap());
            return said;
        }
        match seen.method().as_str() {
            "initialize" => json(format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                seen.id()
            )),
            "tools/call" => json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id())),
            _ => say(202, "", ""),
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    assert_eq!(client.call(1, "t").await.json().await["id"], 1);
    assert_eq!(server.seen(|seen| seen.path == "/mcp").len(), 1);
    assert!(server.seen(|seen| seen.method() == "tools/call").iter().all(|seen| seen.path == "/mcp/"));
}

#[tokio::test]
async fn calls_at_once_by_many_clients_are_all_answered_over_a_restart() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(world.opened().await);
    }
    let at = server.kill().await;
    let calls: Vec<_> = clients
        .iter()
        .flat_map(|client| (1..=4).map(|id| (client.clone(), id)))
        .map(|(client, id)| tokio::spawn(async move { (id, client.call(id, "t").await.json().await) }))
        .collect();
    until("calls are held", || world.keeper.report("x").unwrap().waiting > 0).await;
    let (server, ran) = counting_at(at).await;
    for call in calls {
        let (id, answer) = soon("a call is answered", call).await.unwrap();
        assert_eq!((answer["id"].as_u64(), answer["result"].is_object()), (Some(id), true), "{answer}");
    }
    assert_eq!(server.seen(|seen| seen.method() == "initialize").len(), 8, "one handshake a latch");
    assert_eq!(ran.load(Ordering::SeqCst), 32);
}

#[tokio::test]
async fn a_keeper_that_is_shut_down_gives_waiting_calls_back_unsent() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    server.kill().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.call(1, "t").await }
    });
    until("the call is held", || world.keeper.report("x").unwrap().waiting == 1).await;
    world.stop().await;
    let failure = asking.await.unwrap().json().await;
    let relatch = &failure["error"]["data"]["relatch"];
    assert_eq!((relatch["code"].as_str(), relatch["executed"].as_str()), (Some("draining"), Some("no")));
}

#[tokio::test]
async fn a_redirect_that_is_gone_after_a_restart_is_forgotten() {
    async fn start(at: std::net::SocketAddr, home: &'static str) -> Server {
        Server::start_at(at, move |seen| async move {
            if home != "/mcp" && seen.path == "/mcp" {
                let mut said = say(308, "", "");
                said.headers_mut().insert("location", home.parse().expect("a header"));
                return said;
            }
            if seen.path != home {
                return say(404, "", "");
            }
            match seen.method().as_str() {
                "initialize" => {
                    let mut said = json(format!(
                        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                        seen.id()
                    ));
                    said.headers_mut().insert("mcp-session-id", "s".parse().expect("a header"));
                    said
                }
                "tools/call" | "ping" => json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id())),
                _ => say(202, "", ""),
            }
        })
        .await
    }
    let server = start("127.0.0.1:0".parse().unwrap(), "/old/mcp").await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    assert_eq!(client.call(1, "t").await.json().await["id"], 1);
    let at = server.kill().await;
    let _server = start(at, "/mcp").await;
    let answer = client.call(2, "t").await.json().await;
    assert!(answer["result"].is_object(), "{answer}");
}

#[tokio::test]
async fn a_session_that_opens_after_its_client_has_ended_is_ended_upstream() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    assert_eq!(client.call(1, "t").await.json().await["id"], 1);
    let at = server.kill().await;
    // The restarted server knows no session, and takes its time with the handshake.
    let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start_at(at, move |seen| {
        let asked = asked.clone();
        async move {
            if seen.method() == "initialize" {
                let (go, gone) = tokio::sync::oneshot::channel::<()>();
                asked.send(go).unwrap();
                let _ = gone.await;
                let mut said = json(format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-06-18","capabilities":{{}},"serverInfo":{{"name":"slow","version":"1"}}}}}}"#,
                    seen.id()
                ));
                said.headers_mut().insert("mcp-session-id", "late".parse().unwrap());
                said
            } else if seen.verb == Method::DELETE {
                say(200, "", "")
            } else {
                say(404, "text/plain", "Session not found")
            }
        }
    })
    .await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.call(2, "t").await.json().await }
    });
    let go = soon("the handshake", asks.recv()).await.unwrap();
    client.send(Method::DELETE, "/x/mcp", "".into(), &[]).await;
    assert_eq!(waiting.await.unwrap()["error"]["data"]["relatch"]["code"], "session-ended");
    go.send(()).unwrap();
    until("the late session is ended", || {
        server.seen(|seen| seen.verb == Method::DELETE && seen.header("mcp-session-id") == Some("late")).len()
            == 1
    })
    .await;
}

#[tokio::test]
async fn a_held_call_is_heard_of_after_ten_seconds_and_its_progress_after_twenty() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let call =
        r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":7}}}"#;
    // The head of the answer comes before there is an answer.
    let mut answer = client.post(call).await;
    assert_eq!((answer.status, answer.kind()), (200, "text/event-stream"));
    let told = answer.event_json().await;
    assert_eq!(told["method"], "notifications/progress");
    assert_eq!(told["params"]["progressToken"], 7);
    assert!(told["params"]["progress"].as_f64().unwrap() < 0.0, "the server's own values lie above: {told}");
    let server = Server::ordinary_at(at, echo).await;
    assert_eq!(answer.event_json().await["id"], 5);
    assert_eq!(server.seen(|seen| seen.method() == "tools/call").len(), 1);
}

#[tokio::test]
async fn a_client_never_hears_by_a_notification_that_its_upstream_session_is_gone() {
    let restarted = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let restarted = Arc::clone(&restarted);
        move |seen| {
            let restarted = Arc::clone(&restarted);
            async move {
                let said = |result: &str| json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id()));
                let now = restarted.load(Ordering::SeqCst);
                if seen.method() == "initialize" {
                    let mut said = said(r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#);
                    said.headers_mut().insert("mcp-session-id", format!("s{now}").parse().unwrap());
                    // It restarts before it hears of `initialized`.
                    restarted.store(1, Ordering::SeqCst);
                    return said;
                }
                match seen.header("mcp-session-id") == Some(&format!("s{now}")) {
                    false => say(404, "text/plain", "session not found"),
                    true if seen.method().starts_with("notifications/") => say(202, "", ""),
                    true => said("{}"),
                }
            }
        }
    })
    .await;
    let world = World::before(&server).await;
    // `opened` asserts that `initialized` is answered 202.
    let client = world.opened().await;
    assert!(client.call(1, "t").await.json().await["result"].is_object());
}
