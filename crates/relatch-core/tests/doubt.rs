//! Stories of answers that may or may not be about the session, and of credentials.

mod world;

use relatch_core::health::State;
use relatch_core::input::Refusal;
use relatch_core::policy::Policy;
use world::{World, ask, call, policy, refusal};

const FORBIDDEN: &str = "principal mismatch";

#[test]
fn a_session_that_answers_ping_is_kept_and_the_answer_is_passed_on() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 403, FORBIDDEN), "send #4 g1 ping");
    // What comes meanwhile waits for the finding.
    says!(w.call(3));
    says!(w.answered(4), "pass-refusal 2 #3 executed=no", "send #5 g1 exchange 3");
    assert!(w.kept().is_empty());
}

#[test]
fn a_ping_that_gets_another_error_proves_the_session_alive() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    says!(w.error(4, -32601, "no ping here"), "pass-refusal 2 #3 executed=no");
}

#[test]
fn a_ping_without_an_answer_finds_nothing() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 500, "boom");
    says!(w.passes(2_000), "abort #4", "pass-refusal 2 #3 executed=unknown");
    assert_eq!(w.generation(1).map(|g| g.0), Some(1));
}

#[test]
fn a_ping_refused_as_gone_renews_the_session() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 500, "session not found");
    // The call's own refusal is not the ping's: whether it ran stays unknown.
    says!(
        w.refused(4, 404, "Session not found"),
        "answer 2 delivery-unknown executed=unknown",
        "send #5 g2 initialize",
    );
}

#[test]
fn what_is_no_answer_is_not_passed_on_as_one_though_its_status_is_200() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 200, "<p>your session expired</p>"), "send #4 g1 ping");
    says!(w.answered(4), "pass-refusal 2 #3 executed=unknown");
    // An error in an answer that is one is passed on as it came.
    says!(w.read(3), "send #5 g1 exchange 3 on any");
    says!(w.error(5, -32000, "Server not initialized"), "send #6 g1 ping");
    says!(w.answered(6), "pass 3 #5");
}

#[test]
fn a_control_that_is_answered_proves_the_old_session_gone_and_binds_the_new_one() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 403, FORBIDDEN), "send #4 g1 ping");
    says!(w.refused(4, 403, FORBIDDEN), "send #5 g2 initialize");
    says!(w.session(5), "send #6 g2 initialized");
    says!(w.answered(6), "send #7 g2 ping");
    says!(w.answered(7), "send #8 g1 delete", "send #9 g2 exchange 2");
    says!(w.answered(8), "forget g1");
    says!(w.answered(9), "pass 2 #9");
    assert_eq!(w.report().totals.relatched, 1);
    assert!(w.kept().is_empty());
}

#[test]
fn a_500_that_ping_shares_proves_nothing_of_the_call_unless_it_speaks_of_the_session() {
    for (status, body, expected) in [
        (500, "boom", "answer 2 delivery-unknown executed=unknown"),
        (500, "session not found", "send #9 g2 exchange 2"),
        // Nobody runs a call and then says that it is not there.
        (503, "shutting down", "send #9 g2 exchange 2"),
    ] {
        let mut w = World::bound();
        w.call(2);
        w.refused(3, status, body);
        w.refused(4, status, body);
        w.session(5);
        w.answered(6);
        let lines = w.answered(7);
        assert!(lines.iter().any(|l| l == expected), "{status} {body}: {lines:?}");
    }
}

#[test]
fn a_control_that_fails_keeps_the_old_session_and_is_believed_for_ten_minutes() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    w.refused(4, 403, FORBIDDEN);
    w.session(5);
    w.answered(6);
    says!(w.refused(7, 403, FORBIDDEN), "send #8 g2 delete", "pass-refusal 2 #3 executed=no");
    says!(w.answered(8), "forget g2");
    // The look is refused in the same way, and what is known not to be about the session holds no call back.
    says!(w.call(3), "send #9 g1 ping");
    says!(w.refused(9, 403, FORBIDDEN), "send #10 g1 exchange 3");
    says!(w.refused(10, 403, FORBIDDEN), "pass-refusal 3 #10 executed=no");
    assert_eq!(w.generation(1).map(|g| g.0), Some(1));
    w.passes(600_000);
    w.read(4);
    says!(w.refused(11, 403, FORBIDDEN), "send #12 g1 ping");
}

#[test]
fn a_handshake_that_is_refused_keeps_the_old_session() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    w.refused(4, 403, FORBIDDEN);
    says!(w.refused(5, 403, FORBIDDEN), "pass-refusal 2 #3 executed=no");
    assert_eq!(w.generation(1).map(|g| g.0), Some(1));
}

#[test]
fn at_most_one_trial_a_minute() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, "a");
    w.refused(4, 403, "a");
    w.refused(5, 403, "a");
    w.call(3);
    let sent = *w.under_way.keys().last().expect("the call");
    says!(w.answered(sent), "send #7 g1 exchange 3");
    w.refused(7, 403, "b");
    says!(w.refused(8, 403, "b"), "pass-refusal 3 #7 executed=no");
}

#[test]
fn a_503_that_ping_and_handshake_get_too_is_an_absence() {
    let mut w = World::bound();
    w.read(2);
    says!(w.refused(3, 503, "no backend"), "send #4 g1 ping");
    says!(w.refused(4, 503, "no backend"), "send #5 g2 initialize");
    says!(w.refused(5, 503, "no backend"));
    assert_eq!(w.state(), State::Down);
    says!(w.waits(300), "send #6 g1 ping");
    says!(w.answered(6), "send #7 g1 exchange 2 mapped on any");
}

#[test]
fn an_error_in_a_200_that_speaks_of_the_session_is_asked_about() {
    let mut w = World::bound();
    w.call(2);
    says!(w.error(3, -32000, "Server not initialized"), "send #4 g1 ping");
    says!(w.error(4, -32000, "Server not initialized"), "send #5 g2 initialize");
    w.session(5);
    w.answered(6);
    says!(w.answered(7), "send #8 g1 delete", "send #9 g2 exchange 2");
}

#[test]
fn an_error_in_a_200_of_a_living_session_is_the_answer() {
    let mut w = World::bound();
    w.call(2);
    w.error(3, -32000, "Browser session not found");
    says!(w.answered(4), "pass 2 #3");
}

#[test]
fn an_upstream_without_session_ids_passes_its_refusals_on() {
    let mut w = World::new();
    w.opened(1, 1);
    let facts = relatch_core::input::SessionFacts { has_id: false, ..world::session_facts() };
    w.session_of(1, facts);
    w.initialized(1, 1);
    w.answered(2);
    w.call(2);
    says!(w.refused(3, 403, FORBIDDEN), "pass-refusal 2 #3 executed=no");
}

#[test]
fn an_upstream_without_session_ids_gets_a_new_handshake_after_an_outage() {
    let mut w = World::new();
    w.opened(1, 1);
    let facts = relatch_core::input::SessionFacts { has_id: false, ..world::session_facts() };
    w.session_of(1, facts.clone());
    w.initialized(1, 1);
    w.answered(2);
    w.call(2);
    w.no_connection(3);
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g2 initialize");
    w.session_of(5, facts);
    says!(w.answered(6), "forget g1", "send #7 g2 exchange 2");
}

#[test]
fn a_challenge_goes_back_to_its_client_and_the_session_lives() {
    let mut w = World::bound();
    w.call(2);
    let challenge = Refusal { challenge: true, ..refusal(401, "") };
    says!(w.refused_with(3, challenge), "challenge 2 #3");
    assert_eq!(w.conditions(), ["credentials-refused"]);
    says!(w.call(3), "send #4 g1 exchange 3");
    says!(w.answered(4), "pass 3 #4");
    assert_eq!(w.state(), State::Healthy);
    assert!(w.kept().is_empty());
}

#[test]
fn a_handshake_that_wants_other_credentials_parks_the_latch_until_the_next_request() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    w.read(3);
    says!(w.refused(3, 404, "gone"), "send #5 g2 initialize");
    w.refused(4, 404, "gone");
    let challenge = Refusal { challenge: true, ..refusal(401, "") };
    says!(w.refused_with(5, challenge), "challenge 2 #5", "challenge 3 #5");
    says!(w.passes(600_000));
    says!(w.call(4), "send #6 g3 initialize");
}

#[test]
fn a_probe_that_wants_other_credentials_parks_the_latch_until_the_next_request() {
    let mut w = World::bound();
    w.attached(1);
    let stream = 3;
    let none = Refusal { challenge: true, ..refusal(401, "") };
    says!(w.refused_with(stream, none));
    says!(w.passes(600_000));
    assert_eq!(w.conditions(), ["credentials-refused"]);
    says!(w.read(2), "send #4 g1 exchange 2 on any", "send #5 g1 stream");
}

#[test]
fn a_get_that_is_answered_404_never_ends_a_session_that_post_finds_alive() {
    let mut w = World::bound();
    says!(w.attached(1), "send #3 g1 stream");
    says!(w.refused(3, 404, "no such route"), "send #4 g1 ping");
    says!(w.answered(4));
    assert_eq!(w.generation(1).map(|g| g.0), Some(1));
    says!(w.call(2), "send #5 g1 exchange 2");
}

#[test]
fn a_get_that_is_answered_405_is_not_asked_again() {
    let mut w = World::bound();
    w.attached(1);
    says!(w.refused(3, 405, ""));
    let lines = w.passes(300_000);
    assert!(lines.iter().all(|l| !l.ends_with("stream")), "{lines:?}");
}

#[test]
fn a_look_refused_as_gone_renews_the_session_before_the_call_is_sent() {
    let mut w = World::bound_with(Policy { local: false, ..policy() });
    w.passes(20_000);
    // Nothing is asked of a remote server that sleeps.
    says!(w.call(2), "send #3 g1 exchange 2");
    w.answered(3);
    w.call(3);
    w.refused(4, 502, "");
    w.passes(2_000);
    w.answered(5);
    w.passes(20_000);
    says!(w.call(4), "send #6 g1 ping");
    says!(w.refused(6, 404, "gone"), "send #7 g2 initialize");
}

#[test]
fn an_answer_about_the_request_is_passed_on() {
    let mut w = World::bound();
    w.asks(1, 2, ask(2, "tools/call"));
    says!(w.refused(3, 400, "Unsupported protocol version"), "pass-refusal 2 #3 executed=no");
    w.asks(1, 3, call(3, "x"));
    let unknown = Refusal { rpc_code: Some(-32601), ..refusal(404, "Method not found") };
    says!(w.refused_with(4, unknown), "pass-refusal 3 #4 executed=no");
}

#[test]
fn a_redirect_elsewhere_is_told_with_its_address() {
    let mut w = World::bound();
    w.call(2);
    let moved = Refusal { location: Some("https://elsewhere/mcp"), ..refusal(302, "") };
    says!(w.refused_with(3, moved), "answer 2 redirected executed=no");
}

#[test]
fn a_proxy_that_stopped_waiting_does_not_say_that_the_call_did_not_run() {
    for (status, executed) in [(408, "unknown"), (499, "unknown"), (409, "no")] {
        let mut w = World::bound();
        says!(w.call(2), "send #3 g1 exchange 2");
        says!(w.refused(3, status, "stream timeout"), "send #4 g1 ping");
        assert_eq!(w.answered(4), [format!("pass-refusal 2 #3 executed={executed}")]);
    }
    let mut w = World::bound();
    says!(w.call(2), "send #3 g1 exchange 2");
    says!(w.refused(3, 303, ""), "answer 2 redirected executed=unknown");
}

#[test]
fn a_failure_that_stands_for_a_lost_session_is_found_out_while_the_upstream_is_away() {
    let mut w = World::bound();
    w.call(2);
    says!(w.no_connection(3), "withdraw #3");
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.refused(4, 500, "boom"), "send #5 g1 ping");
    says!(w.refused(5, 500, "boom"), "send #6 g2 initialize");
    says!(w.session(6), "send #7 g2 initialized");
    says!(w.answered(7), "send #8 g2 ping");
    says!(w.answered(8), "send #9 g1 delete", "send #10 g2 exchange 2");
}

#[test]
fn a_503_that_speaks_of_the_session_is_found_out_while_the_upstream_is_away() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    w.waits(200);
    says!(w.refused(4, 503, "No active session"), "send #5 g1 ping");
    w.refused(5, 503, "No active session");
    w.session(6);
    w.answered(7);
    says!(w.answered(8), "send #9 g1 delete", "send #10 g2 exchange 2");
}

#[test]
fn a_503_of_an_absent_servers_proxy_is_worth_no_diagnosis() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    w.waits(200);
    says!(w.refused(4, 503, "no backend"));
    says!(w.waits(400), "send #5 g1 ping");
}

#[test]
fn a_doubtful_session_that_fails_is_compared_with_a_new_one() {
    let mut w = doubtful();
    says!(w.refused(5, 500, "boom"), "send #6 g1 ping");
    says!(w.refused(6, 500, "boom"), "send #7 g3 initialize");
    says!(w.session(7), "send #8 g3 initialized");
    says!(w.answered(8), "send #9 g3 ping");
    says!(w.answered(9), "send #10 g1 delete", "send #11 g3 exchange 2 on any");
}

#[test]
fn a_server_that_fails_at_everything_is_not_tried_again_and_again() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    let (mut handshakes, mut asked, mut told) = (0, 0, Vec::new());
    while !w.is_over(2) {
        for line in w.waits(60_000) {
            told.extend(line.starts_with("answer").then(|| line.clone()));
            handshakes += u32::from(line.ends_with("initialize"));
            let mut next = world::attempt_of(&line);
            while let Some(attempt) = next {
                asked += 1;
                let lines = w.refused(attempt, 500, "boom");
                handshakes += lines.iter().filter(|l| l.ends_with("initialize")).count() as u32;
                next = lines.iter().find_map(|l| world::attempt_of(l));
            }
        }
    }
    assert_eq!(handshakes, 1);
    assert_eq!(told, ["answer 2 upstream-down executed=no"]);
    assert_eq!(w.state(), State::Down);
    // The pauses between the questions grow.
    assert!(asked < 80, "{asked} times in 45 s");
}

#[test]
fn two_answers_in_doubt_are_settled_together() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    says!(w.refused(3, 403, FORBIDDEN), "send #5 g1 ping");
    says!(w.refused(4, 403, "another"));
    says!(w.answered(5), "pass-refusal 2 #3 executed=no", "pass-refusal 3 #4 executed=no");
}

#[test]
fn an_answer_of_an_older_session_raises_no_doubt_about_the_new_one() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    w.on(relatch_core::Input::Reconnect { latch: None });
    w.session(5);
    w.answered(6);
    says!(w.refused(3, 403, FORBIDDEN), "pass-refusal 2 #3 executed=no");
    // Nor while the new one is in doubt itself.
    says!(w.call(4), "send #7 g2 exchange 4");
    says!(w.refused(7, 403, FORBIDDEN), "send #8 g2 ping");
    says!(w.refused(4, 403, FORBIDDEN), "pass-refusal 3 #4 executed=no", "send #9 g1 delete");
    says!(w.answered(8), "pass-refusal 4 #7 executed=no");
}

#[test]
fn what_is_refused_while_replicas_are_asked_is_passed_on() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    says!(w.refused(3, 404, "gone"), "send #5 g1 ping on fresh");
    says!(w.refused(4, 403, FORBIDDEN), "pass-refusal 3 #4 executed=no");
}

#[test]
fn a_ping_that_is_refused_in_another_way_finds_nothing() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, "a");
    says!(w.refused(4, 403, "b"), "pass-refusal 2 #3 executed=no");
    assert_ne!(w.state(), State::Down);
}

#[test]
fn a_ping_that_finds_nobody_proves_the_upstream_away() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 500, "boom");
    says!(w.no_connection(4), "pass-refusal 2 #3 executed=unknown");
    assert_eq!(w.state(), State::Down);
}

#[test]
fn a_ping_whose_connection_breaks_proves_nothing_alone() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    w.refused(3, 500, "boom");
    says!(w.broke(5), "pass-refusal 2 #3 executed=unknown");
    assert_eq!(w.state(), State::Recovering);
    // Where another one broke before it, it does.
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    w.refused(3, 500, "boom");
    w.broke(4);
    assert_eq!(w.state(), State::Recovering);
    w.broke(5);
    assert_eq!(w.state(), State::Down);
}

#[test]
fn a_read_that_fails_before_its_server_goes_away_is_sent_again_when_it_is_back() {
    for (status, body) in [(502, ""), (503, "no backend")] {
        let mut w = World::bound();
        w.read(2);
        w.refused(3, 500, "boom");
        says!(w.refused(4, status, body));
        assert_eq!(w.state(), State::Down);
        says!(w.waits(400), "send #5 g1 ping");
        says!(w.answered(5), "send #6 g1 exchange 2 mapped on any");
    }
}

#[test]
fn a_trial_that_is_refused_is_believed_and_proves_no_absence() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    w.refused(4, 403, FORBIDDEN);
    says!(w.refused(5, 403, FORBIDDEN), "pass-refusal 2 #3 executed=no");
    assert_ne!(w.state(), State::Down);
    w.call(3);
    w.answered(6);
    says!(w.refused(7, 403, FORBIDDEN), "pass-refusal 3 #7 executed=no");
}

#[test]
fn a_trial_that_finds_nobody_proves_the_upstream_away() {
    for (wrote, state) in [(false, State::Down), (true, State::Recovering)] {
        let mut w = World::bound();
        w.call(2);
        w.refused(3, 403, FORBIDDEN);
        w.refused(4, 403, FORBIDDEN);
        says!(w.cut(5, world::cut_of(wrote, "no")), "pass-refusal 2 #3 executed=no");
        assert_eq!(w.state(), state);
    }
}

#[test]
fn a_control_that_gets_another_error_proves_the_old_session_gone() {
    let mut w = World::bound();
    w.call(2);
    w.error(3, -32000, "Server not initialized");
    w.error(4, -32000, "Server not initialized");
    w.session(5);
    w.answered(6);
    says!(w.error(7, -32601, "no ping here"), "send #8 g1 delete", "send #9 g2 exchange 2");
}

#[test]
fn a_control_that_gets_the_same_error_keeps_the_old_session() {
    let mut w = World::bound();
    w.call(2);
    w.error(3, -32000, "Server not initialized");
    w.error(4, -32000, "Server not initialized");
    w.session(5);
    w.answered(6);
    says!(w.error(7, -32000, "Server not initialized"), "send #8 g2 delete", "pass 2 #3");
}

#[test]
fn a_control_that_is_refused_in_another_way_proves_nothing_and_is_not_believed() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    w.refused(4, 403, FORBIDDEN);
    w.session(5);
    w.answered(6);
    says!(w.refused(7, 403, "busy"), "send #8 g2 delete", "pass-refusal 2 #3 executed=no");
    w.answered(8);
    w.read(3);
    says!(w.refused(9, 403, FORBIDDEN), "send #10 g1 ping");
    w.answered(10);
    w.read(4);
    says!(w.refused(11, 403, "busy"), "send #12 g1 ping");
}

#[test]
fn a_403_before_the_server_goes_away_is_passed_on() {
    let mut w = World::bound();
    w.read(2);
    w.refused(3, 403, FORBIDDEN);
    says!(w.refused(4, 502, ""), "pass-refusal 2 #3 executed=no");
    assert_eq!(w.state(), State::Down);
}

#[test]
fn a_question_to_replicas_that_finds_nobody_proves_the_upstream_away() {
    for (wrote, state) in [(false, State::Down), (true, State::Recovering)] {
        let mut w = World::bound();
        w.call(2);
        says!(w.refused(3, 404, "gone"), "send #4 g1 ping on fresh");
        says!(w.cut(4, world::cut_of(wrote, "no")));
        assert_eq!(w.state(), state);
        says!(w.waits(200), "send #5 g1 ping");
    }
    // Where another connection broke before it, a broken one proves it, too.
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    w.refused(3, 404, "gone");
    w.broke(4);
    w.broke(5);
    assert_eq!(w.state(), State::Down);
}

/// A session that a missing endpoint has made doubtful is asked by `ping` #5; read 2 waits for it.
fn doubtful() -> World {
    let mut w = World::bound();
    w.passes(11_000);
    w.read(2);
    w.refused(3, 404, "gone");
    says!(w.refused(4, 502, ""));
    says!(w.waits(1_000), "send #5 g1 ping");
    w
}

#[test]
fn a_doubtful_session_that_refuses_in_its_own_words_lives() {
    let mut w = doubtful();
    says!(w.refused(5, 403, FORBIDDEN), "send #6 g1 exchange 2 mapped on any");
}

#[test]
fn a_doubtful_session_that_is_gone_is_forgotten() {
    let mut w = doubtful();
    says!(w.refused(5, 404, "gone"), "send #6 g3 initialize");
    says!(w.session(6), "send #7 g3 initialized");
    says!(w.answered(7), "forget g1", "send #8 g3 exchange 2 on any");
}

#[test]
fn a_doubtful_session_that_cannot_be_asked_proves_the_upstream_away_when_nothing_was_written() {
    for (wrote, state) in [(false, State::Down), (true, State::Recovering)] {
        // A client that has yet to say that it is ready: its session is replaced whatever comes of it.
        let mut w = World::new();
        w.opened(1, 1);
        w.session(1);
        w.on(relatch_core::Input::Reconnect { latch: None });
        w.refused(2, 400, "no");
        says!(w.waits(1_000), "send #3 g1 ping");
        w.cut(3, world::cut_of(wrote, "no"));
        assert_eq!(w.state(), state);
    }
}

#[test]
fn an_upstream_without_session_ids_is_not_asked_whether_a_session_lives() {
    let mut w = World::new();
    w.opened(1, 1);
    let facts = relatch_core::input::SessionFacts { has_id: false, ..world::session_facts() };
    w.session_of(1, facts.clone());
    w.initialized(1, 1);
    w.answered(2);
    w.call(2);
    w.no_connection(3);
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g2 initialize");
    says!(w.refused(5, 502, ""));
    says!(w.waits(1_000), "send #6 g3 initialize");
}

#[test]
fn a_refusal_in_other_words_than_the_lost_sessions_is_passed_on() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    says!(w.refused(4, 404, "gone"), "pass-refusal 2 #3 executed=no", "send #5 g2 initialize");
}

#[test]
fn a_session_that_ends_during_a_diagnosis_takes_its_second_session_with_it() {
    let mut w = World::bound();
    w.call(2);
    w.refused(3, 403, FORBIDDEN);
    w.refused(4, 403, FORBIDDEN);
    w.session(5);
    let lines = w.ended(1);
    let deleted: Vec<&String> = lines.iter().filter(|line| line.ends_with("delete")).collect();
    assert_eq!(deleted, ["send #7 g1 delete", "send #8 g2 delete"]);
}

#[test]
fn a_diagnosis_that_waits_for_a_permit_is_over_when_the_upstream_goes_away() {
    let mut w = World::new();
    for latch in 1..=9 {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    w.asks(9, 20, call(20, "send_mail"));
    w.asks(9, 21, call(21, "send_mail"));
    for latch in 1..=8 {
        let latch = Some(relatch_core::LatchId(latch));
        w.on(relatch_core::Input::Reconnect { latch });
    }
    says!(w.refused(19, 403, FORBIDDEN), "send #29 L9 g1 ping");
    // All permits are taken.
    says!(w.refused(29, 403, FORBIDDEN));
    says!(w.no_connection(20), "withdraw #20", "pass-refusal 20 #19 executed=no");
}

#[test]
fn the_journal_says_how_long_a_doubt_lasted() {
    let mut w = World::bound();
    w.call(2);
    w.passes(3_000);
    w.refused(3, 403, FORBIDDEN);
    w.passes(1_500);
    w.answered(4);
    assert_eq!(w.spans, [("cleared", 1_500)]);
}
