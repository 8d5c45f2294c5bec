//! What a keeper does under pressure, and what that costs others: a client that reads slowly, a server that floods,
//! ten thousand connections, bodies at the limit.
//!
//! Meanwhile another client calls another server through the same keeper; its time beside that of the calm before is
//! the share by which others are slowed. Bounds are held by tests (`relatch-net/tests/bounds.rs`); here they are
//! measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::lean::Lean;
use crate::proc::Family;
use crate::render::{Cell, Report, Table, progress};
use crate::server::Manners;
use crate::stage::{self, Kind, Relatch, Server};

/// How much.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Connections that stand open
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Clients that read slowly, or get a flood
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Calls of the one that is watched, before and meanwhile
    #[arg(long, default_value_t = 600)]
    calls: usize,
}

/// What was seen of the other client, and of the keeper's memory.
struct Seen {
    p50: f64,
    p99: f64,
    peak_mb: f64,
}

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    let program = stage::relatch()?;
    let folder = tempfile::tempdir()?;
    let mut report = Report { title: "under pressure", ..Report::default() };
    report.notes.push(format!("before: {}", stage::load()));
    let mut table = Table::new(
        "others meanwhile, and memory above idle",
        &["pressure", "calm p50 µs", "meanwhile p50 µs", "× calm", "p99 µs", "peak MB above idle", "refused"],
    );
    for pressure in [Pressure::Slow, Pressure::Flood, Pressure::Bodies, Pressure::Connections] {
        progress(pressure.name());
        table.rows.push(scene(pressure, extent, &program, folder.path()).await?);
    }
    report.tables.push(table);
    report.notes.push(format!("after: {}", stage::load()));
    Ok(report)
}

#[derive(Clone, Copy)]
enum Pressure {
    Slow,
    Flood,
    Bodies,
    Connections,
}

impl Pressure {
    fn name(self) -> &'static str {
        match self {
            Pressure::Slow => "clients that read 20 MB slowly",
            Pressure::Flood => "answers with 50,000 events, read as fast as they come",
            Pressure::Bodies => "requests of 30 MB, until the keeper is full",
            Pressure::Connections => "connections that stand open",
        }
    }
}

async fn scene(
    pressure: Pressure,
    extent: &Extent,
    program: &Path,
    folder: &Path,
) -> anyhow::Result<Vec<Cell>> {
    let manners = Manners { port: 0, ledger: PathBuf::new(), handshake_ms: 0, idle_ms: None };
    let calm_server = Server::start(Kind::Own(manners), folder).await?;
    let echo = Server::start(Kind::Echo { json: false }, folder).await?;
    let named = [("calm".to_owned(), calm_server.at), ("busy".to_owned(), echo.at)];
    let relatch = Relatch::serve(program, folder, &named).await?;
    let family = relatch.family()?;
    let mut other = Lean::opened(relatch.at, "/calm/mcp").await?;
    watch(&mut other, &family, extent.calls / 4, 0.0).await?;
    let idle = family.rss_kb()?;
    family.forget_peak();
    let calm = watch(&mut other, &family, extent.calls, idle).await?;
    let mut running = JoinSet::new();
    let mut held = Vec::new();
    match pressure {
        Pressure::Slow => {
            for _ in 0..extent.clients {
                running.spawn(slowly(relatch.at));
            }
        }
        Pressure::Flood => {
            for _ in 0..extent.clients {
                running.spawn(async move {
                    let mut lean = Lean::opened(relatch.at, "/busy/mcp").await?;
                    loop {
                        lean.call("events", json!({"events": 50_000})).await?;
                    }
                });
            }
        }
        Pressure::Bodies => {
            for _ in 0..extent.clients {
                running.spawn(large(relatch.at));
            }
        }
        Pressure::Connections => {
            for _ in 0..extent.connections {
                // Beyond the bound, one waits to be taken: that it is open at all is the system's doing.
                let connecting = TcpStream::connect(relatch.at);
                match tokio::time::timeout(Duration::from_secs(2), connecting).await {
                    Ok(Ok(socket)) => held.push(socket),
                    Ok(Err(_)) | Err(_) => break,
                }
            }
        }
    }
    // They are all under way by then.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let meanwhile = watch(&mut other, &family, extent.calls, idle).await?;
    let mut refused = Cell::Nothing;
    if let Pressure::Bodies = pressure {
        let mut count = 0;
        while let Some(done) = running.join_next().await {
            count += u64::from(done??);
        }
        refused = Cell::Count(count);
    }
    if let Pressure::Connections = pressure {
        refused = Cell::text(format!("{} open", held.len()));
    }
    running.abort_all();
    Ok(vec![
        Cell::text(pressure.name()),
        Cell::Number(calm.p50, 0),
        Cell::Number(meanwhile.p50, 0),
        Cell::Number(meanwhile.p50 / calm.p50, 2),
        Cell::Number(meanwhile.p99, 0),
        Cell::Number(meanwhile.peak_mb, 1),
        refused,
    ])
}

/// The calls of a client that has nothing to do with the pressure.
async fn watch(lean: &mut Lean, family: &Family, calls: usize, idle: f64) -> anyhow::Result<Seen> {
    let mut times = Vec::new();
    for _ in 0..calls {
        times.push(lean.call("count", json!({"key": "k"})).await?.took.as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Ok(Seen { p50: at(0.5), p99: at(0.99), peak_mb: (family.peak_kb()? - idle) / 1024.0 })
}

/// Asks for 20 MB and reads a little of it now and then. Ends with the scene.
async fn slowly(at: SocketAddr) -> anyhow::Result<bool> {
    let lean = Lean::opened(at, "/busy/mcp").await?;
    let mut socket = lean.ask_only("fill", &json!({"bytes": 20_000_000})).await?;
    let mut piece = vec![0; 16 * 1024];
    loop {
        if socket.read(&mut piece).await? == 0 {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends a request of 30 MB; whether it was refused, in clear words, for want of room.
async fn large(at: SocketAddr) -> anyhow::Result<bool> {
    let lean = Lean::opened(at, "/busy/mcp").await?;
    let text = "x".repeat(30_000_000);
    let mut socket = lean.ask_only("echo", &json!({ "text": text })).await?;
    // A refusal comes before all of the body is read, and then the connection ends.
    let mut all = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let head = loop {
        let count = socket.read(&mut piece).await.unwrap_or(0);
        all.extend_from_slice(piece.get(..count).unwrap_or_default());
        if count == 0 || all.windows(4).any(|w| w == b"\r\n\r\n") {
            break String::from_utf8_lossy(&all).into_owned();
        }
    };
    drop(socket.shutdown().await);
    let status = head.split(' ').nth(1).context("no answer to a large request")?;
    Ok(status == "413" || head.contains("keeper-full"))
}
