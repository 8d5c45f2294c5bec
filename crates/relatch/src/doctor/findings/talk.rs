//! How a server talks: handshake, answers, streams, versions, and how long it takes.

use std::time::Duration;

use relatch_wire::era::Revision;

use super::{Finding, Level, shown, unseen};
use crate::doctor::facts::{End, Form, Inside, Seen};
use crate::doctor::probes::{NEVER, NEWEST};
use crate::doctor::sdk::{Ill, Sdk};
use crate::doctor::spec;

/// relatch's own look before a call has this long.
const LOOK_MS: f64 = 1_000.0;
/// relatch trusts an idle socket for 2 s.
const YOUNG_MS: u128 = 2_000;

pub(super) fn judge(inside: &Inside, sdk: Option<Sdk>, all: &mut Vec<Finding>) {
    all.push(handshake(inside));
    all.push(initialized(inside));
    all.push(form(inside));
    all.push(ping(inside));
    all.push(unknown_method(inside));
    all.extend(tools(inside));
    all.push(stream(inside));
    all.extend(resumption(inside, sdk));
    all.push(accept(inside));
    all.push(version_header(inside));
    all.push(revisions(inside));
    all.push(future(inside));
    all.push(discover(inside));
    all.push(idle_socket(inside));
    all.extend(slow(inside));
}

fn handshake(inside: &Inside) -> Finding {
    let (level, said) = match Revision::parse(&inside.revision) {
        Some(_) if inside.revision == NEWEST => {
            (Level::Ok, format!("`initialize` is answered with the revision that was asked for, {NEWEST}"))
        }
        Some(revision) => (Level::Ok, format!("Asked for {NEWEST}, it offers {revision}")),
        None => {
            (Level::Note, format!("It offers a revision that was never published: `{}`", inside.revision))
        }
    };
    Finding::new("handshake", level, said).spec(spec::NEGOTIATION)
}

fn initialized(inside: &Inside) -> Finding {
    let seen = &inside.initialized;
    let finding = |level, said: &str| {
        Finding::new("notification", level, said).saw("`notifications/initialized`", seen).spec(spec::SENDING)
    };
    match seen.status() {
        Some(202) => finding(Level::Ok, "A notification is answered 202"),
        Some(status @ 200..=299) => finding(
            Level::Note,
            &format!("A notification is answered {status}; 202 without a body is asked for"),
        ),
        Some(status) => finding(Level::Wrong, &format!("A notification is refused with {status}"))
            .why("A client that sees its handshake refused gives the connection up")
            .hint("Answer 202 without a body"),
        None => unseen("notification", "What it answers to a notification", seen).spec(spec::SENDING),
    }
}

fn form(inside: &Inside) -> Finding {
    let answer = |seen: &Seen| seen.answer().map(|answer| answer.form);
    let said =
        match (answer(&inside.initialize), inside.tools.as_ref().and_then(answer).or(answer(&inside.ping))) {
            (Some(Form::Events), Some(Form::Events)) => "Answers come as server-sent events",
            (Some(Form::Json), Some(Form::Json)) => "Answers come as JSON",
            _ => "Answers come as JSON or as server-sent events",
        };
    Finding::new("answers", Level::Ok, said).spec(spec::SENDING)
}

fn ping(inside: &Inside) -> Finding {
    let seen = &inside.ping;
    let finding = |level, said: &str| Finding::new("ping", level, said).saw("`ping`", seen).spec(spec::PING);
    match &seen.end {
        End::Answered(answer) if answer.result.is_some() => finding(Level::Ok, "`ping` is answered"),
        End::Answered(answer) if seen.served() => finding(
            Level::Wrong,
            &format!("`ping` is answered with the error {}", answer.rpc_code.unwrap_or_default()),
        )
        .why("Clients that keep their connection alive by `ping` take it for dead")
        .relatch("Any answer is a sign of life to it"),
        End::Answered(_) => finding(Level::Wrong, "`ping` is refused")
            .why("Clients that keep their connection alive by `ping` take it for dead")
            .relatch(
                "It can't tell a living session from a lost one by asking, and passes doubtful errors on",
            ),
        End::Silent(_) => finding(Level::Wrong, "`ping` is not answered")
            .why("Clients that keep their connection alive by `ping` take it for dead")
            .relatch("It can't ask whether a session lives, and takes silence for no finding"),
        End::Broken(_) | End::NotAsked => unseen("ping", "Whether `ping` is answered", seen).spec(spec::PING),
    }
}

fn unknown_method(inside: &Inside) -> Finding {
    let seen = &inside.unknown_method;
    let finding = |level, said: String| {
        Finding::new("unknown-method", level, said).saw("`relatch/doctor`", seen).spec(spec::MESSAGES)
    };
    match &seen.end {
        End::Answered(answer) => match (answer.status, answer.rpc_code) {
            (200..=299 | 404, Some(-32601)) => {
                finding(Level::Ok, "An unknown method is answered with the error -32601".to_owned())
            }
            (_, Some(code)) => finding(
                Level::Note,
                format!("An unknown method is answered with the error {code}; -32601 would say what it is"),
            )
            .why("Clients that try a newer method tell by -32601 that they have to go without it"),
            (200..=299, None) => {
                finding(Level::Note, "An unknown method is answered with a result".to_owned())
            }
            (status, None) => {
                finding(Level::Wrong, format!("An unknown method is answered {status} without JSON-RPC"))
                    .why("Python SDK clients end the whole session at a status that they don't know")
                    .relatch("It passes the status on as an error under the call's own id")
            }
        },
        End::Silent(_) => finding(Level::Wrong, "An unknown method is not answered".to_owned())
            .why("Each client waits for its time-out, a minute and more")
            .hint("Answer with the JSON-RPC error -32601"),
        End::Broken(_) => finding(Level::Wrong, "An unknown method breaks the connection".to_owned())
            .hint("Answer with the JSON-RPC error -32601"),
        End::NotAsked => unseen("unknown-method", "What it answers to an unknown method", seen),
    }
}

fn tools(inside: &Inside) -> Option<Finding> {
    let seen = inside.tools.as_ref()?;
    let count = seen.answer().and_then(|answer| Some(answer.result.as_ref()?["tools"].as_array()?.len()));
    Some(match count {
        Some(count) => Finding::new("tools", Level::Ok, format!("`tools/list` names {count} tools")),
        None => Finding::new("tools", Level::Wrong, "It declares tools and does not list them")
            .saw("`tools/list`", seen)
            .why("Clients show no tool of this server"),
    })
}

fn stream(inside: &Inside) -> Finding {
    let seen = &inside.stream;
    let finding =
        |level, said: &str| Finding::new("stream", level, said).saw("GET", seen).spec(spec::LISTENING);
    let Some(answer) = seen.answer() else {
        if matches!(seen.end, End::Silent(_)) {
            return finding(Level::Wrong, "GET is taken, and nothing comes back, not even headers")
                .why("A client can't tell an open stream from a server that hangs; Claude Code opens one at every start")
                .hint("Send the headers at once, or answer 405");
        }
        return unseen("stream", "Whether GET opens a stream", seen).spec(spec::LISTENING);
    };
    match answer.status {
        200..=299 if answer.form == Form::Events && answer.open => {
            finding(Level::Ok, "GET opens a stream for messages of the server")
        }
        200..=299 if answer.form == Form::Events => {
            finding(Level::Note, "GET opens a stream that ends at once")
                .why("Claude Code opens it again after 1, 2, 4, 8 s and more, and hides the tools meanwhile")
                .relatch("It keeps the client's stream open whatever the server's does")
                .hint("Keep it open, or answer 405")
        }
        405 => finding(Level::Ok, "GET is answered 405: it sends nothing unasked"),
        status => finding(
            Level::Wrong,
            &format!("GET of a living session is answered {status}; a stream or 405 is asked for"),
        )
        .why("A client takes it for a fault of the connection")
        .relatch("It never gives a session up that POST finds alive")
        .hint("Answer 405 where there is no stream"),
    }
}

fn resumption(inside: &Inside, sdk: Option<Sdk>) -> Option<Finding> {
    // Where answers come as JSON there is no stream that a call could lose.
    let streams = [Some(&inside.initialize), Some(&inside.ping), inside.tools.as_ref()];
    let form = |seen: &Seen| seen.answer().map(|answer| answer.form);
    if !streams.into_iter().flatten().any(|seen| form(seen) == Some(Form::Events)) {
        return None;
    }
    let finding = |level, said: &str| Finding::new("resumption", level, said).spec(spec::RESUMABILITY);
    let Some(resumed) = &inside.resumed else {
        let finding = finding(
            Level::Note,
            "The events that were seen have no ids: without one a cut stream can't be resumed",
        )
        .why("A client on the TypeScript SDK waits a minute for the answer of a cut call, Claude Code two")
        .relatch("It ends a cut call at once with an error that says it may have run");
        // Without sessions no SDK finds the stream again.
        let mend = sdk.filter(|_| !inside.ids.is_empty()).and_then(|sdk| sdk.mend(Ill::Resumption));
        return Some(match mend {
            Some(hint) => finding.hint(hint),
            None => finding,
        });
    };
    let asked = "GET with `Last-Event-ID`";
    let Some(answer) = resumed.answer() else {
        return Some(
            finding(Level::Unknown, "Events have ids; whether a stream is resumed could not be seen")
                .saw(asked, resumed),
        );
    };
    Some(if (200..300).contains(&answer.status) && answer.form == Form::Events {
        if answer.result.is_some() {
            finding(Level::Ok, "Events have ids, and a cut stream is resumed: what was missed is sent again")
        } else {
            finding(Level::Unknown, "Events have ids; whether a cut stream is resumed can't be told: the answer was out before the cut")
                .saw(asked, resumed)
        }
    } else {
        finding(Level::Wrong, &format!("Events have ids, but resuming is answered {}", answer.status))
            .saw(asked, resumed)
            .why("Clients try twice to resume because of the ids, and then wait for their time-out")
            .relatch("It tries as often as the design allows, then ends the call with an error")
            .hint("Keep events for a while, or send them without ids")
    })
}

fn accept(inside: &Inside) -> Finding {
    let (json, events) = (&inside.accept_json, &inside.accept_events);
    let finding = |level, said: &str| Finding::new("accept", level, said).spec(spec::SENDING);
    match (json.served(), events.served()) {
        (true, true) => finding(Level::Ok, "It serves clients that accept only JSON, or only events"),
        (true, false) => finding(Level::Ok, "It serves clients that accept only JSON"),
        (false, true) => finding(Level::Ok, "It serves clients that accept only events"),
        (false, false) if json.status() == Some(406) => {
            finding(Level::Ok, "A client has to accept both JSON and events; 406 says so")
        }
        (false, false) => finding(Level::Note, "A client that accepts only JSON is refused, and not by 406")
            .saw("`Accept: application/json`", json),
    }
}

fn version_header(inside: &Inside) -> Finding {
    let (missing, unknown) = (&inside.version_missing, &inside.version_unknown);
    let finding = |level, said: &str| {
        Finding::new("version-header", level, said)
            .saw("without `MCP-Protocol-Version`", missing)
            .saw(&format!("`MCP-Protocol-Version: {NEVER}`"), unknown)
            .spec(spec::VERSION_HEADER)
    };
    if missing.answer().is_none() || unknown.answer().is_none() {
        return unseen("version-header", "How the version header is treated", unknown)
            .spec(spec::VERSION_HEADER);
    }
    if !missing.served() {
        return finding(Level::Wrong, "A request without `MCP-Protocol-Version` is refused")
            .why("Clients of the revision 2025-03-26 don't send it")
            .relatch("It sends the header with what this session negotiated")
            .hint("Take its absence for 2025-03-26");
    }
    match unknown.status() {
        Some(400) => {
            finding(Level::Ok, "A version header is not needed, and an unknown version is answered 400")
        }
        _ if unknown.served() => {
            finding(Level::Note, "A version header that names no revision is served; 400 is asked for")
        }
        Some(status) => finding(
            Level::Note,
            &format!("A version header that names no revision is answered {status}; 400 is asked for"),
        ),
        None => finding(Level::Unknown, "How the version header is treated could not be seen"),
    }
}

fn spoken(seen: &Seen) -> Option<&str> {
    seen.answer()?.result.as_ref()?["protocolVersion"].as_str()
}

fn revisions(inside: &Inside) -> Finding {
    let mut spoken_ones = vec![inside.revision.clone()];
    let mut failed = Vec::new();
    for (revision, seen) in &inside.revisions {
        match spoken(seen) {
            Some(answered) if answered == revision.as_str() => spoken_ones.push(answered.to_owned()),
            Some(_) => {}
            None => failed.push(format!("`initialize` with {revision}: {}", shown(seen))),
        }
    }
    spoken_ones.sort();
    spoken_ones.dedup();
    spoken_ones.reverse();
    let said = format!("It speaks {}", spoken_ones.join(", "));
    if failed.is_empty() {
        return Finding::new("revisions", Level::Ok, said).spec(spec::NEGOTIATION);
    }
    let mut finding = Finding::new(
        "revisions",
        Level::Wrong,
        "An older revision is refused instead of answered with one that it speaks",
    )
    .spec(spec::NEGOTIATION)
    .why("Clients of that revision can't connect, although the two could agree");
    finding.evidence = failed;
    finding
}

fn future(inside: &Inside) -> Finding {
    let seen = &inside.revision_unknown;
    let finding = |level, said: &str| {
        Finding::new("future-revision", level, said)
            .saw(&format!("`initialize` with {NEVER}"), seen)
            .spec(spec::NEGOTIATION)
    };
    match (&seen.end, spoken(seen)) {
        (_, Some(NEVER)) => finding(Level::Note, "It claims to speak any revision that it is asked for")
            .why("A client of a newer revision goes on as if the server knew it"),
        (_, Some(other)) => {
            finding(Level::Ok, &format!("Asked for a revision that it does not know, it offers {other}"))
        }
        (End::Answered(_), None) => {
            finding(Level::Wrong, "A client that asks for a revision that it does not know is refused")
                .why("The Rust SDK asks for 2026-07-28 in `initialize` by default, and newer clients will ask for newer ones")
                .relatch("It asks for a revision that the server has answered before")
                .hint("Answer `initialize` with the newest revision that the server speaks")
        }
        (End::Silent(_) | End::Broken(_) | End::NotAsked, None) => {
            unseen("future-revision", "What it answers to a revision that it does not know", seen)
        }
    }
}

fn discover(inside: &Inside) -> Finding {
    let seen = &inside.discover;
    let finding = |level, said: &str| {
        Finding::new("eras", level, said).saw("`server/discover`", seen).spec(spec::DISCOVER)
    };
    match &seen.end {
        End::Answered(answer) if answer.result.is_some() => {
            let versions = answer
                .result
                .as_ref()
                .and_then(|result| result["supportedVersions"].as_array())
                .map_or(String::new(), |all| {
                    all.iter().filter_map(|version| version.as_str()).collect::<Vec<_>>().join(", ")
                });
            Finding::new(
                "eras",
                Level::Ok,
                format!("It speaks both eras: with a handshake, and without one ({versions})"),
            )
            .spec(spec::DISCOVER)
            .relatch("It answers `server/discover` itself, so that clients use the handshake: the era without one is not kept yet")
        }
        End::Answered(answer)
            if answer.rpc_code == Some(-32601) || matches!(answer.status, 400 | 401 | 404 | 410 | 503) =>
        {
            Finding::new(
                "eras",
                Level::Ok,
                "It speaks the era of handshakes only; clients that ask for the newer one fall back",
            )
            .spec(spec::DISCOVER)
        }
        End::Answered(answer) => finding(
            Level::Wrong,
            &format!(
                "`server/discover` is answered so that clients don't fall back to the handshake (HTTP {})",
                answer.status
            ),
        )
        .why("Claude Code begins with it, and connects only after -32601 or HTTP 400, 401, 404, 410 or 503")
        .relatch("It answers `server/discover` itself")
        .hint("Answer unknown methods with the JSON-RPC error -32601"),
        End::Silent(_) => finding(Level::Wrong, "`server/discover` is not answered")
            .why("Claude Code begins with it, and waits 5 s at every start before it falls back")
            .relatch("It answers `server/discover` itself, at once")
            .hint("Answer unknown methods with the JSON-RPC error -32601"),
        End::Broken(_) | End::NotAsked => unseen("eras", "Which eras it speaks", seen).spec(spec::DISCOVER),
    }
}

fn idle_socket(inside: &Inside) -> Finding {
    let finding = |level, said: String| Finding::new("idle-socket", level, said);
    match inside.idle_socket {
        Some(Ok(Duration::ZERO)) => {
            finding(Level::Ok, "It closes each connection after its answer".to_owned())
        }
        Some(Ok(span)) if span.as_millis() < YOUNG_MS => {
            finding(Level::Note, "It closes idle connections within 2 s".to_owned())
                .why("A call that is sent at that moment breaks, and nobody knows whether it ran")
                .relatch("It trusts an idle connection for 2 s, longer than this server does")
                .hint("Keep idle connections for 5 s at least, or answer with `Connection: close`")
        }
        Some(Ok(span)) => finding(
            Level::Ok,
            format!("It closes idle connections within {:.0} s", span.as_secs_f64().ceil()),
        )
        .relatch("A call that may not repeat goes over a connection that was used less than 2 s ago"),
        Some(Err(span)) => {
            finding(Level::Ok, format!("It keeps idle connections for {} s at least", span.as_secs()))
        }
        None => finding(Level::Unknown, "How long it keeps idle connections could not be seen".to_owned()),
    }
}

fn slow(inside: &Inside) -> Option<Finding> {
    let median = median(&inside.pings)?;
    (median > LOOK_MS).then(|| {
        Finding::new("slow", Level::Note, format!("`ping` takes {median:.0} ms"))
            .relatch("Its look before a call gives up after 1 s, and then says nothing")
    })
}

/// The middle one of all times.
pub(crate) fn median(times: &[f64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
