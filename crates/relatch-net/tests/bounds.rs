//! Every bound of a keeper, reached: what is beyond it is told so at once, in words, and costs nobody else anything.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use relatch_net::keeper::Bounds;
use serde_json::Value;
use world::*;

/// An ordinary server, and how many calls it ran.
async fn counting_at(at: std::net::SocketAddr) -> (Server, Arc<AtomicUsize>) {
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let server = Server::ordinary_at(at, move |seen| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(seen)
    });
    (server.await, ran)
}

async fn echo(seen: Seen) -> Say {
    json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id()))
}

fn own(answer: &Value) -> (&str, &str) {
    let relatch = &answer["error"]["data"]["relatch"];
    (relatch["code"].as_str().unwrap_or("none"), relatch["executed"].as_str().unwrap_or("none"))
}

#[tokio::test]
async fn beyond_64_calls_that_wait_in_one_session_the_next_is_told_so_and_the_64_are_answered() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let other = world.opened().await;
    let at = server.kill().await;
    let waiting: Vec<_> = (0..64)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move { client.call(id, "t").await.json().await })
        })
        .collect();
    until("64 calls are held", || world.keeper.report("x").unwrap().waiting == 64).await;
    let refused = client.call(64, "t").await.json().await;
    assert_eq!((own(&refused), refused["id"].as_u64()), (("hold-full", "no"), Some(64)));
    assert!(refused["error"]["message"].as_str().unwrap().contains("64"), "{refused}");
    // It is about that session alone.
    let another = tokio::spawn(async move { other.call(65, "t").await.json().await });
    until("another session's call is held", || world.keeper.report("x").unwrap().waiting == 65).await;
    let (_server, ran) = counting_at(at).await;
    for (id, call) in waiting.into_iter().enumerate() {
        let answer = call.await.unwrap();
        assert!(answer["result"].is_object() && answer["id"] == id, "{answer}");
    }
    assert!(another.await.unwrap()["result"].is_object());
    assert_eq!(ran.load(Ordering::SeqCst), 65);
}

#[tokio::test]
async fn beyond_1000_calls_that_wait_for_one_upstream_the_next_is_told_so() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = world.client();
        client.open("2025-03-26").await;
        clients.push(client);
    }
    let at = server.kill().await;
    let ask = |client: Client| {
        let batch: Vec<_> = (0..64).map(|id| call_text(id, "t")).collect();
        tokio::spawn(async move { client.post(&format!("[{}]", batch.join(","))).await.json().await })
    };
    // What is under way when the trouble is found may all wait; from then on it counts.
    let mut asking = vec![ask(clients.remove(0))];
    until("the server is known to be away", || world.keeper.report("x").unwrap().waiting == 64).await;
    asking.extend(clients.into_iter().map(ask));
    until("1,000 calls are held and the rest is not", || {
        let report = world.keeper.report("x").unwrap();
        report.waiting == 1_000 && report.totals.given_back == 24
    })
    .await;
    let _server = Server::ordinary_at(at, echo).await;
    let (mut answered, mut refused) = (0, 0);
    for batch in asking {
        let answers = soon("a batch is answered", batch).await.unwrap();
        assert_eq!(answers.as_array().unwrap().len(), 64);
        for answer in answers.as_array().unwrap() {
            if answer["result"].is_object() {
                answered += 1;
            } else {
                assert_eq!(own(answer), ("hold-full", "no"), "{answer}");
                assert!(answer["error"]["message"].as_str().unwrap().contains("1000"), "{answer}");
                refused += 1;
            }
        }
    }
    assert_eq!((answered, refused), (1_000, 24));
}

#[tokio::test]
async fn a_keeper_keeps_so_many_bytes_of_unanswered_requests_and_refuses_more_until_some_are_answered() {
    let server = Server::ordinary(echo).await;
    let world = World::within(&server.url(), Bounds { kept_kib: 256, ..Bounds::default() }).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let call = |id: u64, kib: usize| {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t","arguments":{{"a":"{}"}}}}}}"#,
            "x".repeat(kib * 1024)
        );
        let client = client.clone();
        async move { client.post(&text).await }
    };
    let large = tokio::spawn(call(1, 225));
    until("the large call is held", || world.keeper.report("x").unwrap().waiting == 1).await;
    // A body that can be read all the same is answered under its id,
    let refused = call(2, 40).await;
    assert_eq!(refused.status, 200);
    let refused = refused.json().await;
    assert_eq!((own(&refused), refused["id"].as_u64()), (("keeper-full", "no"), Some(2)));
    // one that can't is refused by its size,
    let refused = call(3, 200).await;
    assert_eq!(refused.status, 413);
    let words = refused.json().await["error"]["message"].to_string();
    assert!(words.contains("keeper-full"), "{words}");
    // and what has room goes in.
    let small = tokio::spawn(call(4, 1));
    until("the small call is held", || world.keeper.report("x").unwrap().waiting == 2).await;
    let _server = Server::ordinary_at(at, echo).await;
    assert!(large.await.unwrap().json().await["result"].is_object());
    assert!(small.await.unwrap().json().await["result"].is_object());
    assert!(call(5, 200).await.json().await["result"].is_object(), "room is given back");
}

#[tokio::test]
async fn beyond_so_many_sessions_the_least_recently_used_ends_but_none_with_an_open_stream() {
    let server = Server::ordinary(echo).await;
    let world = World::within(&server.url(), Bounds { sessions: 3, ..Bounds::default() }).await;
    let first = world.opened().await;
    let mut standing = first.listen().await;
    let second = world.opened().await;
    let third = world.opened().await;
    // Times are told in milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(second.call(1, "t").await.json().await["result"].is_object());
    let fourth = world.opened().await;
    assert_eq!(third.call(2, "t").await.status, 404, "the third was used least recently");
    for client in [&first, &second, &fourth] {
        assert!(client.call(3, "t").await.json().await["result"].is_object());
    }
    until("the session is ended upstream", || server.seen(|seen| seen.verb == Method::DELETE).len() == 1)
        .await;
    let comment = standing.chunk().await.unwrap().unwrap();
    assert!(comment.starts_with(b":"), "the stream goes on");
    assert_eq!(world.keeper.load("x").unwrap().sessions, 3);
}

/// What the sockets on both sides may hold between a server that writes and a client that does not read, and relatch in
/// the middle. Without a bound of relatch's own there would be no end.
const UNDER_WAY: usize = 32 * 1024 * 1024;
/// A server that can't write for so long is not read any more.
const STALLED: Duration = Duration::from_secs(2);

/// Writes until nobody takes it; how many bytes were taken.
async fn flood(voice: &Voice, piece: &str) -> usize {
    let mut taken = 0;
    while tokio::time::timeout(STALLED, voice.raw(piece.to_owned())).await.is_ok() {
        taken += piece.len();
        assert!(taken < 2 * UNDER_WAY, "{taken} bytes were taken that nobody reads");
    }
    taken
}

/// A server whose answers are spoken by the test: each call's voice comes by the channel.
async fn spoken() -> (Server, tokio::sync::mpsc::UnboundedReceiver<(String, Voice)>) {
    let (give, voices) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::ordinary(move |seen| {
        let give = give.clone();
        async move {
            if seen.json()["params"]["name"] == "quick" {
                return echo(seen).await;
            }
            let (voice, say) = sse();
            drop(give.send((seen.id(), voice)));
            say
        }
    });
    (server.await, voices)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_floods_a_client_which_does_not_read_is_read_no_further_and_others_are_answered() {
    let (server, mut voices) = spoken().await;
    let world = World::before(&server).await;
    let (slow, other) = (world.opened().await, world.opened().await);
    let (unread, voice) = tokio::join!(slow.call(2, "flood"), async {
        let (_, voice) = voices.recv().await.unwrap_or_else(|| panic!("no call came"));
        // The client's headers come with the stream.
        voice.raw(": hello\n\n").await;
        voice
    });
    let note = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"#;
    let event = format!("data: {note}\"{}\"}}}}\n\n", "x".repeat(4_000));
    let taken = flood(&voice, &event).await;
    assert!(taken > 0, "nothing was taken");
    let answered = soon("the other call", other.call(3, "quick")).await;
    assert!(answered.json().await["result"].is_object());
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_that_its_client_does_not_read_is_read_no_further() {
    let (server, mut voices) = spoken().await;
    let world = World::before(&server).await;
    let slow = world.opened().await;
    let (unread, called) = tokio::join!(slow.call(2, "long"), async {
        let (id, voice) = voices.recv().await.unwrap_or_else(|| panic!("no call came"));
        voice.raw(format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"text\":\"")).await;
        voice
    });
    let taken = flood(&called, &"x".repeat(64 * 1024)).await;
    assert!(taken > 1024 * 1024, "{taken} bytes are less than what is collected");
    drop(unread);
}

#[tokio::test]
async fn beyond_so_many_connections_the_next_is_told_so_and_one_that_leaves_makes_room() {
    let server = Server::ordinary(echo).await;
    let world = World::within(&server.url(), Bounds { connections: 2, ..Bounds::default() }).await;
    let connect = || tokio::net::TcpStream::connect(world.at);
    let (first, _second) = (connect().await.unwrap(), connect().await.unwrap());
    let told = |mut socket: tokio::net::TcpStream| async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let asked = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
        socket.write_all(asked).await.unwrap();
        let mut text = String::new();
        soon("an answer", socket.read_to_string(&mut text)).await.unwrap();
        text
    };
    let refused = told(connect().await.unwrap()).await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("has 2 connections already"),
        "{refused}"
    );
    drop(first);
    // It is noticed soon that one has left.
    soon("room for another", async {
        while !told(connect().await.unwrap()).await.starts_with("HTTP/1.1 200 ") {}
    })
    .await;
}
