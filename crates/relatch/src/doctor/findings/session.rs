//! How a server treats sessions: ids, dead ones, missing ones, their end, idleness and a restart.

use relatch_core::latch::reading::Reading;

use super::{Finding, Level, unseen};
use crate::doctor::facts::{Back, Inside, Restart, Seen, Session};
use crate::doctor::sdk::{Ill, Sdk};
use crate::doctor::spec;

/// An id of fewer characters can be guessed.
const SHORT: usize = 16;

pub(super) fn judge(inside: &Inside, sdk: Option<Sdk>, all: &mut Vec<Finding>) {
    all.push(ids(inside));
    if let Some(session) = &inside.session {
        all.push(dead(inside, session, sdk));
        all.extend(misshapen(session));
        all.push(missing(session));
        all.extend(stray(inside, session));
        all.extend(delete(session));
        all.extend(foreign_stream(session));
    }
    all.extend(strange(inside, sdk));
    all.extend(shared(inside));
    all.extend(left_alone(inside));
    all.extend(restart(inside));
}

fn ids(inside: &Inside) -> Finding {
    let Some(id) = inside.ids.first() else {
        return Finding::new("session-id", Level::Ok, "It issues no session ids: every request stands alone")
            .spec(spec::SESSIONS)
            .relatch("Nothing refuses after a restart, so it compares lists after every outage");
    };
    let finding = |level, said: String| Finding::new("session-id", level, said).spec(spec::SESSIONS);
    if inside.ids.iter().any(|id| !relatch_wire::headers::valid_session_id(id.as_bytes())) {
        return finding(Level::Wrong, "A session id has characters that no header may carry".to_owned())
            .seen(format!("`{}`", super::shown_text(id)))
            .why("Clients can't send it back")
            .hint("Use visible ASCII only, a UUID for example");
    }
    let mut sorted = inside.ids.clone();
    sorted.sort();
    sorted.dedup();
    if sorted.len() < inside.ids.len() {
        return finding(Level::Wrong, "Two handshakes got the same session id".to_owned())
            .seen(format!("{} handshakes, {} different ids", inside.ids.len(), sorted.len()))
            .why("Two clients share one session, and see each other's answers")
            .hint("Make an id for each `initialize`, from a random source");
    }
    let form = form(id);
    if id.chars().filter(char::is_ascii_alphanumeric).count() < SHORT {
        return finding(Level::Note, format!("Session ids can be guessed: {form}"))
            .why("Whoever guesses one speaks in somebody else's session")
            .hint("Use at least 128 random bits, a UUID for example");
    }
    finding(Level::Ok, format!("It issues session ids: {form}"))
}

fn form(id: &str) -> String {
    let hex = |text: &str| text.bytes().all(|c| c.is_ascii_hexdigit());
    let parts: Vec<&str> = id.split('-').collect();
    let uuid = parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|part| hex(part));
    let jwt = id.starts_with("ey") && id.split('.').count() == 3;
    if uuid {
        "a UUID".to_owned()
    } else if jwt {
        "a signed token (JWT)".to_owned()
    } else if hex(id) && id.len() >= SHORT {
        format!("{} hexadecimal digits", id.len())
    } else {
        format!("{} characters", id.len())
    }
}

/// What is answered to an id that this process does not know, as every old id is after a restart.
fn dead(inside: &Inside, session: &Session, sdk: Option<Sdk>) -> Finding {
    let asked = if inside.ids.is_empty() { "an unknown id" } else { "`ping` with an id never issued" };
    let finding = |level, said: &str| {
        Finding::new("dead-session", level, said).saw(asked, &session.foreign).spec(spec::SESSIONS)
    };
    let mend = sdk.and_then(|sdk| sdk.mend(Ill::DeadSession)).unwrap_or(
        "Answer 404 to every request whose `Mcp-Session-Id` this process does not know, before anything else looks at it",
    );
    let status = session.foreign.status();
    match session.foreign.reading() {
        Some(Reading::Gone) if status == Some(404) => {
            finding(Level::Ok, "An unknown session id, which is what every client holds after a restart, is answered 404")
                .why("The one answer that Claude Code, Codex and VS Code recover from")
                .relatch("It opens a new session and sends the call again")
        }
        Some(Reading::Gone) => {
            let answer = session.foreign.answer().map_or("", |answer| answer.body.as_str());
            let status = status.unwrap_or_default();
            let claude = status == 400
                && ["No valid session ID provided", "Server not initialized", "Mcp-Session-Id header is required"]
                    .iter()
                    .any(|words| answer.contains(words));
            let who = if claude {
                "Claude Code and VS Code read these words as a lost session; Codex and the Rust SDK recover from 404 only"
            } else {
                "Claude Code and Codex don't take this for a lost session: every call fails until the client is restarted"
            };
            finding(Level::Wrong, &format!("An unknown session id, which is what every client holds after a restart, is answered {status} instead of 404"))
                .why(who)
                .relatch("It knows these words, opens a new session and sends the call again")
                .hint(mend)
        }
        Some(Reading::Suspected) => {
            finding(Level::Wrong, "An unknown session id, which is what every client holds after a restart, is refused in words that can mean anything")
                .why("No client takes this for a lost session: every call fails until the client is restarted")
                .relatch("It asks `ping` first, and a new session as control, before it calls the session lost")
                .hint(mend)
        }
        Some(
            Reading::AboutRequest
            | Reading::Credentials
            | Reading::Later
            | Reading::WrongPlace
            | Reading::Gateway
            | Reading::Redirected
            | Reading::NotMcp,
        ) => finding(Level::Wrong, "An unknown session id, which is what every client holds after a restart, is refused for another reason")
            .why("Neither a client nor relatch can tell that the session is gone: calls fail until a client connects anew")
            .relatch("It passes the refusal on; `relatch reconnect` opens a new session by hand")
            .hint(mend),
        None if session.foreign.served() => {
            finding(Level::Note, "It serves a session id that it never issued")
                .why("After a restart nothing tells a client that what the session held is gone")
                .relatch("It notices the outage, not the loss")
                .hint("If sessions hold anything, answer 404 to ids that this process does not know; if they hold nothing, issue none")
        }
        None => unseen("dead-session", "What it answers to a session that it does not know", &session.foreign)
            .spec(spec::SESSIONS),
    }
}

fn misshapen(session: &Session) -> Option<Finding> {
    let (foreign, other) = (session.foreign.answer()?, session.misshapen.answer()?);
    if foreign.status == other.status {
        return None;
    }
    Some(
        Finding::new(
            "foreign-id",
            Level::Note,
            format!("An id of another form is answered {} instead of {}", other.status, foreign.status),
        )
        .saw("`ping` with `relatch-doctor-…`", &session.misshapen)
        .spec(spec::SESSIONS)
        .why("It matters when ids change their form, as after an upgrade: clients that hold the old ones don't recover"),
    )
}

fn missing(session: &Session) -> Finding {
    let finding = |level, said: &str| {
        Finding::new("missing-id", level, said)
            .saw("`ping` without id", &session.missing)
            .spec(spec::SESSIONS)
    };
    match session.missing.status() {
        Some(400) => finding(Level::Ok, "A request without session id is answered 400"),
        Some(status @ 200..=299) if session.missing.served() && !session.missing.worked() => finding(
            Level::Note,
            &format!(
                "A request without session id is answered {status} with an error inside; 400 is asked for"
            ),
        ),
        Some(200..=299) if session.missing.served() => {
            finding(Level::Note, "A request without session id is served although it issues ids").why(
                "A client that loses its id goes on in no session, or in a new one that it knows nothing of",
            )
        }
        Some(status @ 400..=499) => finding(
            Level::Note,
            &format!("A request without session id is answered {status}; 400 is asked for"),
        ),
        Some(_) | None => {
            unseen("missing-id", "What it answers without session id", &session.missing).spec(spec::SESSIONS)
        }
    }
}

/// A refusal that carries a session id.
fn stray(inside: &Inside, session: &Session) -> Option<Finding> {
    let refused = [&session.missing, &session.foreign, &session.misshapen];
    let (seen, id) = refused.into_iter().find_map(|seen| {
        let answer = seen.answer().filter(|answer| answer.result.is_none())?;
        Some((seen, answer.session.as_deref()?))
    })?;
    let finding = |level, said: &str| {
        Finding::new("stray-id", level, said)
            .seen(format!("{} with `mcp-session-id`", super::shown(seen)))
            .spec(spec::SESSIONS)
            .relatch("It takes an id from an answered `initialize` and from nothing else")
    };
    if inside.ids.iter().any(|issued| issued == id) {
        return Some(
            finding(Level::Wrong, "A refusal gives away the id of a living session")
                .why("Whoever asks without an id, or with a wrong one, can speak in somebody else's session")
                .hint("Set `Mcp-Session-Id` on the answer to `initialize` only"),
        );
    }
    let dead = session.stray.as_ref().is_some_and(|seen| !seen.served());
    let said = if dead {
        "A refusal comes with a new `Mcp-Session-Id` that leads nowhere"
    } else {
        "A refusal comes with a new `Mcp-Session-Id`"
    };
    Some(finding(Level::Note, said).why(
        "Clients on the TypeScript SDK v1 and Kotlin take an id from any answer, and go on with this one",
    ))
}

/// A session id of another server, or of an older build, at a server that issues none.
fn strange(inside: &Inside, sdk: Option<Sdk>) -> Option<Finding> {
    let seen = inside.strange.as_ref()?;
    if seen.served() {
        return None;
    }
    let Some(reading) = seen.reading() else {
        return Some(unseen("strange-id", "What it answers to a session id", seen));
    };
    let relatch = match reading {
        Reading::Gone => "It opens a new session, without id, and sends the call again",
        Reading::Suspected => "It asks whether the session lives before it opens a new one",
        Reading::AboutRequest
        | Reading::Credentials
        | Reading::Later
        | Reading::WrongPlace
        | Reading::Gateway
        | Reading::Redirected
        | Reading::NotMcp => "It can't tell from this that the session is gone",
    };
    let finding = Finding::new(
        "strange-id",
        Level::Note,
        "It issues no session ids, and refuses requests that carry one",
    )
    .saw("`ping` with a session id", seen)
    .spec(spec::SESSIONS)
    .why("A client that holds an id of an older build stays outside until it is restarted")
    .relatch(relatch);
    Some(match sdk.and_then(|sdk| sdk.mend(Ill::DeadSession)) {
        Some(hint) => finding.hint(hint),
        None => finding,
    })
}

/// Whether a session is known on every connection.
fn shared(inside: &Inside) -> Option<Finding> {
    let gone: Vec<&Seen> =
        inside.scattered.iter().filter(|seen| seen.reading() == Some(Reading::Gone)).collect();
    let first = gone.first()?;
    if !inside.ping.served() && gone.len() == inside.scattered.len() {
        return None;
    }
    Some(
        Finding::new("sessions-not-shared", Level::Wrong, "A living session is unknown on some connections")
            .seen(format!("{} of {} pings over new connections were refused", gone.len(), inside.scattered.len()))
            .saw("one of them", first)
            .spec(spec::SESSIONS)
            .why("Several processes answer at this address and don't share sessions: every client loses calls at random")
            .relatch("It asks again over other connections before it calls a session lost")
            .hint("Let the balancer send each `Mcp-Session-Id` to one process, or keep sessions where all can see them"),
    )
}

fn delete(session: &Session) -> Vec<Finding> {
    let finding = |code, level, said: String| Finding::new(code, level, said).spec(spec::SESSIONS);
    let ended = match session.delete.status() {
        Some(200..=299) => true,
        Some(405) => false,
        Some(status) => {
            return vec![
                finding("delete", Level::Note, format!("DELETE of a living session is answered {status}"))
                    .saw("DELETE", &session.delete)
                    .why("A client can't end its session, so it stays until it expires; 405 would say so plainly")
                    .hint("Answer 200 and end the session, or 405"),
            ];
        }
        None => return vec![unseen("delete", "What DELETE does", &session.delete).spec(spec::SESSIONS)],
    };
    if !ended {
        return vec![
            finding(
                "delete",
                Level::Note,
                "DELETE is not offered: sessions end by themselves or never".to_owned(),
            )
            .saw("DELETE", &session.delete)
            .why("Each session that a client leaves behind stays in memory until it expires"),
        ];
    }
    let mut all = Vec::new();
    let said = "`ping` with the id that DELETE ended";
    match session.ended.reading() {
        None if session.ended.served() => all.push(
            finding("delete", Level::Wrong, "DELETE is answered with success, and the session lives on".to_owned())
                .saw("DELETE", &session.delete)
                .saw(said, &session.ended)
                .why("A client that has ended its session must be able to rely on it; what it held stays reachable")
                .hint("Drop the session when DELETE comes, and answer 404 from then on"),
        ),
        Some(Reading::Gone) if session.ended.status() == Some(404) => {
            all.push(finding("delete", Level::Ok, "DELETE ends the session; it is answered 404 from then on".to_owned()));
        }
        Some(_) => {
            all.push(
                finding("delete", Level::Ok, "DELETE ends the session".to_owned()).saw(said, &session.ended),
            );
            if session.ended.status() != session.foreign.status() {
                all.push(
                    finding(
                        "ended-session",
                        Level::Note,
                        format!(
                            "A session that DELETE ended is answered {} instead of 404",
                            session.ended.status().unwrap_or_default()
                        ),
                    )
                    .saw(said, &session.ended),
                );
            }
        }
        None => all.push(unseen("delete", "Whether DELETE ends the session", &session.ended).spec(spec::SESSIONS)),
    }
    all
}

/// GET and DELETE of a session that never was.
fn foreign_stream(session: &Session) -> Option<Finding> {
    let answer = session.foreign_stream.answer()?;
    if !(200..300).contains(&answer.status) || session.foreign.served() {
        return None;
    }
    Some(
        Finding::new("dead-stream", Level::Note, "GET opens a stream for a session that does not exist")
            .saw("GET with an id never issued", &session.foreign_stream)
            .spec(spec::SESSIONS)
            .why("A client that keeps its stream after a restart hears nothing on it, and does not know why"),
    )
}

fn left_alone(inside: &Inside) -> Option<Finding> {
    let (span, seen) = inside.idle_session.as_ref()?;
    let span = crate::render::span(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let finding = |level, said: String| {
        Finding::new("idle-session", level, said)
            .saw(&format!("`ping` after {span}"), seen)
            .spec(spec::SESSIONS)
    };
    Some(match seen.reading() {
        None if seen.served() => {
            let mut finding = finding(Level::Ok, format!("A session that was left alone for {span} lives"));
            finding.evidence.clear();
            finding
        }
        Some(Reading::Gone) => {
            finding(Level::Note, format!("A session that was left alone for {span} is gone"))
                .why("A client that pauses comes back to a dead session, as after a restart")
                .relatch("It opens a new session when the next call is refused")
                .hint("Let sessions live as long as your users pause")
        }
        Some(_) | None => unseen("idle-session", "Whether an idle session lives", seen),
    })
}

fn restart(inside: &Inside) -> Vec<Finding> {
    let Some(restart) = &inside.restart else { return Vec::new() };
    match restart {
        Restart::Failed(why) => vec![
            Finding::new("restart", Level::Unknown, "The server was not restarted").seen(why.clone()).hint(
                "Run the command by hand; it has to end with 0, or stay in the foreground as the server itself",
            ),
        ],
        Restart::Away(span) => vec![
            Finding::new(
                "restart",
                Level::Wrong,
                format!("The server was not back {} s after the command", span.as_secs()),
            )
            .why("Every client gives up by then"),
        ],
        Restart::Back(back) => came_back(inside, back),
    }
}

fn came_back(inside: &Inside, back: &Back) -> Vec<Finding> {
    let mut all = Vec::new();
    all.push(match (back.away, &back.meanwhile) {
        (Some(away), meanwhile) => {
            let ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX);
            let finding = Finding::new("restart", Level::Ok, format!("The restart took it away for {ms} ms"))
                .relatch("Calls wait for it, 45 s unless told otherwise");
            match meanwhile {
                Some(said) => finding.seen(format!("meanwhile: {said}")),
                None => finding,
            }
        }
        (None, _) => Finding::new("restart", Level::Note, "The server was never seen away after the command")
            .why(
                "It was away for less than 100 ms, something in front of it hid it, or it was not restarted",
            ),
    });
    if !inside.ids.is_empty() {
        all.push(old_session(back));
    }
    if back.id_repeats {
        all.push(
            Finding::new("restart-ids", Level::Wrong, "After the restart a session id is given out again")
                .spec(spec::SESSIONS)
                .why("A client that still holds the old id speaks in the session of another")
                .hint("Make ids from a random source, not from a counter"),
        );
    }
    if !back.new.worked() {
        all.push(
            Finding::new("restart-handshake", Level::Wrong, "After the restart it takes no new session")
                .saw("`initialize`", &back.new),
        );
    }
    if back.tools_differ == Some(true) {
        all.push(
            Finding::new("restart-tools", Level::Note, "After the restart it lists other tools")
                .why("Clients go on with the old list unless they are told")
                .relatch("It compares, and tells the client that the list has changed"),
        );
    }
    if back.version_differs {
        all.push(Finding::new(
            "restart-version",
            Level::Note,
            "After the restart it names another version of itself",
        ));
    }
    all
}

fn old_session(back: &Back) -> Finding {
    let old: &Seen = &back.old;
    let finding =
        |level, said: &str| Finding::new("restart-session", level, said).saw("`ping` with the old id", old);
    match old.reading() {
        None if old.served() && back.away.is_some() => {
            finding(Level::Ok, "The session has survived the restart, or an unknown id is simply served")
        }
        None if old.served() => finding(Level::Ok, "The session lives after the command"),
        Some(Reading::Gone) => {
            finding(Level::Note, "The restart ends every session: they live in its memory")
                .spec(spec::SESSIONS)
                .why("Clients on the TypeScript and Python SDKs neither open a new session nor try again")
                .relatch("It opens a new session, rebuilds its state and sends the waiting call again")
        }
        Some(Reading::Suspected) => finding(
            Level::Wrong,
            "After the restart the old session is refused in words that can mean anything",
        )
        .spec(spec::SESSIONS)
        .relatch("It asks before it calls the session lost"),
        Some(_) | None => unseen("restart-session", "What became of the session", old),
    }
}
