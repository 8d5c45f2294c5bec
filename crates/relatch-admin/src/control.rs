//! The control socket: one request, one line of JSON; answers likewise.
//!
//! `{"op":"status"}` · `{"op":"page"}` · `{"op":"serving"}` · `{"op":"reconnect","name":"gmail"}` (all upstreams without `name`) ·
//! `{"op":"history","since":"RFC 3339","name":"gmail"}` · `{"op":"log","since":"RFC 3339","name":"gmail","follow":true}` ·
//! `{"op":"reload","config":"/…"}` (whatever file it reads without `config`) · `{"op":"pause","name":"gmail","drain_ms":10000,
//! "for_ms":300000}` · `{"op":"resume","name":"gmail"}` · `{"op":"restart","name":"files","drain_ms":10000,"stop_first":false}`. It decides nothing; it asks the [`Keeper`].
//! Access is by file modes: the socket is 0600 in a folder of 0700.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::AbortHandle;

use crate::announced::{PauseOutcome, Pausing, RestartOutcome, Restarting, ResumeOutcome};
use crate::history::ServerHistory;
use crate::journal::Dated;
use crate::keeper::{Keeper, ReconnectOutcome, Serving};
use crate::reload::Reloaded;
use crate::runtime::private_dir;
use crate::schema::KeeperStatus;

/// Bytes of a request line.
pub(crate) const REQUEST_LIMIT: u64 = 4 * 1024;
/// Bytes of an answer line; a status of 10,000 sessions stays below it.
pub(crate) const ANSWER_LIMIT: u64 = 16 * 1024 * 1024;
/// Connections at once; more wait their turn.
const CONNECTIONS: usize = 32;
/// How long a connection may stay without a request, or refuse to take an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    Status,
    Reconnect {
        #[serde(default)]
        name: Option<String>,
    },
    /// Answered when no call runs any more, or its time is over.
    Pause {
        #[serde(default)]
        name: Option<String>,
        #[serde(flatten)]
        how: Pausing,
    },
    Resume {
        #[serde(default)]
        name: Option<String>,
    },
    /// Answered when new processes are there and old ones have ended.
    Restart {
        name: String,
        #[serde(flatten)]
        how: Restarting,
    },
    Page,
    Serving,
    /// Of one upstream or all, from `since` on.
    History {
        #[serde(default)]
        since: Option<Timestamp>,
        #[serde(default)]
        name: Option<String>,
    },
    Reload {
        #[serde(default)]
        config: Option<PathBuf>,
    },
    Log {
        #[serde(default)]
        since: Option<Timestamp>,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        follow: bool,
    },
}

/// What is answered; a log is many lines, ended by `end` unless it is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Status(KeeperStatus),
    Reconnected(Vec<ReconnectOutcome>),
    /// A one-time address, or nothing where there is no page.
    Page(Option<String>),
    /// Where clients are served, or nothing where none are over HTTP.
    Serving(Option<Serving>),
    History(Vec<ServerHistory>),
    Reloaded(Reloaded),
    Paused(Vec<PauseOutcome>),
    Resumed(Vec<ResumeOutcome>),
    Restarted(Vec<RestartOutcome>),
    Entry(Dated),
    /// This many entries were missed.
    Missed(u64),
    End(Ended),
    Error(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {}

/// An open control socket; it is closed and its file removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    accepting: AbortHandle,
}

impl Control {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers for `keeper` on `dir/<pid>.sock`, in tasks of the current runtime. `dir` is usually
/// [`crate::runtime::runtime_dir`]; it is made if it is missing.
///
/// # Errors
/// When the folder is not private to this user or the socket can't be made.
pub fn serve(keeper: Arc<dyn Keeper>, dir: &Path) -> io::Result<Control> {
    private_dir(dir)?;
    let path = dir.join(format!("{}.sock", std::process::id()));
    // A socket of this process id was left by a process that is gone.
    match std::fs::remove_file(&path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let accepting = tokio::spawn(accept(listener, keeper)).abort_handle();
    Ok(Control { path, accepting })
}

async fn accept(listener: UnixListener, keeper: Arc<dyn Keeper>) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with this task, so that connections end with their socket.
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let keeper = Arc::clone(&keeper);
                open.spawn(async move {
                    let _turn = turn;
                    if let Err(cause) = converse(stream, keeper.as_ref()).await {
                        tracing::debug!(%cause, "a control connection ended");
                    }
                });
            }
            Err(cause) => {
                tracing::warn!(%cause, "the control socket takes no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
}

async fn converse(stream: UnixStream, keeper: &dyn Keeper) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let Ok(line) = tokio::time::timeout(PATIENCE, read_line(&mut read, REQUEST_LIMIT)).await else {
            return Ok(());
        };
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(cause) => {
                send(&mut write, &Answer::Error(cause.to_string())).await?;
                return Ok(());
            }
        };
        match serde_json::from_slice(&line) {
            Ok(Request::Status) => send(&mut write, &Answer::Status(keeper.status())).await?,
            Ok(Request::Reconnect { name }) => {
                send(&mut write, &Answer::Reconnected(keeper.reconnect(name.as_deref()))).await?;
            }
            Ok(Request::Reload { config }) => {
                let reloaded = keeper.reload(config).await;
                send(&mut write, &Answer::Reloaded(reloaded)).await?;
            }
            Ok(Request::Pause { name, how }) => {
                let paused = keeper.pause(name.as_deref(), how).await;
                send(&mut write, &Answer::Paused(paused)).await?;
            }
            Ok(Request::Resume { name }) => {
                send(&mut write, &Answer::Resumed(keeper.resume(name.as_deref()))).await?;
            }
            Ok(Request::Restart { name, how }) => {
                let restarted = keeper.restart(&name, how).await;
                send(&mut write, &Answer::Restarted(restarted)).await?;
            }
            Ok(Request::Serving) => send(&mut write, &Answer::Serving(keeper.serving())).await?,
            Ok(Request::Page) => send(&mut write, &Answer::Page(keeper.page())).await?,
            Ok(Request::History { since, name }) => {
                send(&mut write, &Answer::History(keeper.history(name.as_deref(), since))).await?;
            }
            Ok(Request::Log { since, name, follow }) => {
                let wanted = |entry: &Dated| name.as_ref().is_none_or(|name| *name == entry.upstream);
                let (past, coming) = keeper.journal().follow(since);
                for entry in past.iter().filter(|entry| wanted(entry)) {
                    send(&mut write, &Answer::Entry(Dated::clone(entry))).await?;
                }
                if follow {
                    return pass_on(coming, &mut read, &mut write, wanted).await;
                }
                send(&mut write, &Answer::End(Ended {})).await?;
            }
            Err(cause) => send(&mut write, &Answer::Error(format!("not a request: {cause}"))).await?,
        }
    }
}

/// Sends each new entry until the other end closes.
async fn pass_on(
    mut coming: broadcast::Receiver<Arc<Dated>>,
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWriteExt + Unpin),
    wanted: impl Fn(&Dated) -> bool,
) -> io::Result<()> {
    let mut unread = [0; 64];
    loop {
        tokio::select! {
            entry = coming.recv() => match entry {
                Ok(entry) if wanted(&entry) => send(write, &Answer::Entry(Dated::clone(&entry))).await?,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => send(write, &Answer::Missed(missed)).await?,
                Err(broadcast::error::RecvError::Closed) => return send(write, &Answer::End(Ended {})).await,
            },
            more = read.read(&mut unread) => if more? == 0 { return Ok(()) },
        }
    }
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, write.write_all(&line))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the answer was not taken"))?
}

/// One line without its end, or nothing at the end of the stream.
pub(crate) async fn read_line(
    read: &mut (impl AsyncBufReadExt + Unpin),
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    read.take(limit + 1).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 >= limit => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line is longer than {limit} bytes")))
        }
        // The other end closed in the middle of a line.
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
