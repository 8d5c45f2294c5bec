//! Streams whose server numbered its events: what is asked for after a cut, and for how long.

mod world;

use http::Method;
use tokio::sync::mpsc;
use world::*;

/// A server of one session that answers calls, and requests for the rest of one, with a stream that the test speaks on.
async fn numbering() -> (Server, mpsc::UnboundedReceiver<Voice>) {
    let (told, voices) = mpsc::unbounded_channel::<Voice>();
    let server = Server::start(move |seen| {
        let told = told.clone();
        async move {
            let said = |result: &str| json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id()));
            let rest = seen.verb == Method::GET && seen.header("last-event-id").is_some();
            match (seen.verb == Method::GET, seen.method().as_str()) {
                (_, "tools/call") | (true, _) if rest || seen.method() == "tools/call" => {
                    let (voice, said) = sse();
                    told.send(voice).expect("the test listens");
                    said
                }
                (true, _) => say(405, "", ""),
                (_, "initialize") => {
                    let mut said = said(r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#);
                    said.headers_mut().insert("mcp-session-id", "s1".parse().expect("a header"));
                    said
                }
                (_, "ping") => said("{}"),
                _ => say(202, "", ""),
            }
        }
    })
    .await;
    (server, voices)
}

#[tokio::test]
async fn a_server_that_has_lost_the_answer_is_not_asked_for_it_for_ever() {
    let (server, mut voices) = numbering().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let asking = tokio::spawn(async move { client.call(1, "t").await });
    let voice = soon("the call arrives", voices.recv()).await.unwrap();
    voice.raw("retry: 10\nid: e1\ndata:\n\n").await;
    let mut answer = asking.await.unwrap();
    voice.cut().await;
    // It says again what it has said, or nothing, and ends.
    for text in ["", "id: e1\ndata:\n\n", ""] {
        let voice = soon("the rest is asked for", voices.recv()).await.unwrap();
        voice.raw(text).await;
    }
    let told = soon("the client is told", answer.event_json()).await;
    assert_eq!(told["error"]["data"]["relatch"]["code"], "delivery-unknown", "{told}");
    assert_eq!(told["error"]["data"]["relatch"]["executed"], "unknown");
    assert_eq!(server.methods().iter().filter(|method| *method == "tools/call").count(), 1);
}

#[tokio::test]
async fn a_stream_is_followed_as_long_as_it_brings_something_new() {
    let (server, mut voices) = numbering().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let asking = tokio::spawn(async move { client.call(1, "t").await });
    let voice = soon("the call arrives", voices.recv()).await.unwrap();
    voice.raw("retry: 10\nid: e0\ndata:\n\n").await;
    let mut answer = asking.await.unwrap();
    drop(voice);
    for n in 1..10 {
        let voice = soon("the rest is asked for", voices.recv()).await.unwrap();
        voice.raw(format!("id: e{n}\ndata:\n\n")).await;
    }
    let voice = soon("the rest is asked for", voices.recv()).await.unwrap();
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#).await;
    assert_eq!(answer.event().await.unwrap(), r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#);
}

#[tokio::test]
async fn a_long_event_that_is_cut_is_asked_for_again() {
    let (server, mut voices) = numbering().await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let asking = tokio::spawn(async move { client.call(1, "t").await });
    let voice = soon("the call arrives", voices.recv()).await.unwrap();
    voice.raw("retry: 10\nid: e1\ndata:\n\n").await;
    let mut answer = asking.await.unwrap();
    // Longer than what is whole before it goes on, and no answer: a notification is collected.
    let long = "x".repeat(1_200_000);
    let event = format!(
        "id: e2\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"data\":\"{long}\"}}}}\n\n"
    );
    voice.raw(event[..1_100_000].to_owned()).await;
    voice.cut().await;
    let voice = soon("the rest is asked for", voices.recv()).await.unwrap();
    let asked = server.seen(|seen| seen.header("last-event-id").is_some());
    assert_eq!(asked[0].header("last-event-id"), Some("e1"), "the event that was cut is not behind us");
    voice.raw(event).await;
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#).await;
    assert_eq!(answer.event_json().await["params"]["data"].as_str().map(str::len), Some(1_200_000));
    assert_eq!(answer.event().await.unwrap(), r#"{"jsonrpc":"2.0","id":1,"result":{"n":2}}"#);
}
