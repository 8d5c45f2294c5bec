//! What a call on the happy path costs in allocations, counted: what it may cost is an exact bound, so that a copy or a
//! task too many is seen where it comes in.
//!
//! Client and server are bytes in buffers that are there already, so everything that is counted is relatch's, the HTTP
//! library and the runtime included.
#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as told")]

mod world;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use world::{World, soon};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Calls ahead of those that are counted, and those.
const WARM: usize = 64;
const COUNTED_CALLS: usize = 64;

/// Allocations of one small call that is answered in JSON.
const JSON_CALL: usize = 31;
/// The same answered by one event without an id.
const EVENT_CALL: usize = 36;
/// The same answered by a numbered event, which is kept for a client that comes back.
const NUMBERED_CALL: usize = 43;
/// Bytes that are allocated for a call with an answer of 200 KB, beyond the answer itself.
const COPIES: usize = 3;

const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}"#;

/// Answers every call with these bytes.
async fn server(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let hello = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s1\r\ncontent-length: {}\r\n\r\n{HELLO}",
        HELLO.len()
    );
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let (hello, answer) = (hello.clone(), answer.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    let Some(size) = message(&mut socket, &mut buffer).await else { return };
                    let request = &buffer[..size];
                    let has = |words: &[u8]| request.windows(words.len()).any(|w| w == words);
                    let said: &[u8] = if has(b"tools/call") {
                        &answer
                    } else if has(b"\"initialize\"") {
                        hello.as_bytes()
                    } else {
                        b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
                    };
                    socket.write_all(said).await.unwrap();
                }
            });
        }
    });
    url
}

/// Reads one HTTP message into the buffer, without allocating; none at the end of the connection.
async fn message(socket: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    let mut size = 0;
    loop {
        let count = socket.read(&mut buffer[size..]).await.ok().filter(|count| *count > 0)?;
        size += count;
        let all = &buffer[..size];
        let Some(head) = all.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else { continue };
        let text = std::str::from_utf8(&all[..head]).unwrap();
        if text.contains("transfer-encoding: chunked") {
            if all.ends_with(b"0\r\n\r\n") {
                return Some(size);
            }
            continue;
        }
        let length = text.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        if size >= head + length.map_or(0, |length| length.parse::<usize>().unwrap()) {
            return Some(size);
        }
    }
}

fn request(sid: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /x/mcp HTTP/1.1\r\nhost: 127.0.0.1:1\r\naccept: application/json, text/event-stream\r\n\
         content-type: application/json\r\nuser-agent: test\r\n{sid}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The median of what one call allocates: blocks, and bytes.
async fn cost(answer: Vec<u8>) -> (usize, usize) {
    let url = server(answer).await;
    let world = World::with(&url, |_| {}, None).await;
    let mut socket = TcpStream::connect(world.at).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 1024 * 1024];
    let params =
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
    let initialize = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{params}}}"#);
    socket.write_all(&request("", &initialize)).await.unwrap();
    let size = soon("the handshake", message(&mut socket, &mut buffer)).await.unwrap();
    let head = String::from_utf8_lossy(&buffer[..size]).into_owned();
    let sid = head.split("mcp-session-id: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    let sid = format!("mcp-session-id: {sid}\r\nmcp-protocol-version: 2025-11-25\r\n");
    socket
        .write_all(&request(&sid, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#))
        .await
        .unwrap();
    soon("the note", message(&mut socket, &mut buffer)).await.unwrap();
    let call = request(
        &sid,
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a few words"}}}"#,
    );
    let mut blocks = Vec::new();
    let mut bytes = Vec::new();
    for _ in 0..WARM + COUNTED_CALLS {
        let region = Region::new(COUNTED);
        socket.write_all(&call).await.unwrap();
        let size = message(&mut socket, &mut buffer).await.unwrap();
        let change = region.change();
        blocks.push(change.allocations + change.reallocations);
        bytes.push(change.bytes_allocated);
        assert!(buffer[..size].windows(8).any(|w| w == b"\"result\""), "no result");
    }
    let middle = |all: &mut Vec<usize>| {
        let counted = &mut all[WARM..];
        counted.sort_unstable();
        counted[counted.len() / 2]
    };
    (middle(&mut blocks), middle(&mut bytes))
}

fn json(text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

fn events(text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
        text.len()
    )
    .into_bytes()
}

const RESULT: &str =
    r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"a few words"}]}}"#;

// One test, since the allocations of all threads are counted.
#[tokio::test]
async fn a_call_costs_as_many_allocations_as_were_counted_and_its_body_is_not_copied() {
    let (json_call, _) = cost(json(RESULT)).await;
    let (event_call, _) = cost(events(&format!("data: {RESULT}\n\n"))).await;
    let (numbered_call, _) = cost(events(&format!("id: 1\ndata: {RESULT}\n\n"))).await;
    let long = 200_000;
    let filled = format!(
        r#"{{"jsonrpc":"2.0","id":2,"result":{{"content":[{{"type":"text","text":"{}"}}]}}}}"#,
        "x".repeat(long)
    );
    let (_, bytes) = cost(json(&filled)).await;
    println!(
        "allocations: JSON {json_call}, an event {event_call}, a numbered one {numbered_call}; bytes for 200 KB: {bytes}"
    );
    assert!(json_call <= JSON_CALL, "a call answered in JSON: {json_call} allocations, {JSON_CALL} before");
    assert!(event_call <= EVENT_CALL, "a call answered by an event: {event_call}, {EVENT_CALL} before");
    assert!(numbered_call <= NUMBERED_CALL, "by a numbered event: {numbered_call}, {NUMBERED_CALL} before");
    assert!(bytes <= COPIES * long, "an answer of {long} bytes took {bytes} of allocations");
}
