//! Every key of `relatch.toml`: one table for the reader, its suggestions, the JSON Schema and the guide.
//!
//! Reads nothing itself.

/// A section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// `[serve]`
    Serve,
    /// `[hooks]`
    Hooks,
    /// `[server.NAME]`
    Server,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `ADDR:PORT`.
    Listen,
    /// A folder; relative to the file.
    Folder,
    /// A file; relative to this one.
    File,
    /// The address of a proxy, in which `${…}` may stand, or `none`.
    Proxy,
    /// `true` or `false`.
    Flag,
    /// Host names.
    Hosts,
    /// Names of variables to values, in which `${…}` may stand.
    Variables,
    /// Names of variables.
    Names,
    /// A command in one string, or a program with its arguments.
    Command,
    /// An address, in which `${…}` may stand.
    Address,
    /// Header names to values, in which `${…}` may stand.
    Headers,
    /// A span such as `45s`.
    Span,
    /// Patterns of tool names to `always` or `never`.
    Replay,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Where it stands.
    pub(crate) section: Section,
    /// How it is spelled.
    pub(crate) name: &'static str,
    /// The option of the command line that says the same.
    pub(crate) option: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What holds without it, in words; empty where it has to be there.
    pub(crate) default: &'static str,
    /// What it is for.
    pub(crate) about: &'static str,
    /// A value that fits, as TOML.
    pub(crate) example: &'static str,
}

impl Section {
    pub(crate) const ALL: [Section; 3] = [Section::Serve, Section::Hooks, Section::Server];

    /// The first word of its header.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Section::Serve => "serve",
            Section::Hooks => "hooks",
            Section::Server => "server",
        }
    }

    /// Its header, for people.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Section::Serve => "[serve]",
            Section::Hooks => "[hooks]",
            Section::Server => "[server.NAME]",
        }
    }

    /// What it is for.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Section::Serve => "How `relatch serve` is reached. It can't change while it runs",
            Section::Hooks => "Who is told when a server goes down, recovers or flaps",
            Section::Server => "A server, by the name that it has in paths, tables and commands",
        }
    }

    /// Its keys.
    pub(crate) fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.section == self)
    }
}

/// The key of this name in this section.
pub(crate) fn find(section: Section, name: &str) -> Option<&'static Key> {
    section.keys().find(|key| key.name == name)
}

/// The keys of a server that only a command has.
pub(crate) const OF_COMMANDS: [&str; 4] = ["env", "cwd", "inherit_env", "shared"];

/// Every key, in the order of the guide.
pub(crate) const KEYS: [Key; 24] = [
    Key {
        section: Section::Serve,
        name: "listen",
        option: "--listen",
        kind: Kind::Listen,
        default: "127.0.0.1:7332",
        about: "Where clients connect, and where the page is; port 0 takes a free one",
        example: "\"127.0.0.1:7332\"",
    },
    Key {
        section: Section::Serve,
        name: "state_dir",
        option: "--state-dir",
        kind: Kind::Folder,
        default: "the user's folder for state",
        about: "Where sessions, token and journal are kept; relative to this file",
        example: "\"~/.local/state/relatch\"",
    },
    Key {
        section: Section::Serve,
        name: "no_token",
        option: "--no-token",
        kind: Kind::Flag,
        default: "false",
        about: "Serve clients without the `Relatch-Token` header: every program on this machine may then use the servers",
        example: "true",
    },
    Key {
        section: Section::Serve,
        name: "allow_host",
        option: "--allow-host",
        kind: Kind::Hosts,
        default: "none",
        about: "Further host names under which clients reach this",
        example: "[\"mcp.example.com\"]",
    },
    Key {
        section: Section::Hooks,
        name: "on_change",
        option: "--on-change",
        kind: Kind::Command,
        default: "none",
        about: "A program that is run when a server goes down, recovers or flaps: one string, split as a shell would, or a list of words",
        example: "[\"notify-send\", \"a server has turned\"]",
    },
    Key {
        section: Section::Hooks,
        name: "webhook",
        option: "--webhook",
        kind: Kind::Address,
        default: "none",
        about: "An address that gets the same event as JSON by POST: https, or http on this machine",
        example: "\"https://hooks.example.com/${HOOK_KEY}\"",
    },
    Key {
        section: Section::Server,
        name: "url",
        option: "NAME=URL",
        kind: Kind::Address,
        default: "the server has a `command`",
        about: "The server's address; `unix:/run/mcp.sock` for a unix socket, with `:/PATH` behind it where the server is not at `/mcp`",
        example: "\"http://127.0.0.1:8761/mcp\"",
    },
    Key {
        section: Section::Server,
        name: "command",
        option: "-- CMD",
        kind: Kind::Command,
        default: "the server has a `url`",
        about: "The program that is the server, with its arguments, started for each session: one string, split as a shell would, or a list of words",
        example: "[\"npx\", \"-y\", \"@modelcontextprotocol/server-everything\"]",
    },
    Key {
        section: Section::Server,
        name: "transport",
        option: "--transport",
        kind: Kind::Word(&["auto", "http", "sse"]),
        default: "auto",
        about: "How the server at the `url` is spoken to: `http` is Streamable HTTP, `sse` the old HTTP+SSE of 2024-11-05, `auto` the one that it speaks",
        example: "\"sse\"",
    },
    Key {
        section: Section::Server,
        name: "env",
        option: "--env",
        kind: Kind::Variables,
        default: "none",
        about: "Variables that the command has in its environment, before relatch's own of that name",
        example: "{ API_KEY = \"${API_KEY}\" }",
    },
    Key {
        section: Section::Server,
        name: "cwd",
        option: "--cwd",
        kind: Kind::Folder,
        default: "the folder in which relatch runs",
        about: "The folder in which the command runs; relative to this file",
        example: "\"~/notes\"",
    },
    Key {
        section: Section::Server,
        name: "inherit_env",
        option: "--inherit-env",
        kind: Kind::Names,
        default: "all of it",
        about: "The variables that the command has of relatch's own environment, and no others",
        example: "[\"PATH\", \"HOME\"]",
    },
    Key {
        section: Section::Server,
        name: "shared",
        option: "--shared",
        kind: Kind::Flag,
        default: "false",
        about: "The command keeps nothing per client: one process serves all sessions, and is told of no client's sampling, elicitation and roots",
        example: "true",
    },
    Key {
        section: Section::Server,
        name: "headers",
        option: "--header",
        kind: Kind::Headers,
        default: "none",
        about: "Headers that every request to the server carries, in place of the client's own of that name",
        example: "{ Authorization = \"Bearer ${GMAIL_TOKEN}\" }",
    },
    Key {
        section: Section::Server,
        name: "hold",
        option: "--hold",
        kind: Kind::Span,
        default: "45s",
        about: "How long a call waits while its server is away, such as `500ms`, `45s` or `5m`",
        example: "\"45s\"",
    },
    Key {
        section: Section::Server,
        name: "stateful",
        option: "--stateful",
        kind: Kind::Flag,
        default: "false",
        about: "The server's sessions hold work (a browser, a transaction): after a relatch, calls are given back instead of being run against an empty session",
        example: "true",
    },
    Key {
        section: Section::Server,
        name: "replay",
        option: "--replay",
        kind: Kind::Replay,
        default: "by the tool's annotations",
        about: "Whether a tool that may have run is called again: always or never, by name or pattern; the first match counts",
        example: "{ \"send_*\" = \"never\", \"search_*\" = \"always\" }",
    },
    Key {
        section: Section::Server,
        name: "gateway_errors",
        option: "--gateway-errors",
        kind: Kind::Word(&["refused"]),
        default: "unknown whether the call ran",
        about: "`refused`: the proxy in front answers 502, 503 and 504 only when no server was behind it",
        example: "\"refused\"",
    },
    Key {
        section: Section::Server,
        name: "tell",
        option: "--tell",
        kind: Kind::Flag,
        default: "false",
        about: "Inside the client, a tool and a prompt `relatch_status` say how the server is, also while it is away",
        example: "true",
    },
    Key {
        section: Section::Server,
        name: "ca",
        option: "--ca",
        kind: Kind::File,
        default: "the system's trust store",
        about: "A file of certificates, in PEM form, that alone vouch for an https server; relative to this file, and read again when it has changed",
        example: "\"corp-ca.pem\"",
    },
    Key {
        section: Section::Server,
        name: "cert",
        option: "--cert",
        kind: Kind::File,
        default: "none",
        about: "The client certificate, in PEM form, for an https server that wants to know its clients; behind it those that vouch for it",
        example: "\"relatch.pem\"",
    },
    Key {
        section: Section::Server,
        name: "key",
        option: "--key",
        kind: Kind::File,
        default: "the file of `cert`",
        about: "The private key of `cert`, in PEM form and without a passphrase",
        example: "\"relatch.key\"",
    },
    Key {
        section: Section::Server,
        name: "proxy",
        option: "--proxy",
        kind: Kind::Proxy,
        default: "`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment",
        about: "The proxy on the way to the server, or `none`; a server on this machine is never reached by one",
        example: "\"http://proxy.example.com:3128\"",
    },
    Key {
        section: Section::Server,
        name: "copies",
        option: "--no-copies",
        kind: Kind::Flag,
        default: "true",
        about: "Keep what the server says of itself and its lists, so that a client that starts before it is answered from that copy",
        example: "false",
    },
];
