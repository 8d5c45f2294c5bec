//! How an exchange's pieces become an HTTP answer: JSON stays JSON, events stay events.
//!
//! Also the standing stream. What is answered, and when, is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use relatch_core::LatchId;
use relatch_wire::headers::{Accepts, JSON, SSE};
use relatch_wire::sse;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::body::{Aborted, Body, Part};
use super::spool::{Fault, Spool};
use super::standing::Standing;
use super::stream::{self, AHEAD, COMMENT, EventId, Out, put};
use super::streams::Streams;
use crate::driver::Upstream;
use crate::exchange::{Challenge, Chunk, Final, Piece, Rests, Shape};
use crate::intake::{Asked, Heard};
use crate::outbox::Outbox;
use crate::quiet::Quiet;
use crate::words;

/// A stream that has begun waits so long for its answer to come along, so that the two go out together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The answer to one request.
pub(crate) async fn answer(mut asked: Asked, accepts: Accepts, rests: &Rests) -> Response<Body> {
    let first = loop {
        match asked.hear().await {
            Heard::Piece(Some(Piece::Begun)) if accepts.sse => match timeout(TOGETHER, asked.next()).await {
                Ok(Some(piece @ (Piece::Final(_) | Piece::Long { .. }))) => break Some(piece),
                Ok(next) => return streamed(asked, Some(Piece::Begun), next),
                Err(_) => return streamed(asked, Some(Piece::Begun), None),
            },
            Heard::Piece(Some(Piece::Begun)) | Heard::StillHeld(_) => {}
            Heard::Piece(piece) => break piece,
        }
    };
    if !matches!(first, Some(Piece::Begun | Piece::Early | Piece::Event(..) | Piece::Long { .. })) {
        asked.leave_to(rests);
    }
    match first {
        None => json(words::session_ended(asked.upstream(), &asked.id)),
        Some(Piece::Final(Final::Message { text, shape })) => match shape {
            Shape::Numbered if accepts.sse => events(stream::whole(&asked, &text).into()),
            Shape::Json if accepts.json => json(text),
            Shape::Event | Shape::Json if accepts.sse => {
                let mut out = BytesMut::with_capacity(text.len() + 16);
                sse::write_event(&mut out, None, None, &text);
                events(out.freeze().into())
            }
            Shape::Numbered | Shape::Event | Shape::Json => json(text),
        },
        Some(Piece::Final(Final::Whole)) => json(words::lost_answer(asked.upstream(), &asked.id)),
        Some(Piece::Final(Final::Challenge(refusal))) => challenge(*refusal),
        Some(Piece::Long { sse: event, chunks }) if !accepts.sse || (!event && accepts.json) => {
            let (out, coming) = mpsc::channel(AHEAD);
            // Its attempt goes on in there.
            tokio::spawn(Quiet::new(long_json(asked, chunks, out)));
            typed(JSON, Body::Coming(coming))
        }
        Some(first @ (Piece::Begun | Piece::Long { .. } | Piece::Early | Piece::Event(..))) => {
            streamed(asked, Some(first), None)
        }
    }
}

/// An answer as events, from these pieces on.
fn streamed(asked: Asked, first: Option<Piece>, second: Option<Piece>) -> Response<Body> {
    let (out, coming) = mpsc::channel(AHEAD);
    let firsts = first.into_iter().chain(second).collect();
    // Its attempt goes on in there.
    tokio::spawn(Quiet::new(stream::run(asked, firsts, out)));
    events(Body::Coming(coming))
}

/// The rest of an answer whose client comes back.
pub(crate) async fn resumed(streams: &Streams, event: EventId, upstream: &str) -> Response<Body> {
    let (out, coming) = mpsc::channel(AHEAD);
    if let Err(out) = streams.resume(event, out).await {
        // Too late: it hears so, if its request is still known; in either case its wait is over.
        if let Some(id) = streams.gone(event.stream) {
            let mut framed = BytesMut::new();
            sse::write_event(&mut framed, None, None, &words::not_kept(upstream, &id));
            // There is room for one, and nobody else sends.
            let _ = out.try_send(Ok(Part::Bytes(framed.freeze())));
        }
    }
    events(Body::Coming(coming))
}

/// The standing stream of a client.
pub(crate) fn standing(
    up: Arc<Upstream>,
    latch: LatchId,
    outbox: Arc<Outbox>,
    reader: u64,
    stop: watch::Receiver<bool>,
) -> Response<Body> {
    events(Body::Standing(Standing::new(up, latch, outbox, reader, stop)))
}

/// An upstream's refusal of the client's credentials, as it came.
pub(crate) fn challenge(challenge: Challenge) -> Response<Body> {
    let Challenge { status, headers, body, .. } = challenge;
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A JSON answer.
pub(crate) fn json(text: Bytes) -> Response<Body> {
    typed(JSON, text.into())
}

/// A JSON answer with another status than 200.
pub(crate) fn json_status(status: StatusCode, text: Bytes) -> Response<Body> {
    let mut response = json(text);
    *response.status_mut() = status;
    response
}

fn events(body: Body) -> Response<Body> {
    let mut response = typed(SSE, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn typed(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A long answer as the whole body. None of it goes out before all of it has come: a body that breaks takes common
/// clients their session, or leaves them to wait for ever, and an error in its place tells what happened. Blanks, which
/// may stand before any JSON text, show meanwhile that somebody is there.
async fn long_json(mut asked: Asked, mut chunks: mpsc::Receiver<Chunk>, out: Out) {
    let mut blanks = interval_at(Instant::now() + COMMENT, COMMENT);
    blanks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut spool = Spool::new();
    loop {
        let gone = tokio::select! {
            biased;
            chunk = asked.chunk(&mut chunks) => match chunk {
                Some(Chunk::Bytes(bytes)) => match asked.meanwhile(spool.append(bytes)).await {
                    Ok(()) => false,
                    Err(Fault::NoFile(fault)) => {
                        tracing::warn!(
                            upstream = asked.upstream(),
                            "a long answer passes as it comes: no temporary file ({fault})"
                        );
                        return long_json_as_it_comes(asked, spool, chunks, out).await;
                    }
                    Err(Fault::Lost(fault)) => return unspooled(&asked, &fault, &out).await,
                },
                Some(Chunk::End) => break,
                None => return broken(asked, &out).await,
            },
            _ = blanks.tick() => put(&out, Bytes::from_static(b" ")).await.is_err(),
            () = out.closed() => true,
        };
        if gone {
            return;
        }
    }
    asked.let_go();
    let spooled = match spool.whole().await {
        Ok(spooled) => spooled,
        Err(fault) => return unspooled(&asked, &fault, &out).await,
    };
    // The end of the answer is known to the core before the client can see it.
    drop(asked.pieces.recv().await);
    // A client that has left reads nothing.
    drop(out.send(Ok(Part::Rest(spooled))).await);
}

/// The long answer can't be kept: the client hears of that instead.
async fn unspooled(asked: &Asked, fault: &std::io::Error, out: &Out) {
    // A client that has left needs no words.
    drop(put(out, words::unspooled(asked.upstream(), &asked.id, fault)).await);
}

/// The long answer broke: the error that follows it is the answer.
async fn broken(mut asked: Asked, out: &Out) {
    asked.let_go();
    let text = loop {
        match asked.pieces.recv().await {
            Some(Piece::Begun | Piece::Early | Piece::Event(..) | Piece::Long { .. }) => {}
            Some(Piece::Final(Final::Message { text, .. })) => break text,
            Some(Piece::Final(Final::Challenge(challenge))) => break challenge.instead,
            Some(Piece::Final(Final::Whole)) => break words::lost_answer(asked.upstream(), &asked.id),
            None => break words::session_ended(asked.upstream(), &asked.id),
        }
    };
    drop(put(out, text).await);
}

/// The same where there is no place on disk: what breaks is aborted.
async fn long_json_as_it_comes(mut asked: Asked, spool: Spool, mut chunks: mpsc::Receiver<Chunk>, out: Out) {
    asked.let_go();
    for piece in spool.taken_back() {
        if put(&out, piece).await.is_err() {
            return;
        }
    }
    loop {
        let piece = match chunks.recv().await {
            Some(Chunk::Bytes(bytes)) => Ok(Part::Bytes(bytes)),
            Some(Chunk::End) => break,
            None => Err(Aborted),
        };
        let broken = piece.is_err();
        if out.send(piece).await.is_err() || broken {
            return;
        }
    }
    drop(asked.pieces.recv().await);
}
