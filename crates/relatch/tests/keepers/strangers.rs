//! Keepers that are dead or another version, names that nobody has, tokens that are wrong: what is said of them, and that
//! the rest is shown all the same.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use serde_json::{Value, json};

use crate::stage::{self, Home, Serve, until};

/// A keeper of another version: it answers every question with this line.
struct Foreign {
    pid: u32,
}

impl Foreign {
    fn answers(home: &Home, line: &Value) -> Foreign {
        // A process id that no process has.
        let pid = 4_194_305;
        let listener = UnixListener::bind(home.run_dir().join(format!("{pid}.sock"))).unwrap();
        let line = format!("{line}\n");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut asked = String::new();
                let _ = BufReader::new(&stream).read_line(&mut asked);
                let _ = stream.write_all(line.as_bytes());
            }
        });
        Foreign { pid }
    }
}

/// The status that this version would write, of another one.
fn status_of_another(serve: &Serve, home: &Home, version: &str) -> Value {
    let mut keeper = home.status()["keepers"][0].clone();
    assert_eq!(keeper["pid"], serve.program.pid());
    keeper["version"] = json!(version);
    keeper["pid"] = json!(4_194_305);
    keeper["servers"][0]["name"] = json!("theirs");
    keeper
}

fn sockets(home: &Home) -> usize {
    let files = std::fs::read_dir(home.run_dir()).unwrap();
    files.filter(|file| file.as_ref().unwrap().file_type().unwrap().is_socket()).count()
}

#[test]
fn a_keeper_that_was_killed_is_no_keeper_and_its_socket_is_cleared_away() {
    let peer = stage::echo();
    for line in [&["status"][..], &["status", "x", "--json"], &["reconnect", "x"], &["page", "--print"]] {
        let home = Home::new();
        let mut serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
        serve.program.child.kill().unwrap();
        serve.program.child.wait().unwrap();
        assert_eq!(sockets(&home), 1, "it had no time to clear up");
        let (code, out, err) = home.typed(line);
        assert_eq!((code, out.as_str()), (3, ""), "{line:?}: {err}");
        assert!(err.starts_with("error: No keeper of this user runs\nhint: Start one with "), "{err}");
        assert_eq!(sockets(&home), 0, "{line:?}");
    }

    // Next to one that lives, and with its journal still to be read.
    let home = Home::new();
    let mut killed = Serve::start(&home, &[&format!("gone={}", peer.url())]);
    killed.session("gone");
    killed.program.child.kill().unwrap();
    killed.program.child.wait().unwrap();
    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let session = serve.session("x");
    serve.call("x", &session, 1);
    let (out, err) = until("it is shown as healthy", || {
        let (code, out, err) = home.typed(&["status"]);
        (code == 0).then_some((out, err))
    });
    assert_eq!((err.as_str(), out.lines().count()), ("", 2), "{out}");
    let (code, _, err) = home.typed(&["status", "gone"]);
    assert_eq!(code, 2);
    assert_eq!(err, "error: No keeper has a server called `gone`\nhint: The known ones are `x`\n");
    let (code, out, _) = home.typed(&["log", "gone"]);
    assert!(code == 0 && out.contains("  attached  "), "{out}");
    assert_eq!(sockets(&home), 1);
}

#[test]
fn a_socket_whose_process_id_is_another_program_by_now_is_cleared_away() {
    let peer = stage::echo();
    let home = Home::new();
    let _serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let left = home.run_dir().join(format!("{}.sock", std::process::id()));
    drop(UnixListener::bind(&left).unwrap());
    let (code, out, _) = home.typed(&["status"]);
    // It may be a keeper that begins.
    assert!(code == 1 && out.contains(&format!("keeper {}  ✗ broken off  ", std::process::id())), "{out}");
    assert!(Command::new("touch").args(["-d", "1 minute ago"]).arg(&left).status().unwrap().success());
    let (_, out, _) = home.typed(&["status"]);
    assert!(!left.exists() && !out.contains("keeper "), "{out}");
}

#[test]
fn a_keeper_of_another_version_is_named_with_its_version_and_the_rest_is_shown() {
    let peer = stage::echo();
    let home = Home::new();
    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let session = serve.session("x");
    serve.call("x", &session, 1);

    // Newer: it knows more. What it adds does no harm, and its own version is told.
    let mut newer = status_of_another(&serve, &home, "9.1.0");
    newer["added"] = json!({"a": 1});
    newer["servers"][0]["added"] = json!([]);
    let foreign = Foreign::answers(&home, &json!({"status": newer}));
    let out = until("all are shown as healthy", || {
        let (code, out, _) = home.typed(&["status"]);
        (code == 0).then_some(out)
    });
    assert!(out.contains("\ntheirs  ✓ healthy"), "{out}");
    assert!(home.typed(&["status", "theirs"]).1.contains(" relatch 9.1.0, "));
    std::fs::remove_file(home.run_dir().join(format!("{}.sock", foreign.pid))).unwrap();

    // Newer with a word that nobody here knows, and older without what is asked for here.
    let mut unknown = newer.clone();
    unknown["servers"][0]["health"] = json!("enlightened");
    let mut older = status_of_another(&serve, &home, "0.0.9");
    older["servers"][0].as_object_mut().unwrap().remove("totals");
    for (answer, version, cause) in
        [(unknown, "9.1.0", "unknown variant `enlightened`"), (older, "0.0.9", "missing field `totals`")]
    {
        let foreign = Foreign::answers(&home, &json!({"status": answer}));
        let pid = foreign.pid;
        let own = env!("CARGO_PKG_VERSION");
        let said = format!(
            "process {pid} runs relatch {version}, and this is relatch {own}, which can't read its answer: {cause}"
        );
        // It may just be asking whether a connection that closed says anything.
        let (code, out, err) = until("the rest is shown as healthy", || {
            Some(home.typed(&["status"])).filter(|(_, out, _)| out.contains("\nx     ✓ healthy"))
        });
        assert_eq!((code, err.as_str()), (1, ""));
        assert!(out.contains(&format!("keeper {pid}  ? unread  {said}")), "{out}");
        let status = home.status();
        assert_eq!(status["keepers"].as_array().map(Vec::len), Some(1));
        let told = &status["unanswered"][0];
        assert_eq!(
            (&told["pid"], &told["version"], &told["how"]),
            (&json!(pid), &json!(version), &json!("unread")),
            "{told}"
        );
        // One that is well is not all: the other keeper may have one of that name.
        let (code, out, _) = home.typed(&["status", "x"]);
        assert!(code == 1 && out.starts_with("x  ✓ healthy") && out.contains(&said), "{out}");
        let (code, out, err) = home.typed(&["status", "theirs"]);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(
            err.starts_with("error: No keeper that answers has a server called `theirs`\n  cause: "),
            "{err}"
        );
        assert!(err.contains(&said), "{err}");
        let (code, out, err) = home.typed(&["log", "x"]);
        assert!(code == 0 && out.contains("  attached  ") && err.contains(&said), "{out}{err}");
        let (code, out, _) = home.typed(&["page", "x", "--print"]);
        assert!(code == 0 && out.starts_with("http://"), "{out}");
        let (code, out, err) = home.typed(&["reconnect", "x"]);
        assert!(code == 1 && out.starts_with("x  relatching 1 session"), "{out}");
        assert!(
            err.starts_with("error: Not every keeper could be asked\n  cause: process 4194305 "),
            "{err}"
        );
        std::fs::remove_file(home.run_dir().join(format!("{pid}.sock"))).unwrap();
    }
}

#[test]
fn a_name_that_nobody_has_is_answered_with_the_known_ones_whatever_is_asked() {
    let peer = stage::echo();
    let home = Home::new();
    let _serve = Serve::start(&home, &[&format!("gmail={}", peer.url()), &format!("linear={}", peer.url())]);
    for line in [
        &["status", "gmial"][..],
        &["status", "gmial", "--json"],
        &["log", "gmial"],
        &["reconnect", "gmial"],
        &["page", "gmial", "--print"],
    ] {
        let (code, out, err) = home.typed(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert_eq!(
            err, "error: No keeper has a server called `gmial`\nhint: The known ones are `gmail`, `linear`\n",
            "{line:?}"
        );
    }
    assert!(peer.got().is_empty());
}

#[test]
fn a_wrong_token_opens_nothing_and_the_answer_says_which_header_is_meant() {
    let peer = stage::echo();
    let home = Home::new();
    let serve = Serve::start(&home, &[&format!("x={}", peer.url())]);
    let wrong = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let initialize = json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": stage::handshake()});
    let typed = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
    let bearer = format!("Bearer {wrong}");
    for given in
        [None, Some(("Relatch-Token", wrong)), Some(("Relatch-Token", "")), Some(("Authorization", &*bearer))]
    {
        for (method, path, body) in [
            ("POST", "/x/mcp", initialize.to_string()),
            ("GET", "/x/mcp", String::new()),
            ("DELETE", "/x/mcp", String::new()),
            ("GET", "/api/status", String::new()),
            ("GET", "/api/events", String::new()),
            ("GET", "/api/explain", String::new()),
            ("POST", "/api/reconnect?name=x", String::new()),
            ("GET", "/metrics", String::new()),
            ("GET", "/", String::new()),
            ("GET", "/open/0123456789abcdef", String::new()),
        ] {
            let headers: Vec<(&str, &str)> = typed.iter().copied().chain(given).collect();
            let answer = serve.http(method, path, &headers, &body);
            assert_eq!(answer.status, 403, "{method} {path} with {given:?}: {answer:?}");
            let named = match path {
                "/" | "/open/0123456789abcdef" => "relatch page",
                _ => "Relatch-Token",
            };
            assert!(answer.body.contains(named), "{method} {path}: {}", answer.body);
            for secret in [wrong, serve.token.as_deref().unwrap(), "scripted", &peer.address.to_string()] {
                assert!(!answer.body.contains(secret), "{method} {path} tells {secret}: {}", answer.body);
            }
        }
    }
    assert!(peer.got().is_empty(), "nothing of it reached the server");
    // What says whether it is alive is nobody's secret.
    for path in ["/livez", "/readyz"] {
        assert_eq!(serve.http("GET", path, &[("Relatch-Token", wrong)], "").status, 200, "{path}");
    }
    let (code, out, _) = home.typed(&["status", "--json"]);
    assert_eq!(code, 1, "nobody has asked for anything: {out}");
}
