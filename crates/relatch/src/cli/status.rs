//! `relatch status`: the truth about every upstream of every keeper of this user.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use relatch_core::health::State;

use super::ask;
use crate::exit;
use crate::render::{self, Failure, Style};

/// The truth about every connection: what works, since when, on what evidence
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 when anything is not healthy, and with 3 when no keeper runs.

Examples:
  relatch status
  relatch status gmail              the story of one server, with its sessions and clients
  relatch status --json | jq .")]
pub(crate) struct Arguments {
    /// One server and its story
    name: Option<String>,

    /// Print the stable JSON of the API
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut status = ask::status().await?;
    if let Some(name) = &arguments.name {
        let mut named = status.clone();
        for keeper in &mut named.keepers {
            keeper.servers.retain(|server| server.name == *name);
        }
        named.keepers.retain(|keeper| !keeper.servers.is_empty());
        if named.keepers.is_empty() {
            return Err(ask::unknown_name(name, &status));
        }
        status = named;
    }
    let (now, style) = (Timestamp::now(), Style::stdout());
    let text = if arguments.json {
        let mut text = serde_json::to_string_pretty(&status)
            .map_err(|cause| Failure::new("The status can't be written as JSON").cause(cause))?;
        text.push('\n');
        text
    } else if arguments.name.is_some() {
        let stories: Vec<String> = status
            .keepers
            .iter()
            .flat_map(|keeper| keeper.servers.iter().map(move |server| (keeper, server)))
            .map(|(keeper, server)| render::status::story(keeper, server, now, style))
            .collect();
        stories.join("\n")
    } else {
        render::status::table(&status, now, style)
    };
    let _ = render::out(&text);
    let well = status.unanswered.is_empty()
        && status
            .keepers
            .iter()
            .flat_map(|keeper| &keeper.servers)
            .all(|server| server.health == State::Healthy);
    Ok(ExitCode::from(if well { exit::DONE } else { exit::NO }))
}
