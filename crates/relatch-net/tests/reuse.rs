//! How many connections a keeper opens to its server: one for each call that is under way at once, and no more. Counted
//! at the server.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use world::*;

/// A connection that was not used for 2 s carries no call that may not repeat. On a machine that lets the test stand for
/// nearly so long, one more is none too many.
const STOOD_STILL: Duration = Duration::from_millis(1_500);

async fn echo(seen: Seen) -> Say {
    json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id()))
}

fn connections(server: &Server) -> usize {
    server.connections.load(Ordering::SeqCst)
}

/// So many calls, one after another; how often the test stood still.
async fn calls(line: &mut Line, count: u64) -> usize {
    let (mut stood, mut last) = (0, Instant::now());
    for id in 1..=count {
        let answer = line.call(id, "t").await;
        assert!(answer["result"].is_object(), "{answer}");
        stood += usize::from(last.elapsed() > STOOD_STILL);
        last = Instant::now();
    }
    stood
}

#[tokio::test]
async fn the_handshake_and_a_hundred_calls_one_after_another_go_by_one_connection() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let began = Instant::now();
    let client = world.opened().await;
    let opening = usize::from(began.elapsed() > STOOD_STILL);
    let stood = calls(&mut client.line().await, 100).await;
    let (opened, more) = (connections(&server), opening + stood);
    assert!(opened == 1 || opened <= 1 + more, "{opened} connections, and the test stood still {more} times");
    assert!(world.keeper.open_sockets("x").unwrap() <= opened);
}

#[tokio::test]
async fn thirty_two_calls_at_once_of_eight_sessions_go_by_thirty_two_connections_however_often() {
    const AT_ONCE: usize = 32;
    const ROUNDS: u64 = 8;
    // Nobody is answered before all of a round are there.
    let there = Arc::new(AtomicUsize::new(0));
    let (tell, told) = watch::channel(0);
    let tell = Arc::new(tell);
    let server = Server::ordinary(move |seen| {
        let (there, tell, mut told) = (Arc::clone(&there), Arc::clone(&tell), told.clone());
        async move {
            let mine = there.fetch_add(1, Ordering::SeqCst) / AT_ONCE;
            if (there.load(Ordering::SeqCst)).is_multiple_of(AT_ONCE) {
                tell.send_replace(mine + 1);
            }
            soon("the others", told.wait_for(|round| *round > mine)).await.unwrap();
            echo(seen).await
        }
    })
    .await;
    let world = World::before(&server).await;
    let mut lines = Vec::new();
    for _ in 0..8 {
        let client = world.opened().await;
        for _ in 0..AT_ONCE / 8 {
            lines.push(client.line().await);
        }
    }
    let mut more = 0;
    for round in 0..ROUNDS {
        let began = Instant::now();
        let mut calling = tokio::task::JoinSet::new();
        for (number, mut line) in lines.drain(..).enumerate() {
            let id = round * 1_000 + u64::try_from(number).unwrap();
            calling.spawn(async move {
                let answer = line.call(id, "t").await;
                assert!(answer["result"].is_object(), "{answer}");
                line
            });
        }
        lines = soon("a round", calling.join_all()).await;
        more += if began.elapsed() > STOOD_STILL { AT_ONCE } else { 0 };
        let opened = connections(&server);
        assert!(opened >= AT_ONCE, "32 calls at once by {opened} connections");
        assert!(opened <= AT_ONCE + more, "{opened} connections after round {round}");
    }
}

#[tokio::test]
async fn a_server_that_is_back_is_found_by_four_connections_at_most_and_calls_open_none_besides() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut line = client.line().await;
    calls(&mut line, 3).await;
    let at = server.kill().await;
    let server = Server::ordinary_at(at, echo).await;
    let began = Instant::now();
    let answer = line.call(10, "t").await;
    assert!(answer["result"].is_object(), "{answer}");
    let recovering = usize::from(began.elapsed() > STOOD_STILL);
    // The call's, and three that ask whether another server knows a session which answered so lately.
    let found = connections(&server);
    assert!(found <= 4 + recovering, "{found} connections when the first call is answered");
    let stood = calls(&mut line, 50).await;
    let opened = connections(&server);
    assert!(opened <= found + stood, "{opened} connections, {found} before, and stood still {stood} times");
}
