//! The command line: a file per command. Reads and checks what was typed; what a command finds, `render` prints.

mod adopt;
mod ask;
mod config;
mod doctor;
mod drill;
mod edit;
mod explain;
mod guard;
pub(crate) mod hooks;
mod log;
mod moment;
mod page;
mod paper;
pub(crate) mod parse;
mod reconnect;
mod release;
mod reload;
pub(crate) mod serve;
mod service;
mod status;
mod stdio;
mod top;
mod upstream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::render::Failure;

/// Keeps MCP connections alive: a server may restart, its clients don't notice
#[derive(Debug, Parser)]
#[command(
    name = "relatch",
    version,
    long_version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("RELATCH_BUILD"), ")"),
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Examples:
  relatch drill                                        see it work, with nothing set up
  claude mcp add gmail -- relatch stdio http://127.0.0.1:8761/mcp
  relatch adopt                                        put it in front of what your clients have
  relatch serve gmail=http://127.0.0.1:8761/mcp        many clients, many servers
  relatch status                                       the truth about every connection
  relatch top                                          the same, live
  relatch log --since 10m                              what happened in the last ten minutes
  relatch page                                         the same in the browser

Exit codes:
  0 done · 1 the answer is no · 2 wrong usage or configuration
  3 no keeper reached · 4 refused · 70 a bug in relatch"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Stdio(stdio::Arguments),
    Serve(serve::Arguments),
    Status(status::Arguments),
    Top(top::Arguments),
    Reconnect(reconnect::Arguments),
    Log(log::Arguments),
    Drill(drill::Arguments),
    Doctor(doctor::Arguments),
    Page(page::Arguments),
    Adopt(adopt::Arguments),
    Release(release::Arguments),
    Service(service::Arguments),
    Explain(explain::Arguments),
    Completions(paper::CompletionArguments),
    Man(paper::ManArguments),
    Config(config::Arguments),
    Reload(reload::Arguments),
    Add(edit::AddArguments),
    Remove(edit::RemoveArguments),
    #[command(hide = true)]
    Guard(guard::Arguments),
    #[command(hide = true)]
    DrillServer(drill::ServerArguments),
}

impl Cli {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Stdio(arguments) => stdio::run(arguments),
            Command::Serve(arguments) => serve::run(arguments),
            Command::Status(arguments) => wait_for(status::run(arguments)),
            Command::Top(arguments) => wait_for(top::run(arguments)),
            Command::Reconnect(arguments) => wait_for(reconnect::run(arguments)),
            Command::Log(arguments) => wait_for(log::run(arguments)),
            Command::Drill(arguments) => wait_for(drill::run(arguments)),
            Command::Doctor(arguments) => wait_for(doctor::run(arguments)),
            Command::Page(arguments) => wait_for(page::run(arguments)),
            Command::Adopt(arguments) => wait_for(adopt::run(arguments)),
            Command::Release(arguments) => release::run(&arguments),
            Command::Service(arguments) => service::run(arguments),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Completions(arguments) => Ok(paper::completions(&arguments)),
            Command::Man(arguments) => paper::man(&arguments),
            Command::Config(arguments) => config::run(&arguments),
            Command::Reload(arguments) => wait_for(reload::run(arguments)),
            Command::Add(arguments) => wait_for(edit::add(arguments)),
            Command::Remove(arguments) => wait_for(edit::remove(arguments)),
            Command::Guard(arguments) => wait_for(guard::run(arguments)),
            Command::DrillServer(arguments) => wait_for(drill::run_server(arguments)),
        }
    }
}

/// Runs one command to its end; tasks that it left behind end with it.
fn wait_for(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Failure::new("The system gives relatch no event queue").cause(cause))?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        let cli = super::Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{}` has no example", command.get_name());
        }
    }
}
