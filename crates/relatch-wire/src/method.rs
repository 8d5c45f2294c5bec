//! The one table of methods: which revisions know them, who sends them, and whether they may be sent again.
//!
//! The class given here is that of the method alone; annotations of a tool and the user's configuration are applied by
//! the core.

use crate::era::Revision;

/// Opens a session.
pub const INITIALIZE: &str = "initialize";
/// Ends the handshake.
pub const INITIALIZED: &str = "notifications/initialized";
/// Asks whether the peer is there.
pub const PING: &str = "ping";
/// The modern era's first question.
pub const DISCOVER: &str = "server/discover";
/// Runs a tool.
pub const TOOLS_CALL: &str = "tools/call";
/// Lists tools.
pub const TOOLS_LIST: &str = "tools/list";
/// Lists prompts.
pub const PROMPTS_LIST: &str = "prompts/list";
/// Fetches a prompt.
pub const PROMPTS_GET: &str = "prompts/get";
/// Lists resources.
pub const RESOURCES_LIST: &str = "resources/list";
/// Lists templates of resources.
pub const RESOURCE_TEMPLATES_LIST: &str = "resources/templates/list";
/// Reads a resource.
pub const RESOURCES_READ: &str = "resources/read";
/// Asks to be told when a resource changes.
pub const RESOURCES_SUBSCRIBE: &str = "resources/subscribe";
/// Takes that back.
pub const RESOURCES_UNSUBSCRIBE: &str = "resources/unsubscribe";
/// Sets what is logged to the client.
pub const SET_LEVEL: &str = "logging/setLevel";
/// Completes an argument.
pub const COMPLETE: &str = "completion/complete";
/// Cancels a request.
pub const CANCELLED: &str = "notifications/cancelled";
/// Tells how far a request has come.
pub const PROGRESS: &str = "notifications/progress";
/// A line of the server's log.
pub const LOG_MESSAGE: &str = "notifications/message";
/// The tools have changed.
pub const TOOLS_CHANGED: &str = "notifications/tools/list_changed";
/// The prompts have changed.
pub const PROMPTS_CHANGED: &str = "notifications/prompts/list_changed";
/// The resources or their templates have changed.
pub const RESOURCES_CHANGED: &str = "notifications/resources/list_changed";
/// A resource has changed.
pub const RESOURCE_UPDATED: &str = "notifications/resources/updated";
/// The client's roots have changed.
pub const ROOTS_CHANGED: &str = "notifications/roots/list_changed";
/// Asks the client for its roots.
pub const ROOTS_LIST: &str = "roots/list";
/// Asks the client's model.
pub const SAMPLING: &str = "sampling/createMessage";
/// Asks the client's user.
pub const ELICITATION: &str = "elicitation/create";
/// Holds a stream of notifications (2026-07-28).
pub const LISTEN: &str = "subscriptions/listen";

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryClass {
    /// It may run twice without harm: a read, or a setting.
    Always,
    /// Only when it is certain that the first sending never ran.
    IfNotDelivered,
    /// Not even then; by configuration only.
    Never,
}

/// Who sends a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
    /// Both.
    Either,
}

/// One method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodRow {
    /// Its name on the wire.
    pub name: &'static str,
    /// Who sends it.
    pub sender: Sender,
    /// The first revision that has it.
    pub since: Revision,
    /// The last revision that has it; none if the newest one does.
    pub until: Option<Revision>,
    /// Whether it may be sent again.
    pub class: RetryClass,
}

/// Every method of every revision that is known here.
pub const METHODS: &[MethodRow] = {
    use RetryClass::{Always, IfNotDelivered};
    use Revision::{V2024_11_05 as R2411, V2025_06_18 as R2506, V2025_11_25 as R2511, V2026_07_28 as R2607};
    use Sender::{Client, Either, Server};
    const LEGACY: Option<Revision> = Some(R2511);
    &[
        row(INITIALIZE, Client, R2411, LEGACY, Always),
        row(INITIALIZED, Client, R2411, LEGACY, Always),
        row(PING, Either, R2411, LEGACY, Always),
        row(DISCOVER, Client, R2607, None, Always),
        row(TOOLS_CALL, Client, R2411, None, IfNotDelivered),
        row(TOOLS_LIST, Client, R2411, None, Always),
        row(PROMPTS_LIST, Client, R2411, None, Always),
        row(PROMPTS_GET, Client, R2411, None, Always),
        row(RESOURCES_LIST, Client, R2411, None, Always),
        row(RESOURCE_TEMPLATES_LIST, Client, R2411, None, Always),
        row(RESOURCES_READ, Client, R2411, None, Always),
        row(RESOURCES_SUBSCRIBE, Client, R2411, LEGACY, Always),
        row(RESOURCES_UNSUBSCRIBE, Client, R2411, LEGACY, Always),
        row(SET_LEVEL, Client, R2411, LEGACY, Always),
        row(COMPLETE, Client, R2411, None, Always),
        row(LISTEN, Client, R2607, None, Always),
        row("tasks/get", Either, R2511, None, Always),
        row("tasks/result", Either, R2511, LEGACY, Always),
        row("tasks/list", Either, R2511, LEGACY, Always),
        row("tasks/cancel", Either, R2511, None, Always),
        row("tasks/update", Client, R2607, None, Always),
        row(ROOTS_LIST, Server, R2411, LEGACY, Always),
        row(SAMPLING, Server, R2411, LEGACY, IfNotDelivered),
        row(ELICITATION, Server, R2506, LEGACY, IfNotDelivered),
        row(CANCELLED, Either, R2411, None, Always),
        row(PROGRESS, Either, R2411, None, Always),
        row(LOG_MESSAGE, Server, R2411, None, Always),
        row(TOOLS_CHANGED, Server, R2411, None, Always),
        row(PROMPTS_CHANGED, Server, R2411, None, Always),
        row(RESOURCES_CHANGED, Server, R2411, None, Always),
        row(RESOURCE_UPDATED, Server, R2411, None, Always),
        row(ROOTS_CHANGED, Client, R2411, LEGACY, Always),
        row("notifications/tasks/status", Either, R2511, LEGACY, Always),
        row("notifications/elicitation/complete", Server, R2511, LEGACY, Always),
        row("notifications/subscriptions/acknowledged", Server, R2607, None, Always),
    ]
};

/// The row of a method, if it is known.
pub fn row_of(method: &str) -> Option<&'static MethodRow> {
    METHODS.iter().find(|row| row.name == method)
}

/// The name that these bytes spell, if it is a known one's.
pub(crate) fn known(name: &[u8]) -> Option<&'static str> {
    METHODS.iter().map(|row| row.name).find(|known| known.as_bytes() == name)
}

/// Whether a request with this method may be sent again. Unknown methods may do anything, so they are not repeated.
pub fn retry_class(method: &str) -> RetryClass {
    row_of(method).map_or(RetryClass::IfNotDelivered, |row| row.class)
}

/// The lists that a client keeps a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListKind {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    ResourceTemplates,
}

impl ListKind {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Tools, Self::Prompts, Self::Resources, Self::ResourceTemplates];

    /// The kind that this method lists.
    pub fn from_method(method: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.method() == method)
    }

    /// The method that lists it.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tools => TOOLS_LIST,
            Self::Prompts => PROMPTS_LIST,
            Self::Resources => RESOURCES_LIST,
            Self::ResourceTemplates => RESOURCE_TEMPLATES_LIST,
        }
    }

    /// The member of a result that holds the items.
    pub const fn items_member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
        }
    }

    /// The member of an item that tells it from the others.
    pub const fn key_member(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
        }
    }

    /// The notification that says it has changed; templates have none of their own.
    pub const fn changed_notification(self) -> &'static str {
        match self {
            Self::Tools => TOOLS_CHANGED,
            Self::Prompts => PROMPTS_CHANGED,
            Self::Resources | Self::ResourceTemplates => RESOURCES_CHANGED,
        }
    }
}

const fn row(
    name: &'static str,
    sender: Sender,
    since: Revision,
    until: Option<Revision>,
    class: RetryClass,
) -> MethodRow {
    MethodRow { name, sender, since, until, class }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_what_is_unknown_are_sent_again_only_if_not_delivered() {
        for method in [TOOLS_CALL, "x/y", "tools/List", "", SAMPLING, ELICITATION] {
            assert_eq!(retry_class(method), RetryClass::IfNotDelivered, "{method}");
        }
        for method in
            [INITIALIZE, PING, TOOLS_LIST, RESOURCES_READ, PROMPTS_GET, SET_LEVEL, COMPLETE, DISCOVER]
        {
            assert_eq!(retry_class(method), RetryClass::Always, "{method}");
        }
    }

    #[test]
    fn each_method_stands_in_the_table_once() {
        for (n, row) in METHODS.iter().enumerate() {
            assert!(METHODS.iter().skip(n + 1).all(|other| other.name != row.name), "{}", row.name);
            assert!(row.until.is_none_or(|until| until >= row.since), "{}", row.name);
        }
    }

    #[test]
    fn lists_know_their_methods() {
        for kind in ListKind::ALL {
            assert_eq!(ListKind::from_method(kind.method()), Some(*kind));
            assert!(row_of(kind.changed_notification()).is_some());
        }
        assert_eq!(ListKind::from_method(ROOTS_LIST), None);
        assert_eq!(ListKind::ResourceTemplates.changed_notification(), RESOURCES_CHANGED);
    }
}
