//! The rehearsal with the user's own server and the user's own command to restart it.
//!
//! It calls nothing that could change anything: a tool that declares itself read-only and needs no arguments, or else
//! `tools/list`. What can't be known from outside (executions, a call in flight) is skipped and said so.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::client::{Client, Pending, Reply};
use super::scenes::{Mode, PATIENCE, Scratch, connect, names};
use super::story::{Outcome, Scene, Story, Who};

/// How long the user's server may take to be back.
const RETURN: Duration = Duration::from_secs(90);
/// After this long the restart command is taken for one that runs the server itself.
const FOREGROUND: Duration = Duration::from_secs(3);
/// How long a gap in the server's presence is looked for.
const GAP: Duration = Duration::from_secs(15);

/// What is called.
#[derive(Clone, Debug)]
enum Harmless {
    Tool(String),
    List,
}

/// Plays the scenes that a foreign server allows.
pub(crate) async fn play(url: &str, command: &str, mode: Mode, story: &Story) -> anyhow::Result<Vec<Scene>> {
    let scratch = Scratch::make().context("There is no place for the rehearsal's files")?;
    let mut reading = JoinSet::new();
    let mut client = match mode {
        Mode::Direct => {
            Client::straight(url).await.with_context(|| format!("The client can't connect to `{url}`"))?
        }
        Mode::Relatch => connect(url, &scratch, story, &mut reading).await?,
    };
    let tools = client.tools(PATIENCE).await.unwrap_or_default();
    let harmless = pick(&tools);
    let what = match &harmless {
        Harmless::Tool(name) => format!("`{name}`, which is read-only"),
        Harmless::List => "`tools/list`, which changes nothing".to_owned(),
    };
    story.tell(Who::Client, format!("connected; it sees the tools {} and will call {what}", names(&tools)));

    let mut scenes = Vec::new();
    story.scene(1, "An ordinary call").await;
    scenes.push(call("call", "An ordinary call", &mut client, &harmless, story).await);

    let title = "Your server is restarted, then called";
    story.scene(2, title).await;
    let restart = Restart::begin(command, &scratch, story)?;
    restart.back(url, story).await?;
    scenes.push(call("restart", title, &mut client, &harmless, story).await);

    if mode == Mode::Direct && scenes.last().is_some_and(|scene| scene.outcome == Outcome::Lost) {
        client = Client::straight(url).await.context("The server does not take a new client")?;
        story.tell(Who::You, "relaunch the client by hand: it would never have come back by itself");
    }

    let title = "A call while your server is down";
    story.scene(3, title).await;
    let mut restart = Restart::begin(command, &scratch, story)?;
    if restart.gap(url).await? {
        story.tell(Who::Client, "calls; nothing listens there");
        let asked = Instant::now();
        let pending = send(&mut client, &harmless).await;
        let waiting = tokio::spawn(ended(pending, asked, RETURN));
        restart.back(url, story).await?;
        let (outcome, ms, note) = waiting.await.context("the call was abandoned")?;
        story.tell(Who::Client, note.clone());
        scenes.push(Scene { code: "downtime", title, outcome, executions: None, ms: Some(ms), note });
    } else {
        restart.back(url, story).await?;
        story.tell(Who::Server, "was never seen away");
        scenes.push(skipped(
            "downtime",
            title,
            "your server was not seen away, so there was no moment for the call",
        ));
    }
    let why = "it needs the rehearsal's own server; run `relatch drill`";
    scenes.push(skipped("in-flight", "The server dies in the middle of a call", why));
    scenes.push(skipped("tools-changed", "The server comes back with another tool", why));
    story.settle().await;
    client.end().await;
    Ok(scenes)
}

/// A tool that says of itself that it only reads, and that needs nothing to be told.
fn pick(tools: &[Value]) -> Harmless {
    tools
        .iter()
        .find(|tool| {
            tool["annotations"]["readOnlyHint"] == true
                && tool["inputSchema"]["required"].as_array().is_none_or(Vec::is_empty)
        })
        .and_then(|tool| tool["name"].as_str())
        .map_or(Harmless::List, |name| Harmless::Tool(name.to_owned()))
}

async fn send(client: &mut Client, harmless: &Harmless) -> Pending {
    match harmless {
        Harmless::Tool(name) => client.call(name, json!({})).await,
        Harmless::List => client.ask("tools/list", json!({})).await,
    }
}

async fn call(
    code: &'static str,
    title: &'static str,
    client: &mut Client,
    harmless: &Harmless,
    story: &Story,
) -> Scene {
    story.tell(Who::Client, "calls");
    let asked = Instant::now();
    let pending = send(client, harmless).await;
    let (outcome, ms, note) = ended(pending, asked, PATIENCE * 3).await;
    story.tell(Who::Client, note.clone());
    Scene { code, title, outcome, executions: None, ms: Some(ms), note }
}

async fn ended(pending: Pending, asked: Instant, limit: Duration) -> (Outcome, u64, String) {
    let reply = tokio::time::timeout(limit, pending).await;
    let ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
    match reply {
        Ok(Ok(Reply::Result(_))) => (Outcome::Answered, ms, format!("has its answer after {ms} ms")),
        Ok(Ok(Reply::Error { message, .. } | Reply::Broken(message))) => {
            (Outcome::Lost, ms, format!("gets an error after {ms} ms: {message}"))
        }
        Ok(Err(_)) => (Outcome::Lost, ms, format!("has lost its connection after {ms} ms")),
        Err(_) => (Outcome::Lost, ms, format!("hears nothing for {ms} ms, no answer and no error")),
    }
}

fn skipped(code: &'static str, title: &'static str, why: &str) -> Scene {
    Scene { code, title, outcome: Outcome::Skipped, executions: None, ms: None, note: why.to_owned() }
}

/// The user's command while it runs.
struct Restart {
    child: Child,
    began: Instant,
    /// What it says on stderr. A file, since what the command leaves running keeps it open for as long as it likes.
    said: PathBuf,
}

impl Restart {
    fn begin(command: &str, scratch: &Scratch, story: &Story) -> anyhow::Result<Restart> {
        story.tell(Who::You, format!("restart the server: {command}"));
        let said = scratch.path.join("restart.txt");
        let stderr = File::create(&said).context("There is no place for the command's words")?;
        // Not killed when dropped: it may be the server itself by now. `back` ends it when the server stays away.
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("`sh` does not start")?;
        Ok(Restart { child, began: Instant::now(), said })
    }

    /// Waits until the server is back.
    async fn back(mut self, url: &str, story: &Story) -> anyhow::Result<()> {
        loop {
            let done = match self.child.try_wait()? {
                Some(status) if status.success() => true,
                Some(status) => {
                    let failed = anyhow::anyhow!("The restart command ended with {status}");
                    return Err(match self.last_line() {
                        Some(line) => anyhow::anyhow!(line).context(failed.to_string()),
                        None => failed,
                    });
                }
                None => self.began.elapsed() > FOREGROUND,
            };
            if done && answers(url).await {
                story.tell(Who::Server, format!("is back after {} ms", self.began.elapsed().as_millis()));
                return Ok(());
            }
            if self.began.elapsed() > RETURN {
                let _ = self.child.kill().await;
                bail!("The server was not back within {} s", RETURN.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn last_line(&self) -> Option<String> {
        let mut said = Vec::new();
        File::open(&self.said).ok()?.take(64 * 1024).read_to_end(&mut said).ok()?;
        let said = String::from_utf8_lossy(&said);
        said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.chars().take(300).collect())
    }

    /// Waits for a moment in which nothing listens; `false` when the command is done without one.
    async fn gap(&mut self, url: &str) -> anyhow::Result<bool> {
        let mut done_at = None;
        loop {
            if !listens(url).await? {
                return Ok(true);
            }
            // A finished command may have left the restart to others: look on for a moment.
            let finished = self.child.try_wait()?.is_some();
            if finished && done_at.is_none() {
                done_at = Some(Instant::now());
            }
            let long_done = done_at.is_some_and(|at: Instant| at.elapsed() > Duration::from_secs(1));
            if long_done || self.began.elapsed() > GAP {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn listens(url: &str) -> anyhow::Result<bool> {
    let url = url::Url::parse(url)?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { bail!("no host") };
    let host = host.trim_matches(['[', ']']);
    let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect((host, port))).await;
    Ok(matches!(connected, Ok(Ok(_))))
}

/// Whether the server takes a client again; over TLS, whether it listens again.
async fn answers(url: &str) -> bool {
    if url.starts_with("https:") {
        return listens(url).await.unwrap_or_default();
    }
    let tried = tokio::time::timeout(PATIENCE, Client::straight(url)).await;
    matches!(tried, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tool_that_reads_and_needs_nothing_is_called() {
        let tool = |name: &str, read: bool, required: Value| json!({"name": name, "annotations": {"readOnlyHint": read}, "inputSchema": {"required": required}});
        let tools = [
            tool("send", false, json!([])),
            tool("search", true, json!(["query"])),
            tool("status", true, json!([])),
        ];
        assert!(matches!(pick(&tools), Harmless::Tool(name) if name == "status"));
        assert!(matches!(pick(&tools[..2]), Harmless::List));
    }
}
