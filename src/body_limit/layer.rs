//! The layer and the handle to its limit.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tower_layer::Layer;

use super::BodyLimit;

/// Limits the length of request bodies. See the [module's documentation](crate::body_limit).
#[derive(Clone, Debug)]
pub struct BodyLimitLayer(Arc<AtomicU64>);

impl BodyLimitLayer {
    /// At most `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(AtomicU64::new(limit)))
    }

    /// A handle that changes the limit of all services this layer makes.
    #[must_use]
    pub fn handle(&self) -> BodyLimitHandle {
        BodyLimitHandle(Arc::clone(&self.0))
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> BodyLimit<S> {
        BodyLimit::new(inner, Arc::clone(&self.0))
    }
}

/// Changes a layer's limit while it runs.
#[derive(Clone, Debug)]
pub struct BodyLimitHandle(Arc<AtomicU64>);

impl BodyLimitHandle {
    /// Changes the limit, for requests that come from now on.
    pub fn set(&self, limit: u64) {
        self.0.store(limit, Ordering::Relaxed);
    }
}
