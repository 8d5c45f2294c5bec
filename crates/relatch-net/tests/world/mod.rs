//! A world on loopback: an MCP server that does what a test says, a keeper in front of it, and plain clients.
#![expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its own part of the world, in which nothing may go wrong"
)]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use relatch_core::journal;
use relatch_core::policy::Policy;
use relatch_net::downstream::http::{HttpConfig, Shown, serve};
use relatch_net::downstream::origin::Allowed;
use relatch_net::keeper::{Bounds, Keeper, KeeperConfig, ServerConfig};
use relatch_net::upstream::command::Command;
use relatch_net::upstream::dial::Tls;
use relatch_net::upstream::target::Target;
use relatch_net::upstream::way::Address;
use relatch_store::Store;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Nothing in a test takes longer.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits for something with a deadline.
pub async fn soon<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, waiting).await {
        Ok(got) => got,
        Err(_) => panic!("{what} did not happen within {SOON:?}"),
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub verb: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn method(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The raw id of the request.
    pub fn id(&self) -> String {
        self.json()["id"].to_string()
    }
}

pub type Say = Response<Saying>;
pub type Saying = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

struct Coming(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// The speaking end of a stream; dropping it ends the stream, and [`Voice::cut`] breaks it.
pub struct Voice(mpsc::Sender<Result<Bytes, std::io::Error>>);

impl Voice {
    pub async fn raw(&self, text: impl Into<Bytes>) {
        let _ = self.0.send(Ok(text.into())).await;
    }

    pub async fn event(&self, message: &str) {
        self.raw(format!("event: message\ndata: {message}\n\n")).await;
    }

    pub async fn cut(self) {
        let _ = self.0.send(Err(std::io::Error::other("cut"))).await;
    }

    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

pub fn say(status: u16, kind: &str, text: impl Into<Bytes>) -> Say {
    let body = Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if !kind.is_empty() {
        response.headers_mut().insert("content-type", kind.parse().unwrap());
    }
    response
}

pub fn json(text: impl Into<Bytes>) -> Say {
    say(200, "application/json", text)
}

pub fn stream(kind: &str) -> (Voice, Say) {
    let (voice, coming) = mpsc::channel(4);
    let mut response = Response::new(Coming(coming).boxed());
    response.headers_mut().insert("content-type", kind.parse().unwrap());
    (Voice(voice), response)
}

pub fn sse() -> (Voice, Say) {
    stream("text/event-stream")
}

/// A server on loopback.
pub struct Server {
    pub at: SocketAddr,
    pub log: Arc<Mutex<Vec<Seen>>>,
    /// Connections that were made to it so far.
    pub connections: Arc<AtomicUsize>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers each request as `script` says.
    pub async fn start<F, S>(script: F) -> Server
    where
        F: Fn(Seen) -> S + Send + Sync + 'static,
        S: Future<Output = Say> + Send + 'static,
    {
        Server::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub async fn start_at<F, S>(at: SocketAddr, script: F) -> Server
    where
        F: Fn(Seen) -> S + Send + Sync + 'static,
        S: Future<Output = Say> + Send + 'static,
    {
        let listener = soon("the port is free", async {
            loop {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                match socket.bind(at).and_then(|()| socket.listen(64)) {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await;
        let at = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let (script, seen) = (Arc::new(script), Arc::clone(&log));
        let task = tokio::spawn(async move {
            let mut sockets = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::SeqCst);
                let _ = socket.set_nodelay(true);
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        let one = Seen {
                            verb: head.method,
                            path: head.uri.to_string(),
                            headers: head.headers,
                            body,
                        };
                        seen.lock().unwrap().push(one.clone());
                        Ok::<_, Infallible>(script(one).await)
                    }
                });
                sockets.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Server { at, log, connections, task: Some(task) }
    }

    /// An ordinary server that keeps sessions, and `tools/call` as `script` says.
    pub async fn ordinary<F, S>(script: F) -> Server
    where
        F: Fn(Seen) -> S + Send + Sync + 'static,
        S: Future<Output = Say> + Send + 'static,
    {
        Server::ordinary_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub async fn ordinary_at<F, S>(at: SocketAddr, script: F) -> Server
    where
        F: Fn(Seen) -> S + Send + Sync + 'static,
        S: Future<Output = Say> + Send + 'static,
    {
        let manners = Arc::new(Manners::default());
        let script = Arc::new(script);
        Server::start_at(at, move |seen| {
            let (manners, script) = (Arc::clone(&manners), Arc::clone(&script));
            async move {
                match manners.answer(&seen).await {
                    Some(said) => said,
                    None => script(seen).await,
                }
            }
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.at)
    }

    pub fn seen(&self, what: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.log.lock().unwrap().iter().filter(|seen| what(seen)).cloned().collect()
    }

    pub fn methods(&self) -> Vec<String> {
        self.seen(|seen| seen.verb == Method::POST).iter().map(Seen::method).collect()
    }

    /// Ends the server and every connection to it, as a killed process would.
    pub async fn kill(mut self) -> SocketAddr {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
        self.at
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The manners of an ordinary server: sessions, handshake, lists.
#[derive(Default)]
pub struct Manners {
    sessions: Mutex<BTreeSet<String>>,
    count: AtomicU64,
}

static SESSIONS: AtomicU64 = AtomicU64::new(1);

impl Manners {
    pub async fn answer(&self, seen: &Seen) -> Option<Say> {
        let message = seen.json();
        let method = seen.method();
        if method == "initialize" {
            let id = format!("upstream-{}", SESSIONS.fetch_add(1, Ordering::SeqCst));
            self.sessions.lock().unwrap().insert(id.clone());
            let revision = message["params"]["protocolVersion"].as_str().unwrap_or("2025-11-25");
            let mut said = json(format!(
                r#"{{"result":{{"protocolVersion":"{revision}","capabilities":{{"tools":{{}},"logging":{{}}}},"serverInfo":{{"name":"ordinary","version":"1.0"}}}},"jsonrpc":"2.0","id":{}}}"#,
                seen.id()
            ));
            said.headers_mut().insert("mcp-session-id", id.parse().unwrap());
            return Some(said);
        }
        let known =
            seen.header("mcp-session-id").is_some_and(|id| self.sessions.lock().unwrap().contains(id));
        if !known {
            return Some(say(
                404,
                "application/json",
                r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#,
            ));
        }
        match (&seen.verb, method.as_str()) {
            (&Method::DELETE, _) => {
                self.sessions.lock().unwrap().remove(seen.header("mcp-session-id").unwrap());
                Some(say(200, "", ""))
            }
            (&Method::GET, _) => {
                let (voice, said) = sse();
                tokio::spawn(async move {
                    voice.raw(": hello\n\n").await;
                    voice.closed().await;
                });
                Some(said)
            }
            (_, "ping") => Some(json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id()))),
            (_, "tools/list") => {
                self.count.fetch_add(1, Ordering::SeqCst);
                Some(json(format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"tools":[{{"name":"echo","inputSchema":{{"type":"object"}}}}]}}}}"#,
                    seen.id()
                )))
            }
            (_, method) if method.starts_with("notifications/") => Some(say(202, "", "")),
            _ => None,
        }
    }
}

/// A keeper with its HTTP side.
pub struct World {
    pub keeper: Arc<Keeper>,
    pub at: SocketAddr,
    pub journal: Arc<Mutex<Vec<journal::Entry>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub fn keeper(
    url: &str,
    shape: impl FnOnce(&mut Policy),
    store: Option<Arc<dyn Store>>,
    bounds: Bounds,
) -> (Arc<Keeper>, Arc<Mutex<Vec<journal::Entry>>>) {
    keeper_at(Target::parse(url).unwrap().into(), url, shape, store, (bounds, None))
}

fn keeper_at(
    address: Address,
    url: &str,
    shape: impl FnOnce(&mut Policy),
    store: Option<Arc<dyn Store>>,
    (bounds, copies): (Bounds, Option<PathBuf>),
) -> (Arc<Keeper>, Arc<Mutex<Vec<journal::Entry>>>) {
    let mut policy = Policy::new("x", url);
    shape(&mut policy);
    let journal: Arc<Mutex<Vec<journal::Entry>>> = Arc::default();
    let sink = Arc::clone(&journal);
    let config = KeeperConfig {
        copies,
        servers: vec![ServerConfig { policy, headers: HeaderMap::new(), address }],
        records: store,
        journal: Arc::new(move |_, _, entry| sink.lock().unwrap().push(entry)),
        tls: Tls::platform(),
    };
    let keeper = Keeper::within(config, bounds);
    (keeper, journal)
}

fn copying(
    url: &str,
    dir: &Path,
    store: Option<Arc<dyn Store>>,
) -> (Arc<Keeper>, Arc<Mutex<Vec<journal::Entry>>>) {
    let address = Target::parse(url).unwrap().into();
    let shape = |policy: &mut Policy| policy.copies = true;
    keeper_at(address, url, shape, store, (Bounds::default(), Some(dir.to_owned())))
}

/// A site with a whole answer for those who have the token or need none, and one that never ends.
fn site(head: &http::request::Parts, token: bool) -> Option<http::Response<Shown>> {
    match head.uri.path() {
        "/api/status" => Some(http::Response::new(Shown::Whole(format!("{{\"token\":{token}}}").into()))),
        "/api/events" => {
            let (out, coming) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                out.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
                out.closed().await;
            });
            Some(http::Response::new(Shown::Coming(coming)))
        }
        _ => None,
    }
}

/// A server that is a shell script.
pub fn shell(script: &str, folder: &Path) -> Command {
    Command {
        program: "/bin/sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        folder: Some(folder.to_owned()),
        ..Command::default()
    }
}

impl World {
    pub async fn before(server: &Server) -> World {
        World::with(&server.url(), |_| {}, None).await
    }

    pub async fn with(url: &str, shape: impl FnOnce(&mut Policy), store: Option<Arc<dyn Store>>) -> World {
        World::guarded(url, shape, store, None).await
    }

    /// In front of a server that is a command.
    pub async fn running(command: Command) -> World {
        let shape = |policy: &mut Policy| policy.process = true;
        let (keeper, journal) = keeper_at(command.into(), "sh", shape, None, (Bounds::default(), None));
        World::serving(keeper, journal, None).await
    }

    /// One that keeps copies in this folder.
    pub async fn copying(url: &str, dir: &Path, store: Option<Arc<dyn Store>>) -> World {
        let (keeper, journal) = copying(url, dir, store);
        World::serving(keeper, journal, None).await
    }

    pub async fn within(url: &str, bounds: Bounds) -> World {
        let (keeper, journal) = keeper(url, |_| {}, None, bounds);
        World::serving(keeper, journal, None).await
    }

    pub async fn guarded(
        url: &str,
        shape: impl FnOnce(&mut Policy),
        store: Option<Arc<dyn Store>>,
        token: Option<String>,
    ) -> World {
        let (keeper, journal) = keeper(url, shape, store, Bounds::default());
        World::serving(keeper, journal, token).await
    }

    async fn serving(
        keeper: Arc<Keeper>,
        journal: Arc<Mutex<Vec<journal::Entry>>>,
        token: Option<String>,
    ) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let config = HttpConfig {
            allowed: Allowed::new::<&str>(at, &[]).unwrap(),
            token,
            metrics: Arc::new(|| Bytes::from_static(b"up 1\n")),
            site: Arc::new(site),
        };
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(serve(listener, Arc::clone(&keeper), config, stopping));
        World { keeper, at, journal, stop, task }
    }

    pub fn client(&self) -> Client {
        Client { at: self.at, sid: None, more: Vec::new() }
    }

    /// A client whose handshake is done.
    pub async fn opened(&self) -> Client {
        let mut client = self.client();
        client.open("2025-11-25").await;
        client
    }

    pub fn journalled(&self) -> Vec<journal::What> {
        self.journal.lock().unwrap().iter().map(|entry| entry.what).collect()
    }

    /// Stops the HTTP side and waits for its end.
    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        soon("the side closes", self.task).await.unwrap();
        self.keeper.flush().await;
    }
}

/// A client that speaks plain HTTP.
#[derive(Clone)]
pub struct Client {
    pub at: SocketAddr,
    pub sid: Option<String>,
    pub more: Vec<(&'static str, String)>,
}

/// A client's connection that stays open from one request to the next.
pub struct Line {
    client: Client,
    sender: http1::SendRequest<Full<Bytes>>,
    socket: JoinHandle<()>,
}

impl Line {
    /// The status of the answer, and every message in it.
    pub async fn post(&mut self, body: impl Into<Bytes>) -> (u16, Vec<Value>) {
        soon("an answer", async {
            let request = self.client.request(Method::POST, "/x/mcp", &[]);
            let request = request.body(Full::new(body.into())).unwrap();
            self.sender.ready().await.unwrap();
            let answer = self.sender.send_request(request).await.unwrap();
            let (head, body) = answer.into_parts();
            let text = body.collect().await.expect("a whole body").to_bytes();
            let text = std::str::from_utf8(&text).unwrap();
            let events = head.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
            let messages = match events {
                true => text.lines().filter_map(|line| line.strip_prefix("data: ")).collect(),
                false => vec![text],
            };
            let messages = messages.into_iter().filter(|message| !message.is_empty());
            // What is refused may be said in other words than JSON.
            let read = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            (head.status.as_u16(), messages.map(read).collect())
        })
        .await
    }

    /// The one message that answers this call.
    pub async fn call(&mut self, id: u64, tool: &str) -> Value {
        let (status, mut messages) = self.post(call_text(id, tool)).await;
        assert_eq!((status, messages.len()), (200, 1), "{messages:?}");
        messages.remove(0)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.socket.abort();
    }
}

pub fn call_text(id: u64, tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
    )
}

/// An answer whose body may still be coming.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    kept: Vec<u8>,
    /// The id of the last event, and the last `retry`.
    pub last_id: Option<String>,
    pub retry: Option<String>,
    _socket: JoinHandle<()>,
}

impl Client {
    pub async fn open(&mut self, revision: &str) -> Answer {
        let answer = self
            .post(&format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{{"sampling":{{}}}},"clientInfo":{{"name":"test","version":"1"}}}}}}"#
            ))
            .await;
        assert_eq!(answer.status, 200);
        self.sid = answer.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        assert!(self.sid.is_some());
        let noted = self.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(noted.status, 202);
        answer
    }

    pub async fn post(&self, body: &str) -> Answer {
        self.send(Method::POST, "/x/mcp", body.to_owned().into(), &[]).await
    }

    pub async fn call(&self, id: u64, tool: &str) -> Answer {
        self.post(&call_text(id, tool)).await
    }

    /// A connection of its own that stays open.
    pub async fn line(&self) -> Line {
        let socket = TcpStream::connect(self.at).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (sender, driver) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        let socket = tokio::spawn(async move {
            let _ = driver.await;
        });
        Line { client: self.clone(), sender, socket }
    }

    fn request(&self, verb: Method, path: &str, more: &[(&str, &str)]) -> http::request::Builder {
        let mut request = Request::builder().method(verb.clone()).uri(path);
        let headers = request.headers_mut().unwrap();
        headers.insert("host", self.at.to_string().parse().unwrap());
        if verb == Method::POST {
            headers.insert("content-type", "application/json".parse().unwrap());
            headers.insert("accept", "application/json, text/event-stream".parse().unwrap());
        }
        if let Some(sid) = &self.sid {
            headers.insert("mcp-session-id", sid.parse().unwrap());
        }
        for (name, value) in self.more.iter().map(|(n, v)| (*n, v.as_str())).chain(more.iter().copied()) {
            headers.remove(name);
            if !value.is_empty() {
                headers
                    .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
        }
        request
    }

    pub async fn listen(&self) -> Answer {
        self.send(Method::GET, "/x/mcp", Bytes::new(), &[("accept", "text/event-stream")]).await
    }

    pub async fn send(&self, verb: Method, path: &str, body: Bytes, more: &[(&str, &str)]) -> Answer {
        soon("an answer", async {
            let socket = TcpStream::connect(self.at).await.unwrap();
            let (mut sender, driver) = http1::handshake(TokioIo::new(socket)).await.unwrap();
            let socket = tokio::spawn(async move {
                let _ = driver.await;
            });
            let request = self.request(verb, path, more);
            let answer = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
                kept: Vec::new(),
                last_id: None,
                retry: None,
                _socket: socket,
            }
        })
        .await
    }
}

impl Answer {
    pub fn kind(&self) -> &str {
        self.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap())
    }

    pub async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            let frame = soon("a piece of the body", self.body.frame()).await?;
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => return Some(Ok(data)),
                Ok(Err(_)) => {}
                Err(fault) => return Some(Err(fault)),
            }
        }
    }

    pub async fn text(mut self) -> String {
        while let Some(chunk) = self.chunk().await {
            self.kept.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(self.kept).unwrap()
    }

    pub async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
    }

    /// The data of the next event; `None` at the end of the stream.
    pub async fn event(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.kept.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.kept.drain(..at + 2).collect();
                let block = String::from_utf8(block).unwrap();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => self.last_id = Some(id.to_owned()),
                        Some(("retry", ms)) => self.retry = Some(ms.to_owned()),
                        _ => {}
                    }
                }
                let data: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                if data.iter().any(|line| !line.is_empty()) && !block.contains("event: relatch-void") {
                    return Some(data.join("\n"));
                }
                continue;
            }
            match self.chunk().await {
                Some(chunk) => self.kept.extend_from_slice(&chunk.unwrap()),
                None => return None,
            }
        }
    }

    pub async fn event_json(&mut self) -> Value {
        let text = self.event().await.expect("an event");
        serde_json::from_str(&text).unwrap()
    }
}

/// A client on stdio.
pub struct Stdio {
    pub keeper: Arc<Keeper>,
    input: Option<WriteHalf<DuplexStream>>,
    output: BufReader<ReadHalf<DuplexStream>>,
    _unread: ReadHalf<DuplexStream>,
    _unwritten: WriteHalf<DuplexStream>,
    pub stop: watch::Sender<bool>,
    pub task: JoinHandle<Result<(), relatch_net::downstream::stdio::StdioError>>,
}

impl Stdio {
    pub async fn before(url: &str) -> Stdio {
        Stdio::with(url, |_| {}).await
    }

    pub async fn with(url: &str, shape: impl FnOnce(&mut Policy)) -> Stdio {
        let (keeper, _) = keeper(url, shape, None, Bounds::default());
        Stdio::at(keeper)
    }

    /// One that keeps copies in this folder.
    pub async fn copying(url: &str, dir: &Path) -> (Stdio, Arc<Mutex<Vec<journal::Entry>>>) {
        let (keeper, journal) = copying(url, dir, None);
        (Stdio::at(keeper), journal)
    }

    /// In front of a server that is a shell script.
    pub async fn running(script: &str, folder: &Path) -> Stdio {
        let command = shell(script, folder);
        let shape = |policy: &mut Policy| policy.process = true;
        let (keeper, _) = keeper_at(command.into(), "sh", shape, None, (Bounds::default(), None));
        Stdio::at(keeper)
    }

    fn at(keeper: Arc<Keeper>) -> Stdio {
        let (stop, stopping) = watch::channel(false);
        let (near_in, far_in) = tokio::io::duplex(64 * 1024);
        let (near_out, far_out) = tokio::io::duplex(64 * 1024);
        let (served, name) = (Arc::clone(&keeper), "x");
        let task = tokio::spawn(async move {
            relatch_net::downstream::stdio::serve(served, name, far_in, far_out, stopping).await
        });
        let (unread, input) = tokio::io::split(near_in);
        let (output, unwritten) = tokio::io::split(near_out);
        Stdio {
            keeper,
            input: Some(input),
            output: BufReader::new(output),
            _unread: unread,
            _unwritten: unwritten,
            stop,
            task,
        }
    }

    pub async fn opened(url: &str) -> Stdio {
        let mut stdio = Stdio::before(url).await;
        stdio.open().await;
        stdio
    }

    pub async fn open(&mut self) {
        self.say(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#)
            .await;
        assert_eq!(self.hear_json().await["id"], 0);
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    }

    pub async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("input is open");
        soon("input is taken", async {
            input.write_all(line.as_bytes()).await.unwrap();
            input.write_all(b"\n").await.unwrap();
        })
        .await;
    }

    pub async fn hear(&mut self) -> String {
        let mut line = String::new();
        soon("a line", self.output.read_line(&mut line)).await.unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    pub async fn hear_json(&mut self) -> Value {
        let line = self.hear().await;
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
    }

    /// Bytes up to the next line's end, without keeping them.
    pub async fn skim(&mut self) -> usize {
        let mut count = 0;
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = soon("bytes", self.output.read(&mut piece)).await.unwrap();
            count += read;
            if read == 0 || piece[..read].ends_with(b"\n") {
                return count;
            }
        }
    }

    pub async fn close(&mut self) {
        if let Some(mut input) = self.input.take() {
            input.shutdown().await.unwrap();
        }
    }
}
