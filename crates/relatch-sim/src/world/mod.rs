//! The world around one machine: time, the network, and who acts in which order.
//!
//! Everything random comes from the seed; everything that is judged is judged by [`Reference`]. This file moves facts to
//! the machine and effects out of it; `network` carries what travels, `acts` is what clients do, `troubles` what goes
//! wrong, and `story` how it all follows.

mod acts;
mod copies;
mod network;
mod story;
mod troubles;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use relatch_core::effect::{Effect, Send, Tell};
use relatch_core::fault::Fault;
use relatch_core::input::Input;
use relatch_core::upstream::{Machine, Snapshot};
use relatch_core::{At, AttemptId, ExId, LatchId};

use crate::chance::Chance;
use crate::client::{Client, Copy};
use crate::law::{Breach, Law};
use crate::reference::Reference;
use crate::server::{Door, Key, Service};
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
    /// Requests that were answered from a copy.
    pub copied: u64,
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
        self.copied += other.copied;
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
    /// The shell has looked for a copy.
    Copy(ExId),
    Breaks(AttemptId),
    Door(Door),
    Restart,
    Resumes,
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
    /// What the shell has kept for late clients, by credentials.
    copies: BTreeMap<u64, Copy>,
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
            copies: BTreeMap::new(),
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
        for effect in &effects {
            if let Effect::Pass { ex, .. } = effect {
                self.keeps(*ex);
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
            Effect::SeekCopy { ex } => {
                let after = if self.chance.percent(90) { 0 } else { self.chance.below(30_000) };
                self.schedule(after, Coming::Copy(ex));
            }
            Effect::PassCopy { ex } => self.copied(ex),
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
}
