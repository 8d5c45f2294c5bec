//! A server on loopback that does exactly what a test tells it to, byte by byte, and counts what arrives.
#![expect(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its own part, in which nothing may go wrong"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a server saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    accepted: AtomicUsize,
    ended: AtomicUsize,
    arrived: Mutex<BTreeMap<String, u32>>,
}

impl Seen {
    /// Sockets accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Sockets on which the client's end was seen, or whose script has ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// How often each request body arrived whole.
    pub(crate) fn arrived(&self) -> BTreeMap<String, u32> {
        self.arrived.lock().unwrap().clone()
    }
}

/// A listening server; it ends with this value.
pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Server {
    /// Plays `script` on each socket that is accepted.
    pub(crate) async fn start<F, S>(script: F) -> Self
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// The same for what comes to `listener`.
    pub(crate) fn on<F, S>(listener: TcpListener, script: F) -> Self
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let log = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let _ = socket.set_nodelay(true);
                log.accepted.fetch_add(1, Ordering::SeqCst);
                let played = script(Peer { socket, seen: log.clone(), ahead: Vec::new() });
                let log = log.clone();
                tokio::spawn(async move {
                    let _ = played.await;
                    log.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { at, seen, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.at)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One accepted socket.
pub(crate) struct Peer {
    pub(crate) socket: TcpStream,
    seen: Arc<Seen>,
    /// Read, and not yet a whole request.
    ahead: Vec<u8>,
}

/// One request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) verb: String,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
    message: Value,
}

impl Request {
    pub(crate) fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    pub(crate) fn tool(&self) -> &str {
        self.message["params"]["name"].as_str().unwrap_or_default()
    }

    /// The id as it is written down.
    pub(crate) fn id(&self) -> String {
        self.message["id"].to_string()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(other, _)| *other == name).map(|(_, value)| value).next()
    }
}

impl Peer {
    /// The next request's body, counted; none when the client has closed.
    pub(crate) async fn request(&mut self) -> io::Result<Option<String>> {
        let Some((_, body)) = self.read().await? else { return Ok(None) };
        *self.seen.arrived.lock().unwrap().entry(body.clone()).or_default() += 1;
        Ok(Some(body))
    }

    /// The next request of an MCP client; what calls a tool is counted by the tool's name.
    pub(crate) async fn mcp(&mut self) -> io::Result<Option<Request>> {
        let Some((head, body)) = self.read().await? else { return Ok(None) };
        let verb = head.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let message = serde_json::from_str(&body).unwrap_or_default();
        let request = Request { verb, head, body, message };
        if request.method() == "tools/call" {
            *self.seen.arrived.lock().unwrap().entry(request.tool().to_owned()).or_default() += 1;
        }
        Ok(Some(request))
    }

    /// The next request: its head in lower case, and its body.
    async fn read(&mut self) -> io::Result<Option<(String, String)>> {
        let head = loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break self.ahead.drain(..at + 4).collect::<Vec<_>>();
            }
            match self.socket.read_buf(&mut self.ahead).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.ahead.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(fault) => return Err(fault),
            }
        };
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |length| length.trim().parse().unwrap());
        while self.ahead.len() < length {
            if self.socket.read_buf(&mut self.ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let body = String::from_utf8(self.ahead.drain(..length).collect()).unwrap();
        Ok(Some((head, body)))
    }

    /// A whole answer of this status.
    pub(crate) async fn say(&mut self, status: u16, extra: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        self.write(format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{extra}\r\n{body}")).await
    }

    /// A result to this request.
    pub(crate) async fn result(&mut self, request: &Request, extra: &str, result: &str) -> io::Result<()> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id());
        self.say(200, &format!("content-type: application/json\r\n{extra}"), &text).await
    }

    /// Answers as an ordinary server with one session would; calls of tools with an empty result.
    pub(crate) async fn ordinary(&mut self, request: &Request) -> io::Result<()> {
        match (request.verb.as_str(), request.method()) {
            ("GET", _) => self.say(405, "", "").await,
            ("DELETE", _) => self.say(200, "", "").await,
            (_, "initialize") => {
                let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"scripted","version":"1"}}"#;
                self.result(request, "mcp-session-id: one\r\n", hello).await
            }
            (_, "tools/list") => self.result(request, "", r#"{"tools":[{"name":"t"}]}"#).await,
            (_, "ping" | "tools/call") => self.result(request, "", "{}").await,
            _ => self.say(202, "", "").await,
        }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref()).await
    }

    /// 200 with `body`; `extra` are whole header lines.
    pub(crate) async fn answer(&mut self, extra: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        self.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{extra}\r\n{body}")).await
    }

    /// Answers each request with its own body until the client closes.
    pub(crate) async fn echo(mut self) -> io::Result<()> {
        while let Some(body) = self.request().await? {
            self.answer("", &body).await?;
        }
        Ok(())
    }

    /// Waits for the client's end.
    pub(crate) async fn closed(&mut self) {
        while let Ok(1..) = self.socket.read(&mut [0; 1024]).await {}
    }

    /// Whether nothing from the client is waiting, asked of the operating system itself.
    pub(crate) fn is_quiet(&self) -> bool {
        let seen = socket2::SockRef::from(&self.socket).peek(&mut [std::mem::MaybeUninit::uninit()]);
        seen.is_err_and(|fault| fault.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Waits until a condition holds, for at most 20 s.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "never came true: {what}");
}

/// Small and seeded, so that a failure can be played again.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
