//! What a restart of the server looks like to a client that holds a session.
//!
//! Runs the user's command, looks at the server with `ping` until it is back, and compares before and after.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::client::{Ask, Client};
use super::facts::{Back, End, Restart, Seen};
use super::probes::{NEWEST, initialize, is_away, open};
use crate::drill::scenes::Scratch;

/// How long the server may take to be back.
const RETURN: Duration = Duration::from_secs(90);
/// After this long the command is taken for one that runs the server itself.
const FOREGROUND: Duration = Duration::from_secs(3);
/// How long after a finished command the server is still expected to go away.
const LATE: Duration = Duration::from_secs(2);
/// Between two looks: a server on this machine may be away for a moment only.
const PAUSE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(2);

/// Restarts the server and watches.
pub(crate) async fn watch(
    client: &Client,
    command: &str,
    ids: &[String],
    revision: &str,
    tools: Option<Value>,
    hello: &Value,
) -> Restart {
    client.extend(RETURN + FOREGROUND + LATE + Duration::from_secs(30));
    let before = open(client, NEWEST).await.1;
    let (id, version) = match &before {
        Some((id, version)) => (Some(id.as_str()), version.as_str()),
        None => (None, revision),
    };
    let ping = || Ask::post("ping", json!({})).of(id, version).within(LOOK);
    let scratch = match Scratch::make() {
        Ok(scratch) => scratch,
        Err(cause) => return Restart::Failed(format!("there is no place for the command's words: {cause}")),
    };
    let mut running = match Running::begin(command, &scratch.path) {
        Ok(running) => running,
        Err(cause) => return Restart::Failed(format!("`sh` does not start: {cause}")),
    };
    let mut back = Back::default();
    let mut away_since: Option<Instant> = None;
    loop {
        let done = match running.state() {
            State::Runs => None,
            State::Done(at) => Some(at),
            State::Failed(why) => return Restart::Failed(why),
        };
        let seen = client.ask(ping()).await;
        if is_away(&seen) || is_gateway(&seen) {
            away_since.get_or_insert_with(Instant::now);
            back.meanwhile.get_or_insert_with(|| said(&seen));
        } else if let Some(since) = away_since {
            back.away = Some(since.elapsed());
            back.old = seen;
            break;
        } else if done.is_some_and(|at| at.elapsed() > LATE) {
            back.old = seen;
            break;
        }
        if running.began.elapsed() > RETURN {
            return Restart::Away(RETURN);
        }
        tokio::time::sleep(PAUSE).await;
    }
    if let Some(id) = id
        && back.old.refused()
    {
        client.lost(id);
    }
    back.new = client.ask(initialize(NEWEST)).await;
    compare(client, &mut back, id, ids, tools, hello).await;
    Restart::Back(Box::new(back))
}

async fn compare(
    client: &Client,
    back: &mut Back,
    id: Option<&str>,
    ids: &[String],
    tools: Option<Value>,
    hello: &Value,
) {
    let Some(answer) = back.new.answer().cloned() else { return };
    let Some(result) = &answer.result else { return };
    back.version_differs = result["serverInfo"] != hello["serverInfo"];
    let new = answer.session.as_deref();
    back.id_repeats = new.is_some_and(|new| id == Some(new) || ids.iter().any(|old| old == new));
    let version = result["protocolVersion"].as_str().unwrap_or(NEWEST).to_owned();
    client.ask(Ask::post("notifications/initialized", Value::Null).of(new, &version)).await;
    if let Some(before) = tools {
        let list = client.ask(Ask::post("tools/list", json!({})).of(new, &version)).await;
        back.tools_differ =
            list.answer().and_then(|answer| answer.result.as_ref()).map(|after| *after != before);
    }
    if let Some(new) = new {
        client.end(new, &version).await;
    }
    // If the old session has survived, it is ended with all others.
}

fn is_gateway(seen: &Seen) -> bool {
    matches!(seen.status(), Some(502..=504 | 520..=529))
}

fn said(seen: &Seen) -> String {
    match &seen.end {
        End::Answered(answer) => format!("HTTP {}", answer.status),
        End::Broken(cause) => cause.to_string(),
        End::Silent(limit) => format!("no answer within {} s", limit.as_secs()),
        End::NotAsked => "not asked".to_owned(),
    }
}

/// The user's command while it runs.
struct Running {
    child: Child,
    began: Instant,
    done: Option<Instant>,
    /// What it says on stderr. A file, since what the command leaves running keeps it open for as long as it likes.
    words: std::path::PathBuf,
}

enum State {
    Runs,
    Done(Instant),
    Failed(String),
}

impl Running {
    fn begin(command: &str, folder: &Path) -> std::io::Result<Running> {
        let words = folder.join("restart.txt");
        let stderr = File::create(&words)?;
        // Not killed when dropped: it may be the server itself by now.
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()?;
        Ok(Running { child, began: Instant::now(), done: None, words })
    }

    fn state(&mut self) -> State {
        if let Some(at) = self.done {
            return State::Done(at);
        }
        match self.child.try_wait() {
            Ok(Some(status)) if !status.success() => {
                let last = self.last_line().map_or(String::new(), |line| format!(": {line}"));
                State::Failed(format!("the command ended with {status}{last}"))
            }
            Ok(None) if self.began.elapsed() < FOREGROUND => State::Runs,
            Ok(_) => State::Done(*self.done.insert(Instant::now())),
            Err(cause) => State::Failed(format!("the command can't be watched: {cause}")),
        }
    }

    fn last_line(&self) -> Option<String> {
        let mut said = Vec::new();
        File::open(&self.words).ok()?.take(64 * 1024).read_to_end(&mut said).ok()?;
        let said = String::from_utf8_lossy(&said);
        said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.chars().take(300).collect())
    }
}
