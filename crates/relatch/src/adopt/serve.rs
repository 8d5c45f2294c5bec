//! What putting a running `relatch serve` in front of a server changes: its entry points to the keeper, and the server goes
//! into `relatch.toml` with its address and headers, or with its command, variables and folder. Entries in, changes and servers out; reads and writes nothing.
//!
//! A keeper has another environment than a client: what only the client fills in stays where it is.

use std::path::Path;

use relatch_admin::schema::shown_url;
use relatch_core::policy::Transport;
use serde::{Deserialize, Serialize};
use toml_edit::DocumentMut;

use super::clients::{Bare, Client, Reached};
use super::entry::{Change, Entry, Field, New, Value};
use super::plan::{Adoption, checked, has_variable, headers, is_relatchs_own, may_be_secret, plain_name};
use super::undo::gone;
use crate::cli::parse;
use crate::config::edit::NewServer;
use crate::config::{Server, Where};

/// The header by which clients show the keeper that they are the user's.
pub(crate) const TOKEN: &str = "Relatch-Token";
const INSTEAD: &str = "`--via stdio` can stand in front of it";

/// The keeper, as entries reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// Its address, without a path.
    pub(crate) base: String,
    /// What clients show it; none where it wants none.
    pub(crate) token: Option<String>,
}

impl Side {
    /// Where a server is found below it.
    pub(crate) fn address(&self, name: &str) -> String {
        format!("{}/{name}/mcp", self.base)
    }
}

/// What `relatch.toml` got for an adopted entry, as it is kept for `release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served {
    /// The file, as it was named.
    pub(crate) config: std::path::PathBuf,
    /// The server's name in it.
    pub(crate) name: String,
    /// The keeper's address when it was adopted, without a path.
    pub(crate) base: String,
    /// Whether `adopt` has put the server there; otherwise it was there before.
    pub(crate) added: bool,
    /// The server, as it was written: its address with its headers, or its command with what surrounds it.
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) env: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cwd: Option<String>,
    /// How it is spoken to, where that was written.
    #[serde(default)]
    pub(crate) transport: Option<String>,
}

impl Served {
    /// The server, as it was written.
    pub(crate) fn server(&self) -> NewServer {
        NewServer {
            name: self.name.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            command: self.command.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            transport: self.transport.as_deref().and_then(|word| parse::transport(word).ok()),
            ..NewServer::default()
        }
    }

    /// The address in the entry.
    pub(crate) fn address(&self) -> String {
        format!("{}/{}/mcp", self.base, self.name)
    }
}

/// Whether a server is to be written into `relatch.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    New,
    /// It is there, the same.
    There,
}

/// Whether an entry points to a keeper: by the token's header, or by the address of one of these.
pub(crate) fn is_served(client: &Client, entry: &Entry, bases: &[String]) -> bool {
    let Reached::Http(key) = client.reached(entry) else { return false };
    let Some(url) = entry.text(key) else { return false };
    let has_token = match entry.field(client.headers).map(|field| &field.value) {
        Some(Value::Table(fields, _)) => fields.iter().any(|field| field.key.eq_ignore_ascii_case(TOKEN)),
        Some(Value::Text(_) | Value::Flag(_) | Value::List(_) | Value::Other) | None => false,
    };
    let below = |base: &String| {
        url.strip_prefix(base.as_str())
            .and_then(|path| path.strip_prefix('/')?.strip_suffix("/mcp"))
            .is_some_and(parse::is_name)
    };
    has_token || bases.iter().any(below)
}

/// The changes to an entry whose address is under `key`, and its server for `relatch.toml`.
///
/// # Errors
/// Why it has to stay as it is.
pub(crate) fn adoption(
    client: &Client,
    entry: &Entry,
    key: &str,
    transport: Transport,
    side: &Side,
) -> Result<Adoption, String> {
    if !client.http_itself {
        return Err(format!("{} reaches no HTTP server by itself; {INSTEAD}", client.title));
    }
    if let Some(key) = ["bearer_token_env_var", "env_http_headers"].iter().find(|k| entry.field(k).is_some())
    {
        return Err(format!(
            "`{key}` means the environment of {}, which a service does not see; {INSTEAD}",
            client.title
        ));
    }
    for key in ["args", "cwd", "env", "envFile"] {
        if entry.field(key).is_some() {
            return Err(format!("it has `{key}` besides an address"));
        }
    }
    let variable = |what: String| {
        format!("{what} has a variable that {} fills in, which a service can't; {INSTEAD}", client.title)
    };
    let address = entry.field(key).ok_or("it has no address")?;
    let url = entry.text(key).unwrap_or_default();
    if has_variable(client, url) {
        return Err(variable("its address".to_owned()));
    }
    let known = checked(client, url)?;
    let holder = entry.field(client.headers);
    if let Some(Value::Table(fields, _)) = holder.map(|field| &field.value) {
        for field in fields {
            if matches!(&field.value, Value::Text(value) if has_variable(client, value)) {
                return Err(variable(format!("its header `{}`", field.key)));
            }
        }
    }
    let headers: Vec<(String, String)> =
        headers(client, entry)?.into_iter().map(|(field, value)| (field.key.clone(), value)).collect();
    for (at, (name, _)) in headers.iter().enumerate() {
        if headers[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(format!("its header `{name}` stands twice"));
        }
    }
    let name = plain_name(&entry.name);
    let token = side.token.as_ref().map(|token| (TOKEN.to_owned(), New::Text(token.clone())));
    let mut changes = Vec::new();
    let mut pairs = vec![(address.key.clone(), New::Text(side.address(&name)))];
    // The keeper itself speaks Streamable HTTP.
    if transport == Transport::Sse {
        let kind = entry.field("type").or_else(|| entry.field("transport"));
        let bare = client.addresses.iter().find(|(_, bare)| *bare == Bare::Http);
        match (kind, client.http.first(), bare) {
            (Some(kind), Some(word), _) => {
                changes.push(Change::Set(kind.clone(), New::Text((*word).to_owned())));
            }
            (Some(kind), None, _) => changes.push(Change::Remove(kind.clone())),
            (None, _, Some((key, _))) => pairs[0].0 = (*key).to_owned(),
            (None, word, None) => {
                let word = word.copied().unwrap_or("http");
                pairs.insert(0, ("type".to_owned(), New::Text(word.to_owned())));
            }
        }
    }
    match (holder, token) {
        (None, Some(token)) => pairs.push((client.headers.to_owned(), New::Table(vec![token]))),
        (None, None) => {}
        (Some(holder), token) => {
            let Value::Table(fields, layout) = &holder.value else {
                return Err(format!("its `{}` are no table", client.headers));
            };
            // A table with a header of its own, in TOML.
            if holder.key_at.start > holder.value_at.start {
                // It ends where it did, so that comments in it stay in it.
                let (Some((last, others)), Some(token)) = (fields.split_last(), token) else {
                    return Err(
                        "its headers are a table of their own, which relatch does not empty".to_owned()
                    );
                };
                let change = Change::Replace(last.clone(), vec![token]);
                changes.push(Change::Within(layout.clone(), Box::new(change)));
                changes.extend(others.iter().map(|field| Change::Remove(field.clone())));
            } else {
                changes.push(match token {
                    Some(token) => Change::Set(holder.clone(), New::Table(vec![token])),
                    None => Change::Remove(holder.clone()),
                });
            }
        }
    }
    changes.push(Change::Replace(address.clone(), pairs));
    let written = headers
        .iter()
        .filter(|(name, _)| !is_relatchs_own(name))
        .map(|(name, value)| (name.clone(), escaped(value)))
        .collect();
    let server = NewServer {
        name,
        url: escaped(url),
        headers: written,
        transport: (transport != Transport::Auto).then_some(transport),
        ..NewServer::default()
    };
    Ok(Adoption { changes, url: known, transport, headers, server: Some(Box::new(server)) })
}

/// The same for an entry that starts a program: the keeper starts it in its client's place.
///
/// # Errors
/// Why it has to stay as it is.
pub(crate) fn of_a_program(client: &Client, entry: &Entry, side: &Side) -> Result<Adoption, String> {
    if !client.http_itself {
        return Err(format!("{} reaches no HTTP server by itself; {INSTEAD}", client.title));
    }
    for key in ["envFile", "env_vars"] {
        if entry.field(key).is_some() {
            return Err(format!("`{key}` is for {} alone, which a service is not; {INSTEAD}", client.title));
        }
    }
    let both = client.addresses.iter().map(|(key, _)| *key).chain([client.headers]);
    if let Some(key) = both.into_iter().find(|key| entry.field(key).is_some()) {
        return Err(format!("it has `{key}` besides a program"));
    }
    let plain = |what: &str, text: &str| match has_variable(client, text) {
        true => Err(format!(
            "{what} has a variable that {} fills in, which a service can't; {INSTEAD}",
            client.title
        )),
        false => Ok(text.to_owned()),
    };
    // The folder that a client starts its programs in is not that of a service.
    let relative = |text: &str, dots: bool| match dots {
        true => matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../"),
        false => text.contains('/') && !text.starts_with('/'),
    };
    let cwd = match entry.field("cwd").map(|field| &field.value) {
        None => None,
        Some(Value::Text(cwd)) => Some(plain("its `cwd`", cwd)?),
        Some(_) => return Err("its `cwd` is no text".to_owned()),
    };
    let command = entry.field("command").ok_or("it has no command")?;
    let mut words = vec![plain("its `command`", entry.text("command").ok_or("its `command` is no text")?)?];
    match entry.field("args").map(|field| &field.value) {
        None => {}
        Some(Value::List(list)) => {
            for value in list {
                let Value::Text(word) = value else {
                    return Err("not all of its `args` are texts".to_owned());
                };
                words.push(plain("its `args`", word)?);
            }
        }
        Some(_) => return Err("its `args` are no list".to_owned()),
    }
    let elsewhere = relative(&words[0], false) || words[1..].iter().any(|word| relative(word, true));
    if elsewhere && cwd.is_none() || cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/')) {
        return Err(format!(
            "it has a path relative to the folder in which {} starts it; {INSTEAD}",
            client.title
        ));
    }
    let holder = entry.field("env");
    let mut env = Vec::new();
    let fields = match holder.map(|field| &field.value) {
        None => &[][..],
        Some(Value::Table(fields, _)) => &fields[..],
        Some(_) => return Err("its `env` is no table".to_owned()),
    };
    for field in fields {
        let Value::Text(value) = &field.value else {
            return Err(format!("its variable `{}` is no text", field.key));
        };
        if !parse::is_variable(&field.key) || value.contains('\0') {
            return Err(format!("its variable `{}` can't be set", field.key));
        }
        env.push((field.key.clone(), escaped(&plain(&format!("its variable `{}`", field.key), value)?)));
    }
    let name = plain_name(&entry.name);
    let (address, bare) = client.addresses[0];
    let mut pairs = Vec::new();
    let mut changes = Vec::new();
    match (entry.field("type"), client.http.first()) {
        (Some(kind), Some(word)) => changes.push(Change::Set(kind.clone(), New::Text((*word).to_owned()))),
        (Some(kind), None) => changes.push(Change::Remove(kind.clone())),
        (None, Some(word)) if bare != Bare::Http => {
            pairs.push(("type".to_owned(), New::Text((*word).to_owned())))
        }
        (None, _) => {}
    }
    pairs.push((address.to_owned(), New::Text(side.address(&name))));
    let token = side.token.as_ref().map(|token| (TOKEN.to_owned(), New::Text(token.clone())));
    match (holder, token) {
        // A table with a header of its own, in TOML: it becomes that of the headers.
        (Some(holder), token) if holder.key_at.start > holder.value_at.start => {
            let Value::Table(fields, layout) = &holder.value else {
                return Err("its `env` is no table".to_owned());
            };
            let (Some((last, others)), Some(token)) = (fields.split_last(), token) else {
                return Err("its `env` is a table of its own, which relatch does not empty".to_owned());
            };
            changes.push(Change::Rename(holder.key_at.clone(), client.headers.to_owned()));
            changes
                .push(Change::Within(layout.clone(), Box::new(Change::Replace(last.clone(), vec![token]))));
            changes.extend(others.iter().map(|field| Change::Remove(field.clone())));
        }
        (holder, token) => {
            pairs.extend(token.map(|token| (client.headers.to_owned(), New::Table(vec![token]))));
            changes.extend(holder.map(|holder| removed(entry, command, holder)));
        }
    }
    for key in ["args", "cwd"] {
        changes.extend(entry.field(key).map(|field| removed(entry, command, field)));
    }
    changes.push(Change::Replace(command.clone(), pairs));
    let server = NewServer { name, command: words, env, cwd, ..NewServer::default() };
    Ok(Adoption {
        changes,
        url: None,
        transport: Transport::Auto,
        headers: Vec::new(),
        server: Some(Box::new(server)),
    })
}

/// A field goes, and `command` stays: what stands between the two goes on the side where nothing else is taken out.
fn removed(entry: &Entry, command: &Field, field: &Field) -> Change {
    if field.key_at.start < command.key_at.start {
        Change::Remove(field.clone())
    } else {
        gone(entry, &field.key, field)
    }
}

/// Whether a server that is to be written may hold a secret.
pub(crate) fn is_secret(server: &NewServer) -> bool {
    !server.headers.is_empty() || !server.env.is_empty() || may_be_secret(&server.url)
}

/// Whether a server can stand under its name, beside those of the file and those that are to come into it.
///
/// # Errors
/// Another one has the name; both are named.
pub(crate) fn fit(server: &NewServer, file: &[Server], coming: &[NewServer]) -> Result<Fit, String> {
    let taken = |other: &str, where_from: &str| {
        let here = shown_place(&server.url, &server.command);
        let why = match (here == other, server.command.is_empty()) {
            (true, true) => format!("the same address, {other}, with other headers or settings"),
            (true, false) => format!("the same command, {other}, with other settings"),
            (false, true) => format!("another address, {other}, than {here}"),
            (false, false) => format!("another place, {other}, than {here}"),
        };
        format!("{where_from} a server `{}` with {why}; rename one of the two", server.name)
    };
    if let Some(other) = coming.iter().find(|other| other.name == server.name) {
        let same = other.url == server.url
            && same_headers(&other.headers, &server.headers)
            && other.transport == server.transport
            && other.command == server.command
            && same_variables(&other.env, &server.env)
            && other.cwd == server.cwd;
        return if same {
            Ok(Fit::There)
        } else {
            Err(taken(&shown_place(&other.url, &other.command), "there is"))
        };
    }
    let Some(other) = file.iter().find(|other| other.name == server.name) else { return Ok(Fit::New) };
    // What comes from elsewhere is not known here, so it is not the same.
    let (same, shown) = match &other.place {
        Where::Url(address) => {
            let plain =
                !address.value.refers() && other.headers.iter().all(|(_, value)| !value.value.refers());
            let headers: Vec<(String, String)> =
                other.headers.iter().map(|(name, set)| (name.clone(), escaped(&set.value.value))).collect();
            let url = escaped(&address.value.value);
            let transport = other.transport.as_ref().map(|set| set.value);
            (
                plain
                    && transport == server.transport
                    && url == server.url
                    && same_headers(&headers, &server.headers),
                address.value.shown_address(),
            )
        }
        Where::Command(program) => {
            let plain = program.env.iter().all(|(_, value)| !value.value.refers());
            let env: Vec<(String, String)> =
                program.env.iter().map(|(name, set)| (name.clone(), escaped(&set.value.value))).collect();
            let same = program.words.value == server.command
                && same_variables(&env, &server.env)
                && program.cwd.as_ref().map(|set| set.value.as_path())
                    == server.cwd.as_deref().map(Path::new)
                && program.inherit_env.is_none()
                && program.shared.is_none();
            (plain && same, shown_place("", &program.words.value))
        }
    };
    if same {
        return Ok(Fit::There);
    }
    Err(taken(&shown, "`relatch.toml` has"))
}

/// Where a server is, for people.
fn shown_place(url: &str, command: &[String]) -> String {
    if command.is_empty() { shown_url(url) } else { format!("`{}`", command.join(" ")) }
}

/// The names of variables are not the same in upper and lower case.
fn same_variables(a: &[(String, String)], b: &[(String, String)]) -> bool {
    a.len() == b.len() && a.iter().all(|pair| b.contains(pair))
}

fn same_headers(a: &[(String, String)], b: &[(String, String)]) -> bool {
    let has = |(name, value): &(String, String)| {
        b.iter().any(|(other, held)| other.eq_ignore_ascii_case(name) && held == value)
    };
    a.len() == b.len() && a.iter().all(has)
}

/// A value as it is written where `${` begins a reference.
fn escaped(value: &str) -> String {
    value.replace("${", "$${")
}

/// A server as it is to stand in the file, for people: without the values of its headers and variables.
pub(crate) fn shown(server: &NewServer) -> String {
    let mut text = format!("[server.{}]", toml_edit::Key::new(&server.name));
    if server.command.is_empty() {
        text.push_str(&format!("\nurl = \"{}\"", shown_url(&server.url)));
        if let Some(transport) = server.transport {
            text.push_str(&format!("\ntransport = \"{}\"", transport.as_str()));
        }
    } else {
        let words: toml_edit::Array = server.command.iter().collect();
        text.push_str(&format!("\ncommand = {words}"));
    }
    for (key, pairs) in [("env", &server.env), ("headers", &server.headers)] {
        let names: Vec<String> =
            pairs.iter().map(|(name, _)| format!("{} = \"…\"", toml_edit::Key::new(name))).collect();
        if !names.is_empty() {
            text.push_str(&format!("\n{key} = {{ {} }}", names.join(", ")));
        }
    }
    if let Some(cwd) = &server.cwd {
        text.push_str(&format!("\ncwd = {}", toml_edit::Value::from(cwd)));
    }
    text
}

/// What stands in the file under a server's name now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Present {
    /// What `adopt` has written.
    AsWritten,
    Edited,
    Gone,
}

/// Whether the file has a server as it was written.
///
/// # Errors
/// The text is no TOML.
pub(crate) fn present(text: &str, served: &Served) -> Result<Present, String> {
    let document: DocumentMut =
        text.parse().map_err(|fault: toml_edit::TomlError| fault.message().to_owned())?;
    let Some(server) = document.get("server").and_then(|all| all.get(&served.name)) else {
        return Ok(Present::Gone);
    };
    let Some(table) = server.as_table_like() else { return Ok(Present::Edited) };
    let pairs = |key: &str| -> Option<Vec<(String, String)>> {
        let Some(pairs) = table.get(key) else { return Some(Vec::new()) };
        let text =
            |(name, value): (&str, &toml_edit::Item)| Some((name.to_owned(), value.as_str()?.to_owned()));
        pairs.as_table_like()?.iter().map(text).collect()
    };
    let text = |key: &str| table.get(key).and_then(|item| item.as_str());
    let words = table.get("command").and_then(|item| item.as_array());
    let words: Option<Vec<&str>> =
        words.map_or(Some(Vec::new()), |words| words.iter().map(|w| w.as_str()).collect());
    let same = text("url").unwrap_or_default() == served.url
        && pairs("headers").is_some_and(|headers| same_headers(&headers, &served.headers))
        && words.is_some_and(|words| words == served.command)
        && pairs("env").is_some_and(|env| same_variables(&env, &served.env))
        && text("transport") == served.transport.as_deref()
        && text("cwd") == served.cwd.as_deref()
        && table
            .iter()
            .all(|(key, _)| matches!(key, "url" | "transport" | "headers" | "command" | "env" | "cwd"));
    Ok(if same { Present::AsWritten } else { Present::Edited })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::System;
    use crate::config::read::{Follow, read};

    fn file(text: &str) -> Vec<Server> {
        read(text, Path::new("/"), &System, Follow::Nothing).unwrap().servers
    }

    fn server(url: &str, headers: &[(&str, &str)]) -> NewServer {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), escaped(v))).collect();
        NewServer { name: "a".to_owned(), url: escaped(url), headers, ..NewServer::default() }
    }

    #[test]
    fn a_name_is_free_or_has_the_same_server_or_both_are_named() {
        let same = server("http://h/mcp?k=s3cret", &[("A", "x${y}"), ("B", "1")]);
        let other = server("http://other/mcp", &[]);
        assert_eq!(fit(&same, &[], &[]), Ok(Fit::New));
        assert_eq!(fit(&same, &[], std::slice::from_ref(&same)), Ok(Fit::There));
        let why = fit(&same, &[], std::slice::from_ref(&other)).unwrap_err();
        assert!(why.contains("http://other/mcp, than http://h/mcp?k=…"), "{why}");
        let there =
            file("[server.a]\nurl = \"http://h/mcp?k=s3cret\"\nheaders = { b = \"1\", A = \"x$${y}\" }\n");
        assert_eq!(fit(&same, &there, &[]), Ok(Fit::There));
        assert!(fit(&other, &there, &[]).unwrap_err().contains("http://h/mcp?k=…, than http://other/mcp;"));
        for text in [
            "[server.a]\nurl = \"http://h/mcp?k=s3cret\"\n",
            // What comes from elsewhere is not known to be the same.
            "[server.a]\nurl = \"http://h/mcp?k=s3cret\"\nheaders = { B = \"1\", A = \"${X}\" }\n",
        ] {
            let why = fit(&same, &file(text), &[]).unwrap_err();
            assert!(why.contains("the same address") && !why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn what_was_written_is_known_again_and_an_edit_is_seen() {
        let served = Served {
            config: "/relatch.toml".into(),
            name: "a".into(),
            base: "http://127.0.0.1:7332".into(),
            added: true,
            url: "http://h/".into(),
            headers: vec![("A".into(), "1".into())],
            command: Vec::new(),
            env: Vec::new(),
            cwd: None,
            transport: None,
        };
        assert_eq!(served.address(), "http://127.0.0.1:7332/a/mcp");
        for (text, expected) in [
            ("[server.a]\nurl = 'http://h/' # mine\nheaders.A = \"1\"\n", Present::AsWritten),
            ("server = { a = { url = 'http://h/', headers = { A = '1' } } }\n", Present::AsWritten),
            ("[server.a]\nurl = 'http://h/'\nheaders = { A = '2' }\n", Present::Edited),
            ("[server.a]\nurl = 'http://i/'\nheaders = { A = '1' }\n", Present::Edited),
            ("[server.a]\nurl = 'http://h/'\nheaders = { A = '1' }\nhold = '5m'\n", Present::Edited),
            ("[server.a]\nurl = 'http://h/'\nheaders = { A = '1' }\ntransport = 'sse'\n", Present::Edited),
            ("[server.b]\nurl = 'http://h/'\n", Present::Gone),
            ("", Present::Gone),
        ] {
            assert_eq!(present(text, &served), Ok(expected), "{text}");
        }
        assert!(present("[server", &served).is_err());
    }

    #[test]
    fn a_command_is_known_again_and_an_edit_of_it_is_seen() {
        let server = NewServer {
            name: "a".into(),
            command: vec!["npx".into(), "x".into()],
            env: vec![("K".into(), "$${x".into())],
            cwd: Some("/notes".into()),
            ..NewServer::default()
        };
        let served = Served {
            config: "/relatch.toml".into(),
            name: "a".into(),
            base: "http://127.0.0.1:7332".into(),
            added: true,
            url: String::new(),
            headers: Vec::new(),
            command: server.command.clone(),
            env: server.env.clone(),
            cwd: server.cwd.clone(),
            transport: None,
        };
        let whole = "[server.a]\ncommand = ['npx', 'x']\nenv = { K = '$${x' }\ncwd = '/notes'\n";
        for (text, written, fits) in [
            (whole.to_owned(), Present::AsWritten, true),
            (whole.replace("npx", "uvx"), Present::Edited, false),
            (whole.replace("$${x", "y"), Present::Edited, false),
            (whole.replace("/notes", "/n"), Present::Edited, false),
            (format!("{whole}shared = true\n"), Present::Edited, false),
        ] {
            assert_eq!(present(&text, &served), Ok(written), "{text}");
            assert_eq!(fit(&server, &file(&text), &[]).is_ok(), fits, "{text}");
        }
        let why = fit(&server, &file("[server.a]\nurl = \"http://h/\"\n"), &[]).unwrap_err();
        assert!(why.contains("another place, http://h/, than `npx x`"), "{why}");
    }

    #[test]
    fn a_server_is_shown_without_its_secrets() {
        let s3cret = |name: &str| vec![(name.to_owned(), "s3cret".to_owned())];
        let named = NewServer { name: "a.b".into(), ..NewServer::default() };
        let address = NewServer {
            url: "http://h/mcp?k=s3cret".into(),
            transport: Some(Transport::Sse),
            headers: s3cret("X-A"),
            ..named.clone()
        };
        assert_eq!(
            shown(&address),
            "[server.\"a.b\"]\nurl = \"http://h/mcp?k=…\"\ntransport = \"sse\"\nheaders = { X-A = \"…\" }"
        );
        let command = NewServer {
            command: vec!["npx".into(), "x y".into()],
            env: s3cret("K"),
            cwd: Some("/n".into()),
            ..named
        };
        assert_eq!(
            shown(&command),
            "[server.\"a.b\"]\ncommand = [\"npx\", \"x y\"]\nenv = { K = \"…\" }\ncwd = \"/n\""
        );
    }
}
