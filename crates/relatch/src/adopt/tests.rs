//! Files of every client, adopted and released: as they become, as they were, and as they can be put together again.

use super::clients::{Client, called};
use super::entry::{Change, Entry};
use super::plan::*;
use super::serve::Side;
use super::undo::{self, Kept, Undoing};

use proptest::prelude::*;

const FILES: &[(&str, &str)] = &[
    ("claude-code", include_str!("../../tests/clients/claude.json")),
    ("claude-code", include_str!("../../tests/clients/mcp.json")),
    ("claude-desktop", include_str!("../../tests/clients/claude_desktop_config.json")),
    ("cursor", include_str!("../../tests/clients/cursor.json")),
    ("vscode", include_str!("../../tests/clients/vscode.json")),
    ("codex", include_str!("../../tests/clients/codex.toml")),
    ("gemini", include_str!("../../tests/clients/gemini.json")),
    ("windsurf", include_str!("../../tests/clients/windsurf.json")),
    ("zed", include_str!("../../tests/clients/zed.json")),
    ("cline", include_str!("../../tests/clients/cline.json")),
];

fn front() -> Front {
    Front { program: "/usr/bin/relatch".to_owned(), programs: false, side: None, known: Vec::new() }
}

fn before_programs() -> Front {
    Front { programs: true, ..front() }
}

/// A keeper instead of a program.
fn kept_by(token: Option<&str>) -> Front {
    let side = Side { base: "http://127.0.0.1:7332".to_owned(), token: token.map(str::to_owned) };
    Front { side: Some(side), known: vec!["http://127.0.0.1:7332".to_owned()], ..front() }
}

/// The text with relatch in front of everything that can be, with the entries that were changed, and what was said.
fn adopted(client: &Client, text: &str) -> (String, Vec<(Entry, Vec<String>)>, String) {
    adopted_by(&front(), client, text)
}

fn adopted_by(front: &Front, client: &Client, text: &str) -> (String, Vec<(Entry, Vec<String>)>, String) {
    let entries = client.read(text).unwrap();
    let judged: Vec<(&Entry, Judgement)> =
        entries.iter().map(|entry| (entry, judge(client, text, entry, front, false))).collect();
    let chosen: Vec<(&Entry, &[Change])> = judged
        .iter()
        .filter_map(|(entry, judgement)| match judgement {
            Judgement::Adopt(adoption) => Some((*entry, &adoption.changes[..])),
            Judgement::Adopted
            | Judgement::Left(_)
            | Judgement::Refused(_)
            | Judgement::Program
            | Judgement::Off => None,
        })
        .collect();
    let (after, written) = carried_out(client, text, &chosen, |entry| front.holds(client, entry)).unwrap();
    let said = judged
        .iter()
        .map(|(entry, judgement)| match judgement {
            Judgement::Adopt(adoption) => match &adoption.server {
                Some(server) => {
                    let headers: Vec<String> =
                        server.headers.iter().map(|(k, v)| format!(", {k}: {v}")).collect();
                    let transport = server.transport.map_or(String::new(), |t| format!(" by {}", t.as_str()));
                    format!(
                        "{}: adopted, `{}` is {}{transport}{}\n",
                        entry.name,
                        server.name,
                        server.url,
                        headers.concat()
                    )
                }
                None => format!("{}: adopted\n", entry.name),
            },
            Judgement::Left(why) | Judgement::Refused(why) => format!("{}: left, {why}\n", entry.name),
            Judgement::Adopted => format!("{}: adopted before\n", entry.name),
            Judgement::Program => format!("{}: a program\n", entry.name),
            Judgement::Off => format!("{}: off\n", entry.name),
        })
        .collect();
    let changed = chosen.iter().map(|(entry, _)| (*entry).clone()).zip(written).collect();
    (after, changed, said)
}

fn released(client: &Client, text: &str, kept: &[(Entry, Vec<String>, Vec<String>)]) -> String {
    let entries = client.read(text).unwrap();
    let mut chosen = Vec::new();
    for entry in &entries {
        let record = kept.iter().find(|(old, ..)| old.place() == entry.place());
        let kept = record.map(|(_, original, written)| Kept { original, written, address: None });
        match undo::judge(client, text, entry, kept, false) {
            Undoing::Restore(changes) | Undoing::Rebuild(changes, _) => chosen.push((entry, changes)),
            Undoing::NotAdopted => {}
            other @ (Undoing::Changed(_) | Undoing::Left(_)) => panic!("{}: {other:?}", entry.name),
        }
    }
    let chosen: Vec<(&Entry, &[Change])> = chosen.iter().map(|(entry, c)| (*entry, &c[..])).collect();
    carried_out(client, text, &chosen, |entry| undo::is_released(client, entry)).unwrap().0
}

/// The same where entries point to a keeper.
fn released_by_keeper(client: &Client, text: &str, kept: &[(Entry, Vec<String>, Vec<String>)]) -> String {
    let entries = client.read(text).unwrap();
    let mut chosen = Vec::new();
    for entry in &entries {
        let Some((_, original, written)) = kept.iter().find(|(old, ..)| old.place() == entry.place()) else {
            continue;
        };
        let address = Some(format!("http://127.0.0.1:7332/{}/mcp", entry.name));
        match undo::judge(client, text, entry, Some(Kept { original, written, address }), false) {
            Undoing::Restore(changes) => chosen.push((entry, changes)),
            other => panic!("{}: {other:?}", entry.name),
        }
    }
    let chosen: Vec<(&Entry, &[Change])> = chosen.iter().map(|(entry, c)| (*entry, &c[..])).collect();
    carried_out(client, text, &chosen, |entry| undo::is_released(client, entry)).unwrap().0
}

fn kept(text: &str, changed: &[(Entry, Vec<String>)]) -> Vec<(Entry, Vec<String>, Vec<String>)> {
    changed.iter().map(|(entry, written)| (entry.clone(), entry.written(text), written.clone())).collect()
}

#[test]
fn realistic_files_of_every_client_are_adopted_and_released_byte_for_byte() {
    for (id, text) in FILES {
        for (dress, text) in [
            ("as it is", (*text).to_owned()),
            ("with CRLF", text.replace('\n', "\r\n")),
            ("without a last line break", text.trim_end().to_owned()),
        ] {
            let client = called(id).unwrap();
            let (after, changed, _) = adopted(client, &text);
            assert_eq!(text.contains("\r\n"), after.contains("\r\n"), "{id} {dress}");
            if text.contains("\r\n") {
                assert_eq!(
                    after.matches('\n').count(),
                    after.matches("\r\n").count(),
                    "{id}: a lone line feed"
                );
            }
            assert_eq!(adopted(client, &after).0, after, "{id} {dress}: a second run changes nothing");
            assert_eq!(released(client, &after, &kept(&text, &changed)), text, "{id} {dress}");
        }
    }
}

#[test]
fn programs_are_adopted_on_demand_and_released_byte_for_byte() {
    let mut programs = 0;
    for (id, text) in FILES {
        let client = called(id).unwrap();
        let (after, changed, _) = adopted_by(&before_programs(), client, text);
        programs += changed.iter().filter(|(entry, _)| entry.field("command").is_some()).count();
        assert_eq!(
            adopted_by(&before_programs(), client, &after).0,
            after,
            "{id}: a second run changes nothing"
        );
        assert_eq!(released(client, &after, &kept(text, &changed)), *text, "{id}");
    }
    assert!(programs >= 3, "{programs}");
}

#[test]
fn programs_before_a_keeper_are_released_byte_for_byte_and_a_second_run_changes_nothing() {
    let tables = "[mcp_servers.a]\ncommand = \"npx\" # why\nargs = [\n  \"x\", # y\n]\ncwd = \"/n\"\n\n[mcp_servers.a.env]\n# one\nA = \"1\"\nB = \"2\" # two\n";
    let inline =
        "[mcp_servers.a]\nenv = { A = \"1\" }\nargs = [\"x\"]\ncommand = \"npx\"\nstartup_timeout_sec = 5\n";
    let last =
        "{\"mcpServers\": {\"a\": {\"args\": [\"x\"], \"env\": {\"A\": \"1\"}, \"command\": \"npx\"}}}";
    let only = "{\"mcpServers\": {\"a\": {\"type\": \"stdio\", \"command\": \"npx\"}}}";
    let more =
        [("codex", tables), ("codex", inline), ("cursor", last), ("cline", last), ("claude-code", only)];
    let mut programs = 0;
    for (id, text) in FILES.iter().chain(&more) {
        for text in [(*text).to_owned(), text.replace('\n', "\r\n")] {
            for token in [Some("t0k3n"), None] {
                let front = Front { programs: true, ..kept_by(token) };
                let client = called(id).unwrap();
                let (after, changed, _) = adopted_by(&front, client, &text);
                programs += changed.iter().filter(|(entry, _)| entry.field("command").is_some()).count();
                let front = Front { known: vec!["http://127.0.0.1:7332".to_owned()], ..front };
                assert_eq!(adopted_by(&front, client, &after).0, after, "{id}: a second run changes nothing");
                assert_eq!(released_by_keeper(client, &after, &kept(&text, &changed)), text, "{id}");
            }
        }
    }
    assert!(programs >= 20, "{programs}");
}

#[test]
fn what_a_service_can_not_start_as_its_client_does_is_left() {
    for (id, entry, why) in [
        ("cursor", r#"{"command": "npx", "env": {"K": "${env:K}"}}"#, "its variable `K` has a variable"),
        ("cursor", r#"{"command": "npx", "envFile": ".env"}"#, "`envFile` is for Cursor alone"),
        ("cursor", r#"{"command": "./x"}"#, "relative to the folder"),
        ("cursor", r#"{"command": "node", "args": ["./x"]}"#, "relative to the folder"),
        ("cursor", r#"{"command": "node", "cwd": "x"}"#, "relative to the folder"),
        ("cursor", r#"{"command": "node", "args": [1]}"#, "not all of its `args` are texts"),
        ("cursor", r#"{"command": "node", "env": {"K": 1}}"#, "its variable `K` is no text"),
        ("claude-desktop", r#"{"command": "npx"}"#, "reaches no HTTP server by itself"),
    ] {
        let client = called(id).unwrap();
        let text = format!("{{\"mcpServers\": {{\"a\": {entry}}}}}");
        let (after, _, said) = adopted_by(&Front { programs: true, ..kept_by(Some("t0k3n")) }, client, &text);
        assert!(after == text && said.contains(why), "{entry}: {said}");
    }
    // With a folder of its own, a path in it is known.
    let text = r#"{"mcpServers": {"a": {"command": "./x", "cwd": "/n"}}}"#;
    let front = Front { programs: true, ..kept_by(Some("t0k3n")) };
    assert!(adopted_by(&front, called("cursor").unwrap(), text).0.contains("/a/mcp"));
}

#[test]
fn a_program_keeps_its_words_and_its_environment() {
    let json = |entry: &str| format!("{{\"mcpServers\": {{\"My Files\": {entry}}}}}");
    let toml = "[mcp_servers.git]\ncommand = 'uvx'\nargs = [\n  \"mcp-server-git\", # of the team\n]\n";
    for (id, text, command, args) in [
        (
            "cursor",
            json(r#"{"command": "npx", "args": ["-y", "files@${env:V}"], "env": {"KEY": "s3cret"}}"#),
            "npx",
            &["-y", "files@${env:V}"][..],
        ),
        ("cursor", json(r#"{"command": "/opt/files", "args": []}"#), "/opt/files", &[]),
        ("claude-desktop", json("{\n  \"command\": \"files\"\n}"), "files", &[]),
        ("codex", toml.to_owned(), "uvx", &["mcp-server-git"]),
    ] {
        let client = called(id).unwrap();
        let (after, changed, _) = adopted_by(&before_programs(), client, &text);
        let entry = &client.read(&after).unwrap()[0];
        let name = if id == "codex" { "git" } else { "my-files" };
        assert_eq!(entry.text("command"), Some("/usr/bin/relatch"), "{after}");
        assert_eq!(arguments(entry), [&["stdio", "--name", name, "--", command], args].concat(), "{after}");
        assert_eq!(text.matches("s3cret").count(), after.matches("s3cret").count());
        assert_eq!(released(client, &after, &kept(&text, &changed)), text);
        // Without a record the same program is started; of the layout only its list of words is written anew.
        let again = released(client, &after, &[]);
        let entry = &client.read(&again).unwrap()[0];
        assert_eq!((entry.text("command"), arguments(entry)), (Some(command), args.to_vec()), "{again}");
    }
}

#[test]
fn what_realistic_files_become() {
    for (at, (id, text)) in FILES.iter().enumerate() {
        let (after, _, said) = adopted(called(id).unwrap(), text);
        insta::assert_snapshot!(format!("{id}_{at}"), format!("{said}\n{after}"));
    }
}

#[test]
fn no_secret_is_on_a_command_line_and_all_are_where_they_were() {
    for (id, text) in FILES {
        let client = called(id).unwrap();
        let (after, ..) = adopted(client, text);
        for entry in client.read(&after).unwrap().iter().filter(|entry| is_adopted(entry)) {
            let line = arguments(entry).join(" ");
            assert!(!line.contains("s3cret") && !line.contains("sk-ak"), "{id}: {line}");
            // `${…}` would be filled in on the command line by clients that know it; Codex knows none.
            assert!(*id == "codex" || !line.contains('$'), "{id}: {line}");
        }
        assert_eq!(text.matches("s3cret").count(), after.matches("s3cret").count(), "{id}");
    }
}

#[test]
fn what_a_client_writes_anew_is_released_and_edits_around_it_stay() {
    let client = called("claude-code").unwrap();
    let text = FILES[0].1;
    let (after, changed, _) = adopted(client, text);
    // As Claude Code does at every start: other blanks, another number.
    let rewritten = super::json::essence(&after).unwrap().concat();
    let rewritten = rewritten.replace("\"numStartups\":34", "\"numStartups\":35");
    assert!(!rewritten.contains('\n') && rewritten.contains(":35"));
    let back = released(client, &rewritten, &kept(text, &changed));
    let mut expected: serde_json::Value = serde_json::from_str(text).unwrap();
    expected["numStartups"] = 35.into();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&back).unwrap(), expected);
}

#[test]
fn an_entry_that_was_edited_is_not_touched_without_force() {
    let client = called("cursor").unwrap();
    let text = FILES[3].1;
    let (after, changed, _) = adopted(client, text);
    let edited = after.replace("\"gmail\"]", "\"gmail\", \"--hold\", \"5m\"]");
    assert_ne!(edited, after);
    let entry = client.read(&edited).unwrap().remove(0);
    let kept = kept(text, &changed);
    let record = || Some(Kept { original: &kept[0].1, written: &kept[0].2, address: None });
    let original = vec!["{ \"url\": \"http://127.0.0.1:8761/mcp\" }".to_owned()];
    assert_eq!(undo::judge(client, &edited, &entry, record(), false), Undoing::Changed(original));
    assert!(matches!(undo::judge(client, &edited, &entry, record(), true), Undoing::Restore(_)));
    match undo::judge(client, &edited, &entry, None, false) {
        Undoing::Rebuild(_, lost) => assert_eq!(lost, ["--hold"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_record_what_can_be_is_put_together_from_the_entry() {
    for (at, (id, text)) in FILES.iter().enumerate() {
        let client = called(id).unwrap();
        let (after, changed, _) = adopted(client, text);
        let back = released(client, &after, &[]);
        insta::assert_snapshot!(format!("rebuilt_{id}_{at}"), back);
        // What is adopted again becomes what it was.
        let again = adopted(client, &back).0;
        for (entry, _) in &changed {
            let of = |text: &str| {
                let found =
                    client.read(text).unwrap().into_iter().find(|e| e.place() == entry.place()).unwrap();
                let mut words: Vec<String> =
                    arguments(&found).iter().map(|word| (*word).to_owned()).collect();
                words.sort();
                words
            };
            assert_eq!(of(&again), of(&after), "{id} {}", entry.name);
        }
    }
}

#[test]
fn what_realistic_files_become_before_a_keeper() {
    for (at, (id, text)) in FILES.iter().enumerate() {
        let (after, _, said) = adopted_by(&kept_by(Some("t0k3n")), called(id).unwrap(), text);
        insta::assert_snapshot!(format!("served_{id}_{at}"), format!("{said}\n{after}"));
    }
}

#[test]
fn entries_before_a_keeper_are_released_byte_for_byte_and_a_second_run_changes_nothing() {
    let commented = "[mcp_servers.a]\nurl = \"http://h/\"\n\n[mcp_servers.a.http_headers]\n# one\nA = \"1\"\n# two\nB = \"2\" # last\n# after\n";
    let more = [("codex", commented)];
    for (id, text) in FILES.iter().chain(&more) {
        for text in [(*text).to_owned(), text.replace('\n', "\r\n")] {
            for token in [Some("t0k3n"), None] {
                let (front, client) = (kept_by(token), called(id).unwrap());
                let (after, changed, _) = adopted_by(&front, client, &text);
                assert_eq!(after.contains("Relatch-Token"), token.is_some() && !changed.is_empty(), "{id}");
                assert_eq!(adopted_by(&front, client, &after).0, after, "{id}");
                assert_eq!(released_by_keeper(client, &after, &kept(&text, &changed)), text, "{id}");
            }
        }
    }
}

#[test]
fn what_only_a_client_can_fill_in_or_reach_stays_with_it() {
    for (id, entry, why) in [
        (
            "claude-code",
            r#"{"type": "http", "url": "${BASE}/mcp"}"#,
            "its address has a variable that Claude Code",
        ),
        (
            "vscode",
            r#"{"type": "http", "url": "http://h/", "headers": {"A": "${input:t}"}}"#,
            "its header `A` has a variable that VS Code fills in, which a service can't; `--via stdio`",
        ),
        ("gemini", r#"{"httpUrl": "http://h/", "headers": {"A": "$T"}}"#, "its header `A` has a variable"),
        ("claude-desktop", r#"{"url": "http://h/"}"#, "reaches no HTTP server by itself; `--via stdio`"),
        ("cursor", r#"{"url": "http://h/", "headers": {"A": "1", "a": "2"}}"#, "`a` stands twice"),
        ("cursor", r#"{"url": "http://h/", "env": {}}"#, "`env` besides"),
    ] {
        let client = called(id).unwrap();
        let text = format!("{{\"{}\": {{\"a\": {entry}}}}}", client.tables[0][0]);
        let found = client.read(&text).unwrap().remove(0);
        match judge(client, &text, &found, &kept_by(None), false) {
            Judgement::Left(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{entry}: {other:?}"),
        }
    }
}

#[test]
fn an_entry_that_points_to_a_keeper_and_of_which_nothing_was_kept_is_left_and_named() {
    let client = called("cursor").unwrap();
    let text = r#"{"mcpServers": {"a": {"url": "http://h/a/mcp", "headers": {"Relatch-Token": "t"}}}}"#;
    let entry = client.read(text).unwrap().remove(0);
    assert_eq!(judge(client, text, &entry, &front(), false), Judgement::Adopted);
    match undo::judge(client, text, &entry, None, false) {
        Undoing::Left(why) => assert!(why.contains("nothing was kept of it"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_can_not_be_kept_in_effect_is_left_with_its_reason() {
    for (id, entry, why) in [
        ("claude-code", r#"{"type": "http", "url": "h"}"#, "its address can't be used"),
        ("claude-code", r#"{"type": "http", "url": "unix:///x"}"#, "neither `http` nor `https`"),
        ("claude-code", r#"{"type": "http", "url": "http://me:pw@h/"}"#, "user or password"),
        ("claude-code", r#"{"type": "http", "url": "http://h/", "headers": {"A": 1}}"#, "`A` is no text"),
        (
            "claude-code",
            r#"{"type": "http", "url": "http://h/", "headers": {"Host": "x"}}"#,
            "`Host` can't be sent",
        ),
        (
            "claude-code",
            r#"{"type": "http", "url": "http://h/", "headers": {"A": "${B:-${C}}"}}"#,
            "inside a variable",
        ),
        ("claude-code", r#"{"type": "http", "url": "http://h/", "url": "http://i/"}"#, "`url` stands twice"),
        (
            "claude-code",
            r#"{"type": "http", "url": "http://h/", "headers": {"A": "1", "A": "2"}}"#,
            "`A` stands twice",
        ),
        ("claude-code", r#"{"type": "http", "url": "http://h/", "args": []}"#, "`args` besides"),
        ("claude-code", r#"{"type": "http", "url": "http://h/", "oauth": {}}"#, "come from `oauth`"),
        (
            "claude-code",
            r#"{"type": "http", "url": "http://h/", "headers": {"A": "b"}, "env": {}}"#,
            "`env` besides",
        ),
        ("cursor", r#"{"url": "http://h/", "headers": "x"}"#, "are no table"),
        ("gemini", r#"{"httpUrl": "http://h/mcp?$top=1"}"#, "its address has a `$`"),
        ("gemini", r#"{"httpUrl": "http://h/", "headers": {"A": "a $1"}}"#, "`A` has a `$`"),
        ("vscode", r#"{"type": "http", "url": "unix:///tmp/s.sock"}"#, "neither `http` nor `https`"),
    ] {
        let client = called(id).unwrap();
        let text = format!("{{\"{}\": {{\"a\": {entry}}}}}", client.tables[0][0]);
        let found = client.read(&text).unwrap().remove(0);
        match judge(client, &text, &found, &front(), false) {
            Judgement::Left(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{entry}: {other:?}"),
        }
    }
}

#[test]
fn an_address_that_may_have_a_key_in_it_is_on_no_command_line() {
    for (url, secret) in [
        ("http://127.0.0.1:8761/mcp", false),
        ("https://mcp.example.com/v1/servers/mail", false),
        ("https://mcp.example.com/mcp?key=1", true),
        ("https://mcp.example.com/mcp/sk-ak-Zm9vYmFyYmF6cXV4MTIz/", true),
        ("https://mcp.example.com/3f2504e0-4f89-11d3-9a0c-0305e82c3301/mcp", true),
        ("https://a-very-long-name-of-a-host-that-is-not-a-key-1.example.com/mcp", false),
    ] {
        assert_eq!(may_be_secret(url), secret, "{url}");
    }
}

#[test]
fn values_are_veiled_and_variables_are_not() {
    let client = called("claude-code").unwrap();
    let text = r#"{"type": "http", "url": "http://h/?k=1", "headers": {"A": "s", "B": "Bearer ${T}", "C": "x${T}"}}"#;
    assert_eq!(secrets(client, &[text.to_owned()]), ["\"s\"", "\"x${T}\"", "\"http://h/?k=1\""]);
    assert_eq!(secrets(client, &["{broken".to_owned()]), ["{broken"]);
}

#[test]
fn an_address_with_a_variable_is_filled_in_where_the_client_does_it() {
    for (id, key, url, carried) in [
        ("gemini", "httpUrl", "https://$HOST/mcp", true),
        ("gemini", "httpUrl", "${BASE}/mcp", true),
        ("gemini", "httpUrl", "https://h/a%20b", false),
        ("cursor", "url", "${env:BASE}/mcp", true),
        ("cursor", "url", "https://h/$BASE/mcp", false),
        ("zed", "url", "https://h/mcp", false),
    ] {
        let client = called(id).unwrap();
        let text = format!("{{\"{}\": {{\"a\": {{\"{key}\": \"{url}\"}}}}}}", client.tables[0][0]);
        let (after, changed, said) = adopted(client, &text);
        assert_eq!(changed.len(), 1, "{said}");
        let in_env = after.contains(&format!("\"env\": {{ \"{ADDRESS}\": \"{url}\" }}"));
        assert_eq!(in_env, carried, "{after}");
        assert_eq!(after.contains(&format!("\"stdio\", \"{url}\"")), !carried, "{after}");
    }
}

#[test]
fn headers_that_would_share_a_variable_get_their_own() {
    let client = called("cursor").unwrap();
    let text = r#"{"mcpServers": {"a": {"url": "http://h/", "headers": {"X-A": "1", "x_a": "2"}}}}"#;
    let (after, ..) = adopted(client, text);
    assert!(after.contains(r#""env": {"RELATCH_HEADER_X_A": "1", "RELATCH_HEADER_X_A_2": "2"}"#), "{after}");
    assert!(
        after.contains(
            r#""--header-env", "X-A=RELATCH_HEADER_X_A", "--header-env", "x_a=RELATCH_HEADER_X_A_2""#
        )
    );
}

/// What may stand between two tokens.
fn gap() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        4 => Just(" ".to_owned()),
        3 => "\\n[ \\t]{0,6}",
        2 => "\\r\\n {0,4}",
        1 => "/\\* [a-z,{}:\"]{0,5} \\*/",
        1 => " // [a-z,{}\"]{0,5}\\n",
    ]
}

/// An entry with its keys in any order, anything between its tokens, and a comma at its end or none.
fn any_entry() -> impl Strategy<Value = String> {
    let headers = proptest::collection::vec(("[A-Za-z-]{1,8}", "[ -!#-\\[\\]-~]{0,12}"), 0..3);
    let fields =
        (proptest::bool::ANY, proptest::option::of(headers), proptest::bool::ANY, proptest::bool::ANY);
    let gaps = proptest::collection::vec(gap(), 60);
    (
        fields,
        proptest::sample::subsequence(vec![0, 1, 2, 3], 4),
        gaps,
        proptest::bool::ANY,
        proptest::bool::ANY,
    )
        .prop_flat_map(|(fields, order, gaps, comma, keyed)| {
            (Just((fields, gaps, comma, keyed)), Just(order).prop_shuffle())
        })
        .prop_map(|((fields, gaps, comma, keyed), order)| {
            let mut gaps = gaps.into_iter().cycle();
            let mut gap = || gaps.next().unwrap();
            let (kind, headers, timeout, _) = fields;
            let mut pairs = Vec::new();
            for at in order {
                match at {
                    0 => {
                        let query = if keyed { "?k=1" } else { "" };
                        pairs.push(("url".to_owned(), format!("\"http://127.0.0.1:8761/mcp{query}\"")));
                    }
                    1 if kind => pairs.push(("type".to_owned(), "\"http\"".to_owned())),
                    2 => {
                        let Some(headers) = &headers else { continue };
                        let mut text = format!("{{{}", gap());
                        for (n, (name, value)) in headers.iter().enumerate() {
                            let comma = if n == 0 { "" } else { "," };
                            // Names of their own, and none that relatch refuses.
                            text.push_str(&format!(
                                "{comma}{}\"X{n}-{name}\"{}:{}\"{value}\"{}",
                                gap(),
                                gap(),
                                gap(),
                                gap()
                            ));
                        }
                        text.push('}');
                        pairs.push(("headers".to_owned(), text));
                    }
                    3 if timeout => pairs.push(("timeout".to_owned(), "6e1".to_owned())),
                    _ => {}
                }
            }
            let mut text = format!("{{{}", gap());
            for (n, (key, value)) in pairs.iter().enumerate() {
                let comma = if n == 0 { "" } else { "," };
                text.push_str(&format!("{comma}{}\"{key}\"{}:{}{value}{}", gap(), gap(), gap(), gap()));
            }
            format!("{text}{}{}}}", if comma { "," } else { "" }, gap())
        })
}

proptest! {
    #[test]
    fn however_a_file_is_laid_out_release_gives_back_every_byte(entries in proptest::collection::vec((any_entry(), gap()), 1..4)) {
        let mut text = "{\"mcpServers\":{".to_owned();
        for (n, (entry, gap)) in entries.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            text.push_str(&format!("{comma}{gap}\"s{n}\":{entry}"));
        }
        text.push_str("}}");
        let client = called("cursor").unwrap();
        let (after, changed, said) = adopted(client, &text);
        prop_assert_eq!(changed.len(), entries.len(), "{}\n{}", said, text);
        prop_assert_eq!(released(client, &after, &kept(&text, &changed)), text.clone());
        // Comments are all still there.
        prop_assert_eq!(after.matches("/*").count(), text.matches("/*").count());
        prop_assert_eq!(after.matches(" // ").count(), text.matches(" // ").count());
        prop_assert_eq!(adopted(client, &after).0, after);

        let front = kept_by(Some("t0k3n"));
        let (after, changed, _) = adopted_by(&front, client, &text);
        prop_assert_eq!(after.matches("t0k3n").count(), changed.len(), "{}", text);
        prop_assert_eq!(released_by_keeper(client, &after, &kept(&text, &changed)), text);
        prop_assert_eq!(adopted_by(&front, client, &after).0, after);
    }
}
