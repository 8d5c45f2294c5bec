//! A server comes back and meets all its sessions at once, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as told")]

mod world;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relatch_core::policy;
use world::{Manners, Seen, Server, World, json, soon, until};

const SESSIONS: usize = 100;

/// What the server that came back saw.
#[derive(Default)]
struct Rush {
    manners: Manners,
    handshakes: AtomicUsize,
    peak: AtomicUsize,
    /// Every call that ran, and every handshake, in order.
    calls: Mutex<Vec<String>>,
    opened: AtomicUsize,
}

impl Rush {
    async fn answer(self: Arc<Self>, seen: Seen) -> world::Say {
        let handshake = seen.method() == "initialize";
        if handshake {
            let now = self.handshakes.fetch_add(1, Ordering::SeqCst) + 1;
            self.peak.fetch_max(now, Ordering::SeqCst);
            // The server's own work, so that handshakes overlap if they can.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let said = match self.manners.answer(&seen).await {
            Some(said) => said,
            None => {
                self.calls.lock().unwrap().push(seen.json()["params"]["name"].to_string());
                json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, seen.id()))
            }
        };
        if handshake {
            self.handshakes.fetch_sub(1, Ordering::SeqCst);
            self.opened.fetch_add(1, Ordering::SeqCst);
        }
        said
    }

    async fn serve(self: &Arc<Self>, at: SocketAddr) -> Server {
        let rush = Arc::clone(self);
        Server::start_at(at, move |seen| Arc::clone(&rush).answer(seen)).await
    }
}

async fn a_hundred_recover(attached: bool) {
    let server = Arc::new(Rush::default()).serve("127.0.0.1:0".parse().unwrap()).await;
    let world = World::before(&server).await;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..SESSIONS {
        let client = world.opened().await;
        if attached {
            streams.push(client.listen().await);
        }
        clients.push(client);
    }
    if attached {
        until("the standing streams are open", || {
            server.seen(|s| s.verb == http::Method::GET).len() == SESSIONS
        })
        .await;
    }
    let at = server.kill().await;
    let waiting: Vec<_> = clients
        .iter()
        .step_by(5)
        .cloned()
        .enumerate()
        .map(|(number, client)| {
            tokio::spawn(async move { client.call(1, &format!("w{number}")).await.json().await })
        })
        .collect();
    until("the calls wait", || world.keeper.report("x").unwrap().waiting == waiting.len()).await;
    let rush = Arc::new(Rush::default());
    let server = rush.serve(at).await;
    for call in waiting {
        let answer = soon("an answer", call).await.unwrap();
        assert!(answer["result"].is_object(), "{answer}");
    }
    until("every session is opened anew", || rush.opened.load(Ordering::SeqCst) >= SESSIONS).await;
    for client in &clients {
        let answer = client.call(2, "after").await.json().await;
        assert!(answer["result"].is_object(), "{answer}");
    }
    assert_eq!(rush.opened.load(Ordering::SeqCst), SESSIONS, "one handshake for each");
    assert!(rush.peak.load(Ordering::SeqCst) <= policy::PERMITS, "{:?}", rush.peak);
    let calls = rush.calls.lock().unwrap().clone();
    let mut once: Vec<_> = calls.iter().filter(|name| name.as_str() != "\"after\"").collect();
    let ran = once.len();
    once.sort();
    once.dedup();
    assert_eq!((ran, once.len()), (SESSIONS / 5, SESSIONS / 5), "each waiting call ran once");
    assert_eq!(world.keeper.report("x").unwrap().totals.relatched, SESSIONS as u64);
    drop(server);
}

#[tokio::test]
async fn a_hundred_sessions_with_open_streams_recover_within_the_cap() {
    a_hundred_recover(true).await;
}

#[tokio::test]
async fn a_hundred_sessions_without_a_stream_recover_within_the_cap() {
    a_hundred_recover(false).await;
}
