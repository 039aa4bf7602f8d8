//! The policy in force, and its exchange while requests run.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{Denial, EgressPermit, EgressPolicy};
use crate::{
    net::{Origin, Target},
    signal::{CloseReason, Signal, Trigger},
};

/// One policy in force, from its swap in to its swap out.
#[derive(Debug)]
pub struct Generation {
    id: u64,
    policy: EgressPolicy,
    trigger: Trigger,
    superseded: Signal,
}

impl Generation {
    fn new(policy: EgressPolicy) -> Arc<Self> {
        // Unique in the process, not only in one handle: pools that are keyed by it never mix two handles.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (trigger, superseded) = Trigger::new();
        Arc::new(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), policy, trigger, superseded })
    }

    /// Its number: later ones are greater.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &EgressPolicy {
        &self.policy
    }

    /// Fires with [`CloseReason::Policy`] when another policy has taken its place. What runs under this one may then ask the
    /// new one with [`Self::recheck`].
    #[must_use]
    pub fn superseded(&self) -> &Signal {
        &self.superseded
    }

    /// Whether the target may be asked for. A literal's address is judged here already; a name's answers are judged through
    /// the permit.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn permit(self: &Arc<Self>, target: &Target) -> Result<EgressPermit, Denial> {
        let origin = target.origin();
        // Origins are remembered from request to request, and so is the answer for as long as this policy is in force.
        if !origin.was_permitted_by(self.id) {
            self.policy.check_origin(origin, &mut ())?;
            origin.note_permitted(self.id);
        }
        Ok(EgressPermit::new(target.clone(), Arc::clone(self)))
    }

    /// Whether this policy would also allow a connection that is open already: its origin and the address it leads to.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn recheck(&self, origin: &Origin, peer: SocketAddr) -> Result<(), Denial> {
        self.policy.check_origin(origin, &mut ())?;
        self.policy.check_address(origin.host(), peer.port(), peer.ip(), &mut ()).map(drop)
    }
}

/// The policy in force. Clones share it.
#[derive(Clone, Debug)]
pub struct PolicyHandle(Arc<ArcSwap<Generation>>);

impl PolicyHandle {
    /// Puts a policy in force.
    #[must_use]
    pub fn new(policy: EgressPolicy) -> Self {
        Self(Arc::new(ArcSwap::new(Generation::new(policy))))
    }

    /// Puts another policy in force and returns its number. Requests that hold a permit go on under the old one; its
    /// [`Generation::superseded`] fires.
    #[expect(clippy::must_use_candidate, reason = "the exchange is the point, not the number")]
    pub fn swap(&self, policy: EgressPolicy) -> u64 {
        let next = Generation::new(policy);
        let id = next.id;
        let old = self.0.swap(next);
        old.trigger.fire(CloseReason::Policy);
        id
    }

    /// The generation in force.
    #[must_use]
    pub fn load(&self) -> Arc<Generation> {
        self.0.load_full()
    }

    /// [`Generation::permit`] of the generation in force.
    ///
    /// # Errors
    /// The rule that refuses the target.
    pub fn permit(&self, target: &Target) -> Result<EgressPermit, Denial> {
        self.0.load().permit(target)
    }
}
