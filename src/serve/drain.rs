//! Shutting down in stages, and the count of what is still alive.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll},
};

use tokio::sync::{Notify, futures::Notified};

use crate::signal::{CloseReason, Signal, Trigger};

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Running = 0,
    /// Nothing new is taken; what runs may finish.
    Draining = 1,
    /// Event streams end, whoever opened them.
    Ending = 2,
    /// What is left is cut.
    Cut = 3,
}

#[derive(Debug)]
pub(super) struct Stages {
    stage: AtomicU8,
    changed: Notify,
    trigger: Trigger,
    connections: Tunnels,
    tunnels: Tunnels,
}

impl Stages {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            stage: AtomicU8::new(0),
            changed: Notify::new(),
            trigger: Trigger::default(),
            connections: Tunnels::default(),
            tunnels: Tunnels::default(),
        })
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Acquire) {
            0 => Stage::Running,
            1 => Stage::Draining,
            2 => Stage::Ending,
            _ => Stage::Cut,
        }
    }

    pub(super) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, AcqRel);
        if stage == Stage::Draining {
            self.trigger.fire(CloseReason::Shutdown);
        }
        self.changed.notify_waiters();
    }

    /// Resolves at the next change; made before the stage is looked at, it misses none.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) async fn reached(&self, stage: Stage) {
        loop {
            let changed = self.changed();
            if self.stage() >= stage {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn signal(&self) -> Signal {
        self.trigger.signal()
    }

    pub(super) fn connections(&self) -> &Tunnels {
        &self.connections
    }

    pub(super) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }
}

/// Ends one event stream when the drain says so.
pub(super) struct StreamEnd(Pin<Box<dyn Future<Output = ()> + Send>>);

impl StreamEnd {
    pub(super) fn at(stages: Arc<Stages>, stage: Stage) -> Self {
        Self(Box::pin(async move { stages.reached(stage).await }))
    }

    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamEnd")
    }
}

/// Counts what outlives its request: upgraded connections and `CONNECT` tunnels. The server's drain waits for them.
///
/// A tunnel's task takes a [`TunnelGuard`] when it starts and keeps it to its end.
#[derive(Clone, Debug, Default)]
pub struct Tunnels(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    alive: AtomicUsize,
    empty: Notify,
}

impl Tunnels {
    /// Counts one more until the guard is dropped.
    #[must_use]
    pub fn track(&self) -> TunnelGuard {
        self.0.alive.fetch_add(1, Relaxed);
        TunnelGuard(Arc::clone(&self.0))
    }

    /// How many are alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.alive.load(Acquire)
    }

    /// Whether none is alive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until none is alive.
    pub async fn wait_empty(&self) {
        loop {
            let empty = self.0.empty.notified();
            if self.is_empty() {
                return;
            }
            empty.await;
        }
    }
}

/// One live tunnel.
#[derive(Debug)]
pub struct TunnelGuard(Arc<Count>);

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        if self.0.alive.fetch_sub(1, Release) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}

/// How a drain went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that were cut because their request had not ended in time.
    pub connections_cut: usize,
    /// Tunnels that had not ended in time.
    pub tunnels_cut: usize,
}

impl Drained {
    /// Whether everything ended by itself.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.connections_cut == 0 && self.tunnels_cut == 0
    }
}
