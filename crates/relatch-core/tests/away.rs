//! Stories of an upstream that is away: what is held, for how long, and what is said at the end.

mod world;

use relatch_core::health::State;
use relatch_core::input::{Cut, CutKind, Refusal, Told};
use relatch_core::policy::Policy;
use relatch_wire::request_id::RequestId;
use world::{World, call, policy, refusal};

#[test]
fn a_call_made_while_connections_are_refused_waits_and_is_answered_after_the_return() {
    let mut w = World::bound();
    says!(w.call(2), "send #3 g1 exchange 2");
    says!(w.no_connection(3), "withdraw #3");
    assert_eq!(w.state(), State::Down);
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.no_connection(4));
    says!(w.waits(400), "send #5 g1 ping");
    // It is back, and has forgotten the session: the handshake goes at once.
    says!(w.refused(5, 404, "Session not found"), "send #6 g2 initialize");
    says!(w.session(6), "send #7 g2 initialized");
    says!(w.answered(7), "forget g1", "send #8 g2 exchange 2");
    says!(w.answered(8), "pass 2 #8");
    assert_eq!(w.state(), State::Healthy);
    assert_eq!(w.journal[1], "away: connection refused");
    assert_eq!(w.journal[2], "held send_mail: connection refused");
}

#[test]
fn a_call_that_comes_while_the_upstream_is_away_makes_relatch_ask_at_once() {
    let mut w = World::bound_with(Policy { local: false, ..policy() });
    w.call(2);
    w.no_connection(3);
    w.passes(1_200);
    w.no_connection(4);
    w.passes(1_500);
    says!(w.call(3), "send #5 g1 ping");
}

#[test]
fn scouting_becomes_rarer_while_requests_wait() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    let mut scouts = 0;
    let end = w.now.plus(20_000);
    while w.now < end {
        if w.waits(end.since(w.now)).iter().any(|l| l.ends_with("ping")) {
            scouts += 1;
            let ping = *w.under_way.keys().last().expect("the ping");
            w.no_connection(ping);
        }
    }
    assert!((18..30).contains(&scouts), "{scouts} in 20 s");
}

#[test]
fn when_the_hold_ends_the_client_hears_that_the_call_did_not_run() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    let mut answer = Vec::new();
    while answer.is_empty() && w.now.0 < 60_000 {
        for line in w.waits(1_000) {
            if line.ends_with("ping") {
                let ping = *w.under_way.keys().last().expect("the ping");
                w.no_connection(ping);
            } else if !line.starts_with("early") {
                answer.push(line);
            } else {
                assert_eq!((line.as_str(), w.now.0), ("early 2", 10_000));
            }
        }
    }
    assert_eq!((answer, w.now.0), (vec!["answer 2 upstream-down executed=no".to_owned()], 45_000));
}

#[test]
fn a_call_cut_after_it_was_written_ends_at_once_and_a_read_is_sent_again() {
    let mut w = World::bound();
    w.call(2);
    w.read(3);
    says!(w.broke(3), "withdraw #3", "answer 2 delivery-unknown executed=unknown");
    says!(w.broke(4), "withdraw #4");
    says!(w.waits(0), "send #5 g1 ping");
    says!(w.answered(5), "send #6 g1 exchange 3 mapped on any");
    assert_eq!(w.report().totals.delivery_unknown, 1);
}

#[test]
fn a_tool_annotated_read_only_is_sent_again_after_a_cut() {
    let mut w = World::bound();
    let hints = vec![("send_mail".to_owned(), true, false)];
    w.on(relatch_core::Input::Hinted { latch: relatch_core::LatchId(1), hints });
    says!(w.call(2), "send #3 g1 exchange 2 on any");
    says!(w.broke(3), "withdraw #3");
    says!(w.waits(0), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 2 mapped on any");
}

#[test]
fn a_call_after_five_idle_seconds_is_preceded_by_a_look() {
    let mut w = World::bound();
    w.passes(5_001);
    says!(w.call(2), "send #3 g1 ping");
    says!(w.call(3));
    says!(w.answered(3), "send #4 g1 exchange 2", "send #5 g1 exchange 3");
    assert_eq!(w.report().totals.held, 0);
}

#[test]
fn a_look_goes_by_the_connection_that_was_idle_and_the_call_by_one_that_is_young() {
    use relatch_core::effect::{Connection, Effect, What};
    use relatch_core::input::{Answer, Input};
    use relatch_core::{ExId, LatchId};
    let mut w = World::bound();
    w.passes(5_001);
    let mut sent = Vec::new();
    let mut say = |w: &mut World, input: Input<'_>| {
        let mut effects = Vec::new();
        w.machine.on(w.now, input, &mut effects);
        let sends = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send(send) => Some(send),
            _ => None,
        });
        sent.extend(sends);
        sent.last().map(|send| send.attempt)
    };
    let asked = Input::Asked { latch: LatchId(1), ex: ExId(2), ask: call(2, "send_mail") };
    let Some(look) = say(&mut w, asked) else { panic!("nothing is sent") };
    say(&mut w, Input::Answered { attempt: look, answer: Answer::Result });
    let went: Vec<_> = sent.iter().map(|send| (send.what == What::Ping, send.connection)).collect();
    assert_eq!(went, [(true, Connection::Any), (false, Connection::Young)]);
}

#[test]
fn a_read_needs_no_look() {
    let mut w = World::bound();
    w.passes(60_000);
    says!(w.read(2), "send #3 g1 exchange 2 on any");
}

#[test]
fn a_look_that_is_cut_holds_the_call() {
    let mut w = World::bound();
    w.passes(6_000);
    w.call(2);
    says!(w.broke(3));
    says!(w.waits(0), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 2");
}

#[test]
fn a_look_without_an_answer_lets_the_call_go_after_a_second() {
    let mut w = World::bound();
    w.passes(6_000);
    w.call(2);
    says!(w.passes(999));
    says!(w.passes(1), "abort #3", "send #4 g1 exchange 2");
}

#[test]
fn a_look_that_meets_a_gateway_error_holds_the_call() {
    let mut w = World::bound();
    w.passes(6_000);
    w.call(2);
    says!(w.refused(3, 502, "<html>Bad Gateway</html>"));
    says!(w.waits(200), "send #4 g1 ping");
    says!(w.answered(4), "send #5 g1 exchange 2");
}

#[test]
fn a_look_is_given_up_with_its_session() {
    let mut w = World::bound();
    w.passes(6_000);
    w.call(2);
    says!(w.ended(1), "answer 2 session-ended executed=no", "abort #3", "send #4 g1 delete", "close 1");
    w.opened(2, 10);
    w.session(5);
    w.initialized(2, 10);
    w.answered(6);
    says!(w.asks(2, 11, call(11, "x")), "send #7 L2 g1 exchange 11");
}

#[test]
fn the_first_502_of_a_call_is_unknown_and_later_calls_wait() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 502, "Bad Gateway"), "answer 2 delivery-unknown executed=unknown");
    says!(w.call(3), "send #4 g1 ping");
    says!(w.refused(4, 502, "Bad Gateway"));
    says!(w.waits(400), "send #5 g1 ping");
    says!(w.answered(5), "send #6 g1 exchange 3");
}

#[test]
fn gateway_errors_declared_as_refusals_hold_the_call() {
    let mut w = World::bound_with(Policy { gateway_errors_refused: true, ..policy() });
    for (ex, status) in [(2, 502), (3, 503), (4, 504)] {
        w.call(ex);
        let sent = *w.under_way.keys().last().expect("the call");
        says!(w.refused(sent, status, "no backend"));
        let ping = format!("send #{} g1 ping", sent + 1);
        says!(w.waits(200), ping.as_str());
        w.answered(sent + 1);
        w.answered(sent + 2);
        assert!(w.is_over(ex));
    }
    assert_eq!(w.report().totals.delivery_unknown, 0);
}

#[test]
fn cancelling_a_waiting_call_answers_it_and_sends_nothing() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    says!(
        w.tell(1, 5, Told::Cancelled(RequestId::number(2))),
        "drop note 5",
        "answer 2 cancelled executed=no",
    );
}

#[test]
fn a_waiting_call_whose_client_leaves_is_never_sent() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    says!(w.left(2));
    says!(w.waits(400), "send #4 g1 ping");
    says!(w.answered(4));
}

#[test]
fn a_server_that_is_not_there_yet_holds_initialize_for_twenty_seconds() {
    let mut w = World::new();
    says!(w.opened(1, 1), "send #1 g1 initialize of 1");
    says!(w.no_connection(1));
    let mut last = Vec::new();
    while w.now.0 < 30_000 && last.is_empty() {
        for line in w.waits(1_000) {
            if line.contains("initialize of") {
                let attempt = *w.under_way.keys().last().expect("the handshake");
                w.no_connection(attempt);
            } else {
                last.push(line);
            }
        }
    }
    assert_eq!(last, ["answer 1 upstream-down executed=no", "close 1"].map(str::to_owned));
    assert_eq!(w.now.0, 20_000);
}

#[test]
fn a_client_that_wants_no_hold_has_its_handshake_all_the_same() {
    let mut w = World::with(Policy { hold_ms: 0, ..policy() });
    w.opened(1, 1);
    says!(w.passes(4_000));
    says!(w.session(1), "pass 1 #1");
    // Where nobody listens, it is told so at once.
    let mut w = World::with(Policy { hold_ms: 0, ..policy() });
    w.opened(1, 1);
    w.no_connection(1);
    assert_eq!(w.passes(0)[0], "answer 1 upstream-down executed=no");
    // And one that never answers is given up.
    let mut w = World::with(Policy { hold_ms: 0, ..policy() });
    w.opened(1, 1);
    let lines = w.passes(5_000);
    assert!(lines.contains(&"answer 1 upstream-down executed=no".to_owned()), "{lines:?}");
}

#[test]
fn a_server_that_starts_late_answers_the_held_initialize() {
    let mut w = World::new();
    w.opened(1, 1);
    w.no_connection(1);
    says!(w.waits(200), "send #2 g2 initialize of 1");
    says!(w.session(2), "pass 1 #2");
    assert_eq!(w.report().totals.held, 1);
}

#[test]
fn a_url_that_never_spoke_mcp_is_named_wrong_after_three_seconds() {
    let mut w = World::new();
    w.opened(1, 1);
    w.refused(1, 404, "<html>nginx</html>");
    let mut last = Vec::new();
    while w.now.0 < 10_000 && last.is_empty() {
        for line in w.waits(1_000) {
            if line.contains("initialize of") {
                let attempt = *w.under_way.keys().last().expect("the handshake");
                w.refused(attempt, 404, "<html>nginx</html>");
            } else {
                last.push(line);
            }
        }
    }
    assert_eq!(last, ["answer 1 endpoint-missing executed=no", "close 1"].map(str::to_owned));
    assert_eq!(w.now.0, 3_000);
}

#[test]
fn a_server_that_accepts_and_never_answers_initialize_is_given_up_after_twenty_seconds() {
    let mut w = World::new();
    w.opened(1, 1);
    let lines = w.waits(30_000);
    assert_eq!(lines, ["abort #1", "answer 1 upstream-down executed=no", "close 1"]);
    assert_eq!(w.now.0, 20_000);
}

#[test]
fn retry_after_is_honoured_within_the_hold() {
    let mut w = World::bound();
    w.call(2);
    let later = Refusal { retry_after: Some(3_000), ..refusal(429, "slow down") };
    says!(w.refused_with(3, later));
    says!(w.passes(2_999));
    says!(w.passes(1), "send #4 g1 exchange 2 mapped");
}

#[test]
fn retry_after_beyond_the_hold_is_passed_on_at_once() {
    let mut w = World::bound();
    w.call(2);
    let later = Refusal { retry_after: Some(120_000), ..refusal(503, "maintenance") };
    says!(w.refused_with(3, later), "pass-refusal 2 #3 executed=no");
}

#[test]
fn an_upstream_that_asks_to_be_left_alone_is_left_alone() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    let later = Refusal { retry_after: Some(10_000), ..refusal(503, "starting") };
    says!(w.refused_with(4, later));
    says!(w.call(3));
    says!(w.passes(9_000).into_iter().filter(|l| l.starts_with("send")).collect());
    assert_eq!(w.passes(1_000).last().map(String::as_str), Some("send #5 g1 ping"));
}

#[test]
fn who_cannot_wait_as_long_as_the_upstream_asks_is_told_at_once() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    w.refused(3, 404, "gone");
    let later = Refusal { retry_after: Some(600_000), ..refusal(503, "maintenance") };
    says!(w.refused_with(4, later), "answer 2 upstream-busy executed=no retry-after=600000");
    says!(w.call(3), "answer 3 upstream-busy executed=no retry-after=600000");
    // Who can just wait so long waits.
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    w.refused(3, 404, "gone");
    let later = Refusal { retry_after: Some(45_000), ..refusal(503, "maintenance") };
    says!(w.refused_with(4, later));
}

#[test]
fn a_rejected_certificate_is_told_at_once() {
    let mut w = World::bound();
    w.call(2);
    let tls = Cut {
        wrote: false,
        kind: CutKind::Tls,
        cause: "certificate expired".to_owned(),
        resumable: false,
        retry: None,
    };
    says!(w.cut(3, tls), "withdraw #3", "answer 2 certificate-refused executed=no");
}

#[test]
fn an_unknown_host_is_told_at_once_to_whoever_waits() {
    let mut w = World::bound();
    w.passes(20_000);
    w.call(2);
    w.read(3);
    let unknown = Cut {
        wrote: false,
        kind: CutKind::UnknownHost,
        cause: "no such host".to_owned(),
        resumable: false,
        retry: None,
    };
    says!(w.cut(3, unknown.clone()), "answer 2 unknown-host executed=no");
    assert!(!w.is_over(3));
}

#[test]
fn too_many_waiting_calls_of_one_session_are_turned_away() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    for ex in 3..66 {
        w.call(ex);
    }
    assert_eq!(w.report().waiting, 64);
    let lines = w.call(66);
    assert_eq!(lines, ["answer 66 hold-full executed=no"]);
}

#[test]
fn too_many_waiting_calls_of_one_upstream_are_turned_away() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    for latch in 2..=20 {
        w.opened(latch, 10_000 + latch);
        for n in 0..60 {
            let ex = latch * 100 + n;
            w.asks(latch, ex, call(ex as i64, "x"));
        }
    }
    assert_eq!(w.report().waiting, 1_000);
}

#[test]
fn notes_told_while_the_upstream_is_away_are_taken_at_once_and_go_out_once_in_order() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    says!(w.tell(1, 7, Told::Other), "accept note 7");
    says!(w.tell(1, 8, Told::Other), "accept note 8");
    w.waits(200);
    says!(w.answered(4), "send #5 g1 note 7", "send #6 g1 exchange 2");
    says!(w.answered(5), "drop note 7", "send #7 g1 note 8");
    says!(w.answered(7), "drop note 8");
}

#[test]
fn notes_that_wait_behind_another_are_taken_when_the_upstream_goes_away() {
    let mut w = World::bound();
    says!(w.tell(1, 7, Told::Other), "send #3 g1 note 7");
    says!(w.tell(1, 8, Told::Other));
    says!(w.no_connection(3), "accept note 7", "accept note 8");
}

#[test]
fn a_stream_cut_in_the_middle_is_resumed_where_it_broke() {
    let mut w = World::bound();
    w.call(2);
    says!(w.begun(3), "flow 2 #3");
    let cut = Cut { resumable: true, retry: Some(500), ..world::cut_of(true, "closed") };
    says!(w.cut(3, cut));
    says!(w.passes(499));
    says!(w.passes(1), "send #4 g1 resume #3");
    says!(w.begun(4));
    says!(w.answered(3), "pass 2 #3");
    says!(w.answered(4));
    assert!(w.kept().is_empty());
}

#[test]
fn streams_that_are_cut_together_are_all_resumed() {
    let mut w = World::bound();
    w.call(2);
    w.call(3);
    w.begun(3);
    w.begun(4);
    w.attached(1);
    w.begun(5);
    w.broke(5);
    let cut = Cut { resumable: true, ..world::cut_of(true, "closed") };
    w.cut(3, cut.clone());
    w.cut(4, cut);
    says!(w.waits(0), "send #6 g1 ping");
    w.answered(6);
    let lines = w.passes(1_000);
    assert!(lines.contains(&"send #7 g1 resume #3".to_owned()), "{lines:?}");
    assert!(lines.contains(&"send #8 g1 resume #4".to_owned()), "{lines:?}");
}

#[test]
fn a_stream_whose_server_is_gone_ends_at_once() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    let cut = Cut { resumable: true, ..world::cut_of(true, "closed") };
    w.cut(3, cut);
    says!(w.passes(1_000), "send #4 g1 resume #3");
    let refused = Cut { resumable: true, ..world::cut_of(false, "connection refused") };
    says!(w.cut(4, refused), "withdraw #3", "answer 2 delivery-unknown executed=unknown");
}

#[test]
fn a_stream_without_event_ids_ends_at_once() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    says!(w.broke(3), "withdraw #3", "answer 2 delivery-unknown executed=unknown");
}

#[test]
fn a_server_that_does_not_answer_the_resumption_is_given_up_after_five_seconds() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    w.cut(3, Cut { resumable: true, ..world::cut_of(true, "closed") });
    w.passes(1_000);
    says!(
        w.passes(5_000).into_iter().filter(|l| !l.ends_with("ping")).collect(),
        "abort #4",
        "withdraw #3",
        "answer 2 delivery-unknown executed=unknown",
    );
}

/// A server that has thrown the answer away opens each stream that is asked for and ends it, and would do so for ever.
#[test]
fn a_server_that_has_nothing_more_to_say_is_not_asked_for_the_rest_for_ever() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    let cut = || Cut { resumable: true, retry: Some(3_000), ..world::cut_of(true, "closed") };
    w.cut(3, cut());
    let mut asked = Vec::new();
    for _ in 0..20 {
        for line in w.passes(3_000) {
            let Some(attempt) = line.strip_suffix(" g1 resume #3").and_then(|l| l.strip_prefix("send #"))
            else {
                continue;
            };
            let attempt = attempt.parse().unwrap();
            asked.push(attempt);
            w.begun(attempt);
            let lines = w.cut(attempt, cut());
            if w.is_over(2) {
                assert_eq!(asked.len(), 3, "{lines:?}");
                assert!(
                    lines.contains(&"answer 2 delivery-unknown executed=unknown".to_owned()),
                    "{lines:?}"
                );
                return;
            }
        }
    }
    panic!("the call still waits, after {} streams without a word", asked.len());
}

/// Polling streams (2025-11-25): the server closes on purpose, again and again, and each time there is something new.
#[test]
fn a_stream_that_goes_on_in_pieces_is_followed_to_its_answer() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    let cut = || Cut { resumable: true, retry: Some(1_000), ..world::cut_of(true, "closed") };
    w.cut(3, cut());
    for _ in 0..20 {
        let lines = w.passes(1_000);
        let attempt = lines
            .iter()
            .find_map(|l| l.strip_suffix(" g1 resume #3")?.strip_prefix("send #")?.parse().ok())
            .unwrap_or_else(|| panic!("not resumed: {lines:?}"));
        w.begun(attempt);
        w.news(attempt);
        w.cut(attempt, cut());
        assert!(!w.is_over(2));
    }
}

#[test]
fn a_session_that_does_not_answer_when_its_endpoint_is_back_gets_its_delete() {
    let mut w = World::bound();
    w.passes(11_000);
    w.call(2);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    // Somebody else answers at the address, so the session may live.
    w.refused(4, 404, "<html>nginx</html>");
    says!(w.waits(1_000), "send #5 g1 ping");
    says!(w.waits(2_000), "abort #5", "send #6 g3 initialize");
    says!(w.session(6), "send #7 g3 initialized");
    says!(w.answered(7), "send #8 g1 delete", "send #9 g3 exchange 2");
}

#[test]
fn who_refuses_credentials_is_there() {
    let mut w = World::new();
    w.opened(1, 1);
    w.no_connection(1);
    assert_eq!(w.state(), State::Down);
    says!(w.waits(1_000), "send #2 g2 initialize of 1");
    w.refused_with(2, relatch_core::input::Refusal { challenge: true, ..world::refusal(401, "") });
    assert_ne!(w.state(), State::Down);
    assert_eq!(w.conditions(), ["credentials-refused"]);
}

#[test]
fn the_rest_of_a_cancelled_call_is_not_waited_for() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    w.cut(3, Cut { resumable: true, ..world::cut_of(true, "closed") });
    says!(w.waits(2_000), "send #4 g1 resume #3");
    w.begun(4);
    says!(
        w.tell(1, 9, relatch_core::input::Told::Cancelled(relatch_wire::request_id::RequestId::number(2))),
        "send #5 g1 note 9"
    );
    w.answered(5);
    w.passes(25_000);
    assert!(w.is_over(2));
    assert!(!w.under_way.contains_key(&4), "the resumed stream is still read");
}

#[test]
fn a_cancelled_call_that_is_over_is_not_given_up_once_more() {
    let mut w = World::bound();
    w.call(2);
    w.begun(3);
    w.cut(3, Cut { resumable: true, ..world::cut_of(true, "closed") });
    says!(w.waits(2_000), "send #4 g1 resume #3");
    let request = relatch_wire::request_id::RequestId::number(2);
    says!(w.tell(1, 9, relatch_core::input::Told::Cancelled(request)), "send #5 g1 note 9");
    w.answered(5);
    // The rest of its stream breaks too, and that is the end of it.
    says!(w.broke(4), "withdraw #3", "answer 2 cancelled executed=unknown");
    let lines = w.passes(60_000);
    assert!(!lines.iter().any(|line| line.starts_with("abort #3")), "{lines:?}");
}

/// Whatever ends the wait of a read that was cut once: its server may have run it.
#[test]
fn a_read_that_may_have_run_is_never_said_not_to_have() {
    type Ending = fn(&mut World) -> Vec<String>;
    let endings: [(Ending, &str); 12] = [
        (
            |w| {
                assert_eq!(w.stays_away(60_000), ["early 2"]);
                w.stays_away(60_000)
            },
            "upstream-down executed=unknown",
        ),
        (|w| w.ended(1), "session-ended executed=unknown"),
        (
            |w| {
                w.waits(0);
                let mut lines = w.refused(4, 404, "gone");
                while !w.is_over(2) {
                    if let Some(attempt) = lines.iter().find_map(|line| world::attempt_of(line)) {
                        w.refused(attempt, 404, "<html>nginx</html>");
                    }
                    lines = w.waits(60_000);
                }
                lines
            },
            "endpoint-missing executed=unknown",
        ),
        (|w| w.tell(1, 5, Told::Cancelled(RequestId::number(2))), "cancelled executed=unknown"),
        (
            |w| {
                // It goes out again and its connection is refused, which says nothing of the first time.
                w.waits(0);
                w.answered(4);
                w.tell(1, 5, Told::Cancelled(RequestId::number(2)));
                w.no_connection(5)
            },
            "cancelled executed=unknown",
        ),
        (
            |w| {
                w.waits(0);
                w.answered(4);
                w.tell(1, 5, Told::Cancelled(RequestId::number(2)));
                w.refused(5, 404, "gone")
            },
            "cancelled executed=unknown",
        ),
        (
            |w| {
                w.waits(0);
                w.refused(4, 404, "gone");
                // Each new session is refused before it is bound.
                for handshake in [5, 7] {
                    w.session(handshake);
                    w.refused(handshake + 1, 404, "gone");
                }
                w.session(9);
                w.refused(10, 404, "gone")
            },
            "session-flapping executed=unknown",
        ),
        (
            |w| {
                w.waits(0);
                let mut lines = w.refused(4, 404, "gone");
                while let Some(handshake) = lines.last().and_then(|line| world::attempt_of(line)) {
                    w.refused(handshake, 400, "no");
                    lines = w.waits(60_000);
                    if lines.iter().any(|line| line.starts_with("early")) {
                        lines = w.waits(60_000);
                    }
                }
                lines
            },
            "handshake-refused executed=unknown",
        ),
        (
            |w| {
                w.waits(0);
                w.cut(4, Cut { kind: CutKind::UnknownHost, ..world::cut_of(false, "no such host") })
            },
            "unknown-host executed=unknown",
        ),
        (
            |w| {
                w.waits(0);
                w.cut(4, Cut { kind: CutKind::Tls, ..world::cut_of(false, "expired") })
            },
            "certificate-refused executed=unknown",
        ),
        (
            |w| {
                w.waits(0);
                w.refused_with(4, Refusal { retry_after: Some(600_000), ..refusal(503, "") })
            },
            "upstream-busy executed=unknown retry-after=600000",
        ),
        (
            |w| {
                w.waits(0);
                w.refused(4, 404, "gone");
                w.refused(5, 302, "")
            },
            "redirected executed=unknown",
        ),
    ];
    for (ending, expected) in endings {
        let mut w = World::bound();
        w.read(2);
        says!(w.broke(3), "withdraw #3");
        let lines = ending(&mut w);
        assert!(lines.contains(&format!("answer 2 {expected}")), "{expected}: {lines:?}");
    }
}

#[test]
fn a_refusal_of_a_read_that_was_cut_before_does_not_say_that_it_never_ran() {
    let mut w = World::bound();
    w.read(2);
    w.broke(3);
    w.waits(0);
    says!(w.answered(4), "send #5 g1 exchange 2 mapped on any");
    says!(w.refused(5, 413, "too large"), "pass-refusal 2 #5 executed=unknown");
}

#[test]
fn a_read_that_is_out_when_its_session_ends_may_have_run() {
    let mut w = World::bound();
    w.read(2);
    says!(w.ended(1), "answer 2 session-ended executed=unknown", "abort #3", "send #4 g1 delete", "close 1");
}

#[test]
fn a_refused_read_that_waits_for_a_new_session_did_not_run() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    says!(w.ended(1), "forget g1", "answer 2 session-ended executed=no", "close 1");
}

#[test]
fn a_refused_read_whose_hold_ends_did_not_run() {
    let mut w = World::bound();
    w.passes(20_000);
    w.read(2);
    says!(w.refused(3, 404, "gone"), "send #4 g2 initialize");
    w.no_connection(4);
    let mut lines = Vec::new();
    while lines.is_empty() {
        lines = w.waits(60_000);
        if let Some(handshake) = world::attempt_of(&lines[0]) {
            w.no_connection(handshake);
            lines.clear();
        } else if lines == ["early 2"] {
            lines.clear();
        }
    }
    assert_eq!(lines, ["answer 2 upstream-down executed=no"]);
}

#[test]
fn a_call_that_waits_again_after_it_was_sent_has_a_hold_of_its_own() {
    let mut w = World::bound();
    w.read(2);
    w.no_connection(3);
    w.waits(200);
    w.answered(4);
    w.passes(30_000);
    w.broke(5);
    let broke = w.now.0;
    while !w.is_over(2) {
        w.stays_away(60_000);
    }
    assert_eq!(w.now.0 - broke, 45_000);
}

#[test]
fn who_waits_for_ten_seconds_gets_a_first_byte_once() {
    let mut w = World::bound();
    w.passes(1_000);
    w.call(2);
    w.no_connection(3);
    let mut early = Vec::new();
    while !w.is_over(2) {
        let lines = w.stays_away(60_000);
        early.extend(lines.iter().any(|line| line == "early 2").then_some(w.now.0));
    }
    assert_eq!(early, [11_000]);
}

#[test]
fn a_page_in_place_of_an_answer_does_not_say_that_the_call_did_not_run() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 200, "<html>Sign in</html>"), "answer 2 answer-broken executed=unknown");
    // Without a session id a 404 says that the server is not there, so the call waits.
    let mut w = World::new();
    w.opened(1, 1);
    w.session_of(1, relatch_core::input::SessionFacts { has_id: false, ..world::session_facts() });
    w.initialized(1, 1);
    w.answered(2);
    w.call(2);
    says!(w.refused(3, 404, "<html>nginx</html>"));
    assert_eq!(w.state(), State::Down);
}

#[test]
fn a_scout_that_wants_other_credentials_lets_the_call_go_with_its_own() {
    let mut w = World::bound();
    w.call(2);
    w.no_connection(3);
    w.waits(200);
    says!(w.refused_with(4, Refusal { challenge: true, ..refusal(401, "") }), "send #5 g1 ping");
    says!(w.answered(5), "send #6 g1 exchange 2");
}

#[test]
fn a_busy_server_that_names_no_time_is_asked_again_after_ever_longer_pauses() {
    let mut w = World::bound();
    w.call(2);
    says!(w.refused(3, 429, "slow down"));
    says!(w.passes(1_999));
    says!(w.passes(1), "send #4 g1 exchange 2 mapped");
    says!(w.refused(4, 429, "slow down"));
    says!(w.passes(3_999));
    says!(w.passes(1), "send #5 g1 exchange 2 mapped");
}

#[test]
fn a_pause_as_long_as_the_hold_is_too_long() {
    for (pause, waits) in [(44_999, true), (45_000, false)] {
        let mut w = World::bound();
        w.call(2);
        let lines = w.refused_with(3, Refusal { retry_after: Some(pause), ..refusal(429, "") });
        assert_eq!(lines.is_empty(), waits, "{lines:?}");
    }
}

#[test]
fn a_call_that_is_put_off_again_and_again_is_sent_six_times() {
    let mut w = World::bound();
    w.call(2);
    for attempt in 3..8 {
        says!(w.refused_with(attempt, Refusal { retry_after: Some(1), ..refusal(429, "") }));
        assert_eq!(w.passes(1), [format!("send #{} g1 exchange 2 mapped", attempt + 1)]);
    }
    let later = Refusal { retry_after: Some(1), ..refusal(429, "") };
    says!(w.refused_with(8, later), "pass-refusal 2 #8 executed=no");
}

#[test]
fn a_read_whose_connection_always_breaks_is_sent_six_times() {
    let mut w = World::bound();
    w.read(2);
    let mut sent = 1;
    let mut lines = w.broke(3);
    while !w.is_over(2) {
        lines = w.waits(1_000);
        let ping = world::attempt_of(&lines[0]).expect("a scout");
        w.answered(ping);
        sent += 1;
        lines = w.broke(ping + 1);
    }
    assert_eq!(sent, 6);
    assert_eq!(lines.last().map(String::as_str), Some("answer 2 upstream-down executed=unknown"));
}

#[test]
fn a_stream_is_resumed_only_when_its_server_wants_it_soon() {
    for (retry, resumes) in [(5_000, true), (5_001, false), (9_000, false)] {
        let mut w = World::bound();
        w.call(2);
        w.begun(3);
        w.cut(3, Cut { resumable: true, retry: Some(retry), ..world::cut_of(true, "closed") });
        assert_eq!(w.is_over(2), !resumes, "{retry}");
    }
}

#[test]
fn a_gateway_in_front_of_a_remote_server_is_remembered_for_a_day() {
    for (hours, first) in [(23, "send #6 g1 ping"), (25, "send #6 g1 exchange 4")] {
        let mut w = World::bound_with(Policy { local: false, ..policy() });
        w.call(2);
        says!(w.refused(3, 502, ""), "answer 2 delivery-unknown executed=unknown");
        w.read(3);
        w.answered(4);
        w.answered(5);
        w.passes(hours * 3_600_000);
        says!(w.call(4), first);
    }
}
