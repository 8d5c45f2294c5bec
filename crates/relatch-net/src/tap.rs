//! What somebody who looks on is told: calls as they come and end, and what the processes of commands say.
//!
//! Off unless asked for: then a call costs two messages into a bounded queue. Nobody waits for who reads it; what finds no
//! room is counted and let go. Decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use relatch_core::ExId;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::keeper::Keeper;
use crate::upstream::child::Child;

/// Messages that wait for who looks on.
const ROOM: usize = 4_096;

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A client asks for something.
    Asked {
        /// Which call; its end has the same number.
        call: u64,
        /// The method.
        method: String,
        /// The tool, where one is called.
        tool: Option<String>,
    },
    /// A call is over.
    Ended {
        /// Which one.
        call: u64,
        /// How long its client waited, in milliseconds.
        ms: u64,
        /// In a word or two: `answered`, `error`, `tool error`, the code of an error of relatch's own, `left`.
        outcome: String,
        /// Whether its client got something else than an answer.
        failed: bool,
    },
    /// A process of a command was started.
    Started {
        /// Its process group.
        pid: Option<u32>,
    },
    /// A process said this on its stderr.
    Said {
        /// One line, without control characters.
        line: String,
    },
    /// A process has ended, and how.
    Exited {
        /// Its process group.
        pid: Option<u32>,
        /// In words.
        words: String,
        /// Whether relatch had it end.
        told: bool,
    },
}

/// The end at which things are seen. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    out: mpsc::Sender<Seen>,
    missed: Arc<AtomicU64>,
}

/// What is seen, and how much of it was let go.
#[derive(Debug)]
pub struct Sights {
    seen: mpsc::Receiver<Seen>,
    missed: Arc<AtomicU64>,
}

/// A call that somebody looks at.
#[derive(Debug)]
pub(crate) struct Tapped {
    tap: Tap,
    call: u64,
    began: Instant,
    outcome: Option<(String, bool)>,
}

impl Keeper {
    /// From now on calls and processes are told of here; `None` if somebody is told already.
    #[must_use]
    pub fn look_on(&self) -> Option<Sights> {
        let (out, seen) = mpsc::channel(ROOM);
        let missed = Arc::<AtomicU64>::default();
        self.common.tap.set(Tap { out, missed: Arc::clone(&missed) }).ok()?;
        Some(Sights { seen, missed })
    }
}

impl Sights {
    /// The next; none once the keeper is gone.
    pub async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }

    /// How many were let go since this was asked last.
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

impl Tap {
    pub(crate) fn asked(&self, ex: ExId, method: &str, tool: Option<String>) -> Tapped {
        self.tell(Seen::Asked { call: ex.0, method: method.to_owned(), tool });
        Tapped { tap: self.clone(), call: ex.0, began: Instant::now(), outcome: None }
    }

    pub(crate) fn said(&self, line: &str) {
        self.tell(Seen::Said { line: line.to_owned() });
    }

    /// Tells of a process now, and of its end when it comes.
    pub(crate) fn started(&self, child: &Child) {
        let (tap, over, ending, pid) = (self.clone(), child.ends(), child.ending(), child.pid());
        self.tell(Seen::Started { pid });
        tokio::spawn(async move {
            let words = over.await;
            tap.tell(Seen::Exited { pid, words, told: *ending.borrow() });
        });
    }

    fn tell(&self, seen: Seen) {
        if self.out.try_send(seen).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tapped {
    pub(crate) fn ends(&mut self, outcome: &str, failed: bool) {
        self.outcome = Some((outcome.to_owned(), failed));
    }

    /// A result may say itself that its tool has failed.
    pub(crate) fn answered(&mut self, text: &[u8]) {
        #[derive(Deserialize)]
        struct Message {
            result: Option<Outcome>,
        }
        #[derive(Deserialize)]
        struct Outcome {
            #[serde(default, rename = "isError")]
            is_error: bool,
        }
        let message = serde_json::from_slice::<Message>(text).ok();
        if message.and_then(|message| message.result).is_some_and(|result| result.is_error) {
            self.ends("tool error", true);
        }
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (outcome, failed) = self.outcome.take().unwrap_or_else(|| ("left".to_owned(), false));
        self.tap.tell(Seen::Ended { call: self.call, ms, outcome, failed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(room: usize) -> (Tap, Sights) {
        let (out, seen) = mpsc::channel(room);
        let missed = Arc::<AtomicU64>::default();
        (Tap { out, missed: Arc::clone(&missed) }, Sights { seen, missed })
    }

    #[tokio::test]
    async fn a_call_is_told_of_when_it_comes_and_when_it_ends() {
        let (tap, mut sights) = tap(8);
        let mut call = tap.asked(ExId(7), "tools/call", Some("search".into()));
        let asked = Seen::Asked { call: 7, method: "tools/call".into(), tool: Some("search".into()) };
        assert_eq!(sights.next().await, Some(asked));
        call.ends("answered", false);
        call.answered(br#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#);
        drop(call);
        let Some(Seen::Ended { call, outcome, failed, .. }) = sights.next().await else {
            panic!("it has ended")
        };
        assert_eq!((call, outcome.as_str(), failed), (7, "tool error", true));
        drop(tap.asked(ExId(8), "ping", None));
        let _asked = sights.next().await;
        let Some(Seen::Ended { outcome, .. }) = sights.next().await else { panic!("it has ended") };
        assert_eq!(outcome, "left", "nobody said how it ended");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_holds_nobody_up() {
        let (tap, mut sights) = tap(2);
        for n in 0..5 {
            tap.said(&format!("line {n}"));
        }
        assert_eq!((sights.missed(), sights.missed()), (3, 0));
        assert_eq!(sights.next().await, Some(Seen::Said { line: "line 0".into() }));
    }
}
