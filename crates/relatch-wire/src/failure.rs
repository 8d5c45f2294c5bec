//! The errors that relatch answers itself: their codes, their words and their bytes.
//!
//! When one is due is decided elsewhere; here it only becomes a JSON-RPC error under the request's own id. Numbers lie
//! outside -32768…-32000, as 2026-07-28 asks of private codes.

use bytes::Bytes;

use crate::era::LEGACY_SERVED;
use crate::json;
use crate::request_id::RequestId;

/// JSON-RPC 2.0 §5.1: no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The revision that a request names is not served (2026-07-28).
pub const UNSUPPORTED_VERSION: i64 = -32022;

/// Why a call ends with an error of relatch's own. Words and numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A fault of relatch itself.
    Internal,
    /// The connection broke after the call was sent.
    DeliveryUnknown,
    /// The upstream could not be reached for the whole hold.
    UpstreamDown,
    /// Something answers at the address, but not the MCP server.
    EndpointMissing,
    /// The upstream's sessions die as soon as they are opened.
    SessionFlapping,
    /// The session was renewed and what it held is gone.
    StateLost,
    /// This keeper holds as many bytes as it may.
    KeeperFull,
    /// Too many calls are waiting already.
    HoldFull,
    /// The upstream wants other credentials.
    CredentialsRefused,
    /// The upstream points to another address.
    Redirected,
    /// The upstream answered with an HTTP status that is an error.
    UpstreamStatus,
    /// What answers does not speak MCP.
    NotMcp,
    /// The client cancelled the call.
    Cancelled,
    /// The client ended its session.
    SessionEnded,
    /// The body is larger than the bound.
    BodyTooLarge,
    /// The upstream's certificate was rejected.
    CertificateRefused,
    /// The upstream's host name has no address.
    UnknownHost,
    /// A proxy on the way does not let relatch through.
    ProxyRefused,
    /// The fresh session refused the call too.
    ResendRefused,
    /// The call may not be sent again, by configuration.
    NeverReplayed,
    /// The answer broke off or could not be read.
    AnswerBroken,
    /// The upstream refused the handshake.
    HandshakeRefused,
    /// The upstream asks to wait for longer than the hold.
    UpstreamBusy,
    /// This keeper is being shut down.
    Draining,
    /// The command that is the server does not stay up.
    CommandFailed,
    /// The upstream is paused for a restart.
    Paused,
}

/// Whether the call ran at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Executed {
    /// It certainly did not.
    No,
    /// It may have.
    Unknown,
}

impl Executed {
    /// Its word in `data.relatch.executed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

impl Code {
    /// Every code.
    pub const ALL: &[Self] = &[
        Self::Internal,
        Self::DeliveryUnknown,
        Self::UpstreamDown,
        Self::EndpointMissing,
        Self::SessionFlapping,
        Self::StateLost,
        Self::KeeperFull,
        Self::HoldFull,
        Self::CredentialsRefused,
        Self::Redirected,
        Self::UpstreamStatus,
        Self::NotMcp,
        Self::Cancelled,
        Self::SessionEnded,
        Self::BodyTooLarge,
        Self::CertificateRefused,
        Self::UnknownHost,
        Self::ProxyRefused,
        Self::ResendRefused,
        Self::NeverReplayed,
        Self::AnswerBroken,
        Self::HandshakeRefused,
        Self::UpstreamBusy,
        Self::Draining,
        Self::CommandFailed,
        Self::Paused,
    ];

    /// The code's word.
    pub const fn as_str(self) -> &'static str {
        self.row().word
    }

    /// The code's number in a JSON-RPC error.
    pub const fn number(self) -> i64 {
        self.row().number
    }

    /// What it means, why it happens, what it does to the user and what there is to do.
    pub const fn explain(self) -> &'static str {
        self.row().page
    }

    /// The code with this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word)
    }

    const fn row(self) -> Row {
        match self {
            Self::Internal => Row::new(
                "internal",
                -31001,
                "relatch itself made a mistake while it handled the call. Whether the call ran is said in \
                 `executed`. Other calls go on. Run `relatch log` for the circumstances and report them.",
            ),
            Self::DeliveryUnknown => Row::new(
                "delivery-unknown",
                -31010,
                "The connection broke after the call was sent and before its answer arrived, so nobody can say \
                 whether it ran. A call that may change something is never sent again in that case. Look at the \
                 server for its effect before you call again. If the tool may safely run twice, annotate it with \
                 `readOnlyHint` or `idempotentHint`, or set `--replay 'TOOL=always'`.",
            ),
            Self::UpstreamDown => Row::new(
                "upstream-down",
                -31011,
                "The server could not be reached for as long as the call may wait (`--hold`, 45 s by default). The \
                 call was not sent and did not run. relatch keeps trying and is bound again as soon as the server \
                 answers. Start the server, or look at `relatch status` for the cause: it may be a proxy on the way.",
            ),
            Self::EndpointMissing => Row::new(
                "endpoint-missing",
                -31012,
                "Something answers at the address, but it is not the MCP server: a reverse proxy without its \
                 backend, or another path. The call did not run. relatch keeps looking and goes on when the server \
                 is back. Check that the server runs behind its proxy and that the path of the URL is right.",
            ),
            Self::SessionFlapping => Row::new(
                "session-flapping",
                -31013,
                "The server's sessions died three times in a row without one answered request in between, so \
                 relatch rests for a while instead of opening ever new ones. The call did not run. Usual causes: \
                 replicas without session affinity, or a server that crashes on its first request. Look at the \
                 server's log, then run `relatch reconnect`.",
            ),
            Self::StateLost => Row::new(
                "state-lost",
                -31014,
                "The server lost the session, and this upstream is declared `stateful`: what the session held (a \
                 browser, a transaction) is gone. A new session is open, but the call was not run against its empty \
                 state. Start again from the beginning of what you were doing.",
            ),
            Self::KeeperFull => Row::new(
                "keeper-full",
                -31015,
                "This keeper already keeps 256 MiB of requests whose answers are due. The call was not sent and did \
                 not run. Call again when others have been answered, or send smaller requests.",
            ),
            Self::HoldFull => Row::new(
                "hold-full",
                -31016,
                "The server is away and too many calls wait for it already: 64 in one session or 1,000 for one \
                 upstream. The call was not sent and did not run. Call again when the server is back.",
            ),
            Self::CredentialsRefused => Row::new(
                "credentials-refused",
                -31017,
                "The server refused the credentials of the call; its status and challenge are in `data`. The call \
                 did not run. Sign in again: the next request gets the server's own challenge, so that the client \
                 can answer it.",
            ),
            Self::Redirected => Row::new(
                "redirected",
                -31018,
                "The server sends relatch to another address, to which neither calls nor credentials are taken \
                 along unasked. The call did not run. If the new address is right, put it into the configuration.",
            ),
            Self::UpstreamStatus => Row::new(
                "upstream-status",
                -31019,
                "The server, or a proxy before it, answered with an HTTP status that is an error and without a \
                 JSON-RPC message; the status and the beginning of its text are in `data`. Look there, and in the \
                 server's log.",
            ),
            Self::NotMcp => Row::new(
                "not-mcp",
                -31020,
                "What answers at the address does not speak MCP: it sends a web page, or JSON that is no message. \
                 Check the URL; the path is often `/mcp`.",
            ),
            Self::Cancelled => Row::new(
                "cancelled",
                -31021,
                "The client cancelled the call while it waited in relatch. It was not sent and did not run.",
            ),
            Self::SessionEnded => Row::new(
                "session-ended",
                -31022,
                "The client ended its session while the call waited. If `executed` is `no`, it was not sent. Open a \
                 new session.",
            ),
            Self::BodyTooLarge => Row::new(
                "body-too-large",
                -31023,
                "The message is larger than relatch takes: 32 MiB for a request, 64 MiB for a line, 64 KiB for an \
                 error body. `executed` says whether the call may have run. Send less at once.",
            ),
            Self::CertificateRefused => Row::new(
                "certificate-refused",
                -31024,
                "The server's TLS certificate was rejected: expired, for another name, or by an authority that is not \
                 trusted; or the server wants a client certificate and was shown none that it knows. The call was not \
                 sent. Renew the certificate, name the file of its authority (`ca`), or give relatch a certificate of \
                 its own (`cert`, `key`).",
            ),
            Self::UnknownHost => Row::new(
                "unknown-host",
                -31025,
                "The host name of the upstream has no address. The call was not sent. Check its spelling, and the \
                 network's name resolution.",
            ),
            Self::ProxyRefused => Row::new(
                "proxy-refused",
                -31036,
                "The proxy on the way to the server does not connect to it: it wants credentials or refuses those that \
                 it was given, does not allow the address, or is no proxy. The call was not sent. Correct the proxy \
                 (`proxy`, or `HTTPS_PROXY`), have it allow the server's host and port, or go straight with \
                 `proxy = \"none\"` or `NO_PROXY`. A proxy that is merely away is waited for.",
            ),
            Self::ResendRefused => Row::new(
                "resend-refused",
                -31026,
                "The server lost the session, a new one was opened, and that refused the call as well. The call did \
                 not run. The server's own words are in `data`; `relatch doctor` shows how it treats sessions.",
            ),
            Self::NeverReplayed => Row::new(
                "never-replayed",
                -31027,
                "The call may not be sent again, because its tool is set to `never`, and its first sending was \
                 refused or broke. `executed` says what is known of it. Call again yourself if you want it to run.",
            ),
            Self::AnswerBroken => Row::new(
                "answer-broken",
                -31028,
                "The server's answer broke off, or could not be read as a message. The call may have run. Look at \
                 the server for its effect before you call again.",
            ),
            Self::HandshakeRefused => Row::new(
                "handshake-refused",
                -31029,
                "The server answered `initialize` with an error, which is in `data`. No session could be opened and \
                 the call did not run. Look in the server's log for the reason.",
            ),
            Self::UpstreamBusy => Row::new(
                "upstream-busy",
                -31030,
                "The server asks to wait (`Retry-After`) for longer than a call may be held. The call did not run. \
                 Call again after the time that is given in `data`.",
            ),
            Self::Draining => Row::new(
                "draining",
                -31031,
                "This keeper is being shut down and takes no new calls. The call was not sent. Call again: the next \
                 keeper takes the session over.",
            ),
            Self::CommandFailed => Row::new(
                "command-failed",
                -31032,
                "The server is a command that relatch starts, and it can't be started or ends before it answers \
                 `initialize`. relatch goes on trying, after ever longer pauses up to a second; calls wait for it, and \
                 what was not sent has not run. The cause has its exit status and its last line on stderr. Run the \
                 command by hand, with the same environment, to see the rest of what it says.",
            ),
            Self::Paused => Row::new(
                "paused",
                -31035,
                "Somebody announced that the server restarts (`relatch pause`), so nothing new is sent to it and calls \
                 wait. A call's own hold stands still meanwhile; only the `initialize` of a new client is given back \
                 with this code when it has waited for 20 s, and opened no session. `relatch resume` with the server's \
                 name ends the pause; it also ends by itself, after 5 min unless `--for` says otherwise.",
            ),
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

struct Row {
    word: &'static str,
    number: i64,
    page: &'static str,
}

impl Row {
    const fn new(word: &'static str, number: i64, page: &'static str) -> Self {
        Self { word, number, page }
    }
}

/// An error that ends a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What kind it is.
    pub code: Code,
    /// The upstream's configured name.
    pub upstream: String,
    /// Whether the call ran.
    pub executed: Executed,
    /// What happened, for people.
    pub message: String,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// The cause, as far as it is known.
    pub cause: Option<String>,
    /// One thing that the reader can do.
    pub hint: Option<String>,
    /// More members of `data.relatch`.
    pub extra: Vec<(&'static str, serde_json::Value)>,
}

impl Failure {
    /// The JSON-RPC error under this id: `data.relatch` has `code`, `upstream`, `executed`, `since`, `cause`, `hint`
    /// and the extra members, in this order; what is not known is null.
    pub fn to_message(&self, id: Option<&RequestId>) -> Bytes {
        let mut data = format!(
            r#"{{"relatch":{{"code":{},"upstream":{},"executed":{},"since":{},"cause":{},"hint":{}"#,
            json::quote(self.code.as_str()),
            json::quote(&self.upstream),
            json::quote(self.executed.as_str()),
            quote_or_null(self.since.as_deref()),
            quote_or_null(self.cause.as_deref()),
            quote_or_null(self.hint.as_deref()),
        );
        for (name, value) in &self.extra {
            data.push_str(&format!(",{}:{value}", json::quote(name)));
        }
        data.push_str("}}");
        error_message(id, self.code.number(), &self.message, Some(&data))
    }
}

/// A JSON-RPC error.
pub fn rpc_error(
    id: Option<&RequestId>,
    code: i64,
    message: &str,
    data: Option<&serde_json::Value>,
) -> Bytes {
    error_message(id, code, message, data.map(ToString::to_string).as_deref())
}

/// The error -32022 with the revisions that are served (2026-07-28 basic/versioning).
pub fn unsupported_version(id: Option<&RequestId>, requested: &str) -> Bytes {
    let supported: Vec<_> = LEGACY_SERVED.iter().map(|revision| json::quote(revision.as_str())).collect();
    let data = format!(r#"{{"supported":[{}],"requested":{}}}"#, supported.join(","), json::quote(requested));
    error_message(id, UNSUPPORTED_VERSION, "Unsupported protocol version", Some(&data))
}

/// The error -32601 for this method.
pub fn method_not_found(id: &RequestId, method: &str) -> Bytes {
    error_message(Some(id), METHOD_NOT_FOUND, &format!("Method not found: {method}"), None)
}

/// An answer that worked, with this raw value.
pub fn result(id: &RequestId, raw: &[u8]) -> Bytes {
    let mut out = format!(r#"{{"jsonrpc":"2.0","id":{},"result":"#, id.raw()).into_bytes();
    out.extend_from_slice(raw);
    out.push(b'}');
    out.into()
}

fn error_message(id: Option<&RequestId>, code: i64, message: &str, data: Option<&str>) -> Bytes {
    let id = id.map_or("null", RequestId::raw);
    let message = json::quote(message);
    match data {
        Some(data) => format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message},"data":{data}}}}}"#
        ),
        None => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#),
    }
    .into()
}

fn quote_or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "null".into(), json::quote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, Kind};

    #[test]
    fn codes_are_unique_and_outside_the_reserved_range() {
        for (n, one) in Code::ALL.iter().enumerate() {
            assert!((-31999..=-31000).contains(&one.number()), "{one}");
            assert_eq!(Code::parse(one.as_str()), Some(*one));
            assert!(one.explain().len() > 60 && one.explain().ends_with('.'), "{one}");
            for two in Code::ALL.iter().skip(n + 1) {
                assert!(one.number() != two.number() && one.as_str() != two.as_str(), "{one} {two}");
            }
        }
        assert_eq!(Code::DeliveryUnknown.number(), -31010);
    }

    #[test]
    fn a_failure_is_an_error_under_the_requests_own_id() {
        let failure = Failure {
            code: Code::DeliveryUnknown,
            upstream: "github".into(),
            executed: Executed::Unknown,
            message: "The connection to `github` broke after `a\"b` was sent".into(),
            since: Some("2026-11-22T09:00:00Z".into()),
            cause: None,
            hint: Some("Look in `github` before you call again".into()),
            extra: vec![("status", 502.into())],
        };
        let id = RequestId::from_raw("1.10").unwrap();
        assert_eq!(
            std::str::from_utf8(&failure.to_message(Some(&id))).unwrap(),
            r#"{"jsonrpc":"2.0","id":1.10,"error":{"code":-31010,"message":"The connection to `github` broke after `a\"b` was sent","data":{"relatch":{"code":"delivery-unknown","upstream":"github","executed":"unknown","since":"2026-11-22T09:00:00Z","cause":null,"hint":"Look in `github` before you call again","status":502}}}}"#
        );
        let bytes = failure.to_message(None);
        assert!(matches!(Envelope::read(&bytes).unwrap().kind, Kind::Error { id: None, code: -31010, .. }));
    }

    #[test]
    fn plain_answers_are_messages() {
        let id = RequestId::text("x");
        assert_eq!(result(&id, b"{\"a\":1.10}"), &br#"{"jsonrpc":"2.0","id":"x","result":{"a":1.10}}"#[..]);
        assert_eq!(
            unsupported_version(Some(&id), "2026-07-28"),
            &br#"{"jsonrpc":"2.0","id":"x","error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2025-03-26","2025-06-18","2025-11-25"],"requested":"2026-07-28"}}}"#[..]
        );
        let bytes = method_not_found(&id, "server/discover");
        assert!(matches!(Envelope::read(&bytes).unwrap().kind, Kind::Error { code: METHOD_NOT_FOUND, .. }));
        assert!(Envelope::read(&rpc_error(None, -32000, "no", Some(&serde_json::json!([1])))).is_ok());
    }
}
