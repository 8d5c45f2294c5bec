//! The model client: what one holds in its memory, and what it may do next.

use std::collections::{BTreeMap, BTreeSet};

use relatch_wire::method::{self, ListKind, RetryClass};

use crate::chance::Chance;

/// What one client knows.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// It has its answer to `initialize` and has said so.
    pub(crate) greeted: bool,
    /// Raw params of its last successful `logging/setLevel`.
    pub(crate) level: Option<String>,
    pub(crate) subscriptions: BTreeSet<String>,
    /// Which version of a list it has seen, which is on its way to it, and which it was last told of.
    pub(crate) seen: BTreeMap<ListKind, u64>,
    pub(crate) coming: BTreeMap<ListKind, u64>,
    pub(crate) told: BTreeMap<ListKind, u64>,
    /// Lists that relatch could not read.
    pub(crate) garbled: BTreeSet<ListKind>,
    /// As whom it comes to the server.
    pub(crate) credentials: u64,
}

/// What the shell has kept of the server's answers to clients of the same credentials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    /// The server's version and revision, as it said them to `initialize`.
    pub(crate) hello: Option<(u64, &'static str)>,
    /// Which version of a list it has given out.
    pub(crate) lists: BTreeMap<ListKind, u64>,
}

/// What a request does to the session of the client that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Nothing,
    Level(String),
    Subscribe(String),
    Unsubscribe(String),
    List(ListKind),
}

/// A request that a client can make.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) method: &'static str,
    pub(crate) tool: Option<&'static str>,
    pub(crate) class: RetryClass,
    pub(crate) does: Does,
}

impl Wish {
    /// `initialize`.
    pub(crate) fn initialize() -> Wish {
        Wish { method: method::INITIALIZE, tool: None, class: RetryClass::Always, does: Does::Nothing }
    }

    /// A call of a tool: one that may not repeat, one that is annotated, two that the configuration names.
    pub(crate) fn call(chance: &mut Chance) -> Wish {
        let (tool, class) = match chance.below(10) {
            0..6 => ("send", RetryClass::IfNotDelivered),
            6..8 => ("look", RetryClass::Always),
            8 => ("once_only", RetryClass::Never),
            _ => ("again", RetryClass::Always),
        };
        Wish { method: method::TOOLS_CALL, tool: Some(tool), class, does: Does::Nothing }
    }

    /// The call that must never run twice.
    pub(crate) fn send() -> Wish {
        let class = RetryClass::IfNotDelivered;
        Wish { method: method::TOOLS_CALL, tool: Some("send"), class, does: Does::Nothing }
    }

    /// A plain read.
    pub(crate) fn read() -> Wish {
        let class = RetryClass::Always;
        Wish { method: method::RESOURCES_READ, tool: None, class, does: Does::Nothing }
    }

    /// Anything that is no call.
    pub(crate) fn other(chance: &mut Chance) -> Wish {
        let uri = |chance: &mut Chance| chance.one_of(&["file:///a", "file:///b", "file:///c"]).to_owned();
        let (method, does) = match chance.below(7) {
            0 => (method::TOOLS_LIST, Does::List(ListKind::Tools)),
            1 => (method::PROMPTS_LIST, Does::List(ListKind::Prompts)),
            2 => (method::SET_LEVEL, Does::Level(chance.one_of(&["debug", "error"]).to_owned())),
            3 => (method::RESOURCES_SUBSCRIBE, Does::Subscribe(uri(chance))),
            4 => (method::RESOURCES_UNSUBSCRIBE, Does::Unsubscribe(uri(chance))),
            _ => return Wish::read(),
        };
        Wish { method, tool: None, class: RetryClass::Always, does }
    }

    /// What a person calls it.
    pub(crate) fn title(&self) -> &'static str {
        self.tool.unwrap_or(self.method)
    }
}
