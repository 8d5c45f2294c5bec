//! Stories of an announced restart: what waits, what still goes out, what is asked when it is over, and how it ends when
//! nobody says that it is.

mod world;

use relatch_core::Input;
use relatch_core::health::State;
use relatch_core::input::{Listed, Refusal, Told};
use relatch_core::policy::{self, Policy};
use world::{World, ask, attempt_of, call, cut_of, policy, refusal};

fn paused(w: &mut World, ms: u64) -> Vec<String> {
    w.on(Input::Paused { ms })
}

fn resumed(w: &mut World) -> Vec<String> {
    w.on(Input::Resumed)
}

#[test]
fn a_call_in_flight_goes_to_its_end_and_a_new_one_waits_until_the_restarted_server_is_asked() {
    let mut w = World::bound();
    says!(w.call(2), "send #3 g1 exchange 2");
    says!(paused(&mut w, 60_000));
    assert_eq!(w.machine.in_flight(), 1);
    says!(w.call(3));
    says!(w.read(4));
    says!(w.answered(3), "pass 2 #3");
    assert_eq!(w.machine.in_flight(), 0);
    says!(w.passes(8_000));
    // Asked first, then renewed, then in order: nothing that waited is sent to a session that is gone.
    says!(resumed(&mut w), "send #4 g1 ping");
    says!(w.refused(4, 404, "Session not found"), "send #5 g2 initialize");
    says!(w.session(5), "send #6 g2 initialized");
    says!(w.answered(6), "forget g1", "send #7 g2 exchange 3", "send #8 g2 exchange 4 on any");
    w.answered(7);
    w.answered(8);
    assert_eq!(w.state(), State::Healthy);
    assert_eq!(
        w.journal[1..],
        [
            "paused: for at most 60 s",
            "held send_mail: its restart has been announced, and it is paused until that is done",
            "resumed",
            "lost: HTTP 404 to `ping`",
            "relatched",
            "hold-ended: 2 sent",
        ]
    );
    assert_eq!(w.report().totals.given_back, 0);
}

#[test]
fn a_session_that_survived_is_used_on_and_what_may_have_changed_is_compared() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, "tools/list"));
    w.answered(3);
    paused(&mut w, 60_000);
    w.call(3);
    says!(resumed(&mut w), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 3", "send #6 g1 tools/list");
    says!(w.listed(6, Listed::Differs("+extra".to_owned())), "tell 1 tools/list changed");
}

#[test]
fn while_it_is_paused_an_idle_upstream_is_neither_probed_nor_looked_at_nor_called_down() {
    let mut w = World::bound();
    w.attached(1);
    w.begun(3);
    paused(&mut w, 600_000);
    says!(w.on(Input::IdleClosed));
    says!(w.cut(3, cut_of(true, "closed")));
    says!(w.passes(300_000));
    assert_eq!(w.state(), State::Recovering);
    assert_eq!(w.conditions(), ["paused"]);
    assert_eq!(w.report().reason.as_deref(), Some("paused while its server restarts"));
    assert!(w.report().conditions[0].effect.contains("for 5 min more at most"));
    // The stream that broke is opened again afterwards.
    let lines = resumed(&mut w);
    says!(lines, "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 stream");
}

#[test]
fn the_clock_of_a_hold_stands_still_and_early_headers_go_out_all_the_same() {
    let mut w = World::bound_with(Policy { hold_ms: 20_000, ..policy() });
    paused(&mut w, 100_000);
    w.call(2);
    says!(w.passes(10_000), "early 2");
    says!(w.passes(80_000));
    // Resumed into nothing: what is left is the whole hold.
    let ping = resumed(&mut w);
    w.no_connection(attempt_of(&ping[0]).expect("a ping"));
    let lines = w.stays_away(60_000);
    says!(lines, "answer 2 upstream-down executed=no");
    assert_eq!(w.now.0, 90_000 + 20_000);
}

#[test]
fn a_pause_that_nobody_ends_ends_by_itself() {
    let mut w = World::bound();
    paused(&mut w, 30_000);
    w.call(2);
    let lines = w.passes(30_000);
    says!(lines, "early 2", "send #3 g1 ping");
    says!(w.answered(3), "send #4 g1 exchange 2");
    assert!(
        w.journal.contains(&"resumed: by itself: nobody resumed it in time".to_owned()),
        "{:?}",
        w.journal
    );
    assert!(w.report().pause.is_none());
}

#[test]
fn a_second_pause_moves_the_end_and_no_hold_becomes_longer_than_the_pause() {
    let mut w = World::bound_with(Policy { hold_ms: 5_000, ..policy() });
    paused(&mut w, 30_000);
    w.call(2);
    w.passes(10_000);
    paused(&mut w, 15_000);
    assert_eq!(w.report().pause.map(|pause| (pause.since.0, pause.until.0)), Some((0, 25_000)));
    w.passes(14_999);
    says!(w.passes(1), "send #3 g1 ping");
    w.no_connection(3);
    says!(w.stays_away(60_000), "answer 2 upstream-down executed=no");
    assert_eq!(w.now.0, 30_000);
}

#[test]
fn no_pause_is_longer_than_an_hour() {
    let mut w = World::bound();
    paused(&mut w, u64::MAX);
    assert_eq!(w.report().pause.map(|pause| pause.until.0), Some(policy::PAUSE_MAX_MS));
    w.call(2);
    w.passes(policy::PAUSE_MAX_MS);
    assert!(w.report().pause.is_none());
}

#[test]
fn a_call_that_meets_the_restarted_server_too_early_is_held_and_not_given_up() {
    let mut w = World::bound();
    w.call(2);
    paused(&mut w, 60_000);
    // The new server has it, and knows no such session: nothing is asked of it before it is said to be back.
    says!(w.refused(3, 404, "Session not found"));
    says!(w.passes(5_000));
    says!(resumed(&mut w), "send #4 g1 ping");
    says!(w.refused(4, 404, "Session not found"), "send #5 g2 initialize");
    w.session(5);
    says!(w.answered(6), "forget g1", "send #7 g2 exchange 2");
}

#[test]
fn a_call_that_the_restart_cuts_may_have_run_and_its_client_hears_so_at_once() {
    let mut w = World::bound();
    w.call(2);
    paused(&mut w, 60_000);
    says!(w.broke(3), "withdraw #3", "answer 2 delivery-unknown executed=unknown");
    assert_eq!(w.state(), State::Recovering, "nobody asks, and it is not called down");
    says!(w.passes(20_000));
    says!(resumed(&mut w), "send #4 g1 ping");
}

#[test]
fn an_answer_that_raises_doubt_is_settled_in_spite_of_the_pause() {
    let mut w = World::bound();
    w.call(2);
    paused(&mut w, 60_000);
    says!(w.refused(3, 409, "who are you?"), "send #4 g1 ping");
    says!(w.refused(4, 409, "who are you?"), "send #5 g2 initialize");
    w.session(5);
    w.answered(6);
    // The control answered: the old session was gone, and the call waits for the end of the pause.
    let lines = w.answered(7);
    assert!(!lines.iter().any(|line| line.contains("exchange")), "{lines:?}");
    assert!(!w.is_over(2));
    let asked = resumed(&mut w);
    let ping = attempt_of(asked.last().expect("the new session is asked")).expect("a ping");
    let lines = w.answered(ping);
    assert!(lines.iter().any(|line| line.contains("g2 exchange 2")), "{lines:?}");
}

#[test]
fn messages_of_a_running_exchange_go_on_and_others_are_taken_and_wait() {
    let mut w = World::bound();
    w.call(2);
    paused(&mut w, 60_000);
    says!(w.tell(1, 7, Told::Answer(w.generation(1))), "send #4 g1 note 7");
    w.answered(4);
    says!(w.tell(1, 8, Told::Other), "send #5 g1 note 8");
    w.answered(5);
    w.answered(3);
    says!(w.tell(1, 9, Told::Other), "accept note 9");
    says!(resumed(&mut w), "send #6 g1 ping");
    says!(w.answered(6), "send #7 g1 note 9");
}

#[test]
fn a_call_that_waits_can_be_cancelled_and_one_whose_client_leaves_never_runs() {
    let mut w = World::bound();
    paused(&mut w, 60_000);
    w.call(2);
    w.call(3);
    let id = relatch_wire::request_id::RequestId::number(2);
    says!(w.tell(1, 5, Told::Cancelled(id)), "drop note 5", "answer 2 cancelled executed=no");
    says!(w.left(3));
    says!(resumed(&mut w), "send #3 g1 ping");
    says!(w.answered(3));
}

#[test]
fn a_client_that_comes_in_a_pause_waits_for_as_long_as_clients_bear() {
    let mut w = World::new();
    paused(&mut w, 60_000);
    says!(w.opened(1, 1));
    says!(w.passes(19_999));
    says!(w.passes(1), "answer 1 paused executed=no", "close 1");
    says!(w.opened(2, 2));
    says!(resumed(&mut w), "send #1 L2 g1 initialize of 2");
}

#[test]
fn a_session_that_ends_in_a_pause_gets_its_delete() {
    let mut w = World::bound();
    paused(&mut w, 60_000);
    says!(w.ended(1), "send #3 g1 delete", "close 1");
}

#[test]
fn a_handshake_that_is_out_is_gone_through_with_and_what_follows_it_waits() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, "tools/list"));
    w.answered(3);
    says!(w.on(Input::Reconnect { latch: None }), "send #4 g2 initialize");
    paused(&mut w, 60_000);
    says!(w.session(4), "send #5 g2 initialized");
    // No comparison, and no DELETE is missed.
    says!(w.answered(5), "send #6 g1 delete");
    w.answered(6);
    w.call(3);
    says!(resumed(&mut w), "send #7 g2 ping");
    says!(w.answered(7), "send #8 g2 exchange 3", "send #9 g2 tools/list");
}

#[test]
fn sleep_puts_the_end_of_a_pause_off() {
    let mut w = World::bound();
    paused(&mut w, 60_000);
    w.call(2);
    w.now = w.now.plus(600_000);
    w.on(Input::Woke { ms: 600_000 });
    w.passes(59_000);
    assert!(w.report().pause.is_some() && !w.is_over(2));
    w.passes(1_000);
    assert!(w.report().pause.is_none());
}

#[test]
fn a_keeper_that_starts_anew_knows_of_no_pause() {
    let mut w = World::bound();
    paused(&mut w, 60_000);
    w.restarts();
    assert!(w.report().pause.is_none());
    w.initialized(1, 9);
    let lines = w.call(2);
    assert!(lines.iter().any(|line| line.contains("ping") || line.contains("exchange 2")), "{lines:?}");
}

#[test]
fn many_sessions_are_asked_a_few_at_a_time_when_the_server_is_back() {
    let mut w = World::new();
    for latch in 1..=30 {
        w.opened(latch, latch);
        let opening = *w.under_way.keys().last().expect("its handshake");
        w.session(opening);
        w.initialized(latch, latch);
        let told = *w.under_way.keys().last().expect("its note");
        w.answered(told);
    }
    paused(&mut w, 60_000);
    for latch in 1..=30 {
        says!(w.asks(latch, 100 + latch, call(100 + latch as i64, "send_mail")));
    }
    let mut lines = resumed(&mut w);
    assert_eq!(lines.len(), policy::PERMITS);
    let mut sent = Vec::new();
    while let Some(line) = lines.pop() {
        let attempt = attempt_of(&line).expect("a sending");
        if line.contains("exchange") {
            sent.push(attempt);
        } else {
            lines.extend(w.answered(attempt));
        }
    }
    assert_eq!(sent.len(), 30);
    assert!((101..=130).all(|ex| !w.is_over(ex)));
    for attempt in sent {
        w.answered(attempt);
    }
    assert!((101..=130).all(|ex| w.is_over(ex)));
}

#[test]
fn what_the_old_server_did_to_its_sessions_is_no_reason_to_wait_for_the_new_one() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, "Session not found"), "send #4 g2 initialize");
    w.session(4);
    w.refused(5, 404, "Session not found");
    w.session(6);
    w.refused(7, 404, "Session not found");
    w.session(8);
    says!(w.refused(9, 404, "Session not found"), "forget g3", "answer 2 session-flapping executed=no");
    paused(&mut w, 60_000);
    // What comes in the pause waits, too.
    says!(w.read(3));
    says!(resumed(&mut w), "send #10 g5 initialize");
    w.session(10);
    says!(w.answered(11), "forget g4", "send #12 g5 exchange 3 on any");
}

#[test]
fn a_time_that_the_old_server_named_does_not_hold_for_the_new_one() {
    let mut w = World::bound();
    w.call(2);
    let later = Refusal { retry_after: Some(600_000), ..refusal(503, "maintenance") };
    w.refused_with(3, later);
    paused(&mut w, 60_000);
    says!(w.call(3));
    says!(resumed(&mut w), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 3");
}
