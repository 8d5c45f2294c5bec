//! What a quiet keeper takes: with TLS in use, by idle sessions, by sessions with both streams open.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;

use super::{Extent, Goal, Rows};
use crate::lean::Lean;
use crate::proc::Family;
use crate::server::Manners;
use crate::stage::{Before, Kind, Nginx, Relatch, Server};

/// Sessions ahead of those that count, so that what grows once has grown.
const FIRST: usize = 100;
/// Memory is read once it has been the same for so long.
const STEADY: Duration = Duration::from_millis(1_200);

pub(super) async fn measure(
    extent: &Extent,
    program: &Path,
    folder: &Path,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let manners = Manners { port: 0, ledger: PathBuf::new(), handshake_ms: 0, idle_ms: None };
    let server = Server::start(Kind::Own(manners), folder).await?;
    with_tls(program, folder, server.at, rows).await?;
    let relatch = Relatch::serve(program, folder, &[("up".to_owned(), server.at)]).await?;
    let family = relatch.family()?;
    rows.figure(
        "memory, idle, nothing ever asked",
        "MB",
        &[rested(&family).await? / 1024.0],
        Goal::Told("told"),
    );
    sessions(relatch.at, FIRST).await?;
    let before = rested(&family).await?;
    let opened = sessions(relatch.at, extent.sessions).await?;
    let idle = rested(&family).await?;
    let each = (idle - before) / extent.sessions as f64;
    rows.figure(
        "memory of an idle session, with its record and journal",
        "KB",
        &[each],
        Goal::AtMost(2.0, "KB"),
    );
    let mut streams = Vec::new();
    for session in opened {
        streams.push(session.attach(relatch.at).await?);
    }
    let open = rested(&family).await?;
    let each = (open - idle) / extent.sessions as f64;
    rows.figure("memory of a session with both streams open", "KB", &[each], Goal::AtMost(45.0, "KB"));
    drop(streams);
    Ok(())
}

/// Idle, after a call over TLS.
async fn with_tls(program: &Path, folder: &Path, server: SocketAddr, rows: &mut Rows) -> anyhow::Result<()> {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let nginx = Nginx::with_tls(server, folder, (&certificate, &key)).await?;
    let named = format!("tls=https://{}/mcp", nginx.at);
    let before = Before { trusted: Some(&certificate), journal: None };
    let relatch = Relatch::start(program, folder, &[named], before).await?;
    let mut lean = Lean::opened(relatch.at, "/tls/mcp").await?;
    lean.call("count", serde_json::json!({"key": "tls"})).await?;
    drop(lean);
    let family = relatch.family()?;
    let kb = rested(&family).await?;
    let own = family.own_kb()?;
    rows.figure("memory, idle with TLS", "MB", &[kb / 1024.0], Goal::AtMost(8.0, "MB"));
    rows.figure(
        "of that its own, the rest being the program's file",
        "MB",
        &[own / 1024.0],
        Goal::Told("told"),
    );
    nginx.stop().await
}

/// A session without a connection.
pub(super) struct Quiet {
    sid: Option<String>,
}

impl Quiet {
    async fn attach(self, at: SocketAddr) -> anyhow::Result<tokio::net::TcpStream> {
        let mut lean = Lean::connect(at, "/up/mcp").await?;
        lean.sid = self.sid;
        lean.listen().await
    }
}

/// Opens so many sessions over one connection, which is closed.
async fn sessions(at: SocketAddr, count: usize) -> anyhow::Result<Vec<Quiet>> {
    let mut lean = Lean::connect(at, "/up/mcp").await?;
    let mut all = Vec::new();
    for _ in 0..count {
        lean.open().await?;
        all.push(Quiet { sid: lean.sid.take() });
    }
    Ok(all)
}

/// Resident memory once it has come to rest, in KB.
async fn rested(family: &Family) -> anyhow::Result<f64> {
    let mut last = family.rss_kb()?;
    for _ in 0..50 {
        tokio::time::sleep(STEADY).await;
        let now = family.rss_kb()?;
        if (now - last).abs() < 64.0 {
            return Ok(now);
        }
        last = now;
    }
    bail!("memory does not come to rest")
}
