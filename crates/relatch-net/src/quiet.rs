//! Work that wakes itself while it is looked at goes on at once, and not by way of the runtime's queue.
//!
//! Both ends of an HTTP library's channels live in one task here, so nearly every step of a call wakes the task that is
//! running anyway. The runtime takes that for new work and wakes another thread to share in it, which is the most
//! expensive thing that can happen to a small call. Decides nothing.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use tokio::task::coop::has_budget_remaining;
use tokio::task::spawn_blocking;

use crate::lock;

/// So often in a row, then others have their turn.
const IN_A_ROW: usize = 32;

/// Nobody looks at it: a wake goes to the runtime.
const RESTING: u8 = 0;
/// It is looked at now.
const LOOKED_AT: u8 = 1;
/// It is looked at, and has been woken meanwhile.
const WOKEN: u8 = 2;

/// See the module.
pub(crate) struct Quiet<F> {
    work: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    state: AtomicU8,
    task: Mutex<Option<Waker>>,
}

impl<F: Future> Quiet<F> {
    pub(crate) fn new(work: F) -> Quiet<F> {
        let bell = Arc::new(Bell { state: AtomicU8::new(RESTING), task: Mutex::new(None) });
        let waker = Waker::from(Arc::clone(&bell));
        Quiet { work: Box::pin(work), bell, waker }
    }
}

impl<F: Future> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Quiet { work, bell, waker } = self.get_mut();
        {
            let mut task = lock(&bell.task);
            if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *task = Some(cx.waker().clone());
            }
        }
        for _ in 0..IN_A_ROW {
            bell.state.store(LOOKED_AT, Ordering::SeqCst);
            if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(done);
            }
            let rests = bell.state.compare_exchange(LOOKED_AT, RESTING, Ordering::SeqCst, Ordering::SeqCst);
            if rests.is_ok() {
                return Poll::Pending;
            }
            if !has_budget_remaining() {
                // Whatever of the runtime's it would look at says that it is others' turn.
                break;
            }
        }
        bell.state.store(RESTING, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if HUSHED.get() {
            return;
        }
        let seen = self.state.compare_exchange(LOOKED_AT, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if seen == Err(RESTING)
            && let Some(task) = &*lock(&self.task)
        {
            task.wake_by_ref();
        }
    }
}

thread_local! {
    /// What would be woken on this thread now is looked at next anyway.
    static HUSHED: Cell<bool> = const { Cell::new(false) };
}

/// Does what may wake work that is looked at right afterwards: no bell rings for that.
pub(crate) fn hushed<T>(act: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            HUSHED.set(self.0);
        }
    }
    let _back = Back(HUSHED.replace(true));
    act()
}

/// What is at least this large takes a thread for long.
const LONG: usize = 512 * 1024;

/// Looks through a text; through a long one on a thread of its own, since others need this one meanwhile.
pub(crate) async fn through<T: Send + 'static>(text: &Bytes, look: fn(&[u8]) -> T) -> T {
    if text.len() < LONG {
        return look(text);
    }
    let copy = text.clone();
    match spawn_blocking(move || look(&copy)).await {
        Ok(seen) => seen,
        // The runtime ends: nobody else needs this thread.
        Err(_) => look(text),
    }
}

/// Lets whoever drives this work see once what it has done so far.
pub(crate) fn shown() -> impl Future<Output = ()> {
    let mut shown = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut shown, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts how often the runtime would have been asked.
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn quiet_until(looks: usize) -> (Quiet<impl Future<Output = ()>>, Arc<Count>) {
        let mut left = looks;
        let work = std::future::poll_fn(move |cx| {
            left -= 1;
            if left == 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        (Quiet::new(work), Arc::new(Count(AtomicUsize::new(0))))
    }

    #[test]
    fn what_wakes_itself_goes_on_without_the_runtime() {
        let (mut work, count) = quiet_until(10);
        let waker = Waker::from(Arc::clone(&count));
        assert_eq!(Pin::new(&mut work).poll(&mut Context::from_waker(&waker)), Poll::Ready(()));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_never_rests_lets_others_have_their_turn() {
        let (mut work, count) = quiet_until(2 * IN_A_ROW);
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        assert_eq!(Pin::new(&mut work).poll(&mut cx), Poll::Pending);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(Pin::new(&mut work).poll(&mut cx), Poll::Ready(()));
    }

    #[tokio::test]
    async fn a_long_text_is_looked_through_while_others_go_on() {
        let of_test = std::thread::current().id();
        let mine = |_: &[u8]| std::thread::current().id();
        assert_eq!(through(&Bytes::from(vec![b' '; LONG - 1]), mine).await, of_test);
        assert_ne!(through(&Bytes::from(vec![b' '; LONG]), mine).await, of_test);
    }

    #[test]
    fn what_is_looked_at_next_anyway_rings_no_bell() {
        let mut left = 3;
        let mut looks = 0;
        let work = std::future::poll_fn(|cx| {
            looks += 1;
            hushed(|| cx.waker().wake_by_ref());
            left -= 1;
            if left > 0 { Poll::Pending } else { Poll::Ready(()) }
        });
        let mut work = Quiet::new(work);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        assert_eq!(Pin::new(&mut work).poll(&mut cx), Poll::Pending);
        hushed(|| work.waker.wake_by_ref());
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        work.waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(Pin::new(&mut work).poll(&mut cx), Poll::Pending);
        assert_eq!(Pin::new(&mut work).poll(&mut cx), Poll::Ready(()));
        drop(work);
        assert_eq!(looks, 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wake_from_another_thread_is_lost() {
        for _ in 0..2_000 {
            let (tell, heard) = tokio::sync::oneshot::channel();
            let waits = tokio::spawn(Quiet::new(heard));
            tokio::spawn(async move { tell.send(()) });
            let waited = tokio::time::timeout(std::time::Duration::from_secs(20), waits).await;
            assert!(matches!(waited, Ok(Ok(Ok(())))), "{waited:?}");
        }
    }
}
