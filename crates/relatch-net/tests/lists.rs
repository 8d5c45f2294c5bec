//! Lists that are long: they are seen whole, so that they can be compared after a restart.

mod world;

use world::*;

/// Names a tool and fills the list with this much text; the answer is JSON or an event.
async fn long_list(at: std::net::SocketAddr, tool: &'static str, mib: usize, event: bool) -> Server {
    let manners = move |seen: Seen| async move {
        let filler = "x".repeat(mib * 1024 * 1024);
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"tools":[{{"name":"{tool}"}},{{"name":"filler","description":"{filler}"}}]}}}}"#,
            seen.id()
        );
        match event {
            true => say(200, "text/event-stream", format!("data: {text}\n\n")),
            false => json(text),
        }
    };
    let sid = format!("session-{tool}");
    Server::start_at(at, move |seen| {
        let sid = sid.clone();
        async move {
            match seen.method().as_str() {
                "initialize" => {
                    let mut said = json(format!(
                        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                        seen.id()
                    ));
                    said.headers_mut().insert("mcp-session-id", sid.parse().expect("a header"));
                    said
                }
                _ if seen.header("mcp-session-id") != Some(&sid) => say(404, "", ""),
                "tools/list" => manners(seen).await,
                "ping" | "tools/call" => {
                    json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id()))
                }
                "" => say(405, "", ""),
                _ => say(202, "", ""),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_long_list_is_compared_after_a_restart_like_any_other() {
    for event in [false, true] {
        let server = long_list("127.0.0.1:0".parse().unwrap(), "a", 3, event).await;
        let world = World::before(&server).await;
        let client = world.opened().await;
        let mut standing = client.listen().await;
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let mut answer = client.post(list).await;
        let seen = if event { answer.event_json().await } else { answer.json().await };
        assert_eq!(seen["result"]["tools"][0]["name"], "a");
        let at = server.kill().await;
        let _server = long_list(at, "b", 3, event).await;
        assert_eq!(client.call(2, "b").await.json().await["id"], 2);
        let told = standing.event_json().await;
        assert_eq!(told["method"], "notifications/tools/list_changed");
        let details: Vec<_> =
            world.journal.lock().unwrap().iter().filter_map(|entry| entry.detail.clone()).collect();
        assert!(details.iter().any(|detail| detail.contains("+b -a")), "{details:?}");
    }
}

#[tokio::test]
async fn a_list_too_long_to_be_kept_streams_through() {
    for event in [false, true] {
        let server = long_list("127.0.0.1:0".parse().unwrap(), "a", 33, event).await;
        let world = World::before(&server).await;
        let client = world.opened().await;
        let answer = client.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
        assert_eq!((answer.status, answer.kind().contains("event")), (200, event));
        let text = answer.text().await;
        assert!(text.len() > 33 * 1024 * 1024);
        assert!(text.trim_end().ends_with(r#""}]}}"#));
    }
}
