//! What a keeper is started with: everything from the command line and the configuration, checked. Starts nothing itself.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use relatch_admin::KeeperKind;
use relatch_core::policy::{HOLD_MS, Transport};

use crate::config::{self, Loaded, Server, Where};
use crate::keeper::command;
use crate::render::Failure;

/// Reads everything again as it was read when the keeper was started: the file may have changed, the command line has not.
pub(crate) type Again = Box<dyn Fn() -> Result<Launch, Failure> + Send + Sync>;

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
    /// Where records live, where that is not `state_dir`, which another keeper may have.
    pub(crate) records_dir: Option<PathBuf>,
    /// Whether the HTTP side asks for the token.
    pub(crate) token: bool,
    /// Further names under which the HTTP side may be reached.
    pub(crate) allow_hosts: Vec<String>,
    /// Who is told when health turns.
    pub(crate) hooks: HookSpec,
    /// The configuration file, where one was read.
    pub(crate) config: Option<PathBuf>,
    /// What is worth a look in it, in words.
    pub(crate) warnings: Vec<String>,
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
    /// In a process for each session, or for all.
    Command(Program),
}

/// A server that is a command.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// Variables and their values, which may be secrets.
    pub(crate) env: Vec<(String, String)>,
    /// The variables that it has of relatch's environment; all unless set.
    pub(crate) inherit_env: Option<Vec<String>>,
    /// Where it runs; where relatch does unless set.
    pub(crate) cwd: Option<PathBuf>,
    /// Whether one process serves all sessions.
    pub(crate) shared: bool,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerSpec {
    /// `[a-z0-9][a-z0-9._-]{0,63}`.
    pub(crate) name: String,
    /// Where it is. May hold a secret.
    pub(crate) place: Place,
    /// The address, or the command, as it may be shown.
    pub(crate) shown: String,
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
    /// How the server at an address is spoken to.
    pub(crate) transport: Transport,
    /// Whether its clients are told how the connection is.
    pub(crate) tell: bool,
    /// Whether copies of what it says are kept, and given to clients that start before it.
    pub(crate) copies: bool,
    /// How it is reached.
    pub(crate) ways: Ways,
}

/// How an address is reached, where that is not straight and by the platform's trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// Certificates that vouch for the server.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate that relatch shows.
    pub(crate) cert: Option<PathBuf>,
    /// Its key; in the certificate's own file unless given.
    pub(crate) key: Option<PathBuf>,
    /// A proxy's address, which may hold a secret, or `none`. Unless given, the environment says.
    pub(crate) proxy: Option<String>,
}

impl Program {
    /// As it was typed, with all that relatch itself has.
    pub(crate) fn typed(words: &[String]) -> Program {
        Program { words: words.to_vec(), ..Program::default() }
    }

    /// What a file says of it.
    fn of(program: &config::Program) -> Program {
        let env = program.env.iter().map(|(name, set)| (name.clone(), set.value.value.clone()));
        Program {
            words: program.words.value.clone(),
            env: env.collect(),
            inherit_env: program.inherit_env.as_ref().map(|set| set.value.clone()),
            cwd: program.cwd.as_ref().map(|set| absolute(&set.value)),
            shared: program.shared.as_ref().is_some_and(|set| set.value),
        }
    }
}

/// A program is sought below it, from wherever relatch runs.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&command(self), f)
    }
}

impl ServerSpec {
    /// What a file says of a server, with the defaults for the rest.
    pub(crate) fn of(server: &Server) -> ServerSpec {
        let headers =
            server.headers.iter().map(|(name, set)| (name.clone(), set.value.value.trim().to_owned()));
        ServerSpec {
            name: server.name.clone(),
            shown: match &server.place {
                Where::Url(url) => url.value.shown_address(),
                Where::Command(program) => command(&Program::of(program)).to_string(),
            },
            place: match &server.place {
                Where::Url(url) => Place::Url(url.value.value.clone()),
                Where::Command(program) => Place::Command(Program::of(program)),
            },
            headers: headers.collect(),
            hold_ms: server.hold.as_ref().map_or(HOLD_MS, |set| set.value),
            stateful: server.stateful.as_ref().is_some_and(|set| set.value),
            replay: server.replay.as_ref().map_or(Vec::new(), |set| set.value.clone()),
            tell: server.tell.as_ref().is_some_and(|set| set.value),
            transport: server.transport.as_ref().map_or(Transport::Auto, |set| set.value),
            copies: server.copies.as_ref().is_none_or(|set| set.value),
            gateway_errors_refused: server.gateway_errors.as_ref().is_some_and(|set| set.value),
            ways: Ways {
                ca: server.ca.as_ref().map(|set| set.value.clone()),
                cert: server.cert.as_ref().map(|set| set.value.clone()),
                key: server.key.as_ref().map(|set| set.value.clone()),
                proxy: server.proxy.as_ref().map(|set| set.value.value.clone()),
            },
        }
    }
}

impl HookSpec {
    /// These hooks, and what the file says where they say nothing.
    pub(crate) fn or(self, file: Option<&Loaded>) -> HookSpec {
        let Some(Loaded { config, .. }) = file else { return self };
        HookSpec {
            command: self.command.or_else(|| config.on_change.as_ref().map(|set| set.value.clone())),
            webhook: self.webhook.or_else(|| config.webhook.as_ref().map(|set| set.value.value.clone())),
        }
    }
}
