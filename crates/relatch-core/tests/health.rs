//! What is said of an upstream: which facets, which conditions, from when on, and what a sleep does to it.

mod world;

use relatch_core::effect::What;
use relatch_core::health::{Facets, State};
use relatch_core::input::{Cut, CutKind, Input};
use relatch_core::policy::Policy;
use relatch_core::upstream::Why;
use world::World;

fn facets(w: &World) -> Facets {
    w.report().facets
}

fn woke(w: &mut World, ms: u64) -> Vec<String> {
    w.now = w.now.plus(ms);
    w.on(Input::Woke { ms })
}

/// A session whose client is there and idle; its server has no standing stream, and no more is under way.
fn attached() -> World {
    let mut w = World::bound();
    says!(w.attached(1), "send #3 g1 stream");
    says!(w.refused(3, 405, ""));
    w
}

#[test]
fn five_facets_are_told_apart() {
    let mut w = World::new();
    assert_eq!(facets(&w), Facets::default());
    w.opened(1, 1);
    w.session(1);
    w.initialized(1, 1);
    w.answered(2);
    let good = Some(true);
    let known =
        Facets { configured: good, reachable: good, session: good, credentials: good, last_call: None };
    assert_eq!(facets(&w), known);
    w.call(2);
    w.answered(3);
    assert_eq!(facets(&w), Facets { last_call: good, ..known });
    // The connection breaks under a call: whether the server is there is not known, and the call has no answer.
    w.call(3);
    w.broke(4);
    assert_eq!((facets(&w).reachable, facets(&w).last_call), (None, Some(false)));
    says!(w.waits(1_000), "send #5 g1 ping");
    w.no_connection(5);
    let gone = Facets { reachable: Some(false), session: None, last_call: Some(false), ..known };
    assert_eq!(facets(&w), gone);
}

#[test]
fn what_was_good_is_not_known_to_be_so_for_ever() {
    let mut w = World::bound_with(Policy { local: false, ..world::policy() });
    w.call(2);
    w.answered(3);
    w.passes(60_000);
    let late = Facets { configured: Some(true), last_call: Some(true), ..Facets::default() };
    assert_eq!((facets(&w), w.state()), (late, State::Unknown));
}

#[test]
fn an_address_that_only_something_else_has_ever_answered_is_a_wrong_one() {
    let mut w = World::new();
    w.opened(1, 1);
    w.refused(1, 404, "<html>nginx</html>");
    assert_eq!((facets(&w).configured, w.conditions()), (Some(false), vec!["endpoint-missing"]));
    // One that has spoken MCP before is merely away.
    let mut w = World::bound();
    w.passes(11_000);
    w.call(2);
    w.refused(3, 404, "gone");
    w.refused(4, 404, "<html>nginx</html>");
    assert_eq!((facets(&w).configured, w.conditions()), (Some(true), vec!["endpoint-missing"]));
}

#[test]
fn an_untrusted_certificate_and_an_unknown_host_have_names_of_their_own() {
    for (kind, code) in [(CutKind::Tls, "certificate-refused"), (CutKind::UnknownHost, "unknown-host")] {
        let mut w = World::bound();
        w.call(2);
        w.cut(3, Cut { kind, ..world::cut_of(false, "no") });
        assert_eq!(
            (w.state(), w.conditions(), facets(&w).configured),
            (State::Down, vec![code], Some(false))
        );
        says!(w.waits(1_000), "send #4 g1 ping");
        w.answered(4);
        assert!(w.conditions().is_empty());
        assert_eq!(facets(&w).configured, Some(true));
    }
}

#[test]
fn a_proxy_that_refuses_has_a_name_of_its_own_and_says_nothing_against_the_address() {
    let mut w = World::bound();
    w.call(2);
    says!(
        w.cut(3, Cut { kind: CutKind::Proxy, ..world::cut_of(false, "403") }),
        "withdraw #3",
        "answer 2 proxy-refused executed=no"
    );
    assert_eq!(
        (w.state(), w.conditions(), facets(&w).configured),
        (State::Down, vec!["proxy-refused"], Some(true))
    );
    says!(w.waits(1_000), "send #4 g1 ping");
    w.answered(4);
    assert!(w.conditions().is_empty());
}

#[test]
fn a_server_that_takes_connections_and_answers_none_is_called_silent_after_three_pings() {
    let mut w = attached();
    for (ping, state) in [(4, State::Healthy), (5, State::Healthy), (6, State::Down)] {
        assert_eq!(w.waits(31_000), [format!("send #{ping} g1 ping")]);
        assert_eq!(w.waits(2_000), [format!("abort #{ping}")]);
        assert_eq!(w.state(), state, "after ping {ping}");
    }
    assert_eq!(w.conditions(), ["upstream-silent"]);
    // It is asked on, and one answer is enough.
    says!(w.waits(31_000), "send #7 g1 ping");
    w.answered(7);
    assert_eq!((w.state(), w.conditions().is_empty()), (State::Healthy, true));
}

#[test]
fn a_server_that_has_no_ping_is_not_called_dead() {
    let mut w = attached();
    says!(w.waits(31_000), "send #4 g1 ping");
    w.error(4, -32601, "Method not found");
    assert_eq!((w.state(), w.conditions().is_empty()), (State::Healthy, true));
    says!(w.waits(31_000), "send #5 g1 ping");
    w.error(5, -32601, "Method not found");
    assert_eq!(w.journal, ["attached"]);
}

#[test]
fn an_idle_upstream_is_probed_only_where_that_costs_nobody_anything_and_by_one_at_a_time() {
    let mut remote = World::bound_with(Policy { local: false, ..world::policy() });
    remote.attached(1);
    says!(remote.passes(3_600_000));
    let mut w = World::bound();
    says!(w.passes(3_600_000));
    w.attached(1);
    let mut asked = 0;
    for _ in 0..120 {
        for line in w.waits(31_000) {
            asked += 1;
            assert!(w.under_way.values().filter(|what| **what == What::Ping).count() <= 1);
            w.answered(world::attempt_of(&line).unwrap());
        }
    }
    assert_eq!(asked, 120, "one probe every 30 s");
}

#[test]
fn a_trouble_that_may_pass_by_itself_is_shown_only_when_it_has_lasted() {
    let mut w = World::bound();
    w.opened(2, 10);
    w.refused(3, 400, "unknown revision");
    assert_eq!((w.state(), w.conditions().len()), (State::Healthy, 0));
    assert_eq!(w.deadline().map(|(_, why)| why), Some(Why::ConditionShows));
    // The client tries once more, and all is well.
    w.passes(1_000);
    w.opened(3, 11);
    w.session(4);
    w.passes(10_000);
    assert_eq!((w.state(), w.conditions().len()), (State::Healthy, 0));
    w.opened(4, 12);
    w.refused(5, 400, "unknown revision");
    w.passes(2_000);
    assert_eq!((w.state(), w.conditions()), (State::Degraded, vec!["handshake-refused"]));
}

#[test]
fn what_an_outage_explains_is_not_shown_beside_it() {
    let mut w = attached();
    w.call(2);
    w.refused_with(4, relatch_core::input::Refusal { challenge: true, ..world::refusal(401, "") });
    assert_eq!((w.state(), w.conditions()), (State::Degraded, vec!["credentials-refused"]));
    w.call(3);
    w.no_connection(5);
    assert_eq!((w.state(), w.conditions()), (State::Down, vec!["upstream-down"]));
    // It is back, and so is what had not been mended.
    says!(w.waits(1_000), "send #6 g1 ping");
    w.refused_with(6, relatch_core::input::Refusal { challenge: true, ..world::refusal(401, "") });
    assert_eq!((w.state(), w.conditions()), (State::Degraded, vec!["credentials-refused"]));
}

#[test]
fn after_a_sleep_the_upstream_is_asked_at_once_and_told_of_by_name() {
    let mut w = attached();
    assert_eq!(w.state(), State::Healthy);
    says!(woke(&mut w, 8 * 3_600_000), "send #4 g1 ping");
    assert_eq!(w.state(), State::Unknown, "nobody knows what has happened meanwhile");
    assert_eq!(w.spans, [("woke", 8 * 3_600_000)]);
    w.answered(4);
    assert_eq!((w.state(), w.conditions().len()), (State::Healthy, 0));
}

#[test]
fn a_session_that_was_lost_during_the_sleep_is_renewed_before_anybody_calls() {
    let mut w = attached();
    says!(woke(&mut w, 600_000), "send #4 g1 ping");
    says!(w.refused(4, 404, "session not found"), "send #5 g2 initialize");
    says!(w.session(5), "send #6 g2 initialized");
    w.answered(6);
    assert_eq!(w.state(), State::Healthy);
}

#[test]
fn after_a_sleep_a_remote_server_is_left_alone_and_one_that_nobody_uses_too() {
    let mut remote = World::bound_with(Policy { local: false, ..world::policy() });
    remote.attached(1);
    says!(woke(&mut remote, 600_000));
    let mut unused = World::bound();
    says!(woke(&mut unused, 600_000));
    assert_eq!((remote.state(), unused.state()), (State::Unknown, State::Unknown));
}

#[test]
fn a_call_that_waits_has_all_of_its_hold_left_after_a_sleep() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    assert_eq!(w.stays_away(5_000), Vec::<String>::new());
    woke(&mut w, 3_600_000);
    assert_eq!(w.state(), State::Unknown, "it was away, an hour ago");
    assert!(!w.is_over(2));
    let mut lines = w.waits(1_000);
    while !lines.iter().any(|line| line.ends_with("ping")) {
        lines = w.waits(1_000);
    }
    let ping = lines.iter().find_map(|line| world::attempt_of(line)).unwrap();
    let lines = w.answered(ping);
    assert!(lines.iter().any(|line| line.ends_with("exchange 2")), "{lines:?}");
}

#[test]
fn a_question_that_was_out_during_a_sleep_is_not_held_against_the_server() {
    let mut w = attached();
    says!(w.waits(31_000), "send #4 g1 ping");
    woke(&mut w, 600_000);
    // It has as long as it had before.
    says!(w.passes(1_000));
    w.answered(4);
    assert_eq!((w.state(), w.conditions().len()), (State::Healthy, 0));
}

/// A server that is a command: each session is a process.
fn of_a_command() -> World {
    World::bound_with(Policy { process: true, ..world::policy() })
}

#[test]
fn a_process_that_has_ended_is_replaced_without_another_question() {
    let mut w = of_a_command();
    w.call(2);
    // It answered a moment ago, and still nobody else can know its session.
    says!(w.session_ended(3, "`npx` was ended by signal 9"), "send #4 g2 initialize");
    assert!(w.journal.contains(&"lost: `npx` was ended by signal 9".to_owned()), "{:?}", w.journal);
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.answered(5), "forget g1", "send #6 g2 exchange 2");
}

#[test]
fn a_command_that_can_not_be_started_is_named_soon_and_tried_again_while_somebody_waits() {
    let mut w = World::with(Policy { process: true, ..world::policy() });
    w.opened(1, 1);
    w.cut(1, world::cut_of(false, "`npx` is not on `PATH`"));
    assert_eq!((w.state(), w.conditions()), (State::Down, vec!["command-failed"]));
    let mut tries = 0;
    while !w.is_over(1) {
        for line in w.waits(3_000) {
            if let Some(attempt) = world::attempt_of(&line) {
                tries += 1;
                w.cut(attempt, world::cut_of(false, "`npx` is not on `PATH`"));
            } else {
                assert!(
                    ["answer 1 command-failed executed=no", "close 1"].contains(&line.as_str()),
                    "{line}"
                );
            }
        }
    }
    assert!((3..30).contains(&tries) && w.now.0 == 3_000, "{tries} tries, until {:?}", w.now);
}

#[test]
fn a_command_that_ends_under_every_call_is_no_answer_of_a_server() {
    let mut w = of_a_command();
    w.call(2);
    w.session_ended(3, "`npx` exited with status 1");
    w.session(4);
    w.answered(5);
    assert_eq!(w.session_ended(6, "`npx` exited with status 1")[0], "answer 2 command-failed executed=no");
}

#[test]
fn a_stream_that_has_ended_is_replaced_without_another_question_and_no_status_is_told_of_it() {
    let mut w = World::bound();
    w.call(2);
    says!(w.session_ended(3, "the event stream ended"), "send #4 g2 initialize");
    assert!(w.journal.contains(&"lost: the event stream ended".to_owned()), "{:?}", w.journal);
    says!(w.session(4), "send #5 g2 initialized");
    says!(w.answered(5), "forget g1", "send #6 g2 exchange 2");
    // Twice in a row: no server has answered, so there is no status to pass on.
    assert_eq!(w.session_ended(6, "the event stream ended")[0], "answer 2 upstream-down executed=no");
}
