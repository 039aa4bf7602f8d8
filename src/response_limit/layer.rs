//! The layer and the handle to its limits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tower_layer::Layer;

use super::ResponseLimit;

/// Limits the length of answers. See the [module's documentation](crate::response_limit).
#[derive(Clone, Debug)]
pub struct ResponseLimitLayer(Arc<Limits>);

#[derive(Debug)]
pub(super) struct Limits {
    pub(super) body: AtomicU64,
    pub(super) event: AtomicU64,
}

impl ResponseLimitLayer {
    /// At most `limit` bytes of body; events of any size.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Limits { body: AtomicU64::new(limit), event: AtomicU64::new(u64::MAX) }))
    }

    /// At most `limit` bytes in one event of an event stream.
    #[must_use]
    pub fn event_size(self, limit: u64) -> Self {
        let body = self.0.body.load(Ordering::Relaxed);
        Self(Arc::new(Limits { body: AtomicU64::new(body), event: AtomicU64::new(limit) }))
    }

    /// A handle that changes the limits of all services this layer makes.
    #[must_use]
    pub fn handle(&self) -> ResponseLimitHandle {
        ResponseLimitHandle(Arc::clone(&self.0))
    }
}

impl<S> Layer<S> for ResponseLimitLayer {
    type Service = ResponseLimit<S>;

    fn layer(&self, inner: S) -> ResponseLimit<S> {
        ResponseLimit::new(inner, Arc::clone(&self.0))
    }
}

/// Changes a layer's limits while it runs.
#[derive(Clone, Debug)]
pub struct ResponseLimitHandle(Arc<Limits>);

impl ResponseLimitHandle {
    /// Changes the limit of bodies, for answers that begin from now on.
    pub fn set(&self, limit: u64) {
        self.0.body.store(limit, Ordering::Relaxed);
    }

    /// Changes the limit of a single event.
    pub fn set_event_size(&self, limit: u64) {
        self.0.event.store(limit, Ordering::Relaxed);
    }
}
