//! An upstream's event stream: who gets what, and which event is the answer.
//!
//! Event ids are remembered, since a stream may be resumed from them. Whether it is, is decided in the core.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use relatch_core::effect::What;
use relatch_core::input::{Begun, Cut, CutKind, Input};
use relatch_wire::scan::TopLevel;
use relatch_wire::sse::{SseItem, SseReader};
use tokio::task::coop::consume_budget;

use super::attempt::{COLLECTED, End, LOOKED_THROUGH, Passage, WHOLE, Whole, garbled, words_of};
use super::dial::Reply;
use super::job::Job;
use crate::desk::Sifted;
use crate::driver::Upstream;
use crate::quiet::shown;

/// A long event under way.
enum Long {
    None,
    /// It is the answer and goes on as it comes.
    Passing(Box<Passage>),
    /// It is collected like any other event; whether it may pass when it grows too long for that.
    Collecting(BytesMut, bool),
}

/// So many bytes of events go on together at most.
const TOGETHER: usize = 32 * 1024;

/// What has been passed on and not been seen yet by whoever waits for it: the first event at once, of more that come with
/// it ever larger pieces.
struct Passed {
    bytes: usize,
    due: usize,
}

impl Passed {
    async fn show(&mut self) {
        if self.bytes >= self.due {
            self.bytes = 0;
            self.due = (self.due * 2).clamp(1024, TOGETHER);
            shown().await;
        }
    }
}

/// Reads a stream until its answer, or its end.
pub(crate) async fn read(up: &Arc<Upstream>, job: &Job, reply: &mut Reply) -> End {
    let mut reader = SseReader::default();
    let mut items = Vec::new();
    let mut long = Long::None;
    // An event has an id once it is whole: a stream that is cut inside it is resumed ahead of it.
    let mut long_id = None;
    let mut odd = None;
    let mut passed = Passed { bytes: 0, due: 1 };
    if matches!(job.what, What::Exchange { .. }) {
        up.desk(|desk| desk.stream_begins(job.of));
    }
    loop {
        let end = match reply.chunk().await {
            Some(Ok(chunk)) => {
                reader.feed(&chunk, &mut items);
                None
            }
            Some(Err(broken)) => {
                reader.finish(&mut items);
                Some(words_of(broken, None))
            }
            None => {
                reader.finish(&mut items);
                Some(ended())
            }
        };
        for item in items.drain(..) {
            // A flood of them leaves others their turns.
            consume_budget().await;
            match item {
                SseItem::Comment => {}
                SseItem::Retry(ms) => up.desk(|desk| {
                    if let Some(attempt) = desk.attempts.get_mut(&job.of) {
                        attempt.retry = Some(ms);
                    }
                }),
                SseItem::Id(id) => number(up, job, id),
                SseItem::Event { id, event, data } => {
                    if event.is_some_and(|event| event != "message") {
                        if let Some(id) = id {
                            number(up, job, id);
                        }
                        continue;
                    }
                    match sift(up, job, id, data, &mut passed).await {
                        Ok(Some(answer)) => return End::Answered(answer),
                        Ok(None) => {}
                        Err(words) => odd = Some(words),
                    }
                }
                SseItem::LongBegin { id, event, head } => {
                    long_id = id;
                    let mut scan = TopLevel::new();
                    scan.feed(head.get(..LOOKED_THROUGH).unwrap_or(&head));
                    let message = event.is_none_or(|event| event == "message");
                    let answers = matches!(job.what, What::Exchange { .. } | What::Resume { .. });
                    let passes = message && answers && scan.saw_result();
                    long = if passes && job.whole <= WHOLE {
                        match pass(up, job, &head).await {
                            Ok(passing) => passing,
                            Err(end) => return end,
                        }
                    } else {
                        Long::Collecting(BytesMut::from(head), passes)
                    };
                }
                SseItem::LongMore(more) => match &mut long {
                    Long::None => {}
                    Long::Passing(passage) => passage.put(&more).await,
                    Long::Collecting(all, passes) => {
                        all.extend_from_slice(&more);
                        if all.len() > COLLECTED {
                            if !*passes {
                                return End::Cut(garbled("an event is longer than 32 MiB".to_owned()));
                            }
                            let head = std::mem::take(all).freeze();
                            long = match pass(up, job, &head).await {
                                Ok(passing) => passing,
                                Err(end) => return end,
                            };
                        }
                    }
                },
                SseItem::LongEnd => {
                    if let Some(id) = long_id.take() {
                        number(up, job, id);
                    }
                    match std::mem::replace(&mut long, Long::None) {
                        Long::None => {}
                        Long::Passing(passage) if passage.complete() => return passage.end(),
                        Long::Passing(_) => {
                            return End::Cut(garbled("the answer ended in the middle".to_owned()));
                        }
                        Long::Collecting(all, _) => {
                            match sift(up, job, None, all.freeze(), &mut passed).await {
                                Ok(Some(answer)) => return End::Answered(answer),
                                Ok(None) => {}
                                Err(words) => odd = Some(words),
                            }
                        }
                    }
                }
                SseItem::Broken(why) => {
                    // A stream that merely ended has its own words.
                    let cut = end.clone().unwrap_or_else(|| garbled(why));
                    return match std::mem::replace(&mut long, Long::None) {
                        Long::Passing(_) => End::Cut(cut),
                        Long::None | Long::Collecting(..) => End::Cut(resumable(up, job, cut)),
                    };
                }
            }
        }
        if let Some(mut cut) = end {
            if let Some(words) = odd {
                cut.kind = CutKind::Garbled;
                cut.cause = format!("an event of the answer is no message: {words}");
            }
            return End::Cut(resumable(up, job, cut));
        }
        passed.show().await;
    }
}

/// The answer goes on as it comes, from this on.
async fn pass(up: &Arc<Upstream>, job: &Job, head: &Bytes) -> Result<Long, End> {
    match Box::pin(Passage::open(up, job, true)).await {
        Some(mut passage) => {
            passage.put(head).await;
            Ok(Long::Passing(Box::new(passage)))
        }
        None => Err(End::Cut(garbled("nobody waits for the answer".to_owned()))),
    }
}

/// Notes an event's id. In the rest of a resumed stream, one that was not known is news.
fn number(up: &Arc<Upstream>, job: &Job, id: String) {
    let attempt = job.attempt;
    let resumed = matches!(job.what, What::Resume { .. });
    up.fact_after(|desk| desk.event_id(job.of, id) && resumed, Input::Begun { attempt, begun: Begun::News });
}

/// Notes an event's id and sends on what is not the answer.
async fn sift(
    up: &Arc<Upstream>,
    job: &Job,
    mut id: Option<String>,
    data: Bytes,
    passed: &mut Passed,
) -> Result<Option<Whole>, String> {
    if matches!(job.what, What::Resume { .. })
        && let Some(id) = id.take()
    {
        number(up, job, id);
    }
    let (first, others) = up.desk(|desk| {
        if let Some(id) = id {
            desk.event_id(job.of, id);
        }
        desk.sift(job.of, data)
    });
    let mut outcome = Ok(None);
    for one in first.into_iter().chain(others) {
        match one {
            Sifted::Answer(text, kind) => outcome = Ok(Some(Whole { text, kind: Some(kind), sse: true })),
            Sifted::Exchange(sink, text) => {
                passed.bytes += text.len();
                sink.event(text).await;
            }
            // Only the standing stream waits for its own client; an exchange never does.
            Sifted::Standing(outbox, text) if job.what == What::Stream => outbox.push_in_turn(text).await,
            Sifted::Standing(outbox, text) => outbox.push(text),
            Sifted::Malformed(words) => {
                tracing::debug!(upstream = %up.name, "an event is no message: {words}");
                outcome = Err(words);
            }
        }
    }
    outcome
}

fn ended() -> Cut {
    Cut {
        wrote: true,
        kind: CutKind::Connection,
        cause: "the stream ended before the answer".to_owned(),
        resumable: false,
        retry: None,
    }
}

fn resumable(up: &Upstream, job: &Job, mut cut: Cut) -> Cut {
    if let Some((last, retry)) =
        up.desk(|desk| desk.attempts.get(&job.of).map(|a| (a.last_event.is_some(), a.retry)))
    {
        cut.resumable = last;
        cut.retry = retry;
    }
    cut
}
