//! The live streams of one HTTP/2 connection. hyper spawns a task per stream through [`Executor`]; this table knows them, so
//! that a stalled one can be reset without touching its neighbours.

use std::{
    future::Future,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::rt::Executor;
use tokio::{task::AbortHandle, time::Instant};

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
    /// The slot that `open` has filled and `execute`, which hyper calls right after it, has not yet claimed.
    opened: Option<usize>,
}

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

    pub(super) fn open(&self) -> Arc<Flow> {
        let flow = Arc::new(Flow::default());
        let stream = Stream { flow: Arc::clone(&flow), abort: None, read: Pace::default(), write: Pace::default() };
        self.with(|t| {
            let slot = t.free.pop().unwrap_or(t.slots.len());
            match t.slots.get_mut(slot) {
                Some(place) => *place = Some(stream),
                None => t.slots.push(Some(stream)),
            }
            t.opened = Some(slot);
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
            t.opened.take()
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
