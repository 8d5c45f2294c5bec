//! What clients do: open, ask, tell, cancel, leave and end.

use std::collections::BTreeSet;

use relatch_core::input::{Ask, Input, Keep, Told};
use relatch_core::{ExId, Gen, LatchId, NoteId};
use relatch_wire::request_id::RequestId;

use super::World;
use crate::client::{Client, Does, Wish};
use crate::reference::{Asker, Request, Says};

impl World {
    pub(super) fn ask(&mut self, latch: LatchId, wish: &Wish) -> ExId {
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

    pub(super) fn open(&mut self) -> LatchId {
        let latch = LatchId(self.number());
        let credentials = if self.chance.percent(80) { 0 } else { self.chance.below(3) };
        self.clients.insert(latch, Client { credentials, ..Client::default() });
        self.ask(latch, &Wish::initialize());
        latch
    }

    /// Clients whose `initialize` is answered say so.
    pub(super) fn greet(&mut self) {
        let answered: BTreeSet<LatchId> = self
            .reference
            .requests
            .values()
            .filter(|r| r.opens && matches!(r.end, Some("pass" | "copy")))
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

    pub(super) fn tells(&mut self, latch: LatchId, told: Told, says: Says) {
        let note = NoteId(self.number());
        self.reference.told(note, latch, says);
        self.fact(Input::Told { latch, note, told });
    }

    pub(super) fn greeted(&self) -> Vec<LatchId> {
        self.clients.iter().filter(|(_, c)| c.greeted).map(|(id, _)| *id).collect()
    }

    pub(super) fn client_acts(&mut self) {
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
        match (self.chance.below(43), some) {
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
                if self.chance.percent(70) {
                    self.fact(Input::Reconnect { latch: None });
                } else {
                    // The same server by another address, for all that the machine knows.
                    self.reference.moved();
                    let policy = self.machine.policy().clone();
                    self.fact(Input::Configured { policy: &policy, moved: true, headers: true });
                }
            }
            (38, _) => self.fact(Input::IdleClosed),
            (39, _) if self.setting.keeper_dies && self.chance.percent(20) => self.keeper_dies(),
            (40, _) if self.chance.percent(40) => self.announces(),
            (41, _) if self.chance.percent(40) => self.resumes(),
            (42, _) if self.chance.percent(40) => {
                self.reference.reconnect();
                self.fact(Input::Replace);
            }
            _ => {}
        }
    }

    /// Somebody announces a restart, and may forget about it.
    pub(super) fn announces(&mut self) {
        let ms = self.chance.one_of(&[500, 5_000, 30_000, 100_000]);
        self.reference.at(self.now);
        self.reference.pauses(ms);
        self.fact(Input::Paused { ms });
    }

    /// Somebody says that it is over.
    pub(super) fn resumes(&mut self) {
        self.reference.at(self.now);
        self.reference.resumes();
        self.fact(Input::Resumed);
    }

    pub(super) fn cancels(&mut self, latch: LatchId, ex: ExId) {
        let Some(request) = self.reference.requests.get_mut(&ex) else { return };
        // Which of two requests of one id is meant, nobody could say.
        if request.id == 1 {
            return;
        }
        request.asker = Asker::Cancelled;
        let id = RequestId::number(request.id);
        self.tells(latch, Told::Cancelled(id), Says::Cancelled);
    }
}
