//! The table in memory.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;

use super::{LiveToken, Lookup, TokenDigest, TokenHasher, TokenRecord, TokenStore};
use crate::ConfigError;

/// Tokens in memory, replaced in place: the next request sees the new table, and what is open under a token that is gone ends.
pub struct StaticTokens {
    hasher: TokenHasher,
    table: ArcSwap<Table>,
    writing: Mutex<()>,
}

#[derive(Default)]
struct Table {
    by_digest: HashMap<TokenDigest, Arc<LiveToken>, Folding>,
    by_id: HashMap<Arc<str>, Arc<LiveToken>>,
    all: Vec<Arc<LiveToken>>,
}

/// Digests are random already: one multiplication by a number that nobody knows keeps a table's places to itself.
#[derive(Clone, Copy)]
struct Folding {
    key: u64,
    state: u64,
}

impl Default for Folding {
    fn default() -> Self {
        Self { key: RandomState::new().hash_one(0_u8) | 1, state: 0 }
    }
}

impl BuildHasher for Folding {
    type Hasher = Self;

    #[inline]
    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Folding {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let first = bytes.first_chunk::<8>().copied().map_or(0, u64::from_ne_bytes);
        let wide = u128::from(self.state ^ first) * u128::from(self.key);
        let [low, high] = [wide, wide >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default());
        self.state = low ^ high;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

impl StaticTokens {
    /// A table of records whose hashes `hasher` has made.
    ///
    /// # Errors
    /// If two records share an id or a hash.
    pub fn new(hasher: TokenHasher, records: impl IntoIterator<Item = TokenRecord>) -> Result<Self, ConfigError> {
        let tokens = Self { hasher, table: ArcSwap::default(), writing: Mutex::default() };
        tokens.replace(records)?;
        Ok(tokens)
    }

    /// Puts other records in force, at once. What is open under a token that is gone, disabled or narrowed is revoked.
    ///
    /// # Errors
    /// If two records share an id or a hash; the table then stays as it is and nothing is revoked.
    pub fn replace(&self, records: impl IntoIterator<Item = TokenRecord>) -> Result<(), ConfigError> {
        let records: Vec<TokenRecord> = records.into_iter().collect();
        check(&records)?;
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load_full();
        let mut next = Table::default();
        for record in records {
            let id = Arc::clone(record.id());
            let token = Arc::new(match old.by_id.get(&id) {
                Some(before) => before.successor(record),
                None => LiveToken::new(record),
            });
            for hash in token.record().hashes() {
                next.by_digest.insert(*hash.digest(), Arc::clone(&token));
            }
            next.all.push(Arc::clone(&token));
            next.by_id.insert(id, token);
        }
        let next = Arc::new(next);
        self.table.store(Arc::clone(&next));
        // After the swap: a tunnel that closes and comes back at once must not find its token again.
        for (id, token) in &old.by_id {
            match next.by_id.get(id) {
                Some(after) => token.superseded_by(after),
                None => token.revoke(),
            }
        }
        Ok(())
    }

    /// Ends what is open under tokens whose time is over; to be called now and then.
    pub fn revoke_expired(&self, now: SystemTime) {
        for token in self.table.load().by_id.values() {
            token.revoke_expired(now);
        }
    }

    /// A token by its public id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<LiveToken>> {
        self.table.load().by_id.get(id).cloned()
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.load().by_id.len()
    }

    /// Whether there is no token: nobody comes in then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn check(records: &[TokenRecord]) -> Result<(), ConfigError> {
    let (mut ids, mut digests) = (HashSet::new(), HashSet::new());
    for record in records {
        if !ids.insert(record.id()) {
            return Err(ConfigError::new(&**record.id(), "two tokens have this id"));
        }
        if !record.hashes().iter().all(|h| digests.insert(h.digest())) {
            return Err(ConfigError::new(&**record.id(), "this token's hash is there twice"));
        }
    }
    Ok(())
}

impl TokenStore for StaticTokens {
    #[inline]
    fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>> {
        let table = self.table.load();
        let found = table.by_digest.get(digest).cloned();
        if found.is_none() {
            // The same work as for a digest that is there, on a token that the digest itself picks: also the memory that is
            // touched is then as cold, and the time says nothing.
            let [a, b, c, d, ..] = *digest.as_bytes();
            let pick = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or_default().checked_rem(table.all.len());
            let dummy = pick.and_then(|i| table.all.get(i)).cloned();
            let fits = dummy.as_ref().is_some_and(|t| t.record().hashes().iter().any(|h| h.digest() == digest));
            black_box((dummy, fits));
        }
        Lookup::Ready(Ok(found))
    }

    fn hasher(&self) -> &TokenHasher {
        &self.hasher
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticTokens").field("tokens", &self.len()).field("hasher", &self.hasher).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a-token-of-more-than-32-characters-a";
    const B: &str = "a-token-of-more-than-32-characters-b";

    fn record(id: &str, token: &str) -> TokenRecord {
        TokenRecord::new(id).unwrap().with_hash(TokenHasher::plain().hash(token).unwrap()).unwrap()
    }

    fn find(tokens: &StaticTokens, text: &str) -> Option<Arc<str>> {
        let Lookup::Ready(Ok(found)) = tokens.lookup(&tokens.hasher().digest(text.as_bytes())) else { unreachable!() };
        found.map(|t| Arc::clone(t.record().id()))
    }

    #[test]
    fn a_replaced_table_holds_at_once_and_what_is_gone_is_revoked() {
        let tokens = StaticTokens::new(TokenHasher::plain(), [record("a", A), record("b", B)]).unwrap();
        assert_eq!((find(&tokens, A).as_deref(), find(&tokens, B).as_deref()), (Some("a"), Some("b")));
        let (a, b) = (tokens.get("a").unwrap(), tokens.get("b").unwrap());
        let signal = |t: &LiveToken, text: &str| {
            let digest = TokenHasher::plain().digest(text.as_bytes());
            crate::tokens::verify(Some(t), &digest, SystemTime::UNIX_EPOCH).unwrap().revoked().unwrap().clone()
        };
        let (on_a, on_b) = (signal(&a, A), signal(&b, B));
        tokens.replace([record("b", B)]).unwrap();
        assert_eq!((find(&tokens, A), find(&tokens, B).as_deref()), (None, Some("b")));
        assert!(on_a.get().is_some() && on_b.get().is_none());
    }

    #[test]
    fn a_bad_table_changes_nothing() {
        let tokens = StaticTokens::new(TokenHasher::plain(), [record("a", A)]).unwrap();
        assert!(tokens.replace([record("x", B), record("x", "another-token-of-more-than-32-characters")]).is_err());
        assert!(tokens.replace([record("x", B), record("y", B)]).is_err());
        assert_eq!(find(&tokens, A).as_deref(), Some("a"));
    }
}
