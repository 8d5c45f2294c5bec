//! What may not repeat, seen through a whole keeper: a server that closes idle sockets when it likes costs no call, and
//! a request that was written is sent by nobody a second time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first thing that is not as told, and counts"
)]

mod scripted;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scripted::{Chance, Peer};
use world::{Client, World};

/// An ordinary server that closes an idle socket at a seeded random moment from `least` to `most` µs after its use,
/// never with a request waiting on it: before they close, real servers look whether something has come.
async fn fickle(seed: u64, least: u64, most: u64) -> scripted::Server {
    let chance = Arc::new(Mutex::new(Chance::new(seed)));
    scripted::Server::start(move |mut peer: Peer| {
        let chance = Arc::clone(&chance);
        async move {
            while let Some(request) = peer.mcp().await? {
                // So that calls meet.
                let work = Duration::from_millis(u64::from(most > 1_000_000) * 15);
                tokio::time::sleep(work).await;
                peer.ordinary(&request).await?;
                let patience = Duration::from_micros(least + chance.lock().unwrap().below(most - least));
                let mut first = [0];
                while tokio::time::timeout(patience, peer.socket.peek(&mut first)).await.is_err() {
                    if peer.is_quiet() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        }
    })
    .await
}

/// How long a client thinks after a call: which client, which call, how long this goes on.
type Pause = fn(usize, usize, Duration, &mut Chance) -> Duration;

/// Calls so many tools of different names one after another; all of them have to be answered.
async fn call_all(client: Client, lane: usize, calls: usize, pause: Pause, begun: Instant) {
    let mut chance = Chance::new(1_000 + lane as u64);
    let mut line = client.line().await;
    for turn in 0..calls {
        let answer = line.call(turn as u64, &format!("{lane}-{turn}")).await;
        assert!(answer["result"].is_object() && answer["id"] == turn, "{lane}-{turn}: {answer}");
        let pause = pause(lane, turn, begun.elapsed(), &mut chance);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Lets so many clients call at once, and counts at the server.
async fn no_call_is_lost(server: scripted::Server, lanes: usize, calls: usize, pause: Pause) {
    let world = World::with(&server.url(), |_| {}, None).await;
    let mut clients = Vec::new();
    for _ in 0..lanes {
        clients.push(world.opened().await);
    }
    let begun = Instant::now();
    let calling: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(lane, client)| tokio::spawn(call_all(client, lane, calls, pause, begun)))
        .collect();
    for lane in calling {
        lane.await.unwrap();
    }
    let arrived = server.seen.arrived();
    assert_eq!(arrived.len(), lanes * calls);
    assert!(arrived.values().all(|times| *times == 1), "something ran twice");
    let totals = world.keeper.report("x").unwrap().totals;
    assert_eq!((totals.delivery_unknown, totals.given_back), (0, 0));
    let sockets = server.seen.accepted();
    println!("{} calls over {sockets} sockets", lanes * calls);
    assert!(sockets > lanes + 10, "idle sockets must have been closed: {sockets}");
    assert!(sockets < lanes * calls, "and young ones used again: {sockets}");
}

fn short(_: usize, _: usize, _: Duration, chance: &mut Chance) -> Duration {
    match chance.below(3) {
        0 => Duration::from_micros(chance.below(4_000)),
        _ => Duration::ZERO,
    }
}

// On one thread nothing can happen between the last look at a socket and the write, nor between the server's look and
// its close. What is left is all that can be known, and none of it may cost a call. Together 10,000 calls.

#[tokio::test]
async fn idle_closes_cost_no_call_of_one_client() {
    no_call_is_lost(fickle(7, 0, 4_000).await, 1, 2_500, short).await;
}

#[tokio::test]
async fn idle_closes_cost_no_call_of_many_clients_at_once() {
    no_call_is_lost(fickle(23, 0, 4_000).await, 13, 500, short).await;
}

/// Two clients call steadily. The others call all at once, ten times each, when 1 to 3.5 s have gone by since the last
/// time, so that sockets of every age lie about.
fn in_bursts(lane: usize, turn: usize, gone: Duration, chance: &mut Chance) -> Duration {
    const BURSTS: [u64; 9] = [1_000, 2_700, 6_200, 7_600, 10_100, 13_500, 16_000, 18_000, 20_000];
    match (lane, turn % 10) {
        (0..2, _) => Duration::from_millis(chance.below(500)),
        (_, 9) => {
            let mut bursts = BURSTS.into_iter().map(Duration::from_millis);
            bursts.find_map(|burst| burst.checked_sub(gone)).unwrap_or_default()
        }
        (_, _) => Duration::ZERO,
    }
}

// Closed 2 to 6 s after their use, as common servers do, sockets are out of use by then whatever the threads do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_are_closed_seconds_after_their_use_cost_no_call_while_young_ones_are_used() {
    no_call_is_lost(fickle(41, 2_000_000, 6_000_000).await, 20, 50, in_bursts).await;
}

/// Reads calls and drops their connection, each time in another way; lists, too, until it is `good`.
async fn dropping(good: Arc<AtomicBool>) -> (scripted::Server, Arc<Mutex<BTreeMap<String, u32>>>) {
    let lists: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let asked = Arc::clone(&lists);
    let server = scripted::Server::start(move |mut peer: Peer| {
        let (good, asked) = (Arc::clone(&good), Arc::clone(&asked));
        async move {
            while let Some(request) = peer.mcp().await? {
                match request.method() {
                    "tools/call" => {
                        return match request.tool().split('-').next() {
                            Some("before") => Ok(()),
                            Some("head") => peer.write("HTTP/1.1 200 OK\r\ncontent-le").await,
                            Some("body") => {
                                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                                peer.write(format!("{head}content-length: 999\r\n\r\n{{\"jsonrpc\":")).await
                            }
                            _ => {
                                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
                                peer.write(format!("{head}connection: close\r\n\r\n: going\n\n")).await
                            }
                        };
                    }
                    "tools/list" if !good.load(Ordering::SeqCst) => {
                        *asked.lock().unwrap().entry(request.id()).or_default() += 1;
                        return Ok(());
                    }
                    _ => peer.ordinary(&request).await?,
                }
            }
            Ok(())
        }
    })
    .await;
    (server, lists)
}

#[tokio::test]
async fn a_call_whose_connection_is_dropped_arrives_once_and_its_client_is_told_that_nobody_knows() {
    let (server, _) = dropping(Arc::default()).await;
    let world = World::with(&server.url(), |_| {}, None).await;
    let client = world.opened().await;
    let mut line = client.line().await;
    for turn in 0..10 {
        for way in ["before", "head", "body", "events"] {
            let tool = format!("{way}-{turn}");
            // On a connection that was just used, and on a new one.
            assert!(
                line.post(r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#).await.1[0]["result"].is_object()
            );
            if turn % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let failure = line.call(1, &tool).await;
            let relatch = &failure["error"]["data"]["relatch"];
            assert_eq!(relatch["code"], "delivery-unknown", "{tool}: {failure}");
            assert_eq!(relatch["executed"], "unknown");
            assert_eq!(failure["id"], 1);
            assert_eq!(server.seen.arrived()[&tool], 1);
        }
    }
    let arrived = server.seen.arrived();
    assert_eq!(arrived.len(), 40);
    assert!(arrived.values().all(|times| *times == 1), "{arrived:?}");
    assert_eq!(world.keeper.report("x").unwrap().totals.delivery_unknown, 40);
}

#[tokio::test]
async fn a_read_whose_connection_is_dropped_is_asked_again_until_the_server_is_good() {
    let good = Arc::new(AtomicBool::new(false));
    let (server, lists) = dropping(Arc::clone(&good)).await;
    let world = World::with(&server.url(), |_| {}, None).await;
    let client = world.opened().await;
    let asking = tokio::spawn(async move {
        let mut line = client.line().await;
        line.post(r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#).await
    });
    world::until("the list is asked for again", || lists.lock().unwrap().values().sum::<u32>() > 1).await;
    good.store(true, Ordering::SeqCst);
    let (status, messages) = asking.await.unwrap();
    assert_eq!((status, messages.len()), (200, 1));
    assert_eq!(messages[0]["id"], 7);
    assert_eq!(messages[0]["result"]["tools"][0]["name"], "t", "{messages:?}");
    drop(server);
}
