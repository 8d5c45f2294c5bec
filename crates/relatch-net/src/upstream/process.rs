//! A server that is reached by an address and runs as a process of relatch's: started in a group of its own, guarded, ended
//! with all that it has started.
//!
//! Its stdin stays open and silent, each line of its stdout and stderr is told. Decides nothing about when it runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use relatch_wire::Envelope;
use relatch_wire::line::{LineReader, one_line};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdout;
use tokio::sync::{oneshot, watch};

use super::child::{self, Child, Lines, Pipes, Shown};
use super::command::Command;

/// More than a pipe can hold: what an exited process has said is in so many bytes, and the rest is not its own.
const LEFT: usize = 2 * 1024 * 1024;

/// Such a process; one that nobody holds any more is killed.
#[derive(Debug)]
pub struct Process {
    child: Arc<Child>,
}

impl Process {
    /// Starts it. `heard` gets every line that it says.
    ///
    /// # Errors
    /// Why it can't be started, for people.
    pub fn start(
        command: &Command,
        heard: impl Fn(&str) + Clone + Send + Sync + 'static,
    ) -> Result<Process, String> {
        let other = heard.clone();
        let child = Child::start(command, &Shown::default(), heard, |Pipes { input, output }, child| {
            let (mut ending, exited) = (child.ending(), child.exited());
            async move {
                let held = async {
                    let mut exited = exited.clone();
                    tokio::select! {
                        _ = ending.wait_for(|told| *told) => {}
                        _ = exited.wait_for(|exited| *exited) => {}
                    }
                    drop(input);
                };
                tokio::join!(held, read(output, exited.clone(), other));
            }
        })?;
        Ok(Process { child })
    }

    /// The number of its process group.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        self.child.last_words()
    }

    /// Waits for its end, and says how it was.
    pub fn over(&self) -> impl Future<Output = String> + Send + 'static {
        self.child.ends()
    }

    /// Its exit status, once it is over; none where a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.child.code()
    }

    /// Has it and all that it has started end: SIGTERM, and SIGKILL a second later. Says how it was.
    pub async fn stop(self) -> String {
        self.child.end_now();
        self.child.over().await
    }
}

/// Starts a command that speaks on its stdin and stdout, asks it one thing there, and has it end. `request` is a message
/// whose answer, of the same id, is waited for so long.
///
/// # Errors
/// Why there is no answer, for people.
pub async fn ask_once(
    command: &Command,
    request: &Bytes,
    within: Duration,
    heard: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Bytes, String> {
    let id = Envelope::read(request).ok().and_then(|envelope| envelope.id().cloned());
    let odd = Arc::new(Mutex::new(None));
    let (tell, answer) = oneshot::channel();
    let (message, noted) = (one_line(request), Arc::clone(&odd));
    let child = Child::start(command, &Shown::default(), heard, |Pipes { mut input, mut output }, child| {
        let (mut ending, exited) = (child.ending(), child.exited());
        async move {
            let (mut tell, mut lines, mut found) = (Some(tell), LineReader::new(), Vec::new());
            let mut buffer = vec![0; 8 * 1024];
            // One that reads nothing shows by its silence.
            let written = async {
                let _ = input.write_all(&message).await;
                let _ = input.write_all(b"\n").await;
                let mut exited = exited.clone();
                tokio::select! {
                    _ = ending.wait_for(|told| *told) => {}
                    _ = exited.wait_for(|exited| *exited) => {}
                }
                drop(input);
            };
            let heard = async {
                while let Some(read) = child::next(&mut output, &mut buffer).await {
                    lines.feed(&buffer[..read], &mut found);
                    for line in found.drain(..).flatten() {
                        let read = Envelope::read(&line).ok();
                        match read.filter(|read| read.id() == id.as_ref() && read.method().is_none()) {
                            Some(_) => drop(tell.take().map(|tell| tell.send(line))),
                            None => *crate::lock(&noted) = Some(child::plain(&line)),
                        }
                    }
                }
                // Whoever waits hears that nothing comes any more.
                drop(tell);
            };
            let over = async {
                let _ = exited.clone().wait_for(|exited| *exited).await;
                tokio::time::sleep(child::READ_WITHIN).await;
            };
            tokio::select! {
                ((), ()) = async { tokio::join!(written, heard) } => {}
                () = over => {}
            }
        }
    })?;
    let said = || {
        crate::lock(&odd).clone().map_or(String::new(), |line| format!("; on stdout it had said `{line}`"))
    };
    match tokio::time::timeout(within, answer).await {
        Ok(Ok(text)) => {
            child.end();
            child.over().await;
            Ok(text)
        }
        Ok(Err(_)) => {
            let ended = tokio::time::timeout(Duration::from_secs(2), child.over()).await;
            let words = ended.unwrap_or_else(|_| format!("`{}` has closed its stdout", command.short()));
            child.end_now();
            Err(format!("{words}{}", said()))
        }
        Err(_) => {
            child.end_now();
            child.over().await;
            let seconds = within.as_secs();
            Err(format!("`{}` does not answer `initialize` within {seconds} s{}", command.short(), said()))
        }
    }
}

async fn read(mut output: ChildStdout, mut exited: watch::Receiver<bool>, heard: impl Fn(&str)) {
    let mut buffer = vec![0; 8 * 1024];
    let mut lines = Lines::default();
    let mut left = LEFT;
    loop {
        let over = async {
            let _ = exited.wait_for(|exited| *exited).await;
        };
        let next = tokio::select! {
            next = child::next(&mut output, &mut buffer) => next,
            // Who was started by it and has left its group may hold its stdout for ever.
            () = over => {
                let rest = tokio::time::timeout(child::READ_WITHIN, child::next(&mut output, &mut buffer));
                let rest = rest.await.ok().flatten().filter(|_| left > 0);
                left = left.saturating_sub(rest.unwrap_or_default());
                rest
            }
        };
        let Some(read) = next else { break };
        lines.add(&buffer[..read], |line| heard(&line));
    }
    lines.ends(|line| heard(&line));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command {
            program: "sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            env: vec![("PORT".to_owned(), "8000".to_owned())],
            ..Command::default()
        }
    }

    fn started(script: &str) -> (Process, Arc<Mutex<Vec<String>>>) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        let heard = move |line: &str| crate::lock(&hears).push(line.to_owned());
        (Process::start(&shell(script), heard).unwrap(), said)
    }

    #[tokio::test]
    async fn a_process_says_its_lines_and_how_it_ended() {
        let (process, said) = started("echo on stdout $PORT; echo on stderr >&2; exit 3");
        let words = process.over().await;
        assert!(words.starts_with("`sh` exited with status 3"), "{words}");
        assert_eq!(process.last_words(), Some(words));
        let mut said = crate::lock(&said).clone();
        said.sort();
        assert_eq!(said, ["on stderr", "on stdout 8000"]);
    }

    #[tokio::test]
    async fn its_input_stays_open_and_it_ends_when_it_is_told_though_it_does_not_want_to() {
        let (process, said) = started("trap '' TERM; echo ready; read line; sleep 600");
        let ready = async {
            while crate::lock(&said).is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), ready).await.unwrap();
        assert_eq!(process.last_words(), None, "it reads and is not told anything");
        let words = process.stop().await;
        assert!(words.starts_with("relatch ended `sh`"), "{words}");
    }

    fn initialize() -> Bytes {
        Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#)
    }

    #[tokio::test]
    async fn a_command_is_asked_once_and_ends() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"serverInfo":{"name":"it"}}}"#;
        let script = format!("echo starting; read line; echo '{answer}'; read line");
        let within = Duration::from_secs(20);
        let text = ask_once(&shell(&script), &initialize(), within, |_| {}).await.unwrap();
        assert_eq!(text, answer);
        let fault = ask_once(&shell("echo usage; echo why >&2; exit 2"), &initialize(), within, |_| {}).await;
        assert_eq!(
            fault.unwrap_err(),
            "`sh` exited with status 2; on stderr it had said `why`; on stdout it had said `usage`"
        );
        let silent = shell("exec sleep 600");
        let fault = ask_once(&silent, &initialize(), Duration::from_millis(100), |_| {}).await.unwrap_err();
        assert_eq!(fault, "`sh` does not answer `initialize` within 0 s");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let missing = Command { program: "no-such-program".to_owned(), ..shell("") };
        let fault = Process::start(&missing, |_| {}).unwrap_err();
        assert_eq!(fault, "`no-such-program` is not on `PATH`");
    }
}
