//! Clients that start before their server, over both sides: what they are answered from a copy, whose copy that is, and
//! what they hear when the server is there.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod world;

use std::path::Path;
use std::sync::Arc;

use relatch_core::journal::What;
use relatch_net::keeper::Keeper;
use relatch_store::MemoryStore;
use serde_json::Value;
use world::*;

const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

async fn echo(seen: Seen) -> Say {
    match seen.method().as_str() {
        "tools/call" => json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[]}}}}"#, seen.id())),
        other => panic!("{other}"),
    }
}

/// A server with this tool and of this version; it lets in who comes with one of these credentials.
async fn server_at(
    at: std::net::SocketAddr,
    tool: &'static str,
    version: &'static str,
    lets_in: &'static [&'static str],
) -> Server {
    let manners = Arc::new(Manners::default());
    Server::start_at(at, move |seen| {
        let manners = Arc::clone(&manners);
        async move {
            let shown = seen.header("authorization").unwrap_or("").to_owned();
            if !lets_in.is_empty() && !lets_in.contains(&shown.as_str()) {
                let mut said = say(401, "text/plain", "who are you?");
                said.headers_mut().insert("www-authenticate", "Bearer".parse().unwrap());
                return said;
            }
            let text = match seen.method().as_str() {
                "tools/list" => format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"tools":[{{"name":"{tool}","x":1.10}}]}}}}"#,
                    seen.id()
                ),
                "initialize" => {
                    let mut said = manners.answer(&seen).await.unwrap();
                    let id = said.headers_mut().remove("mcp-session-id").unwrap();
                    let mut said = json(format!(
                        r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"late","version":"{version}"}}}}}}"#,
                        seen.id()
                    ));
                    said.headers_mut().insert("mcp-session-id", id);
                    return said;
                }
                _ => {
                    return match manners.answer(&seen).await {
                        Some(said) => said,
                        None => echo(seen).await,
                    };
                }
            };
            json(text)
        }
    })
    .await
}

async fn server(tool: &'static str, lets_in: &'static [&'static str]) -> Server {
    server_at("127.0.0.1:0".parse().unwrap(), tool, "1.0", lets_in).await
}

/// Waits until a list of tools under these headers is kept: it is the last thing that is written.
async fn is_kept(keeper: &Keeper) {
    soon("the copies are written", keeper.flush()).await;
}

fn session(keeper: &Keeper) -> relatch_core::health::SessionSeen {
    keeper.report("x").unwrap().sessions[0].clone()
}

#[tokio::test]
async fn a_keeper_that_is_started_anew_before_its_server_answers_from_the_copy_and_tells_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server("old", &[]).await;
    let url = server.url();
    let (mut first, _) = Stdio::copying(&url, dir.path()).await;
    first.open().await;
    first.say(LIST).await;
    let listed = first.hear().await;
    is_kept(&first.keeper).await;
    first.close().await;
    let at = server.kill().await;

    let (mut late, journal) = Stdio::copying(&url, dir.path()).await;
    late.say(r#"{"jsonrpc":"2.0","id":"first","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#).await;
    let hello = late.hear_json().await;
    assert_eq!((&hello["id"], &hello["result"]["serverInfo"]["version"]), (&"first".into(), &"1.0".into()));
    assert_eq!(hello["result"]["capabilities"]["tools"]["listChanged"], true);
    late.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    // Byte for byte as the server said it.
    late.say(LIST).await;
    assert_eq!(late.hear().await, listed);
    let seen = session(&late.keeper);
    assert_eq!((seen.state, seen.copy.is_some()), ("late", true));
    assert_ne!(late.keeper.report("x").unwrap().state, relatch_core::health::State::Healthy);
    late.say(&call_text(9, "old")).await;
    until("the call is held", || late.keeper.report("x").unwrap().waiting == 1).await;

    let _server = server_at(at, "new", "2.0", &[]).await;
    let (mut answered, mut told) = (false, false);
    while !(answered && told) {
        let heard = late.hear_json().await;
        answered |= heard["id"] == 9 && heard["result"].is_object();
        told |= heard["method"] == "notifications/tools/list_changed";
    }
    late.say(LIST).await;
    assert_eq!(late.hear_json().await["result"]["tools"][0]["name"], "new");
    let seen = session(&late.keeper);
    assert_eq!((seen.state, seen.copy), ("bound", None));
    let journal = journal.lock().unwrap();
    let of = |what| journal.iter().filter(|entry| entry.what == what).collect::<Vec<_>>();
    assert_eq!((of(What::FromCopy).len(), of(What::Relatched).len(), of(What::ListChanged).len()), (2, 0, 1));
    assert!(of(What::Latched)[0].detail.as_deref().unwrap().contains("late 1.0 → late 2.0"), "{journal:?}");
}

async fn opens(world: &World, credentials: &str) -> (Client, Value) {
    let mut client = world.client();
    client.more.push(("authorization", credentials.to_owned()));
    let answer = client
        .post(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#)
        .await;
    client.sid = answer.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
    let hello = serde_json::from_str(&answer.text().await).unwrap_or_default();
    (client, hello)
}

async fn impatient(url: &str, dir: &Path) -> World {
    let world = World::copying(url, dir, Some(Arc::new(MemoryStore::new()))).await;
    assert!(world.keeper.report("x").is_some());
    world
}

#[tokio::test]
async fn a_copy_is_given_to_the_credentials_that_it_came_under_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = server("secret_tool", &["Bearer good"]).await;
    let url = server.url();
    let world = impatient(&url, dir.path()).await;
    let (client, _) = opens(&world, "Bearer good").await;
    client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    assert!(client.post(LIST).await.text().await.contains("secret_tool"));
    is_kept(&world.keeper).await;
    world.stop().await;
    let at = server.kill().await;

    let world = impatient(&url, dir.path()).await;
    let (client, hello) = opens(&world, "Bearer good").await;
    assert_eq!(hello["result"]["serverInfo"]["name"], "late");
    assert!(client.sid.is_some());
    client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    assert!(client.post(LIST).await.text().await.contains("secret_tool"));
    // In the same session, but as somebody else.
    let mut other = client.clone();
    other.more = vec![("authorization", "Bearer other".to_owned())];
    let (asked, opened, keyed) = (
        tokio::spawn({
            let other = other.clone();
            async move { other.post(LIST).await.text().await }
        }),
        tokio::spawn({
            let mut stranger = world.client();
            stranger.more = other.more.clone();
            async move {
                stranger.post(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#).await.status
            }
        }),
        tokio::spawn({
            // A key is a credential, too, whatever its name begins with.
            let mut stranger = world.client();
            stranger.more = client.more.clone();
            stranger.more.push(("mcp-api-key", "b".to_owned()));
            async move {
                stranger.post(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#).await.status
            }
        }),
    );
    until("all three wait", || world.keeper.report("x").unwrap().waiting == 3).await;

    // The server is there: it refuses them itself, and from then on the good ones too.
    let server = server_at(at, "secret_tool", "1.0", &["Bearer better"]).await;
    assert!(!asked.await.unwrap().contains("secret_tool"));
    assert_eq!(opened.await.unwrap(), 401);
    assert_eq!(keyed.await.unwrap(), 401);
    let (_, refused) = opens(&world, "Bearer good").await;
    assert!(refused["result"].is_null(), "{refused}");
    is_kept(&world.keeper).await;
    world.stop().await;
    let _at = server.kill().await;

    // What was refused has lost its copy.
    let world = impatient(&url, dir.path()).await;
    let opened = tokio::spawn({
        let mut client = world.client();
        client.more.push(("authorization", "Bearer good".to_owned()));
        async move { client.open("2025-11-25").await }
    });
    until("it waits", || world.keeper.report("x").unwrap().waiting == 1).await;
    until("the server was asked", || world.journalled().contains(&What::Held)).await;
    assert!(!world.journalled().contains(&What::FromCopy));
    opened.abort();
}

#[tokio::test]
async fn a_server_that_is_there_is_asked_itself_and_no_copy_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = server("t", &[]).await;
    let (mut stdio, journal) = Stdio::copying(&server.url(), dir.path()).await;
    stdio.open().await;
    stdio.say(LIST).await;
    stdio.hear().await;
    assert_eq!(server.methods().iter().filter(|method| *method == "tools/list").count(), 1);
    assert!(!journal.lock().unwrap().iter().any(|entry| entry.what == What::FromCopy));
}

#[tokio::test]
async fn a_folder_that_can_not_be_used_costs_nothing_but_the_copies() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "in the way").unwrap();
    let server = server("t", &[]).await;
    let (mut stdio, _) = Stdio::copying(&server.url(), &file).await;
    stdio.open().await;
    stdio.say(LIST).await;
    assert_eq!(stdio.hear_json().await["result"]["tools"][0]["name"], "t");
    soon("nothing is written", stdio.keeper.flush()).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "in the way");
}
