//! One named policy, and the set a layer asks.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::fields::{self, Fields};
use crate::{
    ConfigError,
    limiter::{Ask, Batch, ByClient, Key, KeyExtractor, MAX_POLICIES, PolicyId, Quota, RequestView},
    rejection::{Rejection, RejectionKind},
};

type Cost = Arc<dyn Fn(&RequestView<'_>) -> u64 + Send + Sync>;
type Condition = Arc<dyn Fn(&RequestView<'_>) -> bool + Send + Sync>;
pub(super) type Amendment = Arc<dyn Fn(&Used) -> u64 + Send + Sync>;

/// What an answer has cost in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Used {
    /// The answer's status.
    pub status: StatusCode,
    /// Bytes of body that were sent.
    pub bytes: u64,
}

/// A named quota: how much, whose, at what cost, and when.
#[derive(Clone)]
pub struct Policy {
    pub(super) id: PolicyId,
    pub(super) quota: Quota,
    pub(super) key: Arc<dyn KeyExtractor>,
    cost: Option<Cost>,
    when: Option<Condition>,
    unless: Option<Condition>,
    pub(super) amend: Option<Amendment>,
    pub(super) shadow: bool,
    pub(super) unit: &'static str,
}

impl Policy {
    /// A policy of one unit a request, keyed by client.
    ///
    /// # Errors
    /// When the name cannot be sent to clients (see [`PolicyId::new`]).
    pub fn new(name: impl Into<Arc<str>>, quota: Quota) -> Result<Self, ConfigError> {
        Ok(Self::of(PolicyId::new(name)?, quota))
    }

    /// A policy over the bytes of answers: a request costs nothing beforehand and, when its answer has ended, as many units as
    /// the body had bytes. It refuses while there is a debt.
    ///
    /// # Errors
    /// When the name cannot be sent to clients.
    pub fn response_bytes(name: impl Into<Arc<str>>, quota: Quota) -> Result<Self, ConfigError> {
        let mut policy = Self::new(name, quota)?.cost(|_| 0).amend(|used| used.bytes);
        policy.unit = "content-bytes";
        Ok(policy)
    }

    pub(super) fn of(id: PolicyId, quota: Quota) -> Self {
        Self { id, quota, key: Arc::new(ByClient), cost: None, when: None, unless: None, amend: None, shadow: false, unit: "" }
    }

    /// Whose quota it is.
    #[must_use]
    pub fn key(mut self, key: impl KeyExtractor) -> Self {
        self.key = Arc::new(key);
        self
    }

    /// How many units a request takes; 1 unless said otherwise. 0 looks without taking.
    #[must_use]
    pub fn cost(mut self, cost: impl Fn(&RequestView<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.cost = Some(Arc::new(cost));
        self
    }

    /// Units that are taken in addition when the answer's body has ended or was dropped.
    ///
    /// A quota for failures, for instance: it looks beforehand, and takes one unit for each 401.
    ///
    /// ```
    /// use portcullis::{limiter::{ByClient, Quota}, rate_limit::Policy};
    ///
    /// let failures = Policy::new("failed-auth", Quota::per_minute(10))?
    ///     .key(ByClient)
    ///     .cost(|_| 0)
    ///     .amend(|used| u64::from(used.status.as_u16() == 401));
    /// # Ok::<(), portcullis::ConfigError>(())
    /// ```
    #[must_use]
    pub fn amend(mut self, amend: impl Fn(&Used) -> u64 + Send + Sync + 'static) -> Self {
        self.amend = Some(Arc::new(amend));
        self
    }

    /// Asks this policy only about such requests.
    #[must_use]
    pub fn when(mut self, condition: impl Fn(&RequestView<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(condition));
        self
    }

    /// Exempts such requests from this policy.
    #[must_use]
    pub fn unless(mut self, condition: impl Fn(&RequestView<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.unless = Some(Arc::new(condition));
        self
    }

    /// Counts, and never refuses.
    #[must_use]
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.id.name()
    }

    /// The quota.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    fn applies(&self, request: &RequestView<'_>) -> bool {
        self.when.as_ref().is_none_or(|when| when(request)) && !self.unless.as_ref().is_some_and(|unless| unless(request))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.id)
            .field("quota", &self.quota)
            .field("shadow", &self.shadow)
            .finish_non_exhaustive()
    }
}

/// The policies of a layer, with everything that can be written beforehand.
#[derive(Debug)]
pub(super) struct PolicySet {
    /// No other set of the process has it.
    pub(super) id: u64,
    pub(super) policies: Box<[Policy]>,
    pub(super) fields: Fields,
    pub(super) amends: bool,
    /// Which policies are not shadows.
    pub(super) shown: u8,
    /// `RateLimit-Policy` for each set of policies that was asked, written when it is first needed.
    policy_fields: Box<[OnceLock<Option<HeaderValue>>]>,
    /// The same after the field of outer layers, for the first such field that came.
    joined_fields: Box<[OnceLock<(HeaderValue, HeaderValue)>]>,
    /// The problem document for each set of violated policies, written when it is first needed.
    problems: Box<[OnceLock<Problem>]>,
}

/// What a refusal by certain policies says.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) names: Arc<[Arc<str>]>,
    pub(super) document: Bytes,
}

/// The places of a set's policies that a mask names.
pub(super) fn places(mut mask: u8) -> impl Iterator<Item = usize> + Clone {
    std::iter::from_fn(move || {
        let place = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (place < 8).then_some(place as usize)
    })
}

impl PolicySet {
    pub(super) fn check(policies: &[Policy]) -> Result<(), ConfigError> {
        let names = || policies.iter().map(Policy::name).collect::<Vec<_>>().join(", ");
        if policies.is_empty() {
            return Err(ConfigError::new("", "a rate limit has at least one policy"));
        }
        if policies.len() > MAX_POLICIES {
            return Err(ConfigError::new(names(), format!("a rate limit has at most {MAX_POLICIES} policies")));
        }
        let twice = policies.iter().enumerate().find(|(i, p)| policies.iter().take(*i).any(|q| q.id == p.id));
        match twice {
            Some((_, policy)) => Err(ConfigError::new(policy.name(), "two policies of one layer have the same name")),
            None => Ok(()),
        }
    }

    pub(super) fn new(policies: Vec<Policy>, fields: Fields) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shown = policies.iter().enumerate().filter(|(_, p)| !p.shadow).fold(0, |mask, (place, _)| mask | 1 << place);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            fields,
            amends: policies.iter().any(|p| p.amend.is_some()),
            shown,
            policy_fields: (0..1usize << policies.len()).map(|_| OnceLock::new()).collect(),
            joined_fields: (0..1usize << policies.len()).map(|_| OnceLock::new()).collect(),
            problems: (0..1usize << policies.len()).map(|_| OnceLock::new()).collect(),
            policies: policies.into(),
        }
    }

    /// The policies that a mask names.
    pub(super) fn named(&self, mask: u8) -> impl Iterator<Item = &Policy> + Clone {
        places(mask).filter_map(|place| self.policies.get(place))
    }

    /// What a refusal by these policies says.
    pub(super) fn problem(&self, violated: u8) -> Problem {
        let write = || {
            let names: Arc<[Arc<str>]> = self.named(violated).map(|p| Arc::clone(p.id.name())).collect();
            let rejection = Rejection::new(RejectionKind::RateLimited).with_violated_policies(Arc::clone(&names));
            Problem { names, document: rejection.problem_json() }
        };
        self.problems.get(usize::from(violated)).map_or_else(write, |slot| slot.get_or_init(write).clone())
    }

    /// `RateLimit-Policy` of the policies that were asked.
    pub(super) fn policy_field(&self, asked: u8) -> Option<HeaderValue> {
        let asked = asked & self.shown;
        let write = || fields::join(self.named(asked).map(fields::policy_member));
        self.policy_fields.get(usize::from(asked)).map_or_else(write, |slot| slot.get_or_init(write).clone())
    }

    /// The same after `outer`, the field of outer layers. A layer stands behind the same outer ones on nearly every request.
    pub(super) fn joined_field(&self, outer: &HeaderValue, asked: u8) -> Option<HeaderValue> {
        let own = self.policy_field(asked)?;
        let slot = self.joined_fields.get(usize::from(asked & self.shown))?;
        if let Some((known, joined)) = slot.get()
            && known == outer
        {
            return Some(joined.clone());
        }
        let joined = HeaderValue::from_bytes(&[outer.as_bytes(), own.as_bytes()].join(&b", "[..])).ok()?;
        // Where another one was first, this one is written anew each time.
        let _ = slot.set((outer.clone(), joined.clone()));
        Some(joined)
    }

    /// The questions about one request, and which policies they come from. Pure: nothing is taken here.
    pub(super) fn ask<'a>(&'a self, request: &RequestView<'_>, batch: &mut Batch<'a>) -> Result<u8, Rejection> {
        let mut mask = 0;
        for (place, policy) in self.policies.iter().enumerate() {
            if !policy.applies(request) {
                continue;
            }
            let mut key = Key::new();
            policy.key.extract(request, &mut key).map_err(|missing| {
                Rejection::new(RejectionKind::Misconfigured).with_detail(format!("rate limit `{}`: {missing}", policy.name()))
            })?;
            let cost = policy.cost.as_ref().map_or(1, |cost| cost(request));
            if batch.push(Ask { policy: &policy.id, quota: policy.quota, key, cost, shadow: policy.shadow, decision: None }) {
                mask |= 1 << place;
            }
        }
        Ok(mask)
    }
}
