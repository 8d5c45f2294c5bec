//! Bodies of answers: whole, or as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::spool::Spooled;
use super::standing::Standing;

/// A body of an answer.
pub(crate) enum Body {
    /// All of it.
    Whole(Option<Bytes>),
    /// Pieces, until the channel ends.
    Coming(mpsc::Receiver<Result<Part, Aborted>>),
    /// What was kept until it was whole.
    Spooled(Spooled),
    /// Events for as long as its client reads them.
    Standing(Standing),
}

/// A part of a body that comes.
#[derive(Debug)]
pub(crate) enum Part {
    /// Its next bytes.
    Bytes(Bytes),
    /// All the rest, which is read by whoever writes it to the client: handed over piece by piece, each is a hop.
    Rest(Spooled),
}

/// The rest of a body will never come; its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off at the upstream")]
pub(crate) struct Aborted;

impl Body {
    /// A body without a byte.
    pub(crate) fn empty() -> Body {
        Body::Whole(None)
    }

    /// This is held until the body is out.
    pub(crate) fn with<T>(self, held: T) -> With<T> {
        With { body: self, _held: held }
    }
}

/// A body with what is held until it is out.
pub(crate) struct With<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> http_body::Body for With<T> {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl From<Infallible> for Aborted {
    fn from(never: Infallible) -> Aborted {
        match never {}
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let body = self.get_mut();
        loop {
            let rest = match body {
                Body::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
                Body::Coming(pieces) => match ready!(pieces.poll_recv(cx)) {
                    None => return Poll::Ready(None),
                    Some(Err(aborted)) => return Poll::Ready(Some(Err(aborted))),
                    Some(Ok(Part::Bytes(bytes))) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Ok(Part::Rest(rest))) => rest,
                },
                Body::Standing(standing) => {
                    return standing.poll_piece(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))));
                }
                Body::Spooled(spooled) => {
                    let piece = ready!(spooled.poll_piece(cx)).map_err(|fault| {
                        tracing::warn!("a long answer can't be read back: {fault}");
                        Aborted
                    });
                    return Poll::Ready(piece.transpose().map(|piece| piece.map(Frame::data)));
                }
            };
            *body = Body::Spooled(rest);
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Coming(_) | Body::Spooled(_) | Body::Standing(_) => SizeHint::default(),
        }
    }
}
