//! `--tell`: what it adds inside the client, and that it adds nothing anywhere else.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod world;

use std::net::SocketAddr;
use std::sync::Arc;

use relatch_core::health::HealthReport;
use relatch_core::journal::What;
use relatch_net::keeper::Keeper;
use relatch_net::tell::{Story, Teller};
use relatch_store::{MemoryStore, Store};
use serde_json::{Value, json as value};
use world::*;

/// What a server has, as raw JSON.
#[derive(Clone, Copy)]
struct Has {
    session: &'static str,
    capabilities: &'static str,
    /// Pages of tools.
    tools: &'static [&'static str],
    prompts: Option<&'static str>,
    /// The HTTP status of its errors.
    errors: u16,
}

const BARE: Has = Has { session: "one", capabilities: "{}", tools: &[], prompts: None, errors: 200 };
const RICH: Has = Has {
    session: "one",
    capabilities: r#"{"tools":{"listChanged":true}, "logging":{},"x":1.10}"#,
    tools: &[r#"[ {"name":"echo","x":1.10,"inputSchema":{"type":"object"}} ]"#],
    prompts: None,
    errors: 200,
};

async fn server(has: Has) -> Server {
    server_at("127.0.0.1:0".parse().unwrap(), has).await
}

async fn server_at(at: SocketAddr, has: Has) -> Server {
    Server::start_at(at, move |seen| async move {
        let id = seen.id();
        let no = |code: i64, words: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{words}"}}}}"#);
            say(has.errors, "application/json", text)
        };
        let yes = |result: String| json(format!(r#"{{"id":{id},"result":{result},"jsonrpc":"2.0"}}"#));
        let method = seen.method();
        if method == "initialize" {
            let revision = seen.json()["params"]["protocolVersion"].clone();
            let mut said = yes(format!(
                r#"{{"protocolVersion":{revision},"capabilities":{},"serverInfo":{{"name":"s","version":"1"}}}}"#,
                has.capabilities
            ));
            said.headers_mut().insert("mcp-session-id", has.session.parse().unwrap());
            return said;
        }
        if seen.header("mcp-session-id") != Some(has.session) {
            return say(404, "", "");
        }
        match method.as_str() {
            "tools/list" if !has.tools.is_empty() => {
                let page = seen.json()["params"]["cursor"].as_str().map_or(0, |n| n.parse().unwrap());
                let next = if page + 1 < has.tools.len() {
                    format!(r#","nextCursor":"{}""#, page + 1)
                } else {
                    String::new()
                };
                yes(format!(r#"{{"tools":{}{next}}}"#, has.tools[page]))
            }
            "prompts/list" => match has.prompts {
                Some(prompts) => yes(format!(r#"{{"prompts":{prompts}}}"#)),
                None => no(-32601, "Method not found"),
            },
            "tools/call" if !has.tools.is_empty() => yes(r#"{"content":[],"n":1.10}"#.to_owned()),
            "prompts/get" if has.prompts.is_some() => yes(r#"{"messages":[]}"#.to_owned()),
            "logging/setLevel" if has.capabilities.contains("logging") => yes("{}".to_owned()),
            "ping" => yes("{}".to_owned()),
            "" => say(405, "", ""),
            method if method.starts_with("notifications/") => say(202, "", ""),
            _ => no(-32601, "Method not found"),
        }
    })
    .await
}

/// Tells how many sessions the report has, and its state.
fn teller(keeper: &Arc<Keeper>) {
    let story = |name: &str, report: &HealthReport| Story {
        text: format!("{name} is {} for {} session", report.state.as_str(), report.sessions.len()),
        structured: value!({"health": report.state.as_str(), "n": 1.5}),
    };
    keeper.tell_by(Teller { story: Box::new(story), schema: value!({"type": "object"}) });
}

async fn told(server: &Server) -> World {
    told_with(&server.url(), None).await
}

async fn told_with(url: &str, store: Option<Arc<dyn Store>>) -> World {
    let world = World::with(url, |policy| policy.tell = true, store).await;
    teller(&world.keeper);
    world
}

fn ask(id: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

const STATUS: &str = r#"{"name":"relatch_status","arguments":{}}"#;

#[tokio::test]
async fn without_it_everything_is_as_the_server_said_and_the_name_is_the_servers() {
    let server = server(RICH).await;
    let world = World::before(&server).await;
    // Somebody could tell, and nobody has asked for it.
    teller(&world.keeper);
    let mut client = world.client();
    let opened = client.open("2025-11-25").await.text().await;
    assert_eq!(
        opened,
        r#"{"id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}, "logging":{},"x":1.10},"serverInfo":{"name":"s","version":"1"}},"jsonrpc":"2.0"}"#
    );
    let tools = client.post(&ask(1, "tools/list", "{}")).await.text().await;
    assert_eq!(
        tools,
        r#"{"id":1,"result":{"tools":[ {"name":"echo","x":1.10,"inputSchema":{"type":"object"}} ]},"jsonrpc":"2.0"}"#
    );
    let prompts = client.post(&ask(2, "prompts/list", "{}")).await.text().await;
    assert_eq!(prompts, r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"Method not found"}}"#);
    let called = client.post(&ask(3, "tools/call", STATUS)).await.text().await;
    assert_eq!(called, r#"{"id":3,"result":{"content":[],"n":1.10},"jsonrpc":"2.0"}"#);
    assert_eq!(server.methods().iter().filter(|method| *method == "tools/call").count(), 1);
}

#[tokio::test]
async fn what_is_added_stands_behind_the_servers_own_bytes_and_is_answered_by_relatch() {
    let server = server(RICH).await;
    let world = told(&server).await;
    let mut client = world.client();
    let opened = client.open("2025-11-25").await.text().await;
    assert_eq!(
        opened,
        r#"{"id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}, "logging":{},"x":1.10,"prompts":{"listChanged":true}},"serverInfo":{"name":"s","version":"1"}},"jsonrpc":"2.0"}"#
    );
    let tools = client.post(&ask(1, "tools/list", "{}")).await.text().await;
    let own = r#"{"id":1,"result":{"tools":[ {"name":"echo","x":1.10,"inputSchema":{"type":"object"}} ,{"name":"relatch_status","#;
    assert!(tools.starts_with(own) && tools.ends_with(r#"}]},"jsonrpc":"2.0"}"#), "{tools}");
    let tool = serde_json::from_str::<Value>(&tools).unwrap()["result"]["tools"][1].clone();
    assert_eq!(tool["annotations"]["readOnlyHint"], true);
    assert_eq!(tool["outputSchema"]["type"], "object");

    let answer = client.post(&ask(2, "tools/call", STATUS)).await.json().await;
    assert_eq!(
        answer,
        value!({"jsonrpc": "2.0", "id": 2, "result": {
            "content": [{"type": "text", "text": "x is healthy for 1 session"}],
            "structuredContent": {"health": "healthy", "n": 1.5},
            "isError": false,
        }})
    );
    // The server has no prompts: there is the one, and others are what the server says.
    let prompts = client.post(&ask(3, "prompts/list", "{}")).await.json().await;
    assert_eq!(names(&prompts["result"]["prompts"]), ["relatch_status"]);
    let prompt = client.post(&ask(4, "prompts/get", r#"{"name":"relatch_status"}"#)).await.json().await;
    let said = prompt["result"]["messages"][0]["content"]["text"].as_str().unwrap().to_owned();
    assert!(said.ends_with("x is healthy for 1 session"), "{said}");
    let other = client.post(&ask(5, "prompts/get", r#"{"name":"other"}"#)).await.json().await;
    assert_eq!(other["error"]["code"], -32601);
    let called = client.call(6, "echo").await.text().await;
    assert_eq!(called, r#"{"id":6,"result":{"content":[],"n":1.10},"jsonrpc":"2.0"}"#);
    // A list of another kind is the server's alone.
    let resources = client.post(&ask(7, "resources/list", "{}")).await.json().await;
    assert_eq!(resources["error"]["code"], -32601);

    let asked: Vec<_> = server.seen(|seen| !seen.body.is_empty()).iter().map(Seen::json).collect();
    assert!(!asked.iter().any(|seen| seen["params"]["name"] == "relatch_status"), "{asked:?}");
    // It was no call: nothing of it counts.
    assert_eq!(world.keeper.report("x").unwrap().totals.calls, 6);
}

#[tokio::test]
async fn an_older_session_gets_no_data_and_a_batch_gets_its_answers_together() {
    let server = server(BARE).await;
    let world = told(&server).await;
    let mut client = world.client();
    let opened = client.open("2025-03-26").await.json().await;
    assert_eq!(
        opened["result"]["capabilities"],
        value!({"tools": {"listChanged": true}, "prompts": {"listChanged": true}, "logging": {}})
    );
    let batch = format!("[{},{}]", ask(1, "tools/call", STATUS), ask(2, "tools/list", "{}"));
    let answers = client.post(&batch).await.json().await;
    let of = |id: i64| answers.as_array().unwrap().iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(of(1)["result"]["content"][0]["text"], "x is healthy for 1 session");
    assert!(of(1)["result"].get("structuredContent").is_none());
    assert_eq!(names(&of(2)["result"]["tools"]), ["relatch_status"]);
    assert!(of(2)["result"]["tools"][0].get("outputSchema").is_none());
}

#[tokio::test]
async fn that_a_server_has_none_it_may_say_with_any_status() {
    for errors in [200, 400, 404] {
        let server = server(Has { errors, ..RICH }).await;
        let world = told(&server).await;
        let client = world.opened().await;
        let prompts = client.post(&ask(1, "prompts/list", "{}")).await.json().await;
        assert_eq!(names(&prompts["result"]["prompts"]), ["relatch_status"], "{errors}");
        let more = client.post(&ask(2, "prompts/list", r#"{"cursor":"x"}"#)).await.json().await;
        assert_eq!(more["error"]["code"], -32601, "{errors}");
    }
}

#[tokio::test]
async fn it_is_answered_while_the_server_is_away_and_its_list_waits_for_the_whole() {
    let server = server(RICH).await;
    let world = told(&server).await;
    let client = world.opened().await;
    client.post(&ask(1, "tools/list", "{}")).await.json().await;
    let at = server.kill().await;
    let listing = tokio::spawn({
        let client = client.clone();
        async move { client.post(&ask(2, "tools/list", "{}")).await.json().await }
    });
    until("it is known to be away", || {
        world.keeper.report("x").unwrap().waiting == 1 && world.journalled().contains(&What::Away)
    })
    .await;
    let answer = client.post(&ask(3, "tools/call", STATUS)).await.json().await;
    let said = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(["x is recovering for 1 session", "x is down for 1 session"].contains(&said), "{said}");
    let prompt = client.post(&ask(4, "prompts/get", r#"{"name":"relatch_status"}"#)).await.json().await;
    assert!(prompt["result"]["messages"][0]["content"]["text"].as_str().unwrap().ends_with("for 1 session"));
    assert!(!listing.is_finished(), "a part of a list is never shown as the whole");
    let _server = server_at(at, Has { session: "two", ..RICH }).await;
    let list = soon("the list", listing).await.unwrap();
    assert_eq!(names(&list["result"]["tools"]), ["echo", "relatch_status"]);
}

#[tokio::test]
async fn of_a_list_in_pages_the_last_one_has_it() {
    let pages = Has { tools: &[r#"[{"name":"a"}]"#, r#"[{"name":"b"}]"#, "[]"], ..RICH };
    let server = server(pages).await;
    let world = told(&server).await;
    let client = world.opened().await;
    let mut seen = Vec::new();
    for params in ["{}", r#"{"cursor":"1"}"#, r#"{"cursor":"2"}"#] {
        let page = client.post(&ask(1, "tools/list", params)).await.json().await;
        seen.push(names(&page["result"]["tools"]).join(" "));
    }
    assert_eq!(seen, ["a", "b", "relatch_status"]);
}

#[tokio::test]
async fn a_servers_own_tool_of_that_name_stays_the_servers() {
    let own = Has {
        tools: &[r#"[{"name":"relatch_status"}]"#, "[]"],
        prompts: Some(r#"[{"name":"relatch_status"}]"#),
        ..RICH
    };
    let server = server(own).await;
    let world = told(&server).await;
    let client = world.opened().await;
    for (id, method, params) in
        [(1, "tools/list", "{}"), (2, "tools/list", r#"{"cursor":"1"}"#), (3, "prompts/list", "{}")]
    {
        let text = client.post(&ask(id, method, params)).await.text().await;
        assert!(text.matches("relatch_status").count() <= 1 && !text.contains("Connection status"), "{text}");
    }
    let called = client.post(&ask(4, "tools/call", STATUS)).await.text().await;
    assert_eq!(called, r#"{"id":4,"result":{"content":[],"n":1.10},"jsonrpc":"2.0"}"#);
    let got = client.post(&ask(5, "prompts/get", STATUS)).await.json().await;
    assert_eq!(got["result"], value!({"messages": []}));
    // Another client need not look first.
    let other = world.opened().await;
    let called = other.post(&ask(6, "tools/call", STATUS)).await.text().await;
    assert_eq!(called, r#"{"id":6,"result":{"content":[],"n":1.10},"jsonrpc":"2.0"}"#);
    // It stands in the journal, once for the tools and once for the prompts.
    other.post(&ask(7, "tools/list", "{}")).await.text().await;
    let said = |entry: &&relatch_core::journal::Entry| {
        entry.detail.as_deref().is_some_and(|detail| detail.contains("`relatch_status` of its own"))
    };
    assert_eq!(world.journal.lock().unwrap().iter().filter(said).count(), 2);
}

#[tokio::test]
async fn a_client_hears_of_itself_and_of_no_other_client() {
    let server = server(RICH).await;
    let world = told(&server).await;
    let (client, _other, _third) = (world.opened().await, world.opened().await, world.opened().await);
    let answer = client.post(&ask(1, "tools/call", STATUS)).await.json().await;
    assert_eq!(
        answer["result"]["content"][0]["text"],
        "x is healthy for 1 session\n  2 more sessions are shown by `relatch status x`\n"
    );
}

#[tokio::test]
async fn after_a_restart_equal_lists_are_equal_and_other_ones_are_told_of() {
    let server = server(RICH).await;
    let world = told(&server).await;
    let client = world.opened().await;
    let mut standing = client.listen().await;
    for method in ["tools/list", "prompts/list"] {
        client.post(&ask(1, method, "{}")).await.json().await;
    }
    let at = server.kill().await;
    let server = server_at(at, Has { session: "two", ..RICH }).await;
    client.call(2, "echo").await.json().await;
    until("the list is compared", || server.methods().contains(&"tools/list".to_owned())).await;
    let at = server.kill().await;
    const MORE: &[&str] = &[r#"[{"name":"echo","x":1.10,"inputSchema":{"type":"object"}},{"name":"more"}]"#];
    let _server = server_at(at, Has { session: "three", tools: MORE, ..RICH }).await;
    client.call(3, "echo").await.json().await;
    // The first thing that the client hears of its lists is the real difference.
    let said = standing.event_json().await;
    assert_eq!(said["method"], "notifications/tools/list_changed");
    let details: Vec<_> =
        world.journal.lock().unwrap().iter().filter(|e| e.what == What::ListChanged).cloned().collect();
    assert_eq!(details.len(), 1);
    assert_eq!(details[0].detail.as_deref(), Some("+more"));
    assert!(!world.journalled().contains(&What::Skipped));
}

#[tokio::test]
async fn a_keeper_that_comes_after_knows_what_its_clients_were_told() {
    let server = server(BARE).await;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let world = told_with(&server.url(), Some(Arc::clone(&store))).await;
    let client = world.opened().await;
    // The server takes no log level, so relatch does.
    let set = client.post(&ask(1, "logging/setLevel", r#"{"level":"error"}"#)).await.json().await;
    assert_eq!(set, value!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    let odd = client.post(&ask(2, "logging/setLevel", r#"{"level":"loud"}"#)).await.json().await;
    assert_eq!(odd["error"]["code"], -32601);
    // One that knows nothing of it was opened without.
    let plain = World::with(&server.url(), |_| {}, Some(Arc::clone(&store))).await;
    let mut untold = plain.opened().await;
    plain.stop().await;
    world.stop().await;

    let sid = client.sid.clone().unwrap();
    let kept = store.get(&sid).unwrap().unwrap().tell.expect("it is in the record");
    assert_eq!((kept.tools, kept.logging, kept.level.as_deref()), (false, false, Some("error")));
    let world = told_with(&server.url(), Some(store)).await;
    let client = Client { at: world.at, ..client };
    let answer = client.post(&ask(3, "tools/call", STATUS)).await.json().await;
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().starts_with("x is "), "{answer}");
    untold.at = world.at;
    let answer = untold.post(&ask(4, "tools/call", STATUS)).await.json().await;
    assert_eq!(answer["error"]["code"], -32601);
}

#[tokio::test]
async fn an_outage_is_logged_once_at_those_who_want_to_hear_of_it() {
    let server = server(BARE).await;
    let world = told(&server).await;
    // Nothing set: the specification leaves it to the sender. And one for whom only errors count, one without `--tell`.
    let (client, quiet, alarmed) = (world.opened().await, world.opened().await, world.opened().await);
    for (one, level) in [(&quiet, "error"), (&alarmed, "warning")] {
        let set = one.post(&ask(1, "logging/setLevel", &format!(r#"{{"level":"{level}"}}"#))).await;
        assert_eq!(set.json().await["result"], value!({}));
    }
    let mut standing = client.listen().await;
    let (silent, mut warned) = (quiet.listen().await, alarmed.listen().await);
    let at = server.kill().await;
    // It is noticed by itself sooner or later; a call makes it sooner.
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.call(2, "echo").await.json().await }
    });
    for heard in [standing.event_json().await, warned.event_json().await] {
        assert_eq!(heard["method"], "notifications/message");
        assert_eq!(
            (&heard["params"]["level"], &heard["params"]["logger"]),
            (&value!("warning"), &value!("relatch"))
        );
        let said = heard["params"]["data"].as_str().unwrap();
        assert!(said.starts_with("`x` is down: ") && said.len() > "`x` is down: ".len(), "{said}");
    }
    let _server = server_at(at, Has { session: "two", ..RICH }).await;
    let heard = standing.event_json().await;
    assert_eq!(heard["params"]["level"], "notice");
    assert!(heard["params"]["data"].as_str().unwrap().starts_with("`x` is back after "), "{heard}");
    soon("the call", calling).await.unwrap();
    // Streams that end show that nothing else had come.
    for (one, mut stream) in [(&client, standing), (&quiet, silent), (&alarmed, warned)] {
        let ended = one.send(http::Method::DELETE, "/x/mcp", bytes::Bytes::new(), &[]).await;
        assert_eq!(ended.status, 200);
        assert_eq!(stream.event().await, None);
    }
}

#[tokio::test]
async fn on_stdio_it_is_the_same() {
    let server = server(RICH).await;
    let mut stdio = Stdio::with(&server.url(), |policy| policy.tell = true).await;
    teller(&stdio.keeper);
    stdio.open().await;
    stdio.say(&ask(1, "tools/list", "{}")).await;
    let list = stdio.hear_json().await;
    assert_eq!(names(&list["result"]["tools"]), ["echo", "relatch_status"]);
    let _at = server.kill().await;
    stdio.say(&ask(2, "tools/call", r#"{"name":"echo"}"#)).await;
    stdio.say(&ask(3, "tools/call", STATUS)).await;
    let answer = stdio.hear_json().await;
    assert_eq!(answer["id"], 3, "the other call waits for the server");
    assert!(answer["result"]["structuredContent"]["health"].is_string());
    let logged = stdio.hear_json().await;
    assert_eq!(
        (&logged["method"], &logged["params"]["level"]),
        (&value!("notifications/message"), &value!("warning"))
    );
}
