//! The layer and the handle to its policies.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use tower_layer::Layer;

use super::{Policy, RateLimit, fields::Fields, policy::PolicySet};
use crate::{
    ConfigError,
    clock::{Clock, SystemClock},
    limiter::{KeyExtractor, LimitStore, MemoryStore, PolicyId, Quota},
};

/// Limits how many requests of a key pass. See the [module's documentation](crate::rate_limit).
///
/// Clones of a layer, and all services it makes, share policies and state.
#[derive(Clone)]
pub struct RateLimitLayer {
    policies: Vec<Policy>,
    fields: Fields,
    jitter: Duration,
    store: Option<Arc<dyn LimitStore>>,
    clock: Arc<dyn Clock>,
    /// Made by the first use, so that a default store is not made for nothing.
    shared: Arc<OnceLock<Arc<Shared>>>,
}

pub(super) struct Shared {
    pub(super) policies: Arc<ArcSwap<PolicySet>>,
    pub(super) store: Arc<dyn LimitStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fields: Fields,
    pub(super) jitter: Duration,
}

impl RateLimitLayer {
    /// One policy named `default`, keyed by client until [`RateLimitLayer::key`] says otherwise.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self::of(vec![Policy::of(PolicyId::of("default".into()), quota)])
    }

    /// Several named policies, asked together.
    ///
    /// # Errors
    /// When there is none, more than [`MAX_POLICIES`](crate::limiter::MAX_POLICIES), or two of one name.
    pub fn policies(policies: impl IntoIterator<Item = Policy>) -> Result<Self, ConfigError> {
        let policies: Vec<_> = policies.into_iter().collect();
        PolicySet::check(&policies)?;
        Ok(Self::of(policies))
    }

    fn of(policies: Vec<Policy>) -> Self {
        Self {
            policies,
            fields: Fields::default(),
            jitter: Duration::ZERO,
            store: None,
            clock: Arc::new(SystemClock),
            shared: Arc::default(),
        }
    }

    fn map(mut self, change: impl FnMut(Policy) -> Policy) -> Self {
        self.policies = self.policies.into_iter().map(change).collect();
        self.changed()
    }

    fn changed(mut self) -> Self {
        self.shared = Arc::default();
        self
    }

    /// Whose quota it is, for every policy of the layer.
    #[must_use]
    pub fn key(self, key: impl KeyExtractor) -> Self {
        let key: Arc<dyn KeyExtractor> = Arc::new(key);
        self.map(|mut policy| {
            policy.key = Arc::clone(&key);
            policy
        })
    }

    /// Only counts, for every policy of the layer.
    #[must_use]
    pub fn shadow(self, shadow: bool) -> Self {
        self.map(|policy| policy.shadow(shadow))
    }

    /// Where the state is kept; a [`MemoryStore`] of default size unless said otherwise. Layers may share one.
    #[must_use]
    pub fn store(self, store: impl LimitStore) -> Self {
        self.shared_store(Arc::new(store))
    }

    /// The same for a store that others hold as well.
    #[must_use]
    pub fn shared_store(mut self, store: Arc<dyn LimitStore>) -> Self {
        self.store = Some(store);
        self.changed()
    }

    /// Which fields answers carry.
    #[must_use]
    pub fn fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self.changed()
    }

    /// Adds up to so much to `Retry-After`, at random, so that clients do not come back in step.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self.changed()
    }

    /// Another clock; for tests.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self.changed()
    }

    /// A handle that swaps the policies of all services this layer makes. Take it after the last change to the layer.
    #[must_use]
    pub fn handle(&self) -> RateLimitHandle {
        RateLimitHandle(Arc::clone(self.shared()))
    }

    fn shared(&self) -> &Arc<Shared> {
        self.shared.get_or_init(|| {
            Arc::new(Shared {
                policies: Arc::new(ArcSwap::from_pointee(PolicySet::new(self.policies.clone(), self.fields))),
                store: self.store.clone().unwrap_or_else(|| Arc::new(MemoryStore::default())),
                clock: Arc::clone(&self.clock),
                fields: self.fields,
                jitter: self.jitter,
            })
        })
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, Arc::clone(self.shared()))
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").field("policies", &self.policies).finish_non_exhaustive()
    }
}

/// Swaps a layer's policies while it runs.
#[derive(Clone)]
pub struct RateLimitHandle(Arc<Shared>);

impl RateLimitHandle {
    /// Puts other policies in force. What a key has used under a name still counts under that name.
    ///
    /// # Errors
    /// As [`RateLimitLayer::policies`]; the old policies then stay in force.
    pub fn swap(&self, policies: impl IntoIterator<Item = Policy>) -> Result<(), ConfigError> {
        let policies: Vec<_> = policies.into_iter().collect();
        PolicySet::check(&policies)?;
        self.0.policies.store(Arc::new(PolicySet::new(policies, self.0.fields)));
        Ok(())
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> Vec<Policy> {
        self.0.policies.load().policies.to_vec()
    }
}

impl fmt::Debug for RateLimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateLimitHandle").field(&self.policies()).finish()
    }
}
