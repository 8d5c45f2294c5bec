//! How latency, CPU and memory grow: with sessions, upstreams, the size of a message, events on one answer, and the
//! journal. `bench/plots` draws what this writes as JSON.
//!
//! Each line has its figure beside the smallest one's, so that a growth that is worse than linear shows as a number.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::lean::Lean;
use crate::render::{Cell, Report, Table, progress};
use crate::server::Manners;
use crate::stage::{self, Before, Kind, Relatch, Server};

/// How far it is measured.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// The most sessions
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Calls of each point
    #[arg(long, default_value_t = 400)]
    calls: usize,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Sessions,
    Upstreams,
    Sizes,
    Events,
    Journal,
}

const UPSTREAMS: [usize; 5] = [1, 10, 50, 100, 200];
const SIZES: [usize; 7] = [100, 1_000, 10_000, 100_000, 1_000_000, 5_000_000, 20_000_000];
const EVENTS: [usize; 5] = [10, 100, 1_000, 10_000, 50_000];

/// Some of the calls warm up.
const WARM: usize = 50;

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    let program = stage::relatch()?;
    let folder = tempfile::tempdir()?;
    let mut report = Report { title: "growth", ..Report::default() };
    report.notes.push(format!("before: {}", stage::load()));
    let asked = |part| extent.only.is_empty() || extent.only.contains(&part);
    if asked(Part::Sessions) {
        report.tables.push(sessions(extent, &program, folder.path()).await?);
    }
    if asked(Part::Upstreams) {
        report.tables.push(upstreams(extent, &program, folder.path()).await?);
    }
    if asked(Part::Sizes) {
        report.tables.push(sizes(&program, folder.path()).await?);
    }
    if asked(Part::Events) {
        report.tables.push(events(&program, folder.path()).await?);
    }
    if asked(Part::Journal) {
        report.tables.push(journal(extent, &program, folder.path()).await?);
    }
    report.notes.push(format!("after: {}", stage::load()));
    Ok(report)
}

fn own() -> Kind {
    Kind::Own(Manners { port: 0, ledger: PathBuf::new(), handshake_ms: 0, idle_ms: None })
}

/// What a few small calls take now: median in µs, CPU in µs each.
async fn small(lean: &mut Lean, relatch: &Relatch, calls: usize) -> anyhow::Result<(f64, f64)> {
    for _ in 0..WARM {
        lean.call("count", json!({"key": "k"})).await?;
    }
    let family = relatch.family()?;
    let before = family.cpu_us();
    let mut times = Vec::new();
    for _ in 0..calls {
        times.push(lean.call("count", json!({"key": "k"})).await?.took.as_secs_f64() * 1e6);
    }
    let cpu = (family.cpu_us() - before) / calls as f64;
    times.sort_by(f64::total_cmp);
    Ok((times.get(times.len() / 2).copied().unwrap_or_default(), cpu))
}

async fn sessions(extent: &Extent, program: &Path, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "idle sessions",
        &["sessions", "p50 µs", "CPU µs per call", "memory MB", "status ms", "handshake µs"],
    );
    let server = Server::start(own(), folder).await?;
    let relatch = Relatch::serve(program, folder, &[("up".to_owned(), server.at)]).await?;
    let mut caller = Lean::opened(relatch.at, "/up/mcp").await?;
    let mut opener = Lean::connect(relatch.at, "/up/mcp").await?;
    let mut there = 1;
    for count in [1, 10, 100, 1_000, 3_000, 10_000].into_iter().filter(|count| *count <= extent.sessions) {
        progress(&format!("{count} sessions"));
        let began = Instant::now();
        let new = count - there;
        for _ in there..count {
            opener.open().await?;
        }
        there = count;
        let handshake = began.elapsed().as_secs_f64() * 1e6 / new.max(1) as f64;
        let (p50, cpu) = small(&mut caller, &relatch, extent.calls).await?;
        let began = Instant::now();
        relatch.status(program).await?;
        let status = began.elapsed().as_secs_f64() * 1e3;
        table.rows.push(vec![
            Cell::Count(count as u64),
            Cell::Number(p50, 1),
            Cell::Number(cpu, 1),
            Cell::Number(relatch.family()?.rss_kb()? / 1024.0, 2),
            Cell::Number(status, 1),
            if new == 0 { Cell::Nothing } else { Cell::Number(handshake, 1) },
        ]);
    }
    Ok(table)
}

async fn upstreams(extent: &Extent, program: &Path, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "upstreams, a session on each",
        &["upstreams", "p50 µs", "CPU µs per call", "memory MB", "start ms"],
    );
    let server = Server::start(own(), folder).await?;
    for count in UPSTREAMS {
        progress(&format!("{count} upstreams"));
        let named: Vec<_> = (0..count).map(|number| (format!("u{number}"), server.at)).collect();
        let began = Instant::now();
        let relatch = Relatch::serve(program, folder, &named).await?;
        let start = began.elapsed().as_secs_f64() * 1e3;
        for number in 0..count {
            Lean::opened(relatch.at, &format!("/u{number}/mcp")).await?;
        }
        let mut caller = Lean::opened(relatch.at, "/u0/mcp").await?;
        let (p50, cpu) = small(&mut caller, &relatch, extent.calls).await?;
        table.rows.push(vec![
            Cell::Count(count as u64),
            Cell::Number(p50, 1),
            Cell::Number(cpu, 1),
            Cell::Number(relatch.family()?.rss_kb()? / 1024.0, 2),
            Cell::Number(start, 1),
        ]);
    }
    Ok(table)
}

async fn sizes(program: &Path, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "bytes of a result",
        &[
            "bytes",
            "JSON ms",
            "JSON CPU ms",
            "JSON peak MB",
            "SSE ms",
            "SSE CPU ms",
            "SSE peak MB",
            "direct ms",
        ],
    );
    let json = Server::start(Kind::Echo { json: true }, folder).await?;
    let sse = Server::start(Kind::Echo { json: false }, folder).await?;
    let named = [("json".to_owned(), json.at), ("sse".to_owned(), sse.at)];
    let relatch = Relatch::serve(program, folder, &named).await?;
    let family = relatch.family()?;
    let mut direct = Lean::opened(json.at, "/mcp").await?;
    for size in SIZES {
        progress(&format!("{size} bytes"));
        let times = if size > 100_000 { 5 } else { 50 };
        let mut row = vec![Cell::Count(size as u64)];
        for path in ["/json/mcp", "/sse/mcp"] {
            let mut lean = Lean::opened(relatch.at, path).await?;
            lean.echo().await?;
            let idle = family.rss_kb()?;
            family.forget_peak();
            let (cpu, began) = (family.cpu_us(), Instant::now());
            for _ in 0..times {
                lean.call("fill", json!({ "bytes": size })).await?;
            }
            let each = f64::from(times);
            row.push(Cell::Number(began.elapsed().as_secs_f64() * 1e3 / each, 3));
            row.push(Cell::Number((family.cpu_us() - cpu) / 1e3 / each, 3));
            row.push(Cell::Number((family.peak_kb()? - idle).max(0.0) / 1024.0, 2));
        }
        let began = Instant::now();
        for _ in 0..times {
            direct.call("fill", json!({ "bytes": size })).await?;
        }
        row.push(Cell::Number(began.elapsed().as_secs_f64() * 1e3 / f64::from(times), 3));
        table.rows.push(row);
    }
    Ok(table)
}

async fn events(program: &Path, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "events on one answer",
        &["events", "µs per event", "CPU µs per event", "peak MB", "direct µs per event"],
    );
    let server = Server::start(Kind::Echo { json: false }, folder).await?;
    let relatch = Relatch::serve(program, folder, &[("sse".to_owned(), server.at)]).await?;
    let family = relatch.family()?;
    for count in EVENTS {
        progress(&format!("{count} events"));
        let mut lean = Lean::opened(relatch.at, "/sse/mcp").await?;
        lean.echo().await?;
        let idle = family.rss_kb()?;
        family.forget_peak();
        let cpu = family.cpu_us();
        let got = lean.call("events", json!({ "events": count })).await?;
        let cpu = (family.cpu_us() - cpu) / count as f64;
        let peak = (family.peak_kb()? - idle).max(0.0) / 1024.0;
        let mut lean = Lean::opened(server.at, "/mcp").await?;
        let direct = lean.call("events", json!({ "events": count })).await?;
        table.rows.push(vec![
            Cell::Count(count as u64),
            Cell::Number(got.took.as_secs_f64() * 1e6 / count as f64, 2),
            Cell::Number(cpu, 2),
            Cell::Number(peak, 2),
            Cell::Number(direct.took.as_secs_f64() * 1e6 / count as f64, 2),
        ]);
    }
    Ok(table)
}

async fn journal(extent: &Extent, program: &Path, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "entries in the journal",
        &["entries", "journal KB", "start ms", "p50 µs", "CPU µs per call", "`relatch log` ms"],
    );
    let server = Server::start(own(), folder).await?;
    // A keeper keeps two files of 1 MiB: there are never many more.
    for count in [10, 100, 1_000, 5_000] {
        progress(&format!("{count} entries"));
        let entry = |number| {
            let at = "2026-11-26T01:45:57.172053057Z";
            format!(
                "{{\"at\":\"{at}\",\"upstream\":\"up\",\"pid\":1,\"seq\":{number},\"what\":\"attached\",\"latch\":{number},\
                 \"generation\":null,\"subject\":null,\"ms\":null,\"detail\":\"x 1\"}}\n"
            )
        };
        let text: String = (0..count).map(entry).collect();
        let began = Instant::now();
        let before = Before { trusted: None, journal: Some(&text) };
        let named = format!("up=http://{}/mcp", server.at);
        let relatch = Relatch::start(program, folder, &[named], before).await?;
        let start = began.elapsed().as_secs_f64() * 1e3;
        let mut caller = Lean::opened(relatch.at, "/up/mcp").await?;
        let (p50, cpu) = small(&mut caller, &relatch, extent.calls).await?;
        let began = Instant::now();
        let (entries, kb) = relatch.log(program).await?;
        let read = began.elapsed().as_secs_f64() * 1e3;
        anyhow::ensure!(entries >= count, "`relatch log` says {entries} of {count} entries");
        table.rows.push(vec![
            Cell::Count(count as u64),
            Cell::Number(kb, 0),
            Cell::Number(start, 1),
            Cell::Number(p50, 1),
            Cell::Number(cpu, 1),
            Cell::Number(read, 1),
        ]);
    }
    Ok(table)
}

impl Relatch {
    /// How many lines `relatch log` has, and how many KB they are.
    async fn log(&self, program: &Path) -> anyhow::Result<(usize, f64)> {
        let mut command = tokio::process::Command::new(program);
        command
            .args(["log", "--json", "--since", "2026-01-01"])
            .arg("--state-dir")
            .arg(self.state().join("state"));
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let said = stage::at_home(&mut command, self.state()).output().await?;
        let text = String::from_utf8(said.stdout).context("`relatch log` is no text")?;
        Ok((text.lines().count(), text.len() as f64 / 1024.0))
    }
}
