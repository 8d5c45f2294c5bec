//! Measures relatch beside what could stand in its place: the real program, real servers, one run.
//!
//! Says what was measured, as ratios and counts; judges nothing and fails only when something could not be measured,
//! or when what must never happen (a call that ran twice, an answer that lied) did.

mod bare;
mod bridges;
mod client;
mod delay;
mod figures;
mod growth;
mod ignorance;
mod lean;
mod load;
mod pressure;
mod proc;
mod render;
mod run;
mod server;
mod stage;
mod storm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use render::Report;

/// Measure relatch side by side with what could stand in its place
#[derive(Debug, Parser)]
#[command(name = "relatch-bench", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The whole table: beside nginx and a direct connection
    Run {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: run::Extent,
    },
    /// How latency, CPU and memory grow
    Growth {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: growth::Extent,
    },
    /// Other bridges on the same measures
    Bridges {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: bridges::Extent,
    },
    /// What pressure costs others, and in memory
    Pressure {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: pressure::Extent,
    },
    /// What the rules against `delivery-unknown` cost, and what they save
    Ignorance {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: ignorance::Extent,
    },
    /// Many sessions on one server that is killed and started again
    Storm {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: storm::Extent,
    },
    /// Nothing but calls, while other tools look at a process
    Load {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        extent: load::Extent,
    },
    /// The server that measurements kill and start again
    #[command(hide = true)]
    Server(server::Manners),
    /// The least that a proxy costs
    #[command(hide = true)]
    Bare {
        /// Where it listens
        at: std::net::SocketAddr,
        /// Where it passes on to
        to: std::net::SocketAddr,
    },
}

/// Where the figures go.
#[derive(Debug, Args)]
struct Output {
    /// Write the figures as JSON to this file, besides the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.what {
        What::Run { output, extent } => output.put(&runtime.block_on(run::measure(&extent))?),
        What::Ignorance { output, extent } => output.put(&runtime.block_on(ignorance::measure(&extent))?),
        What::Storm { output, extent } => output.put(&runtime.block_on(storm::measure(&extent))?),
        What::Bridges { output, extent } => output.put(&runtime.block_on(bridges::measure(&extent))?),
        What::Pressure { output, extent } => output.put(&runtime.block_on(pressure::measure(&extent))?),
        What::Growth { output, extent } => output.put(&runtime.block_on(growth::measure(&extent))?),
        What::Load { output, extent } => output.put(&runtime.block_on(load::measure(&extent))?),
        What::Bare { at, to } => {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(bare::run(at, to))?;
            Ok(ExitCode::SUCCESS)
        }
        What::Server(manners) => {
            runtime.block_on(server::run(manners))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Output {
    fn put(&self, report: &Report) -> anyhow::Result<ExitCode> {
        report.print()?;
        if let Some(file) = &self.json {
            std::fs::write(file, report.json()?)?;
        }
        Ok(if report.wrongs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
