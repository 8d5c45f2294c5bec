//! `relatch reload`: running keepers read their configuration again.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::reload::Reloaded;

use super::ask;
use crate::exit;
use crate::render::{self, Failure};

/// Have running keepers read their configuration file again
#[derive(Debug, Args)]
#[command(
    after_help = "Every keeper that reads a file does so again and applies what has changed: servers that are new, \
gone or different. Calls that are under way go on, and no session is dropped. A file with anything wrong in it changes nothing, and the exit code \
is 2. SIGHUP to a keeper does the same. `listen`, `state_dir`, `no_token` and `allow_host` count from its next start on.

Example:
  relatch reload"
)]
pub(crate) struct Arguments {}

pub(crate) async fn run(Arguments {}: Arguments) -> Result<ExitCode, Failure> {
    let mut code = exit::DONE;
    let mut troubles = Vec::new();
    let mut any = false;
    for keeper in ask::keepers().await? {
        match keeper.reload(None).await {
            Ok(Reloaded { config: None, .. }) => {}
            Ok(reloaded) => {
                any = true;
                tell(keeper.pid, &reloaded);
                if reloaded.refused.is_some() {
                    code = exit::USAGE;
                }
            }
            Err(trouble) => troubles.push(trouble.to_string()),
        }
    }
    if !troubles.is_empty() {
        let mut failure = Failure::new("Not every keeper could be asked").exit(exit::NO);
        failure.causes = troubles;
        return Err(failure);
    }
    if !any {
        return Err(Failure::new("No running keeper reads a configuration file")
            .hint("Start one with `relatch serve`, which serves the servers of `relatch.toml`"));
    }
    Ok(ExitCode::from(code))
}

/// What came of it: what has changed to stdout, what is wrong to stderr.
pub(crate) fn tell(pid: u32, reloaded: &Reloaded) {
    for warning in &reloaded.warnings {
        render::say(&render::config::warning(warning));
    }
    match &reloaded.refused {
        Some(refused) => {
            render::say(refused);
            render::say(&format!("The keeper goes on as it was (process {pid})\n"));
        }
        None => {
            let _ = render::out(&render::config::reloaded(reloaded, pid));
        }
    }
}
