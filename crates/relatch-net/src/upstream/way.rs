//! The ways to a server: at an address, over sockets, by either transport of HTTP; or as a command, over its pipes.
//!
//! Only what differs between them; what is sent, and when, is the same for both and decided in the core.

use std::sync::Arc;

use relatch_core::policy::Transport;
use relatch_core::{Gen, LatchId};
use tokio::sync::Notify;

use super::command::Command;
use super::dial::{Dialer, Target, Tls};
use super::http_sse::Streams;
use super::pipe::Commands;

/// Where a server is.
#[derive(Clone, Debug)]
pub enum Address {
    /// At an address.
    Url(Target),
    /// In a process for each session, or for all, which relatch starts and ends.
    Command(Command),
}

/// How to get there.
#[derive(Debug)]
pub(crate) enum Way {
    /// Streamable HTTP needs no more than the dialer; the old transport has its streams.
    Url(Dialer, Streams),
    Command(Box<Commands>),
}

impl From<Target> for Address {
    fn from(target: Target) -> Address {
        Address::Url(target)
    }
}

impl From<Command> for Address {
    fn from(command: Command) -> Address {
        Address::Command(command)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Url(target) => target.fmt(f),
            Address::Command(command) => command.fmt(f),
        }
    }
}

impl Way {
    pub(crate) fn to(address: Address, transport: Transport, tls: &Tls) -> Way {
        match address {
            Address::Url(target) => Way::Url(Dialer::new(target, tls.clone()), Streams::new(transport)),
            Address::Command(command) => Way::Command(Box::new(Commands::new(command))),
        }
    }

    /// Whether this is where it leads, and how.
    pub(crate) fn leads_to(&self, address: &Address, transport: Transport) -> bool {
        match (self, address) {
            (Way::Url(dialer, streams), Address::Url(target)) => {
                dialer.target().is_at(target) && streams.transport() == transport
            }
            (Way::Command(commands), Address::Command(command)) => commands.command() == command,
            (Way::Url(..) | Way::Command(_), Address::Url(_) | Address::Command(_)) => false,
        }
    }

    /// From now on it leads there as `address` says. What of that is new, by the words of the configuration.
    pub(crate) fn follow(&self, address: &Address) -> Vec<&'static str> {
        match (self, address) {
            (Way::Url(dialer, _), Address::Url(target)) => {
                let changes = dialer.route().changes(target.route());
                if !changes.is_empty() {
                    dialer.reroute(target.route().clone());
                }
                changes
            }
            (Way::Url(..) | Way::Command(_), Address::Url(_) | Address::Command(_)) => Vec::new(),
        }
    }

    pub(crate) fn path_and_query(&self) -> &str {
        match self {
            Way::Url(dialer, _) => dialer.target().path_and_query(),
            Way::Command(_) => "/",
        }
    }

    /// Sockets, or processes, that are there.
    pub(crate) fn open(&self) -> usize {
        match self {
            Way::Url(dialer, _) => dialer.open_sockets(),
            Way::Command(commands) => commands.running(),
        }
    }

    /// What the process that is shown has said last on stderr.
    pub(crate) fn stderr(&self) -> Vec<String> {
        match self {
            Way::Url(..) => Vec::new(),
            Way::Command(commands) => commands.stderr(),
        }
    }

    /// Sockets that carry something.
    pub(crate) fn busy(&self) -> usize {
        match self {
            Way::Url(dialer, _) => dialer.busy_sockets(),
            Way::Command(_) => 0,
        }
    }

    pub(crate) fn close_idle(&self) {
        if let Way::Url(dialer, _) = self {
            dialer.close_idle();
        }
    }

    /// A session is over.
    pub(crate) fn forget(&self, latch: LatchId, generation: Gen) {
        match self {
            Way::Url(_, streams) => streams.forget(latch, generation),
            Way::Command(commands) => commands.forget(latch, generation),
        }
    }

    /// Whether this session lives on a stream of the old transport.
    pub(crate) fn streams(&self, latch: LatchId, generation: Gen) -> bool {
        match self {
            Way::Url(_, streams) => streams.has(latch, generation),
            Way::Command(_) => false,
        }
    }

    /// Has every process end, and waits for that.
    pub(crate) async fn close(&self) {
        if let Way::Command(commands) = self {
            commands.close().await;
        }
    }

    /// Rung when something that carried nothing has ended by itself: a connection, a stream, or a process.
    pub(crate) fn idle_closed(&self) -> Arc<Notify> {
        match self {
            Way::Url(dialer, _) => dialer.idle_closed(),
            Way::Command(commands) => Arc::clone(&commands.ended),
        }
    }
}
