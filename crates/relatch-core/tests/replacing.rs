//! Stories of sessions that are replaced while they live: the new one beside the old one, and the old one in use where no
//! new one is to be had.

mod world;

use relatch_core::Input;
use relatch_core::health::State;
use relatch_core::input::{Keep, Told};
use relatch_core::latch::Replacement;
use relatch_core::policy::Policy;
use relatch_core::{Gen, LatchId};
use world::{World, ask, attempt_of, policy};

/// One process for each session.
fn commands() -> Policy {
    Policy { process: true, ..Policy::new("files", "files-server --stdio") }
}

fn outcome(pending: usize, bound: usize, stayed: usize, cause: Option<&str>) -> Replacement {
    Replacement { pending, bound, stayed, cause: cause.map(str::to_owned) }
}

#[test]
fn calls_go_to_the_new_session_while_the_old_one_finishes_its_own() {
    let mut w = World::bound_with(commands());
    w.call(2);
    says!(w.on(Input::Replace), "send #4 g2 initialize");
    assert_eq!(w.machine.replacement(), outcome(1, 0, 0, None));
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.answered(5));
    assert_eq!(w.machine.replacement(), outcome(0, 1, 0, None));
    assert_eq!(w.machine.in_flight_of_older(), 1);
    says!(w.call(3), "send #6 g2 exchange 3");
    says!(w.answered(3), "pass 2 #3", "send #7 g1 delete");
    assert_eq!(w.machine.in_flight_of_older(), 0);
    says!(w.answered(7), "forget g1");
    assert_eq!(w.journal[1..], ["restarting: the one that lives", "relatched"]);
}

#[test]
fn a_command_that_does_not_come_up_leaves_the_old_process_in_use() {
    let mut w = World::bound_with(commands());
    says!(w.on(Input::Replace), "send #3 g2 initialize");
    says!(w.call(2), "send #4 g1 exchange 2");
    let why = "`files-server` exited with status 1; on stderr it had said `SyntaxError`";
    says!(w.cut(3, world::cut_of(false, why)));
    says!(w.answered(4), "pass 2 #4");
    assert_eq!(w.machine.replacement(), outcome(0, 0, 1, Some(why)));
    assert_eq!((w.state(), w.conditions()), (State::Healthy, vec!["replacement-failed"]));
    assert_eq!(w.journal[1..], ["restarting: the one that lives".to_owned(), format!("stayed: {why}")]);
    // The next one comes up, and the trouble is over.
    says!(w.on(Input::Replace), "send #5 g3 initialize");
    w.session(5);
    says!(w.answered(6), "send #7 g1 delete");
    assert_eq!(w.machine.replacement(), outcome(0, 1, 0, None));
    assert_eq!(w.conditions(), [""; 0]);
}

#[test]
fn a_command_that_never_answers_is_given_up_and_the_calls_go_on_in_the_old_process() {
    let mut w = World::bound_with(commands());
    w.on(Input::Replace);
    says!(w.call(2), "send #4 g1 exchange 2");
    w.answered(4);
    says!(w.passes(20_000), "abort #3");
    assert!(w.machine.replacement().cause.is_some_and(|why| why.contains("no answer within 20 s")));
}

#[test]
fn what_fails_for_one_process_is_not_tried_for_a_thousand() {
    let mut w = World::with(commands());
    for latch in 1..=20 {
        w.opened(latch, latch);
        w.session(*w.under_way.keys().last().expect("its handshake"));
        w.initialized(latch, latch);
        w.answered(*w.under_way.keys().last().expect("its note"));
    }
    let lines = w.on(Input::Replace);
    assert_eq!(lines.len(), 8, "{lines:?}");
    let first = attempt_of(&lines[0]).expect("a handshake");
    says!(w.no_connection(first));
    assert_eq!(w.machine.replacement().pending, 7, "those whose handshake is out");
    for line in &lines[1..] {
        says!(w.no_connection(attempt_of(line).expect("a handshake")));
    }
    assert_eq!(w.machine.replacement(), outcome(0, 0, 20, Some("connection refused")));
    for latch in 1..=20 {
        assert_eq!(w.machine.in_use(LatchId(latch)), Some(Gen(1)));
    }
}

#[test]
fn a_new_process_that_dies_before_it_is_used_leaves_the_old_one_in_use() {
    let mut w = World::bound_with(commands());
    w.asks(
        1,
        2,
        relatch_core::input::Ask { keep: Keep::Level("debug".to_owned()), ..ask(2, "logging/setLevel") },
    );
    w.answered(3);
    w.on(Input::Replace);
    w.session(4);
    says!(w.answered(5), "send #6 g2 setLevel debug");
    says!(
        w.session_ended(6, "`files-server` exited with status 3"),
        "forget g2",
        "send #7 g1 setLevel debug"
    );
    says!(w.answered(7));
    says!(w.call(3), "send #8 g1 exchange 3");
    let outcome = w.machine.replacement();
    assert_eq!((outcome.stayed, outcome.pending), (1, 0));
    assert!(outcome.cause.is_some_and(|why| why.contains("exited with status 3")));
}

#[test]
fn a_server_that_refuses_new_sessions_keeps_the_old_ones() {
    let mut w = World::bound();
    says!(w.on(Input::Replace), "send #3 g2 initialize");
    says!(w.error(3, -32_603, "no room"));
    assert_eq!(w.conditions(), ["replacement-failed"]);
    says!(w.call(2), "send #4 g1 exchange 2");
}

#[test]
fn a_server_that_is_gone_keeps_the_old_session_in_doubt_until_it_is_back() {
    let mut w = World::bound();
    w.on(Input::Replace);
    says!(w.no_connection(3));
    assert_eq!((w.state(), w.conditions()), (State::Down, vec!["upstream-down"]));
    says!(w.call(2), "send #4 g1 ping");
    says!(w.refused(4, 404, "Session not found"), "send #5 g3 initialize");
}

#[test]
fn a_client_that_is_about_to_be_bound_gets_the_newer_process_too() {
    let mut w = World::with(commands());
    w.opened(1, 1);
    says!(w.on(Input::Replace));
    w.session(1);
    assert_eq!(w.machine.replacement().pending, 1);
    says!(w.initialized(1, 2), "send #2 g1 note 2");
    says!(w.answered(2), "drop note 2", "send #3 g2 initialize");
    w.session(3);
    says!(w.answered(4), "send #5 g1 delete");
    assert_eq!(w.machine.replacement(), outcome(0, 1, 0, None));
}

#[test]
fn who_leaves_meanwhile_is_not_waited_for() {
    let mut w = World::bound_with(commands());
    w.on(Input::Replace);
    w.ended(1);
    assert_eq!(w.machine.replacement(), outcome(0, 0, 0, None));
}

#[test]
fn what_is_set_in_the_old_session_meanwhile_reaches_the_new_one() {
    let mut w = World::bound_with(commands());
    let level =
        relatch_core::input::Ask { keep: Keep::Level("error".to_owned()), ..ask(2, "logging/setLevel") };
    w.asks(1, 2, level);
    says!(w.on(Input::Replace), "send #4 g2 initialize");
    w.session(4);
    w.answered(5);
    says!(w.answered(3), "pass 2 #3", "send #6 g1 delete", "send #7 g2 setLevel error");
    says!(w.tell(1, 3, Told::Other), "accept note 3");
}

#[test]
fn nothing_is_replaced_in_a_pause_and_everything_afterwards() {
    let mut w = World::bound_with(policy());
    w.on(Input::Paused { ms: 60_000 });
    says!(w.on(Input::Replace));
    says!(w.on(Input::Resumed), "send #3 g1 ping");
    says!(w.answered(3), "send #4 g2 initialize");
}

#[test]
fn calls_go_on_in_the_old_session_until_the_new_one_is_there() {
    let mut w = World::bound();
    says!(w.on(Input::Replace), "send #3 g2 initialize");
    says!(w.call(2), "send #4 g1 exchange 2");
    says!(w.answered(4), "pass 2 #4");
    assert_eq!((w.state(), w.report().totals.held), (State::Healthy, 0));
    // What has to be told first is all that a call waits for.
    says!(w.session(3), "send #5 g2 initialized");
    says!(w.call(3));
    says!(w.answered(5), "send #6 g1 delete", "send #7 g2 exchange 3");
    assert_eq!(w.generation(1), Some(Gen(2)));
}

#[test]
fn an_old_session_that_is_lost_meanwhile_is_followed_by_the_one_that_is_on_its_way() {
    let mut w = World::bound();
    w.passes(20_000);
    w.on(Input::Replace);
    says!(w.read(2), "send #4 g1 exchange 2 on any");
    says!(w.refused(4, 404, "Session not found"));
    says!(w.session(3), "send #5 g2 initialized");
    says!(w.answered(5), "forget g1", "send #6 g2 exchange 2 on any");
    assert_eq!(w.machine.replacement(), outcome(0, 1, 0, None));
}

#[test]
fn an_old_process_that_ends_while_the_new_one_does_not_come_up_is_away_like_any_other() {
    let mut w = World::bound_with(commands());
    w.on(Input::Replace);
    w.call(2);
    says!(w.session_ended(4, "`files-server` was ended by signal 9"));
    says!(w.cut(3, world::cut_of(false, "`files-server` exited with status 1")));
    assert_eq!(w.conditions(), ["command-failed"]);
    let lines = w.waits(1_000);
    says!(lines, "send #5 g3 initialize");
}

#[test]
fn a_session_in_doubt_is_not_left_before_the_doubt_is_settled() {
    let mut w = World::bound();
    w.on(Input::Replace);
    w.read(2);
    says!(w.refused(4, 403, "who are you?"), "send #5 g1 ping");
    says!(w.session(3), "send #6 g2 delete");
    says!(w.answered(5), "pass-refusal 2 #4 executed=no");
    let outcome = w.machine.replacement();
    assert_eq!((outcome.stayed, outcome.pending), (1, 0));
    assert!(outcome.cause.is_some_and(|why| why.contains("asked about")));
}

#[test]
fn a_client_that_leaves_while_its_new_session_is_opened_leaves_none_behind() {
    let mut w = World::bound();
    w.on(Input::Replace);
    says!(w.ended(1), "send #4 g1 delete", "close 1");
    says!(w.session(3), "send #5 g2 delete");
}

#[test]
fn a_client_whose_own_handshake_finds_the_mended_command_has_what_was_wished_for() {
    let mut w = World::with(commands());
    w.opened(1, 1);
    says!(w.on(Input::Replace));
    w.cut(1, world::cut_of(false, "`files-server` exited with status 1"));
    assert_eq!(w.machine.replacement().pending, 1);
    let lines = w.waits(2_000);
    let again = attempt_of(&lines[0]).expect("its handshake once more");
    w.session(again);
    assert_eq!(w.machine.replacement(), outcome(0, 1, 0, None));
}
