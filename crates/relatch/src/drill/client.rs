//! A small MCP client: through `relatch stdio`, or straight to the server as the common SDK clients do.
//!
//! The straight one keeps its session id for ever and never initializes again; a stream that ends without its answer
//! leaves the call open. Both are what the official TypeScript and Python clients do.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// How long a handshake may take: relatch answers within 20 s.
const HANDSHAKE: Duration = Duration::from_secs(25);
/// Bytes of one message.
const MESSAGE_LIMIT: u64 = 8 * 1024 * 1024;
/// Bytes of a child's last words.
const LAST_WORDS: usize = 2 * 1024;
/// How long a child may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(3);

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// A result.
    Result(Value),
    /// A JSON-RPC error: its message and what relatch says of itself in it.
    Error { message: String, relatch: Value },
    /// The connection or HTTP failed, and the client was told so.
    Broken(String),
}

/// A request under way. It stays open when nobody ever answers; whoever waits sets a limit.
pub(crate) type Pending = oneshot::Receiver<Reply>;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    way: Way,
    last_id: u64,
    lists_changed: watch::Receiver<u32>,
}

#[derive(Debug)]
enum Way {
    Stdio(Through),
    Http(Straight),
}

impl Client {
    /// Starts `relatch stdio URL` as a child and connects through it. Its control socket goes to `runtime_dir`.
    pub(crate) async fn through_relatch(url: &str, runtime_dir: &Path) -> anyhow::Result<Client> {
        let (sender, lists_changed) = watch::channel(0);
        let through = Through::start(url, runtime_dir, sender)?;
        Client { way: Way::Stdio(through), last_id: 0, lists_changed }.shake_hands().await
    }

    /// Connects to the server itself.
    pub(crate) async fn straight(url: &str) -> anyhow::Result<Client> {
        let (_, lists_changed) = watch::channel(0);
        let straight = Straight { target: Target::of(url)?, open: JoinSet::new() };
        Client { way: Way::Http(straight), last_id: 0, lists_changed }.shake_hands().await
    }

    /// The child's process id, where there is a child.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.way {
            Way::Stdio(through) => through.child.id(),
            Way::Http(_) => None,
        }
    }

    /// Sends a request.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Pending {
        self.last_id += 1;
        let message = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params });
        match &mut self.way {
            Way::Stdio(through) => through.ask(self.last_id, &message).await,
            Way::Http(straight) => straight.ask(message),
        }
    }

    /// Sends `tools/call`.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Pending {
        self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// The names of the tools, with their annotations and schemas.
    pub(crate) async fn tools(&mut self, limit: Duration) -> anyhow::Result<Vec<Value>> {
        let pending = self.ask("tools/list", json!({})).await;
        match tokio::time::timeout(limit, pending).await {
            Ok(Ok(Reply::Result(result))) => Ok(result["tools"].as_array().cloned().unwrap_or_default()),
            Ok(Ok(Reply::Error { message, .. } | Reply::Broken(message))) => bail!(message),
            Ok(Err(_)) => bail!("the connection ended"),
            Err(_) => bail!("no answer to `tools/list` within {} s", limit.as_secs()),
        }
    }

    /// How often the client was told that the tools changed.
    pub(crate) fn lists_changed(&self) -> u32 {
        *self.lists_changed.borrow()
    }

    /// Waits until the client has been told more than `before` times; `false` if it wasn't in time.
    pub(crate) async fn told_more_than(&mut self, before: u32, limit: Duration) -> bool {
        let told = self.lists_changed.wait_for(|count| *count > before);
        matches!(tokio::time::timeout(limit, told).await, Ok(Ok(_)))
    }

    /// Ends the connection, and the child if there is one.
    pub(crate) async fn end(self) {
        match self.way {
            Way::Stdio(through) => through.end().await,
            Way::Http(_) => {}
        }
    }

    async fn shake_hands(mut self) -> anyhow::Result<Client> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "relatch-drill", "version": env!("CARGO_PKG_VERSION") },
        });
        let pending = self.ask("initialize", params).await;
        let reply = tokio::time::timeout(HANDSHAKE, pending)
            .await
            .map_err(|_| anyhow::anyhow!("`initialize` was not answered within {} s", HANDSHAKE.as_secs()))?;
        match reply {
            Ok(Reply::Result(_)) => {}
            Ok(Reply::Error { message, .. } | Reply::Broken(message)) => bail!(message),
            Err(_) => bail!("the connection ended during the handshake"),
        }
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        match &mut self.way {
            Way::Stdio(through) => through.write(&done).await.map_err(anyhow::Error::msg)?,
            Way::Http(straight) => {
                let told = straight.ask(done);
                let _ = tokio::time::timeout(HANDSHAKE, told).await;
            }
        }
        Ok(self)
    }
}

/// Through a child `relatch stdio`.
#[derive(Debug)]
struct Through {
    child: Child,
    stdin: Arc<tokio::sync::Mutex<ChildStdin>>,
    waiting: Arc<Waiting>,
    // Ends with the client.
    _reading: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    open: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    last_words: Mutex<VecDeque<u8>>,
}

impl Through {
    fn start(url: &str, runtime_dir: &Path, told: watch::Sender<u32>) -> anyhow::Result<Through> {
        let relatch = std::env::current_exe().context("relatch does not find its own program")?;
        let mut child = Command::new(relatch)
            .args(["stdio", "--name", "drill", url])
            .env("RELATCH_RUNTIME_DIR", runtime_dir)
            .env("XDG_STATE_HOME", runtime_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("`relatch stdio` does not start")?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            bail!("`relatch stdio` has no pipes");
        };
        let stdin = Arc::new(tokio::sync::Mutex::new(stdin));
        let waiting = Arc::new(Waiting::default());
        let mut reading = JoinSet::new();
        let heard = Arc::clone(&waiting);
        reading.spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
                heard.remember(&buffer[..read]);
            }
        });
        let (answered, back) = (Arc::clone(&waiting), Arc::clone(&stdin));
        reading.spawn(async move {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut stdout).take(MESSAGE_LIMIT).read_until(b'\n', &mut line).await {
                if let Ok(message) = serde_json::from_slice::<Value>(&line)
                    && let Some(answer) = answered.hear(&message, &told)
                {
                    let _ = write_line(&back, &answer).await;
                }
                line.clear();
            }
            // The child's own words come by another pipe; they are short and already written.
            tokio::time::sleep(Duration::from_millis(50)).await;
            answered.give_up();
        });
        Ok(Through { child, stdin, waiting, _reading: reading })
    }

    async fn ask(&mut self, id: u64, message: &Value) -> Pending {
        let (sender, pending) = oneshot::channel();
        self.waiting.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        if self.write(message).await.is_err() {
            // The reader sees the end too, and says why.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.waiting.give_up();
        }
        pending
    }

    async fn write(&mut self, message: &Value) -> std::io::Result<()> {
        write_line(&self.stdin, message).await
    }

    async fn end(self) {
        let Through { mut child, stdin, waiting, _reading: mut reading } = self;
        reading.shutdown().await;
        drop((stdin, waiting));
        if tokio::time::timeout(FAREWELL, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }
}

async fn write_line(stdin: &tokio::sync::Mutex<ChildStdin>, message: &Value) -> std::io::Result<()> {
    let line = format!("{message}\n");
    let mut stdin = stdin.lock().await;
    stdin.write_all(line.as_bytes()).await?;
    stdin.flush().await
}

impl Waiting {
    /// Takes a message from the server's side; returns what has to be answered to it.
    fn hear(&self, message: &Value, told: &watch::Sender<u32>) -> Option<Value> {
        match (message["method"].as_str(), &message["id"]) {
            (Some("notifications/tools/list_changed"), _) => {
                told.send_modify(|count| *count += 1);
                None
            }
            (Some("ping"), id) if !id.is_null() => Some(json!({ "jsonrpc": "2.0", "id": id, "result": {} })),
            (Some(_), id) if !id.is_null() => Some(json!({
                "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "Method not found" }
            })),
            (Some(_), _) => None,
            (None, id) => {
                let sender =
                    self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.as_u64()?)?;
                let _ = sender.send(reply_of(message));
                None
            }
        }
    }

    fn remember(&self, words: &[u8]) {
        let mut last = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        last.extend(words);
        let surplus = last.len().saturating_sub(LAST_WORDS);
        last.drain(..surplus);
    }

    /// The child has ended: nobody will be answered any more.
    fn give_up(&self) {
        let words: Vec<u8> =
            self.last_words.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let words = String::from_utf8_lossy(&words).trim().replace('\n', " · ");
        let cause = if words.is_empty() {
            "`relatch stdio` ended".to_owned()
        } else {
            format!("`relatch stdio` ended: {words}")
        };
        for (_, sender) in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            let _ = sender.send(Reply::Broken(cause.clone()));
        }
    }
}

fn reply_of(message: &Value) -> Reply {
    match message.get("error") {
        Some(error) => Reply::Error {
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            relatch: error["data"]["relatch"].clone(),
        },
        None => Reply::Result(message["result"].clone()),
    }
}

/// Straight to the server, each message on a connection of its own.
#[derive(Debug)]
struct Straight {
    target: Arc<Target>,
    open: JoinSet<()>,
}

#[derive(Debug)]
struct Target {
    authority: String,
    path: String,
    address: (String, u16),
    /// What the first `initialize` gave; never renewed.
    session: Mutex<Option<String>>,
}

impl Straight {
    fn ask(&mut self, message: Value) -> Pending {
        let (sender, pending) = oneshot::channel();
        let target = Arc::clone(&self.target);
        self.open.spawn(async move {
            match target.post(&message).await {
                Ok(Some(reply)) => {
                    let _ = sender.send(reply);
                }
                // No answer and no error: a client of this kind goes on waiting.
                Ok(None) => {
                    let _kept_open = sender;
                    std::future::pending::<()>().await;
                }
                Err(cause) => {
                    let _ = sender.send(Reply::Broken(format!("{cause:#}")));
                }
            }
        });
        pending
    }
}

impl Target {
    fn of(url: &str) -> anyhow::Result<Arc<Target>> {
        let url = url::Url::parse(url)?;
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            bail!("`{url}` names no host");
        };
        if url.scheme() != "http" {
            bail!("the rehearsal without relatch speaks plain `http` only");
        }
        Ok(Arc::new(Target {
            authority: url.port().map_or(host.to_owned(), |port| format!("{host}:{port}")),
            path: url[url::Position::BeforePath..].to_owned(),
            address: (host.trim_matches(['[', ']']).to_owned(), port),
            session: Mutex::default(),
        }))
    }

    /// The answer; none when the stream ended without one.
    async fn post(&self, message: &Value) -> anyhow::Result<Option<Reply>> {
        let stream =
            TcpStream::connect((self.address.0.as_str(), self.address.1)).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut connection = JoinSet::from_iter([async move {
            let _ = connection.await;
        }]);
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream");
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(session) = &session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        let request = request.body(Full::new(Bytes::from(message.to_string())))?;
        let response = sender.send_request(request).await.context("the connection broke")?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let body =
                Limited::new(body, 64 * 1024).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Ok(Some(Reply::Broken(refusal(head.status, &body))));
        }
        if message["method"] == "initialize"
            && let Some(given) = head.headers.get("mcp-session-id").and_then(|id| id.to_str().ok())
        {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(given.to_owned());
        }
        let Some(id) = message.get("id") else { return Ok(Some(Reply::Result(Value::Null))) };
        let kind =
            head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let answer = if kind.starts_with("text/event-stream") {
            answer_in_events(body, id).await
        } else {
            let limit = usize::try_from(MESSAGE_LIMIT).unwrap_or(usize::MAX);
            let body = Limited::new(body, limit).collect().await.map_err(|cause| anyhow::anyhow!(cause))?;
            Some(serde_json::from_slice(&body.to_bytes()).context("the answer is no JSON")?)
        };
        connection.abort_all();
        Ok(answer.as_ref().map(reply_of))
    }
}

/// Reads events until the one that answers `id`; none when the stream ends or breaks before.
async fn answer_in_events(mut body: hyper::body::Incoming, id: &Value) -> Option<Value> {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(bytes) = frame.into_data() else { continue };
        text.extend_from_slice(&bytes);
        if text.len() as u64 > MESSAGE_LIMIT {
            return None;
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let answer =
                line.strip_prefix(b"data:").and_then(|json| serde_json::from_slice::<Value>(json).ok());
            if let Some(answer) = answer
                && answer.get("id") == Some(id)
                && answer.get("method").is_none()
            {
                return Some(answer);
            }
        }
    }
    None
}

/// `HTTP 404: Session not found`.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|json| json["error"]["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(100).collect());
    format!("HTTP {}: {}", status.as_u16(), text.trim())
}
