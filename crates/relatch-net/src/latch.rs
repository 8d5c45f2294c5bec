//! The shell's half of a latch: session ids, credentials, the outbox, lists last seen, server requests under way.
//!
//! All of it is kept for the core's effects to name; nothing here decides what is sent where.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderMap;
use relatch_core::record::{FORMAT, Record, SessionRecord, TellRecord};
use relatch_core::upstream::Snapshot;
use relatch_core::{AttemptId, ExId, Gen};
use relatch_wire::RequestId;
use relatch_wire::method::ListKind;

use crate::copies::Gathering;
use crate::downstream::stream::Streams;
use crate::lists::Lists;
use crate::outbox::Outbox;
use crate::upstream::place::Place;

/// What the shell keeps for one latch.
pub(crate) struct Latch {
    /// The downstream session id; empty on stdio.
    pub(crate) sid: Arc<str>,
    /// Milliseconds since the Unix epoch.
    pub(crate) opened: i64,
    /// The raw params of the client's `initialize`.
    pub(crate) initialize: String,
    /// The revision that the client was promised.
    pub(crate) promised: Option<String>,
    /// Upstream sessions that may still be written to.
    pub(crate) sessions: BTreeMap<Gen, Box<UpSession>>,
    /// What its client's requests carry.
    pub(crate) credentials: Credentials,
    /// The headers of the request that reads its standing stream, until they have proven good.
    pub(crate) reader: Option<Arc<HeaderMap>>,
    /// What waits for its standing stream.
    pub(crate) outbox: Arc<Outbox>,
    /// Answers that its client may come back to.
    pub(crate) streams: Arc<Streams>,
    /// Requests of the server's that the client has not answered, by the id under which the client knows them.
    pub(crate) pending: HashMap<RequestId, Pending>,
    /// A generation whose server requests were given out by a process before this one.
    pub(crate) inherited: Option<Gen>,
    /// Lists as the client last saw them, and as relatch is fetching them.
    pub(crate) lists: Lists,
    /// Lists that are to be kept as copies, page by page.
    pub(crate) gathering: Gathering,
    /// What its client was told of beside what the server offers; `None` when nothing was added.
    pub(crate) tell: Option<TellRecord>,
    /// Members of its record that this version does not know.
    pub(crate) unknown: BTreeMap<String, serde_json::Value>,
}

/// The headers of a client's request and its number, where there is one.
pub(crate) type Headers = Option<(u64, Arc<HeaderMap>)>;

/// One upstream session.
#[derive(Clone, Debug)]
pub(crate) struct UpSession {
    /// Its id, where the server gave one.
    pub(crate) id: Option<String>,
    /// The revision that it negotiated.
    pub(crate) revision: String,
    /// The server's name and version.
    pub(crate) server: Option<(String, String)>,
    /// The last event id of the standing stream.
    pub(crate) last_event: Option<String>,
    /// What a newer version has put into its record.
    pub(crate) unknown: BTreeMap<String, serde_json::Value>,
    /// Where it was opened, and is spoken to.
    pub(crate) place: Arc<Place>,
    /// It lives on a stream of the old transport, and its id is only a name for it here.
    pub(crate) streamed: bool,
}

/// A request of the server's on its way through the client.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// The attempt whose stream brought it.
    pub(crate) attempt: AttemptId,
    /// The exchange in whose stream it went on; none by the standing stream.
    pub(crate) ex: Option<ExId>,
    /// Its session.
    pub(crate) generation: Gen,
}

/// The headers of a client's requests, numbered in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    newest: Option<(u64, Arc<HeaderMap>)>,
    accepted: Option<(u64, Arc<HeaderMap>)>,
}

impl Latch {
    /// A latch that has nothing yet.
    pub(crate) fn new(sid: Arc<str>, opened: i64, initialize: String) -> Latch {
        Latch {
            sid,
            opened,
            initialize,
            promised: None,
            sessions: BTreeMap::new(),
            credentials: Credentials::default(),
            reader: None,
            outbox: Arc::default(),
            streams: Arc::default(),
            pending: HashMap::new(),
            inherited: None,
            lists: Lists::default(),
            gathering: Gathering::default(),
            tell: None,
            unknown: BTreeMap::new(),
        }
    }

    /// The latch of a record, whose session is at this place.
    pub(crate) fn of_record(record: &Record, place: &Arc<Place>) -> Latch {
        let mut latch = Latch::new(record.id.as_str().into(), record.opened, record.initialize.clone());
        latch.promised = Some(record.revision.clone());
        if let Some(session) = &record.session {
            let bound = Gen(record.generation);
            latch.inherited = Some(bound);
            latch.sessions.insert(
                bound,
                Box::new(UpSession {
                    id: session.id.clone(),
                    revision: session.revision.clone(),
                    server: session.server.clone(),
                    last_event: None,
                    unknown: session.unknown.clone(),
                    place: Arc::clone(place),
                    streamed: false,
                }),
            );
        }
        latch.lists = Lists::restored(&record.lists, &record.hints);
        latch.tell = record.tell.clone();
        latch.unknown = record.unknown.clone();
        latch
    }

    /// The record of this latch, whose upstream is at this place now; none while nothing was promised to its client.
    pub(crate) fn record(
        &self,
        upstream: &str,
        place: &Arc<Place>,
        now: i64,
        snapshot: Snapshot,
    ) -> Option<Record> {
        if self.sid.is_empty() {
            return None;
        }
        // The id of a session at a former address is not for the present one, which is all that a record knows.
        // One that lives on a stream ends with this keeper, and its name would mean nothing to a server.
        let here = |session: &&UpSession| Arc::ptr_eq(&session.place, place) && !session.streamed;
        let bound = snapshot
            .bound
            .and_then(|bound| Some((bound, self.sessions.get(&bound).map(Box::as_ref).filter(here)?)));
        Some(Record {
            format: FORMAT,
            id: self.sid.to_string(),
            upstream: upstream.to_owned(),
            url: place.url.clone(),
            opened: self.opened,
            last_used: now,
            initialize: self.initialize.clone(),
            revision: self.promised.clone()?,
            initialized: snapshot.initialized,
            // The restored generation is taken from here, so that a bound session keeps its number.
            generation: bound.map_or(snapshot.begun, |(bound, _)| bound.0),
            session: bound.map(|(_, session)| SessionRecord {
                id: session.id.clone(),
                revision: session.revision.clone(),
                server: session.server.clone(),
                unknown: session.unknown.clone(),
            }),
            level: snapshot.level,
            subscriptions: snapshot.subscriptions,
            lists: self.lists.to_record(),
            hints: self.lists.hints().clone(),
            tell: self.tell.clone(),
            unknown: self.unknown.clone(),
        })
    }

    /// The session of a server's request that the client answers, once; none for an id that was never given out.
    pub(crate) fn answered(&mut self, id: &RequestId) -> Option<Gen> {
        if let Some(pending) = self.pending.remove(id) {
            return Some(pending.generation);
        }
        let (generation, _) = relatch_wire::rewrite::split_server_request_id(id)?;
        (self.inherited == Some(Gen(generation))).then_some(Gen(generation))
    }

    /// Kinds of lists that the client knows.
    pub(crate) fn known_lists(&self) -> Vec<ListKind> {
        self.lists.known()
    }
}

impl Credentials {
    /// A request has arrived with these headers.
    pub(crate) fn seen(&mut self, number: u64, headers: &Arc<HeaderMap>) {
        if self.newest.as_ref().is_none_or(|(newest, _)| *newest < number) {
            self.newest = Some((number, Arc::clone(headers)));
        }
    }

    /// The upstream has answered a request that carried these headers with 2xx.
    pub(crate) fn accept(&mut self, number: u64, headers: &Arc<HeaderMap>) {
        if self.accepted.as_ref().is_none_or(|(accepted, _)| *accepted < number) {
            self.accepted = Some((number, Arc::clone(headers)));
        }
    }

    /// What relatch's own requests carry: the newest that were accepted, or before any were, the newest.
    pub(crate) fn own(&self) -> Option<(u64, Arc<HeaderMap>)> {
        self.accepted.clone().or_else(|| self.newest.clone())
    }

    /// Whether these headers carry the credentials that the upstream accepted last.
    pub(crate) fn trusts(&self, headers: &HeaderMap) -> bool {
        self.accepted.as_ref().is_some_and(|(_, accepted)| secrets(accepted) == secrets(headers))
    }
}

/// The headers that tell one user from another, in the order of their names.
fn secrets(headers: &HeaderMap) -> std::collections::BTreeSet<(&str, &[u8])> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| {
            ["auth", "cookie", "key", "token", "secret", "user", "account"]
                .iter()
                .any(|part| name.contains(part) && *name != "user-agent")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::dial::{Dialer, Target, Tls};
    use crate::upstream::http_sse::Streams;
    use crate::upstream::way::Way;
    use relatch_core::policy::Transport;

    #[test]
    fn what_a_newer_version_put_into_a_record_is_still_there_when_it_is_written_again() {
        let text = r#"{"format":1,"id":"s","upstream":"x","url":"u","opened":1,"last_used":2,"initialize":"{}",
            "revision":"2025-11-25","initialized":true,"generation":3,"level":null,"subscriptions":{},
            "session":{"id":"up","revision":"2025-11-25","server":["n","1"],"added":[1]},"added":{"x":null},
            "tell":{"tools":true,"prompts":false,"logging":false,"level":"error"}}"#;
        let record = Record::read(text).unwrap();
        let snapshot = Snapshot {
            bound: Some(Gen(3)),
            begun: 3,
            initialized: true,
            revision: record.revision.clone(),
            level: None,
            subscriptions: BTreeMap::new(),
            lists: Vec::new(),
            repeatable: Vec::new(),
        };
        let dialer = Dialer::new(Target::parse("http://127.0.0.1:9/").unwrap(), Tls::platform());
        let place =
            Place::new(Way::Url(dialer, Streams::new(Transport::Auto)), "u".to_owned(), HeaderMap::new());
        let again = Latch::of_record(&record, &place).record("x", &place, 2, snapshot).unwrap();
        assert_eq!(again, record);
    }

    #[test]
    fn a_record_of_an_upstream_that_has_moved_has_no_session_of_its_former_address() {
        let text = r#"{"format":1,"id":"s","upstream":"x","url":"u","opened":1,"last_used":2,"initialize":"{}",
            "revision":"2025-11-25","initialized":true,"generation":3,"level":null,"subscriptions":{},
            "session":{"id":"up","revision":"2025-11-25","server":null}}"#;
        let record = Record::read(text).unwrap();
        let snapshot = Snapshot {
            bound: Some(Gen(3)),
            begun: 4,
            initialized: true,
            revision: record.revision.clone(),
            level: None,
            subscriptions: BTreeMap::new(),
            lists: Vec::new(),
            repeatable: Vec::new(),
        };
        let place = |url: &str| {
            let dialer = Dialer::new(Target::parse("http://127.0.0.1:9/").unwrap(), Tls::platform());
            Place::new(Way::Url(dialer, Streams::new(Transport::Auto)), url.to_owned(), HeaderMap::new())
        };
        let latch = Latch::of_record(&record, &place("u"));
        let moved = latch.record("x", &place("v"), 2, snapshot).unwrap();
        assert_eq!((moved.url.as_str(), moved.session, moved.generation), ("v", None, 4));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> Arc<HeaderMap> {
        Arc::new(
            pairs
                .iter()
                .map(|(name, value)| {
                    (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
                })
                .collect(),
        )
    }

    #[test]
    fn own_requests_carry_the_newest_accepted_credentials() {
        let (old, new) = (headers(&[("authorization", "a")]), headers(&[("authorization", "b")]));
        let mut credentials = Credentials::default();
        credentials.seen(1, &old);
        assert_eq!(credentials.own().unwrap().1["authorization"], "a");
        credentials.accept(1, &old);
        credentials.seen(2, &new);
        assert_eq!(credentials.own().unwrap().1["authorization"], "a");
        credentials.accept(2, &new);
        credentials.accept(1, &old);
        assert_eq!(credentials.own().unwrap().1["authorization"], "b");
    }

    #[test]
    fn other_credentials_are_not_trusted_and_other_headers_do_not_matter() {
        let mut credentials = Credentials::default();
        let mine = headers(&[("authorization", "a"), ("user-agent", "x"), ("content-type", "json")]);
        assert!(!credentials.trusts(&mine));
        credentials.accept(1, &mine);
        assert!(credentials.trusts(&headers(&[("authorization", "a"), ("user-agent", "y")])));
        assert!(!credentials.trusts(&headers(&[("authorization", "b")])));
        assert!(!credentials.trusts(&headers(&[])));
    }
}
