//! What a quiet session holds: bytes of the heap, with its record, and with both of its streams open. Each has a bound,
//! so that what is kept for nothing is seen where it comes in.
//!
//! Client and server keep nothing but their sockets, so everything that is counted is relatch's, the HTTP library and
//! the runtime included. What the system's allocator adds, and SQLite's own pages, is not counted.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as told")]

mod world;

use std::alloc::System;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use relatch_core::policy::Policy;
use relatch_net::downstream::http::{HttpConfig, serve};
use relatch_net::downstream::origin::Allowed;
use relatch_net::keeper::{Bounds, Keeper, KeeperConfig, ServerConfig};
use relatch_net::upstream::dial::Tls;
use relatch_net::upstream::target::Target;
use relatch_store::SqliteStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use world::{soon, until};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Sessions ahead of those that are counted, so that what grows once has grown.
const WARM: usize = 128;
const SESSIONS: usize = 256;

/// Bytes of a session with no socket open.
const IDLE: usize = 1_024;
/// Bytes of one whose client knows a list of 20 tools, as do others.
const LISTED: usize = 1_100;
/// Bytes of the streams of a session, which are two connections.
const STREAMS: usize = 59_000;

const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:\n\n\r\n";

/// Opens sessions, and streams that say nothing. Sockets of the latter are kept apart, where they take no memory.
struct Server {
    at: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::new(Mutex::new(Vec::with_capacity(WARM + SESSIONS)));
    let kept = Arc::clone(&streams);
    let sessions = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let (kept, sessions) = (Arc::clone(&kept), Arc::clone(&sessions));
            tokio::spawn(async move {
                while let Some(request) = message(&mut socket).await {
                    if request.starts_with("GET ") {
                        socket.write_all(STREAM).await.unwrap();
                        kept.lock().unwrap().push(socket.into_std().unwrap());
                        return;
                    }
                    let said = if request.contains(LIST) {
                        let tool = |n| {
                            let schema = r#"{"type":"object","properties":{"text":{"type":"string"}}}"#;
                            let hints = r#"{"readOnlyHint":true}"#;
                            format!(r#"{{"name":"a_tool_{n}","inputSchema":{schema},"annotations":{hints}}}"#)
                        };
                        let tools: Vec<String> = (0..20).map(tool).collect();
                        let tools = tools.join(",");
                        ok(&format!(r#"{{"jsonrpc":"2.0","id":2,"result":{{"tools":[{tools}]}}}}"#), "")
                    } else if request.contains("\"initialize\"") {
                        let number = sessions.fetch_add(1, Ordering::Relaxed);
                        let hello = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"a server","version":"1.2.3"}}}"#;
                        ok(hello, &format!("mcp-session-id: 5f0c2d5e-1c1a-4f6e-9a51-{number:012x}\r\n"))
                    } else {
                        "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_owned()
                    };
                    socket.write_all(said.as_bytes()).await.unwrap();
                }
            });
        }
    });
    Server { at, streams }
}

fn ok(message: &str, header: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{header}content-length: {}\r\n\r\n{message}",
        message.len()
    )
}

/// One HTTP message; none at the end of the connection.
async fn message(socket: &mut tokio::net::TcpStream) -> Option<String> {
    let mut all = Vec::new();
    loop {
        let mut piece = [0; 4_096];
        let count = socket.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        all.extend_from_slice(&piece[..count]);
        let text = std::str::from_utf8(&all).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some(text.to_owned());
        }
    }
}

fn request(verb: &str, sid: &str, body: &str) -> Vec<u8> {
    let sid = match sid {
        "" => String::new(),
        sid => format!("mcp-session-id: {sid}\r\nmcp-protocol-version: 2025-11-25\r\n"),
    };
    format!(
        "{verb} /x/mcp HTTP/1.1\r\nhost: 127.0.0.1:1\r\naccept: application/json, text/event-stream\r\n\
         authorization: Bearer 0123456789\r\ncontent-type: application/json\r\nuser-agent: a client/1.0\r\n\
         {sid}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Opens a session by this connection.
async fn open(socket: &mut tokio::net::TcpStream) -> String {
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{}},"clientInfo":{"name":"a client","version":"1.0"}}}"#;
    socket.write_all(&request("POST", "", initialize)).await.unwrap();
    let answer = soon("the handshake", message(socket)).await.unwrap();
    let sid = answer.split("mcp-session-id: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    socket.write_all(&request("POST", &sid, INITIALIZED)).await.unwrap();
    soon("the note", message(socket)).await.unwrap();
    sid
}

/// Bytes of the heap that are held now, each session's id left out.
fn held(sids: &[String]) -> usize {
    let stats = COUNTED.stats();
    stats.bytes_allocated - stats.bytes_deallocated - sids.iter().map(String::len).sum::<usize>()
}

/// Opens so many sessions by this connection; `lists` says whether they ask for a list.
async fn sessions(socket: &mut tokio::net::TcpStream, count: usize, lists: bool, sids: &mut Vec<String>) {
    for _ in 0..count {
        let sid = open(socket).await;
        if lists {
            socket.write_all(&request("POST", &sid, LIST)).await.unwrap();
            let answer = soon("the list", message(socket)).await.unwrap();
            assert!(answer.contains("a_tool_19"), "{answer}");
        }
        sids.push(sid);
    }
}

// One test, since the allocations of all threads are counted.
#[tokio::test]
async fn a_session_at_rest_holds_as_little_as_was_counted_and_so_do_its_streams() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}/mcp", server.at);
    let keeper = Keeper::within(
        KeeperConfig {
            servers: vec![ServerConfig {
                policy: Policy::new("x", &url),
                headers: HeaderMap::new(),
                address: Target::parse(&url).unwrap().into(),
            }],
            records: Some(Arc::new(SqliteStore::open(folder.path()).unwrap())),
            copies: Some(folder.path().join("copies")),
            journal: Arc::new(|_, _, _| {}),
            tls: Tls::platform(),
        },
        Bounds::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let config = HttpConfig {
        allowed: Allowed::new::<&str>(at, &[]).unwrap(),
        token: None,
        metrics: Arc::new(bytes::Bytes::new),
        site: Arc::new(|_, _| None),
    };
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(serve(listener, Arc::clone(&keeper), config, stopping));

    let mut sids = Vec::with_capacity(WARM + 2 * SESSIONS);
    // One connection for all: one that is closed may be counted for a while, or not.
    let mut opener = tokio::net::TcpStream::connect(at).await.unwrap();
    sessions(&mut opener, WARM, true, &mut sids).await;
    soon("the records are written", keeper.flush()).await;
    let mut before = held(&sids);
    let mut each = Vec::new();
    for lists in [false, true] {
        sessions(&mut opener, SESSIONS, lists, &mut sids).await;
        soon("the records are written", keeper.flush()).await;
        let now = held(&sids);
        each.push((now - before) / SESSIONS);
        before = now;
    }
    let (idle, listed) = (each[0], each[1]);

    let mut sockets = Vec::with_capacity(WARM + SESSIONS);
    for (number, sid) in sids.iter().take(WARM + SESSIONS).enumerate() {
        if number == WARM {
            before = held(&sids);
        }
        let mut socket = tokio::net::TcpStream::connect(at).await.unwrap();
        socket.write_all(&request("GET", sid, "")).await.unwrap();
        let mut beginning = [0; 4_096];
        let count = soon("the stream begins", socket.read(&mut beginning)).await.unwrap();
        assert!(beginning[..count].starts_with(b"HTTP/1.1 200"), "no stream");
        sockets.push(socket.into_std().unwrap());
        until("the stream at the server", || server.streams.lock().unwrap().len() > number).await;
    }
    let streams = (held(&sids) - before) / SESSIONS;
    println!("bytes: a session at rest {idle}, one that knows its tools {listed}, its streams {streams}");
    assert!(idle <= IDLE, "a session at rest holds {idle} bytes, {IDLE} before");
    assert!(listed <= LISTED, "one that knows its tools holds {listed} bytes, {LISTED} before");
    assert!(streams <= STREAMS, "its streams hold {streams} bytes, {STREAMS} before");
}
