//! `/api/events`: what is true, told as soon as it changes, as server-sent events.
//!
//! Each listener gets all of it first (`clock`, `history`, `status`, `journal`) and then what is new: `status` is the
//! whole schema of `/api/status`, `history` replaces everything from its `from` on, `journal` is a list of new entries,
//! `missed` counts entries that came faster than they were read, and `clock` is the keeper's time, every 15 s. Decides
//! when to look and what counts as new; computes nothing.
//!
//! Looking takes each upstream's lock and writes out every session. So all listeners share their looks: a look that began
//! after a listener woke is as good for it as one of its own. As each waits for [`TOGETHER`] before it asks for one, all of
//! them together cost one look in that time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Watched;
use crate::history::ServerHistory;
use crate::journal::Dated;
use crate::schema::{SCHEMA, Status};

/// What no event announces (counts, evidence that grows old) is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// What happens together is told together, so that a storm costs no more than four looks a second.
const TOGETHER: Duration = Duration::from_millis(250);
/// The keeper's time is told this often; it also keeps the connection alive.
const CLOCK: Duration = Duration::from_secs(15);
/// A listener that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries of the journal that are told first.
const PAST: usize = 300;
/// New history begins so far back, which covers a minute that is still being counted.
const OVERLAP: SignedDuration = SignedDuration::from_secs(120);

/// What is new of the history: everything from `from` on, or all of it.
#[derive(Serialize)]
struct News<'a> {
    from: Option<Timestamp>,
    servers: &'a [ServerHistory],
}

/// What a look has found, as it is told.
struct Look {
    began: Instant,
    status: String,
    from: Timestamp,
    servers: Vec<ServerHistory>,
    /// `servers` as text, to see whether they are new.
    history: String,
}

/// The latest look, for all listeners.
#[derive(Default)]
pub(super) struct Looks(Mutex<Option<Arc<Look>>>);

impl Looks {
    /// A look that began after `woken`.
    fn since(&self, woken: Instant, keeper: &dyn Watched) -> Arc<Look> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = &*latest
            && look.began > woken
        {
            return Arc::clone(look);
        }
        let (began, from) = (Instant::now(), Timestamp::now() - OVERLAP);
        let status = status_json(keeper);
        let servers = keeper.history(None, Some(from));
        let look = Arc::new(Look { began, status, from, history: json(&servers), servers });
        *latest = Some(Arc::clone(&look));
        look
    }
}

/// Tells `out` until it is gone.
pub(super) async fn tell(keeper: Arc<dyn Watched>, looks: Arc<Looks>, out: mpsc::Sender<Bytes>) {
    let mut turns = keeper.turns();
    let (past, mut coming) = keeper.journal().follow(None);
    let mut listener = Listener { out, status: String::new(), history: String::new() };
    let first = async {
        listener.clock().await?;
        listener.all_history(keeper.history(None, None)).await?;
        listener.status(&status_json(&*keeper)).await?;
        listener.journal(&past[past.len().saturating_sub(PAST)..]).await
    };
    if first.await.is_err() {
        return;
    }
    drop(past);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clock = Instant::now();
    loop {
        let mut entries: Vec<Arc<Dated>> = Vec::new();
        let mut missed = 0;
        tokio::select! {
            () = listener.out.closed() => return,
            turned = turns.changed() => if turned.is_err() { return },
            entry = coming.recv() => match entry {
                Ok(entry) => entries.push(entry),
                Err(RecvError::Lagged(count)) => missed += count,
                Err(RecvError::Closed) => return,
            },
            _ = look.tick() => {}
        }
        // What turns from now on and is not in the look wakes it again.
        turns.mark_unchanged();
        let woken = Instant::now();
        sleep(TOGETHER).await;
        loop {
            match coming.try_recv() {
                Ok(entry) => entries.push(entry),
                Err(TryRecvError::Lagged(count)) => missed += count,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let news = async {
            if missed > 0 {
                listener.event("missed", &missed.to_string()).await?;
            }
            if !entries.is_empty() {
                listener.journal(&entries).await?;
            }
            let look = looks.since(woken, &*keeper);
            listener.status(&look.status).await?;
            listener.history(&look).await?;
            if clock.elapsed() >= CLOCK {
                clock = Instant::now();
                listener.clock().await?;
            }
            Ok::<_, Gone>(())
        };
        if news.await.is_err() {
            return;
        }
    }
}

/// The listener is gone, or takes nothing.
struct Gone;

/// One listener, and what it was told last.
struct Listener {
    out: mpsc::Sender<Bytes>,
    status: String,
    history: String,
}

impl Listener {
    async fn event(&self, name: &str, json: &str) -> Result<(), Gone> {
        // JSON has no line breaks of its own, so one `data` line holds it.
        let text = Bytes::from(format!("event: {name}\ndata: {json}\n\n"));
        match timeout(PATIENCE, self.out.send(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    async fn clock(&self) -> Result<(), Gone> {
        self.event("clock", &json(&Timestamp::now())).await
    }

    async fn journal(&self, entries: &[Arc<Dated>]) -> Result<(), Gone> {
        let entries: Vec<&Dated> = entries.iter().map(Arc::as_ref).collect();
        self.event("journal", &json(&entries)).await
    }

    async fn status(&mut self, text: &str) -> Result<(), Gone> {
        if text == self.status {
            return Ok(());
        }
        self.event("status", text).await?;
        text.clone_into(&mut self.status);
        Ok(())
    }

    async fn all_history(&self, servers: Vec<ServerHistory>) -> Result<(), Gone> {
        self.event("history", &json(&News { from: None, servers: &servers })).await
    }

    async fn history(&mut self, look: &Look) -> Result<(), Gone> {
        if look.history == self.history {
            return Ok(());
        }
        self.event("history", &json(&News { from: Some(look.from), servers: &look.servers })).await?;
        self.history.clone_from(&look.history);
        Ok(())
    }
}

/// The text of `/api/status`.
pub(super) fn status_json(keeper: &dyn Watched) -> String {
    json(&Status { schema: SCHEMA, keepers: vec![keeper.status()], unanswered: Vec::new() })
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Nothing here has keys that are no text, which is all that could fail.
    serde_json::to_string(value).unwrap_or_default()
}
