//! Announced restarts, as a keeper carries them out: pausing, waiting until running calls are over, new sessions beside
//! old ones, and the end of processes.
//!
//! What waits and what is asked afterwards is the core's; which of these things follow each other is decided here, and
//! how long each may take by whoever asks.

use std::sync::Arc;
use std::time::Duration;

use relatch_core::At;
use relatch_core::input::Input;
pub use relatch_core::latch::Replacement;
use relatch_core::upstream::Machine;
use tokio::time::Instant;

use crate::driver::Upstream;
use crate::keeper::Keeper;
use crate::upstream::way::Way;

/// What is waited for is looked at this often at least.
const LOOK: Duration = Duration::from_millis(100);
/// A new process gets this long to come up, with whatever its sessions have to be told: twice the longest handshake.
pub const COME_UP: Duration = Duration::from_secs(40);
/// A pause for a restart of relatch's own making ends by itself so long after its drain.
const STOPPED_FOR: Duration = Duration::from_secs(30);

/// How a server that is a command is started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Running calls get this long to be answered by the old processes.
    pub drain: Duration,
    /// The old processes end before new ones are started, for servers that can't run twice at a time.
    pub stop_first: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarted {
    /// Sessions that have a new process.
    pub renewed: usize,
    /// Sessions whose old process goes on.
    pub stayed: usize,
    /// Sessions whose new process was not there in time.
    pub pending: usize,
    /// Calls that ran in old processes when their time was over, and ended with them.
    pub cut: usize,
    /// Why not every session has a new process.
    pub cause: Option<String>,
}

/// Why a server is not started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRestart {
    /// There is no upstream of this name.
    #[error("there is no server of this name")]
    Unknown,
    /// It is not relatch that runs it.
    #[error("relatch does not run it")]
    NoCommand,
    /// Somebody else has announced a restart.
    #[error("it is paused")]
    Paused,
}

impl Keeper {
    /// Sends nothing new to an upstream until [`Keeper::resume`], or for so long. Returns how many calls run, or none where
    /// there is no such upstream.
    pub fn pause(&self, name: &str, at_most: Duration) -> Option<usize> {
        let upstream = self.served(name)?;
        upstream.fact(Input::Paused { ms: u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX) });
        Some(upstream.machine(|machine| machine.in_flight()))
    }

    /// The upstream is back: its sessions are asked, and what waits goes out. Since when it was paused, where it was, and
    /// how many calls wait.
    pub fn resume(&self, name: &str) -> Option<(Option<At>, usize)> {
        let upstream = self.served(name)?;
        let (since, waiting) = upstream
            .machine(|machine| (machine.pause().map(|pause| pause.since), machine.summary(At(0)).waiting));
        upstream.fact(Input::Resumed);
        Some((since, waiting))
    }

    /// Waits until no call of a client runs at an upstream. How many do when the time is over.
    pub async fn drained(&self, name: &str, within: Duration) -> Option<usize> {
        let upstream = self.served(name)?;
        Some(upstream.falls_to_zero(within, |machine| machine.in_flight()).await)
    }

    /// Opens a new session beside each one that lives, to take its place; where that fails, the old one goes on. What has
    /// come of it when all is decided, or the time is over. Running calls go on in the old sessions.
    pub async fn replace(&self, name: &str, within: Duration) -> Option<Replacement> {
        let upstream = self.served(name)?;
        upstream.fact(Input::Replace);
        upstream.falls_to_zero(within, |machine| machine.replacement().pending).await;
        Some(upstream.machine(|machine| machine.replacement()))
    }

    /// Waits until no call runs in sessions that others have replaced; then, or when the time is over, processes of such
    /// sessions end. How many calls end with them.
    pub async fn part_from_old(&self, name: &str, drain: Duration) -> Option<usize> {
        let upstream = self.served(name)?;
        let cut = upstream.falls_to_zero(drain, |machine| machine.in_flight_of_older()).await;
        if let Way::Command(commands) = &upstream.place().way {
            commands.end_some(|(latch, generation)| {
                upstream.machine(|machine| machine.in_use(latch)).is_some_and(|newest| generation < newest)
            });
        }
        Some(cut)
    }

    /// Starts a server that is a command anew.
    ///
    /// # Errors
    /// [`NoRestart`] says why it was not.
    pub async fn restart(&self, name: &str, how: Restart) -> Result<Restarted, NoRestart> {
        let upstream = self.served(name).ok_or(NoRestart::Unknown)?;
        if !matches!(upstream.place().way, Way::Command(_)) {
            return Err(NoRestart::NoCommand);
        }
        if upstream.machine(|machine| machine.pause()).is_some() {
            return Err(NoRestart::Paused);
        }
        if how.stop_first {
            return Ok(self.stopped_and_started(&upstream, how.drain).await);
        }
        let Replacement { pending, bound, stayed, cause } =
            self.replace(name, COME_UP).await.ok_or(NoRestart::Unknown)?;
        let cut = self.part_from_old(name, how.drain).await.unwrap_or(0);
        Ok(Restarted { renewed: bound, stayed, pending, cut, cause })
    }

    /// The old processes end, and new ones are started for whoever needs them.
    async fn stopped_and_started(&self, upstream: &Arc<Upstream>, drain: Duration) -> Restarted {
        let name = Arc::clone(&upstream.name);
        self.pause(&name, drain + STOPPED_FOR);
        let cut = self.drained(&name, drain).await.unwrap_or(0);
        if let Way::Command(commands) = &upstream.place().way {
            commands.end_some(|_| true);
            commands.ended_all().await;
        }
        upstream.fact(Input::Resumed);
        // What was known of the old processes says nothing of the new ones.
        let resumed = At(upstream.clock().now_ms());
        let sessions = upstream.machine(|machine| machine.unsettled());
        let failed = |machine: &Machine| machine.away_since(resumed).map(str::to_owned);
        let pending = upstream
            .falls_to_zero(COME_UP, |machine| if failed(machine).is_some() { 0 } else { machine.unsettled() })
            .await;
        let (pending, cause) = match upstream.machine(failed) {
            Some(cause) => (upstream.machine(Machine::unsettled), Some(cause)),
            None => (pending, None),
        };
        Restarted { renewed: sessions.saturating_sub(pending), stayed: 0, pending, cut, cause }
    }

    /// An upstream that is served and not about to go.
    fn served(&self, name: &str) -> Option<Arc<Upstream>> {
        self.upstream(name).filter(|upstream| !upstream.is_leaving())
    }
}

impl Upstream {
    /// Waits until this is zero, for so long. What it is then.
    async fn falls_to_zero(&self, within: Duration, count: impl Fn(&Machine) -> usize) -> usize {
        let end = Instant::now() + within;
        loop {
            let quieter = self.quieter.notified();
            tokio::pin!(quieter);
            // Whatever happens from here on rings.
            quieter.as_mut().enable();
            let left = self.machine(&count);
            let rest = end.saturating_duration_since(Instant::now());
            if left == 0 || rest.is_zero() {
                return left;
            }
            let _ = tokio::time::timeout(LOOK.min(rest), quieter).await;
        }
    }
}
