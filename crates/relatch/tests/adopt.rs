//! `relatch adopt` and `release` as a person runs them: the built program on a home folder that is made for each test.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
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
        let output = self.command(line).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relatch"));
        command.args(line).current_dir(self.at("project")).stdin(Stdio::null()).env("HOME", self.0.path());
        // Keepers of others are not asked.
        command.env("RELATCH_RUNTIME_DIR", self.at("run"));
        for moved in [
            "RELATCH_CONFIG",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
            "APPDATA",
            "CLAUDE_CONFIG_DIR",
            "CODEX_HOME",
            "RELATCH_LOG",
        ] {
            command.env_remove(moved);
        }
        command
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

const CONFIG: &str = ".config/relatch/relatch.toml";
const TOKEN: &str = ".local/state/relatch/token";
const MINE: &str =
    "# mine\n[serve]\nlisten   = \"127.0.0.1:7399\" # odd\n\n[server.other]\nurl = 'http://127.0.0.1:9/'\n";
const CURSOR: &str = "{\"mcpServers\": {\"gmail\": {\"url\": \"http://127.0.0.1:8761/mcp\", \"headers\": {\"X-Key\": \"s3cret\"}}}}\n";
const ZED: &str = "{\n  // mine\n  \"context_servers\": {\n    \"gmail\": {\"url\": \"http://127.0.0.1:8761/mcp\", \"headers\": {\"X-Key\": \"s3cret\"}},\n    \"Wiki ${x}\": {\"url\": \"http://127.0.0.1:8762/mcp\", \"headers\": {\"X\": \"${x}\"}}\n  }\n}\n";

impl Home {
    /// Files that only their owner can read.
    fn private(files: &[(&str, &str)]) -> Home {
        let home = Home::with(files);
        for (path, _) in files {
            home.mode(path, 0o600);
        }
        home
    }

    fn mode(&self, path: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn adopt_by_keeper(&self, more: &[&str]) -> Ran {
        self.adopt(&[&["--via", "serve"], more].concat())
    }
}

#[test]
fn clients_share_a_keeper_and_its_file_until_the_last_of_them_is_released() {
    use std::os::unix::fs::PermissionsExt;
    let home =
        Home::private(&[(".cursor/mcp.json", CURSOR), (".config/zed/settings.json", ZED), (CONFIG, MINE)]);
    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let token = home.text(TOKEN);
    for shown in [&ran.out, &ran.err] {
        assert!(!shown.contains("s3cret") && !shown.contains(&token), "{shown}");
    }
    assert!(
        ran.out.contains(
            "  + [server.gmail]\n  + url = \"http://127.0.0.1:8761/mcp\"\n  + headers = { X-Key = \"…\" }\n"
        ),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.matches("+ [server.gmail]").count(), 1, "one server for both: {}", ran.out);
    assert!(ran.err.contains("No running keeper reads this file. Until one does, the clients don't reach these servers: run `relatch serve`"), "{}", ran.err);
    assert_eq!(
        home.text(".cursor/mcp.json"),
        format!(
            "{{\"mcpServers\": {{\"gmail\": {{\"url\": \"http://127.0.0.1:7399/gmail/mcp\", \"headers\": {{ \"Relatch-Token\": \"{token}\" }}}}}}}}\n"
        )
    );
    assert!(home.text(".config/zed/settings.json").contains("\"http://127.0.0.1:7399/wiki---x-/mcp\""));
    let config = home.text(CONFIG);
    assert_eq!(
        config,
        format!(
            "{MINE}\n[server.gmail]\nurl = \"http://127.0.0.1:8761/mcp\"\nheaders = {{ X-Key = \"s3cret\" }}\n\n[server.wiki---x-]\nurl = \"http://127.0.0.1:8762/mcp\"\nheaders = {{ X = \"$${{x}}\" }}\n"
        )
    );
    for path in [CONFIG, TOKEN, ".cursor/mcp.json"] {
        assert_eq!(fs::metadata(home.at(path)).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
    assert_eq!(home.run(&["config", "check"]).code, 0);

    let before = (home.text(".cursor/mcp.json"), home.text(".config/zed/settings.json"));
    for ran in [home.adopt_by_keeper(&[]), home.adopt(&[])] {
        assert!(ran.code == 0 && ran.err.starts_with("Nothing to adopt: "), "{}{}", ran.out, ran.err);
    }
    assert_eq!((home.text(".cursor/mcp.json"), home.text(".config/zed/settings.json")), before);
    assert_eq!(home.text(CONFIG), config);

    let ran = home.run(&["release", "--yes", "--client", "cursor"]);
    assert_eq!((ran.code, home.text(".cursor/mcp.json").as_str()), (0, CURSOR), "{}", ran.err);
    assert_eq!(home.text(CONFIG), config, "Zed uses it");
    // Who comes later takes what is there, and it is still relatch's.
    assert_eq!(home.adopt_by_keeper(&["--client", "cursor"]).code, 0);
    assert_eq!(home.text(CONFIG), config);
    assert_eq!(home.run(&["release", "--yes", "--client", "zed"]).code, 0);
    assert!(home.text(CONFIG).contains("[server.gmail]") && !home.text(CONFIG).contains("wiki"));
    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("  - [server.gmail]\n") && !ran.out.contains("s3cret"), "{}", ran.out);
    assert_eq!(home.text(".cursor/mcp.json"), CURSOR);
    assert_eq!(home.text(".config/zed/settings.json"), ZED);
    assert_eq!(home.text(CONFIG), MINE);
}

#[test]
fn no_token_and_no_secret_goes_where_more_users_can_read_it() {
    let plain = CURSOR.replace(", \"headers\": {\"X-Key\": \"s3cret\"}", "");
    let home = Home::with(&[(".cursor/mcp.json", &plain)]);
    home.mode(".cursor/mcp.json", 0o640);
    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let said = format!(
        "✗ gmail: left alone, the keeper's token would stand in its file, which other users can read; run `chmod 600 '{}'`",
        home.at(".cursor/mcp.json").display()
    );
    assert!(ran.out.contains(&said), "{}", ran.out);
    assert_eq!(home.text(".cursor/mcp.json"), plain);
    assert!(!home.at(CONFIG).exists() && !home.at(".local").exists());

    // Without a token it may, but for the secrets of a file that fewer can read.
    home.put(CONFIG, b"[serve]\nno_token = true\n");
    home.mode(CONFIG, 0o644);
    assert_eq!(home.adopt_by_keeper(&[]).code, 0);
    assert!(home.text(".cursor/mcp.json").contains("{\"url\": \"http://127.0.0.1:7332/gmail/mcp\"}"));
    assert!(home.adopt_by_keeper(&[]).err.starts_with("Nothing to adopt: "));
    assert_eq!(home.run(&["release", "--yes"]).code, 0);
    assert_eq!(
        (home.text(".cursor/mcp.json"), home.text(CONFIG)),
        (plain, "[serve]\nno_token = true\n".to_owned())
    );

    home.put(".cursor/mcp.json", CURSOR.as_bytes());
    home.mode(".cursor/mcp.json", 0o640);
    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.contains("✗ gmail: left alone, it may have a secret, and more users can read `relatch.toml`"),
        "{}",
        ran.out
    );
    assert_eq!(
        (home.text(".cursor/mcp.json").as_str(), home.text(CONFIG).as_str()),
        (CURSOR, "[serve]\nno_token = true\n")
    );
    home.mode(CONFIG, 0o640);
    assert_eq!(home.adopt_by_keeper(&[]).code, 0);
    assert!(home.text(CONFIG).contains("s3cret"));
}

#[test]
fn a_server_of_the_same_name_is_taken_when_it_is_the_same_and_named_when_it_is_not() {
    let there = "[server.gmail]\nurl = \"http://127.0.0.1:8761/mcp\"\nheaders = { x-key = \"s3cret\" }\n";
    let home = Home::private(&[(".cursor/mcp.json", CURSOR), (CONFIG, there)]);
    assert_eq!(home.adopt_by_keeper(&[]).code, 0);
    assert!(home.text(".cursor/mcp.json").contains("7332/gmail/mcp"));
    assert_eq!(home.run(&["release", "--yes"]).code, 0);
    assert_eq!(
        (home.text(".cursor/mcp.json").as_str(), home.text(CONFIG).as_str()),
        (CURSOR, there),
        "it was there before"
    );

    let other = "[server.gmail]\nurl = \"http://127.0.0.1:1/mcp?k=s3cret\"\n";
    home.put(CONFIG, other.as_bytes());
    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.contains("✗ gmail: left alone, `relatch.toml` has a server `gmail` with another address, http://127.0.0.1:1/mcp?k=…, than http://127.0.0.1:8761/mcp; rename one of the two\n"),
        "{}",
        ran.out
    );
    assert_eq!((home.text(".cursor/mcp.json").as_str(), home.text(CONFIG).as_str()), (CURSOR, other));
}

#[test]
fn whatever_fails_neither_file_is_changed() {
    let untouched = |home: &Home, config: Option<&str>| {
        assert_eq!(home.text(".cursor/mcp.json"), CURSOR);
        assert_eq!(fs::read_to_string(home.at(CONFIG)).ok().as_deref(), config);
    };
    for (config, mode, code, said) in [
        ("[server.a]\nurll = 'x'\n", 0o600, 2, "relatch knows no `urll`"),
        ("[serve]\nlisten = '127.0.0.1:0'\n", 0o600, 2, "another port at every start"),
        (MINE, 0o400, 4, "the file is read-only"),
    ] {
        let home = Home::private(&[(".cursor/mcp.json", CURSOR), (CONFIG, config)]);
        home.mode(CONFIG, mode);
        let ran = home.adopt_by_keeper(&[]);
        assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
        assert!(ran.err.contains(said), "{}", ran.err);
        untouched(&home, Some(config));
    }
    // The configuration comes first, and goes back when the client's file can't be changed.
    for config in [None, Some(MINE)] {
        let home =
            Home::private(&[(".cursor/mcp.json", CURSOR), (".local/state/relatch/backups", "in the way")]);
        if let Some(config) = config {
            home.put(CONFIG, config.as_bytes());
            home.mode(CONFIG, 0o600);
        }
        let ran = home.adopt_by_keeper(&[]);
        assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
        assert!(
            ran.err.contains("mcp.json` was not changed") && ran.err.contains("`gmail` is out of `"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("since no entry points to it"), "{}", ran.err);
        untouched(&home, config);
    }
    // A file that can't be changed brings nothing into the configuration.
    let home = Home::private(&[(".cursor/mcp.json", CURSOR), (".config/zed/settings.json", ZED)]);
    home.mode(".config/zed/settings.json", 0o400);
    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert_eq!(home.text(".config/zed/settings.json"), ZED);
    assert!(home.text(CONFIG).contains("[server.gmail]") && !home.text(CONFIG).contains("wiki"));

    let home = Home::private(&[(".cursor/mcp.json", CURSOR), (TOKEN, "x")]);
    home.mode(TOKEN, 0o644);
    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.starts_with("error: The token for clients can't be read\n"), "{}", ran.err);
    untouched(&home, None);
    let home = Home::private(&[(".cursor/mcp.json", CURSOR)]);
    let ran = home.run(&["adopt", "--via", "serve", "--no-probe", "--dry-run"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (0, "Nothing was changed: this was a rehearsal\n"),
        "{}",
        ran.out
    );
    untouched(&home, None);
    assert!(!home.at(".local").exists(), "a rehearsal leaves no trace");
}

/// Ends a keeper whatever happens.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_keeper_gives_its_address_and_follows_and_a_name_of_its_command_line_is_taken() {
    let home =
        Home::private(&[(".cursor/mcp.json", CURSOR), (".config/zed/settings.json", ZED), (CONFIG, MINE)]);
    let mut command = home.command(&["serve", "gmail=http://127.0.0.1:1/mcp", "--listen", "127.0.0.1:0"]);
    let mut keeper = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(keeper.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let base = line.split_once("http://").unwrap().1.split_once('/').unwrap().0.to_owned();

    let ran = home.adopt_by_keeper(&[]);
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert_eq!(home.text(".cursor/mcp.json"), CURSOR);
    let said = "✗ gmail: left alone, the running keeper serves a `gmail` that is not in `relatch.toml`;";
    assert_eq!(ran.out.matches(said).count(), 2, "{}", ran.out);
    let zed = home.text(".config/zed/settings.json");
    assert!(zed.contains(&format!("\"http://{base}/wiki---x-/mcp\"")), "{zed}");
    assert!(!ran.err.contains("No running keeper"), "{}", ran.err);
    assert!(home.run(&["status", "wiki---x-"]).out.contains("127.0.0.1:8762"), "it follows at once");
    assert_eq!(home.run(&["release", "--yes"]).code, 0);
    assert_eq!((home.text(".config/zed/settings.json").as_str(), home.text(CONFIG).as_str()), (ZED, MINE));
    assert_eq!(home.run(&["status", "wiki---x-"]).code, 2, "it is not served any more");
}

#[test]
fn files_of_a_project_never_get_the_token() {
    let home = Home::private(&[("project/.cursor/mcp.json", CURSOR)]);
    let ran = home.adopt_by_keeper(&["--scope", "project"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.starts_with("error: `--via serve` can't be used for the files of a project\n")
            && ran.err.contains("token would stand in files that others share"),
        "{}",
        ran.err
    );
    assert_eq!(home.text("project/.cursor/mcp.json"), CURSOR);
    home.put(CONFIG, b"[serve]\nno_token = true\n");
    home.mode(CONFIG, 0o600);
    assert_eq!(home.adopt_by_keeper(&["--scope", "project"]).code, 0);
    assert!(home.text("project/.cursor/mcp.json").contains("{\"url\": \"http://127.0.0.1:7332/gmail/mcp\"}"));
    assert_eq!(home.run(&["release", "--yes", "--scope", "project"]).code, 0);
    assert_eq!(home.text("project/.cursor/mcp.json"), CURSOR);
}

#[test]
fn a_server_that_was_edited_in_the_configuration_or_is_to_be_kept_stays_there() {
    let home = Home::private(&[(".cursor/mcp.json", CURSOR)]);
    assert_eq!(home.adopt_by_keeper(&[]).code, 0);
    let edited = format!("{}hold = \"5m\"\n", home.text(CONFIG));
    home.put(CONFIG, edited.as_bytes());
    let ran = home.run(&["release", "--yes"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.contains("· gmail: left alone, it was edited since; `relatch remove gmail` takes it out\n"),
        "{}",
        ran.out
    );
    assert_eq!((home.text(".cursor/mcp.json").as_str(), home.text(CONFIG)), (CURSOR, edited));

    let home = Home::private(&[(".cursor/mcp.json", CURSOR)]);
    assert_eq!(home.adopt_by_keeper(&[]).code, 0);
    let config = home.text(CONFIG);
    let ran = home.run(&["release", "--yes", "--keep-config"]);
    assert_eq!(ran.code, 0);
    assert!(!ran.out.contains("[server.gmail]"), "{}", ran.out);
    assert_eq!((home.text(".cursor/mcp.json").as_str(), home.text(CONFIG)), (CURSOR, config));

    // An entry that was put back by hand uses it no more.
    let home = Home::private(&[(".cursor/mcp.json", CURSOR), (CONFIG, MINE)]);
    assert_eq!(home.adopt_by_keeper(&[]).code, 0);
    home.put(".cursor/mcp.json", CURSOR.as_bytes());
    assert_eq!(home.run(&["release", "--yes"]).code, 0);
    assert_eq!(home.text(CONFIG), MINE);
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
