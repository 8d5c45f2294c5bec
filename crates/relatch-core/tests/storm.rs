//! A server comes back and meets all its sessions at once: how much is sent to it at a time, and for whom first.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use relatch_core::effect::{Effect, Send, What};
use relatch_core::input::{Answer, Input, Listed, Told};
use relatch_core::policy;
use relatch_core::upstream::Machine;
use relatch_core::{At, AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::method;
use world::{World, call, cut_of, refusal, session_facts};

const GONE: &str = "Session not found";
/// The server answers whatever comes after so long.
const ANSWERS_MS: u64 = 2;

/// A server with many sessions, its machine, and what came of each request.
struct Storm {
    machine: Machine,
    now: At,
    there: bool,
    /// Sessions that the server knows.
    known: BTreeSet<(LatchId, Gen)>,
    flights: BTreeMap<AttemptId, Send>,
    coming: BTreeMap<(At, AttemptId), ()>,
    streams: BTreeSet<AttemptId>,
    handshakes: Vec<LatchId>,
    /// At most so many `initialize` and `ping` were with the server at once.
    peak_handshakes: usize,
    peak_permits: usize,
    sent: BTreeMap<&'static str, usize>,
    passed: Vec<ExId>,
    given_back: Vec<ExId>,
    numbers: u64,
}

impl Storm {
    fn new() -> Storm {
        Storm {
            machine: Machine::new(world::policy(), At(0), 7),
            now: At(0),
            there: true,
            known: BTreeSet::new(),
            flights: BTreeMap::new(),
            coming: BTreeMap::new(),
            streams: BTreeSet::new(),
            handshakes: Vec::new(),
            peak_handshakes: 0,
            peak_permits: 0,
            sent: BTreeMap::new(),
            passed: Vec::new(),
            given_back: Vec::new(),
            numbers: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn on(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        self.machine.on(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(send) => self.take(send),
                Effect::Abort { attempt } => {
                    self.flights.remove(&attempt);
                    self.streams.remove(&attempt);
                    self.coming.retain(|(_, a), ()| *a != attempt);
                }
                Effect::Pass { ex, .. } => self.passed.push(ex),
                Effect::Answer { ex, .. } | Effect::PassRefusal { ex, .. } | Effect::Challenge { ex, .. } => {
                    self.given_back.push(ex)
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, send: Send) {
        *self.sent.entry(words(&send.what)).or_default() += 1;
        if matches!(send.what, What::Initialize { ex: None }) {
            self.handshakes.push(send.latch);
        }
        self.coming.insert((self.now.plus(ANSWERS_MS), send.attempt), ());
        self.flights.insert(send.attempt, send);
        let under_way = |what: fn(&What) -> bool| self.flights.values().filter(|s| what(&s.what)).count();
        let handshakes = under_way(|what| matches!(what, What::Initialize { ex: None }));
        let questions = under_way(|what| matches!(what, What::Ping));
        self.peak_handshakes = self.peak_handshakes.max(handshakes);
        self.peak_permits = self.peak_permits.max(handshakes + questions);
    }

    fn answer(&mut self, attempt: AttemptId) {
        let Some(send) = self.flights.get(&attempt).cloned() else { return };
        if matches!(send.what, What::Stream)
            && self.there
            && self.known.contains(&(send.latch, send.generation))
        {
            self.streams.insert(attempt);
            self.on(Input::Begun { attempt, begun: relatch_core::input::Begun::Stream });
            return;
        }
        self.flights.remove(&attempt);
        if !self.there {
            self.on(Input::Cut { attempt, cut: cut_of(false, "connection refused") });
        } else if let What::Initialize { .. } = send.what {
            self.known.insert((send.latch, send.generation));
            self.on(Input::Session { attempt, session: session_facts() });
        } else if !self.known.contains(&(send.latch, send.generation)) {
            self.on(Input::Refused { attempt, refusal: refusal(404, GONE) });
        } else if let What::List { .. } = send.what {
            self.on(Input::Listed { attempt, listed: Listed::Same });
        } else {
            self.on(Input::Answered { attempt, answer: Answer::Result });
        }
    }

    /// Time passes; the server answers and deadlines are served as they come.
    fn passes(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        for _ in 0..1_000_000 {
            let answer = self.coming.first_key_value().map(|(key, ())| *key).filter(|(at, _)| *at <= end);
            let due = self.machine.deadline().map(|d| d.at).filter(|at| *at <= end);
            match (answer, due) {
                (Some((at, attempt)), due) if due.is_none_or(|due| at <= due) => {
                    self.now = self.now.max(at);
                    self.coming.remove(&(at, attempt));
                    self.answer(attempt);
                }
                (_, Some(due)) => {
                    self.now = self.now.max(due);
                    self.on(Input::Tick);
                }
                (Some(_) | None, None) => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("time does not pass");
    }

    fn opens(&mut self, latch: u64, attached: bool) {
        let id = LatchId(latch);
        let ex = ExId(self.number());
        self.on(Input::Opened { latch: id, ex, ask: world::ask(1, method::INITIALIZE), client: None });
        self.passes(ANSWERS_MS);
        let note = NoteId(self.number());
        self.on(Input::Told { latch: id, note, told: Told::Initialized });
        if attached {
            self.on(Input::Attached { latch: id });
        }
        let ex = ExId(self.number());
        self.on(Input::Asked { latch: id, ex, ask: world::ask(2, method::TOOLS_LIST) });
        self.passes(ANSWERS_MS * 3);
    }

    fn calls(&mut self, latch: u64) -> ExId {
        let ex = ExId(self.number());
        self.on(Input::Asked { latch: LatchId(latch), ex, ask: call(3, "send_mail") });
        ex
    }

    /// The process is killed: it forgets its sessions, streams break, connections are refused.
    fn dies(&mut self) {
        self.there = false;
        self.known.clear();
        for attempt in std::mem::take(&mut self.streams) {
            self.flights.remove(&attempt);
            self.on(Input::Cut { attempt, cut: cut_of(true, "connection reset") });
        }
    }

    fn bound_anew(&self, latch: u64) -> bool {
        let id = LatchId(latch);
        let bound = self.machine.snapshot(id).and_then(|s| s.bound);
        bound.is_some_and(|generation| self.known.contains(&(id, generation)))
    }
}

fn words(what: &What) -> &'static str {
    match what {
        What::Exchange { .. } => "exchange",
        What::Initialize { .. } => "initialize",
        What::Initialized => "initialized",
        What::Ping => "ping",
        What::SetLevel(_) | What::Subscribe(_) => "replay",
        What::List { .. } => "list",
        What::Note(_) => "note",
        What::Stream | What::Resume { .. } => "stream",
        What::Delete => "delete",
    }
}

/// A thousand sessions, every fifth with a call that waits when the server is back.
fn a_thousand_recover(attached: bool) -> Storm {
    const SESSIONS: u64 = 1_000;
    let mut storm = Storm::new();
    for latch in 1..=SESSIONS {
        storm.opens(latch, attached);
    }
    assert!((1..=SESSIONS).all(|latch| storm.bound_anew(latch)), "all are open");
    storm.passes(20_000);
    storm.dies();
    // The youngest latch calls first.
    let callers: Vec<(ExId, u64)> =
        (1..=SESSIONS).rev().filter(|n| n % 5 == 0).map(|latch| (storm.calls(latch), latch)).collect();
    storm.passes(3_000);
    assert!(callers.iter().all(|(ex, _)| !storm.passed.contains(ex) && !storm.given_back.contains(ex)));
    (storm.handshakes, storm.sent, storm.peak_handshakes, storm.peak_permits) = Default::default();
    storm.there = true;
    storm.passes(10_000);

    for latch in 1..=SESSIONS {
        assert!(storm.bound_anew(latch), "{latch} is not bound anew");
    }
    let called: BTreeSet<ExId> = callers.iter().map(|(ex, _)| *ex).collect();
    assert_eq!(storm.passed.iter().filter(|ex| called.contains(ex)).count(), called.len());
    assert_eq!(storm.given_back, []);
    assert_eq!(storm.handshakes.len(), SESSIONS as usize, "one handshake for each");
    assert!(storm.peak_handshakes <= policy::PERMITS, "{} at once", storm.peak_handshakes);

    // Whoever waits goes first, the longest wait at the head: but for those who had a permit before all had
    // been refused.
    let waits: BTreeMap<LatchId, ExId> = callers.iter().map(|(ex, latch)| (LatchId(*latch), *ex)).collect();
    let (first, rest) = storm.handshakes.split_at(callers.len() + policy::PERMITS);
    assert!(rest.iter().all(|latch| !waits.contains_key(latch)), "somebody who waited came last");
    let order: Vec<ExId> =
        first.iter().skip(2 * policy::PERMITS).filter_map(|latch| waits.get(latch)).copied().collect();
    assert!(order.is_sorted(), "{order:?}");
    storm
}

#[test]
fn a_thousand_attached_sessions_recover_a_few_at_a_time_and_those_with_waiting_calls_first() {
    let storm = a_thousand_recover(true);
    // Each session without a call is asked once, and nothing else is sent to it before that.
    assert!(storm.sent["ping"] <= 1_000, "{:?}", storm.sent);
    assert!(storm.sent["stream"] <= 1_000 + 200, "{:?}", storm.sent);
    assert!(storm.sent["list"] <= 1_000 + 200, "{:?}", storm.sent);
    assert!(storm.peak_permits <= policy::PERMITS, "{} at once", storm.peak_permits);
}

#[test]
fn a_thousand_sessions_without_streams_recover_a_few_at_a_time_and_those_with_waiting_calls_first() {
    let storm = a_thousand_recover(false);
    assert!(storm.peak_permits <= policy::PERMITS, "{} at once", storm.peak_permits);
}

/// Latches 1 to `latches`, each with a session; nobody has a stream open.
fn many(latches: u64) -> World {
    let mut w = World::new();
    for latch in 1..=latches {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    w.passes(20_000);
    w
}

#[test]
fn a_call_takes_its_latch_to_the_head_of_the_line() {
    let mut w = many(12);
    w.on(Input::Reconnect { latch: None });
    assert_eq!(w.under_way.len(), policy::PERMITS);
    let first = *w.under_way.keys().next().expect("a handshake");
    says!(w.asks(12, 50, call(50, "send_mail")));
    says!(w.session(first), "send #33 g2 initialized", "send #34 L12 g2 initialize");
}

#[test]
fn an_attached_client_goes_before_one_that_is_merely_remembered() {
    let mut w = many(12);
    w.on(Input::Reconnect { latch: None });
    w.attached(11);
    let first = *w.under_way.keys().next().expect("a handshake");
    says!(w.session(first), "send #33 g2 initialized", "send #34 L11 g2 initialize");
}

#[test]
fn whoever_waits_in_line_and_ends_makes_room_for_the_next() {
    let mut w = many(10);
    w.on(Input::Reconnect { latch: None });
    w.ended(9);
    let first = *w.under_way.keys().next().expect("a handshake");
    let lines = w.session(first);
    assert!(lines.iter().any(|line| line.contains("L10 g2 initialize")), "{lines:?}");
}

#[test]
fn a_permit_that_ends_badly_is_free_again() {
    let mut w = many(10);
    w.on(Input::Reconnect { latch: None });
    let all: Vec<u64> = w.under_way.keys().copied().collect();
    says!(w.refused(all[0], 403, "no"), "send #29 L9 g2 initialize");
    says!(w.error(all[1], -32603, "no"), "send #30 L10 g2 initialize");
}

#[test]
fn after_an_outage_a_session_is_asked_before_its_stream_is_opened_again() {
    let mut w = World::new();
    for latch in 1..=2 {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    says!(w.attached(1), "send #5 g1 stream");
    w.begun(5);
    says!(w.attached(2), "send #6 L2 g1 stream");
    w.begun(6);
    w.passes(20_000);
    w.broke(5);
    w.broke(6);
    let mut lines = Vec::new();
    while w.under_way.is_empty() {
        lines = w.waits(1_000);
    }
    says!(lines, "send #7 L2 g1 ping");
    w.no_connection(7);
    says!(w.waits(1_000), "send #8 L2 g1 ping");
    // The one that was asked goes on; the other is asked whether it is still known.
    let lines = w.answered(8);
    assert_eq!(lines, ["send #9 g1 ping"]);
    says!(w.refused(9, 404, GONE), "send #10 g2 initialize");
    w.session(10);
    let lines = w.answered(11);
    assert!(lines.contains(&"send #12 g2 stream".to_owned()), "{lines:?}");
}

#[test]
fn a_session_that_does_not_say_whether_it_survived_is_not_given_up() {
    let mut w = World::new();
    for latch in 1..=2 {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    w.passes(20_000);
    says!(w.asks(2, 9, call(9, "send_mail")), "send #5 L2 g1 ping");
    says!(w.no_connection(5));
    says!(w.waits(1_000), "send #6 L2 g1 ping");
    says!(w.answered(6), "send #7 L2 g1 exchange 9", "send #8 g1 ping");
    w.answered(7);
    says!(w.passes(policy::PING_MS), "abort #8");
    says!(w.read(10), "send #9 g1 exchange 10 on any");
    assert_eq!(w.report().totals.relatched, 0);
}

#[test]
fn a_session_that_answered_just_before_an_outage_and_is_refused_after_it_is_not_asked_about_once_more() {
    let mut w = World::new();
    for latch in 1..=2 {
        w.opened(latch, latch);
        w.session(latch * 2 - 1);
        w.initialized(latch, latch);
        w.answered(latch * 2);
    }
    says!(w.asks(2, 9, call(9, "send_mail")), "send #5 L2 g1 exchange 9");
    says!(w.no_connection(5), "withdraw #5");
    says!(w.waits(1_000), "send #6 L2 g1 ping");
    says!(w.answered(6), "send #7 L2 g1 exchange 9", "send #8 g1 ping");
    says!(w.refused(8, 404, GONE), "send #9 g2 initialize");
}

/// All permits are taken, latch 9 waits for one, and the answer to a call of latch 10 can be settled by another session only.
fn a_doubt_without_a_permit() -> World {
    let mut w = many(10);
    for latch in 1..=9 {
        w.on(Input::Reconnect { latch: Some(LatchId(latch)) });
    }
    w.attached(9);
    says!(w.asks(10, 50, call(50, "send_mail")), "send #29 L10 g1 exchange 50");
    says!(w.refused(29, 403, "principal mismatch"), "send #30 L10 g1 ping");
    says!(w.refused(30, 403, "principal mismatch"));
    w
}

#[test]
fn a_call_in_doubt_takes_its_latch_to_the_head_of_the_line() {
    let mut w = a_doubt_without_a_permit();
    let first = *w.under_way.keys().next().expect("a handshake");
    says!(w.session(first), "send #31 g2 initialized", "send #32 L10 g2 initialize");
}

#[test]
fn a_doubt_that_gets_no_permit_ends_with_the_servers_own_answer() {
    let mut w = a_doubt_without_a_permit();
    says!(w.passes(policy::PERMIT_WITHIN_MS), "pass-refusal 50 #29 executed=no");
}
