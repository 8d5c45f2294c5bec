//! `relatch adopt` and `release` as a person runs them: the built program on a home folder that is made for each test.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CLIENTS: &[(&str, &str)] = &[
    (".claude.json", include_str!("clients/claude.json")),
    (".config/Claude/claude_desktop_config.json", include_str!("clients/claude_desktop_config.json")),
    (".cursor/mcp.json", include_str!("clients/cursor.json")),
    (".config/Code/User/mcp.json", include_str!("clients/vscode.json")),
    (".codex/config.toml", include_str!("clients/codex.toml")),
    (".gemini/settings.json", include_str!("clients/gemini.json")),
    (".codeium/windsurf/mcp_config.json", include_str!("clients/windsurf.json")),
    (".config/zed/settings.json", include_str!("clients/zed.json")),
    (".cline/data/settings/cline_mcp_settings.json", include_str!("clients/cline.json")),
];

/// A home folder with clients in it, and a project.
struct Home(tempfile::TempDir);

/// How a run ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Home {
    fn empty() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        fs::create_dir(home.at("project")).unwrap();
        home
    }

    fn with(files: &[(&str, &str)]) -> Home {
        let home = Home::empty();
        for (path, text) in files {
            home.put(path, text.as_bytes());
        }
        home
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn run(&self, line: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relatch"));
        command.args(line).current_dir(self.at("project")).stdin(Stdio::null()).env("HOME", self.0.path());
        for moved in
            ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "APPDATA", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "RELATCH_LOG"]
        {
            command.env_remove(moved);
        }
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Adopts without a question to anybody.
    fn adopt(&self, more: &[&str]) -> Ran {
        self.run(&[&["adopt", "--yes", "--no-probe"], more].concat())
    }
}

#[test]
fn everything_is_adopted_a_second_run_changes_nothing_and_release_restores_every_byte() {
    let home = Home::with(CLIENTS);
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(!ran.out.contains("s3cret") && !ran.err.contains("s3cret"), "{}", ran.out);
    let adopted: Vec<String> = CLIENTS.iter().map(|(path, _)| home.text(path)).collect();
    for ((path, before), after) in CLIENTS.iter().zip(&adopted) {
        // Claude Desktop has only a program in its file.
        assert_eq!(before == after, path.contains("Claude/"), "{path}");
    }
    assert!(home.text(".cursor/mcp.json").contains(&format!("{:?}", env!("CARGO_BIN_EXE_relatch"))));

    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with("Nothing to adopt: "), "{}", ran.err);
    for ((path, _), after) in CLIENTS.iter().zip(&adopted) {
        assert_eq!(home.text(path), *after, "{path}");
    }

    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(!ran.out.contains("s3cret"), "{}", ran.out);
    for (path, before) in CLIENTS {
        assert_eq!(home.text(path), *before, "{path}");
    }
    let ran = home.run(&["release", "--yes"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "Nothing to release\n"));
    assert_eq!(home.text(".local/state/relatch/adopted.json"), "{\n  \"format\": 1,\n  \"entries\": []\n}\n");
}

#[test]
fn nothing_is_changed_without_a_yes() {
    let home = Home::with(CLIENTS);
    let ran = home.run(&["adopt", "--no-probe"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("+   \"type\": \"stdio\","), "{}", ran.out);
    assert_eq!(
        ran.err,
        "Nothing was changed\nhint: Run `relatch adopt --yes` to do it without being asked\n"
    );
    let ran = home.run(&["adopt", "--no-probe", "--dry-run", "--yes"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "Nothing was changed: this was a rehearsal\n"));
    for (path, before) in CLIENTS {
        assert_eq!(home.text(path), *before, "{path}");
    }
    assert!(!home.at(".local").exists(), "a rehearsal leaves no trace");
}

#[test]
fn one_client_and_one_server_can_be_picked() {
    let home = Home::with(CLIENTS);
    assert_eq!(home.adopt(&["--client", "cursor", "--client", "zed", "--server", "gmail"]).code, 0);
    for (path, before) in CLIENTS {
        let picked = path.contains("cursor") || path.contains("zed");
        assert_eq!(home.text(path) == *before, !picked, "{path}");
    }
    assert!(home.text(".cursor/mcp.json").contains("\"url\": \"https://tickets.example.com/mcp\""));
    let ran = home.adopt(&["--server", "gmial"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.starts_with("error: No client that was looked at has a server called `gmial`\n"),
        "{}",
        ran.err
    );
    let ran = home.adopt(&["--client", "emacs"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("[possible values: claude-code, claude-desktop, cursor,"), "{}", ran.err);
    let ran = home.adopt(&["--via", "serve"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.starts_with("error: `--via serve` is not available yet\n"), "{}", ran.err);
    // One that is switched off is taken when it is named.
    assert_eq!(home.adopt(&["--server", "asleep"]).code, 0);
    assert!(home.text(".cursor/mcp.json").contains("8764/mcp\", \"--name\", \"asleep\"]"));
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_named_and_the_others_go_on() {
    let home = Home::with(&[
        (".claude.json", "{\n  \"mcpServers\": {\n    \"a\": {\"type\": \"http\",,}\n  }\n}\n"),
        (".gemini/settings.json", ""),
        (".codex/config.toml", "[mcp_servers.a\nurl = \"http://127.0.0.1:9/mcp\"\n"),
        (".config/Code/User/mcp.json", "{}"),
        (".config/zed/settings.json", "{\"context_servers\": []}"),
        (".cline/data/settings/cline_mcp_settings.json", "{\"mcpServers\": {}, \"mcpServers\": {}}"),
        (".cursor/mcp.json", "{\"mcpServers\": {\"a\": {\"url\": \"http://127.0.0.1:9/mcp\"}}}"),
    ]);
    home.put(".config/Claude/claude_desktop_config.json", b"\x7fELF\xff\xfe\0");
    fs::create_dir_all(home.at(".codeium/windsurf/mcp_config.json")).unwrap();
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    for said in [
        "~/.claude.json\n  ✗ line 3, column 26: ",
        "claude_desktop_config.json\n  ✗ it is no text in UTF-8\n",
        "~/.codex/config.toml\n  ✗ line 1, column 15: ",
        "settings.json\n  ✗ line 1, column 21: `context_servers` is no object\n",
        "mcp_config.json\n  ✗ it is a folder\n",
        "cline_mcp_settings.json\n  ✗ line 1, column 20: `mcpServers` stands twice\n",
    ] {
        assert!(ran.out.contains(said), "{said}\n{}", ran.out);
    }
    assert!(home.text(".cursor/mcp.json").contains("\"stdio\""));
    assert!(ran.err.contains("~/.cursor/mcp.json: adopted"), "{}", ran.err);
    assert_eq!(home.text(".gemini/settings.json"), "");
    // One that is asked for by name may be in what can't be read.
    let ran = home.adopt(&["--server", "mail"]);
    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("~/.claude.json\n  ✗ line 3"), "{}", ran.out);
}

#[cfg(unix)]
#[test]
fn modes_links_marks_and_line_breaks_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let text = include_str!("clients/cursor.json").replace('\n', "\r\n").replace("  ", "\t");
    let dressed = format!("\u{feff}{text}");
    let home = Home::with(&[("dotfiles/cursor.json", &dressed)]);
    let target = home.at("dotfiles/cursor.json");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(home.at(".cursor")).unwrap();
    symlink("../dotfiles/cursor.json", home.at(".cursor/mcp.json")).unwrap();
    assert_eq!(home.adopt(&[]).code, 0);
    let after = home.text("dotfiles/cursor.json");
    assert!(after.starts_with("\u{feff}{\r\n\t\"mcpServers\"") && after.contains("\"stdio\""), "{after}");
    assert!(fs::symlink_metadata(home.at(".cursor/mcp.json")).unwrap().is_symlink());
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(home.at("dotfiles")).unwrap().count(), 1, "nothing is left beside it");
    for file in fs::read_dir(home.at(".local/state/relatch/backups")).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(home.run(&["release", "--yes"]).code, 0);
    assert_eq!(home.text("dotfiles/cursor.json"), dressed);
}

#[cfg(unix)]
#[test]
fn a_read_only_file_is_refused_before_anything_is_promised() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::with(&[(".cursor/mcp.json", include_str!("clients/cursor.json"))]);
    fs::set_permissions(home.at(".cursor/mcp.json"), fs::Permissions::from_mode(0o444)).unwrap();
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 4, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("~/.cursor/mcp.json\n  ✗ it is read-only\n"), "{}", ran.out);
    assert_eq!(home.text(".cursor/mcp.json"), include_str!("clients/cursor.json"));
}

#[test]
fn edits_around_an_entry_stay_and_an_edited_entry_is_shown_and_left() {
    let home = Home::with(&[(".cursor/mcp.json", include_str!("clients/cursor.json"))]);
    assert_eq!(home.adopt(&[]).code, 0);
    let edited = home
        .text(".cursor/mcp.json")
        .replace(
            "{\n  \"mcpServers\": {",
            "{\n  \"mine\": 1,\n  \"mcpServers\": {\n    \"new\": { \"command\": \"x\" },",
        )
        .replace("\"tickets\"]", "\"tickets\", \"--stateful\"]")
        .replace("\"--name\", \"tickets\"", "\"--stateful\", \"--name\", \"tickets\"");
    home.put(".cursor/mcp.json", edited.as_bytes());

    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.out
            .contains("! tickets: left alone, it was edited since; `--force` puts back what is marked `+`\n")
    );
    assert!(
        ran.out.contains("-   \"args\": [\"stdio\", \"https://tickets.example.com/mcp\", \"--stateful\""),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("+   \"url\": \"https://tickets.example.com/mcp\","), "{}", ran.out);
    let half = home.text(".cursor/mcp.json");
    assert!(
        half.contains("\"gmail\": { \"url\": \"http://127.0.0.1:8761/mcp\" }")
            && half.contains("\"--stateful\"")
    );

    assert_eq!(home.run(&["release", "--yes", "--force"]).code, 0);
    let expected = include_str!("clients/cursor.json").replace(
        "{\n  \"mcpServers\": {",
        "{\n  \"mine\": 1,\n  \"mcpServers\": {\n    \"new\": { \"command\": \"x\" },",
    );
    assert_eq!(home.text(".cursor/mcp.json"), expected);
}

#[test]
fn a_server_that_was_renamed_is_found_and_one_put_back_by_hand_is_forgotten() {
    let home = Home::with(&[(".cursor/mcp.json", include_str!("clients/cursor.json"))]);
    assert_eq!(home.adopt(&[]).code, 0);
    let text = home.text(".cursor/mcp.json").replace("\"gmail\": {", "\"mail\": {");
    home.put(".cursor/mcp.json", text.as_bytes());
    assert_eq!(home.run(&["release", "--yes"]).code, 0);
    let expected = include_str!("clients/cursor.json").replace("\"gmail\": {", "\"mail\": {");
    assert_eq!(home.text(".cursor/mcp.json"), expected);

    assert_eq!(home.adopt(&[]).code, 0);
    home.put(".cursor/mcp.json", expected.as_bytes());
    let ran = home.run(&["release", "--yes"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "Nothing to release\n"));
    assert!(home.text(".local/state/relatch/adopted.json").contains("\"entries\": []"));
}

#[test]
fn without_its_records_release_puts_together_what_it_can_and_says_so() {
    let home = Home::with(&[(".cursor/mcp.json", include_str!("clients/cursor.json"))]);
    assert_eq!(home.adopt(&[]).code, 0);
    fs::remove_file(home.at(".local/state/relatch/adopted.json")).unwrap();
    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("gmail; nothing was kept, so this is put together from the entry\n"),
        "{}",
        ran.out
    );
    assert_eq!(
        home.text(".cursor/mcp.json"),
        include_str!("clients/cursor.json"),
        "all of it was in the entry"
    );

    assert_eq!(home.adopt(&[]).code, 0);
    home.put(".local/state/relatch/adopted.json", b"{");
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 0, "nothing to do, so nothing is asked of the records");
    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with("error: What was adopted is not known any more\n"), "{}", ran.err);
    assert_eq!(home.text(".local/state/relatch/adopted.json"), "{", "what can't be read is not written over");
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("which says what was adopted, can't be read"), "{}", ran.err);
}

#[test]
fn the_files_of_a_project_get_no_absolute_path_and_only_when_they_are_meant() {
    let home = Home::with(&[
        ("project/.mcp.json", include_str!("clients/mcp.json")),
        ("project/.cursor/mcp.json", include_str!("clients/cursor.json")),
    ]);
    assert_eq!(home.adopt(&[]).code, 0);
    assert_eq!(home.text("project/.mcp.json"), include_str!("clients/mcp.json"));
    let ran = home.adopt(&["--scope", "project"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    for path in ["project/.mcp.json", "project/.cursor/mcp.json"] {
        let text = home.text(path);
        assert!(text.contains("\"command\": \"relatch\""), "{text}");
        assert!(
            !text.contains(env!("CARGO_BIN_EXE_relatch"))
                && !text.contains(&*home.0.path().to_string_lossy())
        );
    }
    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with("Adopted, and not looked at now:\n"), "{}", ran.err);
    assert!(
        ran.err.contains("/project/.mcp.json\n") && ran.err.contains("`relatch release --scope project`"),
        "{}",
        ran.err
    );
    assert_eq!(home.run(&["release", "--yes", "--scope", "project"]).code, 0);
    assert_eq!(home.text("project/.mcp.json"), include_str!("clients/mcp.json"));
}

#[test]
fn an_entry_whose_relatch_is_gone_is_named() {
    let home = Home::with(&[
        (
            ".claude.json",
            "{\"mcpServers\": {\"a\": {\"command\": \"/nowhere/relatch\", \"args\": [\"stdio\", \"http://h/\"]}}}",
        ),
        (".config/Claude/claude_desktop_config.json", include_str!("clients/claude_desktop_config.json")),
    ]);
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.out.contains("· a: left alone, it starts `/nowhere/relatch`, which is not there;"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("· docs: left alone, it reaches its server through `mcp-remote`;"),
        "{}",
        ran.out
    );
}

/// Answers one request with this and gives what was asked.
fn answering(answer: &'static str) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut piece = [0; 4096];
        while !asked.windows(6).any(|part| part == b"\"ping\"") {
            let read = peer.read(&mut piece).unwrap();
            assert_ne!(read, 0, "the request ends early");
            asked.extend_from_slice(&piece[..read]);
        }
        peer.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (port, asked)
}

#[test]
fn a_server_that_wants_a_login_of_its_client_is_left_and_named() {
    let (login, login_asked) = answering(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer resource_metadata=\"http://h/\"\r\nContent-Length: 0\r\n\r\n",
    );
    let (fine, fine_asked) = answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let (bare, bare_asked) = answering("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let text = format!(
        "{{\"mcpServers\": {{\n  \"login\": {{\"url\": \"http://127.0.0.1:{login}/mcp\"}},\n  \
         \"fine\": {{\"url\": \"http://127.0.0.1:{fine}/mcp\", \"headers\": {{\"X-Key\": \"k\"}}}},\n  \
         \"bare\": {{\"url\": \"http://127.0.0.1:{bare}/mcp\"}},\n  \
         \"away\": {{\"url\": \"http://127.0.0.1:1/mcp\"}},\n  \
         \"given\": {{\"url\": \"http://127.0.0.1:{login}/mcp\", \"headers\": {{\"Authorization\": \"Bearer x\"}}}}\n}}}}\n"
    );
    let home = Home::with(&[(".cursor/mcp.json", &text)]);
    let ran = home.run(&["adopt", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains(
            "· login: left alone, it wants a login (401 with a challenge), which its client does by itself\n"
        ),
        "{}",
        ran.out
    );
    let after = home.text(".cursor/mcp.json");
    assert!(after.contains(&format!("\"login\": {{\"url\": \"http://127.0.0.1:{login}/mcp\"}}")), "{after}");
    for name in ["fine", "bare", "away", "given"] {
        assert!(after.contains(&format!("\"--name\", \"{name}\"")), "{name}: {after}");
    }
    for asked in [login_asked, bare_asked] {
        assert!(asked.join().unwrap().starts_with("POST /mcp HTTP/1.1\r\n"));
    }
    assert!(
        fine_asked.join().unwrap().to_ascii_lowercase().contains("\r\nx-key: k\r\n"),
        "as the client would ask"
    );
}

#[test]
fn one_at_a_time() {
    let home = Home::with(&[(".cursor/mcp.json", include_str!("clients/cursor.json"))]);
    let state = home.at(".local/state/relatch");
    fs::create_dir_all(&state).unwrap();
    let held = fs::File::create(state.join("adopted.lock")).unwrap();
    held.lock().unwrap();
    let ran = home.adopt(&[]);
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("Another `relatch adopt` or `relatch release` is at work"), "{}", ran.err);
    assert_eq!(home.text(".cursor/mcp.json"), include_str!("clients/cursor.json"));
}

#[test]
fn the_environment_gives_address_and_headers_and_what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = |line: &[&str], set: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relatch"));
        command.args(line).env("HOME", dir.path()).env_remove("NOPE").stdin(Stdio::null());
        let output = command.envs(set.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (line, said) in [
        (&["stdio", "env:NOPE"][..], "The server's address is to come from `NOPE`, which is not set"),
        (
            &["stdio", "http://127.0.0.1:1/", "--header-env", "K=NOPE"],
            "The header `K` is to come from `NOPE`, which is not set",
        ),
        (
            &["stdio", "http://127.0.0.1:1/", "--header", "K: a${NOPE}"],
            "The header `K` is to come from `NOPE`, which is not set",
        ),
        (&["stdio", "http://127.0.0.1:1/", "--header-env", "K"], "A `--header-env` has no `=`"),
        (&["stdio", "http://127.0.0.1:1/", "--header-env", "Host=NOPE"], "`--header Host` can't be set"),
    ] {
        let (code, err) = run(line, &[]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(said), "{err}");
    }
    let (code, err) =
        run(&["stdio", "env:A", "--header-env", "K=B"], &[("A", "ftp://s3cret/"), ("B", "s3cret")]);
    assert_eq!(code, 2);
    assert!(err.contains("neither `http` nor `https`"), "{err}");
    let (code, err) = run(&["stdio", "http://127.0.0.1:1/", "--header-env", "K=B"], &[("B", "s3\ncret")]);
    assert_eq!(code, 2);
    assert!(!err.contains("cret"), "{err}");
    // With everything there, it serves until its client leaves.
    let (code, err) =
        run(&["stdio", "env:A", "--header-env", "K=B"], &[("A", "http://127.0.0.1:1/"), ("B", "x")]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_home_without_clients_is_no_failure() {
    let home = Home::empty();
    let ran = home.run(&["adopt"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert!(ran.err.starts_with("None of the clients that relatch knows has a file here\n"), "{}", ran.err);
    assert!(Path::new(env!("CARGO_BIN_EXE_relatch")).is_absolute());
}
