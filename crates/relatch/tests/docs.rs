//! The pages of `docs/reference` that are made of the program: commands, codes, exit codes, the JSON of status.
//!
//! Each test renders a page and compares it with the file. `RELATCH_WRITE_DOCS=1 cargo test -p relatch --test docs` writes
//! them anew. What is written by hand is checked by `tests/docs/run.py`.

#![expect(clippy::expect_used, reason = "a test that can not go on fails")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use relatch_admin::explain::pages;
use relatch_core::health::condition::KINDS;
use relatch_wire::failure::Code;

const MADE: &str = "`RELATCH_WRITE_DOCS=1 cargo test -p relatch --test docs`";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file is what was rendered; with `RELATCH_WRITE_DOCS` it becomes so.
fn is_current(page: &str, rendered: &str) {
    let path = root().join("docs/reference").join(page);
    if std::env::var_os("RELATCH_WRITE_DOCS").is_some() {
        std::fs::write(&path, rendered).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == rendered, "docs/reference/{page} is stale: run {MADE}");
}

fn source(path: &str) -> String {
    std::fs::read_to_string(root().join("crates").join(path)).expect("a source file")
}

// --- commands -----------------------------------------------------------------------------------------------------------

fn help(command: &[String]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_relatch"))
        .args(command)
        .arg("--help")
        // Wide enough for every example, whatever terminal the test runs in.
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .output()
        .expect("relatch runs");
    assert!(out.status.success(), "relatch {} --help", command.join(" "));
    let text = String::from_utf8(out.stdout).expect("help is UTF-8");
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The commands that a help text lists.
fn below(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_page_of_commands_is_what_their_help_says() {
    let mut text = format!(
        "# Commands\n\n<!-- Made from `--help`: {MADE}. -->\n\nWhat `--help` says of each command; `-h` says it shorter.\n"
    );
    let mut commands: Vec<Vec<String>> = vec![Vec::new()];
    while !commands.is_empty() {
        let command = commands.remove(0);
        let help = help(&command);
        let title = ["relatch".to_owned()].iter().chain(&command).cloned().collect::<Vec<_>>().join(" ");
        let depth = if command.len() > 1 { "###" } else { "##" };
        let _ = write!(text, "\n{depth} {title}\n\n```text\n{}\n```\n", help.trim_end());
        let next: Vec<_> =
            below(&help).into_iter().map(|name| [command.clone(), vec![name]].concat()).collect();
        // Those below a command stand behind it, before the next one.
        commands.splice(0..0, next);
    }
    assert!(text.contains("## relatch stdio\n") && text.contains("### relatch service install\n"), "{text}");
    is_current("commands.md", &text);
}

// --- codes --------------------------------------------------------------------------------------------------------------

#[test]
fn the_page_of_codes_is_what_explain_says() {
    let mut text = format!(
        "# Error and condition codes\n\n<!-- Made from the program: {MADE}. -->\n\n\
         What `relatch explain CODE` says. An *error* ends a call: its number is the `code` of the JSON-RPC error, its word\n\
         stands in `data.relatch.code`, and `data.relatch.executed` says whether the call ran: `no`, or `unknown`. A *condition*\n\
         is a trouble that stands: `relatch status` shows it with its cause, its effect and one hint.\n"
    );
    for (word, page) in pages() {
        let error = Code::parse(word);
        let condition = KINDS.iter().find(|kind| kind.code == word);
        let _ = write!(text, "\n## {word}\n\n");
        match (error, condition) {
            (Some(error), Some(_)) => {
                let _ = write!(text, "*Error {}, and condition*", error.number());
            }
            (Some(error), None) => {
                let _ = write!(text, "*Error {}*", error.number());
            }
            (None, Some(_)) => text.push_str("*Condition*"),
            (None, None) => text.push_str("*Said in the log*"),
        }
        if let Some(kind) = condition {
            let _ = write!(text, ": {}. Hint: {}", kind.title, kind.hint);
            if kind.shows_after_ms > 0 {
                let _ = write!(text, ". Shown once it has stood for {} ms", kind.shows_after_ms);
            }
            if !kind.depends_on.is_empty() {
                let codes: Vec<_> =
                    kind.depends_on.iter().map(|code| format!("[`{code}`](#{code})")).collect();
                let _ = write!(text, ". Not shown beside {}, which explain it", codes.join(", "));
            }
            text.push('.');
        }
        let _ = write!(text, "\n\n{page}\n");
    }
    is_current("codes.md", &text);
}

#[test]
fn the_page_of_exit_codes_names_each_of_them() {
    let mut rows = String::new();
    let mut said = String::new();
    for line in source("relatch/src/exit.rs").lines() {
        if let Some(words) = line.strip_prefix("/// ") {
            said = words.trim_end_matches('.').to_owned();
        } else if let Some((_, number)) =
            line.split_once("const ").and_then(|(_, rest)| rest.split_once(": u8 = "))
        {
            let _ = writeln!(rows, "| {} | {said} |", number.trim_end_matches(';'));
        }
    }
    assert!(rows.lines().count() >= 6, "{rows}");
    is_current(
        "exit-codes.md",
        &format!(
            "# Exit codes\n\n<!-- Made from crates/relatch/src/exit.rs: {MADE}. -->\n\n\
             Scripts may rely on them; they are the same for every command.\n\n| code | meaning |\n| --- | --- |\n{rows}"
        ),
    );
}

// --- the JSON of status -------------------------------------------------------------------------------------------------

/// A struct or an enum of the schema, as its source documents it.
struct Described {
    says: String,
    /// Name, type and words.
    fields: Vec<(String, String, String)>,
    words: Vec<(String, String)>,
}

/// Reads what derives `Serialize`: doc comments, public fields, variants.
fn described(source: &str) -> BTreeMap<String, Described> {
    let mut all = BTreeMap::new();
    let (mut doc, mut serial, mut kebab) = (String::new(), false, false);
    let mut inside: Option<(String, Described)> = None;
    for line in source.lines() {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("///") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(words.trim());
            continue;
        }
        if line.starts_with("#[") {
            serial |= line.contains("Serialize");
            kebab |= line.contains("kebab-case");
            continue;
        }
        let said = std::mem::take(&mut doc);
        let name_of = |line: &str, what: &str| {
            let rest = line.strip_prefix(what)?;
            Some(rest.trim_end_matches([' ', '{']).to_owned())
        };
        if let Some((_, described)) = &mut inside {
            if line == "}" {
                if let Some((name, described)) = inside.take() {
                    all.insert(name, described);
                }
                kebab = false;
            } else if let Some((name, kind)) =
                line.strip_prefix("pub ").and_then(|line| line.split_once(": "))
            {
                described.fields.push((name.to_owned(), kind.trim_end_matches(',').to_owned(), said));
            } else if line.ends_with(',') {
                let mut word = String::new();
                for (n, c) in line.trim_end_matches(',').chars().enumerate() {
                    if kebab && c.is_uppercase() && n > 0 {
                        word.push('-');
                    }
                    word.extend(c.to_lowercase());
                }
                described.words.push((word, said));
            }
        } else if let Some(name) = name_of(line, "pub struct ").or_else(|| name_of(line, "pub enum ")) {
            if std::mem::take(&mut serial) && line.ends_with('{') {
                inside = Some((name, Described { says: said, fields: Vec::new(), words: Vec::new() }));
            }
        } else if !line.is_empty() {
            serial = false;
        }
    }
    all
}

/// A type, as JSON has it, and the struct or enum that it leads to.
fn json_type(kind: &str, all: &BTreeMap<String, Described>) -> (String, Option<String>) {
    let inner = |prefix: &str| kind.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
    if let Some(kind) = inner("Option<") {
        let (text, next) = json_type(kind, all);
        return (format!("{text} or null"), next);
    }
    if let Some(kind) = inner("Vec<") {
        let (text, next) = json_type(kind, all);
        return (format!("list of {text}"), next);
    }
    match kind {
        "u32" | "u64" | "usize" => ("integer".into(), None),
        "f64" => ("number".into(), None),
        "bool" => ("boolean".into(), None),
        "String" => ("text".into(), None),
        "Timestamp" => ("date".into(), None),
        name => {
            assert!(all.contains_key(name), "the schema has a type that the page does not know: {name}");
            (format!("[{name}](#{})", name.to_lowercase()), Some(name.to_owned()))
        }
    }
}

#[test]
fn the_page_of_status_has_every_field_with_its_meaning() {
    let mut all = described(&source("relatch-admin/src/schema.rs"));
    all.extend(described(&source("relatch-core/src/health/report.rs")));
    let mut text = format!(
        "# The JSON of status\n\n\
         <!-- Made from crates/relatch-admin/src/schema.rs and crates/relatch-core/src/health/report.rs: {MADE}. -->\n\n\
         `relatch status --json` and `GET /api/status` of `serve` print one object, [Status](#status). Fields are added, never\n\
         renamed; `schema` changes only if a field has to change its meaning. Dates are RFC 3339 in UTC. A value that is not\n\
         known is null. A field that ends in `_ms`, or is called `ms`, is in milliseconds, as are `p50` and `p99`.\n"
    );
    let mut due = vec!["Status".to_owned()];
    let mut done = Vec::new();
    while !due.is_empty() {
        let name = due.remove(0);
        if done.contains(&name) {
            continue;
        }
        let Some(described) = all.get(&name) else { panic!("{name} is not described") };
        let _ = write!(text, "\n## {name}\n\n{}\n\n", described.says);
        if described.words.is_empty() {
            text.push_str("| field | type | meaning |\n| --- | --- | --- |\n");
        } else {
            text.push_str("| word | meaning |\n| --- | --- |\n");
        }
        for (field, kind, says) in &described.fields {
            let (kind, next) = json_type(kind, &all);
            let says = says.replace("[`SCHEMA`]", "The version of the schema: 1");
            assert!(!says.is_empty(), "{name}.{field} is not documented");
            let _ = writeln!(text, "| `{field}` | {kind} | {} |", says.trim_end_matches('.'));
            due.extend(next);
        }
        for (word, says) in &described.words {
            assert!(!says.is_empty(), "{name}::{word} is not documented");
            let _ = writeln!(text, "| `{word}` | {} |", says.trim_end_matches('.'));
        }
        done.push(name);
    }
    for name in ["ServerStatus", "Facets", "Totals", "State", "NoAnswer"] {
        assert!(done.iter().any(|done| done == name), "{name} was not reached");
    }
    assert!(text.contains("| `broken-off` |"), "words are spelled as the schema spells them");
    is_current("status.md", &text);
}

// --- pages of the root that the book has, too ---------------------------------------------------------------------------

/// Links become their text: what they lead to is not in the book.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("](") {
        let (before, behind) = rest.split_at(at);
        match (before.rfind('['), behind.find(')')) {
            (Some(open), Some(close)) => {
                out.push_str(&before[..open]);
                out.push_str(&before[open + 1..]);
                rest = &behind[close + 1..];
            }
            (None, _) | (_, None) => {
                out.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[test]
fn the_book_has_the_glossary_and_the_threat_model_as_they_are() {
    for (from, page) in [("GLOSSARY.md", "glossary.md"), ("SECURITY.md", "../concepts/threats.md")] {
        let text = std::fs::read_to_string(root().join(from)).expect("a page of the root");
        let (title, rest) = text.split_once('\n').expect("it begins with its title");
        let made = format!("{title}\n\n<!-- Made from {from}: {MADE}. -->\n{rest}");
        is_current(page, &without_links(&made));
    }
}
