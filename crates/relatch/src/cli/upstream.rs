//! The options that `stdio` and `serve` have in common: how relatch treats the upstream behind it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use relatch_admin::schema::shown_url;
use relatch_core::policy::{HOLD_MS, Transport};

use super::parse;
use crate::config::edit::NewServer;
use crate::config::read::Follow;
use crate::config::{self, Loaded, place};
use crate::keeper::command;
use crate::launch::{Place, Program, ServerSpec, Ways, absolute};
use crate::render::Failure;
use crate::render::config::span;

#[derive(Debug, Args)]
#[command(next_help_heading = "How calls are treated")]
pub(crate) struct Treatment {
    /// Send a header with every request to the server; may be repeated. `${NAME}` in it is filled in from the
    /// environment: what stands on a command line can be seen by others
    #[arg(long = "header", value_name = "K:V")]
    pub(crate) headers: Vec<String>,

    /// How long a call waits while its server is away, such as `500ms`, `45s` or `5m` [default: 45s]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    hold: Option<u64>,

    /// The server's sessions hold work (a browser, a transaction): after a relatch, calls are given back instead of
    /// being run against an empty session
    #[arg(long)]
    stateful: bool,

    /// Whether a tool that may have run is called again: always or never, by name or pattern, such as
    /// `search_*=always`; may be repeated, the first match counts. Without a match its annotations decide
    #[arg(long, value_name = "GLOB=always|never", value_parser = parse::replay)]
    replay: Vec<(String, bool)>,

    /// `refused`: the proxy in front answers 502, 503 and 504 only when no server was behind it
    #[arg(long, value_name = "MEANING")]
    gateway_errors: Option<GatewayErrors>,

    /// How the server at an address is spoken to: `http` is Streamable HTTP, `sse` the old HTTP+SSE of 2024-11-05, `auto`
    /// the one that it speaks [default: auto]
    #[arg(long, value_name = "auto|http|sse", value_parser = parse::transport)]
    transport: Option<Transport>,

    /// Add the tool and the prompt `relatch_status` to what the server offers, so that user and model can ask inside the
    /// client how the connection is, and log there when it is lost and back
    #[arg(long)]
    tell: bool,

    /// Keep no copy of what the server says of itself and its lists, and answer no client from one: a client that starts
    /// before its server waits
    #[arg(long)]
    no_copies: bool,
    #[command(flatten)]
    pub(crate) ways: WayOptions,
}

/// The options that say how a server is reached.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "How the server is reached")]
pub(crate) struct WayOptions {
    /// A file of certificates, in PEM form, that alone vouch for an https server [default: the system's trust store]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The client certificate, in PEM form, for an https server that wants to know its clients
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// The private key of `--cert`, in PEM form and without a passphrase [default: in the file of `--cert`]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// The proxy on the way to the server, such as `http://proxy.example.com:3128`, or `none` [default: `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`]
    // Read later: what is wrong with it may show its password.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

impl WayOptions {
    /// What was typed, with whole paths.
    pub(crate) fn ways(&self) -> Ways {
        let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Ways {
            ca: self.ca.as_ref().map(whole),
            cert: self.cert.as_ref().map(whole),
            key: self.key.as_ref().map(whole),
            proxy: self.proxy.clone(),
        }
    }

    /// The same in front of what the file says.
    pub(crate) fn over(&self, file: Ways) -> Ways {
        let Ways { ca, cert, key, proxy } = self.ways();
        // A key belongs to its certificate.
        let key = if cert.is_some() { key } else { file.key };
        Ways { ca: ca.or(file.ca), cert: cert.or(file.cert), key, proxy: proxy.or(file.proxy) }
    }

    /// A certificate says who relatch is: like other credentials, it is for one server.
    pub(crate) fn is_credential(&self) -> bool {
        self.cert.is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GatewayErrors {
    /// No server was reached, so the call did not run
    Refused,
}

impl Treatment {
    /// One upstream with these options and with headers that were picked for it.
    pub(crate) fn spec(&self, name: String, place: Place, headers: Vec<(String, String)>) -> ServerSpec {
        let shown = match &place {
            Place::Url(url) => shown_url(url),
            Place::Command(program) => command(program).to_string(),
        };
        ServerSpec {
            name,
            place,
            shown,
            headers,
            hold_ms: self.hold.unwrap_or(HOLD_MS),
            stateful: self.stateful,
            replay: self.replay.clone(),
            gateway_errors_refused: self.gateway_errors == Some(GatewayErrors::Refused),
            transport: self.transport.unwrap_or_default(),
            tell: self.tell,
            ways: self.ways.ways(),
            copies: !self.no_copies,
        }
    }

    /// A server of the file with these options in front of what the file says, and with headers that were picked for it
    /// in place of the file's of the same names.
    pub(crate) fn over(&self, mut spec: ServerSpec, headers: Vec<(String, String)>) -> ServerSpec {
        spec.headers.retain(|(name, _)| !headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        spec.headers.extend(headers);
        spec.hold_ms = self.hold.unwrap_or(spec.hold_ms);
        spec.stateful |= self.stateful;
        spec.tell |= self.tell;
        spec.ways = self.ways.over(spec.ways);
        spec.copies &= !self.no_copies;
        // The first match counts.
        spec.replay.splice(0..0, self.replay.iter().cloned());
        spec.transport = self.transport.unwrap_or(spec.transport);
        spec.gateway_errors_refused |= self.gateway_errors == Some(GatewayErrors::Refused);
        spec
    }

    /// One server with these options as it is to stand in the file.
    pub(crate) fn written(&self, name: String, url: String) -> Result<NewServer, Failure> {
        Ok(NewServer {
            name,
            url,
            // As typed: the file keeps the name of a variable, and not what it holds today.
            headers: self.headers.iter().map(|text| parse::literal_header(text)).collect::<Result<_, _>>()?,
            hold: self.hold.map(span),
            stateful: self.stateful,
            replay: self.replay.clone(),
            gateway_errors_refused: self.gateway_errors == Some(GatewayErrors::Refused),
            transport: self.transport,
            tell: self.tell,
            no_copies: self.no_copies,
            ways: Box::new(self.ways.ways()),
            ..NewServer::default()
        })
    }

    /// What a command has no use for.
    ///
    /// # Errors
    /// Where it was given all the same.
    pub(crate) fn without_transport(&self) -> Result<(), Failure> {
        match self.transport {
            None => Ok(()),
            Some(_) => Err(Failure::usage("A command takes no `--transport`")
                .hint("Leave it out: a command is spoken to over its stdin and stdout")),
        }
    }

    /// The headers, for a keeper of one upstream.
    pub(crate) fn headers(&self) -> Result<Vec<(String, String)>, Failure> {
        self.headers.iter().map(|text| parse::header(text)).collect()
    }
}

/// What surrounds a command.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the command runs in")]
pub(crate) struct Surroundings {
    /// Give the command a variable; may be repeated. `${NAME}` in the value is filled in from the environment, and without
    /// a value the variable is that of the environment: what stands on a command line can be seen by others
    #[arg(long = "env", value_name = "K[=V]")]
    env: Vec<String>,

    /// The folder in which the command runs [default: the one in which relatch runs]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// Of relatch's own environment, give the command these variables and no others; several are set off by commas
    #[arg(long = "inherit-env", value_name = "NAMES", value_delimiter = ',')]
    inherit_env: Option<Vec<String>>,
}

impl Surroundings {
    /// Whether anything was said.
    pub(crate) fn are_given(&self) -> bool {
        !self.env.is_empty() || self.cwd.is_some() || self.inherit_env.is_some()
    }

    /// What is typed goes before what the file says.
    pub(crate) fn over(&self, program: &mut Program) -> Result<(), Failure> {
        for text in &self.env {
            let (name, value) = parse::variable(text)?;
            program.env.retain(|(other, _)| *other != name);
            program.env.push((name, value));
        }
        if let Some(cwd) = &self.cwd {
            program.cwd = Some(absolute(cwd));
        }
        if self.inherit_env.is_some() {
            program.inherit_env = self.inherited()?;
        }
        Ok(())
    }

    /// The same as it is to stand in the file.
    pub(crate) fn written(&self, server: &mut NewServer) -> Result<(), Failure> {
        for text in &self.env {
            // As typed: the file keeps the name of a variable, and not what it holds today.
            let (name, value) = parse::literal_variable(text)?;
            server.env.retain(|(other, _)| *other != name);
            server.env.push((name.clone(), value.unwrap_or_else(|| format!("${{{name}}}"))));
        }
        server.inherit_env = self.inherited()?;
        // The file is somewhere else than whoever types.
        server.cwd = self.cwd.as_ref().map(|cwd| match cwd.starts_with("~") {
            true => cwd.display().to_string(),
            false => absolute(cwd).display().to_string(),
        });
        Ok(())
    }

    fn inherited(&self) -> Result<Option<Vec<String>>, Failure> {
        let Some(names) = &self.inherit_env else { return Ok(None) };
        let names = names.iter().filter(|name| !name.is_empty());
        names
            .map(|name| match parse::is_variable(name) {
                true => Ok(name.clone()),
                false => Err(Failure::usage("A name of `--inherit-env` can't be that of a variable")),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// Which configuration file is read.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file [default: $RELATCH_CONFIG, or relatch/relatch.toml in the folder for configuration]
    #[arg(long = "config", value_name = "FILE", global = true)]
    given: Option<PathBuf>,
}

impl ConfigFile {
    /// The file that is named by option or variable; else the usual one. None where there is no place for one.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        place::named(self.given.as_deref()).or_else(place::usual)
    }

    /// The same; where there is no place for one, that is the answer.
    pub(crate) fn needed(&self) -> Result<PathBuf, Failure> {
        self.path().ok_or_else(|| {
            Failure::usage("There is no folder for a configuration file")
                .cause("neither `XDG_CONFIG_HOME` nor `HOME` is set")
                .hint("Name the file with `--config FILE`")
        })
    }

    /// What the file says; nothing where none was named and the usual one is not there.
    pub(crate) fn load(&self, follow: Follow<'_>) -> Result<Option<Loaded>, Failure> {
        if let Some(named) = place::named(self.given.as_deref()) {
            return Ok(Some(config::load(&named, follow)?));
        }
        match place::usual().filter(|usual| is_there(usual)) {
            Some(usual) => Ok(Some(config::load(&usual, follow)?)),
            None => Ok(None),
        }
    }

    /// Whether it was named on the command line.
    pub(crate) fn is_given(&self) -> bool {
        self.given.is_some()
    }
}

/// A link that leads nowhere is there, and is a fault.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
