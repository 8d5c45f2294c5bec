//! The asking end of the control socket: finds every keeper of this user and asks it.
//!
//! A keeper gets [`PATIENCE`] to answer; one that hangs is reported as such, never waited for and never skipped.
//! Sockets whose process is gone, or is another one by now, are removed on the way.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::announced::{PauseOutcome, Pausing, RestartOutcome, Restarting, ResumeOutcome};
use crate::control::{ANSWER_LIMIT, Answer, Request, read_line};
use crate::history::ServerHistory;
use crate::journal::Dated;
use crate::keeper::{ReconnectOutcome, Serving};
use crate::reload::Reloaded;
use crate::schema::{KeeperStatus, NoAnswer, SCHEMA, Status, Unanswered};

/// How long a keeper may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// New processes that are started, and the end of old ones, take no longer.
const COMING_UP: Duration = Duration::from_secs(60);
/// A keeper that starts has its socket for a moment before it listens on it, and no longer.
const STARTING: Duration = Duration::from_secs(5);
/// This version of relatch.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A keeper that runs, by its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperLink {
    /// Its process.
    pub pid: u32,
    path: PathBuf,
}

/// Why a keeper gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It did not answer in time.
    #[error("process {pid} gave no answer within {} s", PATIENCE.as_secs())]
    Hangs {
        /// The process.
        pid: u32,
    },
    /// The socket failed.
    #[error("the connection to process {pid} failed: {cause}")]
    Broken {
        /// The process.
        pid: u32,
        /// How.
        cause: io::Error,
    },
    /// It is another version, and its answer can't be read.
    #[error(
        "process {pid} runs relatch {version}, and this is relatch {OWN_VERSION}, which can't read its answer: {cause}"
    )]
    OtherVersion {
        /// The process.
        pid: u32,
        /// Its version.
        version: String,
        /// What could not be read.
        cause: String,
    },
    /// It answered something that this version does not understand.
    #[error("process {pid} answered what this version of relatch does not understand: {cause}")]
    Strange {
        /// The process.
        pid: u32,
        /// What.
        cause: String,
    },
}

/// The keepers whose sockets are in `dir`, by process id; removes the sockets of processes that are gone.
///
/// # Errors
/// When the folder is there and can't be read.
pub async fn all_keepers(dir: &Path) -> io::Result<Vec<KeeperLink>> {
    let mut keepers = Vec::new();
    for keeper in listed(dir)? {
        // A hanging keeper may have a full backlog; it is a keeper all the same.
        match tokio::time::timeout(PATIENCE, UnixStream::connect(&keeper.path)).await {
            Ok(Err(cause)) if keeper.gone(&cause) => {}
            Ok(_) | Err(_) => keepers.push(keeper),
        }
    }
    Ok(keepers)
}

/// The keepers whose sockets are in `dir`, by process id, without a look whether they are there.
///
/// # Errors
/// When the folder is there and can't be read.
pub fn listed(dir: &Path) -> io::Result<Vec<KeeperLink>> {
    let mut keepers = Vec::new();
    let files = match std::fs::read_dir(dir) {
        Ok(files) => files,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(keepers),
        Err(cause) => return Err(cause),
    };
    for file in files {
        let path = file?.path();
        if let Some(pid) = pid_of(&path) {
            keepers.push(KeeperLink { pid, path });
        }
    }
    keepers.sort_by_key(|keeper| keeper.pid);
    Ok(keepers)
}

/// Asks every keeper in `dir` for its status, all at the same time.
///
/// # Errors
/// When the folder is there and can't be read.
pub async fn status_of_all(dir: &Path) -> io::Result<Status> {
    let mut status = Status { schema: SCHEMA, keepers: Vec::new(), unanswered: Vec::new() };
    let mut asked = tokio::task::JoinSet::new();
    for keeper in all_keepers(dir).await? {
        asked.spawn(async move { (keeper.pid, keeper.status().await) });
    }
    while let Some(answer) = asked.join_next().await {
        match answer.map_err(io::Error::other)? {
            (_, Ok(keeper)) => status.keepers.push(keeper),
            (pid, Err(cause)) => status.unanswered.push(cause.told(pid)),
        }
    }
    status.keepers.sort_by_key(|keeper| (keeper.since, keeper.pid));
    status.unanswered.sort_by_key(|keeper| keeper.pid);
    Ok(status)
}

impl LinkError {
    /// As the status has it.
    fn told(&self, pid: u32) -> Unanswered {
        let (how, version) = match self {
            LinkError::Hangs { .. } => (NoAnswer::Hangs, None),
            LinkError::Broken { .. } => (NoAnswer::BrokenOff, None),
            LinkError::OtherVersion { version, .. } => (NoAnswer::Unread, Some(version.clone())),
            LinkError::Strange { .. } => (NoAnswer::Unread, None),
        };
        Unanswered { pid, how, version, cause: self.to_string() }
    }
}

impl KeeperLink {
    /// What it knows about its upstreams.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn status(&self) -> Result<KeeperStatus, LinkError> {
        match self.ask(&Request::Status).await?.next_in_time().await? {
            Answer::Status(status) => Ok(status),
            other => Err(self.strange(&other)),
        }
    }

    /// Asks for a relatch of `name`, or of all upstreams; empty where it has none of that name.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn reconnect(&self, name: Option<&str>) -> Result<Vec<ReconnectOutcome>, LinkError> {
        let request = Request::Reconnect { name: name.map(str::to_owned) };
        match self.ask(&request).await?.next_in_time().await? {
            Answer::Reconnected(outcomes) => Ok(outcomes),
            other => Err(self.strange(&other)),
        }
    }

    /// An address that opens its page, signed in, once and within a minute; `None` where it has none.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn page(&self) -> Result<Option<String>, LinkError> {
        match self.ask(&Request::Page).await?.next_in_time().await? {
            Answer::Page(address) => Ok(address),
            other => Err(self.strange(&other)),
        }
    }

    /// Where it serves clients over HTTP; `None` where it does not.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn serving(&self) -> Result<Option<Serving>, LinkError> {
        match self.ask(&Request::Serving).await?.next_in_time().await? {
            Answer::Serving(serving) => Ok(serving),
            other => Err(self.strange(&other)),
        }
    }

    /// Has it read its configuration again; with `only`, just where this is its file.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn reload(&self, only: Option<&Path>) -> Result<Reloaded, LinkError> {
        let request = Request::Reload { config: only.map(Path::to_owned) };
        match self.ask(&request).await?.next_in_time().await? {
            Answer::Reloaded(reloaded) => Ok(reloaded),
            other => Err(self.strange(&other)),
        }
    }

    /// Has it send nothing new to `name`, or to any upstream; the answer comes when no call runs there any more, or their
    /// time is over.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn pause(&self, name: Option<&str>, how: Pausing) -> Result<Vec<PauseOutcome>, LinkError> {
        let request = Request::Pause { name: name.map(str::to_owned), how };
        let within = Duration::from_millis(how.drain_ms) + PATIENCE;
        match self.ask(&request).await?.next_within(within).await? {
            Answer::Paused(outcomes) => Ok(outcomes),
            other => Err(self.strange(&other)),
        }
    }

    /// Tells it that `name`, or every upstream, is back.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn resume(&self, name: Option<&str>) -> Result<Vec<ResumeOutcome>, LinkError> {
        let request = Request::Resume { name: name.map(str::to_owned) };
        match self.ask(&request).await?.next_in_time().await? {
            Answer::Resumed(outcomes) => Ok(outcomes),
            other => Err(self.strange(&other)),
        }
    }

    /// Has it start `name` anew; the answer comes when that is done.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn restart(&self, name: &str, how: Restarting) -> Result<Vec<RestartOutcome>, LinkError> {
        let request = Request::Restart { name: name.to_owned(), how };
        let within = Duration::from_millis(how.drain_ms) + COMING_UP + PATIENCE;
        match self.ask(&request).await?.next_within(within).await? {
            Answer::Restarted(outcomes) => Ok(outcomes),
            other => Err(self.strange(&other)),
        }
    }

    /// Its journal, of one upstream or all, from `since` on.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn log(
        &self,
        name: Option<&str>,
        since: Option<Timestamp>,
        follow: bool,
    ) -> Result<LogLines, LinkError> {
        let request = Request::Log { since, name: name.map(str::to_owned), follow };
        Ok(LogLines { conversation: self.ask(&request).await?, follow })
    }

    /// A conversation for those who ask again and again. `None` when the keeper is gone; its socket is removed then.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn talk(&self) -> Result<Option<Talk>, LinkError> {
        match tokio::time::timeout(PATIENCE, self.connect()).await {
            Ok(Ok(conversation)) => Ok(Some(Talk(conversation))),
            Ok(Err(cause)) if self.gone(&cause) => Ok(None),
            Ok(Err(cause)) => Err(LinkError::Broken { pid: self.pid, cause }),
            Err(_) => Err(LinkError::Hangs { pid: self.pid }),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Conversation, LinkError> {
        let broken = |cause| LinkError::Broken { pid: self.pid, cause };
        let sent = tokio::time::timeout(PATIENCE, async {
            let mut conversation = self.connect().await.map_err(broken)?;
            conversation.send(request).await?;
            Ok(conversation)
        });
        sent.await.map_err(|_| LinkError::Hangs { pid: self.pid })?
    }

    async fn connect(&self) -> io::Result<Conversation> {
        let (read, write) = UnixStream::connect(&self.path).await?.into_split();
        Ok(Conversation { pid: self.pid, read: BufReader::new(read), write })
    }

    /// Whether a failed connect means that there is no keeper any more; removes the socket of one that died.
    fn gone(&self, cause: &io::Error) -> bool {
        match cause.kind() {
            // A process that lives may be another one by now: nobody listens on a socket that is not new.
            io::ErrorKind::ConnectionRefused if !lives(self.pid) || is_old(&self.path) => {
                let _ = std::fs::remove_file(&self.path);
                true
            }
            kind => kind == io::ErrorKind::NotFound,
        }
    }

    fn strange(&self, answer: &Answer) -> LinkError {
        strange(self.pid, answer)
    }
}

/// Questions to one keeper over one connection, one after the other. It has no patience of its own: whoever asks
/// decides how long an answer may take, and drops the conversation, or waits on, when it comes late.
#[derive(Debug)]
pub struct Talk(Conversation);

impl Talk {
    /// What it knows about its upstreams.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn status(&mut self) -> Result<KeeperStatus, LinkError> {
        match self.ask(&Request::Status).await? {
            Answer::Status(status) => Ok(status),
            other => Err(strange(self.0.pid, &other)),
        }
    }

    /// What the last day of `name`, or of each upstream, saw from `since` on; `None` when the keeper is of a version that
    /// does not tell.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn history(
        &mut self,
        name: Option<&str>,
        since: Option<Timestamp>,
    ) -> Result<Option<Vec<ServerHistory>>, LinkError> {
        match self.ask(&Request::History { since, name: name.map(str::to_owned) }).await? {
            Answer::History(servers) => Ok(Some(servers)),
            Answer::Error(_) => Ok(None),
            other => Err(strange(self.0.pid, &other)),
        }
    }

    /// Asks for a relatch of `name`; `None` where it has none of that name.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn reconnect(&mut self, name: &str) -> Result<Option<ReconnectOutcome>, LinkError> {
        match self.ask(&Request::Reconnect { name: Some(name.to_owned()) }).await? {
            Answer::Reconnected(outcomes) => Ok(outcomes.into_iter().next()),
            other => Err(strange(self.0.pid, &other)),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, LinkError> {
        self.0.send(request).await?;
        let answer = self.0.next().await?;
        answer.ok_or(LinkError::Broken { pid: self.0.pid, cause: io::ErrorKind::UnexpectedEof.into() })
    }
}

fn strange(pid: u32, answer: &Answer) -> LinkError {
    let cause = match answer {
        Answer::Error(cause) => cause.clone(),
        other => format!("{other:?}").chars().take(100).collect(),
    };
    LinkError::Strange { pid, cause }
}

/// A line of a journal as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogLine {
    /// An entry.
    Entry(Dated),
    /// The keeper wrote faster than this end read: so many entries are missing here.
    Missed(u64),
}

/// A journal as it arrives.
#[derive(Debug)]
pub struct LogLines {
    conversation: Conversation,
    follow: bool,
}

impl LogLines {
    /// The next line; none at the journal's end, or when the keeper of a followed one ended.
    ///
    /// # Errors
    /// [`LinkError`] names the process.
    pub async fn next(&mut self) -> Result<Option<LogLine>, LinkError> {
        let answer = if self.follow {
            match self.conversation.next().await? {
                Some(answer) => answer,
                None => return Ok(None),
            }
        } else {
            self.conversation.next_in_time().await?
        };
        match answer {
            Answer::Entry(entry) => Ok(Some(LogLine::Entry(entry))),
            Answer::Missed(count) => Ok(Some(LogLine::Missed(count))),
            Answer::End(_) => Ok(None),
            other => Err(LinkError::Strange { pid: self.conversation.pid, cause: format!("{other:?}") }),
        }
    }
}

#[derive(Debug)]
struct Conversation {
    pid: u32,
    read: BufReader<OwnedReadHalf>,
    // Kept open after the last question: its end would tell the keeper to stop.
    write: OwnedWriteHalf,
}

impl Conversation {
    async fn send(&mut self, request: &Request) -> Result<(), LinkError> {
        let broken = |cause| LinkError::Broken { pid: self.pid, cause };
        let mut line = serde_json::to_vec(request).map_err(|cause| broken(cause.into()))?;
        line.push(b'\n');
        self.write.write_all(&line).await.map_err(broken)
    }

    async fn next_in_time(&mut self) -> Result<Answer, LinkError> {
        self.next_within(PATIENCE).await
    }

    async fn next_within(&mut self, within: Duration) -> Result<Answer, LinkError> {
        let pid = self.pid;
        let answer =
            tokio::time::timeout(within, self.next()).await.map_err(|_| LinkError::Hangs { pid })??;
        answer.ok_or(LinkError::Broken { pid, cause: io::ErrorKind::UnexpectedEof.into() })
    }

    async fn next(&mut self) -> Result<Option<Answer>, LinkError> {
        let pid = self.pid;
        let line = read_line(&mut self.read, ANSWER_LIMIT)
            .await
            .map_err(|cause| LinkError::Broken { pid, cause })?;
        line.map(|line| serde_json::from_slice(&line).map_err(|cause| unread(pid, &line, &cause))).transpose()
    }
}

/// Why an answer could not be read: a status names the version that wrote it.
fn unread(pid: u32, line: &[u8], cause: &serde_json::Error) -> LinkError {
    let cause = cause.to_string();
    let answer: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    match answer["status"]["version"].as_str() {
        Some(version) if version != OWN_VERSION => {
            LinkError::OtherVersion { pid, version: version.chars().take(40).collect(), cause }
        }
        Some(_) | None => LinkError::Strange { pid, cause },
    }
}

fn is_old(socket: &Path) -> bool {
    let made = std::fs::symlink_metadata(socket).and_then(|found| found.modified());
    made.is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > STARTING))
}

fn pid_of(path: &Path) -> Option<u32> {
    if path.extension()? != "sock" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok().filter(|pid| *pid > 0)
}

fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    // A process of another user, which may not be asked, lives too.
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}
