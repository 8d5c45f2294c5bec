//! A client that costs next to nothing, so that it is never what is measured: one socket, requests written in one
//! piece, answers counted and not parsed.
//!
//! It speaks the HTTP/1.1 that the measured servers speak, and fails when an answer is no result.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::SESSION_ID;

/// Nothing here takes longer.
const LONGEST: Duration = Duration::from_secs(90);
/// So much of both ends of a body is kept.
const ENDS: usize = 2_048;
/// Read at once.
const PIECE: usize = 256 * 1024;

/// Where the ids of the next connection beside another begin, in millions.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One connection, and the session that it speaks for.
pub(crate) struct Lean {
    socket: TcpStream,
    at: SocketAddr,
    path: String,
    pub(crate) sid: Option<String>,
    ids: u64,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) sid: Option<String>,
    /// Bytes of the body.
    pub(crate) size: usize,
    /// Until the end of the body.
    pub(crate) took: Duration,
    /// Until the first message that is no comment and no empty event.
    pub(crate) first: Duration,
    /// The beginning of the body and its end.
    head: Vec<u8>,
    tail: Vec<u8>,
}

/// How the end of a body is known.
enum Length {
    Exact(usize),
    Chunked,
}

impl Lean {
    pub(crate) async fn connect(at: SocketAddr, path: &str) -> anyhow::Result<Lean> {
        let socket = TcpStream::connect(at).await.with_context(|| format!("nobody listens at {at}"))?;
        socket.set_nodelay(true)?;
        Ok(Lean { socket, at, path: path.to_owned(), sid: None, ids: 0, buffer: vec![0; PIECE] })
    }

    /// With a session of its own.
    pub(crate) async fn opened(at: SocketAddr, path: &str) -> anyhow::Result<Lean> {
        let mut lean = Lean::connect(at, path).await?;
        lean.open().await?;
        Ok(lean)
    }

    /// Another connection of the same session.
    pub(crate) async fn beside(&self) -> anyhow::Result<Lean> {
        let mut lean = Lean::connect(self.at, &self.path).await?;
        lean.sid.clone_from(&self.sid);
        // Ids are told apart within a session.
        lean.ids = NEXT.fetch_add(1, Ordering::Relaxed) * 1_000_000;
        Ok(lean)
    }

    /// The handshake.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "relatch-bench", "version": "1"},
        });
        let got = self.ask("initialize", params).await?;
        // A server without sessions gives no id.
        self.sid = got.sid;
        let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        let got = self.send(&told).await?;
        if got.status != 202 && got.status != 200 {
            bail!("`initialized` was answered with HTTP {}", got.status);
        }
        Ok(())
    }

    /// Calls `echo` with a few words.
    pub(crate) async fn echo(&mut self) -> anyhow::Result<Got> {
        self.call("echo", json!({"text": "a few words"})).await
    }

    /// Calls a tool.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> anyhow::Result<Got> {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}}))
            .await
    }

    /// Calls a tool and leaves the answer to the caller, with the connection.
    pub(crate) async fn ask_only(mut self, tool: &str, arguments: &Value) -> anyhow::Result<TcpStream> {
        self.ids += 1;
        let params = json!({"name": tool, "arguments": arguments});
        let message = json!({"jsonrpc": "2.0", "id": self.ids, "method": "tools/call", "params": params});
        let request = self.request(&message.to_string());
        // Who refuses a long request does not read it to its end.
        drop(self.socket.write_all(request.as_bytes()).await);
        Ok(self.socket)
    }

    async fn ask(&mut self, method: &str, params: Value) -> anyhow::Result<Got> {
        self.ids += 1;
        let message = json!({"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params});
        let got = self.send(&message.to_string()).await?;
        if got.status != 200 || !got.has("\"result\":") {
            let text = String::from_utf8_lossy(&got.head).into_owned();
            bail!("`{method}` at {}{} was answered with HTTP {}: {text}", self.at, self.path, got.status);
        }
        Ok(got)
    }

    fn request(&self, body: &str) -> String {
        let (path, at) = (&self.path, self.at);
        let session = match &self.sid {
            Some(sid) => format!("{SESSION_ID}: {sid}\r\nmcp-protocol-version: 2025-11-25\r\n"),
            None => String::new(),
        };
        format!(
            "POST {path} HTTP/1.1\r\nhost: {at}\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\n{session}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn send(&mut self, body: &str) -> anyhow::Result<Got> {
        let request = self.request(body);
        let began = Instant::now();
        self.socket.write_all(request.as_bytes()).await?;
        let read = self.read(began);
        timeout(LONGEST, read).await.with_context(|| format!("no answer within {LONGEST:?}"))?
    }

    /// Opens the standing stream and gives its connection away, open.
    pub(crate) async fn listen(mut self) -> anyhow::Result<TcpStream> {
        let sid = self.sid.as_deref().context("a stream needs a session")?;
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{SESSION_ID}: {sid}\r\n\
             mcp-protocol-version: 2025-11-25\r\n\r\n",
            self.path, self.at
        );
        self.socket.write_all(request.as_bytes()).await?;
        let count = timeout(LONGEST, self.socket.read(&mut self.buffer)).await??;
        let head = self.buffer.get(..count).unwrap_or_default();
        if !head.starts_with(b"HTTP/1.1 200") {
            bail!("the stream was answered with {}", String::from_utf8_lossy(head));
        }
        Ok(self.socket)
    }

    async fn read(&mut self, began: Instant) -> anyhow::Result<Got> {
        let mut got = Got::default();
        let mut head = Vec::new();
        let mut rest = Vec::new();
        while rest.is_empty() {
            let piece = self.more().await?;
            head.extend_from_slice(piece);
            if let Some(end) = find(&head, b"\r\n\r\n") {
                rest = head.split_off(end + 4);
                break;
            }
        }
        let text = String::from_utf8(head)?;
        let length = got.read_head(&text)?;
        match length {
            Length::Exact(size) => {
                got.take(&rest, began);
                while got.size < size {
                    let piece = self.more().await?;
                    got.take(piece, began);
                }
            }
            Length::Chunked => {
                let mut chunks = Chunks::default();
                let mut over = chunks.feed(&rest, |bytes| got.take(bytes, began))?;
                while !over {
                    let piece = self.more().await?;
                    over = chunks.feed(piece, |bytes| got.take(bytes, began))?;
                }
            }
        }
        got.took = began.elapsed();
        Ok(got)
    }

    async fn more(&mut self) -> anyhow::Result<&[u8]> {
        let count = self.socket.read(&mut self.buffer).await?;
        if count == 0 {
            bail!("{} closed the connection in the middle", self.at);
        }
        Ok(self.buffer.get(..count).unwrap_or_default())
    }
}

impl Got {
    /// Whether these words stand at the beginning or the end of the body.
    pub(crate) fn has(&self, words: &str) -> bool {
        find(&self.head, words.as_bytes()).is_some() || find(&self.tail, words.as_bytes()).is_some()
    }

    fn read_head(&mut self, text: &str) -> anyhow::Result<Length> {
        let mut length = Length::Exact(0);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        self.status = status.context("no status line")?.parse()?;
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Length::Exact(value.parse()?),
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => length = Length::Chunked,
                SESSION_ID => self.sid = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(length)
    }

    fn take(&mut self, bytes: &[u8], began: Instant) {
        self.size += bytes.len();
        if self.head.len() < ENDS {
            self.head.extend_from_slice(bytes.get(..ENDS - self.head.len()).unwrap_or(bytes));
            // Some servers begin with an event that only has an id.
            if self.first.is_zero() && find(&self.head, b"{").is_some() {
                self.first = began.elapsed();
            }
        }
        self.tail.extend_from_slice(bytes.get(bytes.len().saturating_sub(ENDS)..).unwrap_or(bytes));
        if self.tail.len() > 2 * ENDS {
            self.tail.drain(..self.tail.len() - ENDS);
        }
    }
}

/// Takes a chunked body apart, however its pieces are cut.
#[derive(Default)]
struct Chunks {
    /// The line that is being read, where one is.
    line: Vec<u8>,
    /// What is left of a chunk, with the line end behind it.
    left: usize,
    over: bool,
}

impl Chunks {
    /// Gives out what is of the body; whether it has ended.
    fn feed(&mut self, mut bytes: &[u8], mut put: impl FnMut(&[u8])) -> anyhow::Result<bool> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let now = bytes.len().min(self.left);
                let of_body = now.min(self.left.saturating_sub(2));
                let (chunk, rest) = bytes.split_at(now);
                put(chunk.get(..of_body).unwrap_or_default());
                self.left -= now;
                bytes = rest;
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                break;
            };
            let (line, rest) = bytes.split_at(end + 1);
            self.line.extend_from_slice(line);
            bytes = rest;
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line)?.trim();
            if self.over {
                return Ok(line.is_empty());
            }
            match usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)? {
                0 => self.over = true,
                size => self.left = size + 2,
            }
        }
        Ok(false)
    }
}

fn find(bytes: &[u8], words: &[u8]) -> Option<usize> {
    bytes.windows(words.len()).position(|window| window == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_the_same_however_it_is_cut() {
        let whole = b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            let (one, two) = whole.split_at(cut);
            let mut chunks = Chunks::default();
            let mut all = Vec::new();
            let first = chunks.feed(one, |bytes| all.extend_from_slice(bytes)).unwrap();
            assert!(!first, "cut at {cut}");
            assert!(chunks.feed(two, |bytes| all.extend_from_slice(bytes)).unwrap(), "cut at {cut}");
            assert_eq!(all, b"hello, world", "cut at {cut}");
        }
    }
}
