//! Hooks, as they are really run and posted: told of an outage and of its end, and harmless when they fail or hang.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use serde_json::Value;

use crate::stage::{self, Home, PATIENCE, Peer, Piped, Serve, reply, until};

/// A program that keeps what it is told in a file, the JSON and two variables on one line.
fn notebook(home: &Home) -> (String, std::path::PathBuf) {
    let (script, notes) = (home.path().join("notify.sh"), home.path().join("notes"));
    let text =
        "read -r event; printf '%s %s %s\\n' \"$RELATCH_EVENT\" \"$RELATCH_UPSTREAM\" \"$event\" >> \"$1\"\n";
    std::fs::write(&script, text).unwrap();
    (format!("sh '{}' '{}' --key s3cret", script.display(), notes.display()), notes)
}

#[test]
fn a_command_and_an_address_hear_of_an_outage_and_of_its_end() {
    let home = Home::new();
    let mut server = stage::echo();
    let (command, notes) = notebook(&home);
    // Its first answer is that it can't now.
    let tries = AtomicU32::new(0);
    let hook = Peer::new(move |_, stream| {
        let status = if tries.fetch_add(1, Ordering::SeqCst) == 0 { "503 Busy" } else { "204 No Content" };
        reply(stream, status, "", "");
    });
    let webhook = format!("http://{}/T0/s3cret", hook.address);
    let url = format!("{}?key=s3cret", server.url());
    let line =
        ["--name", "gmail", "--on-change", &command, "--webhook", &webhook, "--header", "X-Key: s3cret"];
    let mut client = Piped::start(&home, &url, &line);
    client.initialize();
    client.call(1);
    server.stop();
    client.send(&stage::call(2));
    let noted = |count: usize| {
        let text = std::fs::read_to_string(&notes).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    };
    let lines = until("the command is told", || noted(1));
    let down = lines[0].strip_prefix("down gmail ").unwrap_or_else(|| panic!("{lines:?}"));
    let down: Value = serde_json::from_str(down).unwrap();
    assert_eq!((&down["health"], &down["event"]), (&"down".into(), &"down".into()));
    assert!(down["reason"].as_str().unwrap().contains("ECONNREFUSED"), "{down}");
    assert_eq!(down["keeper"]["pid"], client.program.pid());
    server.start();
    assert!(client.answer(2).get("result").is_some());
    let lines = until("the command is told of the end", || noted(2));
    let back: Value = serde_json::from_str(lines[1].strip_prefix("recovered gmail ").unwrap()).unwrap();
    assert!(back["down_ms"].as_u64().unwrap() >= 5_000, "{back}");
    assert_eq!(back["down_since"], down["down_since"]);

    // The address got the same, the first of it at a second try.
    let got = until("the address is told", || {
        let got = hook.got();
        (got.len() >= 3).then_some(got)
    });
    let bodies: Vec<Value> = got.iter().map(stage::Got::message).collect();
    assert_eq!(bodies, [down.clone(), down, back]);
    assert!(got.iter().all(|got| got.method == "POST" && got.target == "/T0/s3cret"));
    assert_eq!(got[0].header("content-type"), Some("application/json"));
    assert!(bodies.iter().all(|body| !body.to_string().contains("s3cret")), "{bodies:?}");
    let log = home.typed(&["log"]).1;
    assert!(!log.contains("hook-failed") && !log.contains("s3cret"), "{log}");
}

#[test]
fn hooks_that_fail_or_hang_harm_no_connection_and_are_in_the_journal() {
    let home = Home::new();
    let (mut goes, stays) = (stage::echo(), stage::echo());
    let pid = home.path().join("pid");
    let script = home.path().join("hang.sh");
    std::fs::write(&script, "echo $$ > \"$1\"; sleep 600\n").unwrap();
    let command = format!("sh '{}' '{}'", script.display(), pid.display());
    let elsewhere = Peer::new(|_, stream| {
        reply(stream, "302 Found", "Location: http://127.0.0.1:9/\r\n", "");
    });
    let webhook = format!("http://{}/hook", elsewhere.address);
    let line = [
        &format!("goes={}", goes.url())[..],
        &format!("stays={}", stays.url()),
        "--on-change",
        &command,
        "--webhook",
        &webhook,
    ];
    let serve = Serve::start(&home, &line);
    let (gone, there) = (serve.session("goes"), serve.session("stays"));
    serve.call("goes", &gone, 1);
    goes.stop();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| serve.call("goes", &gone, 2));
        // While the hook hangs, calls are answered.
        let hanging = until("the command runs", || {
            std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'))
        });
        for id in 2..20 {
            assert!(serve.call("stays", &there, id).get("result").is_some());
        }
        goes.start();
        assert!(held.join().unwrap().get("result").is_some());
        let log = until("the hang is told", || {
            let log = home.typed(&["log", "goes"]).1;
            log.contains("was ended").then_some(log)
        });
        assert!(log.contains("hook-failed          `sh`: it took longer than 10 s and was ended"), "{log}");
        let refused = format!(
            "hook-failed          `http://{}`: it answered 302, and is not followed",
            elsewhere.address
        );
        assert!(log.contains(&refused), "{log}");
        assert!(!std::path::Path::new(&format!("/proc/{}", hanging.trim())).exists(), "it is gone");
    });
}

#[test]
fn what_a_hook_has_started_ends_with_its_keeper() {
    let home = Home::new();
    let script = home.path().join("hang.sh");
    // What it starts holds the pipe open for as long as it lives.
    std::fs::write(&script, "exec 9> \"$1\"; sleep 600 & echo runs >&9; wait\n").unwrap();
    let pipe = home.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let command = format!("sh '{}' '{}'", script.display(), pipe.display());
    let mut server = stage::echo();
    let mut serve =
        Serve::start(&home, &[&format!("gmail={}", server.url()), "--on-change", &command, "--hold", "1s"]);
    let session = serve.session("gmail");
    serve.call("gmail", &session, 1);
    server.stop();
    let (tell, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(File::open(pipe).unwrap()).lines().map_while(Result::ok);
        tell.send(lines.next()).unwrap();
        tell.send(lines.next()).unwrap();
    });
    assert!(serve.call("gmail", &session, 2).get("error").is_some());
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap().as_deref(), Some("runs"));
    serve.program.signal("TERM");
    serve.program.ended();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(None), "nobody holds the pipe open any more");
}

#[test]
fn a_hook_that_can_not_be_is_refused_before_anything_starts() {
    let home = Home::new();
    for (line, said) in [
        (["--on-change", "'notify"], "a `'` is not closed"),
        (["--on-change", " "], "it names no program"),
        (
            ["--webhook", "http://hooks.example/s3cret"],
            "`http://hooks.example` is neither `https` nor on this machine",
        ),
        (["--webhook", "hooks"], "The address of `--webhook` can't be used"),
    ] {
        let line = ["stdio", "http://127.0.0.1:9/mcp", line[0], line[1]];
        let (code, out, err) = home.typed(&line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {err}");
        assert!(err.contains(said) && !err.contains("s3cret"), "{line:?}: {err}");
    }
}
