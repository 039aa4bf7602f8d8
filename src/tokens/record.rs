//! What a store keeps of a token.

use std::{sync::Arc, time::SystemTime};

use super::{TokenDigest, TokenScopes};
use crate::ConfigError;

/// A digest with the time in which it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHash {
    digest: TokenDigest,
    not_before: Option<SystemTime>,
    not_after: Option<SystemTime>,
}

impl TokenHash {
    /// Good at any time.
    #[must_use]
    pub fn new(digest: TokenDigest) -> Self {
        Self { digest, not_before: None, not_after: None }
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// As [`TokenDigest::from_hex`].
    pub fn from_hex(text: &str) -> Result<Self, ConfigError> {
        TokenDigest::from_hex(text).map(Self::new)
    }

    /// Good from this moment on.
    #[must_use]
    pub fn not_before(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.not_before = at.into();
        self
    }

    /// Good strictly before this moment.
    #[must_use]
    pub fn not_after(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.not_after = at.into();
        self
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &TokenDigest {
        &self.digest
    }

    pub(super) fn begins(&self) -> Option<SystemTime> {
        self.not_before
    }

    pub(super) fn ends(&self) -> Option<SystemTime> {
        self.not_after
    }
}

/// A token as an operator records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    id: Arc<str>,
    hashes: Vec<TokenHash>,
    expires: Option<SystemTime>,
    disabled: bool,
    scopes: Arc<TokenScopes>,
    quota: Option<Arc<str>>,
    tenant: Option<Arc<str>>,
}

impl TokenRecord {
    /// A record without a hash: it lets nobody in yet.
    ///
    /// # Errors
    /// If the id is not 1 to 64 of `A-Z a-z 0-9 . _ : @ -`: it goes into logs, keys and metrics as it is.
    pub fn new(id: &str) -> Result<Self, ConfigError> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'-'));
        if !(1..=64).contains(&id.len()) || !plain {
            return Err(ConfigError::new(id, "a token id is 1 to 64 letters, digits and `._:@-`"));
        }
        Ok(Self {
            id: id.into(),
            hashes: Vec::new(),
            expires: None,
            disabled: false,
            scopes: Arc::default(),
            quota: None,
            tenant: None,
        })
    }

    /// Adds a hash: the token's, or during a rotation the next one's.
    ///
    /// # Errors
    /// If there are two already.
    pub fn with_hash(mut self, hash: TokenHash) -> Result<Self, ConfigError> {
        if self.hashes.len() >= 2 {
            return Err(ConfigError::new(&*self.id, "more than two hashes; a rotation has an old and a new one"));
        }
        self.hashes.push(hash);
        Ok(self)
    }

    /// Good strictly before this moment.
    #[must_use]
    pub fn expires(mut self, at: impl Into<Option<SystemTime>>) -> Self {
        self.expires = at.into();
        self
    }

    /// Switched off, but still known by name.
    #[must_use]
    pub fn disabled(mut self, disabled: bool) -> Self {
        self.disabled = disabled;
        self
    }

    /// What it may reach.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl Into<Arc<TokenScopes>>) -> Self {
        self.scopes = scopes.into();
        self
    }

    /// A quota of its own, in the text form of the limits (`600/min`).
    #[must_use]
    pub fn with_quota(mut self, quota: impl Into<Arc<str>>) -> Self {
        self.quota = Some(quota.into());
        self
    }

    /// The tenant it belongs to.
    #[must_use]
    pub fn with_tenant(mut self, tenant: impl Into<Arc<str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The hashes.
    #[must_use]
    pub fn hashes(&self) -> &[TokenHash] {
        &self.hashes
    }

    /// The scopes.
    #[must_use]
    pub fn scopes(&self) -> &Arc<TokenScopes> {
        &self.scopes
    }

    /// The quota's text.
    #[must_use]
    pub fn quota(&self) -> Option<&Arc<str>> {
        self.quota.as_ref()
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }

    /// Whether it is switched off.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// When it ends.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.expires
    }
}
