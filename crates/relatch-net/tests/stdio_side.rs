//! The stdio side in front of scripted servers.

mod world;

use http::Method;
use tokio::sync::mpsc;
use world::*;

#[tokio::test]
async fn lines_pass_in_both_directions_byte_for_byte() {
    let server = Server::ordinary(|seen| async move {
        json(format!("{{\"jsonrpc\":\"2.0\",\n \"id\":{},\r\n \"result\":{{\"v\":1.10}} }}", seen.id()))
    })
    .await;
    let mut stdio = Stdio::opened(&server.url()).await;
    let sent = r#"{ "jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"t","arguments":{"n":1.10}},"later":[] }"#;
    stdio.say(sent).await;
    assert_eq!(stdio.hear().await, r#"{"jsonrpc":"2.0",  "id":"x",   "result":{"v":1.10} }"#);
    assert_eq!(server.seen(|seen| seen.method() == "tools/call")[0].body, sent);
    stdio.say(r#"{"jsonrpc":"2.0","id":2,"method":"server/discover"}"#).await;
    assert_eq!(stdio.hear_json().await["error"]["code"], -32601);
    stdio.say("nonsense").await;
    let malformed = stdio.hear_json().await;
    assert_eq!((malformed["error"]["code"].as_i64(), malformed["id"].is_null()), (Some(-32700), true));
    stdio.close().await;
    soon("relatch ends", &mut stdio.task).await.unwrap().unwrap();
    assert_eq!(server.seen(|seen| seen.verb == Method::DELETE).len(), 1);
}

#[tokio::test]
async fn a_trace_in_a_message_goes_through_as_it_came() {
    let server = Server::ordinary(|seen| async move {
        json(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}", seen.id()))
    })
    .await;
    let mut stdio = Stdio::opened(&server.url()).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}"#;
    stdio.say(call).await;
    assert_eq!(stdio.hear_json().await["id"], 1);
    assert_eq!(server.seen(|seen| seen.method() == "tools/call")[0].body, call);
}

#[tokio::test]
async fn calls_of_a_batch_run_side_by_side() {
    let together = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    let server = Server::ordinary(move |seen| {
        let together = std::sync::Arc::clone(&together);
        async move {
            // Neither is answered before the other is there.
            together.wait().await;
            json(format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}", seen.id()))
        }
    })
    .await;
    let mut stdio = Stdio::before(&server.url()).await;
    stdio
        .say(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#)
        .await;
    assert_eq!(stdio.hear_json().await["result"]["protocolVersion"], "2025-03-26");
    stdio.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    stdio.say(&format!("[{},{}]", call_text(1, "a"), call_text(2, "b"))).await;
    let answers = stdio.hear_json().await;
    assert_eq!(answers.as_array().map(Vec::len), Some(2), "{answers}");
}

#[tokio::test]
async fn nothing_is_asked_before_initialize() {
    let server = Server::ordinary(|_| async move { say(500, "", "") }).await;
    let mut stdio = Stdio::before(&server.url()).await;
    stdio.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert_eq!(stdio.hear_json().await["error"]["code"], -32600);
    assert!(server.methods().is_empty());
}

#[tokio::test]
async fn events_before_an_answer_and_the_standing_stream_become_lines() {
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
    let mut stdio = Stdio::opened(&server.url()).await;
    until("the standing stream is asked for", || !server.seen(|seen| seen.verb == Method::GET).is_empty())
        .await;
    stdio.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#).await;
    let voice = soon("the call", tell.recv()).await.unwrap();
    voice.event(r#"{"jsonrpc":"2.0","id":7,"method":"roots/list"}"#).await;
    assert_eq!(stdio.hear_json().await["id"], "1:7");
    stdio.say(r#"{"jsonrpc":"2.0","id":"1:7","result":{"roots":[]}}"#).await;
    until("the answer arrives", || !server.seen(|seen| seen.json()["result"]["roots"].is_array()).is_empty())
        .await;
    voice.event(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(stdio.hear_json().await["id"], 1);
}

#[tokio::test]
async fn told_to_stop_it_tells_what_becomes_of_the_calls_under_way_and_ends_the_session() {
    let (told, mut tell) = mpsc::unbounded_channel();
    let server = Server::ordinary(move |_| {
        let told = told.clone();
        async move {
            told.send(()).unwrap();
            std::future::pending().await
        }
    })
    .await;
    let mut stdio = Stdio::opened(&server.url()).await;
    stdio.say(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#).await;
    soon("the call arrives", tell.recv()).await.unwrap();
    let stopped = std::time::Instant::now();
    stdio.stop.send(true).unwrap();
    let failure = stdio.hear_json().await;
    let relatch = &failure["error"]["data"]["relatch"];
    assert_eq!((failure["id"].as_i64(), relatch["code"].as_str()), (Some(7), Some("draining")));
    assert_eq!(relatch["executed"], "unknown");
    soon("relatch ends", &mut stdio.task).await.unwrap().unwrap();
    assert_eq!(server.seen(|seen| seen.verb == Method::DELETE).len(), 1);
    assert!(stopped.elapsed() < std::time::Duration::from_secs(2), "{:?}", stopped.elapsed());
}
