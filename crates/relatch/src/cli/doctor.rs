//! `relatch doctor`: connects as a client would and says how a server treats sessions, restarts, streams and origins.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use relatch_net::upstream::dial::Target;

use super::upstream::{ConfigFile, WayOptions};
use super::{ask, parse};
use crate::config::read::Follow;
use crate::doctor::findings::{findings, passes};
use crate::doctor::probes::{Examination, Wishes};
use crate::exit;
use crate::launch::{Place, ServerSpec};
use crate::render::{self, Failure, Style};
use crate::ways;

/// Examine a server: how it treats sessions, restarts and origins
#[derive(Debug, Args)]
#[command(
    after_help = "It connects as a client would, sends about 60 requests one after the other, calls no tool, and ends the sessions \
that it has opened. What is wrong comes first. Exits with 1 when something is wrong or the server could not be examined; \
notes do not fail.

Examples:
  relatch doctor http://127.0.0.1:8761/mcp
  relatch doctor gmail      as `relatch.toml` or a running keeper knows it
  relatch doctor https://mcp.example.com/mcp --header 'Authorization: Bearer …'
  relatch doctor http://127.0.0.1:8761/mcp \\
      --restart 'systemctl --user restart gmail-mcp'
  relatch doctor http://127.0.0.1:8761/mcp --idle 10m --json"
)]
pub(crate) struct Arguments {
    /// The server's address, or its name in the configuration file or at a running keeper
    #[arg(value_name = "URL|NAME")]
    server: String,

    /// Send a header with every request; may be repeated. Its value is never printed
    #[arg(long = "header", value_name = "K:V")]
    headers: Vec<String>,

    /// The shell command that restarts the server: what becomes of a session then
    #[arg(long, value_name = "CMD")]
    restart: Option<String>,

    /// Leave a session alone for so long, such as `10m`, and see whether it lives
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    idle: Option<u64>,

    /// Print one JSON object, and nothing else
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    ways: WayOptions,

    #[command(flatten)]
    config: ConfigFile,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let (target, mut given) = match configured(&arguments)? {
        Some(server) => server,
        None => {
            let target = target(&arguments.server).await?;
            let route = ways::route(&arguments.server, &target, &arguments.ways.ways())?;
            (target.by(route), Vec::new())
        }
    };
    let typed = arguments.headers.iter().map(|text| parse::header(text)).collect::<Result<Vec<_>, _>>()?;
    given.retain(|(name, _)| !typed.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
    given.extend(typed);
    let headers = headers(given);
    let wishes =
        Wishes { idle: arguments.idle.map(Duration::from_millis), restart: arguments.restart.clone() };
    let examination = tokio::select! {
        begun = Examination::begin(target, headers) => begun,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new("The examination was interrupted before the handshake was answered"));
        }
    };
    let facts = tokio::select! {
        facts = examination.all(&wishes) => facts,
        _ = tokio::signal::ctrl_c() => {
            examination.end().await;
            return Err(Failure::new("The examination was interrupted; its sessions have been ended"));
        }
    };
    let findings = findings(&facts);
    let text = if arguments.json {
        serde_json::to_string_pretty(&render::doctor::json(&facts, &findings))
            .map_err(|cause| Failure::new("The findings can't be written as JSON").cause(cause))?
            + "\n"
    } else {
        render::doctor::text(&facts, &findings, Style::stdout())
    };
    let _ = render::out(&text);
    Ok(ExitCode::from(if passes(&facts, &findings) { exit::DONE } else { exit::NO }))
}

/// Names and values.
type Headers = Vec<(String, String)>;

/// The server of this name in the configuration file, with the headers that it is sent.
fn configured(arguments: &Arguments) -> Result<Option<(Target, Headers)>, Failure> {
    let name = &arguments.server;
    if parse::name(name).is_err() {
        return Ok(None);
    }
    let Some(file) = arguments.config.load(Follow::Only(name))? else { return Ok(None) };
    let Some(server) = file.config.servers.iter().find(|server| server.name == *name) else {
        return Ok(None);
    };
    let spec = ServerSpec::of(server);
    let Place::Url(url) = &spec.place else {
        return Err(Failure::usage(format!(
            "`{name}` is a command, and only servers with an address are examined"
        ))
        .hint("Start it as an HTTP server, and give its address"));
    };
    let target = Target::parse(url)
        .map_err(|fault| Failure::usage(format!("The address of `{name}` can't be used")).cause(fault))?;
    let route = ways::route(name, &target, &arguments.ways.over(spec.ways))?;
    Ok(Some((target.by(route), spec.headers)))
}

/// The address that was typed, or the one of a keeper's server of this name.
async fn target(server: &str) -> Result<Target, Failure> {
    if parse::name(server).is_err() {
        let url = Target::parse(server).map_err(|fault| {
            Failure::usage("This is neither the address of a server nor a name")
                .cause(&fault)
                .hint(fault.hint())
        })?;
        return Ok(url);
    }
    let status = ask::status().await.map_err(|failure| match failure.exit {
        exit::NO_KEEPER => Failure::new(format!("No keeper runs that would know the server `{server}`"))
            .hint("Give the address, such as `relatch doctor http://127.0.0.1:8761/mcp`")
            .exit(exit::NO_KEEPER),
        _ => failure,
    })?;
    let url = status
        .keepers
        .iter()
        .flat_map(|keeper| &keeper.servers)
        .find(|known| known.name == server)
        .map(|known| known.url.clone())
        .ok_or_else(|| ask::unknown_name(server, &status))?;
    // What the status shows has no values of the query, which may be secrets.
    if url.contains('…') {
        return Err(Failure::usage(format!(
            "The address of `{server}` has a query, which keepers don't show"
        ))
        .hint("Give the whole address instead of the name"));
    }
    Target::parse(&url)
        .map_err(|fault| Failure::new(format!("`{server}` has no usable address")).cause(fault))
}

fn headers(given: Headers) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let parsed = (name.parse::<HeaderName>(), HeaderValue::from_str(&value));
        // Whoever read them has looked at both.
        if let (Ok(name), Ok(mut value)) = parsed {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    headers
}
