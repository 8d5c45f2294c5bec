//! What others see of a running keeper: the control socket, the page and the API ask here.
//!
//! Also keeps each upstream's history: it looks at every turn and every few seconds, off the path of any call.
//! Computes no health and prints nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use relatch_admin::announced::{
    Coming, NotRestarted, PauseOutcome, Pausing, RestartOutcome, Restarting, ResumeOutcome,
};
use relatch_admin::history::{ServerHistory, server_history};
use relatch_admin::page::{Page, Watched};
use relatch_admin::reload::Reloading;
use relatch_admin::{Journal, KeeperKind, KeeperStatus, ReconnectOutcome, ServerStatus, Serving, schema};
use relatch_core::health::HealthReport;
use relatch_core::health::history::History;
use relatch_core::{At, LatchId};
use relatch_net::announced::{NoRestart, Restart, Restarted};
use relatch_net::keeper::Keeper;
use relatch_net::tell::{Story, Teller};
use tokio::sync::watch;

use crate::reload::Reloader;
use crate::render::{Style, status::story};

/// What no turn announces (counts, evidence that grows old) is written into the history this often.
const LOOK: Duration = Duration::from_secs(5);

/// A keeper as `status`, `reconnect`, `log` and the page see it.
pub(crate) struct Face {
    keeper: Arc<Keeper>,
    kind: KeeperKind,
    since: Timestamp,
    reloader: Arc<Reloader>,
    journal: Arc<Journal>,
    histories: Mutex<BTreeMap<String, History>>,
    /// Where its page is, and the page.
    page: OnceLock<(String, Weak<Page>)>,
    /// Where it serves clients over HTTP.
    serving: OnceLock<Serving>,
}

impl Face {
    /// The face of `keeper`, whose upstreams `reloader` may change.
    pub(crate) fn new(
        keeper: Arc<Keeper>,
        kind: KeeperKind,
        reloader: Arc<Reloader>,
        journal: Arc<Journal>,
    ) -> Arc<Face> {
        Arc::new(Face {
            keeper,
            kind,
            since: Timestamp::now(),
            reloader,
            journal,
            histories: Mutex::default(),
            page: OnceLock::new(),
            serving: OnceLock::new(),
        })
    }

    /// Names its page, which is at `base`, an address without a path.
    pub(crate) fn has_page(&self, base: String, page: &Arc<Page>) {
        let _ = self.page.set((base, Arc::downgrade(page)));
    }

    /// Says where it serves clients.
    pub(crate) fn serves(&self, serving: Serving) {
        let _ = self.serving.set(serving);
    }

    /// The keeper's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.keeper.clock().now_ms()
    }

    /// Writes the history for as long as there is a face.
    pub(crate) fn remember(self: &Arc<Self>) {
        let (face, mut turns) = (Arc::downgrade(self), self.keeper.turns());
        tokio::spawn(async move {
            loop {
                match face.upgrade() {
                    Some(face) => face.look(),
                    None => return,
                }
                if let Ok(Err(_)) = tokio::time::timeout(LOOK, turns.changed()).await {
                    return;
                }
            }
        });
    }

    /// Tells clients the story that `relatch status NAME` prints.
    pub(crate) fn teller(self: &Arc<Self>) -> Teller {
        let face = Arc::downgrade(self);
        Teller {
            story: Box::new(move |name, report| {
                face.upgrade().and_then(|face| face.story(name, report)).unwrap_or_else(|| Story {
                    text: format!("The keeper of `{name}` is being shut down"),
                    structured: serde_json::json!({}),
                })
            }),
            schema: schema::server_schema(),
        }
    }

    fn story(&self, name: &str, report: &HealthReport) -> Option<Story> {
        let mut server = self.server(name, &self.keeper.shown_url(name)?, report);
        // What a server says on stderr is for who runs it, and may be about another client.
        server.stderr.clear();
        let text = story(&self.keeper_status(Vec::new()), &server, Timestamp::now(), Style::Plain, None);
        Some(Story { text, structured: serde_json::to_value(server).ok()? })
    }

    fn server(&self, name: &str, url: &str, report: &HealthReport) -> ServerStatus {
        let (clock, ids) = (self.keeper.clock(), self.keeper.session_ids(name));
        let id = |latch: LatchId| ids.get(&latch).cloned().unwrap_or_default();
        let status = schema::server_status(name, url, report, &|at| clock.wall(at.0), &id);
        ServerStatus { stderr: self.keeper.stderr(name), ..status }
    }

    fn keeper_status(&self, servers: Vec<ServerStatus>) -> KeeperStatus {
        KeeperStatus {
            pid: std::process::id(),
            kind: self.kind,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.since,
            servers,
            journal: self.journal.status(),
        }
    }

    /// The upstream of this name, or all.
    fn named(&self, name: Option<&str>) -> Vec<Arc<str>> {
        let names = self.keeper.names().into_iter();
        names.filter(|known| name.is_none_or(|name| *name == **known)).collect()
    }

    fn look(&self) {
        let names = self.keeper.names();
        let now = At(self.keeper.clock().now_ms());
        let mut histories = self.histories();
        // Upstreams come and go with the configuration.
        histories.retain(|known, _| names.iter().any(|name| **name == **known));
        for name in names {
            if let Some(report) = self.keeper.summary(&name) {
                histories.entry(name.to_string()).or_insert_with(|| History::new(now)).see(&report);
            }
        }
    }

    fn histories(&self) -> MutexGuard<'_, BTreeMap<String, History>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl relatch_admin::Keeper for Face {
    fn status(&self) -> KeeperStatus {
        let names = self.keeper.names();
        let servers = names.iter().filter_map(|name| {
            Some(self.server(name, &self.keeper.shown_url(name)?, &self.keeper.report(name)?))
        });
        self.keeper_status(servers.collect())
    }

    fn reconnect(&self, name: Option<&str>) -> Vec<ReconnectOutcome> {
        let asked = self.keeper.reconnect(name);
        asked.into_iter().map(|(name, latches)| ReconnectOutcome { name, latches }).collect()
    }

    fn pause(&self, name: Option<&str>, how: Pausing) -> Coming<PauseOutcome> {
        let (keeper, names) = (Arc::clone(&self.keeper), self.named(name));
        Box::pin(async move {
            let at_most = Duration::from_millis(how.for_ms);
            // All of them first, since waiting for one takes its time.
            let paused: Vec<_> =
                names.iter().filter_map(|name| Some((name, keeper.pause(name, at_most)?))).collect();
            let end = Instant::now() + Duration::from_millis(how.drain_ms);
            let mut outcomes = Vec::new();
            for (name, running) in paused {
                let rest = end.saturating_duration_since(Instant::now());
                let left = keeper.drained(name, rest).await.unwrap_or(0);
                let until = keeper.summary(name).and_then(|report| report.pause);
                let until = until.map(|pause| keeper.clock().wall(pause.until.0));
                outcomes.push(PauseOutcome { name: name.to_string(), running, left, until });
            }
            outcomes
        })
    }

    fn resume(&self, name: Option<&str>) -> Vec<ResumeOutcome> {
        let clock = self.keeper.clock();
        let resumed = self.named(name).into_iter().filter_map(|name| {
            let (since, waiting) = self.keeper.resume(&name)?;
            Some(ResumeOutcome { name: name.to_string(), since: since.map(|at| clock.wall(at.0)), waiting })
        });
        resumed.collect()
    }

    fn restart(&self, name: &str, how: Restarting) -> Coming<RestartOutcome> {
        let (keeper, name) = (Arc::clone(&self.keeper), name.to_owned());
        let Restarting { drain_ms, stop_first } = how;
        let how = Restart { drain: Duration::from_millis(drain_ms), stop_first };
        Box::pin(async move {
            let refused =
                |name, why| RestartOutcome { name, refused: Some(why), ..RestartOutcome::default() };
            match keeper.restart(&name, how).await {
                Ok(Restarted { renewed, stayed, pending, cut, cause }) => {
                    vec![RestartOutcome { name, refused: None, renewed, stayed, pending, cut, cause }]
                }
                Err(NoRestart::Unknown) => Vec::new(),
                Err(NoRestart::NoCommand) => vec![refused(name, NotRestarted::NoCommand)],
                Err(NoRestart::Paused) => vec![refused(name, NotRestarted::Paused)],
            }
        })
    }

    fn history(&self, name: Option<&str>, from: Option<Timestamp>) -> Vec<ServerHistory> {
        // What has turned since the last look belongs to it.
        self.look();
        let clock = self.keeper.clock();
        let from = from.map_or(At(0), |from| {
            let back = Timestamp::now().as_millisecond().saturating_sub(from.as_millisecond());
            At(clock.now_ms().saturating_sub(u64::try_from(back).unwrap_or(0)))
        });
        let histories = self.histories();
        let asked = histories.iter().filter(|(known, _)| name.is_none_or(|name| name == *known));
        let drawn = asked.map(|(name, history)| server_history(name, history, from, &|at| clock.wall(at.0)));
        drawn.collect()
    }

    fn page(&self) -> Option<String> {
        let (base, page) = self.page.get()?;
        Some(format!("{base}{}", page.upgrade()?.one_time_path()))
    }

    fn serving(&self) -> Option<Serving> {
        self.serving.get().cloned()
    }

    fn reload(&self, only: Option<PathBuf>) -> Reloading {
        let reloader = Arc::clone(&self.reloader);
        Box::pin(async move { reloader.reload(only).await })
    }

    fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }
}

impl Watched for Face {
    fn turns(&self) -> watch::Receiver<u64> {
        self.keeper.turns()
    }
}
