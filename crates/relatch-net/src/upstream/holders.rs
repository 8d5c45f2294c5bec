//! Who else holds the pipes of a command that has exited: one that has gone on in the background, in a session of its own,
//! is in no process group that could be ended.
//!
//! Found by what the system says of open files (Linux); elsewhere nobody is found. Decides nothing.

use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// One that is ended may have started another meanwhile; it is looked so often.
const LOOKS: usize = 3;

/// What the system calls a pipe; both its ends have this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeName(PathBuf);

/// The name of an open pipe; none for any other file, and where the system has no names.
#[must_use]
pub fn name(of: &impl AsRawFd) -> Option<PipeName> {
    name_of(of.as_raw_fd())
}

fn name_of(fd: RawFd) -> Option<PipeName> {
    let name = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    name.to_str()?.starts_with("pipe:[").then_some(PipeName(name))
}

/// Ends every process that holds one of these pipes, but this one and what is just being started by it. Whether there was
/// one.
pub fn end(pipes: &[PipeName]) -> bool {
    let mut any = false;
    for _ in 0..LOOKS {
        let found = holders(pipes);
        for pid in &found {
            // One that is gone by now is as it should be.
            let _ = kill_process(*pid, Signal::KILL);
        }
        if found.is_empty() {
            break;
        }
        any = true;
    }
    any
}

fn holders(pipes: &[PipeName]) -> Vec<Pid> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    // Between its birth and its program, a process that this one starts has all that this one has.
    let own = fs::read_link("/proc/self/exe").ok();
    all.flatten()
        .filter_map(|entry| {
            let id: u32 = entry.file_name().to_str()?.parse().ok()?;
            let mine = id == std::process::id() || fs::read_link(entry.path().join("exe")).ok() == own;
            let holds = !mine && holds(&entry.path(), pipes);
            i32::try_from(id).ok().filter(|_| holds).and_then(Pid::from_raw)
        })
        .collect()
}

fn holds(process: &Path, pipes: &[PipeName]) -> bool {
    // Those of another user can't be seen, and are none that was started here.
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|name| pipes.contains(&PipeName(name)))
}
