//! What travels between machine and server: arrivals, answers, refusals and cuts.
//!
//! Moves things and judges nothing; what the server does with a request is `server`'s.

use relatch_core::effect::{Send, What};
use relatch_core::health::ServerSeen;
use relatch_core::input::{Answer, Begun, Cut, CutKind, Input, Listed, Refusal, SessionFacts};
use relatch_core::{AttemptId, ExId, LatchId};

use super::{Coming, Flight, World};
use crate::client::Does;
use crate::server::{Fate, Key, No};

impl World {
    pub(super) fn finish(&mut self, attempt: AttemptId, answer: Option<bool>) -> Option<Flight> {
        let flight = self.flights.remove(&attempt)?;
        self.reference.at(self.now);
        self.reference.over(attempt, answer);
        Some(flight)
    }

    pub(super) fn cut(&mut self, attempt: AttemptId, wrote: bool, kind: CutKind, resumable: bool) {
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
            (CutKind::Proxy, _) => "the proxy wants credentials",
            (CutKind::Garbled, _) => "no HTTP",
            (CutKind::Elsewhere, _) => "its endpoint is elsewhere",
        };
        let retry = self.chance.percent(20).then(|| self.chance.one_of(&[0, 500, 3_000, 60_000]));
        let cut = Cut { wrote, kind, cause: cause.to_owned(), resumable, retry };
        self.fact(Input::Cut { attempt, cut });
    }

    pub(super) fn refuse(&mut self, attempt: AttemptId, no: No) {
        if self.finish(attempt, Some(false)).is_none() {
            return;
        }
        let No { words, challenge, retry_after, location, ended } = no;
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
            ended,
        };
        self.fact(Input::Refused { attempt, refusal });
    }

    pub(super) fn answer(&mut self, attempt: AttemptId, answer: Answer<'_>) {
        if let Some(flight) = self.finish(attempt, Some(answer == Answer::Result)) {
            // What a session that is over says is no evidence of anything.
            if flight.send.what != What::Delete {
                self.reference.sign_of_life((flight.send.latch, flight.send.generation));
            }
            self.fact(Input::Answered { attempt, answer });
        }
    }

    // What happens at the address.

    pub(super) fn arrives(&mut self, attempt: AttemptId) {
        let Some(flight) = self.flights.get_mut(&attempt) else { return };
        flight.epoch = self.service.epoch;
        let send = flight.send.clone();
        match self.service.meets(&mut self.chance, self.now, &send, self.good) {
            Fate::NoConnection => self.cut(attempt, false, CutKind::Connection, false),
            Fate::BadCertificate => {
                let kind = self.chance.one_of(&[CutKind::Tls, CutKind::UnknownHost, CutKind::Proxy]);
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
    pub(super) fn arrives_unwatched(&mut self, send: &Send) {
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
    pub(super) fn takes(&mut self, send: &Send) {
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
    pub(super) fn taken(&mut self, attempt: AttemptId, what: &What) {
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
                let no = No { words, challenge: false, retry_after: None, location: None, ended: false };
                self.refuse(attempt, no);
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

    pub(super) fn answers(&mut self, attempt: AttemptId) {
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
                self.reference.sign_of_life(key);
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
    pub(super) fn lists(&mut self, ex: ExId, latch: LatchId, epoch: u64) -> bool {
        let Some(Does::List(kind)) = self.reference.requests.get(&ex).map(|r| r.does.clone()) else {
            return false;
        };
        if let Some(client) = self.clients.get_mut(&latch) {
            client.coming.insert(kind, self.service.list(kind, epoch));
        }
        true
    }

    pub(super) fn opens(&mut self, attempt: AttemptId, key: Key, own: bool, old: bool) {
        self.finish(attempt, Some(true));
        self.reference.sign_of_life(key);
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
        let session = SessionFacts {
            has_id: self.setting.server.has_id,
            server,
            digest: 1,
            offers: std::collections::BTreeSet::from(["tools"]),
        };
        self.fact(Input::Session { attempt, session });
    }

    pub(super) fn happens(&mut self, coming: Coming) {
        match coming {
            Coming::Arrives(attempt) => self.arrives(attempt),
            Coming::ArrivesUnwatched(send) => self.arrives_unwatched(&send),
            Coming::Answers(attempt) => self.answers(attempt),
            Coming::Copy(ex) => self.found(ex),
            Coming::Breaks(attempt) => self.cut(attempt, true, CutKind::Connection, true),
            Coming::Door(door) => {
                self.say(|| format!("! {door:?}"));
                self.service.door = door;
            }
            Coming::Restart => self.restart(),
            Coming::Resumes => self.resumes(),
            Coming::Sleep(ms) => self.sleep(ms),
        }
    }
}
