//! The questions, in their order: asks one server and gathers what it answers.
//!
//! Decides what is asked and when it is pointless to ask on; what the answers mean is said in `findings`. Nothing here
//! changes anything at the server but the sessions that are opened and ended.

use std::time::{Duration, Instant};

use http::HeaderMap;
use relatch_core::latch::reading::{Door as DoorReading, read_door};
use relatch_net::redact;
use relatch_net::upstream::dial::Target;
use relatch_wire::era::Revision;
use serde_json::{Value, json};
use url::Url;

use super::client::{Ask, Client};
use super::facts::{Answer, Door, End, Facts, Form, Inside, Seen, Session, Shut};
use super::restart;

/// The revision that is asked for.
pub(crate) const NEWEST: &str = "2025-11-25";
/// What no revision was ever called.
pub(crate) const NEVER: &str = "1999-01-01";
/// A page that no server on this machine has business with.
const FOREIGN_HOST: &str = "relatch-doctor.invalid";
const FOREIGN_ORIGIN: &str = "http://relatch-doctor.invalid";
/// How many pings are timed.
const PINGS: usize = 20;
/// How many pings go over connections of their own.
const SCATTERED: usize = 5;
/// How often a cut call is come back for.
const RESUMES: usize = 3;
/// How long a socket that carries nothing is watched.
const IDLE_SOCKET: Duration = Duration::from_secs(8);
const HANDSHAKE: Duration = Duration::from_secs(10);
const LIST: Duration = Duration::from_secs(10);
/// All questions together, but for what `--idle` and `--restart` add.
const ALL: Duration = Duration::from_secs(60);
/// Redirects that are followed, as relatch does.
const HOPS: usize = 3;

/// What the user asks for besides.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// How long a session is left alone.
    pub(crate) idle: Option<Duration>,
    /// The shell command that restarts the server.
    pub(crate) restart: Option<String>,
}

/// A server under examination. [`Examination::end`] ends its sessions, also after an interruption.
#[derive(Debug)]
pub(crate) struct Examination {
    client: Client,
    began: Instant,
    with_headers: bool,
    redirected: Vec<String>,
    /// The answer to the first handshake.
    first: Seen,
}

impl Examination {
    /// Shakes hands, and follows redirects that relatch follows.
    pub(crate) async fn begin(target: Target, headers: HeaderMap) -> Examination {
        let began = Instant::now();
        let with_headers = !headers.is_empty();
        let mut client = Client::new(target, headers, began + ALL);
        let mut redirected = Vec::new();
        let mut first = client.ask(initialize(NEWEST)).await;
        while let Some(next) = first.answer().and_then(|answer| followed(answer, client.target()))
            && redirected.len() < HOPS
        {
            redirected.push(redact::url(&next.url));
            client = client.moved(next);
            first = client.ask(initialize(NEWEST)).await;
        }
        Examination { client, began, with_headers, redirected, first }
    }

    /// Asks everything.
    pub(crate) async fn all(&self, wishes: &Wishes) -> Facts {
        let hello = self.first.answer().and_then(|answer| {
            let result = answer.result.as_ref()?;
            result["protocolVersion"].as_str()?;
            Some(result.clone())
        });
        let door = match hello {
            Some(hello) => Door::Open(Box::new(self.inside(&hello, wishes).await)),
            None => Door::Shut(Box::new(self.shut().await)),
        };
        let stopped = self.client.stopped();
        self.end().await;
        let target = self.client.target();
        Facts {
            url: target.to_string(),
            path: target.url.path().to_owned(),
            near: target.nearness(),
            with_headers: self.with_headers,
            redirected: self.redirected.clone(),
            door,
            stopped,
            requests: self.client.sent(),
            sessions: self.client.sessions(),
            took: self.began.elapsed(),
        }
    }

    /// Ends every session that is left.
    pub(crate) async fn end(&self) {
        self.client.end_all().await;
    }

    async fn shut(&self) -> Shut {
        let client = &self.client;
        let mut shut = Shut {
            initialize: self.first.clone(),
            get: None,
            discover: None,
            foreign: None,
            elsewhere: None,
        };
        let Some(answer) = self.first.answer() else { return shut };
        match read_door(&answer.refusal()) {
            DoorReading::Credentials => {
                let foreign = Ask { origin: Some(FOREIGN_ORIGIN), ..initialize(NEWEST) };
                let origin = client.ask(foreign).await;
                let foreign = Ask { host: Some(FOREIGN_HOST), ..initialize(NEWEST) };
                shut.foreign = Some((origin, client.ask(foreign).await));
            }
            DoorReading::Later | DoorReading::Redirected => {}
            DoorReading::Missing | DoorReading::Refused => {
                shut.get = Some(client.ask(Ask::get().within(Duration::from_secs(3))).await);
                shut.discover = Some(client.ask(discover()).await);
                if client.target().url.path() == "/" {
                    shut.elsewhere = self.speaks_at("/mcp").await;
                }
            }
        }
        shut
    }

    /// Whether MCP is spoken under another path of the same server.
    async fn speaks_at(&self, path: &str) -> Option<String> {
        let mut url = self.client.target().url.clone();
        url.set_path(path);
        let there = Client::new(
            self.client.target().beside(&url).ok()?,
            self.client.headers().clone(),
            Instant::now() + HANDSHAKE,
        );
        let seen = there.ask(initialize(NEWEST)).await;
        there.end_all().await;
        self.client.count(&there);
        let speaks = seen.worked() || seen.answer().is_some_and(|answer| answer.status == 401);
        speaks.then(|| there.target().to_string())
    }

    async fn inside(&self, hello: &Value, wishes: &Wishes) -> Inside {
        let client = &self.client;
        let revision = hello["protocolVersion"].as_str().unwrap_or_default().to_owned();
        let info = |field: &str| hello["serverInfo"][field].as_str().map(str::to_owned);
        let issued = self.first.answer().and_then(|answer| answer.session.clone());
        let mut inside = Inside {
            name: info("name"),
            version: info("version"),
            revision: revision.clone(),
            connect_ms: client.connect().await,
            initialize: self.first.clone(),
            ids: issued.iter().cloned().collect(),
            ..Inside::default()
        };
        let main = Main { client, id: issued.as_deref(), version: &revision };
        inside.initialized = client.ask(main.ask("notifications/initialized", Value::Null)).await;
        let idle = client.idle_socket(main.ask("ping", json!({})), IDLE_SOCKET);
        let asked = async {
            main.ordinary(&mut inside, hello["capabilities"].get("tools").is_some()).await;
            main.headers(&mut inside).await;
            match main.id {
                Some(id) => inside.session = Some(main.unknown_sessions(id).await),
                None => {
                    let unknown = misshapen();
                    inside.strange = Some(client.ask(Ask { session: Some(&unknown), ..main.ping() }).await);
                }
            }
            main.revisions(&mut inside).await;
            if self.with_headers {
                let bare = client.ask(Ask { bare: true, ..initialize(NEWEST) }).await;
                inside.bare = Some(bare);
            }
            inside.discover = client.ask(discover()).await;
            if let (Some(id), Some(session)) = (main.id, &mut inside.session) {
                session.delete = client.end(id, main.version).await;
                session.ended = client.ask(main.ask("ping", json!({}))).await;
                // A session that DELETE has not ended is not kept either: its answers are known by now.
            }
            inside
        };
        let (idle_socket, mut inside) = tokio::join!(idle, asked);
        inside.idle_socket = idle_socket;
        if let Some(span) = wishes.idle {
            inside.idle_session = self.left_alone(span, &mut inside.ids).await;
        }
        if let Some(command) = &wishes.restart {
            let tools = inside.tools.as_ref().and_then(|seen| seen.answer()?.result.clone());
            inside.restart =
                Some(restart::watch(client, command, &inside.ids, &revision, tools, hello).await);
        }
        inside
    }

    /// Opens a session, leaves it alone, and asks whether it is still there.
    async fn left_alone(&self, span: Duration, ids: &mut Vec<String>) -> Option<(Duration, Seen)> {
        let client = &self.client;
        client.extend(span + HANDSHAKE);
        let (id, version) = open(client, NEWEST).await.1?;
        ids.push(id.clone());
        tokio::time::sleep(span).await;
        let seen = client.ask(Ask::post("ping", json!({})).of(Some(&id), &version)).await;
        client.end(&id, &version).await;
        Some((span, seen))
    }
}

/// `initialize`, as a client asks that wants nothing else.
pub(crate) fn initialize(revision: &str) -> Ask<'static> {
    let params = json!({
        "protocolVersion": revision,
        "capabilities": {},
        "clientInfo": { "name": "relatch-doctor", "version": env!("CARGO_PKG_VERSION") },
    });
    Ask::post("initialize", params).within(HANDSHAKE)
}

/// Opens one more session and tells the server that it is ready; its id, where it has one, and its revision.
pub(crate) async fn open(client: &Client, revision: &str) -> (Seen, Option<(String, String)>) {
    let seen = client.ask(initialize(revision)).await;
    let Some(answer) = seen.answer() else { return (seen, None) };
    let spoken = answer.result.as_ref().and_then(|result| result["protocolVersion"].as_str());
    let (Some(id), Some(spoken)) = (answer.session.clone(), spoken.map(str::to_owned)) else {
        return (seen, None);
    };
    client.ask(Ask::post("notifications/initialized", Value::Null).of(Some(&id), &spoken)).await;
    (seen, Some((id, spoken)))
}

fn discover() -> Ask<'static> {
    let params = json!({ "_meta": {
        "io.modelcontextprotocol/protocolVersion": Revision::V2026_07_28.as_str(),
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "relatch-doctor", "version": env!("CARGO_PKG_VERSION") },
    }});
    let ask = Ask::post("server/discover", params).of(None, Revision::V2026_07_28.as_str());
    Ask { modern: true, ..ask }
}

/// Where a redirect leads that relatch follows: 307 or 308 within the origin.
fn followed(answer: &Answer, from: &Target) -> Option<Target> {
    if !matches!(answer.status, 307 | 308) {
        return None;
    }
    let next: Url = from.url.join(answer.location.as_deref()?).ok()?;
    (next.origin() == from.url.origin()).then(|| from.beside(&next).ok())?
}

/// The session in which most questions are asked.
struct Main<'a> {
    client: &'a Client,
    id: Option<&'a str>,
    version: &'a str,
}

impl<'a> Main<'a> {
    fn ask(&self, method: &'a str, params: Value) -> Ask<'a> {
        Ask::post(method, params).of(self.id, self.version)
    }

    fn ping(&self) -> Ask<'a> {
        self.ask("ping", json!({}))
    }

    async fn ordinary(&self, inside: &mut Inside, has_tools: bool) {
        let client = self.client;
        inside.ping = client.ask(self.ping()).await;
        if inside.ping.worked() {
            for _ in 0..PINGS {
                let seen = client.ask_on(self.ping()).await;
                if !seen.worked() {
                    break;
                }
                inside.pings.push(seen.ms);
            }
            for _ in 0..SCATTERED {
                inside.scattered.push(client.ask(self.ping()).await);
            }
        }
        if has_tools {
            inside.tools = Some(client.ask(self.ask("tools/list", json!({})).within(LIST)).await);
        }
        inside.unknown_method = client.ask(self.ask("relatch/doctor", json!({}))).await;
        inside.stream = client.ask(Ask::get().of(self.id, self.version).within(Duration::from_secs(3))).await;
        let given = [inside.tools.as_ref(), Some(&inside.ping), Some(&inside.initialize)];
        if given.into_iter().flatten().any(|seen| seen.answer().is_some_and(|a| !a.event_ids.is_empty())) {
            inside.resumed = self.resume().await;
        }
    }

    /// Leaves a call at its first event, and comes back for the rest with the id of that event. Where the whole answer
    /// was out by then there may be no rest, so it is tried more than once.
    async fn resume(&self) -> Option<Seen> {
        let client = self.client;
        let mut back = None;
        for _ in 0..RESUMES {
            let left = client.ask(Ask { cut: true, ..self.ping() }).await;
            let event = left.answer()?.event_ids.first()?;
            let ask = Ask::get().of(self.id, self.version).within(Duration::from_secs(3));
            let seen = client.ask(Ask { last_event: Some(event), ..ask }).await;
            let settled = seen.worked() || seen.status() != Some(200);
            back = Some(seen);
            if settled {
                break;
            }
        }
        back
    }

    async fn headers(&self, inside: &mut Inside) {
        let client = self.client;
        inside.accept_json = client.ask(Ask { accept: Some("application/json"), ..self.ping() }).await;
        inside.accept_events = client.ask(Ask { accept: Some("text/event-stream"), ..self.ping() }).await;
        inside.version_missing = client.ask(Ask { version: None, ..self.ping() }).await;
        inside.version_unknown = client.ask(Ask { version: Some(NEVER), ..self.ping() }).await;
        inside.foreign_origin = client.ask(Ask { origin: Some(FOREIGN_ORIGIN), ..self.ping() }).await;
        inside.foreign_host = client.ask(Ask { host: Some(FOREIGN_HOST), ..self.ping() }).await;
        if inside.foreign_origin.served() && inside.foreign_host.served() {
            let both = Ask { host: Some(FOREIGN_HOST), origin: Some(FOREIGN_ORIGIN), ..self.ping() };
            inside.rebound = Some(client.ask(both).await);
        }
        if inside.foreign_origin.answer().is_some_and(|answer| answer.allows_origin.is_some()) {
            inside.preflight = Some(client.ask(Ask::preflight(FOREIGN_ORIGIN)).await);
        }
    }

    async fn unknown_sessions(&self, id: &str) -> Session {
        let client = self.client;
        let misshapen = misshapen();
        let foreign = sibling(id).unwrap_or_else(|| misshapen.clone());
        let missing = client.ask(Ask { session: None, ..self.ping() }).await;
        let refused = missing.answer().filter(|answer| answer.result.is_none());
        let stray = match refused.and_then(|answer| answer.session.as_deref()) {
            Some(stray) => Some(client.ask(Ask { session: Some(stray), ..self.ping() }).await),
            None => None,
        };
        let stream = Ask::get().within(Duration::from_secs(3));
        Session {
            missing,
            stray,
            foreign: client.ask(Ask { session: Some(&foreign), ..self.ping() }).await,
            misshapen: client.ask(Ask { session: Some(&misshapen), ..self.ping() }).await,
            foreign_stream: client.ask(stream.of(Some(&misshapen), self.version)).await,
            ..Session::default()
        }
    }

    /// Asks for every other legacy revision, and for one that does not exist.
    async fn revisions(&self, inside: &mut Inside) {
        for revision in [Revision::V2025_06_18, Revision::V2025_03_26, Revision::V2024_11_05] {
            let (seen, opened) = open(self.client, revision.as_str()).await;
            if let Some((id, spoken)) = opened {
                self.client.end(&id, &spoken).await;
                inside.ids.push(id);
            }
            inside.revisions.push((revision, seen));
        }
        let (seen, opened) = open(self.client, NEVER).await;
        if let Some((id, spoken)) = opened {
            self.client.end(&id, &spoken).await;
            inside.ids.push(id);
        }
        inside.revision_unknown = seen;
    }
}

/// An id that looks like no server's.
fn misshapen() -> String {
    format!("relatch-doctor-{}", relatch_net::entropy::session_id())
}

/// An id of the same form that was surely never issued; none where ids are so short that it could be somebody's.
fn sibling(id: &str) -> Option<String> {
    const TURNED: usize = 8;
    const ENOUGH: usize = 16;
    if id.chars().filter(char::is_ascii_alphanumeric).count() < ENOUGH {
        return None;
    }
    let mut left = TURNED;
    let turned = id.chars().rev().map(|c| {
        let next = |first: char, last: char| if c == last { first } else { char::from(c as u8 + 1) };
        let other = match c {
            '0'..='9' => next('0', '9'),
            'a'..='f' => next('a', 'f'),
            'A'..='F' => next('A', 'F'),
            'g'..='z' => next('g', 'z'),
            'G'..='Z' => next('G', 'Z'),
            _ => return c,
        };
        if left == 0 {
            return c;
        }
        left -= 1;
        other
    });
    Some(turned.collect::<Vec<_>>().into_iter().rev().collect())
}

/// Whether this is a page or a stream of the old transport.
pub(crate) fn is_old_transport(get: &Seen) -> bool {
    get.answer()
        .is_some_and(|answer| answer.form == Form::Events && answer.event.as_deref() == Some("endpoint"))
}

/// Whether nothing at all answered.
pub(crate) fn is_away(seen: &Seen) -> bool {
    matches!(seen.end, End::Broken(_) | End::Silent(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sibling_has_the_same_form_and_is_another_id() {
        for id in [
            "cdfa292f-6ae7-41eb-a854-e01aabfc13a6",
            "a30ee8aa954543f39dccec5e1bf761ab",
            "mcp-session-cdfa292f-6ae7-41eb-a854-ffffffff9999",
        ] {
            let sibling = sibling(id).unwrap();
            assert_ne!(sibling, id);
            assert_eq!(sibling.len(), id.len());
            assert_eq!(sibling[..id.len() - 8], id[..id.len() - 8], "only the end differs");
            assert!(sibling.chars().zip(id.chars()).all(|(a, b)| a.is_ascii_digit() == b.is_ascii_digit()));
        }
        assert_eq!(sibling("7"), None, "the next number may be somebody's session");
    }

    #[test]
    fn only_redirects_that_relatch_follows_are_followed() {
        let from = Target::parse("http://127.0.0.1:8761/mcp").unwrap();
        let answer = |status, location: &str| Answer {
            status,
            location: Some(location.to_owned()),
            ..Answer::default()
        };
        let to = |status, location| followed(&answer(status, location), &from).map(|next| next.to_string());
        assert_eq!(to(307, "/mcp/").as_deref(), Some("http://127.0.0.1:8761/mcp/"));
        assert_eq!(to(308, "http://127.0.0.1:8761/x").as_deref(), Some("http://127.0.0.1:8761/x"));
        assert_eq!(to(302, "/mcp/"), None);
        assert_eq!(to(307, "http://example.com/mcp"), None);
    }
}
