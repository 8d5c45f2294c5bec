//! The world around one machine: time, the network, and who acts in which order.
//!
//! Everything random comes from the seed; everything that is judged is judged by [`Reference`]. This file only moves
//! things: facts to the machine, effects to the network, requests to the server, and what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use relatch_core::effect::{Effect, Send, Tell, What};
use relatch_core::fault::Fault;
use relatch_core::health::{ServerSeen, State};
use relatch_core::input::{
    Answer, Ask, Begun, Cut, CutKind, Input, Keep, Listed, Refusal, Restored, SessionFacts, Told,
};
use relatch_core::policy::Policy;
use relatch_core::upstream::{Machine, Snapshot};
use relatch_core::{At, AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::request_id::RequestId;

use crate::chance::Chance;
use crate::client::{Client, Does, Wish};
use crate::law::{Breach, Law};
use crate::reference::{Asker, Reference, Request, Says};
use crate::server::{Door, Fate, Key, No, Service};
use crate::setting::Setting;

/// The world is bad for so long.
const BAD_MS: u64 = 150_000;
/// And has so long to become whole: the longest rest, the longest hold and what a diagnosis remembers lie within.
const HEALING_MS: u64 = 700_000;
/// A machine that is woken more often than this at one moment never settles.
const WAKINGS: u32 = 200;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed: all of the world follows from it.
    pub seed: u64,
    /// A fault to plant into the core, to see whether it is found.
    pub fault: Option<Fault>,
    /// What becomes of the transcript.
    pub telling: Telling,
}

/// What becomes of the transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// It is not written.
    Nothing,
    /// It is kept.
    Kept,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// The first promise that was broken, if one was.
    pub breach: Option<Breach>,
    /// Every fact and effect in order, where it was to be kept.
    pub transcript: String,
    /// What there was to do.
    pub counts: Counts,
}

/// What there was to do in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that clients made.
    pub requests: u64,
    /// Facts that the machine was told.
    pub facts: u64,
    /// Times that the server was started again.
    pub restarts: u64,
    /// Upstream sessions bound in place of others.
    pub relatched: u64,
    /// Requests that were sent a second time.
    pub resent: u64,
    /// Requests that were given back with an error of relatch's own.
    pub given_back: u64,
    /// Of these, the ones that may have run.
    pub unknown: u64,
}

impl Counts {
    /// Adds another world's.
    pub fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.facts += other.facts;
        self.restarts += other.restarts;
        self.relatched += other.relatched;
        self.resent += other.resent;
        self.given_back += other.given_back;
        self.unknown += other.unknown;
    }
}

/// Plays one world to its end, or to the first breach.
#[must_use]
pub fn play(options: Options) -> Played {
    let mut world = World::new(options);
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    if let Err(panic) = played {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        let what = words.unwrap_or_else(|| "a panic without words".to_owned());
        world.reference.holds(Law::Invariant, false, || what);
    }
    world.count();
    Played { breach: world.reference.breach, transcript: world.story, counts: world.counts }
}

/// What is going to happen.
#[derive(Clone, Debug)]
enum Coming {
    /// A request comes to the address.
    Arrives(AttemptId),
    /// A request whose connection was dropped comes to it all the same.
    ArrivesUnwatched(Send),
    Answers(AttemptId),
    Breaks(AttemptId),
    Door(Door),
    Restart,
    Sleep(u64),
}

/// A request on its way, or at the server.
#[derive(Debug)]
struct Flight {
    send: Send,
    /// The server's epoch when it was taken.
    epoch: u64,
    taken: bool,
    /// Its answer has begun.
    begun: bool,
    /// Its stream is cut and may be resumed.
    cut: bool,
}

struct World {
    chance: Chance,
    setting: Setting,
    machine: Machine,
    fault: Option<Fault>,
    now: At,
    coming: BTreeMap<(u64, u64), Coming>,
    counter: u64,
    flights: BTreeMap<AttemptId, Flight>,
    service: Service,
    clients: BTreeMap<LatchId, Client>,
    reference: Reference,
    /// Sessions that a keeper's death or a lost answer left to nobody.
    orphans: BTreeSet<Key>,
    /// What a keeper that starts anew would find.
    records: BTreeMap<LatchId, Snapshot>,
    /// Bad things happen no more.
    good: bool,
    counts: Counts,
    story: String,
    telling: Telling,
}

impl World {
    fn new(options: Options) -> World {
        let mut chance = Chance::new(options.seed);
        let setting = Setting::of(&mut chance);
        let mut world = World {
            machine: Machine::new(setting.policy.clone(), At(0), options.seed),
            fault: options.fault,
            chance,
            service: Service::new(setting.server),
            setting,
            now: At(0),
            coming: BTreeMap::new(),
            counter: 0,
            flights: BTreeMap::new(),
            clients: BTreeMap::new(),
            reference: Reference::new(),
            orphans: BTreeSet::new(),
            records: BTreeMap::new(),
            good: false,
            counts: Counts::default(),
            story: String::new(),
            telling: options.telling,
        };
        world.plant();
        let words = world.setting.words();
        world.say(|| format!("seed {}: {words}", options.seed));
        world
    }

    fn plant(&mut self) {
        if let Some(fault) = self.fault {
            self.machine.plant(fault);
        }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.telling == Telling::Kept {
            // A string takes everything.
            let _ = writeln!(self.story, "{:>7} {}", self.now.0, line());
        }
    }

    fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn schedule(&mut self, after: u64, what: Coming) {
        let key = (self.now.0 + after, self.number());
        self.coming.insert(key, what);
    }

    fn over(&self) -> bool {
        self.reference.breach.is_some()
    }

    fn count(&mut self) {
        let totals = self.machine.report(self.now).totals;
        self.counts.relatched += totals.relatched;
        self.counts.resent += totals.resent;
        self.counts.given_back += totals.given_back;
        self.counts.unknown += totals.delivery_unknown;
    }

    // Facts in, effects out.

    fn fact(&mut self, input: Input<'_>) {
        if self.over() {
            return;
        }
        self.counts.facts += 1;
        self.say(|| format!("> {input:?}"));
        let mut effects = Vec::new();
        self.machine.on(self.now, input, &mut effects);
        self.reference.at(self.now);
        for effect in &effects {
            if !matches!(effect, Effect::Record { .. }) {
                self.say(|| format!("    {effect:?}"));
            }
        }
        self.reference.effects(&effects, &mut self.clients);
        for effect in effects {
            self.perform(effect);
        }
        // What time may break is looked at when nothing is due any more.
        if self.machine.deadline().is_none_or(|due| due.at > self.now) {
            let report = self.machine.report(self.now);
            self.reference.look(&report, &self.setting.policy);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(send) => {
                let attempt = send.attempt;
                let quick = self.good || self.chance.percent(90);
                let after = if quick { self.chance.below(20) } else { self.chance.below(1_500) };
                let flight =
                    Flight { send, epoch: self.service.epoch, taken: false, begun: false, cut: false };
                self.flights.insert(attempt, flight);
                self.schedule(after, Coming::Arrives(attempt));
            }
            Effect::Abort { attempt } => self.vanishes(attempt),
            Effect::Drop { attempt } if self.flights.get(&attempt).is_some_and(|f| f.cut) => {
                self.flights.remove(&attempt);
            }
            Effect::Close { latch } => {
                self.clients.remove(&latch);
            }
            Effect::Forget { latch, generation } => {
                let key = (latch, generation);
                let excused = self.service.slandered.contains(&key)
                    || self.reference.farewelled(key)
                    || self.reference.closed.contains(&latch);
                let lives = self.service.knows(key) && !excused;
                self.reference.holds(Law::LivingSessionsKept, !lives, || {
                    format!("{latch:?} gives up {generation:?}, which lives")
                });
            }
            Effect::Tell { latch, tell: Tell::ListChanged(kind) } => {
                let version = self.service.list(kind, self.service.epoch);
                if let Some(client) = self.clients.get_mut(&latch) {
                    client.told.insert(kind, version);
                }
            }
            Effect::Drop { .. }
            | Effect::Flow { .. }
            | Effect::Pass { .. }
            | Effect::PassRefusal { .. }
            | Effect::Challenge { .. }
            | Effect::Answer { .. }
            | Effect::Early { .. }
            | Effect::Accept { .. }
            | Effect::DropNote { .. }
            | Effect::Tell { .. }
            | Effect::Withdraw { .. }
            | Effect::CloseIdle
            | Effect::Journal(_) => {}
            Effect::Record { latch } => {
                if let Some(snapshot) = self.machine.snapshot(latch) {
                    self.records.insert(latch, snapshot);
                }
            }
        }
    }

    /// A connection is dropped; what was on its way may come to the server all the same.
    fn vanishes(&mut self, attempt: AttemptId) {
        let Some(flight) = self.flights.remove(&attempt) else { return };
        if !flight.taken && self.chance.percent(50) {
            let after = self.chance.below(200);
            self.schedule(after, Coming::ArrivesUnwatched(flight.send));
        }
    }

    // What comes back from the network.

    fn finish(&mut self, attempt: AttemptId, answer: Option<bool>) -> Option<Flight> {
        let flight = self.flights.remove(&attempt)?;
        self.reference.at(self.now);
        self.reference.over(attempt, answer);
        Some(flight)
    }

    fn cut(&mut self, attempt: AttemptId, wrote: bool, kind: CutKind, resumable: bool) {
        let Some(flight) = self.flights.get_mut(&attempt) else { return };
        if flight.cut {
            return;
        }
        // Only what has begun had an event id.
        let carries = match flight.send.what {
            What::Exchange { .. } => flight.begun,
            What::Stream => true,
            _ => false,
        };
        let resumable = resumable && self.setting.server.resumable && carries;
        if resumable && flight.send.what != What::Stream {
            flight.cut = true;
        } else if let Some(flight) = self.finish(attempt, None)
            && !wrote
        {
            self.reference.unwritten(&flight.send);
        }
        let cause = match (kind, wrote) {
            (CutKind::Connection, false) => "connection refused",
            (CutKind::Connection, true) => "connection reset",
            (CutKind::Tls, _) => "the certificate is for another name",
            (CutKind::UnknownHost, _) => "no such host",
            (CutKind::Garbled, _) => "no HTTP",
        };
        let retry = self.chance.percent(20).then(|| self.chance.one_of(&[0, 500, 3_000, 60_000]));
        let cut = Cut { wrote, kind, cause: cause.to_owned(), resumable, retry };
        self.fact(Input::Cut { attempt, cut });
    }

    fn refuse(&mut self, attempt: AttemptId, no: No) {
        if self.finish(attempt, Some(false)).is_none() {
            return;
        }
        let No { words, challenge, retry_after, location } = no;
        let digest = words
            .body
            .bytes()
            .fold(u64::from(words.status), |d, b| d.wrapping_mul(31).wrapping_add(u64::from(b)));
        let refusal = Refusal {
            status: words.status,
            body: words.body,
            rpc_code: words.code,
            digest,
            challenge,
            retry_after,
            location,
        };
        self.fact(Input::Refused { attempt, refusal });
    }

    fn answer(&mut self, attempt: AttemptId, answer: Answer<'_>) {
        if let Some(flight) = self.finish(attempt, Some(answer == Answer::Result)) {
            // What a session that is over says is no evidence of anything.
            if flight.send.what != What::Delete {
                self.reference.sign_of_life();
            }
            self.fact(Input::Answered { attempt, answer });
        }
    }

    // What happens at the address.

    fn arrives(&mut self, attempt: AttemptId) {
        let Some(flight) = self.flights.get_mut(&attempt) else { return };
        flight.epoch = self.service.epoch;
        let send = flight.send.clone();
        match self.service.meets(&mut self.chance, self.now, &send, self.good) {
            Fate::NoConnection => self.cut(attempt, false, CutKind::Connection, false),
            Fate::BadCertificate => {
                let kind = self.chance.one_of(&[CutKind::Tls, CutKind::UnknownHost]);
                self.cut(attempt, false, kind, false);
            }
            Fate::Unread => self.cut(attempt, true, CutKind::Connection, false),
            Fate::Refused(no) => self.refuse(attempt, no),
            Fate::ErrorIn200(code, message) => self.answer(attempt, Answer::Error { code, message }),
            Fate::Lies(ms) => {
                let then =
                    if self.chance.percent(60) { Coming::Arrives(attempt) } else { Coming::Breaks(attempt) };
                self.schedule(ms, then);
            }
            Fate::Taken => {
                self.takes(&send);
                self.taken(attempt, &send.what);
            }
            Fate::TakenAndLost(no) => {
                self.takes(&send);
                self.refuse(attempt, no);
            }
            Fate::TakenAndGarbled => {
                self.takes(&send);
                if let What::List { kind, .. } = send.what
                    && let Some(client) = self.clients.get_mut(&send.latch)
                {
                    client.garbled.insert(kind);
                }
                self.cut(attempt, true, CutKind::Garbled, false);
            }
        }
    }

    /// A request reaches the server that nobody waits for.
    fn arrives_unwatched(&mut self, send: &Send) {
        let fate = self.service.meets(&mut self.chance, self.now, send, self.good);
        if matches!(fate, Fate::Taken | Fate::TakenAndLost(_) | Fate::TakenAndGarbled) {
            self.takes(send);
            let key = (send.latch, send.generation);
            match send.what {
                What::Initialize { .. } => {
                    self.service.opens(key, self.now);
                    self.orphans.insert(key);
                }
                What::Delete => self.service.closes(key),
                _ => {}
            }
        }
    }

    /// The server has it: from here on it has run.
    fn takes(&mut self, send: &Send) {
        self.reference.at(self.now);
        match send.what {
            What::Exchange { ex, .. } => {
                self.reference.ran(ex);
                self.reference.did(ex, (send.latch, send.generation));
            }
            What::Note(note) => self.reference.note_arrived(note),
            _ => {}
        }
    }

    /// How the server goes on with what it has taken.
    fn taken(&mut self, attempt: AttemptId, what: &What) {
        let after = match self.chance.below(10) {
            n if self.good => n * 20,
            0 => self.chance.below(30_000),
            1..4 => self.chance.below(2_000),
            _ => self.chance.below(10),
        };
        let bad = self.setting.server.flaky && !self.good;
        if let Some(flight) = self.flights.get_mut(&attempt) {
            flight.taken = true;
        }
        match what {
            What::Exchange { ex, .. } => {
                let begins = match self.chance.below(10) {
                    0 => Some(Begun::Long),
                    1..4 => Some(Begun::Stream),
                    _ => None,
                };
                if let Some(begun) = begins {
                    if let Some(flight) = self.flights.get_mut(&attempt) {
                        flight.begun = true;
                    }
                    if begun == Begun::Long {
                        self.reference.passes(*ex);
                    }
                    self.fact(Input::Begun { attempt, begun });
                }
                let breaks = bad && self.chance.percent(8);
                self.schedule(after, if breaks { Coming::Breaks(attempt) } else { Coming::Answers(attempt) });
            }
            What::Stream if !self.setting.server.streams => {
                let words = crate::dialect::Words { status: 405, code: None, body: "" };
                self.refuse(attempt, No { words, challenge: false, retry_after: None, location: None });
            }
            What::Stream => {
                self.fact(Input::Begun { attempt, begun: Begun::Stream });
                if !self.good && self.chance.percent(30) {
                    let after = self.chance.below(60_000);
                    self.schedule(after, Coming::Breaks(attempt));
                }
            }
            What::Initialize { .. } if bad && self.chance.percent(5) => {
                let flight = self.flights.get(&attempt).map(|f| (f.send.latch, f.send.generation));
                if let Some(key) = flight {
                    // Opened, and the answer is lost on its way.
                    self.service.opens(key, self.now);
                    self.orphans.insert(key);
                }
                self.cut(attempt, true, CutKind::Connection, false);
            }
            What::Initialize { .. }
            | What::Initialized
            | What::Ping
            | What::SetLevel(_)
            | What::Subscribe(_)
            | What::List { .. }
            | What::Note(_)
            | What::Resume { .. }
            | What::Delete => self.schedule(after.min(7_000), Coming::Answers(attempt)),
        }
    }

    fn answers(&mut self, attempt: AttemptId) {
        let Some(flight) = self.flights.get(&attempt) else { return };
        if flight.cut {
            return;
        }
        // A server that was killed says nothing more, but an old process may live a while beside the new one.
        if flight.epoch != self.service.epoch && !self.chance.percent(20) {
            return self.cut(attempt, true, CutKind::Connection, true);
        }
        let Some(flight) = self.flights.get(&attempt) else { return };
        let (what, key) = (flight.send.what.clone(), (flight.send.latch, flight.send.generation));
        let (epoch, old) = (flight.epoch, flight.epoch != self.service.epoch);
        match what {
            What::Initialize { ex } => self.opens(attempt, key, ex.is_none(), old),
            What::List { kind, cursor } => {
                self.finish(attempt, None);
                self.reference.sign_of_life();
                let seen =
                    self.clients.get(&key.0).and_then(|c| c.seen.get(&kind)).copied().unwrap_or_default();
                let listed = if cursor.is_none() && self.chance.percent(20) {
                    Listed::More("next".to_owned())
                } else if seen == self.service.list(kind, epoch) {
                    Listed::Same
                } else {
                    Listed::Differs("+extra".to_owned())
                };
                self.fact(Input::Listed { attempt, listed });
            }
            What::Resume { of } => {
                self.fact(Input::Begun { attempt, begun: Begun::Stream });
                if let Some(flight) = self.flights.get_mut(&of) {
                    flight.cut = false;
                    if let What::Exchange { ex, .. } = flight.send.what {
                        self.lists(ex, key.0, epoch);
                    }
                    self.answer(of, Answer::Result);
                }
                self.answer(attempt, Answer::Result);
            }
            What::Delete => {
                self.service.closes(key);
                self.answer(attempt, Answer::Result);
            }
            What::Stream => {}
            What::Ping if !self.setting.server.pings => {
                self.answer(attempt, Answer::Error { code: -32601, message: "Method not found" });
            }
            What::Exchange { ex, .. } if self.lists(ex, key.0, epoch) => self.answer(attempt, Answer::Result),
            What::Exchange { .. } if self.chance.percent(5) => {
                self.answer(attempt, Answer::Error { code: -32602, message: "Unknown tool" });
            }
            What::Exchange { .. }
            | What::Initialized
            | What::Ping
            | What::SetLevel(_)
            | What::Subscribe(_)
            | What::Note(_) => self.answer(attempt, Answer::Result),
        }
    }

    /// Whether a request asks for a list; the one of this process is on its way to the client.
    fn lists(&mut self, ex: ExId, latch: LatchId, epoch: u64) -> bool {
        let Some(Does::List(kind)) = self.reference.requests.get(&ex).map(|r| r.does.clone()) else {
            return false;
        };
        if let Some(client) = self.clients.get_mut(&latch) {
            client.coming.insert(kind, self.service.list(kind, epoch));
        }
        true
    }

    fn opens(&mut self, attempt: AttemptId, key: Key, own: bool, old: bool) {
        self.finish(attempt, Some(true));
        self.reference.sign_of_life();
        if !old {
            self.service.opens(key, self.now);
        }
        self.reference.opened(key, own);
        let server = ServerSeen {
            name: Some("files".to_owned()),
            version: Some(self.service.epoch.to_string()),
            protocol: self.service.revision.to_owned(),
            era: "legacy",
        };
        let session = SessionFacts { has_id: self.setting.server.has_id, server, digest: 1 };
        self.fact(Input::Session { attempt, session });
    }

    fn happens(&mut self, coming: Coming) {
        match coming {
            Coming::Arrives(attempt) => self.arrives(attempt),
            Coming::ArrivesUnwatched(send) => self.arrives_unwatched(&send),
            Coming::Answers(attempt) => self.answers(attempt),
            Coming::Breaks(attempt) => self.cut(attempt, true, CutKind::Connection, true),
            Coming::Door(door) => {
                self.say(|| format!("! {door:?}"));
                self.service.door = door;
            }
            Coming::Restart => self.restart(),
            Coming::Sleep(ms) => self.sleep(ms),
        }
    }

    // Troubles.

    fn restart(&mut self) {
        self.say(|| "! restart".to_owned());
        self.counts.restarts += 1;
        self.service.restarts(&mut self.chance);
        let streams: Vec<AttemptId> = self
            .flights
            .iter()
            .filter(|(_, f)| f.begun || f.send.what == What::Stream)
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in streams {
            if self.chance.percent(80) {
                self.cut(attempt, true, CutKind::Connection, true);
            }
        }
    }

    /// The lid is closed: time goes on, and nothing else does.
    fn sleep(&mut self, ms: u64) {
        self.say(|| format!("! asleep for {ms} ms"));
        self.now = self.now.plus(ms);
        self.reference.at(self.now);
        self.reference.slept();
        let flights: Vec<AttemptId> = self.flights.keys().copied().collect();
        for attempt in flights {
            if self.chance.percent(50) {
                self.cut(attempt, true, CutKind::Connection, true);
            }
        }
    }

    fn trouble(&mut self) {
        let span = self.chance.one_of(&[200, 3_000, 20_000, 70_000]);
        let span = self.chance.below(span);
        let honest = self.setting.policy.gateway_errors_refused;
        let door = match self.chance.below(24) {
            0..6 => return self.restart(),
            6..11 => {
                self.restart();
                Door::Closed
            }
            11 => Door::Page(self.chance.one_of(&[502, 504, 521])),
            12 => Door::Page(503),
            13 => Door::Page(404),
            14 => Door::Page(200),
            15 => Door::Stalled,
            16 => Door::Challenge,
            17 => Door::Busy(self.chance.one_of(&[503, 429])),
            // A proxy that is said to answer so only without a server does no such thing.
            18 if !honest => Door::LosesAnswers(self.chance.one_of(&[502, 504, 500])),
            19 => Door::Modern,
            20 => Door::Moved,
            21 => Door::Garbles,
            22 => Door::Disguised,
            _ if self.setting.sleeps => {
                let hours = self.chance.one_of(&[60_000, 3_600_000, 30_000_000]);
                return self.sleep(hours);
            }
            _ => {
                self.service.replicas = !self.service.replicas;
                return;
            }
        };
        self.happens(Coming::Door(door));
        if self.chance.percent(40) {
            self.schedule(span, Coming::Restart);
        }
        if self.setting.sleeps && self.chance.percent(10) {
            let after = self.chance.below(span);
            self.schedule(after, Coming::Sleep(1_000_000));
        }
        self.schedule(span, Coming::Door(Door::Server));
    }

    /// The keeper itself is killed and started again: only what its records hold goes on.
    fn keeper_dies(&mut self) {
        self.say(|| "! the keeper restarts".to_owned());
        self.count();
        let policy: Policy = self.setting.policy.clone();
        self.machine = Machine::new(policy, self.now, 7);
        self.plant();
        for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
            self.vanishes(attempt);
        }
        self.coming.retain(|_, c| !matches!(c, Coming::Arrives(_) | Coming::Answers(_) | Coming::Breaks(_)));
        self.clients.retain(|_, client| client.greeted);
        let mut bound = BTreeSet::new();
        let mut snapshots = Vec::new();
        for latch in self.clients.keys() {
            let Some(snapshot) = self.records.get(latch).cloned() else { continue };
            bound.extend(snapshot.bound.map(|generation| (*latch, generation)));
            snapshots.push((*latch, snapshot));
        }
        self.orphans.extend(self.service.sessions().filter(|key| !bound.contains(key)));
        self.reference.keeper_died(&bound);
        for (latch, snapshot) in snapshots {
            let restored = Restored {
                bound: snapshot.bound,
                has_id: self.setting.server.has_id,
                begun: snapshot.begun,
                initialized: snapshot.initialized,
                revision: snapshot.revision.clone(),
                client: None,
                server: None,
                level: snapshot.level.clone(),
                subscriptions: snapshot.subscriptions.clone(),
                lists: snapshot.lists.clone(),
                hints: snapshot.repeatable.iter().map(|tool| (tool.clone(), true, false)).collect(),
            };
            let holds = self.clients.get(&latch).is_some_and(|client| {
                client.level == snapshot.level
                    && client.subscriptions.iter().eq(snapshot.subscriptions.keys())
                    && snapshot.initialized
            });
            let words = format!("{latch:?}: {snapshot:?}");
            self.reference.holds(Law::RecordsHoldAll, holds, || words.clone());
            self.fact(Input::Restored { latch, restored });
            let same = self.machine.snapshot(latch) == Some(snapshot);
            self.reference.holds(Law::RecordsHoldAll, same, || format!("changed by a restart: {words}"));
        }
    }

    // Clients.

    fn ask(&mut self, latch: LatchId, wish: &Wish) -> ExId {
        let ex = ExId(self.number());
        let id = if self.chance.percent(10) { 1 } else { ex.0 as i64 };
        let mut request = Request::new(latch, wish, id, self.now);
        request.accepts_sse = self.setting.stdio || self.chance.percent(80);
        let keep = match wish.does.clone() {
            Does::Nothing => Keep::Nothing,
            Does::Level(level) => Keep::Level(level),
            Does::Subscribe(uri) => Keep::Subscribe(uri.clone(), uri),
            Does::Unsubscribe(uri) => Keep::Unsubscribe(uri),
            Does::List(kind) => Keep::List(kind),
        };
        let ask = Ask {
            id: RequestId::number(id),
            method: wish.method.to_owned(),
            tool: wish.tool.map(str::to_owned),
            accepts_sse: request.accepts_sse,
            keep,
        };
        let opens = request.opens;
        self.counts.requests += 1;
        self.reference.asked(ex, request);
        self.fact(if opens {
            Input::Opened { latch, ex, ask, client: None }
        } else {
            Input::Asked { latch, ex, ask }
        });
        ex
    }

    fn open(&mut self) -> LatchId {
        let latch = LatchId(self.number());
        self.clients.insert(latch, Client::default());
        self.ask(latch, &Wish::initialize());
        latch
    }

    /// Clients whose `initialize` is answered say so.
    fn greet(&mut self) {
        let answered: BTreeSet<LatchId> = self
            .reference
            .requests
            .values()
            .filter(|r| r.opens && r.end == Some("pass"))
            .map(|r| r.latch)
            .collect();
        let fresh: Vec<LatchId> = self
            .clients
            .iter_mut()
            .filter(|(id, client)| !client.greeted && answered.contains(id))
            .map(|(id, client)| {
                client.greeted = true;
                *id
            })
            .collect();
        for latch in fresh {
            self.tells(latch, Told::Initialized, Says::Initialized);
            let hints = vec![("look".to_owned(), true, false), ("send".to_owned(), false, false)];
            self.fact(Input::Hinted { latch, hints });
            if self.setting.stdio {
                self.fact(Input::Attached { latch });
            }
        }
    }

    fn tells(&mut self, latch: LatchId, told: Told, says: Says) {
        let note = NoteId(self.number());
        self.reference.told(note, latch, says);
        self.fact(Input::Told { latch, note, told });
    }

    fn greeted(&self) -> Vec<LatchId> {
        self.clients.iter().filter(|(_, c)| c.greeted).map(|(id, _)| *id).collect()
    }

    fn client_acts(&mut self) {
        self.greet();
        if self.clients.is_empty() || self.clients.len() < self.setting.crowd && self.chance.percent(40) {
            self.open();
            return;
        }
        let ready = self.greeted();
        if ready.is_empty() {
            return;
        }
        let latch = self.chance.one_of(&ready);
        let open: Vec<ExId> = self
            .reference
            .requests
            .iter()
            .filter(|(_, r)| r.latch == latch && r.end.is_none() && !r.opens && r.asker == Asker::Waits)
            .map(|(ex, _)| *ex)
            .collect();
        let some = (!open.is_empty()).then(|| self.chance.one_of(&open));
        let http = !self.setting.stdio;
        match (self.chance.below(40), some) {
            (0..15, _) => {
                let wish = Wish::call(&mut self.chance);
                self.ask(latch, &wish);
            }
            (15..26, _) => {
                let wish = Wish::other(&mut self.chance);
                self.ask(latch, &wish);
            }
            (26..28, Some(ex)) => self.cancels(latch, ex),
            (28..30, Some(ex)) if http => {
                if let Some(request) = self.reference.requests.get_mut(&ex) {
                    request.asker = Asker::Left;
                }
                self.fact(Input::Left { ex });
            }
            (30..33, _) => self.tells(latch, Told::Other, Says::Other),
            (33, _) => {
                let of = Gen(1 + self.chance.below(4) as u32);
                self.tells(latch, Told::Answer(Some(of)), Says::AnswerTo(of));
            }
            (34..36, _) if http => self.fact(Input::Attached { latch }),
            (36, _) if http => self.fact(Input::Detached { latch }),
            (37, _) if self.chance.percent(30) => {
                self.clients.remove(&latch);
                self.fact(Input::Ended { latch });
            }
            (38, _) if self.chance.percent(30) => {
                self.reference.reconnect();
                self.fact(Input::Reconnect { latch: None });
            }
            (38, _) => self.fact(Input::IdleClosed),
            (39, _) if self.setting.keeper_dies && self.chance.percent(20) => self.keeper_dies(),
            _ => {}
        }
    }

    fn cancels(&mut self, latch: LatchId, ex: ExId) {
        let Some(request) = self.reference.requests.get_mut(&ex) else { return };
        // Which of two requests of one id is meant, nobody could say.
        if request.id == 1 {
            return;
        }
        request.asker = Asker::Cancelled;
        let id = RequestId::number(request.id);
        self.tells(latch, Told::Cancelled(id), Says::Cancelled);
    }

    // Time.

    /// Serves whatever is due until `end`, which is the next thing that somebody does.
    fn until(&mut self, end: At) {
        let mut still = 0;
        while !self.over() {
            let due = self.machine.deadline().map(|d| d.at.max(self.now));
            let next = self.coming.first_key_value().map(|((at, _), _)| At(*at).max(self.now));
            match (due, next) {
                (Some(due), next) if due <= end && next.is_none_or(|next| due <= next) => {
                    still = if due > self.now { 0 } else { still + 1 };
                    let why = self.machine.deadline();
                    self.reference.holds(Law::Settles, still < WAKINGS, || {
                        format!("it asks to be woken again and again: {why:?}")
                    });
                    self.now = due;
                    self.fact(Input::Tick);
                }
                (_, Some(next)) if next <= end => {
                    still = 0;
                    self.now = next;
                    if let Some((_, coming)) = self.coming.pop_first() {
                        self.happens(coming);
                    }
                }
                _ => break,
            }
        }
        self.now = self.now.max(end);
    }

    fn passes(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        self.until(end);
    }

    // The story.

    fn play(&mut self) {
        // Sleep makes time go on; what is done is counted in steps as well.
        let mut steps = 0;
        while self.now.0 < BAD_MS && steps < 400 && !self.over() {
            steps += 1;
            let pause = match self.chance.below(10) {
                0..3 => 0,
                3..8 => self.chance.below(1_000),
                8 => self.chance.below(8_000),
                _ => self.chance.below(20_000),
            };
            self.passes(pause);
            if self.chance.percent(12) {
                self.trouble();
            }
            self.client_acts();
        }
        self.say(|| "! the world is good from now on".to_owned());
        self.good = true;
        self.service.replicas = false;
        self.coming.retain(|_, c| !matches!(c, Coming::Door(_) | Coming::Restart | Coming::Sleep(_)));
        self.happens(Coming::Door(Door::Server));
        self.passes(HEALING_MS);
        self.greet();
        self.passes(60_000);
        self.reference.at_the_end();
        if self.clients.is_empty() {
            self.open();
            self.passes(60_000);
            self.greet();
        }
        for latch in self.greeted() {
            self.is_whole_again(latch);
        }
        self.everything_told();
        self.nothing_left_behind();
        self.reference.at_the_very_end();
        let report = self.machine.report(self.now);
        self.reference
            .holds(Law::Heals, report.state == State::Healthy, || format!("in a good world: {report:?}"));
    }

    /// In a good world a client's calls are answered.
    fn is_whole_again(&mut self, latch: LatchId) {
        // The first finds out what happened; the others must be answered.
        self.ask(latch, &Wish::read());
        self.passes(60_000);
        let mut told = false;
        for wish in [Wish::send(), Wish::read()] {
            let mut ex = self.ask(latch, &wish);
            self.passes(50_000);
            // That a session's state is gone is told once, and to a call that counts on it.
            if !told && self.reference.requests[&ex].end == Some("state-lost") {
                told = true;
                ex = self.ask(latch, &wish);
                self.passes(50_000);
            }
            let end = self.reference.requests[&ex].end;
            // Where sessions end by themselves, state is lost again and again.
            let fades = self.setting.server.idle_ms.is_some() && end == Some("state-lost");
            self.reference.holds(Law::Heals, fades || end == Some("pass"), || {
                format!("{latch:?} {ex:?} in a good world: {end:?}")
            });
        }
    }

    /// Whose lists have changed behind a lost session, knows it.
    fn everything_told(&mut self) {
        if !self.setting.server.has_id || self.setting.server.survives {
            return;
        }
        let mut untold = None;
        for (latch, client) in &self.clients {
            for (kind, seen) in &client.seen {
                let version = self.service.list(*kind, self.service.epoch);
                let knows: Option<&u64> = client.told.get(kind);
                let readable = !client.garbled.contains(kind);
                if readable && *seen != version && knows != Some(&version) {
                    untold = Some((*latch, *kind));
                }
            }
        }
        self.reference.holds(Law::ChangesTold, untold.is_none(), || format!("{untold:?} has changed"));
    }

    /// The server has no session that nobody uses, but those of which relatch could not know.
    fn nothing_left_behind(&mut self) {
        let bound: BTreeSet<Key> = self
            .clients
            .keys()
            .filter_map(|latch| Some((*latch, self.machine.snapshot(*latch)?.bound?)))
            .collect();
        let leaked: Vec<Key> = self
            .service
            .sessions()
            .filter(|key| {
                self.service.knows(*key)
                    && !bound.contains(key)
                    && !self.orphans.contains(key)
                    && !self.service.slandered.contains(key)
                    && !self.reference.farewelled(*key)
            })
            .collect();
        self.reference.holds(Law::NoSessionLeaks, leaked.is_empty(), || format!("{leaked:?}"));
    }
}
