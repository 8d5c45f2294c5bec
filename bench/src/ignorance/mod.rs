//! What it costs to know more, and how much less is unknown for it.
//!
//! Two rules of relatch keep a call that may not repeat from ending as `delivery-unknown`: it travels only on a
//! connection that is new or was used less than 2 s ago, and when the last evidence of its server is older than 5 s, or
//! bad, a `ping` looks ahead. `cost` measures what they add to a call, `saved` how many calls they keep from an
//! uncertain end. Beside relatch stand a plain client with one pool of connections and, where it was built, relatch
//! without these two rules.

mod cost;
mod saved;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::render::{Cell, Report, Table, progress};
use crate::stage::{self, Relatch};

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Clients that call side by side, each with a session, and in relatch an upstream, of its own
    #[arg(long, default_value_t = 64)]
    lanes: usize,
    /// Rounds of every measurement of time
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How long each load with faults lasts
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this part: `cost` or `saved`
    #[arg(long)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Cost,
    Saved,
}

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    let programs = Programs::find()?;
    let folder = tempfile::tempdir()?;
    let mut report = Report { title: "ignorance made rare", ..Report::default() };
    report.notes.push(format!("before: {}", stage::load()));
    if programs.blind.is_none() {
        report.notes.push("relatch without the rules is not built, see bench/README.md".to_owned());
    }
    if extent.only != Some(Part::Saved) {
        report.tables.push(cost::measure(extent, &programs, folder.path()).await?);
    }
    if extent.only != Some(Part::Cost) {
        let table = saved::measure(extent, &programs, folder.path(), &mut report.wrongs).await?;
        report.tables.push(table);
    }
    report.notes.push(format!("after: {}", stage::load()));
    Ok(report)
}

/// What calls cost that are apart, and nothing else.
pub(crate) async fn costs(rounds: usize) -> anyhow::Result<Table> {
    let extent = Extent { lanes: 64, rounds, seconds: 0, only: Some(Part::Cost) };
    let programs = Programs { relatch: stage::relatch()?, blind: None };
    let folder = tempfile::tempdir()?;
    cost::measure(&extent, &programs, folder.path()).await
}

/// Of each measurement of `costs`: the link, the calls, relatch's time and its ratio.
pub(crate) fn told(costs: &Table) -> Vec<(String, String, Cell, Cell)> {
    let relatch = costs.rows.iter().filter_map(|row| {
        let [Cell::Text(link), Cell::Text(calls), Cell::Text(way), time, ratio] = row.as_slice() else {
            return None;
        };
        (way == Way::Relatch.name()).then(|| (link.clone(), calls.clone(), time.clone(), ratio.clone()))
    });
    relatch.collect()
}

/// A way from a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Blind,
    Relatch,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Plain => "plain client",
            Way::Blind => "relatch without the rules",
            Way::Relatch => "relatch",
        }
    }
}

struct Programs {
    relatch: PathBuf,
    blind: Option<PathBuf>,
}

impl Programs {
    fn find() -> anyhow::Result<Programs> {
        Ok(Programs { relatch: stage::relatch()?, blind: stage::blind()? })
    }
}

/// The ways to one server, with as many upstreams as lanes: evidence belongs to an upstream, and a lane stands for a
/// client that is alone with its server.
struct Ways {
    server: SocketAddr,
    relatch: Relatch,
    blind: Option<Relatch>,
}

impl Ways {
    async fn open(
        programs: &Programs,
        folder: &Path,
        server: SocketAddr,
        lanes: usize,
    ) -> anyhow::Result<Ways> {
        progress("starting relatch");
        let servers: Vec<(String, SocketAddr)> =
            (0..lanes).map(|lane| (format!("u{lane}"), server)).collect();
        let relatch = Relatch::serve(&programs.relatch, folder, &servers).await?;
        let blind = match &programs.blind {
            Some(program) => Some(Relatch::serve(program, folder, &servers).await?),
            None => None,
        };
        Ok(Ways { server, relatch, blind })
    }

    /// Address and path of each way, for one lane.
    fn of(&self, lane: usize) -> Vec<(Way, SocketAddr, String)> {
        let path = format!("/u{lane}/mcp");
        let mut ways = vec![(Way::Plain, self.server, "/mcp".to_owned())];
        ways.extend(self.blind.as_ref().map(|blind| (Way::Blind, blind.at, path.clone())));
        ways.push((Way::Relatch, self.relatch.at, path));
        ways
    }
}
