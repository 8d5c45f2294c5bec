//! Hooks: a command or an address that is told when the health of an upstream turns.
//!
//! When a turn is told is decided in [`relatch_core::health::turns`]; this looks, runs and posts. A hook has a queue and
//! a task of its own and every step of it a limit, so that one that hangs harms nobody: it is ended, and the journal
//! says so. What is told holds what `relatch status` shows and no secret.

use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use relatch_core::health::turns::{Turn, Turns};
use relatch_core::journal::{Entry, What};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::driver::Upstream;
use crate::keeper::{JournalSink, Keeper};
use crate::upstream::dial::{ConnRule, Dialer, Nearness, Target, Tls};
use crate::upstream::route::Route;

/// How often health is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Events that wait for a hook; more are not told, and the journal says so.
const QUEUE: usize = 64;
/// A command is ended after this.
const COMMAND_WITHIN: Duration = Duration::from_secs(10);
/// An address has so long to answer.
const POST_WITHIN: Duration = Duration::from_secs(5);
/// It is asked again after these pauses.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Where turns are told.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// A program with its arguments.
    pub command: Option<Vec<String>>,
    /// An address that takes JSON by POST.
    pub webhook: Option<Webhook>,
}

/// An address that may be told: https, or http on this machine.
#[derive(Clone, Debug)]
pub struct Webhook {
    target: Target,
}

/// What is told of the keeper itself.
#[derive(Clone, Debug)]
pub struct About {
    /// `stdio` or `serve`.
    pub kind: &'static str,
    /// The version of relatch.
    pub version: &'static str,
}

/// Why an address may not be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// It is no address.
    #[error("{0}")]
    Address(String),
    /// What is sent there could be read on the way.
    #[error("`{0}` is neither `https` nor on this machine")]
    Open(String),
}

impl Webhook {
    /// Reads an address.
    ///
    /// # Errors
    /// [`WebhookError`]; it shows no secret of the address.
    pub fn parse(text: &str) -> Result<Webhook, WebhookError> {
        let target = Target::parse(text).map_err(|fault| WebhookError::Address(fault.to_string()))?;
        if !target.is_tls() && target.nearness() != Nearness::Loopback {
            return Err(WebhookError::Open(place(&target)));
        }
        Ok(Webhook { target })
    }

    /// The same address, reached this way.
    #[must_use]
    pub fn by(self, route: Route) -> Webhook {
        Webhook { target: self.target.by(route) }
    }
}

/// Scheme and host: the path of a webhook is often its secret.
fn place(target: &Target) -> String {
    format!("{}://{}", target.url.scheme(), target.host_header().to_str().unwrap_or_default())
}

/// One turn, as it is told.
#[derive(Clone, Debug)]
struct Event {
    upstream: String,
    json: Value,
}

/// Hooks that are looked after.
#[derive(Debug)]
pub struct Running(JoinSet<()>);

impl Running {
    /// Tells nobody any more. A command that runs is over when this returns, with what it has started: a runtime that is
    /// just left may be gone with its process before it has dropped what would end them.
    pub async fn end(mut self) {
        self.0.shutdown().await;
    }
}

/// Looks after every upstream of a keeper from now on, if there is anybody to tell, until what it returns is ended or
/// dropped. Needs a running tokio runtime.
#[must_use]
pub fn start(keeper: &Arc<Keeper>, hooks: Hooks, about: About, tls: Tls) -> Running {
    let mut running = JoinSet::new();
    let journal = Arc::clone(&keeper.common.journal);
    let mut told = Vec::new();
    if let Some(command) = hooks.command.filter(|command| !command.is_empty()) {
        let (sender, coming) = mpsc::channel(QUEUE);
        let name = program(&command);
        told.push((name.clone(), sender));
        running.spawn(run_commands(command, name, coming, Arc::clone(&journal)));
    }
    if let Some(Webhook { target }) = hooks.webhook {
        let (sender, coming) = mpsc::channel(QUEUE);
        let name = place(&target);
        told.push((name.clone(), sender));
        running.spawn(post_all(target, tls, name, coming, Arc::clone(&journal)));
    }
    if !told.is_empty() {
        running.spawn(look(Arc::downgrade(keeper), told, about, journal));
    }
    Running(running)
}

async fn look(
    keeper: Weak<Keeper>,
    told: Vec<(String, mpsc::Sender<Event>)>,
    about: About,
    journal: JournalSink,
) {
    let mut turns: Vec<(Arc<Upstream>, Turns)> = Vec::new();
    while let Some(keeper) = keeper.upgrade() {
        // Upstreams come and go with the configuration.
        let all = keeper.all();
        turns.retain(|(known, _)| all.iter().any(|upstream| Arc::ptr_eq(upstream, known)));
        for upstream in all {
            if !turns.iter().any(|(known, _)| Arc::ptr_eq(&upstream, known)) {
                turns.push((upstream, Turns::default()));
            }
        }
        drop(keeper);
        for (upstream, turns) in &mut turns {
            let (now, glance) = upstream.glance();
            let Some(turn) = turns.see(now, glance) else { continue };
            let event = event(upstream, turn, &about);
            for (name, sender) in &told {
                if sender.try_send(event.clone()).is_err() {
                    failed(&journal, &event, name, format!("{QUEUE} events wait for it already"));
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn event(upstream: &Upstream, turn: Turn, about: &About) -> Event {
    let report = upstream.summary();
    let clock = upstream.clock();
    let (since, down_ms, outages) = match turn {
        Turn::Down { since } => (Some(since), None, None),
        Turn::Recovered { since, ms } => (Some(since), Some(ms), None),
        Turn::Flapping { outages } => (None, None, Some(outages)),
    };
    let json = json!({
        "schema": 1,
        "event": turn.as_str(),
        "upstream": &*upstream.name,
        "url": upstream.shown_url(),
        "at": Timestamp::now().to_string(),
        "health": report.state.as_str(),
        "reason": report.reason,
        "down_since": since.map(|since| clock.wall(since.0).to_string()),
        "down_ms": down_ms,
        "outages": outages,
        "keeper": { "pid": std::process::id(), "kind": about.kind, "version": about.version },
    });
    Event { upstream: upstream.name.to_string(), json }
}

fn failed(journal: &JournalSink, event: &Event, hook: &str, detail: String) {
    let entry =
        Entry { subject: Some(hook.to_owned()), detail: Some(detail), ..Entry::new(What::HookFailed) };
    journal(&event.upstream, Timestamp::now(), entry);
}

/// The program's name without its folder and arguments, which may be secret.
fn program(command: &[String]) -> String {
    command.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default().to_owned()
}

async fn run_commands(
    command: Vec<String>,
    name: String,
    mut coming: mpsc::Receiver<Event>,
    journal: JournalSink,
) {
    while let Some(event) = coming.recv().await {
        if let Err(detail) = run(&command, &event).await {
            failed(&journal, &event, &name, detail);
        }
    }
}

/// Runs the program to its end, or ends it.
async fn run(command: &[String], event: &Event) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove("RELATCH_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    // A group of its own, so that what it has started ends with it.
    #[cfg(unix)]
    command.process_group(0);
    for (name, value) in variables(&event.json) {
        command.env(name, value);
    }
    let mut child = command.spawn().map_err(|cause| format!("it can't be started: {cause}"))?;
    let group = Group::of(&child);
    let mut stdin = child.stdin.take();
    let text = format!("{}\n", event.json);
    let ended = tokio::time::timeout(COMMAND_WITHIN, async {
        if let Some(mut stdin) = stdin.take() {
            // One that does not read is no failure.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait().await
    })
    .await;
    match ended {
        Ok(ended) => {
            // What it has left behind on purpose is its own.
            group.lives_on();
            match ended {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(format!("it ended with {status}")),
                Err(cause) => Err(cause.to_string()),
            }
        }
        Err(_) => {
            drop(group);
            let _ = child.kill().await;
            Err(format!("it took longer than {} s and was ended", COMMAND_WITHIN.as_secs()))
        }
    }
}

/// A command with what it has started: all of it ends when nobody waits for it any more, by a time-out or because relatch
/// itself ends.
struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    #[cfg(unix)]
    fn of(child: &Child) -> Group {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Group { leader: pid.and_then(rustix::process::Pid::from_raw) }
    }

    #[cfg(not(unix))]
    fn of(_: &Child) -> Group {
        Group {}
    }

    fn lives_on(mut self) {
        #[cfg(unix)]
        {
            self.leader = None;
        }
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

/// `RELATCH_EVENT`, `RELATCH_UPSTREAM` and so on: every plain field of the event.
fn variables(json: &Value) -> Vec<(String, String)> {
    let fields = json.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| *name != "schema")
        .filter_map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.replace('\0', " "),
                Value::Number(number) => number.to_string(),
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
            };
            Some((format!("RELATCH_{}", name.to_ascii_uppercase()), value))
        })
        .collect()
}

async fn post_all(
    target: Target,
    tls: Tls,
    name: String,
    mut coming: mpsc::Receiver<Event>,
    journal: JournalSink,
) {
    let dialer = Dialer::new(target, tls);
    while let Some(event) = coming.recv().await {
        let mut pauses = PAUSES.iter();
        loop {
            let detail = match post(&dialer, &event).await {
                Ok(()) => break,
                Err(Refusal::Now(detail)) => detail,
                Err(Refusal::ForGood(detail)) => {
                    failed(&journal, &event, &name, detail);
                    break;
                }
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => {
                    failed(&journal, &event, &name, format!("{detail}, at try {}", PAUSES.len() + 1));
                    break;
                }
            }
        }
    }
}

/// Why an address was not told.
enum Refusal {
    /// Another try may do better.
    Now(String),
    ForGood(String),
}

async fn post(dialer: &Dialer, event: &Event) -> Result<(), Refusal> {
    let body = Bytes::from(event.json.to_string());
    let request = Request::builder()
        .method(Method::POST)
        .uri(dialer.target().path_and_query())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(CONTENT_LENGTH, body.len())
        .body(Full::new(body))
        .map_err(|fault| Refusal::ForGood(fault.to_string()))?;
    let sent = tokio::time::timeout(POST_WITHIN, dialer.send(request, ConnRule::Fresh)).await;
    let status = match sent {
        Ok(Ok(reply)) => reply.head.status,
        Ok(Err(broken)) => return Err(Refusal::Now(broken.to_string())),
        Err(_) => return Err(Refusal::Now(format!("no answer within {} s", POST_WITHIN.as_secs()))),
    };
    if status.is_success() {
        return Ok(());
    }
    let words = format!("it answered {}", status.as_u16());
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Refusal::Now(words)),
        _ if status.is_server_error() => Err(Refusal::Now(words)),
        _ if status.is_redirection() => Err(Refusal::ForGood(format!("{words}, and is not followed"))),
        _ => Err(Refusal::ForGood(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_goes_by_https_or_stays_on_this_machine() {
        for text in
            ["https://hooks.example/T0/s3cret", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]/"]
        {
            assert!(Webhook::parse(text).is_ok(), "{text}");
        }
        for text in ["", "hooks.example", "http://hooks.example/T0/s3cret?k=s3cret", "http://10.0.0.1/s3cret"]
        {
            let fault = Webhook::parse(text).unwrap_err();
            assert!(!fault.to_string().contains("s3cret"), "{fault}");
        }
    }

    #[test]
    fn the_plain_fields_of_an_event_are_variables() {
        let json = json!({"schema": 1, "event": "down", "down_ms": 7, "outages": null, "keeper": {"pid": 1}, "reason": "a\0b"});
        let mut variables = variables(&json);
        variables.sort();
        let expected = [("RELATCH_DOWN_MS", "7"), ("RELATCH_EVENT", "down"), ("RELATCH_REASON", "a b")];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_hook_is_named_without_what_may_be_secret() {
        let command = ["/home/me/bin/notify", "--key", "s3cret"].map(str::to_owned);
        assert_eq!(program(&command), "notify");
        let hook = Webhook::parse("https://hooks.example/T0/s3cret?k=s3cret").unwrap();
        assert_eq!(place(&hook.target), "https://hooks.example");
    }
}
