//! The seam between a running keeper and those who ask about it.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::announced::{Coming, PauseOutcome, Pausing, RestartOutcome, Restarting, ResumeOutcome};
use crate::history::ServerHistory;
use crate::journal::Journal;
use crate::reload::{Reloaded, Reloading};
use crate::schema::KeeperStatus;

/// A running relatch process that owns latches, as the control socket and the API see it.
///
/// Every method answers from memory and at once, and none waits for an upstream, but for [`Keeper::reload`], which reads
/// files, and [`Keeper::pause`] and [`Keeper::restart`], which wait for calls that run, for as long as they are told.
pub trait Keeper: Send + Sync + 'static {
    /// The truth about every upstream at this moment.
    fn status(&self) -> KeeperStatus;

    /// Asks for a relatch of every latch of `name`, or of all upstreams. An upstream that this keeper does not have
    /// yields no outcome.
    fn reconnect(&self, name: Option<&str>) -> Vec<ReconnectOutcome>;

    /// What the last day of `name`, or of each upstream, saw; of all that from `from` on.
    fn history(&self, name: Option<&str>, from: Option<Timestamp>) -> Vec<ServerHistory>;

    /// An address that opens its page, signed in, once and soon; `None` where there is no page.
    fn page(&self) -> Option<String> {
        None
    }

    /// Where it serves clients over HTTP; `None` where it does not.
    fn serving(&self) -> Option<Serving> {
        None
    }

    /// Reads its configuration again and applies what has changed. With `only`, a keeper that reads another file does
    /// nothing. This takes as long as reading files does, and waits for no upstream.
    fn reload(&self, only: Option<PathBuf>) -> Reloading {
        let _ = only;
        Box::pin(std::future::ready(Reloaded::default()))
    }

    /// Sends nothing new to `name`, or to any upstream, until it is resumed, and waits until no call runs there any more.
    fn pause(&self, name: Option<&str>, how: Pausing) -> Coming<PauseOutcome> {
        let _ = (name, how);
        Box::pin(std::future::ready(Vec::new()))
    }

    /// `name`, or every upstream, is back.
    fn resume(&self, name: Option<&str>) -> Vec<ResumeOutcome> {
        let _ = name;
        Vec::new()
    }

    /// Starts `name` anew, where it is a command.
    fn restart(&self, name: &str, how: Restarting) -> Coming<RestartOutcome> {
        let _ = (name, how);
        Box::pin(std::future::ready(Vec::new()))
    }

    /// What happened.
    fn journal(&self) -> Arc<Journal>;
}

/// Where a keeper serves clients over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Its address, without a path.
    pub base: String,
    /// The configuration file that it reads.
    pub config: Option<PathBuf>,
    /// The folder of its token and sessions.
    pub state_dir: PathBuf,
    /// Whether clients need the token.
    pub token: bool,
}

/// How many latches of one upstream were asked to relatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconnectOutcome {
    /// The upstream's configured name.
    pub name: String,
    /// Latches that were asked; zero when no client is attached.
    pub latches: usize,
}
