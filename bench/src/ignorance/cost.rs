//! The time of a small call that may not repeat: busy, after an idle connection has become too old, and after the
//! evidence has. Every way is measured in the same round, in turn.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::JoinSet;

use super::{Extent, Programs, Way, Ways};
use crate::client::{Client, Said};
use crate::delay::LongWay;
use crate::render::{Cell, Table, progress};
use crate::server::Manners;
use crate::stage::{Kind, Server};

/// Calls in a row in a busy round.
const BUSY: usize = 40;

/// One client on one way.
struct Runner {
    way: Way,
    lane: usize,
    client: Client,
    calls: u64,
}

/// The times of one round, in microseconds, in the order of the ways.
type Round = Vec<(Way, f64)>;

pub(super) async fn measure(extent: &Extent, programs: &Programs, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "time of a call that may not repeat, on the bench's own server (p50 and quarters; ratios of the same round)",
        &["way to the server", "calls", "by", "ms", "× plain client"],
    );
    // Not the rmcp peer: it sets no `TCP_NODELAY`, so that a call back to back takes 44 ms on every way.
    let kind = Kind::Own(Manners { port: 0, ledger: Default::default(), handshake_ms: 0, idle_ms: None });
    for one_way in [0, 20] {
        let server = Server::start(kind.clone(), folder).await?;
        let long = LongWay::to(server.at, Duration::from_millis(one_way)).await?;
        let (at, link) = match one_way {
            0 => (server.at, "loopback".to_owned()),
            ms => (long.at, format!("{ms} ms one way")),
        };
        let ways = Ways::open(programs, folder, at, extent.lanes).await?;
        let mut lanes = Vec::new();
        for lane in 0..extent.lanes {
            let mut runners = Vec::new();
            for (way, at, path) in ways.of(lane) {
                runners.push(Runner { way, lane, client: Client::opened(at, &path).await?, calls: 0 });
            }
            lanes.push(runners);
        }
        progress(&format!("{link}: back to back"));
        let mut rounds = Vec::new();
        if let Some(runners) = lanes.first_mut() {
            for round in 0..extent.rounds {
                rounds.push(busy(runners, round).await?);
            }
        }
        put(&mut table, &link, "back to back", &rounds);
        for (gap, words) in [(2_200, "2.2 s apart"), (5_200, "5.2 s apart")] {
            progress(&format!("{link}: {words}"));
            let per_lane = extent.rounds.div_ceil(4).max(2);
            let gap = Duration::from_millis(gap);
            let count = u32::try_from(lanes.len())?;
            let mut tasks = JoinSet::new();
            for (number, runners) in (0..).zip(std::mem::take(&mut lanes)) {
                // Spread over the gap, so that no call meets another.
                tasks.spawn(apart(runners, gap * number / count, gap, per_lane));
            }
            let mut rounds = Vec::new();
            while let Some(done) = tasks.join_next().await {
                let (runners, times) = done??;
                lanes.push(runners);
                rounds.extend(times);
            }
            put(&mut table, &link, words, &rounds);
        }
        if server.executed()?.values().any(|times| *times > 1) {
            bail!("a call ran twice");
        }
    }
    Ok(table)
}

async fn busy(runners: &mut [Runner], round: usize) -> anyhow::Result<Round> {
    let mut times = Vec::new();
    let ways = runners.len();
    for at in 0..ways {
        let runner = &mut runners[(at + round) % ways];
        let mut each = Vec::new();
        // The first one may need a new connection.
        runner.call().await?;
        for _ in 0..BUSY {
            each.push(runner.call().await?);
        }
        each.sort_by(f64::total_cmp);
        times.push((runner.way, each[BUSY / 2]));
    }
    Ok(times)
}

async fn apart(
    mut runners: Vec<Runner>,
    first: Duration,
    gap: Duration,
    rounds: usize,
) -> anyhow::Result<(Vec<Runner>, Vec<Round>)> {
    tokio::time::sleep(first).await;
    let ways = runners.len();
    let mut all = Vec::new();
    for runner in &mut runners {
        runner.call().await?;
    }
    for round in 0..rounds {
        tokio::time::sleep(gap).await;
        let mut times = Vec::new();
        for at in 0..ways {
            let runner = &mut runners[(at + round) % ways];
            times.push((runner.way, runner.call().await?));
        }
        all.push(times);
    }
    Ok((runners, all))
}

impl Runner {
    /// Calls once; how long it took, in microseconds.
    async fn call(&mut self) -> anyhow::Result<f64> {
        self.calls += 1;
        let key = format!("{:?}-{}-{}", self.way, self.lane, self.calls);
        let began = Instant::now();
        match self.client.call(&key).await {
            Said::Answered => Ok(began.elapsed().as_secs_f64() * 1e6),
            said => bail!("a call by {} ended with {said:?}", self.way.name()),
        }
    }
}

fn put(table: &mut Table, link: &str, calls: &str, rounds: &[Round]) {
    let of = |round: &Round, way: Way| round.iter().find(|(w, _)| *w == way).map(|(_, us)| *us);
    for way in [Way::Plain, Way::Blind, Way::Relatch] {
        let times: Vec<f64> = rounds.iter().filter_map(|round| of(round, way)).map(|us| us / 1e3).collect();
        if times.is_empty() {
            continue;
        }
        let ratios = rounds.iter().filter_map(|round| Some(of(round, way)? / of(round, Way::Plain)?));
        table.rows.push(vec![
            Cell::text(link),
            Cell::text(calls),
            Cell::text(way.name()),
            Cell::spread(times, 2),
            Cell::spread(ratios, 2),
        ]);
    }
}
