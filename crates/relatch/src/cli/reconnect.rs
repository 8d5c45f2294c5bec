//! `relatch reconnect`: relatch now, whatever the sessions' state.

use std::process::ExitCode;

use clap::Args;

use super::ask;
use crate::exit;
use crate::render::{self, Failure};

/// Open a new session to a server now; running calls go on
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relatch reconnect gmail
  relatch reconnect --all")]
pub(crate) struct Arguments {
    /// The server
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,

    /// Every server of every keeper
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut known = false;
    let mut troubles = Vec::new();
    for keeper in ask::keepers().await? {
        match keeper.reconnect(arguments.name.as_deref()).await {
            Ok(outcomes) => {
                for outcome in outcomes {
                    known = true;
                    let _ = render::out(&format!(
                        "{}  {} (process {})\n",
                        render::clean(&outcome.name),
                        render::status::asked(outcome.latches),
                        keeper.pid
                    ));
                }
            }
            Err(trouble) => troubles.push(trouble.to_string()),
        }
    }
    if let Some(name) = &arguments.name
        && !known
        && troubles.is_empty()
    {
        return Err(ask::unknown_name(name, &ask::status().await?));
    }
    if !troubles.is_empty() {
        let mut failure = Failure::new("Not every keeper could be asked").exit(exit::NO);
        failure.causes = troubles;
        return Err(failure);
    }
    Ok(ExitCode::from(exit::DONE))
}
