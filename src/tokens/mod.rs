//! F1: proxy tokens: format, hashes, records, scopes. Pure decisions.

use std::sync::Arc;

use crate::signal::Signal;

/// Who is asking: the owner of a token or of a client certificate.
#[derive(Clone, Debug)]
pub struct Principal {
    id: Arc<str>,
    revoked: Option<Signal>,
}

impl Principal {
    /// A principal of that id. The id is what logs show; it is never a secret.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self { id: id.into(), revoked: None }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Fires when the credential is revoked.
    #[must_use]
    pub fn revoked(&self) -> Option<&Signal> {
        self.revoked.as_ref()
    }

    /// The same principal, watched for revocation.
    #[must_use]
    pub fn with_revocation(mut self, signal: Signal) -> Self {
        self.revoked = Some(signal);
        self
    }
}
