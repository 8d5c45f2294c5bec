//! Servers of the old transport, HTTP+SSE: found, spoken to, lost in every way, and replaced.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use relatch_core::journal::What;
use relatch_core::policy::{Policy, Transport};
use relatch_net::keeper::ServerConfig;
use relatch_net::upstream::target::Target;
use relatch_store::{MemoryStore, Store};
use serde_json::Value;
use world::*;

/// A server of the old transport: its stream is at `/mcp`, messages go to `/messages`.
#[derive(Default)]
struct Old {
    streams: Mutex<BTreeMap<String, Arc<Voice>>>,
    count: AtomicUsize,
    /// How a message is refused whose stream is not known.
    refuses: Mutex<Option<(u16, &'static str)>>,
    /// Whether the POST that carries `early` is answered at all.
    mute: AtomicBool,
    ran: AtomicUsize,
}

impl Old {
    async fn answer(self: Arc<Self>, seen: Seen) -> Say {
        match (&seen.verb, seen.path.split_once("?s=")) {
            (&Method::GET, None) => {
                let name = (self.count.fetch_add(1, Ordering::SeqCst) + 1).to_string();
                let (voice, said) = sse();
                let voice = Arc::new(voice);
                self.streams.lock().unwrap().insert(name.clone(), Arc::clone(&voice));
                voice.raw(format!(": hello\n\nevent: endpoint\ndata: /messages?s={name}\n\n")).await;
                said
            }
            (&Method::POST, Some(("/messages", name))) => self.hear(name, &seen).await,
            _ => say(405, "text/plain", "Method Not Allowed"),
        }
    }

    async fn hear(&self, name: &str, seen: &Seen) -> Say {
        let Some(voice) = self.streams.lock().unwrap().get(name).cloned() else {
            let (status, text) = self.refuses.lock().unwrap().unwrap_or((404, "Could not find session"));
            return say(status, "text/plain", text);
        };
        let message = seen.json();
        let result = match seen.method().as_str() {
            "initialize" => {
                let revision = message["params"]["protocolVersion"].as_str().unwrap();
                format!(
                    r#"{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"old","version":"1"}}}}"#
                )
            }
            "tools/list" if message["params"]["cursor"] == "lost" => {
                return say(202, "text/plain", "Accepted");
            }
            "tools/list" => r#"{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}"#.to_owned(),
            "tools/call" => {
                self.ran.fetch_add(1, Ordering::SeqCst);
                match message["params"]["name"].as_str().unwrap() {
                    "lost" => return say(202, "text/plain", "Accepted"),
                    "ask" => {
                        voice.event(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#).await;
                        voice
                            .event(
                                r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}"#,
                            )
                            .await;
                        return say(202, "", "");
                    }
                    "long" => {
                        format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(3_000_000))
                    }
                    _ => r#"{"content":[]}"#.to_owned(),
                }
            }
            "" if message["id"] == 7 => {
                voice.event(r#"{"jsonrpc":"2.0","id":3,"result":{"content":[],"asked":true}}"#).await;
                return say(202, "", "");
            }
            _ => "{}".to_owned(),
        };
        if !seen.method().starts_with("notifications/") {
            voice.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id())).await;
        }
        if self.mute.load(Ordering::SeqCst) && seen.method() == "tools/call" {
            std::future::pending::<()>().await;
        }
        say(202, "text/plain", "Accepted")
    }

    /// Forgets its sessions while their streams stay open.
    fn forget(&self) -> BTreeMap<String, Arc<Voice>> {
        std::mem::take(&mut *self.streams.lock().unwrap())
    }

    fn ran(&self) -> usize {
        self.ran.load(Ordering::SeqCst)
    }
}

async fn old_at(at: SocketAddr) -> (Server, Arc<Old>) {
    let old = Arc::new(Old::default());
    let hears = Arc::clone(&old);
    (Server::start_at(at, move |seen| Arc::clone(&hears).answer(seen)).await, old)
}

async fn old() -> (Server, Arc<Old>) {
    old_at("127.0.0.1:0".parse().unwrap()).await
}

/// What came in, a word each.
fn came(server: &Server) -> Vec<String> {
    let word = |seen: &Seen| format!("{} {} {}", seen.verb, seen.path, seen.method()).trim_end().to_owned();
    server.seen(|_| true).iter().map(word).collect()
}

fn executed(answer: &Value) -> &str {
    answer["error"]["data"]["relatch"]["executed"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn the_old_transport_is_found_as_specified_and_asked_for_first_from_then_on() {
    let (server, old) = old().await;
    let world = World::before(&server).await;
    let mut client = world.client();
    client.more.push(("authorization", "Bearer a".to_owned()));
    client.open("2025-11-25").await;
    let answer = client.call(3, "t").await.json().await;
    assert!(answer["id"] == 3 && answer["result"].is_object(), "{answer}");
    assert_eq!(
        came(&server),
        [
            "POST /mcp initialize",
            "GET /mcp",
            "POST /messages?s=1 initialize",
            "POST /messages?s=1 notifications/initialized",
            "POST /messages?s=1 tools/call",
        ]
    );
    for seen in server.seen(|_| true) {
        assert_eq!(seen.header("authorization"), Some("Bearer a"), "{}", seen.path);
        // What it is called here means nothing to the server.
        assert_eq!(seen.header("mcp-session-id"), None, "{}", seen.path);
    }
    let before = came(&server).len();
    let second = world.opened().await;
    assert!(second.call(3, "t").await.json().await["result"].is_object());
    assert_eq!(came(&server)[before..][..2], ["GET /mcp", "POST /messages?s=2 initialize"]);
    assert_eq!(old.ran(), 2);
    // Its client ends the session: the stream is closed, and nothing is sent for that.
    let voice = Arc::clone(&old.streams.lock().unwrap()["1"]);
    assert_eq!(client.send(Method::DELETE, "/x/mcp", bytes::Bytes::new(), &[]).await.status, 200);
    soon("the stream is closed", voice.closed()).await;
    assert!(server.seen(|seen| seen.verb == Method::DELETE).is_empty());
}

#[tokio::test]
async fn a_session_that_its_server_does_not_know_is_renewed_and_the_call_runs_once() {
    for refusal in [
        (404, "Could not find session"),
        (503, "No active SSE connection for session 1"),
        (500, "SSE connection not established"),
        (400, "No transport found for sessionId"),
        (400, "No active transport"),
    ] {
        let (server, old) = old().await;
        let world = World::before(&server).await;
        let client = world.opened().await;
        *old.refuses.lock().unwrap() = Some(refusal);
        let still_open = old.forget();
        let answer = client.call(3, "t").await.json().await;
        assert!(answer["id"] == 3 && answer["result"].is_object(), "{refusal:?}: {answer}");
        assert_eq!(old.ran(), 1, "{refusal:?}");
        assert!(world.journalled().contains(&What::Relatched), "{refusal:?}");
        // The lost one is not kept open.
        for voice in still_open.into_values() {
            soon("the stream of the lost session is closed", voice.closed()).await;
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_under_a_call_leaves_it_unknown_and_a_read_is_sent_again() {
    let (server, old) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let (call, _) = tokio::join!(async { client.call(3, "lost").await.json().await }, async {
        until("the call has come", || old.ran() == 1).await;
        drop(old.forget());
    });
    assert_eq!((call["id"].as_i64(), executed(&call)), (Some(3), "unknown"), "{call}");
    // The next goes by a new stream.
    assert!(client.call(4, "t").await.json().await["result"].is_object());
    assert_eq!(old.ran(), 2);
    let lists = |lost: bool| {
        server
            .seen(|seen| seen.method() == "tools/list" && (seen.json()["params"]["cursor"] == "lost") == lost)
            .len()
    };
    let list = r#"{"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"cursor":"lost"}}"#;
    let (read, _) = tokio::join!(async { client.post(list).await }, async {
        until("the read has come", || lists(true) == 1).await;
        drop(old.forget());
        until("it has come again", || lists(true) == 2).await;
        let voices: Vec<_> = old.streams.lock().unwrap().values().cloned().collect();
        for voice in voices {
            voice.event(r#"{"jsonrpc":"2.0","id":5,"result":{"tools":[]}}"#).await;
        }
    });
    assert_eq!(read.json().await["id"], 5);
}

#[tokio::test]
async fn a_stream_that_ends_while_nobody_asks_is_replaced_before_the_next_call() {
    let (server, old) = old().await;
    let mut stdio = Stdio::opened(&server.url()).await;
    until("the session is open", || server.methods().contains(&"notifications/initialized".to_owned())).await;
    drop(old.forget());
    until("another stream is open", || old.streams.lock().unwrap().contains_key("2")).await;
    stdio.say(&call_text(3, "t")).await;
    let answer = loop {
        let said = stdio.hear_json().await;
        if said["id"] == 3 {
            break said;
        }
    };
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(old.ran(), 1);
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_is_away_and_runs_once_when_it_is_back() {
    let (server, _) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let calls = async { client.call(3, "t").await.json().await };
    let (answer, old) = tokio::join!(calls, async {
        until("the call is held", || world.journalled().contains(&What::Held)).await;
        old_at(at).await
    });
    assert!(answer["id"] == 3 && answer["result"].is_object(), "{answer}");
    assert_eq!(old.1.ran(), 1);
    // What was lost is said as it was, and not as a status that nobody has answered.
    let entries = world.journal.lock().unwrap();
    let lost: Vec<_> = entries.iter().filter(|entry| entry.what == What::Lost).collect();
    let words = lost[0].detail.as_deref().unwrap_or_default();
    assert!(lost.len() == 1 && words.contains("event stream"), "{lost:?}");
}

#[tokio::test]
async fn an_endpoint_at_another_origin_is_refused_and_nothing_goes_there() {
    let elsewhere = Server::start(|_| async { say(202, "", "") }).await;
    let there = elsewhere.at;
    let server = Server::start(move |seen| async move {
        if seen.verb != Method::GET {
            return say(405, "", "");
        }
        let (voice, said) = sse();
        tokio::spawn(async move {
            voice.raw(format!("event: endpoint\ndata: http://{there}/m?key=s3cret\n\n")).await;
            voice.closed().await;
        });
        said
    })
    .await;
    let world = World::before(&server).await;
    let client = world.client();
    let opening = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let answer = client.post(opening).await.json().await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(answer["error"]["data"]["relatch"]["code"], "redirected", "{answer}");
    for origin in [there, server.at] {
        assert!(message.contains(&origin.to_string()), "{message}");
    }
    assert!(!answer.to_string().contains("s3cret"), "{answer}");
    assert!(elsewhere.seen(|_| true).is_empty());
}

#[tokio::test]
async fn a_server_that_changes_its_transport_over_a_restart_is_found_again_both_ways() {
    let (server, _) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    assert!(client.call(3, "t").await.json().await["result"].is_object());
    let at = server.kill().await;
    let newer =
        |seen: Seen| async move { json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id())) };
    let server = Server::ordinary_at(at, newer).await;
    assert!(client.call(4, "t").await.json().await["result"].is_object());
    assert!(server.seen(|seen| seen.method() == "tools/call")[0].header("mcp-session-id").is_some());
    let at = server.kill().await;
    let (_server, old) = old_at(at).await;
    assert!(client.call(5, "t").await.json().await["result"].is_object());
    assert_eq!(old.ran(), 1);
}

#[tokio::test]
async fn a_keeper_that_starts_anew_opens_a_new_stream_for_the_session_it_finds_in_its_records() {
    let (server, old) = old().await;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let world = World::with(&server.url(), |_| {}, Some(Arc::clone(&store))).await;
    let mut client = world.opened().await;
    assert!(client.call(3, "t").await.json().await["result"].is_object());
    world.stop().await;
    let world = World::with(&server.url(), |_| {}, Some(store)).await;
    client.at = world.at;
    let answer = client.call(4, "t").await.json().await;
    assert!(answer["id"] == 4 && answer["result"].is_object(), "{answer}");
    assert_eq!(old.ran(), 2);
    assert!(server.seen(|seen| seen.header("mcp-session-id").is_some()).is_empty());
    // The client's `initialized` is told again.
    assert!(came(&server).contains(&"POST /messages?s=2 notifications/initialized".to_owned()));
}

#[tokio::test]
async fn what_is_configured_is_not_tried_otherwise() {
    let (server, _) = old().await;
    let world = World::with(&server.url(), |policy| policy.transport = Transport::Sse, None).await;
    world.opened().await;
    assert_eq!(came(&server)[..2], ["GET /mcp", "POST /messages?s=1 initialize"]);
    let (server, _) = self::old().await;
    let world = World::with(
        &server.url(),
        |policy| {
            policy.transport = Transport::Http;
            policy.hold_ms = 100;
        },
        None,
    )
    .await;
    let opening = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let answer = world.client().post(opening).await.json().await;
    assert_eq!(answer["error"]["data"]["relatch"]["code"], "endpoint-missing", "{answer}");
    assert!(server.seen(|seen| seen.verb == Method::GET).is_empty());
}

#[tokio::test]
async fn progress_and_requests_of_the_server_come_to_the_call_and_the_answer_goes_back() {
    let (server, old) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let call = r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"ask","arguments":{},"_meta":{"progressToken":"p"}}}"#;
    let mut answer = client.post(call).await;
    assert_eq!(answer.event_json().await["method"], "notifications/progress");
    let asked = answer.event_json().await;
    assert_eq!(asked["method"], "sampling/createMessage");
    let said = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"role":"assistant"}}}}"#, asked["id"]);
    assert_eq!(client.post(&said).await.status, 202);
    let last = answer.event_json().await;
    assert!(last["id"] == 3 && last["result"]["asked"] == true, "{last}");
    assert_eq!(old.ran(), 1);
}

#[tokio::test]
async fn what_a_lost_session_has_asked_of_the_client_is_taken_back() {
    let (server, old) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut standing = client.listen().await;
    until("the standing stream is taken", || world.keeper.load("x").is_some_and(|load| load.attempts > 0))
        .await;
    let voice = Arc::clone(&old.streams.lock().unwrap()["1"]);
    voice.event(r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#).await;
    let asked = standing.event_json().await;
    assert_eq!(asked["method"], "roots/list");
    let still_open = old.forget();
    assert!(client.call(3, "t").await.json().await["result"].is_object());
    let taken_back = standing.event_json().await;
    assert_eq!(taken_back["method"], "notifications/cancelled");
    assert_eq!(taken_back["params"]["requestId"], asked["id"]);
    drop((still_open, server));
}

#[tokio::test]
async fn an_answer_counts_though_its_post_gets_none_and_a_long_one_is_whole() {
    let (server, old) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let long = client.call(3, "long").await.json().await;
    assert_eq!(long["result"]["content"][0]["text"].as_str().unwrap().len(), 3_000_000);
    old.mute.store(true, Ordering::SeqCst);
    for id in 4..7 {
        let answer = client.call(id, "t").await.json().await;
        assert!(answer["id"] == id && answer["result"].is_object(), "{answer}");
    }
    assert_eq!(old.ran(), 4);
    drop(server);
}

#[tokio::test]
async fn a_stream_that_asks_for_credentials_has_its_challenge_go_to_the_client() {
    let server = Server::start(|seen| async move {
        if seen.verb == Method::POST {
            return say(405, "", "");
        }
        let mut said = say(401, "", "");
        said.headers_mut().insert("www-authenticate", "Bearer realm=\"old\"".parse().unwrap());
        said
    })
    .await;
    let world = World::before(&server).await;
    let opening = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let answer = world.client().post(opening).await;
    assert_eq!(
        (answer.status, answer.headers["www-authenticate"].to_str().unwrap()),
        (401, "Bearer realm=\"old\"")
    );
}

#[tokio::test]
async fn a_stream_without_an_endpoint_is_none_of_the_old_transport() {
    let server = Server::start(|seen| async move {
        if seen.verb == Method::POST {
            return say(404, "text/plain", "no such page");
        }
        let (voice, said) = sse();
        tokio::spawn(async move {
            voice.raw("event: tick\ndata: 1\n\ndata: 2\n\n").await;
            voice.closed().await;
        });
        said
    })
    .await;
    let opening = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let world = World::with(&server.url(), |policy| policy.hold_ms = 100, None).await;
    let answer = world.client().post(opening).await.json().await;
    assert_eq!(answer["error"]["data"]["relatch"]["code"], "endpoint-missing", "{answer}");
    let only_old = |policy: &mut Policy| policy.transport = Transport::Sse;
    let world = World::with(&server.url(), only_old, None).await;
    let answer = world.client().post(opening).await.json().await;
    assert!(answer.to_string().contains("names no `endpoint`"), "{answer}");
}

#[tokio::test]
async fn another_transport_in_the_configuration_renews_the_sessions() {
    let (server, old) = old().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let voice = Arc::clone(&old.streams.lock().unwrap()["1"]);
    let mut policy = Policy::new("x", server.url());
    policy.transport = Transport::Sse;
    let address = Target::parse(&server.url()).unwrap().into();
    let applied = world.keeper.apply(vec![ServerConfig { policy, headers: http::HeaderMap::new(), address }]);
    assert_eq!(applied.changed, [("x".to_owned(), vec!["transport".to_owned()])]);
    assert!(client.call(3, "t").await.json().await["result"].is_object());
    assert_eq!(old.ran(), 1);
    soon("the former stream is closed", voice.closed()).await;
    let asked = |verb, path: &str| server.seen(|seen| seen.verb == verb && seen.path == path).len();
    assert_eq!((asked(Method::GET, "/mcp"), asked(Method::POST, "/mcp")), (2, 1));
}
