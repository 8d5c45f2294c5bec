//! A small MCP server that behaves as the common ones do: sessions in memory, 404 for an id it does not know.
//!
//! It runs in its own process, so that it can really be killed. Every execution is a line in the ledger, written
//! before the answer: what the ledger says ran, ran.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Bytes of a request.
const BODY_LIMIT: usize = 1024 * 1024;
/// The revisions it speaks, the newest first.
const REVISIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// How it is started.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// 0 for any.
    pub(crate) port: u16,
    /// Where executions are written down.
    pub(crate) ledger: PathBuf,
    /// From 2 on it has one more tool.
    pub(crate) variant: u32,
    /// Whether it ends with its stdin.
    pub(crate) until_stdin_ends: bool,
}

/// The line that it prints once it listens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) pid: u32,
    pub(crate) port: u16,
}

/// One execution.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Executed {
    pub(crate) pid: u32,
    pub(crate) tool: String,
    pub(crate) note: String,
}

struct Server {
    options: Options,
    sessions: Mutex<HashSet<String>>,
}

/// Serves until SIGTERM, or until stdin ends where that is asked for.
pub(crate) async fn run(options: Options, ready: impl FnOnce(&Ready)) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
    let mut term = signal(SignalKind::terminate())?;
    let server = Arc::new(Server { options, sessions: Mutex::default() });
    ready(&Ready { pid: std::process::id(), port: listener.local_addr()?.port() });
    let mut stdin = tokio::io::stdin();
    let mut unread = [0; 64];
    let mut open = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let server = Arc::clone(&server);
                open.spawn(async move {
                    let answer = hyper::service::service_fn(move |request| {
                        let server = Arc::clone(&server);
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    });
                    // A connection that breaks is the rehearsal's daily bread.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            _ = term.recv() => return Ok(()),
            read = stdin.read(&mut unread), if server.options.until_stdin_ends => if matches!(read, Ok(0) | Err(_)) { return Ok(()) },
        }
        while open.try_join_next().is_some() {}
    }
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        if request.uri().path() != "/mcp" {
            return plain(StatusCode::NOT_FOUND);
        }
        let (head, body) = request.into_parts();
        let session = header_of(&head.headers, "mcp-session-id");
        match head.method {
            Method::POST => {
                let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
                    return plain(StatusCode::PAYLOAD_TOO_LARGE);
                };
                let Ok(message) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
                    return error(StatusCode::BAD_REQUEST, -32700, "Parse error", &Value::Null);
                };
                self.message(session.as_deref(), &message)
            }
            Method::GET => match self.check(session.as_deref()) {
                Ok(()) => events(standing()),
                Err(refusal) => *refusal,
            },
            Method::DELETE => match self.check(session.as_deref()) {
                Ok(()) => {
                    self.sessions().remove(session.as_deref().unwrap_or_default());
                    plain(StatusCode::OK)
                }
                Err(refusal) => *refusal,
            },
            _ => plain(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn message(&self, session: Option<&str>, message: &Value) -> Response<Reply> {
        let method = message["method"].as_str().unwrap_or_default();
        let id = &message["id"];
        let params = &message["params"];
        if method == "initialize" {
            return self.initialize(id, params);
        }
        if let Err(refusal) = self.check(session) {
            return *refusal;
        }
        if id.is_null() || method.is_empty() {
            return plain(StatusCode::ACCEPTED);
        }
        match method {
            "ping" => result(id, &json!({})),
            "tools/list" => result(id, &json!({ "tools": self.tools() })),
            "tools/call" => self.call(id, params),
            _ => error(StatusCode::OK, -32601, "Method not found", id),
        }
    }

    fn initialize(&self, id: &Value, params: &Value) -> Response<Reply> {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return plain(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let session: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let asked = params["protocolVersion"].as_str().unwrap_or_default();
        let revision = REVISIONS.iter().find(|known| **known == asked).unwrap_or(&REVISIONS[0]);
        let mut response = result(
            id,
            &json!({
                "protocolVersion": revision,
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "drill", "version": format!("{}.0.0", self.options.variant) },
            }),
        );
        if let Ok(value) = session.parse() {
            response.headers_mut().insert("mcp-session-id", value);
        }
        self.sessions().insert(session);
        response
    }

    fn tools(&self) -> Vec<Value> {
        let note = json!({ "type": "string" });
        let mut tools = vec![
            json!({
                "name": "write", "description": "Writes a note into the ledger",
                "inputSchema": { "type": "object", "properties": { "note": note }, "required": ["note"] },
            }),
            json!({
                "name": "slow", "description": "Writes a note into the ledger and takes its time to say so",
                "inputSchema": {
                    "type": "object",
                    "properties": { "note": note, "ms": { "type": "integer" } },
                    "required": ["note", "ms"],
                },
            }),
        ];
        if self.options.variant >= 2 {
            tools.push(json!({
                "name": "shout", "description": "Writes a note into the ledger, loudly",
                "inputSchema": { "type": "object", "properties": { "note": note }, "required": ["note"] },
            }));
        }
        tools
    }

    fn call(&self, id: &Value, params: &Value) -> Response<Reply> {
        let tool = params["name"].as_str().unwrap_or_default();
        let note = params["arguments"]["note"].as_str().unwrap_or_default();
        if !self.tools().iter().any(|known| known["name"] == tool) {
            return error(StatusCode::OK, -32602, "Unknown tool", id);
        }
        if let Err(cause) = self.write_down(tool, note) {
            return error(StatusCode::OK, -32603, &cause.to_string(), id);
        }
        let pid = std::process::id();
        let content =
            json!({ "content": [{ "type": "text", "text": format!("{tool} {note:?}, by process {pid}") }] });
        if tool != "slow" {
            return result(id, &content);
        }
        let ms = params["arguments"]["ms"].as_u64().unwrap_or_default().min(60_000);
        let message = json!({ "jsonrpc": "2.0", "id": id, "result": content });
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let _ = sender.send(Bytes::from(format!("event: message\ndata: {message}\n\n"))).await;
        });
        events(receiver)
    }

    /// Appends to the ledger in one write, so that a kill leaves whole lines.
    fn write_down(&self, tool: &str, note: &str) -> io::Result<()> {
        let executed = Executed { pid: std::process::id(), tool: tool.to_owned(), note: note.to_owned() };
        let mut line = serde_json::to_string(&executed)?;
        line.push('\n');
        OpenOptions::new().create(true).append(true).open(&self.options.ledger)?.write_all(line.as_bytes())
    }

    fn check(&self, session: Option<&str>) -> Result<(), Box<Response<Reply>>> {
        match session {
            Some(session) if self.sessions().contains(session) => Ok(()),
            Some(_) => Err(Box::new(error(StatusCode::NOT_FOUND, -32001, "Session not found", &Value::Null))),
            None => Err(Box::new(error(
                StatusCode::BAD_REQUEST,
                -32000,
                "Bad Request: Mcp-Session-Id header is required",
                &Value::Null,
            ))),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashSet<String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body: whole, or events as they come.
enum Reply {
    Whole(Option<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Reply::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Reply::Events(events) => {
                events.poll_recv(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }
}

/// A stream that says nothing but that it lives.
fn standing() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while sender.send(Bytes::from_static(b": here\n\n")).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
    });
    receiver
}

fn header_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn respond(status: StatusCode, kind: Option<&'static str>, reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    }
    response
}

fn plain(status: StatusCode) -> Response<Reply> {
    respond(status, None, Reply::Whole(None))
}

fn whole(status: StatusCode, message: &Value) -> Response<Reply> {
    respond(status, Some("application/json"), Reply::Whole(Some(Bytes::from(message.to_string()))))
}

fn result(id: &Value, result: &Value) -> Response<Reply> {
    whole(StatusCode::OK, &json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn error(status: StatusCode, code: i64, message: &str, id: &Value) -> Response<Reply> {
    whole(status, &json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }))
}

fn events(receiver: mpsc::Receiver<Bytes>) -> Response<Reply> {
    respond(StatusCode::OK, Some("text/event-stream"), Reply::Events(receiver))
}
