//! No false alarm: for a virtual hour nothing goes wrong, and nobody says that something did.

mod world;

use relatch_core::effect::What;
use relatch_core::health::State;
use relatch_core::policy;
use world::World;

const HOUR_MS: u64 = 3_600_000;
/// Somebody looks so often.
const LOOK_MS: u64 = 250;

/// What an hour has shown.
#[derive(Default)]
struct Hour {
    pings: u64,
    calls: u64,
}

/// An hour in which the server answers everything after `takes` and the client calls every `every`, if at all. `streams`:
/// the server offers a standing stream.
fn hour(takes: u64, every: Option<u64>, streams: bool) -> Hour {
    let mut w = World::bound();
    w.attached(1);
    if let Some((stream, What::Stream)) = w.under_way.iter().next_back().map(|(id, what)| (*id, what.clone()))
    {
        if streams {
            w.begun(stream);
        } else {
            w.refused(stream, 405, "");
        }
    }
    let begun = w.journal.len();
    let (mut hour, mut ex) = (Hour::default(), 2);
    // What is under way, and when it is answered.
    let mut due: Vec<(u64, u64)> = Vec::new();
    let mut next_call = every.map(|every| w.now.0 + every);
    let end = w.now.0 + HOUR_MS;
    while w.now.0 < end {
        let wakes = w.deadline().map(|(at, _)| at);
        let moments = [Some(w.now.0 + LOOK_MS), due.iter().map(|(at, _)| *at).min(), next_call, wakes];
        let to = moments.into_iter().flatten().min().unwrap_or(end).max(w.now.0);
        w.passes(to - w.now.0);
        if next_call == Some(w.now.0) {
            w.call(ex);
            hour.calls += 1;
            ex += 1;
            next_call = every.map(|every| w.now.0 + every);
        }
        let now = w.now.0;
        let (answered, rest): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, _)| *at <= now);
        due = rest;
        for (_, attempt) in answered {
            w.answered(attempt);
        }
        for (attempt, what) in &w.under_way {
            if matches!(what, What::Stream) || due.iter().any(|(_, known)| known == attempt) {
                continue;
            }
            hour.pings += u64::from(matches!(what, What::Ping));
            due.push((now + takes, *attempt));
        }
        let pings = w.under_way.values().filter(|what| matches!(what, What::Ping)).count();
        assert!(pings <= 1, "{pings} probes at the same time, at {now}");
        let report = w.report();
        assert_eq!(report.state, State::Healthy, "at {now}: {report:?}");
        assert!(report.conditions.is_empty() && report.last_failure.is_none(), "at {now}: {report:?}");
    }
    assert_eq!(w.journal[begun..], [] as [String; 0], "a healthy server writes nothing");
    let totals = w.report().totals;
    let trouble = [totals.relatched, totals.resent, totals.held, totals.given_back, totals.delivery_unknown];
    assert_eq!(trouble, [0; 5], "{totals:?}");
    hour
}

#[test]
fn an_idle_server_is_healthy_for_an_hour_and_is_asked_every_thirty_seconds() {
    for streams in [false, true] {
        for takes in [0, 20, policy::PING_MS - 1] {
            let Hour { pings, calls } = hour(takes, None, streams);
            assert_eq!(calls, 0);
            let expected = HOUR_MS / (policy::PROBE_MS + takes);
            assert!((expected - 2..=expected + 2).contains(&pings), "{pings} pings, {expected} expected");
        }
    }
}

#[test]
fn a_busy_server_is_healthy_for_an_hour_and_is_not_asked_besides() {
    for takes in [1, 40, 900] {
        let Hour { pings, calls } = hour(takes, Some(1_000), true);
        assert!(calls >= HOUR_MS / 1_000 - 1, "{calls}");
        assert_eq!(pings, 0, "its answers are evidence enough");
    }
}

#[test]
fn a_server_that_is_used_now_and_then_is_healthy_for_an_hour() {
    // Between two calls there is a probe or none; before a call there may be a look.
    for every in [7_000, 29_000, 31_000, 59_000, 61_000, 300_000] {
        let Hour { pings, calls } = hour(20, Some(every), true);
        assert!(calls >= HOUR_MS / every - 1, "{calls}");
        let expected = HOUR_MS / policy::PROBE_MS + calls;
        assert!(pings <= expected, "{pings} pings in an hour with a call every {every} ms");
    }
}
