//! The bench's own MCP server, for what a real one can't show: it counts what is with it at once, and closes idle
//! connections when it is told to. A process of its own, so that it can be killed.
//!
//! It keeps its sessions in memory and a ledger of executions on disk, and answers in JSON.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{SESSION_ID, now_us};

/// What sort of server this is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Manners {
    /// Port on 127.0.0.1
    #[arg(long)]
    pub(crate) port: u16,
    /// File to which executions are appended
    #[arg(long)]
    pub(crate) ledger: PathBuf,
    /// `initialize` takes so many milliseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) handshake_ms: u64,
    /// A connection is closed after it was idle for so many milliseconds, or a random span between two: `5000`,
    /// `500-8000`
    #[arg(long, value_parser = span)]
    pub(crate) idle_ms: Option<(u64, u64)>,
}

fn span(text: &str) -> Result<(u64, u64), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
    let (low, high) = (number(low)?, number(high)?);
    if low > high { Err(format!("{low} is more than {high}")) } else { Ok((low, high)) }
}

/// Serves until the process ends.
pub(crate) async fn run(manners: Manners) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", manners.port)).await?;
    let ledger = OpenOptions::new().create(true).append(true).open(&manners.ledger)?;
    let server = Arc::new(Server {
        ledger: Mutex::new(ledger),
        sessions: Mutex::default(),
        counts: Mutex::new(Counts { began: Instant::now(), ..Counts::default() }),
        numbers: AtomicU64::new(now_us()),
        manners,
    });
    loop {
        let (socket, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(server.attend(socket));
    }
}

struct Server {
    manners: Manners,
    ledger: Mutex<File>,
    sessions: Mutex<BTreeSet<String>>,
    counts: Mutex<Counts>,
    numbers: AtomicU64,
}

/// What was with the server, at once and in all. Standing streams and questions for these counts are left out.
struct Counts {
    began: Instant,
    handshakes: u64,
    requests: u64,
    peak_handshakes: u64,
    peak_requests: u64,
    /// Requests in each tenth of a second since `began`.
    tenths: Vec<u64>,
    initialize: u64,
    initialized: u64,
    calls: u64,
    pings: u64,
    lists: u64,
    streams: u64,
    refused: u64,
    other: u64,
    /// In microseconds since 1970, 0 before.
    first_us: u64,
    last_initialized_us: u64,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            began: Instant::now(),
            handshakes: 0,
            requests: 0,
            peak_handshakes: 0,
            peak_requests: 0,
            tenths: Vec::new(),
            initialize: 0,
            initialized: 0,
            calls: 0,
            pings: 0,
            lists: 0,
            streams: 0,
            refused: 0,
            other: 0,
            first_us: 0,
            last_initialized_us: 0,
        }
    }
}

impl Counts {
    fn json(&self) -> Value {
        json!({
            "peak_handshakes": self.peak_handshakes,
            "peak_requests": self.peak_requests,
            "peak_per_s": self.tenths.iter().max().copied().unwrap_or(0) * 10,
            "initialize": self.initialize,
            "initialized": self.initialized,
            "calls": self.calls,
            "pings": self.pings,
            "lists": self.lists,
            "streams": self.streams,
            "refused": self.refused,
            "other": self.other,
            "first_us": self.first_us,
            "last_initialized_us": self.last_initialized_us,
        })
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that is whole, or that stays open and says nothing.
enum Saying {
    Whole(Option<Bytes>),
    Silent,
}

impl Body for Saying {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Saying::Whole(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Saying::Silent => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Saying::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Saying::Whole(text) => {
                http_body::SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64))
            }
            Saying::Silent => http_body::SizeHint::default(),
        }
    }
}

/// When a connection is to be closed, unless something is under way on it.
struct Idle {
    busy: bool,
    at: Option<Instant>,
}

impl Server {
    async fn attend(self: Arc<Self>, socket: TcpStream) {
        if socket.set_nodelay(true).is_err() {
            return;
        }
        let idle = Arc::new(Mutex::new(Idle { busy: false, at: self.closing_time() }));
        let service = service_fn(|request: Request<Incoming>| {
            let (server, idle) = (Arc::clone(&self), Arc::clone(&idle));
            async move {
                lock(&idle).busy = true;
                let said = server.answer(request).await;
                *lock(&idle) = Idle { busy: false, at: server.closing_time() };
                Ok::<_, Infallible>(said)
            }
        });
        let mut connection =
            std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        loop {
            let due = {
                let idle = lock(&idle);
                let soon = Instant::now() + Duration::from_secs(1);
                if idle.busy { soon } else { idle.at.unwrap_or(soon) }
            };
            tokio::select! {
                ended = &mut connection => return drop(ended),
                () = tokio::time::sleep_until(due.into()) => {}
            }
            let over = {
                let idle = lock(&idle);
                !idle.busy && idle.at.is_some_and(|at| at <= Instant::now())
            };
            if over {
                connection.as_mut().graceful_shutdown();
                return drop(connection.await);
            }
        }
    }

    fn closing_time(&self) -> Option<Instant> {
        let (low, high) = self.manners.idle_ms?;
        // Spread well enough for moments, and without a dependency: the golden ratio's multiples.
        let step = self.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        Some(Instant::now() + Duration::from_millis(low + step % (high - low + 1)))
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Saying> {
        if request.uri().path() == "/counts" {
            let text = lock(&self.counts).json().to_string();
            return whole(StatusCode::OK, text);
        }
        let sid =
            request.headers().get(SESSION_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let verb = request.method().clone();
        if verb == Method::GET {
            lock(&self.counts).streams += 1;
            if !lock(&self.sessions).contains(&sid) {
                lock(&self.counts).refused += 1;
                return whole(StatusCode::NOT_FOUND, "Session not found");
            }
            let mut said = Response::new(Saying::Silent);
            said.headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
            return said;
        }
        let body = match request.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return whole(StatusCode::BAD_REQUEST, "half a request"),
        };
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let handshake = method == "initialize";
        self.comes(&method);
        let said = self.reply(&verb, &method, &message, &sid).await;
        let mut counts = lock(&self.counts);
        counts.requests -= 1;
        counts.handshakes -= u64::from(handshake);
        if said.status() == StatusCode::NOT_FOUND {
            counts.refused += 1;
        } else if method == "notifications/initialized" {
            counts.initialized += 1;
            counts.last_initialized_us = now_us();
        }
        said
    }

    fn comes(&self, method: &str) {
        let mut counts = lock(&self.counts);
        let tenth = usize::try_from(counts.began.elapsed().as_millis() / 100).unwrap_or(0);
        if counts.tenths.len() <= tenth {
            counts.tenths.resize(tenth + 1, 0);
        }
        counts.tenths[tenth] += 1;
        counts.requests += 1;
        counts.peak_requests = counts.peak_requests.max(counts.requests);
        if counts.first_us == 0 {
            counts.first_us = now_us();
        }
        match method {
            "initialize" => {
                counts.initialize += 1;
                counts.handshakes += 1;
                counts.peak_handshakes = counts.peak_handshakes.max(counts.handshakes);
            }
            "tools/call" => counts.calls += 1,
            "ping" => counts.pings += 1,
            "tools/list" => counts.lists += 1,
            "notifications/initialized" => {}
            _ => counts.other += 1,
        }
    }

    async fn reply(&self, verb: &Method, method: &str, message: &Value, sid: &str) -> Response<Saying> {
        let result = |result: Value| {
            let id = &message["id"];
            whole(StatusCode::OK, json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string())
        };
        if method == "initialize" {
            if self.manners.handshake_ms > 0 {
                tokio::time::sleep(Duration::from_millis(self.manners.handshake_ms)).await;
            }
            let sid = format!("{:016x}", self.number().wrapping_mul(0x9e37_79b9_7f4a_7c15));
            lock(&self.sessions).insert(sid.clone());
            let mut said = result(json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "relatch-bench", "version": "1"},
            }));
            if let Ok(sid) = http::HeaderValue::from_str(&sid) {
                said.headers_mut().insert(SESSION_ID, sid);
            }
            return said;
        }
        if !lock(&self.sessions).contains(sid) {
            return whole(StatusCode::NOT_FOUND, "Session not found");
        }
        match (verb, method) {
            (&Method::DELETE, _) => {
                lock(&self.sessions).remove(sid);
                whole(StatusCode::OK, "")
            }
            (_, "tools/call") => {
                let key = &message["params"]["arguments"]["key"];
                let line = format!("{}\n", json!({"key": key, "pid": std::process::id()}));
                match lock(&self.ledger).write_all(line.as_bytes()) {
                    Ok(()) => result(json!({"content": [{"type": "text", "text": "counted"}]})),
                    Err(_) => whole(StatusCode::INTERNAL_SERVER_ERROR, "the ledger can't be written"),
                }
            }
            (_, "tools/list") => result(json!({"tools": [{
                "name": "count",
                "description": "Counts one execution",
                "inputSchema": {"type": "object", "properties": {"key": {"type": "string"}}},
            }]})),
            (_, "ping") => result(json!({})),
            _ => whole(StatusCode::ACCEPTED, ""),
        }
    }
}

fn whole(status: StatusCode, text: impl Into<Bytes>) -> Response<Saying> {
    let text: Bytes = text.into();
    let json = status == StatusCode::OK && text.first() == Some(&b'{');
    let mut said = Response::new(Saying::Whole((!text.is_empty()).then_some(text)));
    *said.status_mut() = status;
    if json {
        said.headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    }
    said
}
