//! Servers that could not be examined: away, not MCP, elsewhere, older, newer, or behind credentials.

use relatch_core::latch::reading::{Door, read_door};
use relatch_net::upstream::dial::Cause;

use super::{Finding, Level};
use crate::doctor::facts::{Answer, End, Facts, Form, Shut};
use crate::doctor::probes::is_old_transport;
use crate::doctor::spec;

pub(super) fn judge(facts: &Facts, shut: &Shut, all: &mut Vec<Finding>) {
    match &shut.initialize.end {
        End::Broken(cause) => all.push(broken(facts, cause)),
        End::Silent(limit) => all.push(
            Finding::new(
                "unreachable",
                Level::Wrong,
                format!(
                    "It takes the connection, and does not answer `initialize` within {} s",
                    limit.as_secs()
                ),
            )
            .why("Common clients give a handshake 30 s to 60 s")
            .relatch("It goes on asking, and calls wait meanwhile"),
        ),
        End::NotAsked => {
            all.push(Finding::new("unreachable", Level::Unknown, "There was no time left to ask"))
        }
        End::Answered(answer) => answered(facts, shut, answer, all),
    }
}

fn broken(facts: &Facts, cause: &Cause) -> Finding {
    let finding = |code, said: String| Finding::new(code, Level::Wrong, said).seen(cause.to_string());
    match cause {
        Cause::Refused(_) => finding("unreachable", "Nothing listens at this address".to_owned())
            .relatch("It holds calls and connects when something listens again")
            .hint("Start the server, or correct the port"),
        Cause::NoSocket(_) => finding("unreachable", "There is no socket at this path".to_owned())
            .relatch("It holds calls and connects when one is there")
            .hint("Start the server, or correct the path"),
        Cause::NotAllowed(_) => {
            finding("unreachable", "This user may not connect to the server's socket".to_owned())
                .hint("Look at the mode of the socket and of the folders above it")
        }
        Cause::Proxy(_) | Cause::NoWay(_) => finding("unreachable", "The proxy on the way gives no way to the server".to_owned())
            .hint("Correct the proxy (`--proxy`, `HTTPS_PROXY`), or leave it out for this server with `--proxy none` or `NO_PROXY`"),
        Cause::ConnectTimeout(_) | Cause::Unreachable(_) => {
            finding("unreachable", "There is no way to this address".to_owned())
                .hint("Look at the network, a firewall, or a VPN that is off")
        }
        Cause::UnknownHost(_) | Cause::Lookup(_) => {
            finding("unreachable", "The host of this address has no entry in the name service".to_owned())
                .hint("Correct the host name")
        }
        Cause::Tls(why) if why.contains("does not speak TLS") => {
            finding("tls", "This address is `https`, and the server does not speak TLS there".to_owned())
                .hint("Try the address with `http://`")
        }
        Cause::Tls(why) if why.contains("client certificate") => {
            finding("tls", "The server wants to know its clients by a certificate".to_owned())
                .hint("Give the one that it knows with `--cert FILE` and `--key FILE`")
        }
        Cause::Tls(_) => finding("tls", "The server's certificate is not accepted".to_owned())
            .why("Clients that check certificates refuse it, too")
            .relatch("Calls are given back at once with this cause")
            .hint("Renew the certificate, correct the host name, or name the file of its authority with `--ca FILE`"),
        Cause::Malformed(_) | Cause::HeadTooLarge => {
            let https = facts.url.starts_with("http://");
            let finding = finding("not-mcp", "What answers there is not HTTP/1.1".to_owned());
            if https { finding.hint("If it speaks TLS, use the address with `https://`") } else { finding }
        }
        Cause::Reset(_) | Cause::Closed(_) | Cause::Io(_) => {
            let finding =
                finding("unreachable", "The connection broke before `initialize` was answered".to_owned());
            finding.hint(if facts.url.starts_with("https:") {
                "If the server does not speak TLS there, use the address with `http://`"
            } else {
                "Look at the server's own log for the moment of this request; if it speaks TLS there, use `https://`"
            })
        }
    }
}

fn answered(facts: &Facts, shut: &Shut, answer: &Answer, all: &mut Vec<Finding>) {
    let finding =
        |code, level, said: &str| Finding::new(code, level, said).saw("`initialize`", &shut.initialize);
    match read_door(&answer.refusal()) {
        Door::Credentials => return credentials(facts, shut, answer, all),
        Door::Redirected => {
            let to = answer.location.as_deref().map(shown_location).unwrap_or_default();
            all.push(
                finding("redirected", Level::Wrong, "The address redirects elsewhere")
                    .seen(format!("Location: {to}"))
                    .why("A client that sends its credentials there would give them to another server")
                    .relatch("It follows 307 and 308 within the same origin only")
                    .hint(if to.is_empty() {
                        "Configure the address that is meant".to_owned()
                    } else {
                        format!("Configure `{to}`, if that is the server you mean")
                    }),
            );
            return;
        }
        Door::Later => {
            all.push(
                finding("busy", Level::Unknown, "The server asks to come back later")
                    .relatch("It waits as long as `Retry-After` says"),
            );
            return;
        }
        Door::Missing | Door::Refused => {}
    }
    if shut.get.as_ref().is_some_and(is_old_transport) {
        all.push(
            finding(
                "old-transport",
                Level::Note,
                "This is a server of the old transport, HTTP+SSE of 2024-11-05",
            )
            .seen("GET: a stream that begins with the event `endpoint`")
            .spec(spec::COMPATIBILITY)
            .why("The transport was replaced in 2025-03-26, and newer clients drop it. A stream is a session: a restart, or a proxy that ends long answers, ends it, and the answer under way is lost, since nothing can be resumed")
            .relatch("It speaks this transport to the server and the newer one to clients, and opens another stream when one is lost. A call whose stream ends before its answer is given back, unless it may repeat")
            .hint("Serve Streamable HTTP, which every SDK offers beside it, often at `/mcp`"),
        );
        return;
    }
    if let Some(result) = shut.discover.as_ref().and_then(|seen| seen.answer()?.result.as_ref()) {
        let versions = result["supportedVersions"].as_array().map_or(String::new(), |all| {
            all.iter().filter_map(|version| version.as_str()).collect::<Vec<_>>().join(", ")
        });
        all.push(
            finding(
                "modern-only",
                Level::Note,
                &format!("It speaks only the era without handshake and sessions ({versions})"),
            )
            .spec(spec::DISCOVER)
            .why("There is no session that a restart could end; older clients can't connect")
            .relatch("It does not keep this era yet"),
        );
        return;
    }
    let said = match answer.form {
        Form::Html => "A web page answers at this address, not an MCP server",
        Form::Json if answer.rpc_code.is_some() => "An MCP server answers, and refuses the handshake",
        Form::Json | Form::Events | Form::Text | Form::Empty => {
            "What answers at this address is no MCP server"
        }
    };
    let code = if answer.rpc_code.is_some() { "handshake-refused" } else { "not-mcp" };
    let level = Level::Wrong;
    let finding = finding(code, level, said).spec(spec::INITIALIZATION);
    all.push(match &shut.elsewhere {
        Some(there) => finding.hint(format!("The same server speaks MCP at `{there}`")),
        None if facts.path == "/" => finding.hint(
            "The address has no path: most servers listen at `/mcp`, some at `/sse` or a path of their own",
        ),
        None => finding.hint("Correct the path, or start the server that belongs there"),
    });
}

fn credentials(facts: &Facts, shut: &Shut, answer: &Answer, all: &mut Vec<Finding>) {
    let finding =
        |level, said: &str| Finding::new("credentials", level, said).saw("`initialize`", &shut.initialize);
    let again = if facts.with_headers {
        "The headers that were given are not accepted: renew the token"
    } else {
        "Give credentials: `relatch doctor URL --header 'Authorization: Bearer …'`"
    };
    all.push(match &answer.challenge {
        Some(challenge) => finding(
            Level::Unknown,
            "It asks for credentials, and says where they come from; nothing behind them could be examined",
        )
        .seen(format!("WWW-Authenticate: {}", super::shown_text(challenge)))
        .spec(spec::AUTHORIZATION)
        .relatch("It passes the challenge on to the client, and sends what the client then gives")
        .hint(again),
        None if answer.status == 401 => finding(
            Level::Wrong,
            "It asks for credentials (401) and does not say which: `WWW-Authenticate` is missing",
        )
        .spec(spec::AUTHORIZATION)
        .why("A client can't begin to sign in without it")
        .hint(again),
        None => finding(Level::Wrong, "The handshake is forbidden (403)").hint(again),
    });
    if let Some((origin, host)) = &shut.foreign {
        let both = Finding::new("origin", Level::Unknown, "")
            .saw("`Origin: http://relatch-doctor.invalid`", origin)
            .saw("`Host: relatch-doctor.invalid`", host)
            .spec(spec::SECURITY);
        let refused = |seen: &crate::doctor::facts::Seen| {
            seen.refused() && seen.status() != Some(answer.status)
                || seen.status() == Some(403) && answer.status != 403
        };
        all.push(if refused(origin) {
            Finding {
                level: Level::Ok,
                said: "A foreign `Origin` is refused before credentials are asked for".to_owned(),
                ..both
            }
        } else {
            Finding {
                said: "Whether a foreign `Origin` is refused can't be seen without credentials".to_owned(),
                ..both
            }
        });
    }
}

/// Where a redirect leads, without what may be a secret in it.
fn shown_location(location: &str) -> String {
    match url::Url::parse(location) {
        Ok(there) => relatch_net::redact::url(&there),
        Err(_) => super::shown_text(location.split(['?', '#']).next().unwrap_or_default()),
    }
}
