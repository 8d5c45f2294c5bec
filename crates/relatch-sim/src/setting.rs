//! What sort of world a seed describes: the user's settings, the server's habits, the crowd.

use relatch_core::policy::Policy;

use crate::chance::Chance;
use crate::dialect::{Dialect, ODD, PLAIN};

/// A world before anything has happened in it.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) policy: Policy,
    pub(crate) server: Habits,
    /// So many clients at once.
    pub(crate) crowd: usize,
    /// They all sit on stdio.
    pub(crate) stdio: bool,
    /// The machine is put to sleep now and then.
    pub(crate) sleeps: bool,
    /// The keeper itself is killed now and then.
    pub(crate) keeper_dies: bool,
}

/// What the server is like, apart from its troubles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) dialect: Dialect,
    /// It gives session ids.
    pub(crate) has_id: bool,
    /// Each of its sessions lives on a line of its own, a process or an event stream, and ends with it.
    pub(crate) lined: bool,
    /// Its sessions are still known after a restart.
    pub(crate) survives: bool,
    /// It numbers its events.
    pub(crate) resumable: bool,
    /// It has a standing stream.
    pub(crate) streams: bool,
    /// It knows `ping`.
    pub(crate) pings: bool,
    /// Sessions that nobody uses end after this.
    pub(crate) idle_ms: Option<u64>,
    /// Connections break now and then.
    pub(crate) flaky: bool,
}

impl Setting {
    pub(crate) fn of(chance: &mut Chance) -> Setting {
        let odd = chance.percent(25);
        let dialect = if odd { chance.one_of(ODD) } else { chance.one_of(PLAIN) };
        let lined = chance.percent(12);
        let server = Habits {
            dialect,
            lined,
            has_id: chance.percent(88) || lined,
            survives: chance.percent(8) && !lined,
            resumable: chance.percent(30) && !lined,
            streams: chance.percent(80),
            pings: chance.percent(90),
            // An odd dialect is found out once a minute at most: sessions that end sooner stay a riddle.
            idle_ms: (!odd && chance.percent(15)).then(|| chance.one_of(&[20_000, 70_000, 300_000])),
            flaky: chance.percent(30),
        };
        let policy = Policy {
            local: chance.percent(80),
            stateful: chance.percent(10),
            hold_ms: chance.one_of(&[45_000, 45_000, 5_000, 300_000]),
            gateway_errors_refused: chance.percent(10),
            copies: chance.percent(70),
            replay: vec![("once*".to_owned(), false), ("again*".to_owned(), true)],
            ..Policy::new("files", "http://127.0.0.1:8931/mcp")
        };
        Setting {
            policy,
            server,
            crowd: if chance.percent(10) { 30 } else { 1 + chance.below(4) as usize },
            stdio: chance.percent(30),
            sleeps: chance.percent(20),
            keeper_dies: chance.percent(50),
        }
    }

    /// In a few words, for the head of a transcript.
    pub(crate) fn words(&self) -> String {
        let Habits { dialect, lined, has_id, survives, resumable, streams, pings, idle_ms, flaky } =
            self.server;
        format!(
            "dialect `{}`, lined={lined} has_id={has_id} survives={survives} resumable={resumable} streams={streams} pings={pings} \
             idle={idle_ms:?} flaky={flaky}; hold={} local={} stateful={} gateway_errors_refused={} copies={}; crowd={} stdio={} \
             sleeps={} keeper_dies={}",
            dialect.name,
            self.policy.hold_ms,
            self.policy.local,
            self.policy.stateful,
            self.policy.gateway_errors_refused,
            self.policy.copies,
            self.crowd,
            self.stdio,
            self.sleeps,
            self.keeper_dies,
        )
    }
}
