//! The truth about every upstream: a table that is read in two seconds, and the story of one.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use relatch_admin::schema::{ConditionStatus, NoAnswer, SuccessStatus, Unanswered};
use relatch_admin::{KeeperStatus, ServerStatus, Status};
use relatch_core::health::State;

use super::table::{Cell, Side, Table};
use super::{Style, Tint, clean, span};

/// Lines of stderr that are shown of a server that is well.
const STDERR: usize = 5;

/// Every upstream of every keeper in one table, the evidence last; under what is not healthy stands what to do.
///
/// `width` is that of the reader's terminal: what does not fit is left out, least important first.
pub(crate) fn table(status: &Status, now: Timestamp, style: Style, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("NAME", Side::Left),
        ("HEALTH", Side::Left),
        ("FOR", Side::Right),
        ("SESSION", Side::Left),
        ("CALLS", Side::Right),
        ("RELATCHED", Side::Right),
        ("GIVEN BACK", Side::Right),
        ("P50/P99", Side::Right),
        ("KEEPER", Side::Left),
        ("EVIDENCE", Side::Left),
    ]);
    for keeper in &status.keepers {
        for server in &keeper.servers {
            let totals = &server.totals;
            table.row(
                vec![
                    Cell::tinted(clean(&server.name), Tint::Strong),
                    health(server.health),
                    Cell::new(ago(server.since, now)),
                    Cell::new(session(server, now)),
                    Cell::new(totals.calls.to_string()),
                    Cell::new(totals.relatched.to_string()),
                    Cell::new(totals.given_back.to_string()),
                    Cell::new(latency(server)),
                    Cell::tinted(format!("{} {}", keeper.kind.as_str(), keeper.pid), Tint::Faint),
                    Cell::new(match server.health {
                        State::Healthy => evidence(server.last_success.as_ref(), now),
                        _ => reason(server, now),
                    }),
                ],
                conditions(server, now, "  "),
            );
        }
    }
    let spare = ["KEEPER", "P50/P99", "SESSION", "CALLS", "GIVEN BACK", "RELATCHED"];
    let mut text = table.fit(width, &spare).render(style, "");
    text.push_str(&unanswered(status, style));
    for keeper in &status.keepers {
        if let Some(fault) = &keeper.journal.fault {
            text.push_str(&format!(
                "  the journal of keeper {} is not kept whole: {}\n",
                keeper.pid,
                clean(fault)
            ));
        }
    }
    text
}

/// Keepers that run and of whose upstreams nothing can be told, a line each.
pub(crate) fn unanswered(status: &Status, style: Style) -> String {
    let line = |keeper: &Unanswered| {
        let (word, tint) = match keeper.how {
            NoAnswer::Hangs => ("✗ hangs", Tint::Bad),
            NoAnswer::BrokenOff => ("✗ broken off", Tint::Bad),
            NoAnswer::Unread => ("? unread", Tint::Faint),
        };
        format!("keeper {}  {}  {}\n", keeper.pid, style.tint(tint, word), clean(&keeper.cause))
    };
    status.unanswered.iter().map(line).collect()
}

/// One upstream of one keeper with its sessions and clients; `width` is that of the reader's terminal.
pub(crate) fn story(
    keeper: &KeeperStatus,
    server: &ServerStatus,
    now: Timestamp,
    style: Style,
    width: Option<usize>,
) -> String {
    let (mark, tint) = mark(server.health);
    let word = style.tint(tint, &format!("{mark} {}", server.health.as_str()));
    let mut text = format!(
        "{}  {word} for {}\n",
        style.tint(Tint::Strong, &clean(&server.name)),
        ago(server.since, now)
    );
    if server.health != State::Healthy {
        text.push_str(&format!("  {}\n", reason(server, now)));
    }
    text.push_str(&conditions(server, now, "  "));
    let mut line = |name: &str, words: String| text.push_str(&format!("  {name:<13} {words}\n"));
    line("address", clean(&server.url).into_owned());
    if let Some(peer) = &server.server {
        let name = peer.name.as_deref().unwrap_or("(no name)");
        let version = peer.version.as_deref().map_or(String::new(), |version| format!(" {version}"));
        line("server", clean(&format!("{name}{version}, MCP {} ({})", peer.protocol, peer.era)).into_owned());
    }
    line("last answer", evidence(server.last_success.as_ref(), now));
    if let Some(failure) = &server.last_failure {
        line(
            "last failure",
            clean(&format!("{} {} ago: {}", failure.method, ago(failure.at, now), failure.cause))
                .into_owned(),
        );
    }
    // Of one that is well, the last of it is enough.
    let skipped =
        if server.health == State::Healthy { server.stderr.len().saturating_sub(STDERR) } else { 0 };
    for (at, said) in server.stderr.iter().skip(skipped).enumerate() {
        line(if at == 0 { "stderr" } else { "" }, clean(said).into_owned());
    }
    let facets = &server.facets;
    line(
        "known",
        format!(
            "address: {} · reachable: {} · session: {} · credentials: {} · last call: {}",
            known(facets.configured, "right", "wrong"),
            known(facets.reachable, "yes", "no"),
            known(facets.session, "alive", "gone"),
            known(facets.credentials, "accepted", "refused"),
            known(facets.last_call, "answered", "not answered"),
        ),
    );
    if let Some(copy) = copies(server) {
        line("copy", copy);
    }
    let totals = &server.totals;
    line(
        "calls",
        format!(
            "{} · relatched {} · resent {} · held {} · given back {} (may have run: {})",
            totals.calls,
            totals.relatched,
            totals.resent,
            totals.held,
            totals.given_back,
            totals.delivery_unknown
        ),
    );
    line("latency", format!("{} of tools/call (p50/p99)", latency(server)));
    if server.waiting > 0 {
        line("waiting", format!("{} now", count(server.waiting, "call")));
    }
    line(
        "keeper",
        format!(
            "{}, process {}, relatch {}, running for {}",
            keeper.kind.as_str(),
            keeper.pid,
            clean(&keeper.version),
            ago(keeper.since, now)
        ),
    );
    line(
        "journal",
        match (&keeper.journal.dir, &keeper.journal.fault) {
            (Some(dir), None) => clean(dir).into_owned(),
            (Some(dir), Some(fault)) => clean(&format!("{dir}, not kept whole: {fault}")).into_owned(),
            (None, _) => "in memory only".to_owned(),
        },
    );
    if server.sessions.is_empty() {
        text.push_str("\n  No client is attached\n");
        return text;
    }
    let mut table = Table::new(&[
        ("SESSION", Side::Left),
        ("CLIENT", Side::Left),
        ("STATE", Side::Left),
        ("GENERATION", Side::Right),
        ("OPENED", Side::Left),
        ("BOUND", Side::Left),
        ("LAST USED", Side::Left),
        ("OPEN CALLS", Side::Right),
    ]);
    for session in &server.sessions {
        let client = session
            .client
            .as_ref()
            .map_or("(unnamed)".to_owned(), |client| format!("{} {}", client.name, client.version));
        table.row(
            vec![
                // On stdio the process itself is the session.
                Cell::new(if session.id.is_empty() { "–".into() } else { clean(&session.id) }),
                Cell::new(clean(&client)),
                Cell::new(clean(&session.state)),
                Cell::new(if session.generation == 0 {
                    "–".to_owned()
                } else {
                    session.generation.to_string()
                }),
                Cell::new(format!("{} ago", ago(session.opened, now))),
                Cell::new(session.bound.map_or("–".to_owned(), |bound| format!("{} ago", ago(bound, now)))),
                Cell::new(format!("{} ago", ago(session.last_used, now))),
                Cell::new(session.open.to_string()),
            ],
            String::new(),
        );
    }
    text.push('\n');
    let width = width.map(|width| width.saturating_sub(2));
    text.push_str(&table.fit(width, &["OPENED", "OPEN CALLS", "STATE"]).render(style, "  "));
    text
}

/// What a health looks like, with and without colours.
pub(crate) fn mark(state: State) -> (&'static str, Tint) {
    match state {
        State::Healthy => ("✓", Tint::Good),
        State::Recovering => ("↻", Tint::Busy),
        State::Degraded => ("!", Tint::Busy),
        State::Down => ("✗", Tint::Bad),
        State::Unknown => ("?", Tint::Faint),
    }
}

fn health(state: State) -> Cell {
    let (mark, tint) = mark(state);
    Cell::tinted(format!("{mark} {}", state.as_str()), tint)
}

/// How many clients live on a copy of what the server said, and of when the oldest is.
fn copies(server: &ServerStatus) -> Option<String> {
    let made = server.sessions.iter().filter_map(|session| session.copy);
    let date = made.clone().min()?.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string();
    Some(match made.count() {
        1 => format!("a client was answered from a copy of {date}; the server is not there yet"),
        clients => format!(
            "{clients} clients were answered from a copy of {date} or later; the server is not there yet"
        ),
    })
}

/// The session that was bound last, by its generation and its age, and how many others there are: `g4 12m +2`.
pub(crate) fn session(server: &ServerStatus, now: Timestamp) -> String {
    let bound = server.sessions.iter().filter_map(|session| Some((session.bound?, session.generation)));
    let Some((bound, generation)) = bound.max() else {
        return if server.sessions.iter().any(|session| session.copy.is_some()) { "copy" } else { "–" }
            .to_owned();
    };
    let others = server.sessions.len() - 1;
    let others = if others > 0 { format!(" +{others}") } else { String::new() };
    format!("g{generation} {}{others}", ago(bound, now))
}

/// `tools/call 3s ago (12 ms)`.
fn evidence(success: Option<&SuccessStatus>, now: Timestamp) -> String {
    success.map_or("none yet".to_owned(), |success| {
        format!("{} {} ago ({:.0} ms)", clean(&success.method), ago(success.at, now), success.ms)
    })
}

/// p50 and p99 of `tools/call`.
pub(crate) fn latency(server: &ServerStatus) -> String {
    let latency = &server.latency_ms;
    if server.totals.answered == 0 {
        return "–".to_owned();
    }
    if latency.p99 < 1.0 {
        return "<1 ms".to_owned();
    }
    let digits = |ms: f64| if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
    format!("{}/{} ms", digits(latency.p50), digits(latency.p99))
}

/// Why it isn't healthy, and what comes next.
pub(crate) fn reason(server: &ServerStatus, now: Timestamp) -> String {
    let mut text = clean(server.reason.as_deref().unwrap_or("no reason known")).into_owned();
    if let Some(success) = server.last_success.as_ref().filter(|_| server.health == State::Unknown) {
        text.push_str(&format!(" (the last: {})", clean(&success.method)));
    }
    if let Some(pause) = &server.pause {
        text.push_str(&format!(" · goes on by itself in {}", span(until(pause.until, now))));
        return text;
    }
    match server.next_attempt.map(|next| until(next, now)) {
        Some(0..1_000) => text.push_str(" · next attempt now"),
        Some(left) => text.push_str(&format!(" · next attempt in {}", span(left))),
        None if server.sessions.is_empty() => text.push_str(" · no client is attached"),
        None => {}
    }
    text
}

/// Each named trouble: what it means for the user, and what can be done. Its cause is said once.
fn conditions(server: &ServerStatus, now: Timestamp, indent: &str) -> String {
    let mut text = String::new();
    for ConditionStatus { code, title, since, cause, effect, hint, .. } in &server.conditions {
        let told = server.reason.as_deref() == Some(cause.as_str());
        let cause = if told { String::new() } else { format!("{} · ", clean(cause)) };
        let since = ago(*since, now);
        // A keeper of an older version has no titles.
        let title = if title.is_empty() { code } else { title };
        text.push_str(&format!("{indent}{} for {since}: {cause}{}\n", clean(title), clean(effect)));
        text.push_str(&format!("{indent}hint: {} (`relatch explain {}`)\n", clean(hint), clean(code)));
    }
    text
}

fn known(fact: Option<bool>, yes: &'static str, no: &'static str) -> &'static str {
    match fact {
        Some(true) => yes,
        Some(false) => no,
        None => "unknown",
    }
}

/// What became of a wish for new sessions.
pub(crate) fn asked(latches: usize) -> String {
    match latches {
        0 => "no client is attached, nothing to do".to_owned(),
        latches => format!("relatching {}", count(latches, "session")),
    }
}

pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    span(until(now, then))
}

fn until(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(then.as_millisecond() - now.as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use relatch_admin::KeeperKind;
    use relatch_admin::schema::{
        ClientStatus, FailureStatus, JournalStatus, LatencyStatus, PeerStatus, SCHEMA, SessionStatus,
    };
    use relatch_core::health::{Facets, Totals};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn healthy() -> ServerStatus {
        ServerStatus {
            name: "gmail".into(),
            url: "http://127.0.0.1:8761/mcp".into(),
            health: State::Healthy,
            since: at(-720),
            reason: None,
            facets: Facets {
                configured: Some(true),
                reachable: Some(true),
                session: Some(true),
                credentials: None,
                last_call: Some(true),
            },
            conditions: vec![],
            last_success: Some(SuccessStatus { at: at(-3), method: "tools/call".into(), ms: 12.0 }),
            last_failure: None,
            pause: None,
            next_attempt: None,
            server: Some(PeerStatus {
                name: Some("gmail-mcp".into()),
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
                given_back: 0,
                delivery_unknown: 0,
                answered: 120,
                answered_ms: 1_440,
            },
            latency_ms: LatencyStatus { p50: 3.25, p99: 41.0 },
            stderr: Vec::new(),
        }
    }

    fn down() -> ServerStatus {
        ServerStatus {
            name: "linear".into(),
            health: State::Down,
            since: at(-70),
            reason: Some("refused 3 connections (ECONNREFUSED 127.0.0.1:8931)".into()),
            conditions: vec![ConditionStatus {
                code: "endpoint-missing".into(),
                title: "Something else answers at the server's address".into(),
                depends_on: vec![],
                since: at(-70),
                cause: "`/mcp` answers 404\u{1b}[31m".into(),
                effect: "Calls wait up to 45s".into(),
                hint: "Start the server".into(),
            }],
            last_success: None,
            last_failure: Some(FailureStatus { at: at(-5), method: "ping".into(), cause: "refused".into() }),
            pause: None,
            next_attempt: Some(at(8)),
            server: None,
            sessions: vec![],
            totals: Totals::default(),
            latency_ms: LatencyStatus::default(),
            ..healthy()
        }
    }

    fn keeper(servers: Vec<ServerStatus>) -> KeeperStatus {
        KeeperStatus {
            pid: 4711,
            kind: KeeperKind::Serve,
            version: "0.1.0".into(),
            since: at(-7_900),
            servers,
            journal: JournalStatus { dir: Some("/state/journal".into()), fault: None },
        }
    }

    #[test]
    fn the_table_says_what_works_on_what_evidence_and_why_the_rest_does_not() {
        let status = Status {
            schema: SCHEMA,
            keepers: vec![keeper(vec![healthy(), down()])],
            unanswered: vec![Unanswered {
                pid: 99,
                how: NoAnswer::Hangs,
                version: None,
                cause: "process 99 gave no answer within 2 s".into(),
            }],
        };
        insta::assert_snapshot!(table(&status, at(0), Style::Plain, None), @r"
        NAME    HEALTH        FOR  SESSION  CALLS  RELATCHED  GIVEN BACK    P50/P99  KEEPER      EVIDENCE
        gmail   ✓ healthy     12m  g4 12m     120          3           0  3.2/41 ms  serve 4711  tools/call 3s ago (12 ms)
        linear  ✗ down     1m 10s  –            0          0           0          –  serve 4711  refused 3 connections (ECONNREFUSED 127.0.0.1:8931) · next attempt in 8s
          Something else answers at the server's address for 1m 10s: `/mcp` answers 404 [31m · Calls wait up to 45s
          hint: Start the server (`relatch explain endpoint-missing`)
        keeper 99  ✗ hangs  process 99 gave no answer within 2 s
        ");
    }

    #[test]
    fn the_story_of_one_upstream_has_its_sessions_and_clients() {
        let server = healthy();
        insta::assert_snapshot!(story(&keeper(vec![]), &server, at(0), Style::Plain, None), @r"
        gmail  ✓ healthy for 12m
          address       http://127.0.0.1:8761/mcp
          server        gmail-mcp 1.4.0, MCP 2025-11-25 (legacy)
          last answer   tools/call 3s ago (12 ms)
          known         address: right · reachable: yes · session: alive · credentials: unknown · last call: answered
          calls         120 · relatched 3 · resent 2 · held 1 · given back 0 (may have run: 0)
          latency       3.2/41 ms of tools/call (p50/p99)
          keeper        serve, process 4711, relatch 0.1.0, running for 2h 11m
          journal       /state/journal

          SESSION   CLIENT               STATE  GENERATION  OPENED      BOUND    LAST USED  OPEN CALLS
          0a1b2c3d  claude-code 2.1.330  bound           4  2h 10m ago  12m ago  3s ago              1
        ");
    }

    #[test]
    fn the_narrowest_terminal_still_has_name_and_health() {
        let status = Status { schema: SCHEMA, keepers: vec![keeper(vec![healthy()])], unanswered: vec![] };
        insta::assert_snapshot!(table(&status, at(0), Style::Plain, Some(30)), @r"
        NAME   HEALTH     FOR
        gmail  ✓ healthy  12m
          tools/call 3s ago (12 ms)
        ");
    }

    #[test]
    fn what_a_process_said_on_stderr_is_shown_whole_when_it_is_not_well() {
        let stderr: Vec<String> = (1..=7).map(|n| format!("line {n}\u{1b}[31m")).collect();
        let shown = |server| story(&keeper(vec![]), &server, at(0), Style::Plain, None);
        let well = shown(ServerStatus { stderr: stderr.clone(), ..healthy() });
        assert!(
            well.contains("\n  stderr        line 3 [31m\n                line 4")
                && !well.contains("line 2")
        );
        let ill = shown(ServerStatus { stderr, ..down() });
        assert!(ill.contains("\n  stderr        line 1 [31m\n") && ill.contains(" line 7"), "{ill}");
    }

    #[test]
    fn colour_is_added_and_never_needed() {
        let status = Status { schema: SCHEMA, keepers: vec![keeper(vec![healthy()])], unanswered: vec![] };
        let coloured = table(&status, at(0), Style::Coloured, None);
        assert!(coloured.contains("\x1b[32m✓ healthy\x1b[0m"));
    }
}
