//! One process for all sessions of an upstream whose server keeps nothing per client (`shared = true`).
//!
//! It is told of one client, relatch, which promises nothing that a server could ask of a client: what it asks all the same
//! is refused, for nobody can say whom it is for. Requests travel under ids and progress tokens that are unique on its
//! pipes. What is heard of it goes where it belongs and nowhere else: answers and progress to who asked, changed resources
//! to who subscribed, changed lists to all; its log lines, which may be about any client, to none. It takes one process
//! until that has ended or a session wants another one; what is sent, and when, is decided in the core.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use relatch_core::{AttemptId, Gen, LatchId, policy};
use relatch_wire::failure::{METHOD_NOT_FOUND, result, rpc_error};
use relatch_wire::handshake::{
    cancelled_message, initialize_message, initialized_message, ping_message, request_message,
    without_capabilities,
};
use relatch_wire::{Envelope, Kind, RequestId, method, params};
use tokio::sync::{Notify, watch};

use super::child::{Child, Shown};
use super::command::Command;
use super::job::Job;
use super::pipe::{Commands, Ears, OPEN_WITHIN, Pipe, Unanswered, is_result};
use super::waiting::begun;
use crate::desk::Sifted;
use crate::driver::Upstream;
use crate::lock;

/// An upstream session of a latch.
pub(crate) type Key = (LatchId, Gen);

/// The process before this one, which may hold what only one can hold, gets this long to be gone.
const BEFORE_WITHIN: Duration = Duration::from_secs(6);
/// A process that is up is asked whether it answers before a new session is bound to it, and has so long: one that is busy
/// with a call of another client may take a while, and the client has 20 s.
const AWAKE_WITHIN: Duration = Duration::from_secs(5);
/// Processes that a session is led to before it is told that there is none.
const JOINS: usize = 3;
/// Requests of which it is known whose they are; of those that are never answered, the oldest are forgotten.
const ROUTES: usize = 10_000;
/// What a server offers that can't be brought to one client among several.
const NOT_SHARED: [&str; 2] = ["logging", "tasks"];

/// The process that new sessions get, and the one before it.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    now: Option<Arc<Start>>,
    before: Option<Arc<Child>>,
}

/// A process that comes up, is up, or failed to.
#[derive(Debug)]
struct Start {
    outcome: watch::Receiver<Option<Result<Arc<Pipe>, String>>>,
    /// Sessions that wait for it.
    waiting: Mutex<usize>,
    /// Rung when nobody wants it any more.
    unwanted: Arc<Notify>,
}

/// Who is at a shared process, and whose what is that travels on its pipes.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    number: i64,
    routes: HashMap<RequestId, Route>,
    /// Every session that is bound, and what it has subscribed to.
    sessions: BTreeMap<Key, BTreeSet<String>>,
    /// It takes nothing new: sessions go on to another process.
    retired: bool,
}

/// Whose request it is that travels under an id of the pipe.
#[derive(Clone, Debug)]
struct Route {
    /// It counts up from request to request.
    number: i64,
    key: Key,
    attempt: AttemptId,
    /// Its id and its progress token as its session knows them.
    id: RequestId,
    token: Option<RequestId>,
}

/// What becomes of a request.
pub(crate) enum Asked {
    /// It goes to the process, under this id.
    Forward(RequestId, Bytes),
    /// It is answered here.
    Answer(Bytes),
    /// The process takes nothing new: this session has to go on to another one.
    Over,
}

impl Clients {
    /// How a request of this session goes on.
    pub(crate) fn ask(&self, key: Key, job: &Job) -> Asked {
        let Some(id) = &job.id else { return Asked::Over };
        let Ok(envelope) = Envelope::read(&job.request.body) else { return Asked::Over };
        let mut inside = lock(&self.inside);
        if inside.retired || !inside.sessions.contains_key(&key) {
            return Asked::Over;
        }
        let raw = envelope.params(&job.request.body).unwrap_or_default();
        match envelope.method().unwrap_or_default() {
            // Its log reaches nobody, and a list of tasks would be that of all clients.
            name @ (method::SET_LEVEL | "tasks/list") => return Asked::Answer(refusal(id, name)),
            method::RESOURCES_SUBSCRIBE => {
                let uris = inside.sessions.entry(key).or_default();
                if let Some(uri) = params::uri(raw).filter(|_| uris.len() < policy::SUBSCRIPTIONS) {
                    uris.insert(uri);
                }
            }
            method::RESOURCES_UNSUBSCRIBE => {
                if let Some(uri) = params::uri(raw) {
                    inside.sessions.entry(key).or_default().remove(&uri);
                    if inside.sessions.values().any(|uris| uris.contains(&uri)) {
                        return Asked::Answer(result(id, b"{}"));
                    }
                }
            }
            _ => {}
        }
        let wire = inside.next();
        let token = params::progress_token_span(raw);
        let mut message = job.request.body.clone();
        if let Some((_, span)) = &token {
            message = envelope.with_params_value(&message, span.clone(), wire.raw());
        }
        // Where the id lies may be another place by now.
        let message = Envelope::read(&message).map(|envelope| envelope.with_id(&message, &wire));
        let Ok(message) = message else { return Asked::Over };
        let token = token.map(|(token, _)| token);
        if inside.routes.len() >= ROUTES {
            inside.forget_oldest();
        }
        let number = inside.number;
        inside
            .routes
            .insert(wire.clone(), Route { number, key, attempt: job.attempt, id: id.clone(), token });
        Asked::Forward(wire, message)
    }

    /// A message of a client's that expects no answer, as the process is to get it; none where it is not for it.
    pub(crate) fn note(&self, key: Key, message: &Bytes) -> Option<Bytes> {
        let envelope = Envelope::read(message).ok()?;
        let Kind::Notification { method } = &envelope.kind else { return None };
        match method.as_str() {
            // The handshake was relatch's own, and promised no roots; there is no request that progress could be about.
            method::INITIALIZED | method::ROOTS_CHANGED | method::PROGRESS => None,
            method::CANCELLED => {
                let (id, span) = params::cancelled_request_id(envelope.params(message)?)?;
                let inside = lock(&self.inside);
                let mut routes = inside.routes.iter();
                let (wire, _) = routes.find(|(_, route)| route.key == key && route.id == id)?;
                Some(envelope.with_params_value(message, span, wire.raw()))
            }
            _ => Some(message.clone()),
        }
    }

    /// A request is answered, or was never read. Whether nothing is left to wait for at a process that takes nothing new.
    pub(crate) fn answered(&self, wire: &RequestId) -> bool {
        let mut inside = lock(&self.inside);
        inside.routes.remove(wire);
        inside.is_done()
    }

    /// This session is bound to the process.
    fn enter(&self, key: Key) {
        lock(&self.inside).sessions.entry(key).or_default();
    }

    /// This session is over. What the process is to be told of that.
    pub(crate) fn leave(&self, key: Key) -> Vec<Bytes> {
        let mut inside = lock(&self.inside);
        let gone: Vec<RequestId> = inside
            .routes
            .iter()
            .filter(|(_, route)| route.key == key)
            .map(|(wire, _)| wire.clone())
            .collect();
        let mut told: Vec<Bytes> = Vec::new();
        for wire in gone {
            inside.routes.remove(&wire);
            told.push(cancelled_message(&wire, "The session that asked is over"));
        }
        for uri in inside.sessions.remove(&key).unwrap_or_default() {
            if inside.sessions.values().all(|uris| !uris.contains(&uri)) {
                let raw = serde_json::json!({ "uri": uri }).to_string();
                let wire = inside.next();
                told.push(request_message(&wire, method::RESOURCES_UNSUBSCRIBE, Some(raw.as_bytes())));
            }
        }
        told
    }

    /// It takes nothing new from now on. Whether it has nothing more to answer either.
    fn retire(&self) -> bool {
        let mut inside = lock(&self.inside);
        inside.retired = true;
        inside.is_done()
    }

    fn is_retired(&self) -> bool {
        lock(&self.inside).retired
    }

    /// Whose progress this is, under its own token.
    fn progress(&self, text: &Bytes, envelope: &Envelope) -> Option<(AttemptId, Bytes)> {
        let (token, span) = params::notified_progress_token(envelope.params(text)?)?;
        let inside = lock(&self.inside);
        let route = inside.routes.get(&token)?;
        Some((route.attempt, envelope.with_params_value(text, span, route.token.as_ref()?.raw())))
    }

    /// The sessions that are told of a change: of this resource, or of a list.
    fn told(&self, uri: Option<&str>) -> Vec<Key> {
        let inside = lock(&self.inside);
        let wants = |uris: &BTreeSet<String>| uri.is_none_or(|uri| uris.iter().any(|own| covers(own, uri)));
        inside.sessions.iter().filter(|(_, uris)| wants(uris)).map(|(key, _)| *key).collect()
    }
}

impl Inside {
    fn next(&mut self) -> RequestId {
        self.number += 1;
        RequestId::number(self.number)
    }

    /// One that was never answered, most likely: its client has given it up, or waits for its answer all the same.
    fn forget_oldest(&mut self) {
        let oldest = self.routes.iter().min_by_key(|(_, route)| route.number).map(|(wire, _)| wire.clone());
        if let Some(wire) = oldest {
            self.routes.remove(&wire);
        }
    }

    fn is_done(&self) -> bool {
        self.retired && self.routes.is_empty()
    }
}

/// Whether a subscription is to this resource, or to one that it is a part of (server/resources#subscriptions).
fn covers(subscribed: &str, uri: &str) -> bool {
    uri.strip_prefix(subscribed)
        .is_some_and(|rest| rest.is_empty() || subscribed.ends_with('/') || rest.starts_with(['/', '?', '#']))
}

fn refusal(id: &RequestId, method: &str) -> Bytes {
    let words = format!(
        "`{method}` is not there: the process of this server is shared by several clients (`shared = true` in \
         `relatch.toml`), and whose it is can't be told"
    );
    rpc_error(Some(id), METHOD_NOT_FOUND, &words, None)
}

/// What a shared process says that answers nothing.
pub(crate) fn heard(
    up: &Arc<Upstream>,
    clients: &Clients,
    text: Bytes,
    envelope: &Envelope,
) -> Option<Bytes> {
    let method = match &envelope.kind {
        Kind::Request { id, method } if method == method::PING => return Some(result(id, b"{}")),
        Kind::Request { id, method } => {
            tracing::warn!(upstream = %up.name, method, "a shared process has asked for what no client can be asked");
            return Some(refusal(id, method));
        }
        Kind::Notification { method } => method.as_str(),
        Kind::Result { .. } | Kind::Error { .. } => return None,
    };
    let told = match method {
        method::PROGRESS => {
            let (attempt, text) = clients.progress(&text, envelope)?;
            let envelope = Envelope::read(&text).ok()?;
            begun(up, attempt);
            let sifted = up.desk(|desk| desk.sift_of_attempt(attempt, text, &envelope));
            put(up, None, sifted);
            return None;
        }
        method::TOOLS_CHANGED | method::PROMPTS_CHANGED | method::RESOURCES_CHANGED => clients.told(None),
        method::RESOURCE_UPDATED => {
            let uri = params::uri(envelope.params(&text)?)?;
            clients.told(Some(&uri))
        }
        // A log line may be about any client, and so may be what is not known.
        _ => {
            tracing::debug!(upstream = %up.name, method, "what a shared process says to nobody in particular");
            return None;
        }
    };
    for (latch, generation) in told {
        if let Some(attempt) = up.desk(|desk| desk.host_of(latch, generation, &text, envelope)) {
            begun(up, attempt);
        }
        let sifted = up.desk(|desk| desk.sift_of_session(latch, generation, text.clone(), envelope));
        put(up, Some(latch), sifted);
    }
    None
}

/// A client that does not read holds up no other: what finds no room waits for its standing stream, and progress, which
/// is old by then, does not.
fn put(up: &Arc<Upstream>, waits: Option<LatchId>, sifted: Option<Sifted>) {
    match sifted {
        Some(Sifted::Exchange(sink, text)) => {
            if !sink.event_now(&text)
                && let Some(outbox) =
                    waits.and_then(|latch| up.desk(|d| Some(Arc::clone(d.latches.get_mut(&latch)?.outbox()))))
            {
                outbox.push(text);
            }
        }
        Some(Sifted::Standing(outbox, text)) => outbox.push(text),
        Some(Sifted::Answer(..) | Sifted::Malformed(_)) | None => {}
    }
}

/// A session's wish for the process, until it is bound or has given up.
struct Wish<'a> {
    commands: &'a Commands,
    start: Arc<Start>,
}

impl<'a> Wish<'a> {
    fn new(commands: &'a Commands, start: Arc<Start>) -> Wish<'a> {
        *lock(&start.waiting) += 1;
        Wish { commands, start }
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        let mut sharing = lock(&self.commands.sharing);
        *lock(&self.start.waiting) -= 1;
        sharing.end_unwanted(self.commands, &self.start);
    }
}

impl Pipe {
    /// It takes nothing new, and ends when it has answered what it was asked.
    fn retire(&self) {
        if self.clients().is_some_and(Clients::retire) {
            self.child.end();
        }
    }

    /// Whether it answers.
    async fn is_awake(&self, clients: &Clients) -> bool {
        let wire = lock(&clients.inside).next();
        let answer = tokio::time::timeout(AWAKE_WITHIN, self.put(&wire, None, &ping_message(&wire))).await;
        matches!(answer, Ok(Ok(_)))
    }
}

impl Sharing {
    /// The keeper ends: the process that is up, if one is. One that comes up ends when it is.
    pub(super) fn close(&mut self) -> Option<Arc<Pipe>> {
        let start = self.now.take()?;
        start.unwanted.notify_one();
        let outcome = start.outcome.borrow().clone();
        outcome?.ok()
    }

    /// Ends the present process if no session is bound to it and none waits for it.
    fn end_unwanted(&mut self, commands: &Commands, start: &Arc<Start>) {
        if *lock(&start.waiting) > 0 {
            return;
        }
        let pipe = match &*start.outcome.borrow() {
            Some(Ok(pipe)) => Some(Arc::clone(pipe)),
            Some(Err(_)) => return,
            None => None,
        };
        if pipe.as_ref().is_some_and(|pipe| commands.uses(pipe)) {
            return;
        }
        if self.now.as_ref().is_some_and(|now| Arc::ptr_eq(now, start)) {
            self.now = None;
        }
        start.unwanted.notify_one();
        if let Some(pipe) = pipe {
            self.before = Some(Arc::clone(&pipe.child));
            commands.end(pipe);
        }
    }
}

impl Commands {
    /// The process that this session is to be bound to, which is started where none is there. It is bound by `bind`, before
    /// the answer of the process is told.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) async fn join(
        self: &Commands,
        up: &Arc<Upstream>,
        job: &Job,
        bind: impl FnOnce(&Arc<Pipe>),
    ) -> Result<Arc<Pipe>, String> {
        for _ in 0..JOINS {
            let (wish, mut outcome) = {
                let mut sharing = lock(&self.sharing);
                let usable = sharing.now.as_ref().filter(|start| self.is_usable(start, job.latch)).cloned();
                let start = usable.unwrap_or_else(|| self.begin(up, &mut sharing, job));
                let outcome = start.outcome.clone();
                (Wish::new(self, start), outcome)
            };
            let was_up = outcome.borrow().is_some();
            let outcome = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => None,
            };
            let pipe =
                outcome.unwrap_or_else(|| Err("it was ended while it was being started".to_owned()))?;
            let Some(clients) = pipe.clients() else { return Ok(pipe) };
            // That it has answered once is no evidence that it does now.
            if was_up && !pipe.is_awake(clients).await {
                pipe.retire();
                continue;
            }
            if pipe.hello().is_some_and(|(_, opened)| opened) {
                clients.enter((job.latch, job.generation));
                bind(&pipe);
            }
            drop(wish);
            return Ok(pipe);
        }
        Err("every process of it falls silent as soon as it is up".to_owned())
    }

    /// A session has left this process.
    pub(super) fn left(&self, pipe: &Arc<Pipe>, key: Key) {
        let Some(clients) = pipe.clients() else { return };
        let told = clients.leave(key);
        if lock(&clients.inside).is_done() {
            // The last that it owed an answer to.
            pipe.child.end();
        } else if !told.is_empty() {
            let pipe = Arc::clone(pipe);
            tokio::spawn(async move {
                for message in told {
                    let _ = pipe.write(&message).await;
                }
            });
        }
        let mut sharing = lock(&self.sharing);
        let now = sharing
            .now
            .clone()
            .filter(|start| matches!(&*start.outcome.borrow(), Some(Ok(p)) if Arc::ptr_eq(p, pipe)));
        match now {
            Some(start) => sharing.end_unwanted(self, &start),
            None if !self.uses(pipe) => self.end(Arc::clone(pipe)),
            None => {}
        }
    }

    /// A session that is bound to a process and wants one again has lost faith in it.
    fn is_usable(&self, start: &Start, latch: LatchId) -> bool {
        match &*start.outcome.borrow() {
            None => true,
            Some(Err(_)) => false,
            Some(Ok(pipe)) => {
                let retired = pipe.clients().is_some_and(Clients::is_retired);
                !retired
                    && pipe.is_alive()
                    && pipe.hello().is_some_and(|(_, opened)| opened)
                    && !self.binds(pipe, latch)
            }
        }
    }

    fn begin(&self, up: &Arc<Upstream>, sharing: &mut Sharing, job: &Job) -> Arc<Start> {
        let old = sharing.now.take().and_then(|old| old.outcome.borrow().clone()?.ok());
        if let Some(old) = &old {
            sharing.before = Some(Arc::clone(&old.child));
        }
        let (tell, outcome) = watch::channel(None);
        let unwanted = Arc::new(Notify::new());
        let revision = Envelope::read(&job.request.body)
            .ok()
            .and_then(|envelope| params::protocol_version(envelope.params(&job.request.body)?))
            .map_or_else(
                || relatch_wire::era::Revision::V2025_11_25.as_str().to_owned(),
                |(revision, _)| revision,
            );
        let (weak, command, before) = (Arc::downgrade(up), self.command().clone(), sharing.before.take());
        let (stopped, ended, shown) = (Arc::clone(&unwanted), Arc::clone(&self.ended), self.shown.clone());
        tokio::spawn(async move {
            if let Some(before) = before.filter(|before| !before.is_kept()) {
                let _ = tokio::time::timeout(BEFORE_WITHIN, before.over()).await;
            }
            let started = tokio::select! {
                started = start(&weak, &command, &revision, &shown) => started,
                () = stopped.notified() => Err("nobody waits for it any more".to_owned()),
            };
            // Until another one is up, its sessions go on with it.
            let is_up = |pipe: &Arc<Pipe>| pipe.hello().is_some_and(|(_, opened)| opened);
            if let (true, Some(old)) = (started.as_ref().is_ok_and(is_up), &old) {
                old.retire();
            }
            if let Ok(pipe) = &started {
                tokio::spawn(watch_over(Arc::clone(pipe), stopped, ended));
            }
            tell.send_replace(Some(started));
        });
        let start = Arc::new(Start { outcome, waiting: Mutex::default(), unwanted });
        sharing.now = Some(Arc::clone(&start));
        start
    }
}

/// Starts the process and opens its one session.
async fn start(
    up: &Weak<Upstream>,
    command: &Command,
    revision: &str,
    shown: &Shown,
) -> Result<Arc<Pipe>, String> {
    let up = up.upgrade().ok_or("the keeper ends")?;
    let pipe = Arc::new(Pipe::start(&up, command, Ears::Shared(Arc::default()), shown)?);
    drop(up);
    let id = RequestId::number(0);
    let hello = serde_json::json!({
        "protocolVersion": revision,
        "capabilities": {},
        "clientInfo": { "name": "relatch", "version": env!("CARGO_PKG_VERSION") },
    });
    let message = initialize_message(&id, hello.to_string().as_bytes(), None);
    let answer = tokio::time::timeout(OPEN_WITHIN, pipe.put(&id, None, &message)).await;
    let text = match answer {
        Ok(Ok(text)) => text,
        Ok(Err(Unanswered::Unwritten(words) | Unanswered::Cut(words))) => return Err(pipe.with_odd(words)),
        Err(_) => return Err(pipe.silent(command, shown)),
    };
    let opened = is_result(&text);
    if opened {
        if pipe.write(&initialized_message()).await.is_none() {
            return Err(pipe.with_odd(pipe.end().await));
        }
        // From here on it hears of clients.
        pipe.child.be_discreet();
        pipe.child.has_opened(shown);
    }
    pipe.greet(without_capabilities(&text, &NOT_SHARED), opened);
    Ok(pipe)
}

/// When it ends by itself, the core has to look. One that nobody wants any more is ended, also if that was said while it
/// came up.
async fn watch_over(pipe: Arc<Pipe>, unwanted: Arc<Notify>, ended: Arc<Notify>) {
    tokio::select! {
        _ = pipe.child.over() => {}
        () = unwanted.notified() => pipe.child.end(),
    }
    pipe.child.over().await;
    if !*pipe.child.ending().borrow() {
        ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_covers_its_resource_and_its_parts() {
        for (subscribed, uri, covered) in [
            ("file:///a", "file:///a", true),
            ("file:///a", "file:///a/b", true),
            ("file:///a/", "file:///a/b", true),
            ("file:///a", "file:///ab", false),
            ("file:///a/b", "file:///a", false),
        ] {
            assert_eq!(covers(subscribed, uri), covered, "{subscribed} {uri}");
        }
    }
}
