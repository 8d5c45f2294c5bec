//! Attempts over the pipes of a command: one process is one session, or several where it is shared, and a session lives as
//! long as its process.
//!
//! A request to a session whose process has ended is told to the core as refused by a server that does not know it: that
//! it never ran is as certain. Messages of the server that answer nothing are sorted by the desk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use relatch_core::effect::What;
use relatch_core::input::{Begun, Cut, CutKind, Input};
use relatch_core::{AttemptId, Gen, LatchId, policy};
use relatch_wire::envelope::{Body, read_body};
use relatch_wire::headers::SESSION_ID;
use relatch_wire::line::{LineReader, one_line};
use relatch_wire::{Envelope, Kind, RequestId};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::attempt::{self, Whole, garbled, gone};
use super::child::{self, Child, Pipes, Shown};
use super::command::Command;
use super::job::Job;
use super::shared::{self, Clients, Key, Sharing};
use super::waiting::Waiting;
use crate::desk::Kept;
use crate::driver::Upstream;
use crate::lock;

/// Lines that wait for a command that does not read, before whoever writes waits too.
const LINES: usize = 16;
/// More than a pipe can hold: what an exited process has said is in so many bytes, and the rest is not its own.
const LEFT: usize = 2 * 1024 * 1024;
/// A process that takes or says nothing any more gets this long to end by itself.
const END_WITHIN: Duration = Duration::from_secs(2);
/// And this long once it is told to, until which all the ways to end one have been gone.
const OVER_WITHIN: Duration = Duration::from_secs(7);
/// One that is asked for a session gets this long to answer: a little less than the core gives it, which does not know
/// what it has said meanwhile.
pub(super) const OPEN_WITHIN: Duration = Duration::from_millis(policy::HANDSHAKE_STEP_MS - 250);
/// Words to a shared process that wait because it does not read; more are let go.
const REPLIES: usize = 64;

/// A server that is a command, and the processes that run of it.
#[derive(Debug)]
pub(crate) struct Commands {
    command: Command,
    running: Mutex<BTreeMap<Key, Arc<Pipe>>>,
    /// Of one that all sessions share; locked before `running`.
    pub(super) sharing: Mutex<Sharing>,
    /// The keeper ends: nothing is started any more.
    closed: AtomicBool,
    /// Processes that were told to end.
    ending: Mutex<Vec<Arc<Pipe>>>,
    /// Whose stderr is shown.
    pub(super) shown: Shown,
    /// Rung whenever a process that held a session has ended by itself.
    pub(crate) ended: Arc<Notify>,
}

/// One process and what is asked of it.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) child: Arc<Child>,
    lines: mpsc::Sender<Line>,
    ends: Arc<Ends>,
    ears: Ears,
    /// What it said to relatch's own `initialize`, where it is shared, and whether that has opened a session.
    hello: OnceLock<(Bytes, bool)>,
}

/// Who listens to a process.
#[derive(Clone, Debug)]
pub(super) enum Ears {
    /// The one session that it is.
    Own(Key),
    /// Every session that shares it.
    Shared(Arc<Clients>),
}

/// What is known of the two ends of a process.
#[derive(Debug)]
struct Ends {
    /// Who waits for what the process says.
    waiting: Waiting,
    /// What stood on stdout and was no message.
    odd: Mutex<Option<String>>,
    /// How much of what was written the process had read when it exited, where that is known.
    read_to: Mutex<Option<u64>>,
}

/// A message to be written.
#[derive(Debug)]
struct Line {
    message: Bytes,
    /// Told where it ends in all that was written, once all of it was.
    written: oneshot::Sender<u64>,
}

impl Commands {
    pub(crate) fn new(command: Command) -> Commands {
        Commands {
            command,
            running: Mutex::default(),
            sharing: Mutex::default(),
            closed: AtomicBool::new(false),
            ending: Mutex::default(),
            shown: Shown::default(),
            ended: Arc::default(),
        }
    }

    pub(crate) fn command(&self) -> &Command {
        &self.command
    }

    /// How many processes run.
    pub(crate) fn running(&self) -> usize {
        let mut pipes: Vec<*const Pipe> = lock(&self.running).values().map(Arc::as_ptr).collect();
        pipes.sort_unstable();
        pipes.dedup();
        pipes.len()
    }

    /// What the process that is shown has said last on stderr.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.shown.lines()
    }

    /// A session is over: its process ends, unless others share it.
    pub(crate) fn forget(&self, latch: LatchId, generation: Gen) {
        let key = (latch, generation);
        let Some(pipe) = lock(&self.running).remove(&key) else { return };
        match &pipe.ears {
            Ears::Own(_) => self.end(pipe),
            Ears::Shared(_) => self.left(&pipe, key),
        }
    }

    /// Has a process end.
    pub(super) fn end(&self, pipe: Arc<Pipe>) {
        pipe.child.end();
        let mut ending = lock(&self.ending);
        ending.retain(|pipe| pipe.child.last_words().is_none());
        ending.push(Arc::clone(&pipe));
        // Held until it has ended by itself: whoever lets go of a child kills it.
        tokio::spawn(async move { pipe.child.over().await });
    }

    /// Has the processes of some sessions end, whatever runs in them; a shared one when all that share it are among them.
    pub(crate) fn end_some(&self, which: impl Fn(Key) -> bool) {
        let running: Vec<(Key, Arc<Pipe>)> =
            lock(&self.running).iter().map(|(key, pipe)| (*key, Arc::clone(pipe))).collect();
        for (_, pipe) in &running {
            let mut sharing = running.iter().filter(|(_, other)| Arc::ptr_eq(other, pipe));
            if sharing.all(|(key, _)| which(*key)) {
                pipe.child.end();
            }
        }
    }

    /// Waits for the end of every process that was told to.
    pub(crate) async fn ended_all(&self) {
        let running: Vec<Arc<Pipe>> = lock(&self.running).values().cloned().collect();
        for pipe in running.iter().filter(|pipe| *pipe.child.ending().borrow()) {
            pipe.child.over().await;
        }
    }

    /// Has every process end, and waits for that.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let mut all: Vec<_> = std::mem::take(&mut *lock(&self.running)).into_values().collect();
        all.extend(lock(&self.sharing).close());
        for pipe in &all {
            pipe.child.end();
        }
        all.append(&mut lock(&self.ending));
        let over = async {
            for pipe in &all {
                pipe.child.over().await;
            }
        };
        // What can't be ended is not waited for.
        let _ = tokio::time::timeout(OVER_WITHIN, over).await;
    }

    /// Whether a session is bound to this process.
    pub(super) fn uses(&self, pipe: &Arc<Pipe>) -> bool {
        lock(&self.running).values().any(|other| Arc::ptr_eq(other, pipe))
    }

    /// Whether a session of this latch is.
    pub(super) fn binds(&self, pipe: &Arc<Pipe>, latch: LatchId) -> bool {
        lock(&self.running).iter().any(|(key, other)| key.0 == latch && Arc::ptr_eq(other, pipe))
    }

    fn get(&self, latch: LatchId, generation: Gen) -> Option<Arc<Pipe>> {
        lock(&self.running).get(&(latch, generation)).cloned()
    }
}

/// One attempt.
pub(crate) async fn run(up: Arc<Upstream>, commands: &Commands, job: Job) {
    let (attempt, latch, generation) = (job.attempt, job.latch, job.generation);
    if let What::Initialize { .. } = job.what {
        return open(&up, commands, &job).await;
    }
    let pipe = match commands.get(latch, generation) {
        Some(pipe) if pipe.child.last_words().is_none() => pipe,
        Some(pipe) => return gone(&up, attempt, pipe.child.last_words().unwrap_or_default()),
        None => return gone(&up, attempt, "the process of this session has ended".to_owned()),
    };
    match &job.what {
        What::Initialize { .. } => {}
        What::Note(_) | What::Initialized => {
            let message = match &pipe.ears {
                Ears::Own(_) => Some(job.request.body.clone()),
                Ears::Shared(clients) => clients.note((latch, generation), &job.request.body),
            };
            let taken = match message {
                Some(message) => pipe.write(&message).await.is_some(),
                None => true,
            };
            if taken {
                attempt::accept(&up, attempt);
                up.answered(attempt, Kept::Answer(Bytes::new(), false), None);
            } else {
                gone(&up, attempt, pipe.end().await);
            }
        }
        What::Exchange { .. } | What::Ping | What::SetLevel(_) | What::Subscribe(_) | What::List { .. } => {
            match pipe.ask(&up, &job).await {
                Ok(text) => {
                    attempt::accept(&up, attempt);
                    let sse = up.desk(|desk| desk.attempts.get(&attempt).is_some_and(|a| a.flow.is_some()));
                    attempt::deliver(&up, &job, &HeaderMap::new(), Whole::read(text, sse));
                }
                Err(Unanswered::Unwritten(words)) => gone(&up, attempt, words),
                Err(Unanswered::Cut(words)) => cut(&up, attempt, true, words),
            }
        }
        What::Stream => {
            attempt::accept(&up, attempt);
            up.fact_after(
                |desk| desk.attempts.contains_key(&attempt),
                Input::Begun { attempt, begun: Begun::Stream },
            );
            let words = pipe.child.over().await;
            cut(&up, attempt, true, words);
        }
        // Nothing on a pipe is numbered.
        What::Resume { .. } => {
            up.finish(
                attempt,
                None,
                Input::Cut { attempt, cut: garbled("a pipe can't be resumed".to_owned()) },
            );
        }
        What::Delete => {
            commands.forget(latch, generation);
            up.answered(attempt, Kept::Answer(Bytes::new(), false), None);
        }
    }
}

/// Opens a session: with a process of its own, or at the one that all share.
async fn open(up: &Arc<Upstream>, commands: &Commands, job: &Job) {
    let (attempt, key) = (job.attempt, (job.latch, job.generation));
    let ends = || commands.closed.load(Ordering::SeqCst);
    let opened = if ends() {
        Err("the keeper ends".to_owned())
    } else if commands.command.shared {
        let bind = |pipe: &Arc<Pipe>| drop(lock(&commands.running).insert(key, Arc::clone(pipe)));
        let joined = commands.join(up, job, bind).await;
        joined.map(|pipe| {
            pipe.hello().map_or_else(Bytes::new, |(text, _)| as_client_knows(up, job, text.clone()))
        })
    } else {
        open_own(up, commands, job).await
    };
    match opened {
        Ok(text) => {
            attempt::accept(up, attempt);
            let mut head = HeaderMap::new();
            let name = format!("process-{}", key.1.0);
            if let Ok(id) = HeaderValue::from_str(&name) {
                head.insert(SESSION_ID, id);
            }
            attempt::deliver(up, job, &head, Whole::read(text, false));
            // One whose answer was no use, or whose attempt was aborted meanwhile, has opened nothing.
            if ends() || !up.desk(|desk| desk.has_session(job.latch, job.generation)) {
                commands.forget(job.latch, job.generation);
            }
        }
        // That it began to read says nothing of what it did: a session that was not opened has run nothing.
        Err(words) => cut(up, attempt, false, words),
    }
}

/// Starts a process and opens its session.
async fn open_own(up: &Arc<Upstream>, commands: &Commands, job: &Job) -> Result<Bytes, String> {
    let key = (job.latch, job.generation);
    let pipe = Arc::new(Pipe::start(up, &commands.command, Ears::Own(key), &commands.shown)?);
    let text = match tokio::time::timeout(OPEN_WITHIN, pipe.ask(up, job)).await {
        Ok(Ok(text)) => text,
        Ok(Err(Unanswered::Unwritten(words) | Unanswered::Cut(words))) => return Err(pipe.with_odd(words)),
        Err(_) => return Err(pipe.silent(&commands.command, &commands.shown)),
    };
    if is_result(&text) {
        pipe.child.has_opened(&commands.shown);
        // Before the core hears of it, which sends at once.
        lock(&commands.running).insert(key, Arc::clone(&pipe));
        tokio::spawn(watch_over(Arc::downgrade(up), Arc::clone(&pipe), key, Arc::clone(&commands.ended)));
    }
    Ok(text)
}

pub(super) fn is_result(text: &Bytes) -> bool {
    matches!(Envelope::read(text).map(|envelope| envelope.kind), Ok(Kind::Result { .. }))
}

/// A process that ends takes what it has asked of its client with it; when it ends by itself, the core has to look.
async fn watch_over(up: Weak<Upstream>, pipe: Arc<Pipe>, key: Key, ended: Arc<Notify>) {
    pipe.child.over().await;
    let Some(up) = up.upgrade() else { return };
    up.desk(|desk| desk.withdraw_session(key.0, key.1));
    if !*pipe.child.ending().borrow() {
        ended.notify_one();
    }
}

fn cut(up: &Arc<Upstream>, attempt: AttemptId, wrote: bool, cause: String) {
    let cut = Cut { wrote, kind: CutKind::Connection, cause, resumable: false, retry: None };
    up.finish(attempt, None, Input::Cut { attempt, cut });
}

/// Why a request has no answer.
pub(super) enum Unanswered {
    /// Not all of it was written, or not all of it was read: it can't have run.
    Unwritten(String),
    /// The process ended with it.
    Cut(String),
}

impl Pipe {
    pub(super) fn start(
        up: &Arc<Upstream>,
        command: &Command,
        ears: Ears,
        shown: &Shown,
    ) -> Result<Pipe, String> {
        let ends =
            Arc::new(Ends { waiting: Waiting::new(), odd: Mutex::default(), read_to: Mutex::default() });
        let (lines, to_write) = mpsc::channel(LINES);
        let (weak, answers) = (Arc::downgrade(up), Arc::clone(&ends));
        let (heard_by, replies) = (ears.clone(), lines.clone());
        let tap = up.common.tap.get().cloned();
        let looks_on = tap.clone();
        let said = move |line: &str| {
            if let Some(tap) = &looks_on {
                tap.said(line);
            }
        };
        let child = Child::start(command, shown, said, |Pipes { input, output }, child| {
            let writing = write(input, to_write, child.ending(), child.exited(), Arc::clone(&answers));
            let room = Arc::new(Semaphore::new(REPLIES));
            let hearing =
                Hearing { up: weak, ears: heard_by, ends: answers, replies, room, end: child.ender() };
            let reading = read(output, child.exited(), hearing);
            async move {
                tokio::join!(writing, reading);
            }
        })?;
        if let Some(tap) = tap {
            tap.started(&child);
        }
        Ok(Pipe { child, lines, ends, ears, hello: OnceLock::new() })
    }

    /// Who shares it, where it is shared.
    pub(super) fn clients(&self) -> Option<&Clients> {
        match &self.ears {
            Ears::Own(_) => None,
            Ears::Shared(clients) => Some(clients),
        }
    }

    /// Its answer to relatch's own `initialize`, and whether that has opened a session.
    pub(super) fn hello(&self) -> Option<(&Bytes, bool)> {
        self.hello.get().map(|(text, opened)| (text, *opened))
    }

    pub(super) fn greet(&self, text: Bytes, opened: bool) {
        // It is said once.
        let _ = self.hello.set((text, opened));
    }

    /// Whether it takes requests and its answers are read.
    pub(super) fn is_alive(&self) -> bool {
        self.child.is_kept() && self.ends.waiting.is_open()
    }

    /// Waits for the end of a process that takes nothing, or says nothing, any more, and brings it about if it does not
    /// come by itself. How it was.
    pub(super) async fn end(&self) -> String {
        if let Ok(words) = tokio::time::timeout(END_WITHIN, self.child.over()).await {
            return words;
        }
        self.child.end();
        let over = tokio::time::timeout(OVER_WITHIN, self.child.over()).await;
        over.unwrap_or_else(|_| "its process can't be ended".to_owned())
    }

    /// These words, and what else it has said on stdout that was no message.
    pub(super) fn with_odd(&self, words: String) -> String {
        let odd = lock(&self.ends.odd).clone();
        let odd = odd
            .map_or(String::new(), |line| format!("; on stdout it had said `{line}`, which is no message"));
        format!("{words}{odd}")
    }

    /// That it runs and says nothing of use.
    pub(super) fn silent(&self, command: &Command, shown: &Shown) -> String {
        self.child.has_failed(shown);
        let words = format!(
            "`{}` runs and does not answer `initialize` within {} s{}",
            command.short(),
            policy::HANDSHAKE_STEP_MS / 1_000,
            self.child.said()
        );
        self.with_odd(words)
    }

    /// Where it ends in all that was written; none when not all of it was.
    pub(super) async fn write(&self, message: &Bytes) -> Option<u64> {
        let (written, wrote) = oneshot::channel();
        self.lines.send(Line { message: one_line(message), written }).await.ok()?;
        // Who writes is gone with the process.
        wrote.await.ok()
    }

    /// Asks a request of the process and waits for its answer, which comes under the client's id.
    async fn ask(&self, up: &Arc<Upstream>, job: &Job) -> Result<Bytes, Unanswered> {
        let Some(id) = &job.id else {
            return Err(Unanswered::Unwritten("the request has no id".to_owned()));
        };
        let clients = match &self.ears {
            Ears::Own(_) => return self.put(id, Some(job.attempt), &job.request.body).await,
            Ears::Shared(clients) => clients,
        };
        match clients.ask((job.latch, job.generation), job) {
            shared::Asked::Forward(wire, message) => {
                let answer = self.put(&wire, Some(job.attempt), &message).await;
                if answer.is_err() {
                    clients.answered(&wire);
                }
                answer
            }
            shared::Asked::Answer(text) => Ok(as_client_knows(up, job, text)),
            shared::Asked::Over => {
                Err(Unanswered::Unwritten("another process takes the place of this one".to_owned()))
            }
        }
    }

    /// Writes a request that travels under this id and waits for its answer.
    pub(super) async fn put(
        &self,
        id: &RequestId,
        attempt: Option<AttemptId>,
        message: &Bytes,
    ) -> Result<Bytes, Unanswered> {
        // An attempt that is aborted waits no more.
        let Some((_asked, answer)) = self.ends.waiting.ask(id.clone(), attempt) else {
            // Nobody would read the answer.
            return Err(Unanswered::Unwritten(self.end().await));
        };
        let Some(end) = self.write(message).await else {
            return Err(Unanswered::Unwritten(self.end().await));
        };
        // It comes, or its sender goes with the output of the process.
        if let Ok(text) = answer.await {
            return Ok(text);
        }
        let words = self.end().await;
        let read_to = *lock(&self.ends.read_to);
        Err(if read_to.is_some_and(|read| read < end) {
            Unanswered::Unwritten(words)
        } else {
            Unanswered::Cut(words)
        })
    }
}

/// An answer under the id that the client has given its request.
fn as_client_knows(up: &Upstream, job: &Job, text: Bytes) -> Bytes {
    let known = up.desk(|desk| desk.attempts.get(&job.attempt).and_then(|attempt| attempt.client_id.clone()));
    match (known.or_else(|| job.id.clone()), Envelope::read(&text)) {
        (Some(id), Ok(envelope)) => envelope.with_id(&text, &id),
        (Some(_) | None, Ok(_) | Err(_)) => text,
    }
}

/// Writes whole lines in the order in which they come, until the process has exited or is to end. Its end closes the
/// process' input.
async fn write(
    mut input: ChildStdin,
    mut lines: mpsc::Receiver<Line>,
    mut ending: watch::Receiver<bool>,
    mut exited: watch::Receiver<bool>,
    ends: Arc<Ends>,
) {
    let mut total = 0;
    let work = async {
        while let Some(Line { message, written }) = lines.recv().await {
            let mut written = Some(written);
            for part in [&message[..], b"\n"] {
                let mut rest = part;
                while !rest.is_empty() {
                    match input.write(rest).await {
                        Ok(wrote) if wrote > 0 => {
                            total += wrote as u64;
                            rest = &rest[wrote..];
                        }
                        // Nobody reads any more.
                        Ok(_) | Err(_) => return,
                    }
                }
                // Some take a last line without its end for one, too. An attempt that was aborted does not care.
                if let Some(written) = written.take() {
                    let _ = written.send(total);
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = ending.wait_for(|told| *told) => return,
        _ = exited.wait_for(|exited| *exited) => {}
    }
    if let Some(unread) = unread(&input) {
        *lock(&ends.read_to) = Some(total.saturating_sub(unread));
    }
}

/// How many bytes of a pipe nobody will ever read: what is in it when its last reader is gone.
fn unread(input: &ChildStdin) -> Option<u64> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut state = [PollFd::new(input, PollFlags::OUT)];
    poll(&mut state, Some(&Timespec::default())).ok()?;
    let alone = state[0].revents().contains(PollFlags::ERR);
    alone.then(|| rustix::io::ioctl_fionread(input).ok()).flatten()
}

/// What is needed to make sense of what a process says.
struct Hearing {
    up: Weak<Upstream>,
    ears: Ears,
    ends: Arc<Ends>,
    /// Where what is to be said to it goes, and room for what it does not take at once.
    replies: mpsc::Sender<Line>,
    room: Arc<Semaphore>,
    end: watch::Sender<bool>,
}

/// Reads what a process says until its output ends: answers go to who waits for them, the rest is sorted by the desk.
async fn read(mut output: ChildStdout, mut exited: watch::Receiver<bool>, hearing: Hearing) {
    let mut reader = LineReader::new();
    let mut buffer = BytesMut::zeroed(64 * 1024);
    let mut lines = Vec::new();
    let mut left = LEFT;
    loop {
        let over = async {
            let _ = exited.wait_for(|exited| *exited).await;
        };
        let next = tokio::select! {
            next = child::next(&mut output, &mut buffer) => next,
            // Who was started by it and has left its group may hold its stdout for ever.
            () = over => {
                let next = tokio::time::timeout(child::READ_WITHIN, child::next(&mut output, &mut buffer)).await;
                let next = next.ok().flatten().filter(|_| left > 0);
                left = left.saturating_sub(next.unwrap_or_default());
                next
            }
        };
        match next {
            Some(read) => reader.feed(&buffer[..read], &mut lines),
            None => break,
        }
        for line in lines.drain(..) {
            match line {
                Ok(line) => hearing.said(line).await,
                Err(fault) => *lock(&hearing.ends.odd) = Some(fault.to_string()),
            }
        }
    }
    // A last line without an end is half a message.
    hearing.ends.waiting.close();
}

impl Hearing {
    /// One line, which is a message or, on old revisions, a batch of them.
    async fn said(&self, line: Bytes) {
        let taken = match &self.ears {
            Ears::Own(key) => self.ends.waiting.said(&self.up, *key, line.clone()).await,
            Ears::Shared(clients) => read_body(&line).map(|body| match body {
                Body::One(envelope) => self.one(clients, line.clone(), &envelope),
                Body::Batch(batch) => {
                    for (span, envelope) in batch {
                        self.one(clients, line.slice(span), &envelope);
                    }
                }
            }),
        };
        if taken.is_err() {
            let shown = child::plain(&line);
            tracing::debug!(stdout = %shown, "a line that is no message");
            *lock(&self.ends.odd) = Some(shown);
        }
    }

    /// What a shared process says.
    fn one(&self, clients: &Clients, text: Bytes, envelope: &Envelope) {
        match &envelope.kind {
            Kind::Result { id } | Kind::Error { id: Some(id), .. } => {
                if clients.answered(id) {
                    // Its sessions are at another process by now, or will be.
                    self.end.send_replace(true);
                }
                self.ends.waiting.answer(&self.up, id, text, envelope);
            }
            // Nobody can say whose it is.
            Kind::Error { id: None, .. } => {}
            Kind::Request { .. } | Kind::Notification { .. } => {
                if let Some(up) = self.up.upgrade()
                    && let Some(reply) = shared::heard(&up, clients, text, envelope)
                {
                    self.reply(reply);
                }
            }
        }
    }

    /// Says something to the process without waiting for it to read: it may be waiting to be read itself.
    fn reply(&self, message: Bytes) {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            tracing::warn!("a process that does not read goes without an answer");
            return;
        };
        let replies = self.replies.clone();
        tokio::spawn(async move {
            let (written, _) = oneshot::channel();
            // A process that has ended needs none.
            let _ = replies.send(Line { message, written }).await;
            drop(permit);
        });
    }
}
