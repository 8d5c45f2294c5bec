//! `relatch serve`: stands between many clients and many servers, over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use relatch_admin::KeeperKind;

use super::hooks::Hooks;
use super::parse;
use super::upstream::Treatment;
use crate::keeper;
use crate::launch::{Launch, Place};
use crate::render::Failure;

/// Where `serve` listens unless told otherwise.
pub(crate) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7332);

/// Keep the connections between many clients and many servers, over HTTP
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Each server is found at /NAME/mcp, and the line to paste into a client is printed.
`relatch page` opens the page of all of them.

Examples:
  relatch serve gmail=http://127.0.0.1:8761/mcp
  relatch serve gmail=http://127.0.0.1:8761/mcp linear=https://mcp.linear.app/mcp \\
      --header 'linear=Authorization: Bearer …' --hold 5m
  relatch serve gmail=http://127.0.0.1:8761/mcp --replay 'search_*=always' \\
      --on-change 'notify-send \"a server has turned\"'"
)]
pub(crate) struct Arguments {
    /// A server: its name in paths and tables, and its address
    #[arg(value_name = "NAME=URL", required = true)]
    servers: Vec<String>,

    /// Where clients connect, and where the page is; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value_t = DEFAULT_LISTEN, value_parser = parse::listen)]
    listen: SocketAddr,

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
    Ok(keeper::run(launch(&arguments)?)?)
}

impl Arguments {
    /// Whether a header is among them, which may be a secret.
    pub(crate) fn has_headers(&self) -> bool {
        !self.treatment.headers.is_empty()
    }
}

/// Everything that was typed, checked.
pub(crate) fn launch(arguments: &Arguments) -> Result<Launch, Failure> {
    let mut named: Vec<(String, url::Url)> = Vec::new();
    for text in &arguments.servers {
        let (name, url) = split(text)?;
        if named.iter().any(|(other, _)| *other == name) {
            return Err(
                Failure::usage(format!("`{name}` is given twice")).hint("Give each server its own name")
            );
        }
        named.push((name, url));
    }
    let mut headers: Vec<Vec<(String, String)>> = vec![Vec::new(); named.len()];
    for text in &arguments.treatment.headers {
        let (at, text) = owner(text, &named)?;
        headers[at].push(parse::header(text)?);
    }
    Ok(Launch {
        kind: KeeperKind::Serve,
        servers: named
            .into_iter()
            .zip(headers)
            .map(|((name, url), headers)| {
                arguments.treatment.spec(name, Place::Url(url.to_string()), headers)
            })
            .collect(),
        listen: arguments.listen,
        state_dir: state_dir(arguments.state_dir.clone())?,
        token: !arguments.no_token,
        allow_hosts: arguments.allow_hosts.clone(),
        hooks: arguments.hooks.spec()?,
    })
}

fn split(text: &str) -> Result<(String, url::Url), Failure> {
    // An address may have a `=` of its own, a name may not.
    match text.split_once('=') {
        Some((name, url)) if !name.contains([':', '/', '?']) => {
            Ok((parse::name(name)?, parse::address(url)?))
        }
        Some(_) | None => {
            parse::address(text)?;
            Err(Failure::usage("A server has no name")
                .hint("Write it as `NAME=URL`, such as `gmail=http://127.0.0.1:8761/mcp`"))
        }
    }
}

/// Which server a header is for. With several of them it has to say so: a credential goes to its own server only.
fn owner<'a>(text: &'a str, named: &[(String, url::Url)]) -> Result<(usize, &'a str), Failure> {
    let before_colon = text.split(':').next().unwrap_or_default();
    if let Some((name, _)) = before_colon.split_once('=') {
        let rest = &text[name.len() + 1..];
        return match named.iter().position(|(known, _)| known == name) {
            Some(at) => Ok((at, rest)),
            None => {
                let known: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
                Err(Failure::usage(format!("A `--header` is for `{name}`, which is not served"))
                    .hint(format!("The servers are `{}`", known.join("`, `"))))
            }
        };
    }
    match named {
        [_] => Ok((0, text)),
        [(first, _), ..] => {
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
        launch(&Typed::try_parse_from(line).unwrap().arguments)
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
