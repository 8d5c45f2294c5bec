//! What happened, in words that a person can search: the journal's entries.
//!
//! The machine writes them as effects; the shell dates them and keeps them. Nothing here decides anything.

use serde::{Deserialize, Serialize};

use crate::{Gen, LatchId};

/// One thing that happened to one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What kind of thing.
    pub what: What,
    /// The latch it happened to, where it was one.
    pub latch: Option<LatchId>,
    /// The generation it concerns, where there is one.
    pub generation: Option<Gen>,
    /// The method, or `tools/call NAME`, where it concerns an exchange.
    pub subject: Option<String>,
    /// How long it took, in milliseconds, where that is known.
    pub ms: Option<u64>,
    /// The rest, for people: cause, or what changed.
    pub detail: Option<String>,
}

/// The kinds of journal entries; their spelling is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A client opened a downstream session.
    Attached,
    /// A downstream session ended.
    Left,
    /// The upstream session was refused: it is gone.
    Lost,
    /// An answer raised doubt about the session; a diagnosis began.
    Suspected,
    /// The diagnosis found the session alive, or the answer not to be about it.
    Cleared,
    /// A new upstream session was bound.
    Relatched,
    /// The upstream can't be reached.
    Away,
    /// The upstream answers again.
    Back,
    /// An exchange was sent a second time.
    Resent,
    /// An exchange waits for its upstream.
    Held,
    /// An exchange was given back with an error of relatch's own.
    GivenBack,
    /// An exchange was given back and may have run.
    DeliveryUnknown,
    /// The upstream refused the client's credentials.
    CredentialsRefused,
    /// A list differs from what the client last saw; the client was told.
    ListChanged,
    /// A step of rebuilding was refused or took too long, and was skipped.
    Skipped,
    /// The server behind the upstream changed: version, revision or instructions.
    ServerChanged,
    /// Somebody asked for a relatch.
    Reconnect,
}

impl What {
    /// The stable word, as the journal prints it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            What::Attached => "attached",
            What::Left => "left",
            What::Lost => "lost",
            What::Suspected => "suspected",
            What::Cleared => "cleared",
            What::Relatched => "relatched",
            What::Away => "away",
            What::Back => "back",
            What::Resent => "resent",
            What::Held => "held",
            What::GivenBack => "given-back",
            What::DeliveryUnknown => "delivery-unknown",
            What::CredentialsRefused => "credentials-refused",
            What::ListChanged => "list-changed",
            What::Skipped => "skipped",
            What::ServerChanged => "server-changed",
            What::Reconnect => "reconnect",
        }
    }
}
