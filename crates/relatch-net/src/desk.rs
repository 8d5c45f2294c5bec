//! What the shell keeps for one upstream while the core decides: requests, messages, answers, attempts.
//!
//! It lives behind the same lock as the machine, so that a fact and its effects see one state. It sorts the messages of
//! a stream by whom they are for and decides nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use relatch_core::effect::What;
use relatch_core::{AttemptId, ExId, Gen, LatchId, NoteId};
use relatch_wire::envelope::{Body, read_body};
use relatch_wire::handshake::cancelled_message;
use relatch_wire::method::{self, ListKind};
use relatch_wire::rewrite::server_request_id;
use relatch_wire::{Envelope, Kind, RequestId, params};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::exchange::{Piece, Running, Sink, Stop};
use crate::latch::{Alike, Headers, Latch, Pending, UpSession};
use crate::numbered::Numbered;
use crate::outbox::Outbox;
use crate::spans::{AttemptSpan, ExchangeSpan};
use crate::tap::Tapped;
use crate::upstream::place::Place;

/// The most requests of a server that one latch keeps open.
const PENDING: usize = 1_000;

/// Everything kept for one upstream.
#[derive(Default)]
pub(crate) struct Desk {
    /// Boxed: a node of the map has room for eleven, most of it empty.
    pub(crate) latches: BTreeMap<LatchId, Box<Latch>>,
    /// What they have alike.
    pub(crate) alike: Alike,
    pub(crate) exchanges: Numbered<ExId, Exchange>,
    pub(crate) notes: Numbered<NoteId, Note>,
    pub(crate) attempts: Numbered<AttemptId, Attempt>,
    /// Upstream sessions that opened after their latch was over, with the credentials that opened them. They are ended.
    pub(crate) orphans: BTreeMap<(LatchId, Gen), (UpSession, Headers)>,
    /// The exchange whose front stands here and would drive its first attempt itself; and that, once it has begun.
    pub(crate) front: Option<ExId>,
    pub(crate) driven: Option<Running>,
    /// Lists in which the server itself has what `--tell` would add, as the last client that looked has seen them.
    pub(crate) taken: BTreeSet<ListKind>,
}

/// A message of the client's with what came along.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// The message.
    pub(crate) message: Bytes,
    /// Its envelope.
    pub(crate) envelope: Envelope,
    /// The headers of its request that may go on.
    pub(crate) headers: Arc<HeaderMap>,
    /// Counts up with every arrival.
    pub(crate) number: u64,
}

/// A request that has no final answer yet.
pub(crate) struct Exchange {
    pub(crate) latch: LatchId,
    pub(crate) id: RequestId,
    pub(crate) arrival: Arrival,
    pub(crate) sink: Sink,
    /// What was sent for it.
    pub(crate) attempts: Vec<AttemptId>,
    /// The token under which it wants progress, and the last that it was told.
    pub(crate) token: Option<RequestId>,
    pub(crate) progress: Option<f64>,
    /// What it lists, and whether from the beginning.
    pub(crate) list: Option<(ListKind, bool)>,
    /// Whether it is the client's `initialize`.
    pub(crate) opening: bool,
    /// The copy that was found of its answer.
    pub(crate) copy: Option<Bytes>,
    /// Its span, where it is traced.
    pub(crate) span: Option<Box<ExchangeSpan>>,
    /// Its call, where somebody looks on.
    pub(crate) tapped: Option<Box<Tapped>>,
    /// Its share of what this keeper may keep.
    pub(crate) _kept: Option<OwnedSemaphorePermit>,
}

/// A message that expects no answer.
pub(crate) struct Note {
    pub(crate) latch: LatchId,
    pub(crate) arrival: Arrival,
    /// The client's request that it cancels.
    pub(crate) cancels: Option<RequestId>,
    /// Who waits to hear that it was taken.
    pub(crate) reply: Option<oneshot::Sender<NoteReply>>,
    /// How the upstream refused it.
    pub(crate) refused: Option<Refused>,
}

/// What becomes of a client's message.
#[derive(Debug)]
pub(crate) enum NoteReply {
    /// Taken.
    Accepted,
    /// The upstream refused it so.
    Refused(Refused),
}

/// One sending.
pub(crate) struct Attempt {
    pub(crate) latch: LatchId,
    pub(crate) generation: Gen,
    pub(crate) what: What,
    /// The id under which it travels.
    pub(crate) id: Option<RequestId>,
    /// The id under which its answer goes on.
    pub(crate) client_id: Option<RequestId>,
    /// Where its events and bytes go.
    pub(crate) flow: Option<ExId>,
    /// Rung when `flow` is set.
    pub(crate) flowing: Arc<Notify>,
    /// The credentials that it carries.
    pub(crate) headers: Headers,
    pub(crate) last_event: Option<String>,
    pub(crate) retry: Option<u64>,
    pub(crate) answer: Option<Kept>,
    /// Its span, where it is traced.
    pub(crate) span: Option<AttemptSpan>,
    /// Its last fact has been reported.
    pub(crate) ended: bool,
    pub(crate) stop: Option<Stop>,
}

/// What came for an attempt, until an effect says what becomes of it.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// A JSON-RPC answer under the client's id, and whether it came as an event.
    Answer(Bytes, bool),
    /// A long answer that is out already.
    Passed,
    /// An HTTP refusal.
    Refused(Refused),
}

/// A whole HTTP answer that is no JSON-RPC success.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// What of its headers may go back.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) retry_after: Option<u64>,
    pub(crate) location: Option<String>,
    /// No answer of anybody's: what its session lived on has ended, and the body says how.
    pub(crate) ended: bool,
}

/// Whom a message of a stream is for.
pub(crate) enum Sifted {
    /// It is the attempt's answer, under the client's id, and what its envelope said.
    Answer(Bytes, Kind),
    /// It goes on in the stream of an exchange.
    Exchange(Sink, Bytes),
    /// It goes on by the standing stream.
    Standing(Arc<Outbox>, Bytes),
    /// It is no message.
    Malformed(String),
}

/// Where a message of a server's comes from.
struct Home {
    latch: LatchId,
    generation: Gen,
    of: AttemptId,
    flow: Option<ExId>,
}

impl Exchange {
    /// It is over with this outcome; `failed` when its client got something else than an answer.
    pub(crate) fn ends(&mut self, outcome: &str, failed: bool) {
        if let Some(span) = &mut self.span {
            span.ends(outcome, failed);
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.ends(outcome, failed);
        }
    }

    /// Whether somebody wants to know how it ends.
    pub(crate) fn is_watched(&self) -> bool {
        self.span.is_some() || self.tapped.is_some()
    }
}

impl Attempt {
    /// The exchange that it was made for.
    pub(crate) fn ex(&self) -> Option<ExId> {
        match self.what {
            What::Exchange { ex, .. } => Some(ex),
            What::Initialize { ex } => ex,
            What::Initialized
            | What::Ping
            | What::SetLevel(_)
            | What::Subscribe(_)
            | What::List { .. }
            | What::Note(_)
            | What::Stream
            | What::Resume { .. }
            | What::Delete => None,
        }
    }
}

impl Desk {
    /// The exchange that an attempt is for, or whose stream it resumes.
    pub(crate) fn exchange_of(&mut self, attempt: AttemptId) -> Option<&mut Exchange> {
        let ex = match &self.attempts.get(&attempt)?.what {
            What::Resume { of } => self.attempts.get(of)?.ex()?,
            _ => self.attempts.get(&attempt)?.ex()?,
        };
        self.exchanges.get_mut(&ex)
    }

    /// Whether this upstream session is known.
    pub(crate) fn has_session(&self, latch: LatchId, generation: Gen) -> bool {
        self.orphans.contains_key(&(latch, generation))
            || self.latches.get(&latch).is_some_and(|latch| latch.sessions.get(generation).is_some())
    }

    /// Exchanges that are under way elsewhere than at this place.
    pub(crate) fn left_behind(&self, place: &Arc<Place>) -> usize {
        let elsewhere = |attempt: &Attempt| {
            let session =
                self.latches.get(&attempt.latch).and_then(|latch| latch.sessions.get(attempt.generation));
            session.is_some_and(|session| !Arc::ptr_eq(&session.place, place))
        };
        let open = self.attempts.values().filter(|attempt| !attempt.ended && attempt.ex().is_some());
        open.filter(|attempt| elsewhere(attempt)).count()
    }

    /// Takes an exchange off the desk, with what is left of its attempts.
    pub(crate) fn close_exchange(&mut self, ex: ExId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&ex)?;
        for attempt in &exchange.attempts {
            if self.attempts.get(attempt).is_some_and(|attempt| attempt.ended && attempt.answer.is_none()) {
                self.attempts.remove(attempt);
            }
        }
        Some(exchange)
    }

    /// Takes everything of a latch off the desk; what runs for it is stopped.
    pub(crate) fn close_latch(&mut self, id: LatchId) -> Option<Box<Latch>> {
        let latch = self.latches.remove(&id)?;
        if let Some(outbox) = latch.outbox_so_far() {
            outbox.close();
        }
        self.exchanges.retain(|_, exchange| exchange.latch != id);
        self.notes.retain(|_, note| note.latch != id);
        self.attempts.retain(|_, attempt| {
            // A DELETE outlives its latch, and so does a handshake: the session that it opens is ended.
            let outlives = matches!(attempt.what, What::Delete | What::Initialize { .. }) && !attempt.ended;
            let stays = attempt.latch != id || outlives;
            if let (false, Some(stop)) = (stays, attempt.stop.take_if(|_| !stays)) {
                stop.now();
            }
            stays
        });
        Some(latch)
    }

    /// The client may hear that a stream has begun, where the attempt flows.
    pub(crate) fn stream_begins(&self, of: AttemptId) {
        let flow = self.attempts.get(&of).and_then(|attempt| attempt.flow);
        if let Some(exchange) = flow.and_then(|ex| self.exchanges.get(&ex)) {
            exchange.sink.put(Piece::Begun);
        }
    }

    /// Notes the event id of an attempt's stream, and says whether it is another one than before.
    pub(crate) fn event_id(&mut self, of: AttemptId, id: String) -> bool {
        let Some(attempt) = self.attempts.get_mut(&of) else { return false };
        if attempt.what == What::Stream
            && let Some(session) = self
                .latches
                .get_mut(&attempt.latch)
                .and_then(|latch| latch.sessions.get_mut(attempt.generation))
        {
            session.last_event = Some(id.as_str().into());
        }
        let news = attempt.last_event.as_ref() != Some(&id);
        attempt.last_event = Some(id);
        news
    }

    /// Sorts what came in a stream: one message, or on old revisions a batch, all of which is behind the first.
    pub(crate) fn sift(&mut self, of: AttemptId, text: Bytes) -> (Option<Sifted>, Vec<Sifted>) {
        match read_body(&text) {
            Ok(Body::One(envelope)) => (self.sift_one(of, text, envelope), Vec::new()),
            Ok(Body::Batch(batch)) => {
                let one = |(span, envelope)| self.sift_one(of, text.slice(span), envelope);
                (None, batch.into_iter().filter_map(one).collect())
            }
            Err(malformed) => (Some(Sifted::Malformed(malformed.message)), Vec::new()),
        }
    }

    fn sift_one(&mut self, of: AttemptId, text: Bytes, envelope: Envelope) -> Option<Sifted> {
        let attempt = self.attempts.get(&of)?;
        match &envelope.kind {
            Kind::Result { id } if attempt.id.as_ref() == Some(id) => {
                let text = under(&text, &envelope, attempt.client_id.as_ref());
                Some(Sifted::Answer(text, envelope.kind))
            }
            // An error without id can only be about the one request of this stream.
            Kind::Error { id, .. } if attempt.id.is_some() && (id.is_none() || attempt.id == *id) => {
                let text = under(&text, &envelope, attempt.client_id.as_ref());
                Some(Sifted::Answer(text, envelope.kind))
            }
            Kind::Result { .. } | Kind::Error { .. } => None,
            Kind::Request { .. } | Kind::Notification { .. } => {
                let home =
                    Home { latch: attempt.latch, generation: attempt.generation, of, flow: attempt.flow };
                self.pass_on(home, text, &envelope)
            }
        }
    }

    /// Sorts what a process says that answers nothing.
    pub(crate) fn sift_of_session(
        &mut self,
        latch: LatchId,
        generation: Gen,
        text: Bytes,
        envelope: &Envelope,
    ) -> Option<Sifted> {
        let of = self.host_of(latch, generation, &text, envelope);
        let flow = of.and_then(|of| self.attempts.get(&of)).and_then(|attempt| attempt.flow);
        self.pass_on(Home { latch, generation, of: of.unwrap_or(AttemptId(0)), flow }, text, envelope)
    }

    /// Sorts what a process says about this attempt's request.
    pub(crate) fn sift_of_attempt(
        &mut self,
        of: AttemptId,
        text: Bytes,
        envelope: &Envelope,
    ) -> Option<Sifted> {
        let attempt = self.attempts.get(&of)?;
        let home = Home { latch: attempt.latch, generation: attempt.generation, of, flow: attempt.flow };
        self.pass_on(home, text, envelope)
    }

    /// The attempt whose exchange a message of this session's process belongs to: progress by its token, and while
    /// nobody reads the standing stream, everything else by the newest; none where it goes by the standing stream.
    pub(crate) fn host_of(
        &self,
        latch: LatchId,
        generation: Gen,
        text: &Bytes,
        envelope: &Envelope,
    ) -> Option<AttemptId> {
        let open = || {
            self.attempts.iter().filter_map(|(id, attempt)| {
                let of_session = attempt.latch == latch && attempt.generation == generation && !attempt.ended;
                let What::Exchange { ex, .. } = attempt.what else { return None };
                Some((id, self.exchanges.get(&ex).filter(|_| of_session)?))
            })
        };
        if matches!(&envelope.kind, Kind::Notification { method } if method == method::PROGRESS) {
            let token = envelope.params(text).and_then(params::progress_fields).map(|(token, _)| token)?;
            return open().find(|(_, exchange)| exchange.token.as_ref() == Some(&token)).map(|(id, _)| *id);
        }
        if self.latches.get(&latch)?.is_read() {
            return None;
        }
        open().filter(|(_, exchange)| exchange.sink.takes_events).map(|(id, _)| *id).max()
    }

    /// Sends on a request or notification of a server.
    fn pass_on(&mut self, home: Home, text: Bytes, envelope: &Envelope) -> Option<Sifted> {
        let Home { latch, generation, of, flow } = home;
        let text = match &envelope.kind {
            Kind::Result { .. } | Kind::Error { .. } => return None,
            Kind::Request { id, .. } => {
                let latch = self.latches.get_mut(&latch)?;
                if latch.asked() >= PENDING {
                    return None;
                }
                let id = server_request_id(generation.0, id);
                let text = envelope.with_id(&text, &id);
                latch.asks(id, Pending { attempt: of, ex: flow, generation });
                text
            }
            Kind::Notification { method } => match method.as_str() {
                method::CANCELLED => self.server_cancels(latch, generation, &text, envelope),
                method::PROGRESS => {
                    if self.progress_is_old(flow, &text, envelope) {
                        return None;
                    }
                    text
                }
                _ => text,
            },
        };
        match flow.and_then(|ex| self.exchanges.get(&ex)).map(|exchange| &exchange.sink) {
            Some(sink) if sink.takes_events => Some(Sifted::Exchange(sink.clone(), text)),
            Some(_) | None => {
                Some(Sifted::Standing(Arc::clone(self.latches.get_mut(&latch)?.outbox()), text))
            }
        }
    }

    /// The server takes a request of its own back.
    fn server_cancels(
        &mut self,
        latch: LatchId,
        generation: Gen,
        text: &Bytes,
        envelope: &Envelope,
    ) -> Bytes {
        let named = envelope.params(text).and_then(params::cancelled_request_id);
        let Some((id, span)) = named else { return text.clone() };
        let mapped = server_request_id(generation.0, &id);
        match self.latches.get_mut(&latch).and_then(|latch| latch.not_pending(&mapped)) {
            Some(_) => envelope.with_params_value(text, span, mapped.raw()),
            None => text.clone(),
        }
    }

    /// Whether the client was told as much already. What is new is remembered.
    fn progress_is_old(&mut self, flow: Option<ExId>, text: &Bytes, envelope: &Envelope) -> bool {
        let told = envelope.params(text).and_then(params::progress_fields);
        let exchange = flow.and_then(|ex| self.exchanges.get_mut(&ex));
        let (Some((token, progress)), Some(exchange)) = (told, exchange) else { return false };
        if exchange.token.as_ref() != Some(&token) {
            return false;
        }
        let old = exchange.progress.is_some_and(|last| progress <= last);
        if !old {
            exchange.progress = Some(progress);
        }
        old
    }

    /// Cancels at the client what this attempt's stream asked of it.
    pub(crate) fn withdraw(&mut self, of: AttemptId) {
        let of_one = self.attempts.get(&of).map(|attempt| attempt.latch);
        self.take_back(of_one, |pending| pending.attempt == of);
    }

    /// Cancels at the client what this session has asked of it.
    pub(crate) fn withdraw_session(&mut self, latch: LatchId, generation: Gen) {
        self.take_back(Some(latch), |pending| pending.generation == generation);
    }

    fn take_back(&mut self, of_one: Option<LatchId>, which: impl Fn(&Pending) -> bool) {
        for (_, latch) in self.latches.iter_mut().filter(|(id, _)| of_one.is_none_or(|one| one == **id)) {
            let asked: Vec<_> = latch
                .pending()
                .filter(|(_, pending)| which(pending))
                .map(|(id, pending)| (id.clone(), pending.ex))
                .collect();
            for (id, ex) in asked {
                latch.not_pending(&id);
                let words = cancelled_message(&id, "The server that asked is gone");
                let sink = ex.and_then(|ex| self.exchanges.get(&ex)).map(|exchange| &exchange.sink);
                if !sink.is_some_and(|sink| sink.takes_events && sink.event_now(&words)) {
                    latch.outbox().push(words);
                }
            }
        }
    }

    /// The id under which an open attempt of this session carries the request that the client knows by `id`.
    pub(crate) fn travels_as(&self, latch: LatchId, generation: Gen, id: &RequestId) -> Option<RequestId> {
        self.attempts
            .iter()
            .filter(|(_, attempt)| {
                attempt.latch == latch && attempt.generation == generation && !attempt.ended
            })
            .filter(|(_, attempt)| attempt.ex().is_some() && attempt.client_id.as_ref() == Some(id))
            .max_by_key(|(attempt, _)| **attempt)
            .and_then(|(_, attempt)| attempt.id.clone())
    }

    /// Exchanges that are to end because this process does: those that were not sent, or all.
    pub(crate) fn to_drain(&self, all: bool) -> Vec<(ExId, bool)> {
        self.exchanges
            .iter()
            .map(|(ex, exchange)| {
                // One that has ended stays while its answer is judged, or while the rest of its stream is fetched.
                let sent = exchange.attempts.iter().any(|attempt| self.attempts.contains_key(attempt));
                (*ex, sent)
            })
            .filter(|(_, sent)| all || !sent)
            .collect()
    }

    /// Whoever waits to hear of a message hears that it was taken.
    pub(crate) fn accept(&mut self, note: NoteId) {
        if let Some(reply) = self.notes.get_mut(&note).and_then(|note| note.reply.take()) {
            // Who waited may have left.
            drop(reply.send(NoteReply::Accepted));
        }
    }

    /// A message is let go; whoever waits to hear of it hears the upstream's refusal, if there was one.
    pub(crate) fn let_go(&mut self, note: NoteId) {
        let Some(Note { reply: Some(reply), refused, .. }) = self.notes.remove(&note) else { return };
        // Who waited may have left.
        drop(reply.send(refused.map_or(NoteReply::Accepted, NoteReply::Refused)));
    }
}

fn under(text: &Bytes, envelope: &Envelope, id: Option<&RequestId>) -> Bytes {
    id.map_or_else(|| text.clone(), |id| envelope.with_id(text, id))
}
