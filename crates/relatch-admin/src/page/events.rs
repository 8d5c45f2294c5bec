//! `/api/events`: what is true, told as soon as it changes, as server-sent events.
//!
//! Each listener gets all of it first (`clock`, `history`, `status`, `journal`) and then what is new: `status` is the
//! whole schema of `/api/status`, `history` replaces everything from its `from` on, `journal` is a list of new entries,
//! `missed` counts entries that came faster than they were read, and `clock` is the keeper's time, every 15 s. Decides
//! when to look and what counts as new; computes nothing.

use std::sync::Arc;
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
/// What happens together is told together.
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
struct News {
    from: Option<Timestamp>,
    servers: Vec<ServerHistory>,
}

/// Tells `out` until it is gone.
pub(super) async fn tell(keeper: Arc<dyn Watched>, out: mpsc::Sender<Bytes>) {
    let mut turns = keeper.turns();
    let (past, mut coming) = keeper.journal().follow(None);
    let mut listener = Listener { out, status: String::new(), history: String::new() };
    let first = async {
        listener.clock().await?;
        listener.history(&*keeper, None).await?;
        listener.status(&*keeper).await?;
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
        sleep(TOGETHER).await;
        turns.mark_unchanged();
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
            listener.status(&*keeper).await?;
            listener.history(&*keeper, Some(Timestamp::now() - OVERLAP)).await?;
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

    async fn status(&mut self, keeper: &dyn Watched) -> Result<(), Gone> {
        let text = status_json(keeper);
        if text == self.status {
            return Ok(());
        }
        self.event("status", &text).await?;
        self.status = text;
        Ok(())
    }

    async fn history(&mut self, keeper: &dyn Watched, from: Option<Timestamp>) -> Result<(), Gone> {
        let servers = keeper.history(from);
        let text = json(&servers);
        if from.is_some() && text == self.history {
            return Ok(());
        }
        self.event("history", &json(&News { from, servers })).await?;
        self.history = text;
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
