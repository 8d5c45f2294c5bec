//! `--tell`: inside the client it says what `relatch status NAME` says outside.

use serde_json::{Value, json};

use crate::stage::{self, Home, Piped, Serve, until};

/// The story word by word; every span of time is the same word.
fn words(story: &str) -> Vec<String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let span = |word: &str| word == "<1s" || word.strip_suffix(['s', 'm', 'h', 'd']).is_some_and(number);
    let mut words: Vec<String> = Vec::new();
    for word in story.split_whitespace() {
        let bare = word.strip_suffix([':', '.', ',']).unwrap_or(word);
        words.push(if span(bare) { "…".to_owned() } else { word.to_owned() });
    }
    // `1m 5s` is one span.
    words.dedup_by(|b, a| a == "…" && b == "…");
    words
}

fn asked() -> Value {
    json!({"name": "relatch_status", "arguments": {}})
}

/// Waits until both say the same in this state: either may see the next thing first.
fn agree(home: &Home, name: &str, health: &str, mut ask: impl FnMut() -> Value) -> Value {
    until(&format!("inside and outside agree that `{name}` is {health}"), || {
        let answer = ask();
        let result = &answer["result"];
        let inside = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let (_, outside, err) = home.typed(&["status", name]);
        assert_eq!(err, "");
        let same =
            words(inside) == words(&outside) && result["structuredContent"] == home.server_status(name);
        (same && result["structuredContent"]["health"] == health).then(|| answer.clone())
    })
}

#[test]
fn inside_the_client_the_story_is_the_one_that_status_prints() {
    let mut files = stage::echo();
    let home = Home::new();
    let mut client = Piped::start(&home, &files.url(), &["--name", "files", "--tell"]);
    let opened = client.initialize();
    assert_eq!(opened["result"]["capabilities"]["logging"], json!({}));
    let tools = client.ask(1, "tools/list", json!({}));
    let tools = tools["result"]["tools"].as_array().unwrap().clone();
    assert_eq!((tools.len(), &tools[1]["name"]), (2, &json!("relatch_status")));
    assert_eq!(tools[1]["outputSchema"]["properties"]["health"]["type"], "string");
    client.call(2);
    let mut id = 2;
    let mut ask = |client: &mut Piped| {
        id += 1;
        client.ask(id, "tools/call", asked())
    };
    let answer = agree(&home, "files", "healthy", || ask(&mut client));
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().starts_with("files  ✓ healthy for "));
    files.stop();
    client.send(&stage::call(1_000));
    let answer = agree(&home, "files", "down", || ask(&mut client));
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("ECONNREFUSED"), "{answer}");
    files.start();
    client.answer(1_000);
    agree(&home, "files", "healthy", || ask(&mut client));
    assert!(!files.got().iter().any(|got| got.body.contains("relatch_status")));
}

#[test]
fn through_serve_a_client_is_told_of_its_own_server_and_its_own_session() {
    let (files, gmail) = (stage::echo(), stage::echo());
    let home = Home::new();
    let serve = Serve::start(
        &home,
        &[&format!("files={}", files.url()), &format!("gmail={}", gmail.url()), "--tell"],
    );
    let (mine, other) = (serve.session("files"), serve.session("gmail"));
    let ask = |name: &str, session: &str| {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked()});
        serve.post(name, Some(session), &[], &message).message()
    };
    agree(&home, "files", "healthy", || ask("files", &mine));
    agree(&home, "gmail", "healthy", || ask("gmail", &other));
    let _second = serve.session("files");
    let answer = ask("files", &mine);
    let result = &answer["result"];
    let sessions = result["structuredContent"]["sessions"].as_array().unwrap().clone();
    assert_eq!((sessions.len(), &sessions[0]["id"]), (1, &json!(mine[..8])));
    assert!(
        result["content"][0]["text"]
            .as_str()
            .unwrap()
            .ends_with("\n  1 more session is shown by `relatch status files`\n")
    );
}
