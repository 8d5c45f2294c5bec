//! What stands in `relatch.toml` is served, its secrets stay where they belong, and it can be asked about.

use serde_json::json;

use crate::stage::{self, Home, Piped, Serve};

/// Puts the usual file into this home.
fn write(home: &Home, text: &str) -> String {
    let path = home.path().join(".config/relatch/relatch.toml");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn serve_without_arguments_serves_the_file_and_shows_none_of_its_secrets() {
    let peer = stage::echo();
    let home = Home::new();
    write(
        &home,
        &format!(
            "[serve]\nlisten = \"127.0.0.1:0\"\n[server.one]\nurl = \"{}/${{KEY}}?k=${{KEY}}\"\nhold = \"2s\"\n\
             headers = {{ X-Key = \"a ${{KEY}}\", X-File = \"${{file:secret.txt}}\" }}\n\
             [server.two]\nurl = \"http://127.0.0.1:9/mcp\"\nhold = \"0s\"\n",
            peer.url()
        ),
    );
    std::fs::write(home.path().join(".config/relatch/secret.txt"), "S3CRET-file\n").unwrap();
    let mut command = home.relatch(&["serve"]);
    let mut serve = Serve::spawn(command.env("KEY", "S3CRET-env").env("RELATCH_LOG", "trace"));
    let session = serve.session("one");
    assert!(serve.call("one", &session, 1).get("result").is_some());
    let got = peer.got().into_iter().find(|got| got.message()["method"] == "tools/call").unwrap();
    assert_eq!(got.target, "/mcp/S3CRET-env?k=S3CRET-env");
    assert_eq!(got.header("x-key"), Some("a S3CRET-env"));
    assert_eq!(got.header("x-file"), Some("S3CRET-file"));

    // Trouble has the longest messages.
    drop(peer);
    let mut shown = serve.call("one", &session, 2).to_string();
    let status = home.server_status("one");
    assert!(status["url"].as_str().unwrap().ends_with("/mcp/${KEY}?k=…"), "{status}");
    for line in
        [&["status"][..], &["status", "one"], &["log"], &["config", "show"], &["config", "show", "--json"]]
    {
        let ended = home.relatch(line).env("KEY", "S3CRET-env").output().unwrap();
        shown += &String::from_utf8_lossy(&ended.stdout);
        shown += &String::from_utf8_lossy(&ended.stderr);
    }
    serve.program.signal("TERM");
    shown += &serve.program.ended().1;
    shown += &serve.printed;
    assert!(!shown.contains("S3CRET"), "{shown}");
    assert!(shown.contains("warning: `") && shown.contains("other users can read it"), "{shown}");
}

#[test]
fn stdio_takes_a_server_of_the_file_by_its_name() {
    let peer = stage::echo();
    let home = Home::new();
    // Another server's secret need not be there.
    write(
        &home,
        &format!(
            "[server.gmail]\nurl = \"{}\"\nheaders = {{ X-Key = \"${{KEY}}\", X-Own = \"file\" }}\n\
             [server.other]\nurl = \"http://h/${{MISSING}}\"\n",
            peer.url()
        ),
    );
    let mut command = home.relatch(&["stdio", "gmail", "--header", "x-own: typed"]);
    let mut piped = Piped::spawn(command.env("KEY", "k1"));
    piped.initialize();
    assert!(piped.call(1).get("result").is_some());
    let got = peer.got().into_iter().find(|got| got.message()["method"] == "tools/call").unwrap();
    assert_eq!((got.header("x-key"), got.header("x-own")), (Some("k1"), Some("typed")));
    assert!(home.server_status("gmail")["health"] == "healthy");

    let (code, _, err) = home.typed(&["stdio", "gmial"]);
    assert_eq!(code, 2);
    assert!(err.contains("hint: Did you mean `relatch stdio gmail`?"), "{err}");
    let (code, _, err) = home.typed(&["stdio", "other"]);
    assert_eq!(code, 2);
    assert!(err.contains("There is no variable `MISSING` in the environment"), "{err}");
}

#[test]
fn what_is_typed_goes_before_what_the_file_says() {
    let (file, typed) = (stage::echo(), stage::echo());
    let home = Home::new();
    let path = home.path().join("own.toml");
    std::fs::write(
        &path,
        format!(
            "[serve]\nlisten = \"127.0.0.1:1\"\n[server.a]\nurl = \"{}\"\nheaders = {{ X-Key = \"file\" }}\n[server.b]\nurl = \"{}\"\n",
            file.url(),
            file.url()
        ),
    )
    .unwrap();
    let line =
        ["--config", path.to_str().unwrap(), &format!("a={}", typed.url()), "--header", "b=X-More: typed"];
    let serve = Serve::start(&home, &line);
    for name in ["a", "b"] {
        let session = serve.session(name);
        assert!(serve.call(name, &session, 1).get("result").is_some());
    }
    // The file's credential is for the file's address.
    assert!(typed.got().iter().all(|got| got.header("x-key").is_none()));
    assert!(file.got().iter().all(|got| got.header("x-more") == Some("typed")));
    assert!(!typed.got().is_empty() && !file.got().is_empty());
}

#[test]
fn a_faulty_file_starts_nothing_and_names_everything() {
    let home = Home::new();
    let path = write(&home, "[server.a]\nurl = \"nonsense\"\nhodl = \"45s\"\n");
    for line in [
        &["serve"][..],
        &["serve", "b=http://h/"],
        &["stdio", "a"],
        &["config", "check"],
        &["config", "show"],
    ] {
        let (code, out, err) = home.typed(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {err}");
        for said in
            [format!("{path}:2:7"), format!("{path}:3:1"), "has 2 faults; nothing of it is used".to_owned()]
        {
            assert!(err.contains(&said), "{line:?}: {err}");
        }
    }
    let (code, out, _) = home.typed(&["config", "path"]);
    assert_eq!((code, out.trim_end()), (0, path.as_str()));
}

#[test]
fn check_and_show_say_what_a_file_comes_to() {
    let home = Home::new();
    let path = write(
        &home,
        "serve.state_dir = \"/state\"\n[server.gmail]\nurl = \"http://127.0.0.1:8761/mcp\"\nhold = \"5m\"\n\
         headers = { Authorization = \"Bearer ${TOKEN}\", X-Team = \"a\" }\nreplay = { \"b_*\" = \"never\", \"a\" = \"always\" }\n",
    );
    let ask = |line: &[&str]| {
        let ended = home.relatch(line).env("TOKEN", "t").output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    assert_eq!(ask(&["config", "check"]), format!("{path}: 1 server, nothing wrong\n"));
    let shown = ask(&["config", "show"]).replace(&home.path().display().to_string(), "HOME");
    insta::assert_snapshot!(shown);
    let json: serde_json::Value = serde_json::from_str(&ask(&["config", "show", "--json"])).unwrap();
    assert_eq!(
        json["sections"]["server.gmail"]["headers.Authorization"],
        json!({"value": "Bearer ${TOKEN}", "origin": "line 5: `TOKEN` of the environment", "line": 5})
    );
    // What is shown as TOML is TOML.
    let shown = home.path().join("shown.toml");
    std::fs::write(&shown, ask(&["config", "show"])).unwrap();
    ask(&["config", "check", "--config", shown.to_str().unwrap()]);
}
