//! A record in force: with its principals and the triggers that revoke them.

use std::{
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use super::{Principal, TokenDigest, TokenHash, TokenRecord};
use crate::signal::{CloseReason, Trigger};

/// Why a token does not let anybody in. The client is never told which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenFault {
    /// No such token.
    Unknown,
    /// A generated token's form with a wrong check sum.
    Checksum,
    /// Switched off.
    Disabled,
    /// Its time has not come.
    NotYetValid,
    /// Its time is over.
    Expired,
}

impl TokenFault {
    /// The audit reason.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_token",
            Self::Checksum => "token_checksum",
            Self::Disabled => "disabled_token",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Expired => "expired_token",
        }
    }
}

/// A record in force. Every hash has a principal and a trigger of its own, so that taking the old hash away at the end of a
/// rotation ends only what was opened with it.
#[derive(Debug)]
pub struct LiveToken {
    record: TokenRecord,
    credentials: Vec<Credential>,
}

#[derive(Debug)]
struct Credential {
    hash: TokenHash,
    trigger: Arc<Trigger>,
    principal: Principal,
}

impl LiveToken {
    /// Puts a record in force.
    #[must_use]
    pub fn new(record: TokenRecord) -> Self {
        Self::build(record, |_| Arc::new(Trigger::default()))
    }

    /// The record that follows this one. What is open under the same hash and the same rights goes on under the new record;
    /// [`Self::superseded_by`] ends the rest once the new record is in force.
    #[must_use]
    pub fn successor(&self, record: TokenRecord) -> Self {
        let same_rights =
            !record.is_disabled() && record.scopes() == self.record.scopes() && record.tenant() == self.record.tenant();
        Self::build(record, |hash| {
            // A trigger that has fired stays fired: a token that comes back (a later expiry, say) needs a new one.
            let keeps = |c: &&Credential| same_rights && c.hash.digest() == hash.digest() && c.trigger.signal().get().is_none();
            self.credentials.iter().find(keeps).map_or_else(|| Arc::new(Trigger::default()), |c| Arc::clone(&c.trigger))
        })
    }

    /// Ends what is open under this record and does not go on under `next`.
    pub fn superseded_by(&self, next: &Self) {
        for credential in &self.credentials {
            if !next.credentials.iter().any(|c| Arc::ptr_eq(&c.trigger, &credential.trigger)) {
                credential.trigger.fire(CloseReason::Revoked);
            }
        }
    }

    fn build(record: TokenRecord, trigger: impl Fn(&TokenHash) -> Arc<Trigger>) -> Self {
        let credential = |hash: &TokenHash| {
            let trigger = trigger(hash);
            let principal = Principal::new(Arc::clone(record.id()))
                .with_revocation(trigger.signal())
                .with_scopes(Arc::clone(record.scopes()))
                .with_quota(record.quota().cloned())
                .with_tenant(record.tenant().cloned());
            Credential { hash: hash.clone(), trigger, principal }
        };
        let credentials = record.hashes().iter().map(credential).collect();
        Self { record, credentials }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &TokenRecord {
        &self.record
    }

    /// Ends whatever is open under this token.
    pub fn revoke(&self) {
        for credential in &self.credentials {
            credential.trigger.fire(CloseReason::Revoked);
        }
    }

    /// Ends what is open under hashes whose time is over.
    pub fn revoke_expired(&self, now: SystemTime) {
        let over = |end: Option<SystemTime>| end.is_some_and(|end| now >= end);
        for credential in &self.credentials {
            if over(self.record.expiry()) || over(credential.hash.ends()) {
                credential.trigger.fire(CloseReason::Revoked);
            }
        }
    }

    /// Compares every hash, in constant time and whichever matches, so that the time taken does not say which.
    fn principal(&self, digest: &TokenDigest, now: SystemTime) -> Result<&Principal, TokenFault> {
        let mut found = None;
        for credential in &self.credentials {
            if credential.hash.digest() == digest {
                found = Some(credential);
            }
        }
        let credential = found.ok_or(TokenFault::Unknown)?;
        if self.record.is_disabled() {
            return Err(TokenFault::Disabled);
        }
        if credential.hash.begins().is_some_and(|at| now < at) {
            return Err(TokenFault::NotYetValid);
        }
        let ends = [self.record.expiry(), credential.hash.ends()];
        if ends.into_iter().flatten().any(|at| now >= at) {
            return Err(TokenFault::Expired);
        }
        Ok(&credential.principal)
    }
}

/// The stand-in that is compared where a store has found nothing.
static DUMMY: LazyLock<LiveToken> = LazyLock::new(|| {
    let hash = TokenHash::new(TokenDigest::from_bytes([0xA5; 32]));
    LiveToken::new(
        TokenRecord::new("dummy").and_then(|r| r.with_hash(hash)).unwrap_or_else(|_| unreachable!("a constant record")),
    )
});

/// Whether what a store has found lets this digest in at `now`.
///
/// # Errors
/// The fault, for the audit record only.
pub fn verify<'a>(found: Option<&'a LiveToken>, digest: &TokenDigest, now: SystemTime) -> Result<&'a Principal, TokenFault> {
    match found {
        Some(token) => token.principal(digest, now),
        None => DUMMY.principal(digest, now).and(Err(TokenFault::Unknown)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tokens::{TokenHasher, TokenScopes};

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn hash(text: &str) -> TokenHash {
        TokenHasher::plain().weak(text).unwrap()
    }

    fn digest(text: &str) -> TokenDigest {
        TokenHasher::plain().digest(text.as_bytes())
    }

    fn renew(token: &LiveToken, record: TokenRecord) -> LiveToken {
        let next = token.successor(record);
        token.superseded_by(&next);
        next
    }

    fn fired(token: &LiveToken, index: usize) -> bool {
        token.credentials[index].principal.revoked().unwrap().get().is_some()
    }

    #[test]
    fn windows_end_strictly_before_their_deadline() {
        let record = TokenRecord::new("ci").unwrap();
        let record = record.with_hash(hash("old").not_after(at(100))).unwrap();
        let token = LiveToken::new(record.with_hash(hash("new").not_before(at(50))).unwrap().expires(at(200)));
        let ask = |text, secs| verify(Some(&token), &digest(text), at(secs)).map(|p| p.id().to_string());
        assert_eq!(ask("old", 99), Ok("ci".into()));
        assert_eq!(ask("old", 100), Err(TokenFault::Expired));
        assert_eq!(ask("new", 49), Err(TokenFault::NotYetValid));
        assert_eq!(ask("new", 50), Ok("ci".into()));
        assert_eq!(ask("new", 200), Err(TokenFault::Expired));
        assert_eq!(ask("other", 60), Err(TokenFault::Unknown));
        assert_eq!(verify(None, &digest("old"), at(60)).unwrap_err(), TokenFault::Unknown);
        assert_eq!(verify(None, &TokenDigest::from_bytes([0xA5; 32]), at(60)).unwrap_err(), TokenFault::Unknown);
    }

    #[test]
    fn a_rotation_ends_only_what_was_opened_with_the_old_hash() {
        let base = || TokenRecord::new("ci").unwrap();
        let first = LiveToken::new(base().with_hash(hash("old")).unwrap());
        let both = renew(&first, base().with_hash(hash("old")).unwrap().with_hash(hash("new")).unwrap());
        assert!(!fired(&first, 0) && !fired(&both, 0) && !fired(&both, 1));
        let last = renew(&both, base().with_hash(hash("new")).unwrap());
        assert!(fired(&first, 0) && fired(&both, 0));
        assert!(!fired(&both, 1) && !fired(&last, 0));
    }

    #[test]
    fn disabling_narrowing_and_expiry_revoke_but_a_new_quota_does_not() {
        let base = || TokenRecord::new("ci").unwrap().with_hash(hash("t")).unwrap();
        let token = LiveToken::new(base());
        let quota = renew(&token, base().with_quota("1/s"));
        assert!(!fired(&token, 0));
        let narrowed = renew(&quota, base().with_scopes(TokenScopes::new().targets(["a.example"]).unwrap()));
        assert!(fired(&token, 0) && fired(&quota, 0) && !fired(&narrowed, 0));

        let token = LiveToken::new(base());
        let off = renew(&token, base().disabled(true));
        assert!(fired(&token, 0));
        assert_eq!(verify(Some(&off), &digest("t"), at(1)).unwrap_err(), TokenFault::Disabled);
        let on = renew(&off, base());
        assert!(!fired(&on, 0));

        let token = LiveToken::new(base().expires(at(10)));
        token.revoke_expired(at(9));
        assert!(!fired(&token, 0));
        token.revoke_expired(at(10));
        assert!(fired(&token, 0));
        let longer = renew(&token, base().expires(at(20)));
        assert!(!fired(&longer, 0), "a token that comes back is not revoked");
    }
}
