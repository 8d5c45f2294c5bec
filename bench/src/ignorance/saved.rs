//! How many calls end as "it may have run": the same load on every way at the same time, against the same server,
//! while that is restarted behind a proxy, or closes connections that are idle.
//!
//! What a client was told is held against the ledger: a call that ran twice, one that was answered and did not run,
//! and one that ran though its client was told that it did not, are wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Extent, Programs, Way, Ways};
use crate::client::{Client, Said};
use crate::delay::LongWay;
use crate::render::{Cell, Table, progress};
use crate::server::Manners;
use crate::stage::{Kind, Nginx, Server};

/// A load, and what goes wrong meanwhile.
struct Scene {
    words: &'static str,
    kind: Kind,
    nginx: bool,
    one_way_ms: u64,
    /// Each client pauses for a random span between these, in milliseconds.
    pauses: (u64, u64),
    /// The server runs so long, is away so long, and so on, in milliseconds.
    restarts: Option<(u64, u64)>,
}

pub(super) async fn measure(
    extent: &Extent,
    programs: &Programs,
    folder: &Path,
    wrongs: &mut Vec<String>,
) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "calls that may not repeat, and how many ended as \"it may have run\"",
        &["what goes wrong", "by", "calls", "answered", "not run", "unknown", "of these ran", "twice"],
    );
    for scene in scenes() {
        progress(&format!("{}, {} s", scene.words, extent.seconds));
        play(&scene, extent, programs, folder, &mut table, wrongs).await?;
    }
    Ok(table)
}

fn scenes() -> Vec<Scene> {
    let own = |idle_ms| {
        Kind::Own(Manners { port: 0, ledger: Default::default(), handshake_ms: 0, idle_ms: Some(idle_ms) })
    };
    let restarts = Some((4_000, 1_500));
    let still = |words, kind, one_way_ms, pauses| Scene {
        words,
        kind,
        nginx: false,
        one_way_ms,
        pauses,
        restarts: None,
    };
    vec![
        Scene {
            words: "restarts behind nginx, busy",
            kind: Kind::Rmcp,
            nginx: true,
            one_way_ms: 0,
            pauses: (100, 900),
            restarts,
        },
        Scene {
            words: "restarts behind nginx, calls 3 to 12 s apart",
            kind: Kind::Rmcp,
            nginx: true,
            one_way_ms: 0,
            pauses: (3_000, 12_000),
            restarts,
        },
        Scene {
            words: "restarts without a proxy, calls 3 to 12 s apart",
            kind: Kind::Rmcp,
            nginx: false,
            one_way_ms: 0,
            pauses: (3_000, 12_000),
            restarts,
        },
        still("closed when idle for 5 s, loopback", own((5_000, 5_000)), 0, (4_990, 5_010)),
        still("closed when idle for 5 s, 20 ms away", own((5_000, 5_000)), 20, (4_900, 5_050)),
        still("closed by Node when idle, 20 ms away", Kind::Node, 20, (4_900, 6_100)),
        still("closed at random moments, 20 ms away", own((300, 8_000)), 20, (200, 8_000)),
    ]
}

async fn play(
    scene: &Scene,
    extent: &Extent,
    programs: &Programs,
    folder: &Path,
    table: &mut Table,
    wrongs: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut server = Server::start(scene.kind.clone(), folder).await?;
    let nginx = if scene.nginx { Some(Nginx::before(server.at, folder).await?) } else { None };
    let front = nginx.as_ref().map_or(server.at, |nginx| nginx.at);
    let long = LongWay::to(front, Duration::from_millis(scene.one_way_ms)).await?;
    let at = if scene.one_way_ms > 0 { long.at } else { front };
    let ways = Ways::open(programs, folder, at, extent.lanes).await?;
    let end = Instant::now() + Duration::from_secs(extent.seconds);
    let mut lanes = JoinSet::new();
    for lane in 0..extent.lanes {
        for (way, at, path) in ways.of(lane) {
            lanes.spawn(live(way, lane, at, path, scene.pauses, end));
        }
    }
    if let Some((up, down)) = scene.restarts {
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(up)).await;
            server.kill().await?;
            tokio::time::sleep(Duration::from_millis(down)).await;
            server.again().await?;
        }
    }
    let mut said: BTreeMap<&'static str, Vec<(String, Said)>> = BTreeMap::new();
    while let Some(done) = lanes.join_next().await {
        let (way, calls) = done??;
        said.entry(way.name()).or_default().extend(calls);
    }
    let executed = server.executed()?;
    for way in [Way::Plain, Way::Blind, Way::Relatch] {
        if let Some(calls) = said.get(way.name()) {
            table.rows.push(judge(scene, way, calls, &executed, wrongs));
        }
    }
    if let Some(nginx) = nginx {
        nginx.stop().await?;
    }
    Ok(())
}

/// One client: it pauses, calls, and so on. The pauses of a lane are the same on every way.
async fn live(
    way: Way,
    lane: usize,
    at: SocketAddr,
    path: String,
    pauses: (u64, u64),
    end: Instant,
) -> anyhow::Result<(Way, Vec<(String, Said)>)> {
    let mut chance = Chance(lane as u64 + 1);
    let mut client = Client::opened(at, &path).await?;
    let mut calls = Vec::new();
    // Not all at once.
    tokio::time::sleep(Duration::from_millis(chance.between((0, pauses.0.max(1_000))))).await;
    while Instant::now() < end {
        let key = format!("{way:?}-{lane}-{}", calls.len());
        let said = client.call(&key).await;
        calls.push((key, said));
        tokio::time::sleep(Duration::from_millis(chance.between(pauses))).await;
    }
    Ok((way, calls))
}

fn judge(
    scene: &Scene,
    way: Way,
    calls: &[(String, Said)],
    executed: &BTreeMap<String, u64>,
    wrongs: &mut Vec<String>,
) -> Vec<Cell> {
    let (mut answered, mut not_run, mut unknown, mut ran, mut twice) = (0, 0, 0, 0, 0);
    for (key, said) in calls {
        let times = executed.get(key).copied().unwrap_or(0);
        twice += u64::from(times > 1);
        let wrong = match said {
            Said::Answered => {
                answered += 1;
                (times == 0).then_some("was answered and did not run")
            }
            Said::NotRun(_) => {
                not_run += 1;
                (times > 0).then_some("ran, and the client was told that it did not")
            }
            Said::Unknown(_) => {
                unknown += 1;
                ran += u64::from(times > 0);
                None
            }
        };
        if let Some(wrong) = wrong.or((times > 1).then_some("ran twice")) {
            wrongs.push(format!("{}, {}: {key} {wrong} ({said:?})", scene.words, way.name()));
        }
    }
    vec![
        Cell::text(scene.words),
        Cell::text(way.name()),
        Cell::Count(calls.len() as u64),
        Cell::Count(answered),
        Cell::Count(not_run),
        Cell::Count(unknown),
        Cell::Count(ran),
        Cell::Count(twice),
    ]
}

/// Small and seeded, so that every way has the same pauses.
struct Chance(u64);

impl Chance {
    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        low + (self.0 >> 33) % (high - low + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_held_against_the_ledger() {
        let scene = &scenes()[0];
        let executed = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 1)]);
        let call = |key: &str, said| (key.to_owned(), said);
        let calls = [
            call("a", Said::Answered),
            call("b", Said::Answered),
            call("c", Said::NotRun(String::new())),
            call("d", Said::Answered),
            call("e", Said::Unknown(String::new())),
        ];
        let mut wrongs = Vec::new();
        let row = judge(scene, Way::Relatch, &calls, &executed, &mut wrongs);
        assert_eq!(wrongs.len(), 3, "{wrongs:?}");
        assert!(matches!(row[5], Cell::Count(1)) && matches!(row[7], Cell::Count(1)), "{row:?}");
    }
}
