//! Connections to one upstream: opened, kept, used once at a time, and honest about what was written.
//!
//! Decides which connection carries a request (by the rule it is given) and when an idle one is closed. Follows no
//! redirect, reads no variables and sends nothing twice: a request goes to a second connection only after
//! proof that no byte of it was written to the first, and [`Counts::handed_back`] counts each such case.
//!
//! A connection is driven by whoever waits for its answer, not by a task of its own: at 32 calls in flight that
//! took a sixth off the CPU time of each call.

use std::borrow::Borrow;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderValue, Request, response};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::task::coop::unconstrained;

pub use super::broken::{Broken, Cause, Wrote};
use super::route::Route;
use super::socket::{self, Gauge, Peer, Wire};
pub use super::target::{Nearness, Target, TargetError};
pub use super::trust::Tls;
use crate::clock::Clock;
use crate::quiet::hushed;

/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most bytes that are read ahead on one connection. A piece of a body can be up to twice that, by the way the
/// buffer grows.
const MAX_READ: usize = 128 * 1024;
/// So much memory is taken at once for a body of a known length.
const PROMISED: usize = 1024 * 1024;
/// Idle connections beyond these are closed, oldest first.
const MAX_IDLE: usize = 64;
/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Which connections may carry a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnRule {
    /// A new one, or any that has not been idle for over 30 s.
    Any,
    /// A new one, or one that was used less than 2 s ago; older idle ones are closed first.
    Young,
    /// A new one.
    Fresh,
}

/// The spans that the pool goes by.
#[derive(Clone, Copy, Debug)]
pub struct Spans {
    /// To connect, over all addresses of the host.
    pub connect: Duration,
    /// How long a connection counts as just used.
    pub young: Duration,
    /// How long a connection is kept unused.
    pub idle: Duration,
}

impl Default for Spans {
    fn default() -> Self {
        // Common servers close idle sockets at 5 s, so 2 s leaves room for a request on its way.
        let young = Duration::from_secs(if cfg!(relatch_blind) { 30 } else { 2 });
        Self { connect: Duration::from_secs(5), young, idle: Duration::from_secs(30) }
    }
}

/// What a dialer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections opened.
    pub opened: u64,
    /// Requests put on a connection that had carried another.
    pub reused: u64,
    /// Requests that such a connection gave back with not one byte written, and that went to a new one.
    pub handed_back: u64,
}

/// Sends requests to one target over connections of its own. Clones share them.
#[derive(Clone)]
pub struct Dialer {
    home: Arc<Home>,
}

impl Dialer {
    /// A dialer without a connection yet.
    #[must_use]
    pub fn new(target: Target, tls: Tls) -> Self {
        Self::with_spans(target, tls, Spans::default())
    }

    /// The same, going by other spans.
    #[must_use]
    pub fn with_spans(target: Target, tls: Tls, spans: Spans) -> Self {
        let home = Home {
            route: Mutex::new(Arc::new(target.route().clone())),
            target,
            tls,
            spans,
            clock: Clock::start(),
            pool: Mutex::default(),
            open: Arc::default(),
            closed: Arc::default(),
            opened: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            handed_back: AtomicU64::new(0),
        };
        Self { home: Arc::new(home) }
    }

    /// Where requests go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.home.target
    }

    /// Sends a request and waits for the head of its answer. `Host` is added where it is missing; the request's
    /// URI is the path with its query ([`Target::path_and_query`]). There is no time limit but that for connecting.
    ///
    /// Dropping the future closes the connection that it was using.
    ///
    /// # Errors
    /// [`Broken`], with proof where nothing was written.
    pub async fn send(
        &self,
        request: impl Borrow<Request<Full<Bytes>>>,
        rule: ConnRule,
    ) -> Result<Reply, Broken> {
        let request = request.borrow();
        let copy = |host: &HeaderValue| {
            let mut request = request.clone();
            request.headers_mut().entry(HOST).or_insert_with(|| host.clone());
            request
        };
        self.send_made(copy, rule).await
    }

    /// The same for a request that is made, for this `Host`, whenever a connection takes it: one that is gone gives nothing
    /// back.
    pub(crate) async fn send_made(
        &self,
        make: impl Fn(&HeaderValue) -> Request<Full<Bytes>>,
        rule: ConnRule,
    ) -> Result<Reply, Broken> {
        let home = &self.home;
        let host = home.target.host_header();
        if let Some(link) = home.take(rule) {
            home.reused.fetch_add(1, Ordering::Relaxed);
            link.gauge.look_first();
            match link.exchange(make(host), home).await {
                Err(Broken { wrote: Wrote::Nothing, cause }) => {
                    tracing::debug!(target: "relatch::dial", %cause, "idle connection was gone, nothing written");
                    home.handed_back.fetch_add(1, Ordering::Relaxed);
                }
                outcome => return outcome,
            }
        }
        // Boxed: a call on a connection that is open would carry the room for it along.
        let link = Box::pin(home.connect()).await?;
        link.exchange(make(host), home).await
    }

    /// How the target is reached now.
    #[must_use]
    pub fn route(&self) -> Arc<Route> {
        Arc::clone(&crate::lock(&self.home.route))
    }

    /// From now on it is reached this way; running requests end where they are.
    pub fn reroute(&self, route: Route) {
        *crate::lock(&self.home.route) = Arc::new(route);
        self.close_idle();
    }

    /// Closes the connections that carry nothing now.
    pub fn close_idle(&self) {
        let closed = std::mem::take(&mut self.home.pool().idle);
        drop(closed);
    }

    /// Rung when the peer has closed an idle connection. Looked at every second, so that no connection costs a task.
    #[must_use]
    pub fn idle_closed(&self) -> Arc<Notify> {
        Arc::clone(&self.home.closed)
    }

    /// Sockets open now, busy and idle.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.home.open.load(Ordering::Relaxed)
    }

    /// Sockets that carry something now, or are being opened.
    #[must_use]
    pub fn busy_sockets(&self) -> usize {
        let idle = self.home.pool().idle.len();
        self.open_sockets().saturating_sub(idle)
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            opened: self.home.opened.load(Ordering::Relaxed),
            reused: self.home.reused.load(Ordering::Relaxed),
            handed_back: self.home.handed_back.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("target", &format_args!("{}", self.home.target))
            .finish_non_exhaustive()
    }
}

/// An answer, its body still arriving.
///
/// Read to its end, its connection is kept for the next request; dropped before, the connection is closed. The
/// body advances only while it is read, so a slow reader slows the server.
pub struct Reply {
    /// Status and headers.
    pub head: response::Parts,
    body: Incoming,
    kept: Option<Bytes>,
    rest: Rest,
    home: Arc<Home>,
}

enum Rest {
    /// The body has not ended.
    Coming(Box<Link>),
    Ended,
    Cut,
}

impl Reply {
    /// The next piece of the body, at most 256 KiB; none after its end.
    ///
    /// # Errors
    /// When the body breaks off. It ends there.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, Broken>> {
        if let Some(kept) = self.kept.take() {
            return Some(Ok(kept));
        }
        loop {
            let Rest::Coming(link) = &mut self.rest else { return None };
            let body = &mut self.body;
            match std::future::poll_fn(|cx| link.poll_frame(body, cx)).await {
                Some(Ok(frame)) => {
                    let ended = self.body.is_end_stream();
                    if ended {
                        self.end();
                    }
                    match frame.into_data() {
                        Ok(piece) if !piece.is_empty() => return Some(Ok(piece)),
                        // Trailers mean nothing here.
                        Ok(_) | Err(_) => {}
                    }
                }
                Some(Err(fault)) => {
                    let cause = Cause::of_http(&fault, &link.peer);
                    self.rest = Rest::Cut;
                    return Some(Err(Broken::maybe(cause)));
                }
                None => {
                    self.end();
                    return None;
                }
            }
        }
    }

    /// Up to `limit` bytes of what is left of the body. [`Reply::whole`] tells whether that was all; if not,
    /// [`Reply::chunk`] goes on behind them.
    ///
    /// # Errors
    /// When the body breaks off before its end or the limit.
    pub async fn collect(&mut self, limit: usize) -> Result<Bytes, Broken> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        // Known from the beginning, it costs no growth. A server that promises more than it sends gets no memory for that.
        let length =
            self.body.size_hint().exact().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        loop {
            let have = first.len() + all.len();
            let Some(piece) = self.chunk().await else { break };
            let mut piece = piece?;
            if have + piece.len() > limit {
                self.kept = Some(piece.split_off(limit - have));
            }
            // One piece is the common case, and is passed on without a copy.
            if have == 0 {
                first = piece;
            } else {
                if all.is_empty() {
                    all.reserve(length.min(limit).min(PROMISED));
                    all.extend_from_slice(&std::mem::take(&mut first));
                }
                all.extend_from_slice(&piece);
            }
            if self.kept.is_some() {
                break;
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Whether the body was read to its very end.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.kept.is_none() && matches!(self.rest, Rest::Ended)
    }

    fn end(&mut self) {
        if let Rest::Coming(link) = std::mem::replace(&mut self.rest, Rest::Ended) {
            self.home.put_back(link);
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("status", &self.head.status).finish_non_exhaustive()
    }
}

/// What all clones of a dialer and its replies share.
struct Home {
    target: Target,
    route: Mutex<Arc<Route>>,
    tls: Tls,
    spans: Spans,
    clock: Clock,
    pool: Mutex<Pool>,
    open: Arc<AtomicUsize>,
    /// Rung when the peer has closed a connection that was idle.
    closed: Arc<Notify>,
    opened: AtomicU64,
    reused: AtomicU64,
    handed_back: AtomicU64,
}

/// Idle connections, the last used on top.
#[derive(Default)]
struct Pool {
    idle: Vec<Idle>,
    sweeping: bool,
}

struct Idle {
    link: Box<Link>,
    /// In ms of the dialer's clock.
    since: u64,
}

impl Home {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Box<Link>, Broken> {
        let route = Arc::clone(&crate::lock(&self.route));
        let opened = socket::open(&self.target, &route, &self.tls, self.spans.connect, &self.open)
            .await
            .map_err(Broken::unsent)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let peer = opened.peer;
        if let Some((_, now)) = &peer.address {
            // A name that has moved on leaves nothing behind that would be used again.
            self.leave(|at| !now.contains(&at));
        }
        let (sender, driver) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .max_buf_size(MAX_READ)
            .handshake(TokioIo::new(opened.wire))
            .await
            .map_err(|fault| Broken::unsent(Cause::of_http(&fault, &peer)))?;
        Ok(Box::new(Link { route, sender, driver: Some(driver), gauge: opened.gauge, peer, used: false }))
    }

    /// Closes idle connections to addresses of this sort.
    fn leave(&self, sort: impl Fn(SocketAddr) -> bool) {
        let mut pool = self.pool();
        let (left, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut pool.idle)
            .into_iter()
            .partition(|idle| idle.link.peer.address.as_ref().is_some_and(|(at, _)| sort(*at)));
        pool.idle = kept;
        drop(pool);
        drop(left);
    }

    /// The connection that was used last, if the rule takes it and it is still open.
    fn take(&self, rule: ConnRule) -> Option<Box<Link>> {
        let span = match rule {
            ConnRule::Any => self.spans.idle,
            ConnRule::Young => self.spans.young,
            ConnRule::Fresh => return None,
        };
        loop {
            let mut idle = {
                let mut pool = self.pool();
                let top = pool.idle.pop()?;
                if self.idle_for(&top) >= span {
                    // Those below are older still.
                    let _closed = (top, std::mem::take(&mut pool.idle));
                    return None;
                }
                top
            };
            if idle.link.is_open() {
                return Some(idle.link);
            }
        }
    }

    fn put_back(self: &Arc<Self>, mut link: Box<Link>) {
        // Whoever read the last of its answer has driven it so far, nearly always.
        if !link.rests() && !link.is_open() {
            return;
        }
        let mut pool = self.pool();
        // One that went another way than the present carries nothing more. Seen under the lock that `reroute` takes after.
        if !Arc::ptr_eq(&link.route, &crate::lock(&self.route)) {
            return;
        }
        let since = self.clock.now_ms();
        if pool.idle.len() >= MAX_IDLE {
            pool.idle.remove(0);
        }
        pool.idle.push(Idle { link, since });
        if !pool.sweeping {
            pool.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self), SWEEP.min(self.spans.idle / 4)));
        }
    }

    fn idle_for(&self, idle: &Idle) -> Duration {
        Duration::from_millis(self.clock.now_ms().saturating_sub(idle.since))
    }

    /// Drops what is closed or too old; tells whether anything is left.
    fn swept(&self) -> bool {
        let mut pool = self.pool();
        let mut closed = false;
        pool.idle.retain_mut(|idle| {
            let open = idle.link.is_open();
            closed |= !open;
            open && self.idle_for(idle) < self.spans.idle
        });
        if closed {
            self.closed.notify_one();
        }
        pool.sweeping = !pool.idle.is_empty();
        pool.sweeping
    }
}

/// Lives while there is something idle, so that unused sockets don't outlast their use.
async fn sweep(home: Weak<Home>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(home) = home.upgrade() else { return };
        if !home.swept() {
            return;
        }
    }
}

/// One connection and the two ends of it that the HTTP library gives out.
struct Link {
    /// The way that it was opened by.
    route: Arc<Route>,
    sender: SendRequest<Full<Bytes>>,
    /// Gone once it has ended: kept any longer, a request queued on it would never be answered.
    driver: Option<Connection<TokioIo<Wire>, Full<Bytes>>>,
    gauge: Arc<Gauge>,
    peer: Peer,
    /// Whether it has carried an answer.
    used: bool,
}

impl Link {
    async fn exchange(
        mut self: Box<Self>,
        request: Request<Full<Bytes>>,
        home: &Arc<Home>,
    ) -> Result<Reply, Broken> {
        let before = self.gauge.written();
        let answer = {
            // Always looked at: with its turn used up it would say that it waits, and wake whom it was given.
            let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
            std::future::poll_fn(|cx| {
                drive(&mut self.driver, cx);
                // Nothing but the driver brings it, so nothing else need wake whoever waits.
                answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })
            .await
        };
        match answer {
            Ok(answer) => {
                self.used = true;
                let (head, body) = answer.into_parts();
                let ended = body.is_end_stream();
                let home = home.clone();
                let mut reply = Reply { head, body, kept: None, rest: Rest::Coming(self), home };
                if ended {
                    reply.end();
                }
                Ok(reply)
            }
            Err(mut fault) => {
                let unsent = fault.take_message().is_some() || self.gauge.written() == before;
                let fault = fault.into_error();
                // Said in answer to the handshake, before the server looks at what came behind it.
                let unsent = unsent || (!self.used && socket::refuses_client(&fault));
                let cause = Cause::of_http(&fault, &self.peer);
                if let (false, Some((at, _))) = (unsent, &self.peer.address) {
                    // Where one connection breaks, those beside it are no better.
                    home.leave(|other| other == *at);
                }
                Err(if unsent { Broken::unsent(cause) } else { Broken::maybe(cause) })
            }
        }
    }

    fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // Nothing but the driver fills it.
        let mut asked = Context::from_waker(Waker::noop());
        // First the body: its being asked for is what makes the driver read.
        let frame = hushed(|| Pin::new(&mut *body).poll_frame(&mut asked));
        if frame.is_ready() {
            return frame;
        }
        drive(&mut self.driver, cx);
        Pin::new(body).poll_frame(&mut asked)
    }

    /// Whether it could take a request now, as far as is known without waiting.
    fn is_open(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.rests()
    }

    /// Whether it can take a request, as far as its driver has seen.
    fn rests(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }
}

fn drive(driver: &mut Option<Connection<TokioIo<Wire>, Full<Bytes>>>, cx: &mut Context<'_>) {
    // What ended it reaches the waiting answer or body by itself.
    if let Some(running) = driver
        && Pin::new(running).poll(cx).is_ready()
    {
        *driver = None;
    }
}
