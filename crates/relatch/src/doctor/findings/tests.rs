//! One server that is well, and what is said when one thing about it is not.

use std::time::Duration;

use bytes::Bytes;
use relatch_net::upstream::dial::{Cause, Nearness};
use relatch_wire::era::Revision;
use serde_json::{Value, json};

use super::*;
use crate::doctor::client::take;
use crate::doctor::facts::{Back, Form, Inside, Restart, Session, Shut};
use crate::doctor::probes::NEVER;

const ID: &str = "cdfa292f-6ae7-41eb-a854-e01aabfc13a6";

fn seen(status: u16, kind: &str, body: &str) -> Seen {
    let mut answer = Answer { status, kind: kind.to_owned(), ..Answer::default() };
    take(&Bytes::copy_from_slice(body.as_bytes()), &mut answer);
    Seen { end: End::Answered(Box::new(answer)), ms: 1.0 }
}

fn result(value: &Value) -> Seen {
    seen(200, "application/json", &json!({ "jsonrpc": "2.0", "id": 1, "result": value }).to_string())
}

fn error(status: u16, code: i64, message: &str) -> Seen {
    let error = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": message } });
    seen(status, "application/json", &error.to_string())
}

fn text(status: u16, body: &str) -> Seen {
    seen(status, "text/plain", body)
}

fn silent() -> Seen {
    Seen { end: End::Silent(Duration::from_secs(5)), ms: 5_000.0 }
}

fn stream() -> Seen {
    with(seen(200, "text/event-stream", ""), |answer| {
        answer.form = Form::Events;
        answer.open = true;
    })
}

fn with(mut seen: Seen, change: impl FnOnce(&mut Answer)) -> Seen {
    if let End::Answered(answer) = &mut seen.end {
        change(answer);
    }
    seen
}

fn hello(revision: &str) -> Seen {
    with(result(&json!({ "protocolVersion": revision, "serverInfo": { "name": "s" } })), |answer| {
        answer.session = Some(ID.to_owned());
    })
}

/// A server of which nothing is to be said.
fn well() -> Inside {
    let pong = result(&json!({}));
    Inside {
        name: Some("s".to_owned()),
        revision: "2025-11-25".to_owned(),
        initialize: hello("2025-11-25"),
        ids: vec![ID.to_owned(), ID.replace('c', "d")],
        initialized: text(202, ""),
        ping: pong.clone(),
        pings: vec![1.0; 20],
        scattered: vec![pong.clone(); 5],
        tools: Some(result(&json!({ "tools": [] }))),
        unknown_method: error(200, -32601, "Method not found"),
        accept_json: error(406, -32000, "Not Acceptable"),
        accept_events: error(406, -32000, "Not Acceptable"),
        version_missing: pong.clone(),
        version_unknown: error(400, -32000, "Bad Request: Unsupported protocol version: 1999-01-01"),
        revisions: vec![(Revision::V2025_06_18, hello("2025-06-18"))],
        revision_unknown: hello("2025-11-25"),
        discover: error(400, -32000, "Bad Request: Server not initialized"),
        stream: stream(),
        foreign_origin: error(403, -32000, "Forbidden"),
        foreign_host: error(403, -32000, "Forbidden"),
        session: Some(Session {
            missing: error(400, -32000, "Bad Request: Session ID required"),
            foreign: error(404, -32001, "Session not found"),
            misshapen: error(404, -32001, "Session not found"),
            foreign_stream: error(404, -32001, "Session not found"),
            delete: text(200, ""),
            ended: error(404, -32001, "Session not found"),
            stray: None,
        }),
        idle_socket: Some(Ok(Duration::from_secs(5))),
        ..Inside::default()
    }
}

fn facts(door: Door) -> Facts {
    Facts {
        url: "http://127.0.0.1:8761/mcp".to_owned(),
        path: "/mcp".to_owned(),
        near: Nearness::Loopback,
        with_headers: false,
        redirected: Vec::new(),
        door,
        stopped: false,
        requests: 60,
        sessions: (5, 5),
        took: Duration::from_secs(8),
    }
}

/// What is said that is not well, after one change.
fn after(change: impl FnOnce(&mut Inside)) -> Vec<Finding> {
    let mut inside = well();
    change(&mut inside);
    let all = findings(&facts(Door::Open(Box::new(inside))));
    all.into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

fn session(change: impl FnOnce(&mut Session)) -> Vec<Finding> {
    after(|inside| change(inside.session.as_mut().unwrap()))
}

fn levels(findings: &[Finding]) -> Vec<(&'static str, Level)> {
    findings.iter().map(|finding| (finding.code, finding.level)).collect()
}

#[test]
fn of_a_server_that_is_well_there_is_nothing_to_mend() {
    assert_eq!(after(|_| {}), []);
    let all = facts(Door::Open(Box::new(well())));
    assert!(passes(&all, &findings(&all)));
}

#[test]
fn every_dialect_of_a_dead_session_is_judged_as_relatch_reads_it() {
    use Level::{Note, Unknown, Wrong};
    let cases: [(Seen, Option<Level>, &str); 13] = [
        (error(404, -32001, "Session not found"), None, ""),
        (error(404, -32600, "Session not found"), None, ""),
        (text(404, "Not Found: Session not found"), None, ""),
        (text(404, ""), None, ""),
        (
            error(400, -32000, "Bad Request: No valid session ID provided"),
            Some(Wrong),
            "Claude Code and VS Code",
        ),
        (text(400, "Bad Request: No valid session ID provided"), Some(Wrong), "opens a new session"),
        (
            error(400, -32000, "The Mcp-Session-Id header is not supported in stateless mode"),
            Some(Wrong),
            "Claude Code and Codex",
        ),
        (text(401, "Unauthorized: Session not found"), Some(Wrong), "instead of 404"),
        (text(422, "Unexpected message, expect initialize request"), Some(Wrong), "instead of 404"),
        (text(500, "Internal Server Error"), Some(Wrong), "asks `ping` first"),
        (error(200, -32600, "missing or invalid Mcp-Session-Id"), Some(Wrong), "asks `ping` first"),
        (error(404, -32601, "Method not found"), Some(Wrong), "relatch reconnect"),
        (silent(), Some(Unknown), "could not be seen"),
    ];
    for (foreign, level, words) in cases {
        let shown = shown(&foreign);
        let found = session(|session| {
            session.misshapen = foreign.clone();
            session.ended = foreign.clone();
            session.foreign = foreign;
        });
        let dead: Vec<&Finding> = found.iter().filter(|finding| finding.code == "dead-session").collect();
        assert_eq!(dead.first().map(|finding| finding.level), level, "{shown}");
        assert!(dead.iter().all(|finding| format!("{finding:?}").contains(words)), "{shown}: {dead:?}");
    }
    let found = session(|session| {
        (session.foreign, session.misshapen) = (result(&json!({})), result(&json!({})));
    });
    assert_eq!(levels(&found), [("dead-session", Note)], "served, so nothing tells of a loss");
}

#[test]
fn each_ill_of_a_session_has_its_finding() {
    use Level::{Note, Wrong};
    let cases: [(&str, Vec<Finding>, Level); 15] = [
        ("session-id", after(|inside| inside.ids = vec![ID.to_owned(); 2]), Wrong),
        ("session-id", after(|inside| inside.ids = vec!["1".to_owned(), "2".to_owned()]), Note),
        ("session-id", after(|inside| inside.ids = vec!["a b".to_owned()]), Wrong),
        (
            "foreign-id",
            session(|session| session.misshapen = error(400, -32600, "must be a valid UUID")),
            Note,
        ),
        ("missing-id", session(|session| session.missing = result(&json!({}))), Note),
        ("missing-id", session(|session| session.missing = text(404, "Invalid session ID")), Note),
        (
            "stray-id",
            session(|session| {
                session.missing =
                    with(text(400, "Missing session ID"), |answer| answer.session = Some("x".into()));
            }),
            Note,
        ),
        (
            "stray-id",
            session(|session| {
                session.foreign = with(text(404, "gone"), |answer| answer.session = Some(ID.to_owned()));
            }),
            Wrong,
        ),
        ("delete", session(|session| session.delete = text(405, "")), Note),
        ("delete", session(|session| session.delete = text(400, "")), Note),
        ("delete", session(|session| session.ended = result(&json!({}))), Wrong),
        ("ended-session", session(|session| session.ended = text(410, "gone")), Note),
        ("dead-stream", session(|session| session.foreign_stream = stream()), Note),
        (
            "sessions-not-shared",
            after(|inside| inside.scattered[2] = error(404, -32001, "Session not found")),
            Wrong,
        ),
        (
            "idle-session",
            after(|inside| {
                inside.idle_session =
                    Some((Duration::from_secs(600), error(404, -32001, "Session not found")));
            }),
            Note,
        ),
    ];
    for (code, found, level) in cases {
        assert_eq!(levels(&found), [(code, level)], "{found:#?}");
    }
    let found = after(|inside| {
        (inside.ids, inside.session) = (Vec::new(), None);
        inside.strange =
            Some(error(400, -32000, "The Mcp-Session-Id header is not supported in stateless mode"));
    });
    assert_eq!(levels(&found), [("strange-id", Note)]);
}

#[test]
fn who_may_speak_is_judged_by_what_could_happen() {
    use Level::{Note, Wrong};
    let open = |inside: &mut Inside| {
        let pong = result(&json!({}));
        (inside.foreign_origin, inside.foreign_host) = (pong.clone(), pong.clone());
        inside.rebound = Some(pong);
    };
    let found = after(open);
    assert_eq!(levels(&found), [("origin", Wrong)]);
    assert!(found[0].said.contains("DNS rebinding"));

    let mut inside = well();
    open(&mut inside);
    let mut all = facts(Door::Open(Box::new(inside)));
    all.near = Nearness::Public;
    let level = |all: &Facts| findings(all).iter().find(|finding| finding.code == "origin").unwrap().level;
    assert_eq!(level(&all), Note, "nobody's own machine");
    all.near = Nearness::Loopback;
    assert_eq!(level(&all), Wrong);
    if let Door::Open(inside) = &mut all.door {
        inside.bare = Some(hello("2025-11-25"));
    }
    assert_eq!(level(&all), Wrong, "the headers that were given are not needed");
    if let Door::Open(inside) = &mut all.door {
        inside.bare = Some(text(401, ""));
    }
    assert_eq!(level(&all), Note, "behind credentials");
    if let Door::Open(inside) = &mut all.door {
        inside.bare = None;
    }
    all.url = "https://localhost/mcp".to_owned();
    assert_eq!(level(&all), Note, "a page of another name has no certificate");

    let found = after(|inside| {
        open(inside);
        inside.foreign_host = error(421, -32600, "Invalid Host header");
        inside.rebound = None;
    });
    assert_eq!(levels(&found), [("origin", Note)], "the host is what stops it");

    let readable = |inside: &mut Inside| {
        open(inside);
        inside.foreign_host = error(403, -32000, "Forbidden");
        let allow = |answer: &mut Answer| answer.allows_origin = Some("*".to_owned());
        inside.foreign_origin = with(result(&json!({})), allow);
        inside.preflight = Some(with(text(204, ""), |answer| {
            allow(answer);
            answer.allows_headers = Some("Content-Type, Mcp-Session-Id".to_owned());
        }));
    };
    let found = after(readable);
    assert_eq!(levels(&found), [("origin", Wrong)]);
    assert!(found[0].said.contains("Any web page"));
    let found = after(|inside| {
        readable(inside);
        inside.preflight = Some(text(404, ""));
    });
    assert_eq!(levels(&found), [("origin", Note)], "the browser asks first, and is refused");

    assert_eq!(levels(&after(|inside| inside.foreign_origin = text(400, "no"))), [("origin", Note)]);
}

#[test]
fn each_ill_of_the_talk_has_its_finding() {
    use Level::{Note, Unknown, Wrong};
    let cases: [(&str, Vec<Finding>, Level); 22] = [
        ("notification", after(|inside| inside.initialized = text(200, "")), Note),
        ("notification", after(|inside| inside.initialized = text(500, "")), Wrong),
        ("ping", after(|inside| inside.ping = error(200, -32601, "Method not found")), Wrong),
        ("ping", after(|inside| inside.ping = silent()), Wrong),
        ("unknown-method", after(|inside| inside.unknown_method = error(200, -32602, "Invalid")), Note),
        ("unknown-method", after(|inside| inside.unknown_method = text(500, "")), Wrong),
        ("unknown-method", after(|inside| inside.unknown_method = silent()), Wrong),
        ("tools", after(|inside| inside.tools = Some(error(200, -32603, "boom"))), Wrong),
        ("stream", after(|inside| inside.stream = silent()), Wrong),
        ("stream", after(|inside| inside.stream = text(404, "")), Wrong),
        ("stream", after(|inside| inside.stream = with(stream(), |answer| answer.open = false)), Note),
        ("accept", after(|inside| inside.accept_json = text(400, "")), Note),
        ("version-header", after(|inside| inside.version_missing = text(400, "version")), Wrong),
        ("version-header", after(|inside| inside.version_unknown = result(&json!({}))), Note),
        ("revisions", after(|inside| inside.revisions[0].1 = error(400, -32602, "version")), Wrong),
        ("future-revision", after(|inside| inside.revision_unknown = error(200, -32602, "version")), Wrong),
        ("future-revision", after(|inside| inside.revision_unknown = hello(NEVER)), Note),
        ("eras", after(|inside| inside.discover = text(500, "")), Wrong),
        ("eras", after(|inside| inside.discover = silent()), Wrong),
        ("idle-socket", after(|inside| inside.idle_socket = Some(Ok(Duration::from_secs(1)))), Note),
        ("idle-socket", after(|inside| inside.idle_socket = None), Unknown),
        ("slow", after(|inside| inside.pings = vec![1_500.0; 20]), Note),
    ];
    for (code, found, level) in cases {
        assert_eq!(levels(&found), [(code, level)], "{found:#?}");
    }
    for quiet in [error(404, -32601, "no"), error(200, -32601, "no"), text(404, ""), text(503, "")] {
        assert_eq!(after(|inside| inside.discover = quiet), [], "clients fall back");
    }
    assert_eq!(after(|inside| inside.stream = text(405, "")), []);
}

#[test]
fn events_without_ids_and_ids_without_resumption_are_told_apart() {
    let events = |inside: &mut Inside| {
        inside.ping = with(result(&json!({})), |answer| answer.form = Form::Events);
    };
    let resumed = |seen: Option<Seen>| {
        after(|inside| {
            events(inside);
            inside.resumed = seen;
        })
    };
    assert_eq!(levels(&resumed(None)), [("resumption", Level::Note)]);
    assert_eq!(levels(&resumed(Some(text(500, "")))), [("resumption", Level::Wrong)]);
    assert_eq!(levels(&resumed(Some(stream()))), [("resumption", Level::Unknown)]);
    let replayed = with(stream(), |answer| answer.result = Some(json!({})));
    assert_eq!(resumed(Some(replayed)), []);
}

#[test]
fn a_restart_is_told_by_what_became_of_the_session() {
    use Level::{Note, Unknown, Wrong};
    let away = Back {
        away: Some(Duration::from_millis(900)),
        old: error(404, -32001, "Session not found"),
        new: hello("2025-11-25"),
        ..Back::default()
    };
    let told = |back: Back| levels(&after(|inside| inside.restart = Some(Restart::Back(Box::new(back)))));
    assert_eq!(told(away.clone()), [("restart-session", Note)]);
    assert_eq!(told(Back { old: result(&json!({})), ..away.clone() }), []);
    assert_eq!(told(Back { id_repeats: true, ..away.clone() })[0], ("restart-ids", Wrong));
    assert!(told(Back { tools_differ: Some(true), ..away.clone() }).contains(&("restart-tools", Note)));
    assert!(told(Back { version_differs: true, ..away.clone() }).contains(&("restart-version", Note)));
    assert_eq!(told(Back { new: text(500, ""), ..away.clone() })[0], ("restart-handshake", Wrong));
    assert_eq!(told(Back { old: text(500, "boom"), ..away.clone() })[0], ("restart-session", Wrong));
    assert_eq!(
        told(Back { away: None, old: result(&json!({})), ..away }),
        [("restart", Note)],
        "never seen away"
    );
    let restart = |restart| levels(&after(|inside| inside.restart = Some(restart)));
    assert_eq!(restart(Restart::Failed("exit 1".to_owned())), [("restart", Unknown)]);
    assert_eq!(restart(Restart::Away(Duration::from_secs(90))), [("restart", Wrong)]);
}

fn shut(initialize: Seen) -> Shut {
    Shut { initialize, get: None, discover: None, foreign: None, elsewhere: None }
}

#[test]
fn an_address_without_handshake_says_what_is_there_instead() {
    let broken = |cause| Seen { end: End::Broken(cause), ms: 1.0 };
    let endpoint = with(stream(), |answer| answer.event = Some("endpoint".to_owned()));
    let html = seen(200, "text/html", "<!DOCTYPE html><title>Welcome</title>");
    let challenged = with(text(401, "no"), |answer| answer.challenge = Some("Bearer".to_owned()));
    let discovered = result(&json!({ "supportedVersions": ["2026-07-28"] }));
    let there = "http://127.0.0.1:8761/mcp";
    let cases = [
        (shut(broken(Cause::Refused("127.0.0.1:8761".into()))), "unreachable", "Nothing listens"),
        (shut(broken(Cause::UnknownHost("x".into()))), "unreachable", "name service"),
        (shut(broken(Cause::Tls("the peer does not speak TLS here".into()))), "tls", "http://"),
        (shut(broken(Cause::Tls("invalid peer certificate: Expired".into()))), "tls", "Expired"),
        (shut(broken(Cause::Malformed("invalid HTTP version".into()))), "not-mcp", "https://"),
        (shut(silent()), "unreachable", "does not answer"),
        (shut(html), "not-mcp", "web page"),
        (Shut { get: Some(endpoint), ..shut(text(405, "")) }, "old-transport", "opens another stream"),
        (Shut { discover: Some(discovered), ..shut(error(400, -32022, "v")) }, "modern-only", "2026-07-28"),
        (Shut { elsewhere: Some(there.to_owned()), ..shut(text(404, "")) }, "not-mcp", there),
        (shut(error(400, -32602, "no")), "handshake-refused", "refuses the handshake"),
        (
            shut(with(text(302, ""), |a| a.location = Some("/login?to=s3cret".into()))),
            "redirected",
            "`/login`",
        ),
        (shut(challenged), "credentials", "WWW-Authenticate: Bearer"),
        (shut(text(401, "no")), "credentials", "`WWW-Authenticate` is missing"),
        (shut(text(429, "slow down")), "busy", "come back later"),
    ];
    for (shut, code, words) in cases {
        let facts = facts(Door::Shut(Box::new(shut)));
        let found = findings(&facts);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].code, code);
        let said = format!("{:?}", found[0]);
        assert!(said.contains(words) && !said.contains("s3cret"), "{words}: {said}");
        assert!(!passes(&facts, &found), "what could not be examined does not pass");
    }
}

#[test]
fn text_from_the_network_is_one_bounded_line_without_control_characters() {
    let evil = seen(500, "text/plain", &format!("\x1b[2J a\r\nb {}", "é".repeat(500)));
    let line = shown(&evil);
    assert!(line.starts_with("HTTP 500 text/plain [2J a b é"), "{line}");
    assert!(line.ends_with(" …") && line.chars().count() < 250 && !line.contains(char::is_control));
}

#[test]
fn every_code_is_in_the_guide() {
    let guide = include_str!("../../../../../docs/guide/doctor.md");
    let sources = [
        include_str!("../findings.rs"),
        include_str!("door.rs"),
        include_str!("guard.rs"),
        include_str!("session.rs"),
        include_str!("talk.rs"),
    ];
    let mut codes = 0;
    for source in sources {
        let joined = source.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        for rest in joined.split("Finding::new(\"").chain(joined.split(" finding(\"")).skip(1) {
            let code = rest.split('"').next().unwrap();
            // What is no code is a sentence, of a closure that has the code.
            if code.is_empty() || code.contains(|c: char| !c.is_ascii_lowercase() && c != '-') {
                continue;
            }
            codes += 1;
            assert!(guide.contains(&format!("`{code}`")), "docs/guide/doctor.md lacks `{code}`");
        }
    }
    assert!(codes > 40, "the sources were read: {codes}");
}
