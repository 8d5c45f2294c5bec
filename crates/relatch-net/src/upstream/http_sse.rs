//! Attempts by the old transport, HTTP+SSE of 2024-11-05: a stream of events is one session, and a session lives as long as
//! its stream.
//!
//! The stream says first where messages are posted. A POST that is accepted says no more than that; its answer comes by
//! the stream. Which transport an address speaks is found by trying, as the specification has it; what a refusal means
//! for that is read in the core.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use relatch_core::effect::What;
use relatch_core::input::{Begun, Cut, CutKind, Input};
use relatch_core::latch::reading;
use relatch_core::policy::Transport;
use relatch_core::{Gen, LatchId};
use relatch_wire::headers::{self, SESSION_ID, SSE};
use relatch_wire::sse::{SseItem, SseReader};
use relatch_wire::{Envelope, Kind};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use url::Url;

use super::attempt::{self, COLLECTED, Whole, garbled, words_of};
use super::dial::{Dialer, Reply};
use super::job::{Job, Outgoing};
use super::target::MAX_URL;
use super::waiting::Waiting;
use crate::desk::{Kept, Refused};
use crate::driver::Upstream;
use crate::{lock, redact};

/// Where the transport is not known, a stream that has not named its endpoint after this is none of the old transport.
const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// What a POST was answered is waited for so long after its stream has ended: a refusal is proof that it did not run.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// The streams of one address, each a session.
#[derive(Debug)]
pub(crate) struct Streams {
    transport: Transport,
    /// The newest session there was opened by the old transport.
    found: AtomicBool,
    open: Mutex<BTreeMap<(LatchId, Gen), Arc<Stream>>>,
}

/// One stream and what is asked by it. Dropped, it is closed.
#[derive(Debug)]
struct Stream {
    /// Where messages are posted: a path with its query.
    endpoint: Uri,
    waiting: Arc<Waiting>,
    /// How it ended, once it has.
    over: watch::Receiver<Option<String>>,
    reading: AbortHandle,
}

/// Why there is no stream.
enum NoStream {
    /// The server has answered otherwise.
    Refused(Box<Refused>),
    /// A stream came, and it is none of the old transport.
    Other(Cut),
    /// The connection broke, or the stream may not be used.
    Cut(Cut),
}

/// Why a request has no answer.
enum Unanswered {
    /// Its stream was over before, and it was not written.
    Gone(String),
    /// The server refused it.
    Refused(Refused),
    /// It may have run.
    Cut(Cut),
}

/// What became of a POST.
enum Posted {
    /// The server has it.
    Taken,
    Refused(Refused),
    Cut(Cut),
}

impl Streams {
    pub(crate) fn new(transport: Transport) -> Streams {
        Streams { transport, found: AtomicBool::new(false), open: Mutex::default() }
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether this session lives on one of them.
    pub(crate) fn has(&self, latch: LatchId, generation: Gen) -> bool {
        lock(&self.open).contains_key(&(latch, generation))
    }

    /// A session is over: its stream is closed.
    pub(crate) fn forget(&self, latch: LatchId, generation: Gen) {
        let closed = lock(&self.open).remove(&(latch, generation));
        drop(closed);
    }

    fn get(&self, latch: LatchId, generation: Gen) -> Option<Arc<Stream>> {
        lock(&self.open).get(&(latch, generation)).cloned()
    }
}

/// One attempt, by the transport of its session; a handshake by the one that the address speaks.
pub(crate) async fn run(up: &Arc<Upstream>, dialer: &Dialer, streams: &Streams, job: &Job) {
    match (&job.what, job.streamed) {
        // Boxed: a call by Streamable HTTP would carry the room for them along.
        (What::Initialize { .. }, _) => Box::pin(open_by_any(up, dialer, streams, job)).await,
        (_, true) => Box::pin(by_stream(up, dialer, streams, job)).await,
        (_, false) => attempt::run(up, dialer, job).await,
    }
}

/// Opens a session by the transport that is configured, or is found.
async fn open_by_any(up: &Arc<Upstream>, dialer: &Dialer, streams: &Streams, job: &Job) {
    match streams.transport {
        Transport::Http => attempt::run(up, dialer, job).await,
        Transport::Sse => {
            if let Err(none) = open(up, dialer, streams, job, None).await {
                none.tell(up, job);
            }
        }
        // What was found is tried first; a server that was replaced may speak the other.
        Transport::Auto if streams.found.load(Ordering::Relaxed) => {
            let none = match open(up, dialer, streams, job, Some(NAMED_WITHIN)).await {
                Ok(()) => return,
                Err(none) => none,
            };
            match none {
                NoStream::Refused(refused)
                    if !reading::may_speak_streamable_http(refused.status.as_u16()) =>
                {
                    up.refused(job.attempt, *refused);
                }
                NoStream::Cut(_) => none.tell(up, job),
                NoStream::Refused(_) | NoStream::Other(_) => {
                    if let Some(refused) = open_by_http(up, dialer, streams, job).await {
                        up.refused(job.attempt, refused);
                    }
                }
            }
        }
        Transport::Auto => {
            let Some(refused) = open_by_http(up, dialer, streams, job).await else { return };
            let code = Envelope::read(&refused.body).ok().and_then(|envelope| envelope.error_code());
            if !reading::may_speak_the_old_transport(refused.status.as_u16(), code) {
                return up.refused(job.attempt, refused);
            }
            match open(up, dialer, streams, job, Some(NAMED_WITHIN)).await {
                Ok(()) => {}
                // A stream that is to be had with other credentials.
                Err(NoStream::Refused(own))
                    if matches!(own.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) =>
                {
                    up.refused(job.attempt, *own);
                }
                Err(NoStream::Cut(cut)) if cut.kind == CutKind::Elsewhere => {
                    NoStream::Cut(cut).tell(up, job);
                }
                // Nobody has spoken of the old transport, so what was said to the newer one counts.
                Err(_) => up.refused(job.attempt, refused),
            }
        }
    }
}

/// Opens a session by Streamable HTTP; a refusal is given back.
async fn open_by_http(up: &Arc<Upstream>, dialer: &Dialer, streams: &Streams, job: &Job) -> Option<Refused> {
    let refused = attempt::unless_refused(up, dialer, job).await;
    if refused.is_none() && up.desk(|desk| desk.has_session(job.latch, job.generation)) {
        streams.found.store(false, Ordering::Relaxed);
    }
    refused
}

/// Opens a stream, and a session by it. Where there is no stream, nothing has been reported.
async fn open(
    up: &Arc<Upstream>,
    dialer: &Dialer,
    streams: &Streams,
    job: &Job,
    within: Option<Duration>,
) -> Result<(), NoStream> {
    let key = (job.latch, job.generation);
    let stream = Arc::new(Stream::begin(up, dialer, job, within).await?);
    if !streams.found.swap(true, Ordering::Relaxed) && streams.transport == Transport::Auto {
        tracing::info!(upstream = %up.name, "it speaks the old transport, HTTP+SSE");
    }
    let opened = |text: Bytes| {
        attempt::accept(up, job.attempt);
        if matches!(Envelope::read(&text).map(|envelope| envelope.kind), Ok(Kind::Result { .. })) {
            // Before the core hears of it, which sends at once.
            lock(&streams.open).insert(key, Arc::clone(&stream));
        }
        let mut head = HeaderMap::new();
        if let Ok(id) = HeaderValue::from_str(&format!("stream-{}", key.1.0)) {
            head.insert(SESSION_ID, id);
        }
        attempt::deliver(up, job, &head, Whole::read(text, true));
        // One whose answer was no use, or whose attempt was aborted meanwhile, has opened nothing.
        if !up.desk(|desk| desk.has_session(job.latch, job.generation)) {
            streams.forget(job.latch, job.generation);
        }
    };
    match stream.ask(dialer, job, opened).await {
        Ok(()) => {}
        Err(Unanswered::Refused(refused)) => up.refused(job.attempt, refused),
        Err(Unanswered::Gone(words)) => {
            up.finish(job.attempt, None, Input::Cut { attempt: job.attempt, cut: ended(words) });
        }
        Err(Unanswered::Cut(cut)) => {
            up.finish(job.attempt, None, Input::Cut { attempt: job.attempt, cut });
        }
    }
    Ok(())
}

/// Anything but a handshake, in a session that lives on a stream.
async fn by_stream(up: &Arc<Upstream>, dialer: &Dialer, streams: &Streams, job: &Job) {
    let attempt = job.attempt;
    let Some(stream) = streams.get(job.latch, job.generation) else {
        return attempt::gone(up, attempt, "the event stream of this session has been closed".to_owned());
    };
    if let Some(words) = stream.last_words() {
        return attempt::gone(up, attempt, words);
    }
    match &job.what {
        What::Initialize { .. } => {}
        What::Note(_) | What::Initialized => match stream.tell(dialer, job).await {
            Posted::Taken => {
                attempt::accept(up, attempt);
                up.answered(attempt, Kept::Answer(Bytes::new(), false), None);
            }
            Posted::Refused(refused) => up.refused(attempt, refused),
            Posted::Cut(cut) => up.finish(attempt, None, Input::Cut { attempt, cut }),
        },
        What::Exchange { .. } | What::Ping | What::SetLevel(_) | What::Subscribe(_) | What::List { .. } => {
            let answered = |text: Bytes| {
                attempt::accept(up, attempt);
                let sse = up.desk(|desk| desk.attempts.get(&attempt).is_some_and(|a| a.flow.is_some()));
                attempt::deliver(up, job, &HeaderMap::new(), Whole::read(text, sse));
            };
            match stream.ask(dialer, job, answered).await {
                Ok(()) => {}
                Err(Unanswered::Gone(words)) => attempt::gone(up, attempt, words),
                Err(Unanswered::Refused(refused)) => up.refused(attempt, refused),
                Err(Unanswered::Cut(cut)) => up.finish(attempt, None, Input::Cut { attempt, cut }),
            }
        }
        What::Stream => {
            attempt::accept(up, attempt);
            up.fact_after(
                |desk| desk.attempts.contains_key(&attempt),
                Input::Begun { attempt, begun: Begun::Stream },
            );
            let cut = ended(stream.end().await);
            up.finish(attempt, None, Input::Cut { attempt, cut });
        }
        // Nothing that comes by it belongs to one request.
        What::Resume { .. } => {
            let cut = garbled("a stream of the old transport can't be resumed".to_owned());
            up.finish(attempt, None, Input::Cut { attempt, cut });
        }
        What::Delete => {
            streams.forget(job.latch, job.generation);
            up.answered(attempt, Kept::Answer(Bytes::new(), false), None);
        }
    }
}

impl NoStream {
    fn tell(self, up: &Arc<Upstream>, job: &Job) {
        match self {
            NoStream::Refused(refused) => up.refused(job.attempt, *refused),
            NoStream::Other(cut) | NoStream::Cut(cut) => {
                up.finish(job.attempt, None, Input::Cut { attempt: job.attempt, cut });
            }
        }
    }
}

impl Stream {
    /// Asks for a stream and waits until it has named its endpoint.
    async fn begin(
        up: &Arc<Upstream>,
        dialer: &Dialer,
        job: &Job,
        within: Option<Duration>,
    ) -> Result<Stream, NoStream> {
        let request = job.request.for_a_stream();
        let named = named(dialer, job, request);
        let (reply, reader, items, endpoint) = match within {
            Some(limit) => timeout(limit, named).await.unwrap_or_else(|_| {
                let words = format!("no `endpoint` event came within {} s", limit.as_secs());
                Err(NoStream::Other(unnamed(words)))
            })?,
            None => named.await?,
        };
        let waiting = Arc::new(Waiting::new());
        let (end, over) = watch::channel(None);
        let key = (job.latch, job.generation);
        let (weak, answers, closed) = (Arc::downgrade(up), Arc::clone(&waiting), dialer.idle_closed());
        let reading = tokio::spawn(async move {
            let words = read(reply, reader, items, &weak, key, &answers).await;
            end.send_replace(Some(words));
            answers.close();
            let Some(up) = weak.upgrade() else { return };
            up.desk(|desk| desk.withdraw_session(key.0, key.1));
            if up.desk(|desk| desk.has_session(key.0, key.1)) {
                closed.notify_one();
            }
        });
        Ok(Stream { endpoint, waiting, over, reading: reading.abort_handle() })
    }

    /// How it ended, if it has.
    fn last_words(&self) -> Option<String> {
        self.over.borrow().clone()
    }

    /// Waits for its end. How it was.
    async fn end(&self) -> String {
        let mut over = self.over.clone();
        let words = over.wait_for(Option::is_some).await.ok().and_then(|words| words.clone());
        words.unwrap_or_else(closed)
    }

    /// Posts a message that has no answer.
    async fn tell(&self, dialer: &Dialer, job: &Job) -> Posted {
        let mut posting = pin!(self.post(dialer, job));
        tokio::select! {
            biased;
            posted = &mut posting => posted,
            words = self.end() => {
                timeout(ANSWERED_WITHIN, posting).await.unwrap_or_else(|_| Posted::Cut(ended(words)))
            }
        }
    }

    /// Posts a request and waits for its answer, which comes under the client's id.
    async fn ask(&self, dialer: &Dialer, job: &Job, answered: impl FnOnce(Bytes)) -> Result<(), Unanswered> {
        let Some(id) = job.id.clone() else {
            return Err(Unanswered::Gone("the request has no id".to_owned()));
        };
        // An attempt that is aborted waits no more.
        let Some((_asked, mut answer)) = self.waiting.ask(id, Some(job.attempt)) else {
            return Err(Unanswered::Gone(self.last_words().unwrap_or_else(closed)));
        };
        let mut posting = pin!(self.post(dialer, job));
        let posted = tokio::select! {
            biased;
            posted = &mut posting => posted,
            answer = &mut answer => {
                if let Ok(text) = answer {
                    answered(text);
                    // Its connection is used again.
                    let _ = timeout(ANSWERED_WITHIN, posting).await;
                    return Ok(());
                }
                let cut = || Posted::Cut(ended(self.last_words().unwrap_or_else(closed)));
                timeout(ANSWERED_WITHIN, posting).await.unwrap_or_else(|_| cut())
            }
        };
        let unanswered = match posted {
            Posted::Taken => {
                // It comes, or its sender goes with the stream.
                if let Ok(text) = answer.await {
                    answered(text);
                    return Ok(());
                }
                return Err(Unanswered::Cut(ended(self.last_words().unwrap_or_else(closed))));
            }
            Posted::Refused(refused) => Unanswered::Refused(refused),
            Posted::Cut(cut) => Unanswered::Cut(cut),
        };
        // Whatever became of the POST, an answer is an answer.
        match answer.try_recv() {
            Ok(text) => {
                answered(text);
                Ok(())
            }
            Err(_) => Err(unanswered),
        }
    }

    async fn post(&self, dialer: &Dialer, job: &Job) -> Posted {
        let mut request = Cow::Owned(job.request.to(self.endpoint.clone()));
        match attempt::send(dialer, &mut request, job.rule, None).await {
            Ok(mut reply) if reply.head.status.is_success() => {
                attempt::settle(&mut reply).await;
                if !reply.whole() {
                    tokio::spawn(attempt::drain(reply));
                }
                Posted::Taken
            }
            Ok(mut reply) => Posted::Refused(attempt::refused_by(&mut reply).await),
            Err(broken) => Posted::Cut(words_of(broken, None)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A stream that has begun, what was read of it behind its `endpoint`, and where that is.
type Named = (Reply, SseReader, Vec<SseItem>, Uri);

/// Reads a stream up to its `endpoint`.
async fn named(dialer: &Dialer, job: &Job, request: Outgoing) -> Result<Named, NoStream> {
    let mut request = Cow::Owned(request);
    let cut = |broken| NoStream::Cut(words_of(broken, None));
    let mut reply = attempt::send(dialer, &mut request, job.rule, Some(&job.place)).await.map_err(cut)?;
    let kind = reply.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !reply.head.status.is_success() || !headers::is_type(kind, SSE) {
        return Err(NoStream::Refused(Box::new(attempt::refused_by(&mut reply).await)));
    }
    let mut reader = SseReader::default();
    let mut items = Vec::new();
    loop {
        match reply.chunk().await {
            Some(Ok(chunk)) => reader.feed(&chunk, &mut items),
            Some(Err(broken)) => return Err(cut(broken)),
            None => return Err(NoStream::Other(unnamed("it ended before that".to_owned()))),
        }
        let mut read = std::mem::take(&mut items).into_iter();
        while let Some(item) = read.next() {
            match item {
                SseItem::Event { event: Some(event), data, .. } if event == "endpoint" => {
                    let endpoint =
                        endpoint(&dialer.target().url, &request.uri, &data).map_err(NoStream::Cut)?;
                    return Ok((reply, reader, read.collect(), endpoint));
                }
                // Whatever else has a name of its own may come before it.
                SseItem::Event { event: Some(event), .. } if event != "message" => {}
                SseItem::Comment | SseItem::Retry(_) | SseItem::Id(_) => {}
                SseItem::Event { .. }
                | SseItem::LongBegin { .. }
                | SseItem::LongMore(_)
                | SseItem::LongEnd => {
                    return Err(NoStream::Other(unnamed("a message came before that".to_owned())));
                }
                SseItem::Broken(why) => return Err(NoStream::Other(unnamed(why))),
            }
        }
    }
}

/// The path of an `endpoint` event, within the origin of the stream that named it.
fn endpoint(base: &Url, at: &Uri, data: &[u8]) -> Result<Uri, Cut> {
    let odd = unnamed;
    if data.len() > MAX_URL {
        return Err(odd(format!("its `endpoint` is longer than {MAX_URL} bytes")));
    }
    let here = at.path_and_query().and_then(|path| base.join(path.as_str()).ok());
    let there = here.zip(std::str::from_utf8(data).ok()).and_then(|(here, text)| here.join(text.trim()).ok());
    let Some(there) = there else { return Err(odd("its `endpoint` is no address".to_owned())) };
    if there.origin() != base.origin() {
        let cause = format!(
            "its event stream sends messages to `{}`, which is another origin than `{}`",
            redact::url(&there),
            redact::url(base)
        );
        let cut = Cut { wrote: false, kind: CutKind::Elsewhere, cause, resumable: false, retry: None };
        return Err(cut);
    }
    Uri::try_from(&there[url::Position::BeforePath..url::Position::AfterQuery])
        .map_err(|_| odd("its `endpoint` is no address".to_owned()))
}

/// Reads a stream to its end: answers go to who waits for them, the rest is sorted by the desk. How it ended.
async fn read(
    mut reply: Reply,
    mut reader: SseReader,
    mut items: Vec<SseItem>,
    up: &Weak<Upstream>,
    key: (LatchId, Gen),
    waiting: &Waiting,
) -> String {
    // A long event under way, where it is a message.
    let mut long: Option<BytesMut> = None;
    loop {
        for item in items.drain(..) {
            let message = |event: &Option<String>| event.as_ref().is_none_or(|event| event == "message");
            let text = match item {
                SseItem::Event { event, data, .. } if message(&event) => data,
                SseItem::LongBegin { event, head, .. } => {
                    long = message(&event).then(|| BytesMut::from(head));
                    continue;
                }
                SseItem::LongMore(more) => {
                    let Some(all) = &mut long else { continue };
                    all.extend_from_slice(&more);
                    if all.len() > COLLECTED {
                        return "an event of the stream is longer than 32 MiB".to_owned();
                    }
                    continue;
                }
                SseItem::LongEnd => match long.take() {
                    Some(all) => all.freeze(),
                    None => continue,
                },
                SseItem::Event { .. } | SseItem::Comment | SseItem::Retry(_) | SseItem::Id(_) => continue,
                SseItem::Broken(why) => return format!("the event stream can't be read any further: {why}"),
            };
            if let Err(malformed) = waiting.said(up, key, text).await {
                tracing::debug!(cause = %malformed.message, "an event is no message");
            }
        }
        match reply.chunk().await {
            Some(Ok(chunk)) => reader.feed(&chunk, &mut items),
            Some(Err(broken)) => return format!("the event stream broke: {broken}"),
            None => return "the server ended the event stream".to_owned(),
        }
    }
}

/// The stream ended, and whatever was asked by it has no answer.
fn ended(cause: String) -> Cut {
    Cut { wrote: true, kind: CutKind::Connection, cause, resumable: false, retry: None }
}

/// What came for a stream is none of the old transport.
fn unnamed(why: String) -> Cut {
    let cause = format!("the event stream names no `endpoint`: {why}");
    Cut { wrote: false, kind: CutKind::Garbled, cause, resumable: false, retry: None }
}

fn closed() -> String {
    "the event stream was closed".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(data: &str) -> Result<String, Cut> {
        let base = Url::parse("https://tools.example/api/sse?team=a").unwrap();
        let at = Uri::from_static("/api/sse?team=a");
        endpoint(&base, &at, data.as_bytes()).map(|uri| uri.to_string())
    }

    #[test]
    fn an_endpoint_is_a_path_or_an_address_of_the_streams_own_origin() {
        for (data, path) in [
            ("/messages/?session_id=1f", "/messages/?session_id=1f"),
            ("message?sessionId=1", "/api/message?sessionId=1"),
            ("?sessionId=1", "/api/sse?sessionId=1"),
            (" https://tools.example/m?s=1#here ", "/m?s=1"),
            ("https://TOOLS.example:443/m", "/m"),
            ("//tools.example/m", "/m"),
        ] {
            assert_eq!(found(data).unwrap(), path, "{data}");
        }
    }

    #[test]
    fn an_endpoint_of_another_origin_is_refused_and_both_are_named_without_their_secrets() {
        for data in [
            "https://evil.example/m?key=s3cret",
            "http://tools.example/m?key=s3cret",
            "https://tools.example:8443/m?key=s3cret",
            "//evil.example/m?key=s3cret",
            "file:///etc/passwd?key=s3cret",
            "javascript:1",
        ] {
            let cut = found(data).unwrap_err();
            assert_eq!((cut.kind, cut.wrote), (CutKind::Elsewhere, false), "{data}");
            assert!(
                cut.cause.contains("another origin than `https://tools.example/api/sse"),
                "{}",
                cut.cause
            );
            assert!(!cut.cause.contains("s3cret"), "{}", cut.cause);
        }
        let long = format!("/{}", "x".repeat(MAX_URL));
        for data in ["http://[", long.as_str()] {
            assert_eq!(found(data).unwrap_err().kind, CutKind::Garbled);
        }
    }
}
