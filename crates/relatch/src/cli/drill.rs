//! `relatch drill`: the rehearsal, and the hidden command that is its server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::parse;
use crate::drill::scenes::{self, Mode};
use crate::drill::story::{Account, Story};
use crate::drill::{own, server};
use crate::exit;
use crate::render::{self, Failure, Style};

/// Rehearse: a server is killed and restarted while it is called
#[derive(Debug, Args)]
#[command(
    after_help = "Without arguments it brings its own server and needs nothing set up. With your own server it calls \
only what changes nothing, and runs your command to restart it, twice. Exits with 0 only if nothing was lost and \
nothing ran twice.

Examples:
  relatch drill
  relatch drill --direct      the same without relatch: what breaks
  relatch drill http://127.0.0.1:8761/mcp \\
      --restart 'systemctl --user restart gmail-mcp'"
)]
pub(crate) struct Arguments {
    /// Your own server's address
    #[arg(requires = "restart")]
    url: Option<String>,

    /// The shell command that restarts your server
    #[arg(long, value_name = "CMD", requires = "url")]
    restart: Option<String>,

    /// Play it without relatch, with a client that does what the common ones do
    #[arg(long)]
    direct: bool,

    /// Print one JSON object at the end, and nothing else
    #[arg(long)]
    json: bool,
}

/// The rehearsal's server
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// The port on 127.0.0.1, 0 for any
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// The file in which executions are written down
    #[arg(long)]
    ledger: PathBuf,

    /// From 2 on it has one more tool
    #[arg(long, default_value_t = 1)]
    variant: u32,

    /// End when stdin ends, which it does when whoever started this is gone
    #[arg(long)]
    until_stdin_ends: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if let Some(url) = &arguments.url {
        parse::address(url)?;
    }
    tokio::select! {
        account = play(&arguments) => finish(&arguments, &account?),
        // What was started ends with the story.
        _ = tokio::signal::ctrl_c() => Err(Failure::new("The rehearsal was interrupted")),
    }
}

async fn play(arguments: &Arguments) -> Result<Account, Failure> {
    let style = Style::stdout();
    let story = if arguments.json {
        Story::begin(Box::new(|_| {}))
    } else {
        let _ = render::out(&render::drill::opening(arguments.direct, arguments.url.is_some()));
        Story::begin(Box::new(move |told| {
            let _ = render::out(&render::drill::told(told, style));
        }))
    };
    let mode = if arguments.direct { Mode::Direct } else { Mode::Relatch };
    let played = match (&arguments.url, &arguments.restart) {
        (Some(url), Some(command)) => {
            own::play(url, command, mode, &story).await.map(|scenes| (url.clone(), scenes))
        }
        (Some(_), None) | (None, Some(_)) | (None, None) => scenes::play(mode, &story).await,
    };
    story.settle().await;
    let (url, scenes) = played?;
    Ok(Account::new(arguments.direct, &url, scenes, story.lines()))
}

fn finish(arguments: &Arguments, account: &Account) -> Result<ExitCode, Failure> {
    let text = if arguments.json {
        serde_json::to_string_pretty(account)
            .map_err(|cause| Failure::new("The account can't be written as JSON").cause(cause))?
            + "\n"
    } else {
        render::drill::verdict(account, Style::stdout())
    };
    let _ = render::out(&text);
    Ok(ExitCode::from(if account.ok { exit::DONE } else { exit::NO }))
}

pub(crate) async fn run_server(arguments: ServerArguments) -> Result<ExitCode, Failure> {
    let ServerArguments { port, ledger, variant, until_stdin_ends } = arguments;
    let ready = |ready: &server::Ready| {
        let _ = render::out(&(serde_json::to_string(ready).unwrap_or_default() + "\n"));
    };
    server::run(server::Options { port, ledger, variant, until_stdin_ends }, ready).await.map_err(
        |cause| Failure::new(format!("The rehearsal's server can't use port {port}")).cause(cause),
    )?;
    Ok(ExitCode::from(exit::DONE))
}
