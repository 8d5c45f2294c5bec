//! What is wrong with a configuration file, with the line and a mark below it; and what a file comes to.

use std::path::Path;

use relatch_core::policy::HOLD_MS;
use serde_json::{Value, json};

use relatch_admin::reload::Reloaded;
use relatch_net::upstream::proxy::ProxyAddress;

use super::{Failure, Style, Tint, clean};
use crate::cli::serve::DEFAULT_LISTEN;
use crate::config::fault::{Fault, Faulty};
use crate::config::{Loaded, Program, Server, Set, Where};

/// So many faults are shown; whoever has more mends these first.
const SHOWN: usize = 50;

/// Every fault, one below the other.
pub(crate) fn faults(faulty: &Faulty, style: Style) -> String {
    let path = faulty.path.display().to_string();
    let mut text: String =
        faulty.faults.iter().take(SHOWN).map(|fault| one(fault, &path, style) + "\n").collect();
    if let more @ 1.. = faulty.faults.len().saturating_sub(SHOWN) {
        text += &format!("and {more} more\n\n");
    }
    text
}

fn one(fault: &Fault, path: &str, style: Style) -> String {
    let mut text = format!("{} {}\n", style.tint(Tint::Bad, "error:"), clean(&fault.what));
    if let Some(place) = &fault.place {
        let number = place.line.to_string();
        let edge = " ".repeat(number.len());
        let before: String = place
            .text
            .chars()
            .take(place.column - 1)
            .map(|letter| if letter == '\t' { '\t' } else { ' ' })
            .collect();
        let mark = style.tint(Tint::Bad, &"^".repeat(place.width));
        text += &format!("{edge}--> {}:{number}:{}\n", clean(path), place.column);
        text +=
            &format!("{edge} |\n{number} | {}\n{edge} | {before}{mark}\n", place.text.replace(control, " "));
    }
    if let Some(hint) = &fault.hint {
        text += &format!("{} {}\n", style.tint(Tint::Strong, "hint:"), clean(hint));
    }
    text
}

/// A tab stays: the mark below has it, too.
fn control(letter: char) -> bool {
    letter.is_control() && letter != '\t'
}

/// All of it in one line.
pub(crate) fn sum(faulty: &Faulty) -> String {
    let path = faulty.path.display();
    match &faulty.faults[..] {
        [Fault { place: None, what, .. }] => what.clone(),
        [_] => format!("`{path}` has a fault; nothing of it is used"),
        faults => format!("`{path}` has {} faults; nothing of it is used", faults.len()),
    }
}

/// The nearest thing that is wrong and how many more there are, in one line.
pub(crate) fn in_a_line(failure: &Failure) -> String {
    let Some(faulty) = &failure.faulty else {
        let causes = failure.causes.iter().map(|cause| format!(": {cause}"));
        return failure.what.clone() + &causes.collect::<String>();
    };
    let Some(first) = faulty.faults.first() else { return sum(faulty) };
    let line = first.place.as_ref().map_or(String::new(), |place| format!("line {}: ", place.line));
    let more = match faulty.faults.len() - 1 {
        0 => String::new(),
        1 => ", and one fault more".to_owned(),
        more => format!(", and {more} faults more"),
    };
    format!("{line}{}{more}", first.what)
}

/// What a reload has changed.
pub(crate) fn reloaded(reloaded: &Reloaded, pid: u32) -> String {
    let path = reloaded.config.as_deref().unwrap_or_default();
    format!("{} (process {pid})\n{}", clean(path), changes(reloaded))
}

/// The same in the log of the keeper itself.
pub(crate) fn reloaded_by_signal(reloaded: &Reloaded) -> String {
    match (&reloaded.refused, &reloaded.config) {
        (Some(refused), _) => format!("{refused}The keeper goes on as it was\n"),
        (None, Some(path)) => format!("{} is read again\n{}", clean(path), changes(reloaded)),
        (None, None) => "There is no configuration file to read again\n".to_owned(),
    }
}

fn changes(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for name in &reloaded.added {
        text += &format!("  added    {}\n", clean(name));
    }
    for changed in &reloaded.changed {
        text += &format!("  changed  {}: {}\n", clean(&changed.name), clean(&changed.what.join(", ")));
    }
    for name in &reloaded.removed {
        text += &format!("  removed  {}\n", clean(name));
    }
    if text.is_empty() {
        text.push_str("  nothing has changed\n");
    }
    for kept in &reloaded.kept {
        text += &format!("  kept     {} until the keeper is started again\n", clean(kept));
    }
    text
}

/// Something worth a look that keeps nothing from working.
pub(crate) fn warning(words: &str) -> String {
    format!("{} {}\n", Style::stderr().tint(Tint::Busy, "warning:"), clean(words))
}

/// That a file is well.
pub(crate) fn well(loaded: &Loaded) -> String {
    let servers = super::status::count(loaded.config.servers.len(), "server");
    format!("{}: {servers}, nothing wrong\n", loaded.path.display())
}

/// The effective configuration as TOML, each value with its origin; secrets are hidden.
pub(crate) fn show(loaded: &Loaded, state_dir: &Path) -> String {
    let mut text = format!("# {}\n", loaded.path.display());
    for section in sections(loaded, state_dir) {
        text += &format!("\n[{}]\n", section.header);
        let lines: Vec<(String, String)> = section
            .values
            .iter()
            .map(|shown| (format!("{} = {}", shown.key, shown.toml), shown.origin.clone()))
            .collect();
        let width = lines
            .iter()
            .map(|(line, _)| line.chars().count())
            .filter(|width| *width <= 72)
            .max()
            .unwrap_or(0);
        for (line, origin) in lines {
            text += &format!("{line:width$}  # {origin}\n");
        }
    }
    text
}

/// The same for machines.
pub(crate) fn show_json(loaded: &Loaded, state_dir: &Path) -> Value {
    let mut all = serde_json::Map::new();
    for section in sections(loaded, state_dir) {
        let mut values = serde_json::Map::new();
        for shown in section.values {
            values.insert(
                shown.key,
                json!({ "value": shown.json, "origin": shown.origin, "line": shown.line }),
            );
        }
        all.insert(section.header, Value::Object(values));
    }
    json!({ "schema": 1, "path": loaded.path, "sections": all })
}

struct Shown {
    key: String,
    toml: String,
    json: Value,
    origin: String,
    line: Option<usize>,
}

struct Sect {
    header: String,
    values: Vec<Shown>,
}

fn sections(loaded: &Loaded, state_dir: &Path) -> Vec<Sect> {
    let config = &loaded.config;
    let listen = config.listen.as_ref().map(|set| as_text(set, &set.value.to_string()));
    let dir = config.state_dir.as_ref().map(|set| as_text(set, &set.value.display().to_string()));
    let serve = vec![
        row("listen", listen, json!(DEFAULT_LISTEN.to_string())),
        row("state_dir", dir, json!(state_dir.display().to_string())),
        row("no_token", config.no_token.as_ref().map(|set| (json!(set.value), set.line)), json!(false)),
        row("allow_host", config.allow_hosts.as_ref().map(|set| (json!(set.value), set.line)), json!([])),
    ];
    let mut hooks = Vec::new();
    if let Some(set) = &config.on_change {
        // What a program is given may be a secret.
        let words: Vec<&str> = set.value.iter().take(1).map(String::as_str).collect();
        let words = if set.value.len() > 1 { [&words[..], &["…"]].concat() } else { words };
        hooks.push(row("on_change", Some((json!(words), set.line)), Value::Null));
    }
    if let Some(set) = &config.webhook {
        let shown = set.value.shown_address();
        // The path of such an address is often its secret.
        let host = shown.find("://").map_or(0, |at| at + 3);
        let end = shown[host..].find(['/', '?']).map_or(shown.len(), |at| host + at);
        let shown = match set.value.refers() || end >= shown.len() {
            true => shown,
            false => format!("{}/…", &shown[..end]),
        };
        let mut row = row("webhook", Some((json!(shown), set.line)), Value::Null);
        row.origin = origin(set.line, &set.value.origins());
        hooks.push(row);
    }
    let mut all = vec![Sect { header: "serve".to_owned(), values: serve }];
    if !hooks.is_empty() {
        all.push(Sect { header: "hooks".to_owned(), values: hooks });
    }
    all.extend(config.servers.iter().map(server));
    all
}

fn server(server: &Server) -> Sect {
    let place = match &server.place {
        Where::Url(url) => {
            let mut shown = row("url", Some((json!(url.value.shown_address()), url.line)), Value::Null);
            shown.origin = origin(url.line, &url.value.origins());
            shown
        }
        Where::Command(Program { words, .. }) => {
            row("command", Some((json!(words.value), words.line)), Value::Null)
        }
    };
    let mut values = vec![place];
    if let Where::Command(program) = &server.place {
        values.extend(surroundings(program));
    }
    for (name, set) in &server.headers {
        let mut header =
            row(&format!("headers.{name}"), Some((json!(set.value.shown_secret()), set.line)), Value::Null);
        header.origin = origin(set.line, &set.value.origins());
        values.push(header);
    }
    let hold = server.hold.as_ref().map(|set| as_text(set, &span(set.value)));
    values.push(row("hold", hold, json!(span(HOLD_MS))));
    let stateful = server.stateful.as_ref().map(|set| (json!(set.value), set.line));
    values.push(row("stateful", stateful, json!(false)));
    if let Some(set) = &server.replay {
        let pairs: serde_json::Map<String, Value> = set
            .value
            .iter()
            .map(|(glob, always)| (glob.clone(), json!(if *always { "always" } else { "never" })))
            .collect();
        let mut replay = row("replay", Some((Value::Object(pairs), set.line)), Value::Null);
        // In the order of the file: the first match counts.
        let pairs = set.value.iter().map(|(glob, always)| {
            format!("{} = \"{}\"", json!(glob), if *always { "always" } else { "never" })
        });
        replay.toml = format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "));
        values.push(replay);
    }
    if let Some(set) = &server.tell {
        values.push(row("tell", Some((json!(set.value), set.line)), Value::Null));
    }
    if let Some(set) = &server.transport {
        values.push(row("transport", Some((json!(set.value.as_str()), set.line)), Value::Null));
    }
    for (name, set) in [("ca", &server.ca), ("cert", &server.cert), ("key", &server.key)] {
        if let Some(set) = set {
            values.push(row(name, Some(as_text(set, &set.value.display().to_string())), Value::Null));
        }
    }
    if let Some(set) = &server.proxy {
        // Shown by its own rule: scheme, host and port.
        let text = match (set.value.value.as_str(), ProxyAddress::parse(&set.value.value)) {
            ("none", _) => "none".to_owned(),
            (_, Ok(proxy)) if !set.value.refers() => proxy.to_string(),
            (_, Ok(_) | Err(_)) => set.value.shown_secret(),
        };
        let mut shown = row("proxy", Some((json!(text), set.line)), Value::Null);
        shown.origin = origin(set.line, &set.value.origins());
        values.push(shown);
    }
    if let Some(set) = &server.copies {
        values.push(row("copies", Some((json!(set.value), set.line)), Value::Null));
    }
    if let Some(set) = &server.gateway_errors {
        values.push(row("gateway_errors", Some((json!("refused"), set.line)), Value::Null));
    }
    Sect { header: format!("server.{}", server.name), values }
}

/// What surrounds a command; values of variables are hidden.
fn surroundings(program: &Program) -> Vec<Shown> {
    let mut values = Vec::new();
    for (name, set) in &program.env {
        let mut variable =
            row(&format!("env.{name}"), Some((json!(set.value.shown_secret()), set.line)), Value::Null);
        variable.origin = origin(set.line, &set.value.origins());
        values.push(variable);
    }
    if let Some(set) = &program.cwd {
        values.push(row("cwd", Some(as_text(set, &set.value.display().to_string())), Value::Null));
    }
    if let Some(set) = &program.inherit_env {
        values.push(row("inherit_env", Some((json!(set.value), set.line)), Value::Null));
    }
    if let Some(set) = &program.shared {
        values.push(row("shared", Some((json!(set.value), set.line)), Value::Null));
    }
    values
}

fn as_text<T>(set: &Set<T>, text: &str) -> (Value, usize) {
    (json!(text), set.line)
}

fn row(key: &str, given: Option<(Value, usize)>, default: Value) -> Shown {
    let (json, line) = match given {
        Some((value, line)) => (value, Some(line)),
        None => (default, None),
    };
    let origin = line.map_or("default".to_owned(), |line| format!("line {line}"));
    Shown { key: key.to_owned(), toml: json.to_string(), json, origin, line }
}

fn origin(line: usize, from: &[&str]) -> String {
    match from.is_empty() {
        true => format!("line {line}"),
        false => format!("line {line}: {}", from.join(", ")),
    }
}

/// As the file has it.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}
