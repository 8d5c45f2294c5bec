//! The shell's half of a latch: session ids, credentials, the outbox, lists last seen, server requests under way.
//!
//! All of it is kept for the core's effects to name; nothing here decides what is sent where.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderMap;
use relatch_core::record::{FORMAT, Record, SessionRecord, TellRecord};
use relatch_core::shared::Shared;
use relatch_core::upstream::Snapshot;
use relatch_core::{AttemptId, ExId, Gen};
use relatch_store::copies::Pages;
use relatch_wire::RequestId;
use relatch_wire::method::ListKind;

use crate::copies::{Gathering, Page};
use crate::downstream::streams::Streams;
use crate::lists::{Listing, Lists};
use crate::outbox::Outbox;
use crate::upstream::place::Place;

/// Params of `initialize` that are longer are not looked for among those of other clients.
const ALIKE: usize = 16 * 1024;

/// What the shell keeps for one latch. There may be ten thousand: what most of them lack is boxed or not there, and what
/// they have alike is one of [`Alike`].
pub(crate) struct Latch {
    /// The downstream session id; empty on stdio.
    pub(crate) sid: Arc<str>,
    /// Milliseconds since the Unix epoch.
    pub(crate) opened: i64,
    /// The raw params of the client's `initialize`.
    pub(crate) initialize: Arc<str>,
    /// The revision that the client was promised.
    pub(crate) promised: Option<Arc<str>>,
    /// Upstream sessions that may still be written to.
    pub(crate) sessions: UpSessions,
    /// What its client's requests carry.
    pub(crate) credentials: Credentials,
    /// The headers of the request that reads its standing stream, until they have proven good.
    pub(crate) reader: Option<Arc<HeaderMap>>,
    /// What waits for its standing stream, from the first message or reader on.
    outbox: Option<Arc<Outbox>>,
    /// Answers that its client may come back to, from the first on.
    streams: Option<Arc<Streams>>,
    /// Requests of the server's that the client has not answered, by the id under which the client knows them.
    pending: Option<Box<Questions>>,
    /// A generation whose server requests were given out by a process before this one.
    pub(crate) inherited: Option<Gen>,
    /// Lists as the client last saw them, and as relatch is fetching them.
    pub(crate) lists: Lists,
    /// Lists that are to be kept as copies, page by page.
    gathering: Option<Box<Gathering>>,
    /// What its client was told of beside what the server offers; `None` when nothing was added.
    pub(crate) tell: Option<Box<TellRecord>>,
    /// What of its record this version does not know, where there is any.
    unknown: Option<Box<Unknown>>,
}

/// Requests of a server's.
#[derive(Debug, Default)]
struct Questions(HashMap<RequestId, Pending>);

/// Members of a record that this version does not know.
#[derive(Clone, Debug, Default)]
struct Unknown(BTreeMap<String, serde_json::Value>);

/// What many latches of one upstream have alike, each kept once.
#[derive(Default)]
pub(crate) struct Alike {
    initialize: Shared<str>,
    revisions: Shared<str>,
    servers: Shared<Said>,
    /// Lists as clients have seen them.
    pub(crate) lists: Shared<Listing>,
}

/// The headers of a client's request and its number, where there is one.
pub(crate) type Headers = Option<(u64, Arc<HeaderMap>)>;

/// One upstream session.
#[derive(Clone, Debug)]
pub(crate) struct UpSession {
    /// Its id, where the server gave one.
    pub(crate) id: Option<Box<str>>,
    /// What its server said.
    pub(crate) said: Arc<Said>,
    /// The last event id of the standing stream.
    pub(crate) last_event: Option<Box<str>>,
    /// Where it was opened, and is spoken to.
    pub(crate) place: Arc<Place>,
    /// It lives on a stream of the old transport, and its id is only a name for it here.
    pub(crate) streamed: bool,
}

/// What a server said when a session was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// The revision that was negotiated.
    pub(crate) revision: String,
    /// The server's name and version.
    pub(crate) server: Option<(String, String)>,
    /// What a newer version has put into its record.
    pub(crate) unknown: BTreeMap<String, serde_json::Value>,
}

/// The upstream sessions of one latch, oldest first: one, as a rule.
#[derive(Debug, Default)]
pub(crate) struct UpSessions(Vec<(Gen, UpSession)>);

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
    pub(crate) fn new(sid: Arc<str>, opened: i64) -> Latch {
        Latch {
            sid,
            opened,
            initialize: Arc::default(),
            promised: None,
            sessions: UpSessions::default(),
            credentials: Credentials::default(),
            reader: None,
            outbox: None,
            streams: None,
            pending: None,
            inherited: None,
            lists: Lists::default(),
            gathering: None,
            tell: None,
            unknown: None,
        }
    }

    /// The latch of a record, whose session is at this place.
    pub(crate) fn of_record(record: &Record, place: &Arc<Place>, alike: &mut Alike) -> Latch {
        let mut latch = Latch::new(record.id.as_str().into(), record.opened);
        latch.initialize = alike.initialize(&record.initialize);
        latch.promised = Some(alike.revision(&record.revision));
        if let Some(session) = &record.session {
            let bound = Gen(record.generation);
            latch.inherited = Some(bound);
            latch.sessions.insert(
                bound,
                UpSession {
                    id: session.id.as_deref().map(Box::from),
                    said: alike.said(Said {
                        revision: session.revision.clone(),
                        server: session.server.clone(),
                        unknown: session.unknown.clone(),
                    }),
                    last_event: None,
                    place: Arc::clone(place),
                    streamed: false,
                },
            );
        }
        latch.lists = Lists::restored(&record.lists, &record.hints);
        latch.lists.share(&mut alike.lists);
        latch.tell = record.tell.clone().map(Box::new);
        latch.unknown = (!record.unknown.is_empty()).then(|| Box::new(Unknown(record.unknown.clone())));
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
        let bound = snapshot.bound.and_then(|bound| Some((bound, self.sessions.get(bound).filter(here)?)));
        Some(Record {
            format: FORMAT,
            id: self.sid.to_string(),
            upstream: upstream.to_owned(),
            url: place.url.clone(),
            opened: self.opened,
            last_used: now,
            initialize: self.initialize.to_string(),
            revision: self.promised.as_deref()?.to_owned(),
            initialized: snapshot.initialized,
            // The restored generation is taken from here, so that a bound session keeps its number.
            generation: bound.map_or(snapshot.begun, |(bound, _)| bound.0),
            session: bound.map(|(_, session)| SessionRecord {
                id: session.id.as_deref().map(str::to_owned),
                revision: session.said.revision.clone(),
                server: session.said.server.clone(),
                unknown: session.said.unknown.clone(),
            }),
            level: snapshot.level,
            subscriptions: snapshot.subscriptions,
            lists: self.lists.to_record(),
            hints: self.lists.hints(),
            tell: self.tell.as_deref().cloned(),
            unknown: self.unknown.as_ref().map(|unknown| unknown.0.clone()).unwrap_or_default(),
        })
    }

    /// The session of a server's request that the client answers, once; none for an id that was never given out.
    pub(crate) fn answered(&mut self, id: &RequestId) -> Option<Gen> {
        if let Some(pending) = self.not_pending(id) {
            return Some(pending.generation);
        }
        let (generation, _) = relatch_wire::rewrite::split_server_request_id(id)?;
        (self.inherited == Some(Gen(generation))).then_some(Gen(generation))
    }

    /// What waits for its standing stream.
    pub(crate) fn outbox(&mut self) -> &Arc<Outbox> {
        self.outbox.get_or_insert_default()
    }

    /// The same, if anything ever did, or was read.
    pub(crate) fn outbox_so_far(&self) -> Option<&Arc<Outbox>> {
        self.outbox.as_ref()
    }

    /// Whether somebody reads its standing stream.
    pub(crate) fn is_read(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.attached())
    }

    /// Takes a page of a list that is to be kept as a copy; the whole list when this is its last.
    pub(crate) fn gather(&mut self, page: &Page<'_>) -> Option<Pages> {
        let gathering = self.gathering.get_or_insert_default();
        let whole = gathering.take(page);
        if gathering.is_empty() {
            self.gathering = None;
        }
        whole
    }

    /// Answers that its client may come back to.
    pub(crate) fn streams(&mut self) -> &Arc<Streams> {
        self.streams.get_or_insert_default()
    }

    /// A request of the server's that the client is to answer.
    pub(crate) fn asks(&mut self, id: RequestId, pending: Pending) {
        self.pending.get_or_insert_default().0.insert(id, pending);
    }

    /// Those that it has not answered.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (&RequestId, &Pending)> {
        self.pending.iter().flat_map(|pending| pending.0.iter())
    }

    /// How many they are.
    pub(crate) fn asked(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.0.len())
    }

    /// One of them is answered, or taken back.
    pub(crate) fn not_pending(&mut self, id: &RequestId) -> Option<Pending> {
        let pending = self.pending.as_mut()?;
        let removed = pending.0.remove(id);
        if pending.0.is_empty() {
            self.pending = None;
        }
        removed
    }

    /// Kinds of lists that the client knows.
    pub(crate) fn known_lists(&self) -> Vec<ListKind> {
        self.lists.known()
    }
}

impl Alike {
    /// The params of a client's `initialize`. Very long ones are kept for their own session alone.
    pub(crate) fn initialize(&mut self, raw: &str) -> Arc<str> {
        if raw.len() > ALIKE { raw.into() } else { self.initialize.of(raw) }
    }

    /// A revision.
    pub(crate) fn revision(&mut self, revision: &str) -> Arc<str> {
        self.revisions.of(revision)
    }

    /// What a server said.
    pub(crate) fn said(&mut self, said: Said) -> Arc<Said> {
        self.servers.of(said)
    }
}

impl UpSessions {
    /// That of this generation.
    pub(crate) fn get(&self, generation: Gen) -> Option<&UpSession> {
        self.0.iter().find(|(of, _)| *of == generation).map(|(_, session)| session)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, generation: Gen) -> Option<&mut UpSession> {
        self.0.iter_mut().find(|(of, _)| *of == generation).map(|(_, session)| session)
    }

    /// A session more, or in place of that of its generation.
    pub(crate) fn insert(&mut self, generation: Gen, session: UpSession) {
        match self.0.binary_search_by_key(&generation, |(of, _)| *of) {
            Ok(at) => {
                if let Some((_, old)) = self.0.get_mut(at) {
                    *old = session;
                }
            }
            Err(at) => {
                // No room ahead: there are few, and many latches.
                self.0.reserve_exact(1);
                self.0.insert(at, (generation, session));
            }
        }
    }

    /// It is over.
    pub(crate) fn remove(&mut self, generation: Gen) {
        self.0.retain(|(of, _)| *of != generation);
        self.0.shrink_to_fit();
    }

    /// The newest, with its generation.
    pub(crate) fn newest(&self) -> Option<&(Gen, UpSession)> {
        self.0.last()
    }
}

impl Credentials {
    /// A request has arrived with these headers.
    pub(crate) fn seen(&mut self, number: u64, headers: &Arc<HeaderMap>) {
        if self.newest.as_ref().is_none_or(|(newest, _)| *newest < number) {
            self.newest = Some((number, self.known(headers)));
        }
    }

    /// The upstream has answered a request that carried these headers with 2xx.
    pub(crate) fn accept(&mut self, number: u64, headers: &Arc<HeaderMap>) {
        if self.accepted.as_ref().is_none_or(|(accepted, _)| *accepted < number) {
            self.accepted = Some((number, self.known(headers)));
        }
    }

    /// These headers, as those that are here already where they are the same: while clients with other headers ask in
    /// between, each request brings its own.
    fn known(&self, headers: &Arc<HeaderMap>) -> Arc<HeaderMap> {
        let here = [&self.newest, &self.accepted].into_iter().flatten().map(|(_, headers)| headers);
        let same = here.into_iter().find(|known| Arc::ptr_eq(known, headers) || *known == headers);
        Arc::clone(same.unwrap_or(headers))
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
        let again = Latch::of_record(&record, &place, &mut Alike::default())
            .record("x", &place, 2, snapshot)
            .unwrap();
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
        let latch = Latch::of_record(&record, &place("u"), &mut Alike::default());
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
