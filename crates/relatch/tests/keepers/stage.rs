//! The stage of these tests: the built program, scripted peers on loopback, and a client that waits with a deadline.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// Asks until there is something, or fails naming `what`.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A request that a scripted peer got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn message(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

type Script = dyn Fn(&Got, &mut TcpStream) + Send + Sync;

/// A server that does what its script says, one request on each connection. Its port stays the same over a restart.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    script: Arc<Script>,
    got: Arc<Mutex<Vec<Got>>>,
    running: Option<Arc<Running>>,
}

struct Running {
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Peer {
    pub(crate) fn new(script: impl Fn(&Got, &mut TcpStream) + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = Peer {
            address: listener.local_addr().unwrap(),
            script: Arc::new(script),
            got: Arc::default(),
            running: None,
        };
        peer.listen(listener);
        peer
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Closes the port and every connection.
    pub(crate) fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.over.store(true, Ordering::SeqCst);
        // Wakes the one that accepts; it closes the listener before it ends.
        drop(TcpStream::connect(self.address));
        for stream in running.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        until("the port is closed", || TcpStream::connect(self.address).is_err().then_some(()));
    }

    pub(crate) fn start(&mut self) {
        let listener = until("the port is free again", || TcpListener::bind(self.address).ok());
        self.listen(listener);
    }

    fn listen(&mut self, listener: TcpListener) {
        let running = Arc::new(Running { over: AtomicBool::new(false), open: Mutex::default() });
        self.running = Some(Arc::clone(&running));
        let (script, got) = (Arc::clone(&self.script), Arc::clone(&self.got));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if running.over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                running.open.lock().unwrap().push(stream.try_clone().unwrap());
                let (script, got) = (Arc::clone(&script), Arc::clone(&got));
                std::thread::spawn(move || {
                    if let Some(request) = read_request(&stream) {
                        got.lock().unwrap().push(request.clone());
                        script(&request, &mut stream);
                    }
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_request(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let mut got = Got {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        headers: read_headers(&mut reader),
        body: String::new(),
    };
    let length = got.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    got.body = String::from_utf8(body).ok()?;
    Some(got)
}

fn read_headers(reader: &mut impl BufRead) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if let Some((name, value)) = line.trim_end().split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        line.clear();
    }
    headers
}

/// Writes one whole HTTP answer. A reader that has gone is the test's own business.
pub(crate) fn reply(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

pub(crate) fn reply_json(stream: &mut TcpStream, status: &str, body: &Value) {
    reply(stream, status, "Content-Type: application/json\r\n", &body.to_string());
}

/// What an ordinary server answers: handshake, ping, two tools. `false` for a method that it leaves to the test.
pub(crate) fn ordinary(got: &Got, stream: &mut TcpStream) -> bool {
    let message = got.message();
    let id = &message["id"];
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => {
            let body = json!({"jsonrpc": "2.0", "id": id, "result": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1.0.0"},
            }});
            let headers = "Content-Type: application/json\r\nMcp-Session-Id: scripted-session\r\n";
            reply(stream, "200 OK", headers, &body.to_string());
            return true;
        }
        "ping" => json!({}),
        "tools/list" => json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        method if method.starts_with("notifications/") => {
            reply(stream, "202 Accepted", "", "");
            return true;
        }
        _ if got.method == "GET" => {
            reply(stream, "405 Method Not Allowed", "", "");
            return true;
        }
        _ if got.method == "DELETE" => {
            reply(stream, "200 OK", "", "");
            return true;
        }
        _ => return false,
    };
    reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": id, "result": result}));
    true
}

/// An ordinary server whose calls are answered by `call`.
pub(crate) fn server(call: impl Fn(&Got, &mut TcpStream) + Send + Sync + 'static) -> Peer {
    Peer::new(move |got, stream| {
        if !ordinary(got, stream) {
            call(got, stream);
        }
    })
}

/// An ordinary server that answers every call.
pub(crate) fn echo() -> Peer {
    server(|got, stream| {
        let result = json!({"content": [{"type": "text", "text": "done"}]});
        reply_json(stream, "200 OK", &json!({"jsonrpc": "2.0", "id": got.message()["id"], "result": result}));
    })
}

/// The folders of one test: nothing of the user's is read or written.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program with this home.
    pub(crate) fn relatch(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relatch"));
        command
            .args(line)
            .env("RELATCH_RUNTIME_DIR", self.run_dir())
            .env("XDG_STATE_HOME", self.state_dir())
            .env("HOME", self.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("RELATCH_CONFIG")
            .env("TZ", "UTC")
            .env_remove("RELATCH_LOG")
            .env_remove("RELATCH_TOKEN")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: exit code, stdout, stderr.
    pub(crate) fn typed(&self, line: &[&str]) -> (i32, String, String) {
        let ended = self.relatch(line).output().unwrap();
        (
            ended.status.code().unwrap_or(-1),
            String::from_utf8(ended.stdout).unwrap(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    }

    pub(crate) fn status(&self) -> Value {
        let (_, out, err) = self.typed(&["status", "--json"]);
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("no status: {out}{err}"))
    }

    /// The status of one upstream, wherever it is kept.
    pub(crate) fn server_status(&self, name: &str) -> Value {
        let status = self.status();
        let keepers = status["keepers"].as_array().cloned().unwrap_or_default();
        let mut servers =
            keepers.iter().flat_map(|keeper| keeper["servers"].as_array().into_iter().flatten());
        servers.find(|server| server["name"] == name).cloned().unwrap_or_else(|| panic!("{status:#}"))
    }
}

/// A running program: killed when the test is over, its stderr kept.
pub(crate) struct Program {
    pub(crate) child: Child,
    said: Arc<Mutex<String>>,
    reading: Option<std::thread::JoinHandle<()>>,
}

impl Program {
    pub(crate) fn spawn(command: &mut Command) -> Program {
        Program::spawn_onto(command, Stdio::piped())
    }

    /// The same with another stdout.
    pub(crate) fn spawn_onto(command: &mut Command, stdout: Stdio) -> Program {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&said);
        let reading = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Program { child, said, reading: Some(reading) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit and everything it said.
    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        let status = until("the program ends", || self.child.try_wait().unwrap());
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        (status, self.said())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rehearsal's server: a real process, which can really be killed.
pub(crate) struct Real {
    pub(crate) program: Program,
    pub(crate) port: u16,
}

impl Real {
    pub(crate) fn start(home: &Home, port: u16) -> Real {
        let ledger = home.path().join("ledger").display().to_string();
        let line = ["drill-server", "--ledger", &ledger, "--port", &port.to_string()];
        let mut program = Program::spawn(&mut home.relatch(&line));
        let mut ready = String::new();
        BufReader::new(program.child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap_or_else(|_| panic!("{}", program.ended().1));
        Real { program, port: u16::try_from(ready["port"].as_u64().unwrap()).unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    /// Killed as by a crash; its port, for the next one.
    pub(crate) fn kill(mut self) -> u16 {
        self.program.child.kill().unwrap();
        self.program.child.wait().unwrap();
        self.port
    }
}

/// `relatch stdio` and the client at its other end.
pub(crate) struct Piped {
    pub(crate) program: Program,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Piped {
    pub(crate) fn start(home: &Home, url: &str, more: &[&str]) -> Piped {
        let line: Vec<&str> = ["stdio", url].into_iter().chain(more.iter().copied()).collect();
        Piped::spawn(home.relatch(&line).stdin(Stdio::piped()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Piped {
        let mut program = Program::spawn(command.stdin(Stdio::piped()));
        let input = program.child.stdin.take();
        let output = BufReader::new(program.child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Piped { program, input, lines }
    }

    pub(crate) fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    pub(crate) fn send_text(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// The next line.
    pub(crate) fn next(&mut self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("no line comes; it said: {}", self.program.said()));
        serde_json::from_str(&line).unwrap()
    }

    /// The answer to this id; other lines are left out.
    pub(crate) fn answer(&mut self, id: i64) -> Value {
        loop {
            let message = self.next();
            if message["id"] == id && message.get("method").is_none() {
                return message;
            }
        }
    }

    pub(crate) fn ask(&mut self, id: i64, method: &str, params: Value) -> Value {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        self.answer(id)
    }

    /// The handshake; its answer.
    pub(crate) fn initialize(&mut self) -> Value {
        let answer = self.ask(0, "initialize", handshake());
        if answer.get("result").is_some() {
            self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        }
        answer
    }

    pub(crate) fn call(&mut self, id: i64) -> Value {
        self.ask(id, "tools/call", json!({"name": "echo", "arguments": {}}))
    }

    /// The client closes its end; the program's exit and words.
    pub(crate) fn close(mut self) -> (ExitStatus, String) {
        drop(self.input.take());
        self.program.ended()
    }
}

pub(crate) fn handshake() -> Value {
    json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "stage", "version": "1"}})
}

/// `relatch serve` with one upstream or more.
pub(crate) struct Serve {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<String>,
    pub(crate) printed: String,
}

impl Serve {
    pub(crate) fn start(home: &Home, line: &[&str]) -> Serve {
        let line: Vec<&str> = ["serve"].into_iter().chain(line.iter().copied()).collect();
        let mut line = line;
        if !line.contains(&"--listen") {
            line.extend(["--listen", "127.0.0.1:0"]);
        }
        Serve::spawn(&mut home.relatch(&line))
    }

    pub(crate) fn spawn(command: &mut Command) -> Serve {
        let mut program = Program::spawn(command);
        let mut output = BufReader::new(program.child.stdout.take().unwrap());
        let mut printed = String::new();
        // Addresses, an empty line, as many lines to paste.
        while output.read_line(&mut printed).unwrap() > 0 {
            let addresses = printed.split("\n\n").next().unwrap_or_default().lines().count();
            let pasted = printed.split_once("\n\n").map_or(0, |(_, rest)| rest.lines().count());
            if pasted >= addresses {
                break;
            }
        }
        let address = printed
            .split_once("http://")
            .and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
            .unwrap_or_else(|| panic!("it does not listen: {printed}{}", program.ended().1));
        let token = printed
            .split_once("Relatch-Token: ")
            .and_then(|(_, rest)| rest.split('"').next())
            .map(str::to_owned);
        Serve { program, address, token, printed }
    }

    /// One request on a connection of its own.
    pub(crate) fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.open(method, path, headers, body).whole()
    }

    /// The same, with the answer's head read and its body still to come.
    pub(crate) fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Open {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
        Open::read(stream)
    }

    /// A client's POST to the upstream `name`, with the token.
    pub(crate) fn post(
        &self,
        name: &str,
        session: Option<&str>,
        more: &[(&str, &str)],
        message: &Value,
    ) -> Answer {
        let mut headers =
            vec![("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
        headers.extend(self.token.as_deref().map(|token| ("Relatch-Token", token)));
        headers.extend(session.map(|session| ("Mcp-Session-Id", session)));
        headers.extend(more);
        self.http("POST", &format!("/{name}/mcp"), &headers, &message.to_string())
    }

    /// A handshake with the upstream `name`: the session's id.
    pub(crate) fn session(&self, name: &str) -> String {
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": handshake()});
        let answer = self.post(name, None, &[], &message);
        let session = answer.header("mcp-session-id").unwrap_or_else(|| panic!("{answer:?}")).to_owned();
        let message = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.post(name, Some(&session), &[], &message).status, 202);
        session
    }

    pub(crate) fn call(&self, name: &str, session: &str, id: i64) -> Value {
        self.post(name, Some(session), &[], &call(id)).message()
    }
}

/// A tool call.
pub(crate) fn call(id: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {}}})
}

/// An answer whose head is read.
pub(crate) struct Open {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
}

impl Open {
    fn read(stream: TcpStream) -> Open {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let headers = read_headers(&mut reader);
        Open { status, headers, reader }
    }

    /// The rest, as it comes; chunk sizes are left out.
    pub(crate) fn whole(mut self) -> Answer {
        let mut bytes = Vec::new();
        let _ = self.reader.read_to_end(&mut bytes);
        let chunked =
            self.headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let mut body = String::new();
        if chunked {
            let mut rest = &bytes[..];
            while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
                let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..at]), 16).unwrap_or(0);
                let Some(chunk) = rest.get(at + 2..at + 2 + size).filter(|_| size > 0) else { break };
                body.push_str(&String::from_utf8_lossy(chunk));
                rest = rest.get(at + 4 + size..).unwrap_or_default();
            }
        } else {
            body = String::from_utf8_lossy(&bytes).into_owned();
        }
        Answer { status: self.status, headers: self.headers, body }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The JSON-RPC answer in it: the body, or the last event that has an id.
    pub(crate) fn message(&self) -> Value {
        if let Ok(message) = serde_json::from_str(&self.body) {
            return message;
        }
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data:"));
        let messages = data.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok());
        messages.rev().find(|message| !message["id"].is_null()).unwrap_or_else(|| panic!("{self:?}"))
    }
}
