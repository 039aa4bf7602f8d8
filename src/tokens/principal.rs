//! Who is asking.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, LazyLock},
};

use super::TokenScopes;
use crate::signal::Signal;

/// One key a process, so that the hash says nothing to others and cannot be aimed at a slot of a table.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Who is asking: the owner of a token or of a client certificate. Cloning is cheap.
#[derive(Clone)]
pub struct Principal(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    id: Arc<str>,
    hash: u64,
    revoked: Option<Signal>,
    scopes: Arc<TokenScopes>,
    quota: Option<Arc<str>>,
    tenant: Option<Arc<str>>,
}

impl Principal {
    /// A principal of that id, without scopes (whatever the policy allows). The id is what logs show; it is never a secret.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let id = id.into();
        let hash = KEY.hash_one(&*id);
        Self(Arc::new(Inner { id, hash, revoked: None, scopes: Arc::default(), quota: None, tenant: None }))
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.0.id
    }

    /// A hash of the id, computed once, under a key of this process: for tables in memory, never for anything shared.
    #[must_use]
    pub fn id_hash(&self) -> u64 {
        self.0.hash
    }

    /// Fires when the credential is revoked.
    #[must_use]
    pub fn revoked(&self) -> Option<&Signal> {
        self.0.revoked.as_ref()
    }

    /// What this principal may reach.
    #[must_use]
    pub fn scopes(&self) -> &TokenScopes {
        &self.0.scopes
    }

    /// The principal's own quota as the operator wrote it (`600/min`), if it has one.
    #[must_use]
    pub fn quota(&self) -> Option<&str> {
        self.0.quota.as_deref()
    }

    /// The tenant, where tokens belong to one.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.0.tenant.as_deref()
    }

    /// The same principal, watched for revocation.
    #[must_use]
    pub fn with_revocation(mut self, signal: Signal) -> Self {
        Arc::make_mut(&mut self.0).revoked = Some(signal);
        self
    }

    /// The same principal with other scopes.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl Into<Arc<TokenScopes>>) -> Self {
        Arc::make_mut(&mut self.0).scopes = scopes.into();
        self
    }

    /// The same principal with a quota of its own.
    #[must_use]
    pub fn with_quota(mut self, quota: Option<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.0).quota = quota;
        self
    }

    /// The same principal as a member of a tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Option<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.0).tenant = tenant;
        self
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("id", &self.0.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_belongs_to_the_id() {
        let a = Principal::new("a");
        assert_eq!(a.id_hash(), Principal::new("a").with_quota(Some("1/s".into())).id_hash());
        assert_ne!(a.id_hash(), Principal::new("b").id_hash());
    }
}
