//! Answers too long to be held: they stream, memory stays bounded, and a break is told as far as it can be.

mod world;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};
use world::*;

const MIB: usize = 1024 * 1024;
const LONG: usize = 100 * MIB;

/// One at a time: memory is that of the whole process.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Sends a result with this much text, and under this id; then ends, or breaks.
fn speak(voice: Voice, id: String, size: usize, before: &'static str, after: &'static str, whole: bool) {
    tokio::spawn(async move {
        voice.raw(format!("{before}{{\"jsonrpc\":\"2.0\",\"result\":{{\"text\":\"")).await;
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        for _ in 0..size / piece.len() {
            voice.raw(piece.clone()).await;
        }
        if whole {
            voice.raw(format!("\"}},\"id\":{id}}}{after}")).await;
        } else {
            voice.cut().await;
        }
    });
}

async fn speaking(size: usize, event: bool, whole: bool) -> Server {
    Server::ordinary(move |seen| async move {
        let (kind, before, after) = match event {
            true => ("text/event-stream", "event: message\ndata: ", "\n\n"),
            false => ("application/json", "", ""),
        };
        let (voice, said) = stream(kind);
        speak(voice, seen.id(), size, before, after, whole);
        said
    })
    .await
}

/// The most memory that this process has had, in bytes; `None` where the system doesn't tell.
fn most_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}

fn assert_bounded(before: Option<usize>) {
    if let (Some(before), Some(after)) = (before, most_memory()) {
        assert!(after < before + 40 * MIB, "{} MiB more", (after - before) / MIB);
    }
}

#[tokio::test]
async fn a_hundred_megabytes_of_json_stream_through_with_bounded_memory() {
    let _alone = alone().await;
    let server = speaking(LONG, false, true).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let before = most_memory();
    let mut answer = client.call(7, "long").await;
    assert_eq!((answer.status, answer.kind()), (200, "application/json"));
    let (mut size, mut last) = (0, Bytes::new());
    while let Some(chunk) = answer.chunk().await {
        last = chunk.unwrap();
        size += last.len();
    }
    assert_eq!(size, LONG + br#"{"jsonrpc":"2.0","result":{"text":""},"id":7}"#.len());
    assert!(last.ends_with(br#""},"id":7}"#));
    assert_bounded(before);
    assert_eq!(world.keeper.report("x").unwrap().totals.calls, 2);
}

#[tokio::test]
async fn a_hundred_megabytes_as_one_event_stream_through_with_bounded_memory() {
    let _alone = alone().await;
    let server = speaking(LONG, true, true).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let before = most_memory();
    let mut answer = client.call(7, "long").await;
    assert_eq!((answer.status, answer.kind()), (200, "text/event-stream"));
    let (mut size, mut last) = (0, Vec::new());
    while let Some(chunk) = answer.chunk().await {
        let chunk = chunk.unwrap();
        size += chunk.len();
        last.extend_from_slice(&chunk);
        last.drain(..last.len().saturating_sub(32));
    }
    assert_eq!(size, LONG + b"data: {\"jsonrpc\":\"2.0\",\"result\":{\"text\":\"\"},\"id\":7}\n\n".len());
    assert!(last.ends_with(b"\"},\"id\":7}\n\n"));
    assert_bounded(before);
}

#[tokio::test]
async fn on_stdio_a_long_answer_is_one_line_and_memory_stays_bounded() {
    let _alone = alone().await;
    let server = speaking(LONG, false, true).await;
    let mut stdio = Stdio::opened(&server.url()).await;
    let before = most_memory();
    stdio.say(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"long"}}"#).await;
    let size = stdio.skim().await;
    assert_eq!(size, LONG + b"{\"jsonrpc\":\"2.0\",\"result\":{\"text\":\"\"},\"id\":7}\n".len());
    assert_bounded(before);
}

#[tokio::test]
async fn a_long_json_answer_that_breaks_is_aborted() {
    let _alone = alone().await;
    let server = speaking(4 * MIB, false, false).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut answer = client.call(7, "long").await;
    let end = loop {
        match answer.chunk().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(end.is_some_and(|end| end.is_err()), "the client can tell that it is not whole");
}

#[tokio::test]
async fn a_long_event_that_breaks_is_voided_and_an_error_follows() {
    let _alone = alone().await;
    let server = speaking(4 * MIB, true, false).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut answer = client.call(7, "long").await;
    let failure = answer.event_json().await;
    assert_eq!(failure["id"], 7);
    assert_eq!(failure["error"]["data"]["relatch"]["executed"], "unknown");
    assert_eq!(answer.event().await, None);
}

#[tokio::test]
async fn a_long_answer_under_a_mapped_id_comes_back_under_the_clients() {
    let _alone = alone().await;
    let server = speaking(2 * MIB, false, true).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let (one, two) = tokio::join!(client.call(7, "long"), client.call(7, "long"));
    for answer in [one, two] {
        assert!(answer.text().await.ends_with(r#""},"id":7}"#));
    }
    let mapped = server.seen(|seen| seen.id().contains("relatch-"));
    assert_eq!(mapped.len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_a_long_answer_disturbs_nobody() {
    let _alone = alone().await;
    let server = speaking(8 * MIB, false, true).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut answer = client.call(7, "long").await;
    assert!(answer.chunk().await.unwrap().is_ok());
    drop(answer);
    assert!(client.call(8, "long").await.text().await.ends_with(r#""},"id":8}"#));
}

#[tokio::test]
async fn a_long_answer_whose_session_is_ended_in_the_middle_does_not_look_whole() {
    let _alone = alone().await;
    let server = speaking(LONG, false, true).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    // So much waits for a client that reads nothing further that the end can't be on its way yet.
    let mut answer = client.call(7, "long").await;
    assert!(answer.chunk().await.unwrap().is_ok());
    client.send(http::Method::DELETE, "/x/mcp", Bytes::new(), &[]).await;
    let broken = loop {
        match answer.chunk().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken, "an answer that was cut ends as a broken body");
}
