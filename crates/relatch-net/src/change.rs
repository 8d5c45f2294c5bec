//! A keeper's upstreams become other ones while it is at work: added, taken out, changed.
//!
//! Nothing that goes on is disturbed: an upstream that stays as it is hears nothing of it, a changed one keeps its
//! sessions, and one that is taken out has a while for its running calls. What a change means for sessions is the core's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use relatch_core::input::Input;
use relatch_core::journal::{Entry, What};

use crate::driver::Upstream;
use crate::keeper::{Keeper, ServerConfig};
use crate::upstream::place::Place;
use crate::upstream::way::Way;
use crate::words::Drain;

/// Running calls of an upstream that is taken out get this long to be answered.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// Whether they are is looked at this often at least.
const LOOK: Duration = Duration::from_millis(250);

/// What has changed about a keeper's upstreams, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are not served any more.
    pub removed: Vec<String>,
    /// Those that go on with other settings, and which these are.
    pub changed: Vec<(String, Vec<String>)>,
}

impl Keeper {
    /// From now on these are the upstreams. Their names are unique.
    pub fn apply(self: &Arc<Self>, servers: Vec<ServerConfig>) -> Applied {
        let mut applied = Applied::default();
        let wanted: BTreeSet<String> = servers.iter().map(|server| server.policy.name.clone()).collect();
        for name in self.names() {
            if !wanted.contains(&*name) {
                self.take_out(&name);
                applied.removed.push(name.to_string());
            }
        }
        for server in servers {
            let name = server.policy.name.clone();
            match self.upstream(&name).filter(|upstream| !upstream.is_leaving()) {
                Some(upstream) => {
                    let changes = upstream.change(server, self);
                    if !changes.is_empty() {
                        applied.changed.push((name, changes));
                    }
                }
                None => {
                    let url = server.policy.url.clone();
                    self.put_in(server);
                    self.tell(&name, What::Added, &url);
                    applied.added.push(name);
                }
            }
        }
        // Views look again.
        self.common.turned.send_modify(|turns| *turns += 1);
        applied
    }

    /// Notes in the journal what concerns this upstream and not one of its sessions.
    pub fn tell(&self, upstream: &str, what: What, detail: &str) {
        let entry = Entry { detail: Some(detail.to_owned()), ..Entry::new(what) };
        (self.common.journal)(upstream, Timestamp::now(), entry);
    }

    /// Takes nothing new from now on; when its running calls are over, or have had their time, its sessions end.
    fn take_out(self: &Arc<Self>, name: &str) {
        let Some(upstream) = self.upstream(name) else { return };
        upstream.leaves();
        let sessions = upstream.sids().len();
        let words = match sessions {
            0 => "it had no session".to_owned(),
            1 => "its session ends".to_owned(),
            sessions => format!("its {sessions} sessions end"),
        };
        self.tell(name, What::Removed, &format!("taken out of the configuration: {words}"));
        // What was not sent need not wait for the end.
        upstream.drain(false, Drain::Removed);
        let keeper = Arc::downgrade(self);
        tokio::spawn(async move {
            let quiet = async {
                while upstream.desk(|desk| !desk.exchanges.is_empty()) {
                    let _ = tokio::time::timeout(LOOK, upstream.quieter.notified()).await;
                }
            };
            let _ = tokio::time::timeout(LEAVE_WITHIN, quiet).await;
            upstream.drain(true, Drain::Removed);
            for (latch, _) in upstream.sids() {
                upstream.end(latch);
            }
            if let Some(keeper) = keeper.upgrade() {
                keeper.forget(&upstream);
            }
        });
    }
}

impl Upstream {
    /// Goes on with these settings. Which of them are other ones.
    fn change(self: &Arc<Self>, server: ServerConfig, keeper: &Keeper) -> Vec<String> {
        let ServerConfig { mut policy, headers, address } = server;
        policy.copies &= self.common.copies.keeps();
        let place = self.place();
        let moved = !place.way.leads_to(&address, policy.transport);
        let other_headers = *place.headers() != headers;
        let mut changes = self.policy().changes(&policy, moved, other_headers);
        let rerouted = if moved { Vec::new() } else { place.way.follow(&address) };
        // The next connection goes the new way, whatever waits for one.
        if !rerouted.is_empty() {
            keeper.tell(&self.name, What::Configured, &rerouted.join(", "));
        }
        if changes.is_empty() {
            return rerouted.into_iter().map(str::to_owned).collect();
        }
        self.fact_after(
            |_| {
                if moved {
                    let way = Way::to(address, policy.transport, &keeper.tls());
                    self.moves_to(Place::new(way, policy.url.clone(), headers));
                } else {
                    place.send_headers(headers);
                }
                self.tells_from_now_on(policy.tell);
                self.copies_from_now_on(policy.copies);
                true
            },
            Input::Configured { policy: &policy, moved, headers: other_headers },
        );
        changes.extend(rerouted.into_iter().map(str::to_owned));
        changes
    }
}
