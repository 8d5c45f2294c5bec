//! What the probes have seen of a server, as data: no meaning yet.

use std::time::Duration;

use relatch_core::latch::reading::{self, Reading};
use relatch_net::upstream::dial::{Cause, Nearness};
use relatch_wire::era::Revision;
use serde_json::Value;

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The address, without secrets.
    pub(crate) url: String,
    pub(crate) path: String,
    pub(crate) near: Nearness,
    /// Whether the user gave headers, credentials perhaps.
    pub(crate) with_headers: bool,
    /// Where a redirect that relatch follows led, without secrets.
    pub(crate) redirected: Vec<String>,
    pub(crate) door: Door,
    /// It has stopped answering, and was not asked any more.
    pub(crate) stopped: bool,
    pub(crate) requests: u32,
    /// Sessions opened, and ended by DELETE.
    pub(crate) sessions: (u32, u32),
    pub(crate) took: Duration,
}

/// What became of the handshake.
#[derive(Debug)]
pub(crate) enum Door {
    Shut(Box<Shut>),
    Open(Box<Inside>),
}

/// No handshake.
#[derive(Debug)]
pub(crate) struct Shut {
    pub(crate) initialize: Seen,
    /// A GET, where it could show the old transport.
    pub(crate) get: Option<Seen>,
    /// `server/discover`, where the server could be one without handshake.
    pub(crate) discover: Option<Seen>,
    /// The same with a foreign `Origin`, and with a foreign `Host`, where credentials are asked for.
    pub(crate) foreign: Option<(Seen, Seen)>,
    /// Another path of the same server that speaks MCP.
    pub(crate) elsewhere: Option<String>,
}

/// Behind the handshake.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
    /// `protocolVersion` as it came.
    pub(crate) revision: String,
    pub(crate) connect_ms: Option<f64>,
    pub(crate) initialize: Seen,
    /// Session ids in the order in which they were issued.
    pub(crate) ids: Vec<String>,
    pub(crate) initialized: Seen,
    pub(crate) ping: Seen,
    /// The same over new connections, which may lead to other replicas.
    pub(crate) scattered: Vec<Seen>,
    /// The times of all pings over one connection, in ms.
    pub(crate) pings: Vec<f64>,
    /// None where the server declares no tools.
    pub(crate) tools: Option<Seen>,
    pub(crate) unknown_method: Seen,
    pub(crate) accept_json: Seen,
    pub(crate) accept_events: Seen,
    pub(crate) version_missing: Seen,
    pub(crate) version_unknown: Seen,
    /// Each older revision, and what it was answered.
    pub(crate) revisions: Vec<(Revision, Seen)>,
    pub(crate) revision_unknown: Seen,
    pub(crate) discover: Seen,
    pub(crate) stream: Seen,
    /// A GET with an event id that the server gave.
    pub(crate) resumed: Option<Seen>,
    pub(crate) foreign_origin: Seen,
    pub(crate) foreign_host: Seen,
    /// `initialize` without the headers that the user gave, where there are some.
    pub(crate) bare: Option<Seen>,
    /// Both foreign at once, where each alone was served.
    pub(crate) rebound: Option<Seen>,
    /// What a browser asks before a foreign page may call, where the answer to that page may be read.
    pub(crate) preflight: Option<Seen>,
    /// `ping` with a session id, of a server that issues none.
    pub(crate) strange: Option<Seen>,
    /// What is only asked of a server that issues session ids.
    pub(crate) session: Option<Session>,
    /// `Ok`: closed after; `Err`: open for at least.
    pub(crate) idle_socket: Option<Result<Duration, Duration>>,
    pub(crate) idle_session: Option<(Duration, Seen)>,
    pub(crate) restart: Option<Restart>,
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) missing: Seen,
    /// An id of the same form that was never issued.
    pub(crate) foreign: Seen,
    /// An id of another form.
    pub(crate) misshapen: Seen,
    pub(crate) foreign_stream: Seen,
    pub(crate) delete: Seen,
    /// `ping` with an id that came with a refusal.
    pub(crate) stray: Option<Seen>,
    /// `ping` under the id that DELETE has ended.
    pub(crate) ended: Seen,
}

/// What a restart of the server looked like from here.
#[derive(Clone, Debug)]
pub(crate) enum Restart {
    /// The command itself did not work, and why.
    Failed(String),
    /// The server was not back in time.
    Away(Duration),
    Back(Box<Back>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Back {
    /// How long nothing answered; none if it was never seen away.
    pub(crate) away: Option<Duration>,
    /// What it was like while away: refused, cut, a gateway's error.
    pub(crate) meanwhile: Option<String>,
    /// `ping` under the id from before the restart.
    pub(crate) old: Seen,
    pub(crate) new: Seen,
    /// The new session has the id of an older one.
    pub(crate) id_repeats: bool,
    pub(crate) tools_differ: Option<bool>,
    pub(crate) version_differs: bool,
}

/// What came back for one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) end: End,
    pub(crate) ms: f64,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum End {
    /// The time for all requests was over, or something before it made it pointless.
    #[default]
    NotAsked,
    Answered(Box<Answer>),
    /// No answer within this.
    Silent(Duration),
    Broken(Cause),
}

/// An HTTP answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The content type, without parameters.
    pub(crate) kind: String,
    pub(crate) form: Form,
    /// The body, or the message of the event that answers.
    pub(crate) body: String,
    pub(crate) json: bool,
    pub(crate) rpc_code: Option<i64>,
    pub(crate) rpc_message: Option<String>,
    pub(crate) id: Option<Value>,
    pub(crate) result: Option<Value>,
    pub(crate) session: Option<String>,
    pub(crate) challenge: Option<String>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) location: Option<String>,
    pub(crate) allows_origin: Option<String>,
    pub(crate) allows_headers: Option<String>,
    /// What the headers say of the HTTP server.
    pub(crate) software: Option<String>,
    pub(crate) event_ids: Vec<String>,
    /// The type of the first event that named one.
    pub(crate) event: Option<String>,
    pub(crate) retry: Option<u64>,
    /// The stream was still open when it was left.
    pub(crate) open: bool,
}

/// What a body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    Empty,
    Json,
    Events,
    Html,
    Text,
}

impl Seen {
    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.end {
            End::Answered(answer) => Some(answer),
            End::NotAsked | End::Silent(_) | End::Broken(_) => None,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// A JSON-RPC result came.
    pub(crate) fn worked(&self) -> bool {
        self.answer().is_some_and(|answer| answer.result.is_some())
    }

    /// A 2xx with a result or an error of JSON-RPC: the request reached the session.
    pub(crate) fn served(&self) -> bool {
        self.answer().is_some_and(|answer| {
            (200..300).contains(&answer.status) && (answer.result.is_some() || answer.rpc_code.is_some())
        })
    }

    /// A 4xx.
    pub(crate) fn refused(&self) -> bool {
        self.status().is_some_and(|status| (400..500).contains(&status))
    }

    /// How relatch reads this answer to a request that carried a session id; none for a success or no answer.
    pub(crate) fn reading(&self) -> Option<Reading> {
        let answer = self.answer()?;
        if (200..300).contains(&answer.status) {
            let message = answer.rpc_message.as_deref().unwrap_or_default();
            return match answer.rpc_code {
                Some(code) if reading::error_raises_doubt(code, message) => Some(Reading::Suspected),
                Some(_) => None,
                None if answer.result.is_some() || answer.form == Form::Events => None,
                None => Some(reading::read(&answer.refusal(), true)),
            };
        }
        Some(reading::read(&answer.refusal(), true))
    }
}
