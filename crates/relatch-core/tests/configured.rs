//! Stories of an upstream whose settings, credentials or address become other ones while it is at work.

mod world;

use relatch_core::Gen;
use relatch_core::health::State;
use relatch_core::input::{Input, Refusal};
use relatch_core::policy::Policy;
use world::{World, policy, refusal};

/// The same upstream at another address.
fn elsewhere() -> Policy {
    Policy { url: "http://127.0.0.1:9999/mcp".to_owned(), ..policy() }
}

fn moves(w: &mut World) -> Vec<String> {
    w.on(Input::Configured { policy: &elsewhere(), moved: true, headers: false })
}

#[test]
fn what_is_as_it_was_is_no_change() {
    let mut w = World::bound();
    says!(w.on(Input::Configured { policy: &policy(), moved: false, headers: false }));
    assert!(!w.journal.iter().any(|line| line.starts_with("configured")), "{:?}", w.journal);
}

#[test]
fn other_settings_count_from_the_next_call_on_and_disturb_nothing() {
    let mut w = World::bound();
    says!(w.call(5), "send #3 g1 exchange 5");
    let replay = vec![("send_*".to_owned(), true)];
    let other = Policy { hold_ms: 1_000, replay, stateful: true, ..policy() };
    says!(w.on(Input::Configured { policy: &other, moved: false, headers: true }));
    assert_eq!(w.journal.last().unwrap(), "configured: headers, hold, stateful, replay");
    // The call that was under way when the user changed his mind is what it was: it may not repeat.
    let lines = w.broke(3);
    assert!(lines.contains(&"answer 5 delivery-unknown executed=unknown".to_owned()), "{lines:?}");
    let ping = w.waits(0);
    says!(ping, "send #4 g1 ping");
    w.answered(4);
    // The next may.
    says!(w.call(6), "send #5 g1 exchange 6 on any");
    w.no_connection(5);
    let lines = w.passes(1_100);
    assert!(
        lines.iter().any(|line| line.starts_with("answer 6 upstream-down")),
        "held for a second: {lines:?}"
    );
}

#[test]
fn at_another_address_every_latch_is_bound_anew_and_what_is_open_at_the_former_runs_on() {
    let mut w = World::bound();
    w.call(5);
    says!(moves(&mut w), "send #4 g2 initialize");
    assert_eq!(
        w.journal.last().unwrap(),
        "configured: url http://127.0.0.1:8931/mcp → http://127.0.0.1:9999/mcp"
    );
    // A call that comes meanwhile waits for the new session.
    says!(w.call(6));
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.answered(5), "send #6 g2 exchange 6");
    says!(w.answered(6), "pass 6 #6");
    // The former session gets its farewell when the last that it was asked is over.
    says!(w.answered(3), "pass 5 #3", "send #7 g1 delete");
    assert_eq!(w.generation(1), Some(Gen(2)));
}

#[test]
fn what_fails_at_the_former_address_says_nothing_of_the_present_one() {
    let mut w = World::bound();
    w.call(5);
    moves(&mut w);
    w.session(4);
    w.answered(5);
    assert_eq!(w.report().state, State::Healthy);
    let lines = w.broke(3);
    assert!(lines.contains(&"answer 5 delivery-unknown executed=unknown".to_owned()), "{lines:?}");
    assert_eq!(w.report().state, State::Healthy);
    assert!(!w.journal.iter().any(|line| line.starts_with("away")), "{:?}", w.journal);
}

#[test]
fn what_was_heard_at_the_former_address_is_no_evidence_of_the_present_one() {
    let mut w = World::bound();
    w.read(5);
    w.answered(3);
    assert_eq!(w.report().state, State::Healthy);
    moves(&mut w);
    assert_ne!(w.report().state, State::Healthy);
    assert!(w.report().last_success.is_none());
    assert_eq!(w.report().totals.calls, 2, "what was counted stays");
}

#[test]
fn calls_that_wait_for_a_server_that_is_away_go_to_its_new_address() {
    let mut w = World::bound();
    w.passes(12_000);
    w.read(5);
    w.no_connection(3);
    assert_eq!(w.report().state, State::Down);
    let lines = moves(&mut w);
    says!(lines, "send #4 g2 initialize");
    w.session(4);
    says!(w.answered(5), "send #6 g1 delete", "send #7 g2 exchange 5 on any");
    says!(w.answered(7), "pass 5 #7");
    assert_eq!(w.report().state, State::Healthy);
}

#[test]
fn a_client_that_is_just_opening_is_served_at_the_new_address() {
    let mut w = World::new();
    says!(w.opened(1, 1), "send #1 g1 initialize of 1");
    says!(moves(&mut w));
    says!(w.no_connection(1), "send #2 g2 initialize of 1");
    says!(w.session(2), "pass 1 #2");
    // One that the former address has let in is bound anew.
    let mut w = World::new();
    w.opened(1, 1);
    moves(&mut w);
    says!(w.session(1), "pass 1 #1", "send #2 g2 initialize");
}

#[test]
fn a_session_in_doubt_is_settled_where_it_is_and_then_replaced() {
    let mut w = World::bound();
    w.passes(12_000);
    w.read(5);
    says!(w.refused(3, 403, "no"), "send #4 g1 ping");
    says!(moves(&mut w));
    let lines = w.answered(4);
    assert!(lines.contains(&"send #5 g2 initialize".to_owned()), "{lines:?}");
}

#[test]
fn a_latch_whose_credentials_were_refused_tries_again_with_other_headers() {
    let mut w = World::bound();
    w.passes(12_000);
    w.read(5);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    w.refused_with(4, Refusal { challenge: true, ..refusal(401, "who are you") });
    assert_eq!(w.report().sessions[0].state, "parked");
    says!(
        w.on(Input::Configured { policy: &policy(), moved: false, headers: true }),
        "send #5 g3 initialize"
    );
    w.session(5);
    w.answered(6);
    assert_eq!(w.report().sessions[0].state, "bound");
}

/// Nobody is at any address until `ms` have passed. What was sent.
fn finds_nobody(w: &mut World, ms: u64) -> Vec<String> {
    let end = w.now.plus(ms);
    let mut sent = Vec::new();
    loop {
        let open: Vec<u64> = w.under_way.keys().copied().collect();
        for attempt in open {
            sent.extend(w.no_connection(attempt).into_iter().filter(|line| line.starts_with("send")));
        }
        assert!(sent.len() < 1_000, "asked again and again: {:?}", &sent[..20]);
        if w.under_way.is_empty() {
            if w.now >= end {
                return sent;
            }
            sent.extend(w.waits(end.since(w.now)).into_iter().filter(|line| line.starts_with("send")));
        }
    }
}

#[test]
fn a_server_that_comes_up_at_its_new_address_later_is_found_there() {
    let mut w = World::bound();
    w.passes(12_000);
    says!(moves(&mut w), "send #3 g2 initialize");
    w.call(5);
    let sent = finds_nobody(&mut w, 10_000);
    assert_eq!(w.state(), State::Down);
    assert!(sent.len() > 5 && sent.iter().all(|line| line.ends_with(" initialize")), "{sent:?}");
    // Now it comes up.
    let lines = w.waits(2_000);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let handshake = world::attempt_of(line).unwrap();
    let lines = w.session(handshake);
    let lines = w.answered(world::attempt_of(&lines[0]).unwrap());
    assert!(
        lines.iter().any(|line| line.ends_with("exchange 5 on any") || line.ends_with("exchange 5")),
        "{lines:?}"
    );
    assert!(lines.iter().any(|line| line.ends_with("g1 delete")), "{lines:?}");
}

#[test]
fn a_session_that_was_just_being_told_its_state_when_its_address_changed_is_replaced() {
    let mut w = World::bound();
    w.passes(12_000);
    w.read(5);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    says!(w.session(4), "send #5 g2 initialized");
    says!(moves(&mut w));
    let sent = finds_nobody(&mut w, 5_000);
    assert!(sent.len() > 3 && sent.iter().all(|line| line.ends_with(" initialize")), "{sent:?}");
}

#[test]
fn what_a_former_address_says_to_a_handshake_reaches_no_client() {
    let mut w = World::bound();
    w.passes(12_000);
    w.read(5);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    says!(moves(&mut w));
    says!(
        w.refused_with(4, Refusal { challenge: true, ..refusal(401, "who are you") }),
        "send #5 g3 initialize"
    );
    w.session(5);
    says!(w.answered(6), "forget g1", "send #7 g3 exchange 5 on any");
    assert!(w.conditions().is_empty());
}

#[test]
fn that_another_address_answers_is_no_proof_that_a_call_did_not_run_at_the_former() {
    let mut w = World::bound();
    w.call(5);
    says!(w.refused(3, 503, "no"), "send #4 g1 ping");
    moves(&mut w);
    let lines = w.refused(4, 503, "no");
    assert!(lines.contains(&"pass-refusal 5 #3 executed=unknown".to_owned()), "{lines:?}");
    assert!(lines.contains(&"send #5 g2 initialize".to_owned()), "{lines:?}");
}
