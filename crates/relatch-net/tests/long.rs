//! Answers too long to be held: memory stays bounded, and a break is told under the call's own id.

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
async fn a_hundred_megabytes_of_json_pass_through_with_bounded_memory() {
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
async fn a_long_json_answer_that_breaks_becomes_an_error_under_its_own_id() {
    let _alone = alone().await;
    let server = speaking(4 * MIB, false, false).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let answer = client.call(7, "long").await;
    assert_eq!((answer.status, answer.kind()), (200, "application/json"));
    let failure = answer.json().await;
    assert_eq!(failure["id"], 7);
    assert_eq!(failure["error"]["data"]["relatch"]["executed"], "unknown");
}

#[tokio::test]
async fn a_long_json_answer_that_takes_its_time_shows_a_sign_of_life_and_comes_byte_for_byte() {
    let _alone = alone().await;
    let (go, goes) = tokio::sync::watch::channel(false);
    let server = Server::ordinary(move |seen| {
        let mut goes = goes.clone();
        async move {
            let (voice, said) = stream("application/json");
            tokio::spawn(async move {
                voice.raw("{\"jsonrpc\":\"2.0\",\r\n\"result\":{\"text\":\"").await;
                voice.raw(vec![b'x'; 2 * MIB]).await;
                drop(goes.wait_for(|go| *go).await);
                voice.raw(format!("\"}},\n\"id\":{}}}", seen.id())).await;
            });
            said
        }
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let mut answer = client.call(7, "long").await;
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(15)).await;
    tokio::time::resume();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), " ");
    go.send_replace(true);
    let sent =
        format!("{{\"jsonrpc\":\"2.0\",\r\n\"result\":{{\"text\":\"{}\"}},\n\"id\":7}}", "x".repeat(2 * MIB));
    assert!(answer.text().await == sent, "behind the blank stands what the server sent");
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
async fn a_long_event_that_breaks_inside_a_character_leaves_a_stream_that_is_text() {
    let _alone = alone().await;
    let server = Server::ordinary(|_| async move {
        let (voice, said) = sse();
        tokio::spawn(async move {
            voice.raw("data: {\"jsonrpc\":\"2.0\",\"result\":{\"text\":\"").await;
            voice.raw("漢".repeat(MIB).into_bytes()).await;
            voice.raw(&b"\xe6\xbc"[..]).await;
            voice.cut().await;
        });
        said
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let text = client.call(7, "long").await.text().await;
    let (voided, failure) = text.split_once("\nevent: relatch-void\n\n").expect("the half event is voided");
    assert!(voided.ends_with('漢'));
    assert!(failure.contains(r#""executed":"unknown""#), "{failure}");
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
    let server = Server::ordinary(|_| async move {
        let (voice, said) = stream("application/json");
        tokio::spawn(async move {
            voice.raw("{\"jsonrpc\":\"2.0\",\"result\":{\"text\":\"").await;
            voice.raw(vec![b'x'; 2 * MIB]).await;
            voice.closed().await;
        });
        said
    })
    .await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    // The head comes as soon as the answer has shown that it is a long one.
    let answer = client.call(7, "long").await;
    client.send(http::Method::DELETE, "/x/mcp", Bytes::new(), &[]).await;
    let failure = answer.json().await;
    assert_eq!(failure["id"], 7);
    assert_eq!(failure["error"]["data"]["relatch"]["code"], "session-ended");
}
