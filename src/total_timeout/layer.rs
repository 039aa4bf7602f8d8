//! The layer and the handle to its limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_layer::Layer;

use super::TotalTimeout;

/// Limits the time of whole exchanges. See the [module's documentation](crate::total_timeout).
#[derive(Clone, Debug)]
pub struct TotalTimeoutLayer(Arc<Limit>);

/// Milliseconds; zero is none.
#[derive(Debug)]
pub(super) struct Limit(AtomicU64);

impl Limit {
    pub(super) fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    fn set(&self, limit: Option<Duration>) {
        // Beyond some years it is none, and adding it to a clock could overflow.
        let millis = limit.and_then(|l| u64::try_from(l.as_millis()).ok()).filter(|m| *m <= LONGEST);
        self.0.store(millis.map_or(0, |m| m.max(1)), Ordering::Relaxed);
    }
}

const LONGEST: u64 = 10 * 365 * 86_400 * 1000;

impl TotalTimeoutLayer {
    /// An exchange may take that long.
    #[must_use]
    pub fn new(limit: impl Into<Option<Duration>>) -> Self {
        let layer = Self(Arc::new(Limit(AtomicU64::new(0))));
        layer.0.set(limit.into());
        layer
    }

    /// No limit, until a [handle](Self::handle) sets one.
    #[must_use]
    pub fn off() -> Self {
        Self::new(None)
    }

    /// A handle that changes the limit of all services this layer makes.
    #[must_use]
    pub fn handle(&self) -> TotalTimeoutHandle {
        TotalTimeoutHandle(Arc::clone(&self.0))
    }
}

impl Default for TotalTimeoutLayer {
    fn default() -> Self {
        Self::off()
    }
}

impl<S> Layer<S> for TotalTimeoutLayer {
    type Service = TotalTimeout<S>;

    fn layer(&self, inner: S) -> TotalTimeout<S> {
        TotalTimeout::new(inner, Arc::clone(&self.0))
    }
}

/// Changes a layer's limit while it runs.
#[derive(Clone, Debug)]
pub struct TotalTimeoutHandle(Arc<Limit>);

impl TotalTimeoutHandle {
    /// Another limit, or none, for requests that arrive from now on.
    pub fn set(&self, limit: Option<Duration>) {
        self.0.set(limit);
    }
}
