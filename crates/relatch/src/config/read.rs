//! From the text of `relatch.toml` to a [`Config`], or to everything that is wrong with it.
//!
//! Pure: variables and files come by [`World`]. No fault and no warning carries a value that may be secret.

use std::path::{Path, PathBuf};

use relatch_core::policy::Transport;
use relatch_net::hooks::{Webhook, WebhookError};
use relatch_net::upstream::dial::{Target, TargetError};
use relatch_net::upstream::proxy::ProxyAddress;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place, line_of};
use super::keys::{self, Key, Section};
use super::refer::{Piece, Resolver, Text, World, within};
use super::{Config, Program, Server, Set, Where};
use crate::cli::{hooks, parse};
use crate::nearest::nearest;

/// Which references are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow<'a> {
    /// All of them.
    All,
    /// Those of `[hooks]` and of this server: another one's secrets need not be there.
    Only(&'a str),
    /// None: what they lead to may be elsewhere.
    Nothing,
}

type Table<'i> = Spanned<DeTable<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Reads the text of a file in `folder`.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub(crate) fn read(
    text: &str,
    folder: &Path,
    world: &dyn World,
    follow: Follow<'_>,
) -> Result<Config, Vec<Fault>> {
    let (root, broken) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        text,
        faults: Vec::new(),
        resolver: Resolver { world, folder, open: Vec::new() },
        follow,
        config: Config::default(),
    };
    for fault in &broken {
        reader.broken(fault);
    }
    // What was read in spite of a broken line may be half of what was meant; a key that is there twice breaks nothing.
    if broken.iter().all(twice) {
        reader.root(&root);
    }
    let Reader { mut faults, mut config, resolver, .. } = reader;
    if !faults.is_empty() {
        faults.sort_by_key(|fault| fault.place.as_ref().map_or((0, 0), |place| (place.line, place.column)));
        faults.dedup();
        return Err(faults);
    }
    config.servers.sort_by_key(|server| server.line);
    config.open_files = resolver.open;
    Ok(config)
}

struct Reader<'a> {
    text: &'a str,
    faults: Vec<Fault>,
    resolver: Resolver<'a>,
    follow: Follow<'a>,
    config: Config,
}

impl Reader<'_> {
    fn fault(&mut self, span: std::ops::Range<usize>, what: impl Into<String>, hint: Option<String>) {
        let place = Some(Place::of(self.text, span));
        self.faults.push(Fault { place, what: what.into(), hint });
    }

    fn broken(&mut self, fault: &toml::de::Error) {
        let span = fault.span().unwrap_or(0..0);
        if twice(fault) {
            let key = self.text.get(span.clone()).unwrap_or_default().to_owned();
            self.fault(span, format!("`{key}` is there twice"), Some("Keep one of the two".to_owned()));
        } else {
            let message = fault.message().lines().next().unwrap_or_default();
            let quotes = message.contains("must be quoted");
            let hint = quotes.then(|| "Write text in quotes".to_owned());
            let place = Some(Place::anywhere(self.text, span));
            self.faults.push(Fault { place, what: format!("This is no TOML: {message}"), hint });
        }
    }

    fn root(&mut self, root: &Table<'_>) {
        for (key, value) in in_order(root.get_ref()) {
            let name = &**key.get_ref();
            match Section::ALL.into_iter().find(|section| section.word() == name) {
                Some(Section::Server) => self.servers(value),
                Some(section @ (Section::Serve | Section::Hooks)) => match value.get_ref() {
                    DeValue::Table(table) => self.section(section, table, section.header(), &mut Plain),
                    _ => self.wrong_type(
                        value,
                        name,
                        "a section",
                        &format!("Write `{}` above its keys", section.header()),
                    ),
                },
                None => self.unknown_section(key, name),
            }
        }
    }

    fn unknown_section(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, name: &str) {
        let hint = match key_of(name) {
            Some(known) => format!("It belongs into `{}`", known.section.header()),
            None => match nearest(name, Section::ALL.map(Section::word)) {
                Some("server") => "Did you mean `[server.NAME]`?".to_owned(),
                Some(near) => format!("Did you mean `[{near}]`?"),
                None => match nearest(name, keys::KEYS.iter().map(|key| key.name)).and_then(key_of) {
                    Some(near) => format!("Did you mean `{}`, in `{}`?", near.name, near.section.header()),
                    None => "There are `[serve]`, `[hooks]` and `[server.NAME]`".to_owned(),
                },
            },
        };
        self.fault(key.span(), format!("relatch knows no `{name}` here"), Some(hint));
    }

    fn servers(&mut self, value: &Value<'_>) {
        let DeValue::Table(servers) = value.get_ref() else {
            self.wrong_type(
                value,
                "server",
                "a table of servers",
                "Write `[server.NAME]` above each one's keys",
            );
            return;
        };
        for (key, value) in in_order(servers) {
            let name = key.get_ref().clone().into_owned();
            if !parse::is_name(&name) {
                let shown: String = name.chars().take(80).collect();
                self.fault(
                    key.span(),
                    format!("`{shown}` can't be the name of a server: {}", parse::NAMES),
                    plain_name(&name).map(|plain| format!("Call it `{plain}`")),
                );
                // Its keys are looked at all the same.
            }
            let DeValue::Table(table) = value.get_ref() else {
                if keys::find(Section::Server, &name).is_some() {
                    self.fault(
                        key.span(),
                        format!("`{name}` belongs to a server, and this one has no name"),
                        Some("Write `[server.NAME]` instead of `[server]`".to_owned()),
                    );
                } else {
                    self.wrong_type(
                        value,
                        &format!("server.{name}"),
                        "a table",
                        &format!("Write `[server.{name}]` and below it `url = \"…\"`"),
                    );
                }
                continue;
            };
            let mut server = Building {
                name: name.clone(),
                line: line_of(self.text, key.span().start),
                ..Building::default()
            };
            self.section(Section::Server, table, &format!("[server.{name}]"), &mut server);
            let has = |name: &str| table.iter().any(|(key, _)| &**key.get_ref() == name);
            if has("url") && has("command") {
                self.fault(
                    key.span(),
                    format!("`[server.{name}]` has both a `url` and a `command`"),
                    Some("Keep the one that is the server".to_owned()),
                );
            } else if has("command") && has("headers") {
                self.fault(
                    key.span(),
                    format!("`[server.{name}]` is a command, which takes no `headers`"),
                    Some("Give it what it needs in `env`".to_owned()),
                );
            } else if let (true, Some(key)) = (has("url"), keys::OF_COMMANDS.into_iter().find(|key| has(key)))
            {
                self.fault(
                    key_span(table, key),
                    format!("`[server.{name}]` has a `url`, and `{key}` is for a `command`"),
                    Some("Take it out: relatch does not start this server".to_owned()),
                );
            } else if has("command") && has("transport") {
                self.fault(
                    key.span(),
                    format!("`[server.{name}]` is a command, which takes no `transport`"),
                    Some("Take it out: a command is spoken to over its stdin and stdout".to_owned()),
                );
            } else if !has("url") && !has("command") {
                self.fault(
                    key.span(),
                    format!("`[server.{name}]` has no `url`"),
                    Some(
                        "Add the server's address, such as `url = \"http://127.0.0.1:8761/mcp\"`".to_owned(),
                    ),
                );
            }
            self.config.servers.extend(server.done());
        }
    }

    /// The keys of one section.
    fn section(&mut self, section: Section, table: &DeTable<'_>, header: &str, into: &mut dyn Takes) {
        for (key, value) in in_order(table) {
            let name = &**key.get_ref();
            match keys::find(section, name) {
                Some(known) => into.take(self, known, value),
                None => {
                    let hint = unknown_key(section, name);
                    self.fault(key.span(), format!("relatch knows no `{name}` in `{header}`"), Some(hint));
                }
            }
        }
    }

    fn wrong_type(&mut self, value: &Value<'_>, name: &str, wanted: &str, hint: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "`true` or `false`",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(value.span(), format!("`{name}` is {wanted}, and this is {found}"), Some(hint.to_owned()));
    }

    fn line(&self, value: &Value<'_>) -> usize {
        line_of(self.text, value.span().start)
    }

    fn set<T>(&self, value: &Value<'_>, read: T) -> Option<Set<T>> {
        Some(Set { value: read, line: self.line(value) })
    }

    fn string<'v>(&mut self, key: &Key, value: &'v Value<'_>) -> Option<&'v str> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(value, key.name, "text in quotes", &example(key));
            return None;
        };
        Some(text)
    }

    fn flag(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<bool>> {
        let DeValue::Boolean(flag) = value.get_ref() else {
            self.wrong_type(value, key.name, "`true` or `false`", "Write it without quotes");
            return None;
        };
        self.set(value, *flag)
    }

    /// Text that is read by one of the command line's readers.
    fn parsed<T>(
        &mut self,
        key: &Key,
        value: &Value<'_>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Set<T>> {
        let text = self.string(key, value)?;
        match read(text) {
            Ok(read) => self.set(value, read),
            Err(cause) => {
                self.fault(
                    value.span(),
                    format!("`{}` can't be `{text}`: {cause}", key.name),
                    Some(example(key)),
                );
                None
            }
        }
    }

    /// Text in which references may stand.
    fn text(&mut self, value: &Value<'_>, written: &str, look: bool) -> Option<Text> {
        let Reader { text, faults, resolver, .. } = self;
        resolver.text(text, &value.span(), written, look, faults)
    }

    fn follows(&self, server: Option<&str>) -> bool {
        match (self.follow, server) {
            (Follow::All, _) | (Follow::Only(_), None) => true,
            (Follow::Only(wanted), Some(server)) => wanted == server,
            (Follow::Nothing, _) => false,
        }
    }

    fn address(&mut self, value: &Value<'_>, written: &str, look: bool) -> Option<Set<Text>> {
        let text = self.text(value, written, look)?;
        if text.refers() && !look {
            return self.set(value, text);
        }
        if let Err(fault) = Target::parse(&text.value) {
            let (what, hint) = if text.refers() {
                // What is wrong with it could show what came from elsewhere.
                let what = "With the values of its `${…}` this is no address of an MCP server".to_owned();
                (
                    what,
                    "Each value stands in the address as it is; look at what the variables and files hold"
                        .to_owned(),
                )
            } else {
                // What stands behind a `=` or a `#` may be a secret in the wrong place.
                let shown = !text.value.contains(['=', '#']);
                let (cause, hint) = match &fault {
                    TargetError::UserInfo { .. } => (
                        "it carries a user name or password".to_owned(),
                        "Send credentials by `headers = { Authorization = \"Basic …\" }`".to_owned(),
                    ),
                    TargetError::TooLong => (fault.to_string(), "Move long values into `headers`".to_owned()),
                    TargetError::Fragment { .. } => {
                        ("it has a part behind `#`, which no server ever sees".to_owned(), fault.hint())
                    }
                    TargetError::NoScheme { .. } if !shown => (
                        "it has no scheme".to_owned(),
                        "Use an address that begins with `http://` or `https://`".to_owned(),
                    ),
                    TargetError::Scheme { .. } if !shown => {
                        ("its scheme is not `http` or `https`".to_owned(), fault.hint())
                    }
                    _ => (fault.to_string(), fault.hint()),
                };
                (format!("This is no address of an MCP server: {cause}"), hint)
            };
            self.fault(value.span(), what, Some(hint));
            return None;
        }
        self.set(value, text)
    }

    /// A folder or file, relative to this one.
    fn path(&mut self, key: &Key, value: &Value<'_>, empty: &str) -> Option<Set<PathBuf>> {
        let read = self.parsed(key, value, |text| match text.is_empty() {
            true => Err(empty.to_owned()),
            false => Ok(text.to_owned()),
        });
        let Resolver { folder, world, .. } = self.resolver;
        read.map(|set| Set { value: within(folder, &set.value, world), line: set.line })
    }

    fn file(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<PathBuf>> {
        if let DeValue::String(text) = value.get_ref()
            && text.contains("-----BEGIN")
        {
            let what = format!("`{}` is the name of a file, and this is what would stand in it", key.name);
            self.fault(value.span(), what, Some(example(key)));
            return None;
        }
        self.path(key, value, "it names no file")
    }

    fn proxy(&mut self, key: &Key, value: &Value<'_>, look: bool) -> Option<Set<Text>> {
        let written = self.string(key, value)?.to_owned();
        let text = self.text(value, &written, look)?;
        if (look || !text.refers())
            && text.value != "none"
            && let Err(fault) = ProxyAddress::parse(&text.value)
        {
            let what = match text.refers() {
                true => "With the values of its `${…}`, `proxy` is no proxy that can be asked".to_owned(),
                false => format!("`proxy` is no proxy that can be asked: {fault}"),
            };
            self.fault(value.span(), what, Some(format!("{}, or as `\"none\"`", example(key))));
            return None;
        }
        self.set(value, text)
    }

    fn webhook(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<Text>> {
        let written = self.string(key, value)?.to_owned();
        let look = self.follows(None);
        let text = self.text(value, &written, look)?;
        if (look || !text.refers())
            && let Err(fault) = Webhook::parse(&text.value)
        {
            let what = if text.refers() {
                "With the values of its `${…}`, `webhook` is no address that may be told".to_owned()
            } else {
                // Most of such an address is often a secret.
                let cause = match fault {
                    WebhookError::Open(_) => "it is neither `https` nor on this machine",
                    WebhookError::Address(_) => "it is no address",
                };
                format!("`webhook` is no address that may be told: {cause}")
            };
            self.fault(
                value.span(),
                what,
                Some("Give an `https` address, or an `http` address of this machine".to_owned()),
            );
            return None;
        }
        self.set(value, text)
    }

    fn command(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<Vec<String>>> {
        let read = match value.get_ref() {
            DeValue::String(text) => hooks::split(text),
            DeValue::Array(words) => {
                let read: Option<Vec<String>> =
                    words.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect();
                match read {
                    Some(words) => hooks::runnable(&words).map(|()| words),
                    None => Err("a word of it is no text in quotes".to_owned()),
                }
            }
            _ => {
                self.wrong_type(value, key.name, "a command", &example(key));
                return None;
            }
        };
        match read {
            Ok(words) => self.set(value, words),
            Err(cause) => {
                self.fault(
                    value.span(),
                    format!("`{}` is no command: {cause}", key.name),
                    Some(example(key)),
                );
                None
            }
        }
    }

    fn hosts(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<Vec<String>>> {
        let one = std::slice::from_ref(value);
        let written: Vec<&Value<'_>> = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            DeValue::String(_) => one.iter().collect(),
            _ => {
                self.wrong_type(value, key.name, "a list of host names", &example(key));
                return None;
            }
        };
        // Each is looked at, so that each fault is named.
        let read: Vec<_> = written.iter().map(|host| self.parsed(key, host, parse::host)).collect();
        let hosts: Option<Vec<String>> = read.into_iter().map(|set| set.map(|set| set.value)).collect();
        self.set(value, hosts?)
    }

    fn headers(&mut self, key: &Key, value: &Value<'_>, look: bool) -> Vec<(String, Set<Text>)> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, key.name, "a table of names and values", &example(key));
            return Vec::new();
        };
        let mut headers: Vec<(String, Set<Text>)> = Vec::new();
        for (name, value) in in_order(table) {
            let span = name.span();
            let name = name.get_ref().clone().into_owned();
            match parse::header_name(&name) {
                Ok(()) => {}
                Err(parse::NoHeader::NotAllowed) => {
                    // Behind a colon or a blank may stand what belongs into the value.
                    let begins = name.split([':', ' ']).next().unwrap_or_default();
                    let what = format!(
                        "`{begins}` can't be the name of a header: it is made of letters, digits and `-`"
                    );
                    self.fault(span.clone(), what, None);
                }
                Err(parse::NoHeader::NotConfigurable) => {
                    let what =
                        format!("The header `{name}` can't be set: relatch or the connection itself sets it");
                    self.fault(span.clone(), what, Some("Take it out".to_owned()));
                }
            }
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
                let what = format!("The header `{name}` is there twice: upper and lower case are the same");
                self.fault(span, what, Some("Keep one of the two".to_owned()));
            }
            let DeValue::String(written) = value.get_ref() else {
                self.wrong_type(value, &name, "text in quotes", &example(key));
                continue;
            };
            let Some(text) = self.text(value, written, look) else { continue };
            if !parse::header_value(text.value.trim()) {
                let whose = if text.refers() { "With the values of its `${…}`, the" } else { "The" };
                let what = format!(
                    "{whose} value of `{name}` can't be sent: a header has no line breaks and control characters"
                );
                self.fault(value.span(), what, None);
                continue;
            }
            headers.extend(self.set(value, text).map(|set| (name, set)));
        }
        headers
    }

    fn variables(&mut self, key: &Key, value: &Value<'_>, look: bool) -> Vec<(String, Set<Text>)> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, key.name, "a table of names and values", &example(key));
            return Vec::new();
        };
        let mut variables = Vec::new();
        for (name, value) in in_order(table) {
            let span = name.span();
            let name = name.get_ref().clone().into_owned();
            if !parse::is_variable(&name) {
                // Behind a `=` may stand what belongs into the value.
                let begins = name.split(['=', ' ']).next().unwrap_or_default();
                self.fault(span, format!("`{begins}` can't be the name of a variable"), Some(example(key)));
                continue;
            }
            let DeValue::String(written) = value.get_ref() else {
                self.wrong_type(value, &name, "text in quotes", &example(key));
                continue;
            };
            let Some(text) = self.text(value, written, look) else { continue };
            if text.value.contains('\0') {
                self.fault(value.span(), format!("The value of `{name}` has a zero byte in it"), None);
                continue;
            }
            variables.extend(self.set(value, text).map(|set| (name, set)));
        }
        variables
    }

    fn names(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<Vec<String>>> {
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong_type(value, key.name, "a list of names", &example(key));
            return None;
        };
        let mut names = Vec::new();
        for name in list {
            match name.get_ref().as_str() {
                Some(text) if parse::is_variable(text) => names.push(text.to_owned()),
                // Behind a `=` may stand a secret.
                Some(_) | None => {
                    let what = format!("In `{}` stands what is no name of a variable", key.name);
                    self.fault(name.span(), what, Some(example(key)));
                }
            }
        }
        self.set(value, names)
    }

    /// A path; relative to the file.
    fn folder(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<PathBuf>> {
        self.path(key, value, "it names no folder")
    }

    fn replay(&mut self, key: &Key, value: &Value<'_>) -> Option<Set<Vec<(String, bool)>>> {
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, key.name, "a table of patterns", &example(key));
            return None;
        };
        let mut patterns = Vec::new();
        for (glob, word) in in_order(table) {
            let always = match word.get_ref() {
                DeValue::String(text) if text == "always" => true,
                DeValue::String(text) if text == "never" => false,
                DeValue::String(text) => {
                    let hint = match nearest(text, ["always", "never"]) {
                        Some(near) => format!("Did you mean `\"{near}\"`?"),
                        None => example(key),
                    };
                    self.fault(
                        word.span(),
                        format!("A tool is called again `always` or `never`, and not `{text}`"),
                        Some(hint),
                    );
                    continue;
                }
                _ => {
                    self.wrong_type(word, glob.get_ref(), "`\"always\"` or `\"never\"`", &example(key));
                    continue;
                }
            };
            if glob.get_ref().is_empty() {
                self.fault(glob.span(), "A pattern of `replay` is empty", Some(example(key)));
                continue;
            }
            patterns.push((glob.get_ref().clone().into_owned(), always));
        }
        self.set(value, patterns)
    }

    fn word(&mut self, key: &Key, words: &[&'static str], value: &Value<'_>) -> Option<Set<&'static str>> {
        let text = self.string(key, value)?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return self.set(value, *word);
        }
        let known = words.join("`, `");
        self.fault(
            value.span(),
            format!("`{}` can't be `{text}`", key.name),
            Some(format!("It can be `{known}`, or be left out")),
        );
        None
    }
}

/// What takes the values of a section.
trait Takes {
    fn take(&mut self, reader: &mut Reader<'_>, key: &Key, value: &Value<'_>);
}

/// `[serve]` and `[hooks]`, which are there once.
struct Plain;

impl Takes for Plain {
    fn take(&mut self, reader: &mut Reader<'_>, key: &Key, value: &Value<'_>) {
        match key.name {
            "listen" => reader.config.listen = reader.parsed(key, value, parse::listen),
            "state_dir" => reader.config.state_dir = reader.folder(key, value),
            "no_token" => reader.config.no_token = reader.flag(key, value),
            "allow_host" => reader.config.allow_hosts = reader.hosts(key, value),
            "on_change" => reader.config.on_change = reader.command(key, value),
            "webhook" => reader.config.webhook = reader.webhook(key, value),
            other => debug_assert!(false, "`{other}` is in the table and nobody reads it"),
        }
    }
}

/// A server of which not everything is known yet.
#[derive(Debug, Default)]
struct Building {
    name: String,
    line: usize,
    url: Option<Set<Text>>,
    command: Option<Set<Vec<String>>>,
    env: Vec<(String, Set<Text>)>,
    cwd: Option<Set<PathBuf>>,
    inherit_env: Option<Set<Vec<String>>>,
    shared: Option<Set<bool>>,
    headers: Vec<(String, Set<Text>)>,
    hold: Option<Set<u64>>,
    stateful: Option<Set<bool>>,
    replay: Option<Set<Vec<(String, bool)>>>,
    gateway_errors: Option<Set<bool>>,
    transport: Option<Set<Transport>>,
    tell: Option<Set<bool>>,
    ca: Option<Set<PathBuf>>,
    cert: Option<Set<PathBuf>>,
    key: Option<Set<PathBuf>>,
    proxy: Option<Set<Text>>,
    copies: Option<Set<bool>>,
}

impl Building {
    fn done(self) -> Option<Server> {
        let Building { name, line, url, command, env, cwd, inherit_env, shared, .. } = self;
        let program = |words| Where::Command(Program { words, env, cwd, inherit_env, shared });
        let place = url.map(Where::Url).or_else(|| command.map(program))?;
        let Building { headers, hold, stateful, replay, gateway_errors, transport, tell, copies, .. } = self;
        let Building { ca, cert, key, proxy, .. } = self;
        Some(Server {
            name,
            line,
            place,
            headers,
            hold,
            stateful,
            replay,
            gateway_errors,
            transport,
            tell,
            ca,
            cert,
            key,
            proxy,
            copies,
        })
    }
}

impl Takes for Building {
    fn take(&mut self, reader: &mut Reader<'_>, key: &Key, value: &Value<'_>) {
        let look = reader.follows(Some(&self.name));
        match key.name {
            "url" => {
                let Some(written) = reader.string(key, value) else { return };
                self.url = reader.address(value, written, look);
            }
            "command" => self.command = reader.command(key, value),
            "env" => self.env = reader.variables(key, value, look),
            "cwd" => self.cwd = reader.folder(key, value),
            "inherit_env" => self.inherit_env = reader.names(key, value),
            "shared" => self.shared = reader.flag(key, value),
            "headers" => self.headers = reader.headers(key, value, look),
            "hold" => self.hold = reader.parsed(key, value, parse::duration),
            "copies" => self.copies = reader.flag(key, value),
            "tell" => self.tell = reader.flag(key, value),
            "ca" => self.ca = reader.file(key, value),
            "cert" => self.cert = reader.file(key, value),
            "key" => self.key = reader.file(key, value),
            "proxy" => self.proxy = reader.proxy(key, value, look),
            "stateful" => self.stateful = reader.flag(key, value),
            "replay" => self.replay = reader.replay(key, value),
            "gateway_errors" => {
                let keys::Kind::Word(words) = key.kind else { return };
                let set = reader.word(key, words, value);
                self.gateway_errors = set.map(|set| Set { value: true, line: set.line });
            }
            "transport" => {
                let keys::Kind::Word(words) = key.kind else { return };
                self.transport = reader.word(key, words, value).and_then(|set| {
                    let value = parse::transport(set.value).ok()?;
                    Some(Set { value, line: set.line })
                });
            }
            other => debug_assert!(false, "`{other}` is in the table and nobody reads it"),
        }
    }
}

fn twice(fault: &toml::de::Error) -> bool {
    fault.message().starts_with("duplicate key")
}

/// Where a key of a table stands.
fn key_span(table: &DeTable<'_>, name: &str) -> std::ops::Range<usize> {
    table.iter().find(|(key, _)| &**key.get_ref() == name).map_or(0..0, |(key, _)| key.span())
}

/// The entries of a table as they stand in the file.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Value<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn unknown_key(section: Section, name: &str) -> String {
    if let Some(elsewhere) = key_of(name) {
        return format!("It belongs into `{}`", elsewhere.section.header());
    }
    // Who knows the option of the command line has found the key.
    let option = |key: &&Key| key.option.trim_start_matches('-').replace('-', "_") == name.replace('-', "_");
    let near = section.keys().find(option).map(|key| key.name);
    match near.or_else(|| nearest(name, section.keys().map(|key| key.name))) {
        Some(near) => format!("Did you mean `{near}`?"),
        None => {
            let known: Vec<&str> = section.keys().map(|key| key.name).collect();
            format!("There are `{}`", known.join("`, `"))
        }
    }
}

fn key_of(name: &str) -> Option<&'static Key> {
    keys::KEYS.iter().find(|key| key.name == name)
}

fn example(key: &Key) -> String {
    format!("Write it as `{} = {}`", key.name, key.example)
}

/// A name that is allowed and near to this one.
fn plain_name(name: &str) -> Option<String> {
    let letter = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
        _ => '-',
    };
    let plain: String = name.chars().map(letter).take(64).collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    parse::is_name(plain).then(|| plain.to_owned())
}

/// Whether a value that stands in the file itself is one that others should not read.
pub(crate) fn has_secret(config: &Config) -> bool {
    let plain = |text: &Text| {
        text.pieces.iter().any(|piece| match piece {
            Piece::Plain(text) => !matches!(text.trim(), "Bearer" | "Basic" | "Token" | "token"),
            Piece::From { .. } => false,
        })
    };
    let named = |name: &str| {
        let name = name.to_ascii_uppercase();
        ["KEY", "TOKEN", "SECRET", "PASS", "AUTH", "CREDENTIAL"].iter().any(|part| name.contains(part))
    };
    let mut headers = config.servers.iter().flat_map(|server| &server.headers);
    let mut variables = config.servers.iter().flat_map(|server| match &server.place {
        Where::Url(_) => &[][..],
        Where::Command(program) => &program.env[..],
    });
    headers.any(|(_, set)| plain(&set.value)) || variables.any(|(name, set)| named(name) && plain(&set.value))
}
