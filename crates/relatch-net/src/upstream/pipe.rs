//! Attempts over the pipes of a command: one process is one session, and a session lives as long as its process.
//!
//! A request to a session whose process has ended is told to the core as refused by a server that does not know it: that
//! it never ran is as certain. Messages of the server that answer nothing are sorted by the desk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use relatch_core::effect::What;
use relatch_core::input::{Begun, Cut, CutKind, Input};
use relatch_core::{AttemptId, Gen, LatchId};
use relatch_wire::headers::SESSION_ID;
use relatch_wire::line::{LineReader, one_line};
use relatch_wire::{Envelope, Kind};
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::attempt::{self, garbled, gone};
use super::child::{self, Child, Pipes};
use super::command::Command;
use super::job::Job;
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

/// A server that is a command, and the processes that run of it.
#[derive(Debug)]
pub(crate) struct Commands {
    command: Command,
    running: Mutex<BTreeMap<(LatchId, Gen), Arc<Pipe>>>,
    /// Rung whenever a process that held a session has ended by itself.
    pub(crate) ended: Arc<Notify>,
}

/// One process and what is asked of it.
#[derive(Debug)]
struct Pipe {
    child: Arc<Child>,
    lines: mpsc::Sender<Line>,
    ends: Arc<Ends>,
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
        Commands { command, running: Mutex::default(), ended: Arc::default() }
    }

    pub(crate) fn command(&self) -> &Command {
        &self.command
    }

    /// How many processes run.
    pub(crate) fn running(&self) -> usize {
        lock(&self.running).len()
    }

    /// A session is over: its process ends.
    pub(crate) fn forget(&self, latch: LatchId, generation: Gen) {
        if let Some(pipe) = lock(&self.running).remove(&(latch, generation)) {
            pipe.child.end();
            // Held until it has ended by itself: whoever lets go of a child kills it.
            tokio::spawn(async move { pipe.child.over().await });
        }
    }

    /// Has the processes of some sessions end, whatever runs in them.
    pub(crate) fn end_some(&self, which: impl Fn((LatchId, Gen)) -> bool) {
        let running: Vec<((LatchId, Gen), Arc<Pipe>)> =
            lock(&self.running).iter().map(|(key, pipe)| (*key, Arc::clone(pipe))).collect();
        for (key, pipe) in running {
            if which(key) {
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
        let all = std::mem::take(&mut *lock(&self.running));
        for pipe in all.values() {
            pipe.child.end();
        }
        for pipe in all.values() {
            pipe.child.over().await;
        }
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
            if pipe.write(&job.message).await.is_some() {
                attempt::accept(&up, attempt);
                up.answered(attempt, Kept::Answer(Bytes::new(), false));
            } else {
                gone(&up, attempt, pipe.end().await);
            }
        }
        What::Exchange { .. } | What::Ping | What::SetLevel(_) | What::Subscribe(_) | What::List { .. } => {
            match pipe.ask(&job).await {
                Ok(text) => {
                    attempt::accept(&up, attempt);
                    let sse = up.desk(|desk| desk.attempts.get(&attempt).is_some_and(|a| a.flow.is_some()));
                    attempt::deliver(&up, &job, &HeaderMap::new(), text, sse);
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
            up.answered(attempt, Kept::Answer(Bytes::new(), false));
        }
    }
}

/// Starts a process and opens its session.
async fn open(up: &Arc<Upstream>, commands: &Commands, job: &Job) {
    let (attempt, key) = (job.attempt, (job.latch, job.generation));
    let pipe = match Pipe::start(up, &commands.command, key) {
        Ok(pipe) => Arc::new(pipe),
        Err(words) => return cut(up, attempt, false, words),
    };
    match pipe.ask(job).await {
        Ok(text) => {
            attempt::accept(up, attempt);
            if matches!(Envelope::read(&text).map(|envelope| envelope.kind), Ok(Kind::Result { .. })) {
                // Before the core hears of it, which sends at once.
                lock(&commands.running).insert(key, Arc::clone(&pipe));
                tokio::spawn(watch_over(
                    Arc::downgrade(up),
                    Arc::clone(&pipe),
                    key,
                    Arc::clone(&commands.ended),
                ));
            }
            let mut head = HeaderMap::new();
            let name = format!("process-{}", key.1.0);
            if let Ok(id) = HeaderValue::from_str(&name) {
                head.insert(SESSION_ID, id);
            }
            attempt::deliver(up, job, &head, text, false);
            // One whose answer was no use, or whose attempt was aborted meanwhile, has opened nothing.
            if !up.desk(|desk| desk.has_session(job.latch, job.generation)) {
                commands.forget(job.latch, job.generation);
            }
        }
        Err(Unanswered::Unwritten(words) | Unanswered::Cut(words)) => {
            // That it began to read says nothing of what it did: a session that was not opened has run nothing.
            let odd = lock(&pipe.ends.odd).clone();
            let odd = odd.map_or(String::new(), |line| {
                format!("; on stdout it had said `{line}`, which is no message")
            });
            cut(up, attempt, false, format!("{words}{odd}"));
        }
    }
}

/// A process that ends takes what it has asked of its client with it; when it ends by itself, the core has to look.
async fn watch_over(up: Weak<Upstream>, pipe: Arc<Pipe>, key: (LatchId, Gen), ended: Arc<Notify>) {
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
enum Unanswered {
    /// Not all of it was written, or not all of it was read: it can't have run.
    Unwritten(String),
    /// The process ended with it.
    Cut(String),
}

impl Pipe {
    fn start(up: &Arc<Upstream>, command: &Command, key: (LatchId, Gen)) -> Result<Pipe, String> {
        let ends =
            Arc::new(Ends { waiting: Waiting::new(), odd: Mutex::default(), read_to: Mutex::default() });
        let (lines, to_write) = mpsc::channel(LINES);
        let (weak, answers) = (Arc::downgrade(up), Arc::clone(&ends));
        let child = Child::start(command, |Pipes { input, output }, child| {
            let writing = write(input, to_write, child.ending(), child.exited(), Arc::clone(&answers));
            let reading = read(output, child.exited(), weak, key, answers);
            async move {
                tokio::join!(writing, reading);
            }
        })?;
        Ok(Pipe { child, lines, ends })
    }

    /// Waits for the end of a process that takes nothing, or says nothing, any more, and brings it about if it does not
    /// come by itself. How it was.
    async fn end(&self) -> String {
        if let Ok(words) = tokio::time::timeout(END_WITHIN, self.child.over()).await {
            return words;
        }
        self.child.end();
        self.child.over().await
    }

    /// Where it ends in all that was written; none when not all of it was.
    async fn write(&self, message: &Bytes) -> Option<u64> {
        let (written, wrote) = oneshot::channel();
        self.lines.send(Line { message: one_line(message), written }).await.ok()?;
        // Who writes is gone with the process.
        wrote.await.ok()
    }

    /// Writes a request and waits for its answer, which comes under the client's id.
    async fn ask(&self, job: &Job) -> Result<Bytes, Unanswered> {
        let Some(id) = job.id.clone() else {
            return Err(Unanswered::Unwritten("the request has no id".to_owned()));
        };
        // An attempt that is aborted waits no more.
        let Some((_asked, answer)) = self.ends.waiting.ask(id, job.attempt) else {
            // Nobody would read the answer.
            return Err(Unanswered::Unwritten(self.end().await));
        };
        let Some(end) = self.write(&job.message).await else {
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

/// Reads what a process says until its output ends: answers go to who waits for them, the rest is sorted by the desk.
async fn read(
    mut output: ChildStdout,
    mut exited: watch::Receiver<bool>,
    up: Weak<Upstream>,
    key: (LatchId, Gen),
    ends: Arc<Ends>,
) {
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
                Ok(line) => said(&up, key, &ends, line).await,
                Err(fault) => *lock(&ends.odd) = Some(fault.to_string()),
            }
        }
    }
    // A last line without an end is half a message.
    ends.waiting.close();
}

/// One line, which is a message or, on old revisions, a batch of them.
async fn said(up: &Weak<Upstream>, key: (LatchId, Gen), ends: &Ends, line: Bytes) {
    if ends.waiting.said(up, key, line.clone()).await.is_err() {
        let shown: String =
            String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).take(100).collect();
        tracing::debug!(stdout = %shown, "a line that is no message");
        *lock(&ends.odd) = Some(shown);
    }
}
