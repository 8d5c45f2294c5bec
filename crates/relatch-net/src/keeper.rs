//! A keeper: the upstreams of this process, their downstream sessions, and the bounds that they share.
//!
//! What happens to a call is decided in the core, one machine per upstream.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use relatch_core::health::HealthReport;
use relatch_core::input::Input;
use relatch_core::policy::Policy;
use relatch_core::{LatchId, journal};
use relatch_store::Store;
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::copies::Copies;
use crate::driver::Upstream;
use crate::records::Writer;
use crate::sessions::Sessions;
use crate::spans::Spans;
use crate::tap::Tap;
use crate::tell::Teller;
use crate::upstream::dial::Tls;
use crate::upstream::way::{Address, Way};
use crate::words::Drain;
use crate::{entropy, intake, lock};

/// Expiry is looked at this often.
const EXPIRE_EVERY: Duration = Duration::from_secs(3_600);

/// Where journal entries go: upstream, date, entry. Called in order of each upstream's events and not under a lock.
pub type JournalSink = Arc<dyn Fn(&str, Timestamp, journal::Entry) + Send + Sync>;

/// One configured upstream.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name, address and the user's decisions. `local` is set from the address.
    pub policy: Policy,
    /// Headers that every request to it carries, in place of the client's.
    pub headers: HeaderMap,
    /// Where it is.
    pub address: Address,
}

/// What a keeper needs to start.
pub struct KeeperConfig {
    /// The upstreams; their names are unique.
    pub servers: Vec<ServerConfig>,
    /// Where records of downstream sessions live; none keeps nothing beyond this process.
    pub records: Option<Arc<dyn Store>>,
    /// The folder of copies of what servers say, for clients that start before their server; none keeps none.
    pub copies: Option<PathBuf>,
    /// Where journal entries go.
    pub journal: JournalSink,
    /// How TLS is spoken to upstreams.
    pub tls: Tls,
}

/// The bounds that all upstreams of a keeper share.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Unanswered requests that are kept together, in KiB.
    pub kept_kib: usize,
    /// Downstream sessions; beyond this many the least recently used ends.
    pub sessions: usize,
    /// How long a downstream session may go without use, in milliseconds.
    pub unused_ms: u64,
    /// Connections of clients at once; who comes beyond them is told so.
    pub connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { kept_kib: 256 * 1024, sessions: 10_000, unused_ms: 30 * 24 * 3_600_000, connections: 8_192 }
    }
}

/// What is under way at one upstream at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Downstream sessions.
    pub sessions: usize,
    /// Requests of clients without an answer.
    pub exchanges: usize,
    /// Messages of clients that expect no answer.
    pub notes: usize,
    /// Sendings to the upstream that have not ended, or of which something is still kept.
    pub attempts: usize,
    /// Sockets that carry something now.
    pub busy_sockets: usize,
}

/// What all upstreams of a keeper share.
pub(crate) struct Common {
    pub(crate) clock: Clock,
    /// Ids of relatch's own requests begin with this.
    pub(crate) prefix: String,
    /// Ids of events begin with this.
    pub(crate) events: Arc<str>,
    pub(crate) sessions: Sessions,
    pub(crate) writer: Arc<Writer>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) journal: JournalSink,
    /// What requests may be kept, in KiB.
    pub(crate) kept: Arc<Semaphore>,
    /// How often the health of any upstream has turned by a fact.
    pub(crate) turned: watch::Sender<u64>,
    /// Who tells clients how their connection is.
    pub(crate) teller: OnceLock<Teller>,
    /// Makes spans, where there is a collector.
    pub(crate) spans: OnceLock<Spans>,
    /// Who looks on, where somebody does.
    pub(crate) tap: OnceLock<Tap>,
    bounds: Bounds,
    numbers: AtomicU64,
    /// The headers of the newest request.
    headers: Mutex<Arc<HeaderMap>>,
}

impl Common {
    /// What of these headers goes on, as one with those of the request before where they are the same: a client sends the same ones each
    /// time, and so do clients of one kind, while each session keeps the newest.
    pub(crate) fn forwardable(&self, headers: &HeaderMap) -> Arc<HeaderMap> {
        let mut last = lock(&self.headers);
        *last = intake::forwardable(headers, &last);
        Arc::clone(&last)
    }

    /// A number that was never given before.
    pub(crate) fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// A running keeper.
pub struct Keeper {
    upstreams: RwLock<BTreeMap<Arc<str>, Arc<Upstream>>>,
    tls: Tls,
    pub(crate) common: Arc<Common>,
    /// One restoration at a time, so that an id is restored once.
    restoring: tokio::sync::Mutex<()>,
}

impl Keeper {
    /// Starts the upstreams; nothing is sent before a client asks. Needs a running tokio runtime.
    #[must_use]
    pub fn start(config: KeeperConfig) -> Arc<Keeper> {
        Keeper::within(config, Bounds::default())
    }

    /// The bounds that it goes by.
    pub(crate) fn bounds(&self) -> Bounds {
        self.common.bounds
    }

    /// The same, within other bounds.
    #[must_use]
    pub fn within(config: KeeperConfig, bounds: Bounds) -> Arc<Keeper> {
        let common = Arc::new(Common {
            clock: Clock::start(),
            prefix: entropy::relatch_id_prefix(),
            events: entropy::event_prefix().into(),
            sessions: Sessions::default(),
            writer: Writer::new(config.records),
            copies: Copies::new(config.copies),
            journal: config.journal,
            kept: Arc::new(Semaphore::new(bounds.kept_kib)),
            turned: watch::Sender::new(0),
            teller: OnceLock::new(),
            spans: OnceLock::new(),
            tap: OnceLock::new(),
            bounds,
            headers: Mutex::default(),
            numbers: AtomicU64::new(1),
        });
        let keeper = Arc::new(Keeper {
            upstreams: RwLock::default(),
            tls: config.tls,
            common,
            restoring: tokio::sync::Mutex::new(()),
        });
        for server in config.servers {
            keeper.put_in(server);
        }
        tokio::spawn(expire(Arc::downgrade(&keeper)));
        keeper
    }

    /// The names of the upstreams that are served, in order.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.all().into_iter().map(|upstream| Arc::clone(&upstream.name)).collect()
    }

    /// The address of an upstream as it may be shown.
    #[must_use]
    pub fn shown_url(&self, name: &str) -> Option<String> {
        self.upstream(name).map(|upstream| upstream.shown_url())
    }

    /// The clock by which reports are dated.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.common.clock
    }

    /// The truth about an upstream at this moment.
    #[must_use]
    pub fn report(&self, name: &str) -> Option<HealthReport> {
        self.upstream(name).map(|upstream| upstream.report())
    }

    /// The same without its sessions, of which there may be thousands.
    #[must_use]
    pub fn summary(&self, name: &str) -> Option<HealthReport> {
        self.upstream(name).map(|upstream| upstream.summary())
    }

    /// Changes whenever the health of an upstream turns by something that happened. That evidence grows old is no
    /// event: it shows in the next report.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.common.turned.subscribe()
    }

    /// The first characters of the downstream session ids of an upstream, by latch; empty on stdio.
    #[must_use]
    pub fn session_ids(&self, name: &str) -> BTreeMap<LatchId, String> {
        let Some(upstream) = self.upstream(name) else { return BTreeMap::new() };
        upstream.sids().into_iter().map(|(latch, sid)| (latch, sid.chars().take(8).collect())).collect()
    }

    /// Sockets open to an upstream, or processes of it that run.
    #[must_use]
    pub fn open_sockets(&self, name: &str) -> Option<usize> {
        self.upstream(name).map(|upstream| upstream.place().way.open())
    }

    /// The last lines that a server which is a command has said on stderr, oldest first: those of the process that went
    /// wrong last, or of the one that has opened a session since.
    #[must_use]
    pub fn stderr(&self, name: &str) -> Vec<String> {
        self.upstream(name).map_or(Vec::new(), |upstream| upstream.place().way.stderr())
    }

    /// What is under way at an upstream.
    #[must_use]
    pub fn load(&self, name: &str) -> Option<Load> {
        let upstream = self.upstream(name)?;
        let busy_sockets = upstream.place().way.busy();
        Some(upstream.desk(|desk| Load {
            sessions: desk.latches.len(),
            exchanges: desk.exchanges.len(),
            notes: desk.notes.len(),
            attempts: desk.attempts.len(),
            busy_sockets,
        }))
    }

    /// Sendings that are still under way to a former address of this upstream, but for standing streams.
    #[must_use]
    pub fn left_behind(&self, name: &str) -> usize {
        let Some(upstream) = self.upstream(name) else { return 0 };
        let place = upstream.place();
        upstream.desk(|desk| desk.left_behind(&place))
    }

    /// Asks for a relatch of every latch of one upstream, or of all. Each upstream and how many latches it has.
    pub fn reconnect(&self, name: Option<&str>) -> Vec<(String, usize)> {
        self.all()
            .into_iter()
            .filter(|upstream| name.is_none_or(|name| name == &*upstream.name))
            .map(|upstream| {
                let latches = upstream.sids().len();
                upstream.fact(Input::Reconnect { latch: None });
                (upstream.name.to_string(), latches)
            })
            .collect()
    }

    /// Waits until everything that has to outlive this process is stored.
    pub async fn flush(&self) {
        self.recorded().await;
        self.common.copies.flush().await;
    }

    /// Waits until the records of sessions are stored, which is what a client counts on. Copies are for a later one.
    pub(crate) async fn recorded(&self) {
        self.common.writer.flush().await;
    }

    /// Ends the processes that were started for upstreams, and waits for that.
    pub async fn close(&self) {
        let mut closing = tokio::task::JoinSet::new();
        for upstream in self.upstreams().values() {
            for place in upstream.places() {
                closing.spawn(async move { place.way.close().await });
            }
        }
        closing.join_all().await;
    }

    /// Ends calls because this process does: those that were not sent, or all.
    pub(crate) fn drain(&self, all: bool) {
        let upstreams: Vec<_> = self.upstreams().values().cloned().collect();
        for upstream in upstreams {
            upstream.drain(all, Drain::Keeper);
        }
    }

    /// Those that are served.
    pub(crate) fn all(&self) -> Vec<Arc<Upstream>> {
        self.upstreams().values().filter(|upstream| !upstream.is_leaving()).cloned().collect()
    }

    /// The upstream of this name, also while it leaves.
    pub(crate) fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.upstreams().get(name).cloned()
    }

    /// How TLS is spoken to upstreams.
    pub(crate) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// An upstream more, or in place of one that leaves.
    pub(crate) fn put_in(&self, server: ServerConfig) {
        let ServerConfig { policy, headers, address } = server;
        let way = Way::to(address, policy.transport, &self.tls());
        let upstream = Upstream::start(policy, headers, way, Arc::clone(&self.common), chance());
        let mut upstreams = self.upstreams.write().unwrap_or_else(PoisonError::into_inner);
        upstreams.insert(Arc::clone(&upstream.name), upstream);
    }

    /// This upstream is gone, unless another one has its name by now.
    pub(crate) fn forget(&self, gone: &Arc<Upstream>) {
        let mut upstreams = self.upstreams.write().unwrap_or_else(PoisonError::into_inner);
        if upstreams.get(&gone.name).is_some_and(|upstream| Arc::ptr_eq(upstream, gone)) {
            upstreams.remove(&gone.name);
        }
    }

    fn upstreams(&self) -> RwLockReadGuard<'_, BTreeMap<Arc<str>, Arc<Upstream>>> {
        self.upstreams.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latch of a downstream session id; sought in the records where this process doesn't know it.
    pub(crate) async fn latch(&self, upstream: &Arc<Upstream>, sid: &str) -> Option<LatchId> {
        if let Some(latch) = self.known(upstream, sid, self.common.clock.now_ms()) {
            return Some(latch);
        }
        if !self.common.writer.keeps() || self.common.sessions.knows(sid) {
            return None;
        }
        let _one = self.restoring.lock().await;
        if let Some(latch) = self.known(upstream, sid, self.common.clock.now_ms()) {
            return Some(latch);
        }
        let record = self.common.writer.get(sid).await?;
        if record.upstream != *upstream.name || record.url != upstream.place().url {
            return None;
        }
        let latch = LatchId(self.common.next());
        upstream.restore(latch, &record);
        let now = self.common.clock.now_ms();
        self.common.sessions.insert(sid.into(), Arc::clone(&upstream.name), latch, now);
        self.common.writer.touch(sid, Timestamp::now().as_millisecond());
        tracing::info!(upstream = %upstream.name, "a session of an earlier keeper goes on");
        Some(latch)
    }

    /// A new downstream session: its id and latch.
    pub(crate) fn new_session(&self, upstream: &Arc<Upstream>) -> (Arc<str>, LatchId) {
        let sid: Arc<str> = entropy::session_id().into();
        let latch = LatchId(self.common.next());
        let now = self.common.clock.now_ms();
        self.common.sessions.insert(Arc::clone(&sid), Arc::clone(&upstream.name), latch, now);
        if self.common.sessions.len() > self.common.bounds.sessions {
            self.trim(now);
        }
        (sid, latch)
    }

    fn known(&self, upstream: &Arc<Upstream>, sid: &str, now: u64) -> Option<LatchId> {
        let (latch, touch) = self.common.sessions.used(sid, &upstream.name, now)?;
        if touch {
            self.common.writer.touch(sid, Timestamp::now().as_millisecond());
        }
        Some(latch)
    }

    /// Ends sessions that were not used for long, and the oldest beyond the bound; never one with a client at it.
    fn trim(&self, now: u64) {
        let Bounds { sessions, unused_ms, .. } = self.common.bounds;
        let mut over = self.common.sessions.len().saturating_sub(sessions);
        for (sid, session) in self.common.sessions.oldest_first() {
            let unused = now.saturating_sub(session.used) > unused_ms;
            if !unused && over == 0 {
                return;
            }
            let Some(upstream) = self.upstream(&session.upstream) else { continue };
            let busy = upstream.desk(|desk| {
                desk.latches.get(&session.latch).is_some_and(|latch| latch.is_read())
                    || desk.exchanges.values().any(|exchange| exchange.latch == session.latch)
            });
            if busy {
                // An open stream is use, too.
                let _known = self.known(&upstream, &sid, now);
            } else {
                upstream.end(session.latch);
                over = over.saturating_sub(1);
            }
        }
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("upstreams", &self.names()).finish_non_exhaustive()
    }
}

/// A seed for the machine's jitter.
fn chance() -> u64 {
    let random = entropy::session_id();
    random.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}

async fn expire(keeper: std::sync::Weak<Keeper>) {
    loop {
        {
            let Some(keeper) = keeper.upgrade() else { return };
            keeper.trim(keeper.common.clock.now_ms());
            let Bounds { sessions, unused_ms, .. } = keeper.common.bounds;
            let unused = i64::try_from(unused_ms).unwrap_or(i64::MAX);
            keeper.common.writer.expire(unused, sessions, keeper.common.sessions.ids()).await;
        }
        tokio::time::sleep(EXPIRE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use relatch_core::record::{FORMAT, Record, SessionRecord};
    use relatch_store::MemoryStore;

    use crate::upstream::dial::Target;

    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    /// A keeper with one upstream that nobody serves, and its store.
    fn keeper() -> (Arc<Keeper>, Arc<Upstream>, Arc<MemoryStore>) {
        let url = "http://127.0.0.1:9/mcp";
        let store = Arc::new(MemoryStore::new());
        let keeper = Keeper::start(KeeperConfig {
            servers: vec![ServerConfig {
                policy: Policy::new("x", url),
                headers: HeaderMap::new(),
                address: Target::parse(url).unwrap().into(),
            }],
            records: Some(store.clone()),
            copies: None,
            journal: Arc::new(|_, _, _| {}),
            tls: Tls::platform(),
        });
        let upstream = keeper.upstream("x").unwrap();
        (keeper, upstream, store)
    }

    /// A session that was last used at this time.
    fn session(keeper: &Keeper, upstream: &Arc<Upstream>, id: &str, used: u64) -> LatchId {
        let latch = LatchId(keeper.common.next());
        let record = Record {
            format: FORMAT,
            id: id.to_owned(),
            upstream: "x".to_owned(),
            url: upstream.place().url.clone(),
            opened: 0,
            last_used: Timestamp::now().as_millisecond(),
            initialize: "{}".to_owned(),
            revision: "2025-11-25".to_owned(),
            initialized: true,
            session: Some(SessionRecord {
                id: None,
                revision: "2025-11-25".to_owned(),
                server: None,
                unknown: BTreeMap::new(),
            }),
            generation: 1,
            level: None,
            subscriptions: BTreeMap::new(),
            lists: BTreeMap::new(),
            hints: BTreeMap::new(),
            tell: None,
            unknown: BTreeMap::new(),
        };
        upstream.restore(latch, &record);
        keeper.common.sessions.insert(id.into(), "x".into(), latch, used);
        keeper.common.writer.put(record);
        latch
    }

    #[tokio::test]
    async fn a_session_ends_30_days_after_its_last_use_and_an_open_stream_is_use() {
        let (keeper, upstream, store) = keeper();
        session(&keeper, &upstream, "unused", 0);
        session(&keeper, &upstream, "used", DAY);
        let streaming = session(&keeper, &upstream, "streaming", 0);
        let (_, reader) = upstream.attach(streaming, Arc::new(HeaderMap::new()), None).unwrap();
        let knows = |id: &str| keeper.common.sessions.knows(id);

        keeper.trim(30 * DAY);
        assert!(knows("unused") && knows("used") && knows("streaming"));
        keeper.trim(30 * DAY + 1);
        assert!(!knows("unused") && knows("used") && knows("streaming"));
        keeper.flush().await;
        assert!(store.get("unused").unwrap().is_none() && store.get("used").unwrap().is_some());

        // The end of the stream is the beginning of its rest.
        upstream.detach(streaming, reader);
        keeper.trim(60 * DAY);
        assert!(!knows("used") && knows("streaming"));
        keeper.trim(60 * DAY + 2);
        assert!(!knows("streaming"));
    }

    #[tokio::test]
    async fn beyond_10_000_sessions_the_least_recently_used_end() {
        let (keeper, upstream, _) = keeper();
        let streaming = session(&keeper, &upstream, "streaming", 0);
        upstream.attach(streaming, Arc::new(HeaderMap::new()), None).unwrap();
        // Known to the keeper alone: ten thousand machines' latches would take this test a minute.
        for n in 1..=10_002_u64 {
            match n {
                1..=4 => {
                    session(&keeper, &upstream, &n.to_string(), n);
                }
                _ => {
                    let latch = LatchId(keeper.common.next());
                    keeper.common.sessions.insert(n.to_string().into(), "x".into(), latch, n);
                }
            }
        }
        keeper.trim(DAY);
        assert_eq!(keeper.common.sessions.len(), 10_000);
        for n in 1..=5_u64 {
            assert_eq!(keeper.common.sessions.knows(&n.to_string()), n > 3, "{n}");
        }
        assert!(keeper.common.sessions.knows("streaming"));
    }
}
