//! Stories of a server that restarts: what is sent, what waits, and what the client is told.

mod world;

use relatch_core::health::State;
use relatch_core::input::Told;
use relatch_wire::request_id::RequestId;
use world::{World, ask, policy};

const GONE: &str = "Session not found";

/// A call is refused as the session's being gone, and so are three questions over fresh connections.
fn refused_for_good(w: &mut World, attempt: u64) -> u64 {
    w.refused(attempt, 404, GONE);
    let first = *w.under_way.keys().last().expect("a ping");
    w.refused(first, 404, GONE);
    w.refused(first + 1, 404, GONE);
    w.refused(first + 2, 404, GONE);
    first + 3
}

#[test]
fn a_session_opens_and_a_call_is_answered() {
    let mut w = World::new();
    says!(w.opened(1, 1), "send #1 g1 initialize of 1");
    says!(w.session(1), "pass 1 #1");
    says!(w.initialized(1, 1), "send #2 g1 note 1");
    says!(w.answered(2), "drop note 1");
    says!(w.call(2), "send #3 g1 exchange 2");
    says!(w.answered(3), "pass 2 #3");
    assert!(w.kept().is_empty());
    assert_eq!(w.journal, ["attached"]);
    assert_eq!(w.state(), relatch_core::health::State::Healthy);
    assert_eq!(w.report().totals.held, 0);
}

#[test]
fn a_call_made_right_after_initialized_goes_out_behind_it() {
    let mut w = World::new();
    w.opened(1, 1);
    w.session(1);
    says!(w.initialized(1, 1), "send #2 g1 note 1");
    says!(w.call(2));
    says!(w.answered(2), "drop note 1", "send #3 g1 exchange 2");
    assert_eq!(w.report().totals.held, 0);
}

#[test]
fn after_a_restart_the_refused_call_is_sent_once_to_the_new_session() {
    let mut w = World::bound();
    w.passes(20_000);
    // Long idle: a question goes first, and is refused.
    says!(w.call(2), "send #3 g1 ping");
    says!(w.refused(3, 404, GONE), "send #4 g2 initialize");
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.answered(5), "forget g1", "send #6 g2 exchange 2");
    says!(w.answered(6), "pass 2 #6");
    assert_eq!(
        w.journal,
        [
            "attached",
            "lost: HTTP 404 to `ping`",
            "held send_mail: a new session is being opened",
            "relatched"
        ]
    );
    assert_eq!(w.report().totals.relatched, 1);
}

#[test]
fn a_session_that_answered_a_moment_ago_is_asked_about_over_fresh_connections_first() {
    let mut w = World::bound();
    says!(w.call(2), "send #3 g1 exchange 2");
    says!(w.refused(3, 404, GONE), "send #4 g1 ping on fresh");
    says!(w.refused(4, 404, GONE), "send #5 g1 ping on fresh");
    says!(w.refused(5, 404, GONE), "send #6 g1 ping on fresh");
    says!(w.refused(6, 404, GONE), "send #7 g2 initialize");
    says!(w.session(7), "send #8 g2 initialized");
    says!(w.answered(8), "forget g1", "send #9 g2 exchange 2");
    says!(w.answered(9), "pass 2 #9");
    assert!(w.kept().is_empty());
}

#[test]
fn waiting_calls_keep_their_order_and_share_one_handshake() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    w.read(4);
    says!(w.refused(4, 404, GONE), "send #6 g1 ping on fresh");
    says!(w.refused(3, 404, GONE));
    says!(w.refused(5, 404, GONE));
    w.refused(6, 404, GONE);
    w.refused(7, 404, GONE);
    says!(w.refused(8, 404, GONE), "send #9 g2 initialize");
    says!(w.call(5));
    w.session(9);
    says!(
        w.answered(10),
        "forget g1",
        "send #11 g2 exchange 2",
        "send #12 g2 exchange 3",
        "send #13 g2 exchange 4 on any",
        "send #14 g2 exchange 5",
    );
}

#[test]
fn a_call_refused_by_the_fresh_session_too_is_passed_on() {
    let mut w = World::bound();
    w.call(2);
    let handshake = refused_for_good(&mut w, 3);
    w.session(handshake);
    says!(w.answered(handshake + 1), "forget g1", "send #9 g2 exchange 2");
    says!(w.refused(9, 404, GONE), "pass-refusal 2 #9 executed=no", "send #10 g2 ping on fresh");
}

#[test]
fn an_attempt_of_the_old_session_runs_on_and_its_answer_is_passed() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    let handshake = refused_for_good(&mut w, 4);
    w.session(handshake);
    says!(w.answered(handshake + 1), "send #10 g2 exchange 3");
    says!(w.answered(3), "pass 2 #3", "forget g1");
}

#[test]
fn a_stateful_upstream_is_renewed_and_the_call_is_given_back() {
    let mut w = World::bound_with(relatch_core::policy::Policy { stateful: true, ..policy() });
    w.call(2);
    w.read(3);
    says!(w.refused(3, 404, GONE), "answer 2 state-lost executed=no", "send #5 g1 ping on fresh");
    says!(w.refused(4, 404, GONE));
    w.refused(5, 404, GONE);
    w.refused(6, 404, GONE);
    w.refused(7, 404, GONE);
    w.session(8);
    says!(w.answered(9), "forget g1", "send #10 g2 exchange 3 on any");
    // Its client knows.
    says!(w.call(4), "send #11 g2 exchange 4");
}

#[test]
fn no_call_that_counts_on_a_lost_state_is_run_against_an_empty_session() {
    let mut w = World::bound_with(relatch_core::policy::Policy { stateful: true, ..policy() });
    w.passes(20_000);
    // The session is found lost before the calls are sent.
    says!(w.call(2), "send #3 g1 ping");
    says!(w.call(3));
    says!(w.read(4), "send #4 g1 exchange 4 on any");
    w.answered(4);
    says!(w.refused(3, 404, GONE), "send #5 g1 ping on fresh");
    w.refused(5, 404, GONE);
    w.refused(6, 404, GONE);
    says!(w.refused(7, 404, GONE), "send #8 g2 initialize");
    w.session(8);
    says!(w.answered(9), "forget g1", "answer 2 state-lost executed=no", "answer 3 state-lost executed=no");
    // Now the client knows.
    says!(w.call(5), "send #10 g2 exchange 5");
    w.answered(10);
    // A renewal that no call has met is told to the next one.
    w.passes(20_000);
    w.on(relatch_core::input::Input::Reconnect { latch: None });
    w.session(11);
    w.answered(12);
    says!(w.call(6), "answer 6 state-lost executed=no");
    says!(w.call(7), "send #14 g3 exchange 7");
}

#[test]
fn a_tool_that_is_never_to_be_repeated_is_given_back_even_when_it_was_refused() {
    let replay = vec![("send_*".to_owned(), false)];
    let mut w = World::bound_with(relatch_core::policy::Policy { replay, ..policy() });
    w.call(2);
    says!(w.refused(3, 404, GONE), "answer 2 never-replayed executed=no", "send #4 g1 ping on fresh");
}

#[test]
fn a_never_tool_that_was_not_written_still_waits() {
    let replay = vec![("send_*".to_owned(), false)];
    let mut w = World::bound_with(relatch_core::policy::Policy { replay, ..policy() });
    w.call(2);
    says!(w.no_connection(3), "withdraw #3");
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 2");
}

#[test]
fn replicas_that_do_not_share_sessions_keep_the_session_and_get_the_call_again() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 404, GONE), "send #4 g1 ping on fresh");
    says!(w.refused(4, 404, GONE), "send #5 g1 ping on fresh");
    says!(w.answered(5), "send #6 g1 exchange 2 mapped on fresh");
    says!(w.answered(6), "pass 2 #6");
    assert_eq!(w.conditions(), ["sessions-not-shared"]);
    assert_eq!(w.report().totals.relatched, 0);
    assert_eq!(w.state(), relatch_core::health::State::Degraded);
}

#[test]
fn replicas_that_mislead_again_and_again_do_not_keep_a_call_for_ever() {
    let mut w = World::bound();
    w.call(2);
    let mut attempt = 3;
    for _ in 0..20 {
        w.refused(attempt, 404, GONE);
        if w.is_over(2) {
            break;
        }
        w.answered(attempt + 1);
        attempt += 2;
    }
    // It was sent five times.
    assert!(w.is_over(2));
    assert_eq!(attempt, 11);
    assert_eq!(w.report().totals.relatched, 0);
}

#[test]
fn new_sessions_that_are_refused_before_they_answer_make_the_latch_rest() {
    let mut w = World::bound();
    w.passes(20_000);
    let mut ex = 2;
    w.read(ex);
    let mut attempt = 3;
    for _ in 0..3 {
        let handshake = refused_or_lost(&mut w, attempt);
        w.session(handshake);
        w.answered(handshake + 1);
        if w.is_over(ex) {
            ex += 1;
            w.read(ex);
        }
        attempt = *w.under_way.keys().last().expect("the read");
    }
    assert_eq!(w.report().totals.relatched, 3);
    w.refused(attempt, 404, GONE);
    while let Some(ping) = w.under_way.keys().last().copied() {
        w.refused(ping, 404, GONE);
    }
    assert_eq!(w.conditions(), ["session-flapping"]);
    says!(w.read(50), "answer 50 session-flapping executed=no");
    says!(w.passes(4_000));
    let lines = w.passes(1_000);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with("initialize"), "{lines:?}");
    // The next rest is twice as long.
    let next = *w.under_way.keys().last().expect("a handshake");
    w.session(next);
    w.answered(next + 1);
    w.read(51);
    let attempt = *w.under_way.keys().last().expect("the read");
    w.refused(attempt, 404, GONE);
    while let Some(ping) = w.under_way.keys().last().copied() {
        w.refused(ping, 404, GONE);
    }
    says!(w.passes(9_000));
    assert!(!w.passes(1_500).is_empty());
}

/// Refuses this attempt and every question after it, until a handshake begins.
fn refused_or_lost(w: &mut World, attempt: u64) -> u64 {
    let mut next = attempt;
    loop {
        let lines = w.refused(next, 404, GONE);
        next = *w.under_way.keys().last().expect("something is under way");
        if lines.iter().any(|line| line.ends_with("initialize")) {
            return next;
        }
    }
}

#[test]
fn handshakes_are_capped_and_the_rest_wait_in_line() {
    let mut w = World::new();
    for latch in 1..=12 {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    w.passes(20_000);
    w.on(relatch_core::Input::Reconnect { latch: None });
    assert_eq!(w.under_way.len(), 8);
    let first = *w.under_way.keys().next().expect("a handshake");
    let lines = w.session(first);
    assert_eq!(lines.iter().filter(|l| l.ends_with("initialize")).count(), 1, "{lines:?}");
}

#[test]
fn reconnect_lets_open_attempts_run_on_and_ends_the_old_session_afterwards() {
    let mut w = World::bound();
    w.call(2);
    says!(w.on(relatch_core::Input::Reconnect { latch: None }), "send #4 g2 initialize");
    w.session(4);
    says!(w.answered(5));
    says!(w.call(3), "send #6 g2 exchange 3");
    says!(w.answered(3), "pass 2 #3", "send #7 g1 delete");
    says!(w.answered(7), "forget g1");
}

#[test]
fn a_reconnect_that_fails_keeps_the_old_session() {
    let mut w = World::bound();
    says!(w.on(relatch_core::Input::Reconnect { latch: None }), "send #3 g2 initialize");
    says!(w.no_connection(3));
    let ping = w.waits(1_000);
    says!(ping, "send #4 g1 ping");
    says!(w.answered(4));
    says!(w.call(2), "send #5 g1 exchange 2");
}

#[test]
fn delete_during_a_handshake_is_followed_by_delete() {
    let mut w = World::bound();
    w.on(relatch_core::Input::Reconnect { latch: None });
    says!(w.ended(1), "send #4 g1 delete", "close 1");
    says!(w.session(3), "send #5 g2 delete");
    w.answered(4);
    w.answered(5);
    assert!(w.under_way.is_empty());
}

#[test]
fn delete_while_the_clients_own_handshake_is_out_is_followed_by_delete() {
    let mut w = World::new();
    w.opened(1, 1);
    says!(w.ended(1), "answer 1 session-ended executed=no", "close 1");
    says!(w.session(1), "send #2 g1 delete");
    says!(w.answered(2), "forget g1");
    assert!(w.kept().is_empty());
}

#[test]
fn a_second_id_in_flight_travels_mapped() {
    let mut w = World::bound();
    says!(w.asks(1, 2, ask(9, "tools/list")), "send #3 g1 exchange 2 on any");
    says!(w.asks(1, 3, ask(9, "tools/list")), "send #4 g1 exchange 3 mapped on any");
    w.answered(3);
    w.answered(4);
    says!(w.asks(1, 4, ask(9, "tools/list")), "send #5 g1 exchange 4 on any");
}

#[test]
fn a_client_that_left_is_not_served_again() {
    let mut w = World::bound();
    w.call(2);
    says!(w.left(2));
    says!(w.refused(3, 404, GONE), "send #4 g1 ping on fresh");
    w.refused(4, 404, GONE);
    w.refused(5, 404, GONE);
    w.refused(6, 404, GONE);
    w.session(7);
    says!(w.answered(8), "forget g1");
}

#[test]
fn a_cancelled_call_that_was_refused_is_not_sent_again() {
    let mut w = World::bound();
    w.call(2);
    says!(w.tell(1, 2, Told::Cancelled(RequestId::number(2))), "send #4 g1 note 2");
    says!(w.refused(3, 404, GONE), "answer 2 cancelled executed=no", "send #5 g1 ping on fresh");
}

#[test]
fn a_cancelled_call_that_is_never_answered_ends_all_the_same() {
    let mut w = World::bound();
    w.call(2);
    w.tell(1, 2, Told::Cancelled(RequestId::number(2)));
    says!(w.answered(4), "drop note 2");
    says!(w.passes(20_000), "abort #3", "withdraw #3", "answer 2 cancelled executed=unknown");
}

#[test]
fn one_404_of_the_proxy_then_an_answer_keeps_the_session() {
    let mut w = World::bound();
    w.passes(20_000);
    says!(w.read(2), "send #3 g1 exchange 2 on any");
    says!(w.refused(3, 404, "<html>not found</html>"), "send #4 g2 initialize");
    // The proxy has no route to the server: nobody speaks MCP there.
    says!(w.refused(4, 404, "<html>not found</html>"));
    says!(w.waits(1_000), "send #5 g1 ping");
    says!(w.answered(5), "send #6 g1 exchange 2 mapped on any");
    says!(w.answered(6), "pass 2 #6");
    assert_eq!(w.report().totals.relatched, 0);
}

#[test]
fn a_server_that_ends_idle_sessions_is_not_called_flapping() {
    let mut w = World::bound();
    w.attached(1);
    w.refused(3, 405, "");
    for session in 2..10 {
        let lines = w.waits(30_000);
        let probe = world::attempt_of(&lines[0]).expect("a probe");
        let handshake = w.refused(probe, 404, GONE);
        assert_eq!(handshake, [format!("send #{} g{session} initialize", probe + 1)]);
        w.session(probe + 1);
        w.answered(probe + 2);
        w.refused(probe + 3, 405, "");
        assert!(w.conditions().is_empty());
    }
}

#[test]
fn a_session_is_asked_about_over_fresh_connections_only_when_it_answered_less_than_ten_seconds_ago() {
    for (idle, expected) in [(9_999, "send #4 g1 ping on fresh"), (10_000, "send #4 g2 initialize")] {
        let mut w = World::bound();
        w.passes(idle);
        says!(w.read(2), "send #3 g1 exchange 2 on any");
        says!(w.refused(3, 404, GONE), expected);
    }
}

#[test]
fn what_a_server_says_of_itself_is_journalled_when_it_differs() {
    let same = world::session_facts();
    let server = |name: &str, version: &str, protocol: &str| {
        let mut facts = world::session_facts();
        facts.server.name = Some(name.to_owned());
        facts.server.version = Some(version.to_owned());
        facts.server.protocol = protocol.to_owned();
        facts
    };
    let table = [
        (same.clone(), None),
        (server("files-server", "1.1", "2025-11-25"), Some("files-server 1.0 → files-server 1.1")),
        (server("files", "1.0", "2025-11-25"), Some("files-server 1.0 → files 1.0")),
        (server("files-server", "1.0", "2025-06-18"), Some("revision 2025-11-25 → 2025-06-18")),
        (relatch_core::input::SessionFacts { digest: 2, ..same }, Some("instructions differ")),
    ];
    for (facts, expected) in table {
        let mut w = World::bound();
        w.on(relatch_core::Input::Reconnect { latch: None });
        let moved = facts.server.protocol != "2025-11-25";
        w.session_of(3, facts);
        w.answered(4);
        let told: Vec<_> = w.journal.iter().filter_map(|j| j.strip_prefix("relatched: ")).collect();
        assert_eq!(told, Vec::from_iter(expected));
        assert_eq!(w.conditions(), if moved { vec!["revision-changed"] } else { vec![] });
    }
}

#[test]
fn a_server_that_accepts_and_does_not_answer_a_handshake_is_asked_again_and_called_down_the_third_time() {
    let mut w = World::bound();
    w.passes(10_000);
    w.read(2);
    says!(w.refused(3, 404, GONE), "send #4 g2 initialize");
    says!(w.waits(10_000), "early 2");
    // A new connection is tried at once, and after that with pauses.
    says!(w.waits(10_000), "abort #4", "send #5 g3 initialize");
    assert_eq!(w.state(), State::Recovering);
    says!(w.waits(20_000), "abort #5");
    assert_eq!(w.state(), State::Recovering);
    says!(w.waits(1_000), "send #6 g4 initialize");
    says!(w.waits(10_000), "answer 2 upstream-down executed=no");
    says!(w.waits(20_000), "abort #6");
    assert_eq!(w.state(), State::Down);
}

/// Three new sessions in a row are refused before they are bound; a read waits for them.
fn flapping() -> World {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, GONE), "send #4 g2 initialize");
    w.session(4);
    says!(w.refused(5, 404, GONE), "forget g1", "send #6 g3 initialize");
    w.session(6);
    says!(w.refused(7, 404, GONE), "forget g2", "send #8 g4 initialize");
    w.session(8);
    says!(w.refused(9, 404, GONE), "forget g3", "answer 2 session-flapping executed=no");
    w
}

#[test]
fn a_call_that_comes_as_the_rest_ends_is_held_and_not_given_back() {
    let mut w = flapping();
    w.passes(4_999);
    says!(w.read(3), "answer 3 session-flapping executed=no");
    w.now = w.now.plus(1);
    says!(w.read(4), "send #10 g5 initialize");
    w.session(10);
    says!(w.answered(11), "forget g4", "send #12 g5 exchange 4 on any");
}

#[test]
fn rests_double_up_to_five_minutes() {
    let mut w = flapping();
    let mut rests = Vec::new();
    for _ in 0..8 {
        let from = w.now;
        // Its client is there all the time.
        w.attached(1);
        let lines = w.waits(600_000);
        let handshake = world::attempt_of(&lines[0]).expect("a handshake");
        rests.push(w.now.since(from));
        w.session(handshake);
        w.refused(handshake + 1, 404, GONE);
    }
    assert_eq!(rests, [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]);
}

#[test]
fn a_handshake_that_is_refused_is_tried_again_ever_more_rarely() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, GONE), "send #4 g2 initialize");
    let (mut lines, mut tries) = (Vec::<String>::new(), 0);
    w.refused(4, 400, "no");
    says!(w.passes(350));
    while !w.is_over(2) {
        if let Some(handshake) = lines.first().and_then(|line| world::attempt_of(line)) {
            tries += 1;
            w.refused(handshake, 400, "no");
        }
        lines = w.waits(60_000);
    }
    assert!((40..60).contains(&tries), "{tries} in 45 s");
    assert_eq!(lines, ["answer 2 handshake-refused executed=no"]);
}

#[test]
fn no_more_handshakes_than_permits_are_out_while_the_upstream_goes_away() {
    let mut w = World::new();
    for latch in 1..=10 {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    w.asks(9, 20, world::call(20, "send_mail"));
    let call = *w.under_way.keys().last().expect("the call");
    w.on(relatch_core::Input::Reconnect { latch: None });
    let handshakes = |w: &World| {
        w.under_way
            .values()
            .filter(|what| matches!(what, relatch_core::effect::What::Initialize { .. }))
            .count()
    };
    assert_eq!(handshakes(&w), 8);
    w.no_connection(call);
    assert_eq!(w.state(), State::Down);
    w.passes(15_000);
    assert_eq!(handshakes(&w), 8);
}

#[test]
fn sessions_that_answer_before_they_are_lost_do_not_flap() {
    let mut w = World::bound();
    for ex in 2..10 {
        w.read(ex);
        let read = *w.under_way.keys().last().expect("the read");
        let handshake = refused_or_lost(&mut w, read);
        w.session(handshake);
        w.answered(handshake + 1);
        assert_eq!(w.answered(handshake + 2), [format!("pass {ex} #{}", handshake + 2)]);
    }
    assert!(w.conditions().is_empty());
    assert_eq!(w.report().totals.relatched, 8);
}

#[test]
fn a_late_answer_of_an_old_session_says_nothing_for_the_new_ones() {
    let mut w = World::bound();
    w.passes(20_000);
    w.asks(1, 2, ask(2, "resources/read"));
    w.asks(1, 3, ask(3, "resources/read"));
    says!(w.refused(4, 404, GONE), "send #5 g2 initialize");
    for handshake in [5, 7] {
        w.session(handshake);
        w.refused(handshake + 1, 404, GONE);
    }
    w.session(9);
    says!(w.answered(3), "pass 2 #3", "forget g1");
    w.refused(10, 404, GONE);
    assert_eq!(w.conditions(), ["session-flapping"]);
}

#[test]
fn a_misdirected_call_goes_out_once_more_on_a_connection_of_its_own() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 421, ""), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 2 mapped on fresh");
    says!(w.refused(5, 421, ""), "pass-refusal 2 #5 executed=no");
    let replay = vec![("send_*".to_owned(), false)];
    let mut w = World::bound_with(relatch_core::policy::Policy { replay, ..policy() });
    w.call(2);
    says!(w.refused(3, 421, ""), "pass-refusal 2 #3 executed=no");
}
