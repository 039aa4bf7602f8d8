//! The proof that the guard has looked: a permit for a target, approval for addresses.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    denial::Denial,
    handle::Generation,
    policy::{EgressPolicy, Resolution},
};
use crate::net::{Origin, Target};

/// Proof that the guard has looked at a target. Only a policy can make one; the connector and `ProxyService` ask for it.
///
/// A permit alone opens nothing: the addresses have to be approved too, by [`Self::judge`].
#[derive(Clone)]
pub struct EgressPermit {
    target: Target,
    generation: Arc<Generation>,
}

impl EgressPermit {
    pub(super) fn new(target: Target, generation: Arc<Generation>) -> Self {
        Self { target, generation }
    }

    /// What may be dialled.
    #[must_use]
    pub fn origin(&self) -> &Arc<Origin> {
        self.target.origin()
    }

    /// The id of the policy generation under which it was given.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.id()
    }

    /// The policy generation under which it was given.
    #[must_use]
    pub fn policy_generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// How the target's addresses are found.
    #[must_use]
    pub fn resolution(&self) -> Resolution<'_> {
        EgressPolicy::resolution(self.target.host())
    }

    /// Judges the answers. Order is kept, duplicates are removed, IPv4-mapped addresses are unwrapped.
    ///
    /// # Errors
    /// One bad address refuses all of them, unless the policy drops bad answers; no address at all is "no such name".
    pub fn judge(&self, answers: &[IpAddr]) -> Result<ApprovedAddrs, Denial> {
        self.generation.policy().judge(self.origin(), answers, &mut ())
    }
}

impl fmt::Debug for EgressPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressPermit").field("origin", self.target.origin()).field("generation", &self.generation.id()).finish()
    }
}

/// Addresses that the guard has judged and found good. Nothing else can make one, and a dialer takes nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovedAddrs(Vec<SocketAddr>);

impl ApprovedAddrs {
    pub(super) fn new(addrs: Vec<SocketAddr>) -> Self {
        Self(addrs)
    }

    /// The addresses in the order of the answers; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.0
    }

    /// The addresses one by one, for a dialer.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ApprovedAddr> + '_ {
        self.0.iter().map(|addr| ApprovedAddr(*addr))
    }
}

/// One approved address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApprovedAddr(SocketAddr);

impl ApprovedAddr {
    /// The address to dial.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }
}
