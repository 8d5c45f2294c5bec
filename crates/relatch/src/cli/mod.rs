//! The command line: a file per command. Reads and checks what was typed; what a command finds, `render` prints.

mod adopt;
mod ask;
mod config;
mod dev;
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
mod pause;
mod reconnect;
mod release;
mod reload;
mod restart;
mod resume;
pub(crate) mod serve;
mod served;
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
  relatch drill                     see it work, with nothing set up
  claude mcp add gmail -- relatch stdio http://127.0.0.1:8761/mcp
  relatch adopt                     in front of the servers that you have
  relatch serve gmail=http://127.0.0.1:8761/mcp
                                    many clients, many servers
  relatch dev -- uv run server.py   while you make a server
  relatch status                    the truth about every connection
  relatch top                       the same, live
  relatch log --since 10m           what happened in the last ten minutes
  relatch page                      the same in the browser

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
    // In the order in which they are met: set up, look, try, configure, the rest.
    Stdio(stdio::Arguments),
    Serve(serve::Arguments),
    Adopt(adopt::Arguments),
    Release(release::Arguments),
    Status(status::Arguments),
    Top(top::Arguments),
    Page(page::Arguments),
    Log(log::Arguments),
    Reconnect(reconnect::Arguments),
    Pause(pause::Arguments),
    Resume(resume::Arguments),
    Restart(restart::Arguments),
    Dev(dev::Arguments),
    Drill(drill::Arguments),
    Doctor(doctor::Arguments),
    Explain(explain::Arguments),
    Config(config::Arguments),
    Add(edit::AddArguments),
    Remove(edit::RemoveArguments),
    Reload(reload::Arguments),
    Service(service::Arguments),
    Completions(paper::CompletionArguments),
    Man(paper::ManArguments),
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
            Command::Dev(arguments) => dev::run(arguments),
            Command::Status(arguments) => wait_for(status::run(arguments)),
            Command::Top(arguments) => wait_for(top::run(arguments)),
            Command::Reconnect(arguments) => wait_for(reconnect::run(arguments)),
            Command::Pause(arguments) => wait_for(pause::run(arguments)),
            Command::Resume(arguments) => wait_for(resume::run(arguments)),
            Command::Restart(arguments) => wait_for(restart::run(arguments)),
            Command::Log(arguments) => wait_for(log::run(arguments)),
            Command::Drill(arguments) => wait_for(drill::run(arguments)),
            Command::Doctor(arguments) => wait_for(doctor::run(arguments)),
            Command::Page(arguments) => wait_for(page::run(arguments)),
            Command::Adopt(arguments) => wait_for(adopt::run(arguments)),
            Command::Release(arguments) => wait_for(release::run(arguments)),
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

    /// Every command that people see, with those below it.
    fn all(command: &clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().filter(|command| !command.is_hide_set());
        below.flat_map(|command| std::iter::once(command.clone()).chain(all(command))).collect()
    }

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        let cli = super::Cli::command();
        cli.clone().debug_assert();
        for command in all(&cli) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{}` has no example", command.get_name());
        }
    }

    #[test]
    fn help_reads_well_on_a_terminal_of_80_columns() {
        let cli = super::Cli::command();
        let mut broken = Vec::new();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            // Beside the longest name.
            broken.extend((about.chars().count() > 65).then(|| format!("{}: {about}", command.get_name())));
        }
        for command in std::iter::once(cli.clone()).chain(all(&cli)) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for paragraph in help.split("\n\n") {
                let lines: Vec<&str> = paragraph.lines().collect();
                // A paragraph on one line is broken to fit; what has line breaks of its own would be broken twice.
                let long = lines.iter().filter(|line| lines.len() > 1 && line.chars().count() > 80);
                broken.extend(long.map(|line| format!("{}: {line}", command.get_name())));
            }
        }
        assert!(broken.is_empty(), "{broken:#?}");
    }

    /// The examples of a help text, as their words.
    fn typed(help: &str) -> Vec<Vec<String>> {
        let examples = help.split("Example").nth(1).unwrap_or_default();
        let examples = examples.split("\n\n").next().unwrap_or_default();
        let whole: Vec<&str> = examples.split("\\\n").map(str::trim_start).collect();
        let whole = whole.concat();
        let lines = whole.lines().map(str::trim_start).filter(|line| line.starts_with("relatch "));
        lines
            .map(|line| {
                // Two blanks begin what is said of the example.
                let end = ["  ", " | ", " > ", " >> "].iter().filter_map(|mark| line.find(mark)).min();
                super::hooks::words(&line[..end.unwrap_or(line.len())]).unwrap_or_default()
            })
            .collect()
    }

    #[test]
    fn the_examples_of_help_are_read_without_a_fault() {
        use clap::Parser;
        let cli = super::Cli::command();
        let mut seen = 0;
        for command in std::iter::once(cli.clone()).chain(all(&cli)) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for words in typed(&help) {
                let read = super::Cli::try_parse_from(&words);
                assert!(
                    read.is_ok(),
                    "`{}` has the example {words:?}, which is not read",
                    command.get_name()
                );
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen} examples were found");
    }
}
