//! F1: the egress policy: which targets and addresses may be reached. Pure decisions.

use std::sync::Arc;

use crate::net::Origin;

/// Proof that the guard has looked at a target. Only a policy can make one; the connector and `ProxyService` ask for it.
#[derive(Clone, Debug)]
pub struct EgressPermit {
    origin: Arc<Origin>,
    generation: u64,
}

impl EgressPermit {
    /// What may be dialled.
    #[must_use]
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }

    /// The policy generation under which it was given.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}
