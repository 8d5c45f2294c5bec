//! The journal as a person reads it afterwards: of keepers that were killed, of several at once, and while they come
//! and go.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;

use serde_json::json;

use crate::stage::{self, Home, PATIENCE, Piped, Program, Real, Serve, until};

/// The lines without what differs from run to run: times of day, spans, ports.
fn steady(text: &str, port: u16) -> String {
    let mut lines = Vec::new();
    for line in text.replace(&port.to_string(), "PORT").lines() {
        let clock = line.as_bytes().get(2) == Some(&b':') && line.as_bytes().get(8) == Some(&b'.');
        assert!(clock, "no time of day: {line}");
        let mut words: Vec<String> = line[12..].split(' ').map(str::to_owned).collect();
        for at in 1..words.len() {
            let unit = words[at].trim_end_matches([',', ':', ')', '(']).to_owned();
            let number = words[at - 1].bytes().all(|c| c.is_ascii_digit() || c == b'.');
            if matches!(unit.as_str(), "ms" | "s") && number && !words[at - 1].is_empty() {
                words[at - 1] = "…".to_owned();
                words[at] = words[at].replace(&unit, "ms");
            }
        }
        // How often a server that is away was asked is not this test's business.
        let line = words.join(" ");
        lines.push(line.split(", at try ").next().unwrap_or_default().to_owned());
    }
    lines.join("\n")
}

#[test]
fn a_keeper_that_was_killed_left_the_story_of_its_last_hour() {
    let home = Home::new();
    let server = Real::start(&home, 0);
    let port = server.port;
    let mut client = Piped::start(&home, &server.url(), &["--name", "gmail"]);
    client.initialize();
    let write = |id: i64| {
        let params = json!({"name": "write", "arguments": {"note": "a"}});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    };
    client.send(&write(1));
    assert!(client.answer(1).get("result").is_some());
    // Away while a call waits, then back without the session.
    server.kill();
    until("it is down", || (home.server_status("gmail")["health"] == "down").then_some(()));
    client.send(&write(2));
    until("the call is held", || (home.server_status("gmail")["waiting"] == 1).then_some(()));
    let server = Real::start(&home, port);
    assert!(client.answer(2).get("result").is_some());
    until("it is written", || home.typed(&["log"]).1.contains("  relatched  ").then_some(()));
    client.program.child.kill().unwrap();
    client.program.child.wait().unwrap();

    let (code, out, err) = home.typed(&["log"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let story = steady(&out, port);
    // A probe may see the loss before the call does; the kinds are the same.
    let told: Vec<&str> = story.lines().collect();
    assert_eq!(told[0], "  gmail     attached             stage 1");
    let has = |line: &str| assert!(told.contains(&line), "no `{line}` in\n{story}");
    has("  gmail     away                 connection refused (ECONNREFUSED 127.0.0.1:PORT)");
    has("  gmail     held                 `write` waits: connection refused (ECONNREFUSED 127.0.0.1:PORT)");
    has("  gmail     lost                 the session is gone: HTTP 404 to `ping` (generation 1)");
    has("  gmail     back                 after … ms");
    has("  gmail     relatched            a new session after … ms (generation 2)");

    // From it somebody can answer what happened at a certain time.
    let all = home.typed(&["log", "--json"]).1;
    let entries: Vec<serde_json::Value> = all.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(entries.iter().all(|entry| entry["pid"] == client.program.pid() && entry["upstream"] == "gmail"));
    let at = |what: &str| {
        let entry = entries.iter().find(|entry| entry["what"] == what).unwrap();
        entry["at"].as_str().unwrap().to_owned()
    };
    let (code, out, _) = home.typed(&["log", "gmail", "--since", &at("away"), "--until", &at("relatched")]);
    assert_eq!(code, 0);
    assert!(
        out.contains("  away  ") && !out.contains("  attached  ") && !out.contains("  relatched  "),
        "{out}"
    );
    let (code, _, err) = home.typed(&["log", "gmial"]);
    assert_eq!(code, 2);
    assert_eq!(err, "error: No keeper has a server called `gmial`\nhint: The known ones are `gmail`\n");
    let (code, out, err) = home.typed(&["log", "--since", "2019-01-01", "--until", "2019-01-02"]);
    assert_eq!((code, out.as_str()), (0, ""), "a quiet day is no failure");
    assert!(err.starts_with("(nothing happened then; the oldest entry is of 2"), "{err}");
    let (code, out, err) = home.typed(&["log", "--json", "--since", "2019-01-01", "--until", "2019-01-02"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let (code, _, err) = home.typed(&["log", "--since", "10m", "--until", "2019-01-02"]);
    assert_eq!((code, err.as_str()), (2, "error: `--until` is before `--since`\n"));
    drop(server);
}

#[test]
fn a_dozen_keepers_at_once_and_their_successors_share_one_folder() {
    let home = Home::new();
    let peer = stage::echo();
    for round in 0..2 {
        let mut clients: Vec<Piped> = (0..12)
            .map(|n| Piped::start(&home, &peer.url(), &["--name", &format!("n{n}-{round}")]))
            .collect();
        for client in &mut clients {
            client.initialize();
        }
        // Half of them end as they should, the others are killed.
        for (n, mut client) in clients.into_iter().enumerate() {
            if n % 2 == 0 {
                assert!(client.close().0.success());
            } else {
                let name = format!("  n{n}-{round}  ");
                until("it is written", || home.typed(&["log"]).1.contains(&name).then_some(()));
                client.program.child.kill().unwrap();
                client.program.child.wait().unwrap();
            }
        }
    }
    let (code, out, err) = home.typed(&["log"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.matches("  attached  ").count(), 24, "{out}");
    assert_eq!(out.matches("  left  ").count(), 12, "{out}");
    let mut times: Vec<&str> = out.lines().map(|line| &line[..12]).collect();
    times.sort_unstable();
    assert!(out.lines().map(|line| &line[..12]).eq(times), "in the order of time");
    // The second dozen took over the files of the first.
    let files = std::fs::read_dir(home.state_dir().join("relatch/journal")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files.iter().filter(|name| name.ends_with(".jsonl")).count(), 12, "{files:?}");
}

#[test]
fn a_followed_log_goes_on_with_keepers_that_come_later() {
    let home = Home::new();
    let peer = stage::echo();
    // Nobody is there yet.
    let mut follower = Program::spawn(home.relatch(&["log", "--follow"]).stdout(Stdio::piped()));
    let output = BufReader::new(follower.child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
    });
    let next = || lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line comes"));
    let mut first = Piped::start(&home, &peer.url(), &["--name", "first"]);
    first.initialize();
    assert!(next().contains("  first     attached  "));
    // A keeper with a folder of its own says where that is.
    let own = home.path().join("own").display().to_string();
    let serve = Serve::start(&home, &[&format!("second={}", peer.url()), "--state-dir", &own]);
    serve.session("second");
    assert!(next().contains("  second    attached  "));
    first.close();
    assert!(next().contains("  first     left                 stage 1, after "));
    // That folder is read without its keeper, too.
    drop(serve);
    let (code, out, _) = home.typed(&["log", "second", "--state-dir", &own]);
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
}

#[test]
fn a_folder_that_can_not_be_written_harms_no_connection_and_is_told() {
    let home = Home::new();
    let peer = stage::echo();
    std::fs::create_dir_all(home.state_dir().join("relatch")).unwrap();
    std::fs::write(home.state_dir().join("relatch/journal"), "in the way").unwrap();
    let mut client = Piped::start(&home, &peer.url(), &["--name", "x"]);
    client.initialize();
    assert!(client.call(1).get("result").is_some());
    let fault = until("the fault is told", || {
        let status = home.status();
        status["keepers"][0]["journal"]["fault"].as_str().map(str::to_owned)
    });
    assert!(fault.contains("in memory only"), "{fault}");
    let (code, out, _) = home.typed(&["status"]);
    assert_eq!(code, 0, "the connection is healthy all the same");
    assert!(out.contains("is not kept whole: "), "{out}");
    // While it runs, its memory is asked.
    let (code, out, _) = home.typed(&["log"]);
    assert_eq!(code, 0);
    assert!(out.contains("  x         attached             stage 1"), "{out}");
    assert_eq!(client.close().1, "", "one warning, for those who asked for the log");
}
