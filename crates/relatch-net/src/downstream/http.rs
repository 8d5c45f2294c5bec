//! The HTTP side: who may speak, which upstream a path means, and the verbs of Streamable HTTP.
//!
//! Refused here is what is about the HTTP request itself, in this order: `Host` and `Origin`, token, path, method. What
//! is no upstream's goes to the [`Site`], which has its own ways to know who asks.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use relatch_wire::failure::rpc_error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::body::{Body, Part};
use super::origin::{Allowed, has_token};
use super::stream::EventId;
use super::{metrics, post, reply};
use crate::driver::Upstream;
use crate::exchange::Rests;
use crate::keeper::Keeper;
use crate::names;
use crate::quiet::Quiet;

/// The head of a request has to be whole within this, or twice that; and so long a connection stays without one.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// The largest head.
const MAX_HEAD: usize = 64 * 1024;
/// Connections beyond the bound that are told so at once; more than these are just closed.
const TURNED_AWAY: usize = 64;
/// One that is told so gets this long to read it.
const AWAY_WITHIN: Duration = Duration::from_secs(1);
/// Running requests get this long to be answered when the side is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// And the words that end the rest this long to go out.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Makes what a collector of metrics reads.
pub type Metrics = Arc<dyn Fn() -> Bytes + Send + Sync>;

/// Answers what is no upstream's: the page and the API. It gets the head of a request whose `Host` and `Origin` are
/// allowed, and whether it carried the token. `None` where nothing is at the path.
pub type Site = Arc<dyn Fn(&request::Parts, bool) -> Option<Response<Shown>> + Send + Sync>;

/// What a [`Site`] shows.
#[derive(Debug)]
pub enum Shown {
    /// All of it.
    Whole(Bytes),
    /// Pieces as they come, until the sender is gone or the side closes.
    Coming(mpsc::Receiver<Bytes>),
}

/// How the HTTP side is to be guarded, and what it shows.
#[derive(Clone)]
pub struct HttpConfig {
    /// Hosts under which it may be addressed.
    pub allowed: Allowed,
    /// The token that every request must carry; `None` only by the user's explicit wish.
    pub token: Option<String>,
    /// The text of `/metrics`.
    pub metrics: Metrics,
    /// What is served beside the upstreams.
    pub site: Site,
}

/// Serves clients until `stop` turns true (or its sender is gone), then lets running requests end for a while.
pub async fn serve(
    listener: TcpListener,
    keeper: Arc<Keeper>,
    config: HttpConfig,
    mut stop: watch::Receiver<bool>,
) {
    let bound = keeper.bounds().connections;
    let (room, beyond) = (Arc::new(Semaphore::new(bound)), Arc::new(Semaphore::new(TURNED_AWAY)));
    let side = Arc::new(Side { keeper, config });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                    let (side, stop) = (Arc::clone(&side), stop.clone());
                    connections.spawn(Quiet::new(async move {
                        connection(stream, side, stop).await;
                        drop(permit);
                    }));
                } else if let Ok(permit) = Arc::clone(&beyond).try_acquire_owned() {
                    connections.spawn(async move {
                        // Who reads nothing is let go.
                        drop(timeout(AWAY_WITHIN, turn_away(stream, bound)).await);
                        drop(permit);
                    });
                }
            }
            Err(fault) => {
                // Out of file descriptors, most likely: a pause lets some of them close.
                tracing::warn!("a connection can't be accepted: {fault}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    // What was not sent need not wait for the end; what was sent has a while to be answered.
    for (all, within) in [(false, CLOSE_WITHIN), (true, LAST_WORDS_WITHIN)] {
        side.keeper.drain(all);
        let rest = async { while connections.join_next().await.is_some() {} };
        if timeout(within, rest).await.is_ok() {
            return;
        }
    }
}

struct Side {
    keeper: Arc<Keeper>,
    config: HttpConfig,
}

/// Says that there are too many connections, and reads what was sent: closed over unread bytes, the words are lost.
async fn turn_away(mut stream: TcpStream, bound: usize) -> io::Result<()> {
    let words = format!("Service Unavailable: this keeper has {bound} connections already");
    let body = rpc_error(None, -32000, &words, None);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn connection(stream: TcpStream, side: Arc<Side>, stop: watch::Receiver<bool>) {
    // An answer in two writes costs 44 ms without it.
    drop(stream.set_nodelay(true));
    let (rests, use_of) = (Rests::default(), Arc::new(Use::default()));
    let of_service = (side, stop.clone(), rests.clone(), Arc::clone(&use_of));
    let service = service_fn(move |request| {
        let (side, stop, rests, use_of) = of_service.clone();
        async move {
            let call = use_of.call();
            let answer = side.answer(request, stop, &rests).await;
            // It runs until the last of its body is handed over to be written.
            Ok::<_, std::convert::Infallible>(answer.map(|body| body.with(call)))
        }
    });
    let socket = Socket { stream, use_of: Arc::clone(&use_of) };
    let mut builder = http1::Builder::new();
    builder.max_header_size(MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let mut told = stop.clone();
    let mut stops = pin!(stopped(&mut told));
    let mut limit = pin!(tokio::time::sleep(HEAD_WITHIN));
    let (mut first, mut stopping, mut before) = (true, false, 0);
    let ended = std::future::poll_fn(|cx| {
        // Looked at once, both ring by themselves: a call does not look at them again.
        let first = std::mem::take(&mut first);
        if !stopping
            && (first || !matches!(stop.has_changed(), Ok(false)))
            && stops.as_mut().poll(cx).is_ready()
        {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        // Ahead of the next call, which takes the connection that they give back.
        rests.poll(cx);
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // Behind that: what has come by now is no idleness, however long nobody has looked.
        while (first || limit.is_elapsed()) && limit.as_mut().poll(cx).is_ready() {
            let so_far = use_of.turns();
            if so_far == before && !use_of.is_used() {
                return Poll::Ready(None);
            }
            before = so_far;
            limit.as_mut().reset(Instant::now() + HEAD_WITHIN);
        }
        Poll::Pending
    })
    .await;
    rests.apart();
    if let Some(Err(fault)) = ended {
        tracing::debug!("a client's connection ended: {fault}");
    }
}

/// What goes on on one connection.
#[derive(Default)]
struct Use {
    /// Counts up when a request begins to be answered, and when its answer is handed over.
    turns: AtomicU64,
    /// Requests that are being answered.
    running: AtomicU64,
    /// Something is to be written that its client does not take yet.
    writing: AtomicBool,
}

/// A request that is being answered.
struct RunningCall(Arc<Use>);

impl Use {
    fn call(self: Arc<Self>) -> RunningCall {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        RunningCall(self)
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn is_used(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0 || self.writing.load(Ordering::Relaxed)
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's socket, which tells whether it takes what is written.
struct Socket {
    stream: TcpStream,
    use_of: Arc<Use>,
}

impl Socket {
    fn tried(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.use_of.writing.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.tried(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.tried(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Waits until the side is to be closed, or nobody is left who could say so.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

impl Side {
    async fn answer(
        &self,
        request: Request<Incoming>,
        stop: watch::Receiver<bool>,
        rests: &Rests,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let up = match self.upstream(&head, &stop) {
            Ok(up) => up,
            Err(answer) => return *answer,
        };
        // What is seldom asked for is boxed: a call would carry the room for it along.
        let answered = match head.method {
            Method::POST => post::post(&self.keeper, &up, &head.headers, body, rests).await,
            Method::GET => Box::pin(self.get(&up, &head.headers, stop)).await,
            Method::DELETE => Box::pin(self.delete(&up, &head.headers)).await,
            _ => Ok(only("GET, POST, DELETE")),
        };
        answered.unwrap_or_else(|refusal| *refusal)
    }

    /// The upstream that a request is for; otherwise what answers it.
    fn upstream(
        &self,
        head: &request::Parts,
        stop: &watch::Receiver<bool>,
    ) -> Result<Arc<Upstream>, post::Refusal> {
        if let Err(foreign) = self.config.allowed.check(&head.headers) {
            let words = format!("Forbidden: {foreign}");
            return Err(Box::new(post::refuse(StatusCode::FORBIDDEN, -32000, &words)));
        }
        let path = head.uri.path();
        let token = self.config.token.as_deref().map(|token| has_token(&head.headers, token));
        // `livez` and the like have no `/mcp` behind them.
        if let Some(name) = path.strip_prefix('/').and_then(|rest| rest.strip_suffix("/mcp")) {
            return match self.keeper.upstream(name) {
                _ if token == Some(false) => Err(Box::new(no_token())),
                Some(up) => Ok(up),
                None => Err(Box::new(self.unknown(path))),
            };
        }
        Err(Box::new(self.beside(head, token, stop)))
    }

    /// What is no upstream's.
    fn beside(
        &self,
        head: &request::Parts,
        token: Option<bool>,
        stop: &watch::Receiver<bool>,
    ) -> Response<Body> {
        let read = matches!(head.method, Method::GET | Method::HEAD);
        let path = head.uri.path();
        match path {
            "/livez" | "/readyz" if !read => return only("GET, HEAD"),
            "/livez" => return text(StatusCode::OK, "alive\n"),
            "/readyz" if *stop.borrow() => return text(StatusCode::SERVICE_UNAVAILABLE, "closing\n"),
            "/readyz" => return text(StatusCode::OK, "ready\n"),
            _ => {}
        }
        if path == metrics::PATH {
            let may = token != Some(false)
                || self.config.token.as_deref().is_some_and(|token| metrics::may_read(&head.headers, token));
            return match (read, may) {
                (false, _) => only("GET, HEAD"),
                (true, false) => no_token(),
                (true, true) => metrics::answer((self.config.metrics)()),
            };
        }
        match (self.config.site)(head, token == Some(true)) {
            Some(shown) => shown.map(|shown| showing(shown, stop.clone())),
            None if token == Some(false) => no_token(),
            None => self.unknown(path),
        }
    }

    /// The standing stream.
    async fn get(
        &self,
        up: &Arc<Upstream>,
        headers: &HeaderMap,
        stop: watch::Receiver<bool>,
    ) -> Result<Response<Body>, post::Refusal> {
        post::check_version(headers)?;
        if up.is_leaving() {
            return Err(post::session_not_found());
        }
        let accepts = match headers.get(http::header::ACCEPT).map(HeaderValue::to_str) {
            Some(Ok(accept)) => relatch_wire::headers::accepts(accept).sse,
            Some(Err(_)) => false,
            None => true,
        };
        if !accepts {
            let words = "Not Acceptable: Client must accept text/event-stream";
            return Err(Box::new(post::refuse(StatusCode::NOT_ACCEPTABLE, -32000, words)));
        }
        let sid = post::session_id(headers)?;
        let latch = self.keeper.latch(up, sid).await.ok_or_else(post::session_not_found)?;
        let forwarded = self.keeper.common.forwardable(headers);
        let last = headers.get(names::LAST_EVENT).and_then(|id| id.to_str().ok());
        let last = last.and_then(|id| EventId::read(id, &up.common.events));
        if let Some(event) = last.filter(|event| event.stream != 0)
            && let Some(streams) = up.streams(latch, &forwarded)
        {
            // Whoever comes back for an answer is not given the standing stream in its place.
            return Ok(reply::resumed(&streams, event, &up.name).await);
        }
        let after = last.filter(|event| event.stream == 0).map(|event| event.number);
        let (outbox, reader) = up.attach(latch, forwarded, after).ok_or_else(post::session_not_found)?;
        let mut response = reply::standing(Arc::clone(up), latch, outbox, reader, stop);
        if let Ok(sid) = HeaderValue::from_str(sid) {
            response.headers_mut().insert(names::SESSION, sid);
        }
        Ok(response)
    }

    /// The client ends its session.
    async fn delete(&self, up: &Arc<Upstream>, headers: &HeaderMap) -> Result<Response<Body>, post::Refusal> {
        post::check_version(headers)?;
        let sid = post::session_id(headers)?;
        let latch = self.keeper.latch(up, sid).await.ok_or_else(post::session_not_found)?;
        up.end(latch);
        Ok(Response::new(Body::empty()))
    }

    fn unknown(&self, path: &str) -> Response<Body> {
        let names: Vec<_> = self.keeper.names().iter().map(|name| format!("`/{name}/mcp`")).collect();
        let path: String = path.chars().take(100).collect();
        let words = match names.is_empty() {
            true => format!("Not Found: nothing is at `{path}`, and no upstream is configured"),
            false => format!("Not Found: nothing is at `{path}`; there is {}", names.join(", ")),
        };
        post::refuse(StatusCode::NOT_FOUND, -32000, &words)
    }
}

fn no_token() -> Response<Body> {
    let words = "Forbidden: the `Relatch-Token` header is missing or wrong";
    post::refuse(StatusCode::FORBIDDEN, -32000, words)
}

fn showing(shown: Shown, mut stop: watch::Receiver<bool>) -> Body {
    let mut pieces = match shown {
        Shown::Whole(bytes) => return bytes.into(),
        Shown::Coming(pieces) => pieces,
    };
    let (out, coming) = mpsc::channel(1);
    tokio::spawn(async move {
        let pass = async {
            while let Some(piece) = pieces.recv().await {
                if out.send(Ok(Part::Bytes(piece))).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = pass => {}
            () = out.closed() => {}
            () = stopped(&mut stop) => {}
        }
    });
    Body::Coming(coming)
}

fn only(methods: &'static str) -> Response<Body> {
    let mut response = post::refuse(StatusCode::METHOD_NOT_ALLOWED, -32000, "Method not allowed.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn text(status: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(Bytes::from_static(words.as_bytes()).into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
