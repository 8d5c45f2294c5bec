//! The model server, and whatever stands at its address: what happens to a request that arrives there.
//!
//! It knows sessions by latch and generation, which stand for the id that it gave out. It decides nothing that relatch
//! decides: it takes, refuses, loses and forgets.

use std::collections::{BTreeMap, BTreeSet};

use relatch_core::effect::{Send, What};
use relatch_core::{At, Gen, LatchId};
use relatch_wire::method::ListKind;

use crate::chance::Chance;
use crate::dialect::Words;
use crate::setting::Habits;

/// One upstream session.
pub(crate) type Key = (LatchId, Gen);

/// What stands at the address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Door {
    /// The server.
    Server,
    /// Nobody: connections are refused.
    Closed,
    /// A proxy or another program, with its page for everything; the server gets nothing.
    Page(u16),
    /// A proxy that hands on what it gets and then loses the answer.
    LosesAnswers(u16),
    /// Connections are accepted and nothing is read.
    Stalled,
    /// Credentials are asked for.
    Challenge,
    /// Not now.
    Busy(u16),
    /// A server of the modern era.
    Modern,
    /// Somewhere else.
    Moved,
    /// Takes requests and answers nonsense.
    Garbles,
    /// A wrong certificate.
    Disguised,
}

/// A refusal on its way back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct No {
    pub(crate) words: Words,
    pub(crate) challenge: bool,
    pub(crate) retry_after: Option<u64>,
    pub(crate) location: Option<&'static str>,
    /// No answer of anybody's: what the session lived on has ended.
    pub(crate) ended: bool,
}

/// What happens to a request that arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// No connection was made.
    NoConnection,
    /// The certificate was not accepted.
    BadCertificate,
    /// The connection broke before the request was read.
    Unread,
    /// It was refused and did not run.
    Refused(No),
    /// A JSON-RPC error came in a 200, and it did not run.
    ErrorIn200(i64, &'static str),
    /// It lies unread for so long.
    Lies(u64),
    /// The server has it.
    Taken,
    /// The server has it, and a proxy says this in its place.
    TakenAndLost(No),
    /// The server has it, and answers nonsense.
    TakenAndGarbled,
}

/// The server and its address.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) habits: Habits,
    pub(crate) door: Door,
    /// How often it has been started.
    pub(crate) epoch: u64,
    /// Two servers behind a balancer, each with its own sessions.
    pub(crate) replicas: bool,
    pub(crate) revision: &'static str,
    sessions: BTreeMap<Key, At>,
    /// The epochs in which a list changed.
    lists: BTreeMap<ListKind, BTreeSet<u64>>,
    /// Living sessions of which something at the address has said that they are gone, or has not said that they live.
    pub(crate) slandered: BTreeSet<Key>,
}

const LEGACY: &str = "2025-11-25";

impl Service {
    pub(crate) fn new(habits: Habits) -> Service {
        Service {
            habits,
            door: Door::Server,
            epoch: 0,
            replicas: false,
            revision: LEGACY,
            sessions: BTreeMap::new(),
            lists: BTreeMap::new(),
            slandered: BTreeSet::new(),
        }
    }

    /// A request has come to the address.
    pub(crate) fn meets(&mut self, chance: &mut Chance, now: At, send: &Send, calm: bool) -> Fate {
        let key = (send.latch, send.generation);
        let no = |status, body| Fate::Refused(plain(Words { status, code: None, body }));
        let opens = matches!(send.what, What::Initialize { .. } | What::Delete);
        if self.habits.lined && !opens && !self.sessions.contains_key(&key) {
            // Known without asking anybody, whatever stands at the address.
            let words = Words { status: 404, code: None, body: "the event stream ended" };
            return Fate::Refused(No { ended: true, ..plain(words) });
        }
        match self.door {
            Door::Server => {}
            Door::Closed => return Fate::NoConnection,
            Door::Disguised => return Fate::BadCertificate,
            Door::Page(status) => {
                // A page without a word about sessions is what a lost session looks like, too.
                if status == 404 {
                    self.slandered.insert(key);
                }
                return no(status, "<html><h1>Not the server</h1></html>");
            }
            Door::Challenge => {
                let words = Words { status: 401, code: None, body: "" };
                return Fate::Refused(No { challenge: true, ..plain(words) });
            }
            Door::Busy(status) => {
                let later = chance.one_of(&[Some(500), Some(2_000), Some(200_000)]);
                let words = Words { status, code: None, body: "busy" };
                return Fate::Refused(No { retry_after: later, ..plain(words) });
            }
            Door::Modern => {
                let words = Words { status: 400, code: Some(-32022), body: "Unsupported protocol version" };
                return Fate::Refused(plain(words));
            }
            Door::Moved => {
                let words = Words { status: 302, code: None, body: "" };
                return Fate::Refused(No { location: Some("https://elsewhere.example/mcp"), ..plain(words) });
            }
            Door::Stalled => {
                self.slandered.insert(key);
                return Fate::Lies(1_000 + chance.below(40_000));
            }
            Door::LosesAnswers(_) | Door::Garbles => {}
        }
        let stale = matches!(send.connection, relatch_core::effect::Connection::Any);
        if !calm && self.habits.flaky && chance.percent(if stale { 6 } else { 3 }) {
            return Fate::Unread;
        }
        if let Some(refused) = self.refuses(chance, now, send) {
            return refused;
        }
        match self.door {
            Door::LosesAnswers(status) => {
                self.slandered.insert(key);
                Fate::TakenAndLost(plain(Words { status, code: None, body: "<html>Bad Gateway</html>" }))
            }
            Door::Garbles => {
                self.slandered.insert(key);
                Fate::TakenAndGarbled
            }
            _ => Fate::Taken,
        }
    }

    /// What the server says of a request whose session it does not know.
    fn refuses(&mut self, chance: &mut Chance, now: At, send: &Send) -> Option<Fate> {
        if matches!(send.what, What::Initialize { .. } | What::Delete) || !self.habits.has_id {
            return None;
        }
        let key = (send.latch, send.generation);
        if let (Some(idle), Some(used)) = (self.habits.idle_ms, self.sessions.get(&key))
            && now.since(*used) > idle
        {
            self.sessions.remove(&key);
        }
        let known = self.sessions.contains_key(&key);
        let elsewhere = known && self.replicas && chance.percent(50);
        if elsewhere {
            self.slandered.insert(key);
        }
        if known && !elsewhere {
            self.sessions.insert(key, now);
            return None;
        }
        let words = if matches!(send.what, What::Stream | What::Resume { .. }) {
            self.habits.dialect.get
        } else {
            self.habits.dialect.post
        };
        Some(match words {
            Words { status: 200, code: Some(code), body } => Fate::ErrorIn200(code, body),
            _ => Fate::Refused(plain(words)),
        })
    }

    /// `initialize` is answered: there is a session.
    pub(crate) fn opens(&mut self, key: Key, now: At) {
        self.sessions.insert(key, now);
    }

    /// DELETE.
    pub(crate) fn closes(&mut self, key: Key) {
        self.sessions.remove(&key);
    }

    /// The keeper has died, and with it whatever its sessions lived on.
    pub(crate) fn hangs_up(&mut self) {
        if self.habits.lined {
            self.sessions.clear();
        }
    }

    pub(crate) fn knows(&self, key: Key) -> bool {
        self.habits.has_id && self.sessions.contains_key(&key)
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = Key> {
        self.sessions.keys().copied()
    }

    /// Which version of a list its process of this epoch has.
    pub(crate) fn list(&self, kind: ListKind, epoch: u64) -> u64 {
        self.lists
            .get(&kind)
            .and_then(|changes| changes.range(..=epoch).next_back())
            .copied()
            .unwrap_or_default()
    }

    /// Killed and started again.
    pub(crate) fn restarts(&mut self, chance: &mut Chance) {
        self.epoch += 1;
        if !self.habits.survives {
            self.sessions.clear();
        }
        for kind in [ListKind::Tools, ListKind::Prompts] {
            if chance.percent(30) {
                self.lists.entry(kind).or_default().insert(self.epoch);
            }
        }
        if chance.percent(8) {
            self.revision = if self.revision == LEGACY { "2025-06-18" } else { LEGACY };
        }
    }
}

fn plain(words: Words) -> No {
    No { words, challenge: false, retry_after: None, location: None, ended: false }
}
