//! Asks every keeper of this user, again and again: one task for each keeper, one question at a time, at most four times
//! a second. Decides when to ask; what the answers mean is for the model.
//!
//! A keeper that gives no answer is told of as such and not asked anything else until it does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use relatch_admin::history::ServerHistory;
use relatch_admin::link::{KeeperLink, LinkError, LogLine, PATIENCE, Talk, listed};
use relatch_admin::{Dated, KeeperStatus, ReconnectOutcome};
use relatch_core::health::State;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often a keeper is asked for its status.
const ASK: Duration = Duration::from_millis(250);
/// What was counted is asked for at every so many questions; a turn of health at once.
const HISTORY_EVERY: u32 = 4;
/// Whole histories, which may be long, are asked for so many at a time.
const WHOLE: usize = 4;
/// New history begins so far back, which covers a minute that is still being counted.
const OVERLAP: SignedDuration = SignedDuration::from_secs(120);
/// The journal is wanted from so far back.
const JOURNAL: SignedDuration = SignedDuration::from_hours(24);

/// What a keeper told, or that it didn't.
#[derive(Debug)]
pub(super) enum News {
    Status(KeeperStatus),
    /// Everything from `since` on, or all of it.
    History {
        pid: u32,
        since: Option<Timestamp>,
        servers: Vec<ServerHistory>,
    },
    /// The keeper is of a version that tells no history.
    NoHistory {
        pid: u32,
    },
    /// No usable answer, and why.
    Trouble {
        pid: u32,
        cause: String,
    },
    /// The keeper has ended.
    Gone {
        pid: u32,
    },
    Entry(Dated),
    /// What came of a wish for a new session.
    Reconnected {
        name: String,
        outcome: Result<Option<ReconnectOutcome>, String>,
    },
}

/// Everybody who asks; they end when this is dropped.
pub(super) struct Watch {
    dir: PathBuf,
    out: mpsc::Sender<News>,
    asking: BTreeMap<u32, Asking>,
}

struct Asking {
    task: AbortHandle,
    wishes: mpsc::Sender<String>,
}

impl Watch {
    pub(super) fn new(dir: &Path) -> (Watch, mpsc::Receiver<News>) {
        let (out, news) = mpsc::channel(256);
        (Watch { dir: dir.to_owned(), out, asking: BTreeMap::new() }, news)
    }

    /// Looks for keepers that have come; why that can't be done.
    pub(super) fn look(&mut self) -> Option<String> {
        let links = match listed(&self.dir) {
            Ok(links) => links,
            Err(cause) => return Some(cause.to_string()),
        };
        for link in links {
            self.asking.entry(link.pid).or_insert_with(|| {
                let (wishes, wished) = mpsc::channel(4);
                let task = tokio::spawn(ask(link, self.out.clone(), wished)).abort_handle();
                Asking { task, wishes }
            });
        }
        None
    }

    pub(super) fn learn(&mut self, news: &News) {
        if let News::Gone { pid } = news {
            self.asking.remove(pid);
        }
    }

    /// Asks for a new session, when the keeper's turn has come.
    pub(super) fn reconnect(&self, pid: u32, name: String) {
        let sent = self.asking.get(&pid).map(|asking| asking.wishes.try_send(name.clone()));
        let cause = match sent {
            Some(Ok(())) => return,
            Some(Err(mpsc::error::TrySendError::Full(_))) => format!("process {pid} is still being asked"),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => format!("process {pid} has ended"),
        };
        let (out, told) = (self.out.clone(), News::Reconnected { name, outcome: Err(cause) });
        tokio::spawn(async move { out.send(told).await });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for asking in self.asking.values() {
            asking.task.abort();
        }
    }
}

/// Nobody listens any more.
struct Over;

async fn tell(out: &mpsc::Sender<News>, news: News) -> Result<(), Over> {
    out.send(news).await.map_err(|_| Over)
}

/// Asks one keeper for as long as there is one.
async fn ask(link: KeeperLink, out: mpsc::Sender<News>, mut wished: mpsc::Receiver<String>) {
    let mut keeper = Keeper {
        pid: link.pid,
        out,
        whole: BTreeMap::new(),
        told: Timestamp::now(),
        tells: true,
        follow: None,
    };
    let mut answered = true;
    loop {
        let trouble = match link.talk().await {
            Ok(Some(mut talk)) => match keeper.converse(&link, &mut talk, &mut wished).await {
                Ok(Over) => return,
                // It may just have ended; the next try finds out.
                Err((_, true)) => None,
                Err((cause, false)) => Some(cause),
            },
            Ok(None) => {
                let _ = tell(&keeper.out, News::Gone { pid: link.pid }).await;
                return;
            }
            Err(cause) => Some(cause),
        };
        if let Some(cause) = &trouble
            && tell(&keeper.out, News::Trouble { pid: link.pid, cause: cause.to_string() }).await.is_err()
        {
            return;
        }
        // A keeper whose answers can't be used is asked less often.
        let wait = if trouble.is_none() && answered { ASK } else { PATIENCE };
        answered = trouble.is_none();
        sleep(wait).await;
    }
}

/// What has been told of one keeper.
struct Keeper {
    pid: u32,
    out: mpsc::Sender<News>,
    /// Upstreams whose whole history was told, with their health then.
    whole: BTreeMap<String, State>,
    /// When history was told last.
    told: Timestamp,
    /// Whether it tells history.
    tells: bool,
    follow: Option<Follow>,
}

struct Follow(AbortHandle);

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    /// Until nobody listens, or the conversation fails; then with whether it had gone well so far.
    async fn converse(
        &mut self,
        link: &KeeperLink,
        talk: &mut Talk,
        wished: &mut mpsc::Receiver<String>,
    ) -> Result<Over, (LinkError, bool)> {
        let mut turn = interval(ASK);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut well = false;
        for round in 0u32.. {
            tokio::select! {
                _ = turn.tick() => {}
                Some(name) = wished.recv() => {
                    let outcome = self.patiently(talk.reconnect(&name)).await;
                    let (told, failed) = match outcome {
                        Ok(outcome) => (Ok(outcome), None),
                        Err(cause) => (Err(cause.to_string()), Some(cause)),
                    };
                    if tell(&self.out, News::Reconnected { name, outcome: told }).await.is_err() {
                        return Ok(Over);
                    }
                    if let Some(cause) = failed {
                        return Err((cause, well));
                    }
                }
            }
            let status = self.patiently(talk.status()).await.map_err(|cause| (cause, well))?;
            well = true;
            if self.follow.as_ref().is_none_or(|follow| follow.0.is_finished()) {
                self.follow =
                    Some(Follow(tokio::spawn(follow(link.clone(), self.out.clone())).abort_handle()));
            }
            let (new, turned) = self.compare(&status);
            if tell(&self.out, News::Status(status)).await.is_err() {
                return Ok(Over);
            }
            let wanted = self.tells && (turned || !new.is_empty() || round.is_multiple_of(HISTORY_EVERY));
            if wanted && self.histories(talk, new).await.map_err(|cause| (cause, well))?.is_err() {
                return Ok(Over);
            }
        }
        Ok(Over)
    }

    /// Upstreams of which nothing was told yet, and whether the health of another has turned.
    fn compare(&mut self, status: &KeeperStatus) -> (Vec<String>, bool) {
        let (mut new, mut turned) = (Vec::new(), false);
        for server in &status.servers {
            match self.whole.get_mut(&server.name) {
                Some(health) => turned |= std::mem::replace(health, server.health) != server.health,
                None if new.len() < WHOLE => new.push(server.name.clone()),
                None => {}
            }
        }
        self.whole.retain(|name, _| status.servers.iter().any(|server| server.name == *name));
        (new, turned)
    }

    async fn histories(&mut self, talk: &mut Talk, new: Vec<String>) -> Result<Result<(), Over>, LinkError> {
        // What a keeper that hung has not told meanwhile is asked for, too.
        let (now, since) = (Timestamp::now(), self.told - OVERLAP);
        let known = !self.whole.is_empty();
        let questions = known.then_some((None, Some(since))).into_iter();
        for (name, since) in questions.chain(new.into_iter().map(|name| (Some(name), None))) {
            let Some(servers) = self.patiently(talk.history(name.as_deref(), since)).await? else {
                self.tells = false;
                return Ok(tell(&self.out, News::NoHistory { pid: self.pid }).await);
            };
            self.whole.extend(name.map(|name| (name, State::Unknown)));
            if let over @ Err(Over) = tell(&self.out, News::History { pid: self.pid, since, servers }).await {
                return Ok(over);
            }
        }
        self.told = now;
        Ok(Ok(()))
    }

    /// Waits for an answer however long it takes, and tells meanwhile that there is none.
    async fn patiently<T>(
        &self,
        question: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let mut question = pin!(question);
        loop {
            if let Ok(answer) = timeout(PATIENCE, &mut question).await {
                return answer;
            }
            let cause = LinkError::Hangs { pid: self.pid }.to_string();
            let _ = tell(&self.out, News::Trouble { pid: self.pid, cause }).await;
        }
    }
}

/// Tells a keeper's journal, as it is and as it goes on.
async fn follow(link: KeeperLink, out: mpsc::Sender<News>) {
    let Ok(mut lines) = link.log(None, Some(Timestamp::now() - JOURNAL), true).await else { return };
    while let Ok(Some(line)) = lines.next().await {
        match line {
            LogLine::Entry(entry) => {
                if tell(&out, News::Entry(entry)).await.is_err() {
                    return;
                }
            }
            // The whole is asked for again; the model knows what it has.
            LogLine::Missed(_) => return,
        }
    }
}
