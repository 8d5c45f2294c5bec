//! What the shell keeps of the server's answers for clients that come before it, and how it looks for it.

use relatch_core::ExId;
use relatch_core::health::ServerSeen;
use relatch_core::input::{CopySeen, Input, SessionFacts};

use super::World;
use crate::client::Does;
use crate::reference::Asker;

impl World {
    /// An answer goes to a client: the shell keeps a copy, under the credentials of the request.
    pub(super) fn keeps(&mut self, ex: ExId) {
        let Some(request) = self.reference.requests.get(&ex) else { return };
        let Some(client) = self.clients.get(&request.latch) else { return };
        let copy = self.copies.entry(client.credentials).or_default();
        if request.opens {
            copy.hello = Some((self.service.epoch, self.service.revision));
        } else if let Does::List(kind) = &request.does
            && let Some(version) = client.coming.get(kind)
        {
            copy.lists.insert(*kind, *version);
        }
    }

    /// The shell has looked.
    pub(super) fn found(&mut self, ex: ExId) {
        let copy = self.look_for(ex);
        self.reference.at(self.now);
        if copy.is_some() {
            self.reference.copy_found(ex);
        }
        self.fact(Input::Copy { ex, copy });
    }

    fn look_for(&mut self, ex: ExId) -> Option<CopySeen> {
        let request = self.reference.requests.get(&ex).filter(|r| r.end.is_none())?;
        let copy = self.copies.get(&self.clients.get(&request.latch)?.credentials)?;
        let seen = |session| CopySeen { made: 1, date: "then".to_owned(), session };
        if request.opens {
            let (epoch, revision) = copy.hello?;
            let server = ServerSeen {
                name: Some("files".to_owned()),
                version: Some(epoch.to_string()),
                protocol: revision.to_owned(),
                era: "legacy",
            };
            let offers = std::collections::BTreeSet::from(["tools"]);
            return Some(seen(Some(SessionFacts { has_id: true, server, digest: 1, offers })));
        }
        match &request.does {
            Does::List(kind) => copy.lists.get(kind).map(|_| seen(None)),
            // A shell that keeps too much: the machine is not to ask for it.
            Does::Nothing | Does::Level(_) | Does::Subscribe(_) | Does::Unsubscribe(_) => Some(seen(None)),
        }
    }

    /// A client has been answered from a copy.
    pub(super) fn copied(&mut self, ex: ExId) {
        self.counts.copied += 1;
        let Some(request) = self.reference.requests.get(&ex) else { return };
        let Some(client) = self.clients.get_mut(&request.latch) else { return };
        if let Does::List(kind) = &request.does
            && request.asker == Asker::Waits
            && let Some(version) = self.copies.get(&client.credentials).and_then(|c| c.lists.get(kind))
        {
            client.seen.insert(*kind, *version);
        }
    }
}
