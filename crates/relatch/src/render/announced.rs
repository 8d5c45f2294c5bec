//! What came of an announced restart, a line for each server of each keeper.

use jiff::Timestamp;
use relatch_admin::announced::{NotRestarted, PauseOutcome, RestartOutcome, ResumeOutcome};

use super::status::{ago, count};
use super::{clean, span};

/// One that is paused.
pub(crate) fn paused(outcome: &PauseOutcome, drain_ms: u64, for_ms: u64, pid: u32) -> String {
    let calls = match (outcome.running, outcome.left) {
        (0, 0) => "no call runs".to_owned(),
        (running, 0) => format!("{} came to an end", count(running, "running call")),
        (_, 1) => format!("1 call still runs after {}", span(drain_ms)),
        (_, left) => format!("{left} calls still run after {}", span(drain_ms)),
    };
    format!("{}  paused for {} at most; {calls} (process {pid})\n", clean(&outcome.name), span(for_ms))
}

/// One that goes on.
pub(crate) fn resumed(outcome: &ResumeOutcome, now: Timestamp, pid: u32) -> String {
    let words = match outcome.since {
        None => "was not paused".to_owned(),
        Some(since) => {
            let calls = match outcome.waiting {
                0 => "no call waits".to_owned(),
                1 => "1 call goes on".to_owned(),
                waiting => format!("{waiting} calls go on"),
            };
            format!("resumed after {}; {calls}", ago(since, now))
        }
    };
    format!("{}  {words} (process {pid})\n", clean(&outcome.name))
}

/// Whether not all that was asked for was done.
pub(crate) fn fell_short(outcome: &RestartOutcome) -> bool {
    outcome.refused.is_some() || outcome.stayed + outcome.pending + outcome.cut > 0
}

/// One that was to be started anew.
pub(crate) fn restarted(outcome: &RestartOutcome, pid: u32) -> String {
    let RestartOutcome { name, refused, renewed, stayed, pending, cut, cause } = outcome;
    let mut words = Vec::new();
    match refused {
        Some(NotRestarted::NoCommand) => {
            words.push("is at an address there, and nothing was done".to_owned());
        }
        Some(NotRestarted::Paused) => {
            words.push(format!("is paused, and nothing was done: `relatch resume {}` first", clean(name)))
        }
        None if *renewed + *stayed + *pending == 0 => {
            words.push("no process runs; the next client gets a new one".to_owned());
        }
        None => {}
    }
    if *renewed > 0 {
        words.push(format!("{} in a new process", count(*renewed, "session")));
    }
    if *stayed > 0 {
        words.push(format!("{} in the old process, which stays in use", count(*stayed, "session")));
    }
    if *pending > 0 {
        words.push(format!("{} without a new process", count(*pending, "session")));
    }
    if *cut > 0 {
        words.push(format!("{} ended with the old process and may have run", count(*cut, "call")));
    }
    let mut text = format!("{}  {} (process {pid})\n", clean(name), words.join("; "));
    if let Some(cause) = cause {
        text.push_str(&format!("  cause: {}\n", clean(cause)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_one_line_and_its_cause() {
        let paused_so = |running, left| {
            let outcome = PauseOutcome { name: "gmail".into(), running, left, until: None };
            paused(&outcome, 10_000, 300_000, 7)
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let resumed_so = |since, waiting| {
            let outcome = ResumeOutcome { name: "gmail".into(), since, waiting };
            resumed(&outcome, at(64), 7)
        };
        let broken = RestartOutcome {
            name: "files".into(),
            stayed: 2,
            cause: Some("`srv` exited with status 1".into()),
            ..RestartOutcome::default()
        };
        let cut = RestartOutcome { name: "files".into(), renewed: 1, cut: 1, ..RestartOutcome::default() };
        let idle = RestartOutcome { name: "files".into(), ..RestartOutcome::default() };
        let busy = RestartOutcome { refused: Some(NotRestarted::Paused), ..idle.clone() };
        assert!(fell_short(&broken) && fell_short(&cut) && fell_short(&busy) && !fell_short(&idle));
        let text = [
            paused_so(0, 0),
            paused_so(2, 0),
            paused_so(3, 1),
            resumed_so(Some(at(60)), 3),
            resumed_so(None, 0),
            restarted(&broken, 7),
            restarted(&cut, 7),
            restarted(&idle, 7),
            restarted(&busy, 7),
        ];
        insta::assert_snapshot!(text.concat(), @r"
        gmail  paused for 5m at most; no call runs (process 7)
        gmail  paused for 5m at most; 2 running calls came to an end (process 7)
        gmail  paused for 5m at most; 1 call still runs after 10s (process 7)
        gmail  resumed after 4s; 3 calls go on (process 7)
        gmail  was not paused (process 7)
        files  2 sessions in the old process, which stays in use (process 7)
          cause: `srv` exited with status 1
        files  1 session in a new process; 1 call ended with the old process and may have run (process 7)
        files  no process runs; the next client gets a new one (process 7)
        files  is paused, and nothing was done: `relatch resume files` first (process 7)
        ");
    }
}
