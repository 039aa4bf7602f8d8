//! The waker that lets an HTTP/1.1 connection be polled inside the request it serves.
//!
//! hyper's client connection is usually spawned, and every request and response then crosses a channel and wakes a second task.
//! Here the request's own task polls the connection, so nothing is woken but by the socket. While it is being polled, hyper's two
//! halves wake each other through this waker; those wake-ups are only noted, because the poll that is under way sees them anyway.
//! A connection at rest in the pool has no task at all: a wake-up then only marks it as touched.

use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    body::UploadError,
    error::{Error, Kind},
};

/// What [`Shared::moved_at`] counts from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

const RESTING: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

/// State shared by a connection, its socket wrapper, the request body that it sends, and the task that drives it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: AtomicU8,
    task: Mutex<Option<Waker>>,
    /// Bytes read from the socket since the connection was opened.
    pub(crate) read: AtomicU64,
    /// Bytes of request bodies handed to the socket since the connection was opened.
    pub(crate) sent: AtomicU64,
    /// The request body of the exchange under way has not been read to its end.
    pub(crate) uploading: AtomicBool,
    /// The request body failed on the client's side; the upstream is not to blame.
    pub(crate) upload_failed: Mutex<Option<UploadError>>,
    /// The request body was asked for more, and its sender has not delivered yet.
    client_owes: AtomicBool,
    /// When the request body last moved, in milliseconds from `EPOCH` plus one; zero if it has not.
    moved_at: AtomicU64,
    /// The target has asked for the body (`100 Continue`), or has answered.
    pub(crate) continue_received: AtomicBool,
    /// The target has answered for good without asking for the body.
    pub(crate) abandoned: AtomicBool,
    /// The body must wait for the above.
    pub(crate) await_continue: AtomicBool,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire) == Err(RESTING) {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(task) = task {
                task.wake();
            }
        }
    }
}

impl Shared {
    /// Marks the connection as being polled by the task of `cx`.
    pub(crate) fn enter(&self, cx: &Context<'_>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        drop(task);
        self.state.store(POLLING, Ordering::Release);
    }

    /// Takes note of wake-ups since [`Self::enter`] or the last call; the connection stays marked as being polled.
    pub(crate) fn take_woken(&self) -> bool {
        self.state.swap(POLLING, Ordering::AcqRel) == WOKEN
    }

    /// The poll is over. A wake-up that came too late to be seen is passed on to the task.
    pub(crate) fn leave(&self, cx: &Context<'_>) {
        if self.state.swap(RESTING, Ordering::AcqRel) == WOKEN {
            cx.waker().wake_by_ref();
        }
    }

    /// The poll is over and has a result: whoever takes it polls on, so a late wake-up needs no passing on.
    pub(crate) fn leave_ready(&self) {
        self.state.store(RESTING, Ordering::Release);
    }

    /// The connection goes to rest: nobody is to be woken for it.
    pub(crate) fn rest(&self) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.state.store(RESTING, Ordering::Release);
    }

    /// Forgets the last exchange.
    pub(crate) fn reset(&self, uploading: bool, await_continue: bool) {
        self.uploading.store(uploading, Ordering::Relaxed);
        self.await_continue.store(await_continue, Ordering::Relaxed);
        self.continue_received.store(false, Ordering::Relaxed);
        self.abandoned.store(false, Ordering::Relaxed);
        self.client_owes.store(false, Ordering::Relaxed);
        self.moved_at.store(0, Ordering::Relaxed);
        if let Ok(mut slot) = self.upload_failed.lock() {
            *slot = None;
        }
    }

    /// The request body waits for its sender, or no longer does.
    pub(crate) fn set_client_owes(&self, owes: bool) {
        self.client_owes.store(owes, Ordering::Relaxed);
    }

    /// Part of the request body, or its end, goes to the target now.
    pub(crate) fn upload_moved(&self) {
        let since = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.moved_at.store(since + 1, Ordering::Relaxed);
    }

    /// When the answer is due, if that is later than now: the time for it counts from the last byte of the request, and a client
    /// that pauses its upload is not the target's fault. `None`: it is overdue.
    pub(crate) fn due(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.client_owes.load(Ordering::Relaxed) {
            return Some(now + timeout);
        }
        let moved = self.moved_at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(*EPOCH + Duration::from_millis(moved) + timeout).filter(|due| *due > now)
    }

    /// Whether there is a rest of the request body that the target does not take.
    pub(crate) fn upload_is_stuck(&self) -> bool {
        self.uploading.load(Ordering::Relaxed) && !self.client_owes.load(Ordering::Relaxed)
    }

    /// An error of the request body is the client's, whatever the connection makes of it.
    pub(crate) fn blame(&self, error: Error) -> Error {
        match self.upload_failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(UploadError::TooLarge) => Error::new(Kind::RequestTooLarge),
            Some(UploadError::Rejected(rejection)) => Error::rejected(*rejection),
            Some(UploadError::Broken(text)) => Error::new(Kind::RequestBroken).with_detail(text),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wake_ups_during_a_poll_are_noted_and_later_ones_are_passed_on() {
        let count = Arc::new(Count::default());
        let task = Waker::from(count.clone());
        let cx = Context::from_waker(&task);
        let shared = Arc::new(Shared::default());
        let waker = Waker::from(shared.clone());
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "a resting connection has no task");
        shared.enter(&cx);
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert!(shared.take_woken() && !shared.take_woken());
        waker.wake_by_ref();
        shared.leave(&cx);
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "a wake-up nobody has seen is not lost");
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        shared.rest();
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
