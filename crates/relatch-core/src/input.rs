//! The facts that go into a machine.
//!
//! Every variant is something that has happened; none asks for anything. The shell reports a fact once, as soon as it
//! has it, and carries out the effects that come back before it reports the next fact of the same attempt.

use std::collections::{BTreeMap, BTreeSet};

use relatch_wire::method::ListKind;
use relatch_wire::request_id::RequestId;

use crate::health::{ClientSeen, ServerSeen};
use crate::policy::Policy;
use crate::{AttemptId, ExId, Gen, LatchId, NoteId};

/// One fact.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A downstream session begins with the client's `initialize`, which is exchange `ex`.
    Opened {
        /// The new latch.
        latch: LatchId,
        /// The exchange of its `initialize`.
        ex: ExId,
        /// The request.
        ask: Ask,
        /// The client, as it names itself.
        client: Option<ClientSeen>,
    },
    /// A downstream session found in the records, of a keeper that ran before.
    Restored {
        /// The latch that it becomes.
        latch: LatchId,
        /// What the record says.
        restored: Restored,
    },
    /// A client asked for something.
    Asked {
        /// Its latch.
        latch: LatchId,
        /// The new exchange.
        ex: ExId,
        /// The request.
        ask: Ask,
    },
    /// A client sent a message that expects no answer.
    Told {
        /// Its latch.
        latch: LatchId,
        /// The new message.
        note: NoteId,
        /// What it says.
        told: Told,
    },
    /// The client's connection for this exchange closed before its answer was out.
    Left {
        /// The exchange.
        ex: ExId,
    },
    /// A standing stream of the client's is open (HTTP), or the client is there (stdio).
    Attached {
        /// Its latch.
        latch: LatchId,
    },
    /// The client's standing stream closed.
    Detached {
        /// Its latch.
        latch: LatchId,
    },
    /// The downstream session is over: DELETE, end of stdin, expiry.
    Ended {
        /// Its latch.
        latch: LatchId,
    },
    /// A 2xx head came, and its body has begun.
    Begun {
        /// Which attempt.
        attempt: AttemptId,
        /// What has begun.
        begun: Begun,
    },
    /// The final answer of an attempt is whole in the shell. For [`What::Note`](crate::effect::What::Note),
    /// `Initialized`, `Delete` any 2xx counts.
    Answered {
        /// Which attempt.
        attempt: AttemptId,
        /// What sort of answer.
        answer: Answer<'a>,
    },
    /// An `initialize` of relatch's got a result; the shell has put the session id away under its generation.
    Session {
        /// Which attempt.
        attempt: AttemptId,
        /// What the server said.
        session: SessionFacts,
    },
    /// A page of a list that relatch itself asked for is here; the shell compares when the list is whole.
    Listed {
        /// Which attempt.
        attempt: AttemptId,
        /// What came.
        listed: Listed,
    },
    /// The shell has looked for the copy that [`SeekCopy`](crate::effect::Effect::SeekCopy) asked for.
    Copy {
        /// Whose answer it would be.
        ex: ExId,
        /// What was found: nothing, where none is kept for this request under these credentials.
        copy: Option<CopySeen>,
    },
    /// Annotations of tools were seen in a list that went to this client.
    Hinted {
        /// The client's latch.
        latch: LatchId,
        /// Tool, read-only, idempotent.
        hints: Vec<(String, bool, bool)>,
    },
    /// A whole HTTP answer that is no JSON-RPC success: any status but 2xx, or 2xx that is neither JSON-RPC nor SSE.
    Refused {
        /// Which attempt.
        attempt: AttemptId,
        /// The answer.
        refusal: Refusal<'a>,
    },
    /// The connection of an attempt ended before its answer was whole, or was never made.
    Cut {
        /// Which attempt.
        attempt: AttemptId,
        /// How.
        cut: Cut,
    },
    /// The upstream closed a connection that carried nothing.
    IdleClosed,
    /// Nothing could happen for a while: the machine slept, or relatch was stopped. Reported before any deadline that
    /// became due meanwhile.
    Woke {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// A deadline is due.
    Tick,
    /// The user has decided otherwise about this upstream.
    Configured {
        /// What holds from now on. The name stays.
        policy: &'a Policy,
        /// Its address is another one: sessions that were opened until now are of the former.
        moved: bool,
        /// The headers that it is sent are other ones.
        headers: bool,
    },
    /// Somebody announces that the server restarts: from now on nothing new goes to it, and what comes waits.
    Paused {
        /// The pause ends by itself after so many milliseconds. One that holds already gets this end instead.
        ms: u64,
    },
    /// The server is back, as somebody says.
    Resumed,
    /// Somebody asks for a new session beside each one that lives, to take its place if it comes up.
    Replace,
    /// Somebody asks for a relatch, of one latch or all.
    Reconnect {
        /// Which one; `None` is all.
        latch: Option<LatchId>,
    },
}

/// A request, as far as the machine needs to know it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The client's id.
    pub id: RequestId,
    /// The method.
    pub method: String,
    /// `params.name` of `tools/call`.
    pub tool: Option<String>,
    /// Whether the client takes an SSE answer (always true on stdio).
    pub accepts_sse: bool,
    /// What has to be remembered when it succeeds.
    pub keep: Keep,
}

/// What a successful request changes in a session, to be replayed into the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// `logging/setLevel`, with its raw params.
    Level(String),
    /// `resources/subscribe`: address and raw params.
    Subscribe(String, String),
    /// `resources/unsubscribe`: address.
    Unsubscribe(String),
    /// A list of this kind is known to the client.
    List(ListKind),
}

/// A message that expects no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// `notifications/initialized`.
    Initialized,
    /// `notifications/cancelled` for the client's own request.
    Cancelled(RequestId),
    /// The answer to a server's request; the generation that its id carries, or `None` for an id that relatch never
    /// gave out or whose request has been withdrawn.
    Answer(Option<Gen>),
    /// Any other notification.
    Other,
}

/// What has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// An SSE stream.
    Stream,
    /// An answer too long to be whole in the shell first; its first bytes show a top-level `result`.
    Long,
    /// The rest of a resumed stream: it brings an event id other than the one behind which it was asked for.
    News,
}

/// The final answer of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A JSON-RPC result, or 2xx where no answer is due.
    Result,
    /// A JSON-RPC error in a 2xx answer.
    Error {
        /// Its code.
        code: i64,
        /// Its message.
        message: &'a str,
    },
}

/// What a server said to `initialize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Whether it gave a session id.
    pub has_id: bool,
    /// Its name, version and revision.
    pub server: ServerSeen,
    /// A digest of what else a client may have built on: instructions.
    pub digest: u64,
    /// The capabilities that it names, by their names.
    pub offers: BTreeSet<&'static str>,
}

/// A copy of an answer that this very upstream gave earlier, as far as the machine needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySeen {
    /// When the upstream gave that answer: milliseconds since the Unix epoch.
    pub made: i64,
    /// The same for people.
    pub date: String,
    /// For `initialize`: what the server said of itself.
    pub session: Option<SessionFacts>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// There is more behind this cursor.
    More(String),
    /// The list is whole, and equal to what the client last saw.
    Same,
    /// The list is whole and differs; in words for the journal (`+extra -old ~changed`).
    Differs(String),
}

/// An HTTP answer that is no JSON-RPC success.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The status.
    pub status: u16,
    /// The body as text, at most 64 KiB.
    pub body: &'a str,
    /// The code, where the body is a JSON-RPC error.
    pub rpc_code: Option<i64>,
    /// A digest of the body, request ids taken out.
    pub digest: u64,
    /// Whether `WWW-Authenticate` came with it.
    pub challenge: bool,
    /// `Retry-After` in milliseconds.
    pub retry_after: Option<u64>,
    /// `Location`, where redirects were not followed.
    pub location: Option<&'a str>,
    /// No server said so: the process or the stream that the session lived on has ended, which the shell knows by itself.
    /// The request was never written; `body` says how it ended.
    pub ended: bool,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whether a byte of the request may have been written. `false` is proof.
    pub wrote: bool,
    /// What sort of end.
    pub kind: CutKind,
    /// In words, for people (`connection refused (127.0.0.1:8931)`).
    pub cause: String,
    /// Whether the stream gave an event id to resume from.
    pub resumable: bool,
    /// The server's `retry`, in milliseconds.
    pub retry: Option<u64>,
}

/// The sorts of ends that are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutKind {
    /// The certificate or the TLS handshake was refused.
    Tls,
    /// The host name is unknown.
    UnknownHost,
    /// A proxy on the way refuses for good: its rules, or what it was shown.
    Proxy,
    /// The answer broke a bound or is no HTTP, SSE or JSON-RPC.
    Garbled,
    /// The stream of the old transport names an endpoint of another origin; nothing was sent there.
    Elsewhere,
    /// Anything else: refused, reset, closed, no answer to connect.
    Connection,
}

/// What a record says of a latch.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The generation bound last; `None` when no session was bound.
    pub bound: Option<Gen>,
    /// Whether that session has an id.
    pub has_id: bool,
    /// How many handshakes were begun.
    pub begun: u32,
    /// Whether the client has sent `notifications/initialized`.
    pub initialized: bool,
    /// The revision that the client was promised.
    pub revision: String,
    /// The client, as it named itself.
    pub client: Option<ClientSeen>,
    /// The server, as it named itself.
    pub server: Option<ServerSeen>,
    /// Raw params of the last `logging/setLevel`.
    pub level: Option<String>,
    /// Address to raw params.
    pub subscriptions: BTreeMap<String, String>,
    /// Kinds of lists that the client knows.
    pub lists: Vec<ListKind>,
    /// Tool, read-only, idempotent.
    pub hints: Vec<(String, bool, bool)>,
}
