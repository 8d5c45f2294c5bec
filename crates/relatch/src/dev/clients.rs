//! What the workshop asks of its keeper: that clients' calls wait, move, or go on. Decides nothing about calls.

use std::sync::Arc;
use std::time::Duration;

use relatch_net::announced::{COME_UP, Replacement};
use relatch_net::keeper::Keeper;

use crate::launch::{Place, ServerSpec};
use crate::render::Failure;

/// How often it is looked whether calls are over.
const LOOK: Duration = Duration::from_millis(10);
/// A server that clients have left gets so long for what ends their sessions.
const FAREWELL: Duration = Duration::from_millis(300);

/// The clients of the one server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clients {
    keeper: Arc<Keeper>,
    spec: Arc<ServerSpec>,
}

impl Clients {
    pub(crate) fn new(keeper: Arc<Keeper>, spec: ServerSpec) -> Clients {
        Clients { keeper, spec: Arc::new(spec) }
    }

    fn name(&self) -> &str {
        &self.spec.name
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.keeper.load(self.name()).map_or(0, |load| load.sessions)
    }

    /// Name and version of the server, as the newest session was told.
    pub(crate) fn server(&self) -> Option<String> {
        let seen = self.keeper.summary(self.name())?.server?;
        let said = format!("{} {}", seen.name.unwrap_or_default(), seen.version.unwrap_or_default());
        (!said.trim().is_empty()).then(|| said.trim().to_owned())
    }

    /// From now on the server is at this address; calls that run go on where they are.
    pub(crate) fn move_to(&self, url: &str) {
        let spec = ServerSpec { place: Place::Url(url.to_owned()), ..(*self.spec).clone() };
        match crate::keeper::server(&spec) {
            Ok(server) => drop(self.keeper.apply(vec![server])),
            // It was read before, with another port.
            Err(Failure { what, .. }) => tracing::error!("the server's address can't be used: {what}"),
        }
    }

    /// Waits until no call runs at a former address, or the time is over: how many do then.
    pub(crate) async fn left_behind(&self, within: Duration) -> usize {
        tokio::time::sleep(FAREWELL.min(within)).await;
        self.quiet(within, || self.keeper.left_behind(self.name())).await
    }

    /// Waits until no call runs at the server, or the time is over: how many do then.
    pub(crate) async fn drained(&self, within: Duration) -> usize {
        self.keeper.drained(self.name(), within).await.unwrap_or(0)
    }

    /// Waits until no call waits, or the time is over.
    pub(crate) async fn breathe(&self, within: Duration) {
        let waiting = || self.keeper.summary(self.name()).map_or(0, |report| report.waiting);
        self.quiet(within, waiting).await;
    }

    /// New calls wait, for so long at most.
    pub(crate) fn pause(&self, at_most: Duration) {
        let _running = self.keeper.pause(self.name(), at_most);
    }

    /// They go on.
    pub(crate) fn resume(&self) {
        let _waited = self.keeper.resume(self.name());
    }

    /// Each session gets a new process beside its old one, which goes on where the new one does not come up: how many have
    /// one, or why not all.
    pub(crate) async fn renew(&self) -> Result<usize, String> {
        let done = self.keeper.replace(self.name(), COME_UP).await.unwrap_or_default();
        match done {
            Replacement { pending: 0, stayed: 0, bound, .. } => Ok(bound),
            Replacement { cause: Some(cause), .. } => Err(cause),
            Replacement { cause: None, .. } => {
                Err(format!("it does not come up within {} s", COME_UP.as_secs()))
            }
        }
    }

    /// Processes that others have replaced end when their calls have, or the time is over: how many calls end with them.
    pub(crate) async fn part_from_old(&self, within: Duration) -> usize {
        self.keeper.part_from_old(self.name(), within).await.unwrap_or(0)
    }

    /// Ends the processes that run for them.
    pub(crate) async fn close(&self) {
        self.keeper.close().await;
    }

    async fn quiet(&self, within: Duration, count: impl Fn() -> usize) -> usize {
        let quiet = async {
            while count() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(within, quiet).await;
        count()
    }
}
