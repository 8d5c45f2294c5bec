//! Who waits for what, on a line that carries a whole session: the pipes of a process, or a stream of the old transport.
//!
//! An answer goes to whoever waits for it, by the id under which its request travels; what answers nothing is sorted by
//! the desk. Sends nothing, and decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use relatch_core::input::{Begun, Input};
use relatch_core::{AttemptId, Gen, LatchId};
use relatch_wire::envelope::{Body, Malformed, read_body};
use relatch_wire::{Envelope, Kind, RequestId};
use tokio::sync::oneshot;

use crate::desk::Sifted;
use crate::driver::Upstream;
use crate::lock;

/// Requests without an answer, by the id under which they travel.
type Requests = HashMap<RequestId, (Option<AttemptId>, oneshot::Sender<Bytes>)>;

/// Who waits for what one session says.
#[derive(Debug)]
pub(super) struct Waiting {
    /// None once nothing more is read.
    asked: Mutex<Option<Requests>>,
}

/// A request that waits, until this is dropped.
pub(super) struct Asked<'a> {
    waiting: &'a Waiting,
    id: RequestId,
    attempt: Option<AttemptId>,
}

impl Waiting {
    pub(super) fn new() -> Waiting {
        Waiting { asked: Mutex::new(Some(HashMap::new())) }
    }

    /// From now on the answer to this id is waited for, and comes under the client's id, or its sender goes with the
    /// line. None where nothing more is read. A request without an attempt is nobody's but relatch's.
    pub(super) fn ask(
        &self,
        id: RequestId,
        attempt: Option<AttemptId>,
    ) -> Option<(Asked<'_>, oneshot::Receiver<Bytes>)> {
        let (tell, answer) = oneshot::channel();
        lock(&self.asked).as_mut()?.insert(id.clone(), (attempt, tell));
        Some((Asked { waiting: self, id, attempt }, answer))
    }

    /// Whether something is read still.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.asked).is_some()
    }

    /// Nothing more is read: whoever waits hears that no answer comes.
    pub(super) fn close(&self) {
        *lock(&self.asked) = None;
    }

    /// Takes what the session's server says: a message or, on old revisions, a batch of them.
    pub(super) async fn said(
        &self,
        up: &Weak<Upstream>,
        key: (LatchId, Gen),
        text: Bytes,
    ) -> Result<(), Malformed> {
        match read_body(&text)? {
            Body::One(envelope) => self.one(up, key, text, &envelope).await,
            Body::Batch(batch) => {
                for (span, envelope) in batch {
                    self.one(up, key, text.slice(span), &envelope).await;
                }
            }
        }
        Ok(())
    }

    async fn one(
        &self,
        up: &Weak<Upstream>,
        (latch, generation): (LatchId, Gen),
        text: Bytes,
        envelope: &Envelope,
    ) {
        match &envelope.kind {
            Kind::Result { id } | Kind::Error { id: Some(id), .. } => {
                return self.answer(up, id, text, envelope);
            }
            // Nobody can say whose it is.
            Kind::Error { id: None, .. } => return,
            Kind::Request { .. } | Kind::Notification { .. } => {}
        }
        let Some(up) = up.upgrade() else { return };
        if let Some(attempt) = up.desk(|desk| desk.host_of(latch, generation, &text, envelope)) {
            begun(&up, attempt);
        }
        match up.desk(|desk| desk.sift_of_session(latch, generation, text, envelope)) {
            Some(Sifted::Exchange(sink, text)) => sink.event(text).await,
            Some(Sifted::Standing(outbox, text)) => outbox.push_in_turn(text).await,
            Some(Sifted::Answer(..) | Sifted::Malformed(_)) | None => {}
        }
    }

    /// The answer to this id goes to whoever waits for it.
    pub(super) fn answer(&self, up: &Weak<Upstream>, id: &RequestId, text: Bytes, envelope: &Envelope) {
        let asked = lock(&self.asked).as_mut().and_then(|asked| asked.remove(id));
        if let (Some((attempt, tell)), Some(up)) = (asked, up.upgrade()) {
            let client_id =
                attempt.and_then(|attempt| up.desk(|desk| desk.attempts.get(&attempt)?.client_id.clone()));
            let text = client_id.map_or_else(|| text.clone(), |id| envelope.with_id(&text, &id));
            // Who was aborted meanwhile does not care.
            let _ = tell.send(text);
        }
    }
}

/// Before the first message in its stream, the client hears that there is one.
pub(super) fn begun(up: &Arc<Upstream>, attempt: AttemptId) {
    let mut first = false;
    up.fact_after(
        |desk| {
            first = desk.attempts.get(&attempt).is_some_and(|a| a.flow.is_none());
            first
        },
        Input::Begun { attempt, begun: Begun::Stream },
    );
    if first {
        up.desk(|desk| desk.stream_begins(attempt));
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut asked = lock(&self.waiting.asked);
        if let Some(asked) = &mut *asked
            && asked.get(&self.id).is_some_and(|(attempt, _)| *attempt == self.attempt)
        {
            asked.remove(&self.id);
        }
    }
}
