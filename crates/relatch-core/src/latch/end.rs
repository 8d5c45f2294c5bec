//! The end of a downstream session: who waits is answered, and upstream sessions get their DELETE.

use std::collections::BTreeSet;

use relatch_wire::failure::Executed;

use super::{Farewell, Gap, LatchState, Step, StreamState};
use crate::effect::Effect;
use crate::upstream::{Machine, Purpose, Why};
use crate::{AttemptId, Gen, LatchId, NoteId, journal};

impl Machine {
    /// The downstream session is over.
    pub(crate) fn ended(&mut self, id: LatchId) {
        let name = self.policy.name.clone();
        let Some(latch) = self.latches.get_mut(&id) else { return };
        if matches!(latch.state, LatchState::Ended) {
            return;
        }
        let stayed = self.now.since(latch.opened);
        let client = latch.client.as_ref().map(|c| format!("{} {}", c.name, c.version));
        let trial = latch.trial().into_iter();
        let mut live: BTreeSet<Gen> =
            latch.may_live().filter(|_| latch.has_id).into_iter().chain(trial).collect();
        live.extend(latch.old.iter().filter(|(_, f)| **f == Farewell::Delete).map(|(g, _)| *g));
        if let LatchState::Relatching(_, generation, Step::Rebuild(..)) = &latch.state
            && latch.has_id
        {
            live.insert(*generation);
        }
        // Refused ones wait for nothing more; what the shell has of them goes, too.
        let gone: Vec<Gen> =
            latch.old.iter().filter(|(_, f)| **f == Farewell::Forget).map(|(g, _)| *g).collect();
        latch.old.clear();
        let stream = latch.stream.attempt();
        let current = latch.note.take().map(|sent| sent.1);
        let notes: Vec<NoteId> =
            current.into_iter().chain(latch.notes.drain(..).map(|(note, ..)| note)).collect();
        latch.gap = Gap::Closed;
        latch.state = LatchState::Ended;
        latch.stream = StreamState::Off;
        latch.attached = false;
        for note in notes {
            self.out.push(Effect::DropNote { note });
        }
        for generation in gone {
            self.out.push(Effect::Forget { latch: id, generation });
        }
        let exchanges = latch.exchanges.clone();
        for (ex, _) in exchanges.iter().copied() {
            let Some(exchange) = self.exchanges.get(&ex) else { continue };
            let attempt = exchange.attempt();
            let ran = if attempt.is_some() { Executed::Unknown } else { exchange.ran() };
            let failure = exchange.session_ended(&name, ran);
            self.give_back(ex, Some(failure));
            if let Some(attempt) = attempt {
                self.abort(attempt);
                self.out.push(Effect::Drop { attempt });
            }
        }
        if let Some(stream) = stream {
            self.abort(stream);
        }
        // What else is under way is not worth waiting for, but a handshake may yet open a session that has to end.
        let idle: Vec<AttemptId> = self
            .attempts_of(id)
            .filter(|(_, a)| {
                !matches!(a.purpose, Purpose::Handshake | Purpose::Trial | Purpose::Open(_) | Purpose::Delete)
            })
            .map(|(attempt, _)| attempt)
            .collect();
        for attempt in idle {
            self.abort(attempt);
        }
        for generation in live {
            self.send_delete(id, generation);
        }
        for why in [Why::DoubtEnds(id), Why::RestEnds(id), Why::StreamAgain(id), Why::CompareDue(id)] {
            self.timers.clear(why);
        }
        self.wish_is_void(id);
        self.journal(journal::What::Left, Some(id), |entry| {
            entry.ms = Some(stayed);
            entry.detail = client;
        });
        self.out.push(Effect::Close { latch: id });
        self.dirty.insert(id);
    }

    /// An ended latch goes when its last attempt is over.
    pub(crate) fn bury(&mut self, id: LatchId) {
        if self.attempts_of(id).next().is_none() {
            self.latches.remove(&id);
        }
    }
}
