//! What putting relatch in front of a server changes in its client's file: entries in, changes out. Reads and writes nothing.
//!
//! A secret stays where it is: the client's `headers` become the `env` of the entry by new names for the same values, and
//! relatch reads them from there. Nothing that may be secret goes onto a command line, which others can see.

use relatch_core::policy::Transport;

use super::clients::{Client, Format, Reached, Variables};
use super::entry::{Change, Entry, Field, New, Value, edited, edits};
use super::serve::{self, Side};
use crate::cli::parse;
use crate::config::edit::NewServer;

/// The variable that carries an address which may have a secret in it.
pub(crate) const ADDRESS: &str = "RELATCH_ADDRESS";
/// What the variables that carry headers begin with.
pub(crate) const HEADER: &str = "RELATCH_HEADER_";

/// What is to become of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Adopt(Box<Adoption>),
    /// relatch stands in front of it.
    Adopted,
    /// It stays as it is, for this reason.
    Left(String),
    /// It stays as it is, because something is in the way that can be mended.
    Refused(String),
    /// It runs as a program.
    Program,
    /// It is switched off.
    Off,
}

/// How relatch is put in front of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Adoption {
    pub(crate) changes: Vec<Change>,
    /// The address, where it is known before the client puts its variables in.
    pub(crate) url: Option<String>,
    /// How the server there is spoken to.
    pub(crate) transport: Transport,
    /// The headers that the client sends.
    pub(crate) headers: Vec<(String, String)>,
    /// The server as it is to stand in `relatch.toml`, where a keeper is to be in front of it.
    pub(crate) server: Option<Box<NewServer>>,
}

impl Adoption {
    /// Whether the client has credentials of its own for the server, or ones that only it can read.
    pub(crate) fn has_credentials(&self) -> bool {
        self.url.is_none()
            || self
                .headers
                .iter()
                .any(|(name, value)| name.eq_ignore_ascii_case("authorization") || value.contains(['$', '%']))
    }
}

/// What is put in front of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// How relatch is called in an entry: its path, or only its name in a file that others share.
    pub(crate) program: String,
    /// Whether it is put in front of servers that are programs, too.
    pub(crate) programs: bool,
    /// The keeper that entries are to point to, where they are not to start a program.
    pub(crate) side: Option<Side>,
    /// Addresses of keepers that entries may point to already.
    pub(crate) known: Vec<String>,
}

impl Front {
    /// Whether an entry reads as it should after it was adopted.
    pub(crate) fn holds(&self, client: &Client, entry: &Entry) -> bool {
        match &self.side {
            None => is_adopted(entry),
            Some(side) => serve::is_served(client, entry, std::slice::from_ref(&side.base)),
        }
    }
}

/// What is to become of a server, from its entry alone. One that is switched off is taken only when it was `named`.
pub(crate) fn judge(client: &Client, text: &str, entry: &Entry, front: &Front, named: bool) -> Judgement {
    if let Some(fault) = entry.fault {
        return Judgement::Left(fault.to_owned());
    }
    if let Some(key) = entry.repeated() {
        return Judgement::Left(format!("`{key}` stands twice in its entry"));
    }
    if is_adopted(entry) || serve::is_served(client, entry, &front.known) {
        return Judgement::Adopted;
    }
    let address = match client.reached(entry) {
        Reached::Http(key) => Some((key, Transport::Auto)),
        // What the client was told is what relatch is told.
        Reached::Sse(key) => Some((key, Transport::Sse)),
        Reached::Program if front.programs && !is_bridge(entry) => None,
        Reached::Program => return Judgement::Program,
        Reached::Unsaid => {
            return Judgement::Left("its entry names no server by HTTP and no program".to_owned());
        }
    };
    if let Some(key) = client.credentials.iter().find(|key| entry.field(key).is_some()) {
        return Judgement::Left(format!("its credentials come from `{key}`, which only the client can use"));
    }
    if client.is_off(entry) && !named {
        return Judgement::Off;
    }
    let adoption = match (address, &front.side) {
        (Some((key, transport)), Some(side)) => serve::adoption(client, entry, key, transport, side),
        (Some((key, transport)), None) => adoption(client, text, entry, (key, transport), front),
        (None, Some(side)) => serve::of_a_program(client, entry, side),
        (None, None) => of_a_program(text, entry, front),
    };
    match adoption {
        Ok(adoption) => Judgement::Adopt(Box::new(adoption)),
        Err(why) => Judgement::Left(why),
    }
}

/// Whether an entry starts `relatch stdio`.
pub(crate) fn is_adopted(entry: &Entry) -> bool {
    let Some(command) = entry.text("command") else { return false };
    let name = command.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = name.strip_suffix(".exe").unwrap_or(name);
    name == "relatch" && arguments(entry).first().is_some_and(|first| *first == "stdio")
}

/// Whether a program only brings its client to an HTTP server.
pub(crate) fn is_bridge(entry: &Entry) -> bool {
    arguments(entry).iter().any(|word| *word == "mcp-remote" || word.starts_with("mcp-remote@"))
}

/// The texts of `args`.
pub(crate) fn arguments(entry: &Entry) -> Vec<&str> {
    match entry.field("args").map(|field| &field.value) {
        Some(Value::List(list)) => list
            .iter()
            .filter_map(|value| match value {
                Value::Text(text) => Some(text.as_str()),
                Value::Flag(_) | Value::List(_) | Value::Table(..) | Value::Other => None,
            })
            .collect(),
        Some(Value::Text(_) | Value::Flag(_) | Value::Table(..) | Value::Other) | None => Vec::new(),
    }
}

/// The text of a file with the changes of some of its entries, and how those are written then.
///
/// # Errors
/// When the outcome would not read as it should: nothing may be written then.
pub(crate) fn carried_out(
    client: &Client,
    text: &str,
    chosen: &[(&Entry, &[Change])],
    holds: impl Fn(&Entry) -> bool,
) -> Result<(String, Vec<Vec<String>>), String> {
    let all = chosen.iter().flat_map(|(entry, changes)| edits(&entry.layout, changes)).collect();
    let after = edited(text, all);
    let written =
        verified(client, text, &after, &chosen.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), holds)?;
    Ok((after, written))
}

/// How the chosen entries read in the new text; every other one has to read as it did.
///
/// # Errors
/// When they do not.
pub(crate) fn verified(
    client: &Client,
    before: &str,
    after: &str,
    chosen: &[&Entry],
    holds: impl Fn(&Entry) -> bool,
) -> Result<Vec<Vec<String>>, String> {
    let wrong = |why: &str| format!("its layout is one that relatch can't edit safely ({why})");
    let old = client.read(before)?;
    let new = client.read(after).map_err(|fault| wrong(&fault))?;
    if old.len() != new.len() {
        return Err(wrong("other servers would change"));
    }
    let mut written = vec![Vec::new(); chosen.len()];
    for (was, is) in old.iter().zip(&new) {
        if was.place() != is.place() {
            return Err(wrong("other servers would change"));
        }
        match chosen.iter().position(|entry| entry.regions == was.regions) {
            Some(at) if holds(is) => written[at] = is.written(after),
            Some(_) => return Err(wrong("the entry would not read as meant")),
            None if was.written(before) != is.written(after) => {
                return Err(wrong("other servers would change"));
            }
            None => {}
        }
    }
    Ok(written)
}

/// The pieces of an entry's own text that nobody is to be shown: what its headers and variables hold, and addresses that may
/// have a key in them. What a client fills in later is none.
pub(crate) fn secrets(client: &Client, regions: &[String]) -> Vec<String> {
    let (text, entries) = match client.format {
        Format::Json(_) => {
            let text = format!("{{\"servers\": {{\"one\": {}}}}}", regions.join(""));
            let entries = super::json::entries(&text, super::json::Dialect::Comments, &[&["servers"]]);
            (text, entries)
        }
        Format::Codex => {
            let text = regions.join("\n");
            let text = if text.starts_with('{') { format!("mcp_servers.one = {text}") } else { text };
            let entries = super::codex::entries(&text);
            (text, entries)
        }
    };
    // What can't be read is not shown at all.
    let Ok(entries) = entries else { return regions.to_vec() };
    let mut found = Vec::new();
    for entry in &entries {
        collect(&text, &entry.fields, true, &mut found);
        let addresses = client.addresses.iter().filter_map(|(key, _)| entry.field(key));
        found.extend(
            addresses
                .filter(|field| matches!(&field.value, Value::Text(url) if may_be_secret(url)))
                .map(|field| text[field.value_at.clone()].to_owned()),
        );
        // A header that somebody has typed into the arguments.
        let words = arguments(entry);
        for (option, value) in words.iter().zip(words.iter().skip(1)) {
            if *option == "--header" && !is_filled_in_later(value) {
                found.push(serde_json::Value::from(*value).to_string());
            }
        }
    }
    found
}

fn collect(text: &str, fields: &[Field], outermost: bool, found: &mut Vec<String>) {
    for field in fields {
        match &field.value {
            // How tools are approved, and which variables hold what, is no secret.
            Value::Table(..) if outermost && matches!(field.key.as_str(), "tools" | "env_http_headers") => {}
            Value::Table(inner, _) => collect(text, inner, false, found),
            Value::Text(value) if !outermost && !value.is_empty() && !is_filled_in_later(value) => {
                found.push(text[field.value_at.clone()].to_owned());
            }
            Value::Text(_) | Value::Flag(_) | Value::List(_) | Value::Other => {}
        }
    }
}

/// Whether a value is a variable, at most with the name of its scheme before it.
fn is_filled_in_later(value: &str) -> bool {
    let value = value.strip_prefix("Authorization: ").unwrap_or(value);
    let value =
        ["Bearer ", "Basic ", "Token "].iter().find_map(|scheme| value.strip_prefix(scheme)).unwrap_or(value);
    value
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !name.contains(['$', '}']))
        || value.strip_prefix('$').is_some_and(|name| !name.is_empty() && is_whole_variable(value))
}

fn adoption(
    client: &Client,
    text: &str,
    entry: &Entry,
    (key, transport): (&str, Transport),
    front: &Front,
) -> Result<Adoption, String> {
    for key in ["args", "cwd", "envFile"] {
        if entry.field(key).is_some() {
            return Err(format!("it has `{key}` besides an address"));
        }
    }
    let address = entry.field(key).ok_or("it has no address")?;
    let url = entry.text(key).unwrap_or_default();
    let known = checked(client, url)?;
    let headers = headers(client, entry)?;
    let names = variables(&headers);
    // A client's own variables may be secrets, and would be filled in on the command line.
    let open = known.is_some() && !may_be_secret(url);

    let mut args = vec!["stdio".to_owned(), if open { url.to_owned() } else { format!("env:{ADDRESS}") }];
    args.extend(["--name".to_owned(), plain_name(&entry.name)]);
    if transport != Transport::Auto {
        args.extend(["--transport".to_owned(), transport.as_str().to_owned()]);
    }
    for ((field, _), variable) in headers.iter().zip(&names) {
        if !is_relatchs_own(&field.key) {
            args.extend(["--header-env".to_owned(), format!("{}={variable}", field.key)]);
        }
    }
    let mut changes = Vec::new();
    let mut instead = Vec::new();
    let from_client = if client.format == Format::Codex {
        codex_credentials(entry, &mut args, &mut changes)?
    } else {
        Vec::new()
    };
    let raw = New::Raw(text[address.value_at.clone()].to_owned());
    let carried = (!open).then(|| (ADDRESS.to_owned(), raw));
    let holder = entry.field(client.headers);
    if entry.field("env").is_some() && (holder.is_some() || carried.is_some()) {
        return Err("it has an `env` besides its headers or a secret address".to_owned());
    }
    match (holder, carried) {
        (Some(holder), carried) => {
            changes.push(Change::Rename(holder.key_at.clone(), "env".to_owned()));
            let Value::Table(fields, layout) = &holder.value else {
                return Err("its headers are no table".to_owned());
            };
            for (at, (field, variable)) in fields.iter().zip(&names).enumerate() {
                let change = match (&carried, at) {
                    (Some(carried), 0) => {
                        let value = New::Raw(text[field.value_at.clone()].to_owned());
                        Change::Replace(field.clone(), vec![carried.clone(), (variable.clone(), value)])
                    }
                    (Some(_) | None, _) => Change::Rename(field.key_at.clone(), variable.clone()),
                };
                changes.push(Change::Within(layout.clone(), Box::new(change)));
            }
            if let (Some(carried), true) = (carried, fields.is_empty()) {
                changes.push(Change::Insert(holder.value_at.start + 1, carried));
            }
        }
        (None, Some(carried)) => instead.push(("env".to_owned(), New::Table(vec![carried]))),
        (None, None) => {}
    }
    let mut pairs =
        vec![("command".to_owned(), New::Text(front.program.clone())), ("args".to_owned(), New::List(args))];
    pairs.append(&mut instead);
    pairs.extend(from_client);
    changes.push(Change::Replace(address.clone(), pairs));
    if let Some(kind) = entry.field("type") {
        changes.push(match client.stdio {
            Some(word) => Change::Set(kind.clone(), New::Text(word.to_owned())),
            None => Change::Remove(kind.clone()),
        });
    }
    if let Some(kind) = entry.field("transport") {
        changes.push(Change::Remove(kind.clone()));
    }
    Ok(Adoption {
        changes,
        url: known,
        transport,
        headers: headers.into_iter().map(|(field, value)| (field.key.clone(), value)).collect(),
        server: None,
    })
}

/// A program becomes what relatch starts: its command and its arguments follow `--` as they stand in the file, with the
/// client's variables in them; its environment stays.
fn of_a_program(text: &str, entry: &Entry, front: &Front) -> Result<Adoption, String> {
    let command = entry.field("command").ok_or("it has no command")?;
    if !matches!(command.value, Value::Text(_)) {
        return Err("its `command` is no text".to_owned());
    }
    let own = &text[command.value_at.clone()];
    let name = serde_json::Value::from(plain_name(&entry.name));
    let before = format!("[\"stdio\", \"--name\", {name}, \"--\", {own}");
    let mut changes = vec![Change::Set(command.clone(), New::Text(front.program.clone()))];
    match entry.field("args") {
        None => {
            let args = New::Raw(format!("{before}]"));
            let program = New::Text(front.program.clone());
            let pairs = vec![("command".to_owned(), program), ("args".to_owned(), args)];
            changes = vec![Change::Replace(command.clone(), pairs)];
        }
        Some(field) => {
            let Value::List(list) = &field.value else { return Err("its `args` are no list".to_owned()) };
            if !list.iter().all(|value| matches!(value, Value::Text(_))) {
                return Err("not all of its `args` are texts".to_owned());
            }
            let rest = text[field.value_at.clone()].strip_prefix('[').ok_or("its `args` are no list")?;
            let comma = match list.is_empty() {
                true => "",
                false if rest.starts_with(char::is_whitespace) => ",",
                false => ", ",
            };
            changes.push(Change::Set(field.clone(), New::Raw(format!("{before}{comma}{rest}"))));
        }
    }
    Ok(Adoption { changes, url: None, transport: Transport::Auto, headers: Vec::new(), server: None })
}

/// The address as relatch reads it, or `None` where only the client knows it whole.
pub(super) fn checked(client: &Client, url: &str) -> Result<Option<String>, String> {
    if has_variable(client, url) {
        nested(client, url)?;
        if client.variables == Variables::Shell && !has_whole_variables(url) {
            return Err(format!("its address has a `$` that {} reads otherwise in `env`", client.title));
        }
        let scheme = url.split(['$', '%']).next().unwrap_or_default();
        if !scheme.is_empty() && !scheme.starts_with("http") {
            return Err("its address is neither `http` nor `https`".to_owned());
        }
        return Ok(None);
    }
    match parse::address(url) {
        // A client that knows of sockets spells them in a way of its own.
        Ok(url) if !url.scheme().starts_with("http") => {
            Err("its address is neither `http` nor `https`".to_owned())
        }
        Ok(url) => Ok(Some(url.to_string())),
        Err(failure) => Err(format!("its address can't be used: {}", failure.causes.join(", "))),
    }
}

/// The headers of an entry: their fields and values.
pub(super) fn headers<'a>(client: &Client, entry: &'a Entry) -> Result<Vec<(&'a Field, String)>, String> {
    let Some(holder) = entry.field(client.headers) else { return Ok(Vec::new()) };
    let Value::Table(fields, _) = &holder.value else {
        return Err(format!("its `{}` are no table", client.headers));
    };
    let mut headers = Vec::new();
    for field in fields {
        let Value::Text(value) = &field.value else {
            return Err(format!("its header `{}` is no text", field.key));
        };
        if !is_relatchs_own(&field.key) {
            // Checked as if it had been typed; the value may be filled in by the client later.
            parse::literal_header(&format!("{}: {value}", field.key)).map_err(|failure| {
                format!("its header `{}` can't be sent by relatch: {}", field.key, failure.causes.join(", "))
            })?;
        }
        nested(client, value)?;
        if client.variables == Variables::Shell && !is_whole_variable(value) {
            return Err(format!(
                "its header `{}` has a `$` that {} reads otherwise in `env`",
                field.key, client.title
            ));
        }
        headers.push((field, value.clone()));
    }
    Ok(headers)
}

/// Headers that relatch sends with every request by itself, so that they need not be handed on.
pub(super) fn is_relatchs_own(name: &str) -> bool {
    name.eq_ignore_ascii_case("accept") || name.eq_ignore_ascii_case("content-type")
}

/// One variable for each header: its name in capitals, and a number where two would be the same.
fn variables(headers: &[(&Field, String)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (field, _) in headers {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name = format!("{HEADER}{}", field.key.chars().map(plain).collect::<String>());
        let mut free = name.clone();
        for number in 2.. {
            if !names.contains(&free) {
                break;
            }
            free = format!("{name}_{number}");
        }
        names.push(free);
    }
    names
}

/// Codex names variables that it reads credentials from: relatch reads them in its place, and Codex is told to pass them.
fn codex_credentials(
    entry: &Entry,
    args: &mut Vec<String>,
    changes: &mut Vec<Change>,
) -> Result<Vec<(String, New)>, String> {
    if entry.field("env_vars").is_some() {
        return Err("it has `env_vars` besides an address".to_owned());
    }
    let mut passed = Vec::new();
    if let Some(variable) = entry.text("bearer_token_env_var") {
        args.extend(["--header".to_owned(), format!("Authorization: Bearer ${{{variable}}}")]);
        passed.push(variable.to_owned());
    }
    if let Some(field) = entry.field("env_http_headers") {
        let Value::Table(fields, _) = &field.value else {
            return Err("its `env_http_headers` are no table".to_owned());
        };
        if field.key_at.start > field.value_at.start {
            return Err("its `env_http_headers` are a table of their own, which relatch does not take apart"
                .to_owned());
        }
        for field in fields {
            let Value::Text(variable) = &field.value else {
                return Err(format!("its header `{}` is no text", field.key));
            };
            args.extend(["--header-env".to_owned(), format!("{}={variable}", field.key)]);
            if !passed.contains(variable) {
                passed.push(variable.clone());
            }
        }
    }
    let mut holders = ["bearer_token_env_var", "env_http_headers"].iter().filter_map(|key| entry.field(key));
    if let Some(first) = holders.next() {
        changes.push(Change::Replace(first.clone(), vec![("env_vars".to_owned(), New::List(passed))]));
    }
    changes.extend(holders.map(|field| Change::Remove(field.clone())));
    Ok(Vec::new())
}

/// Whether an address may carry a secret: a query, or a part that looks like a key.
pub(super) fn may_be_secret(url: &str) -> bool {
    let (path, query) = url.split_once('?').map_or((url, ""), |(path, query)| (path, query));
    let keyish =
        |part: &str| part.len() >= 32 || part.len() >= 16 && part.contains(|c: char| c.is_ascii_digit());
    let host_and_path = path.split_once("://").map_or(path, |(_, rest)| rest);
    !query.is_empty() || host_and_path.split('/').skip(1).any(keyish)
}

pub(super) fn has_variable(client: &Client, text: &str) -> bool {
    match client.variables {
        Variables::None => false,
        Variables::Braces | Variables::BracesOnce => text.contains("${"),
        Variables::Shell => text.contains('$') || has_percent_variable(text),
    }
}

/// `%NAME%`, which Gemini CLI knows on Windows.
fn has_percent_variable(text: &str) -> bool {
    let pieces: Vec<&str> = text.split('%').collect();
    let inner = pieces.get(1..pieces.len().saturating_sub(1)).unwrap_or_default();
    inner.iter().any(|piece| is_variable_name(piece))
}

fn is_variable_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Claude Code looks into a default inside a default in headers only.
fn nested(client: &Client, text: &str) -> Result<(), String> {
    if client.variables != Variables::BracesOnce {
        return Ok(());
    }
    let inside = text.split("${").skip(1).any(|part| !part.contains('}'));
    if inside {
        return Err(format!(
            "it has a variable inside a variable, which {} reads otherwise in `env`",
            client.title
        ));
    }
    Ok(())
}

/// No `$`, or only variables that stand by themselves: `$KEY`, `Bearer ${KEY}`.
fn is_whole_variable(value: &str) -> bool {
    value.split(' ').all(|word| match word.strip_prefix('$') {
        None => !word.contains('$') && !has_percent_variable(word),
        Some(rest) => {
            is_variable_name(rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(rest))
        }
    })
}

/// The same in an address, where parts are set off by `/`: `https://$HOST/mcp`, `${BASE}/mcp`.
fn has_whole_variables(url: &str) -> bool {
    let path = url.split('?').next().unwrap_or_default();
    !url[path.len()..].contains('$') && path.split('/').all(is_whole_variable)
}

/// The server's name as relatch's own tables can show it.
pub(super) fn plain_name(name: &str) -> String {
    let plain = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }
    };
    let name: String = name.chars().map(plain).collect();
    let name: String =
        name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(64).collect();
    if name.is_empty() { "server".to_owned() } else { name }
}
