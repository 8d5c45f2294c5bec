//! HTTP headers: which pass, which are relatch's own, and the small readers of their values.
//!
//! Names are compared without regard to case. Headers that `Connection` names are the caller's to drop; what the
//! user configures wins over all of this.

/// The session id (2025-03-26 basic/transports#session-management).
pub const SESSION_ID: &str = "mcp-session-id";
/// The negotiated revision (2025-06-18 on).
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// Where a stream is resumed.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// The token of relatch's own HTTP side.
pub const RELATCH_TOKEN: &str = "relatch-token";
/// What the client accepts.
pub const ACCEPT: &str = "accept";
/// What relatch asks for as encoding: `identity`.
pub const ACCEPT_ENCODING: &str = "accept-encoding";
/// The type of a body.
pub const CONTENT_TYPE: &str = "content-type";
/// The challenge of a 401 or 403.
pub const WWW_AUTHENTICATE: &str = "www-authenticate";
/// How long to wait.
pub const RETRY_AFTER: &str = "retry-after";

/// The type of one message.
pub const JSON: &str = "application/json";
/// The type of a stream.
pub const SSE: &str = "text/event-stream";
/// What relatch sends as `Accept` with a POST (basic/transports#sending-messages-to-the-server).
pub const ACCEPT_BOTH: &str = "application/json, text/event-stream";

/// The longest session id that is taken, in bytes.
pub const MAX_SESSION_ID: usize = 8 * 1024;

/// Whether a header, in lower case, ends with the leg that it came on.
fn stays(name: &str) -> bool {
    match name {
        // Hop by hop, RFC 9110 §7.6.1.
        "connection"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade" => true,
        // What relatch sets itself, or what would only be true of the client's own connection.
        "host" | "origin" | ACCEPT | ACCEPT_ENCODING | "content-length" | CONTENT_TYPE | "expect"
        | LAST_EVENT_ID | SESSION_ID | PROTOCOL_VERSION => true,
        name => name.starts_with("relatch-"),
    }
}

/// Whether a client's header goes to the upstream.
pub fn forwarded_downstream_header(name: &str) -> bool {
    // Names that were read are in lower case already.
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => !stays(&name.to_ascii_lowercase()),
        false => !stays(name),
    }
}

/// Whether an upstream's header comes back to the client.
pub fn returned_upstream_header(name: &str) -> bool {
    [WWW_AUTHENTICATE, RETRY_AFTER, CONTENT_TYPE].iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Whether this is a session id: 1 to [`MAX_SESSION_ID`] bytes of visible ASCII
/// (2025-03-26 basic/transports#session-management).
pub fn valid_session_id(id: &[u8]) -> bool {
    (1..=MAX_SESSION_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The types that a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`
    pub json: bool,
    /// `text/event-stream`
    pub sse: bool,
}

/// Reads an `Accept` header (RFC 9110 §12.5.1): the most specific range decides, and `q=0` refuses.
pub fn accepts(accept_header: &str) -> Accepts {
    // What nearly every client says.
    if accept_header == ACCEPT_BOTH {
        return Accepts { json: true, sse: true };
    }
    let accepted = |kind: &str, whole: &str| {
        accept_header
            .split(',')
            .filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?;
                let rank = if name.eq_ignore_ascii_case(whole) {
                    2
                } else if name.strip_suffix("/*").is_some_and(|start| start.eq_ignore_ascii_case(kind)) {
                    1
                } else if name == "*/*" {
                    0
                } else {
                    return None;
                };
                Some((rank, parts.all(|part| !is_zero_weight(part))))
            })
            .max_by_key(|(rank, wanted)| (*rank, *wanted))
            .is_some_and(|(_, wanted)| wanted)
    };
    Accepts { json: accepted("application", JSON), sse: accepted("text", SSE) }
}

/// Whether a content type is this one, parameters and case aside.
pub fn is_type(content_type: &str, wanted: &str) -> bool {
    content_type.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(wanted))
}

fn is_zero_weight(part: &str) -> bool {
    part.split_once('=').is_some_and(|(name, weight)| {
        name.trim().eq_ignore_ascii_case("q") && weight.trim().parse::<f32>() == Ok(0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_leg_stays_there() {
        for name in [
            "Host",
            "TE",
            "Transfer-Encoding",
            "mcp-session-id",
            "MCP-Protocol-Version",
            "Relatch-Token",
            "relatch-x",
            "Content-Type",
        ] {
            assert!(!forwarded_downstream_header(name), "{name}");
        }
        for name in
            ["Authorization", "X-Api-Key", "User-Agent", "traceparent", "Mcp-Method", "relatc", "é-relatch"]
        {
            assert!(forwarded_downstream_header(name), "{name}");
        }
        assert!(returned_upstream_header("WWW-Authenticate") && !returned_upstream_header("Mcp-Session-Id"));
    }

    #[test]
    fn a_session_id_is_visible_ascii() {
        assert!(valid_session_id(b"!~a-1"));
        assert!(valid_session_id(&[b'a'; MAX_SESSION_ID]));
        for id in [&b""[..], b"a b", b"a\x7f", b"\xc3\xa9", &[b'a'; MAX_SESSION_ID + 1]] {
            assert!(!valid_session_id(id));
        }
    }

    #[test]
    fn accept_is_read_as_http_has_it() {
        let cases = [
            ("application/json, text/event-stream", true, true),
            ("*/*", true, true),
            ("application/*", true, false),
            ("Text/Event-Stream;q=0.5", false, true),
            ("application/json;q=0, */*", false, true),
            ("*/*;q=0, application/json", true, false),
            ("text/html", false, false),
            ("", false, false),
            ("application/json; charset=utf-8 ; Q = 0.000", false, false),
        ];
        for (header, json, sse) in cases {
            assert_eq!(accepts(header), Accepts { json, sse }, "{header}");
        }
        assert!(is_type("Application/JSON; charset=utf-8", JSON) && !is_type("text/html", JSON));
    }
}
