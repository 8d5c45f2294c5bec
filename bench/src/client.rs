//! A plain MCP client over HTTP/1.1, and what it can say of a call that got no answer.
//!
//! It keeps its connections alive and uses the one that was used last. It is as careful as an HTTP library can be
//! without knowing the server: a connection whose end it has seen is not used, and a request of which provably nothing
//! was written goes out again. It knows no rule about the age of a connection and asks nothing before a call.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The header of a session's id.
pub(crate) const SESSION_ID: &str = "mcp-session-id";
/// Nothing here takes longer: relatch holds a call for 45 s.
const LONGEST: Duration = Duration::from_secs(90);

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its result.
    Answered,
    /// It is certain that it did not run.
    NotRun(String),
    /// It may have run.
    Unknown(String),
}

/// One session with one server.
#[derive(Debug)]
pub(crate) struct Client {
    at: SocketAddr,
    path: String,
    sid: Option<String>,
    idle: Vec<Line>,
    ids: u64,
}

/// A connection that is driven by a task of its own.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An HTTP answer, read to its end.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Why there is none.
#[derive(Debug)]
enum Lost {
    NotSent(String),
    Maybe(String),
}

impl Client {
    /// A client of `http://AT/PATH` without a session.
    pub(crate) fn new(at: SocketAddr, path: &str) -> Client {
        Client { at, path: path.to_owned(), sid: None, idle: Vec::new(), ids: 0 }
    }

    /// A client with a session.
    pub(crate) async fn opened(at: SocketAddr, path: &str) -> anyhow::Result<Client> {
        let mut client = Client::new(at, path);
        client.open().await?;
        Ok(client)
    }

    /// `initialize` and `notifications/initialized`.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        self.sid = None;
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "relatch-bench", "version": "1"},
        });
        let reply = self.ask("initialize", params).await.map_err(Lost::error)?;
        if reply.status != StatusCode::OK || reply.message()["result"].is_null() {
            bail!("`initialize` was answered with HTTP {}: {:?}", reply.status, reply.body);
        }
        let sid = reply.headers.get(SESSION_ID).context("the server gave no session id")?;
        self.sid = Some(sid.to_str()?.to_owned());
        let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let reply = self.send(Method::POST, told.into()).await.map_err(Lost::error)?;
        if !reply.status.is_success() {
            bail!("`initialized` was answered with HTTP {}", reply.status);
        }
        Ok(())
    }

    /// The session by itself; connections stay here.
    pub(crate) fn apart(&mut self) -> Client {
        Client { at: self.at, path: self.path.clone(), sid: self.sid.take(), idle: Vec::new(), ids: self.ids }
    }

    /// `tools/list`, so that there is a list to be compared.
    pub(crate) async fn list(&mut self) -> anyhow::Result<()> {
        let reply = self.ask("tools/list", json!({})).await.map_err(Lost::error)?;
        if reply.message()["result"].is_null() {
            bail!("`tools/list` was answered with HTTP {}", reply.status);
        }
        Ok(())
    }

    /// Calls the tool that counts. A session that its server does not know any more is opened anew, and the call that
    /// was so refused is made again.
    pub(crate) async fn call(&mut self, key: &str) -> Said {
        for _ in 0..2 {
            let params = json!({"name": "count", "arguments": {"key": key}});
            let reply = match self.ask("tools/call", params).await {
                Ok(reply) => reply,
                Err(Lost::NotSent(cause)) => return Said::NotRun(cause),
                Err(Lost::Maybe(cause)) => return Said::Unknown(cause),
            };
            let message = reply.message();
            if !message["result"].is_null() {
                return Said::Answered;
            }
            let told = &message["error"]["data"]["relatch"];
            if told["executed"] == "unknown" {
                return Said::Unknown(told["code"].to_string());
            }
            if told["executed"] == "no" {
                return Said::NotRun(told["code"].to_string());
            }
            match reply.status.as_u16() {
                404 => {
                    if let Err(fault) = self.open().await {
                        return Said::NotRun(fault.to_string());
                    }
                }
                status @ 500.. => return Said::Unknown(format!("HTTP {status}")),
                status => return Said::NotRun(format!("HTTP {status}")),
            }
        }
        Said::NotRun("the session was refused twice".to_owned())
    }

    /// Opens the standing stream and keeps it open until the task is aborted.
    pub(crate) async fn listen(&self) -> anyhow::Result<JoinHandle<()>> {
        let mut line = Line::open(self.at).await.map_err(Lost::error)?;
        let request = self.request(Method::GET, Bytes::new())?;
        let reply = line.sender.send_request(request).await?;
        if reply.status() != StatusCode::OK {
            bail!("the stream was answered with HTTP {}", reply.status());
        }
        let mut body = reply.into_body();
        Ok(tokio::spawn(async move {
            while let Some(Ok(_)) = body.frame().await {}
            drop(line);
        }))
    }

    /// What this server counted; only the bench's own does.
    pub(crate) async fn counts(at: SocketAddr) -> anyhow::Result<Value> {
        let mut client = Client::new(at, "/counts");
        let reply = client.send(Method::GET, Bytes::new()).await.map_err(Lost::error)?;
        Ok(serde_json::from_slice(&reply.body)?)
    }

    async fn ask(&mut self, method: &str, params: Value) -> Result<Reply, Lost> {
        self.ids += 1;
        let message = json!({"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params});
        self.send(Method::POST, message.to_string().into()).await
    }

    fn request(&self, verb: Method, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(verb)
            .uri(&self.path)
            .header("host", self.at.to_string())
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if let Some(sid) = &self.sid {
            request = request.header(SESSION_ID, sid).header("mcp-protocol-version", "2025-11-25");
        }
        Ok(request.body(Full::new(body))?)
    }

    async fn send(&mut self, verb: Method, body: Bytes) -> Result<Reply, Lost> {
        let sending = async {
            loop {
                let used = self.idle.pop();
                let old = used.is_some();
                let mut line = match used {
                    Some(line) if line.sender.is_closed() => continue,
                    Some(line) => line,
                    None => Line::open(self.at).await?,
                };
                let request = self
                    .request(verb.clone(), body.clone())
                    .map_err(|fault| Lost::NotSent(fault.to_string()))?;
                match line.exchange(request).await {
                    Ok(reply) => {
                        self.idle.push(line);
                        return Ok(reply);
                    }
                    Err(Lost::NotSent(_)) if old => {}
                    Err(lost) => return Err(lost),
                }
            }
        };
        match tokio::time::timeout(LONGEST, sending).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Lost::Maybe(format!("no answer within {LONGEST:?}"))),
        }
    }
}

impl Line {
    async fn open(at: SocketAddr) -> Result<Line, Lost> {
        let not_sent = |fault: std::io::Error| Lost::NotSent(fault.to_string());
        let socket = TcpStream::connect(at).await.map_err(not_sent)?;
        socket.set_nodelay(true).map_err(not_sent)?;
        let (sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(socket))
            .await
            .map_err(|fault| Lost::NotSent(fault.to_string()))?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Line { sender, driver })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, Lost> {
        let ready = self.sender.ready().await;
        ready.map_err(|fault| Lost::NotSent(fault.to_string()))?;
        let reply: http::Response<Incoming> = match self.sender.try_send_request(request).await {
            Ok(reply) => reply,
            Err(mut fault) => {
                let unsent = fault.take_message().is_some();
                let cause = fault.into_error().to_string();
                return Err(if unsent { Lost::NotSent(cause) } else { Lost::Maybe(cause) });
            }
        };
        let (head, body) = reply.into_parts();
        let body = body.collect().await.map_err(|fault| Lost::Maybe(fault.to_string()))?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body })
    }
}

impl Lost {
    fn error(self) -> anyhow::Error {
        match self {
            Lost::NotSent(cause) | Lost::Maybe(cause) => anyhow::Error::msg(cause),
        }
    }
}

impl Reply {
    /// The JSON-RPC message, or the last one of an event stream.
    fn message(&self) -> Value {
        if let Ok(message) = serde_json::from_slice(&self.body) {
            return message;
        }
        let text = String::from_utf8_lossy(&self.body);
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        data.filter_map(|data| serde_json::from_str(data.trim()).ok()).next_back().unwrap_or(Value::Null)
    }
}
