//! Stories of clients that start before their server: what is answered from a copy, what waits, and what is said when the
//! server is there and is not as the copy said.

mod world;

use std::collections::BTreeSet;

use relatch_core::health::State;
use relatch_core::input::{CopySeen, Listed, SessionFacts};
use relatch_core::policy::Policy;
use relatch_core::{ExId, Input};
use relatch_wire::method;
use world::{World, ask, call, policy, session_facts};

fn copies() -> Policy {
    Policy { copies: true, ..policy() }
}

fn copy_of(session: Option<SessionFacts>) -> CopySeen {
    CopySeen { made: 1_795_654_920_000, date: "2026-11-26 01:02".to_owned(), session }
}

fn finds(w: &mut World, ex: u64, copy: Option<CopySeen>) -> Vec<String> {
    w.on(Input::Copy { ex: ExId(ex), copy })
}

/// Latch 1 was answered from a copy while connections are refused; its client has said `initialized`.
fn late() -> World {
    let mut w = World::with(copies());
    w.opened(1, 1);
    w.no_connection(1);
    finds(&mut w, 1, Some(copy_of(Some(session_facts()))));
    w.initialized(1, 1);
    w
}

#[test]
fn a_client_that_comes_before_its_server_is_answered_from_the_copy_and_gets_its_session_later() {
    let mut w = World::with(copies());
    says!(w.opened(1, 1), "send #1 g1 initialize of 1");
    says!(w.no_connection(1), "seek a copy for 1");
    says!(finds(&mut w, 1, Some(copy_of(Some(session_facts())))), "pass a copy to 1");
    says!(w.initialized(1, 1), "accept note 1");
    // Nothing is healthy by a copy, and it is marked.
    assert_eq!(w.state(), State::Down);
    assert_eq!(w.report().sessions[0].copy, Some(1_795_654_920_000));
    assert_eq!(w.report().server, None);
    says!(w.asks(1, 2, ask(2, method::TOOLS_LIST)), "seek a copy for 2", "send #2 g2 initialize");
    says!(finds(&mut w, 2, Some(copy_of(None))), "pass a copy to 2");
    // A call waits for the server.
    says!(w.call(3));
    says!(w.session(2), "send #3 g2 initialized");
    says!(w.answered(3), "drop note 1", "send #4 g2 exchange 3", "send #5 g2 tools/list");
    says!(w.answered(4), "pass 3 #4");
    // Everything is as the copy said: nobody is told anything.
    says!(w.listed(5, Listed::Same));
    assert_eq!(w.state(), State::Healthy);
    assert_eq!(w.report().sessions[0].copy, None);
    assert!(w.report().server.is_some());
    assert_eq!(w.report().totals.relatched, 0);
    let told = |word: &str| w.journal.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!((told("from-copy"), told("latched"), told("list-changed")), (2, 1, 0), "{:#?}", w.journal);
    let first = w.journal.iter().find(|line| line.starts_with("from-copy")).expect("a line");
    assert_eq!(first, "from-copy initialize: a copy of 2026-11-26 01:02; connection refused");
}

#[test]
fn without_a_copy_a_handshake_is_held_as_ever() {
    let mut w = World::with(copies());
    w.opened(1, 1);
    w.no_connection(1);
    says!(finds(&mut w, 1, None));
    assert_eq!(w.report().totals.held, 1);
    let said = w.passes(20_100);
    assert!(said.iter().any(|line| line.starts_with("answer 1 upstream-down executed=no")), "{said:?}");
}

#[test]
fn who_does_not_want_copies_gets_none() {
    let mut w = World::with(policy());
    w.opened(1, 1);
    says!(w.no_connection(1));
}

#[test]
fn what_the_server_says_otherwise_is_told_and_journalled() {
    let mut w = late();
    w.asks(1, 2, ask(2, method::TOOLS_LIST));
    finds(&mut w, 2, Some(copy_of(None)));
    w.asks(1, 3, ask(3, method::PROMPTS_LIST));
    finds(&mut w, 3, Some(copy_of(None)));
    w.waits(400);
    let mut server = session_facts().server;
    server.version = Some("2.0".to_owned());
    server.protocol = "2025-06-18".to_owned();
    let other = SessionFacts { server, offers: BTreeSet::from(["resources"]), ..session_facts() };
    w.session_of(2, other);
    says!(w.answered(3), "drop note 1", "send #4 g2 tools/list");
    says!(
        w.listed(4, Listed::Differs("+new".to_owned())),
        "tell 1 tools/list changed",
        "send #5 g2 prompts/list"
    );
    // The copy had such a list; the server has none.
    says!(w.error(5, -32601, "Method not found"), "tell 1 prompts/list changed");
    let latched = w.journal.iter().find(|line| line.starts_with("latched")).expect("a line").clone();
    for part in [
        "1.0 → files-server 2.0",
        "revision 2025-11-25 → 2025-06-18",
        "no tools any more",
        "resources besides",
    ] {
        assert!(latched.contains(part), "{part} in {latched}");
    }
    w.passes(1_000);
    assert!(w.conditions().contains(&"revision-changed"), "{:?}", w.conditions());
}

#[test]
fn a_server_that_takes_a_connection_and_says_nothing_is_late_too_and_its_answer_still_counts() {
    let mut w = World::with(copies());
    says!(w.opened(1, 1), "send #1 g1 initialize of 1");
    says!(w.passes(5_000), "seek a copy for 1");
    says!(finds(&mut w, 1, Some(copy_of(Some(session_facts())))), "pass a copy to 1");
    // No second handshake: the one that is out becomes the session.
    says!(w.session(1), "send #2 g1 initialized");
    says!(w.answered(2));
    assert_eq!(w.report().sessions[0].copy, None);
}

#[test]
fn old_news_of_an_absence_answers_nobody_from_a_copy() {
    let mut w = World::bound_with(copies());
    w.call(2);
    w.no_connection(3);
    // Another client comes: whether the server is still away is asked first.
    w.passes(50);
    says!(w.opened(2, 9), "send #4 g1 ping");
    says!(w.no_connection(4), "seek a copy for 9");
}

#[test]
fn a_client_that_has_a_session_waits_for_its_lists() {
    let mut w = World::bound_with(copies());
    w.call(2);
    w.no_connection(3);
    w.asks(1, 4, ask(4, method::TOOLS_LIST));
    let said = w.passes(10_000);
    assert!(!said.iter().any(|line| line.contains("copy")), "{said:?}");
}

#[test]
fn a_call_is_never_answered_from_a_copy() {
    let mut w = late();
    w.asks(1, 2, call(2, "send_mail"));
    w.asks(1, 3, ask(3, method::RESOURCES_READ));
    w.asks(1, 4, ask(4, method::PROMPTS_GET));
    let said = w.passes(44_000);
    assert!(!said.iter().any(|line| line.contains("copy")), "{said:?}");
    let said = w.passes(2_000);
    assert_eq!(said.iter().filter(|line| line.starts_with("answer")).count(), 3, "{said:?}");
}

#[test]
fn a_copy_that_is_found_too_late_is_no_answer() {
    let mut w = World::with(copies());
    w.opened(1, 1);
    w.no_connection(1);
    w.left(1);
    says!(finds(&mut w, 1, Some(copy_of(Some(session_facts())))));
}

#[test]
fn a_server_that_refuses_the_credentials_answers_itself() {
    let mut w = late();
    w.call(2);
    w.waits(400);
    let said = w.refused(2, 401, "who are you?");
    assert!(said.iter().any(|line| line.starts_with("challenge 2")), "{said:?}");
    // A list that is asked for now goes to the server with its credentials, and nothing is given out before.
    let said = w.asks(1, 3, ask(3, method::TOOLS_LIST));
    says!(said, "send #3 g3 initialize");
}

#[test]
fn who_comes_in_a_pause_is_answered_from_the_copy_and_gets_a_session_when_it_ends() {
    let mut w = World::with(copies());
    w.on(Input::Paused { ms: 60_000 });
    says!(w.opened(1, 1), "seek a copy for 1");
    says!(finds(&mut w, 1, Some(copy_of(Some(session_facts())))), "pass a copy to 1");
    w.initialized(1, 1);
    w.call(2);
    says!(w.waits(5_000));
    says!(w.on(Input::Resumed), "send #1 g1 initialize");
}
