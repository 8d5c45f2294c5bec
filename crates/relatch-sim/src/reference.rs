//! The reference: what has been promised, what was done, and whether the two agree.
//!
//! It sees the facts and effects as a bystander would, and what the server ran. It never looks into the machine and
//! shares no code with it but the bounds of the policy. The first breach is kept; the world stops at it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use relatch_core::effect::{Effect, Send, What};
use relatch_core::health::{HealthReport, State};
use relatch_core::policy::{self, Policy};
use relatch_core::{At, AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::failure::Executed;
use relatch_wire::method::RetryClass;

use crate::client::{Client, Does};
use crate::law::{Breach, Law};
use crate::server::Key;

/// A wait may end this much after its time: looks and questions go ahead of a few steps.
const SLACK_MS: u64 = 3_000;
/// An answer that raised doubt is kept no longer: ping, handshake, `initialized`, control.
const DOUBT_MS: u64 = policy::PING_MS + 2 * policy::HANDSHAKE_STEP_MS + policy::REBUILD_STEP_MS + SLACK_MS;

/// Questions within a second to an upstream that is down: one in 100 ms at most, with the handshake that may follow it;
/// and what had its permit just before.
const SCOUTS: usize = 22 + policy::PERMITS;

/// Who still waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Waits,
    Left,
    Cancelled,
}

/// One request of a client's.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) latch: LatchId,
    pub(crate) title: &'static str,
    pub(crate) class: RetryClass,
    pub(crate) does: Does,
    pub(crate) opens: bool,
    pub(crate) accepts_sse: bool,
    pub(crate) id: i64,
    pub(crate) asked: At,
    pub(crate) asker: Asker,
    pub(crate) end: Option<&'static str>,
    runs: u32,
    sendings: u32,
    claimed_unrun: bool,
    newest: Option<AttemptId>,
    /// A long answer of it has begun to go through.
    passing: bool,
    /// Nothing of it is under way since.
    idle: Option<At>,
    early: bool,
}

impl Request {
    pub(crate) fn new(latch: LatchId, wish: &crate::client::Wish, id: i64, asked: At) -> Request {
        Request {
            latch,
            title: wish.title(),
            class: wish.class,
            does: wish.does.clone(),
            opens: wish.method == relatch_wire::method::INITIALIZE,
            accepts_sse: true,
            id,
            asked,
            asker: Asker::Waits,
            end: None,
            runs: 0,
            sendings: 0,
            claimed_unrun: false,
            newest: None,
            passing: false,
            idle: Some(asked),
            early: false,
        }
    }
}

/// What one upstream session has been sent so far.
#[derive(Debug, Default)]
struct Sent {
    initialized: bool,
    /// Levels that were set in it; which came last, nobody knows of two that were under way at once.
    levels: BTreeSet<String>,
    subscriptions: BTreeSet<String>,
    farewell: bool,
    /// The shell may still send to it.
    open: bool,
}

/// What a message says that expects no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// The client is initialized.
    Initialized,
    /// The answer to a request of this session's server.
    AnswerTo(Gen),
    /// A request is cancelled.
    Cancelled,
    /// Anything else.
    Other,
}

/// A message that expects no answer.
#[derive(Debug)]
struct Note {
    latch: LatchId,
    says: Says,
    accepted: bool,
    arrived: bool,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) breach: Option<Breach>,
    pub(crate) requests: BTreeMap<ExId, Request>,
    pub(crate) closed: BTreeSet<LatchId>,
    /// Answers that the shell keeps, whether they are results, and since when.
    kept: BTreeMap<AttemptId, (bool, At)>,
    under_way: BTreeMap<AttemptId, Send>,
    sent_at: BTreeMap<AttemptId, At>,
    sessions: BTreeMap<Key, Sent>,
    notes: BTreeMap<NoteId, Note>,
    last_note: BTreeMap<LatchId, NoteId>,
    answered: Option<At>,
    /// The newest session of each latch when the upstream's address became another one: these are no evidence of it.
    former: BTreeMap<LatchId, Gen>,
    down: bool,
    /// Requests for which the shell has found a copy under their own credentials.
    found: BTreeSet<ExId>,
    /// Latches that have sent a request of their clients' to a session.
    served: BTreeSet<LatchId>,
    /// Sessions opened by relatch's own handshakes since a client's request was answered.
    fruitless: BTreeMap<LatchId, VecDeque<At>>,
    /// Questions and handshakes sent while the upstream was called down.
    scouts: VecDeque<At>,
    scouts_now: usize,
    /// The announced restart that holds.
    pause: Option<Announced>,
    /// Those that are over: from when to when.
    pauses: Vec<(At, At)>,
    now: At,
}

/// An announced restart.
#[derive(Debug)]
struct Announced {
    since: At,
    until: At,
    /// Latches that had something under way when it began, and what may yet be sent of relatch's own for each.
    busy: BTreeMap<LatchId, usize>,
}

impl Reference {
    pub(crate) fn new() -> Reference {
        Reference {
            breach: None,
            requests: BTreeMap::new(),
            closed: BTreeSet::new(),
            kept: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sent_at: BTreeMap::new(),
            sessions: BTreeMap::new(),
            notes: BTreeMap::new(),
            last_note: BTreeMap::new(),
            answered: None,
            former: BTreeMap::new(),
            down: false,
            found: BTreeSet::new(),
            served: BTreeSet::new(),
            fruitless: BTreeMap::new(),
            scouts: VecDeque::new(),
            scouts_now: 0,
            pause: None,
            pauses: Vec::new(),
            now: At(0),
        }
    }

    pub(crate) fn at(&mut self, now: At) {
        self.now = now;
        if let Some(pause) = self.pause.take_if(|pause| pause.until <= now) {
            self.fruitless.clear();
            self.pauses.push((pause.since, pause.until));
        }
    }

    /// Nothing new is to be sent for so long.
    pub(crate) fn pauses(&mut self, ms: u64) {
        let mut busy: BTreeMap<LatchId, usize> = BTreeMap::new();
        for send in self.under_way.values().filter(|send| send.what != What::Stream) {
            // A ping, a handshake with what follows it, and the control of it: for each answer that raises a doubt.
            *busy.entry(send.latch).or_insert(12) += 12;
        }
        for attempt in self.kept.keys() {
            // Its doubt is being settled.
            let whose = self.requests.values().find(|r| r.newest == Some(*attempt)).map(|r| r.latch);
            if let Some(latch) = whose {
                *busy.entry(latch).or_insert(12) += 12;
            }
        }
        let since = self.pause.as_ref().map_or(self.now, |pause| pause.since);
        self.pause = Some(Announced { since, until: self.now.plus(ms), busy });
    }

    /// Whoever announced it says that it is over.
    pub(crate) fn resumes(&mut self) {
        self.fruitless.clear();
        if let Some(pause) = self.pause.take() {
            self.pauses.push((pause.since, self.now));
        }
    }

    /// Nobody's time goes by.
    pub(crate) fn sleeps(&mut self, ms: u64) {
        if let Some(pause) = &mut self.pause {
            pause.until = pause.until.plus(ms);
        }
    }

    /// For how long it has been paused since then.
    fn paused_since(&self, from: At) -> u64 {
        let now = self.pause.iter().map(|pause| (pause.since, self.now));
        let all = self.pauses.iter().copied().chain(now);
        all.map(|(since, until)| until.since(since.max(from))).sum()
    }

    /// Whether this may be sent to an upstream that is paused.
    fn keeps_the_pause(&mut self, send: &Send) -> bool {
        let runs =
            self.under_way.values().any(|s| s.latch == send.latch && matches!(s.what, What::Exchange { .. }));
        let Some(pause) = &mut self.pause else { return true };
        match &send.what {
            What::Exchange { .. } | What::Initialize { ex: Some(_) } | What::Stream | What::List { .. } => {
                false
            }
            What::Resume { .. } | What::Delete => true,
            What::Note(note) => {
                runs || !matches!(
                    self.notes.get(note).map(|note| note.says),
                    Some(Says::Other | Says::Initialized)
                )
            }
            What::Ping
            | What::Initialize { ex: None }
            | What::Initialized
            | What::SetLevel(_)
            | What::Subscribe(_) => pause.busy.get_mut(&send.latch).is_some_and(|left| {
                let some = *left > 0;
                *left = left.saturating_sub(1);
                some
            }),
        }
    }

    /// Records a breach, unless the law held.
    pub(crate) fn holds(&mut self, law: Law, held: bool, what: impl FnOnce() -> String) {
        if !held && self.breach.is_none() {
            self.breach = Some(Breach { law, at: self.now, what: what() });
        }
    }

    // What the shell reports.

    pub(crate) fn asked(&mut self, ex: ExId, request: Request) {
        self.requests.insert(ex, request);
    }

    pub(crate) fn told(&mut self, note: NoteId, latch: LatchId, says: Says) {
        self.notes.insert(note, Note { latch, says, accepted: false, arrived: false });
    }

    /// The server has run a request.
    pub(crate) fn ran(&mut self, ex: ExId) {
        let Some(request) = self.requests.get_mut(&ex) else { return };
        request.runs += 1;
        let (title, runs, class, claimed) =
            (request.title, request.runs, request.class, request.claimed_unrun);
        let bound = if class == RetryClass::Always { policy::SENDINGS } else { 1 };
        self.holds(Law::RunsOnce, runs <= bound, || format!("{ex:?} `{title}` ran {runs} times"));
        self.holds(Law::ClaimIsTrue, !claimed, || {
            format!("{ex:?} `{title}` runs after its client was told that it did not")
        });
    }

    /// The shell has found a copy for this request, under the credentials that came with it.
    pub(crate) fn copy_found(&mut self, ex: ExId) {
        self.found.insert(ex);
    }

    /// A message without answer has reached the server.
    pub(crate) fn note_arrived(&mut self, id: NoteId) {
        let Some(note) = self.notes.get_mut(&id) else { return };
        let twice = std::mem::replace(&mut note.arrived, true);
        let (latch, ordered) = (note.latch, note.says == Says::Other);
        self.holds(Law::NotesOnce, !twice, || format!("{id:?} reached the server twice"));
        if ordered {
            let last = self.last_note.insert(latch, id);
            self.holds(Law::NotesOnce, last.is_none_or(|last| last <= id), || {
                format!("{id:?} reached the server after {last:?}")
            });
        }
    }

    /// A session was opened at the server and relatch has heard of it.
    pub(crate) fn opened(&mut self, key: Key, own: bool) {
        self.sessions.entry(key).or_default().open = true;
        if own {
            let now = self.now;
            let opened = self.fruitless.entry(key.0).or_default();
            opened.push_back(now);
            while opened.front().is_some_and(|at| now.since(*at) >= policy::REST_MS) {
                opened.pop_front();
            }
            let n = opened.len();
            self.holds(Law::NoStorm, n <= policy::FLAPS as usize + 1, || {
                format!("{:?} got {n} sessions within {} ms and no answer", key.0, policy::REST_MS)
            });
        }
    }

    /// Somebody asked for new sessions: rests are over.
    pub(crate) fn reconnect(&mut self) {
        self.fruitless.clear();
    }

    /// An attempt is over; what came may be kept.
    pub(crate) fn over(&mut self, attempt: AttemptId, answer: Option<bool>) {
        let Some(send) = self.under_way.remove(&attempt) else { return };
        if let (Some(ok), What::Exchange { .. } | What::Initialize { ex: Some(_) }) = (answer, &send.what) {
            self.kept.insert(attempt, (ok, self.now));
        } else {
            self.rests(&send);
        }
    }

    /// A request of which nothing was written was as good as never sent.
    pub(crate) fn unwritten(&mut self, send: &Send) {
        let key = (send.latch, send.generation);
        match &send.what {
            What::Exchange { ex, .. } | What::Initialize { ex: Some(ex) } => {
                if let Some(request) = self.requests.get_mut(ex) {
                    request.sendings -= 1;
                }
            }
            What::Initialized => self.sessions.entry(key).or_default().initialized = false,
            What::Note(note) if self.notes.get(note).is_some_and(|n| n.says == Says::Initialized) => {
                self.sessions.entry(key).or_default().initialized = false;
            }
            What::SetLevel(level) => {
                self.sessions.entry(key).or_default().levels.remove(level);
            }
            What::Subscribe(uri) => {
                self.sessions.entry(key).or_default().subscriptions.remove(uri);
            }
            _ => {}
        }
    }

    /// Time in which nobody could do anything is nobody's wait.
    pub(crate) fn slept(&mut self) {
        for request in self.requests.values_mut().filter(|r| r.end.is_none() && r.idle.is_some()) {
            request.idle = Some(self.now);
            request.asked = self.now;
        }
        for (_, since) in self.kept.values_mut() {
            *since = self.now;
        }
    }

    pub(crate) fn sign_of_life(&mut self, (latch, generation): Key) {
        if self.former.get(&latch).is_none_or(|former| generation > *former) {
            self.answered = Some(self.now);
        }
    }

    /// The upstream's address is another one.
    pub(crate) fn moved(&mut self) {
        self.answered = None;
        let sent = self.under_way.values().map(|send| (send.latch, send.generation));
        for (latch, generation) in self.sessions.keys().copied().chain(sent) {
            let former = self.former.entry(latch).or_insert(generation);
            *former = (*former).max(generation);
        }
    }

    /// The first bytes of a long answer are there.
    pub(crate) fn passes(&mut self, ex: ExId) {
        if let Some(request) = self.requests.get_mut(&ex) {
            request.passing = true;
        }
    }

    /// Whether a session was sent its DELETE.
    pub(crate) fn farewelled(&self, key: Key) -> bool {
        self.sessions.get(&key).is_some_and(|s| s.farewell)
    }

    /// The keeper was killed: what it kept is gone, and so are those who waited.
    pub(crate) fn keeper_died(&mut self, bound: &BTreeSet<Key>) {
        self.kept.clear();
        self.under_way.clear();
        self.notes.clear();
        self.last_note.clear();
        self.answered = None;
        self.former.clear();
        self.down = false;
        self.fruitless.clear();
        self.pause = None;
        for (key, sent) in &mut self.sessions {
            sent.open = bound.contains(key);
        }
        for request in self.requests.values_mut().filter(|r| r.end.is_none()) {
            request.end = Some("the keeper was killed");
        }
    }

    // What the machine says is to be done.

    /// Everything that came out for one fact.
    pub(crate) fn effects(&mut self, effects: &[Effect], clients: &mut BTreeMap<LatchId, Client>) {
        let mut last: BTreeMap<LatchId, ExId> = BTreeMap::new();
        for effect in effects {
            if let Effect::Send(Send { latch, what: What::Exchange { ex, .. }, .. }) = effect {
                let before = last.insert(*latch, *ex);
                self.holds(Law::RightSession, before.is_none_or(|before| before < *ex), || {
                    format!("{ex:?} is started after {before:?}, which was asked later")
                });
            }
            self.effect(effect, clients);
        }
    }

    fn effect(&mut self, effect: &Effect, clients: &mut BTreeMap<LatchId, Client>) {
        match effect {
            Effect::Send(send) => self.sent(send, clients.get(&send.latch)),
            Effect::Abort { attempt } => {
                if let Some(send) = self.under_way.remove(attempt) {
                    self.rests(&send);
                }
            }
            Effect::Pass { ex, attempt } => {
                let ok = self.release(*attempt, "pass");
                self.ends(*ex, "pass", Some(*attempt), None);
                if ok && let Some(client) = self.requests.get(ex).and_then(|r| clients.get_mut(&r.latch)) {
                    self.changes(*ex, *attempt, client);
                }
            }
            Effect::PassRefusal { ex, attempt, executed } => {
                self.release(*attempt, "pass as a refusal");
                self.ends(*ex, "pass-refusal", Some(*attempt), Some(*executed));
            }
            // The server's own answer, as it came: it says nothing of earlier attempts.
            Effect::Challenge { ex, .. } => self.ends(*ex, "challenge", None, None),
            Effect::Answer { ex, failure } => {
                self.ends(*ex, failure.code.as_str(), None, Some(failure.executed));
            }
            Effect::PassCopy { ex } => {
                let found = self.found.remove(ex);
                let fit = self.requests.get(ex).is_some_and(|r| {
                    (r.opens || matches!(r.does, Does::List(_))) && !self.served.contains(&r.latch)
                });
                self.holds(Law::CopiesHonest, found && fit, || {
                    format!("{ex:?} is answered from a copy (found: {found}; a late client's opening or list: {fit})")
                });
                self.ends(*ex, "copy", None, None);
            }
            Effect::Drop { attempt } => {
                self.kept.remove(attempt);
                if let Some(send) = self.under_way.remove(attempt) {
                    self.rests(&send);
                }
                for request in self.requests.values_mut() {
                    if request.newest == Some(*attempt) && request.end.is_none() && request.idle.is_none() {
                        request.idle = Some(self.now);
                    }
                }
            }
            Effect::Close { latch } => {
                let first = self.closed.insert(*latch);
                self.holds(Law::AnsweredOnce, first, || format!("{latch:?} closes twice"));
                self.notes.retain(|_, note| note.latch != *latch);
                // The shell lets go of the whole latch.
                for (_, sent) in self.sessions.iter_mut().filter(|(key, _)| key.0 == *latch) {
                    sent.open = false;
                }
            }
            Effect::Accept { note } => {
                let twice =
                    self.notes.get_mut(note).is_some_and(|note| std::mem::replace(&mut note.accepted, true));
                self.holds(Law::NotesOnce, !twice, || format!("{note:?} is accepted twice"));
            }
            Effect::DropNote { note } => {
                let there = self.notes.remove(note).is_some();
                self.holds(Law::NothingPilesUp, there, || format!("{note:?} is let go twice"));
            }
            Effect::Early { ex } => {
                let fit = self.requests.get_mut(ex).is_some_and(|r| {
                    r.accepts_sse && !r.opens && r.end.is_none() && !std::mem::replace(&mut r.early, true)
                });
                self.holds(Law::FirstBytes, fit, || format!("early headers that {ex:?} does not take"));
            }
            Effect::Forget { latch, generation } => {
                self.sessions.entry((*latch, *generation)).or_default().open = false;
            }
            Effect::Flow { .. }
            | Effect::Tell { .. }
            | Effect::SeekCopy { .. }
            | Effect::Withdraw { .. }
            | Effect::CloseIdle
            | Effect::Record { .. }
            | Effect::Journal(_) => {}
        }
    }

    fn sent(&mut self, send: &Send, client: Option<&Client>) {
        let key = (send.latch, send.generation);
        let open = self.sessions.get(&key).is_some_and(|s| s.open);
        let opens = matches!(send.what, What::Initialize { .. } | What::Delete);
        self.holds(Law::RightSession, open || opens, || format!("{send:?} goes to no session"));
        let kept = self.keeps_the_pause(send);
        self.holds(Law::PauseKept, kept, || format!("{send:?} is sent in a pause"));
        match &send.what {
            What::Exchange { ex, .. } => self.request_sent(*ex, send, client),
            What::Initialize { ex } => {
                if let Some(request) = ex.and_then(|ex| self.requests.get_mut(&ex)) {
                    request.newest = Some(send.attempt);
                    request.sendings += 1;
                }
                self.handshake_sent(send, ex.is_none());
            }
            What::Delete => {
                let twice = std::mem::replace(&mut self.sessions.entry(key).or_default().farewell, true);
                self.holds(Law::LivingSessionsKept, !twice, || format!("a second DELETE of {key:?}"));
            }
            What::Initialized => self.sessions.entry(key).or_default().initialized = true,
            What::SetLevel(level) => {
                self.sessions.entry(key).or_default().levels.insert(level.clone());
            }
            What::Subscribe(uri) => {
                self.sessions.entry(key).or_default().subscriptions.insert(uri.clone());
            }
            What::Note(id) => match self.notes.get(id).map(|note| note.says) {
                Some(Says::Initialized) => self.sessions.entry(key).or_default().initialized = true,
                Some(Says::AnswerTo(of)) => self.holds(Law::NotesOnce, of == send.generation, || {
                    format!("{id:?} answers {of:?} and goes to {:?}", send.generation)
                }),
                Some(Says::Cancelled | Says::Other) | None => {}
            },
            What::Ping => self.scouts_now += 1,
            What::List { .. } | What::Stream | What::Resume { .. } => {}
        }
        self.under_way.insert(send.attempt, send.clone());
        self.sent_at.insert(send.attempt, self.now);
    }

    fn request_sent(&mut self, ex: ExId, send: &Send, client: Option<&Client>) {
        let key = (send.latch, send.generation);
        let Some(request) = self.requests.get_mut(&ex) else { return };
        request.newest = Some(send.attempt);
        request.sendings += 1;
        request.idle = None;
        self.served.insert(send.latch);
        let (asker, end, passing, title) = (request.asker, request.end, request.passing, request.title);
        let (latch, sendings) = (request.latch, request.sendings);
        self.holds(Law::NotForTheGone, asker == Asker::Waits && end.is_none(), || {
            format!("{ex:?} `{title}` is sent: its client {asker:?}, its end {end:?}")
        });
        self.holds(Law::RunsOnce, !passing, || {
            format!("{ex:?} `{title}` is sent again while its long answer goes through")
        });
        self.holds(Law::RunsOnce, sendings <= policy::SENDINGS + 1, || {
            format!("{ex:?} `{title}` is sent {sendings} times")
        });
        self.holds(Law::RightSession, latch == send.latch, || format!("{ex:?} goes to {:?}", send.latch));
        let sent = self.sessions.entry(key).or_default();
        let (initialized, farewell) = (sent.initialized, sent.farewell);
        let rebuilt = client.is_none_or(|client| {
            client.level.as_ref().is_none_or(|level| sent.levels.contains(level))
                && client.subscriptions.is_subset(&sent.subscriptions)
        });
        let (knows, wants) = (format!("{sent:?}"), format!("{client:?}"));
        self.holds(Law::Rebuilt, initialized && rebuilt, || {
            format!("{ex:?} `{title}` goes to {key:?}, which has been told {knows}, of {wants}")
        });
        self.holds(Law::RightSession, !farewell, || format!("{ex:?} goes to {key:?} after its DELETE"));
    }

    fn handshake_sent(&mut self, send: &Send, own: bool) {
        let handshakes = |of: &Send| matches!(of.what, What::Initialize { .. });
        let of_latch = self.under_way.values().filter(|s| s.latch == send.latch && handshakes(s)).count();
        self.holds(Law::NoStorm, of_latch == 0, || format!("{:?} opens two sessions at once", send.latch));
        if own {
            let all =
                self.under_way.values().filter(|s| matches!(s.what, What::Initialize { ex: None })).count();
            self.holds(Law::NoStorm, all < policy::PERMITS, || format!("{} handshakes at once", all + 1));
            self.scouts_now += 1;
        }
    }

    /// While the upstream is down, it is asked now and then, and not more often.
    fn scouts(&mut self) {
        let now = self.now;
        let sent = std::mem::take(&mut self.scouts_now);
        if !self.down {
            self.scouts.clear();
            return;
        }
        self.scouts.extend((0..sent).map(|_| now));
        while self.scouts.front().is_some_and(|at| now.since(*at) >= 1_000) {
            self.scouts.pop_front();
        }
        let n = self.scouts.len();
        self.holds(Law::NoStorm, n <= SCOUTS, || {
            format!("{n} questions within a second to a server that is down")
        });
    }

    /// Nothing of this is under way any more.
    fn rests(&mut self, send: &Send) {
        if let What::Exchange { ex, .. } | What::Initialize { ex: Some(ex) } = &send.what
            && let Some(request) = self.requests.get_mut(ex)
            && request.newest == Some(send.attempt)
        {
            request.idle.get_or_insert(self.now);
        }
    }

    fn release(&mut self, attempt: AttemptId, verb: &str) -> bool {
        let kept = self.kept.remove(&attempt);
        self.holds(Law::NothingPilesUp, kept.is_some(), || {
            format!("there is nothing of {attempt:?} to {verb}")
        });
        kept.is_some_and(|(ok, _)| ok)
    }

    /// What a successful request changes for its client and in its session.
    fn changes(&mut self, ex: ExId, attempt: AttemptId, client: &mut Client) {
        let Some(request) = self.requests.get(&ex).filter(|r| r.newest == Some(attempt)) else { return };
        match &request.does {
            Does::Level(level) => client.level = Some(level.clone()),
            Does::Subscribe(uri) => {
                client.subscriptions.insert(uri.clone());
            }
            Does::Unsubscribe(uri) => {
                client.subscriptions.remove(uri);
            }
            Does::List(kind) => {
                let version = client.coming.get(kind).copied().unwrap_or_default();
                client.seen.insert(*kind, version);
            }
            Does::Nothing => {}
        }
    }

    /// The session of a client's own request has done it.
    pub(crate) fn did(&mut self, ex: ExId, key: Key) {
        let Some(request) = self.requests.get(&ex) else { return };
        let sent = self.sessions.entry(key).or_default();
        match &request.does {
            Does::Level(level) => {
                sent.levels.insert(level.clone());
            }
            Does::Subscribe(uri) => {
                sent.subscriptions.insert(uri.clone());
            }
            Does::Unsubscribe(_) | Does::Nothing | Does::List(_) => {}
        }
    }

    fn ends(&mut self, ex: ExId, how: &'static str, attempt: Option<AttemptId>, executed: Option<Executed>) {
        let Some(request) = self.requests.get_mut(&ex) else {
            return self.holds(Law::AnsweredOnce, false, || format!("{ex:?} was never asked"));
        };
        let before = request.end.replace(how);
        request.claimed_unrun = executed == Some(Executed::No);
        request.idle = None;
        let (newest, title, opens) = (request.newest, request.title, request.opens);
        let (runs, claimed, latch) = (request.runs, request.claimed_unrun, request.latch);
        self.holds(Law::AnsweredOnce, before.is_none(), || {
            format!("{ex:?} `{title}` ends twice: {before:?} and {how}")
        });
        self.holds(Law::RightAttempt, attempt.is_none() || attempt == newest, || {
            format!("{ex:?} `{title}` is answered by {attempt:?}, and its newest is {newest:?}")
        });
        self.holds(Law::ClaimIsTrue, opens || !claimed || runs == 0, || {
            format!("{ex:?} `{title}` ran, and its client is told that it did not ({how})")
        });
        if how == "pass" {
            self.fruitless.remove(&latch);
        }
    }

    // What must hold whenever nothing is due.

    /// Looks at everything that time may break.
    pub(crate) fn look(&mut self, report: &HealthReport, policy: &Policy) {
        let now = self.now;
        self.down = report.state == State::Down && report.facets.reachable == Some(false);
        self.scouts();
        let fresh = self.answered.is_some_and(|at| now.since(at) < policy::FRESH_MS);
        self.holds(Law::FreshHealth, report.state != State::Healthy || fresh, || {
            "healthy without a fresh answer".to_owned()
        });
        let answered = self.answered;
        self.holds(
            Law::HonestDown,
            report.state != State::Down || answered.is_none_or(|at| at <= report.since) || !self.down,
            || format!("down since {:?}, and answered at {answered:?}", report.since),
        );
        let paused = self.pause.is_some();
        self.holds(Law::PauseKept, !paused || report.state == State::Recovering, || {
            format!("paused, and called {:?}", report.state)
        });
        let mut late = None;
        for (ex, request) in self.requests.iter().filter(|(_, r)| r.end.is_none()) {
            let Some(idle) = request.idle else { continue };
            if request.asker == Asker::Left {
                continue;
            }
            let from = if request.opens { request.asked } else { idle };
            let hold = if request.opens {
                policy.hold_ms.clamp(policy::HANDSHAKE_LEAST_MS, policy::HANDSHAKE_HOLD_MS)
            } else {
                policy.hold_ms + self.paused_since(from)
            };
            if now.since(from) > hold + SLACK_MS {
                late = Some((Law::WaitIsBounded, *ex, now.since(from), request.title));
            }
            let first = request.asked.plus(policy::EARLY_MS).max(idle.plus(policy::EARLY_GRACE_MS));
            let takes = request.accepts_sse && !request.opens && !request.early;
            if takes && now > first.plus(SLACK_MS) && request.asker == Asker::Waits {
                late = Some((Law::FirstBytes, *ex, now.since(request.asked), request.title));
            }
        }
        if let Some((law, ex, waited, title)) = late {
            self.holds(law, false, || format!("{ex:?} `{title}` waits for {waited} ms"));
        }
        let longest = self.kept.values().map(|(_, since)| now.since(*since)).max().unwrap_or_default();
        self.holds(Law::WaitIsBounded, longest <= DOUBT_MS, || format!("an answer is kept for {longest} ms"));
        self.crowding();
    }

    /// Queues and memory: in proportion to what clients have asked for.
    fn crowding(&mut self) {
        let open = self.requests.values().filter(|r| r.end.is_none()).count();
        let latches: BTreeSet<LatchId> = self.under_way.values().map(|s| s.latch).collect();
        let sent = self.under_way.len();
        let gone = self.requests.values().filter(|r| r.end.is_none() && r.asker != Asker::Waits).count();
        self.holds(Law::NothingPilesUp, sent <= 2 * (open + gone) + 12 * latches.len().max(1), || {
            format!("{sent} attempts under way for {open} requests of {} clients", latches.len())
        });
        let used: BTreeSet<Key> = self.under_way.values().map(|s| (s.latch, s.generation)).collect();
        let mut idle: BTreeMap<LatchId, Vec<Gen>> = BTreeMap::new();
        for key in self.sessions.iter().filter(|(key, s)| s.open && !used.contains(key)).map(|(key, _)| key) {
            idle.entry(key.0).or_default().push(key.1);
        }
        for (latch, idle) in idle {
            self.holds(Law::NothingPilesUp, idle.len() <= 3, || {
                format!("{latch:?} keeps sessions that nobody uses: {idle:?}")
            });
        }
    }

    /// What must hold when the world has been good for long enough.
    pub(crate) fn at_the_end(&mut self) {
        let lost = self
            .requests
            .iter()
            .find(|(_, r)| r.end.is_none() && r.asker != Asker::Left)
            .map(|(ex, r)| format!("{ex:?} was never answered: {r:?}"));
        self.holds(Law::NothingLost, lost.is_none(), || lost.unwrap_or_default());
        let busy: Vec<String> = self
            .under_way
            .iter()
            .filter(|(id, s)| s.what != What::Stream && self.now.since(self.sent_at[*id]) > 60_000)
            .map(|(_, s)| format!("{s:?}"))
            .collect();
        self.holds(Law::NothingPilesUp, busy.is_empty(), || format!("under way for ever: {busy:?}"));
    }

    /// What must hold when every client has been heard of once more.
    pub(crate) fn at_the_very_end(&mut self) {
        self.at_the_end();
        let kept = format!("kept for ever: {:?} {:?}", self.kept.keys(), self.notes);
        self.holds(Law::NothingPilesUp, self.kept.is_empty() && self.notes.is_empty(), || kept);
    }
}
