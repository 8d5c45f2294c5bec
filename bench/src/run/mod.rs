//! The whole table: relatch beside a direct connection and beside nginx as a plain reverse proxy, in the same rounds.
//!
//! Every figure stands beside its goal. Ratios are those of the same round; what is said is their median and how far
//! they spread. Times and p99 are told and not judged.

mod memory;
mod moments;
mod traffic;

use clap::Args;

use crate::figures::Spread;
use crate::render::{Cell, Report, Table, progress};
use crate::{ignorance, stage, storm};

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Rounds of every measurement that is a ratio
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Calls of a round, one at a time; eight times as many when 32 are under way
    #[arg(long, default_value_t = 300)]
    calls: usize,
    /// Sessions of the measurements of memory
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The program of which the size is told: all features, stripped
    #[arg(long)]
    program: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Calls over HTTP
    Calls,
    /// Large answers and many events
    Large,
    /// The stdio side
    Stdio,
    /// Memory of a quiet keeper
    Memory,
    /// Starting, and coming back after a restart
    Moments,
    /// 1,000 sessions after one restart
    Storm,
    /// Calls more than 5 s apart
    Apart,
}

/// One line of the table.
struct Row {
    measure: String,
    /// What relatch showed.
    figure: Cell,
    /// The same beside something else.
    ratio: Cell,
    /// What it should be.
    goal: String,
    /// Whether it was.
    met: Option<bool>,
}

/// The lines of the table so far.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    /// A figure, its ratios and the most that their median may be.
    fn ratio(&mut self, measure: &str, unit: &str, figures: &[f64], ratios: &[f64], goal: Goal) {
        let spread = Spread::of(ratios.iter().copied());
        let met = spread.map(|spread| goal.holds(spread.p50));
        self.0.push(Row {
            measure: named(measure, unit),
            figure: Cell::spread(figures.iter().copied(), 2),
            ratio: Cell::spread(ratios.iter().copied(), 2),
            goal: goal.words(),
            met: goal.judged().then_some(met).flatten(),
        });
    }

    /// A figure and the most that its median may be.
    fn figure(&mut self, measure: &str, unit: &str, figures: &[f64], goal: Goal) {
        let spread = Spread::of(figures.iter().copied());
        let met = spread.map(|spread| goal.holds(spread.p50));
        self.0.push(Row {
            measure: named(measure, unit),
            figure: Cell::spread(figures.iter().copied(), 2),
            ratio: Cell::Nothing,
            goal: goal.words(),
            met: goal.judged().then_some(met).flatten(),
        });
    }

    fn table(self) -> Table {
        let mut table = Table::new(
            "relatch (p50 and quarters; ratios of the same round)",
            &["measure", "relatch", "ratio", "goal", "met"],
        );
        for row in self.0 {
            let met = match row.met {
                Some(true) => "yes",
                Some(false) => "no",
                None => "–",
            };
            table.rows.push(vec![
                Cell::text(row.measure),
                row.figure,
                row.ratio,
                Cell::text(row.goal),
                Cell::text(met),
            ]);
        }
        table
    }
}

/// What a median should be.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
    /// Told, and not judged.
    Told(&'static str),
}

impl Goal {
    fn holds(self, figure: f64) -> bool {
        match self {
            Goal::AtMost(bound, _) => figure <= bound,
            Goal::AtLeast(bound, _) => figure >= bound,
            Goal::Told(_) => true,
        }
    }

    fn judged(self) -> bool {
        !matches!(self, Goal::Told(_))
    }

    fn words(self) -> String {
        match self {
            Goal::AtMost(bound, of) => format!("≤ {bound} {of}").trim_end().to_owned(),
            Goal::AtLeast(bound, of) => format!("≥ {bound} {of}").trim_end().to_owned(),
            Goal::Told(words) => words.to_owned(),
        }
    }
}

fn named(measure: &str, unit: &str) -> String {
    match unit {
        "" => measure.to_owned(),
        unit => format!("{measure}, {unit}"),
    }
}

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    let program = stage::relatch()?;
    let folder = tempfile::tempdir()?;
    let mut report = Report { title: "relatch beside nginx and a direct connection", ..Report::default() };
    report.notes.push(format!("before: {}", stage::load()));
    report.notes.push(format!("{} rounds, ways in turn; the server is rmcp's, on loopback", extent.rounds));
    let asked = |part| extent.only.is_empty() || extent.only.contains(&part);
    let mut rows = Rows::default();
    let mut others = Vec::new();
    if asked(Part::Calls) || asked(Part::Large) || asked(Part::Stdio) {
        let stage = traffic::Stage::set(&program, folder.path()).await?;
        if asked(Part::Calls) {
            progress("calls");
            others.push(traffic::calls(&stage, extent, &mut rows).await?);
        }
        if asked(Part::Large) {
            progress("large answers and many events");
            others.push(traffic::large(&stage, extent, &mut rows).await?);
        }
        if asked(Part::Stdio) {
            progress("the stdio side");
            traffic::stdio(&stage, extent, &program, folder.path(), &mut rows).await?;
        }
        stage.strike().await?;
    }
    if asked(Part::Memory) {
        progress("memory");
        memory::measure(extent, &program, folder.path(), &mut rows).await?;
    }
    if asked(Part::Moments) {
        progress("starting and coming back");
        moments::measure(extent, &program, folder.path(), &mut rows).await?;
    }
    if asked(Part::Storm) {
        progress("1,000 sessions after a restart");
        let storm = storm::measure(&storm::Extent::of(1_000, 200, 3, None)).await?;
        report.wrongs.extend(storm.wrongs);
        for (scene, figure, ratio, lost) in storm::told(&storm.tables) {
            // Lists compared are told apart.
            let goal = match scene.contains("lists compared") {
                true => Goal::Told("told"),
                false => Goal::AtMost(2.0, "× plain handshakes, none lost"),
            };
            let Cell::Spread(spread, _) = ratio else { continue };
            rows.0.push(Row {
                measure: format!("1,000 sessions after one restart, ms ({scene})"),
                figure,
                ratio,
                goal: goal.words(),
                met: goal.judged().then_some(goal.holds(spread.p50) && lost == 0),
            });
        }
    }
    if asked(Part::Apart) {
        progress("calls more than 5 s apart");
        let costs = ignorance::costs(extent.rounds).await?;
        for (link, calls, figure, ratio) in ignorance::told(&costs) {
            let Cell::Spread(spread, _) = ratio else { continue };
            let goal = match (link.as_str(), calls.as_str()) {
                ("loopback", "5.2 s apart") => Goal::AtMost(2.2, "× direct"),
                _ => Goal::Told("told"),
            };
            rows.0.push(Row {
                measure: format!("a call {calls}, {link}, ms"),
                figure,
                ratio,
                goal: goal.words(),
                met: goal.judged().then_some(goal.holds(spread.p50)),
            });
        }
    }
    if let Some(program) = &extent.program {
        let size = std::fs::metadata(program)?.len() as f64 / 1e6;
        rows.figure("binary, all features, stripped", "MB", &[size], Goal::AtMost(12.0, "MB"));
    }
    report.tables.push(rows.table());
    report.tables.extend(others);
    report.notes.push(format!("after: {}", stage::load()));
    Ok(report)
}
