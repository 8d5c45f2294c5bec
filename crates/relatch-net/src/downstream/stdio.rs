//! The stdio side: one client, one upstream, one message a line.
//!
//! No message begins on the way out before it is whole. What becomes of a call is decided in the core.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use relatch_core::LatchId;
use relatch_wire::envelope::{Body as Messages, INVALID_REQUEST, PARSE_ERROR, read_body};
use relatch_wire::era::Revision;
use relatch_wire::failure::{Code, Executed, rpc_error};
use relatch_wire::line::{LineReader, one_line};
use relatch_wire::{Envelope, Kind, RequestId, method};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use super::http::stopped;
use super::post::never_forwarded;
use super::spool::{Fault, Spool, Spooled};
use crate::driver::Upstream;
use crate::exchange::{Chunk, Final, Piece};
use crate::intake::{self, Asked, Heard};
use crate::keeper::Keeper;
use crate::words::{self, Drain};

/// Bytes read at a time.
const READ: usize = 64 * 1024;
/// When the client ends its input, calls under way get this long to be answered.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// And the upstream session this long to be ended.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Why the stdio side ended other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// There is no such upstream.
    #[error("there is no upstream `{0}`")]
    UnknownUpstream(String),
    /// The client's input can't be read.
    #[error("the client's input can't be read: {0}")]
    Input(io::Error),
}

/// Serves one client until its input ends, or `stop` turns true. Told to stop, it waits for no answers: calls under
/// way are given back in words, and the session ends upstream.
///
/// # Errors
/// [`StdioError`] says why nothing could be served any more.
pub async fn serve<R, W>(
    keeper: Arc<Keeper>,
    name: &str,
    mut input: R,
    output: W,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StdioError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let up = keeper.upstream(name).ok_or_else(|| StdioError::UnknownUpstream(name.to_owned()))?;
    let out = Arc::new(Output { writer: Mutex::new(output) });
    let mut client = Client { up: Arc::clone(&up), out, latch: None, tasks: JoinSet::new() };
    let mut lines = LineReader::new();
    let mut found = Vec::new();
    let mut piece = vec![0; READ];
    let ended = loop {
        let read = tokio::select! {
            read = input.read(&mut piece) => read,
            () = stopped(&mut stop) => {
                up.drain(true, Drain::Keeper);
                break Ok(());
            }
        };
        let read = match read {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(fault) => break Err(StdioError::Input(fault)),
        };
        lines.feed(piece.get(..read).unwrap_or_default(), &mut found);
        for line in found.drain(..) {
            client.line(line.map_err(|too_long| too_long.to_string())).await;
        }
        while client.tasks.try_join_next().is_some() {}
    };
    lines.finish(&mut found);
    for line in found.drain(..) {
        client.line(line.map_err(|too_long| too_long.to_string())).await;
    }
    client.end().await;
    ended
}

/// Where lines go, one at a time.
struct Output<W> {
    writer: Mutex<W>,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    /// Writes a message as one line. A client that reads no more has left, which its input shows.
    async fn message(&self, text: &Bytes) {
        let line = one_line(text);
        let mut writer = self.writer.lock().await;
        let written = async {
            writer.write_all(&line).await?;
            writer.write_all(b"\n").await?;
            writer.flush().await
        };
        if let Err(fault) = written.await {
            tracing::debug!("the client's output can't be written: {fault}");
        }
    }

    async fn spooled(&self, mut spool: Spooled) {
        let mut writer = self.writer.lock().await;
        let written = async {
            while let Some(piece) = spool.piece().await? {
                writer.write_all(&piece).await?;
            }
            writer.write_all(b"\n").await?;
            writer.flush().await
        };
        if let Err(fault) = written.await {
            tracing::debug!("the client's output can't be written: {fault}");
        }
    }
}

struct Client<W> {
    up: Arc<Upstream>,
    out: Arc<Output<W>>,
    latch: Option<LatchId>,
    tasks: JoinSet<()>,
}

impl<W: AsyncWrite + Unpin + Send + 'static> Client<W> {
    async fn line(&mut self, line: Result<Bytes, String>) {
        let line = match line {
            Ok(line) => line,
            Err(too_long) => return self.say(rpc_error(None, PARSE_ERROR, &too_long, None)).await,
        };
        match read_body(&line) {
            Ok(Messages::One(envelope)) => self.one(line, envelope).await,
            Ok(Messages::Batch(batch)) => {
                if !self.takes_batches() {
                    let words = "Batches are not part of this session's revision";
                    return self.say(rpc_error(None, INVALID_REQUEST, words, None)).await;
                }
                self.batch(line, batch).await;
            }
            Err(malformed) => {
                self.say(rpc_error(malformed.id.as_ref(), malformed.code, &malformed.message, None)).await;
            }
        }
    }

    async fn one(&mut self, message: Bytes, envelope: Envelope) {
        let Kind::Request { id, method } = envelope.kind.clone() else {
            return self.tell(message, envelope);
        };
        if let Some((_, text)) = never_forwarded(&message, &envelope, &id, &method) {
            return self.say(text).await;
        }
        let asked = if method == method::INITIALIZE {
            match self.request(message, envelope, &id) {
                Ok(request) => self.open(request),
                Err(full) => return self.say(full).await,
            }
        } else {
            match self.ask(message, envelope, &id) {
                Ok(asked) => asked,
                Err(refusal) => return self.say(refusal).await,
            }
        };
        let out = Arc::clone(&self.out);
        self.tasks.spawn(async move {
            if let Some(last) = answer(asked, &out).await {
                match last {
                    Last::Message(text) => out.message(&text).await,
                    Last::Spooled(spool) => out.spooled(spool).await,
                }
            }
        });
    }

    /// A batch, answered together (2025-03-26 only).
    async fn batch(&mut self, line: Bytes, batch: Vec<(std::ops::Range<usize>, Envelope)>) {
        let mut answers = Vec::new();
        let mut waiting = Vec::new();
        for (span, envelope) in batch {
            let message = line.slice(span);
            let Kind::Request { id, method } = envelope.kind.clone() else {
                self.tell(message, envelope);
                continue;
            };
            if let Some((_, text)) = never_forwarded(&message, &envelope, &id, &method) {
                answers.push(text);
            } else if method == method::INITIALIZE {
                let words = "`initialize` must not be part of a batch";
                answers.push(rpc_error(Some(&id), INVALID_REQUEST, words, None));
            } else {
                match self.ask(message, envelope, &id) {
                    Ok(mut asked) => {
                        // None of them waits for another.
                        asked.let_go();
                        waiting.push(asked);
                    }
                    Err(refusal) => answers.push(refusal),
                }
            }
        }
        let out = Arc::clone(&self.out);
        self.tasks.spawn(async move {
            for asked in waiting {
                let (upstream, id) = (asked.upstream().to_owned(), asked.id.clone());
                match answer(asked, &out).await {
                    Some(Last::Message(text)) => answers.push(text),
                    Some(Last::Spooled(_)) => answers.push(too_large(&upstream, &id)),
                    None => {}
                }
            }
            if !answers.is_empty() {
                let mut all = b"[".to_vec();
                for (n, answer) in answers.iter().enumerate() {
                    all.extend_from_slice(if n == 0 { b"" } else { b"," });
                    all.extend_from_slice(answer);
                }
                all.push(b']');
                out.message(&all.into()).await;
            }
        });
    }

    /// A downstream session begins; one that there was is over.
    fn open(&mut self, request: intake::Request) -> Asked {
        if let Some(latch) = self.latch.take() {
            self.up.end(latch);
        }
        let latch = LatchId(self.up.common.next());
        self.latch = Some(latch);
        let asked = self.up.open(latch, "".into(), request);
        if let Some((outbox, reader)) = self.up.attach(latch, Arc::new(HeaderMap::new()), None) {
            let out = Arc::clone(&self.out);
            self.tasks.spawn(async move {
                while let Some((_, message)) = outbox.next(reader).await {
                    out.message(&message).await;
                }
            });
        }
        asked
    }

    fn ask(&self, message: Bytes, envelope: Envelope, id: &RequestId) -> Result<Asked, Bytes> {
        let unopened = || {
            rpc_error(Some(id), INVALID_REQUEST, "There is no session: `initialize` has to come first", None)
        };
        let latch = self.latch.ok_or_else(unopened)?;
        let request = self.request(message, envelope, id)?;
        self.up.ask(latch, request).ok_or_else(unopened)
    }

    fn request(&self, message: Bytes, envelope: Envelope, id: &RequestId) -> Result<intake::Request, Bytes> {
        let due = u32::try_from(message.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let kept = Arc::clone(&self.up.common.kept).try_acquire_many_owned(due);
        let kept = kept.map_err(|_| words::keeper_full(&self.up.name, id))?;
        let arrival = self.arrival(message, envelope);
        Ok(intake::Request { arrival, id: id.clone(), takes_events: true, kept: Some(kept) })
    }

    fn tell(&self, message: Bytes, envelope: Envelope) {
        if let Some(latch) = self.latch {
            // Nobody waits to hear what becomes of it.
            drop(self.up.tell(latch, self.arrival(message, envelope)));
        }
    }

    fn arrival(&self, message: Bytes, envelope: Envelope) -> crate::desk::Arrival {
        intake::arrival(self.up.common.next(), message, envelope, Arc::new(HeaderMap::new()))
    }

    fn takes_batches(&self) -> bool {
        let promised = self.latch.and_then(|latch| {
            self.up.desk(|desk| desk.latches.get(&latch).and_then(|latch| latch.promised.clone()))
        });
        promised.as_deref().and_then(Revision::parse).is_some_and(Revision::batches_allowed)
    }

    async fn say(&self, text: Bytes) {
        self.out.message(&text).await;
    }

    /// The client's input has ended.
    async fn end(mut self) {
        let Some(latch) = self.latch else { return };
        let up = Arc::clone(&self.up);
        // Input that comes from a pipe ends before its calls are answered.
        let answered = async {
            while up.desk(|desk| desk.exchanges.values().any(|exchange| exchange.latch == latch)) {
                let quieter = up.quieter.notified();
                drop(tokio::time::timeout(Duration::from_millis(50), quieter).await);
            }
        };
        drop(tokio::time::timeout(ANSWER_WITHIN, answered).await);
        up.end(latch);
        let quiet = async {
            while !up.is_quiet(latch) {
                let quieter = up.quieter.notified();
                drop(tokio::time::timeout(Duration::from_millis(50), quieter).await);
            }
        };
        drop(tokio::time::timeout(END_WITHIN, quiet).await);
        up.desk(|desk| desk.close_latch(latch));
        let written = async { while self.tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(ANSWER_WITHIN, written).await);
    }
}

/// The end of an exchange, whole.
enum Last {
    Message(Bytes),
    Spooled(Spooled),
}

/// Writes what comes before the answer, and gives the answer.
async fn answer<W: AsyncWrite + Unpin>(mut asked: Asked, out: &Output<W>) -> Option<Last> {
    let mut spool = None;
    loop {
        let piece = match asked.hear().await {
            Heard::Piece(piece) => piece,
            Heard::StillHeld(words) => {
                out.message(&words).await;
                continue;
            }
        };
        match piece {
            // The session ended under it, and so did its client.
            None => return Some(Last::Message(words::session_ended(asked.upstream(), &asked.id))),
            Some(Piece::Begun | Piece::Early) => {}
            Some(Piece::Event(text, room)) => {
                asked.let_go();
                out.message(&text).await;
                drop(room);
            }
            Some(Piece::Long { mut chunks, .. }) => {
                asked.let_go();
                let kept = async {
                    let mut spool = Spool::new();
                    loop {
                        match chunks.recv().await {
                            Some(Chunk::Bytes(bytes)) => spool.append(one_line(&bytes)).await?,
                            Some(Chunk::End) => {
                                return spool.whole().await.map(Some).map_err(Fault::Lost);
                            }
                            // An error follows in its place.
                            None => return Ok(None),
                        }
                    }
                };
                match kept.await {
                    Ok(kept) => spool = kept,
                    Err(fault) => {
                        let words = words::unspooled(asked.upstream(), &asked.id, fault.cause());
                        return Some(Last::Message(words));
                    }
                }
            }
            Some(Piece::Final(Final::Message { text, .. })) => return Some(Last::Message(text)),
            Some(Piece::Final(Final::Challenge(challenge))) => return Some(Last::Message(challenge.instead)),
            Some(Piece::Final(Final::Whole)) => {
                let lost = || Last::Message(words::lost_answer(asked.upstream(), &asked.id));
                return Some(spool.map_or_else(lost, Last::Spooled));
            }
        }
    }
}

fn too_large(upstream: &str, id: &RequestId) -> Bytes {
    words::own(
        upstream,
        Code::BodyTooLarge,
        Executed::Unknown,
        "The answer is too large for a batch. The call has run.".to_owned(),
        "Send the call by itself",
    )
    .to_message(Some(id))
}
