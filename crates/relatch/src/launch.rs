//! What a keeper is started with: everything from the command line, checked. Starts nothing itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use relatch_admin::KeeperKind;

/// Everything that a keeper needs to know to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// `Stdio` has exactly one server; its clients' side is stdin and stdout.
    pub(crate) kind: KeeperKind,
    /// The upstreams; names are unique.
    pub(crate) servers: Vec<ServerSpec>,
    /// Where `serve` listens.
    pub(crate) listen: SocketAddr,
    /// Where records, token and journal live; empty where there is no such place, which only `Stdio` can do without.
    pub(crate) state_dir: PathBuf,
    /// Whether the HTTP side asks for the token.
    pub(crate) token: bool,
    /// Further names under which the HTTP side may be reached.
    pub(crate) allow_hosts: Vec<String>,
    /// Who is told when health turns.
    pub(crate) hooks: HookSpec,
}

/// Who is told when health turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HookSpec {
    /// A program with its arguments.
    pub(crate) command: Option<Vec<String>>,
    /// An address: https, or http on this machine.
    pub(crate) webhook: Option<String>,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At an `http` or `https` address with a host and without user, password or fragment.
    Url(String),
    /// In a process for each session: the program and its arguments.
    Command(Vec<String>),
}

impl Place {
    /// As status shows it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Place::Url(url) => url.clone(),
            Place::Command(words) => words.join(" "),
        }
    }
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerSpec {
    /// `[a-z0-9][a-z0-9._-]{0,63}`.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) place: Place,
    /// Sent with every request to this upstream, before the client's own of the same name.
    pub(crate) headers: Vec<(String, String)>,
    /// How long an exchange waits while the upstream is away.
    pub(crate) hold_ms: u64,
    /// Whether its sessions hold work, so that calls are given back after a relatch.
    pub(crate) stateful: bool,
    /// Tool name pattern (`*` any text, `?` one character) to "always" (`true`) or "never" (`false`); first match wins.
    pub(crate) replay: Vec<(String, bool)>,
    /// Whether 502, 503 and 504 prove that no server was behind the proxy.
    pub(crate) gateway_errors_refused: bool,
    /// Whether its clients are told how the connection is.
    pub(crate) tell: bool,
}
