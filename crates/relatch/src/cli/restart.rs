//! `relatch restart`: a server that is a command gets new processes.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::announced::{NotRestarted, Restarting};

use super::{ask, parse};
use crate::exit;
use crate::render::{self, Failure, announced};

/// Start a server that is a command anew; no call is lost by it
#[derive(Debug, Args)]
#[command(
    after_help = "For servers that relatch runs. A new process is started beside the old one; when it has answered \
`initialize` and knows what its client has set, calls go to it, while the old one finishes those that it has, and then \
ends. A new process that does not come up changes nothing: the old one stays in use, and the exit code is 1.

With `--stop-first` the old process ends first, for servers that can't run twice at a time (a port, a lock); calls wait \
meanwhile, and should the new one not come up, there is none.

A server at an address is somebody else's to restart: `relatch pause`, restart it, `relatch resume`.

Examples:
  relatch restart files
  relatch restart files --drain 1m
  relatch restart files --stop-first"
)]
pub(crate) struct Arguments {
    /// The server
    name: String,

    /// Give calls that run this long before their old process ends
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse::duration)]
    drain: u64,

    /// End the old process before the new one is started
    #[arg(long)]
    stop_first: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { name, drain, stop_first } = arguments;
    let how = Restarting { drain_ms: drain, stop_first };
    let asked = name.clone();
    let all = ask::each(Some(&name), |keeper| {
        let asked = asked.clone();
        async move { keeper.restart(&asked, how).await }
    })
    .await?;
    let outcomes = || all.iter().flat_map(|(_, outcomes)| outcomes);
    if outcomes().all(|outcome| outcome.refused == Some(NotRestarted::NoCommand)) {
        return Err(Failure::new(format!("`{name}` is a server at an address, which relatch does not run"))
            .hint(format!(
                "Run `relatch pause {name}`, restart it yourself, then run `relatch resume {name}`"
            )));
    }
    let mut code = exit::DONE;
    for (pid, outcomes) in &all {
        for outcome in outcomes {
            if announced::fell_short(outcome) {
                code = exit::NO;
            }
            let _ = render::out(&announced::restarted(outcome, *pid));
        }
    }
    Ok(ExitCode::from(code))
}
