//! Whose session it is.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::Lookup;
use crate::net::Origin;

/// A session at one target: a digest, so that no session id is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// The key of an `Mcp-Session-Id` that a target has issued.
    #[must_use]
    pub fn new(session: &[u8], target: &Origin) -> Self {
        let mut hash = Sha256::new();
        // The id may hold any visible ASCII, so it goes last: nothing of it can look like a part of the origin.
        hash.update(if target.scheme().is_secure() { "s " } else { "c " });
        hash.update(target.host().to_string());
        hash.update(target.port().to_be_bytes());
        hash.update(session);
        Self(hash.finalize().into())
    }

    /// The digest's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Where session bindings are kept.
pub trait SessionStore: Send + Sync + 'static {
    /// Binds the session to `owner` unless it is bound already, and answers with the owner that it has then.
    fn claim(&self, key: SessionKey, owner: &Arc<str>) -> Lookup<Arc<str>>;
}

impl<T: SessionStore + ?Sized> SessionStore for Arc<T> {
    fn claim(&self, key: SessionKey, owner: &Arc<str>) -> Lookup<Arc<str>> {
        (**self).claim(key, owner)
    }
}
