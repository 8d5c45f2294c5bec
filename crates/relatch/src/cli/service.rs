//! `relatch service`: `serve` as a service of this user, always there.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Parser, Subcommand};

use super::serve;
use crate::exit;
use crate::render::{self, Failure};
use crate::service::{Found, Manager, Service, Unit, found};

/// Run `relatch serve` as a service of yours, started at login
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "systemd (as the user's own instance) and launchd are known; they restart it when it fails. Nothing here needs root.

Examples:
  relatch service install               what `relatch serve` serves by itself
  relatch service install -- gmail=http://127.0.0.1:8761/mcp --hold 5m
  relatch service install --dry-run     show the unit, change nothing
  relatch service status
  relatch service uninstall"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the unit, and start it
    Install(Install),
    /// Whether it is installed, and whether it runs; exits with 1 when it doesn't
    #[command(after_help = "Example:\n  relatch service status")]
    Status(Which),
    /// Stop it, and remove what `install` wrote
    Uninstall(Uninstall),
}

#[derive(Debug, Args)]
#[command(
    after_help = "What follows `--` is handed to `relatch serve` as it is. A header with a secret does not belong there: other programs of yours could read it in the unit.

Example:
  relatch service install --socket -- gmail=http://127.0.0.1:8761/mcp"
)]
struct Install {
    #[command(flatten)]
    which: Which,

    /// Let systemd listen, so that the first client starts relatch
    #[arg(long)]
    socket: bool,

    /// Show the unit and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Write the unit, and leave the starting to you
    #[arg(long)]
    no_start: bool,

    /// Put it in the place of a unit that was changed by hand, or that relatch did not write; the old one is kept
    /// beside it
    #[arg(long)]
    replace: bool,

    /// Arguments for `relatch serve`
    #[arg(last = true)]
    serve: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  relatch service uninstall")]
struct Uninstall {
    #[command(flatten)]
    which: Which,

    /// Remove a unit that was changed by hand, too
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Which {
    /// Who starts services [default: that of this system]
    #[arg(long, value_name = "NAME")]
    manager: Option<Manager>,
}

/// The arguments of `serve`, to see whether they can be right.
#[derive(Debug, Parser)]
#[command(name = "relatch serve")]
struct Served {
    #[command(flatten)]
    arguments: serve::Arguments,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.action {
        Action::Install(install) => installed(&install),
        Action::Status(which) => status(&which),
        Action::Uninstall(uninstall) => uninstalled(&uninstall),
    }
}

fn installed(install: &Install) -> Result<ExitCode, Failure> {
    let manager = install.which.manager()?;
    let folders = Folders::of_this_user()?;
    let words = std::iter::once("serve".to_owned()).chain(install.serve.iter().cloned());
    let served = Served::try_parse_from(words.clone()).map_err(|fault| {
        Failure::usage("`relatch serve` can't be started with these arguments")
            .cause(fault.to_string().lines().next().unwrap_or_default().trim_start_matches("error: "))
            .hint("Try them with `relatch serve` first")
    })?;
    if served.arguments.has_headers() {
        return Err(Failure::usage("A header would stand in the unit for every program of yours to read")
            .hint(
                "Put it into `relatch.toml`, where `${NAME}` and `${file:PATH}` can stand for the secret",
            ));
    }
    let launch = serve::launch(&served.arguments)?;
    if install.socket && manager != Manager::Systemd {
        return Err(Failure::usage("`--socket` is there for systemd only"));
    }
    let service = Service {
        program: program()?,
        arguments: words.collect(),
        socket: install.socket.then_some(launch.listen),
    };
    let units = manager.units(&service, &folders.home, &folders.config);
    if install.dry_run {
        let _ = render::out(&render::service::units(&units));
        return Ok(ExitCode::from(exit::DONE));
    }
    for unit in &units {
        if !install.replace {
            may_be_written(unit)?;
        }
    }
    for unit in &units {
        write(unit)?;
    }
    render::say(&render::service::written(&units));
    let commands = manager.start(&units);
    if install.no_start {
        render::say(&render::service::commands(&commands));
        return Ok(ExitCode::from(exit::DONE));
    }
    for command in &commands {
        told(command).map_err(|failure| {
            failure.hint(format!(
                "The unit is written; where a service manager runs, start it with `{}`, and elsewhere (a container) run \
                 `relatch serve` itself",
                joined(&commands)
            ))
        })?;
    }
    if let Some(advice) = manager.advice() {
        render::say(&format!("{advice}\n"));
    }
    let token = if launch.token {
        let token = relatch_net::downstream::origin::token_file(&launch.state_dir);
        Some(token.map_err(|cause| Failure::new("The token for clients can't be read").cause(cause))?)
    } else {
        None
    };
    let names: Vec<&str> = launch.servers.iter().map(|server| server.name.as_str()).collect();
    let _ = render::out(&render::serve::listening(launch.listen, &names, token.as_deref()));
    Ok(ExitCode::from(exit::DONE))
}

fn status(which: &Which) -> Result<ExitCode, Failure> {
    let manager = which.manager()?;
    let folders = Folders::of_this_user()?;
    let mut places = Vec::new();
    for path in manager.places(&folders.home, &folders.config) {
        places.push((found(read(&path)?.as_deref(), None), path));
    }
    let there = places[0].0 != Found::Nothing;
    let runs = there && told(&manager.ask()).is_ok();
    let _ = render::out(&render::service::status(&places, runs));
    Ok(ExitCode::from(if runs { exit::DONE } else { exit::NO }))
}

fn uninstalled(uninstall: &Uninstall) -> Result<ExitCode, Failure> {
    let manager = uninstall.which.manager()?;
    let folders = Folders::of_this_user()?;
    let mut there = Vec::new();
    for path in manager.places(&folders.home, &folders.config) {
        match found(read(&path)?.as_deref(), None) {
            Found::Nothing => {}
            Found::Same | Found::Ours => there.push(path),
            Found::Edited | Found::Foreign if uninstall.force => there.push(path),
            Found::Edited => {
                return Err(Failure::new(format!(
                    "`{}` was changed after relatch had written it",
                    path.display()
                ))
                .hint("Look at it; `--force` removes it all the same")
                .exit(exit::REFUSED));
            }
            Found::Foreign => {
                return Err(Failure::new(format!("`{}` was not written by relatch", path.display()))
                    .hint("Look at it; `--force` removes it all the same")
                    .exit(exit::REFUSED));
            }
        }
    }
    if there.is_empty() {
        render::say("No service of relatch's is installed\n");
        return Ok(ExitCode::from(exit::DONE));
    }
    // One that does not run, or a manager that can't be reached, is no reason to keep the file.
    for command in manager.stop(&there) {
        if let Err(failure) = told(&command) {
            render::failure(&failure);
        }
    }
    for path in &there {
        std::fs::remove_file(path).map_err(|cause| untouched(path, &cause))?;
    }
    for command in manager.forget() {
        let _ = told(&command);
    }
    render::say(&render::service::removed(&there));
    Ok(ExitCode::from(exit::DONE))
}

impl Which {
    fn manager(&self) -> Result<Manager, Failure> {
        self.manager.or_else(Manager::here).ok_or_else(|| {
            Failure::usage(format!("relatch knows no service manager of `{}`", std::env::consts::OS))
                .hint("Start `relatch serve` by what starts services there")
        })
    }
}

/// Where units stand.
struct Folders {
    home: PathBuf,
    config: PathBuf,
}

impl Folders {
    fn of_this_user() -> Result<Folders, Failure> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = set("HOME").ok_or_else(|| {
            Failure::usage("There is no folder for services")
                .cause("`HOME` is not set, or is no absolute path")
        })?;
        let config = set("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        Ok(Folders { home, config })
    }
}

/// This program, by a path that lasts.
fn program() -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()
        .map_err(|cause| Failure::new("relatch can't tell where its own program is").cause(cause))?;
    let name = here.to_string_lossy();
    if name.ends_with(" (deleted)") {
        return Err(Failure::new("The program that runs has been replaced on disk").hint("Run the new one"));
    }
    Ok(here)
}

fn may_be_written(unit: &Unit) -> Result<(), Failure> {
    let what = match found(read(&unit.path)?.as_deref(), Some(unit)) {
        Found::Nothing | Found::Same | Found::Ours => return Ok(()),
        Found::Edited => "was changed after relatch had written it",
        Found::Foreign => "is there already, and was not written by relatch",
    };
    Err(Failure::new(format!("`{}` {what}", unit.path.display()))
        .hint("Nothing was changed. Look at it; `--replace` puts the new one in its place and keeps the old one beside it")
        .exit(exit::REFUSED))
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(untouched(path, &cause)),
    }
}

/// Whole or not at all; what somebody else wrote is kept beside it.
fn write(unit: &Unit) -> Result<(), Failure> {
    let folder = unit.path.parent().unwrap_or(Path::new("/"));
    let name = unit.path.file_name().unwrap_or_default().to_string_lossy();
    let written = || -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        if matches!(
            found(std::fs::read_to_string(&unit.path).ok().as_deref(), Some(unit)),
            Found::Edited | Found::Foreign
        ) {
            std::fs::copy(&unit.path, folder.join(format!("{name}.before-relatch")))?;
        }
        let aside = folder.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&aside, &unit.text)?;
        std::fs::rename(&aside, &unit.path)
    };
    written().map_err(|cause| untouched(&unit.path, &cause))
}

fn untouched(path: &Path, cause: &io::Error) -> Failure {
    let failure = Failure::new(format!("`{}` can't be read or written", path.display())).cause(cause);
    if cause.kind() == ErrorKind::PermissionDenied { failure.exit(exit::REFUSED) } else { failure }
}

/// Runs a command of the service manager's to its end.
fn told(command: &[String]) -> Result<(), Failure> {
    let shown = command.join(" ");
    let done =
        Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output().map_err(|cause| {
            let failure = Failure::new(format!("`{shown}` can't be run"));
            if cause.kind() == ErrorKind::NotFound {
                failure.cause(format!("there is no `{}` on `PATH`", command[0]))
            } else {
                failure.cause(cause)
            }
        })?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let mut failure = Failure::new(format!("`{shown}` did not work"));
    if let Some(line) = said.lines().map(str::trim).find(|line| !line.is_empty()) {
        failure = failure.cause(line);
    }
    Err(failure)
}

fn joined(commands: &[Vec<String>]) -> String {
    commands.iter().map(|command| command.join(" ")).collect::<Vec<_>>().join(" && ")
}
