//! The layer and the handle to its limits.

use std::{
    fmt,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use tower_layer::Layer;

use super::{
    ConcurrencyLimit,
    permit::{Full, Held, Running},
};
use crate::{
    limiter::{Key, KeyExtractor, MissingKey, RequestView, SipKey},
    rejection::{Rejection, RejectionKind},
};

type Condition = Arc<dyn Fn(&RequestView<'_>) -> bool + Send + Sync>;

/// Limits how many requests run at the same time. See the [module's documentation](crate::concurrency_limit).
///
/// Clones of a layer, and all services it makes, share their counts.
#[derive(Clone)]
pub struct ConcurrencyLimitLayer(Arc<Limits>);

/// What the layer, its services and its handle share.
pub(super) struct Limits {
    key: Option<Arc<dyn KeyExtractor>>,
    per_key: AtomicUsize,
    total: AtomicUsize,
    when: Option<Condition>,
    retry_after: Duration,
    sip: SipKey,
    running: Arc<Running>,
}

impl ConcurrencyLimitLayer {
    /// No limit yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Limits {
            key: None,
            per_key: AtomicUsize::new(usize::MAX),
            total: AtomicUsize::new(usize::MAX),
            when: None,
            retry_after: Duration::from_secs(1),
            sip: SipKey::random(),
            running: Arc::default(),
        }))
    }

    /// A change makes a layer of its own, with nothing running.
    fn with(self, change: impl FnOnce(&mut Limits)) -> Self {
        let old = &*self.0;
        let mut limits = Limits {
            key: old.key.clone(),
            per_key: AtomicUsize::new(old.per_key.load(Ordering::Relaxed)),
            total: AtomicUsize::new(old.total.load(Ordering::Relaxed)),
            when: old.when.clone(),
            retry_after: old.retry_after,
            sip: SipKey::random(),
            running: Arc::default(),
        };
        change(&mut limits);
        Self(Arc::new(limits))
    }

    /// At most `most` requests of one key; more are 429.
    #[must_use]
    pub fn per_key(self, most: usize, key: impl KeyExtractor) -> Self {
        self.with(|limits| {
            limits.key = Some(Arc::new(key));
            limits.per_key = AtomicUsize::new(most);
        })
    }

    /// At most `most` requests in all; more are 503.
    #[must_use]
    pub fn total(self, most: usize) -> Self {
        self.with(|limits| limits.total = AtomicUsize::new(most))
    }

    /// Counts only such requests: for instance those that open an event stream or a tunnel.
    #[must_use]
    pub fn when(self, condition: impl Fn(&RequestView<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|limits| limits.when = Some(Arc::new(condition)))
    }

    /// What `Retry-After` says; 1 second unless said otherwise.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        self.with(|limits| limits.retry_after = after)
    }

    /// A handle that changes the limits while requests run. Take it after the last change to the layer.
    #[must_use]
    pub fn handle(&self) -> ConcurrencyLimitHandle {
        ConcurrencyLimitHandle(Arc::clone(&self.0))
    }
}

impl Default for ConcurrencyLimitLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        ConcurrencyLimit::new(inner, Arc::clone(&self.0))
    }
}

impl fmt::Debug for ConcurrencyLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_key = self.key.as_ref().map(|_| self.per_key.load(Ordering::Relaxed));
        f.debug_struct("ConcurrencyLimit")
            .field("per_key", &per_key)
            .field("total", &self.total.load(Ordering::Relaxed))
            .field("running", &self.running.total())
            .finish_non_exhaustive()
    }
}

impl Limits {
    /// The decision: a permit, or nothing where the request does not count, or the refusal.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<Option<Held>, Rejection> {
        let mut hash = None;
        if self.when.is_some() || self.key.is_some() {
            let view = RequestView::of(request);
            if self.when.as_ref().is_some_and(|when| !when(&view)) {
                return Ok(None);
            }
            if let Some(extractor) = &self.key {
                let mut key = Key::new();
                extractor.extract(&view, &mut key).map_err(|missing| misconfigured(&missing))?;
                hash = NonZeroU64::new(key.hash(0, self.sip.start()));
            }
        }
        let (per_key, total) = (self.per_key.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let held = self.running.take(hash, per_key, total).map_err(|full| {
            let kind = if full == Full::Key { RejectionKind::ConcurrencyLimited } else { RejectionKind::Saturated };
            Rejection::new(kind).with_retry_after(self.retry_after)
        })?;
        Ok(Some(held))
    }
}

#[cold]
fn misconfigured(missing: &MissingKey) -> Rejection {
    Rejection::new(RejectionKind::Misconfigured).with_detail(format!("concurrency limit: {missing}"))
}

/// Changes a layer's limits while it runs, and reads what is running.
#[derive(Clone)]
pub struct ConcurrencyLimitHandle(Arc<Limits>);

impl ConcurrencyLimitHandle {
    /// Changes the limit for each key. Requests that run already are not ended.
    pub fn set_per_key(&self, most: usize) {
        self.0.per_key.store(most, Ordering::Relaxed);
    }

    /// Changes the limit in all.
    pub fn set_total(&self, most: usize) {
        self.0.total.store(most, Ordering::Relaxed);
    }

    /// How many requests and tunnels hold a permit.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running.total()
    }

    /// How many keys have something running.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.running.keys()
    }
}

impl fmt::Debug for ConcurrencyLimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
