//! What waits for a client's standing stream, in order and within bounds.
//!
//! One reader at a time: a newer one takes over and the older one ends. Nothing is given out before the reader's
//! credentials are known to be good. Whether a message belongs here is decided by the caller.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::lock;

/// Messages kept for a client that is not reading.
const MESSAGES: usize = 256;

/// Their bytes together; one message alone may be larger.
const BYTES: usize = 1024 * 1024;

/// Messages that went out and are kept for a reader who comes back, and their bytes together.
const SENT: usize = 64;
const SENT_BYTES: usize = 256 * 1024;

/// The queue of one latch.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Numbered from 1 on.
    messages: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// The number of the newest.
    newest: u64,
    /// What went out last, for a reader who comes back.
    sent: VecDeque<(u64, Bytes)>,
    /// Messages that were dropped because nobody read them.
    lost: u64,
    readers: u64,
    reader: Reader,
    over: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reader {
    #[default]
    None,
    Trusted(u64),
    Untrusted(u64),
}

impl Queue {
    fn full(&self, message: &Bytes) -> bool {
        !self.messages.is_empty()
            && (self.messages.len() >= MESSAGES || self.bytes.saturating_add(message.len()) > BYTES)
    }

    fn add(&mut self, message: Bytes) {
        while self.full(&message) {
            if let Some((_, old)) = self.messages.pop_front() {
                self.bytes -= old.len();
                self.lost += 1;
                tracing::warn!(
                    lost = self.lost,
                    "a client does not read its standing stream: the oldest message is lost"
                );
            }
        }
        self.bytes += message.len();
        self.newest += 1;
        self.messages.push_back((self.newest, message));
    }

    /// Remembers what a reader was given.
    fn remember(&mut self, number: u64, message: Bytes) {
        self.sent.push_back((number, message));
        while self.sent.len() > SENT || self.sent.iter().map(|(_, m)| m.len()).sum::<usize>() > SENT_BYTES {
            self.sent.pop_front();
        }
    }

    /// What a reader has not got goes out again.
    fn rewind(&mut self, after: u64) {
        while let Some((number, message)) = self.sent.pop_back() {
            if number <= after {
                self.sent.push_back((number, message));
                return;
            }
            self.bytes += message.len();
            self.messages.push_front((number, message));
        }
    }
}

impl Outbox {
    /// Adds a message; beyond the bound the oldest ones go.
    pub(crate) fn push(&self, message: Bytes) {
        lock(&self.queue).add(message);
        self.changed.notify_waiters();
    }

    /// Adds a message; while somebody reads, waits for room instead of dropping.
    pub(crate) async fn push_in_turn(&self, message: Bytes) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut queue = lock(&self.queue);
                if queue.over {
                    return;
                }
                if !(matches!(queue.reader, Reader::Trusted(_)) && queue.full(&message)) {
                    queue.add(message);
                    break;
                }
            }
            changed.await;
        }
        self.changed.notify_waiters();
    }

    /// A new reader takes over; its number names it from now on. One that comes back gets what it has not got.
    pub(crate) fn attach(&self, trusted: bool, after: Option<u64>) -> u64 {
        let number = {
            let mut queue = lock(&self.queue);
            if let Some(after) = after {
                queue.rewind(after);
            }
            queue.readers += 1;
            let number = queue.readers;
            queue.reader = if trusted { Reader::Trusted(number) } else { Reader::Untrusted(number) };
            number
        };
        self.changed.notify_waiters();
        number
    }

    /// The reader's credentials have proven good.
    pub(crate) fn trust(&self) {
        {
            let mut queue = lock(&self.queue);
            let Reader::Untrusted(number) = queue.reader else { return };
            queue.reader = Reader::Trusted(number);
        }
        self.changed.notify_waiters();
    }

    /// The reader leaves. Whether it was the present one.
    pub(crate) fn detach(&self, number: u64) -> bool {
        let mut queue = lock(&self.queue);
        let present = queue.reader == Reader::Trusted(number) || queue.reader == Reader::Untrusted(number);
        if present {
            queue.reader = Reader::None;
        }
        drop(queue);
        self.changed.notify_waiters();
        present
    }

    /// Whether somebody reads.
    pub(crate) fn attached(&self) -> bool {
        lock(&self.queue).reader != Reader::None
    }

    /// How many messages were lost for want of a reader.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> u64 {
        lock(&self.queue).lost
    }

    /// Nothing comes any more; the reader ends.
    pub(crate) fn close(&self) {
        lock(&self.queue).over = true;
        self.changed.notify_waiters();
    }

    /// The next message; `None` when another reader has taken over or the latch is over.
    pub(crate) async fn next(&self, number: u64) -> Option<(u64, Bytes)> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut queue = lock(&self.queue);
                match queue.reader {
                    Reader::Trusted(present) if present == number => {
                        if let Some((at, message)) = queue.messages.pop_front() {
                            queue.bytes -= message.len();
                            queue.remember(at, message.clone());
                            drop(queue);
                            self.changed.notify_waiters();
                            return Some((at, message));
                        }
                    }
                    Reader::Untrusted(present) if present == number => {}
                    Reader::None | Reader::Trusted(_) | Reader::Untrusted(_) => return None,
                }
                if queue.over {
                    return None;
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_reads_is_bounded_and_the_oldest_goes() {
        let outbox = Outbox::default();
        for n in 0..MESSAGES + 3 {
            outbox.push(n.to_string().into());
        }
        assert_eq!(outbox.lost(), 3);
        let reader = outbox.attach(true, None);
        assert_eq!(outbox.next(reader).await, Some((4, "3".into())));

        let outbox = Outbox::default();
        outbox.push(vec![0; BYTES].into());
        outbox.push(vec![1; 2 * BYTES].into());
        assert_eq!(outbox.lost(), 1);
    }

    #[tokio::test]
    async fn a_second_reader_takes_over_and_the_first_ends() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let first = outbox.attach(true, None);
        let reading = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.next(first).await }
        });
        let second = outbox.attach(true, None);
        outbox.push("a".into());
        assert_eq!(outbox.next(second).await, Some((1, "a".into())));
        assert_eq!(reading.await.unwrap(), None);
        assert!(!outbox.detach(first));
        assert!(outbox.detach(second));
    }

    #[tokio::test]
    async fn nothing_is_given_out_before_the_reader_is_trusted() {
        let outbox = std::sync::Arc::new(Outbox::default());
        outbox.push("kept".into());
        let reader = outbox.attach(false, None);
        let reading = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.next(reader).await }
        });
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        outbox.trust();
        assert_eq!(reading.await.unwrap(), Some((1, "kept".into())));
    }

    #[tokio::test]
    async fn a_reader_who_comes_back_gets_what_it_has_not_got_in_its_order() {
        let outbox = Outbox::default();
        for text in ["a", "b", "c"] {
            outbox.push(text.into());
        }
        let first = outbox.attach(true, None);
        for _ in 0..3 {
            outbox.next(first).await;
        }
        outbox.push("d".into());
        let second = outbox.attach(true, Some(1));
        for expected in [(2, "b"), (3, "c"), (4, "d")] {
            assert_eq!(outbox.next(second).await, Some((expected.0, expected.1.into())));
        }
    }
}
