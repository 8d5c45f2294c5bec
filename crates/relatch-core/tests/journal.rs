//! Stories of the journal: that each kind of line is written when its thing happens, once, and not more of it than a
//! person can read.

mod world;

use relatch_core::effect::Effect;
use relatch_core::health::{ClientSeen, ServerSeen, State};
use relatch_core::input::{Input, Listed, SessionFacts};
use relatch_core::journal::{Entry, What};
use relatch_core::policy::Policy;
use relatch_core::{At, ExId, LatchId};
use relatch_wire::method::{self, ListKind};
use world::{World, ask, call, policy, refusal, session_facts};

const GONE: &str = "Session not found";

/// The journal since this many lines.
fn since(w: &World, from: usize) -> Vec<&str> {
    w.journal[from..].iter().map(String::as_str).collect()
}

/// Answers whatever is asked of an idle server for so long; how many pings that were.
fn idle(w: &mut World, ms: u64) -> usize {
    let (end, mut pings) = (w.now.plus(ms), 0);
    while w.now < end {
        for line in w.waits(end.since(w.now)) {
            assert!(line.ends_with(" ping"), "{line}");
            let attempt = *w.under_way.keys().last().expect("the ping");
            w.answered(attempt);
            pings += 1;
        }
    }
    pings
}

#[test]
fn an_idle_server_that_is_healthy_writes_nothing_in_an_hour() {
    let mut w = World::bound();
    w.attached(1);
    if let Some(stream) = w.under_way.keys().last().copied() {
        w.refused(stream, 405, "");
    }
    let pings = idle(&mut w, 3_600_000);
    assert!(pings >= 100, "{pings}");
    assert_eq!(w.journal, ["attached"]);
    assert_eq!(w.state(), State::Healthy);
}

#[test]
fn a_busy_server_that_is_healthy_writes_nothing_either() {
    let mut w = World::bound();
    for ex in 2..2_000 {
        let line = w.call(ex).pop().expect("the call goes out");
        let attempt = *w.under_way.keys().last().expect("it is under way");
        if line.ends_with("ping") {
            w.answered(attempt);
        }
        w.answered(*w.under_way.keys().last().unwrap_or(&attempt));
        w.passes(1_000);
    }
    assert_eq!(w.journal, ["attached"]);
}

#[test]
fn a_restart_reads_as_what_was_refused_how_long_it_took_and_what_changed() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, method::TOOLS_LIST));
    w.answered(3);
    w.passes(20_000);
    w.read(3);
    w.refused(4, 404, GONE);
    w.passes(40);
    let server = ServerSeen { version: Some("1.1".to_owned()), ..session_facts().server };
    w.session_of(5, SessionFacts { server, digest: 2, ..session_facts() });
    w.answered(6);
    w.answered(7);
    w.listed(8, Listed::Differs("+archive −old".to_owned()));
    assert_eq!(
        since(&w, 1),
        [
            "lost: HTTP 404 to `resources/read`",
            "held resources/read: a new session is being opened",
            "relatched: files-server 1.0 → files-server 1.1; instructions differ",
            "resent resources/read",
            "list-changed tools/list: +archive −old",
        ]
    );
}

#[test]
fn a_relatch_says_how_long_it_took() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    w.refused(3, 404, GONE);
    w.session(4);
    w.passes(70);
    let mut effects = Vec::new();
    let answered =
        Input::Answered { attempt: relatch_core::AttemptId(5), answer: relatch_core::input::Answer::Result };
    w.machine.on(w.now, answered, &mut effects);
    let relatched = entries(effects).into_iter().find(|e| e.what == What::Relatched).expect("it is told");
    assert_eq!((relatched.ms, relatched.generation.map(|g| g.0)), (Some(70), Some(2)));
}

#[test]
fn an_outage_is_one_line_at_its_beginning_and_one_at_its_end_however_long_it_is() {
    let mut w = World::bound();
    w.attached(1);
    if let Some(stream) = w.under_way.keys().last().copied() {
        w.refused(stream, 405, "");
    }
    w.read(2);
    w.no_connection(*w.under_way.keys().last().expect("the read"));
    let end = w.now.plus(3_600_000);
    while w.now < end {
        for line in w.waits(end.since(w.now)) {
            if line.ends_with("ping") {
                w.no_connection(*w.under_way.keys().last().expect("the ping"));
            }
        }
    }
    assert_eq!(
        since(&w, 1),
        [
            "away: connection refused",
            "held resources/read: connection refused",
            "given-back resources/read: connection refused",
            "hold-ended: 1 given back",
        ]
    );
    while !w.waits(2_000).iter().any(|line| line.ends_with("ping")) {}
    w.answered(*w.under_way.keys().last().expect("the ping"));
    assert_eq!(w.journal[5], "back");
}

#[test]
fn a_hold_of_a_dozen_calls_is_told_of_as_one() {
    let mut w = World::bound();
    w.read(2);
    w.no_connection(3);
    for ex in 3..14 {
        w.read(ex);
    }
    w.left(13);
    while !w.waits(2_000).iter().any(|line| line.ends_with("ping")) {}
    w.answered(*w.under_way.keys().last().expect("the ping"));
    assert_eq!(w.report().totals.held, 12);
    assert_eq!(w.report().waiting, 0);
    assert_eq!(
        since(&w, 1),
        [
            "away: connection refused",
            "held resources/read: connection refused",
            "back",
            "hold-ended: 11 sent, 1 dropped by the client",
        ]
    );
}

#[test]
fn a_thousand_calls_that_are_given_back_in_one_moment_are_twenty_lines_and_a_number() {
    let mut w = World::new();
    for latch in 1..=20 {
        w.opened(latch, latch);
        let attempt = *w.under_way.keys().last().expect("the handshake");
        w.session(attempt);
        w.initialized(latch, latch);
        w.answered(*w.under_way.keys().last().expect("the note"));
    }
    let from = w.journal.len();
    w.asks(1, 100, call(100, "send_mail"));
    w.no_connection(*w.under_way.keys().last().expect("the call"));
    for ex in 101..1_100 {
        w.asks(ex % 20 + 1, ex, call(ex as i64, "send_mail"));
    }
    assert_eq!(w.report().waiting, 1_000);
    let end = w.now.plus(60_000);
    while w.now < end {
        for line in w.waits(end.since(w.now)) {
            if line.ends_with("ping") {
                w.no_connection(*w.under_way.keys().last().expect("the ping"));
            }
        }
    }
    let told = since(&w, from);
    assert_eq!(told.iter().filter(|line| line.starts_with("given-back send_mail")).count(), 20);
    assert_eq!(told[0..2], ["away: connection refused", "held send_mail: connection refused"]);
    assert!(told.contains(&"hold-ended: 1000 given back"), "{told:?}");
    assert_eq!(told.last(), Some(&"given-back"), "the number of the rest");
    assert_eq!(told.len(), 24);
    assert_eq!(w.report().totals.given_back, 1_000);
}

#[test]
fn an_idle_probe_is_told_of_when_its_finding_is_another() {
    let mut w = World::bound();
    w.attached(1);
    if let Some(stream) = w.under_way.keys().last().copied() {
        w.refused(stream, 405, "");
    }
    // Five pings without an answer, then one with.
    let mut pings = 0;
    while pings < 6 {
        if w.waits(60_000).iter().any(|line| line.ends_with("ping")) {
            pings += 1;
            if pings == 6 {
                w.answered(*w.under_way.keys().last().expect("the ping"));
            }
        }
    }
    assert_eq!(
        since(&w, 1),
        [
            "probed ping: no answer within 2 s",
            "probed ping: no answer within 2 s, 2 times in a row",
            "probed ping: no answer within 2 s, 3 times in a row",
            "probed ping: it answers again",
        ]
    );
}

#[test]
fn doubt_and_what_came_of_it_are_two_lines() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 409, "conflict");
    w.answered(4);
    assert_eq!(since(&w, 1), ["suspected: HTTP 409 to `send_mail`", "cleared"]);
}

#[test]
fn a_call_that_may_have_run_and_refused_credentials_are_told() {
    let mut w = World::bound();
    w.call(2);
    w.broke(3);
    w.waits(0);
    w.answered(4);
    assert_eq!(since(&w, 1), ["delivery-unknown send_mail: connection reset"]);
    w.call(3);
    w.refused_with(5, relatch_core::input::Refusal { challenge: true, ..refusal(401, "") });
    assert_eq!(w.journal[2], "credentials-refused: HTTP 401 to `send_mail`");
}

#[test]
fn sessions_that_are_refused_one_after_the_other_are_told_of_as_flapping() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    let mut flapping = 0;
    for _ in 0..100 {
        let Some(attempt) = w.under_way.keys().last().copied() else { break };
        match w.under_way[&attempt] {
            relatch_core::effect::What::Initialize { .. } => w.session(attempt),
            _ => w.refused(attempt, 404, GONE),
        };
        flapping = w.journal.iter().filter(|line| line.starts_with("flapping")).count();
        if flapping > 0 {
            break;
        }
    }
    assert_eq!(flapping, 1, "{:?}", w.journal);
}

#[test]
fn a_client_that_comes_and_goes_is_named_and_its_stay_is_told() {
    let mut w = World::new();
    let client = Some(ClientSeen { name: "claude-code".to_owned(), version: "2.1".to_owned() });
    let mut effects = Vec::new();
    let opened = Input::Opened { latch: LatchId(1), ex: ExId(1), ask: ask(1, method::INITIALIZE), client };
    w.machine.on(At(0), opened, &mut effects);
    w.machine.on(At(90_000), Input::Ended { latch: LatchId(1) }, &mut effects);
    let told: Vec<Entry> = entries(effects);
    assert_eq!(told[0].detail.as_deref(), Some("claude-code 2.1"));
    assert_eq!((told[1].what, told[1].ms), (What::Left, Some(90_000)));
    assert_eq!(told[1].detail, told[0].detail);
}

#[test]
fn a_skipped_step_and_a_wish_to_reconnect_are_told() {
    let mut w = World::bound_with(Policy { local: false, ..policy() });
    w.asks(1, 2, ask(2, ListKind::Tools.method()));
    w.answered(3);
    w.on(Input::Reconnect { latch: None });
    w.session(4);
    w.answered(5);
    let list = *w.under_way.keys().last().expect("the comparison");
    w.error(list, -32603, "no");
    assert_eq!(since(&w, 1), ["reconnect", "relatched", "skipped tools/list"]);
}

fn entries(effects: Vec<Effect>) -> Vec<Entry> {
    effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Journal(entry) => Some(entry),
            _ => None,
        })
        .collect()
}
