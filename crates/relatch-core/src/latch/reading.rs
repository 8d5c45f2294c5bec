//! What a refusal says: is it about the session, the address, the request, or can only a question tell?
//!
//! One pure function, [`read`], is the table of the design (§3.3). It sees one answer and knows nothing of latches;
//! the sequence of questions that follows [`Reading::Suspected`] is in `diagnosis`.

use crate::input::Refusal;

/// What one HTTP refusal says about a request that carried a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reading {
    /// The session is gone; the request was refused before it ran.
    Gone,
    /// About the request, its version, its size: the session lives.
    AboutRequest,
    /// The credentials are not accepted, and a challenge says how to mend it.
    Credentials,
    /// Turned away for now: too many requests, or not yet ready; it did not run.
    Later,
    /// This connection leads to the wrong server; it did not run.
    WrongPlace,
    /// A gateway without a usable answer of its backend; it may have run.
    Gateway,
    /// Somewhere else, which relatch does not follow.
    Redirected,
    /// Not an MCP server: the address is, for now, somebody else's.
    NotMcp,
    /// Only a question to the session can tell.
    Suspected,
}

/// Reads a refusal. `has_id`: the session that the request belongs to has an id, which the request carried.
#[must_use]
pub fn read(refusal: &Refusal<'_>, has_id: bool) -> Reading {
    if refusal.ended {
        return Reading::Gone;
    }
    let session = speaks_of_session(refusal.body);
    match refusal.status {
        // Neither JSON-RPC nor SSE, and yet about the session: some server of its own dialect.
        200..=299 if has_id && session => Reading::Suspected,
        200..=299 => Reading::NotMcp,
        300..=399 => Reading::Redirected,
        404 if matches!(refusal.rpc_code, Some(-32601 | -32602)) && !session => Reading::AboutRequest,
        // Without an id there is no session that could be gone: the address lost its server.
        404 if !has_id && !session => Reading::NotMcp,
        404 | 410 => Reading::Gone,
        400 if is_about_the_request(refusal) => Reading::AboutRequest,
        // `-32602` is what a gate says that checks arguments, and an argument may well be called a session.
        400 if session && refusal.rpc_code != Some(-32602) => Reading::Gone,
        422 if contains(refusal.body, "expect initialize request") => Reading::Gone,
        401 if !refusal.challenge && contains(refusal.body, "session not found") => Reading::Gone,
        401 | 403 if refusal.challenge => Reading::Credentials,
        // The gate of the old transport, which looks for the stream before it reads the message.
        400 | 401 | 503 if misses_its_stream(refusal.body) => Reading::Gone,
        // Any failure of a handler's is a 500, so all of it has to be the gate's words.
        500 if refusal.body.trim().eq_ignore_ascii_case(NOT_ESTABLISHED) => Reading::Gone,
        // No POST here any more, another program or the same by the old transport; or a wall that lets this body not
        // through. Only a handshake tells.
        405 if has_id && refusal.rpc_code.is_none() => Reading::Suspected,
        405 | 406 | 413 | 415 => Reading::AboutRequest,
        421 => Reading::WrongPlace,
        429 => Reading::Later,
        503 if refusal.retry_after.is_some() => Reading::Later,
        // What a web server says to a POST that it has nothing for; no MCP server says so of a session.
        501 if refusal.rpc_code.is_none() => Reading::NotMcp,
        502 | 504 | 520..=529 => Reading::Gateway,
        _ => Reading::Suspected,
    }
}

/// The same for the standing stream, which a server need not offer.
#[must_use]
pub fn read_stream(refusal: &Refusal<'_>, has_id: bool) -> Reading {
    match refusal.status {
        405 if !refusal.ended => Reading::AboutRequest,
        _ => read(refusal, has_id),
    }
}

/// Whether what refuses the `initialize` of Streamable HTTP so may speak the old transport, HTTP+SSE: then its stream is
/// asked for (2025-11-25 and 2026-07-28, transports, backwards compatibility).
#[must_use]
pub fn may_speak_the_old_transport(status: u16, rpc_code: Option<i64>) -> bool {
    matches!(status, 400 | 404 | 405) && !matches!(rpc_code, Some(-32029..=-32020))
}

/// Whether what refuses a stream of the old transport so may speak Streamable HTTP, so that it is offered `initialize`.
#[must_use]
pub fn may_speak_streamable_http(status: u16) -> bool {
    match status {
        401 | 403 | 407 | 408 | 421 | 429 => false,
        200..=299 | 400..=499 | 501 => true,
        _ => false,
    }
}

/// What the TypeScript SDK's old transport says without its stream.
const NOT_ESTABLISHED: &str = "sse connection not established";

/// What a refusal of `initialize` says about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// No MCP server behind it now: a proxy, another program, an error page.
    Missing,
    /// Credentials are asked for.
    Credentials,
    /// Come back later.
    Later,
    /// Somewhere else.
    Redirected,
    /// An MCP server that refuses this handshake.
    Refused,
}

/// Reads a refusal of `initialize`, which carries no session.
#[must_use]
pub fn read_door(refusal: &Refusal<'_>) -> Door {
    match refusal.status {
        401 | 403 => Door::Credentials,
        429 => Door::Later,
        503 if refusal.retry_after.is_some() => Door::Later,
        300..=399 => Door::Redirected,
        200..=299 | 404 | 405 | 501 | 500 | 502..=599 => Door::Missing,
        _ if looks_like_html(refusal.body) => Door::Missing,
        _ => Door::Refused,
    }
}

/// Whether a text speaks of the session as servers do when it is gone.
#[must_use]
pub fn speaks_of_session(text: &str) -> bool {
    const CUES: [&[u8]; 17] = [
        b"valid session",
        b"invalid",
        b"not found",
        b"could not find",
        b"unknown",
        b"missing",
        b"no active",
        b"does not exist",
        b"required",
        b"initialized",
        b"initialize request",
        b"initialization",
        b"expired",
        b"terminated",
        b"closed",
        b"valid uuid",
        b"not supported in stateless mode",
    ];
    // What is further away speaks of something else: a page, echoed arguments.
    const NEAR: usize = 64;
    let text = text.to_ascii_lowercase();
    let text = text.as_bytes();
    if find(text, b"server not initialized").is_some() {
        return true;
    }
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| find(rest, b"session")) {
        let at = from + at;
        let near = &text[at.saturating_sub(NEAR)..text.len().min(at + NEAR)];
        if CUES.iter().any(|cue| find(near, cue).is_some()) {
            return true;
        }
        from = at + 1;
    }
    false
}

/// Whether a text says, as servers of the old transport do, that nobody holds the stream that the answer would go to.
fn misses_its_stream(text: &str) -> bool {
    const WORDS: [&str; 6] = [
        "no active sse connection",
        "no active transport",
        "no transport found",
        "no sse connection",
        NOT_ESTABLISHED,
        "sse session not found",
    ];
    WORDS.iter().any(|word| contains(text, word))
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

/// Whether a JSON-RPC error in a 200 answer raises doubt about the session.
#[must_use]
pub fn error_raises_doubt(code: i64, message: &str) -> bool {
    code != -32602 && code != -32601 && speaks_of_session(message)
}

fn is_about_the_request(refusal: &Refusal<'_>) -> bool {
    contains(refusal.body, "unsupported protocol version")
        || matches!(refusal.rpc_code, Some(-32700))
        || matches!(refusal.rpc_code, Some(-32029..=-32020))
}

fn contains(text: &str, word: &str) -> bool {
    text.to_ascii_lowercase().contains(word)
}

/// Whether a text begins as a web page does.
#[must_use]
pub fn looks_like_html(body: &str) -> bool {
    let start = body.trim_start();
    start.get(..5).is_some_and(|s| s.eq_ignore_ascii_case("<html"))
        || start.get(..9).is_some_and(|s| s.eq_ignore_ascii_case("<!doctype"))
}

#[cfg(test)]
mod tests;
