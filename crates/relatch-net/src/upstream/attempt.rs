//! One attempt from its first byte to its last fact.
//!
//! Sends the request, follows redirects within the origin, and reads whatever comes back into one of the core's facts.
//! What a status or an error means is decided in the core.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use relatch_core::AttemptId;
use relatch_core::effect::{Send, What};
use relatch_core::input::{Begun, Cut, CutKind, Input};
use relatch_wire::handshake::ServerHello;
use relatch_wire::headers::{self, returned_upstream_header, valid_session_id};
use relatch_wire::scan::{IdReplacer, TopLevel};
use relatch_wire::{Envelope, Kind};
use tokio::sync::mpsc;
use url::Url;

use super::dial::{Broken, Cause, ConnRule, Dialer, Reply, Wrote};
use super::job::{self, Job, Outgoing};
use super::place::Place;
use super::way::Way;
use super::{events, http_sse, pipe};
use crate::copies::{self, Asker, Page};
use crate::desk::{Attempt, Desk, Kept, Refused};
use crate::driver::Upstream;
use crate::exchange::{Chunk, Running, Stop};
use crate::latch::{Said, UpSession};
use crate::lock;
use crate::names;
use crate::quiet::{Quiet, through};
use crate::redact;
use crate::spans::AttemptSpan;

/// An answer up to this size is whole here before its first byte goes on.
pub(crate) const WHOLE: usize = 1024 * 1024;
/// So much of a longer one is looked through for its `result`.
pub(crate) const LOOKED_THROUGH: usize = 64 * 1024;
/// A list, and an answer that can't be streamed, is collected up to this.
pub(crate) const COLLECTED: usize = 32 * 1024 * 1024;
/// Bodies of refusals are read up to this.
const REFUSAL: usize = 64 * 1024;
/// Redirects that are followed for one request.
const HOPS: usize = 3;

/// How an attempt ended.
pub(crate) enum End {
    /// With its answer.
    Answered(Whole),
    /// With a long answer that is out; its channel ends after the fact is told.
    Passed(mpsc::Sender<Chunk>),
    /// With an HTTP answer that is no JSON-RPC success.
    Refused(Refused),
    /// Without a whole answer.
    Cut(Cut),
}

/// A whole answer, read once.
pub(crate) struct Whole {
    /// It, under the client's id.
    pub(crate) text: Bytes,
    /// What its envelope says; none where nothing was due.
    pub(crate) kind: Option<Kind>,
    /// Whether it came as an event.
    pub(crate) sse: bool,
}

impl Whole {
    /// An answer that is read here.
    pub(crate) fn read(text: Bytes, sse: bool) -> Whole {
        let kind = Envelope::read(&text).ok().map(|envelope| envelope.kind);
        Whole { text, kind, sse }
    }
}

/// Begins an attempt: driven by its front where that stands by, otherwise as a task of its own.
pub(crate) fn begin(up: &Arc<Upstream>, desk: &mut Desk, send: Send) {
    let span = span_of(desk, &send);
    let built = job::build(up, desk, &send, span.as_ref());
    let Send { attempt, latch, generation, what, .. } = send;
    let (job, names) = match built {
        Some((job, names)) => (Some(job), Some(names)),
        None => (None, None),
    };
    let (id, client_id, headers) = match names {
        Some(names) => (names.id, names.client_id, names.headers),
        None => (None, None, None),
    };
    let up = Arc::clone(up);
    let work = async move {
        match job {
            Some(job) => match &Arc::clone(&job.place).way {
                Way::Url(dialer, streams) => http_sse::run(&up, dialer, streams, &job).await,
                Way::Command(commands) => Box::pin(pipe::run(up, commands, job)).await,
            },
            None => {
                let cut = Cut {
                    wrote: false,
                    kind: CutKind::Connection,
                    cause: "nobody waits for it any more".to_owned(),
                    resumable: false,
                    retry: None,
                };
                up.finish(attempt, None, Input::Cut { attempt, cut });
            }
        }
    };
    let stop = match &what {
        What::Exchange { ex, .. } if desk.front == Some(*ex) && desk.driven.is_none() => {
            let (running, stop) = Running::new(Box::pin(work));
            desk.driven = Some(running);
            stop
        }
        _ => Stop::Task(tokio::spawn(Quiet::new(work)).abort_handle()),
    };
    if let What::Exchange { ex, .. } | What::Initialize { ex: Some(ex) } = &what
        && let Some(exchange) = desk.exchanges.get_mut(ex)
    {
        exchange.attempts.push(attempt);
    }
    desk.attempts.insert(
        attempt,
        Attempt {
            latch,
            generation,
            what,
            id,
            client_id,
            flow: None,
            flowing: Arc::default(),
            headers,
            last_event: None,
            retry: None,
            answer: None,
            span,
            ended: false,
            stop: Some(stop),
        },
    );
}

/// The span of what is sent for an exchange that is traced.
fn span_of(desk: &mut Desk, send: &Send) -> Option<AttemptSpan> {
    let (ex, resumes) = match &send.what {
        What::Exchange { ex, .. } | What::Initialize { ex: Some(ex) } => (*ex, false),
        What::Resume { of } => (desk.attempts.get(of)?.ex()?, true),
        What::Initialize { ex: None }
        | What::Initialized
        | What::Ping
        | What::SetLevel(_)
        | What::Subscribe(_)
        | What::List { .. }
        | What::Note(_)
        | What::Stream
        | What::Delete => return None,
    };
    Some(desk.exchanges.get_mut(&ex)?.span.as_mut()?.attempt(send.generation, resumes))
}

/// One attempt by Streamable HTTP.
pub(super) async fn run(up: &Arc<Upstream>, dialer: &Dialer, job: &Job) {
    if let Some(refused) = unless_refused(up, dialer, job).await {
        up.refused(job.attempt, refused);
    }
}

/// The same; a refusal is not reported, but given back.
pub(super) async fn unless_refused(up: &Arc<Upstream>, dialer: &Dialer, job: &Job) -> Option<Refused> {
    let (attempt, of) = (job.attempt, job.of);
    let mut request = Cow::Borrowed(&job.request);
    let mut reply = match send(dialer, &mut request, job.rule, Some(&job.place)).await {
        Ok(reply) => reply,
        Err(broken) => {
            cut(up, attempt, of, broken);
            return None;
        }
    };
    let end = read(up, job, &mut reply).await;
    match end {
        End::Answered(whole) => {
            deliver(up, job, &reply.head.headers, whole);
            resumed(up, attempt, of);
            drain(reply).await;
        }
        End::Passed(chunks) => {
            up.answered(of, Kept::Passed, None);
            // Who reads it may have left.
            drop(chunks.send(Chunk::End).await);
            resumed(up, attempt, of);
            drain(reply).await;
        }
        End::Refused(refused) => {
            if dialer.target().is_tls()
                && let Some(words) = wants_certificate(&refused)
            {
                let cause = Cause::Tls(words.to_owned());
                cut(up, attempt, of, Broken { wrote: Wrote::Nothing, cause });
                return None;
            }
            if matches!(
                refused.status,
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE
            ) {
                // Where a server redirected to may be gone with it.
                *lock(&job.place.redirected) = None;
            }
            return Some(refused);
        }
        End::Cut(broken) => up.finish(attempt, None, Input::Cut { attempt, cut: broken }),
    }
    None
}

/// What the session of this attempt lived on has ended, and the attempt has not reached it: told as a refusal by a server
/// that does not know the session, since that it never ran is as certain.
pub(super) fn gone(up: &Arc<Upstream>, attempt: AttemptId, words: String) {
    let refused = Refused {
        status: StatusCode::NOT_FOUND,
        headers: HeaderMap::new(),
        body: words.into(),
        retry_after: None,
        location: None,
        ended: true,
    };
    up.refused(attempt, refused);
}

/// Tells what a whole answer means for its attempt.
pub(super) fn deliver(up: &Arc<Upstream>, job: &Job, head: &HeaderMap, whole: Whole) {
    let Whole { text, kind, sse } = whole;
    match (&job.what, &kind) {
        (What::Initialize { .. }, Some(Kind::Result { .. })) => session(up, job, head, text, sse),
        (What::List { kind, cursor }, Some(Kind::Result { .. })) => {
            listed(up, job, *kind, cursor.clone(), &text);
        }
        _ => up.answered(job.of, Kept::Answer(text, sse), kind.as_ref()),
    }
}

/// The answer that this attempt brought was another's; its own end is told too.
fn resumed(up: &Arc<Upstream>, attempt: AttemptId, of: AttemptId) {
    if of != attempt {
        let answer = relatch_core::input::Answer::Result;
        up.finish(attempt, None, Input::Answered { attempt, answer });
    }
}

/// Sends the request, and again where the origin itself says so.
/// The request is left with the path that it went to last, which is the place's from now on.
pub(super) async fn send(
    dialer: &Dialer,
    request: &mut Cow<'_, Outgoing>,
    rule: ConnRule,
    place: Option<&Place>,
) -> Result<Reply, Broken> {
    let mut hops = 0;
    loop {
        let reply = dialer.send_made(|host| request.request(host), rule).await?;
        let status = reply.head.status;
        if !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) || hops == HOPS
        {
            return Ok(reply);
        }
        let Some(path) = redirected(&dialer.target().url, &request.uri, &reply.head.headers) else {
            return Ok(reply);
        };
        let Ok(uri) = Uri::try_from(path.as_str()) else { return Ok(reply) };
        request.to_mut().uri = uri.clone();
        if let Some(place) = place {
            *lock(&place.redirected) = Some(uri);
        }
        hops += 1;
        drain(reply).await;
    }
}

/// The path of a redirect that stays within the origin.
fn redirected(base: &Url, at: &Uri, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let here = base.join(at.path_and_query()?.as_str()).ok()?;
    let there = here.join(location).ok()?;
    (there.origin() == base.origin() && there != here)
        .then(|| there[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

async fn read(up: &Arc<Upstream>, job: &Job, reply: &mut Reply) -> End {
    let status = reply.head.status;
    if !status.is_success() {
        return refusal(reply).await;
    }
    accept(up, job.attempt);
    match job.what {
        What::Note(_) | What::Initialized | What::Delete => {
            // Nothing is due; whatever comes all the same is let go.
            return End::Answered(Whole { text: Bytes::new(), kind: None, sse: false });
        }
        What::Exchange { .. }
        | What::Initialize { .. }
        | What::Ping
        | What::SetLevel(_)
        | What::Subscribe(_)
        | What::List { .. }
        | What::Stream
        | What::Resume { .. } => {}
    }
    let kind = reply.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if headers::is_type(kind, headers::SSE) {
        if !matches!(job.what, What::Initialize { .. }) {
            // They hold on to the whole buffer that they were read into, and a stream may last for days.
            reply.head.headers = HeaderMap::new();
        }
        up.fact_after(
            |desk| desk.attempts.contains_key(&job.attempt),
            Input::Begun { attempt: job.attempt, begun: Begun::Stream },
        );
        return events::read(up, job, reply).await;
    }
    if matches!(job.what, What::Stream | What::Resume { .. }) {
        return refusal(reply).await;
    }
    match json(up, job, reply).await {
        Ok(end) => end,
        Err(broken) => End::Cut(words_of(broken, None)),
    }
}

/// A JSON answer: whole, or streaming on when it is long and certainly a result.
async fn json(up: &Arc<Upstream>, job: &Job, reply: &mut Reply) -> Result<End, Broken> {
    let mut text = reply.collect(job.whole).await?;
    if !reply.whole() {
        let mut scan = TopLevel::new();
        scan.feed(text.get(..LOOKED_THROUGH).unwrap_or(&text));
        if scan.saw_result() && matches!(job.what, What::Exchange { .. }) {
            return Ok(Box::pin(long(up, job, reply, text)).await);
        }
        let mut all = BytesMut::from(text);
        while let Some(chunk) = reply.chunk().await {
            all.extend_from_slice(&chunk?);
            if all.len() > COLLECTED {
                return Ok(End::Cut(garbled(
                    "the answer is longer than 32 MiB and shows no `result`".to_owned(),
                )));
            }
        }
        text = all.freeze();
    }
    Ok(judge(up, job, reply, text).await)
}

/// Whether a whole body is the answer.
async fn judge(up: &Upstream, job: &Job, reply: &Reply, text: Bytes) -> End {
    match through(&text, Envelope::read).await {
        Ok(envelope) if matches!(envelope.kind, Kind::Result { .. } | Kind::Error { .. }) => {
            let client_id = up.desk(|desk| desk.attempts.get(&job.of).and_then(|a| a.client_id.clone()));
            // One answer comes on one connection, so it is this request's whatever id it bears.
            let text = client_id.map_or_else(|| text.clone(), |id| envelope.with_id(&text, &id));
            End::Answered(Whole { text, kind: Some(envelope.kind), sse: false })
        }
        Ok(_) | Err(_) => End::Refused(refused(&reply.head, text.slice(..text.len().min(REFUSAL)))),
    }
}

/// Streams a long JSON answer on as soon as the core lets it flow.
async fn long(up: &Arc<Upstream>, job: &Job, reply: &mut Reply, head: Bytes) -> End {
    let mut passage = match Passage::open(up, job, false).await {
        Some(passage) => passage,
        None => return End::Cut(garbled("nobody waits for the answer".to_owned())),
    };
    passage.put(&head).await;
    loop {
        match reply.chunk().await {
            Some(Ok(chunk)) => passage.put(&chunk).await,
            Some(Err(broken)) => return End::Cut(words_of(broken, None)),
            None if passage.complete() => return passage.end(),
            None => return End::Cut(garbled("the answer ended in the middle".to_owned())),
        }
    }
}

/// The way of a long answer to its client.
pub(crate) struct Passage {
    chunks: mpsc::Sender<Chunk>,
    replacer: Option<IdReplacer>,
    scan: TopLevel,
}

impl Passage {
    /// Tells the core that a long answer has begun and waits until it may flow.
    pub(crate) async fn open(up: &Arc<Upstream>, job: &Job, sse: bool) -> Option<Passage> {
        up.fact_after(
            |desk| desk.attempts.contains_key(&job.of),
            Input::Begun { attempt: job.of, begun: Begun::Long },
        );
        loop {
            let flowing = up.desk(|desk| desk.attempts.get(&job.of).map(|a| Arc::clone(&a.flowing)))?;
            let (flows, sink, renamed) = up.desk(|desk| {
                let Some(attempt) = desk.attempts.get(&job.of) else { return (true, None, None) };
                let sink = attempt.flow.and_then(|ex| desk.exchanges.get(&ex)).map(|ex| ex.sink.clone());
                let renamed = attempt.client_id.clone().filter(|id| attempt.id.as_ref() != Some(id));
                (attempt.flow.is_some(), sink, renamed)
            });
            if flows {
                // Without a client the rest is read and let go.
                let chunks = sink.map_or_else(|| mpsc::channel(1).0, |sink| sink.long(sse));
                return Some(Passage {
                    chunks,
                    replacer: renamed.map(IdReplacer::new),
                    scan: TopLevel::new(),
                });
            }
            flowing.notified().await;
        }
    }

    /// Passes bytes on; waits for a slow client, and lets them go when it has left.
    pub(crate) async fn put(&mut self, bytes: &Bytes) {
        self.scan.feed(bytes);
        let bytes = match &mut self.replacer {
            Some(replacer) => {
                let mut out = BytesMut::new();
                replacer.feed(bytes, &mut out);
                out.freeze()
            }
            None => bytes.clone(),
        };
        drop(self.chunks.send(Chunk::Bytes(bytes)).await);
    }

    /// Whether the message has come to its end.
    pub(crate) fn complete(&self) -> bool {
        self.scan.is_complete()
    }

    pub(crate) fn end(self) -> End {
        End::Passed(self.chunks)
    }
}

/// A session id is taken from here and from nowhere else.
fn session(up: &Arc<Upstream>, job: &Job, head: &HeaderMap, text: Bytes, sse: bool) {
    let hello = Envelope::read(&text).ok().and_then(|envelope| {
        let result = text.slice(envelope.result_span()?);
        Some((ServerHello::read(&result)?, result))
    });
    let Some((hello, result)) = hello else {
        let refused = Refused {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: text.slice(..text.len().min(REFUSAL)),
            retry_after: None,
            location: None,
            ended: false,
        };
        return up.refused(job.attempt, refused);
    };
    let id = head
        .get(names::SESSION)
        .filter(|id| valid_session_id(id.as_bytes()))
        .and_then(|id| id.to_str().ok())
        .map(Box::from);
    let facts = copies::facts(&hello, id.is_some());
    let said = Said {
        revision: hello.revision_text,
        server: hello.name.map(|name| (name, hello.version.unwrap_or_default())),
        ..Said::default()
    };
    let streamed = job.place.way.streams(job.latch, job.generation);
    let (attempt, generation, own) =
        (job.attempt, job.generation, matches!(job.what, What::Initialize { ex: Some(_) }));
    up.desk(|desk| {
        let Some(opened) = desk.attempts.get(&attempt) else { return };
        let (latch, headers) = (opened.latch, opened.headers.clone());
        let said = desk.alike.said(said);
        let session = UpSession { id, said, last_event: None, place: Arc::clone(&job.place), streamed };
        let Some(latch) = desk.latches.get_mut(&latch) else {
            desk.orphans.insert((latch, generation), (session, headers));
            return;
        };
        up.keep_hello(latch, &headers, &job.place, own, (&text, result, &session.said.revision));
        // One that was answered from a copy was promised something then.
        if own && latch.promised.is_none() {
            latch.promised = Some(desk.alike.revision(&session.said.revision));
        }
        latch.sessions.insert(generation, session);
    });
    up.finish(attempt, Some(Kept::Answer(text, sse)), Input::Session { attempt, session: facts });
}

fn listed(
    up: &Arc<Upstream>,
    job: &Job,
    kind: relatch_wire::method::ListKind,
    cursor: Option<String>,
    text: &Bytes,
) {
    let attempt = job.attempt;
    let page = Envelope::read(text)
        .ok()
        .and_then(|envelope| relatch_wire::lists::items(envelope.result(text)?, kind));
    let listed = page.and_then(|page| {
        up.desk(|desk| {
            let Desk { attempts, latches, .. } = desk;
            let of = attempts.get(&attempt)?;
            let latch = latches.get_mut(&of.latch)?;
            let listed = latch.lists.fetched(kind, cursor.is_none(), &page);
            let next = page.next_cursor.as_deref();
            let page = Page { kind, asker: Asker::Relatch, cursor, next, text };
            up.keep_page(latch, of.generation, &of.headers, &page);
            Some(listed)
        })
    });
    match listed {
        Some(listed) => up.finish(attempt, None, Input::Listed { attempt, listed }),
        None => {
            let cut = garbled(format!("the answer to `{}` is no list", kind.method()));
            up.finish(attempt, None, Input::Cut { attempt, cut });
        }
    }
}

/// The credentials of this attempt have proven good.
pub(super) fn accept(up: &Upstream, attempt: AttemptId) {
    up.desk(|desk| {
        let Some(attempt) = desk.attempts.get(&attempt) else { return };
        let (Some((number, headers)), Some(latch)) = (&attempt.headers, desk.latches.get_mut(&attempt.latch))
        else {
            return;
        };
        latch.credentials.accept(*number, headers);
        if latch.reader.as_ref().is_some_and(|reader| latch.credentials.trusts(reader)) {
            latch.reader = None;
            if let Some(outbox) = latch.outbox_so_far() {
                outbox.trust();
            }
        }
    });
}

/// The rest of an HTTP answer that is no success.
async fn refusal(reply: &mut Reply) -> End {
    End::Refused(refused_by(reply).await)
}

/// The whole of an HTTP answer that is no success.
pub(super) async fn refused_by(reply: &mut Reply) -> Refused {
    match reply.collect(REFUSAL).await {
        Ok(body) => refused(&reply.head, body),
        // The head was whole, and it is what counts.
        Err(_) => refused(&reply.head, Bytes::new()),
    }
}

fn refused(head: &http::response::Parts, body: Bytes) -> Refused {
    let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let headers = head
        .headers
        .iter()
        .filter(|(name, _)| returned_upstream_header(name.as_str()))
        // A copy: a value that was parsed holds on to the whole buffer that it was read into.
        .filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?)))
        .collect();
    Refused {
        status: head.status,
        headers,
        body: Bytes::copy_from_slice(&body),
        retry_after: text(&RETRY_AFTER).and_then(retry_after),
        location: text(&LOCATION).map(shown_location),
        ended: false,
    }
}

/// nginx says no to a client's certificate, or to the lack of one, by an answer of its own, before it passes anything on.
fn wants_certificate(refused: &Refused) -> Option<&'static str> {
    let says = |words: &str| refused.body.windows(words.len()).any(|window| window == words.as_bytes());
    if refused.status != StatusCode::BAD_REQUEST {
        None
    } else if says("No required SSL certificate was sent") {
        Some("the server wants a client certificate, and none was shown to it (`cert` and `key`)")
    } else if says("The SSL certificate error") {
        Some(
            "the server refuses the client certificate: it knows nobody who vouches for it, or it has expired",
        )
    } else {
        None
    }
}

/// Where a redirect leads, without what may be a secret in it.
fn shown_location(location: &str) -> String {
    let shown = match Url::parse(location) {
        Ok(there) => redact::url(&there),
        Err(_) => location.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    shown.chars().take(2_000).collect()
}

/// `Retry-After` in milliseconds: seconds, or a date.
#[must_use]
pub fn retry_after(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let ahead = at.as_millisecond().saturating_sub(jiff::Timestamp::now().as_millisecond());
    Some(u64::try_from(ahead).unwrap_or(0))
}

fn cut(up: &Arc<Upstream>, attempt: AttemptId, of: AttemptId, broken: Broken) {
    let resumable = up.desk(|desk| desk.attempts.get(&of).and_then(|a| a.last_event.clone()).is_some());
    let mut cut = words_of(broken, None);
    cut.resumable = resumable && attempt != of;
    up.finish(attempt, None, Input::Cut { attempt, cut });
}

/// A break of the connection as the core knows it.
pub(crate) fn words_of(broken: Broken, retry: Option<u64>) -> Cut {
    let kind = match &broken.cause {
        Cause::Tls(_) => CutKind::Tls,
        Cause::UnknownHost(_) => CutKind::UnknownHost,
        Cause::Proxy(_) => CutKind::Proxy,
        Cause::HeadTooLarge | Cause::Malformed(_) => CutKind::Garbled,
        Cause::Refused(_)
        | Cause::ConnectTimeout(_)
        | Cause::Lookup(_)
        | Cause::Unreachable(_)
        | Cause::NoSocket(_)
        | Cause::NotAllowed(_)
        | Cause::NoWay(_)
        | Cause::Reset(_)
        | Cause::Closed(_)
        | Cause::Io(_) => CutKind::Connection,
    };
    let wrote = match broken.wrote {
        Wrote::Nothing => false,
        Wrote::Maybe => true,
    };
    Cut { wrote, kind, cause: broken.cause.to_string(), resumable: false, retry }
}

/// An answer that broke a bound or is nothing that can be read.
pub(crate) fn garbled(cause: String) -> Cut {
    Cut { wrote: true, kind: CutKind::Garbled, cause, resumable: false, retry: None }
}

/// Reads what is there without waiting.
pub(super) async fn settle(reply: &mut Reply) {
    for _ in 0..2 {
        let more = tokio::select! {
            biased;
            chunk = reply.chunk() => matches!(chunk, Some(Ok(_))),
            () = std::future::ready(()) => false,
        };
        if !more {
            return;
        }
    }
}

/// Reads a body to its end for the connection's sake, within reason.
pub(super) async fn drain(mut reply: Reply) {
    if reply.whole() {
        return;
    }
    let rest = async {
        let mut room = REFUSAL;
        while let Some(Ok(chunk)) = reply.chunk().await {
            room = room.saturating_sub(chunk.len());
            if room == 0 {
                return;
            }
        }
    };
    // A server that says nothing more and closes nothing keeps its connection for itself.
    drop(tokio::time::timeout(std::time::Duration::from_secs(1), rest).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_within_the_origin_only() {
        let base = Url::parse("http://127.0.0.1:8761/mcp").unwrap();
        let at = Uri::from_static("/mcp");
        let to = |location: &'static str| {
            let headers = [(LOCATION, HeaderValue::from_static(location))].into_iter().collect();
            redirected(&base, &at, &headers)
        };
        assert_eq!(to("/mcp/").as_deref(), Some("/mcp/"));
        assert_eq!(to("http://127.0.0.1:8761/other?a=b").as_deref(), Some("/other?a=b"));
        assert_eq!(to("https://127.0.0.1:8761/mcp/"), None);
        assert_eq!(to("http://example.com/mcp"), None);
        assert_eq!(to("/mcp"), None);
    }

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        assert_eq!(retry_after("120"), Some(120_000));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        assert_eq!(retry_after("soon"), None);
    }
}
