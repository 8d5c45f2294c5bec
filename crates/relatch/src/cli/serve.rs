//! `relatch serve`: stands between many clients and many servers, over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use relatch_admin::KeeperKind;

use super::hooks::Hooks;
use super::parse;
use super::upstream::{ConfigFile, Treatment};
use crate::config::read::Follow;
use crate::config::{self, Loaded, Server};
use crate::keeper;
use crate::launch::{Launch, Place, ServerSpec};
use crate::render::Failure;

/// Where `serve` listens unless told otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7332);

/// Keep many clients connected to many servers, over HTTP
#[derive(Debug, Args)]
#[command(
    after_help = "Each server is found at /NAME/mcp, and the line to paste into a client is printed. `relatch page` opens the page of all of them.

Without NAME=URL, the servers are those of the configuration file; with it, there is one more, or another one in \
place of the file's of that name. Options of the command line go before what the file says; --header, --hold, \
--stateful, --replay and --gateway-errors are for the file's servers, too. `relatch reload` reads the file again.

With several servers, `--header` has to name the one that it is for: NAME=K:V.

Examples:
  relatch serve                     the servers of the configuration file
  relatch serve gmail=http://127.0.0.1:8761/mcp
  relatch serve gmail=http://127.0.0.1:8761/mcp \\
      linear=https://mcp.linear.app/mcp \\
      --header 'linear=Authorization: Bearer …' --hold 5m
  relatch serve gmail=http://127.0.0.1:8761/mcp --replay 'search_*=always' \\
      --on-change 'notify-send \"a server has turned\"'"
)]
pub(crate) struct Arguments {
    /// A server: its name in paths and tables, and its address
    #[arg(value_name = "NAME=URL")]
    servers: Vec<String>,

    #[command(flatten)]
    config: ConfigFile,

    /// Where clients connect, and where the page is; port 0 takes a free one [default: 127.0.0.1:7332]
    #[arg(long, value_name = "ADDR", value_parser = parse::listen)]
    listen: Option<SocketAddr>,

    /// Where sessions, token and journal are kept [default: $XDG_STATE_HOME/relatch or ~/.local/state/relatch]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Serve clients without the `Relatch-Token` header: every program on this machine may then use the servers
    #[arg(long)]
    no_token: bool,

    /// Another host name under which clients reach this; may be repeated
    #[arg(long = "allow-host", value_name = "HOST", value_parser = parse::host)]
    allow_hosts: Vec<String>,

    #[command(flatten)]
    treatment: Treatment,

    #[command(flatten)]
    hooks: Hooks,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let launched = launch(&arguments)?;
    let path = launched.config.clone();
    let again = move || {
        // The file that was there has to be there: one that has vanished is no wish to serve nothing.
        let file = path.as_ref().map(|path| config::load(path, Follow::All)).transpose()?;
        with_file(&arguments, file.as_ref())
    };
    Ok(keeper::run(launched, Box::new(again))?)
}

impl Arguments {
    /// Whether a header is among them, which may be a secret.
    pub(crate) fn has_headers(&self) -> bool {
        !self.treatment.headers.is_empty()
    }
}

/// Everything that was typed and that the file says, checked; at least one server.
pub(crate) fn launch(arguments: &Arguments) -> Result<Launch, Failure> {
    let file = arguments.config.load(Follow::All)?;
    let launched = with_file(arguments, file.as_ref())?;
    if launched.servers.is_empty() {
        return Err(nothing_to_serve(arguments, file.as_ref()));
    }
    Ok(launched)
}

/// What was typed goes before what the file says; a server that was typed takes the place of the file's of that name.
fn with_file(arguments: &Arguments, file: Option<&Loaded>) -> Result<Launch, Failure> {
    let mut typed: Vec<(String, url::Url)> = Vec::new();
    for text in &arguments.servers {
        let (name, url) = split(text)?;
        if typed.iter().any(|(other, _)| *other == name) {
            return Err(
                Failure::usage(format!("`{name}` is given twice")).hint("Give each server its own name")
            );
        }
        typed.push((name, url));
    }
    let read: Vec<&Server> = file
        .iter()
        .flat_map(|file| &file.config.servers)
        .filter(|server| !typed.iter().any(|(name, _)| *name == server.name))
        .collect();
    let names: Vec<&str> = read
        .iter()
        .map(|server| server.name.as_str())
        .chain(typed.iter().map(|(name, _)| name.as_str()))
        .collect();
    let mut headers: Vec<Vec<(String, String)>> = vec![Vec::new(); names.len()];
    for text in &arguments.treatment.headers {
        let (at, text) = owner(text, &names)?;
        headers[at].push(parse::header(text)?);
    }
    if names.len() > 1 && arguments.treatment.ways.is_credential() {
        return Err(Failure::usage("With several servers, `--cert` can't say which one it is for")
            .cause("a certificate says who relatch is, and must not reach the other servers")
            .hint("Write `cert` and `key` below the server's name in the configuration file"));
    }
    let mut headers = headers.into_iter();
    let mut servers: Vec<ServerSpec> = Vec::new();
    for (server, headers) in read.into_iter().zip(headers.by_ref()) {
        servers.push(arguments.treatment.over(ServerSpec::of(server), headers));
    }
    for ((name, url), headers) in typed.iter().zip(headers) {
        servers.push(arguments.treatment.spec(name.clone(), Place::Url(url.to_string()), headers));
    }
    let config = file.map(|file| &file.config);
    let dir = config.and_then(|config| config.state_dir.as_ref()).map(|set| set.value.clone());
    let mut allow_hosts =
        config.and_then(|config| config.allow_hosts.clone()).map_or(Vec::new(), |set| set.value);
    allow_hosts.extend(arguments.allow_hosts.iter().cloned());
    Ok(Launch {
        kind: KeeperKind::Serve,
        servers,
        listen: arguments
            .listen
            .or_else(|| config.and_then(|config| config.listen.as_ref()).map(|set| set.value))
            .unwrap_or(DEFAULT_LISTEN),
        state_dir: state_dir(arguments.state_dir.clone().or(dir))?,
        records_dir: None,
        token: !(arguments.no_token
            || config.and_then(|config| config.no_token.as_ref()).is_some_and(|set| set.value)),
        allow_hosts,
        hooks: arguments.hooks.spec()?.or(file),
        config: file.map(|file| file.path.clone()),
        warnings: file.map_or(Vec::new(), |file| file.warnings.clone()),
    })
}

fn nothing_to_serve(arguments: &Arguments, file: Option<&Loaded>) -> Failure {
    let failure = Failure::usage("There is no server to serve");
    let failure = match (file, arguments.config.path()) {
        (Some(file), _) => failure.cause(format!("`{}` names none", file.path.display())),
        (None, Some(path)) => failure.cause(format!("none was given, and `{}` is not there", path.display())),
        (None, None) => failure,
    };
    failure.hint("Run `relatch add NAME URL` to write one into the file, or `relatch serve NAME=URL`")
}

fn split(text: &str) -> Result<(String, url::Url), Failure> {
    // An address may have a `=` of its own, a name may not.
    match text.split_once('=') {
        Some((name, url)) if !name.contains([':', '/', '?']) => {
            Ok((parse::name(name)?, parse::address(url)?))
        }
        Some(_) | None => {
            let url = parse::address(text);
            if parse::is_name(text) {
                // A name alone is meant to be one of the file's.
                url.map_err(|failure| {
                    failure.hint(format!(
                        "Write it as `{text}=URL`; without any server, `relatch serve` serves those of the configuration file"
                    ))
                })?;
            } else {
                url?;
            }
            Err(Failure::usage("A server has no name")
                .hint("Write it as `NAME=URL`, such as `gmail=http://127.0.0.1:8761/mcp`"))
        }
    }
}

/// Which server a header is for. With several of them it has to say so: a credential goes to its own server only.
fn owner<'a>(text: &'a str, named: &[&str]) -> Result<(usize, &'a str), Failure> {
    let before_colon = text.split(':').next().unwrap_or_default();
    if let Some((name, _)) = before_colon.split_once('=') {
        let rest = &text[name.len() + 1..];
        return match named.iter().position(|known| *known == name) {
            Some(at) => Ok((at, rest)),
            None => Err(Failure::usage(format!("A `--header` is for `{name}`, which is not served"))
                .hint(format!("The servers are `{}`", named.join("`, `")))),
        };
    }
    match named {
        [_] => Ok((0, text)),
        [first, ..] => {
            Err(Failure::usage("With several servers, a `--header` has to say which one it is for")
                .cause("a credential must not reach the other servers")
                .hint(format!("Write it as `--header '{first}=Authorization: …'`")))
        }
        [] => Err(Failure::usage("A `--header` needs a server")),
    }
}

/// The folder for what outlives the process.
pub(crate) fn state_dir(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(dir) = given {
        return Ok(dir);
    }
    // A path that isn't absolute is to be ignored, says the specification of base folders.
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("relatch"))
        .ok_or_else(|| {
            Failure::usage("There is no folder to keep sessions in")
                .cause("neither `XDG_STATE_HOME` nor `HOME` is set")
                .hint("Name one with `--state-dir DIR`")
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn typed(line: &[&str]) -> Result<Launch, Failure> {
        let line = ["serve", "--state-dir", "/state"].iter().chain(line);
        with_file(&Typed::try_parse_from(line).unwrap().arguments, None)
    }

    #[test]
    fn everything_that_was_typed_arrives() {
        let launch = typed(&[
            "gmail=http://127.0.0.1:8761/mcp?a=b",
            "fs=http://h/mcp",
            "--listen",
            "[::1]:0",
            "--no-token",
            "--allow-host",
            "A.example",
            "--header",
            "fs=Authorization: Bearer x=y",
            "--hold",
            "5m",
            "--stateful",
            "--replay",
            "send_*=never",
            "--replay",
            "*=always",
            "--gateway-errors",
            "refused",
            "--tell",
        ])
        .unwrap();
        assert_eq!(launch.kind, KeeperKind::Serve);
        assert_eq!(launch.listen.to_string(), "[::1]:0");
        assert_eq!(launch.state_dir, PathBuf::from("/state"));
        assert_eq!(launch.allow_hosts, ["a.example"]);
        assert!(!launch.token);
        let [gmail, fs] = &launch.servers[..] else { panic!("two servers") };
        assert_eq!(
            (gmail.name.as_str(), &gmail.place),
            ("gmail", &Place::Url("http://127.0.0.1:8761/mcp?a=b".into()))
        );
        assert!(gmail.headers.is_empty(), "the header is the other server's");
        assert_eq!(fs.headers, [("Authorization".to_owned(), "Bearer x=y".to_owned())]);
        assert_eq!(fs.hold_ms, 300_000);
        assert!(fs.stateful && fs.gateway_errors_refused && fs.tell);
        assert_eq!(fs.replay, [("send_*".to_owned(), false), ("*".to_owned(), true)]);
    }

    #[test]
    fn the_defaults_are_those_of_the_guide() {
        let launch = typed(&["a=http://h/mcp", "--header", "X-Key: 1"]).unwrap();
        assert_eq!(launch.listen, DEFAULT_LISTEN);
        assert!(launch.token);
        assert_eq!(launch.servers[0].hold_ms, 45_000);
        assert!(!launch.servers[0].tell);
        assert_eq!(launch.servers[0].headers, [("X-Key".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        for (line, reason) in [
            (&["a=http://h/1", "a=http://h/2"][..], "`a` is given twice"),
            (&["http://h/mcp?a=b"], "A server has no name"),
            (&["nonsense"], "`nonsense` is no address"),
            (&["A=http://h/"], "`A` can't be the name"),
            (&["a=http://h/", "b=http://h/", "--header", "X: 1"], "has to say which one"),
            (&["a=http://h/", "--header", "c=X: 1"], "is for `c`, which is not served"),
        ] {
            let failure = typed(line).unwrap_err();
            assert_eq!(failure.exit, crate::exit::USAGE);
            assert!(failure.what.contains(reason), "{}", failure.what);
        }
    }
}
