//! `relatch completions` and `relatch man`: what shells and manuals know of the command line, made of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::exit;
use crate::render::{self, Failure};

/// Print what a shell needs to complete relatch's commands
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relatch completions bash > ~/.local/share/bash-completion/completions/relatch
  relatch completions zsh > ~/.zfunc/_relatch
  relatch completions fish > ~/.config/fish/completions/relatch.fish
  relatch completions powershell >> $PROFILE")]
pub(crate) struct CompletionArguments {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write those of all commands
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relatch man | man -l -
  relatch man ~/.local/share/man/man1")]
pub(crate) struct ManArguments {
    /// Where to write a page for relatch and one for each command
    dir: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &CompletionArguments) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "relatch", &mut text);
    let _ = render::out(&String::from_utf8_lossy(&text));
    ExitCode::from(exit::DONE)
}

pub(crate) fn man(arguments: &ManArguments) -> Result<ExitCode, Failure> {
    let Some(dir) = &arguments.dir else {
        let _ = render::out(&page(Cli::command())?);
        return Ok(ExitCode::from(exit::DONE));
    };
    std::fs::create_dir_all(dir).map_err(|cause| unwritten(dir, cause))?;
    for (name, command) in pages() {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page(command)?).map_err(|cause| unwritten(&path, cause))?;
    }
    Ok(ExitCode::from(exit::DONE))
}

/// relatch and each command that people see, by the name of its page.
fn pages() -> Vec<(String, Command)> {
    let mut all = vec![("relatch".to_owned(), Cli::command())];
    let mut from = 0;
    while let Some((name, command)) = all.get(from).cloned() {
        let below = command.get_subcommands().filter(|command| !command.is_hide_set());
        let named = below.map(|command| {
            let name = format!("{name}-{}", command.get_name());
            let spoken = format!("{} {}", command_of(&all[from].1), command.get_name());
            (name.clone(), command.clone().display_name(name).bin_name(spoken))
        });
        all.extend(named.collect::<Vec<_>>());
        from += 1;
    }
    all
}

/// How a command is typed.
fn command_of(command: &Command) -> &str {
    command.get_bin_name().unwrap_or("relatch")
}

fn page(command: Command) -> Result<String, Failure> {
    let mut text = Vec::new();
    let title = command.get_display_name().unwrap_or("relatch").to_owned();
    clap_mangen::Man::new(command)
        .title(title)
        .render(&mut text)
        .map_err(|cause| Failure::new("The manual page can't be made").cause(cause))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn unwritten(path: &Path, cause: std::io::Error) -> Failure {
    Failure::new(format!("`{}` can't be written", path.display())).cause(cause).exit(exit::REFUSED)
}
