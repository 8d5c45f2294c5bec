//! What clients bring, put on the desk and reported to the core; the same for both sides.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use relatch_core::health::{ClientSeen, ServerSeen};
use relatch_core::input::{Ask, Input, Keep, Restored, Told};
use relatch_core::record::Record;
use relatch_core::{ExId, LatchId, NoteId};
use relatch_wire::era::Revision;
use relatch_wire::headers::forwarded_downstream_header;
use relatch_wire::method::{self, ListKind};
use relatch_wire::{Kind, RequestId, params};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::desk::{Arrival, Exchange, Note, NoteReply};
use crate::downstream::streams::Streams;
use crate::driver::Upstream;
use crate::exchange::{Chunk, Final, Piece, Pieces, Rests, Running, Shape, Sink};
use crate::latch::Latch;
use crate::names;
use crate::outbox::Outbox;
use crate::words::{self, Drain};

/// A request on its way in.
pub(crate) struct Request {
    pub(crate) arrival: Arrival,
    /// Its id.
    pub(crate) id: RequestId,
    /// Whether the client takes messages before the answer.
    pub(crate) takes_events: bool,
    /// Its share of what this keeper may keep.
    pub(crate) kept: Option<OwnedSemaphorePermit>,
}

/// An exchange as its front holds it. When this is dropped before the answer was put in, the client has left.
pub(crate) struct Asked {
    up: Arc<Upstream>,
    ex: ExId,
    latch: LatchId,
    pub(crate) id: RequestId,
    pub(crate) pieces: Pieces,
    /// The token under which its client wants progress.
    token: Option<RequestId>,
    /// How often its client was told that it still waits, from the first early word on.
    held: Option<u32>,
    /// Its attempt, while that is driven from here.
    driven: Option<Running>,
}

/// What there is to say to a client that waits for an answer.
pub(crate) enum Heard {
    /// The next piece; none when the session is over.
    Piece(Option<Piece>),
    /// Progress: the call still waits for its upstream.
    StillHeld(Bytes),
}

/// A held call's client hears of it this often, if it asked for progress: the common time-out is 60 s without.
const STILL_HELD: Duration = Duration::from_secs(10);

impl Asked {
    /// The upstream's name.
    pub(crate) fn upstream(&self) -> &str {
        &self.up.name
    }

    /// The next piece.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        let piece = next(&mut self.driven, &mut self.pieces).await;
        self.hears(piece)
    }

    /// The next piece, if it is there already.
    pub(crate) fn ready(&mut self) -> Option<Piece> {
        let piece = self.pieces.ready()?;
        self.hears(Some(piece))
    }

    /// An early word begins a wait of which its client hears; whatever else comes ends it.
    fn hears(&mut self, piece: Option<Piece>) -> Option<Piece> {
        self.held = matches!(piece, Some(Piece::Early)).then_some(0);
        piece
    }

    /// The next chunk of a long answer.
    pub(crate) async fn chunk(&mut self, chunks: &mut mpsc::Receiver<Chunk>) -> Option<Chunk> {
        std::future::poll_fn(|cx| {
            drive(&mut self.driven, cx);
            chunks.poll_recv(cx)
        })
        .await
    }

    /// Waits for something else, such as the client, while its attempt goes on.
    pub(crate) async fn meanwhile<T>(&mut self, waits: impl Future<Output = T>) -> T {
        let mut waits = pin!(waits);
        std::future::poll_fn(|cx| {
            let outcome = waits.as_mut().poll(cx);
            if outcome.is_pending() {
                drive(&mut self.driven, cx);
            }
            outcome
        })
        .await
    }

    /// From now on its attempt goes on by itself, since what is done here may wait for the client.
    pub(crate) fn let_go(&mut self) {
        if let Some(running) = self.driven.take() {
            running.apart();
        }
    }

    /// The answer is there: what is left of its attempt goes on with these.
    pub(crate) fn leave_to(&mut self, rests: &Rests) {
        if let Some(running) = self.driven.take() {
            rests.take(running);
        }
    }

    /// The next piece, or that the call is still held.
    pub(crate) async fn hear(&mut self) -> Heard {
        let piece = match (&self.token, self.held) {
            (Some(token), Some(told)) => tokio::select! {
                biased;
                piece = next(&mut self.driven, &mut self.pieces) => piece,
                () = tokio::time::sleep(STILL_HELD) => {
                    let words = words::still_held(&self.up.name, token, told);
                    self.held = Some(told + 1);
                    return Heard::StillHeld(words);
                }
            },
            (Some(_) | None, _) => next(&mut self.driven, &mut self.pieces).await,
        };
        Heard::Piece(self.hears(piece))
    }

    /// The number of its stream, should it become one.
    pub(crate) fn number(&self) -> u64 {
        self.ex.0
    }

    /// What its event ids begin with.
    pub(crate) fn event_prefix(&self) -> Arc<str> {
        Arc::clone(&self.up.common.events)
    }

    /// Where its stream can be found again, none where the session has no id by which to come back; and the revision that the
    /// client was promised.
    pub(crate) fn streams(&self) -> (Option<Arc<Streams>>, Option<Revision>) {
        self.up.desk(|desk| {
            let Some(latch) = desk.latches.get_mut(&self.latch) else { return (None, None) };
            let streams = (!latch.sid.is_empty()).then(|| Arc::clone(latch.streams()));
            (streams, latch.promised.as_deref().and_then(Revision::parse))
        })
    }
}

/// The next piece, the attempt that brings it driven on meanwhile.
async fn next(driven: &mut Option<Running>, pieces: &mut Pieces) -> Option<Piece> {
    std::future::poll_fn(|cx| pieces.poll_driven(cx, |cx| drive(driven, cx))).await
}

fn drive(driven: &mut Option<Running>, cx: &mut Context<'_>) {
    if let Some(running) = driven
        && Pin::new(running).poll(cx).is_ready()
    {
        *driven = None;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let ex = self.ex;
        // Before the core hears that nobody waits: what it says then is about an attempt that goes on.
        self.let_go();
        self.up.fact_after(|desk| desk.close_exchange(ex).is_some(), Input::Left { ex });
    }
}

impl Upstream {
    /// A downstream session begins with this `initialize`.
    pub(crate) fn open(self: &Arc<Self>, latch: LatchId, sid: Arc<str>, request: Request) -> Asked {
        let raw = request.arrival.envelope.params(&request.arrival.message).unwrap_or_default();
        let client = client_of(raw);
        let initialize = String::from_utf8_lossy(raw).into_owned();
        let opened = jiff::Timestamp::now().as_millisecond();
        let ask = ask_of(&request);
        let (ex, asked, exchange) = self.exchange(latch, request, true);
        let mut kept = Latch::new(sid, opened);
        kept.credentials.seen(exchange.arrival.number, &exchange.arrival.headers);
        self.fact_after(
            |desk| {
                kept.initialize = desk.alike.initialize(&initialize);
                desk.latches.insert(latch, Box::new(kept));
                desk.exchanges.insert(ex, exchange);
                true
            },
            Input::Opened { latch, ex, ask, client },
        );
        asked
    }

    /// A downstream session of a keeper that ran before goes on.
    pub(crate) fn restore(self: &Arc<Self>, id: LatchId, record: &Record) {
        let place = self.place();
        let latch = self.desk(|desk| Latch::of_record(record, &place, &mut desk.alike));
        let restored = Restored {
            bound: latch.inherited,
            has_id: record.session.as_ref().is_some_and(|session| session.id.is_some()),
            begun: record.generation,
            initialized: record.initialized,
            revision: record.revision.clone(),
            client: client_of(record.initialize.as_bytes()),
            server: record.session.as_ref().map(|session| ServerSeen {
                name: session.server.as_ref().map(|(name, _)| name.clone()),
                version: session.server.as_ref().map(|(_, version)| version.clone()),
                protocol: session.revision.clone(),
                era: relatch_wire::era::Era::Legacy.as_str(),
            }),
            level: record.level.clone(),
            subscriptions: record.subscriptions.clone(),
            lists: latch.known_lists(),
            hints: record.hints.iter().map(|(tool, (r, i))| (tool.clone(), *r, *i)).collect(),
        };
        self.fact_after(
            |desk| {
                desk.latches.insert(id, Box::new(latch));
                true
            },
            Input::Restored { latch: id, restored },
        );
    }

    /// A client asks for something; `None` when its session is over.
    pub(crate) fn ask(self: &Arc<Self>, latch: LatchId, request: Request) -> Option<Asked> {
        if let Some(text) = self.answer_itself(latch, &request) {
            // It was never an exchange: nothing waits for the server, and nothing counts as a call.
            let (ex, asked, mut exchange) = self.exchange(latch, request, false);
            exchange.ends("told", false);
            exchange.sink.put(Piece::Final(Final::Message { text, shape: Shape::Json }));
            tracing::debug!(upstream = %self.name, exchange = ex.0, "told a client how its connection is");
            return Some(asked);
        }
        let ask = ask_of(&request);
        let (ex, mut asked, exchange) = self.exchange(latch, request, false);
        let mut known = false;
        asked.driven = self.fact_of(
            ex,
            |desk| {
                if let Some(kept) = desk.latches.get_mut(&latch) {
                    kept.credentials.seen(exchange.arrival.number, &exchange.arrival.headers);
                    desk.exchanges.insert(ex, exchange);
                    known = true;
                }
                known
            },
            Input::Asked { latch, ex, ask },
        );
        known.then_some(asked)
    }

    /// A client sends what expects no answer; `None` when its session is over.
    pub(crate) fn tell(
        self: &Arc<Self>,
        latch: LatchId,
        arrival: Arrival,
    ) -> Option<oneshot::Receiver<NoteReply>> {
        let note = NoteId(self.common.next());
        let (reply, heard) = oneshot::channel();
        let named = arrival.envelope.params(&arrival.message).and_then(params::cancelled_request_id);
        // A server's request is answered once, so this is asked before the fact is told.
        let mut told = match (&arrival.envelope.kind, named) {
            (Kind::Notification { method }, named) => match (method.as_str(), named) {
                (method::INITIALIZED, _) => Told::Initialized,
                (method::CANCELLED, Some((id, _))) => Told::Cancelled(id),
                _ => Told::Other,
            },
            (Kind::Result { .. } | Kind::Error { .. } | Kind::Request { .. }, _) => Told::Answer(None),
        };
        let known = self.desk(|desk| {
            let kept = desk.latches.get_mut(&latch)?;
            kept.credentials.seen(arrival.number, &arrival.headers);
            if let (Told::Answer(generation), Some(id)) = (&mut told, arrival.envelope.id()) {
                *generation = kept.answered(id);
            }
            Some(())
        });
        known?;
        let cancels = match &told {
            Told::Cancelled(id) => Some(id.clone()),
            Told::Initialized | Told::Answer(_) | Told::Other => None,
        };
        self.fact_after(
            |desk| {
                desk.notes.insert(note, Note { latch, arrival, cancels, reply: Some(reply), refused: None });
                true
            },
            Input::Told { latch, note, told },
        );
        Some(heard)
    }

    /// A reader takes the standing stream of a latch: its queue, and the reader's number there.
    pub(crate) fn attach(
        self: &Arc<Self>,
        latch: LatchId,
        headers: Arc<HeaderMap>,
        after: Option<u64>,
    ) -> Option<(Arc<Outbox>, u64)> {
        let mut taken = None;
        self.fact_after(
            |desk| {
                let Some(kept) = desk.latches.get_mut(&latch) else { return false };
                kept.credentials.seen(self.common.next(), &headers);
                let trusted = kept.credentials.trusts(&headers);
                let number = kept.outbox().attach(trusted, after);
                kept.reader = Some(headers).filter(|_| !trusted);
                taken = Some((Arc::clone(kept.outbox()), number));
                true
            },
            Input::Attached { latch },
        );
        taken
    }

    /// The streams that this client may come back to; none while its credentials are not known to be good.
    pub(crate) fn streams(self: &Arc<Self>, latch: LatchId, headers: &HeaderMap) -> Option<Arc<Streams>> {
        self.desk(|desk| {
            let kept = desk.latches.get_mut(&latch)?;
            kept.credentials.trusts(headers).then(|| Arc::clone(kept.streams()))
        })
    }

    /// A reader of the standing stream leaves.
    pub(crate) fn detach(self: &Arc<Self>, latch: LatchId, number: u64) {
        self.fact_after(
            |desk| desk.latches.get_mut(&latch).is_some_and(|kept| kept.outbox().detach(number)),
            Input::Detached { latch },
        );
    }

    /// The downstream session is over.
    pub(crate) fn end(self: &Arc<Self>, latch: LatchId) {
        self.fact_after(
            |desk| {
                let Some(kept) = desk.latches.get(&latch) else { return false };
                // From now on its id means nothing, whatever is still under way for it.
                if !kept.sid.is_empty() {
                    self.common.sessions.remove(&kept.sid);
                    self.common.writer.remove(&kept.sid);
                }
                true
            },
            Input::Ended { latch },
        );
    }

    /// Ends calls because this process or this upstream does: those that were not sent, or all.
    pub(crate) fn drain(self: &Arc<Self>, all: bool, why: Drain) {
        for (ex, sent) in self.desk(|desk| desk.to_drain(all)) {
            self.fact_after(
                |desk| {
                    let Some(mut exchange) = desk.close_exchange(ex) else { return false };
                    exchange.ends("draining", true);
                    let text = words::draining(&self.name, &exchange.id, sent, why);
                    exchange.sink.put(Piece::Final(Final::Message { text, shape: Shape::Json }));
                    true
                },
                Input::Left { ex },
            );
        }
    }

    /// Whether nothing runs for this latch any more.
    pub(crate) fn is_quiet(&self, latch: LatchId) -> bool {
        self.desk(|desk| !desk.attempts.values().any(|attempt| attempt.latch == latch && !attempt.ended))
    }

    fn exchange(
        self: &Arc<Self>,
        latch: LatchId,
        request: Request,
        opening: bool,
    ) -> (ExId, Asked, Exchange) {
        let ex = ExId(self.common.next());
        let Request { arrival, id, takes_events, kept } = request;
        let (sink, pieces) = Sink::open(takes_events);
        let raw = arrival.envelope.params(&arrival.message).unwrap_or_default();
        let list = arrival
            .envelope
            .method()
            .and_then(ListKind::from_method)
            .map(|kind| (kind, params::cursor(raw).is_none()));
        let token = arrival.envelope.progress_token(&arrival.message);
        let span = self.common.spans.get().and_then(|spans| spans.begin(&self.name, &arrival));
        let tapped = self.common.tap.get().map(|tap| {
            let method = arrival.envelope.method().unwrap_or_default();
            let tool = if method == method::TOOLS_CALL {
                arrival.envelope.param_name(&arrival.message)
            } else {
                None
            };
            Box::new(tap.asked(ex, method, tool))
        });
        let exchange = Exchange {
            latch,
            id: id.clone(),
            arrival,
            sink,
            attempts: Vec::new(),
            token: token.clone(),
            progress: None,
            list,
            opening,
            copy: None,
            span,
            tapped,
            _kept: kept,
        };
        (ex, Asked { up: Arc::clone(self), ex, latch, id, pieces, token, held: None, driven: None }, exchange)
    }
}

fn ask_of(request: &Request) -> Ask {
    let arrival = &request.arrival;
    let name = arrival.envelope.method().unwrap_or_default();
    let params = arrival.envelope.params(&arrival.message);
    let raw = params.unwrap_or_default();
    let text = || String::from_utf8_lossy(raw).into_owned();
    let keep = match name {
        method::SET_LEVEL => Keep::Level(text()),
        method::RESOURCES_SUBSCRIBE => {
            params::uri(raw).map_or(Keep::Nothing, |uri| Keep::Subscribe(uri, text()))
        }
        method::RESOURCES_UNSUBSCRIBE => params::uri(raw).map_or(Keep::Nothing, Keep::Unsubscribe),
        _ => ListKind::from_method(name).map_or(Keep::Nothing, Keep::List),
    };
    Ask {
        id: request.id.clone(),
        method: name.to_owned(),
        tool: (name == method::TOOLS_CALL).then(|| arrival.envelope.param_name(&arrival.message)).flatten(),
        accepts_sse: request.takes_events,
        keep,
    }
}

fn client_of(params: &[u8]) -> Option<ClientSeen> {
    params::client_identity(params).map(|client| ClientSeen { name: client.name, version: client.version })
}

/// The headers of a client's request that go on to its upstream, copied so that they hold on to no buffer; where they
/// are those of `last`, that.
pub(crate) fn forwardable(headers: &HeaderMap, last: &Arc<HeaderMap>) -> Arc<HeaderMap> {
    let goes = going(headers);
    let mut same = last.iter();
    let all_same = headers.iter().all(|(name, value)| !goes(name) || same.next() == Some((name, value)));
    if all_same && same.next().is_none() {
        return Arc::clone(last);
    }
    let copied = headers
        .iter()
        .filter(|(name, _)| goes(name))
        .filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?)));
    Arc::new(copied.collect())
}

/// What stays of nearly every request, known without its spelling being looked at.
static USUAL: [HeaderName; 7] =
    [HOST, ACCEPT, CONTENT_TYPE, CONTENT_LENGTH, CONNECTION, names::SESSION, names::REVISION];

/// Which headers of a request go on: not those that its `Connection` names.
fn going(headers: &HeaderMap) -> impl Fn(&HeaderName) -> bool {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        // `keep-alive` and the like stay anyway.
        .filter(|name| forwarded_downstream_header(name))
        .map(str::to_ascii_lowercase)
        .collect();
    move |name| {
        !USUAL.contains(name)
            && forwarded_downstream_header(name.as_str())
            && !named.iter().any(|other| other == name.as_str())
    }
}

/// A message and its envelope with what came along.
pub(crate) fn arrival(
    number: u64,
    message: Bytes,
    envelope: relatch_wire::Envelope,
    headers: Arc<HeaderMap>,
) -> Arrival {
    Arrival { message, envelope, headers, number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_stay_is_what_stays() {
        for name in &USUAL {
            assert!(!forwarded_downstream_header(name.as_str()), "{name}");
        }
    }
}
