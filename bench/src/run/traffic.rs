//! Calls, large answers, many events: direct, through nginx, through relatch, in turn within each round.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::{Extent, Goal, Rows};
use crate::lean::Lean;
use crate::proc::Family;
use crate::render::{Cell, Table};
use crate::stage::{self, Bare, Kind, Nginx, Relatch, Server};

/// Calls ahead of those that count.
const WARM: usize = 20;
/// Under way at once, and the sessions that they share.
const AT_ONCE: usize = 32;
const SESSIONS: usize = 8;
/// Events on one answer.
const EVENTS: u64 = 10_000;

/// How a server's answers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Json,
    Sse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Direct,
    Nginx,
    Relatch,
    /// The bare proxy: small calls only, since it passes on what is whole.
    Bare,
}

const WAYS: [Way; 3] = [Way::Direct, Way::Nginx, Way::Relatch];
const WAYS_OF_CALLS: [Way; 4] = [Way::Direct, Way::Nginx, Way::Relatch, Way::Bare];
const SHAPES: [Shape; 2] = [Shape::Json, Shape::Sse];

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::Json => "JSON",
            Shape::Sse => "SSE",
        }
    }
}

/// Both servers, and what stands before them.
pub(super) struct Stage {
    servers: BTreeMap<Shape, Server>,
    nginx: BTreeMap<Shape, Nginx>,
    bare: BTreeMap<Shape, Bare>,
    relatch: Relatch,
}

impl Stage {
    pub(super) async fn set(program: &Path, folder: &Path) -> anyhow::Result<Stage> {
        let mut servers = BTreeMap::new();
        let (mut nginx, mut bare) = (BTreeMap::new(), BTreeMap::new());
        let mut named = Vec::new();
        for shape in SHAPES {
            let server = Server::start(Kind::Echo { json: shape == Shape::Json }, folder).await?;
            nginx.insert(shape, Nginx::before(server.at, folder).await?);
            bare.insert(shape, Bare::before(server.at).await?);
            named.push((shape.name().to_ascii_lowercase(), server.at));
            servers.insert(shape, server);
        }
        let relatch = Relatch::serve(program, folder, &named).await?;
        Ok(Stage { servers, nginx, bare, relatch })
    }

    pub(super) async fn strike(self) -> anyhow::Result<()> {
        for nginx in self.nginx.into_values() {
            nginx.stop().await?;
        }
        Ok(())
    }

    fn door(&self, way: Way, shape: Shape) -> anyhow::Result<(SocketAddr, String)> {
        Ok(match way {
            Way::Direct => (self.servers.get(&shape).context("no server")?.at, "/mcp".to_owned()),
            Way::Nginx => (self.nginx.get(&shape).context("no nginx")?.at, "/mcp".to_owned()),
            Way::Bare => (self.bare.get(&shape).context("no bare proxy")?.at, "/mcp".to_owned()),
            Way::Relatch => (self.relatch.at, format!("/{}/mcp", shape.name().to_ascii_lowercase())),
        })
    }

    /// What stands between; nothing on the direct way.
    fn family(&self, way: Way, shape: Shape) -> anyhow::Result<Option<Family>> {
        Ok(match way {
            Way::Direct => None,
            Way::Nginx => Some(self.nginx.get(&shape).context("no nginx")?.family()?),
            Way::Bare => Some(self.bare.get(&shape).context("no bare proxy")?.family()?),
            Way::Relatch => Some(self.relatch.family()?),
        })
    }
}

/// Figures of all rounds, by what was measured and on which way.
#[derive(Default)]
struct Samples(BTreeMap<(String, Way), Vec<f64>>);

impl Samples {
    fn put(&mut self, measure: &str, way: Way, figure: f64) {
        self.0.entry((measure.to_owned(), way)).or_default().push(figure);
    }

    fn of(&self, measure: &str, way: Way) -> &[f64] {
        self.0.get(&(measure.to_owned(), way)).map_or(&[], Vec::as_slice)
    }

    /// relatch's figures over those of another way, round by round.
    fn ratios(&self, measure: &str, way: Way) -> Vec<f64> {
        self.over(measure, Way::Relatch, way)
    }

    fn over(&self, measure: &str, one: Way, other: Way) -> Vec<f64> {
        let pairs = self.of(measure, one).iter().zip(self.of(measure, other));
        pairs.map(|(one, other)| one / other).collect()
    }

    fn row(&self, rows: &mut Rows, measure: &str, goal: Goal) {
        rows.ratio(measure, "", self.of(measure, Way::Relatch), &self.ratios(measure, Way::Nginx), goal);
    }

    /// Everything on every way.
    fn table(&self, title: &str) -> Table {
        let bare = self.0.keys().any(|(_, way)| *way == Way::Bare);
        let (columns, ways) = match bare {
            true => (
                &["measure", "direct", "nginx", "relatch", "bare", "× direct", "× nginx", "bare × nginx"][..],
                &WAYS_OF_CALLS[..],
            ),
            false => (&["measure", "direct", "nginx", "relatch", "× direct", "× nginx"][..], &WAYS[..]),
        };
        let mut table = Table::new(title, columns);
        let mut names: Vec<&String> = self.0.keys().map(|(name, _)| name).collect();
        names.dedup();
        for name in names {
            let mut row = vec![Cell::text(name.clone())];
            row.extend(ways.iter().map(|way| Cell::spread(self.of(name, *way).iter().copied(), 2)));
            row.push(Cell::spread(self.ratios(name, Way::Direct), 2));
            row.push(Cell::spread(self.ratios(name, Way::Nginx), 2));
            if bare {
                row.push(Cell::spread(self.over(name, Way::Bare, Way::Nginx), 2));
            }
            table.rows.push(row);
        }
        table
    }
}

/// The order of the ways in a round.
fn turn(ways: &[Way], round: usize) -> impl Iterator<Item = Way> {
    (0..ways.len()).filter_map(move |at| ways.get((at + round) % ways.len()).copied())
}

pub(super) async fn calls(stage: &Stage, extent: &Extent, rows: &mut Rows) -> anyhow::Result<Table> {
    let mut samples = Samples::default();
    for round in 0..extent.rounds {
        for shape in SHAPES {
            for way in turn(&WAYS_OF_CALLS, round) {
                one_at_a_time(stage, way, shape, extent.calls, &mut samples).await?;
            }
            for way in turn(&WAYS_OF_CALLS, round) {
                at_once(stage, way, shape, extent.calls * 8, &mut samples).await?;
            }
        }
    }
    for shape in SHAPES.map(Shape::name) {
        let at_most = |bound| Goal::AtMost(bound, "× nginx");
        samples.row(rows, &format!("{shape}: p50 of one call at a time, µs"), at_most(1.10));
        samples.row(rows, &format!("{shape}: calls per second, 32 at once"), Goal::AtLeast(0.95, "× nginx"));
        samples.row(rows, &format!("{shape}: CPU ms per 1,000 calls, 32 at once"), at_most(1.3));
        samples.row(rows, &format!("{shape}: CPU ms per 1,000 calls, one at a time"), at_most(1.5));
    }
    Ok(samples.table("small calls, every way"))
}

async fn one_at_a_time(
    stage: &Stage,
    way: Way,
    shape: Shape,
    calls: usize,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let (at, path) = stage.door(way, shape)?;
    let mut lean = Lean::opened(at, &path).await?;
    for _ in 0..WARM {
        lean.echo().await?;
    }
    let family = stage.family(way, shape)?;
    let before = family.as_ref().map(Family::cpu_us);
    let mut times = Vec::new();
    for _ in 0..calls {
        times.push(lean.echo().await?.took.as_secs_f64() * 1e6);
    }
    let name = shape.name();
    if let (Some(family), Some(before)) = (family, before) {
        let cpu = (family.cpu_us() - before) / calls as f64;
        samples.put(&format!("{name}: CPU ms per 1,000 calls, one at a time"), way, cpu);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    samples.put(&format!("{name}: p50 of one call at a time, µs"), way, at(0.5));
    samples.put(&format!("{name}: p99 of one call at a time, µs"), way, at(0.99));
    Ok(())
}

async fn at_once(
    stage: &Stage,
    way: Way,
    shape: Shape,
    calls: usize,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let (at, path) = stage.door(way, shape)?;
    let mut lanes = Vec::new();
    for _ in 0..SESSIONS {
        let first = Lean::opened(at, &path).await?;
        for _ in 1..AT_ONCE / SESSIONS {
            lanes.push(first.beside().await?);
        }
        lanes.push(first);
    }
    for lane in &mut lanes {
        lane.echo().await?;
    }
    let family = stage.family(way, shape)?;
    let before = family.as_ref().map(Family::cpu_us);
    let share = calls / AT_ONCE;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut lane in lanes {
        running.spawn(async move {
            for _ in 0..share {
                lane.echo().await?;
            }
            // Its connection stays until all are through.
            anyhow::Ok(lane)
        });
    }
    let done: Vec<Lean> = running.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    let took = began.elapsed().as_secs_f64();
    let count = (share * done.len()) as f64;
    let name = shape.name();
    if let (Some(family), Some(before)) = (family, before) {
        let cpu = (family.cpu_us() - before) / count;
        samples.put(&format!("{name}: CPU ms per 1,000 calls, 32 at once"), way, cpu);
    }
    samples.put(&format!("{name}: calls per second, 32 at once"), way, count / took);
    Ok(())
}

pub(super) async fn large(stage: &Stage, extent: &Extent, rows: &mut Rows) -> anyhow::Result<Table> {
    let mut samples = Samples::default();
    // What a process keeps of one round is no less above idle in the next.
    let mut idle = Vec::new();
    for way in WAYS {
        idle.push((way, stage.family(way, Shape::Sse)?.as_ref().map(Family::rss_kb).transpose()?));
    }
    for round in 0..extent.rounds {
        for shape in SHAPES {
            for way in turn(&WAYS, round) {
                let idle = idle.iter().find(|(known, _)| *known == way).and_then(|(_, idle)| *idle);
                bodies(stage, way, shape, idle, &mut samples).await?;
            }
        }
        for way in turn(&WAYS, round) {
            events(stage, way, &mut samples).await?;
        }
    }
    for shape in SHAPES.map(Shape::name) {
        for size in ["1 MB", "20 MB"] {
            let measure = format!("{shape}: a result of {size}, ms");
            samples.row(rows, &measure, Goal::AtMost(1.0, "× nginx"));
        }
        let peaks = format!("{shape}: peak memory above idle, 20 MB, MB");
        rows.figure(&peaks, "", samples.of(&peaks, Way::Relatch), Goal::AtMost(12.0, "MB"));
    }
    samples.row(rows, "SSE: 10,000 events on one answer, per second", Goal::AtLeast(0.8, "× nginx"));
    samples.row(rows, "SSE: the first of 10,000 events, ms", Goal::AtMost(1.2, "× nginx"));
    Ok(samples.table("large answers and many events, every way"))
}

async fn bodies(
    stage: &Stage,
    way: Way,
    shape: Shape,
    idle: Option<f64>,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let (at, path) = stage.door(way, shape)?;
    let family = stage.family(way, shape)?;
    let mut lean = Lean::opened(at, &path).await?;
    lean.echo().await?;
    let name = shape.name();
    for (words, bytes, times) in [("1 MB", 1_000_000, 4), ("20 MB", 20_000_000, 1)] {
        if let Some(family) = &family {
            family.forget_peak();
        }
        let began = Instant::now();
        for _ in 0..times {
            let got = lean.call("fill", json!({ "bytes": bytes })).await?;
            anyhow::ensure!(got.size > bytes, "{} bytes of {bytes} came", got.size);
        }
        let each = began.elapsed().as_secs_f64() * 1e3 / f64::from(times);
        samples.put(&format!("{name}: a result of {words}, ms"), way, each);
        if let (Some(family), Some(idle)) = (&family, idle) {
            let above = (family.peak_kb()? - idle) / 1024.0;
            samples.put(&format!("{name}: peak memory above idle, {words}, MB"), way, above);
        }
    }
    Ok(())
}

async fn events(stage: &Stage, way: Way, samples: &mut Samples) -> anyhow::Result<()> {
    let (at, path) = stage.door(way, Shape::Sse)?;
    let mut lean = Lean::opened(at, &path).await?;
    lean.echo().await?;
    let got = lean.call("events", json!({ "events": EVENTS })).await?;
    anyhow::ensure!(got.has(&format!("{EVENTS} events")), "the answer to `events` did not come");
    let rate = EVENTS as f64 / got.took.as_secs_f64();
    samples.put("SSE: 10,000 events on one answer, per second", way, rate);
    samples.put("SSE: the first of 10,000 events, ms", way, got.first.as_secs_f64() * 1e3);
    Ok(())
}

/// `relatch stdio URL` beside the same server over HTTP through nginx.
pub(super) async fn stdio(
    stage: &Stage,
    extent: &Extent,
    program: &Path,
    folder: &Path,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    for shape in SHAPES {
        let (at, _) = stage.door(Way::Direct, shape)?;
        let home = folder.join(format!("stdio-{}", shape.name()));
        std::fs::create_dir_all(&home)?;
        let mut command = Command::new(program);
        command.args(["stdio", &format!("http://{at}/mcp")]);
        stage::at_home(&mut command, &home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut to = child.stdin.take().context("no stdin")?;
        let mut from = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "relatch-bench", "version": "1"},
        });
        ask(&mut to, &mut from, &mut line, 0, "initialize", params).await?;
        to.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n").await?;
        let family = Family::of(child.id().context("relatch has ended")?);
        let mut samples = Samples::default();
        let mut cpu = Vec::new();
        let mut plain = Samples::default();
        for round in 0..extent.rounds {
            one_at_a_time(stage, Way::Direct, shape, extent.calls, &mut plain).await?;
            one_at_a_time(stage, Way::Nginx, shape, extent.calls, &mut plain).await?;
            let mut times = Vec::new();
            let mut before = family.cpu_us();
            for number in 0..WARM + extent.calls {
                if number == WARM {
                    before = family.cpu_us();
                    times.clear();
                }
                let id = 1 + (round * (WARM + extent.calls) + number) as u64;
                let params = json!({"name": "echo", "arguments": {"text": "a few words"}});
                let began = Instant::now();
                ask(&mut to, &mut from, &mut line, id, "tools/call", params).await?;
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
            cpu.push((family.cpu_us() - before) / extent.calls as f64);
            times.sort_by(f64::total_cmp);
            samples.put("p50", Way::Relatch, times.get(times.len() / 2).copied().unwrap_or_default());
        }
        let name = shape.name();
        let measure = format!("{name}: p50 of one call at a time, µs");
        let over: Vec<f64> = samples
            .of("p50", Way::Relatch)
            .iter()
            .zip(plain.of(&measure, Way::Nginx))
            .map(|(stdio, nginx)| stdio / nginx)
            .collect();
        rows.ratio(
            &format!("stdio, {name}: p50 of one call at a time, µs"),
            "",
            samples.of("p50", Way::Relatch),
            &over,
            Goal::Told("told, × nginx over HTTP"),
        );
        rows.figure(&format!("stdio, {name}: CPU ms per 1,000 calls"), "", &cpu, Goal::Told("told"));
        rows.figure(
            &format!("stdio, {name}: memory"),
            "MB",
            &[family.rss_kb()? / 1024.0],
            Goal::Told("told"),
        );
        drop(to);
        child.wait().await?;
    }
    Ok(())
}

/// One request by lines, and its answer.
async fn ask(
    to: &mut tokio::process::ChildStdin,
    from: &mut BufReader<tokio::process::ChildStdout>,
    line: &mut String,
    id: u64,
    method: &str,
    params: Value,
) -> anyhow::Result<()> {
    let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    to.write_all(format!("{message}\n").as_bytes()).await?;
    line.clear();
    from.read_line(line).await?;
    anyhow::ensure!(line.contains("\"result\""), "`{method}` over stdio was answered with `{line}`");
    Ok(())
}
