//! Stories of what a new session gets, and of what is said about health.

mod world;

use relatch_core::health::State;
use relatch_core::input::{Answer, Ask, Input, Keep, Listed, Restored, Told};
use relatch_core::policy::Policy;
use relatch_core::upstream::Why;
use relatch_core::{AttemptId, Gen, LatchId};
use relatch_wire::method::ListKind;
use world::{World, ask, policy};

fn keeps(id: i64, method: &str, keep: Keep) -> Ask {
    Ask { keep, ..ask(id, method) }
}

/// A client with a log level, a subscription, a list and a stream.
fn furnished() -> World {
    let mut w = World::bound();
    w.asks(1, 2, keeps(2, "logging/setLevel", Keep::Level("debug".into())));
    w.answered(3);
    w.asks(1, 3, keeps(3, "resources/subscribe", Keep::Subscribe("file:///a".into(), "a".into())));
    w.answered(4);
    w.asks(1, 4, ask(4, "tools/list"));
    w.answered(5);
    says!(w.attached(1), "send #6 g1 stream");
    w.begun(6);
    w
}

#[test]
fn a_new_session_gets_level_subscriptions_stream_and_the_client_hears_what_changed() {
    let mut w = furnished();
    w.passes(12_000);
    w.read(5);
    says!(w.refused(7, 404, "gone"), "withdraw #6", "abort #6", "send #8 g2 initialize",);
    says!(w.session(8), "send #9 g2 initialized");
    says!(w.answered(9), "send #10 g2 setLevel debug");
    says!(w.answered(10), "send #11 g2 subscribe a");
    says!(
        w.answered(11),
        "forget g1",
        "send #12 g2 exchange 5 on any",
        "send #13 g2 stream",
        "send #14 g2 tools/list",
    );
    says!(w.listed(14, Listed::More("p2".into())), "send #15 g2 tools/list from p2");
    says!(
        w.listed(15, Listed::Differs("+extra".into())),
        "tell 1 tools/list changed",
        "tell 1 file:///a updated",
    );
}

#[test]
fn a_list_that_is_the_same_is_not_announced() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, "tools/list"));
    w.answered(3);
    w.on(Input::Reconnect { latch: None });
    w.session(4);
    says!(w.answered(5), "send #6 g1 delete", "send #7 g2 tools/list");
    says!(w.listed(7, Listed::Same));
}

#[test]
fn a_step_that_is_refused_or_too_slow_is_skipped() {
    let mut w = furnished();
    w.on(Input::Reconnect { latch: None });
    w.session(7);
    w.answered(8);
    says!(w.error(9, -32601, "no logging"), "send #10 g2 subscribe a");
    let lines = w.passes(5_000);
    assert_eq!(lines[0], "abort #10");
    assert_eq!(w.generation(1), Some(Gen(2)));
    assert_eq!(w.journal.iter().filter(|j| j.starts_with("skipped")).count(), 2);
}

#[test]
fn a_session_that_dies_while_it_is_rebuilt_is_replaced() {
    let mut w = furnished();
    w.on(Input::Reconnect { latch: None });
    w.session(7);
    w.answered(8);
    // The first session may live, and gets its farewell.
    says!(
        w.refused(9, 404, "gone"),
        "withdraw #6",
        "abort #6",
        "send #10 g1 delete",
        "send #11 g3 initialize",
    );
    w.session(11);
    w.answered(12);
    w.answered(13);
    let lines = w.answered(14);
    assert!(lines.contains(&"forget g2".to_owned()), "{lines:?}");
    assert_eq!(w.generation(1), Some(Gen(3)));
}

#[test]
fn a_session_that_survived_an_outage_is_told_its_state_again_and_lists_are_compared() {
    let mut w = furnished();
    w.passes(12_000);
    w.read(5);
    w.no_connection(7);
    let ping = w.waits(200);
    says!(ping, "send #8 g1 ping");
    says!(w.answered(8), "send #9 g1 setLevel debug");
    says!(w.answered(9), "send #10 g1 subscribe a");
    let lines = w.answered(10);
    assert!(lines.contains(&"send #11 g1 exchange 5 on any".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|l| l.ends_with("tools/list")), "{lines:?}");
    assert_eq!(w.report().totals.relatched, 0);
    assert_eq!(w.report().totals.resent, 0);
}

#[test]
fn a_comparison_that_is_cut_begins_again() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, "tools/list"));
    w.answered(3);
    w.on(Input::Reconnect { latch: None });
    w.session(4);
    w.answered(5);
    w.answered(6);
    says!(w.broke(7));
    says!(w.waits(0), "send #8 g2 ping");
    says!(w.answered(8));
    says!(w.passes(5_000), "send #9 g2 tools/list");
    says!(w.listed(9, Listed::Differs("-old".into())), "tell 1 tools/list changed");
}

#[test]
fn a_list_without_end_is_given_up() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, "tools/list"));
    w.answered(3);
    w.on(Input::Reconnect { latch: None });
    w.session(4);
    w.answered(5);
    w.answered(6);
    let mut page = 7;
    for _ in 0..1_000 {
        let lines = w.listed(page, Listed::More("again".into()));
        if lines.is_empty() {
            return;
        }
        page = *w.under_way.keys().last().expect("a page");
    }
    panic!("it asks for ever");
}

#[test]
fn a_stream_that_breaks_is_opened_again_and_a_short_break_needs_no_comparison() {
    let mut w = furnished();
    says!(w.broke(6));
    says!(w.waits(0), "send #7 g1 ping");
    says!(w.answered(7));
    says!(w.passes(1_000), "send #8 g1 stream");
    says!(w.begun(8));
    assert_eq!(w.state(), State::Healthy);
}

#[test]
fn a_stream_that_was_away_for_long_is_followed_by_a_comparison() {
    let mut w = furnished();
    w.passes(300_000);
    let stream = w.under_way.iter().find(|(_, what)| **what == relatch_core::effect::What::Stream);
    let stream = *stream.expect("the stream").0;
    w.broke(stream);
    for _ in 0..4 {
        // A refused stream is followed by a question, and that by another try.
        while let Some(next) = w.under_way.keys().last().copied() {
            match &w.under_way[&next] {
                relatch_core::effect::What::Ping => w.answered(next),
                _ => w.refused(next, 502, ""),
            };
        }
        w.passes(10_000);
    }
    let stream = *w.under_way.keys().last().expect("the stream");
    let lines = w.begun(stream);
    assert!(lines.iter().any(|l| l.ends_with("tools/list")), "{lines:?}");
}

#[test]
fn a_latch_from_the_records_goes_on_with_its_session_when_its_client_calls() {
    let mut w = World::new();
    let restored = Restored {
        bound: Some(Gen(4)),
        has_id: true,
        begun: 4,
        initialized: true,
        revision: "2025-11-25".into(),
        lists: vec![ListKind::Tools],
        ..Restored::default()
    };
    // Nothing is sent for a client that has not shown itself.
    says!(w.on(Input::Restored { latch: LatchId(1), restored }));
    says!(w.passes(600_000));
    assert_eq!(w.state(), State::Unknown);
    says!(w.read(2), "send #1 g4 exchange 2 on any", "send #2 g4 tools/list");
    says!(w.refused(1, 404, "gone"), "abort #2", "send #3 g5 initialize");
    w.session(3);
    says!(w.answered(4), "forget g4", "send #5 g5 exchange 2 on any", "send #6 g5 tools/list");
}

#[test]
fn a_latch_from_the_records_without_a_session_opens_one_when_its_client_calls() {
    let mut w = World::new();
    let restored = Restored { begun: 2, initialized: true, ..Restored::default() };
    says!(w.on(Input::Restored { latch: LatchId(1), restored }));
    says!(w.call(2), "send #1 g3 initialize");
    w.session(1);
    says!(w.answered(2), "send #3 g3 exchange 2");
}

#[test]
fn an_answer_to_a_server_that_is_gone_is_let_go() {
    let mut w = World::bound();
    says!(w.tell(1, 5, Told::Answer(Some(Gen(1)))), "send #3 g1 note 5");
    says!(w.tell(1, 6, Told::Answer(Some(Gen(7)))), "drop note 6");
    says!(w.tell(1, 7, Told::Answer(None)), "drop note 7");
    // Never written: it goes out when the server is back, since the same session asked.
    says!(w.no_connection(3), "accept note 5");
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 note 5");
}

#[test]
fn initialized_reaches_each_session_once() {
    let mut w = World::new();
    w.opened(1, 1);
    w.session(1);
    // The server restarts before the client has said that it is initialized.
    says!(w.asks(1, 2, ask(2, "tools/list")), "send #2 g1 exchange 2 on any");
    let mut next = 2;
    loop {
        let lines = w.refused(next, 404, "gone");
        next = *w.under_way.keys().last().expect("a question");
        if lines.iter().any(|l| l.ends_with("initialize")) {
            break;
        }
    }
    says!(w.session(next), "send #7 g2 initialized");
    says!(w.initialized(1, 1), "drop note 1");
    says!(w.answered(7), "forget g1", "send #8 g2 exchange 2 on any");
}

#[test]
fn health_is_unknown_at_first_and_again_when_the_last_answer_is_a_minute_old() {
    let mut w = World::new();
    assert_eq!(w.state(), State::Unknown);
    w.opened(1, 1);
    w.session(1);
    assert_eq!(w.state(), State::Healthy);
    w.passes(59_999);
    assert_eq!(w.state(), State::Healthy);
    w.passes(1);
    assert_eq!(w.state(), State::Unknown);
    assert_eq!(w.report().since.0, 60_000);
}

#[test]
fn an_idle_upstream_with_a_client_is_probed_and_stays_healthy() {
    let mut w = World::bound();
    w.attached(1);
    w.refused(3, 405, "");
    for _ in 0..10 {
        let lines = w.passes(30_000);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let ping = *w.under_way.keys().last().expect("the probe");
        w.answered(ping);
        assert_eq!(w.state(), State::Healthy);
    }
}

#[test]
fn three_probes_without_an_answer_are_down() {
    let mut w = World::bound();
    w.attached(1);
    w.refused(3, 405, "");
    // At 30 s, and from then on every 10 s, each of them with 2 s to answer.
    w.passes(55_000);
    assert_eq!(w.state(), State::Healthy);
    w.passes(1_000);
    assert_eq!(w.state(), State::Down);
}

#[test]
fn an_upstream_is_down_at_the_first_refused_connection_and_recovering_while_it_relatches() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    assert_eq!(w.state(), State::Down);
    assert!(w.report().next_attempt.is_some());
    w.waits(200);
    w.refused(4, 404, "gone");
    assert_eq!(w.state(), State::Down);
    w.session(5);
    assert_eq!(w.state(), State::Recovering);
    w.answered(6);
    assert_eq!(w.state(), State::Healthy);
}

#[test]
fn what_nobody_asks_about_any_more_is_unknown() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    w.left(2);
    let mut scouts = 0;
    while w.now.0 < 700_000 {
        for line in w.waits(10_000) {
            if line.ends_with("ping") {
                scouts += 1;
                let ping = *w.under_way.keys().last().expect("the scout");
                w.no_connection(ping);
            }
        }
    }
    assert!((100..400).contains(&scouts), "{scouts}");
    assert_eq!(w.state(), State::Unknown);
}

#[test]
fn an_end_that_crosses_its_own_abort_is_let_go() {
    let mut w = World::bound();
    w.call(2);
    w.ended(1);
    let crossed = Input::Answered { attempt: AttemptId(3), answer: Answer::Result };
    says!(w.on(crossed));
    says!(w.asks(1, 3, ask(3, "tools/list")), "answer 3 session-ended executed=no");
}

#[test]
fn a_connection_that_closes_while_idle_is_a_reason_to_look_at_once() {
    let mut world = World::bound();
    world.passes(10_000);
    says!(world.on(Input::IdleClosed), "send #3 g1 ping");
    world.no_connection(3);
    assert_eq!(world.state(), State::Down);
}

#[test]
fn a_server_that_closes_idle_connections_soon_is_not_asked_without_pause() {
    let mut world = World::bound();
    says!(world.on(Input::IdleClosed), "send #3 g1 ping");
    // While the question is under way, its own end will tell.
    says!(world.on(Input::IdleClosed));
    world.answered(3);
    says!(world.on(Input::IdleClosed));
    assert_eq!(world.deadline(), Some((1_500, Why::IdleLook)));
    says!(world.waits(1_500), "send #4 g1 ping");
    world.answered(4);
    assert_eq!(world.state(), State::Healthy);
    // Nobody has asked for anything for long: nothing is worth a question.
    world.passes(600_000);
    says!(world.on(Input::IdleClosed));
}

#[test]
fn a_standing_stream_tells_by_itself_and_a_remote_server_is_left_alone() {
    let mut world = World::bound();
    says!(world.attached(1), "send #3 g1 stream");
    world.begun(3);
    says!(world.on(Input::IdleClosed));

    let mut world = World::bound_with(Policy { local: false, ..policy() });
    says!(world.on(Input::IdleClosed));
}

#[test]
fn initialized_that_was_never_written_goes_out_again() {
    let mut w = World::new();
    w.opened(1, 1);
    w.session(1);
    says!(w.initialized(1, 1), "send #2 g1 note 1");
    says!(w.no_connection(2), "accept note 1");
    says!(w.call(2), "send #3 g1 ping");
    says!(w.answered(3), "send #4 g1 initialized");
    says!(w.answered(4), "drop note 1", "send #5 g1 exchange 2");
}

#[test]
fn a_new_session_whose_initialized_was_never_written_is_told_when_the_server_is_back() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    w.refused(3, 404, "gone");
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.no_connection(5), "forget g1");
    says!(w.waits(200), "send #6 g2 ping");
    says!(w.answered(6), "send #7 g2 initialized");
    says!(w.answered(7), "send #8 g2 exchange 2 on any");
}

#[test]
fn a_subscription_that_an_old_session_has_answered_is_made_in_the_new_one() {
    let mut w = World::bound();
    says!(
        w.asks(1, 2, keeps(2, "resources/subscribe", Keep::Subscribe("file:///a".into(), "a".into()))),
        "send #3 g1 exchange 2 on any",
    );
    w.on(Input::Reconnect { latch: None });
    w.session(4);
    says!(w.answered(5));
    says!(w.answered(3), "pass 2 #3", "send #6 g1 delete", "send #7 g2 subscribe a");
    w.answered(6);
    // What comes meanwhile goes behind it.
    says!(w.call(3));
    says!(w.answered(7), "send #8 g2 exchange 3");
}

#[test]
fn a_subscription_that_an_old_session_answers_during_the_handshake_is_made_once() {
    let mut w = World::bound();
    w.asks(1, 2, keeps(2, "resources/subscribe", Keep::Subscribe("file:///a".into(), "a".into())));
    w.on(Input::Reconnect { latch: None });
    says!(w.answered(3), "pass 2 #3");
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.answered(5), "send #6 g2 subscribe a");
    says!(w.answered(6), "send #7 g1 delete", "tell 1 file:///a updated");
}

#[test]
fn a_session_that_is_replaced_ends_even_when_the_new_ones_initialized_was_not_written() {
    let mut w = World::bound();
    w.on(Input::Reconnect { latch: None });
    w.session(3);
    says!(w.no_connection(4), "send #5 g1 delete");
}

#[test]
fn a_list_that_an_old_session_has_answered_is_compared_with_the_new_ones() {
    let mut w = World::bound();
    says!(w.asks(1, 2, ask(2, "tools/list")), "send #3 g1 exchange 2 on any");
    w.on(Input::Reconnect { latch: None });
    w.session(4);
    says!(w.answered(5));
    says!(w.answered(3), "pass 2 #3", "send #6 g1 delete", "send #7 g2 tools/list");
    says!(w.listed(7, Listed::Differs("+extra".into())), "tell 1 tools/list changed");
}

#[test]
fn a_handshake_that_one_client_was_refused_is_forgotten_when_others_go_on() {
    let refusals: [fn(&mut World) -> Vec<String>; 2] =
        [|w| w.error(3, -32602, "unknown revision"), |w| w.refused(3, 400, "unknown revision")];
    for refused in refusals {
        let mut w = World::bound();
        w.opened(2, 10);
        assert!(refused(&mut w).contains(&"close 2".to_owned()));
        w.passes(2_000);
        assert_eq!(w.conditions(), ["handshake-refused"]);
        assert_eq!(w.state(), State::Degraded);
        w.passes(28_000);
        w.read(2);
        w.answered(4);
        assert_eq!(w.state(), State::Degraded);
        w.passes(30_000);
        w.read(3);
        w.answered(5);
        assert!(w.conditions().is_empty());
        assert_eq!(w.state(), State::Healthy);
    }
}

#[test]
fn a_latch_from_the_records_whose_session_never_heard_of_its_client_opens_another() {
    let mut w = World::new();
    w.opened(1, 1);
    w.session(1);
    says!(w.initialized(1, 1), "send #2 g1 note 1");
    w.no_connection(2);
    says!(w.restarts());
    says!(w.call(2), "send #1 g2 initialize");
    says!(w.session(1), "send #2 g2 initialized");
    says!(w.answered(2), "send #3 g2 exchange 2");
}

#[test]
fn a_new_session_that_never_heard_of_its_client_is_not_gone_on_with_after_a_restart_of_the_keeper() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    w.refused(3, 404, "gone");
    w.session(4);
    w.no_connection(5);
    says!(w.restarts());
    says!(w.call(3), "send #1 g3 initialize");
}

#[test]
fn a_client_that_becomes_ready_after_a_restart_of_the_keeper_is_announced() {
    let mut w = World::new();
    w.opened(1, 1);
    w.session(1);
    says!(w.restarts());
    says!(w.initialized(1, 1), "send #1 g1 initialized");
    says!(w.answered(1), "drop note 1");
    says!(w.call(2), "send #2 g1 exchange 2");
}

#[test]
fn a_session_that_heard_late_of_its_client_is_gone_on_with_after_a_restart_of_the_keeper() {
    let mut w = World::new();
    w.opened(1, 1);
    w.session(1);
    w.asks(1, 2, ask(2, "tools/list"));
    says!(w.refused(2, 403, "no"), "send #3 g1 ping");
    says!(w.initialized(1, 1), "accept note 1");
    says!(w.answered(3), "pass-refusal 2 #2 executed=no", "send #4 g1 note 1");
    w.answered(4);
    says!(w.restarts());
    says!(w.read(3), "send #1 g1 exchange 3 on any");
}

#[test]
fn a_keeper_that_starts_anew_gives_no_session_the_number_of_another() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    // The server may have opened that session, and the keeper is killed before it hears of it.
    says!(w.restarts());
    says!(w.read(3), "send #1 g1 exchange 3 on any");
    says!(w.refused(1, 404, "gone"), "send #2 g3 initialize");
    let mut w = World::bound();
    says!(w.on(Input::Reconnect { latch: None }), "send #3 g2 initialize");
    says!(w.restarts());
    says!(w.on(Input::Reconnect { latch: None }), "send #1 g3 initialize");
}

#[test]
fn what_a_client_has_set_outlives_the_keeper() {
    let mut w = furnished();
    says!(w.restarts());
    says!(w.read(5), "send #1 g1 setLevel debug");
    says!(w.answered(1), "send #2 g1 subscribe a");
    says!(w.answered(2), "send #3 g1 exchange 5 on any", "send #4 g1 tools/list");
}

#[test]
fn a_log_level_alone_outlives_the_keeper() {
    let mut w = World::bound();
    w.asks(1, 2, keeps(2, "logging/setLevel", Keep::Level("debug".into())));
    w.answered(3);
    says!(w.restarts());
    says!(w.read(3), "send #1 g1 setLevel debug");
}

#[test]
fn a_step_whose_connection_breaks_or_that_is_refused_for_itself_is_skipped() {
    let mut w = furnished();
    w.on(Input::Reconnect { latch: None });
    w.session(7);
    says!(w.refused(8, 413, "too large"), "send #9 g2 setLevel debug");
    says!(w.refused(9, 413, "too large"), "send #10 g2 subscribe a");
    w.broke(10);
    assert_eq!(w.generation(1), Some(Gen(2)));
    let skipped: Vec<_> = w.journal.iter().filter_map(|j| j.strip_prefix("skipped ")).collect();
    assert_eq!(
        skipped,
        ["notifications/initialized", "a log level or subscription", "a log level or subscription"]
    );
}

#[test]
fn more_subscriptions_than_relatch_remembers_are_not_made_again() {
    let mut w = World::bound();
    for ex in 2..1_003 {
        let uri = format!("file:///{ex}");
        w.asks(1, ex, keeps(ex as i64, "resources/subscribe", Keep::Subscribe(uri.clone(), uri)));
        let sent = *w.under_way.keys().last().expect("the subscription");
        w.answered(sent);
    }
    w.on(Input::Reconnect { latch: None });
    let mut last = *w.under_way.keys().last().expect("a handshake");
    w.session(last);
    let mut made = 0;
    while w.generation(1) != Some(Gen(2)) {
        last += 1;
        let lines = w.answered(last);
        made += lines.iter().filter(|line| line.contains("subscribe")).count();
    }
    assert_eq!(made, 1_000);
}

#[test]
fn a_new_session_that_was_not_rebuilt_to_the_end_is_gone_on_with_after_a_restart_of_the_keeper() {
    let mut w = furnished();
    w.on(Input::Reconnect { latch: None });
    w.session(7);
    says!(w.answered(8), "send #9 g2 setLevel debug");
    // The old session gets its farewell, and the new one waits for the server.
    assert!(w.no_connection(9).contains(&"send #10 g1 delete".to_owned()));
    says!(w.restarts());
    says!(w.read(5), "send #1 g2 setLevel debug");
}
