//! What goes wrong: restarts, doors, sleep, and the death of the keeper itself.

use std::collections::BTreeSet;

use relatch_core::AttemptId;
use relatch_core::effect::What;
use relatch_core::input::{CutKind, Input, Restored};
use relatch_core::policy::Policy;
use relatch_core::upstream::Machine;

use super::{Coming, World};
use crate::law::Law;
use crate::server::Door;

impl World {
    pub(super) fn restart(&mut self) {
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
    pub(super) fn sleep(&mut self, ms: u64) {
        self.say(|| format!("! asleep for {ms} ms"));
        self.now = self.now.plus(ms);
        self.reference.sleeps(ms);
        self.reference.at(self.now);
        self.reference.slept();
        self.fact(Input::Woke { ms });
        let flights: Vec<AttemptId> = self.flights.keys().copied().collect();
        for attempt in flights {
            if self.chance.percent(50) {
                self.cut(attempt, true, CutKind::Connection, true);
            }
        }
    }

    pub(super) fn trouble(&mut self) {
        let span = self.chance.one_of(&[200, 3_000, 20_000, 70_000]);
        let span = self.chance.below(span);
        let honest = self.setting.policy.gateway_errors_refused;
        let door = match self.chance.below(26) {
            0..6 => return self.restart(),
            24..26 => return self.deploys(),
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

    /// A deploy: it is announced, the server goes when it pleases, and somebody says that it is back, or does not.
    fn deploys(&mut self) {
        self.announces();
        let away = self.chance.below(3_000);
        let back = away + self.chance.below(8_000);
        self.schedule(away, Coming::Door(Door::Closed));
        self.schedule(back, Coming::Restart);
        self.schedule(back, Coming::Door(Door::Server));
        if self.chance.percent(80) {
            let late = self.chance.below(4_000);
            self.schedule(back + late, Coming::Resumes);
        }
    }

    /// The keeper itself is killed and started again: only what its records hold goes on.
    pub(super) fn keeper_dies(&mut self) {
        self.say(|| "! the keeper restarts".to_owned());
        self.count();
        let policy: Policy = self.setting.policy.clone();
        self.machine = Machine::new(policy, self.now, 7);
        self.plant();
        for attempt in self.flights.keys().copied().collect::<Vec<_>>() {
            self.vanishes(attempt);
        }
        self.coming.retain(|_, c| {
            !matches!(c, Coming::Arrives(_) | Coming::Answers(_) | Coming::Breaks(_) | Coming::Copy(_))
        });
        self.clients.retain(|_, client| client.greeted);
        let mut bound = BTreeSet::new();
        self.service.hangs_up();
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
}
