//! `relatch add` and `relatch remove`: servers into the configuration file and out of it. A running keeper that reads the
//! file hears of it.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use relatch_admin::link::all_keepers;
use relatch_admin::runtime::runtime_dir;

use super::upstream::{ConfigFile, Surroundings, Treatment};
use super::{parse, reload};
use crate::config::edit::{self, Taken};
use crate::exit;
use crate::render::{self, Failure};

/// Add a server to the configuration file
#[derive(Debug, Args)]
#[command(
    after_help = "Comments, order and formatting of the file stay as they are; where there is no file, it is made. A running \
keeper follows at once. A secret is \
better named than written: `${NAME}` stands for a variable of the environment, `${file:PATH}` for the content of a file.

Examples:
  relatch add gmail http://127.0.0.1:8761/mcp
  relatch add linear https://mcp.linear.app/mcp \\
      --header 'Authorization: Bearer ${LINEAR_TOKEN}' --hold 5m
  relatch add gmail http://127.0.0.1:9000/mcp --replace
  relatch add notes -- npx -y @modelcontextprotocol/server-filesystem ~/notes
  relatch add tickets --env TICKETS_KEY --cwd ~/tickets -- uvx tickets-mcp"
)]
pub(crate) struct AddArguments {
    /// How the server is called: in paths, tables and commands
    name: String,

    /// Its address
    #[arg(required_unless_present = "command", conflicts_with = "command")]
    url: Option<String>,

    /// Or the command that is the server, started for each session
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,

    /// Put it in the place of the server of that name
    #[arg(long)]
    replace: bool,

    /// The command keeps nothing per client: let one process serve all sessions
    #[arg(long)]
    shared: bool,

    #[command(flatten)]
    surroundings: Surroundings,

    #[command(flatten)]
    treatment: Treatment,

    #[command(flatten)]
    config: ConfigFile,
}

/// Take a server out of the configuration file
#[derive(Debug, Args)]
#[command(
    after_help = "A running keeper follows at once. It lets calls that are under way end first, for up to 10 s.

Example:
  relatch remove gmail"
)]
pub(crate) struct RemoveArguments {
    /// The server
    name: String,

    #[command(flatten)]
    config: ConfigFile,
}

pub(crate) async fn add(arguments: AddArguments) -> Result<ExitCode, Failure> {
    let name = parse::name(&arguments.name)?;
    let url = arguments.url.unwrap_or_default();
    if arguments.command.is_empty() && !url.contains("${") {
        parse::address(&url)?;
    }
    let mut server = arguments.treatment.written(name, url)?;
    if arguments.command.is_empty() {
        if arguments.surroundings.are_given() || arguments.shared {
            return Err(super::stdio::no_command());
        }
    } else {
        arguments.treatment.without_transport()?;
        if !server.headers.is_empty() {
            return Err(Failure::usage("A command takes no header").hint("Give it what it needs by `--env`"));
        }
        server.command = arguments.command;
        server.shared = arguments.shared;
        arguments.surroundings.written(&mut server)?;
    }
    let path = arguments.config.needed()?;
    let taken = if arguments.replace { Taken::Replace } else { Taken::Refuse };
    edit::add(&path, std::slice::from_ref(&server), taken)?;
    let _ = render::out(&format!("`{}` is in {}\n", server.name, path.display()));
    Ok(ExitCode::from(tell_keepers(&path, "Run `relatch serve` to serve it").await))
}

pub(crate) async fn remove(arguments: RemoveArguments) -> Result<ExitCode, Failure> {
    let path = arguments.config.needed()?;
    edit::remove(&path, &arguments.name)?;
    let _ = render::out(&format!("`{}` is out of {}\n", arguments.name, path.display()));
    Ok(ExitCode::from(tell_keepers(&path, "").await))
}

/// Every keeper that reads this file reads it again. `nobody` is said where there is none.
pub(super) async fn tell_keepers(path: &Path, nobody: &str) -> u8 {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // The file is written, and that is what was asked for: a keeper that can't be asked is a word of warning.
    let keepers = all_keepers(&runtime_dir()).await.unwrap_or_default();
    let (mut any, mut code) = (false, exit::DONE);
    for keeper in keepers {
        match keeper.reload(Some(&path)).await {
            Ok(reloaded) if reloaded.config.is_none() => {}
            Ok(reloaded) => {
                any = true;
                reload::tell(keeper.pid, &reloaded);
                if reloaded.refused.is_some() {
                    code = exit::NO;
                }
            }
            Err(trouble) => {
                any = true;
                render::say(&render::config::warning(&format!("{trouble}; run `relatch reload` later")));
                code = exit::NO;
            }
        }
    }
    if !any && !nobody.is_empty() {
        render::say(&format!("No running keeper reads this file. {nobody}\n"));
    }
    code
}
