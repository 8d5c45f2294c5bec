//! One upstream: its latches, exchanges, reach and health in one machine.
//!
//! [`Machine::on`] is the whole interface: a fact in, effects out. This file holds the machine, its entrance and the
//! bookkeeping of attempts; the decisions stand where their subject is: `exchange`, `latch`, `reach`, `health`.

mod attempts;
mod configured;
mod exchanges;
mod filing;
mod hold;
mod latches;
mod line;
mod outcomes;
mod pause;
mod reach;
mod timers;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use attempts::Attempts;
pub(crate) use attempts::{Attempt, Purpose, Question};
pub(crate) use outcomes::{door_words, executed_by, rpc_digest};
pub(crate) use reach::{Absence, Reach};
pub use timers::{Deadline, Why};

use crate::effect::{Connection, Effect, Send, What};
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::health::{ClientSeen, Tracker};
use crate::input::{Answer, Cut, CutKind, Input, Listed, Refusal, SessionFacts};
use crate::latch::{Farewell, Hello, LatchState, Wish};
use crate::policy::Policy;
use crate::shared::Shared;
use crate::slots::Slots;
use crate::sorted::Set;
use crate::{At, AttemptId, ExId, Gen, LatchId, journal};
use latches::Latches;
use line::Line;
pub use pause::Pause;
use pause::PauseEnd;
use relatch_wire::failure::Code;
use timers::Timers;
pub use watch::Snapshot;

/// One upstream. See the crate's page.
#[derive(Debug)]
pub struct Machine {
    pub(crate) policy: Policy,
    pub(crate) now: At,
    pub(crate) out: Vec<Effect>,
    chance: u64,
    next_attempt: u64,
    pub(crate) latches: Latches,
    /// What clients and servers say of themselves, for the latches that have it alike.
    pub(crate) clients: Shared<ClientSeen>,
    pub(crate) hellos: Shared<Hello>,
    pub(crate) revisions: Shared<str>,
    /// Tools that may be repeated, as servers annotate them.
    pub(crate) tools: Shared<BTreeSet<String>>,
    pub(crate) exchanges: Slots<ExId, Exchange>,
    pub(crate) attempts: Attempts,
    pub(crate) timers: Timers,
    pub(crate) reach: Reach,
    pub(crate) tracker: Tracker,
    /// Latches whose situation has changed: looked at before `on` returns.
    pub(crate) dirty: Set<LatchId>,
    /// Latches that wait for a permit.
    pub(crate) line: Line,
    /// Latches whose client is there.
    pub(crate) attached: BTreeSet<LatchId>,
    /// Latches that are being bound anew or asked about.
    pub(crate) unsettled: BTreeSet<LatchId>,
    /// Latches whose sessions can't be renewed, and why.
    pub(crate) troubled: BTreeMap<LatchId, Code>,
    /// Exchanges that came or came back in this turn.
    pub(crate) fresh: Set<ExId>,
    /// Exchanges that wait, of all latches.
    pub(crate) waiting: Set<ExId>,
    /// A request has just come: an upstream that is away is asked at once.
    pub(crate) knocked: bool,
    /// The upstream has named a time to come back: who can't wait so long is told.
    pub(crate) postponed: bool,
    /// This address has spoken MCP.
    pub(crate) spoken: bool,
    pub(crate) gateway_seen: Option<At>,
    /// When it was last back from an outage.
    pub(crate) back_at: Option<At>,
    /// Answers that were found not to be about the session.
    pub(crate) cleared: Vec<Cleared>,
    /// The `ping` that goes ahead of a call.
    pub(crate) looking: Option<AttemptId>,
    pub(crate) fault: Option<Fault>,
    /// The hold that is told of as one, however many wait.
    span: Option<hold::Span>,
    /// What the last probe of the idle upstream found.
    probed: watch::Found,
    /// What was refused in this turn and how, for people.
    pub(crate) refused_now: Option<String>,
    /// What is being read is no server's answer: the process or the stream that its session lived on has ended.
    pub(crate) session_ended: bool,
    gate: journal::Gate,
    /// What is being read comes from a former address.
    pub(crate) elsewhere: bool,
    /// Nothing new goes to the upstream.
    pub(crate) pause: Option<Pause>,
    /// New sessions that are wished for in place of living ones.
    pub(crate) wish: Wish,
    /// When a closed idle connection was last asked about, and how long the next one waits, unless a client has asked
    /// for something since.
    pub(crate) idle_look: Option<(At, u64)>,
}

/// An answer that is not about the session.
#[derive(Debug)]
pub(crate) struct Cleared {
    pub(crate) status: u16,
    pub(crate) digest: u64,
    pub(crate) until: At,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    Answered(Answer<'a>),
    Session(SessionFacts),
    Listed(Listed),
    Refused(Refusal<'a>),
    Cut(Cut),
    /// It took longer than it may.
    Limit,
}

impl Machine {
    /// A machine for one upstream. `chance` seeds its jitter.
    #[must_use]
    pub fn new(policy: Policy, now: At, chance: u64) -> Machine {
        Machine {
            tracker: Tracker::new(now),
            policy,
            now,
            out: Vec::new(),
            chance,
            next_attempt: 0,
            latches: Latches::default(),
            clients: Shared::default(),
            hellos: Shared::default(),
            revisions: Shared::default(),
            tools: Shared::default(),
            exchanges: Slots::default(),
            attempts: Attempts::default(),
            timers: Timers::default(),
            reach: Reach::Up,
            dirty: Set::default(),
            line: Line::default(),
            attached: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            troubled: BTreeMap::new(),
            fresh: Set::default(),
            waiting: Set::default(),
            knocked: false,
            postponed: false,
            spoken: false,
            gateway_seen: None,
            back_at: None,
            cleared: Vec::new(),
            looking: None,
            fault: None,
            span: None,
            probed: watch::Found::Answer,
            refused_now: None,
            session_ended: false,
            gate: journal::Gate::default(),
            elsewhere: false,
            pause: None,
            wish: Wish::default(),
            idle_look: None,
        }
    }

    /// The settings of this upstream.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes one fact and appends what is to be done about it, in order.
    pub fn on(&mut self, now: At, input: Input<'_>, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        std::mem::swap(&mut self.out, effects);
        match input {
            Input::Opened { latch, ex, ask, client } => self.opened(latch, ex, ask, client),
            Input::Restored { latch, restored } => self.restored(latch, restored),
            Input::Asked { latch, ex, ask } => self.asked(latch, ex, ask),
            Input::Told { latch, note, told } => self.told(latch, note, told),
            Input::Left { ex } => self.left(ex),
            Input::Attached { latch } => self.attached(latch, true),
            Input::Detached { latch } => self.attached(latch, false),
            Input::Ended { latch } => self.ended(latch),
            Input::Begun { attempt, begun } => {
                self.elsewhere = self.attempts.get(attempt).copied().is_some_and(|a| self.is_elsewhere(&a));
                self.begun(attempt, begun);
                self.elsewhere = false;
            }
            Input::Answered { attempt, answer } => self.over(attempt, Outcome::Answered(answer)),
            Input::Session { attempt, session } => self.over(attempt, Outcome::Session(session)),
            Input::Listed { attempt, listed } => self.over(attempt, Outcome::Listed(listed)),
            Input::Copy { ex, copy } => self.copy_sought(ex, copy),
            Input::Hinted { latch, hints } => self.hinted(latch, hints),
            Input::Refused { attempt, refusal } => self.over(attempt, Outcome::Refused(refusal)),
            Input::Cut { attempt, cut } => self.over(attempt, Outcome::Cut(cut)),
            Input::IdleClosed => self.idle_closed(),
            Input::Woke { ms } => self.woke(ms),
            Input::Tick => self.tick(),
            Input::Reconnect { latch } => self.reconnect(latch),
            Input::Paused { ms } => self.paused(ms),
            Input::Resumed => self.resumed(PauseEnd::Resumed),
            Input::Replace => self.replace(),
            Input::Configured { policy, moved, headers } => self.reconfigured(policy, moved, headers),
        }
        self.settle();
        self.refused_now = None;
        self.session_ended = false;
        std::mem::swap(&mut self.out, effects);
    }

    /// When to wake the machine with [`Input::Tick`], and why.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.timers.first()
    }

    /// Looks at every latch that changed until nothing changes any more, then lets newcomers begin to wait.
    fn settle(&mut self) {
        // Each look either sends something or leaves the latch as it is, so this ends; the bound catches a mistake.
        for _ in 0..10_000 + 8 * self.latches.len() {
            if let Some(latch) = self.dirty.pop_first() {
                self.advance(latch);
                self.file(latch);
            } else if self.give_permit() {
                // Whoever got it is looked at again.
            } else if std::mem::take(&mut self.knocked) {
                self.scout_for_request();
            } else if let Some(ex) = self.fresh.pop_first() {
                self.begin_hold(ex);
            } else if std::mem::take(&mut self.postponed) {
                self.give_back_postponed();
            } else {
                break;
            }
        }
        debug_assert!(self.dirty.is_empty() && self.fresh.is_empty(), "the machine does not settle");
        self.arm_idle_probe();
        match self.tracker.next_shown(self.now) {
            Some(at) => self.timers.set(Why::ConditionShows, at),
            None => self.timers.clear(Why::ConditionShows),
        }
        self.tracker.state = self.judge(self.now).state();
        // A walk over everything: with many exchanges, not after each fact.
        #[cfg(debug_assertions)]
        if self.exchanges.len() < 100 || self.next_attempt.is_multiple_of(32) {
            self.check();
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        while let Some(why) = self.timers.due(now) {
            match why {
                Why::AttemptLimit(attempt) => {
                    self.out.push(Effect::Abort { attempt });
                    self.over(attempt, Outcome::Limit);
                }
                Why::HoldEnds(ex) => self.hold_ends(ex),
                Why::EarlyDue(ex) => self.early(ex),
                Why::PauseEnds(ex) | Why::CopyDue(ex) => {
                    if let Some(exchange) = self.exchanges.get(&ex) {
                        self.dirty.insert(exchange.latch);
                    }
                }
                Why::ResumeDue(of) => self.resume(of),
                Why::RestEnds(latch) | Why::StreamAgain(latch) | Why::CompareDue(latch) => {
                    self.dirty.insert(latch);
                }
                Why::Scout => self.scout(),
                Why::IdleProbe => self.idle_probe(),
                Why::DoubtEnds(latch) => self.doubt_ends(latch),
                Why::JournalDue => self.journal_due(),
                Why::IdleLook => self.idle_closed(),
                Why::PauseRunsOut => self.resumed(PauseEnd::RanOut),
                // Health is judged anew after every fact.
                Why::ConditionShows => {}
            }
        }
    }

    /// Begins an attempt.
    pub(crate) fn send(
        &mut self,
        latch: LatchId,
        generation: Gen,
        what: What,
        purpose: Purpose,
        connection: Connection,
        limit: Option<u64>,
    ) -> AttemptId {
        self.next_attempt += 1;
        let attempt = AttemptId(self.next_attempt);
        let now = self.now;
        self.attempts.insert(
            attempt,
            Attempt { latch, generation, purpose, sent: now, begun: None, taken_over: false },
        );
        let of_it = self.latches.get_mut(&latch).map(|latch| latch.attempts.insert(attempt));
        debug_assert!(of_it.is_some(), "{latch:?} sends and is not there");
        if let Some(limit) = limit {
            self.timers.set(Why::AttemptLimit(attempt), now.plus(limit));
        }
        self.out.push(Effect::Send(Send { attempt, latch, generation, what, connection }));
        attempt
    }

    /// An attempt has ended: hand the outcome to whoever sent it.
    fn over(&mut self, id: AttemptId, outcome: Outcome<'_>) {
        let Some(attempt) = self.attempts.get(id).copied() else {
            // It was aborted, and its end crossed that on the way.
            return;
        };
        let (latch, generation, purpose) = (attempt.latch, attempt.generation, attempt.purpose);
        self.timers.clear(Why::AttemptLimit(id));
        self.elsewhere = self.is_elsewhere(&attempt);
        // An exchange's attempt stays while its stream is resumed; every other is over now.
        if !matches!(purpose, Purpose::Exchange(_)) {
            self.take_off(id);
        }
        self.scout_returned(id);
        if !self.elsewhere {
            self.hear(&attempt, &outcome);
        }
        self.refused_now = match &outcome {
            // It says how that was.
            Outcome::Refused(refusal) if refusal.ended => Some(refusal.body.to_owned()),
            Outcome::Refused(refusal) => {
                Some(format!("HTTP {} to `{}`", refusal.status, self.title_of(&purpose)))
            }
            Outcome::Answered(_)
            | Outcome::Session(_)
            | Outcome::Listed(_)
            | Outcome::Cut(_)
            | Outcome::Limit => None,
        };
        self.session_ended = matches!(&outcome, Outcome::Refused(refusal) if refusal.ended);
        let hopeless = match &outcome {
            Outcome::Cut(cut) if !cut.wrote => match cut.kind {
                CutKind::Tls => Some((Code::CertificateRefused, cut.kind, cut.cause.clone())),
                CutKind::UnknownHost => Some((Code::UnknownHost, cut.kind, cut.cause.clone())),
                CutKind::Proxy => Some((Code::ProxyRefused, cut.kind, cut.cause.clone())),
                CutKind::Garbled | CutKind::Elsewhere | CutKind::Connection => None,
            },
            _ => None,
        };
        match purpose {
            Purpose::Exchange(ex) => self.exchange_over(id, &attempt, ex, outcome),
            Purpose::Open(ex) => self.opening_over(id, &attempt, ex, outcome),
            Purpose::Handshake => self.handshake_over(id, &attempt, outcome),
            Purpose::Trial => self.trial_over(id, &attempt, outcome),
            Purpose::Initialized => self.initialized_over(id, &attempt, outcome),
            Purpose::Rebuild => self.rebuild_over(id, &attempt, outcome),
            Purpose::Ping(question) => self.ping_over(id, &attempt, question, outcome),
            Purpose::List(kind) => self.list_over(id, &attempt, kind, outcome),
            Purpose::Note(note) => self.note_over(id, &attempt, note, outcome),
            Purpose::Stream => self.stream_over(id, &attempt, outcome),
            Purpose::Resume(of) => self.resume_over(of, outcome),
            Purpose::Delete => self.out.push(Effect::Forget { latch, generation }),
        }
        if let Some((code, kind, cause)) = hopeless.filter(|_| !self.elsewhere) {
            self.mark_away(Absence { code, cause: &cause, confirmed: true, after: None });
            self.give_back_hopeless(kind, &cause);
        }
        self.elsewhere = false;
        self.dirty.insert(latch);
        self.part(latch);
    }

    /// Forgets an attempt without waiting for its end.
    pub(crate) fn abort(&mut self, attempt: AttemptId) {
        self.timers.clear(Why::AttemptLimit(attempt));
        self.timers.clear(Why::ResumeDue(attempt));
        if self.take_off(attempt).is_some() {
            self.out.push(Effect::Abort { attempt });
            self.scout_returned(attempt);
            if self.looking == Some(attempt) {
                self.look_is_over();
            }
        }
    }

    fn ping_over(&mut self, id: AttemptId, attempt: &Attempt, question: Question, outcome: Outcome<'_>) {
        if question == Question::Idle {
            self.probe_found(attempt.latch, &outcome);
        }
        match question {
            Question::Look(ex) => self.look_over(attempt, ex, outcome),
            Question::Scout | Question::Idle => self.scout_over(attempt, outcome),
            Question::Survived => {
                self.survival_over(id, attempt, &outcome);
                self.scout_over(attempt, outcome);
            }
            Question::StillThere => self.still_there_over(attempt, outcome),
            Question::Diagnose => self.diagnose_over(id, attempt, outcome),
            Question::Control => self.control_over(id, attempt, outcome),
            Question::Replica => self.replica_over(id, attempt, outcome),
        }
    }

    /// Takes what the latch can do next.
    fn advance(&mut self, id: LatchId) {
        self.advance_copies(id);
        let Some(latch) = self.latches.get(&id) else { return };
        match &latch.state {
            LatchState::Opening(ex) => {
                let ex = *ex;
                self.advance_opening(id, ex);
            }
            LatchState::Bound(generation) => {
                let generation = *generation;
                self.advance_bound(id, generation);
            }
            LatchState::Refused(_) => {
                self.accept_waiting_notes(id);
                self.advance_refused(id);
            }
            LatchState::Doubted(..) => {
                self.accept_waiting_notes(id);
                self.doubt_in_vain(id);
            }
            LatchState::Relatching(..) | LatchState::Parked(_) => {
                self.accept_waiting_notes(id);
            }
            LatchState::Ended => self.bury(id),
        }
    }

    /// The client's own `initialize` goes out, unless it is out.
    fn advance_opening(&mut self, id: LatchId, ex: ExId) {
        if self.opening_under_way(id, ex) || !self.exchanges.contains_key(&ex) {
            return;
        }
        if self.is_paused() {
            // It goes out with the end of the pause, or its hold ends.
        } else if self.away().is_some() {
            self.keep_scouting();
        } else {
            self.send_opening(id, ex);
        }
    }

    pub(crate) fn opening_under_way(&self, id: LatchId, ex: ExId) -> bool {
        self.attempts_of(id).any(|(_, a)| a.purpose == Purpose::Open(ex))
    }

    /// Everything that a bound latch has pending, in order.
    fn advance_bound(&mut self, id: LatchId, generation: Gen) {
        if self.replace_former(id, generation) {
            return;
        }
        if self.is_paused() && self.has_running(id) && self.away().is_none() {
            self.flush_notes(id, generation);
            return;
        }
        if self.is_paused() {
            self.accept_waiting_notes(id);
            return;
        }
        if self.away().is_some() {
            self.accept_waiting_notes(id);
            if self.latches.get(&id).is_some_and(|l| l.wanted(self.now)) {
                self.keep_scouting();
            }
            return;
        }
        let Some(latch) = self.latches.get(&id) else { return };
        // After an outage a session is asked, when it has a permit, before anything else is sent to it: what waits for many of them
        // would overrun a server that has just begun to listen.
        if latch.has_to_be_heard() {
            self.accept_waiting_notes(id);
            return;
        }
        if self.freshen(id, generation) {
            return;
        }
        self.flush_notes(id, generation);
        self.start_waiting(id, generation);
        self.open_stream(id, generation);
        self.close_gap(id, generation);
    }

    /// Sessions that are not in use and whose last attempt is over get their farewell.
    fn part(&mut self, id: LatchId) {
        let Some(latch) = self.latches.get(&id).filter(|l| !l.old.is_empty()) else { return };
        let mut open: BTreeSet<Gen> = self.attempts_of(id).map(|(_, a)| a.generation).collect();
        // Until another is bound in its place, it may turn out to live.
        open.extend(latch.loss().and_then(|loss| loss.generation));
        let over: Vec<(Gen, Farewell)> =
            latch.old.iter().filter(|(g, _)| !open.contains(*g)).map(|(g, f)| (*g, *f)).collect();
        for (generation, farewell) in over {
            if let Some(latch) = self.latches.get_mut(&id) {
                latch.old.remove(&generation);
                if latch.old.is_empty() {
                    // An empty tree keeps its root.
                    latch.old = BTreeMap::new();
                }
            }
            match farewell {
                Farewell::Forget => self.out.push(Effect::Forget { latch: id, generation }),
                Farewell::Delete if self.planted(Fault::LeavesSessions) => {
                    self.out.push(Effect::Forget { latch: id, generation });
                }
                Farewell::Delete => self.send_delete(id, generation),
            }
        }
    }

    pub(crate) fn send_delete(&mut self, id: LatchId, generation: Gen) {
        self.send(
            id,
            generation,
            What::Delete,
            Purpose::Delete,
            Connection::Young,
            Some(crate::policy::REBUILD_STEP_MS),
        );
    }

    /// A number below `below`, from the seed.
    pub(crate) fn chance(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    /// Writes a line of the journal.
    pub(crate) fn journal(
        &mut self,
        what: journal::What,
        latch: Option<LatchId>,
        fill: impl FnOnce(&mut journal::Entry),
    ) {
        if let Err(due) = self.gate.admit(what, self.now) {
            self.timers
                .set(Why::JournalDue, self.timers.get(Why::JournalDue).map_or(due, |set| set.min(due)));
            return;
        }
        let generation = latch.and_then(|id| self.latches.get(&id)).and_then(|l| l.generation);
        let mut entry = journal::Entry { latch, generation, ..journal::Entry::new(what) };
        fill(&mut entry);
        self.out.push(Effect::Journal(entry));
    }

    /// What the journal was spared is told as a number.
    fn journal_due(&mut self) {
        let (numbers, next) = self.gate.due(self.now);
        self.out.extend(numbers.into_iter().map(Effect::Journal));
        if let Some(next) = next {
            self.timers.set(Why::JournalDue, next);
        }
    }

    /// What was refused in this turn, for the journal.
    pub(crate) fn refused_words(&self) -> Option<String> {
        self.refused_now.clone()
    }
}
