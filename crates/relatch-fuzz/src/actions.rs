//! The core's actions: any sequence of facts that a shell can report, each effect held against what the shell knows.
//!
//! The shell here keeps no bytes; it knows what is under way, what is kept and who waits. The machine's own checks run
//! after each fact. Besides, late facts come: ends of attempts that are over or never were, second farewells, clients
//! that speak after they left, clocks that stand still or jump.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use relatch_core::effect::{Effect, Send, Tell, What};
use relatch_core::health::{ClientSeen, ServerSeen, State};
use relatch_core::input::{
    Answer, Ask, Begun, CopySeen, Cut, CutKind, Input, Keep, Listed, Refusal, Restored, SessionFacts, Told,
};
use relatch_core::policy::{self, Policy};
use relatch_core::upstream::Machine;
use relatch_core::{At, AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::failure::Executed;
use relatch_wire::method::{self, ListKind};
use relatch_wire::request_id::RequestId;

use crate::choice::Choice;

pub(crate) fn actions(input: &[u8]) {
    let mut choice = Choice::new(input);
    let mut shell = Shell::new(&mut choice);
    // Long stories are found in pieces.
    for _ in 0..400 {
        if choice.is_over() {
            break;
        }
        shell.acts(&mut choice);
    }
    shell.ends_well();
}

/// Status, code, words, challenge, pause.
type Said = (u16, Option<i64>, &'static str, bool, Option<u64>);

/// The refusals that servers, gateways and proxies give.
const REFUSALS: &[Said] = &[
    (404, Some(-32001), "Session not found", false, None),
    (404, None, "", false, None),
    (404, None, "<html>not here</html>", false, None),
    (404, Some(-32601), "Method not found", false, None),
    (404, Some(-32602), "Unknown tool", false, None),
    (400, Some(-32000), "Bad Request: No valid session ID provided", false, None),
    (400, Some(-32000), "Bad Request: Server not initialized", false, None),
    (400, None, "Bad Request: Unsupported protocol version", false, None),
    (400, Some(-32600), "what is this", false, None),
    (401, None, "Unauthorized: Session not found", false, None),
    (401, None, "sign in", true, None),
    (403, None, "session user mismatch", false, None),
    (405, None, "", false, None),
    (409, None, "busy", false, None),
    (410, None, "", false, None),
    (413, None, "", false, None),
    (421, None, "", false, None),
    (422, None, "Unexpected message, expect initialize request", false, None),
    (429, None, "slow down", false, Some(2_000)),
    (429, None, "slow down", false, None),
    (500, None, "internal error", false, None),
    (500, Some(-32603), "unknown session", false, None),
    (502, None, "<html>bad gateway</html>", false, None),
    (503, None, "starting", false, Some(1_000)),
    (503, None, "starting", false, Some(200_000)),
    (503, Some(-32603), "Too many open sessions", false, None),
    (504, None, "", false, None),
    (302, None, "", false, None),
    (200, None, "<html>welcome</html>", false, None),
    (200, None, "session expired", false, None),
    (599, None, "", false, Some(u64::MAX)),
];

const SPANS: [u64; 12] = [0, 1, 60, 110, 450, 1_100, 2_100, 5_500, 11_000, 31_000, 70_000, 700_000];

/// What is under way.
struct Flight {
    what: What,
    latch: LatchId,
    generation: Gen,
    /// What has come of it, behind a head that was a success.
    begun: Option<Begun>,
    /// Its stream broke and is to be resumed.
    cut: bool,
}

struct Asked {
    latch: LatchId,
    id: i64,
    handshake: bool,
    accepts_sse: bool,
    /// It may run once only.
    once: bool,
    /// It may have run, so it may not be sent again.
    ran: bool,
    last: Option<AttemptId>,
    left: bool,
    cancelled: bool,
    over: bool,
    early: bool,
    sent: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Answer,
    Refusal,
    Nothing,
}

struct Note {
    latch: LatchId,
    accepted: bool,
}

struct Shell {
    machine: Machine,
    now: At,
    number: u64,
    flights: BTreeMap<AttemptId, Flight>,
    over: Vec<AttemptId>,
    last_attempt: AttemptId,
    /// What is kept of which attempt: a refusal, or an answer.
    kept: BTreeMap<AttemptId, Came>,
    asked: BTreeMap<ExId, Asked>,
    notes: BTreeMap<NoteId, Note>,
    latches: BTreeSet<LatchId>,
    closed: BTreeSet<LatchId>,
    sessions: BTreeSet<(LatchId, Gen)>,
    deletes: BTreeSet<(LatchId, Gen)>,
    answered: Option<At>,
    hold: u64,
    gateway_errors_refused: bool,
    /// Who waits for the shell to have looked for a copy, and for whom there is one.
    sought: Vec<ExId>,
    found: BTreeSet<ExId>,
}

impl Shell {
    fn new(choice: &mut Choice<'_>) -> Shell {
        let kind = choice.byte();
        let hold = if kind & 1 == 0 { 5_000 } else { 45_000 };
        let gateway_errors_refused = kind & 8 != 0;
        let policy = Policy {
            hold_ms: hold,
            stateful: kind & 2 != 0,
            local: kind & 4 == 0,
            gateway_errors_refused,
            copies: kind & 16 == 0,
            replay: vec![("never_*".to_owned(), false), ("always_*".to_owned(), true)],
            ..Policy::new("files", "http://127.0.0.1:8931/mcp")
        };
        Shell {
            machine: Machine::new(policy, At(0), u64::from(kind)),
            now: At(0),
            number: 0,
            flights: BTreeMap::new(),
            over: Vec::new(),
            last_attempt: AttemptId(0),
            kept: BTreeMap::new(),
            asked: BTreeMap::new(),
            notes: BTreeMap::new(),
            latches: BTreeSet::new(),
            closed: BTreeSet::new(),
            sessions: BTreeSet::new(),
            deletes: BTreeSet::new(),
            answered: None,
            hold,
            gateway_errors_refused,
            sought: Vec::new(),
            found: BTreeSet::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn acts(&mut self, choice: &mut Choice<'_>) {
        match choice.below(24) {
            0 | 1 => self.passes(choice),
            2 | 3 => self.asks(choice),
            4..8 => self.one_ends(choice),
            8 => self.one_begins(choice),
            9 => self.tells(choice),
            10 => self.leaves(choice),
            11 => self.opens(choice),
            12 => self.comes_or_goes(choice),
            13 if choice.below(3) == 0 => {
                if let Some(latch) = self.some_latch(choice) {
                    self.on(Input::Ended { latch });
                }
            }
            13 => self.on(Input::Replace),
            14 => {
                let latch = if choice.flag() { self.some_latch(choice) } else { None };
                self.on(Input::Reconnect { latch });
            }
            15 => self.hints(choice),
            16 => self.is_restored(choice),
            17 => self.comes_late(choice),
            // Everything that is under way ends well, in the order of its sending.
            18 | 19 => {
                for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
                    self.ends_as_due(attempt, Answer::Result);
                }
            }
            // Everything is refused alike, as by a server that was restarted or a proxy in its place.
            20 | 21 => {
                let which = choice.below(REFUSALS.len());
                for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
                    self.is_refused(attempt, which);
                }
            }
            22 => {
                let (wrote, resumable) = (choice.flag(), choice.flag());
                for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
                    self.breaks(attempt, wrote, CutKind::Connection, resumable, None);
                }
            }
            _ => self.on(Input::Tick),
        }
    }

    // ---- facts

    fn passes(&mut self, choice: &mut Choice<'_>) {
        let span = SPANS[choice.below(SPANS.len())];
        if choice.below(4) == 0 {
            // The machine's host was asleep: everything is due at once.
            self.now = self.now.plus(span);
            self.ticks();
            return;
        }
        let end = self.now.plus(span);
        for _ in 0..200 {
            let Some(deadline) = self.machine.deadline().filter(|deadline| deadline.at <= end) else { break };
            self.now = self.now.max(deadline.at);
            self.ticks();
        }
        self.now = end;
        self.ticks();
    }

    /// Serves what is due: after so many wakings at one moment nothing may be due any more.
    fn ticks(&mut self) {
        for _ in 0..200 {
            if self.machine.deadline().is_none_or(|deadline| deadline.at > self.now) {
                return;
            }
            self.on(Input::Tick);
        }
        panic!("it asks to be woken again and again: {:?} at {:?}", self.machine.deadline(), self.now);
    }

    fn opens(&mut self, choice: &mut Choice<'_>) {
        if self.latches.len() > 5 {
            return;
        }
        let (latch, ex) = (LatchId(self.number()), ExId(self.number()));
        let client = choice.flag().then(|| ClientSeen { name: "c".to_owned(), version: "1".to_owned() });
        let ask = self.ask(latch, ex, method::INITIALIZE, None, false, 0, choice);
        self.latches.insert(latch);
        self.on(Input::Opened { latch, ex, ask, client });
    }

    fn asks(&mut self, choice: &mut Choice<'_>) {
        let Some(latch) = self.some_latch(choice) else { return self.opens(choice) };
        let ex = ExId(self.number());
        // Clients use an id again, some while it is in flight.
        let id = if choice.below(8) == 0 { 1 } else { ex.0 as i64 };
        let (method, tool) = match choice.below(12) {
            0..5 => (method::TOOLS_CALL, Some("send")),
            5 => (method::TOOLS_CALL, Some("look")),
            6 => (method::TOOLS_CALL, Some("never_twice")),
            7 => (method::TOOLS_CALL, Some("always_again")),
            8 => (method::RESOURCES_READ, None),
            9 => (method::TOOLS_LIST, None),
            10 => (method::SET_LEVEL, None),
            _ => (
                [method::RESOURCES_SUBSCRIBE, method::RESOURCES_UNSUBSCRIBE, "x/unknown"][choice.below(3)],
                None,
            ),
        };
        let once = matches!(tool, Some("send" | "never_twice")) || method == "x/unknown";
        let ask = self.ask(latch, ex, method, tool, once, id, choice);
        self.on(Input::Asked { latch, ex, ask });
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn ask(
        &mut self,
        latch: LatchId,
        ex: ExId,
        method: &str,
        tool: Option<&str>,
        once: bool,
        id: i64,
        choice: &mut Choice<'_>,
    ) -> Ask {
        let accepts_sse = !choice.flag();
        let keep = match method {
            method::TOOLS_LIST => Keep::List(ListKind::Tools),
            method::SET_LEVEL => Keep::Level(r#"{"level":"debug"}"#.to_owned()),
            method::RESOURCES_SUBSCRIBE => Keep::Subscribe("a:b".to_owned(), r#"{"uri":"a:b"}"#.to_owned()),
            method::RESOURCES_UNSUBSCRIBE => Keep::Unsubscribe("a:b".to_owned()),
            _ => Keep::Nothing,
        };
        let asked = Asked {
            latch,
            id,
            handshake: method == method::INITIALIZE,
            accepts_sse,
            once,
            ran: false,
            last: None,
            left: false,
            cancelled: false,
            over: false,
            early: false,
            sent: 0,
        };
        self.asked.insert(ex, asked);
        let tool = tool.map(str::to_owned);
        Ask { id: RequestId::number(id), method: method.to_owned(), tool, accepts_sse, keep }
    }

    fn tells(&mut self, choice: &mut Choice<'_>) {
        let Some(latch) = self.some_latch(choice) else { return };
        let note = NoteId(self.number());
        let told = match choice.below(6) {
            0 | 1 => Told::Initialized,
            2 => {
                let open: Vec<ExId> = self.open_of(latch);
                match choice.of(&open).and_then(|ex| self.asked.get(&ex).map(|asked| asked.id)) {
                    Some(id) => {
                        // Which of several exchanges with one id is meant can't be told, so none is held to it.
                        let same: Vec<ExId> = open
                            .into_iter()
                            .filter(|ex| self.asked.get(ex).is_some_and(|a| a.id == id))
                            .collect();
                        if let [ex] = same.as_slice()
                            && let Some(asked) = self.asked.get_mut(ex).filter(|asked| !asked.handshake)
                        {
                            asked.cancelled = true;
                        }
                        Told::Cancelled(RequestId::number(id))
                    }
                    None => Told::Cancelled(RequestId::text("never asked")),
                }
            }
            3 => Told::Answer((!choice.flag()).then(|| Gen(choice.below(5) as u32))),
            _ => Told::Other,
        };
        self.notes.insert(note, Note { latch, accepted: false });
        self.on(Input::Told { latch, note, told });
    }

    fn leaves(&mut self, choice: &mut Choice<'_>) {
        let open: Vec<ExId> = self.asked.iter().filter(|(_, asked)| !asked.over).map(|(ex, _)| *ex).collect();
        let Some(ex) = choice.of(&open) else { return };
        if let Some(asked) = self.asked.get_mut(&ex) {
            asked.left = true;
        }
        self.on(Input::Left { ex });
    }

    fn comes_or_goes(&mut self, choice: &mut Choice<'_>) {
        let Some(latch) = self.some_latch(choice) else { return };
        let input = if choice.flag() { Input::Detached { latch } } else { Input::Attached { latch } };
        self.on(input);
    }

    /// The shell has looked for a copy.
    fn looks(&mut self, ex: ExId, odd: u8) {
        let opens = self.asked.get(&ex).is_some_and(|asked| asked.handshake);
        let seen = CopySeen {
            made: 1,
            date: "then".to_owned(),
            session: opens.then(|| session(odd & 2 == 0, u64::from(odd))),
        };
        let copy = (odd & 1 == 0).then_some(seen);
        if copy.is_some() {
            self.found.insert(ex);
        }
        self.on(Input::Copy { ex, copy });
    }

    fn hints(&mut self, choice: &mut Choice<'_>) {
        if let Some(ex) = self.sought.pop() {
            return self.looks(ex, choice.byte());
        }
        let Some(latch) = self.some_latch(choice) else { return };
        let hints = vec![("look".to_owned(), choice.flag(), choice.flag())];
        self.on(Input::Hinted { latch, hints });
    }

    fn is_restored(&mut self, choice: &mut Choice<'_>) {
        if self.latches.len() > 5 {
            return;
        }
        let latch = LatchId(self.number());
        let begun = choice.below(4) as u32;
        let bound = (begun > 0 && !choice.flag()).then_some(Gen(begun));
        self.sessions.extend(bound.map(|generation| (latch, generation)));
        let flags = choice.byte();
        let restored = Restored {
            bound,
            has_id: flags & 1 == 0,
            begun,
            initialized: flags & 2 == 0,
            revision: "2025-11-25".to_owned(),
            client: None,
            server: (flags & 4 != 0).then(|| server(flags)),
            level: (flags & 8 != 0).then(|| r#"{"level":"debug"}"#.to_owned()),
            subscriptions: (flags & 16 != 0)
                .then(|| ("a:b".to_owned(), r#"{"uri":"a:b"}"#.to_owned()))
                .into_iter()
                .collect(),
            lists: if flags & 32 != 0 { vec![ListKind::Tools, ListKind::Prompts] } else { Vec::new() },
            hints: vec![("look".to_owned(), flags & 64 != 0, false)],
        };
        let revision = restored.revision.clone();
        self.latches.insert(latch);
        self.on(Input::Restored { latch, restored });
        let snapshot = self.machine.snapshot(latch).expect("what is restored is there");
        assert_eq!(
            (snapshot.bound, snapshot.begun, snapshot.revision),
            (bound, begun, revision),
            "a restart changes nothing"
        );
    }

    /// What crosses something else on its way: nothing of it may have an effect on anybody.
    fn comes_late(&mut self, choice: &mut Choice<'_>) {
        let attempt = match choice.below(3) {
            0 => AttemptId(u64::MAX),
            _ => choice.of(&self.over).unwrap_or_default(),
        };
        if self.flights.contains_key(&attempt) {
            return;
        }
        let cut = Cut {
            wrote: choice.flag(),
            kind: CutKind::Connection,
            cause: "late".to_owned(),
            resumable: choice.flag(),
            retry: None,
        };
        let input = match choice.below(9) {
            0 => Input::Answered { attempt, answer: Answer::Result },
            1 => Input::Session { attempt, session: session(true, 1) },
            2 => Input::Listed { attempt, listed: Listed::Same },
            3 => Input::Begun { attempt, begun: Begun::Long },
            4 => Input::Refused { attempt, refusal: refusal(choice.below(REFUSALS.len())) },
            5 => Input::Left { ex: ExId(u64::MAX) },
            6 => {
                if let Some(ex) = self.asked.iter().find(|(_, asked)| asked.over).map(|(ex, _)| *ex) {
                    self.on(Input::Left { ex });
                }
                Input::Detached { latch: LatchId(u64::MAX) }
            }
            7 => {
                let (latch, ex) = (LatchId(u64::MAX), ExId(self.number()));
                let ask = self.ask(latch, ex, method::PING, None, false, 3, choice);
                Input::Asked { latch, ex, ask }
            }
            _ => Input::Cut { attempt, cut },
        };
        let late = matches!(&input, Input::Answered { .. } | Input::Cut { .. } | Input::Session { .. });
        let sent = self.last_attempt;
        self.on(input);
        assert!(!late || self.last_attempt == sent, "something is sent upon the end of what is over");
        let note = NoteId(self.number());
        self.notes.insert(note, Note { latch: LatchId(u64::MAX), accepted: false });
        self.on(Input::Told { latch: LatchId(u64::MAX), note, told: Told::Other });
        assert!(!self.notes.contains_key(&note), "a message of nobody's is kept");
        // A clock that goes back is a clock that stands still.
        let now = self.now;
        self.now = At(now.0 / 2);
        self.on(Input::Tick);
        self.now = now;
    }

    fn one_begins(&mut self, choice: &mut Choice<'_>) {
        let Some(attempt) = self.some_flight(choice) else { return };
        let Some(flight) = self.flights.get(&attempt) else { return };
        let begun = match (&flight.what, flight.cut) {
            (What::Exchange { .. }, false) => {
                if choice.below(3) == 0 {
                    Begun::Long
                } else {
                    Begun::Stream
                }
            }
            (What::Exchange { .. } | What::Note(_) | What::Initialized | What::Delete, _) => return,
            _ => Begun::Stream,
        };
        self.begins(attempt, begun);
        // The rest of a stream may bring the beginning of a long answer.
        if let Some(Flight { what: What::Resume { of }, .. }) = self.flights.get(&attempt)
            && choice.below(4) == 0
        {
            let of = *of;
            if self.flights.contains_key(&of) {
                self.begins(of, Begun::Long);
            }
        }
    }

    fn begins(&mut self, attempt: AttemptId, begun: Begun) {
        if begun == Begun::Long {
            self.may_have_run(attempt);
        }
        if let Some(flight) = self.flights.get_mut(&attempt) {
            flight.begun = Some(begun);
        }
        self.on(Input::Begun { attempt, begun });
    }

    fn one_ends(&mut self, choice: &mut Choice<'_>) {
        let Some(attempt) = self.some_flight(choice) else { return };
        match choice.below(8) {
            0 | 1 => self.ends_as_due(attempt, Answer::Result),
            2 => {
                let message =
                    ["Server not initialized", "no such tool", "Session not found"][choice.below(3)];
                let code = [-32000, -32602, 0][choice.below(3)];
                self.ends_as_due(attempt, Answer::Error { code, message });
            }
            3..6 => {
                let which = choice.below(REFUSALS.len());
                self.is_refused(attempt, which);
            }
            _ => {
                let kinds = [
                    CutKind::Connection,
                    CutKind::Connection,
                    CutKind::Garbled,
                    CutKind::Tls,
                    CutKind::UnknownHost,
                    CutKind::Proxy,
                ];
                let kind = kinds[choice.below(kinds.len())];
                let (wrote, resumable) = (choice.flag(), choice.flag());
                let retry = [None, Some(0), Some(700), Some(9_000), Some(u64::MAX)][choice.below(5)];
                self.breaks(attempt, wrote, kind, resumable, retry);
            }
        }
    }

    /// The end that this sort of attempt has when its answer comes.
    fn ends_as_due(&mut self, attempt: AttemptId, answer: Answer<'_>) {
        let Some(flight) = self.flights.get(&attempt) else { return };
        let result = answer == Answer::Result;
        match (flight.what.clone(), flight.cut) {
            (What::Exchange { .. }, true) => {}
            // A long answer is a result, or it would not pass.
            (What::Exchange { .. }, _) if flight.begun == Some(Begun::Long) => {
                self.is_answered(attempt, Answer::Result);
            }
            (What::Initialize { .. }, _) if result => {
                let key = (flight.latch, flight.generation);
                self.sessions.insert(key);
                let odd = attempt.0 % 7;
                self.ends(attempt, Came::Answer);
                self.answered = Some(self.now);
                self.on(Input::Session { attempt, session: session(odd != 0, odd) });
            }
            (What::List { .. }, _) if result => {
                let listed = match attempt.0 % 4 {
                    0 => Listed::More("next".to_owned()),
                    1 => Listed::Differs("+extra".to_owned()),
                    _ => Listed::Same,
                };
                self.ends(attempt, Came::Answer);
                self.answered = Some(self.now);
                self.on(Input::Listed { attempt, listed });
            }
            (What::Resume { of }, _) => {
                self.begins(attempt, Begun::Stream);
                if let Some(flight) = self.flights.get_mut(&of) {
                    flight.cut = false;
                    self.ends_as_due(of, answer);
                }
                self.is_answered(attempt, Answer::Result);
            }
            // A stream has no answer; it breaks or is refused.
            (What::Stream, _) => self.begins(attempt, Begun::Stream),
            (What::Note(_) | What::Initialized | What::Delete, _) => {
                self.is_answered(attempt, Answer::Result)
            }
            (
                What::Exchange { .. }
                | What::Initialize { .. }
                | What::List { .. }
                | What::Ping
                | What::SetLevel(_)
                | What::Subscribe(_),
                _,
            ) => self.is_answered(attempt, answer),
        }
    }

    fn is_answered(&mut self, attempt: AttemptId, answer: Answer<'_>) {
        if !self.flights.contains_key(&attempt) {
            return;
        }
        if answer == Answer::Result {
            self.may_have_run(attempt);
        }
        self.ends(attempt, Came::Answer);
        self.answered = Some(self.now);
        self.on(Input::Answered { attempt, answer });
    }

    fn is_refused(&mut self, attempt: AttemptId, which: usize) {
        let able = |flight: &&Flight| !flight.cut && flight.begun.is_none();
        let Some(flight) = self.flights.get(&attempt).filter(able) else { return };
        let refusal = refusal(which);
        // What can't be told from a proxy's word that it lost its server may have run.
        let gateway = matches!(refusal.status, 502 | 504) && !self.gateway_errors_refused;
        if gateway && matches!(flight.what, What::Exchange { .. }) {
            self.may_have_run(attempt);
        }
        self.ends(attempt, Came::Refusal);
        self.on(Input::Refused { attempt, refusal });
    }

    fn breaks(
        &mut self,
        attempt: AttemptId,
        wrote: bool,
        kind: CutKind,
        resumable: bool,
        retry: Option<u64>,
    ) {
        let Some(flight) = self.flights.get_mut(&attempt).filter(|flight| !flight.cut) else { return };
        let wrote = wrote || flight.begun.is_some();
        let resumable = resumable && flight.begun != Some(Begun::Long);
        let resumed = match flight.what {
            What::Resume { of } => Some(of),
            _ => None,
        };
        let resumable =
            resumable && wrote && (matches!(flight.what, What::Exchange { .. }) || resumed.is_some());
        if resumable && resumed.is_none() {
            flight.cut = true;
        } else {
            self.ends(attempt, Came::Nothing);
        }
        if wrote {
            self.may_have_run(resumed.unwrap_or(attempt));
        }
        let cut = Cut { wrote, kind, cause: "connection reset".to_owned(), resumable, retry };
        self.on(Input::Cut { attempt, cut });
    }

    fn may_have_run(&mut self, attempt: AttemptId) {
        if let Some(Flight { what: What::Exchange { ex, .. }, .. }) = self.flights.get(&attempt)
            && let Some(asked) = self.asked.get_mut(ex)
        {
            asked.ran = true;
            return;
        }
        // It was taken out of what is under way just now.
        for asked in self.asked.values_mut().filter(|asked| asked.last == Some(attempt) && !asked.handshake) {
            asked.ran = true;
        }
    }

    fn ends(&mut self, attempt: AttemptId, came: Came) {
        let Some(flight) = self.flights.remove(&attempt) else { return };
        self.over.push(attempt);
        let named = matches!(flight.what, What::Exchange { .. } | What::Initialize { ex: Some(_) });
        if came != Came::Nothing && named {
            self.kept.insert(attempt, came);
        }
    }

    fn some_latch(&self, choice: &mut Choice<'_>) -> Option<LatchId> {
        let latches: Vec<LatchId> = self.latches.iter().copied().collect();
        choice.of(&latches)
    }

    fn some_flight(&self, choice: &mut Choice<'_>) -> Option<AttemptId> {
        let flights: Vec<AttemptId> = self.flights.keys().copied().collect();
        choice.of(&flights)
    }

    fn open_of(&self, latch: LatchId) -> Vec<ExId> {
        self.asked.iter().filter(|(_, a)| a.latch == latch && !a.over).map(|(ex, _)| *ex).collect()
    }

    /// A line of the transcript, where one is asked for: `RELATCH_FUZZ_STORY=1`.
    #[expect(clippy::print_stderr, reason = "a transcript is for reading")]
    fn say(&self, line: impl FnOnce() -> String) {
        static TOLD: LazyLock<bool> = LazyLock::new(|| std::env::var_os("RELATCH_FUZZ_STORY").is_some());
        if *TOLD {
            eprintln!("{:>8} {}", self.now.0, line());
        }
    }

    // ---- effects

    fn on(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        self.say(|| format!("> {input:?}"));
        self.machine.on(self.now, input, &mut effects);
        for effect in effects {
            self.say(|| format!("    {effect:?}"));
            self.perform(effect);
        }
        let report = self.machine.report(self.now);
        if report.state == State::Healthy {
            let fresh = self.answered.is_some_and(|at| self.now.since(at) < policy::FRESH_MS);
            assert!(fresh, "healthy without a fresh answer");
        }
        let open = self.asked.values().filter(|asked| !asked.over).count();
        assert!(report.waiting <= open, "{} wait, and {open} are open", report.waiting);
        let handshakes = |flight: &&Flight| matches!(flight.what, What::Initialize { .. });
        for latch in &self.latches {
            let mine = self.flights.values().filter(handshakes).filter(|f| f.latch == *latch).count();
            assert!(mine <= 1, "{mine} handshakes at once for {latch:?}");
        }
        let own = self.flights.values().filter(|f| matches!(f.what, What::Initialize { ex: None })).count();
        assert!(own <= policy::PERMITS, "{own} handshakes at once");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(send) => self.sends(send),
            Effect::Abort { attempt } => {
                assert!(self.flights.remove(&attempt).is_some(), "{attempt:?} is aborted and not under way");
                self.over.push(attempt);
            }
            Effect::Flow { ex, attempt } => {
                assert!(self.flights.contains_key(&attempt), "{attempt:?} flows and is over");
                assert_eq!(self.open(ex).last, Some(attempt), "another's events flow to {ex:?}");
            }
            Effect::Pass { ex, attempt } => {
                let came = self.kept.remove(&attempt);
                assert_eq!(came, Some(Came::Answer), "no answer is kept to pass: {attempt:?}");
                assert_eq!(self.open(ex).last, Some(attempt), "another's answer goes to {ex:?}");
                self.is_over(ex);
            }
            Effect::PassRefusal { ex, attempt, executed } => {
                assert!(self.kept.remove(&attempt).is_some(), "nothing is kept to pass: {attempt:?}");
                assert_eq!(self.open(ex).last, Some(attempt), "another's refusal goes to {ex:?}");
                self.claims(ex, executed);
                self.is_over(ex);
            }
            Effect::Challenge { ex, attempt } => {
                assert!(attempt <= self.last_attempt, "{attempt:?} never was");
                self.is_over(ex);
            }
            Effect::Answer { ex, failure } => {
                assert!(!failure.message.is_empty());
                assert!(!self.open(ex).left, "{ex:?} is answered and nobody is there");
                self.claims(ex, failure.executed);
                self.is_over(ex);
            }
            Effect::Drop { attempt } => {
                assert!(attempt <= self.last_attempt, "{attempt:?} never was");
                self.kept.remove(&attempt);
                if self.flights.get(&attempt).is_some_and(|flight| flight.cut) {
                    self.ends(attempt, Came::Nothing);
                }
            }
            Effect::SeekCopy { ex } => {
                assert!(!self.open(ex).left, "a copy is sought for {ex:?}, and nobody is there");
                self.sought.push(ex);
            }
            Effect::PassCopy { ex } => {
                assert!(self.found.remove(&ex), "no copy was found for {ex:?}");
                assert!(!self.open(ex).left, "{ex:?} is answered and nobody is there");
                self.is_over(ex);
            }
            Effect::Early { ex } => {
                let asked = self.open(ex);
                assert!(asked.accepts_sse && !asked.handshake, "early headers that {ex:?} does not take");
                assert!(!asked.early && !asked.left, "early headers twice, or for nobody: {ex:?}");
                asked.early = true;
            }
            Effect::Accept { note } => {
                let note = self.notes.get_mut(&note).expect("an accepted message is there");
                assert!(!std::mem::replace(&mut note.accepted, true), "accepted twice");
            }
            Effect::DropNote { note } => {
                assert!(self.notes.remove(&note).is_some(), "{note:?} is let go twice");
            }
            Effect::Tell { latch, tell } => {
                assert!(self.latches.contains(&latch), "{latch:?} is told something and not there");
                assert!(!matches!(tell, Tell::Updated(uri) if uri.is_empty()));
            }
            Effect::Withdraw { attempt } => assert!(attempt <= self.last_attempt, "{attempt:?} never was"),
            Effect::Record { latch } => {
                assert!(self.latches.contains(&latch), "{latch:?} is recorded and not there");
            }
            Effect::Forget { latch, generation } => {
                let known = self.latches.contains(&latch) || self.closed.contains(&latch);
                assert!(known, "{latch:?} is forgotten and never was");
                self.sessions.remove(&(latch, generation));
            }
            Effect::Close { latch } => {
                assert!(self.latches.remove(&latch), "{latch:?} closes twice");
                self.closed.insert(latch);
                let open = self.open_of(latch);
                assert!(open.iter().all(|ex| self.asked[ex].left), "{latch:?} closes and {open:?} wait");
                self.notes.retain(|_, note| note.latch != latch);
            }
            Effect::CloseIdle | Effect::Journal(_) => {}
        }
    }

    fn sends(&mut self, send: Send) {
        let Send { attempt, latch, generation, what, .. } = send;
        assert!(attempt > self.last_attempt, "{attempt:?} comes after {:?}", self.last_attempt);
        self.last_attempt = attempt;
        let open = self.latches.contains(&latch);
        match &what {
            What::Delete => {
                assert!(open || self.closed.contains(&latch), "{latch:?} never was");
                assert!(self.deletes.insert((latch, generation)), "a second DELETE of {generation:?}");
            }
            What::Initialize { ex } => {
                assert!(open, "a handshake for {latch:?}, which is over");
                assert!(!self.sessions.contains(&(latch, generation)), "{generation:?} is opened twice");
                if let Some(ex) = ex {
                    let asked = self.open(*ex);
                    assert!(asked.handshake && !asked.left, "{ex:?} is no handshake that anybody waits for");
                    asked.last = Some(attempt);
                }
            }
            What::Exchange { ex, .. } => {
                let known = self.sessions.contains(&(latch, generation));
                assert!(open && known, "{ex:?} goes to a session that is not there");
                let asked = self.open(*ex);
                assert_eq!(asked.latch, latch, "{ex:?} goes to another session");
                assert!(!asked.left && !asked.cancelled, "{ex:?} is sent and nobody waits for it");
                assert!(!(asked.ran && asked.once), "{ex:?} is sent again and may have run");
                asked.last = Some(attempt);
                asked.ran = false;
                asked.sent += 1;
                assert!(asked.sent <= 64, "{ex:?} is sent for ever");
            }
            What::Note(note) => {
                assert!(self.notes.contains_key(note), "{note:?} is sent and was let go");
                assert!(open && self.sessions.contains(&(latch, generation)));
            }
            What::Resume { of } => {
                let of = self.flights.get(of).expect("what is resumed is there");
                assert!(of.cut && of.latch == latch && of.generation == generation);
            }
            What::Initialized
            | What::Ping
            | What::SetLevel(_)
            | What::Subscribe(_)
            | What::List { .. }
            | What::Stream => {
                assert!(open && self.sessions.contains(&(latch, generation)), "{what:?} to no session");
            }
        }
        self.flights.insert(attempt, Flight { what, latch, generation, begun: None, cut: false });
    }

    /// An exchange that an effect may still name.
    fn open(&mut self, ex: ExId) -> &mut Asked {
        let asked = self.asked.get_mut(&ex).expect("an exchange that was asked");
        assert!(!asked.over, "{ex:?} is over");
        asked
    }

    fn is_over(&mut self, ex: ExId) {
        self.open(ex).over = true;
    }

    /// What is told as not run may not have run.
    fn claims(&mut self, ex: ExId, executed: Executed) {
        let asked = self.open(ex);
        let lie = executed == Executed::No && asked.ran && asked.once;
        assert!(!lie, "{ex:?} may have run, and its client is told otherwise");
    }

    /// Connections break and time goes on: everybody who waits is answered, nothing is kept, nothing waits on.
    fn ends_well(&mut self) {
        for _ in 0..24 {
            for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
                self.breaks(attempt, true, CutKind::Connection, false, None);
            }
            self.now = self.now.plus(2 * self.hold + 20_000);
            self.ticks();
        }
        let waits: Vec<ExId> =
            self.asked.iter().filter(|(_, asked)| !asked.over && !asked.left).map(|(ex, _)| *ex).collect();
        assert!(waits.is_empty(), "{waits:?} were never answered");
        assert!(self.kept.is_empty(), "kept for ever: {:?}", self.kept);
        assert_eq!(self.machine.report(self.now).waiting, 0);
        // A machine that is quiet for so long knows nothing, and says so.
        self.now = self.now.plus(24 * 3_600_000);
        assert!(
            self.machine.report(self.now).state != State::Healthy,
            "healthy, and nobody has asked for a day"
        );
        for latch in self.latches.clone() {
            self.on(Input::Ended { latch });
            assert!(self.machine.snapshot(latch).is_none(), "{latch:?} is over and still there");
        }
        for _ in 0..4 {
            for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
                self.breaks(attempt, true, CutKind::Connection, false, None);
            }
            self.now = self.now.plus(60_000);
            self.ticks();
        }
        assert!(self.latches.is_empty() && self.flights.is_empty(), "something goes on behind the end");
        assert!(self.notes.is_empty(), "kept for ever: {} messages", self.notes.len());
    }
}

fn refusal(which: usize) -> Refusal<'static> {
    let (status, rpc_code, body, challenge, retry_after) = REFUSALS[which % REFUSALS.len()];
    let location = (status == 302).then_some("http://elsewhere/");
    // A body of this kind stands for the end of a process or stream as well.
    let ended = status == 404 && body.is_empty();
    Refusal { status, body, rpc_code, digest: which as u64, challenge, retry_after, location, ended }
}

fn server(odd: u8) -> ServerSeen {
    ServerSeen {
        name: Some("files".to_owned()),
        version: Some((odd % 2).to_string()),
        protocol: if odd % 5 == 4 { "2025-03-26" } else { "2025-11-25" }.to_owned(),
        era: "legacy",
    }
}

fn session(has_id: bool, odd: u64) -> SessionFacts {
    SessionFacts { has_id, server: server(odd as u8), digest: odd % 3, offers: BTreeSet::new() }
}
