//! What the limiters have decided, for inner layers, handlers and audit.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use super::{Decision, PolicyId};

/// What is left of the quotas of one request, in the order in which the policies were asked (outer layers first).
#[derive(Clone, Debug, Default)]
pub struct RateLimitState {
    first: [Option<PolicyState>; 2],
    more: Vec<PolicyState>,
    /// `RateLimit-Policy` of the layers so far. They leave it to the next one further in to tell the client of theirs together with
    /// its own, and do it themselves where there was none.
    told: Option<HeaderValue>,
}

/// What one policy has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyState {
    policy: Arc<str>,
    decision: Decision,
    shadow: bool,
    told: bool,
}

impl RateLimitState {
    /// Notes a policy's decision.
    pub fn push(&mut self, policy: &PolicyId, decision: Decision, shadow: bool) {
        self.note(policy, decision, shadow, false);
    }

    /// The same, and whether the client is told of it.
    pub(crate) fn note(&mut self, policy: &PolicyId, decision: Decision, shadow: bool, told: bool) {
        let state = PolicyState { policy: Arc::clone(policy.name()), decision, shadow, told };
        match self.first.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(state),
            None => self.more.push(state),
        }
    }

    /// Notes `RateLimit-Policy` of all policies that the client is told of so far.
    pub(crate) fn tell(&mut self, field: HeaderValue) {
        self.told = Some(field);
    }

    /// The `RateLimit-Policy` of outer layers that tell their clients, and the policies in it.
    pub(crate) fn told(&self) -> Option<(&HeaderValue, impl Iterator<Item = &PolicyState>)> {
        Some((self.told.as_ref()?, self.iter().filter(|p| p.told)))
    }

    /// Every policy that was asked.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyState> {
        self.first.iter().flatten().chain(&self.more)
    }

    /// The policy that has the least left, shadows aside.
    #[must_use]
    pub fn tightest(&self) -> Option<&PolicyState> {
        self.iter().filter(|p| !p.shadow).min_by_key(|p| (p.decision.allowed(), p.decision.remaining()))
    }

    /// The policies in shadow mode that would have refused.
    pub fn shadow_refusals(&self) -> impl Iterator<Item = &PolicyState> {
        self.iter().filter(|p| p.shadow && !p.decision.allowed())
    }
}

impl PolicyState {
    /// The policy's name.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// What it decided.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Units left.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.decision.remaining()
    }

    /// Time until the quota is whole again.
    #[must_use]
    pub fn reset(&self) -> Duration {
        self.decision.reset()
    }

    /// Whether the policy only watches.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }
}
