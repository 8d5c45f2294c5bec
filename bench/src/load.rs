//! Nothing but calls, for whoever looks at a process with other tools meanwhile (`perf`, `strace -c`, callgrind).

use std::net::SocketAddr;
use std::time::Instant;

use clap::Args;
use tokio::task::JoinSet;

use crate::lean::Lean;
use crate::proc::Family;
use crate::render::{Cell, Report, Table};

/// Where to, and how much.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Address, as `127.0.0.1:7332`
    at: SocketAddr,
    /// Path, as `/files/mcp`
    path: String,
    /// Calls in all
    #[arg(long, default_value_t = 10_000)]
    calls: usize,
    /// Under way at once, each with a session of its own
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// The tool that is called, without arguments of use to another server than `echo`
    #[arg(long, default_value = "echo")]
    tool: String,
    /// A number that the tool takes: `bytes` of `fill`, `events` of `events`
    #[arg(long, default_value_t = 0)]
    number: u64,
    /// Process whose CPU time is told
    #[arg(long)]
    pid: Option<u32>,
}

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    let mut lanes = Vec::new();
    for _ in 0..extent.at_once.max(1) {
        lanes.push(Lean::opened(extent.at, &extent.path).await?);
    }
    let family = extent.pid.map(Family::of);
    let before = family.as_ref().map_or(0.0, Family::cpu_us);
    let share = extent.calls / lanes.len();
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut lane in lanes {
        let tool = extent.tool.clone();
        let arguments = serde_json::json!({"text": "a few words", "key": "k", "bytes": extent.number, "events": extent.number});
        running.spawn(async move {
            for _ in 0..share {
                lane.call(&tool, arguments.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    running.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    let took = began.elapsed().as_secs_f64();
    let count = (share * extent.at_once.max(1)) as f64;
    let mut table = Table::new("calls", &["calls per second", "µs each", "CPU µs per call"]);
    table.rows.push(vec![
        Cell::Number(count / took, 0),
        Cell::Number(took * 1e6 / count, 1),
        family.map_or(Cell::Nothing, |family| Cell::Number((family.cpu_us() - before) / count, 1)),
    ]);
    Ok(Report { title: "load", tables: vec![table], ..Report::default() })
}
