//! `relatch top`: the live view of every upstream of every keeper of this user, in the terminal.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use relatch_admin::runtime::runtime_dir;

use crate::exit;
use crate::render::{Failure, Style};
use crate::tui;

/// All connections live in the terminal, with past and journal
#[derive(Debug, Args)]
#[command(
    after_help = "For looking on while something is going on: a deploy, a server that comes and goes. \
Keepers that come later appear by themselves. `?` shows the keys; `r` opens a new session to the server that is selected.

Example:
  relatch top"
)]
pub(crate) struct Arguments {}

pub(crate) async fn run(Arguments {}: Arguments) -> Result<ExitCode, Failure> {
    if !io::stdout().is_terminal() {
        return Err(no_terminal("`relatch top` needs a terminal, and stdout is none"));
    }
    if std::env::var_os("TERM").is_some_and(|value| value == "dumb") {
        return Err(no_terminal("`relatch top` can't draw on this terminal: `TERM` is `dumb`"));
    }
    tui::run(&runtime_dir(), Style::stdout()).await?;
    Ok(ExitCode::from(exit::DONE))
}

fn no_terminal(what: &str) -> Failure {
    Failure::usage(what).hint("Use `relatch status --watch`")
}
