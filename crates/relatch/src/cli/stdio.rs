//! `relatch stdio`: stands between one client, on stdin and stdout, and one server.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::KeeperKind;

use super::hooks::Hooks;
use super::parse;
use super::serve::{DEFAULT_LISTEN, state_dir};
use super::upstream::Treatment;
use crate::keeper;
use crate::launch::{Launch, Place};
use crate::render::Failure;

/// Keep the connection between one client, on stdin and stdout, and a server
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  claude mcp add gmail -- relatch stdio http://127.0.0.1:8761/mcp
  relatch stdio https://mcp.example.com/mcp --header 'Authorization: Bearer ${TOKEN}' --hold 5m
  relatch stdio https://mcp.example.com/mcp --header-env Authorization=MCP_AUTHORIZATION
  claude mcp add files -- relatch stdio -- npx -y @modelcontextprotocol/server-filesystem ~/notes")]
pub(crate) struct Arguments {
    /// The server's address, such as http://127.0.0.1:8761/mcp; `env:NAME` takes it from the environment
    #[arg(required_unless_present = "command", conflicts_with = "command")]
    url: Option<String>,

    /// Or the command that is the server, and speaks MCP on its own stdin and stdout
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,

    /// Send a header whose whole value is in an environment variable, so that it is on no command line; may be repeated
    #[arg(long = "header-env", value_name = "K=NAME")]
    headers_env: Vec<String>,

    /// How the server is called in `relatch status` [default: from the address or the command]
    #[arg(long)]
    name: Option<String>,

    #[command(flatten)]
    treatment: Treatment,

    #[command(flatten)]
    hooks: Hooks,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    Ok(keeper::run(launch(&arguments)?)?)
}

fn launch(arguments: &Arguments) -> Result<Launch, Failure> {
    let (place, name) = match &arguments.url {
        Some(url) => {
            let url = parse::address_or_variable(url)?;
            (Place::Url(url.to_string()), name_of(&url))
        }
        None => (Place::Command(arguments.command.clone()), name_of_command(&arguments.command)),
    };
    let name = match &arguments.name {
        Some(name) => parse::name(name)?,
        None => name,
    };
    let mut headers = arguments.treatment.headers()?;
    for text in &arguments.headers_env {
        headers.push(parse::header_env(text)?);
    }
    if matches!(place, Place::Command(_)) && !headers.is_empty() {
        return Err(Failure::usage("A command takes no header")
            .hint("Set what it needs in its environment, which is that of relatch"));
    }
    Ok(Launch {
        kind: KeeperKind::Stdio,
        servers: vec![arguments.treatment.spec(name, place, headers)],
        listen: DEFAULT_LISTEN,
        // A client's only process must start on a machine without a home, too; it keeps nothing but its journal there.
        state_dir: state_dir(None).unwrap_or_default(),
        token: true,
        allow_hosts: Vec::new(),
        hooks: arguments.hooks.spec()?,
    })
}

/// The host, and the port where it says something: `mcp.linear.app`, `127.0.0.1-8761`.
fn name_of(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let port = url.port().map_or(String::new(), |port| format!("-{port}"));
    plain(&format!("{host}{port}"))
}

/// What the command is about: the package that a runner runs, or the program itself.
fn name_of_command(command: &[String]) -> String {
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
