//! What putting a running `relatch serve` in front of a server changes: its entry points to the keeper, and the server goes
//! into `relatch.toml` with its address and headers. Entries in, changes and servers out; reads and writes nothing.
//!
//! A keeper has another environment than a client: what only the client fills in stays where it is.

use relatch_admin::schema::shown_url;
use serde::{Deserialize, Serialize};
use toml_edit::DocumentMut;

use super::clients::{Client, Reached};
use super::entry::{Change, Entry, New, Value};
use super::plan::{Adoption, checked, has_variable, headers, is_relatchs_own, may_be_secret, plain_name};
use crate::cli::parse;
use crate::config::Server;
use crate::config::edit::NewServer;

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
    /// The server, as it was written.
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
}

impl Served {
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
pub(crate) fn adoption(client: &Client, entry: &Entry, key: &str, side: &Side) -> Result<Adoption, String> {
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
    let mut pairs = vec![(address.key.clone(), New::Text(side.address(&name)))];
    let mut changes = Vec::new();
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
    let server = NewServer { name, url: escaped(url), headers: written, ..NewServer::default() };
    Ok(Adoption { changes, url: known, headers, server: Some(server) })
}

/// Whether a server that is to be written may hold a secret.
pub(crate) fn is_secret(server: &NewServer) -> bool {
    !server.headers.is_empty() || may_be_secret(&server.url)
}

/// Whether a server can stand under its name, beside those of the file and those that are to come into it.
///
/// # Errors
/// Another one has the name; both are named.
pub(crate) fn fit(server: &NewServer, file: &[Server], coming: &[NewServer]) -> Result<Fit, String> {
    let taken = |url: &str, where_from: &str| {
        let (here, there) = (shown_url(&server.url), shown_url(url));
        let why = match here == there {
            true => format!("the same address, {there}, with other headers or settings"),
            false => format!("another address, {there}, than {here}"),
        };
        format!("{where_from} a server `{}` with {why}; rename one of the two", server.name)
    };
    if let Some(other) = coming.iter().find(|other| other.name == server.name) {
        let same = other.url == server.url && same_headers(&other.headers, &server.headers);
        return if same { Ok(Fit::There) } else { Err(taken(&other.url, "there is")) };
    }
    let Some(other) = file.iter().find(|other| other.name == server.name) else { return Ok(Fit::New) };
    // What comes from elsewhere is not known here, so it is not the same.
    let Some(address) = other.url() else {
        return Err(taken("a command", "`relatch.toml` has"));
    };
    let plain = !address.value.refers() && other.headers.iter().all(|(_, value)| !value.value.refers());
    let headers: Vec<(String, String)> =
        other.headers.iter().map(|(name, set)| (name.clone(), escaped(&set.value.value))).collect();
    let url = escaped(&address.value.value);
    if plain && url == server.url && same_headers(&headers, &server.headers) {
        return Ok(Fit::There);
    }
    Err(taken(&address.value.shown_address(), "`relatch.toml` has"))
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

/// A server as it is to stand in the file, for people: without the values of its headers.
pub(crate) fn shown(name: &str, url: &str, headers: &[(String, String)]) -> String {
    let mut text = format!("[server.{}]\nurl = \"{}\"", toml_edit::Key::new(name), shown_url(url));
    if !headers.is_empty() {
        let names: Vec<String> =
            headers.iter().map(|(name, _)| format!("{} = \"…\"", toml_edit::Key::new(name))).collect();
        text.push_str(&format!("\nheaders = {{ {} }}", names.join(", ")));
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
    let headers: Option<Vec<(String, String)>> = match table.get("headers") {
        None => Some(Vec::new()),
        Some(headers) => headers.as_table_like().and_then(|headers| {
            let text =
                |(name, value): (&str, &toml_edit::Item)| Some((name.to_owned(), value.as_str()?.to_owned()));
            headers.iter().map(text).collect()
        }),
    };
    let same = table.get("url").and_then(|url| url.as_str()) == Some(&served.url)
        && headers.is_some_and(|headers| same_headers(&headers, &served.headers))
        && table.iter().all(|(key, _)| matches!(key, "url" | "headers"));
    Ok(if same { Present::AsWritten } else { Present::Edited })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        };
        assert_eq!(served.address(), "http://127.0.0.1:7332/a/mcp");
        for (text, expected) in [
            ("[server.a]\nurl = 'http://h/' # mine\nheaders.A = \"1\"\n", Present::AsWritten),
            ("server = { a = { url = 'http://h/', headers = { A = '1' } } }\n", Present::AsWritten),
            ("[server.a]\nurl = 'http://h/'\nheaders = { A = '2' }\n", Present::Edited),
            ("[server.a]\nurl = 'http://i/'\nheaders = { A = '1' }\n", Present::Edited),
            ("[server.a]\nurl = 'http://h/'\nheaders = { A = '1' }\nhold = '5m'\n", Present::Edited),
            ("[server.b]\nurl = 'http://h/'\n", Present::Gone),
            ("", Present::Gone),
        ] {
            assert_eq!(present(text, &served), Ok(expected), "{text}");
        }
        assert!(present("[server", &served).is_err());
    }

    #[test]
    fn a_server_is_shown_without_its_secrets() {
        assert_eq!(
            shown("a.b", "http://h/mcp?k=s3cret", &[("X-A".into(), "s3cret".into())]),
            "[server.\"a.b\"]\nurl = \"http://h/mcp?k=…\"\nheaders = { X-A = \"…\" }"
        );
    }
}
