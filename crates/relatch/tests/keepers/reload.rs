//! The configuration becomes another one while a keeper is at work, and nobody loses anything by it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::stage::{self, Home, Peer, Piped, Serve, call, reply_json, until};

/// A file in a home, and how it is written.
struct File {
    path: PathBuf,
}

impl File {
    fn new(home: &Home, text: &str) -> File {
        let path = home.path().join("relatch.toml");
        std::fs::write(&path, text).unwrap();
        File { path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn becomes(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }
}

/// A server whose calls are answered when the test says so.
fn patient() -> (Peer, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let peer = stage::server(move |got, stream| {
        let _ = wait.lock().unwrap().recv_timeout(stage::PATIENCE);
        let result = json!({"content": [{"type": "text", "text": "done"}]});
        reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": got.message()["id"], "result": result}));
    });
    (peer, go)
}

fn calls(peer: &Peer) -> Vec<stage::Got> {
    peer.got().into_iter().filter(|got| got.message()["method"] == "tools/call").collect()
}

fn opened(peer: &Peer) -> usize {
    peer.got().iter().filter(|got| got.message()["method"] == "initialize").count()
}

fn reload(home: &Home) -> String {
    let (code, out, err) = home.typed(&["reload"]);
    assert_eq!(code, 0, "{out}{err}");
    out
}

fn metrics(serve: &Serve) -> String {
    let token = format!("Bearer {}", serve.token.as_deref().unwrap());
    serve.http("GET", "/metrics", &[("Authorization", &token)], "").body
}

#[test]
fn a_call_under_way_is_not_disturbed_while_everything_around_it_changes() {
    let home = Home::new();
    let ((mine, go), old, new) = (patient(), stage::echo(), stage::echo());
    let section =
        |name: &str, peer: &Peer, more: &str| format!("[server.{name}]\nurl = \"{}\"\n{more}", peer.url());
    let file = File::new(
        &home,
        &(section("mine", &mine, "headers = { X-Key = \"one\" }\n") + &section("old", &old, "")),
    );
    let serve = Serve::start(&home, &["--config", file.path()]);
    let session = serve.session("mine");
    let other = serve.session("old");
    let mut headers =
        vec![("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
    headers
        .extend([("Mcp-Session-Id", session.as_str()), ("Relatch-Token", serve.token.as_deref().unwrap())]);
    std::thread::scope(|scope| {
        let running =
            scope.spawn(|| serve.http("POST", "/mine/mcp", &headers, &call(1).to_string()).message());
        until("the call is at the server", || (calls(&mine).len() == 1).then_some(()));

        file.becomes(
            &(section("mine", &mine, "headers = { X-Key = \"two\" }\nhold = \"5m\"\n")
                + &section("new", &new, "")),
        );
        let said = reload(&home);
        for line in ["  added    new\n", "  changed  mine: headers, hold\n", "  removed  old\n"] {
            assert!(said.contains(line), "{said}");
        }
        go.send(()).unwrap();
        assert_eq!(running.join().unwrap()["result"]["content"][0]["text"], "done");
    });
    // The same session goes on, with the new header.
    go.send(()).unwrap();
    assert!(serve.call("mine", &session, 2).get("result").is_some());
    assert_eq!(opened(&mine), 1);
    let sent: Vec<_> = calls(&mine).iter().map(|got| got.header("x-key").unwrap().to_owned()).collect();
    assert_eq!(sent, ["one", "two"]);
    // The new one is there, the old one is not, and says so as the specification has it.
    let third = serve.session("new");
    assert!(serve.call("new", &third, 1).get("result").is_some());
    assert_eq!(serve.post("old", Some(&other), &[], &call(1)).status, 404);
    until("the old session is ended upstream", || {
        old.got().iter().any(|got| got.method == "DELETE").then_some(())
    });

    // Every view follows.
    let names: Vec<String> = home.status()["keepers"][0]["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["mine", "new"]);
    let metrics = metrics(&serve);
    assert!(metrics.contains("\"new\"") && !metrics.contains("\"old\""), "{metrics}");
    let token = ("Relatch-Token", serve.token.as_deref().unwrap());
    let history: Value =
        serde_json::from_str(&serve.http("GET", "/api/status", &[token], "").body).unwrap_or_default();
    assert!(history.to_string().contains("\"new\"") && !history.to_string().contains("\"old\""), "{history}");
    let (_, log, _) = home.typed(&["log"]);
    for line in ["mine", "old       removed", "configured           changed: headers, hold"] {
        assert!(log.contains(line), "{log}");
    }
    assert!(log.contains("added"), "{log}");
}

#[test]
fn at_another_address_the_session_goes_on_and_no_secret_of_the_former_goes_along() {
    let home = Home::new();
    let (former, present) = (stage::echo(), stage::echo());
    let file = File::new(
        &home,
        &format!("[server.a]\nurl = \"{}\"\nheaders = {{ X-Key = \"former\" }}\n", former.url()),
    );
    let serve = Serve::start(&home, &["--config", file.path()]);
    let session = serve.session("a");
    assert!(serve.call("a", &session, 1).get("result").is_some());

    file.becomes(&format!("[server.a]\nurl = \"{}\"\nheaders = {{ X-Key = \"present\" }}\n", present.url()));
    let said = reload(&home);
    assert!(
        said.contains(&format!("changed  a: url {} → {}, headers", former.url(), present.url())),
        "{said}"
    );
    assert!(serve.call("a", &session, 2).get("result").is_some());
    assert_eq!((opened(&present), calls(&present).len(), calls(&former).len()), (1, 1, 1));
    until("the former session is ended where it was", || {
        former.got().iter().any(|got| got.method == "DELETE").then_some(())
    });
    assert!(former.got().iter().all(|got| got.header("x-key") == Some("former")));
    assert!(present.got().iter().all(|got| got.header("x-key") == Some("present") && got.method != "DELETE"));
    assert_eq!(home.server_status("a")["url"], present.url());
}

#[test]
fn a_faulty_file_changes_nothing_and_everybody_hears_why() {
    let home = Home::new();
    let peer = stage::echo();
    let good = format!("[server.a]\nurl = \"{}\"\n", peer.url());
    let file = File::new(&home, &good);
    let serve = Serve::start(&home, &["--config", file.path()]);
    let session = serve.session("a");
    file.becomes("[server.b]\nurl = \"http://h/\"\nhodl = \"45s\"\nheaders = { A = \"${MISSING}\" }\n");
    let (code, out, err) = home.typed(&["reload"]);
    assert_eq!((code, out.as_str()), (2, ""));
    for said in
        ["relatch.toml:3:1", "Did you mean `hold`?", "no variable `MISSING`", "The keeper goes on as it was"]
    {
        assert!(err.contains(said), "{err}");
    }
    assert!(serve.call("a", &session, 1).get("result").is_some());
    let (_, log, _) = home.typed(&["log"]);
    assert!(
        log.contains(
            "reload-refused       line 3: relatch knows no `hodl` in `[server.b]`, and one fault more"
        ),
        "{log}"
    );
    // By a signal, the keeper's own log has it.
    serve.program.signal("HUP");
    until("it is said", || serve.program.said().contains("Did you mean `hold`?").then_some(()));

    file.becomes(&format!("{good}hold = \"1m\"\n"));
    serve.program.signal("HUP");
    until("it is applied", || serve.program.said().contains("changed  a: hold").then_some(()));
    assert!(serve.call("a", &session, 2).get("result").is_some());
    assert_eq!(opened(&peer), 1);
}

#[test]
fn what_cannot_change_is_named_and_the_rest_is_applied() {
    let home = Home::new();
    let peer = stage::echo();
    let file = File::new(&home, &format!("[server.a]\nurl = \"{}\"\n", peer.url()));
    let serve = Serve::start(
        &home,
        &["--config", file.path(), "--state-dir", home.path().join("s").to_str().unwrap()],
    );
    file.becomes(&format!(
        "[serve]\nno_token = true\nallow_host = [\"x\"]\nlisten = \"127.0.0.1:1\"\nstate_dir = \"/nowhere\"\n[server.a]\nurl = \"{}\"\nstateful = true\n",
        peer.url()
    ));
    let said = reload(&home);
    assert!(said.contains("changed  a: stateful"), "{said}");
    // What was typed goes before the file, then as now.
    assert!(!said.contains("listen") && !said.contains("state_dir"), "{said}");
    for line in
        ["kept     no_token stays `false` until the keeper is started again", "kept     allow_host stays"]
    {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(serve.http("POST", "/a/mcp", &[], "{}").status, 403, "the token is asked for as before");
    assert!(reload(&home).contains("kept     no_token"), "and it is said again");
}

#[test]
fn running_calls_of_a_server_that_is_taken_out_are_answered_and_new_ones_are_not_taken() {
    let home = Home::new();
    let ((leaving, go), stays) = (patient(), stage::echo());
    let stays = format!("[server.stays]\nurl = \"{}\"\n", stays.url());
    let file = File::new(&home, &format!("{stays}[server.leaving]\nurl = \"{}\"\n", leaving.url()));
    let serve = Serve::start(&home, &["--config", file.path()]);
    let session = serve.session("leaving");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| serve.call("leaving", &session, 1));
        until("the call is at the server", || (calls(&leaving).len() == 1).then_some(()));
        file.becomes(&stays);
        assert!(reload(&home).contains("removed  leaving"));
        assert_eq!(serve.post("leaving", Some(&session), &[], &call(2)).status, 404);
        go.send(()).unwrap();
        assert!(running.join().unwrap().get("result").is_some());
    });
    until("its session ends upstream", || {
        leaving.got().iter().any(|got| got.method == "DELETE").then_some(())
    });
    assert_eq!(calls(&leaving).len(), 1);
    // It may come back, and begins anew.
    file.becomes(&format!("{stays}[server.leaving]\nurl = \"{}\"\n", leaving.url()));
    assert!(reload(&home).contains("added    leaving"));
    assert_ne!(serve.session("leaving"), session);
}

#[test]
fn a_stdio_keeper_of_the_file_reloads_and_one_of_an_address_has_nothing_to_reload() {
    let home = Home::new();
    let (former, present) = (stage::echo(), stage::echo());
    let file = File::new(&home, &format!("[server.a]\nurl = \"{}\"\n", former.url()));
    let mut piped = Piped::start(&home, "a", &["--config", file.path()]);
    piped.initialize();
    assert!(piped.call(1).get("result").is_some());
    file.becomes(&format!("[server.a]\nurl = \"{}\"\n", present.url()));
    reload(&home);
    assert!(piped.call(2).get("result").is_some());
    assert_eq!((calls(&former).len(), calls(&present).len()), (1, 1));
    // Its only server can't be taken out.
    file.becomes("");
    let (code, _, err) = home.typed(&["reload"]);
    assert_eq!(code, 2);
    assert!(err.contains("no server of the configuration file"), "{err}");
    assert!(piped.call(3).get("result").is_some());
    piped.close();

    // One that was told everything when it was started lives on, too: service managers send the signal to whatever they run.
    let serve = Serve::start(&home, &[&format!("x={}", present.url())]);
    serve.program.signal("HUP");
    until("it is said", || {
        serve.program.said().contains("no configuration file to read again").then_some(())
    });
    let mut piped = Piped::start(&home, &present.url(), &[]);
    piped.initialize();
    let (code, _, err) = home.typed(&["reload"]);
    assert_eq!(code, 1);
    assert!(err.contains("No running keeper reads a configuration file"), "{err}");
}

#[test]
fn hooks_follow_the_file() {
    let home = Home::new();
    let mut peer = stage::echo();
    let server = format!("[server.a]\nurl = \"{}\"\nhold = \"1s\"\n", peer.url());
    // Its handshake is given the usual time.
    let file = File::new(&home, &server.replace("hold = \"1s\"\n", ""));
    let serve = Serve::start(&home, &["--config", file.path()]);
    let session = serve.session("a");
    let told = home.path().join("told");
    let hook = format!("[hooks]\non_change = [\"sh\", \"-c\", \"cat >>'{}'\"]\n", told.display());
    file.becomes(&format!("{hook}{server}"));
    assert!(reload(&home).contains("changed  hooks"));
    peer.stop();
    serve.call("a", &session, 1);
    until("the hook is told", || {
        std::fs::read_to_string(Path::new(&told)).ok().filter(|text| text.contains("\"down\""))
    });
}

#[test]
fn add_and_remove_edit_the_file_and_the_keeper_that_reads_it_follows() {
    let home = Home::new();
    let (a, b) = (stage::echo(), stage::echo());
    let path = home.path().join(".config/relatch/relatch.toml");
    let (code, out, err) = home.typed(&["add", "a", &a.url()]);
    assert_eq!((code, out), (0, format!("`a` is in {}\n", path.display())));
    assert_eq!(err, "No running keeper reads this file. Run `relatch serve` to serve it\n");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap()) & 0o777, 0o600);

    let serve = Serve::start(&home, &[]);
    let session = serve.session("a");
    let line = ["add", "b", &b.url(), "--header", "X-Key: ${HOME}", "--hold", "90s", "--replay", "x=always"];
    let (code, out, err) = home.typed(&line);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("  added    b\n"), "{out}");
    let other = serve.session("b");
    assert!(serve.call("b", &other, 1).get("result").is_some());
    let home_dir = home.path().display().to_string();
    assert!(b.got().iter().all(|got| got.header("x-key") == Some(&home_dir)));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("hold = \"90s\"") && text.contains("\"${HOME}\""), "{text}");

    let (code, _, err) = home.typed(&["add", "b", &a.url()]);
    assert_eq!(code, 2);
    assert!(err.contains("has a server `b` already") && err.contains("`--replace`"), "{err}");
    let (code, out, _) = home.typed(&["add", "b", &a.url(), "--replace"]);
    assert_eq!(code, 0);
    assert!(out.contains("  changed  b: url"), "{out}");
    assert!(serve.call("b", &other, 2).get("result").is_some());

    let (code, out, _) = home.typed(&["remove", "b"]);
    assert_eq!(code, 0);
    assert!(out.contains("  removed  b\n"), "{out}");
    assert!(serve.call("a", &session, 1).get("result").is_some());
    // Another file is none of this keeper's business.
    let elsewhere = home.path().join("other.toml");
    let (code, out, err) = home.typed(&["add", "c", &a.url(), "--config", elsewhere.to_str().unwrap()]);
    assert_eq!((code, out.lines().count()), (0, 1));
    assert!(err.contains("No running keeper reads this file"), "{err}");

    // The last one may go, too; a file that has vanished is no wish to serve nothing.
    std::fs::rename(&path, &elsewhere).unwrap();
    let (code, _, err) = home.typed(&["reload"]);
    assert_eq!(code, 2);
    assert!(err.contains("is not there") && err.contains("The keeper goes on as it was"), "{err}");
    assert!(serve.call("a", &session, 2).get("result").is_some());
    std::fs::rename(&elsewhere, &path).unwrap();
    let (code, out, err) = home.typed(&["remove", "a"]);
    assert_eq!((code, out.contains("  removed  a\n")), (0, true), "{out}{err}");
    assert_eq!(serve.post("a", Some(&session), &[], &call(3)).status, 404);
}
