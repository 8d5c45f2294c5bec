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
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::body::{Aborted, Body};
use crate::driver::Upstream;
use crate::exchange::{Chunk, Final, Piece};
use crate::intake::Asked;
use crate::outbox::Outbox;
use crate::words;

/// A comment keeps a silent stream alive this often.
const COMMENT: Duration = Duration::from_secs(15);
/// Pieces of a body that may wait for the socket.
const AHEAD: usize = 2;

type Out = mpsc::Sender<Result<Bytes, Aborted>>;

/// The answer to one request.
pub(crate) async fn answer(mut asked: Asked, accepts: Accepts) -> Response<Body> {
    match asked.pieces.recv().await {
        None => json(words::session_ended(asked.upstream(), &asked.id)),
        Some(Piece::Final(Final::Message { text, sse: event })) => {
            if accepts.sse && (event || !accepts.json) {
                let mut out = BytesMut::with_capacity(text.len() + 16);
                sse::write_event(&mut out, None, None, &text);
                events(out.freeze().into())
            } else {
                json(text)
            }
        }
        Some(Piece::Final(Final::Whole)) => json(words::lost_answer(asked.upstream(), &asked.id)),
        Some(Piece::Final(Final::Challenge { status, headers, body, .. })) => {
            let mut response = Response::new(body.into());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        }
        Some(Piece::Long { sse: event, chunks }) if !accepts.sse || (!event && accepts.json) => {
            let (out, coming) = mpsc::channel(AHEAD);
            tokio::spawn(long_json(asked, chunks, out));
            typed(JSON, Body::Coming(coming))
        }
        Some(first @ (Piece::Long { .. } | Piece::Early | Piece::Event(..))) => {
            let (out, coming) = mpsc::channel(AHEAD);
            tokio::spawn(async move {
                // An error means that the client has left, which dropping `asked` reports.
                drop(stream(asked, first, &out).await);
            });
            events(Body::Coming(coming))
        }
    }
}

/// The standing stream of a client.
pub(crate) fn standing(
    up: Arc<Upstream>,
    latch: LatchId,
    outbox: Arc<Outbox>,
    reader: u64,
    mut stop: watch::Receiver<bool>,
) -> Response<Body> {
    let (out, coming) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        tokio::select! {
            // The client is gone, another reader has taken over, or the session is over.
            _ = read_outbox(&outbox, reader, &out) => {}
            () = super::http::stopped(&mut stop) => {}
        }
        up.detach(latch, reader);
    });
    events(Body::Coming(coming))
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

/// The client's connection is gone.
struct Gone;

async fn put(out: &Out, bytes: Bytes) -> Result<(), Gone> {
    out.send(Ok(bytes)).await.map_err(|_| Gone)
}

async fn event(out: &Out, text: &[u8]) -> Result<(), Gone> {
    let mut framed = BytesMut::with_capacity(text.len() + 16);
    sse::write_event(&mut framed, None, None, text);
    put(out, framed.freeze()).await
}

async fn stream(mut asked: Asked, first: Piece, out: &Out) -> Result<(), Gone> {
    let mut comments = interval_at(Instant::now() + COMMENT, COMMENT);
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = Some(first);
    loop {
        let piece = match first.take() {
            Some(piece) => Some(piece),
            None => tokio::select! {
                biased;
                piece = asked.pieces.recv() => piece,
                _ = comments.tick() => {
                    put(out, Bytes::from_static(sse::comment())).await?;
                    continue;
                }
                () = out.closed() => return Err(Gone),
            },
        };
        match piece {
            Some(Piece::Early) => put(out, Bytes::from_static(sse::comment())).await?,
            Some(Piece::Event(text, room)) => {
                event(out, &text).await?;
                drop(room);
            }
            Some(Piece::Long { chunks, .. }) => long_event(chunks, out).await?,
            Some(Piece::Final(Final::Message { text, .. })) => return event(out, &text).await,
            Some(Piece::Final(Final::Challenge { instead, .. })) => return event(out, &instead).await,
            Some(Piece::Final(Final::Whole)) => return Ok(()),
            None => return event(out, &words::session_ended(asked.upstream(), &asked.id)).await,
        }
    }
}

/// A long answer as an event; one that breaks is voided, and an error follows as the next piece.
async fn long_event(mut chunks: mpsc::Receiver<Chunk>, out: &Out) -> Result<(), Gone> {
    let mut framed = BytesMut::new();
    sse::begin_event(&mut framed, None, None, b"");
    let mut after_cr = false;
    while let Some(chunk) = chunks.recv().await {
        match chunk {
            Chunk::Bytes(bytes) => {
                // A line break of two bytes may be cut in two.
                let cut = after_cr && bytes.starts_with(b"\n");
                after_cr = bytes.ends_with(b"\r");
                sse::continue_event(&mut framed, bytes.get(usize::from(cut)..).unwrap_or_default());
                put(out, framed.split().freeze()).await?;
            }
            Chunk::Broken => {
                sse::void_event(&mut framed);
                return put(out, framed.freeze()).await;
            }
        }
    }
    sse::end_event(&mut framed);
    put(out, framed.freeze()).await
}

/// A long answer as the whole body.
async fn long_json(mut asked: Asked, mut chunks: mpsc::Receiver<Chunk>, out: Out) {
    while let Some(chunk) = chunks.recv().await {
        let piece = match chunk {
            Chunk::Bytes(bytes) => Ok(bytes),
            Chunk::Broken => Err(Aborted),
        };
        let broken = piece.is_err();
        if out.send(piece).await.is_err() || broken {
            return;
        }
    }
    // The end of the answer is known to the core before the client can see it.
    drop(asked.pieces.recv().await);
}

async fn read_outbox(outbox: &Outbox, reader: u64, out: &Out) -> Result<(), Gone> {
    let mut comments = interval_at(Instant::now() + COMMENT, COMMENT);
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    put(out, Bytes::from_static(sse::comment())).await?;
    loop {
        tokio::select! {
            biased;
            message = outbox.next(reader) => match message {
                Some(message) => event(out, &message).await?,
                None => return Ok(()),
            },
            _ = comments.tick() => put(out, Bytes::from_static(sse::comment())).await?,
            () = out.closed() => return Err(Gone),
        }
    }
}
