//! For the tests of the view: keepers and upstreams in every state, at a moment that stands still.

use jiff::Timestamp;
use relatch_admin::history::{MinuteStatus, ServerHistory, TurnStatus};
use relatch_admin::schema::{
    ClientStatus, ConditionStatus, FailureStatus, JournalStatus, LatencyStatus, PeerStatus, SessionStatus,
    SuccessStatus,
};
use relatch_admin::{Dated, KeeperKind, KeeperStatus, ServerStatus};
use relatch_core::health::{Facets, State, Totals};
use relatch_core::journal::{Entry, What};

use super::model::Model;
use super::watch::News;

/// Seconds from the moment of the tests, 22:13:20 UTC.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(super) fn server(name: &str, health: State) -> ServerStatus {
    let reason = match health {
        State::Healthy => None,
        State::Recovering => Some("a new session is being opened"),
        State::Degraded => Some("HTTP 401 to `tools/list`"),
        State::Down => Some("connection refused (ECONNREFUSED 127.0.0.1:8931)"),
        State::Unknown => Some("no answer seen for 14m"),
    };
    let trouble = ConditionStatus {
        code: "upstream-down".into(),
        title: "The server can't be reached".into(),
        depends_on: vec![],
        since: at(-70),
        cause: "connection refused (ECONNREFUSED 127.0.0.1:8931)".into(),
        effect: "Calls wait, and are given back when their hold ends".into(),
        hint: "Start the server; relatch finds it by itself".into(),
    };
    ServerStatus {
        name: name.to_owned(),
        url: "http://127.0.0.1:8931/mcp".into(),
        health,
        since: at(if health == State::Healthy { -720 } else { -70 }),
        reason: reason.map(str::to_owned),
        facets: Facets {
            configured: Some(true),
            reachable: Some(health != State::Down),
            session: Some(true),
            credentials: None,
            last_call: Some(true),
        },
        conditions: (health == State::Down).then_some(trouble).into_iter().collect(),
        last_success: Some(SuccessStatus { at: at(-3), method: "tools/call".into(), ms: 12.0 }),
        last_failure: (health != State::Healthy).then(|| FailureStatus {
            at: at(-5),
            method: "ping".into(),
            cause: "connection refused (ECONNREFUSED 127.0.0.1:8931)".into(),
        }),
        pause: None,
        next_attempt: (health == State::Down).then(|| at(8)),
        server: Some(PeerStatus {
            name: Some("files-mcp".into()),
            version: Some("1.4.0".into()),
            protocol: "2025-11-25".into(),
            era: "legacy".into(),
        }),
        sessions: vec![SessionStatus {
            id: "0a1b2c3d".into(),
            generation: 4,
            state: "bound".into(),
            opened: at(-7_800),
            bound: Some(at(-720)),
            last_used: at(-3),
            client: Some(ClientStatus { name: "claude-code".into(), version: "2.1.330".into() }),
            open: 1,
            copy: None,
        }],
        waiting: 0,
        totals: Totals {
            calls: 120,
            relatched: 3,
            resent: 2,
            held: 1,
            given_back: 1,
            answered: 118,
            ..Totals::default()
        },
        latency_ms: LatencyStatus { p50: 3.25, p99: 41.0 },
        stderr: Vec::new(),
    }
}

pub(super) fn keeper(pid: u32, servers: Vec<ServerStatus>) -> KeeperStatus {
    KeeperStatus {
        pid,
        kind: KeeperKind::Serve,
        version: "0.1.0".into(),
        since: at(-7_900 + i64::from(pid)),
        servers,
        journal: JournalStatus { dir: Some("/state/journal".into()), fault: None },
    }
}

/// Half an hour: healthy, down for two minutes, relatched, and as it is now since a minute. Calls swell and ebb.
pub(super) fn history(server: &ServerStatus) -> ServerHistory {
    let turn = |second, health| TurnStatus { at: at(second), health, reason: None };
    let mut turns = vec![turn(-1_500, State::Unknown), turn(-1_450, State::Healthy)];
    turns.extend([turn(-900, State::Down), turn(-780, State::Recovering), turn(-720, State::Healthy)]);
    if server.health != State::Healthy {
        turns.push(TurnStatus { at: server.since, health: server.health, reason: server.reason.clone() });
    }
    let minute = |n: i64| MinuteStatus {
        at: at(-20 - 60 * n),
        calls: u64::try_from(120 - 10 * (n - 12).abs()).unwrap_or(0),
        relatched: u64::from(n == 6),
        resent: 0,
        held: 0,
        given_back: 0,
        latency_ms: Some(LatencyStatus { p50: 3.0, p99: 10.0 + f64::from(i32::try_from(n).unwrap()) }),
    };
    ServerHistory { name: server.name.clone(), turns, minutes: (0..24).rev().map(minute).collect() }
}

pub(super) fn entry(pid: u32, seq: u64, second: i64, name: &str, what: What, detail: &str) -> Dated {
    let detail = (!detail.is_empty()).then(|| detail.to_owned());
    let entry = Entry { subject: Some("search_mail".into()), detail, ..Entry::new(what) };
    Dated { at: at(second), upstream: name.to_owned(), pid, seq, entry }
}

/// A model that was told of these keepers, with the history of all their upstreams.
pub(super) fn told(keepers: Vec<KeeperStatus>) -> Model {
    let mut model = Model::default();
    model.readable(None);
    for keeper in keepers {
        let (pid, histories) = (keeper.pid, keeper.servers.iter().map(history).collect());
        model.learn(News::Status(keeper), at(0));
        model.learn(News::History { pid, since: None, servers: histories }, at(0));
    }
    model
}

/// One keeper with an upstream in each health.
pub(super) fn all_healths() -> Model {
    let servers = [
        server("gmail", State::Healthy),
        server("linear", State::Down),
        server("docs", State::Unknown),
        server("github", State::Degraded),
        server("files", State::Recovering),
    ];
    let mut model = told(vec![keeper(4711, servers.to_vec())]);
    for (seq, (second, name, what, detail)) in [
        (-900, "gmail", What::Away, "connection refused (ECONNREFUSED 127.0.0.1:8931)"),
        (-780, "gmail", What::Back, ""),
        (-70, "linear", What::Away, "connection refused (ECONNREFUSED 127.0.0.1:8931)"),
        (-69, "linear", What::Held, "connection refused (ECONNREFUSED 127.0.0.1:8931)"),
        (-24, "linear", What::GivenBack, "connection refused (ECONNREFUSED 127.0.0.1:8931)"),
    ]
    .into_iter()
    .enumerate()
    {
        let seq = u64::try_from(seq).unwrap();
        model.learn(News::Entry(entry(4711, seq, second, name, what, detail)), at(0));
    }
    model
}
