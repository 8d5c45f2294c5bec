//! Many sessions on one server that is killed and started again, some with calls that wait for it.
//!
//! Measured from the moment at which the new process accepts connections: when the first and the last waiting call is
//! answered, and when every session has been opened anew. Beside it, in the same round, as many plain handshakes
//! straight to a fresh server of the same kind, as many at a time as relatch allows itself. The bench's own server
//! counts what is with it at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Said, now_us};
use crate::render::{Cell, Report, Table, progress};
use crate::server::Manners;
use crate::stage::{self, Kind, Relatch, Server};

/// As many as relatch has under way at one upstream (`PERMITS` in relatch-core's policy).
const AT_ONCE: usize = 8;
/// A session that was quiet for longer is believed when it is said to be gone, without asking other replicas.
const QUIET: Duration = Duration::from_millis(11_000);
/// The server is away for so long.
const AWAY: Duration = Duration::from_millis(1_000);
/// All have recovered by then, or something is wrong.
const RECOVERED: Duration = Duration::from_secs(120);

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Sessions on the server
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// How many of them have a call that waits
    #[arg(long, default_value_t = 200)]
    waiting: usize,
    /// Restarts of every scene
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only the scene with this number
    #[arg(long)]
    scene: Option<usize>,
}

impl Extent {
    /// So many sessions, callers and restarts, in one scene or all.
    pub(crate) fn of(sessions: usize, waiting: usize, rounds: usize, scene: Option<usize>) -> Extent {
        Extent { sessions, waiting, rounds, scene }
    }
}

/// Of each scene: its name, the time until all had recovered, the same beside plain handshakes, and how many were lost.
pub(crate) fn told(tables: &[Table]) -> Vec<(String, Cell, Cell, u64)> {
    let [times, loads] = tables else { return Vec::new() };
    let scenes = times.rows.iter().zip(&loads.rows).filter_map(|(time, load)| {
        let (Cell::Text(scene), Cell::Count(lost)) = (time.first()?, load.get(6)?) else { return None };
        Some((scene.clone(), time.get(3)?.clone(), time.get(6)?.clone(), *lost))
    });
    scenes.collect()
}

/// Who is there when the server is killed.
struct Scene {
    words: &'static str,
    rmcp: bool,
    handshake_ms: u64,
    attached: bool,
    /// Every client knows the list of tools, so that it is compared afterwards.
    lists: bool,
    /// Every session answers shortly before its server is killed.
    lively: bool,
}

const SCENES: [Scene; 6] = {
    let plain = Scene {
        words: "attached",
        rmcp: false,
        handshake_ms: 0,
        attached: true,
        lists: false,
        lively: false,
    };
    [
        Scene { words: "own server, streams open", ..plain },
        Scene { words: "own server, no stream", attached: false, ..plain },
        Scene { words: "own server, initialize takes 5 ms, streams open", handshake_ms: 5, ..plain },
        Scene { words: "own server, streams open, answered just before", lively: true, ..plain },
        Scene { words: "own server, streams open, lists compared", lists: true, ..plain },
        Scene { words: "rmcp, streams open", rmcp: true, ..plain },
    ]
};

/// What one restart showed. Times in milliseconds.
#[derive(Default)]
struct Round {
    first_call: f64,
    last_call: f64,
    all: f64,
    span: Option<f64>,
    plain: f64,
    counts: Value,
}

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    if extent.waiting == 0 || extent.waiting > extent.sessions {
        bail!("--waiting is between 1 and --sessions");
    }
    let program = stage::relatch()?;
    let folder = tempfile::tempdir()?;
    let mut report = Report { title: "a server that comes back to all its sessions", ..Report::default() };
    report.notes.push(format!(
        "{} sessions, {} with a call that waits; {} restarts each; {AT_ONCE} plain handshakes at a time",
        extent.sessions, extent.waiting, extent.rounds
    ));
    report.notes.push(format!("before: {}", stage::load()));
    let mut times = Table::new(
        "ms since the new process accepts connections (p50 and quarters over the restarts)",
        &[
            "scene",
            "first call",
            "last call",
            "all sessions",
            "its requests span",
            "plain handshakes",
            "× plain",
        ],
    );
    let mut loads = Table::new(
        "what was with the server (the most over the restarts; requests without standing streams)",
        &[
            "scene",
            "initialize at once",
            "requests at once",
            "requests/s",
            "requests per session",
            "refused",
            "lost",
            "twice",
        ],
    );
    for (number, scene) in SCENES.iter().enumerate() {
        if extent.scene.is_none_or(|only| only == number) {
            play(scene, extent, &program, folder.path(), &mut times, &mut loads, &mut report.wrongs).await?;
        }
    }
    report.tables = vec![times, loads];
    report.notes.push(format!("after: {}", stage::load()));
    Ok(report)
}

async fn play(
    scene: &Scene,
    extent: &Extent,
    program: &Path,
    folder: &Path,
    times: &mut Table,
    loads: &mut Table,
    wrongs: &mut Vec<String>,
) -> anyhow::Result<()> {
    progress(scene.words);
    let kind = match scene.rmcp {
        true => Kind::Rmcp,
        false => Kind::Own(Manners {
            port: 0,
            ledger: PathBuf::new(),
            handshake_ms: scene.handshake_ms,
            idle_ms: None,
        }),
    };
    let mut server = Server::start(kind.clone(), folder).await?;
    let relatch = Relatch::serve(program, folder, &[("up".to_owned(), server.at)]).await?;
    let mut clients = opened(relatch.at, "/up/mcp", extent.sessions, 32).await?;
    let mut streams = Vec::new();
    for client in &mut clients {
        if scene.lists {
            client.list().await?;
        }
        if scene.attached {
            streams.push(client.listen().await?);
        }
    }
    let mut rounds = Vec::new();
    let mut lost = 0;
    for number in 0..extent.rounds {
        let round;
        (clients, round) =
            restart(scene, extent, number, &mut server, &relatch, program, clients, &mut lost, wrongs)
                .await?;
        let plain = Server::start(kind.clone(), folder).await?;
        let began = Instant::now();
        drop(opened(plain.at, "/mcp", extent.sessions, AT_ONCE).await?);
        rounds.push(Round { plain: ms(began.elapsed()), ..round });
    }
    for stream in streams {
        stream.abort();
    }
    let twice: Vec<String> =
        server.executed()?.into_iter().filter(|(_, times)| *times > 1).map(|(key, _)| key).collect();
    wrongs.extend(twice.iter().map(|key| format!("{}: {key} ran twice", scene.words)));
    let each = |of: fn(&Round) -> Option<f64>| Cell::spread(rounds.iter().filter_map(of), 0);
    times.rows.push(vec![
        Cell::text(scene.words),
        each(|round| Some(round.first_call)),
        each(|round| Some(round.last_call)),
        each(|round| Some(round.all)),
        each(|round| round.span),
        each(|round| Some(round.plain)),
        Cell::spread(rounds.iter().map(|round| round.span.unwrap_or(round.all) / round.plain), 2),
    ]);
    let most = |of: &dyn Fn(&Value) -> Option<f64>, decimals| {
        let figures = rounds.iter().filter_map(|round| of(&round.counts));
        figures.reduce(f64::max).map_or(Cell::Nothing, |most| Cell::Number(most, decimals))
    };
    let sessions = extent.sessions as f64;
    let kinds = ["initialize", "initialized", "calls", "pings", "lists", "other"];
    let all = |counts: &Value| {
        counts
            .is_object()
            .then(|| kinds.iter().filter_map(|kind| counts[kind].as_f64()).sum::<f64>() / sessions)
    };
    loads.rows.push(vec![
        Cell::text(scene.words),
        most(&|counts| counts["peak_handshakes"].as_f64(), 0),
        most(&|counts| counts["peak_requests"].as_f64(), 0),
        most(&|counts| counts["peak_per_s"].as_f64(), 0),
        most(&all, 2),
        most(&|counts| counts["refused"].as_f64(), 0),
        Cell::Count(lost),
        Cell::Count(twice.len() as u64),
    ]);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "everything that a restart touches")]
async fn restart(
    scene: &Scene,
    extent: &Extent,
    number: usize,
    server: &mut Server,
    relatch: &Relatch,
    program: &Path,
    mut clients: Vec<Client>,
    lost: &mut u64,
    wrongs: &mut Vec<String>,
) -> anyhow::Result<(Vec<Client>, Round)> {
    if !scene.lively {
        tokio::time::sleep(QUIET).await;
    }
    let renewed = relatch.relatched(program).await?;
    server.kill().await?;
    // Callers are spread evenly over the sessions.
    let every = extent.sessions / extent.waiting;
    let mut callers = JoinSet::new();
    let mut others = Vec::new();
    for (at, mut client) in clients.drain(..).enumerate() {
        if at % every == 0 && at / every < extent.waiting {
            let key = format!("waiting-{number}-{at}");
            callers.spawn(async move {
                let said = client.call(&key).await;
                (at, client, said, now_us())
            });
        } else {
            others.push((at, client));
        }
    }
    tokio::time::sleep(AWAY).await;
    server.again().await?;
    let back = now_us();
    let since = |us: u64| us.saturating_sub(back) as f64 / 1e3;
    let mut answered = Vec::new();
    while let Some(done) = callers.join_next().await {
        let (at, client, said, us) = done?;
        if said == Said::Answered {
            answered.push(since(us));
        } else {
            *lost += 1;
            wrongs.push(format!("{}: a waiting call ended with {said:?}", scene.words));
        }
        others.push((at, client));
    }
    let mut round = recovered(scene, extent, server, relatch, program, renewed, back).await?;
    round.first_call = answered.iter().copied().fold(f64::INFINITY, f64::min);
    round.last_call = answered.iter().copied().fold(0.0, f64::max);
    // And every one of them works, by a call that needs nothing more.
    let mut proofs = JoinSet::new();
    for (at, mut client) in others {
        proofs.spawn(async move {
            let said = client.call(&format!("after-{number}-{at}")).await;
            (at, client, said)
        });
    }
    let mut back_again = Vec::new();
    while let Some(done) = proofs.join_next().await {
        let (at, client, said) = done?;
        if said != Said::Answered {
            *lost += 1;
            wrongs.push(format!("{}: a session is lost: {said:?}", scene.words));
        }
        back_again.push((at, client));
    }
    back_again.sort_by_key(|(at, _)| *at);
    Ok((back_again.into_iter().map(|(_, client)| client).collect(), round))
}

/// Waits until every session has been opened anew.
async fn recovered(
    scene: &Scene,
    extent: &Extent,
    server: &Server,
    relatch: &Relatch,
    program: &Path,
    renewed: u64,
    back: u64,
) -> anyhow::Result<Round> {
    let end = Instant::now() + RECOVERED;
    let sessions = extent.sessions as u64;
    while Instant::now() < end {
        if scene.rmcp {
            if relatch.relatched(program).await? >= renewed + sessions {
                let all = now_us().saturating_sub(back) as f64 / 1e3;
                return Ok(Round { all, ..Round::default() });
            }
        } else {
            let counts = Client::counts(server.at).await?;
            if counts["initialized"].as_u64() >= Some(sessions) {
                let us = |name: &str| counts[name].as_u64().unwrap_or_default();
                let (first, last) = (us("first_us"), us("last_initialized_us"));
                let all = last.saturating_sub(back) as f64 / 1e3;
                let span = Some(last.saturating_sub(first) as f64 / 1e3);
                return Ok(Round { all, span, counts, ..Round::default() });
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = relatch.relatched(program).await?.saturating_sub(renewed);
    bail!("{}: after {RECOVERED:?} only {done} of {sessions} sessions have recovered", scene.words)
}

/// So many sessions, so many handshakes at a time, each over connections that are used again.
async fn opened(
    at: SocketAddr,
    path: &'static str,
    sessions: usize,
    at_once: usize,
) -> anyhow::Result<Vec<Client>> {
    let mut workers = JoinSet::new();
    for worker in 0..at_once {
        let share = (sessions + at_once - 1 - worker) / at_once;
        workers.spawn(async move {
            let mut done = Vec::new();
            let mut client = Client::new(at, path);
            for _ in 0..share {
                client.open().await?;
                done.push(client.apart());
            }
            anyhow::Ok(done)
        });
    }
    let mut clients = Vec::new();
    while let Some(done) = workers.join_next().await {
        clients.extend(done??);
    }
    clients.truncate(sessions);
    if clients.len() < sessions {
        bail!("only {} sessions were opened", clients.len());
    }
    Ok(clients)
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

impl Relatch {
    /// How many sessions it has opened in place of lost ones so far.
    async fn relatched(&self, program: &Path) -> anyhow::Result<u64> {
        let status = self.status(program).await?;
        let total = find(&status, "relatched").and_then(Value::as_u64);
        total.context("the status does not say how many sessions were renewed")
    }
}

/// The first value of this name, however deep.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(name).or_else(|| map.values().find_map(|value| find(value, name))),
        Value::Array(all) => all.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}
