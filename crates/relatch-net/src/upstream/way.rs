//! The two ways to a server: by an address, over sockets, or as a command, over its pipes.
//!
//! Only what differs between them; what is sent, and when, is the same for both and decided in the core.

use std::sync::Arc;

use relatch_core::{Gen, LatchId};
use tokio::sync::Notify;

use super::command::Command;
use super::dial::{Dialer, Target, Tls};
use super::pipe::Commands;

/// Where a server is.
#[derive(Clone, Debug)]
pub enum Place {
    /// At an address.
    Url(Target),
    /// In a process for each session, which relatch starts and ends.
    Command(Command),
}

/// How to get there.
#[derive(Debug)]
pub(crate) enum Way {
    Url(Dialer),
    Command(Commands),
}

impl From<Target> for Place {
    fn from(target: Target) -> Place {
        Place::Url(target)
    }
}

impl From<Command> for Place {
    fn from(command: Command) -> Place {
        Place::Command(command)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Url(target) => target.fmt(f),
            Place::Command(command) => command.fmt(f),
        }
    }
}

impl Way {
    pub(crate) fn to(place: Place, tls: &Tls) -> Way {
        match place {
            Place::Url(target) => Way::Url(Dialer::new(target, tls.clone())),
            Place::Command(command) => Way::Command(Commands::new(command)),
        }
    }

    /// Where it leads, as it may be shown.
    pub(crate) fn shown(&self) -> String {
        match self {
            Way::Url(dialer) => dialer.target().to_string(),
            Way::Command(commands) => commands.command().to_string(),
        }
    }

    pub(crate) fn path_and_query(&self) -> &str {
        match self {
            Way::Url(dialer) => dialer.target().path_and_query(),
            Way::Command(_) => "/",
        }
    }

    /// Sockets, or processes, that are there.
    pub(crate) fn open(&self) -> usize {
        match self {
            Way::Url(dialer) => dialer.open_sockets(),
            Way::Command(commands) => commands.running(),
        }
    }

    /// Sockets that carry something.
    pub(crate) fn busy(&self) -> usize {
        match self {
            Way::Url(dialer) => dialer.busy_sockets(),
            Way::Command(_) => 0,
        }
    }

    pub(crate) fn close_idle(&self) {
        if let Way::Url(dialer) = self {
            dialer.close_idle();
        }
    }

    /// A session is over.
    pub(crate) fn forget(&self, latch: LatchId, generation: Gen) {
        if let Way::Command(commands) = self {
            commands.forget(latch, generation);
        }
    }

    /// Has every process end, and waits for that.
    pub(crate) async fn close(&self) {
        if let Way::Command(commands) = self {
            commands.close().await;
        }
    }

    /// Rung when something that carried nothing has ended by itself: a connection, or a process.
    pub(crate) fn idle_closed(&self) -> Arc<Notify> {
        match self {
            Way::Url(dialer) => dialer.idle_closed(),
            Way::Command(commands) => Arc::clone(&commands.ended),
        }
    }
}
