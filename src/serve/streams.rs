//! The live streams of one HTTP/2 connection. hyper spawns a task per stream through [`Executor`]; this table knows them, so
//! that a stalled one can be reset without touching its neighbours.

use std::{
    future::Future,
    mem,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use hyper::rt::Executor;
use tokio::{
    task::{self, AbortHandle},
    time::Instant,
};

use super::{
    flow::Flow,
    pace::{Pace, PaceLimit},
};

#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Streams and the tunnels that some of them became.
    active: usize,
    /// The slot that `open` has filled and `execute`, which hyper calls right after it, has not yet claimed; and the task in which
    /// that was. A stream that becomes a tunnel calls `execute` too, but from a task of its own.
    opened: Option<(usize, Option<task::Id>)>,
    /// How often the connection's task has written out all that there was to write.
    rounds: u64,
    /// The connection's task.
    connection: Option<Waker>,
    /// Those who wait for more rounds.
    waiting: Vec<Waker>,
}

/// The round that has to be over before what was queued now is certainly on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round(u64);

#[derive(Debug)]
struct Stream {
    flow: Arc<Flow>,
    abort: Option<AbortHandle>,
    read: Pace,
    write: Pace,
}

/// What a look at all streams has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Swept {
    /// Request bodies that were failed.
    pub(super) stalled: u64,
    /// Streams that were reset because the client takes nothing.
    pub(super) reset: u64,
    /// Streams that were reset because their reply has to be at its end, and the client has not taken it.
    pub(super) overdue: u64,
}

impl Streams {
    fn with<R>(&self, f: impl FnOnce(&mut Table) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn active(&self) -> usize {
        self.with(|t| t.active)
    }

    /// The connection's task has polled hyper, and its socket took everything.
    pub(super) fn round_ended(&self, connection: &Waker) {
        let waiting = self.with(|t| {
            t.rounds += 1;
            match &mut t.connection {
                Some(known) => known.clone_from(connection),
                None => t.connection = Some(connection.clone()),
            }
            mem::take(&mut t.waiting)
        });
        if !waiting.is_empty() {
            connection.wake_by_ref();
        }
        for waker in waiting {
            waker.wake();
        }
    }

    /// The round that is being polled now may have passed by what was just queued; the one after it does not.
    pub(super) fn round_after_next(&self) -> Round {
        Round(self.with(|t| t.rounds) + 2)
    }

    pub(super) fn poll_round(&self, round: Round, cx: &mut Context<'_>) -> Poll<()> {
        let connection = self.with(|t| {
            if t.rounds >= round.0 {
                return None;
            }
            t.waiting.push(cx.waker().clone());
            Some(t.connection.clone())
        });
        match connection {
            None => Poll::Ready(()),
            Some(connection) => {
                if let Some(connection) = connection {
                    connection.wake();
                }
                Poll::Pending
            }
        }
    }

    pub(super) fn open(&self) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        let stream = Stream { flow: Arc::clone(&flow), abort: None, read: Pace::default(), write: Pace::default() };
        self.with(|t| {
            let slot = t.free.pop().unwrap_or(t.slots.len());
            match t.slots.get_mut(slot) {
                Some(place) => *place = Some(stream),
                None => t.slots.push(Some(stream)),
            }
            t.opened = Some((slot, task::try_id()));
        });
        flow
    }

    /// Looks at every stream.
    pub(super) fn sweep(&self, now: Instant, read: &PaceLimit, write: &PaceLimit) -> Swept {
        let mut swept = Swept::default();
        self.with(|t| {
            for stream in t.slots.iter_mut().flatten() {
                if stream.flow.body_open() {
                    let waited = stream.flow.body_waited();
                    if stream.read.observe(read, now, waited, stream.flow.bytes_in()).is_err() && !stream.flow.body_timed_out() {
                        swept.stalled += 1;
                        stream.flow.time_out_body();
                    }
                }
                let blocked = stream.flow.reply_blocked();
                let stalled = stream.write.observe(write, now, blocked, stream.flow.bytes_out()).is_err();
                let overdue = blocked && stream.flow.deadline().is_some_and(|at| now >= at);
                if (stalled || overdue)
                    && let Some(abort) = stream.abort.take()
                {
                    *if stalled { &mut swept.reset } else { &mut swept.overdue } += 1;
                    abort.abort();
                }
            }
        });
        swept
    }

    pub(super) fn abort_all(&self) {
        self.with(|t| {
            for abort in t.slots.iter_mut().flatten().filter_map(|s| s.abort.take()) {
                abort.abort();
            }
        });
    }
}

/// Spawns a connection's stream tasks.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor(pub(super) Arc<Streams>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let slot = self.0.with(|t| {
            t.active += 1;
            t.opened.take_if(|(_, opener)| *opener == task::try_id()).map(|(slot, _)| slot)
        });
        let live = Live { streams: Arc::clone(&self.0), slot };
        let task = tokio::spawn(async move {
            let _live = live;
            future.await;
        });
        if let Some(slot) = slot {
            let abort = task.abort_handle();
            // The task may have ended already; its slot is then empty (only this connection's task can fill it again).
            self.0.with(|t| {
                if let Some(Some(stream)) = t.slots.get_mut(slot) {
                    stream.abort = Some(abort);
                }
            });
        }
    }
}

struct Live {
    streams: Arc<Streams>,
    slot: Option<usize>,
}

impl Drop for Live {
    fn drop(&mut self) {
        let gone = self.streams.with(|t| {
            t.active -= 1;
            let slot = self.slot?;
            t.free.push(slot);
            t.slots.get_mut(slot).and_then(mem::take)
        });
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that becomes a tunnel on another thread, between `open` and `execute` of a new stream.
    #[tokio::test]
    async fn a_tunnels_task_does_not_take_the_slot_of_a_new_stream() {
        let streams = Arc::<Streams>::default();
        let flow = streams.open();
        let executor = StreamExecutor(Arc::clone(&streams));
        let from_stream = executor.clone();
        tokio::spawn(async move { from_stream.execute(std::future::pending()) }).await.unwrap();
        assert!(streams.with(|t| t.opened.is_some()));
        executor.execute(std::future::pending());
        streams.with(|t| {
            assert_eq!((t.active, t.opened, t.slots.len()), (2, None, 1));
            let stream = t.slots[0].as_ref().unwrap();
            assert!(Arc::ptr_eq(&stream.flow, &flow) && stream.abort.is_some());
        });
        streams.abort_all();
        while streams.active() == 2 {
            task::yield_now().await;
        }
        assert_eq!(streams.with(|t| t.free.clone()), [0]);
    }

    #[tokio::test]
    async fn two_rounds_have_to_end_and_the_connection_is_woken_for_them() {
        let streams = Streams::default();
        let (connection, woken) = counting();
        let (waiter, told) = counting();
        let count = |c: &std::sync::atomic::AtomicUsize| c.load(std::sync::atomic::Ordering::Relaxed);
        streams.round_ended(&connection);
        assert_eq!(count(&woken), 0, "nobody waits");
        let round = streams.round_after_next();
        let mut cx = Context::from_waker(&waiter);
        assert!(streams.poll_round(round, &mut cx).is_pending());
        assert_eq!(count(&woken), 1);
        streams.round_ended(&connection);
        assert_eq!((count(&woken), count(&told)), (2, 1));
        assert!(streams.poll_round(round, &mut cx).is_pending());
        streams.round_ended(&connection);
        assert!(streams.poll_round(round, &mut cx).is_ready());
    }

    fn counting() -> (Waker, Arc<std::sync::atomic::AtomicUsize>) {
        struct Count(Arc<std::sync::atomic::AtomicUsize>);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = Arc::<std::sync::atomic::AtomicUsize>::default();
        (Waker::from(Arc::new(Count(Arc::clone(&count)))), count)
    }
}
