//! What an attempt is to send: the request built from what lies on the desk.
//!
//! Every header that goes to an upstream is set here. Whether and when it is sent is decided in the core.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use relatch_core::effect::{Connection, IdRule, Send, What};
use relatch_core::{AttemptId, Gen, LatchId};
use relatch_wire::handshake::{initialize_message, initialized_message, ping_message, request_message};
use relatch_wire::headers::{ACCEPT_BOTH, JSON, SSE};
use relatch_wire::rewrite::split_server_request_id;
use relatch_wire::{Kind, RequestId, method, params};

use super::attempt::{COLLECTED, WHOLE};
use super::dial::ConnRule;
use super::place::Place;
use crate::desk::{Arrival, Attempt, Desk};
use crate::driver::Upstream;
use crate::names;
use crate::spans::AttemptSpan;

/// One attempt, ready to be sent.
pub(crate) struct Job {
    pub(crate) attempt: AttemptId,
    /// Whose events and answer its stream brings: its own, or those of the attempt that it resumes.
    pub(crate) of: AttemptId,
    pub(crate) latch: LatchId,
    pub(crate) generation: Gen,
    pub(crate) what: What,
    /// The id under which it travels.
    pub(crate) id: Option<RequestId>,
    /// Where it goes.
    pub(crate) place: Arc<Place>,
    /// Its session lives on a stream of the old transport.
    pub(crate) streamed: bool,
    pub(crate) request: Outgoing,
    pub(crate) rule: ConnRule,
    /// A longer answer streams on, if it can.
    pub(crate) whole: usize,
}

/// A request before it is given to a connection, which gives nothing back when it was gone: it is made for each.
#[derive(Clone)]
pub(crate) struct Outgoing {
    verb: Method,
    pub(crate) uri: Uri,
    /// The message alone.
    pub(crate) body: Bytes,
    accept: &'static str,
    /// The client's headers.
    given: Option<Arc<HeaderMap>>,
    /// Those that the user configured, which replace the client's.
    configured: Arc<HeaderMap>,
    revision: Option<HeaderValue>,
    session: Option<HeaderValue>,
    last_event: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl Outgoing {
    /// The same asking for a stream.
    pub(crate) fn for_a_stream(&self) -> Outgoing {
        Outgoing { verb: Method::GET, body: Bytes::new(), accept: SSE, ..self.clone() }
    }

    /// The same to another place of its server.
    pub(crate) fn to(&self, uri: Uri) -> Outgoing {
        Outgoing { uri, ..self.clone() }
    }

    /// The request, for this host.
    pub(crate) fn request(&self, host: &HeaderValue) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.verb.clone();
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        // Beside those: the host, the body's length, and six at most of relatch's own.
        headers.reserve(self.given.as_ref().map_or(0, |given| given.len()) + self.configured.len() + 8);
        if let Some(given) = &self.given {
            headers.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        for (name, value) in &*self.configured {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.verb == Method::POST {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        let mut insert = |name: HeaderName, value: &Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        };
        insert(names::REVISION, &self.revision);
        insert(names::SESSION, &self.session);
        insert(names::LAST_EVENT, &self.last_event);
        insert(names::TRACE, &self.trace);
        if !headers.contains_key(HOST) {
            headers.insert(HOST, host.clone());
        }
        request
    }
}

/// What belongs to an attempt besides its request.
pub(crate) struct Names {
    /// The id under which it travels.
    pub(crate) id: Option<RequestId>,
    /// The id under which its answer goes on.
    pub(crate) client_id: Option<RequestId>,
    /// The credentials that it carries.
    pub(crate) headers: Option<(u64, Arc<HeaderMap>)>,
}

/// Builds an attempt; `None` when what it needs has left the desk.
pub(crate) fn build(
    up: &Upstream,
    desk: &Desk,
    send: &Send,
    span: Option<&AttemptSpan>,
) -> Option<(Job, Names)> {
    let latch = desk.latches.get(&send.latch);
    let session = latch.and_then(|latch| latch.sessions.get(send.generation));
    let orphan = desk.orphans.get(&(send.latch, send.generation));
    let session = session.or(orphan.map(|(session, _)| session));
    let own = || match latch {
        Some(latch) => latch.credentials.own(),
        None => orphan.and_then(|(_, headers)| headers.clone()),
    };
    let of_arrival = |arrival: &Arrival| Some((arrival.number, Arc::clone(&arrival.headers)));

    let mut names = Names { id: None, client_id: None, headers: None };
    let mut of = send.attempt;
    let mut verb = Method::POST;
    let mut accept = ACCEPT_BOTH;
    let mut last_event = None;
    let body = match &send.what {
        What::Exchange { ex, id } => {
            let exchange = desk.exchanges.get(ex)?;
            let arrival = &exchange.arrival;
            names.headers = of_arrival(arrival);
            names.client_id = Some(exchange.id.clone());
            match id {
                IdRule::Own => {
                    names.id = Some(exchange.id.clone());
                    arrival.message.clone()
                }
                IdRule::Mapped => {
                    let id = up.own_id();
                    let message = arrival.envelope.with_id(&arrival.message, &id);
                    names.id = Some(id);
                    message
                }
            }
        }
        What::Initialize { ex: Some(ex) } => {
            let exchange = desk.exchanges.get(ex)?;
            names.headers = of_arrival(&exchange.arrival);
            names.client_id = Some(exchange.id.clone());
            names.id = Some(exchange.id.clone());
            exchange.arrival.message.clone()
        }
        What::Initialize { ex: None } => {
            let latch = latch?;
            names.headers = own();
            let id = up.own_id();
            let message = initialize_message(&id, latch.initialize.as_bytes(), latch.promised.as_deref());
            names.id = Some(id);
            message
        }
        What::Initialized => {
            names.headers = own();
            initialized_message()
        }
        What::Ping => {
            names.headers = own();
            let id = up.own_id();
            let message = ping_message(&id);
            names.id = Some(id);
            message
        }
        What::SetLevel(raw) => own_request(up, &mut names, own(), method::SET_LEVEL, Some(raw)),
        What::Subscribe(raw) => own_request(up, &mut names, own(), method::RESOURCES_SUBSCRIBE, Some(raw)),
        What::List { kind, cursor } => {
            let raw = cursor.as_ref().map(|cursor| serde_json::json!({ "cursor": cursor }).to_string());
            own_request(up, &mut names, own(), kind.method(), raw.as_deref())
        }
        What::Note(note) => {
            let note = desk.notes.get(note)?;
            names.headers = of_arrival(&note.arrival);
            note_message(desk, send, &note.arrival, note.cancels.as_ref())
        }
        What::Stream => {
            names.headers = own();
            verb = Method::GET;
            accept = SSE;
            last_event = session.and_then(|session| session.last_event.as_deref().map(str::to_owned));
            Bytes::new()
        }
        What::Resume { of: resumed } => {
            let resumed_attempt = desk.attempts.get(resumed)?;
            names.headers = own();
            names.id = resumed_attempt.id.clone();
            names.client_id = resumed_attempt.client_id.clone();
            last_event = resumed_attempt.last_event.clone();
            of = *resumed;
            verb = Method::GET;
            accept = SSE;
            Bytes::new()
        }
        What::Delete => {
            names.headers = own();
            verb = Method::DELETE;
            Bytes::new()
        }
    };

    // A new session is opened where the upstream is now; one that is open is spoken to where it was opened.
    let opens = matches!(send.what, What::Initialize { .. });
    let session = session.filter(|_| !opens);
    let place = session.map_or_else(|| up.place(), |session| Arc::clone(&session.place));
    let request = Outgoing {
        verb,
        uri: place.uri()?,
        body,
        accept,
        given: names.headers.as_ref().map(|(_, given)| Arc::clone(given)),
        configured: place.headers(),
        revision: session.and_then(|session| value(&session.said.revision)),
        session: session
            .filter(|session| !session.streamed)
            .and_then(|session| value(session.id.as_deref()?)),
        last_event: last_event.as_deref().and_then(value),
        trace: span.and_then(|span| value(&span.traceparent())),
    };
    let rule = match send.connection {
        Connection::Any => ConnRule::Any,
        Connection::Young => ConnRule::Young,
        Connection::Fresh => ConnRule::Fresh,
    };
    let streamed = session.is_some_and(|session| session.streamed);
    let job = Job {
        attempt: send.attempt,
        of,
        latch: send.latch,
        generation: send.generation,
        what: send.what.clone(),
        id: names.id.clone(),
        place,
        streamed,
        request,
        rule,
        // A list that went by unseen could not be compared after a restart.
        whole: if lists(desk, send) { COLLECTED } else { WHOLE },
    };
    Some((job, names))
}

/// Whether the answer is a list that the client asked for.
fn lists(desk: &Desk, send: &Send) -> bool {
    let ex = match &send.what {
        What::Resume { of } => desk.attempts.get(of).and_then(Attempt::ex),
        What::Exchange { ex, .. } => Some(*ex),
        What::Initialize { .. }
        | What::Initialized
        | What::Ping
        | What::SetLevel(_)
        | What::Subscribe(_)
        | What::List { .. }
        | What::Note(_)
        | What::Stream
        | What::Delete => None,
    };
    ex.and_then(|ex| desk.exchanges.get(&ex)).is_some_and(|exchange| exchange.list.is_some())
}

fn own_request(
    up: &Upstream,
    names: &mut Names,
    headers: Option<(u64, Arc<HeaderMap>)>,
    method: &str,
    raw: Option<&str>,
) -> Bytes {
    names.headers = headers;
    let id = up.own_id();
    let message = request_message(&id, method, raw.map(str::as_bytes));
    names.id = Some(id);
    message
}

/// The client's message, ids in it as the upstream knows them.
fn note_message(desk: &Desk, send: &Send, arrival: &Arrival, cancels: Option<&RequestId>) -> Bytes {
    let Arrival { message, envelope, .. } = arrival;
    match (&envelope.kind, cancels) {
        (Kind::Notification { .. }, Some(id)) => {
            let travels_as = desk.travels_as(send.latch, send.generation, id).filter(|sent| sent != id);
            match (travels_as, envelope.params(message).and_then(params::cancelled_request_id)) {
                (Some(sent), Some((_, span))) => envelope.with_params_value(message, span, sent.raw()),
                (Some(_) | None, _) => message.clone(),
            }
        }
        (Kind::Result { id } | Kind::Error { id: Some(id), .. }, _) => match split_server_request_id(id) {
            Some((_, original)) => envelope.with_id(message, &original),
            None => message.clone(),
        },
        (Kind::Notification { .. } | Kind::Request { .. } | Kind::Error { id: None, .. }, _) => {
            message.clone()
        }
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    // What came in a header or a stream can go out in one, unless it holds control characters: then it is left out.
    HeaderValue::from_str(text).ok()
}
