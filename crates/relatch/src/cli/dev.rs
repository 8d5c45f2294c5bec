//! `relatch dev`: runs a server that somebody is making, starts it again on change, and keeps its clients connected.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use relatch_admin::KeeperKind;
use relatch_wire::digest::digest;

use super::parse;
use super::serve::state_dir;
use super::stdio::name_of_command;
use super::upstream::Treatment;
use crate::dev::files::Rules;
use crate::dev::shop::{Kind, Plan};
use crate::dev::web;
use crate::dev::{self, Dev};
use crate::keeper;
use crate::launch::{HookSpec, Launch, Place, Program};
use crate::render::{self, Failure};

/// Where clients connect unless told otherwise: beside `relatch serve`.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7333);

/// Run a server that you are making; no client notices a restart
#[derive(Debug, Args)]
#[command(
    after_help = "The command is a server that speaks on its stdin and stdout, or with --url one that listens there. Clients connect to \
relatch, at the address that it prints, and don't notice that the server is another one: their calls wait, running ones may \
finish, and they are told when its tools have changed.

A build that fails, or a server that does not come up, leaves the former one at work. With `{port}` in --url and in the \
command, relatch picks a port for each start, and the new server starts beside the old one; `PORT` is set to it, too. \
With a port of its own the old server has to end first, and calls wait meanwhile.

Files are those below the working folder, without what `.gitignore` names, what is hidden, and what is made \
(`node_modules`, `target`, `__pycache__`, logs, databases). On a terminal, `r` starts the server again and `q` quits.

Examples:
  relatch dev -- uv run server.py
  relatch dev --build 'npm run build' -- node dist/index.js
  relatch dev --url 'http://127.0.0.1:{port}/mcp' -- \\
      uvicorn server:app --port '{port}'
  relatch dev --url http://127.0.0.1:8000/mcp --watch src -- python server.py
  claude mcp add notes -- relatch dev --stdio -- uv run server.py"
)]
pub(crate) struct Arguments {
    /// The command that is the server
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,

    /// The address where the command listens, on this machine; `{port}` in it is picked for each start
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Run this before each start, through `sh -c`; when it fails, the former server stays
    #[arg(long, value_name = "CMD")]
    build: Option<String>,

    /// What is watched: a file or a folder; may be repeated [default: the working folder]
    #[arg(long, value_name = "PATH")]
    watch: Vec<PathBuf>,

    /// What is not watched, as `.gitignore` would name it; may be repeated
    #[arg(long, value_name = "GLOB")]
    ignore: Vec<String>,

    /// How long running calls may take to finish before their server ends
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse::duration)]
    drain: u64,

    /// How the server is called in paths and in `relatch status` [default: from the command]
    #[arg(long)]
    name: Option<String>,

    /// Plain lines in place of the view, as when stdout is no terminal
    #[arg(long)]
    plain: bool,

    /// Serve the one client that has started this, on stdin and stdout, in place of an address
    #[arg(long, conflicts_with_all = ["listen", "no_token"])]
    stdio: bool,

    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:7333]
    #[arg(long, value_name = "ADDR", value_parser = parse::listen)]
    listen: Option<SocketAddr>,

    /// Where sessions, token and journal are kept [default: $XDG_STATE_HOME/relatch or ~/.local/state/relatch]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Serve clients without the `Relatch-Token` header: every program on this machine may then use the server
    #[arg(long)]
    no_token: bool,

    #[command(flatten)]
    treatment: Treatment,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let (launch, dev) = read(&arguments)?;
    if !arguments.stdio && is_piped() {
        render::say(render::dev::PIPED);
    }
    let again = {
        let launch = launch.clone();
        move || Ok(launch.clone())
    };
    let beside: keeper::Beside = Box::new(move |running, stopped| Box::pin(dev::run(dev, running, stopped)));
    Ok(keeper::run_with(launch, Box::new(again), Some(beside))?)
}

/// Everything that was typed, checked: what the keeper is started with, and what runs beside it.
fn read(arguments: &Arguments) -> Result<(Launch, Dev), Failure> {
    let name = match &arguments.name {
        Some(name) => parse::name(name)?,
        None => name_of_command(&arguments.command),
    };
    let headers = arguments.treatment.headers()?;
    is_there(arguments)?;
    let (kind, place) = match &arguments.url {
        None if arguments.command.iter().any(|word| word.contains("{port}")) => {
            return Err(Failure::usage(
                "The command has a `{port}`, and there is no `--url` that has it, too",
            )
            .hint("Say where the server listens, such as `--url 'http://127.0.0.1:{port}/mcp'`"));
        }
        None => {
            if !headers.is_empty() {
                return Err(Failure::usage("A command takes no header")
                    .hint("Set what it needs in its environment, which is that of relatch"));
            }
            let words = arguments.command.clone();
            (Kind::Stdio(words.clone()), Place::Command(Program::typed(&words)))
        }
        Some(url) => {
            let place = web::Place::new(url, &arguments.command, keeper::headers(&name, &headers)?)?;
            // Nothing is sent before the first server is up, wherever that is.
            let url = place.at(place.a_port());
            (Kind::Web(place), Place::Url(url))
        }
    };
    let mut server = arguments.treatment.spec(name.clone(), place, headers);
    if let Some(url) = &arguments.url {
        // The same for every port, so that sessions of before are known again.
        server.shown.clone_from(url);
    }
    let rules = Rules::new(&arguments.watch, &arguments.ignore)?;
    let picture = rules.picture();
    if let Some(failure) = picture.too_many() {
        return Err(failure);
    }
    let kept = if arguments.stdio {
        // A client's only process must start on a machine without a home, too.
        state_dir(arguments.state_dir.clone()).unwrap_or_default()
    } else {
        state_dir(arguments.state_dir.clone())?
    };
    let launch = Launch {
        kind: if arguments.stdio { KeeperKind::Stdio } else { KeeperKind::Serve },
        servers: vec![server.clone()],
        listen: arguments.listen.unwrap_or(DEFAULT_LISTEN),
        records_dir: Some(kept.join("dev").join(of_this_folder(&name))),
        state_dir: kept,
        token: !arguments.no_token,
        allow_hosts: Vec::new(),
        hooks: HookSpec::default(),
        config: None,
        warnings: Vec::new(),
    };
    let drawn = io::stdout().is_terminal() && io::stdin().is_terminal();
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    let plain = arguments.plain || arguments.stdio || dumb || !drawn;
    let drain = Duration::from_millis(arguments.drain);
    let plan = Plan { kind, build: arguments.build.clone(), drain };
    Ok((launch, Dev { plan, server, rules, picture, plain, stdio: arguments.stdio }))
}

/// Where the sessions of this name are kept: a server of the same name in another folder is another server, and the clients
/// of one are none of the other's.
fn of_this_folder(name: &str) -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    format!("{name}-{:016x}", digest(folder.as_os_str().as_encoded_bytes()))
}

/// The program, and the build's command line, where they can be looked for now.
fn is_there(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.build.as_ref().is_some_and(|build| build.trim().is_empty()) {
        return Err(Failure::usage("`--build` names no command")
            .hint("Write it as it would be typed, such as `--build 'npm run build'`"));
    }
    let Err(fault) = keeper::command(&Program::typed(&arguments.command)).find() else { return Ok(()) };
    let made =
        arguments.build.is_some() && arguments.command.first().is_some_and(|program| program.contains('/'));
    if made {
        // The build may be what makes it.
        return Ok(());
    }
    Err(Failure::usage("The server can't be started")
        .cause(fault)
        .hint("Give the command as it would be typed, behind `--`; what makes it goes into `--build`"))
}

/// Whether stdin is what a client that starts its servers would give.
fn is_piped() -> bool {
    std::fs::metadata("/dev/stdin").is_ok_and(|about| {
        let kind = about.file_type();
        kind.is_fifo() || kind.is_socket()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use std::path::Path;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn typed(line: &[&str]) -> Result<(Launch, Dev), Failure> {
        let line = ["dev", "--state-dir", "/state"].iter().chain(line);
        read(&Typed::try_parse_from(line).unwrap().arguments)
    }

    #[test]
    fn a_command_is_served_at_an_address_or_to_the_client_that_started_it() {
        let (launch, dev) = typed(&["--watch", "src", "--", "sh", "server.sh"]).unwrap();
        assert_eq!((launch.kind, launch.listen), (KeeperKind::Serve, DEFAULT_LISTEN));
        assert_eq!(launch.servers[0].name, "sh");
        assert_eq!(launch.records_dir, Some(Path::new("/state/dev").join(of_this_folder("sh"))));
        assert_eq!(
            launch.servers[0].place,
            Place::Command(Program::typed(&["sh".into(), "server.sh".into()]))
        );
        assert!(matches!(dev.plan.kind, Kind::Stdio(_)) && dev.plain && !dev.stdio);
        assert_eq!(dev.plan.drain, Duration::from_secs(2));
        let (launch, dev) = typed(&["--stdio", "--name", "notes", "--", "sh"]).unwrap();
        assert_eq!(
            (launch.kind, launch.servers[0].name.as_str(), dev.stdio),
            (KeeperKind::Stdio, "notes", true)
        );
    }

    #[test]
    fn a_picked_port_is_not_shown_so_that_sessions_are_known_again() {
        let (launch, dev) = typed(&["--url", "http://127.0.0.1:{port}/mcp", "--", "sh", "{port}"]).unwrap();
        assert_eq!(launch.servers[0].shown, "http://127.0.0.1:{port}/mcp");
        let Place::Url(url) = &launch.servers[0].place else { panic!("it has an address") };
        assert!(parse::address(url).is_ok(), "{url}");
        assert!(matches!(dev.plan.kind, Kind::Web(place) if place.moves()));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        for (line, what, cause) in [
            (
                &["--", "no-such-program"][..],
                "The server can't be started",
                "`no-such-program` is not on `PATH`",
            ),
            (&["--", "./no/such"], "The server can't be started", "there is no `./no/such`"),
            (&["--watch", "no/such", "--", "sh"], "There is no `no/such` to watch", "No such file"),
            (&["--ignore", "[", "--", "sh"], "`--ignore [` is no pattern of files", ""),
            (&["--build", " ", "--", "sh"], "`--build` names no command", ""),
            (&["--header", "A: b", "--", "sh"], "A command takes no header", ""),
            (
                &["--url", "http://example.com/mcp", "--", "sh"],
                "`http://example.com/mcp` is not on this machine",
                "",
            ),
            (&["--name", "A", "--", "sh"], "`A` can't be the name of a server", ""),
        ] {
            let Err(failure) = typed(line) else { panic!("{line:?} is taken") };
            assert_eq!((failure.what.as_str(), failure.exit), (what, crate::exit::USAGE));
            assert!(failure.causes.concat().contains(cause), "{:?}", failure.causes);
        }
        assert!(typed(&["--build", "make", "--", "./not/there/yet"]).is_ok(), "the build may make it");
    }
}
