//! Copies of what servers said of themselves: whose they are, when one is written, and how one is looked for.
//!
//! Written beside the path of messages; read only when the core asks for one, which a server that is there never makes it
//! do. Whether a copy is given out is decided in the core, where it is kept in `relatch-store`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use relatch_core::health::ServerSeen;
use relatch_core::input::{CopySeen, Input, SessionFacts};
use relatch_core::{ExId, Gen};
use relatch_store::copies::{CopyStore, News, Pages, Subject};
use relatch_wire::digest::{digest, digest_json};
use relatch_wire::handshake::ServerHello;
use relatch_wire::method::{self, ListKind};
use relatch_wire::{Envelope, params};
use tokio::sync::oneshot;

use crate::desk::{Attempt, Desk};
use crate::driver::Upstream;
use crate::latch::{Headers, Latch};
use crate::lock;
use crate::upstream::place::Place;
use crate::upstream::route::Route;
use crate::upstream::way::Way;

/// What waits to be written, in subjects and in bytes; beyond it nothing more is taken until some of it is.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 32 * 1024 * 1024;
/// A list whose pages come to more is not kept.
const GATHERED: usize = 4 * 1024 * 1024;
/// The same is not written again within this: a thousand clients that come back at once hear one server.
const SAME_WITHIN_MS: i64 = 60_000;
/// So many subjects are known to be written.
const WRITTEN: usize = 1_000;
/// So many answers to `initialize` are known as they came, and none that is longer.
const HEARD: usize = 8;
const HEARD_BYTES: usize = 16 * 1024;

/// Headers of a client that are no one's: they differ between two connections of one user, or are the same for all.
const NOBODYS: [&str; 12] = [
    "user-agent",
    "accept-language",
    "baggage",
    "cache-control",
    "pragma",
    "priority",
    "sec-fetch-mode",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "x-amzn-trace-id",
    "x-request-id",
];

/// What a server's answer says of itself, as the core knows it; none where the message is no such answer.
pub(crate) fn facts_of(text: &[u8], has_id: bool) -> Option<SessionFacts> {
    let envelope = Envelope::read(text).ok()?;
    let hello = ServerHello::read(envelope.result(text)?)?;
    Some(facts(&hello, has_id))
}

/// The same of what was read already.
pub(crate) fn facts(hello: &ServerHello, has_id: bool) -> SessionFacts {
    let offers = [
        ("tools", hello.has_tools),
        ("prompts", hello.has_prompts),
        ("resources", hello.has_resources),
        ("resource subscriptions", hello.has_resource_subscribe),
        ("logging", hello.has_logging),
    ];
    SessionFacts {
        has_id,
        server: ServerSeen {
            name: hello.name.clone(),
            version: hello.version.clone(),
            protocol: hello.revision_text.clone(),
            era: relatch_wire::era::Era::Legacy.as_str(),
        },
        digest: hello.instructions_digest,
        offers: offers.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect(),
    }
}

/// Pages of a list on their way to being whole: those that a client asked for, and those that relatch asked for.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    pages: BTreeMap<(ListKind, Asker), Pages>,
}

/// Who has asked for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    Client,
    Relatch,
}

/// One page of a list.
pub(crate) struct Page<'a> {
    pub(crate) kind: ListKind,
    pub(crate) asker: Asker,
    /// Where it begins.
    pub(crate) cursor: Option<String>,
    /// Where the next one does.
    pub(crate) next: Option<&'a str>,
    /// The whole answer.
    pub(crate) text: &'a Bytes,
}

impl Gathering {
    /// Whether no list is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Takes a page; the whole list when this is its last.
    pub(crate) fn take(&mut self, page: &Page<'_>) -> Option<Pages> {
        let key = (page.kind, page.asker);
        let Ok(text) = std::str::from_utf8(page.text) else {
            self.pages.remove(&key);
            return None;
        };
        let pages = self.pages.entry(key).or_default();
        if page.cursor.is_none() {
            pages.clear();
        } else if pages.last().is_none_or(|(_, last)| next_of(last, page.kind) != page.cursor) {
            // It continues nothing that is here.
            self.pages.remove(&key);
            return None;
        }
        pages.push((page.cursor.clone(), text.to_owned()));
        if pages.iter().map(|(_, text)| text.len()).sum::<usize>() > GATHERED {
            self.pages.remove(&key);
            return None;
        }
        page.next.is_none().then(|| self.pages.remove(&key)).flatten()
    }
}

fn next_of(text: &str, kind: ListKind) -> Option<String> {
    let envelope = Envelope::read(text.as_bytes()).ok()?;
    relatch_wire::lists::items(envelope.result(text.as_bytes())?, kind)?.next_cursor
}

/// Whose copy an answer is that came to this client, by these headers, at this place.
fn subject(upstream: &str, place: &Place, latch: &Latch, headers: &HeaderMap) -> Option<Subject> {
    let asked = latch.initialize.as_bytes();
    let (revision, _) = params::protocol_version(asked)?;
    // Capabilities, and the client's name, by which some servers choose what they show.
    let capabilities = params::capabilities_digest(asked);
    let name = params::client_identity(asked).map(|client| client.name).unwrap_or_default();
    let mut credentials: BTreeSet<(String, Vec<u8>)> = BTreeSet::new();
    let configured = place.headers();
    // What begins so says what a request is, and not whose.
    let nobodys = |name: &str| {
        NOBODYS.contains(&name) || matches!(name, "mcp-method" | "mcp-name") || name.starts_with("mcp-param-")
    };
    let theirs =
        headers.iter().filter(|(name, _)| !configured.contains_key(*name) && !nobodys(name.as_str()));
    for (name, value) in theirs.chain(configured.iter()) {
        credentials.insert((name.as_str().to_owned(), value.as_bytes().to_vec()));
    }
    let address = match &place.way {
        Way::Url(dialer, _) => {
            // Who shows another certificate is somebody else.
            let shown =
                dialer.route().tls.as_ref().and_then(|tls| tls.identity().map(|one| one.cert.clone()));
            let bytes = shown.map(|path| std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string()));
            credentials.extend(bytes.map(|path| ("certificate".to_owned(), path)));
            dialer.target().address()
        }
        Way::Command(commands) => {
            let command = commands.command();
            let mut secrets: Vec<_> = std::env::vars_os().filter(|(name, _)| is_secret(name)).collect();
            secrets.sort();
            for (name, value) in secrets {
                let value = std::os::unix::ffi::OsStringExt::into_vec(value);
                credentials.insert((format!("${}", name.to_string_lossy()), value));
            }
            // The same words are another program in another folder.
            let folder = command.folder.clone().or_else(|| std::env::current_dir().ok());
            format!("{:?} {:?} {:?} {folder:?}", command.program, command.arguments, command.env)
        }
    };
    Some(Subject {
        upstream: upstream.to_owned(),
        address,
        revision,
        client: format!("{capabilities:x} {name}"),
        credentials: credentials.into_iter().collect(),
    })
}

/// Whether a variable of the environment may be what a command shows to a service. One that is a way to a program on this
/// machine is another at each login.
fn is_secret(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    let parts = ["auth", "cred", "key", "pass", "secret", "token", "user", "account"];
    parts.iter().any(|part| name.contains(part)) && !name.ends_with("_sock") && name != "xauthority"
}

/// What is to become of a subject's copies.
#[derive(Debug)]
enum Change {
    Keep(News),
    Remove,
    Refuse,
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Change::Keep(news) => {
                let pages = news.lists.values().flatten().map(|(_, text)| text.len()).sum::<usize>();
                news.initialize.as_ref().map_or(0, String::len) + pages
            }
            Change::Remove | Change::Refuse => 0,
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<(Subject, Change)>,
    bytes: usize,
    flushes: Vec<oneshot::Sender<()>>,
    writer: bool,
    /// When what was written last of each subject, by a digest.
    written: BTreeMap<(Subject, String), (u64, i64)>,
    /// The last answers to `initialize` among them, as they came: whose they are need not be found out again.
    heard: VecDeque<(Heard, i64)>,
}

/// A server's answer to `initialize`, and all that says whose it is.
#[derive(Debug)]
struct Heard {
    place: Weak<Place>,
    configured: Arc<HeaderMap>,
    route: Option<Arc<Route>>,
    asked: Arc<str>,
    headers: Arc<HeaderMap>,
    result: Bytes,
}

impl Heard {
    fn new(latch: &Latch, headers: &Arc<HeaderMap>, place: &Arc<Place>, result: Bytes) -> Heard {
        Heard {
            place: Arc::downgrade(place),
            configured: place.headers(),
            route: match &place.way {
                Way::Url(dialer, _) => Some(dialer.route()),
                Way::Command(_) => None,
            },
            asked: Arc::clone(&latch.initialize),
            headers: Arc::clone(headers),
            result,
        }
    }

    fn is(&self, other: &Heard) -> bool {
        let same_route = match (&self.route, &other.route) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.place.ptr_eq(&other.place)
            && Arc::ptr_eq(&self.configured, &other.configured)
            && same_route
            && self.asked == other.asked
            && (Arc::ptr_eq(&self.headers, &other.headers) || self.headers == other.headers)
            && self.result == other.result
    }
}

/// The one way to the store of copies.
#[derive(Debug)]
pub(crate) struct Copies {
    dir: Option<PathBuf>,
    store: OnceLock<CopyStore>,
    waiting: Mutex<Waiting>,
}

impl Copies {
    /// Those in this folder, or none at all. Nothing is opened before something is kept or sought.
    pub(crate) fn new(dir: Option<PathBuf>) -> Arc<Copies> {
        Arc::new(Copies { dir, store: OnceLock::new(), waiting: Mutex::default() })
    }

    /// Whether anything is kept at all.
    pub(crate) fn keeps(&self) -> bool {
        self.dir.is_some()
    }

    /// Waits until everything said so far is stored.
    pub(crate) async fn flush(self: &Arc<Self>) {
        let (done, wait) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.changes.is_empty() && !waiting.writer {
                return;
            }
            waiting.flushes.push(done);
        }
        self.start();
        // The writer can't be gone without having answered.
        drop(wait.await);
    }

    /// The copy of this subject's answer to this request, and when it was made.
    async fn find(
        self: &Arc<Self>,
        subject: Subject,
        method: String,
        cursor: Option<String>,
    ) -> Option<(Bytes, i64)> {
        self.flush().await;
        let copies = Arc::clone(self);
        let now = Timestamp::now().as_millisecond();
        let found = tokio::task::spawn_blocking(move || copies.store()?.find(&subject, now).ok()?);
        let mut copy = found.await.ok()??;
        if method == method::INITIALIZE {
            return Some((copy.initialize.into(), copy.made));
        }
        let list = copy.lists.remove(&method)?;
        let (_, text) = list.pages.into_iter().find(|(at, _)| *at == cursor)?;
        Some((text.into(), list.made))
    }

    /// Whether this was written a moment ago, as it came.
    fn has_heard(&self, heard: &Heard) -> bool {
        let now = Timestamp::now().as_millisecond();
        lock(&self.waiting).has_heard(heard, now)
    }

    /// Makes a change soon, unless the same was made a moment ago. Returns whether it does.
    fn change(self: &Arc<Self>, subject: Subject, change: Change) -> bool {
        if !self.keeps() {
            return false;
        }
        {
            let now = Timestamp::now().as_millisecond();
            let mut waiting = lock(&self.waiting);
            let bytes = change.bytes();
            let full =
                waiting.changes.len() >= WAITING || waiting.bytes.saturating_add(bytes) > WAITING_BYTES;
            // What takes copies away is never left out.
            if full && matches!(change, Change::Keep(_)) {
                tracing::debug!(upstream = subject.upstream, "too many copies wait to be written");
                return false;
            }
            if waiting.is_known(&subject, &change, now) {
                return false;
            }
            waiting.bytes += bytes;
            waiting.changes.push((subject, change));
        }
        self.start();
        true
    }

    /// This is being written now.
    fn hears(&self, heard: Heard) {
        let now = Timestamp::now().as_millisecond();
        lock(&self.waiting).hears(heard, now);
    }

    fn start(self: &Arc<Self>) {
        if std::mem::replace(&mut lock(&self.waiting).writer, true) {
            return;
        }
        let copies = Arc::clone(self);
        tokio::task::spawn_blocking(move || copies.write());
    }

    fn write(&self) {
        loop {
            let (changes, flushes) = {
                let mut waiting = lock(&self.waiting);
                if waiting.changes.is_empty() && waiting.flushes.is_empty() {
                    waiting.writer = false;
                    break;
                }
                waiting.bytes = 0;
                (std::mem::take(&mut waiting.changes), std::mem::take(&mut waiting.flushes))
            };
            for (subject, change) in changes {
                let Some(store) = self.store() else { break };
                let done = match change {
                    Change::Keep(news) => store.keep(&subject, news, Timestamp::now().as_millisecond()),
                    Change::Remove => store.remove(&subject),
                    Change::Refuse => store.refuse(&subject),
                };
                if let Err(cause) = done {
                    tracing::warn!(upstream = subject.upstream, "a copy can't be stored: {cause}");
                }
            }
            for done in flushes {
                // Who waited may have left.
                let _ = done.send(());
            }
        }
    }

    /// The store, once it can be opened. Without one everything goes on as if nothing were kept.
    fn store(&self) -> Option<&CopyStore> {
        if let Some(store) = self.store.get() {
            return Some(store);
        }
        match CopyStore::open(self.dir.as_ref()?) {
            Ok(store) => Some(self.store.get_or_init(|| store)),
            Err(cause) => {
                tracing::warn!("no copies are kept for clients that start before their server: {cause}");
                None
            }
        }
    }
}

impl Waiting {
    fn has_heard(&self, heard: &Heard, now: i64) -> bool {
        self.heard.iter().any(|(known, at)| now - at < SAME_WITHIN_MS && known.is(heard))
    }

    fn hears(&mut self, heard: Heard, now: i64) {
        if heard.result.len() > HEARD_BYTES {
            return;
        }
        if self.heard.len() == HEARD {
            self.heard.pop_front();
        }
        // A copy: what came may be a part of a larger buffer.
        self.heard.push_back((Heard { result: Bytes::copy_from_slice(&heard.result), ..heard }, now));
    }

    /// Whether the same was written a moment ago. What is forgotten may be said again.
    fn is_known(&mut self, subject: &Subject, change: &Change, now: i64) -> bool {
        let Change::Keep(news) = change else {
            self.written.clear();
            self.heard.clear();
            return false;
        };
        let mut known = true;
        let hello = news.initialize.as_ref().map(|text| (method::INITIALIZE.to_owned(), vec![text]));
        let lists = news
            .lists
            .iter()
            .map(|(method, pages)| (method.clone(), pages.iter().map(|(_, text)| text).collect()));
        for (what, texts) in hello.into_iter().chain(lists) {
            let digest = texts.iter().fold(0_u64, |sum, text| {
                let text = text.as_bytes();
                // Under whatever id it came.
                let result = Envelope::read(text).ok().and_then(|e| digest_json(e.result(text)?));
                sum.rotate_left(7) ^ result.unwrap_or_else(|| digest(text))
            });
            let key = (subject.clone(), what);
            let same = |written: &(u64, i64)| written.0 == digest && now - written.1 < SAME_WITHIN_MS;
            if !self.written.get(&key).is_some_and(same) {
                self.written.insert(key, (digest, now));
                known = false;
            }
        }
        if self.written.len() > WRITTEN {
            self.written.clear();
        }
        known
    }
}

impl Upstream {
    fn keeps_copies(&self) -> bool {
        self.common.copies.keeps() && self.copies()
    }

    /// A server has answered `initialize` at this place, with this result in this text, and named this revision.
    pub(crate) fn keep_hello(
        &self,
        latch: &Latch,
        headers: &Headers,
        place: &Arc<Place>,
        own: bool,
        (text, result, revision): (&Bytes, Bytes, &str),
    ) {
        let Some((_, headers)) = headers.as_ref().filter(|_| self.keeps_copies()) else { return };
        // relatch asks for what the client was promised. Where that is not to be had any more, the copy that promised
        // it does not hold; what would be said to the client's own question is found out by the next.
        let holds = own || latch.promised.as_deref() == Some(revision);
        let heard = Heard::new(latch, headers, place, result);
        if holds && self.common.copies.has_heard(&heard) {
            return;
        }
        let subject = subject(&self.name, place, latch, headers);
        let (Some(subject), Ok(text)) = (subject, std::str::from_utf8(text)) else { return };
        if !holds {
            self.common.copies.change(subject, Change::Remove);
            return;
        }
        let news = News { initialize: Some(text.to_owned()), lists: BTreeMap::new() };
        if self.common.copies.change(subject, Change::Keep(news)) {
            self.common.copies.hears(heard);
        }
    }

    /// A page of a list has come in this session, by these headers.
    pub(crate) fn keep_page(&self, latch: &mut Latch, generation: Gen, headers: &Headers, page: &Page<'_>) {
        // What an older session says may be older, too.
        let newest = latch.sessions.newest().filter(|(newest, _)| *newest == generation);
        let Some(place) = newest.map(|(_, session)| Arc::clone(&session.place)) else { return };
        if !self.keeps_copies() {
            return;
        }
        let Some(pages) = latch.gather(page) else { return };
        let subject = headers.as_ref().and_then(|(_, headers)| subject(&self.name, &place, latch, headers));
        let Some(subject) = subject else { return };
        let lists = BTreeMap::from([(page.kind.method().to_owned(), pages)]);
        self.common.copies.change(subject, Change::Keep(News { initialize: None, lists }));
    }

    /// The upstream refuses the credentials of this attempt.
    pub(crate) fn refuse_copies(&self, desk: &Desk, of: &Attempt) {
        if !self.common.copies.keeps() {
            return;
        }
        let subject =
            desk.latches.get(&of.latch).zip(of.headers.as_ref()).and_then(|(latch, (_, headers))| {
                let there = latch.sessions.get(of.generation).map(|session| Arc::clone(&session.place));
                subject(&self.name, &there.unwrap_or_else(|| self.place()), latch, headers)
            });
        if let Some(subject) = subject {
            self.common.copies.change(subject, Change::Refuse);
        }
    }

    /// Looks for the copy of what this request would be answered, and reports what it finds.
    pub(crate) fn seek_copy(self: &Arc<Self>, desk: &Desk, ex: ExId) {
        let sought = desk.exchanges.get(&ex).filter(|_| self.keeps_copies()).and_then(|exchange| {
            let arrival = &exchange.arrival;
            let latch = desk.latches.get(&exchange.latch)?;
            let subject = subject(&self.name, &self.place(), latch, &arrival.headers)?;
            let raw = arrival.envelope.params(&arrival.message).unwrap_or_default();
            Some((subject, arrival.envelope.method()?.to_owned(), params::cursor(raw), exchange.opening))
        });
        let up = Arc::clone(self);
        tokio::spawn(async move {
            let found = match sought {
                Some((subject, method, cursor, opens)) => {
                    let found = up.common.copies.find(subject, method, cursor).await;
                    found.and_then(|(text, made)| Some((seen(&text, made, opens)?, text)))
                }
                None => None,
            };
            let (copy, text) = found.unzip();
            up.fact_after(
                |desk| {
                    if let Some(exchange) = desk.exchanges.get_mut(&ex) {
                        exchange.copy = text;
                    }
                    true
                },
                Input::Copy { ex, copy },
            );
        });
    }
}

fn seen(text: &[u8], made: i64, opens: bool) -> Option<CopySeen> {
    let session = if opens { Some(facts_of(text, true)?) } else { None };
    let date = Timestamp::from_millisecond(made)
        .map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string())
        .ok()?;
    Some(CopySeen { made, date, session })
}

#[cfg(test)]
mod tests {
    use relatch_core::policy::Transport;

    use super::*;
    use crate::upstream::dial::{Dialer, Target, Tls};
    use crate::upstream::http_sse::Streams;

    fn page<'a>(cursor: Option<&str>, next: Option<&'a str>, text: &'a Bytes) -> Page<'a> {
        Page { kind: ListKind::Tools, asker: Asker::Client, cursor: cursor.map(str::to_owned), next, text }
    }

    #[test]
    fn a_list_is_kept_when_its_last_page_is_there_and_the_pages_follow_each_other() {
        let one =
            Bytes::from(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}],"nextCursor":"2"}}"#);
        let two = Bytes::from(r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"b"}]}}"#);
        let mut gathering = Gathering::default();
        assert_eq!(gathering.take(&page(None, Some("2"), &one)), None);
        let whole = gathering.take(&page(Some("2"), None, &two)).unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[1].0.as_deref(), Some("2"));
        // The second page of another walk.
        assert_eq!(gathering.take(&page(Some("2"), None, &two)), None);
        gathering.take(&page(None, Some("2"), &one));
        assert_eq!(gathering.take(&page(Some("3"), None, &two)), None);
        assert!(gathering.pages.is_empty());
    }

    #[test]
    fn the_same_answer_is_not_written_again_at_once_and_another_one_is() {
        let subject = Subject {
            upstream: "x".to_owned(),
            address: "u".to_owned(),
            revision: "r".to_owned(),
            client: String::new(),
            credentials: Vec::new(),
        };
        let hello = |id: u8, version: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"v":"{version}"}}}}"#);
            Change::Keep(News { initialize: Some(text), lists: BTreeMap::new() })
        };
        let mut waiting = Waiting::default();
        assert!(!waiting.is_known(&subject, &hello(1, "1"), 0));
        assert!(waiting.is_known(&subject, &hello(2, "1"), 59_000));
        // Its date is renewed once a minute.
        assert!(!waiting.is_known(&subject, &hello(3, "1"), 60_000));
        assert!(!waiting.is_known(&subject, &hello(4, "2"), 60_001));
        assert!(!waiting.is_known(&subject, &Change::Refuse, 60_002));
        assert!(!waiting.is_known(&subject, &hello(5, "2"), 60_003));
    }

    #[test]
    fn what_is_known_as_it_came_is_known_for_the_same_client_at_the_same_place_until_a_copy_is_taken_away() {
        let place = |url: &str| {
            let dialer = Dialer::new(Target::parse("http://127.0.0.1:9/").unwrap(), Tls::platform());
            let way = Way::Url(dialer, Streams::new(Transport::Auto));
            Place::new(way, url.to_owned(), HeaderMap::new())
        };
        let latch = |asked: &str| {
            let mut latch = Latch::new("".into(), 0);
            latch.initialize = asked.into();
            latch
        };
        let headers = |token: &'static str| {
            let pair = (http::header::AUTHORIZATION, http::HeaderValue::from_static(token));
            Arc::new(HeaderMap::from_iter([pair]))
        };
        let (here, there) = (place("u"), place("u"));
        let heard = |asked: &str, token, place: &Arc<Place>, result: &'static str| {
            Heard::new(&latch(asked), &headers(token), place, Bytes::from_static(result.as_bytes()))
        };
        let mut waiting = Waiting::default();
        let same = || heard("{}", "a", &here, "1");
        assert!(!waiting.has_heard(&same(), 0));
        waiting.hears(same(), 0);
        assert!(waiting.has_heard(&same(), 59_999));
        assert!(!waiting.has_heard(&same(), 60_000), "its date is renewed once a minute");
        for other in [
            heard("{ }", "a", &here, "1"),
            heard("{}", "b", &here, "1"),
            heard("{}", "a", &there, "1"),
            heard("{}", "a", &here, "2"),
        ] {
            assert!(!waiting.has_heard(&other, 0), "{other:?}");
        }
        let mut configured = HeaderMap::new();
        configured.insert("x-user", http::HeaderValue::from_static("me"));
        here.send_headers(configured);
        assert!(!waiting.has_heard(&same(), 0), "who it says to be is another");
        waiting.hears(same(), 0);
        let subject = subject("x", &here, &latch(r#"{"protocolVersion":"1"}"#), &headers("a")).unwrap();
        waiting.is_known(&subject, &Change::Refuse, 1);
        assert!(!waiting.has_heard(&same(), 1));
    }

    #[test]
    fn a_secret_of_the_environment_is_known_by_its_name() {
        for (name, secret) in [
            ("GITHUB_TOKEN", true),
            ("OPENAI_API_KEY", true),
            ("AWS_SECRET_ACCESS_KEY", true),
            ("PGPASSWORD", true),
            ("USER", true),
            ("SSH_AUTH_SOCK", false),
            ("XAUTHORITY", false),
            ("PATH", false),
            ("TERM", false),
        ] {
            assert_eq!(is_secret(std::ffi::OsStr::new(name)), secret, "{name}");
        }
    }
}
