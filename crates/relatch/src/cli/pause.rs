//! `relatch pause`: a server is about to restart; nothing new is sent to it until `relatch resume`.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::announced::Pausing;
use relatch_core::policy;

use super::{ask, parse};
use crate::exit;
use crate::render::{self, Failure, announced};

/// Announce a restart: calls wait until `relatch resume`
#[derive(Debug, Args)]
#[command(
    after_help = "From now on nothing new is sent to the server: calls wait in relatch, and their own time does not run \
meanwhile. Calls that run go to their end; the command waits for them and says how many are left when their time is over. \
Then restart the server, and say `relatch resume` when it takes connections again. Should nobody say so, the pause ends by \
itself, and a keeper that is started anew knows of none.

Exit code 0: no call runs any more. 1: some do.

Examples:
  relatch pause gmail               then restart it, then `relatch resume gmail`
  relatch pause --all --drain 30s --for 10m"
)]
pub(crate) struct Arguments {
    /// The server
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,

    /// Every server of every keeper
    #[arg(long)]
    all: bool,

    /// Wait this long for calls that run
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::duration)]
    drain: u64,

    /// The pause ends by itself after this; an hour at most
    #[arg(long = "for", value_name = "TIME", default_value = "5m", value_parser = bound)]
    bound: u64,
}

/// How long a pause may be.
fn bound(text: &str) -> Result<u64, String> {
    match parse::duration(text)? {
        0 => Err("a pause of no time is none".to_owned()),
        ms if ms > policy::PAUSE_MAX_MS => Err("longer than `1h`".to_owned()),
        ms => Ok(ms),
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { name, drain, bound, .. } = arguments;
    if drain > bound {
        return Err(Failure::usage("`--drain` is longer than `--for`")
            .hint("A pause that ends while its calls are waited for is of no use: make `--for` longer"));
    }
    let how = Pausing { drain_ms: drain, for_ms: bound };
    let asked = name.clone();
    let all = ask::each(name.as_deref(), |keeper| {
        let asked = asked.clone();
        async move { keeper.pause(asked.as_deref(), how).await }
    })
    .await?;
    let mut left = 0;
    for (pid, outcomes) in &all {
        for outcome in outcomes {
            left += outcome.left;
            let _ = render::out(&announced::paused(outcome, drain, bound, *pid));
        }
    }
    Ok(ExitCode::from(if left > 0 { exit::NO } else { exit::DONE }))
}
