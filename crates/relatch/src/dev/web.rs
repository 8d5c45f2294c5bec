//! A server that is reached by an address: a port for it, its start, and whether it has come up.
//!
//! It has when it answers `initialize`, and has been asked for its tools, since many listen before they can do anything. Decides nothing about when.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::HeaderMap;
use relatch_net::upstream::command::Command;
use relatch_net::upstream::dial::Target;
use relatch_net::upstream::process::Process;
use relatch_wire::era::Revision;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::doctor::client::{Ask, Client};
use crate::doctor::facts::{End, Seen};
use crate::launch::Program;
use crate::render::Failure;

/// In an address or a command, the port that is picked for a start.
pub(crate) const PORT: &str = "{port}";
/// A start may take so long.
const START_WITHIN: Duration = Duration::from_secs(30);
/// One that listens and answers something else than MCP may still be on its way for so long.
const ODD_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked whether it listens.
const LOOK: Duration = Duration::from_millis(25);
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where it is, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Perhaps with [`PORT`] in it.
    pub(crate) url: String,
    pub(crate) command: Vec<String>,
    pub(crate) headers: HeaderMap,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) process: Process,
    /// The address where it answers.
    pub(crate) url: String,
    /// Where it was picked.
    pub(crate) port: Option<u16>,
    pub(crate) began: Instant,
}

impl Place {
    /// Reads what was typed.
    pub(crate) fn new(url: &str, command: &[String], headers: HeaderMap) -> Result<Place, Failure> {
        let place = Place { url: url.to_owned(), command: command.to_vec(), headers };
        let picked = url.contains(PORT);
        let target = crate::cli::parse::address(&place.at(8000)).map_err(|failure| {
            if picked {
                failure.hint("`{port}` stands for the port, such as `http://127.0.0.1:{port}/mcp`")
            } else {
                failure
            }
        })?;
        let named = command.iter().any(|word| word.contains(PORT));
        if named && !picked {
            return Err(Failure::usage("The command has a `{port}`, and `--url` has none")
                .hint("Write both with `{port}`: `--url 'http://127.0.0.1:{port}/mcp'`"));
        }
        if picked && target.port() != Some(8000) {
            return Err(Failure::usage(format!("`{url}` has its `{{port}}` where no port is"))
                .hint("Write it as `http://127.0.0.1:{port}/mcp`"));
        }
        let here = target.host_str().is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host == "localhost"
                || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
        });
        if !here {
            return Err(Failure::usage(format!("`{url}` is not on this machine"))
                .cause("the command that is run here has to listen there")
                .hint("Give the address where it listens, such as `http://127.0.0.1:8000/mcp`; for a server that runs elsewhere there is `relatch serve`"));
        }
        Ok(place)
    }

    /// Whether a port is picked for each start, so that two servers can run beside each other.
    pub(crate) fn moves(&self) -> bool {
        self.url.contains(PORT)
    }

    /// A port for an address at which nothing is yet.
    pub(crate) fn a_port(&self) -> u16 {
        let free =
            || std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        if self.moves() { free().map_or(9, |at| at.port()) } else { 0 }
    }

    /// The address with this port.
    pub(crate) fn at(&self, port: u16) -> String {
        self.url.replace(PORT, &port.to_string())
    }

    /// What is run for this port.
    fn command(&self, port: u16) -> Command {
        let words: Vec<String> =
            self.command.iter().map(|word| word.replace(PORT, &port.to_string())).collect();
        let mut command = crate::keeper::command(&Program::typed(&words));
        if self.moves() {
            // Many servers take it from there by themselves.
            command.env.push(("PORT".to_owned(), port.to_string()));
        }
        command
    }

    /// Starts the server and waits until it has come up.
    ///
    /// # Errors
    /// Why it has not, for people; by then it has ended.
    pub(crate) async fn start(
        &self,
        heard: impl Fn(&str) + Clone + Send + Sync + 'static,
    ) -> Result<(Run, Option<String>), String> {
        let began = Instant::now();
        let target = self.target(8000)?;
        let host = host_of(&target);
        let port = if self.moves() { free_port(&host).await? } else { target.port() };
        if !self.moves() && TcpStream::connect((host.as_str(), port)).await.is_ok() {
            return Err(taken(&host, port));
        }
        let target = self.target(port)?;
        let process = Process::start(&self.command(port), heard)?;
        match self.come_up(&process, target, began).await {
            Ok(name) => {
                let picked = self.moves().then_some(port);
                Ok((Run { process, url: self.at(port), port: picked, began }, name))
            }
            Err(words) => {
                process.stop().await;
                Err(words)
            }
        }
    }

    fn target(&self, port: u16) -> Result<Target, String> {
        Target::parse(&self.at(port)).map_err(|fault| fault.to_string())
    }

    async fn come_up(
        &self,
        process: &Process,
        target: Target,
        began: Instant,
    ) -> Result<Option<String>, String> {
        let at = format!("{}:{}", host_of(&target), target.port());
        let mut over = std::pin::pin!(process.over());
        let mut odd: Option<Instant> = None;
        let mut last = None;
        loop {
            let asked = async {
                let listens = TcpStream::connect(&at).await.is_ok();
                if listens { Some(ask(&target, &self.headers).await) } else { None }
            };
            let outcome = tokio::select! {
                words = &mut over => return Err(format!("{words}, before it answered at `{at}`")),
                outcome = asked => outcome,
            };
            match outcome {
                Some(Ok(name)) => return Ok(name),
                Some(Err(words)) => {
                    last = Some(words.clone());
                    if odd.get_or_insert_with(Instant::now).elapsed() > ODD_WITHIN {
                        return Err(words);
                    }
                }
                None => odd = None,
            }
            if began.elapsed() > START_WITHIN {
                let seconds = START_WITHIN.as_secs();
                let hint = if self.moves() && !self.command.iter().any(|word| word.contains(PORT)) {
                    "; the command has no `{port}`, so it has to take the port from the variable `PORT`"
                } else {
                    ""
                };
                return Err(
                    last.unwrap_or_else(|| format!("nothing listens at `{at}` after {seconds} s{hint}"))
                );
            }
            tokio::select! {
                words = &mut over => return Err(format!("{words}, before it answered at `{at}`")),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// Opens a session and ends it: the server's name where it says one. Between them it is asked for its tools: many make
/// ready only then, and clients need not wait for that.
async fn ask(target: &Target, headers: &HeaderMap) -> Result<Option<String>, String> {
    let client = Client::new(target.clone(), headers.clone(), Instant::now() + 3 * HANDSHAKE);
    let seen = client.ask(initialize().within(HANDSHAKE)).await;
    if let Some((answer, result)) = seen.answer().and_then(|answer| Some((answer, answer.result.as_ref()?)))
        && let Some(revision) = result["protocolVersion"].as_str()
        && result["capabilities"].get("tools").is_some()
    {
        let session = answer.session.as_deref();
        client.ask(Ask::post("notifications/initialized", Value::Null).of(session, revision)).await;
        // What it says to that is for its clients.
        client.ask(Ask::post("tools/list", json!({})).of(session, revision).within(HANDSHAKE)).await;
    }
    client.end_all().await;
    answered(&seen)
}

/// What an answer to `initialize` says of the server's being up.
fn answered(seen: &Seen) -> Result<Option<String>, String> {
    match &seen.end {
        End::Answered(answer) => match (&answer.result, answer.status) {
            (Some(result), _) => Ok(server_name(result)),
            // It wants credentials that its client has.
            (None, 401 | 403) => Ok(None),
            (None, 404) => {
                Err("it answers `initialize` with HTTP 404: is the path of `--url` right?".to_owned())
            }
            (None, status) => {
                let said = answer.rpc_message.clone().unwrap_or_default();
                Err(format!("it answers `initialize` with HTTP {status} {said}").trim_end().to_owned())
            }
        },
        End::Silent(_) => Err(format!("it does not answer `initialize` within {} s", HANDSHAKE.as_secs())),
        End::Broken(cause) => Err(format!("its connection broke over `initialize`: {cause}")),
        End::NotAsked => Err("it was not asked".to_owned()),
    }
}

/// `NAME VERSION` of an answer to `initialize`.
pub(crate) fn server_name(result: &serde_json::Value) -> Option<String> {
    let said = |key: &str| result["serverInfo"][key].as_str().unwrap_or_default().to_owned();
    let name = format!("{} {}", said("name"), said("version"));
    (!name.trim().is_empty()).then(|| name.trim().to_owned())
}

/// What relatch says of itself when it asks whether a server has come up.
pub(crate) fn params() -> serde_json::Value {
    json!({
        "protocolVersion": Revision::V2025_11_25.as_str(),
        "capabilities": {},
        "clientInfo": { "name": "relatch-dev", "version": env!("CARGO_PKG_VERSION") },
    })
}

fn initialize() -> Ask<'static> {
    Ask::post("initialize", params())
}

fn host_of(target: &Target) -> String {
    let host = target.host().to_string();
    let host = host.trim_matches(['[', ']']);
    // What listens everywhere is reached here.
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1".to_owned(),
        Ok(_) | Err(_) => host.to_owned(),
    }
}

fn taken(host: &str, port: u16) -> String {
    format!(
        "another program listens at `{host}:{port}` already: end it, or let relatch pick a port by `{{port}}`"
    )
}

/// A port that nothing listens on now.
async fn free_port(host: &str) -> Result<u16, String> {
    let found: Result<SocketAddr, std::io::Error> =
        async { TcpListener::bind((host, 0)).await?.local_addr() }.await;
    found.map(|at| at.port()).map_err(|cause| format!("no port of `{host}` can be picked: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn place(url: &str, command: &[&str]) -> Result<Place, Failure> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        Place::new(url, &command, HeaderMap::new())
    }

    #[test]
    fn an_address_fits_its_command_or_it_is_said_why_not() {
        assert!(place("http://127.0.0.1:8000/mcp", &["s"]).is_ok_and(|place| !place.moves()));
        assert!(place("http://localhost:{port}/mcp", &["s"]).is_ok_and(|place| place.moves()));
        assert!(place("http://[::1]:{port}/mcp", &["s", "--port={port}"]).is_ok_and(|place| place.moves()));
        for (url, command, what) in [
            ("nonsense", "s", "`nonsense` is no address of an MCP server"),
            ("http://127.0.0.1:8000/mcp", "{port}", "The command has a `{port}`, and `--url` has none"),
            (
                "http://127.0.0.1:9/{port}",
                "s",
                "`http://127.0.0.1:9/{port}` has its `{port}` where no port is",
            ),
            ("https://mcp.example.com/mcp", "s", "`https://mcp.example.com/mcp` is not on this machine"),
        ] {
            let failure = place(url, &[command]).unwrap_err();
            assert_eq!((failure.what.as_str(), failure.exit), (what, crate::exit::USAGE));
        }
    }

    #[test]
    fn the_port_stands_in_the_command_and_in_its_environment() {
        let place = place("http://127.0.0.1:{port}/mcp", &["server", "--port={port}"]).unwrap();
        let command = place.command(4711);
        assert_eq!(command.arguments, ["--port=4711"]);
        assert_eq!(command.env, [("PORT".to_owned(), "4711".to_owned())]);
        assert_eq!(place.at(4711), "http://127.0.0.1:4711/mcp");
    }

    /// Starts a script as the server, without the guard, which is this program.
    async fn started(url: &str, script: &str) -> (Result<(), String>, Vec<String>) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        let place = place(url, &["sh", "-c", script]).unwrap();
        let outcome = place.start(move |line: &str| hears.lock().unwrap().push(line.to_owned())).await;
        let said = said.lock().unwrap().clone();
        (outcome.map(drop), said)
    }

    #[tokio::test]
    async fn one_that_exits_says_how_and_a_port_that_is_taken_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (outcome, _) = started(&format!("http://{at}/mcp"), "true").await;
        let words = outcome.unwrap_err();
        assert!(words.starts_with(&format!("another program listens at `{at}` already")), "{words}");
    }
}
