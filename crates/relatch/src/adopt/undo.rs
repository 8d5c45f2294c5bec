//! What taking relatch out again changes: entries and what was kept of them in, changes out. Reads and writes nothing.
//!
//! What was there before is put back into the place of the adopted entry only; edits around it stay. An entry that was
//! changed since is not touched unless that is asked for. Without a record, what can be is put together from the entry.

use super::clients::{Bare, Client, Format, Reached};
use super::entry::{Change, Entry, Field, Language, New, Value};
use super::json::essence;
use super::plan::{ADDRESS, HEADER, arguments, is_adopted};
use super::serve::is_served;

/// What is kept of an entry: how it was, and how it was written then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept<'a> {
    pub(crate) original: &'a [String],
    pub(crate) written: &'a [String],
    /// The address of a keeper that was written into it.
    pub(crate) address: Option<String>,
}

/// What is to become of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undoing {
    /// It was relatch's and is put back as it was.
    Restore(Vec<Change>),
    /// Nothing was kept; this is put together from the entry, without the options named.
    Rebuild(Vec<Change>, Vec<String>),
    /// It was changed since: how it was before relatch.
    Changed(Vec<String>),
    /// relatch does not stand in front of it.
    NotAdopted,
    /// It can't be done, for this reason.
    Left(String),
}

/// What is to become of an entry.
pub(crate) fn judge(
    client: &Client,
    text: &str,
    entry: &Entry,
    kept: Option<Kept<'_>>,
    force: bool,
) -> Undoing {
    let served = is_served(client, entry, &[]) || points_to(client, entry, kept.as_ref());
    if !is_adopted(entry) && !served {
        return Undoing::NotAdopted;
    }
    if let Some(fault) = entry.fault {
        return Undoing::Left(fault.to_owned());
    }
    match kept {
        Some(kept) if force || is_as_written(entry, text, kept.written) => restored(text, entry, &kept),
        Some(kept) => Undoing::Changed(kept.original.to_vec()),
        None if served => {
            let why =
                "it points to a keeper, and nothing was kept of it: `relatch.toml` may have its address";
            Undoing::Left(why.to_owned())
        }
        None => match rebuilt(client, text, entry) {
            Ok((changes, lost)) => Undoing::Rebuild(changes, lost),
            Err(why) => Undoing::Left(why),
        },
    }
}

fn points_to(client: &Client, entry: &Entry, kept: Option<&Kept<'_>>) -> bool {
    let Reached::Http(key) = client.reached(entry) else { return false };
    kept.is_some_and(|kept| kept.address.is_some() && kept.address.as_deref() == entry.text(key))
}

/// Whether an entry is as relatch wrote it, but for its layout: clients write their files anew.
pub(crate) fn is_as_written(entry: &Entry, text: &str, written: &[String]) -> bool {
    let now = entry.written(text);
    now.len() == written.len()
        && now.iter().zip(written).all(|(now, then)| {
            now == then
                || match entry.layout.language {
                    Language::Json => essence(now).is_some_and(|now| Some(now) == essence(then)),
                    Language::Toml => now.replace("\r\n", "\n") == then.replace("\r\n", "\n"),
                }
        })
}

/// Whether an entry reads as it should after it was put back together.
pub(crate) fn is_released(client: &Client, entry: &Entry) -> bool {
    !is_adopted(entry)
        && matches!(client.reached(entry), Reached::Http(_) | Reached::Sse(_) | Reached::Program)
}

fn restored(text: &str, entry: &Entry, kept: &Kept<'_>) -> Undoing {
    if entry.regions.len() != kept.original.len() {
        return Undoing::Left("its tables are others than relatch wrote".to_owned());
    }
    let as_written = entry.written(text) == kept.written;
    let changes = entry.regions.iter().zip(kept.original).map(|(at, original)| {
        let original = if as_written { original.clone() } else { with_line_breaks_of(text, original) };
        let place = Field {
            key: String::new(),
            key_at: at.start..at.start,
            value: Value::Other,
            value_at: at.clone(),
            whole: at.clone(),
        };
        Change::Set(place, New::Raw(original))
    });
    Undoing::Restore(changes.collect())
}

/// The file may have been written anew with other line breaks.
fn with_line_breaks_of(text: &str, original: &str) -> String {
    let plain = original.replace("\r\n", "\n");
    if text.contains("\r\n") { plain.replace('\n', "\r\n") } else { plain }
}

/// The entry as its client would write it, from what relatch was given.
fn rebuilt(client: &Client, text: &str, entry: &Entry) -> Result<(Vec<Change>, Vec<String>), String> {
    if arguments(entry).contains(&"--") {
        return rebuilt_program(entry);
    }
    if !client.http_itself {
        return Err(format!("nothing was kept of it, and {} reaches no HTTP server by itself", client.title));
    }
    let given = Given::read(&arguments(entry))?;
    let command = entry.field("command").ok_or("it starts no program")?;
    let env: &[Field] = match entry.field("env").map(|field| &field.value) {
        Some(Value::Table(fields, _)) => fields,
        Some(_) | None => &[],
    };
    let url = if given.url == format!("env:{ADDRESS}") {
        let carried = env.iter().find(|field| field.key == ADDRESS).ok_or("its address is nowhere")?;
        New::Raw(text[carried.value_at.clone()].to_owned())
    } else {
        New::Text(given.url.to_owned())
    };
    let (meant, word) = if given.sse { (Bare::Sse, Some(&"sse")) } else { (Bare::Http, client.http.first()) };
    let of_its_own = client.addresses.iter().find(|(_, bare)| given.sse && *bare == meant);
    let (address, bare) = *of_its_own.unwrap_or(&client.addresses[0]);
    let mut pairs = Vec::new();
    if let (Some(word), None) = (word.filter(|_| bare != meant), entry.field("type")) {
        pairs.push(("type".to_owned(), New::Text((*word).to_owned())));
    }
    pairs.push((address.to_owned(), url));
    let mut changes = Vec::new();
    if let (Some(kind), Some(word)) = (entry.field("type"), word) {
        changes.push(Change::Set(kind.clone(), New::Text((*word).to_owned())));
    }
    let mut elsewhere = given.from_env.clone();
    let mut carried = Vec::new();
    for field in env.iter().filter(|field| field.key != ADDRESS) {
        match elsewhere.iter().position(|(_, variable)| *variable == field.key) {
            Some(at) => carried.push((field, elsewhere.remove(at).0.to_owned())),
            // One that relatch sends by itself, so it is in no argument.
            None => match field.key.strip_prefix(HEADER) {
                Some(name) => carried.push((field, titled(name))),
                None => {
                    let key = &field.key;
                    return Err(format!(
                        "nothing was kept of it, and its `env` has `{key}`, which is not relatch's"
                    ));
                }
            },
        }
    }
    match client.format {
        Format::Codex => {
            if let Some(variable) = given.bearer {
                pairs.push(("bearer_token_env_var".to_owned(), New::Text(variable.to_owned())));
            }
            if !elsewhere.is_empty() {
                let headers = elsewhere.iter().map(|(k, v)| ((*k).to_owned(), New::Text((*v).to_owned())));
                pairs.push(("env_http_headers".to_owned(), New::Table(headers.collect())));
            }
        }
        Format::Json(_) if given.bearer.is_some() || !elsewhere.is_empty() => {
            return Err("nothing was kept of it, and its headers are not in its entry".to_owned());
        }
        Format::Json(_) => {}
    }
    changes.push(Change::Replace(command.clone(), pairs));
    if let Some(holder) = entry.field("env") {
        if carried.is_empty() {
            changes.push(gone(entry, "env", holder));
        } else {
            changes.push(Change::Rename(holder.key_at.clone(), client.headers.to_owned()));
            let Value::Table(fields, layout) = &holder.value else {
                return Err("its `env` is no table".to_owned());
            };
            for field in fields {
                let change = match carried.iter().find(|(other, _)| other.key == field.key) {
                    Some((_, header)) => Change::Rename(field.key_at.clone(), header.clone()),
                    None => Change::Remove(field.clone()),
                };
                changes.push(Change::Within(layout.clone(), Box::new(change)));
            }
        }
    }
    for key in ["args", "env_vars"] {
        if let Some(field) = entry.field(key) {
            changes.push(gone(entry, key, field));
        }
    }
    Ok((changes, given.options))
}

/// The program that relatch starts, as its client would start it.
fn rebuilt_program(entry: &Entry) -> Result<(Vec<Change>, Vec<String>), String> {
    let given = arguments(entry);
    let at = given.iter().position(|word| *word == "--").unwrap_or(given.len());
    let Some((program, rest)) = given.get(at + 1..).and_then(<[&str]>::split_first) else {
        return Err("nothing was kept of it, and its `args` name no program".to_owned());
    };
    let (command, args) = (entry.field("command"), entry.field("args"));
    let (command, args) = command.zip(args).ok_or("it starts no program")?;
    let rest: Vec<String> = rest.iter().map(|&word| word.to_owned()).collect();
    let changes = vec![
        Change::Set(command.clone(), New::Text((*program).to_owned())),
        if rest.is_empty() { gone(entry, "args", args) } else { Change::Set(args.clone(), New::List(rest)) },
    ];
    let mut lost = Vec::new();
    let mut words = given[1..at].iter();
    while let Some(word) = words.next() {
        match *word {
            "--name" => drop(words.next()),
            option if option.starts_with("--") => lost.push(option.to_owned()),
            _ => {}
        }
    }
    Ok((changes, lost))
}

/// `CONTENT_TYPE` as the header is usually written.
fn titled(name: &str) -> String {
    let words: Vec<String> = name
        .split('_')
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            format!("{first}{}", rest.to_ascii_lowercase())
        })
        .collect();
    words.join("-")
}

/// A field goes, with what is between it and the one before it.
pub(super) fn gone(entry: &Entry, key: &str, field: &Field) -> Change {
    let at = entry.fields.iter().position(|other| other.key == key).unwrap_or_default();
    match at.checked_sub(1).map(|before| entry.fields[before].value_at.end) {
        Some(before) if before <= field.key_at.start => Change::Cut(before..field.value_at.end),
        Some(_) | None => Change::Remove(field.clone()),
    }
}

/// What an entry gives to `relatch stdio`.
struct Given<'a> {
    url: &'a str,
    /// By the old transport.
    sse: bool,
    /// Header and variable.
    from_env: Vec<(&'a str, &'a str)>,
    /// The variable of `Authorization: Bearer ${…}`.
    bearer: Option<&'a str>,
    /// Options that only relatch has.
    options: Vec<String>,
}

impl<'a> Given<'a> {
    fn read(arguments: &[&'a str]) -> Result<Given<'a>, String> {
        let mut given =
            Given { url: "", sse: false, from_env: Vec::new(), bearer: None, options: Vec::new() };
        let mut words = arguments.iter().skip(1);
        while let Some(word) = words.next() {
            match *word {
                "--name" => {
                    words.next();
                }
                "--header-env" => {
                    let pair = words.next().and_then(|pair| pair.split_once('='));
                    given.from_env.push(pair.ok_or("its `--header-env` has no value")?);
                }
                "--header" => {
                    let text = words.next().copied().unwrap_or_default();
                    let bearer =
                        text.strip_prefix("Authorization: Bearer ${").and_then(|v| v.strip_suffix('}'));
                    given.bearer =
                        Some(bearer.ok_or("nothing was kept of it, and a header stands in its `args`")?);
                }
                "--transport" => match words.next().copied() {
                    Some("sse") => given.sse = true,
                    Some("auto") => {}
                    Some(_) | None => given.options.push("--transport".to_owned()),
                },
                "--stateful" => given.options.push("--stateful".to_owned()),
                option if option.starts_with("--") => {
                    given.options.push(option.split('=').next().unwrap_or_default().to_owned());
                    if !option.contains('=') {
                        words.next();
                    }
                }
                url if given.url.is_empty() => given.url = url,
                _ => return Err("nothing was kept of it, and its `args` are not relatch's".to_owned()),
            }
        }
        if given.url.is_empty() {
            return Err("nothing was kept of it, and its `args` name no server".to_owned());
        }
        Ok(given)
    }
}
