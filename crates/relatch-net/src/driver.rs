//! One upstream at work: facts go into its machine, effects come out and are carried out.
//!
//! One lock holds the machine and the desk for one fact and its effects, never across an await, so that effects happen
//! in the order in which the machine gave them. Attempts are tasks of their own. What is sent, and when, is the core's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use relatch_core::effect::{Tell, What};
use relatch_core::health::HealthReport;
use relatch_core::input::{Answer, Input, Refusal};
use relatch_core::policy::Policy;
use relatch_core::upstream::Machine;
use relatch_core::{At, AttemptId, Effect, ExId, Gen, LatchId, journal};
use relatch_wire::handshake::{advertise_list_changed, notification_message};
use relatch_wire::{Envelope, method};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::copies::{Asker, Page, facts_of};
use crate::desk::{Desk, Exchange, Kept, Refused};
use crate::exchange::{Challenge, Final, Piece, Running, Shape};
use crate::keeper::Common;
use crate::latch::Headers;
use crate::upstream::attempt;
use crate::upstream::place::Place;
use crate::upstream::way::Way;
use crate::{lock, words};

/// The timer looks at the clock this often while something is due later: a timer stands still while the machine sleeps.
const LONGEST_NAP: Duration = Duration::from_secs(5);
/// A sleep, or a stop of relatch, of this length is told to the machine.
const SLEPT_MS: u64 = 1_000;
/// A timer that is late by this much was not run at all: relatch was stopped.
const STOPPED_MS: u64 = 5_000;
/// A deadline that is due already is not waited for less than this.
const SHORTEST_NAP: Duration = Duration::from_millis(2);

/// One upstream.
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    /// Where it is now.
    place: Mutex<Arc<Place>>,
    /// Where it was before, as far as something of it may be left there.
    former: Mutex<Vec<Weak<Place>>>,
    /// It was taken out of the configuration, and has nothing new.
    leaving: AtomicBool,
    pub(crate) common: Arc<Common>,
    /// Whether its clients are told how the connection is.
    tells: AtomicBool,
    /// Whether copies of what it says are kept and given out.
    copies: AtomicBool,
    inside: Mutex<Inside>,
    earlier: Notify,
    /// Rung whenever an attempt has ended.
    pub(crate) quieter: Notify,
    ids: AtomicU64,
}

struct Inside {
    machine: Machine,
    desk: Desk,
    effects: Vec<Effect>,
    /// What the timer waits for.
    armed: Option<At>,
    /// How long the clock says to have been asleep, as far as the machine was told.
    asleep: u64,
}

/// Annotations of tools that went to clients: tool, read-only, idempotent.
type Hints = Vec<(LatchId, Vec<(String, bool, bool)>)>;

/// What is done after the lock is let go.
#[derive(Default)]
struct Later {
    journal: Vec<journal::Entry>,
}

impl Upstream {
    /// An upstream whose timer runs until it is dropped.
    pub(crate) fn start(
        mut policy: Policy,
        headers: HeaderMap,
        way: Way,
        common: Arc<Common>,
        chance: u64,
    ) -> Arc<Upstream> {
        // The machine is not to ask for what nobody keeps.
        policy.copies &= common.copies.keeps();
        let now = At(common.clock.now_ms());
        let asleep = common.clock.asleep_ms();
        let upstream = Arc::new(Upstream {
            name: policy.name.as_str().into(),
            place: Mutex::new(Place::new(way, policy.url.clone(), headers)),
            former: Mutex::default(),
            leaving: AtomicBool::new(false),
            common,
            tells: AtomicBool::new(policy.tell),
            copies: AtomicBool::new(policy.copies),
            inside: Mutex::new(Inside {
                machine: Machine::new(policy, now, chance),
                desk: Desk::default(),
                effects: Vec::new(),
                armed: None,
                asleep,
            }),
            earlier: Notify::new(),
            quieter: Notify::new(),
            ids: AtomicU64::new(0),
        });
        tokio::spawn(keep_time(Arc::downgrade(&upstream)));
        upstream
    }

    /// Where it is now: where new sessions are opened.
    pub(crate) fn place(&self) -> Arc<Place> {
        Arc::clone(&lock(&self.place))
    }

    /// From now on it is there. Sessions stay at the place that opened them.
    pub(crate) fn moves_to(&self, place: Arc<Place>) {
        let before = std::mem::replace(&mut *lock(&self.place), place);
        let mut former = lock(&self.former);
        former.retain(|place| place.strong_count() > 0);
        former.push(Arc::downgrade(&before));
        drop(former);
        self.earlier.notify_one();
    }

    /// Every place of it that something may be left at.
    pub(crate) fn places(&self) -> Vec<Arc<Place>> {
        let former: Vec<_> = lock(&self.former).iter().filter_map(Weak::upgrade).collect();
        former.into_iter().chain([self.place()]).collect()
    }

    /// The settings that hold now.
    pub(crate) fn policy(&self) -> Policy {
        lock(&self.inside).machine.policy().clone()
    }

    /// Whether its clients are told how the connection is.
    pub(crate) fn tells(&self) -> bool {
        self.tells.load(Ordering::Relaxed)
    }

    /// From now on they are, or are not.
    pub(crate) fn tells_from_now_on(&self, tells: bool) {
        self.tells.store(tells, Ordering::Relaxed);
    }

    /// Whether copies of what it says are kept and given out.
    pub(crate) fn copies(&self) -> bool {
        self.copies.load(Ordering::Relaxed)
    }

    /// From now on they are, or are not.
    pub(crate) fn copies_from_now_on(&self, copies: bool) {
        self.copies.store(copies, Ordering::Relaxed);
    }

    /// Whether it has been taken out of the configuration.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// It is taken out of the configuration.
    pub(crate) fn leaves(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.common.clock
    }

    /// An id for a request of relatch's own.
    pub(crate) fn own_id(&self) -> relatch_wire::RequestId {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        relatch_wire::RequestId::text(&format!("{}{number}", self.common.prefix))
    }

    /// Reports a fact.
    pub(crate) fn fact(self: &Arc<Self>, input: Input<'_>) {
        self.fact_after(|_| true, input);
    }

    /// Prepares the desk and reports a fact, unless the desk says that there is nothing to report.
    pub(crate) fn fact_after(self: &Arc<Self>, prepare: impl FnOnce(&mut Desk) -> bool, input: Input<'_>) {
        let mut later = Later::default();
        {
            let mut inside = lock(&self.inside);
            if prepare(&mut inside.desk) {
                self.step(&mut inside, input, &mut later);
            }
        }
        self.after(later);
    }

    /// The same for a request whose front stands by: the attempt that it drives itself, if one has begun.
    pub(crate) fn fact_of(
        self: &Arc<Self>,
        ex: ExId,
        prepare: impl FnOnce(&mut Desk) -> bool,
        input: Input<'_>,
    ) -> Option<Running> {
        let mut later = Later::default();
        let driven = {
            let mut inside = lock(&self.inside);
            if prepare(&mut inside.desk) {
                inside.desk.front = Some(ex);
                self.step(&mut inside, input, &mut later);
                inside.desk.front = None;
            }
            inside.desk.driven.take()
        };
        self.after(later);
        driven
    }

    /// Looks at the desk, or changes what no fact depends on.
    pub(crate) fn desk<T>(&self, look: impl FnOnce(&mut Desk) -> T) -> T {
        look(&mut lock(&self.inside).desk)
    }

    /// Reports the end of an attempt and settles what the machine leaves to the shell.
    pub(crate) fn finish(self: &Arc<Self>, attempt: AttemptId, kept: Option<Kept>, input: Input<'_>) {
        let mut later = Later::default();
        {
            let mut inside = lock(&self.inside);
            let Some(ending) = inside.desk.attempts.get_mut(&attempt) else { return };
            ending.ended = true;
            ending.answer = kept.clone();
            if let Some(span) = ending.span.take() {
                span.ends(&input);
                if let Some(ex) = inside.desk.exchange_of(attempt)
                    && let Some(span) = &mut ex.span
                {
                    span.waits();
                }
            }
            let Some(ending) = inside.desk.attempts.get(&attempt) else { return };
            let (what, resumable) = (ending.what.clone(), ending.last_event.is_some());
            if let (What::Note(note), Some(Kept::Refused(refused))) = (&what, &kept)
                && let Some(note) = inside.desk.notes.get_mut(note)
            {
                note.refused = Some(refused.clone());
            }
            self.step(&mut inside, input, &mut later);
            let desk = &mut inside.desk;
            match what {
                What::Exchange { .. } | What::Initialize { ex: Some(_) } => {
                    // Without an answer there is nothing left to name, unless its stream may be resumed.
                    if kept.is_none() && !resumable {
                        desk.attempts.remove(&attempt);
                    }
                }
                What::Initialize { ex: None }
                | What::Initialized
                | What::Ping
                | What::SetLevel(_)
                | What::Subscribe(_)
                | What::List { .. }
                | What::Note(_)
                | What::Stream
                | What::Resume { .. }
                | What::Delete => {
                    desk.attempts.remove(&attempt);
                }
            }
        }
        self.quieter.notify_waiters();
        self.after(later);
    }

    /// Looks at the machine.
    pub(crate) fn machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&lock(&self.inside).machine)
    }

    /// The truth at this moment.
    pub(crate) fn report(&self) -> HealthReport {
        let now = At(self.clock().now_ms());
        lock(&self.inside).machine.report(now)
    }

    /// Health and no more, and when it was looked at.
    pub(crate) fn glance(&self) -> (At, relatch_core::health::turns::Glance) {
        let now = At(self.clock().now_ms());
        (now, lock(&self.inside).machine.glance(now))
    }

    /// The address as it may be shown.
    pub(crate) fn shown_url(&self) -> String {
        self.place().url.clone()
    }

    /// The same without its sessions.
    pub(crate) fn summary(&self) -> HealthReport {
        let now = At(self.clock().now_ms());
        lock(&self.inside).machine.summary(now)
    }

    /// Latches that have a downstream session, with its id.
    pub(crate) fn sids(&self) -> Vec<(LatchId, Arc<str>)> {
        self.desk(|desk| desk.latches.iter().map(|(id, latch)| (*id, Arc::clone(&latch.sid))).collect())
    }

    fn step(self: &Arc<Self>, inside: &mut Inside, input: Input<'_>, later: &mut Later) {
        let asleep = self.clock().asleep_ms();
        let ms = asleep.saturating_sub(inside.asleep);
        if ms >= SLEPT_MS {
            inside.asleep = asleep;
            self.tell_machine(inside, Input::Woke { ms }, later);
        }
        self.tell_machine(inside, input, later);
    }

    fn tell_machine(self: &Arc<Self>, inside: &mut Inside, input: Input<'_>, later: &mut Later) {
        let now = At(self.clock().now_ms());
        let Inside { machine, desk, effects, armed, .. } = inside;
        let before = machine.state();
        machine.on(now, input, effects);
        let mut hints = Vec::new();
        let mut records = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                // What stands in it is the same for all effects of one fact, so that the latch needs one.
                Effect::Record { latch } if records.last() == Some(&latch) => {}
                Effect::Record { latch } => records.push(latch),
                effect => self.carry_out(desk, machine, effect, later, &mut hints),
            }
        }
        for latch in records {
            self.record(desk, machine, latch);
        }
        for (latch, hints) in hints {
            machine.on(now, Input::Hinted { latch, hints }, effects);
            let mut none = Vec::new();
            for effect in effects.drain(..) {
                self.carry_out(desk, machine, effect, later, &mut none);
            }
        }
        if machine.state() != before {
            self.common.turned.send_modify(|turns| *turns += 1);
        }
        let due = machine.deadline().map(|deadline| deadline.at);
        if due.is_some_and(|due| armed.is_none_or(|armed| due < armed)) {
            *armed = due;
            self.earlier.notify_one();
        }
    }

    fn after(&self, later: Later) {
        for entry in later.journal {
            (self.common.journal)(&self.name, Timestamp::now(), entry);
        }
    }

    fn carry_out(
        self: &Arc<Self>,
        desk: &mut Desk,
        machine: &Machine,
        effect: Effect,
        later: &mut Later,
        hints: &mut Hints,
    ) {
        match effect {
            Effect::Send(send) => attempt::begin(self, desk, send),
            Effect::Abort { attempt } => {
                if let Some(aborted) = desk.attempts.remove(&attempt) {
                    if let Some(stop) = aborted.stop {
                        stop.now();
                    }
                    self.quieter.notify_waiters();
                }
            }
            Effect::Flow { ex, attempt } => {
                if let Some(attempt) = desk.attempts.get_mut(&attempt) {
                    attempt.flow = Some(ex);
                    attempt.flowing.notify_one();
                }
            }
            Effect::Pass { ex, attempt } => self.pass(desk, machine, (ex, attempt), later, hints),
            Effect::PassRefusal { ex, attempt, executed } => {
                let refused = desk.attempts.remove(&attempt).and_then(|attempt| attempt.answer);
                if let Some(mut exchange) = desk.close_exchange(ex) {
                    exchange.ends("refused", true);
                    let text = match refused {
                        Some(Kept::Refused(refused)) => {
                            words::passed_refusal(&self.name, &exchange.id, &refused, executed)
                        }
                        Some(Kept::Answer(text, _)) => text,
                        Some(Kept::Passed) | None => words::lost_answer(&self.name, &exchange.id),
                    };
                    let text = self.told(desk, machine, &exchange, text, later);
                    exchange.sink.put(Piece::Final(Final::Message { text, shape: Shape::Json }));
                }
            }
            Effect::Challenge { ex, attempt } => {
                let refused = desk.attempts.get(&attempt).and_then(|attempt| attempt.answer.clone());
                let Some(mut exchange) = desk.close_exchange(ex) else { return };
                exchange.ends("challenged", true);
                exchange.sink.put(Piece::Final(match refused {
                    Some(Kept::Refused(Refused { status, headers, body, .. })) => {
                        let instead = words::challenge(&self.name, &exchange.id, status, &headers);
                        Final::Challenge(Box::new(Challenge { status, headers, body, instead }))
                    }
                    Some(Kept::Answer(..) | Kept::Passed) | None => Final::Message {
                        text: words::lost_answer(&self.name, &exchange.id),
                        shape: Shape::Json,
                    },
                }));
            }
            Effect::Drop { attempt } => {
                desk.attempts.remove(&attempt);
            }
            Effect::Answer { ex, failure } => {
                if let Some(mut exchange) = desk.close_exchange(ex) {
                    exchange.ends(failure.code.as_str(), true);
                    let text =
                        words::failure(&self.name, self.clock(), &failure).to_message(Some(&exchange.id));
                    exchange.sink.put(Piece::Final(Final::Message { text, shape: Shape::Json }));
                }
            }
            Effect::SeekCopy { ex } => self.seek_copy(desk, ex),
            Effect::PassCopy { ex } => self.pass_copy(desk, machine, ex, later, hints),
            Effect::Early { ex } => {
                if let Some(exchange) = desk.exchanges.get(&ex) {
                    exchange.sink.put(Piece::Early);
                }
            }
            Effect::Accept { note } => desk.accept(note),
            Effect::DropNote { note } => desk.let_go(note),
            Effect::Tell { latch, tell } => {
                if let Some(latch) = desk.latches.get_mut(&latch) {
                    latch.outbox().push(telling(&tell));
                }
            }
            Effect::Withdraw { attempt } => desk.withdraw(attempt),
            Effect::CloseIdle => self.place().way.close_idle(),
            Effect::Record { latch } => self.record(desk, machine, latch),
            Effect::Forget { latch, generation } => {
                // A session belongs to the place that opened it.
                let session = desk.latches.get(&latch).and_then(|latch| latch.sessions.get(generation));
                let orphan = desk.orphans.get(&(latch, generation)).map(|(session, _)| session);
                let streamed = session.is_some_and(|session| session.streamed);
                match session.or(orphan) {
                    Some(session) => session.place.way.forget(latch, generation),
                    None => self.place().way.forget(latch, generation),
                }
                desk.orphans.remove(&(latch, generation));
                if streamed {
                    // Its stream is closed here, and what it has asked of the client goes with it.
                    desk.withdraw_session(latch, generation);
                }
                if let Some(latch) = desk.latches.get_mut(&latch) {
                    latch.sessions.remove(generation);
                }
            }
            Effect::Close { latch } => {
                if let Some(latch) = desk.close_latch(latch)
                    && !latch.sid.is_empty()
                {
                    self.common.sessions.remove(&latch.sid);
                    self.common.writer.remove(&latch.sid);
                }
            }
            Effect::Journal(entry) => later.journal.push(entry),
        }
    }

    /// What goes to the client in place of its server's answer, where `--tell` adds something.
    fn told(
        &self,
        desk: &mut Desk,
        machine: &Machine,
        exchange: &Exchange,
        text: Bytes,
        later: &mut Later,
    ) -> Bytes {
        let (text, changed) = self.with_told(desk, exchange, text, &mut later.journal);
        if changed {
            self.record(desk, machine, exchange.latch);
        }
        text
    }

    /// The attempt's answer goes to the client.
    fn pass(
        &self,
        desk: &mut Desk,
        machine: &Machine,
        (ex, attempt): (ExId, AttemptId),
        later: &mut Later,
        hints: &mut Hints,
    ) {
        let (answer, numbered, came) = match desk.attempts.remove(&attempt) {
            Some(attempt) => {
                let numbered = attempt.last_event.is_some();
                (attempt.answer, numbered, Some((attempt.generation, attempt.headers)))
            }
            None => (None, false, None),
        };
        let Some(mut exchange) = desk.close_exchange(ex) else { return };
        let last = match answer {
            Some(Kept::Answer(text, sse)) => {
                if exchange.is_watched() {
                    let failed = Envelope::read(&text)
                        .is_ok_and(|envelope| matches!(envelope.kind, relatch_wire::Kind::Error { .. }));
                    exchange.ends(if failed { "error" } else { "answered" }, failed);
                    if let Some(tapped) = &mut exchange.tapped {
                        tapped.answered(&text);
                    }
                }
                let text = self.read_on_its_way(desk, &exchange, text, came.as_ref(), hints);
                let text = self.told(desk, machine, &exchange, text, later);
                Final::Message {
                    text,
                    shape: match (sse, numbered) {
                        (false, _) => Shape::Json,
                        (true, false) => Shape::Event,
                        (true, true) => Shape::Numbered,
                    },
                }
            }
            Some(Kept::Passed) => {
                exchange.ends("answered", false);
                Final::Whole
            }
            Some(Kept::Refused(refused)) => Final::Message {
                text: words::passed_refusal(
                    &self.name,
                    &exchange.id,
                    &refused,
                    relatch_wire::failure::Executed::Unknown,
                ),
                shape: Shape::Json,
            },
            None => Final::Message { text: words::lost_answer(&self.name, &exchange.id), shape: Shape::Json },
        };
        exchange.sink.put(Piece::Final(last));
    }

    /// The copy that was found goes to the client, as the server's own answer would.
    fn pass_copy(&self, desk: &mut Desk, machine: &Machine, ex: ExId, later: &mut Later, hints: &mut Hints) {
        let Some(mut exchange) = desk.close_exchange(ex) else { return };
        exchange.ends("from-copy", false);
        let copy = exchange.copy.take().and_then(|text| Some((Envelope::read(&text).ok()?, text)));
        let text = match copy {
            Some((envelope, text)) => {
                let text = envelope.with_id(&text, &exchange.id);
                if exchange.opening
                    && let Some(facts) = facts_of(&text, true)
                    && let Some(latch) = desk.latches.get_mut(&exchange.latch)
                {
                    latch.promised = Some(desk.alike.revision(&facts.server.protocol));
                }
                let text = self.read_on_its_way(desk, &exchange, text, None, hints);
                self.told(desk, machine, &exchange, text, later)
            }
            None => words::lost_answer(&self.name, &exchange.id),
        };
        exchange.sink.put(Piece::Final(Final::Message { text, shape: Shape::Json }));
    }

    /// What is noted of an answer, and changed in it, before it goes to its client; `came` says in which session and by
    /// which headers, where it is the server's answer and no copy.
    fn read_on_its_way(
        &self,
        desk: &mut Desk,
        exchange: &Exchange,
        text: Bytes,
        came: Option<&(Gen, Headers)>,
        hints: &mut Hints,
    ) -> Bytes {
        if exchange.opening {
            return advertise_list_changed(&text);
        }
        if let (Some((kind, first)), Some(latch)) = (exchange.list, desk.latches.get_mut(&exchange.latch))
            && let Ok(envelope) = Envelope::read(&text)
            && let Some(page) = envelope.result(&text).and_then(|raw| relatch_wire::lists::items(raw, kind))
        {
            latch.lists.passed(kind, first, &page);
            // A list that is still being paged through changes with each page.
            if page.next_cursor.is_none() {
                latch.lists.share(&mut desk.alike.lists);
            }
            if let Some((generation, headers)) = came {
                let arrival = &exchange.arrival;
                let cursor = arrival.envelope.params(&arrival.message).and_then(relatch_wire::params::cursor);
                let next = page.next_cursor.as_deref();
                let page = Page { kind, asker: Asker::Client, cursor, next, text: &text };
                self.keep_page(latch, *generation, headers, &page);
            }
            if !page.hints.is_empty() {
                let seen = page.hints.into_iter().map(|(tool, h)| (tool, h.read_only, h.idempotent));
                hints.push((exchange.latch, seen.collect()));
            }
        }
        text
    }

    fn record(&self, desk: &Desk, machine: &Machine, id: LatchId) {
        if !self.common.writer.keeps() {
            return;
        }
        let Some(latch) = desk.latches.get(&id) else { return };
        let Some(snapshot) = machine.snapshot(id) else { return };
        let now = Timestamp::now().as_millisecond();
        if let Some(record) = latch.record(&self.name, &self.place(), now, snapshot) {
            self.common.writer.put(record);
        }
    }

    /// Reports the answer of an attempt.
    pub(crate) fn answered(
        self: &Arc<Self>,
        attempt: AttemptId,
        kept: Kept,
        kind: Option<&relatch_wire::Kind>,
    ) {
        let answer = match kind {
            Some(relatch_wire::Kind::Error { code, message, .. }) => Answer::Error { code: *code, message },
            Some(_) | None => Answer::Result,
        };
        self.finish(attempt, Some(kept), Input::Answered { attempt, answer });
    }

    /// Reports the refusal of an attempt.
    pub(crate) fn refused(self: &Arc<Self>, attempt: AttemptId, refused: Refused) {
        let body = String::from_utf8_lossy(&refused.body).into_owned();
        let envelope = Envelope::read(&refused.body).ok();
        let rpc_code = envelope.as_ref().and_then(Envelope::error_code);
        let without_id = match &envelope {
            Some(envelope) => envelope.with_id(&refused.body, &relatch_wire::RequestId::number(0)),
            None => refused.body.clone(),
        };
        let location = refused.location.clone();
        let refusal = Refusal {
            status: refused.status.as_u16(),
            body: &body,
            rpc_code,
            digest: relatch_wire::digest::digest(&without_id),
            challenge: refused.headers.contains_key(http::header::WWW_AUTHENTICATE),
            retry_after: refused.retry_after,
            location: location.as_deref(),
            ended: refused.ended,
        };
        self.desk(|desk| {
            let Some(of) = desk.attempts.get(&attempt) else { return };
            let opens = matches!(of.what, What::Initialize { .. });
            if refused.status == StatusCode::UNAUTHORIZED || opens && refused.status == StatusCode::FORBIDDEN
            {
                self.refuse_copies(desk, of);
            }
        });
        let kept = Kept::Refused(refused.clone());
        self.finish(attempt, Some(kept), Input::Refused { attempt, refusal });
    }
}

/// Wakes the machine when it wants to be woken.
async fn keep_time(upstream: Weak<Upstream>) {
    loop {
        let Some(up) = upstream.upgrade() else { return };
        let closed = up.place().way.idle_closed();
        let due = {
            let mut inside = lock(&up.inside);
            inside.armed = inside.machine.deadline().map(|deadline| deadline.at);
            inside.armed
        };
        let now = At(up.clock().now_ms());
        let asleep = up.clock().asleep_ms();
        let nap = due.map(|due| Duration::from_millis(due.since(now)).clamp(SHORTEST_NAP, LONGEST_NAP));
        // Without a deadline the upstream is looked for again now and then, so that this task ends with it.
        let nap = nap.unwrap_or(LONGEST_NAP * 12);
        {
            let earlier = up.earlier.notified();
            tokio::pin!(earlier);
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = &mut earlier => {}
                () = closed.notified() => up.fact(Input::IdleClosed),
            }
        }
        // What the clock counts as sleep is told with the next fact.
        let awake = up.clock().now_ms().saturating_sub(up.clock().asleep_ms().saturating_sub(asleep));
        let late = awake.saturating_sub(now.0).saturating_sub(nap.as_millis() as u64);
        if late >= STOPPED_MS {
            up.fact(Input::Woke { ms: late });
        }
        if due.is_some_and(|due| due <= At(up.clock().now_ms())) {
            up.fact(Input::Tick);
        }
    }
}

fn telling(tell: &Tell) -> Bytes {
    match tell {
        Tell::ListChanged(kind) => notification_message(kind.changed_notification(), None),
        Tell::Updated(uri) => {
            let params = serde_json::json!({ "uri": uri }).to_string();
            notification_message(method::RESOURCE_UPDATED, Some(params.as_bytes()))
        }
    }
}
