//! Everything that can go wrong at once, by seed: whatever server and clients do, each request gets exactly one answer,
//! no call runs twice, and when it is over nothing is left lying about.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first thing that is not as told, and counts"
)]

mod scripted;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use relatch_net::keeper::Load;
use scripted::{Chance, Peer, Request};
use serde_json::Value;
use world::{Client, World, call_text, soon, until};

/// A server that misbehaves until it is told to be good.
#[derive(Default)]
struct Beast {
    good: AtomicBool,
    chance: Mutex<Option<Chance>>,
    sessions: Mutex<BTreeSet<String>>,
    /// What ran, by the tool's name.
    ran: Mutex<BTreeMap<String, u32>>,
    /// Answers of streams that were cut, by the event id from which they can be had.
    owed: Mutex<BTreeMap<String, String>>,
    numbers: AtomicU64,
}

impl Beast {
    fn below(&self, bound: u64) -> u64 {
        self.chance.lock().unwrap().as_mut().map_or(0, |chance| chance.below(bound))
    }

    fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }

    async fn play(&self, mut peer: Peer) -> io::Result<()> {
        while let Some(request) = peer.mcp().await? {
            let bad = !self.good.load(Ordering::SeqCst);
            if bad && self.below(60) == 0 {
                return self.misbehave(&mut peer, &request).await;
            }
            if request.method() == "initialize" {
                let sid = format!("s{}", self.next());
                self.sessions.lock().unwrap().insert(sid.clone());
                let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"beast","version":"1"}}"#;
                peer.result(&request, &format!("mcp-session-id: {sid}\r\n"), hello).await?;
                continue;
            }
            let sid = request.header("mcp-session-id").unwrap_or_default().to_owned();
            if bad && self.below(40) == 0 {
                // A restart, as far as this client can tell.
                self.sessions.lock().unwrap().remove(&sid);
            }
            if !self.sessions.lock().unwrap().contains(&sid) {
                match self.below(3) {
                    0 => peer.say(404, "content-type: text/html\r\n", "<h1>Not found</h1>").await?,
                    1 => peer.say(400, "", "Bad Request: No valid session ID provided").await?,
                    _ => peer.say(404, "", "").await?,
                }
                continue;
            }
            match (request.verb.as_str(), request.method()) {
                ("GET", _) => return self.stream(peer, &request, bad).await,
                ("DELETE", _) => {
                    self.sessions.lock().unwrap().remove(&sid);
                    peer.ordinary(&request).await?;
                }
                (_, "tools/call") => {
                    if !self.call(&mut peer, &request, bad).await? {
                        return Ok(());
                    }
                }
                (_, _) if bad && self.below(20) == 0 => return self.misbehave(&mut peer, &request).await,
                (_, _) => peer.ordinary(&request).await?,
            }
            if bad && self.below(10) == 0 && peer.is_quiet() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn runs(&self, request: &Request) {
        *self.ran.lock().unwrap().entry(request.tool().to_owned()).or_default() += 1;
    }

    /// Whether the connection goes on.
    async fn call(&self, peer: &mut Peer, request: &Request, bad: bool) -> io::Result<bool> {
        const EVENTS: &str =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let way = if bad { self.below(24) } else { 0 };
        let refused = matches!(way, 8..=11);
        if !refused && way != 16 {
            self.runs(request);
        }
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id());
        match way {
            // A while, in which the client may leave or cancel
            1..=4 => {
                tokio::time::sleep(Duration::from_millis(self.below(150))).await;
                peer.ordinary(request).await?;
            }
            5..=7 => {
                let progress = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
                peer.write(format!("{EVENTS}data: {progress}\n\n")).await?;
                tokio::time::sleep(Duration::from_millis(self.below(100))).await;
                peer.write(format!("event: message\ndata: {answer}\n\n")).await?;
                return Ok(false);
            }
            8 => peer.say(401, "www-authenticate: Bearer\r\n", "").await?,
            9 => peer.say(429, "retry-after: 0\r\n", "slower").await?,
            10 => peer.say(503, "retry-after: 1\r\n", "").await?,
            11 => peer.say(405, "content-type: text/html\r\n", "<h1>No</h1>").await?,
            12 => peer.say(500, "", "Internal Server Error").await?,
            13 => peer.say(502, "content-type: text/html\r\n", "<h1>Bad Gateway</h1>").await?,
            14 => peer.say(200, "content-type: text/html\r\n", "<h1>Welcome</h1>").await?,
            15 => peer.say(200, "content-type: application/json\r\n", "{\"jsonrpc\":").await?,
            16 | 17 => return Ok(false),
            18 => {
                peer.write(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
                )
                .await?;
                return Ok(false);
            }
            19 => {
                peer.write(format!("{EVENTS}: going\n\ndata: {{\"jsonr")).await?;
                return Ok(false);
            }
            20 | 21 => {
                let event = format!("e{}", self.next());
                self.owed.lock().unwrap().insert(event.clone(), answer);
                peer.write(format!("{EVENTS}retry: 20\nid: {event}\ndata:\n\n")).await?;
                return Ok(false);
            }
            22 => {
                let asks = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#;
                peer.write(format!("{EVENTS}data: {asks}\n\n")).await?;
                tokio::time::sleep(Duration::from_millis(self.below(50))).await;
                if self.below(2) == 0 {
                    peer.write(format!("data: {answer}\n\n")).await?;
                }
                return Ok(false);
            }
            23 => {
                let error =
                    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Session not found"}}"#;
                peer.say(200, "content-type: application/json\r\n", error).await?;
            }
            _ => peer.ordinary(request).await?,
        }
        Ok(true)
    }

    /// A standing stream, or the rest of one that was cut.
    async fn stream(&self, mut peer: Peer, request: &Request, bad: bool) -> io::Result<()> {
        let owed = request.header("last-event-id").and_then(|id| self.owed.lock().unwrap().remove(id));
        if bad && self.below(4) == 0 {
            return peer.say(405, "", "").await;
        }
        peer.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n").await?;
        if let Some(answer) = owed {
            return peer.write(format!("data: {answer}\n\n")).await;
        }
        if bad {
            let patience = Duration::from_millis(self.below(400));
            drop(tokio::time::timeout(patience, peer.closed()).await);
        } else {
            peer.closed().await;
        }
        Ok(())
    }

    async fn misbehave(&self, peer: &mut Peer, request: &Request) -> io::Result<()> {
        match self.below(6) {
            0 => peer.say(500, "", "").await,
            1 => peer.say(502, "", "<h1>Bad Gateway</h1>").await,
            2 => peer.say(404, "content-type: text/html\r\n", "<h1>Not found</h1>").await,
            3 => peer.write("220 mail.example ESMTP\r\n\r\n").await,
            4 => {
                tokio::time::sleep(Duration::from_millis(self.below(200))).await;
                if request.method() == "tools/call" { Ok(()) } else { peer.ordinary(request).await }
            }
            _ => Ok(()),
        }
    }
}

/// What a client may find as the answer to one request. Whether it says that the call did not run.
fn check(status: u16, messages: &[Value], id: u64, what: &str) -> bool {
    match status {
        200 => {
            let answers: Vec<_> = messages.iter().filter(|message| message["method"].is_null()).collect();
            assert_eq!(answers.len(), 1, "{what}: one answer and no other: {messages:?}");
            assert_eq!(answers[0]["id"], id, "{what}: {messages:?}");
            assert!(answers[0]["result"].is_object() || answers[0]["error"]["message"].is_string(), "{what}");
            answers[0]["error"]["data"]["relatch"]["executed"] == "no"
        }
        401 | 403 => true,
        other => panic!("{what} was answered {other}: {messages:?}"),
    }
}

/// One client's life. Gives its last session, and the calls that it was told did not run.
async fn live(world_at: Client, lane: u64, seed: u64, until: Instant) -> (Client, Vec<String>) {
    let mut not_run = Vec::new();
    let mut chance = Chance::new(seed * 1_000 + lane);
    let mut client = opened(&world_at).await;
    let mut line = client.line().await;
    let mut id = 0;
    while Instant::now() < until {
        id += 1;
        let tool = format!("{lane}-{id}");
        match chance.below(20) {
            0 => {
                // Leaves in the middle.
                let (asking, text) = (client.clone(), call_text(id, &tool));
                let asking = tokio::spawn(async move { asking.post(&text).await.text().await });
                tokio::time::sleep(Duration::from_millis(chance.below(40))).await;
                asking.abort();
            }
            1 | 2 => {
                // Cancels, and is answered all the same.
                let (asking, text) = (client.clone(), call_text(id, &tool));
                let asked = tokio::spawn(async move { asking.line().await.post(text).await });
                tokio::time::sleep(Duration::from_millis(chance.below(30))).await;
                let cancel = format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
                );
                line.post(cancel).await;
                let (status, messages) = asked.await.unwrap();
                not_run.extend(check(status, &messages, id, "a cancelled call").then_some(tool));
            }
            3 => {
                // Listens for a while.
                let listening = client.clone();
                let wait = Duration::from_millis(chance.below(500));
                tokio::spawn(async move {
                    let mut standing = listening.listen().await;
                    drop(
                        tokio::time::timeout(wait, async { while standing.chunk().await.is_some() {} }).await,
                    );
                });
            }
            4 => {
                // Ends its session, perhaps with a call under way.
                let under_way = (chance.below(2) == 0).then(|| {
                    let (asking, text) = (client.clone(), call_text(id, &tool));
                    tokio::spawn(async move { asking.line().await.post(text).await })
                });
                tokio::task::yield_now().await;
                let ended = client.send(Method::DELETE, "/x/mcp", "".into(), &[]).await;
                assert_eq!(ended.status, 200);
                if let Some(asked) = under_way {
                    let (status, messages) = asked.await.unwrap();
                    if status != 404 {
                        let not = check(status, &messages, id, "a call of an ended session");
                        not_run.extend(not.then_some(tool));
                    }
                }
                client = opened(&world_at).await;
                line = client.line().await;
            }
            5..=8 => {
                let list = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
                let (status, messages) = line.post(list).await;
                check(status, &messages, id, "a list");
            }
            9..=11 => {
                // Several at once.
                let many = (0..4).map(|n| {
                    let (asking, id) = (client.clone(), id * 10 + n + 1_000_000);
                    let tool = format!("{lane}-{id}");
                    tokio::spawn(async move {
                        let text = call_text(id, &tool);
                        (id, tool, asking.line().await.post(text).await)
                    })
                });
                for asked in many.collect::<Vec<_>>() {
                    let (id, tool, (status, messages)) = asked.await.unwrap();
                    not_run.extend(check(status, &messages, id, "one of many calls").then_some(tool));
                }
            }
            _ => {
                let (status, messages) = line.post(call_text(id, &tool)).await;
                not_run.extend(check(status, &messages, id, "a call").then_some(tool));
                for asked in messages.iter().filter(|message| message["method"].is_string()) {
                    if !asked["id"].is_null() {
                        line.post(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, asked["id"])).await;
                    }
                }
            }
        }
    }
    (client, not_run)
}

/// A session, as soon as the server gives one.
async fn opened(at: &Client) -> Client {
    soon("a session opens", async {
        loop {
            let mut client = Client { sid: None, ..at.clone() };
            let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
            let answer = client.post(hello).await;
            assert_eq!(answer.status, 200);
            client.sid = answer.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
            if client.sid.is_some() {
                client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
                return client;
            }
        }
    })
    .await
}

async fn soak(seed: u64, lasts: Duration) {
    println!("seed {seed}");
    let beast = Arc::new(Beast::default());
    *beast.chance.lock().unwrap() = Some(Chance::new(seed));
    let playing = Arc::clone(&beast);
    let server = scripted::Server::start(move |peer| {
        let beast = Arc::clone(&playing);
        async move { beast.play(peer).await }
    })
    .await;
    let world = World::with(&server.url(), |policy| policy.hold_ms = 3_000, None).await;
    let until_then = Instant::now() + lasts;
    let lives: Vec<_> =
        (0..10).map(|lane| tokio::spawn(live(world.client(), lane, seed, until_then))).collect();
    let mut clients = Vec::new();
    let mut not_run = Vec::new();
    for life in lives {
        let (client, told) = life.await.unwrap();
        clients.push(client);
        not_run.extend(told);
    }
    beast.good.store(true, Ordering::SeqCst);
    let ran = beast.ran.lock().unwrap().clone();
    let twice: Vec<_> = ran.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "ran twice: {twice:?}");
    let lies: Vec<_> = not_run.iter().filter(|tool| ran.contains_key(*tool)).collect();
    assert!(lies.is_empty(), "ran, and the client was told that it did not: {lies:?}");
    println!(
        "{} calls ran, {} were told not to, {:?}",
        ran.len(),
        not_run.len(),
        world.keeper.report("x").unwrap().totals
    );
    for client in &clients {
        // One whose server refused session after session rests for a while.
        soon("a call is answered when all is good", async {
            loop {
                let (status, messages) = client.line().await.post(call_text(1, "after")).await;
                check(status, &messages, 1, "a call when all is good");
                if messages[0]["result"].is_object() {
                    return;
                }
                assert_eq!(messages[0]["error"]["data"]["relatch"]["code"], "session-flapping");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert_eq!(client.send(Method::DELETE, "/x/mcp", "".into(), &[]).await.status, 200);
    }
    let waiting_since = Instant::now();
    soon("nothing is left", async {
        loop {
            let load = world.keeper.load("x").unwrap();
            if load == Load::default() {
                return;
            }
            if waiting_since.elapsed() > Duration::from_secs(15) {
                panic!("left: {load:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    until("idle sockets are bounded", || world.keeper.open_sockets("x").unwrap() <= 64).await;
}

#[tokio::test]
async fn under_fire_each_request_gets_one_answer_and_nothing_is_left() {
    let seed = std::env::var("RELATCH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    soak(seed, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_fire_on_several_threads_each_request_gets_one_answer_and_nothing_is_left() {
    let seed = std::env::var("RELATCH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2);
    soak(seed, Duration::from_secs(5)).await;
}
