//! The effects that come out of a machine: what the shell is to do, in this order.
//!
//! The shell keeps the bytes: requests under their [`ExId`], messages under their [`NoteId`] until
//! [`Effect::DropNote`], answers under their [`AttemptId`]: what came for [`What::Exchange`] and for a client's own
//! [`What::Initialize`] until exactly one of [`Effect::Pass`], [`Effect::PassRefusal`] or [`Effect::Drop`] names it
//! ([`Effect::Challenge`] may, before `Drop`). What came for anything else is named, if at all, by a `Challenge` among
//! the effects of the very fact that reports it. `Drop` may also name an attempt of which nothing is kept.

use relatch_wire::failure::{Code, Executed};
use relatch_wire::method::ListKind;

use crate::{At, AttemptId, ExId, Gen, LatchId, NoteId, journal};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Begin an attempt. Every attempt ends with one `Answered`, `Session`, `Listed`, `Refused` or `Cut`, unless it
    /// is aborted.
    Send(Send),
    /// Drop an attempt and its connection; nothing more is reported of it.
    Abort {
        /// Which one.
        attempt: AttemptId,
    },
    /// Events and bytes of this attempt go on to the client as they come.
    Flow {
        /// To whom.
        ex: ExId,
        /// Whose.
        attempt: AttemptId,
    },
    /// The attempt's JSON-RPC answer goes to the client.
    Pass {
        /// To whom.
        ex: ExId,
        /// Whose.
        attempt: AttemptId,
    },
    /// The attempt's HTTP refusal goes to the client as a JSON-RPC error under its id: code, message and data where
    /// the body is one, else `upstream-status`.
    PassRefusal {
        /// To whom.
        ex: ExId,
        /// Whose.
        attempt: AttemptId,
        /// Whether the call may have run.
        executed: Executed,
    },
    /// The attempt's status, `WWW-Authenticate` and body go to the client as they came (401/403). On stdio, or after
    /// early headers, the error `credentials-refused` instead.
    Challenge {
        /// To whom.
        ex: ExId,
        /// Whose; the answer is kept until `Drop`, since several exchanges can get it.
        attempt: AttemptId,
    },
    /// The answer kept for this attempt is not needed any more.
    Drop {
        /// Which one.
        attempt: AttemptId,
    },
    /// Look for a copy of what this upstream answered to the same request earlier, under the same credentials; what is
    /// found is reported by [`Input::Copy`](crate::Input::Copy).
    SeekCopy {
        /// Whose answer it would be.
        ex: ExId,
    },
    /// The copy that was found for this exchange goes to the client.
    PassCopy {
        /// To whom.
        ex: ExId,
    },
    /// An error of relatch's own goes to the client. After events have gone out it is the last event.
    Answer {
        /// To whom.
        ex: ExId,
        /// What it says.
        failure: Failure,
    },
    /// SSE headers and a comment go to the client, and a comment every 15 s from now on.
    Early {
        /// To whom.
        ex: ExId,
    },
    /// The client's message is taken (202); on stdio nothing.
    Accept {
        /// Which one.
        note: NoteId,
    },
    /// The client's message is let go; where it was not accepted yet, its upstream's refusal goes back, or else it is
    /// taken (202).
    DropNote {
        /// Which one.
        note: NoteId,
    },
    /// Something of relatch's own goes to the client by its standing stream, or waits for it.
    Tell {
        /// To whom.
        latch: LatchId,
        /// What.
        tell: Tell,
    },
    /// The server requests that came by this attempt are cancelled at the client, and late answers to them dropped.
    Withdraw {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Close the pool's idle connections: they are known or suspected to be dead.
    CloseIdle,
    /// The latch changed in something that its record holds.
    Record {
        /// Which one.
        latch: LatchId,
    },
    /// Nothing is sent any more to this upstream session of the latch; forget its id.
    Forget {
        /// Whose.
        latch: LatchId,
        /// Which one.
        generation: Gen,
    },
    /// The latch is over: its downstream id is answered 404 from now on, its record goes. Attempts that were not
    /// aborted run on: DELETEs, and handshakes, whose session would get its DELETE.
    Close {
        /// Which one.
        latch: LatchId,
    },
    /// A line for the journal.
    Journal(journal::Entry),
}

/// The beginning of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Its name from now on.
    pub attempt: AttemptId,
    /// For which latch.
    pub latch: LatchId,
    /// To which of its upstream sessions; for [`What::Initialize`] the one that it is to become.
    pub generation: Gen,
    /// What is sent.
    pub what: What,
    /// On what sort of connection.
    pub connection: Connection,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The client's request.
    Exchange {
        /// Which one.
        ex: ExId,
        /// Under which id.
        id: IdRule,
    },
    /// `initialize` with the client's own params, without a session id; asks for the revision the client was
    /// promised. `ex` is the client's own exchange where this is its very `initialize` (then under its own id).
    Initialize {
        /// The client's exchange.
        ex: Option<ExId>,
    },
    /// `notifications/initialized`.
    Initialized,
    /// `ping`.
    Ping,
    /// `logging/setLevel` with these raw params.
    SetLevel(String),
    /// `resources/subscribe` with these raw params.
    Subscribe(String),
    /// A page of a list.
    List {
        /// Of which kind.
        kind: ListKind,
        /// From where.
        cursor: Option<String>,
    },
    /// The client's message.
    Note(NoteId),
    /// The standing stream: GET. Resumed with `Last-Event-ID` when the shell has one for this generation.
    Stream,
    /// GET with the `Last-Event-ID` of another attempt, whose stream it continues: events and the answer are reported
    /// and passed on as that attempt's, this attempt's own end as this one's.
    Resume {
        /// Whose stream.
        of: AttemptId,
    },
    /// DELETE of this upstream session.
    Delete,
}

/// Under which id a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRule {
    /// The client's own.
    Own,
    /// One of relatch's, mapped back in answers, progress and cancellations.
    Mapped,
}

/// On what sort of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Any that is open.
    Any,
    /// New, or used less than 2 s ago.
    Young,
    /// New.
    Fresh,
}

/// An error of relatch's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its stable code.
    pub code: Code,
    /// Whether the call may have run.
    pub executed: Executed,
    /// The sentence.
    pub message: String,
    /// Since when the trouble has lasted.
    pub since: Option<At>,
    /// Why.
    pub cause: Option<String>,
    /// What can be done.
    pub hint: Option<String>,
    /// When the upstream says to come back, in milliseconds.
    pub retry_after: Option<u64>,
}

/// What relatch tells a client by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// `notifications/…/list_changed`.
    ListChanged(ListKind),
    /// `notifications/resources/updated` for this address.
    Updated(String),
}
