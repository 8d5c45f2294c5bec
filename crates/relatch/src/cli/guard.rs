//! `relatch guard -- CMD`, started by relatch itself in front of a server that is a command: runs it, and ends it with all
//! that it has started when relatch is gone, however that came.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use relatch_net::upstream::holders;
use rustix::process::{Pid, Signal, getpgrp, getppid, kill_process_group};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit;
use crate::render::Failure;

/// How often it is looked whether relatch is still there, where the system does not tell.
const LOOK: Duration = Duration::from_millis(500);
/// What was told to end gets so long.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Run a command that ends with relatch
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The process of the relatch that it ends with
    #[arg(long)]
    parent: i32,

    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let parent = Pid::from_raw(arguments.parent);
    #[cfg(target_os = "linux")]
    {
        // Told by a signal; a parent that is gone already is seen below.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    }
    let no_signals = |cause| Failure::new("The system gives no signals").cause(cause);
    let mut told = signal(SignalKind::terminate()).map_err(no_signals)?;
    let program = &arguments.command[0];
    let mut child = Command::new(program)
        .args(&arguments.command[1..])
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|cause| Failure::new(format!("`{program}` can't be started")).cause(cause))?;
    let orphaned = async {
        while getppid() == parent {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        status = child.wait() => {
            let code = status.ok().and_then(|status| {
                use std::os::unix::process::ExitStatusExt;
                status.code().or_else(|| status.signal().map(|signal| 128 + signal))
            });
            return Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::NO)));
        }
        _ = told.recv() => {}
        () = orphaned => {}
    }
    // This process is of the group, too, and only waits for the others.
    end_group(Signal::TERM);
    let _ = tokio::time::timeout(END_WITHIN, child.wait()).await;
    // What has gone on in the background is in another group.
    let pipes: Vec<_> =
        [holders::name(&std::io::stdin()), holders::name(&std::io::stdout())].into_iter().flatten().collect();
    holders::end(&pipes);
    end_group(Signal::KILL);
    Ok(ExitCode::from(exit::NO))
}

/// Only of a group of its own: run by hand, it is in that of its shell.
fn end_group(signal: Signal) {
    let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap_or_default());
    if own == Some(getpgrp()) {
        let _ = kill_process_group(getpgrp(), signal);
    }
}
