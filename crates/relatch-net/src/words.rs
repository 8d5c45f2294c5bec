//! Errors on their way to a client: the core's failures dated, and an upstream's refusals as JSON-RPC.
//!
//! Which error is due is decided in the core.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use relatch_core::effect;
use relatch_wire::failure::{Code, Executed, Failure};
use relatch_wire::handshake::notification_message;
use relatch_wire::{Envelope, Kind, RequestId, method};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::desk::Refused;

/// Characters of an upstream's own text that are passed on.
const TEXT: usize = 300;

/// A failure of the core's with its upstream and dates.
pub(crate) fn failure(upstream: &str, clock: &Clock, failure: &effect::Failure) -> Failure {
    let mut extra = Vec::new();
    if let Some(ms) = failure.retry_after {
        extra.push(("retryAfterSeconds", json!(ms.div_ceil(1000))));
    }
    Failure {
        code: failure.code,
        upstream: upstream.to_owned(),
        executed: failure.executed,
        message: failure.message.clone(),
        since: failure.since.map(|at| clock.wall(at.0).to_string()),
        cause: failure.cause.clone(),
        hint: failure.hint.clone(),
        extra,
    }
}

/// An error that arises in the shell itself.
pub(crate) fn own(upstream: &str, code: Code, executed: Executed, message: String, hint: &str) -> Failure {
    Failure {
        code,
        upstream: upstream.to_owned(),
        executed,
        message,
        since: None,
        cause: None,
        hint: Some(hint.to_owned()),
        extra: Vec::new(),
    }
}

/// An upstream's refusal under the request's id: its own JSON-RPC error, or its status and the beginning of its text.
pub(crate) fn passed_refusal(upstream: &str, id: &RequestId, refused: &Refused, executed: Executed) -> Bytes {
    if let Ok(envelope) = Envelope::read(&refused.body)
        && matches!(envelope.kind, Kind::Error { .. })
    {
        return envelope.with_id(&refused.body, id);
    }
    let status = refused.status.as_u16();
    let text = beginning(&refused.body);
    let mut failure = own(
        upstream,
        Code::UpstreamStatus,
        executed,
        match text.is_empty() {
            true => format!("`{upstream}` answered with HTTP status {status}"),
            false => format!("`{upstream}` answered with HTTP status {status}: {text}"),
        },
        "Look in the log of the server, or of the proxy before it",
    );
    failure.extra = vec![("status", json!(status)), ("text", json!(text))];
    if let Some(location) = &refused.location {
        failure.extra.push(("location", json!(location)));
    }
    failure.to_message(Some(id))
}

/// The refusal of credentials where its status can't be given.
pub(crate) fn challenge(upstream: &str, id: &RequestId, status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut failure = own(
        upstream,
        Code::CredentialsRefused,
        Executed::No,
        format!("`{upstream}` refused the credentials of this call with HTTP status {}", status.as_u16()),
        "Sign in again, or correct the configured `Authorization` header",
    );
    let challenge = headers.get(http::header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    failure.extra =
        vec![("status", json!(status.as_u16())), ("challenge", challenge.map_or(Value::Null, |c| json!(c)))];
    failure.to_message(Some(id))
}

/// What can only follow from a fault of relatch's own.
pub(crate) fn lost_answer(upstream: &str, id: &RequestId) -> Bytes {
    own(
        upstream,
        Code::Internal,
        Executed::Unknown,
        format!("The answer of `{upstream}` was lost inside relatch. The call may have run."),
        "Run `relatch log` for the circumstances and report them",
    )
    .to_message(Some(id))
}

/// A long answer has no place to wait in until it is whole.
pub(crate) fn unspooled(upstream: &str, id: &RequestId, fault: &std::io::Error) -> Bytes {
    // The bound of the spool, or what stands against a file.
    let (code, hint) = if fault.kind() == std::io::ErrorKind::FileTooLarge {
        (Code::AnswerBroken, format!("Ask `{upstream}` for less at once"))
    } else {
        (Code::Internal, "Make room in the temporary folder, or point `TMPDIR` to another".to_owned())
    };
    let mut failure = own(
        upstream,
        code,
        Executed::Unknown,
        format!("The long answer of `{upstream}` can't be kept until it is whole. The call has run."),
        &hint,
    );
    failure.cause = Some(fault.to_string());
    failure.to_message(Some(id))
}

/// A long answer went out, and its client had lost its connection.
pub(crate) fn not_kept(upstream: &str, id: &RequestId) -> Bytes {
    own(
        upstream,
        Code::AnswerBroken,
        Executed::Unknown,
        format!("The answer of `{upstream}` came while the connection to the client was lost, and was too long to be kept. The call has run."),
        "Call again only if it may run twice",
    )
    .to_message(Some(id))
}

/// The session has ended under a request.
pub(crate) fn session_ended(upstream: &str, id: &RequestId) -> Bytes {
    own(
        upstream,
        Code::SessionEnded,
        Executed::Unknown,
        format!("The session with `{upstream}` ended before the call was answered"),
        "Open a new session",
    )
    .to_message(Some(id))
}

/// The keeper is being shut down before the call is answered.
pub(crate) fn draining(upstream: &str, id: &RequestId, sent: bool, why: Drain) -> Bytes {
    let (executed, words) = match sent {
        false => (Executed::No, "The call was not sent."),
        true => (Executed::Unknown, "The call was sent and has no answer yet; it may run to its end."),
    };
    let (code, what, hint) = match why {
        Drain::Keeper => (
            Code::Draining,
            format!("This keeper of `{upstream}` is being shut down."),
            "Call again when relatch runs again; the session goes on",
        ),
        Drain::Removed => (
            Code::SessionEnded,
            format!("`{upstream}` was taken out of relatch's configuration."),
            "Put it back with `relatch add`, or take it out of the client's configuration, too",
        ),
    };
    own(upstream, code, executed, format!("{what} {words}"), hint).to_message(Some(id))
}

/// Why calls end that nobody has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// The keeper is told to stop.
    Keeper,
    /// The upstream was taken out of the configuration.
    Removed,
}

/// Progress of a call that waits for its upstream. The values grow and stay below zero, so below the server's own.
pub(crate) fn still_held(upstream: &str, token: &RequestId, told: u32) -> Bytes {
    let progress = -1.0 + f64::from(told.min(900)) / 1_000.0;
    let message = Value::from(format!("`{upstream}` is away; relatch waits for it"));
    let params = format!(r#"{{"progressToken":{},"progress":{progress},"message":{message}}}"#, token.raw());
    notification_message(method::PROGRESS, Some(params.as_bytes()))
}

/// The keeper keeps as much as it may.
pub(crate) fn keeper_full(upstream: &str, id: &RequestId) -> Bytes {
    own(
        upstream,
        Code::KeeperFull,
        Executed::No,
        "This keeper keeps 256 MiB of unanswered requests already. The call was not sent.".to_owned(),
        "Call again when other calls have been answered",
    )
    .to_message(Some(id))
}

/// The beginning of a text, as one line.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..4 * TEXT).unwrap_or(body));
    let mut words = String::new();
    for word in text.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        words.extend(word.chars().filter(|c| !c.is_control()));
    }
    match words.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Refused {
        Refused {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            retry_after: None,
            location: None,
            ended: false,
        }
    }

    #[test]
    fn a_refusal_that_is_a_json_rpc_error_keeps_its_bytes_under_the_requests_id() {
        let id = RequestId::number(7);
        let body =
            r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"no","data":1.10}}"#;
        let text = passed_refusal("x", &id, &refused(400, body), Executed::No);
        assert_eq!(text, body.replace("\"server-error\"", "7"));
    }

    #[test]
    fn any_other_refusal_tells_its_status_and_the_beginning_of_its_text() {
        let id = RequestId::number(7);
        let body = format!("<html>\n  <b>Bad</b>\r\n{}", "x".repeat(500));
        let text = passed_refusal("x", &id, &refused(502, &body), Executed::Unknown);
        let value: Value = serde_json::from_slice(&text).unwrap();
        let relatch = &value["error"]["data"]["relatch"];
        assert_eq!((value["id"].as_i64(), relatch["status"].as_i64()), (Some(7), Some(502)));
        assert_eq!(relatch["executed"], "unknown");
        assert!(relatch["text"].as_str().unwrap().starts_with("<html> <b>Bad</b> xxx"));
        assert_eq!(relatch["text"].as_str().unwrap().chars().count(), TEXT + 1);
    }

    #[test]
    fn an_answer_beyond_the_bound_is_not_put_down_to_a_full_disk() {
        let said = |kind| {
            let fault = std::io::Error::new(kind, "the answer is longer than 2 MiB");
            String::from_utf8(unspooled("x", &RequestId::number(1), &fault).to_vec()).unwrap()
        };
        let bound = said(std::io::ErrorKind::FileTooLarge);
        assert!(bound.contains("answer-broken") && bound.contains("for less at once"), "{bound}");
        assert!(bound.contains("longer than 2 MiB") && !bound.contains("TMPDIR"), "{bound}");
        let full = said(std::io::ErrorKind::StorageFull);
        assert!(full.contains("TMPDIR"), "{full}");
    }
}
