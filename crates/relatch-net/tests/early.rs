//! A call that waits long: its status is free at first, then its client hears something before it gives up.

mod world;

use std::time::{Duration, Instant};

use world::*;

async fn echo(seen: Seen) -> Say {
    json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id()))
}

#[tokio::test]
async fn a_call_that_is_held_gets_early_headers_and_a_comment_and_later_its_answer() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let asked = Instant::now();
    let mut answer = client.call(7, "t").await;
    assert_eq!((answer.status, answer.kind()), (200, "text/event-stream"));
    let comment = answer.chunk().await.unwrap().unwrap();
    let waited = asked.elapsed();
    assert!(comment.starts_with(b":"), "{comment:?}");
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(15)).contains(&waited),
        "nothing is said at first, and something before a client gives up: {waited:?}"
    );
    let server = Server::ordinary_at(at, echo).await;
    let last = answer.event_json().await;
    assert!(last["id"] == 7 && last["result"].is_object(), "{last}");
    assert_eq!(answer.event().await, None);
    assert_eq!(server.seen(|seen| seen.method() == "tools/call").len(), 1);
}

#[tokio::test]
async fn before_that_a_call_that_is_held_may_still_get_another_status() {
    let server = Server::ordinary(echo).await;
    let world = World::before(&server).await;
    let client = world.opened().await;
    let at = server.kill().await;
    let asking = tokio::spawn(async move { client.call(7, "t").await });
    until("the call is held", || world.keeper.report("x").unwrap().waiting == 1).await;
    let _server = Server::start_at(at, |_| async {
        let mut said = say(401, "text/plain", "sign in");
        said.headers_mut().insert("www-authenticate", "Bearer realm=\"r\"".parse().unwrap());
        said
    })
    .await;
    let answer = asking.await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"r\"");
    assert_eq!(answer.text().await, "sign in");
}
