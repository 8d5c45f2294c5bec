//! A POST of a client: read within bounds, sorted by what its message is, and answered.
//!
//! Refused here is only what is about the HTTP request itself; what becomes of a call is decided in the core.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use relatch_core::LatchId;
use relatch_wire::envelope::{Body as Messages, INVALID_REQUEST, read_body};
use relatch_wire::era::{Era, Revision};
use relatch_wire::failure::{method_not_found, rpc_error, unsupported_version};
use relatch_wire::headers::{Accepts, JSON, MAX_SESSION_ID, accepts, is_type};
use relatch_wire::{Envelope, Kind, RequestId, method};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::Body;
use super::reply;
use crate::desk::{Arrival, NoteReply};
use crate::driver::Upstream;
use crate::exchange::{Chunk, Final, Piece, Rests};
use crate::intake::{self, Asked};
use crate::keeper::Keeper;
use crate::quiet::through;
use crate::{names, words};

/// The largest body that is read.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// So much of a body is taken as it comes.
const PROMISED: usize = 1024 * 1024;
/// A body has to be whole within this.
const BODY_WITHIN: Duration = Duration::from_secs(120);
/// A body up to this is read even when nothing more may be kept, so that its sender gets a proper answer.
const ALWAYS_READ: usize = 64 * 1024;
/// The code of refusals that carry no code of their own.
const SERVER_ERROR: i64 = -32000;

/// A refusal without an id.
pub(crate) fn refuse(status: StatusCode, code: i64, words: &str) -> Response<Body> {
    reply::json_status(status, rpc_error(None, code, words, None))
}

/// A refusal on its way out of what was being done.
pub(crate) type Refusal = Box<Response<Body>>;

fn refused(status: StatusCode, code: i64, words: &str) -> Refusal {
    Box::new(refuse(status, code, words))
}

/// The one answer by which every client knows that its session is over.
pub(crate) fn session_not_found() -> Refusal {
    refused(StatusCode::NOT_FOUND, -32001, "Session not found")
}

/// The client's session id; a refusal where there is none.
pub(crate) fn session_id(headers: &HeaderMap) -> Result<&str, Refusal> {
    let Some(id) = headers.get(names::SESSION) else {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            SERVER_ERROR,
            "Bad Request: Mcp-Session-Id header is required",
        ));
    };
    match id.to_str() {
        Ok(id) if (1..=MAX_SESSION_ID).contains(&id.len()) => Ok(id),
        Ok(_) | Err(_) => Err(session_not_found()),
    }
}

/// The client's version header has to name a known revision, and says nothing more here.
pub(crate) fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(given) = headers.get(names::REVISION) else { return Ok(()) };
    match given.to_str().ok().and_then(Revision::parse) {
        Some(_) => Ok(()),
        None => {
            let shown: String = String::from_utf8_lossy(given.as_bytes()).chars().take(32).collect();
            let known: Vec<_> = Revision::ALL.iter().map(|revision| revision.as_str()).collect();
            Err(refused(
                StatusCode::BAD_REQUEST,
                SERVER_ERROR,
                &format!(
                    "Bad Request: Unsupported protocol version: {shown} (supported versions: {})",
                    known.join(", ")
                ),
            ))
        }
    }
}

/// Answers a POST.
pub(crate) async fn post(
    keeper: &Arc<Keeper>,
    up: &Arc<Upstream>,
    headers: &HeaderMap,
    body: Incoming,
    rests: &Rests,
) -> Result<Response<Body>, Refusal> {
    let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if !header(&CONTENT_TYPE).is_some_and(|kind| is_type(kind, JSON)) {
        return Err(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            SERVER_ERROR,
            "Unsupported Media Type: Content-Type must be application/json",
        ));
    }
    let accepted = match headers.contains_key(ACCEPT) {
        true => all_accepts(headers),
        // RFC 9110 §12.5.1: no field, no preference.
        false => Accepts { json: true, sse: true },
    };
    if !accepted.json && !accepted.sse {
        return Err(refused(
            StatusCode::NOT_ACCEPTABLE,
            SERVER_ERROR,
            "Not Acceptable: Client must accept application/json or text/event-stream",
        ));
    }
    check_version(headers)?;
    let body = collect(body, header(&CONTENT_LENGTH), &keeper.common.kept);
    let mut body = pin!(body);
    // Most bodies come with their head, and need no time.
    let collected = match std::future::poll_fn(|cx| Poll::Ready(body.as_mut().poll(cx))).await {
        Poll::Ready(collected) => collected,
        Poll::Pending => tokio::time::timeout(BODY_WITHIN, body).await.unwrap_or_else(|_| {
            let words = "Request Timeout: a body has to be whole within 2 minutes";
            Err(refused(StatusCode::REQUEST_TIMEOUT, SERVER_ERROR, words))
        }),
    };
    let (text, kept) = collected?;
    let messages = through(&text, read_body).await.map_err(|malformed| {
        let id = malformed.id.as_ref();
        let text = rpc_error(id, malformed.code, &malformed.message, None);
        Box::new(reply::json_status(StatusCode::BAD_REQUEST, text))
    })?;
    let asks = |envelope: &Envelope| matches!(envelope.kind, Kind::Request { .. });
    let new = match &messages {
        Messages::One(envelope) => asks(envelope),
        Messages::Batch(batch) => batch.iter().any(|(_, envelope)| asks(envelope)),
    };
    if new && up.is_leaving() {
        // It was taken out of the configuration: what belongs to running calls still goes on, and nothing else.
        return Err(session_not_found());
    }
    let forwarded = keeper.common.forwardable(headers);
    let mut post = Post { keeper, up, headers, forwarded, accepted, kept, rests };
    match messages {
        Messages::One(envelope) => post.one(text, envelope).await,
        Messages::Batch(batch) => {
            let batch =
                batch.into_iter().map(|(span, envelope)| (text.slice(span), envelope)).collect::<Vec<_>>();
            Box::pin(post.batch(batch)).await
        }
    }
}

/// One POST whose body is read.
struct Post<'a> {
    keeper: &'a Arc<Keeper>,
    up: &'a Arc<Upstream>,
    headers: &'a HeaderMap,
    forwarded: Arc<HeaderMap>,
    accepted: Accepts,
    /// What the body may be kept by; `None` when the keeper is full.
    kept: Option<OwnedSemaphorePermit>,
    /// Who goes on with what is left of an attempt.
    rests: &'a Rests,
}

impl Post<'_> {
    async fn one(&mut self, message: Bytes, envelope: Envelope) -> Result<Response<Body>, Refusal> {
        if let Kind::Request { id, method } = &envelope.kind {
            if let Some(answer) = unforwarded(&message, &envelope, id, method) {
                return Ok(answer);
            }
            if method == method::INITIALIZE {
                let id = id.clone();
                // Boxed, as what a small call does not go through.
                return Ok(Box::pin(self.open(message, envelope, id)).await);
            }
        }
        let latch = self.latch().await?;
        let (up, accepted) = (self.up, self.accepted);
        match &envelope.kind {
            Kind::Request { id, .. } => {
                let id = id.clone();
                let Some(kept) = self.kept.take() else {
                    return Ok(reply::json(words::keeper_full(&up.name, &id)));
                };
                let asked = self.ask(latch, message, envelope, id, Some(kept), accepted.sse)?;
                Ok(reply::answer(asked, accepted, self.rests).await)
            }
            Kind::Notification { .. } | Kind::Result { .. } | Kind::Error { .. } => {
                self.tell(latch, message, envelope).await
            }
        }
    }

    /// A downstream session begins.
    async fn open(&mut self, message: Bytes, envelope: Envelope, id: RequestId) -> Response<Body> {
        let Some(kept) = self.kept.take() else {
            return reply::json(words::keeper_full(&self.up.name, &id));
        };
        let arrival = self.arrival(message, envelope);
        let (sid, latch) = self.keeper.new_session(self.up);
        let takes_events = self.accepted.sse;
        let request = intake::Request { arrival, id, takes_events, kept: Some(kept) };
        let asked = self.up.open(latch, Arc::clone(&sid), request);
        let mut response = reply::answer(asked, self.accepted, self.rests).await;
        let opened = |desk: &mut crate::desk::Desk| {
            desk.latches.get(&latch).is_some_and(|latch| latch.promised.is_some())
        };
        if response.status() == StatusCode::OK && self.up.desk(opened) {
            // The client may count on its id from now on, so the record comes first.
            self.keeper.recorded().await;
            if let Ok(value) = HeaderValue::from_str(&sid) {
                response.headers_mut().insert(names::SESSION, value);
            }
        }
        response
    }

    async fn tell(
        &self,
        latch: LatchId,
        message: Bytes,
        envelope: Envelope,
    ) -> Result<Response<Body>, Refusal> {
        let heard = self.up.tell(latch, self.arrival(message, envelope)).ok_or_else(session_not_found)?;
        Ok(match heard.await {
            Ok(NoteReply::Refused(refused)) => {
                let mut response = Response::new(refused.body.into());
                *response.status_mut() = refused.status;
                *response.headers_mut() = refused.headers;
                response
            }
            Ok(NoteReply::Accepted) | Err(_) => accepted(),
        })
    }

    /// A batch, split into exchanges and answered together (2025-03-26 only).
    async fn batch(&mut self, batch: Vec<(Bytes, Envelope)>) -> Result<Response<Body>, Refusal> {
        let bad = |words: &str| refused(StatusCode::BAD_REQUEST, INVALID_REQUEST, words);
        if batch.iter().any(|(_, envelope)| envelope.method() == Some(method::INITIALIZE)) {
            return Err(bad("Bad Request: `initialize` must not be part of a batch"));
        }
        let latch = self.latch().await?;
        let revision = self.up.desk(|desk| desk.latches.get(&latch).and_then(|latch| latch.promised.clone()));
        if !revision.as_deref().and_then(Revision::parse).is_some_and(Revision::batches_allowed) {
            return Err(bad("Bad Request: batches are not part of this session's revision"));
        }
        let mut answers = Vec::new();
        let mut waiting = Vec::new();
        for (message, envelope) in batch {
            match envelope.kind.clone() {
                Kind::Request { id, method } => {
                    if method == method::DISCOVER {
                        answers.push(method_not_found(&id, &method));
                    } else if self.kept.is_none() {
                        answers.push(words::keeper_full(&self.up.name, &id));
                    } else {
                        let mut asked = self.ask(latch, message, envelope, id, None, false)?;
                        // None of them waits for another.
                        asked.let_go();
                        waiting.push(asked);
                    }
                }
                Kind::Notification { .. } | Kind::Result { .. } | Kind::Error { .. } => {
                    // Nobody is told apart in a batch: it is taken as a whole.
                    drop(self.tell(latch, message, envelope).await?);
                }
            }
        }
        if answers.is_empty() && waiting.is_empty() {
            return Ok(accepted());
        }
        for asked in waiting {
            match collect_answer(asked).await {
                Ok(answer) => answers.push(answer),
                Err(challenge) => return Ok(*challenge),
            }
        }
        let mut all = BytesMut::from(&b"["[..]);
        for (n, answer) in answers.iter().enumerate() {
            all.extend_from_slice(if n == 0 { b"" } else { b"," });
            all.extend_from_slice(answer);
        }
        all.extend_from_slice(b"]");
        Ok(reply::json(all.freeze()))
    }

    fn ask(
        &self,
        latch: LatchId,
        message: Bytes,
        envelope: Envelope,
        id: RequestId,
        kept: Option<OwnedSemaphorePermit>,
        takes_events: bool,
    ) -> Result<Asked, Refusal> {
        let arrival = self.arrival(message, envelope);
        let request = intake::Request { arrival, id, takes_events, kept };
        self.up.ask(latch, request).ok_or_else(session_not_found)
    }

    async fn latch(&self) -> Result<LatchId, Refusal> {
        let sid = session_id(self.headers)?;
        self.keeper.latch(self.up, sid).await.ok_or_else(session_not_found)
    }

    fn arrival(&self, message: Bytes, envelope: Envelope) -> Arrival {
        intake::arrival(self.keeper.common.next(), message, envelope, Arc::clone(&self.forwarded))
    }
}

/// The answer to a request that is never forwarded: what would pin a client to an era that is not served.
pub(crate) fn never_forwarded(
    message: &[u8],
    envelope: &Envelope,
    id: &RequestId,
    method: &str,
) -> Option<(StatusCode, Bytes)> {
    if method == method::DISCOVER {
        return Some((StatusCode::OK, method_not_found(id, method)));
    }
    let named = envelope.meta_protocol_version(message)?;
    let modern = Revision::parse(&named).is_some_and(|revision| revision.era() == Era::Modern);
    (modern && method != method::INITIALIZE)
        .then(|| (StatusCode::BAD_REQUEST, unsupported_version(Some(id), &named)))
}

fn unforwarded(message: &[u8], envelope: &Envelope, id: &RequestId, method: &str) -> Option<Response<Body>> {
    never_forwarded(message, envelope, id, method).map(|(status, text)| reply::json_status(status, text))
}

/// The final answer of one message of a batch.
async fn collect_answer(mut asked: Asked) -> Result<Bytes, Refusal> {
    let mut long = BytesMut::new();
    loop {
        match asked.pieces.recv().await {
            None => return Ok(words::session_ended(asked.upstream(), &asked.id)),
            Some(Piece::Begun | Piece::Early | Piece::Event(..)) => {}
            Some(Piece::Long { mut chunks, .. }) => loop {
                match chunks.recv().await {
                    Some(Chunk::Bytes(bytes)) if long.len() + bytes.len() <= MAX_BODY => {
                        long.extend_from_slice(&bytes);
                    }
                    Some(Chunk::Bytes(_)) => {
                        return Ok(rpc_error(
                            Some(&asked.id),
                            relatch_wire::failure::Code::BodyTooLarge.number(),
                            "The answer is larger than 32 MiB, too large for a batch. The call may have run.",
                            None,
                        ));
                    }
                    Some(Chunk::End) => break,
                    None => {
                        long.clear();
                        break;
                    }
                }
            },
            Some(Piece::Final(Final::Message { text, .. })) => return Ok(text),
            Some(Piece::Final(Final::Whole)) => return Ok(long.freeze()),
            Some(Piece::Final(Final::Challenge(challenge))) => {
                return Err(Box::new(reply::challenge(*challenge)));
            }
        }
    }
}

fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn all_accepts(headers: &HeaderMap) -> Accepts {
    let mut all = Accepts { json: false, sse: false };
    for value in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
        let one = accepts(value);
        all.json |= one.json;
        all.sse |= one.sse;
    }
    all
}

/// The whole body, and its share of what may be kept; no share when the keeper is full.
async fn collect(
    mut body: Incoming,
    length: Option<&str>,
    kept: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    let too_large = || {
        refused(StatusCode::PAYLOAD_TOO_LARGE, SERVER_ERROR, "Payload Too Large: a body is at most 32 MiB")
    };
    let length = length.and_then(|length| length.parse::<usize>().ok()).unwrap_or_default();
    if length > MAX_BODY {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    let mut full = false;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            refused(StatusCode::BAD_REQUEST, SERVER_ERROR, "Bad Request: the body ended in the middle")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let size = first.len() + all.len() + data.len();
        if size > MAX_BODY {
            return Err(too_large());
        }
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
            if size >= PROMISED {
                // Who has sent so much of it gets the room for all of it: buffers that grow are there twice for a while.
                all.reserve(length.saturating_sub(size).min(MAX_BODY - size));
            }
        }
        // As for its room: who is told that there is no more should not have sent most of it.
        let counted = if size >= PROMISED { size.max(length) } else { size };
        let due = counted
            .div_ceil(1024)
            .saturating_sub(share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if due > 0 && !full {
            match Arc::clone(kept).try_acquire_many_owned(u32::try_from(due).unwrap_or(u32::MAX)) {
                Ok(more) => match &mut share {
                    Some(share) => share.merge(more),
                    None => share = Some(more),
                },
                Err(_) => {
                    full = true;
                    share = None;
                }
            }
        }
        if full && size > ALWAYS_READ {
            return Err(refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                relatch_wire::failure::Code::KeeperFull.number(),
                "keeper-full: this keeper keeps 256 MiB of unanswered requests already",
            ));
        }
    }
    let text = if all.is_empty() { Bytes::copy_from_slice(&first) } else { all.freeze() };
    if share.is_none() && !full {
        share = Arc::clone(kept).try_acquire_many_owned(1).ok();
    }
    Ok((text, share))
}
