//! The program `relatch`: reads the command line, runs one command, and says how it went.
//!
//! It decides nothing about connections. `cli/` has a file per command, `config/` what `relatch.toml` may say, `launch` what a keeper is started with, `keeper` a keeper
//! from start to end, `face` what others see of it,
//! `dev/` the workshop of `relatch dev`, `drill/` the rehearsal, `tui/` the live view in the terminal, and `render/` is the only other place that prints.

mod adopt;
mod cli;
mod config;
mod dev;
mod doctor;
mod drill;
mod exit;
mod face;
mod keeper;
mod launch;
mod nearest;
mod reload;
mod render;
mod service;
mod supervisor;
#[cfg(feature = "otel")]
mod traces;
mod tui;
mod ways;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// musl's own allocator maps and unmaps a call's buffers each time.
#[cfg(target_env = "musl")]
#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        tui::restore();
        render::bug(&panic.to_string());
        std::process::exit(exit::BUG.into());
    }));
    // A reader that closes its end, as `head` does, is no bug; `render` sees the failed write.
    let cli = cli::Cli::parse();
    if let Ok(wanted) = std::env::var("RELATCH_LOG")
        && let Some(wanted) = wanted_logs(&wanted)
    {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(render::Style::stderr().coloured());
        tracing_subscriber::registry().with(lines).with(wanted).init();
    }
    match cli.run() {
        Ok(code) => code,
        Err(failure) => {
            render::failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

/// What `RELATCH_LOG` asks for; a part that can't be read is named, and the others hold.
fn wanted_logs(text: &str) -> Option<Targets> {
    let mut parts = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // Spans and fields of them can't be asked for, and an empty level would be read as one.
        let readable = !part.contains(['[', ']', '{', '}']) && !part.ends_with('=');
        match part.parse::<Targets>() {
            Ok(_) if readable => parts.push(part),
            _ => {
                let words = format!(
                    "`RELATCH_LOG` has `{part}`, which is neither a level (off, error, warn, info, debug, trace) nor MODULE=LEVEL; \
                     it is left out"
                );
                render::say(&render::config::warning(&words));
            }
        }
    }
    (!parts.is_empty()).then(|| parts.join(",").parse().ok()).flatten()
}
