//! What is said of an upstream is what is true of it: troubles that a look at the real program has found.

mod world;

use relatch_core::health::State;
use relatch_core::input::Cut;
use world::{World, attempt_of, cut_of};

const WEB: &str = "<!DOCTYPE HTML>Unsupported method ('POST')";

#[test]
fn a_server_whose_only_answer_is_an_error_to_the_handshake_is_at_no_time_healthy() {
    let mut w = World::new();
    w.opened(1, 1);
    w.error(1, -32603, "no licence");
    assert_eq!((w.state(), w.report().last_success), (State::Unknown, None));
    w.passes(1_999);
    assert_eq!(w.state(), State::Unknown);
    w.passes(1);
    assert_eq!((w.state(), w.conditions()), (State::Degraded, vec!["handshake-refused"]));
}

#[test]
fn a_gateway_that_refuses_the_stream_which_it_had_is_a_reason_to_look_at_once() {
    let mut w = World::bound();
    w.attached(1);
    w.begun(3);
    w.passes(5_000);
    w.cut(3, Cut { resumable: true, ..cut_of(true, "stream ended") });
    says!(w.waits(2_000), "send #4 g1 stream");
    says!(w.refused(4, 502, "<html>Bad Gateway"), "send #5 g1 ping");
    w.refused(5, 502, "<html>Bad Gateway");
    assert_eq!(w.state(), State::Down);
}

#[test]
fn a_gateway_without_a_way_for_streams_is_asked_about_ever_more_rarely_and_stays_healthy() {
    let mut w = World::bound();
    w.attached(1);
    let (mut stream, mut pings) = (3, 0);
    for _ in 0..100 {
        let mut lines = w.refused(stream, 504, "<html>Gateway Timeout");
        while let Some(attempt) =
            lines.iter().find(|line| line.ends_with("ping")).and_then(|line| attempt_of(line))
        {
            pings += 1;
            assert_eq!(w.state(), State::Healthy);
            lines = w.answered(attempt);
        }
        loop {
            let lines = w.waits(60_000);
            assert!(!lines.is_empty());
            if let Some(ping) =
                lines.iter().find(|line| line.ends_with("ping")).and_then(|line| attempt_of(line))
            {
                pings += 1;
                w.answered(ping);
            }
            if let Some(next) =
                lines.iter().find(|line| line.ends_with("stream")).and_then(|line| attempt_of(line))
            {
                stream = next;
                break;
            }
        }
        assert_eq!(w.state(), State::Healthy);
    }
    assert!(pings < 60, "{pings} in {} s", w.now.0 / 1_000);
}

#[test]
fn a_web_server_in_the_servers_place_is_called_so_although_it_says_501() {
    let mut w = World::bound();
    w.passes(11_000);
    w.call(2);
    let mut lines = w.refused(3, 501, WEB);
    while let Some(attempt) = lines.first().and_then(|line| attempt_of(line)) {
        lines = w.refused(attempt, 501, WEB);
    }
    assert_eq!((w.state(), w.conditions()), (State::Down, vec!["endpoint-missing"]));
}

#[test]
fn a_server_that_gives_no_new_session_is_degraded_and_not_recovering_for_ever() {
    let mut w = World::bound();
    w.passes(20_000);
    w.call(2);
    let mut lines = w.refused(3, 404, "Session not found");
    let mut refused = 0;
    while w.now.0 < 25_000 {
        match lines.first().and_then(|line| attempt_of(line)) {
            Some(attempt) => {
                refused += 1;
                lines = w.error(attempt, -32603, "no licence");
            }
            None => lines = w.waits(1_000),
        }
    }
    assert!(refused > 2, "{refused}");
    assert_eq!((w.state(), w.conditions()), (State::Degraded, vec!["handshake-refused"]));
    assert!(w.report().reason.is_some_and(|reason| reason.contains("no licence")));
}
