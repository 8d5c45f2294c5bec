//! How long it takes to be there: a new process, and a call that waited for its server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::process::Command;

use super::{Extent, Goal, Rows};
use crate::client::Client;
use crate::lean::Lean;
use crate::server::Manners;
use crate::stage::{self, Kind, Relatch, Server};

/// The server is away for so long. Since pauses double from 100 ms, the fourth one is under way by then.
const AWAY: Duration = Duration::from_millis(1_000);
/// That pause with the most that chance adds to it.
const PAUSE_MS: f64 = 880.0;

pub(super) async fn measure(
    extent: &Extent,
    program: &Path,
    folder: &Path,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let manners = Manners { port: 0, ledger: PathBuf::new(), handshake_ms: 0, idle_ms: None };
    let server = Server::start(Kind::Own(manners), folder).await?;
    started(extent, program, folder, server.at, rows).await?;
    came_back(extent, program, folder, server, rows).await
}

async fn started(
    extent: &Extent,
    program: &Path,
    folder: &Path,
    server: SocketAddr,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let mut accepting = Vec::new();
    let mut answered = Vec::new();
    for round in 0..extent.rounds {
        let at = stage::free_port()?;
        let home = folder.join(format!("start-{round}"));
        std::fs::create_dir_all(&home)?;
        let mut command = Command::new(program);
        command.args(["serve", "--no-token", "--listen", &at.to_string(), "--state-dir"]);
        command.arg(home.join("state")).arg(format!("up=http://{server}/mcp"));
        stage::at_home(&mut command, &home);
        let direct = Instant::now();
        Lean::opened(server, "/mcp").await?;
        let direct = direct.elapsed();
        let began = Instant::now();
        let _running = stage::spawn(command, Stdio::null())?;
        stage::accepts(at).await?;
        accepting.push(began.elapsed().as_secs_f64() * 1e3);
        Lean::opened(at, "/up/mcp").await?;
        answered.push(began.elapsed().saturating_sub(direct).as_secs_f64() * 1e3);
    }
    rows.figure("spawn to accepting", "ms", &accepting, Goal::AtMost(10.0, "ms"));
    let words = "spawn to the first answered handshake, above the server's own";
    rows.figure(words, "ms", &answered, Goal::AtMost(15.0, "ms"));
    Ok(())
}

async fn came_back(
    extent: &Extent,
    program: &Path,
    folder: &Path,
    mut server: Server,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let relatch = Relatch::serve(program, folder, &[("up".to_owned(), server.at)]).await?;
    let mut lean = Lean::opened(relatch.at, "/up/mcp").await?;
    let mut back = Vec::new();
    let mut trips = Vec::new();
    for round in 0..extent.rounds.min(10) {
        lean.call("count", serde_json::json!({"key": format!("before-{round}")})).await?;
        server.kill().await?;
        let waiting = tokio::spawn(async move {
            let got = lean.call("count", serde_json::json!({"key": format!("waiting-{round}")})).await;
            (lean, got, Instant::now())
        });
        tokio::time::sleep(AWAY).await;
        server.again().await?;
        let began = Instant::now();
        let (again, got, answered) = waiting.await?;
        got.context("a call that waited for its server")?;
        lean = again;
        back.push(answered.saturating_duration_since(began).as_secs_f64() * 1e3);
        let counts = Client::counts(server.at).await?;
        let of = |name: &str| counts[name].as_f64().unwrap_or_default();
        trips.push(of("initialize") + of("initialized") + of("pings"));
    }
    rows.figure(
        "recovery: accepting to the answer of a waiting call",
        "ms",
        &back,
        Goal::AtMost(PAUSE_MS, "ms (the pause under way, and 2 round trips)"),
    );
    rows.figure("recovery: requests ahead of that call", "", &trips, Goal::AtMost(3.0, "round trips"));
    Ok(())
}
