//! The sections of the specification that findings rest on.

use serde::Serialize;

/// One section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Spec {
    pub(crate) revision: &'static str,
    pub(crate) section: &'static str,
    /// The page below `modelcontextprotocol.io/specification/REVISION/`.
    #[serde(skip)]
    page: &'static str,
}

impl Spec {
    const fn at(section: &'static str, page: &'static str) -> Spec {
        Spec { revision: "2025-11-25", section, page }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://modelcontextprotocol.io/specification/{}/{}", self.revision, self.page)
    }
}

pub(crate) const SESSIONS: Spec = Spec::at("Session Management", "basic/transports#session-management");
pub(crate) const SECURITY: Spec = Spec::at("Security Warning", "basic/transports#security-warning");
pub(crate) const SENDING: Spec =
    Spec::at("Sending Messages to the Server", "basic/transports#sending-messages-to-the-server");
pub(crate) const LISTENING: Spec = Spec::at(
    "Listening for Messages from the Server",
    "basic/transports#listening-for-messages-from-the-server",
);
pub(crate) const RESUMABILITY: Spec =
    Spec::at("Resumability and Redelivery", "basic/transports#resumability-and-redelivery");
pub(crate) const VERSION_HEADER: Spec =
    Spec::at("Protocol Version Header", "basic/transports#protocol-version-header");
pub(crate) const COMPATIBILITY: Spec =
    Spec::at("Backwards Compatibility", "basic/transports#backwards-compatibility");
pub(crate) const NEGOTIATION: Spec = Spec::at("Version Negotiation", "basic/lifecycle#version-negotiation");
pub(crate) const INITIALIZATION: Spec = Spec::at("Initialization", "basic/lifecycle#initialization");
pub(crate) const PING: Spec = Spec::at("Ping", "basic/utilities/ping");
pub(crate) const MESSAGES: Spec = Spec::at("Messages", "basic#messages");
pub(crate) const AUTHORIZATION: Spec = Spec::at("Authorization", "basic/authorization");
pub(crate) const DISCOVER: Spec =
    Spec { revision: "2026-07-28", section: "server/discover", page: "server/discover" };
