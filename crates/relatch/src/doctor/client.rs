//! A client that sends one request, waits within a bound and keeps what came back, whatever it was.
//!
//! Decides nothing about what an answer means. Every request goes over a connection of its own unless asked otherwise,
//! is counted, and is not sent any more once the time for all of them is over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, HOST, LOCATION, ORIGIN, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use relatch_core::input::Refusal;
use relatch_core::latch::reading::looks_like_html;
use relatch_net::upstream::dial::{ConnRule, Dialer, Reply, Spans, Target, Tls};
use relatch_wire::headers::{ACCEPT_BOTH, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID, WWW_AUTHENTICATE};
use relatch_wire::sse::{SseItem, SseReader, WHOLE_EVENT};
use relatch_wire::{Envelope, Kind};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::facts::{Answer, End, Form, Seen};

/// What is read of a body that is no stream, in bytes; lists of tools can be long.
const BODY: usize = 4 * 1024 * 1024;
/// What is read of a refusal, in bytes, as relatch itself does.
const REFUSAL: usize = 64 * 1024;
/// What a page has to be allowed to send.
const MCP_HEADERS: &str = "content-type,mcp-protocol-version,mcp-session-id";
/// After so many requests without an answer no more are sent.
const SILENCES: u32 = 3;
/// A header's value of so many characters may be a secret.
const SECRET: usize = 4;
/// How long a stream that answers nothing is listened to.
pub(crate) const LISTEN: Duration = Duration::from_millis(700);
const CONNECT: Duration = Duration::from_secs(5);
/// How long the end of a session may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// The one server that is examined.
#[derive(Debug)]
pub(crate) struct Client {
    dialer: Dialer,
    headers: HeaderMap,
    /// When no request is begun any more.
    deadline: Mutex<Instant>,
    sent: AtomicU32,
    opened: AtomicU32,
    ended: AtomicU32,
    last_id: AtomicU32,
    /// Requests in a row that were not answered.
    silences: AtomicU32,
    /// Sessions that were issued and have not been ended yet.
    open: Mutex<VecDeque<String>>,
}

/// A request; what is not named is left out.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) session: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
    pub(crate) accept: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    pub(crate) origin: Option<&'a str>,
    pub(crate) last_event: Option<&'a str>,
    /// The JSON-RPC method and params of a message; its name in `Mcp-Method` is sent in the modern era only.
    pub(crate) message: Option<(&'a str, Value)>,
    pub(crate) modern: bool,
    /// Without the headers that the user gave.
    pub(crate) bare: bool,
    /// Leaves as soon as the first event id is there, before the answer where it comes later.
    pub(crate) cut: bool,
    /// Asks as a browser does whether a page may send the headers of MCP.
    pub(crate) preflight: bool,
    pub(crate) limit: Duration,
}

impl<'a> Ask<'a> {
    fn new(method: Method, accept: &'a str) -> Ask<'a> {
        Ask {
            method,
            session: None,
            version: None,
            accept: Some(accept),
            host: None,
            origin: None,
            last_event: None,
            message: None,
            modern: false,
            bare: false,
            cut: false,
            preflight: false,
            limit: Duration::from_secs(5),
        }
    }

    /// A message by POST, as common clients send it.
    pub(crate) fn post(method: &'a str, params: Value) -> Ask<'a> {
        Ask { message: Some((method, params)), ..Ask::new(Method::POST, ACCEPT_BOTH) }
    }

    /// The standing stream.
    pub(crate) fn get() -> Ask<'a> {
        Ask::new(Method::GET, "text/event-stream")
    }

    /// What a browser asks before it lets a page of `origin` call.
    pub(crate) fn preflight(origin: &'a str) -> Ask<'a> {
        Ask { origin: Some(origin), preflight: true, ..Ask::new(Method::OPTIONS, "*/*") }
    }

    /// The end of a session.
    pub(crate) fn delete() -> Ask<'a> {
        Ask { accept: None, limit: FAREWELL, ..Ask::new(Method::DELETE, "") }
    }

    /// Of this session, in the revision that it speaks.
    pub(crate) fn of(self, session: Option<&'a str>, version: &'a str) -> Ask<'a> {
        Ask { session, version: Some(version), ..self }
    }

    pub(crate) fn within(self, limit: Duration) -> Ask<'a> {
        Ask { limit, ..self }
    }
}

impl Client {
    pub(crate) fn new(target: Target, headers: HeaderMap, deadline: Instant) -> Client {
        Client {
            dialer: Dialer::new(target, Tls::platform()),
            headers,
            deadline: Mutex::new(deadline),
            sent: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            last_id: AtomicU32::new(0),
            silences: AtomicU32::new(0),
            open: Mutex::default(),
        }
    }

    pub(crate) fn target(&self) -> &Target {
        self.dialer.target()
    }

    /// The same client with another address; counts go on.
    pub(crate) fn moved(self, target: Target) -> Client {
        Client { dialer: Dialer::new(target, Tls::platform()), ..self }
    }

    /// What the user wants sent with every request.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Counts what another client of the same examination has sent.
    pub(crate) fn count(&self, other: &Client) {
        let (opened, ended) = other.sessions();
        self.sent.fetch_add(other.sent(), Ordering::Relaxed);
        self.opened.fetch_add(opened, Ordering::Relaxed);
        self.ended.fetch_add(ended, Ordering::Relaxed);
    }

    /// Requests sent so far.
    pub(crate) fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sessions opened and ended so far.
    pub(crate) fn sessions(&self) -> (u32, u32) {
        (self.opened.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }

    /// Whether the server has stopped answering.
    pub(crate) fn stopped(&self) -> bool {
        self.silences.load(Ordering::Relaxed) >= SILENCES
    }

    /// Gives the requests that follow more time, for a wait that was asked for.
    pub(crate) fn extend(&self, span: Duration) {
        self.silences.store(0, Ordering::Relaxed);
        *lock(&self.deadline) += span;
    }

    /// How long a new TCP connection takes, in ms.
    pub(crate) async fn connect(&self) -> Option<f64> {
        let target = self.target();
        let host = target.host().to_string();
        let host = host.trim_matches(['[', ']']);
        let began = Instant::now();
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect((host, target.port()))).await;
        matches!(connected, Ok(Ok(_))).then(|| ms(began))
    }

    /// Sends a request over a new connection.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Seen {
        self.ask_by(ask, ConnRule::Fresh).await
    }

    /// Sends a request over the connection of the one before, if that is still open.
    pub(crate) async fn ask_on(&self, ask: Ask<'_>) -> Seen {
        self.ask_by(ask, ConnRule::Young).await
    }

    async fn ask_by(&self, ask: Ask<'_>, rule: ConnRule) -> Seen {
        let began = Instant::now();
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut seen = match self.send(&ask, id, rule, &self.dialer).await {
            Ok(reply) => read(reply, &ask, id, began).await,
            Err(end) => Seen { end, ms: ms(began) },
        };
        if let End::Answered(answer) = &mut seen.end
            && ask.message.as_ref().is_some_and(|(method, _)| *method == "initialize")
            && answer.result.is_some()
            && let Some(session) = &answer.session
        {
            self.opened.fetch_add(1, Ordering::Relaxed);
            lock(&self.open).push_back(session.clone());
        }
        if let End::Answered(answer) = &mut seen.end {
            self.hide(answer);
        }
        seen
    }

    /// Takes the values of the user's headers out of what a server sends back.
    fn hide(&self, answer: &mut Answer) {
        let values = self.headers.values().filter_map(|value| value.to_str().ok());
        for secret in values.flat_map(|value| [value, value.rsplit(' ').next().unwrap_or_default()]) {
            if secret.len() >= SECRET {
                let said = [Some(&mut answer.body), answer.rpc_message.as_mut(), answer.location.as_mut()];
                for text in said.into_iter().flatten().chain(answer.challenge.as_mut()) {
                    *text = text.replace(secret, "…");
                }
            }
        }
    }

    /// Ends a session of this client's by DELETE.
    pub(crate) async fn end(&self, session: &str, version: &str) -> Seen {
        let seen = self.ask(Ask::delete().of(Some(session), version)).await;
        lock(&self.open).retain(|open| open != session);
        if seen.status().is_some_and(|status| (200..300).contains(&status)) {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        seen
    }

    /// That a session is gone, so that it needs no DELETE.
    pub(crate) fn lost(&self, session: &str) {
        lock(&self.open).retain(|open| open != session);
    }

    /// Ends what is left, within a bound, even when the time for requests is over.
    pub(crate) async fn end_all(&self) {
        self.extend(Duration::from_secs(3_600));
        let left: Vec<String> = lock(&self.open).drain(..).collect();
        let ends = async {
            for session in &left {
                self.end(session, "2025-11-25").await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, ends).await;
    }

    /// How long the server leaves a connection open that carries nothing: `Ok` with the span if it closed it, zero if it
    /// said that it would; `Err` with the span that it was open for. None when the answer's end was never seen.
    pub(crate) async fn idle_socket(
        &self,
        ask: Ask<'_>,
        bound: Duration,
    ) -> Option<Result<Duration, Duration>> {
        let spans = Spans { idle: bound * 2, ..Spans::default() };
        let dialer = Dialer::with_spans(self.target().clone(), Tls::platform(), spans);
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reply = self.send(&ask, id, ConnRule::Fresh, &dialer).await.ok()?;
        let closes = reply.head.headers.get(CONNECTION).and_then(|value| value.to_str().ok());
        let closes = closes.is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let read = tokio::time::timeout(ask.limit, reply.collect(REFUSAL)).await;
        if !matches!(read, Ok(Ok(_))) || !reply.whole() {
            return None;
        }
        if closes {
            return Some(Ok(Duration::ZERO));
        }
        drop(reply);
        let began = Instant::now();
        // The dialer looks once a second whether the peer has closed.
        while began.elapsed() < bound {
            if dialer.open_sockets() == 0 {
                return Some(Ok(began.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(Err(began.elapsed()))
    }

    async fn send(&self, ask: &Ask<'_>, id: u32, rule: ConnRule, dialer: &Dialer) -> Result<Reply, End> {
        if Instant::now() > *lock(&self.deadline) || self.stopped() {
            return Err(End::NotAsked);
        }
        let request = self.request(ask, id).ok_or(End::NotAsked)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        match tokio::time::timeout(ask.limit, dialer.send(request, rule)).await {
            Ok(answered) => {
                self.silences.store(0, Ordering::Relaxed);
                answered.map_err(|broken| End::Broken(broken.cause))
            }
            Err(_) => {
                self.silences.fetch_add(1, Ordering::Relaxed);
                Err(End::Silent(ask.limit))
            }
        }
    }

    fn request(&self, ask: &Ask<'_>, id: u32) -> Option<Request<Full<Bytes>>> {
        let body = ask.message.as_ref().map_or(Bytes::new(), |(method, params)| {
            let mut message = json!({ "jsonrpc": "2.0", "method": method });
            if !params.is_null() {
                message["params"] = params.clone();
            }
            if !method.starts_with("notifications/") {
                message["id"] = id.into();
            }
            message.to_string().into()
        });
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = self.target().path_and_query().parse().ok()?;
        let headers = request.headers_mut();
        if !ask.bare {
            *headers = self.headers.clone();
        }
        let mut set = |name: HeaderName, value: Option<&str>| -> Option<()> {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).ok()?);
            }
            Some(())
        };
        set(ACCEPT, ask.accept)?;
        set(ACCEPT_ENCODING, Some("identity"))?;
        set(HOST, ask.host)?;
        set(ORIGIN, ask.origin)?;
        set(HeaderName::from_static(SESSION_ID), ask.session)?;
        set(HeaderName::from_static(PROTOCOL_VERSION), ask.version)?;
        set(HeaderName::from_static(LAST_EVENT_ID), ask.last_event)?;
        if ask.preflight {
            set(HeaderName::from_static("access-control-request-method"), Some("POST"))?;
            set(HeaderName::from_static("access-control-request-headers"), Some(MCP_HEADERS))?;
        }
        if let Some((method, _)) = &ask.message {
            set(CONTENT_TYPE, Some("application/json"))?;
            set(HeaderName::from_static("mcp-method"), ask.modern.then_some(*method))?;
        }
        Some(request)
    }
}

/// Reads what came, until the answer of `id` is there, within the rest of the limit.
async fn read(mut reply: Reply, ask: &Ask<'_>, id: u32, began: Instant) -> Seen {
    let head = &reply.head;
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let kind = text("content-type").unwrap_or_default();
    let status = head.status.as_u16();
    let mut answer = Answer {
        status,
        kind: kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
        session: text(SESSION_ID),
        challenge: text(WWW_AUTHENTICATE),
        retry_after: text(RETRY_AFTER.as_str()).and_then(|text| relatch_net::upstream::retry_after(&text)),
        location: text(LOCATION.as_str()),
        allows_origin: text("access-control-allow-origin"),
        allows_headers: text("access-control-allow-headers"),
        software: ["server", "x-powered-by"].into_iter().find_map(text),
        ..Answer::default()
    };
    let left = ask.limit.saturating_sub(began.elapsed());
    if answer.kind == "text/event-stream" && (200..300).contains(&status) {
        answer.form = Form::Events;
        let wanted = ask.message.as_ref().map(|_| id);
        // Where no answer is due, what comes at once is all that is looked at.
        let span = if wanted.is_some() { left } else { left.min(LISTEN) };
        let listened = tokio::time::timeout(span, events(&mut reply, wanted, ask.cut, &mut answer)).await;
        answer.open = listened.is_err();
    } else {
        let limit = if (200..300).contains(&status) { BODY } else { REFUSAL };
        match tokio::time::timeout(left, reply.collect(limit)).await {
            Ok(Ok(body)) => take(&body, &mut answer),
            // The head was whole, and it is what counts.
            Ok(Err(_)) => answer.body = "(the body broke off)".to_owned(),
            Err(_) => answer.body = "(the body did not end in time)".to_owned(),
        }
    }
    Seen { end: End::Answered(Box::new(answer)), ms: ms(began) }
}

async fn events(reply: &mut Reply, wanted: Option<u32>, cut: bool, answer: &mut Answer) {
    let mut reader = SseReader::new(WHOLE_EVENT);
    let mut items = Vec::new();
    while let Some(Ok(chunk)) = reply.chunk().await {
        reader.feed(&chunk, &mut items);
        for item in items.drain(..) {
            match item {
                SseItem::Event { id, event, data } => {
                    answer.event_ids.extend(id);
                    if answer.event.is_none() {
                        answer.event = event;
                    }
                    let found = Envelope::read(&data).ok();
                    let answers = found.as_ref().is_some_and(|envelope| match &envelope.kind {
                        Kind::Result { id } => wanted.is_some_and(|wanted| id.raw() == wanted.to_string()),
                        Kind::Error { .. } => wanted.is_some(),
                        Kind::Request { .. } | Kind::Notification { .. } => false,
                    });
                    if answer.body.is_empty() || answers {
                        message(&data, &mut *answer);
                    }
                    if answers {
                        return;
                    }
                }
                SseItem::Id(id) => {
                    answer.event_ids.push(id);
                    if cut {
                        return;
                    }
                }
                SseItem::Retry(ms) => answer.retry = Some(ms),
                SseItem::Broken(why) => answer.body = why,
                SseItem::Comment | SseItem::LongBegin { .. } | SseItem::LongMore(_) | SseItem::LongEnd => {}
            }
        }
    }
}

pub(super) fn take(body: &Bytes, answer: &mut Answer) {
    message(body, answer);
    answer.form = if body.is_empty() {
        Form::Empty
    } else if answer.json {
        Form::Json
    } else if looks_like_html(&answer.body) {
        Form::Html
    } else {
        Form::Text
    };
}

fn message(body: &[u8], answer: &mut Answer) {
    answer.body = String::from_utf8_lossy(body).into_owned();
    let parsed = serde_json::from_slice::<Value>(body).ok();
    answer.json = parsed.is_some();
    answer.rpc_code = Envelope::read(body).ok().and_then(|envelope| envelope.error_code());
    if let Some(value) = parsed {
        answer.rpc_message = value["error"]["message"].as_str().map(str::to_owned);
        answer.id = value.get("id").cloned();
        answer.result = value.get("result").cloned();
    }
}

impl Answer {
    /// As the core reads it.
    pub(crate) fn refusal(&self) -> Refusal<'_> {
        Refusal {
            status: self.status,
            body: &self.body,
            rpc_code: self.rpc_code,
            digest: 0,
            challenge: self.challenge.is_some(),
            retry_after: self.retry_after,
            location: self.location.as_deref(),
            ended: false,
        }
    }
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1_000.0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
