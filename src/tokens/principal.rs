//! Who is asking.

use std::{fmt, sync::Arc};

use super::TokenScopes;
use crate::signal::Signal;

/// Who is asking: the owner of a token or of a client certificate. Cloning is cheap.
#[derive(Clone)]
pub struct Principal(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    id: Arc<str>,
    revoked: Option<Signal>,
    scopes: Arc<TokenScopes>,
    quota: Option<Arc<str>>,
    tenant: Option<Arc<str>>,
}

impl Principal {
    /// A principal of that id, without scopes (whatever the policy allows). The id is what logs show; it is never a secret.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Inner { id: id.into(), revoked: None, scopes: Arc::default(), quota: None, tenant: None }))
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.0.id
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
