//! The clients that relatch knows: where each keeps its servers, in which language, and which of its keys mean what.
//!
//! The facts and where they come from are in `docs/reference/clients.md`. Places are worked out from what they are given;
//! no file is looked at here.

use std::path::{Path, PathBuf};

use super::entry::{Entry, Value};
use super::json::Dialect;

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// What `--client` takes.
    pub(crate) id: &'static str,
    /// What people call it.
    pub(crate) title: &'static str,
    pub(crate) format: Format,
    /// The paths to its servers; `*` is any key.
    pub(crate) tables: &'static [&'static [&'static str]],
    /// The keys for an address, and what each means when no kind is given. The first is written.
    pub(crate) addresses: &'static [(&'static str, Bare)],
    /// The key for the headers of an HTTP server.
    pub(crate) headers: &'static str,
    /// The word of `type` for a server that is a program; `None` where there is no such word.
    pub(crate) stdio: Option<&'static str>,
    /// The words of `type` that mean Streamable HTTP, the first of which is written.
    pub(crate) http: &'static [&'static str],
    /// Whether the client reaches HTTP servers by itself, as far as its documentation says.
    pub(crate) http_itself: bool,
    /// Keys by which the client, or a program of it, gets credentials: relatch can't do that in its place.
    pub(crate) credentials: &'static [&'static str],
    /// The key that switches a server off, and the value that does.
    pub(crate) off: Option<(&'static str, bool)>,
    pub(crate) variables: Variables,
    /// What makes the client read its file again, where it doesn't by itself.
    pub(crate) reread: Option<&'static str>,
    user: fn(&Places) -> Vec<PathBuf>,
    project: &'static [&'static str],
}

/// The language of a client's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json(Dialect),
    Codex,
}

/// What the client puts in place of `${…}` and its like, in addresses and headers as in `env`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variables {
    /// Nothing.
    None,
    /// `${…}`.
    Braces,
    /// `${…}`; a default inside a default is only looked into in headers.
    BracesOnce,
    /// `$NAME` and `${NAME}`; one that is not set stays in headers and vanishes in `env`.
    Shell,
}

/// What an address without a `type` means to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    Http,
    Sse,
    Nothing,
}

/// How a server is reached, as its entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// By Streamable HTTP, at the address under this key.
    Http(&'static str),
    /// By the old HTTP+SSE transport, at the address under this key.
    Sse(&'static str),
    /// As a program that the client starts.
    Program,
    /// The entry does not say.
    Unsaid,
}

/// Whose files are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    User,
    Project,
}

/// The folders that everything is found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) system: System,
    pub(crate) home: PathBuf,
    /// The folder of the project: the current one.
    pub(crate) project: PathBuf,
    /// `XDG_CONFIG_HOME`, `APPDATA`, `CLAUDE_CONFIG_DIR`, `CODEX_HOME`, where they are set.
    pub(crate) config: Option<PathBuf>,
    pub(crate) appdata: Option<PathBuf>,
    pub(crate) claude: Option<PathBuf>,
    pub(crate) codex: Option<PathBuf>,
}

/// The operating system, as far as it decides where files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Linux,
    Mac,
    Windows,
}

impl Places {
    /// The places of this process.
    ///
    /// # Errors
    /// When there is no home folder, or no current one.
    pub(crate) fn of_this_process() -> Result<Places, String> {
        // A path that isn't absolute is to be ignored, says the specification of base folders.
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = set("HOME").or_else(|| set("USERPROFILE")).ok_or("`HOME` is not set")?;
        let project = std::env::current_dir().map_err(|cause| format!("the current folder: {cause}"))?;
        Ok(Places {
            system: match () {
                () if cfg!(target_os = "macos") => System::Mac,
                () if cfg!(windows) => System::Windows,
                () => System::Linux,
            },
            home,
            project,
            config: set("XDG_CONFIG_HOME"),
            appdata: set("APPDATA"),
            claude: set("CLAUDE_CONFIG_DIR"),
            codex: set("CODEX_HOME"),
        })
    }

    /// Where desktop programs keep their settings.
    fn desktop(&self) -> PathBuf {
        match self.system {
            System::Linux => self.dotconfig(),
            System::Mac => self.home.join("Library/Application Support"),
            System::Windows => self.appdata.clone().unwrap_or_else(|| self.home.join("AppData/Roaming")),
        }
    }

    fn dotconfig(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.home.join(".config"))
    }

    /// A path as people write it: `~/…`.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.home)
            .map_or_else(|_| path.display().to_string(), |below| format!("~/{}", below.display()))
    }
}

impl Client {
    /// Where its files may be.
    pub(crate) fn files(&self, places: &Places, scope: Scope) -> Vec<PathBuf> {
        match scope {
            Scope::User => (self.user)(places),
            Scope::Project => self.project.iter().map(|file| places.project.join(file)).collect(),
        }
    }

    /// The servers in a text of its file.
    ///
    /// # Errors
    /// What is wrong with the text, with its line and column.
    pub(crate) fn read(&self, text: &str) -> Result<Vec<Entry>, String> {
        match self.format {
            Format::Json(dialect) => super::json::entries(text, dialect, self.tables),
            Format::Codex => super::codex::entries(text),
        }
    }

    /// How a server is reached.
    pub(crate) fn reached(&self, entry: &Entry) -> Reached {
        if entry.field("command").is_some() {
            return Reached::Program;
        }
        let Some((key, bare)) = self.addresses.iter().find(|(key, _)| entry.text(key).is_some()) else {
            return Reached::Unsaid;
        };
        match entry.text("type").or_else(|| entry.text("transport")) {
            Some(kind) if self.http.contains(&kind) => Reached::Http(key),
            Some("sse") => Reached::Sse(key),
            Some(_) => Reached::Unsaid,
            None => match bare {
                Bare::Http => Reached::Http(key),
                Bare::Sse => Reached::Sse(key),
                Bare::Nothing => Reached::Unsaid,
            },
        }
    }

    /// Whether the server is switched off.
    pub(crate) fn is_off(&self, entry: &Entry) -> bool {
        self.off.is_some_and(|(key, value)| {
            matches!(entry.field(key).map(|field| &field.value), Some(Value::Flag(flag)) if *flag == value)
        })
    }
}

/// The client of that name.
pub(crate) fn called(id: &str) -> Option<&'static Client> {
    CLIENTS.iter().find(|client| client.id == id)
}

/// The word of most clients, and others that files are found with.
const HTTP: &[&str] = &["http", "streamable-http", "streamableHttp", "streamable_http"];
const COMMON: &[&[&str]] = &[&["mcpServers"]];

/// Every client, in the order in which they are looked at.
pub(crate) const CLIENTS: &[Client] = &[
    Client {
        id: "claude-code",
        title: "Claude Code",
        format: Format::Json(Dialect::Plain),
        // The second path is in `~/.claude.json` only, and holds the servers of one project each, of scope "local".
        tables: &[&["mcpServers"], &["projects", "*", "mcpServers"]],
        addresses: &[("url", Bare::Nothing)],
        headers: "headers",
        stdio: Some("stdio"),
        // It skips a server of any other type.
        http: &["http", "streamable-http"],
        http_itself: true,
        credentials: &["headersHelper", "oauth"],
        off: None,
        variables: Variables::BracesOnce,
        reread: Some("restart its sessions"),
        user: |places| vec![places.claude.as_ref().unwrap_or(&places.home).join(".claude.json")],
        project: &[".mcp.json"],
    },
    Client {
        id: "claude-desktop",
        title: "Claude Desktop",
        format: Format::Json(Dialect::Plain),
        tables: COMMON,
        addresses: &[("url", Bare::Http)],
        headers: "headers",
        stdio: Some("stdio"),
        http: HTTP,
        http_itself: false,
        credentials: &["oauth"],
        off: None,
        variables: Variables::None,
        reread: Some("quit and start it"),
        user: |places| vec![places.desktop().join("Claude/claude_desktop_config.json")],
        project: &[],
    },
    Client {
        id: "cursor",
        title: "Cursor",
        format: Format::Json(Dialect::Comments),
        tables: COMMON,
        addresses: &[("url", Bare::Http)],
        headers: "headers",
        stdio: Some("stdio"),
        http: HTTP,
        http_itself: true,
        credentials: &["auth", "oauth"],
        off: Some(("disabled", true)),
        variables: Variables::Braces,
        reread: Some("reload its window"),
        user: |places| vec![places.home.join(".cursor/mcp.json")],
        project: &[".cursor/mcp.json"],
    },
    Client {
        id: "vscode",
        title: "VS Code",
        format: Format::Json(Dialect::Comments),
        tables: &[&["servers"]],
        addresses: &[("url", Bare::Http)],
        headers: "headers",
        stdio: Some("stdio"),
        http: HTTP,
        http_itself: true,
        credentials: &["oauth"],
        off: None,
        variables: Variables::Braces,
        reread: Some("run `MCP: List Servers` and restart the server"),
        user: |places| {
            ["Code", "Code - Insiders"]
                .iter()
                .map(|name| places.desktop().join(name).join("User/mcp.json"))
                .collect()
        },
        project: &[".vscode/mcp.json"],
    },
    Client {
        id: "codex",
        title: "Codex",
        format: Format::Codex,
        tables: &[&["mcp_servers"]],
        addresses: &[("url", Bare::Http)],
        headers: "http_headers",
        stdio: None,
        http: &[],
        http_itself: true,
        credentials: &["oauth", "oauth_resource", "scopes", "bearer_token"],
        off: Some(("enabled", false)),
        variables: Variables::None,
        reread: Some("start a new session"),
        user: |places| {
            vec![places.codex.clone().unwrap_or_else(|| places.home.join(".codex")).join("config.toml")]
        },
        project: &[".codex/config.toml"],
    },
    Client {
        id: "gemini",
        title: "Gemini CLI",
        format: Format::Json(Dialect::Comments),
        tables: COMMON,
        addresses: &[("httpUrl", Bare::Http), ("url", Bare::Sse)],
        headers: "headers",
        stdio: None,
        http: HTTP,
        http_itself: true,
        credentials: &["oauth", "authProviderType", "targetAudience", "targetServiceAccount"],
        off: None,
        variables: Variables::Shell,
        reread: Some("restart it"),
        user: |places| vec![places.home.join(".gemini/settings.json")],
        project: &[".gemini/settings.json"],
    },
    Client {
        id: "windsurf",
        title: "Windsurf",
        format: Format::Json(Dialect::Plain),
        tables: COMMON,
        addresses: &[("serverUrl", Bare::Http), ("url", Bare::Http)],
        headers: "headers",
        stdio: None,
        http: HTTP,
        http_itself: true,
        credentials: &["oauth"],
        off: Some(("disabled", true)),
        variables: Variables::Braces,
        reread: Some("press Refresh among its MCP servers"),
        user: |places| vec![places.home.join(".codeium/windsurf/mcp_config.json")],
        project: &[],
    },
    Client {
        id: "zed",
        title: "Zed",
        format: Format::Json(Dialect::Comments),
        tables: &[&["context_servers"]],
        addresses: &[("url", Bare::Http)],
        headers: "headers",
        stdio: None,
        http: &[],
        http_itself: true,
        credentials: &["oauth"],
        off: Some(("enabled", false)),
        variables: Variables::None,
        reread: None,
        user: |places| {
            let folder = match places.system {
                System::Linux => places.dotconfig().join("zed"),
                System::Mac => places.home.join(".config/zed"),
                System::Windows => places.desktop().join("Zed"),
            };
            vec![folder.join("settings.json")]
        },
        project: &[".zed/settings.json"],
    },
    Client {
        id: "cline",
        title: "Cline",
        format: Format::Json(Dialect::Plain),
        tables: COMMON,
        addresses: &[("url", Bare::Sse)],
        headers: "headers",
        stdio: Some("stdio"),
        http: &["streamableHttp", "http", "streamable-http"],
        http_itself: true,
        credentials: &["oauth"],
        off: Some(("disabled", true)),
        variables: Variables::None,
        reread: None,
        user: |places| {
            vec![
                places
                    .desktop()
                    .join("Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json"),
                places.home.join(".cline/data/settings/cline_mcp_settings.json"),
            ]
        },
        project: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn places(system: System) -> Places {
        Places {
            system,
            home: "/home/me".into(),
            project: "/src/app".into(),
            config: None,
            appdata: None,
            claude: None,
            codex: None,
        }
    }

    fn all(places: &Places, scope: Scope) -> String {
        let mut text = String::new();
        for client in CLIENTS {
            for file in client.files(places, scope) {
                text.push_str(&format!("{:<15} {}\n", client.id, file.display()));
            }
        }
        text
    }

    #[test]
    fn every_client_is_where_its_documentation_says() {
        for (name, system, scope) in [
            ("user_linux", System::Linux, Scope::User),
            ("user_mac", System::Mac, Scope::User),
            ("user_windows", System::Windows, Scope::User),
            ("project", System::Linux, Scope::Project),
        ] {
            insta::assert_snapshot!(name, all(&places(system), scope));
        }
    }

    #[test]
    fn folders_that_were_moved_are_followed() {
        let mut moved = places(System::Linux);
        moved.config = Some("/cfg".into());
        moved.claude = Some("/claude".into());
        moved.codex = Some("/codex".into());
        let text = all(&moved, Scope::User);
        for file in [
            "/claude/.claude.json",
            "/codex/config.toml",
            "/cfg/Code/User/mcp.json",
            "/cfg/zed/settings.json",
        ] {
            assert!(text.contains(&format!(" {file}\n")), "{text}");
        }
        moved.system = System::Windows;
        moved.appdata = Some("/roaming".into());
        assert!(all(&moved, Scope::User).contains(" /roaming/Claude/claude_desktop_config.json\n"));
    }

    #[test]
    fn how_a_server_is_reached_is_read_as_each_client_does() {
        let reached = |id: &str, entry: &str| {
            let client = called(id).unwrap();
            let (mut text, mut end) = (String::new(), String::new());
            for step in client.tables[0] {
                text.push_str(&format!("{{\"{step}\": "));
                end.push('}');
            }
            let text = format!("{text}{{\"a\": {entry}}}{end}");
            client.reached(&client.read(&text).unwrap()[0])
        };
        for (id, entry, expected) in [
            ("claude-code", r#"{"type": "http", "url": "http://h/mcp"}"#, Reached::Http("url")),
            ("claude-code", r#"{"type": "streamable-http", "url": "http://h/mcp"}"#, Reached::Http("url")),
            ("claude-code", r#"{"type": "streamableHttp", "url": "http://h/mcp"}"#, Reached::Unsaid),
            ("claude-code", r#"{"type": "sse", "url": "http://h/mcp"}"#, Reached::Sse("url")),
            ("claude-code", r#"{"url": "http://h/mcp"}"#, Reached::Unsaid),
            ("claude-code", r#"{"type": "ws", "url": "http://h/mcp"}"#, Reached::Unsaid),
            ("claude-code", r#"{"command": "x", "url": "http://h/mcp"}"#, Reached::Program),
            ("cursor", r#"{"url": "http://h/mcp"}"#, Reached::Http("url")),
            ("cursor", r#"{"url": "http://h/sse?x=1"}"#, Reached::Http("url")),
            ("cursor", r#"{"type": "http", "url": "http://h/sse"}"#, Reached::Http("url")),
            ("vscode", r#"{"type": "http", "url": "http://h/mcp"}"#, Reached::Http("url")),
            ("gemini", r#"{"httpUrl": "http://h/mcp"}"#, Reached::Http("httpUrl")),
            ("gemini", r#"{"url": "http://h/mcp"}"#, Reached::Sse("url")),
            ("gemini", r#"{"url": "http://h/mcp", "type": "http"}"#, Reached::Http("url")),
            ("windsurf", r#"{"serverUrl": "http://h/mcp"}"#, Reached::Http("serverUrl")),
            ("zed", r#"{"url": "http://h/mcp"}"#, Reached::Http("url")),
            ("zed", r#"{"settings": {}}"#, Reached::Unsaid),
            ("cline", r#"{"url": "http://h/mcp"}"#, Reached::Sse("url")),
            ("cline", r#"{"type": "streamableHttp", "url": "http://h/mcp"}"#, Reached::Http("url")),
        ] {
            assert_eq!(reached(id, entry), expected, "{id} {entry}");
        }
    }
}
