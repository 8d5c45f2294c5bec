//! `relatch status`: the truth about every upstream of every keeper of this user.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use relatch_admin::Status;
use relatch_core::health::State;

use super::ask;
use crate::exit;
use crate::render::{self, Failure, Style};

/// How often a watched status is asked for.
const LOOK: Duration = Duration::from_millis(500);

/// The truth about every connection: since when, on what evidence
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 when anything is not healthy, and with 3 when no keeper runs.

SESSION is the generation and age of the session that was bound last, and how many others there are.

Examples:
  relatch status
  relatch status gmail      the story of one server, with its clients
  relatch status --watch    the same, kept up to date; ends with Ctrl-C
  relatch status --json | jq .")]
pub(crate) struct Arguments {
    /// One server and its story
    name: Option<String>,

    /// Print the stable JSON of the API
    #[arg(long)]
    json: bool,

    /// Keep it up to date: redrawn on a terminal, otherwise printed anew when something has turned
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if arguments.watch {
        return watch(&arguments).await;
    }
    let status = named(ask::status().await?, &arguments)?;
    let _ = render::out(&text(&status, &arguments, render::width())?);
    let well = status.unanswered.is_empty()
        && status
            .keepers
            .iter()
            .flat_map(|keeper| &keeper.servers)
            .all(|server| server.health == State::Healthy);
    Ok(ExitCode::from(if well { exit::DONE } else { exit::NO }))
}

/// Shows the status until it is interrupted, or nobody reads it any more.
async fn watch(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut before = None;
    let mut first = true;
    loop {
        let width = render::width();
        let status = match ask::status().await.and_then(|status| named(status, arguments)) {
            Ok(status) => Ok(status),
            // Both can come later.
            Err(failure) if matches!(failure.exit, exit::NO_KEEPER | exit::USAGE | exit::NO) => {
                Err(failure.what)
            }
            Err(failure) => return Err(failure),
        };
        let shown = match &status {
            Ok(status) => text(status, arguments, width)?,
            Err(_) if arguments.json => "{\"schema\":1,\"keepers\":[],\"unanswered\":[]}\n".to_owned(),
            Err(nothing) => format!("{nothing}\n"),
        };
        let read = if width.is_some() && !arguments.json {
            render::redraw(&shown, std::mem::take(&mut first))
        } else {
            let turned = status.as_ref().map(turns).map_err(Clone::clone);
            let news = before.as_ref() != Some(&turned);
            before = Some(turned);
            !news || render::out(&shown)
        };
        if !read {
            return Ok(ExitCode::from(exit::DONE));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What makes a status worth printing again.
fn turns(status: &Status) -> Vec<(u32, String, State, Option<String>)> {
    let servers = status.keepers.iter().flat_map(|keeper| {
        keeper.servers.iter().map(|server| {
            let reason = server.reason.clone().filter(|_| server.health != State::Unknown);
            (keeper.pid, server.name.clone(), server.health, reason)
        })
    });
    let hanging =
        status.unanswered.iter().map(|u| (u.pid, String::new(), State::Unknown, Some(u.cause.clone())));
    servers.chain(hanging).collect()
}

/// The part of a status that was asked for.
fn named(mut status: Status, arguments: &Arguments) -> Result<Status, Failure> {
    let Some(name) = &arguments.name else { return Ok(status) };
    if !status.keepers.iter().flat_map(|keeper| &keeper.servers).any(|server| server.name == *name) {
        return Err(ask::unknown_name(name, &status));
    }
    for keeper in &mut status.keepers {
        keeper.servers.retain(|server| server.name == *name);
    }
    status.keepers.retain(|keeper| !keeper.servers.is_empty());
    Ok(status)
}

fn text(status: &Status, arguments: &Arguments, width: Option<usize>) -> Result<String, Failure> {
    let (now, style) = (Timestamp::now(), Style::stdout());
    if arguments.json {
        // Watched, each is a line.
        let text = if arguments.watch {
            serde_json::to_string(status)
        } else {
            serde_json::to_string_pretty(status)
        };
        let text = text.map_err(|cause| Failure::new("The status can't be written as JSON").cause(cause))?;
        return Ok(text + "\n");
    }
    if arguments.name.is_none() {
        return Ok(render::status::table(status, now, style, width));
    }
    let stories = status
        .keepers
        .iter()
        .flat_map(|keeper| keeper.servers.iter().map(move |server| (keeper, server)))
        .map(|(keeper, server)| render::status::story(keeper, server, now, style, width));
    // One that gives no answer may have a server of this name, too.
    Ok(stories.collect::<Vec<String>>().join("\n") + &render::status::unanswered(status, style))
}
