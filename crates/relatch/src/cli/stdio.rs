//! `relatch stdio`: stands between one client, on stdin and stdout, and one server.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::KeeperKind;

use super::hooks::Hooks;
use super::parse;
use super::serve::{DEFAULT_LISTEN, state_dir};
use super::upstream::{ConfigFile, Surroundings, Treatment};
use crate::config::Loaded;
use crate::config::read::Follow;
use crate::keeper;
use crate::launch::{Launch, Place, Program, ServerSpec};
use crate::nearest::nearest;
use crate::render::Failure;

/// Keep one client, on stdin and stdout, connected to a server
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  claude mcp add gmail -- relatch stdio http://127.0.0.1:8761/mcp
  claude mcp add gmail -- relatch stdio gmail    as `relatch.toml` describes it
  relatch stdio https://mcp.example.com/mcp \\
      --header 'Authorization: Bearer ${TOKEN}' --hold 5m
  relatch stdio https://mcp.example.com/mcp \\
      --header-env Authorization=MCP_AUTHORIZATION
  relatch stdio -- npx -y @modelcontextprotocol/server-filesystem ~/notes")]
pub(crate) struct Arguments {
    /// The server's address, such as http://127.0.0.1:8761/mcp, or its name in the configuration file; `env:NAME` takes
    /// the address from the environment
    #[arg(value_name = "URL|NAME", required_unless_present = "command", conflicts_with = "command")]
    server: Option<String>,

    /// Or the command that is the server, and speaks MCP on its own stdin and stdout: a process for the session
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,

    /// Send a header whose whole value is in an environment variable, so that it is on no command line; may be repeated
    #[arg(long = "header-env", value_name = "K=NAME")]
    headers_env: Vec<String>,

    /// How a server that is given by its address or its command is called in `relatch status` [default: from those]
    #[arg(long)]
    name: Option<String>,

    #[command(flatten)]
    config: ConfigFile,

    #[command(flatten)]
    surroundings: Surroundings,

    #[command(flatten)]
    treatment: Treatment,

    #[command(flatten)]
    hooks: Hooks,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let launched = launch(&arguments)?;
    // What is given by its address has nothing to read again; of a file, all is found where it was.
    Ok(keeper::run(launched, Box::new(move || launch(&arguments)))?)
}

fn launch(arguments: &Arguments) -> Result<Launch, Failure> {
    let server = arguments.server.as_deref();
    if let Some(name) = server.filter(|server| parse::is_name(server)) {
        return launch_named(arguments, name);
    }
    let (place, name) = match server {
        Some(server) => {
            let url = parse::address_or_variable(server)?;
            if arguments.surroundings.are_given() {
                return Err(no_command());
            }
            (Place::Url(url.to_string()), name_of(&url))
        }
        None => {
            let mut program = Program { words: arguments.command.clone(), ..Program::default() };
            arguments.surroundings.over(&mut program)?;
            (Place::Command(program), name_of_command(&arguments.command))
        }
    };
    if arguments.config.is_given() {
        return Err(Failure::usage("A server that is not given by its name takes nothing from a file")
            .hint("Give the server's name in the file, or leave `--config` out"));
    }
    let name = match &arguments.name {
        Some(name) => parse::name(name)?,
        None => name,
    };
    let headers = headers(arguments)?;
    if matches!(place, Place::Command(_)) && !headers.is_empty() {
        return Err(Failure::usage("A command takes no header").hint("Give it what it needs by `--env`"));
    }
    let server = arguments.treatment.spec(name, place, headers);
    launch_one(arguments, server, None)
}

/// That what surrounds a command was given without one.
pub(super) fn no_command() -> Failure {
    Failure::usage("What a command runs in is given, and the server has an address")
        .hint("`--env`, `--cwd`, `--inherit-env` and `--shared` are for a server behind `--`")
}

/// A server of the file, with what was typed in front of what the file says.
fn launch_named(arguments: &Arguments, name: &str) -> Result<Launch, Failure> {
    if arguments.name.is_some() {
        return Err(Failure::usage(format!("`{name}` is a name already"))
            .hint("Leave `--name` out, or give the server's address"));
    }
    let like = "Give an address, such as `http://127.0.0.1:8761/mcp`, or run `relatch add NAME URL` first";
    let unknown = |cause: String| {
        Failure::usage(format!(
            "`{name}` is no address of an MCP server, and no server of the configuration file"
        ))
        .cause(cause)
        .hint(like)
    };
    let Some(file) = arguments.config.load(Follow::Only(name))? else {
        return Err(unknown(match arguments.config.path() {
            Some(path) => format!("`{}` is not there", path.display()),
            None => "there is no folder for one".to_owned(),
        }));
    };
    let Some(server) = file.config.servers.iter().find(|server| server.name == *name) else {
        let path = file.path.display();
        let known: Vec<&str> = file.config.servers.iter().map(|server| server.name.as_str()).collect();
        let failure = unknown(match known.is_empty() {
            true => format!("`{path}` names none"),
            false => format!("`{path}` names `{}`", known.join("`, `")),
        });
        return Err(match nearest(name, known) {
            Some(near) => failure.hint(format!("Did you mean `relatch stdio {near}`?")),
            None => failure,
        });
    };
    let mut server = arguments.treatment.over(ServerSpec::of(server), headers(arguments)?);
    match &mut server.place {
        Place::Url(_) if arguments.surroundings.are_given() => return Err(no_command()),
        Place::Url(_) => {}
        Place::Command(program) => {
            arguments.surroundings.over(program)?;
            // There is nobody to share it with, and one that is not shared may ask its client.
            program.shared = false;
        }
    }
    launch_one(arguments, server, Some(&file))
}

/// Headers of the command line, and those that it takes from the environment.
fn headers(arguments: &Arguments) -> Result<Vec<(String, String)>, Failure> {
    let mut headers = arguments.treatment.headers()?;
    for text in &arguments.headers_env {
        headers.push(parse::header_env(text)?);
    }
    Ok(headers)
}

fn launch_one(arguments: &Arguments, server: ServerSpec, file: Option<&Loaded>) -> Result<Launch, Failure> {
    if matches!(server.place, Place::Command(_)) {
        arguments.treatment.without_transport()?;
    }
    let dir = file.and_then(|file| file.config.state_dir.as_ref()).map(|set| set.value.clone());
    Ok(Launch {
        kind: KeeperKind::Stdio,
        servers: vec![server],
        listen: DEFAULT_LISTEN,
        // A client's only process must start on a machine without a home, too; it keeps nothing but its journal there.
        state_dir: state_dir(dir).unwrap_or_default(),
        records_dir: None,
        token: true,
        allow_hosts: Vec::new(),
        hooks: arguments.hooks.spec()?.or(file),
        config: file.map(|file| file.path.clone()),
        warnings: file.map_or(Vec::new(), |file| file.warnings.clone()),
    })
}

/// The host, and the port where it says something: `mcp.linear.app`, `127.0.0.1-8761`. A socket has its file's name.
fn name_of(url: &url::Url) -> String {
    if url.scheme() == "unix" {
        let path = url.path().split(":/").next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        return plain(file.strip_suffix(".sock").or_else(|| file.strip_suffix(".socket")).unwrap_or(&file));
    }
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let port = url.port().map_or(String::new(), |port| format!("-{port}"));
    plain(&format!("{host}{port}"))
}

/// What the command is about: the package that a runner runs, or the program itself.
pub(crate) fn name_of_command(command: &[String]) -> String {
    let runners =
        ["npx", "uvx", "uv", "node", "bun", "bunx", "deno", "python", "python3", "pipx", "docker", "env"];
    let base = |word: &str| {
        let last = word.rsplit('/').next().unwrap_or_default();
        let package = last.split_once('@').map_or(last, |(name, _)| name);
        package.trim_end_matches(".js").trim_end_matches(".py").to_owned()
    };
    let program = command.first().map(|word| base(word)).unwrap_or_default();
    let subject = command.iter().skip(1).find(|word| {
        !word.starts_with('-')
            && !["run", "exec", "tool", "x"].contains(&word.as_str())
            && !word.contains('=')
    });
    let name = match subject {
        Some(subject) if runners.contains(&program.as_str()) => base(subject),
        Some(_) | None => program,
    };
    plain(&name.to_ascii_lowercase())
}

/// A text as a name.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = text.chars().map(plain).collect();
    let name: String =
        name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(64).collect();
    if name.is_empty() { "server".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_after_its_address() {
        for (url, name) in [
            ("http://127.0.0.1:8761/mcp", "127.0.0.1-8761"),
            ("https://MCP.linear.app/mcp", "mcp.linear.app"),
            ("http://[::1]:80/mcp", "1-"),
            ("http://[::1]:8080/mcp", "1--8080"),
            ("unix:/run/user/1000/Notes.sock:/mcp", "notes"),
            ("unix:/run/notes/socket", "socket"),
        ] {
            let made = name_of(&url::Url::parse(url).unwrap());
            assert_eq!(made, name);
            assert!(parse::name(&made).is_ok());
        }
        for (command, name) in [
            (
                &["npx", "-y", "@modelcontextprotocol/server-filesystem@2.1", "/notes"][..],
                "server-filesystem",
            ),
            (&["uvx", "mcp-server-git"], "mcp-server-git"),
            (&["uv", "run", "server.py"], "server"),
            (&["/opt/Files/files-mcp", "--root", "/"], "files-mcp"),
            (&["node", "./dist/index.js"], "index"),
            (&["docker", "run", "-i", "--rm", "mcp/fetch"], "fetch"),
            (&["npx"], "npx"),
            (&["@"], "server"),
        ] {
            let made = name_of_command(&command.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
            assert_eq!(made, name);
            assert!(parse::name(&made).is_ok());
        }
        let long = format!("http://{}.{}/", "a".repeat(60), "b".repeat(60));
        assert!(parse::name(&name_of(&url::Url::parse(&long).unwrap())).is_ok());
    }
}
