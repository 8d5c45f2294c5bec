//! The processes of a measurement: started, killed by their own ids, and gone at the end.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::proc::Family;
use crate::server::Manners;

/// Nothing takes longer to start.
const STARTS: Duration = Duration::from_secs(20);

/// The servers that can be measured against.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The bench's own.
    Own(Manners),
    /// The Rust SDK's, as the interoperation tests build it.
    Rmcp,
    /// The TypeScript SDK's on a real Node.
    Node,
    /// The Rust SDK's as a release build that does next to nothing; whether without sessions and in JSON.
    Echo { json: bool },
}

/// A server that can be killed and started again on its port.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    pub(crate) ledger: PathBuf,
    kind: Kind,
    child: Option<Child>,
}

impl Server {
    pub(crate) async fn start(kind: Kind, folder: &Path) -> anyhow::Result<Server> {
        let at = free_port()?;
        let ledger = folder.join(format!("ledger-{}", at.port()));
        let mut server = Server { at, ledger, kind, child: None };
        server.again().await?;
        Ok(server)
    }

    /// Starts a new process on the same port.
    pub(crate) async fn again(&mut self) -> anyhow::Result<()> {
        let (port, ledger) = (self.at.port().to_string(), self.ledger.clone());
        let mut command = match &self.kind {
            Kind::Own(manners) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("server").args(["--handshake-ms", &manners.handshake_ms.to_string()]);
                if let Some((low, high)) = manners.idle_ms {
                    command.args(["--idle-ms", &format!("{low}-{high}")]);
                }
                command
            }
            Kind::Rmcp => Command::new(setup("rmcp/server")?),
            Kind::Node => {
                let mut command = Command::new(setup("bin/node")?);
                command.arg(interop().join("peers/ts1/server.mjs"));
                command
            }
            Kind::Echo { json } => {
                let mut command = Command::new(echo()?);
                command.args(json.then_some("--json"));
                command
            }
        };
        command.args(["--port", &port]);
        if !matches!(self.kind, Kind::Echo { .. }) {
            command.arg("--ledger").arg(ledger);
        }
        self.child = Some(spawn(command, Stdio::null())?);
        accepts(self.at).await.context("the server does not listen")
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// How often each key was executed, over all lives of the server.
    pub(crate) fn executed(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = match std::fs::read_to_string(&self.ledger) {
            Ok(text) => text,
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(fault) => return Err(fault.into()),
        };
        let mut times = BTreeMap::new();
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line)?;
            if let Some(key) = entry["key"].as_str() {
                *times.entry(key.to_owned()).or_default() += 1;
            }
        }
        Ok(times)
    }
}

/// What a keeper finds when it starts.
#[derive(Default)]
pub(crate) struct Before<'a> {
    /// A certificate that it trusts.
    pub(crate) trusted: Option<&'a Path>,
    /// The journal of the one before it.
    pub(crate) journal: Option<&'a str>,
}

/// A running `relatch serve`.
#[derive(Debug)]
pub(crate) struct Relatch {
    pub(crate) at: SocketAddr,
    state: PathBuf,
    /// Killed when this goes.
    process: Child,
}

impl Relatch {
    /// In front of these servers, by name.
    pub(crate) async fn serve(
        program: &Path,
        folder: &Path,
        servers: &[(String, SocketAddr)],
    ) -> anyhow::Result<Relatch> {
        let named: Vec<String> = servers.iter().map(|(name, at)| format!("{name}=http://{at}/mcp")).collect();
        Relatch::start(program, folder, &named, Before::default()).await
    }

    /// With these words at the end of its command line.
    pub(crate) async fn start(
        program: &Path,
        folder: &Path,
        servers: &[String],
        before: Before<'_>,
    ) -> anyhow::Result<Relatch> {
        let state = folder.join(format!("relatch-{}", free_port()?.port()));
        std::fs::create_dir_all(&state)?;
        if let Some(journal) = before.journal {
            // relatch keeps to folders that are its user's alone.
            let private = &mut std::fs::DirBuilder::new();
            private.recursive(true).mode(0o700).create(state.join("state/journal"))?;
            std::fs::write(state.join("state/journal/serve-0.jsonl"), journal)?;
        }
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--no-token", "--state-dir"])
            .arg(state.join("state"));
        command.args(servers);
        at_home(&mut command, &state);
        if let Some(trusted) = before.trusted {
            command.env("SSL_CERT_FILE", trusted);
        }
        let mut child = spawn(command, Stdio::piped())?;
        let out = child.stdout.take().context("relatch has no output")?;
        let mut lines = BufReader::new(out).lines();
        let first =
            tokio::time::timeout(STARTS, lines.next_line()).await.context("relatch does not start")??;
        let first = first.context("relatch ended at once")?;
        // The rest is read, so that it never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let address = first.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let at = address.with_context(|| format!("relatch says `{first}`"))?.parse()?;
        Ok(Relatch { at, state, process: child })
    }

    /// Its folder.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Its process.
    pub(crate) fn family(&self) -> anyhow::Result<Family> {
        Ok(Family::of(self.process.id().context("relatch has ended")?))
    }

    /// What `relatch status --json` says of it.
    pub(crate) async fn status(&self, program: &Path) -> anyhow::Result<Value> {
        let mut command = Command::new(program);
        command.args(["status", "--json"]).stdin(Stdio::null()).stderr(Stdio::null());
        let said = at_home(&mut command, &self.state).output().await?;
        serde_json::from_slice(&said.stdout).context("`relatch status --json` says no JSON")
    }
}

/// Lets a process find nothing of the user's, and leave nothing behind.
pub(crate) fn at_home<'a>(command: &'a mut Command, state: &Path) -> &'a mut Command {
    for name in ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, state);
    }
    command
}

/// A real nginx as a plain reverse proxy, with connections to its backend kept alive.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) at: SocketAddr,
    child: Child,
}

impl Nginx {
    pub(crate) async fn before(server: SocketAddr, folder: &Path) -> anyhow::Result<Nginx> {
        Nginx::start(server, folder, None).await
    }

    /// With TLS, by this certificate and key.
    pub(crate) async fn with_tls(
        server: SocketAddr,
        folder: &Path,
        (certificate, key): (&Path, &Path),
    ) -> anyhow::Result<Nginx> {
        let (certificate, key) = (certificate.display(), key.display());
        let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
        Nginx::start(server, folder, Some(&tls)).await
    }

    async fn start(server: SocketAddr, folder: &Path, tls: Option<&str>) -> anyhow::Result<Nginx> {
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.exists())
            .context("there is no nginx here")?;
        let at = free_port()?;
        let root = folder.join(format!("nginx-{}", at.port()));
        std::fs::create_dir_all(&root)?;
        let dir = root.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {dir}/{name};"))
            .concat();
        // A worker that is not root could not enter the folder.
        let user = if std::fs::metadata(&root)?.uid() == 0 { "user root;" } else { "" };
        let (ssl, tls) = tls.map_or(("", ""), |tls| (" ssl", tls));
        let text = format!(
            "{user} daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
             worker_rlimit_nofile 65536; events {{ worker_connections 32768; }}
             http {{
               access_log off; keepalive_requests 1000000; {temporary}
               upstream backend {{ server {server}; keepalive 64; keepalive_requests 1000000; }}
               server {{
                 listen {at}{ssl}; {tls}
                 location / {{
                   proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";
                   proxy_set_header Host $http_host; proxy_buffering off; proxy_read_timeout 1h;
                 }}
               }}
             }}"
        );
        let file = root.join("nginx.conf");
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&root).arg("-c").arg(&file).args(["-e", "stderr"]);
        let child = spawn(command, Stdio::null())?;
        accepts(at).await.context("nginx does not listen")?;
        Ok(Nginx { at, child })
    }

    /// Its processes.
    pub(crate) fn family(&self) -> anyhow::Result<Family> {
        Ok(Family::of(self.child.id().context("nginx has ended")?))
    }

    /// Asks it to end, so that its workers end with it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        tokio::time::timeout(STARTS, self.child.wait()).await.context("nginx does not end")??;
        Ok(())
    }
}

/// The bare proxy, see `bare.rs`. Killed when this goes.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) at: SocketAddr,
    child: Child,
}

impl Bare {
    pub(crate) async fn before(server: SocketAddr) -> anyhow::Result<Bare> {
        let at = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", &at.to_string(), &server.to_string()]);
        let child = spawn(command, Stdio::null())?;
        accepts(at).await.context("the bare proxy does not listen")?;
        Ok(Bare { at, child })
    }

    /// Its process.
    pub(crate) fn family(&self) -> anyhow::Result<Family> {
        Ok(Family::of(self.child.id().context("the bare proxy has ended")?))
    }
}

/// The program that is measured: `RELATCH`, or what was built beside this one.
pub(crate) fn relatch() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("RELATCH") {
        return Ok(given.into());
    }
    let beside = std::env::current_exe()?.with_file_name("relatch");
    if !beside.exists() {
        bail!("{} is not there: build it with `cargo build --release -p relatch`", beside.display());
    }
    Ok(beside)
}

/// The same program without the rules that are measured, if it was built: `RELATCH_BLIND`, or `target/blind`.
pub(crate) fn blind() -> anyhow::Result<Option<PathBuf>> {
    if let Some(given) = std::env::var_os("RELATCH_BLIND") {
        return Ok(Some(given.into()));
    }
    let beside = std::env::current_exe()?;
    let target = beside.parent().and_then(Path::parent).map(|target| target.join("blind/release/relatch"));
    Ok(target.filter(|path| path.exists()))
}

/// The echo server on rmcp: `RELATCH_ECHO`, or what `bench/run` built.
fn echo() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("RELATCH_ECHO") {
        return Ok(given.into());
    }
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("no folder above this program")?;
    let echo = target.join("peers/release/echo");
    if !echo.exists() {
        bail!("{} is not there: `bench/run` builds it", echo.display());
    }
    Ok(echo)
}

/// How busy the machine is, for the notes.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("load {} on {cores} cores", load.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop")
}

pub(crate) fn setup(what: &str) -> anyhow::Result<PathBuf> {
    let path = interop().join(".setup").join(what);
    if !path.exists() {
        bail!("{} is not there: run tests/interop/setup.sh", path.display());
    }
    Ok(path)
}

pub(crate) fn spawn(mut command: Command, out: Stdio) -> anyhow::Result<Child> {
    let said = format!("{:?}", command.as_std().get_program());
    command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().with_context(|| format!("{said} can't be started"))
}

pub(crate) fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Waits until somebody accepts connections there.
pub(crate) async fn accepts(at: SocketAddr) -> anyhow::Result<()> {
    let end = Instant::now() + STARTS;
    while TcpStream::connect(at).await.is_err() {
        if Instant::now() > end {
            bail!("nobody accepts connections at {at}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
