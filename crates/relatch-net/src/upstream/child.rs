//! One running command: started in a process group of its own, ended with everything that it has started.
//!
//! What it says on stderr is kept to its last lines, for whoever has to know why it ended, and told to whoever looks on.
//! What it says on stdout is for `pipe`, or for `process`.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::watch;

use super::command::Command;
use super::holders;
use crate::lock;

/// One whose input was closed gets this long to end by itself (basic/lifecycle#shutdown), and the same after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(2);
/// One that is told to end by signals at once gets this long after SIGTERM: it was drained before. Some wait for a
/// standing stream to end, which would take for ever.
const HURRY_WITHIN: Duration = Duration::from_secs(1);
/// What it has written before it ended is read for so long.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(1);
/// Lines of stderr that are kept, and characters of each.
const TAIL_LINES: usize = 20;
const TAIL_LINE: usize = 500;

/// The last lines of what one process has said on stderr.
type Stderr = Arc<Mutex<Tail>>;

/// Whose stderr is shown, of all processes of one command: that of the one that went wrong last, until another one has opened
/// a session; else that of the newest that runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    wrong: Option<Stderr>,
    running: Vec<Stderr>,
}

/// A command that runs, without its pipes.
#[derive(Debug)]
pub(crate) struct Child {
    group: Option<Pid>,
    end: watch::Sender<bool>,
    /// By signals at once: it was never told anything by its input.
    hurry: AtomicBool,
    exited: watch::Receiver<bool>,
    over: watch::Receiver<Option<String>>,
    code: Arc<OnceLock<i32>>,
    tail: Stderr,
    /// What it says on stderr is not for its clients.
    discreet: AtomicBool,
}

/// Its pipes.
pub(crate) struct Pipes {
    pub(crate) input: ChildStdin,
    pub(crate) output: ChildStdout,
}

impl Shown {
    /// The last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let heard = lock(&self.0);
        let tail = heard.wrong.as_ref().or(heard.running.last());
        tail.map_or(Vec::new(), |tail| lock(tail).lines.iter().cloned().collect())
    }

    fn started(&self, tail: &Stderr) {
        lock(&self.0).running.push(Arc::clone(tail));
    }

    fn ended(&self, tail: &Stderr, by_itself: bool) {
        let mut heard = lock(&self.0);
        heard.running.retain(|other| !Arc::ptr_eq(other, tail));
        if by_itself {
            heard.wrong = Some(Arc::clone(tail));
        }
    }
}

impl Child {
    /// Starts a command. `work` has to end when the process has exited and its output has ended: only then is the child
    /// said to be over. `heard` gets each line of its stderr.
    ///
    /// # Errors
    /// Why it can't be started, for people.
    pub(crate) fn start<R>(
        command: &Command,
        shown: &Shown,
        heard: impl Fn(&str) + Send + Sync + 'static,
        work: impl FnOnce(Pipes, &Child) -> R,
    ) -> Result<Arc<Child>, String>
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let program = command.find().map_err(|fault| fault.to_string())?;
        let mut builder = match command.guard.as_deref() {
            Some([guard, rest @ ..]) => {
                let mut builder = tokio::process::Command::new(guard);
                builder.args(rest).arg(&program);
                builder
            }
            Some([]) | None => tokio::process::Command::new(&program),
        };
        if let Some(variables) = command.inherited() {
            builder.env_clear().envs(variables);
        }
        builder
            .args(&command.arguments)
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(folder) = &command.folder {
            builder.current_dir(folder);
        }
        let mut process =
            builder.spawn().map_err(|cause| format!("`{command}` can't be started: {cause}"))?;
        let (Some(input), Some(output), Some(stderr)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err(format!("`{command}` was started without its pipes"));
        };
        let pipes: Vec<_> = [holders::name(&input), holders::name(&output)].into_iter().flatten().collect();
        let group = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (end, told) = watch::channel(false);
        let (tell, over) = watch::channel(None);
        let (tell_exit, exited) = watch::channel(false);
        let tail = Arc::new(Mutex::new(Tail::default()));
        let code = Arc::<OnceLock<i32>>::default();
        let has_code = Arc::clone(&code);
        let child = Arc::new(Child {
            group,
            end,
            hurry: AtomicBool::new(false),
            exited,
            over,
            code,
            tail: Arc::clone(&tail),
            discreet: AtomicBool::new(false),
        });
        let listening = tokio::spawn(listen(stderr, Arc::clone(&tail), heard));
        let working = tokio::spawn(work(Pipes { input, output }, &child));
        shown.started(&tail);
        let (program, shown) = (command.short().to_owned(), shown.clone());
        let weak = Arc::downgrade(&child);
        tokio::spawn(async move {
            let (status, by_itself) = ended(&mut process, group, told, &weak).await;
            // Whatever it has left behind goes with it, and with that the other ends of its pipes.
            let left = tokio::task::spawn_blocking(move || holders::end(&pipes)).await.unwrap_or_default();
            signal(group, Signal::KILL);
            if let Some(code) = status.and_then(|status| status.code()) {
                let _ = has_code.set(code);
            }
            let _ = tell_exit.send(true);
            let ends_listening = listening.abort_handle();
            let both = async {
                let _ = working.await;
                let _ = listening.await;
            };
            let _ = tokio::time::timeout(READ_WITHIN, both).await;
            // Who was started by it and has left its group may hold its stderr for ever.
            ends_listening.abort();
            let discreet = weak.upgrade().is_some_and(|child| child.discreet.load(Ordering::Relaxed));
            shown.ended(&tail, by_itself);
            let how = match by_itself {
                true => how_it_ended(&program, status, left),
                false => format!("relatch ended `{program}`"),
            };
            let words = with_last_words(how, &lock(&tail), discreet);
            let _ = tell.send(Some(words));
        });
        Ok(child)
    }

    /// It has opened a session: what went wrong before is over.
    pub(crate) fn has_opened(&self, shown: &Shown) {
        lock(&shown.0).wrong = None;
    }

    /// It is given up: its stderr may say why.
    pub(crate) fn has_failed(&self, shown: &Shown) {
        lock(&shown.0).wrong = Some(Arc::clone(&self.tail));
    }

    /// Whether it runs, and is not to end.
    pub(crate) fn is_kept(&self) -> bool {
        !*self.exited.borrow() && !*self.end.borrow()
    }

    /// By which it is told to end.
    pub(crate) fn ender(&self) -> watch::Sender<bool> {
        self.end.clone()
    }

    /// From now on, what it says on stderr is not told to its clients: it may be about any of them.
    pub(crate) fn be_discreet(&self) {
        self.discreet.store(true, Ordering::Relaxed);
    }

    /// How it runs, in words, for a client that has waited in vain: what it has said on stderr, if anything.
    pub(crate) fn said(&self) -> String {
        lock(&self.tail).telling().map_or(String::new(), |line| format!("; on stderr it has said `{line}`"))
    }

    /// Has it ended, by closing its input, then by signals.
    pub(crate) fn end(&self) {
        self.end.send_replace(true);
    }

    /// Has it ended, by signals at once.
    pub(crate) fn end_now(&self) {
        self.hurry.store(true, Ordering::Release);
        self.end();
    }

    /// The number of its process group, which is that of its first process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.group.and_then(|group| u32::try_from(group.as_raw_nonzero().get()).ok())
    }

    /// Its exit status, once it is over; none where a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.code.get().copied()
    }

    /// True once it is told to end.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.end.subscribe()
    }

    /// True once its process has exited; what it has said may not have been read yet.
    pub(crate) fn exited(&self) -> watch::Receiver<bool> {
        self.exited.clone()
    }

    /// How it ended, if it has.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.over.borrow().clone()
    }

    /// Waits for its end, and says how it was.
    pub(crate) async fn over(&self) -> String {
        self.ends().await
    }

    /// The same, for who does not hold the child meanwhile.
    pub(crate) fn ends(&self) -> impl Future<Output = String> + Send + 'static {
        let mut over = self.over.clone();
        async move {
            match over.wait_for(Option::is_some).await {
                Ok(words) => words.clone().unwrap_or_default(),
                Err(_) => "its end was not seen".to_owned(),
            }
        }
    }
}

/// A child that nobody holds any more is ended at once.
impl Drop for Child {
    fn drop(&mut self) {
        // One that has exited took its group with it, and its number may be another's by now.
        if !*self.exited.borrow() {
            self.end();
            signal(self.group, Signal::KILL);
        }
    }
}

/// Waits until the process has ended, and whether it did so by itself.
async fn ended(
    process: &mut tokio::process::Child,
    group: Option<Pid>,
    mut told: watch::Receiver<bool>,
    child: &Weak<Child>,
) -> (Option<ExitStatus>, bool) {
    tokio::select! {
        biased;
        _ = told.wait_for(|told| *told) => {}
        status = process.wait() => return (status.ok(), true),
    }
    let hurry = child.upgrade().is_none_or(|child| child.hurry.load(Ordering::Acquire));
    let waits = if hurry { [Duration::ZERO, HURRY_WITHIN] } else { [END_WITHIN; 2] };
    for (wait, next) in waits.into_iter().zip([Signal::TERM, Signal::KILL]) {
        if let Ok(status) = tokio::time::timeout(wait, process.wait()).await {
            return (status.ok(), false);
        }
        signal(group, next);
    }
    (process.wait().await.ok(), false)
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // One that is gone already is as it should be.
        let _ = kill_process_group(group, signal);
    }
}

/// Bytes as lines of text: bounded, without control characters, none of them empty.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Takes bytes in and gives out each line that they end.
    pub(crate) fn add(&mut self, bytes: &[u8], mut ended: impl FnMut(String)) {
        for byte in bytes {
            if *byte == b'\n' {
                self.ends(&mut ended);
            } else if self.line.len() < TAIL_LINE {
                self.line.push(*byte);
            }
        }
    }

    /// Nothing more comes.
    pub(crate) fn ends(&mut self, mut ended: impl FnMut(String)) {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        // Tabs indent; the rest would write to a terminal.
        let text = without_colours(&text).replace('\t', "    ");
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if !text.trim().is_empty() {
            ended(text.trim_end().to_owned());
        }
    }
}

/// The text without the sequences by which programs colour it.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let parameters = piece.bytes().take_while(|byte| (0x20..0x40).contains(byte)).count();
        // The letter that ends it goes, too.
        plain.push_str(piece.get(parameters + 1..).unwrap_or_default());
    }
    plain
}

/// The beginning of a line that came from a program, as it may be shown.
pub(super) fn plain(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).take(100).collect()
}

/// The last lines of stderr.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    fn keep(&mut self, line: &str) {
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.trim().to_owned());
    }

    /// The last line that speaks of an error, if one does: some say good-bye after it. Else the last.
    fn telling(&self) -> Option<&String> {
        let telling = self.lines.iter().rev().find(|line| line.to_ascii_lowercase().contains("error"));
        telling.or(self.lines.back())
    }
}

async fn listen(mut stderr: ChildStderr, tail: Arc<Mutex<Tail>>, heard: impl Fn(&str)) {
    let mut buffer = vec![0; 8 * 1024];
    let mut lines = Lines::default();
    let note = |line: String| {
        tracing::debug!(stderr = %line);
        lock(&tail).keep(&line);
        heard(&line);
    };
    while let Some(read) = next(&mut stderr, &mut buffer).await {
        lines.add(&buffer[..read], note);
    }
    lines.ends(note);
}

/// The next bytes; none at the end.
pub(crate) async fn next(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Option<usize> {
    from.read(buffer).await.ok().filter(|read| *read > 0)
}

/// How a command ended by itself.
fn how_it_ended(program: &str, status: Option<ExitStatus>, left: bool) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(0), _)) if left => {
            format!(
                "`{program}` exited with status 0 and went on in the background; a server stays in the foreground"
            )
        }
        // What stands guard over it says so.
        Some((Some(code @ 129..=192), _)) => format!("`{program}` was ended by signal {}", code - 128),
        Some((Some(code), _)) => format!("`{program}` exited with status {code}"),
        Some((None, Some(signal))) => format!("`{program}` was ended by signal {signal}"),
        Some((None, None)) | None => format!("`{program}` has ended"),
    }
}

/// How it ended, and what it said last.
fn with_last_words(how: String, tail: &Tail, discreet: bool) -> String {
    match tail.telling().filter(|_| !discreet) {
        Some(line) => format!("{how}; on stderr it had said `{line}`"),
        None => how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_stderr_the_last_lines_are_kept_and_no_more() {
        let (mut tail, mut lines) = (Tail::default(), Lines::default());
        for n in 0..1_000 {
            lines.add(format!("line {n}\n\n").as_bytes(), |line| tail.keep(&line));
        }
        lines.add(&[b'x'; 10_000], |line| tail.keep(&line));
        lines.ends(|line| tail.keep(&line));
        assert_eq!((tail.lines.len(), tail.lines[0].as_str()), (TAIL_LINES, "line 981"));
        assert_eq!(tail.lines[TAIL_LINES - 1].len(), TAIL_LINE);
        let mut said = Vec::new();
        lines.add("\x1b[1;31mred\x1b[0m\x07\x1b[é\n\tindented \x1b]0;t\r\n".as_bytes(), |line| {
            said.push(line)
        });
        assert_eq!(
            said,
            ["red", "    indented  ]0;t"],
            "indentation is kept, what writes to a terminal is not"
        );
        tail.keep(&said[1]);
        assert_eq!(tail.lines.back().map(String::as_str), Some("indented  ]0;t"));
    }
}
