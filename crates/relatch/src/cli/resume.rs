//! `relatch resume`: the server that was paused is back.

use std::process::ExitCode;

use clap::Args;

use super::ask;
use crate::exit;
use crate::render::{self, Failure, announced};

/// The announced restart is over: sessions are asked, calls go on
#[derive(Debug, Args)]
#[command(
    after_help = "Each session is asked whether the server still knows it, a new one is opened where it does not, and what \
waits goes out in its order. A server that does not take connections yet is waited for as after any outage. One that was \
not paused is left as it is, and the exit code is 0 all the same.

Examples:
  relatch resume gmail
  relatch resume --all"
)]
pub(crate) struct Arguments {
    /// The server
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,

    /// Every server of every keeper
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let name = arguments.name;
    let asked = name.clone();
    let all = ask::each(name.as_deref(), |keeper| {
        let asked = asked.clone();
        async move { keeper.resume(asked.as_deref()).await }
    })
    .await?;
    for (pid, outcomes) in &all {
        for outcome in outcomes {
            let _ = render::out(&announced::resumed(outcome, jiff::Timestamp::now(), *pid));
        }
    }
    Ok(ExitCode::from(exit::DONE))
}
