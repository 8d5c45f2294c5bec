//! The story of a world: how time goes on, what happens while it is bad, and what must be so when it has been good for
//! long enough.

use std::collections::BTreeSet;

use relatch_core::health::State;
use relatch_core::input::Input;
use relatch_core::{At, LatchId};

use super::{BAD_MS, Coming, HEALING_MS, WAKINGS, World};
use crate::client::Wish;
use crate::law::Law;
use crate::server::{Door, Key};

impl World {
    /// Serves whatever is due until `end`, which is the next thing that somebody does.
    pub(super) fn until(&mut self, end: At) {
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

    pub(super) fn passes(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        self.until(end);
    }

    pub(super) fn play(&mut self) {
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
    pub(super) fn is_whole_again(&mut self, latch: LatchId) {
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
    pub(super) fn everything_told(&mut self) {
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
    pub(super) fn nothing_left_behind(&mut self) {
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
