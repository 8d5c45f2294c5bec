//! What files say, and what relatch says of files that are wrong: words that people read, so they are kept whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use relatch_core::policy::Transport;

use super::fault::Faulty;
use super::read::{Follow, read};
use super::refer::World;
use super::{Config, Where, keys};
use crate::render::{self, Style};

/// A world of these variables and files.
#[derive(Default)]
struct Made {
    variables: BTreeMap<&'static str, &'static str>,
    files: BTreeMap<&'static str, (&'static str, bool)>,
}

impl World for Made {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| (*value).to_owned())
    }

    fn variables(&self) -> Vec<String> {
        self.variables.keys().map(|name| (*name).to_owned()).collect()
    }

    fn file(&self, path: &Path) -> Result<(String, bool), String> {
        let found = path.to_str().and_then(|path| self.files.get(path));
        found.map(|(text, open)| ((*text).to_owned(), *open)).ok_or("is not there".to_owned())
    }
}

fn made() -> Made {
    Made {
        variables: [
            ("HOME", "/home/u"),
            ("GMAIL_TOKEN", "s3cret-of-env"),
            ("EMPTY", ""),
            ("PORT", "8761"),
            ("API_KEY", "s3cret-key"),
            ("LINES", "s3cret\nline"),
        ]
        .into(),
        files: [
            ("/etc/relatch/token", ("s3cret-of-file\n", false)),
            ("/home/u/open", ("s3cret-open\r\n", true)),
            ("/etc/relatch/empty", ("\n", false)),
        ]
        .into(),
    }
}

fn reads(text: &str) -> Config {
    let path = Path::new("/etc/relatch");
    read(text, path, &made(), Follow::All).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// Everything that is said of a faulty file, as it is printed.
fn said(text: &str) -> String {
    said_following(text, Follow::All)
}

fn said_following(text: &str, follow: Follow<'_>) -> String {
    let faults = match read(text, Path::new("/etc/relatch"), &made(), follow) {
        Ok(config) => panic!("nothing is wrong with it: {config:#?}"),
        Err(faults) => faults,
    };
    let failure = render::Failure::from(Faulty { path: PathBuf::from("/etc/relatch/relatch.toml"), faults });
    assert_eq!(failure.exit, crate::exit::USAGE);
    let text = render::failure_text(&failure, Style::Plain);
    assert!(!text.contains("s3cret"), "{text}");
    text
}

#[test]
fn a_whole_file_is_read() {
    let config = reads(
        r#"
[serve]
listen = "[::1]:0"
state_dir = "~/state"
no_token = true
allow_host = ["A.example", "b"]

[hooks]
on_change = "notify --title 'a b'"
webhook = "https://h/${GMAIL_TOKEN}"

[server.gmail]
url = "http://127.0.0.1:${PORT}/mcp?key=${file:token}&v=1"
hold = "5m"
stateful = true
replay = { "send_draft" = "always", "send_*" = "never", "a" = "always" }
gateway_errors = "refused"

[server.gmail.headers]
Authorization = "Bearer ${GMAIL_TOKEN}"
X-Plain = "costs $${5} and $3"
X-Open = "${file:~/open}"

[server.files]
url = "http://127.0.0.1:8931/mcp"
transport = "sse"
"#,
    );
    assert_eq!(config.listen.unwrap().value.to_string(), "[::1]:0");
    assert_eq!(config.state_dir.unwrap().value, Path::new("/home/u/state"));
    assert!(config.no_token.unwrap().value);
    assert_eq!(config.allow_hosts.unwrap().value, ["a.example", "b"]);
    assert_eq!(config.on_change.unwrap().value, ["notify", "--title", "a b"]);
    assert_eq!(config.webhook.unwrap().value.value, "https://h/s3cret-of-env");
    let [gmail, files] = &config.servers[..] else { panic!("two servers") };
    assert_eq!((gmail.name.as_str(), gmail.line), ("gmail", 12));
    let Where::Url(url) = &gmail.place else { panic!("it has no address") };
    assert_eq!(url.value.value, "http://127.0.0.1:8761/mcp?key=s3cret-of-file&v=1");
    assert_eq!(url.value.shown_address(), "http://127.0.0.1:8761/mcp?key=${file:token}&v=…");
    assert_eq!(gmail.hold.as_ref().unwrap().value, 300_000);
    assert!(gmail.stateful.as_ref().unwrap().value && gmail.gateway_errors.as_ref().unwrap().value);
    // The first match counts, so the order of the file is kept.
    let replay: Vec<_> =
        gmail.replay.iter().flat_map(|set| &set.value).map(|(glob, _)| glob.as_str()).collect();
    assert_eq!(replay, ["send_draft", "send_*", "a"]);
    let headers: Vec<_> = gmail
        .headers
        .iter()
        .map(|(name, set)| (name.as_str(), set.value.value.as_str(), set.value.shown_secret()))
        .collect();
    assert_eq!(
        headers,
        [
            ("Authorization", "Bearer s3cret-of-env", "Bearer ${GMAIL_TOKEN}".to_owned()),
            ("X-Plain", "costs ${5} and $3", "…".to_owned()),
            ("X-Open", "s3cret-open", "${file:~/open}".to_owned()),
        ]
    );
    assert_eq!(config.open_files, [Path::new("/home/u/open")]);
    assert!(files.headers.is_empty() && files.hold.is_none());
    let transport = files.transport.as_ref().map(|set| set.value);
    assert_eq!((transport, &gmail.transport), (Some(Transport::Sse), &None));
}

#[test]
fn nothing_that_is_debugged_shows_a_secret() {
    let config =
        reads("[server.a]\nurl = \"http://h/${GMAIL_TOKEN}\"\nheaders = { A = \"${file:token}\" }\n");
    assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
}

#[test]
fn the_way_to_a_server_is_read_and_what_is_wrong_with_it_shows_no_secret() {
    let config = reads(
        "[server.a]\nurl = \"unix:/run/a.sock\"\n[server.b]\nurl = \"https://h/\"\nca = \"ca.pem\"\ncert = \"~/c.pem\"\n\
         key = \"/k.pem\"\nproxy = \"http://me:${GMAIL_TOKEN}@p:1\"\n[server.c]\nurl = \"https://h/\"\nproxy = \"none\"\n",
    );
    let [_, b, _] = &config.servers[..] else { panic!("three servers") };
    let paths: Vec<_> = [&b.ca, &b.cert, &b.key].map(|set| set.as_ref().unwrap().value.clone()).into();
    assert_eq!(paths, ["/etc/relatch/ca.pem", "/home/u/c.pem", "/k.pem"].map(PathBuf::from));
    assert_eq!(b.proxy.as_ref().unwrap().value.value, "http://me:s3cret-of-env@p:1");
    for (line, words) in [
        (
            "proxy = \"socks5://me:s3cret@p:1\"",
            "relatch speaks to `http://` and `https://` proxies, and not to `socks5://`",
        ),
        ("proxy = \"http://me:s3cret@p:1/path\"", "the address of a proxy ends with its port"),
        ("proxy = \"socks5://me:${GMAIL_TOKEN}@p\"", "With the values of its `${…}`, `proxy` is no proxy"),
        ("key = \"-----BEGIN PRIVATE KEY-----s3cret\"", "`key` is the name of a file"),
        ("ca = \"\"", "it names no file"),
        ("cert = 1", "`cert` is text in quotes, and this is a number"),
    ] {
        let said = said(&format!("[server.a]\nurl = \"https://h/\"\n{line}\n"));
        assert!(said.contains(words) && !said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_command_has_no_transport() {
    let text = said("[server.a]\ncommand = \"npx\"\ntransport = \"sse\"\n");
    assert!(text.contains("`[server.a]` is a command, which takes no `transport`"), "{text}");
}

#[test]
fn an_empty_file_says_nothing() {
    assert_eq!(reads("# nothing\n"), Config::default());
}

#[test]
fn keys_that_nobody_knows_are_all_named_with_the_nearest() {
    insta::assert_snapshot!(said(
        r#"lisen = "127.0.0.1:1"
hold = "45s"

[servers.a]
url = "http://h/"

[server.gmail]
url = "http://127.0.0.1:8761/mcp"
hodl = "45s"
header = { Authorization = "Bearer s3cret" }
gateway-errors = "refused"
florist = 1
listen = "127.0.0.1:2"

[server.Gmail]
ulr = "http://127.0.0.1:8761/mcp"

[server."two words"]
url = "http://h/"

[server]
url = "http://h/"
"#
    ));
}

#[test]
fn values_of_the_wrong_sort_are_all_named() {
    insta::assert_snapshot!(said(
        r#"serve = "x"
[hooks]
on_change = "notify 'x"
webhook = "http://example.com/s3cret"

[server.a]
url = 8761
hold = 45
stateful = "yes"
replay = { "send_*" = "nevr", "b" = true }
gateway_errors = "refuse"
transport = "ssh"
headers = [["A", "s3cret"]]

[server.b]
hold = "45"
headers = { Host = "s3cret", "A:b s3cret" = "", X = 1, authorization = "s3cret", Authorization = "s3cret", Y = "s3cret\u0007" }

[server.c]
url = "127.0.0.1:8761/mcp"

[server.d]
url = "http://me:s3cret@h/mcp?key=s3cret"

[server.e]
url = "ftp://h/"
"#
    ));
}

#[test]
fn what_serve_is_told_wrongly_is_named() {
    insta::assert_snapshot!(said(
        r#"
[serve]
listen = "7332"
allow_host = ["a b", 7]
no_token = "true"
state_dir = ""
port = 7332
[hooks]
on_change = []
webhook = 5
"#
    ));
}

#[test]
fn references_that_lead_nowhere_are_all_named() {
    insta::assert_snapshot!(said(
        r#"[server.gmail]
url = "http://127.0.0.1:${PROT}/mcp"

[server.gmail.headers]
A = "Bearer ${GMAIL_TOKN}"
B = "${EMPTY} and ${file:missing}"
C = "${file:}${file:empty}"
D = "Bearer ${GMAIL_TOKEN"
E = "${a b}"
F = "${LINES}"

[server.b]
url = "http://h:${GMAIL_TOKEN}/"
"#
    ));
}

#[test]
fn a_file_that_is_no_toml_is_shown_where_it_breaks() {
    insta::assert_snapshot!(said(
        r#"[server.gmail]
url = http://127.0.0.1:8761/mcp
headers = { Authorization = "Bearer s3cret }
hold "45s"
"#
    ));
}

#[test]
fn what_is_there_twice_is_named_beside_what_else_is_wrong() {
    insta::assert_snapshot!(said(
        r#"[server.gmail]
url = "http://h/"
url = "http://h/2"
hold = "soon"

[server.gmail]
url = "http://h/3"
"#
    ));
}

#[test]
fn for_one_server_the_secrets_of_another_need_not_be_there() {
    let text = "[server.a]\nurl = \"http://h/\"\n[server.b]\nurl = \"http://h/${MISSING}\"\n";
    let path = Path::new("/etc/relatch");
    assert!(read(text, path, &made(), Follow::Only("a")).is_ok());
    assert!(read(text, path, &made(), Follow::Nothing).is_ok());
    assert!(said_following(text, Follow::Only("b")).contains("no variable `MISSING`"));
    // But how they are written counts all the same.
    assert!(
        said_following("[server.b]\nurl = \"http://h/${A\"\n", Follow::Only("a")).contains("is not closed")
    );
}

#[test]
fn what_surrounds_a_command_is_read_and_its_faults_are_named() {
    let config = reads(
        "[server.a]\ncommand = [\"x\"]\nenv = { KEY = \"k-${GMAIL_TOKEN}\", EMPTY = \"\" }\ncwd = \"sub\"\ninherit_env = [\"PATH\"]\nshared = true\n\
         [server.b]\ncommand = [\"x\"]\ncwd = \"~/notes\"\n",
    );
    let program = |n: usize| match &config.servers[n].place {
        Where::Command(program) => program,
        Where::Url(_) => panic!("it has an address"),
    };
    let env: Vec<_> =
        program(0).env.iter().map(|(name, set)| (name.as_str(), set.value.value.as_str())).collect();
    assert_eq!(env, [("KEY", "k-s3cret-of-env"), ("EMPTY", "")]);
    assert_eq!(program(0).cwd.as_ref().unwrap().value, Path::new("/etc/relatch/sub"));
    assert_eq!(program(1).cwd.as_ref().unwrap().value, Path::new("/home/u/notes"));
    assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    for (keys, words) in [
        ("url = \"http://h/\"\nenv = { A = \"b\" }", "has a `url`, and `env` is for a `command`"),
        ("url = \"http://h/\"\nshared = true", "has a `url`, and `shared` is for a `command`"),
        ("command = \"x\"\nenv = [\"A=s3cret\"]", "`env` is a table of names and values"),
        ("command = \"x\"\nenv = { \"A=s3cret\" = \"\" }", "`A` can't be the name of a variable"),
        ("command = \"x\"\nenv = { A = 1 }", "`A` is text in quotes"),
        ("command = \"x\"\nenv = { A = \"${NONE}\" }", "no variable `NONE`"),
        ("command = \"x\"\ninherit_env = true", "`inherit_env` is a list of names"),
        ("command = \"x\"\ninherit_env = [\"A=s3cret\"]", "what is no name of a variable"),
        ("command = \"x\"\ncwd = \"\"", "it names no folder"),
        ("command = \"x\"\nheaders = { A = \"b\" }", "takes no `headers`"),
    ] {
        let said = said(&format!("[server.a]\n{keys}\n"));
        assert!(said.contains(words) && !said.contains("s3cret"), "{keys}: {said}");
    }
}

#[test]
fn every_key_of_the_table_is_read_and_its_example_fits() {
    for key in &keys::KEYS {
        let header = key.section.header().replace("NAME", "a");
        let url = match key.section {
            keys::Section::Server if keys::OF_COMMANDS.contains(&key.name) => "command = [\"x\"]\n",
            keys::Section::Server if !matches!(key.name, "url" | "command") => "url = \"http://h/\"\n",
            keys::Section::Serve | keys::Section::Hooks | keys::Section::Server => "",
        };
        let example = key.example.replace("HOOK_KEY", "GMAIL_TOKEN");
        let text = format!("{header}\n{url}{} = {example}\n", key.name);
        // An example that nobody reads would leave the defaults.
        let without = format!("{header}\n{url}");
        let read_without =
            read(&without, Path::new("/etc/relatch"), &made(), Follow::All).unwrap_or_default();
        assert_ne!(reads(&text), read_without, "{}", key.name);
    }
}

#[test]
fn every_option_of_serve_has_its_key() {
    use clap::CommandFactory;
    let cli = crate::cli::Cli::command();
    for name in ["serve", "stdio"] {
        let command = cli.find_subcommand(name).unwrap();
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            // In the file `headers` takes values from the environment by itself.
            if matches!(option, "config" | "help" | "name" | "header-env") {
                continue;
            }
            let option = format!("--{option}");
            assert!(keys::KEYS.iter().any(|key| key.option == option), "`{option}` of `{name}` has no key");
        }
    }
}

#[test]
fn the_schema_that_editors_read_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/relatch.schema.json");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        kept,
        super::schema::text(),
        "run `relatch config schema > docs/reference/relatch.schema.json`"
    );
}

#[test]
fn the_schema_knows_every_key_and_nothing_else() {
    let schema: serde_json::Value = serde_json::from_str(&super::schema::text()).unwrap();
    let known = |section: keys::Section| match section {
        keys::Section::Serve | keys::Section::Hooks => &schema["properties"][section.word()],
        keys::Section::Server => {
            &schema["properties"]["server"]["patternProperties"]["^[a-z0-9][a-z0-9._-]{0,63}$"]
        }
    };
    for section in keys::Section::ALL {
        let described = known(section);
        assert_eq!(described["additionalProperties"], false);
        let names: Vec<&String> = described["properties"].as_object().unwrap().keys().collect();
        assert_eq!(names.len(), section.keys().count());
        for key in section.keys() {
            let about = described["properties"][key.name]["description"].as_str().unwrap();
            assert!(about.starts_with(key.about), "{}", key.name);
        }
    }
}

/// The keys of one section as the guide has them.
fn described(section: keys::Section) -> String {
    let rows: Vec<String> = section
        .keys()
        .map(|key| {
            let default = if key.default.is_empty() { "has to be there" } else { key.default };
            format!("| `{}` | {} | {default} | `{}` |\n", key.name, key.about.replace('|', "\\|"), key.option)
        })
        .collect();
    format!(
        "### `{}`\n\n{}.\n\n| key | what it is for | without it | on the command line |\n| --- | --- | --- | --- |\n{}",
        section.header(),
        section.about(),
        rows.concat()
    )
}

#[test]
fn the_guide_describes_every_key_as_it_is() {
    let guide = include_str!("../../../../docs/guide/configuration.md");
    for section in keys::Section::ALL {
        let described = described(section);
        assert!(guide.contains(&described), "docs/guide/configuration.md has to say:\n\n{described}");
    }
    // Its examples are right.
    let examples: Vec<&str> =
        guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for text in examples {
        let config = read(text, Path::new("/etc/relatch"), &made(), Follow::Nothing);
        assert!(config.is_ok(), "{text}\n{config:#?}");
    }
}

#[test]
fn wherever_a_file_is_broken_nothing_panics_and_no_secret_is_shown() {
    let whole = r#"[serve]
listen = "127.0.0.1:7332"
[hooks]
on_change = ["notify", "s3cret"]
webhook = "https://h/s3cret"
[server.a]
url = "http://h/mcp?key=s3cret&b=${GMAIL_TOKEN}"
headers = { Authorization = "Bearer s3cret", X = '${file:token}s3cret' }
hold = "1m"
[server.b]
headers.Cookie = """
s3cret"""
url = "http://me:s3cret@h/"
[server.c.headers]
"X-Key" = "s3cret"
"#;
    let shown = |text: &str| match read(text, Path::new("/etc/relatch"), &made(), Follow::All) {
        Ok(_) => String::new(),
        Err(faults) => {
            let faulty = Faulty { path: PathBuf::from("relatch.toml"), faults };
            let failure = render::Failure::from(faulty);
            render::failure_text(&failure, Style::Plain) + &render::config::in_a_line(&failure)
        }
    };
    let mut broken = 0;
    for at in 0..whole.len() {
        let end = whole[..at].to_owned();
        let without = format!("{}{}", &whole[..at], &whole[at + 1..]);
        let with = |more: &str| format!("{}{more}{}", &whole[..at], &whole[at..]);
        for text in
            [end, without, with("\""), with("="), with("\n"), with("[x]\n"), with("ü"), with("${"), with(" ")]
        {
            let said = shown(&text);
            broken += usize::from(said.contains("error: "));
            assert!(!said.contains("s3cret"), "{text}\n\n{said}");
        }
    }
    assert!(broken > 1_000, "{broken} were faulty");
}
