//! A scripted world for the machine: a test says what happens, the world keeps the clock and reads the effects back as
//! lines. It judges nothing, except that every kept answer is released once and every exchange ends once.

#![expect(dead_code, reason = "each test program uses its own part of the world")]

use std::collections::{BTreeMap, BTreeSet};

use relatch_core::effect::{Connection, Effect, IdRule, Tell, What};
use relatch_core::health::{HealthReport, ServerSeen, State};
use relatch_core::input::{
    Answer, Ask, Begun, Cut, CutKind, Input, Keep, Listed, Refusal, Restored, SessionFacts, Told,
};
use relatch_core::policy::Policy;
use relatch_core::upstream::{Machine, Snapshot, Why};
use relatch_core::{At, AttemptId, ExId, Gen, LatchId, NoteId, journal};
use relatch_wire::method::{self, ListKind};
use relatch_wire::request_id::RequestId;

/// The machine, its clock, and what is under way.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) now: At,
    pub(crate) under_way: BTreeMap<u64, What>,
    pub(crate) journal: Vec<String>,
    /// What the journal says to have taken how long.
    pub(crate) spans: Vec<(&'static str, u64)>,
    records: BTreeMap<LatchId, Snapshot>,
    /// How often something happened, and how often nothing did: a story has an end.
    facts: u32,
    silences: u32,
    kept: BTreeSet<u64>,
    asked: BTreeSet<u64>,
    ended: BTreeSet<u64>,
}

/// A policy for tests: local, holds 45 s.
pub(crate) fn policy() -> Policy {
    Policy::new("files", "http://127.0.0.1:8931/mcp")
}

/// A request.
pub(crate) fn ask(id: i64, method: &str) -> Ask {
    let keep = ListKind::from_method(method).map_or(Keep::Nothing, Keep::List);
    Ask { id: RequestId::number(id), method: method.to_owned(), tool: None, accepts_sse: true, keep }
}

/// A call of a tool.
pub(crate) fn call(id: i64, tool: &str) -> Ask {
    Ask { tool: Some(tool.to_owned()), ..ask(id, method::TOOLS_CALL) }
}

/// What a server says of itself.
pub(crate) fn session_facts() -> SessionFacts {
    SessionFacts {
        has_id: true,
        server: ServerSeen {
            name: Some("files-server".to_owned()),
            version: Some("1.0".to_owned()),
            protocol: "2025-11-25".to_owned(),
            era: "legacy",
        },
        digest: 1,
        offers: BTreeSet::from(["tools"]),
    }
}

/// A refusal as the shell would report it.
pub(crate) fn refusal(status: u16, body: &str) -> Refusal<'_> {
    let digest = body.bytes().fold(u64::from(status), |d, b| d.wrapping_mul(31).wrapping_add(u64::from(b)));
    Refusal {
        status,
        body,
        rpc_code: None,
        digest,
        challenge: false,
        retry_after: None,
        location: None,
        ended: false,
    }
}

/// A connection that ended.
pub(crate) fn cut_of(wrote: bool, cause: &str) -> Cut {
    Cut { wrote, kind: CutKind::Connection, cause: cause.to_owned(), resumable: false, retry: None }
}

impl World {
    pub(crate) fn new() -> World {
        World::with(policy())
    }

    pub(crate) fn with(policy: Policy) -> World {
        World {
            machine: Machine::new(policy, At(0), 7),
            now: At(0),
            under_way: BTreeMap::new(),
            journal: Vec::new(),
            spans: Vec::new(),
            records: BTreeMap::new(),
            facts: 0,
            silences: 0,
            kept: BTreeSet::new(),
            asked: BTreeSet::new(),
            ended: BTreeSet::new(),
        }
    }

    /// Latch 1 with one session, its client initialized and gone quiet: attempts 1 and 2 are over.
    pub(crate) fn bound() -> World {
        World::bound_with(policy())
    }

    pub(crate) fn bound_with(policy: Policy) -> World {
        let mut world = World::with(policy);
        world.opened(1, 1);
        world.session(1);
        world.initialized(1, 1);
        world.answered(2);
        world
    }

    /// One fact in, the effects back as lines; journal lines go to `journal`.
    pub(crate) fn on(&mut self, input: Input<'_>) -> Vec<String> {
        self.facts += 1;
        assert!(self.facts < 50_000, "the story has no end");
        let mut effects = Vec::new();
        match &input {
            Input::Answered { attempt, .. } | Input::Refused { attempt, .. } => self.keep(*attempt),
            Input::Session { attempt, .. } => self.keep(*attempt),
            Input::Listed { attempt, .. } => self.over(*attempt),
            Input::Cut { attempt, cut } if !cut.resumable => self.over(*attempt),
            _ => {}
        }
        self.machine.on(self.now, input, &mut effects);
        effects.into_iter().filter_map(|effect| self.perform(effect)).collect()
    }

    fn keep(&mut self, attempt: AttemptId) {
        if let Some(What::Exchange { .. } | What::Initialize { ex: Some(_) }) =
            self.under_way.remove(&attempt.0)
        {
            self.kept.insert(attempt.0);
        }
    }

    fn over(&mut self, attempt: AttemptId) {
        self.under_way.remove(&attempt.0);
    }

    fn release(&mut self, attempt: AttemptId) {
        self.kept.remove(&attempt.0);
    }

    fn ends(&mut self, ex: ExId) {
        assert!(self.asked.contains(&ex.0), "{ex:?} was never asked");
        assert!(self.ended.insert(ex.0), "{ex:?} ends twice");
    }

    fn perform(&mut self, effect: Effect) -> Option<String> {
        Some(match effect {
            Effect::Send(send) => {
                self.under_way.insert(send.attempt.0, send.what.clone());
                let latch =
                    if send.latch == LatchId(1) { String::new() } else { format!("L{} ", send.latch.0) };
                let connection = match (&send.what, send.connection) {
                    (What::Exchange { .. }, Connection::Any) => " on any",
                    (What::Exchange { .. }, Connection::Young) => "",
                    (_, Connection::Fresh) => " on fresh",
                    (_, Connection::Any | Connection::Young) => "",
                };
                format!(
                    "send #{} {latch}g{} {}{connection}",
                    send.attempt.0,
                    send.generation.0,
                    what_words(&send.what)
                )
            }
            Effect::Abort { attempt } => {
                self.over(attempt);
                format!("abort #{}", attempt.0)
            }
            Effect::Flow { ex, attempt } => format!("flow {} #{}", ex.0, attempt.0),
            Effect::Pass { ex, attempt } => {
                self.ends(ex);
                self.release(attempt);
                format!("pass {} #{}", ex.0, attempt.0)
            }
            Effect::PassRefusal { ex, attempt, executed } => {
                self.ends(ex);
                self.release(attempt);
                format!("pass-refusal {} #{} executed={}", ex.0, attempt.0, executed.as_str())
            }
            Effect::Challenge { ex, attempt } => {
                self.ends(ex);
                format!("challenge {} #{}", ex.0, attempt.0)
            }
            Effect::Drop { attempt } => {
                self.release(attempt);
                return None;
            }
            Effect::Answer { ex, failure } => {
                self.ends(ex);
                let retry = failure.retry_after.map(|ms| format!(" retry-after={ms}")).unwrap_or_default();
                format!(
                    "answer {} {} executed={}{retry}",
                    ex.0,
                    failure.code.as_str(),
                    failure.executed.as_str()
                )
            }
            Effect::SeekCopy { ex } => format!("seek a copy for {}", ex.0),
            Effect::PassCopy { ex } => {
                self.ends(ex);
                format!("pass a copy to {}", ex.0)
            }
            Effect::Early { ex } => format!("early {}", ex.0),
            Effect::Accept { note } => format!("accept note {}", note.0),
            Effect::DropNote { note } => format!("drop note {}", note.0),
            Effect::Tell { latch, tell } => match tell {
                Tell::ListChanged(kind) => format!("tell {} {} changed", latch.0, kind.method()),
                Tell::Updated(uri) => format!("tell {} {uri} updated", latch.0),
            },
            Effect::Withdraw { attempt } => format!("withdraw #{}", attempt.0),
            Effect::CloseIdle => return None,
            Effect::Record { latch } => {
                self.records.extend(self.machine.snapshot(latch).map(|snapshot| (latch, snapshot)));
                return None;
            }
            Effect::Forget { latch, generation } => {
                if latch == LatchId(1) {
                    format!("forget g{}", generation.0)
                } else {
                    format!("forget L{} g{}", latch.0, generation.0)
                }
            }
            Effect::Close { latch } => format!("close {}", latch.0),
            Effect::Journal(entry) => {
                self.journal.push(journal_words(&entry));
                self.spans.extend(entry.ms.map(|ms| (entry.what.as_str(), ms)));
                return None;
            }
        })
    }

    pub(crate) fn opened(&mut self, latch: u64, ex: u64) -> Vec<String> {
        self.asked.insert(ex);
        let ask = ask(ex as i64, method::INITIALIZE);
        self.on(Input::Opened { latch: LatchId(latch), ex: ExId(ex), ask, client: None })
    }

    pub(crate) fn asks(&mut self, latch: u64, ex: u64, ask: Ask) -> Vec<String> {
        self.asked.insert(ex);
        self.on(Input::Asked { latch: LatchId(latch), ex: ExId(ex), ask })
    }

    /// Latch 1 calls a tool; the JSON-RPC id is the exchange's number.
    pub(crate) fn call(&mut self, ex: u64) -> Vec<String> {
        self.asks(1, ex, call(ex as i64, "send_mail"))
    }

    /// Latch 1 reads something.
    pub(crate) fn read(&mut self, ex: u64) -> Vec<String> {
        self.asks(1, ex, ask(ex as i64, method::RESOURCES_READ))
    }

    pub(crate) fn tell(&mut self, latch: u64, note: u64, told: Told) -> Vec<String> {
        self.on(Input::Told { latch: LatchId(latch), note: NoteId(note), told })
    }

    pub(crate) fn initialized(&mut self, latch: u64, note: u64) -> Vec<String> {
        self.tell(latch, note, Told::Initialized)
    }

    pub(crate) fn left(&mut self, ex: u64) -> Vec<String> {
        self.on(Input::Left { ex: ExId(ex) })
    }

    pub(crate) fn attached(&mut self, latch: u64) -> Vec<String> {
        self.on(Input::Attached { latch: LatchId(latch) })
    }

    pub(crate) fn ended(&mut self, latch: u64) -> Vec<String> {
        self.on(Input::Ended { latch: LatchId(latch) })
    }

    pub(crate) fn begun(&mut self, attempt: u64) -> Vec<String> {
        self.on(Input::Begun { attempt: AttemptId(attempt), begun: Begun::Stream })
    }

    /// A resumed stream brings an event that was not known.
    pub(crate) fn news(&mut self, attempt: u64) -> Vec<String> {
        self.on(Input::Begun { attempt: AttemptId(attempt), begun: Begun::News })
    }

    pub(crate) fn answered(&mut self, attempt: u64) -> Vec<String> {
        self.on(Input::Answered { attempt: AttemptId(attempt), answer: Answer::Result })
    }

    pub(crate) fn error(&mut self, attempt: u64, code: i64, message: &str) -> Vec<String> {
        self.on(Input::Answered { attempt: AttemptId(attempt), answer: Answer::Error { code, message } })
    }

    pub(crate) fn session(&mut self, attempt: u64) -> Vec<String> {
        self.session_of(attempt, session_facts())
    }

    pub(crate) fn session_of(&mut self, attempt: u64, session: SessionFacts) -> Vec<String> {
        self.on(Input::Session { attempt: AttemptId(attempt), session })
    }

    pub(crate) fn listed(&mut self, attempt: u64, listed: Listed) -> Vec<String> {
        self.on(Input::Listed { attempt: AttemptId(attempt), listed })
    }

    pub(crate) fn refused(&mut self, attempt: u64, status: u16, body: &str) -> Vec<String> {
        self.refused_with(attempt, refusal(status, body))
    }

    /// The process or stream that the session lived on has ended, as the shell knows.
    pub(crate) fn session_ended(&mut self, attempt: u64, words: &str) -> Vec<String> {
        self.refused_with(attempt, Refusal { ended: true, ..refusal(404, words) })
    }

    pub(crate) fn refused_with(&mut self, attempt: u64, refusal: Refusal<'_>) -> Vec<String> {
        self.on(Input::Refused { attempt: AttemptId(attempt), refusal })
    }

    /// The connection is refused: not a byte was written.
    pub(crate) fn no_connection(&mut self, attempt: u64) -> Vec<String> {
        self.cut(attempt, cut_of(false, "connection refused"))
    }

    /// The connection breaks after the request was written.
    pub(crate) fn broke(&mut self, attempt: u64) -> Vec<String> {
        self.cut(attempt, cut_of(true, "connection reset"))
    }

    pub(crate) fn cut(&mut self, attempt: u64, cut: Cut) -> Vec<String> {
        self.on(Input::Cut { attempt: AttemptId(attempt), cut })
    }

    /// The keeper is killed and started again: only what its records hold goes on.
    pub(crate) fn restarts(&mut self) -> Vec<String> {
        self.machine = Machine::new(self.machine.policy().clone(), self.now, 7);
        self.under_way.clear();
        let restored = |snapshot: Snapshot| Restored {
            bound: snapshot.bound,
            has_id: true,
            begun: snapshot.begun,
            initialized: snapshot.initialized,
            revision: snapshot.revision,
            client: None,
            server: None,
            level: snapshot.level,
            subscriptions: snapshot.subscriptions,
            lists: snapshot.lists,
            hints: snapshot.repeatable.into_iter().map(|tool| (tool, true, false)).collect(),
        };
        let records = self.records.clone();
        let told = |(latch, snapshot)| self.on(Input::Restored { latch, restored: restored(snapshot) });
        records.into_iter().flat_map(told).collect()
    }

    /// The server stays away: each question finds nobody, until something else happens.
    pub(crate) fn stays_away(&mut self, ms: u64) -> Vec<String> {
        let end = self.now.plus(ms);
        loop {
            let lines = self.waits(end.since(self.now));
            if lines.is_empty() || lines.iter().any(|l| !l.ends_with("ping")) {
                return lines;
            }
            for line in lines {
                if let Some(ping) = attempt_of(&line) {
                    self.no_connection(ping);
                }
            }
        }
    }

    /// So much time passes; deadlines are served as they come.
    pub(crate) fn passes(&mut self, ms: u64) -> Vec<String> {
        let end = self.now.plus(ms);
        let mut lines = Vec::new();
        let mut ticks = 0;
        while let Some(deadline) = self.machine.deadline().filter(|d| d.at <= end) {
            self.now = self.now.max(deadline.at);
            lines.extend(self.on(Input::Tick));
            ticks += 1;
            assert!(ticks < 10_000, "the machine asks to be woken again and again: {deadline:?}");
        }
        self.now = end;
        lines
    }

    /// Time passes until the first effect that a reader sees, at most so much.
    pub(crate) fn waits(&mut self, ms: u64) -> Vec<String> {
        let end = self.now.plus(ms);
        while let Some(deadline) = self.machine.deadline().filter(|d| d.at <= end) {
            self.now = self.now.max(deadline.at);
            let lines = self.on(Input::Tick);
            if !lines.is_empty() {
                return lines;
            }
        }
        self.now = end;
        self.silences += 1;
        assert!(self.silences < 5_000, "the story waits for ever");
        Vec::new()
    }

    pub(crate) fn deadline(&self) -> Option<(u64, Why)> {
        self.machine.deadline().map(|d| (d.at.0, d.why))
    }

    pub(crate) fn report(&self) -> HealthReport {
        self.machine.report(self.now)
    }

    pub(crate) fn state(&self) -> State {
        self.report().state
    }

    pub(crate) fn conditions(&self) -> Vec<&'static str> {
        self.report().conditions.iter().map(|c| c.kind.code).collect()
    }

    /// Answers that the shell keeps and that no effect has named.
    pub(crate) fn kept(&self) -> &BTreeSet<u64> {
        &self.kept
    }

    pub(crate) fn is_over(&self, ex: u64) -> bool {
        self.ended.contains(&ex)
    }

    /// The generation that a latch's record would hold.
    pub(crate) fn generation(&self, latch: u64) -> Option<Gen> {
        self.machine.snapshot(LatchId(latch)).and_then(|s| s.bound)
    }
}

/// Which attempt a line says to be sent.
pub(crate) fn attempt_of(line: &str) -> Option<u64> {
    line.strip_prefix("send #")?.split(' ').next()?.parse().ok()
}

fn what_words(what: &What) -> String {
    match what {
        What::Exchange { ex, id: IdRule::Own } => format!("exchange {}", ex.0),
        What::Exchange { ex, id: IdRule::Mapped } => format!("exchange {} mapped", ex.0),
        What::Initialize { ex: Some(ex) } => format!("initialize of {}", ex.0),
        What::Initialize { ex: None } => "initialize".to_owned(),
        What::Initialized => "initialized".to_owned(),
        What::Ping => "ping".to_owned(),
        What::SetLevel(params) => format!("setLevel {params}"),
        What::Subscribe(params) => format!("subscribe {params}"),
        What::List { kind, cursor: None } => kind.method().to_owned(),
        What::List { kind, cursor: Some(cursor) } => format!("{} from {cursor}", kind.method()),
        What::Note(note) => format!("note {}", note.0),
        What::Stream => "stream".to_owned(),
        What::Resume { of } => format!("resume #{}", of.0),
        What::Delete => "delete".to_owned(),
    }
}

fn journal_words(entry: &journal::Entry) -> String {
    let mut words = entry.what.as_str().to_owned();
    if let Some(subject) = &entry.subject {
        words = format!("{words} {subject}");
    }
    if let Some(detail) = &entry.detail {
        words = format!("{words}: {detail}");
    }
    words
}

/// Compares the lines of a step with what the story says.
#[macro_export]
macro_rules! says {
    ($lines:expr $(, $line:expr)* $(,)?) => {{
        let lines: Vec<String> = $lines;
        let expected: Vec<&str> = vec![$($line),*];
        assert_eq!(lines, expected);
    }};
}
