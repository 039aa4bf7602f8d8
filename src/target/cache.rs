//! A bounded memory of parsed authorities: most requests name one that was named before, and IDNA is the slow part of a parse.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use bytes::{Buf as _, Bytes};
use http::uri::PathAndQuery;

use crate::net::{Origin, Scheme, Target, TargetError, parse_origin};

/// How many origins are remembered. A newer one takes the slot of an older one with the same hash.
const SLOTS: usize = 1024;
/// Longer authorities are parsed each time, so that the memory stays below half a megabyte.
const MAX_AUTHORITY: usize = 128;

struct Entry {
    scheme: Scheme,
    authority: Box<str>,
    origin: Arc<Origin>,
}

/// Parses targets, remembering origins. The result is the same as that of [`Target::parse`], always.
pub struct TargetParser {
    slots: Box<[ArcSwapOption<Entry>]>,
    /// Of this parser alone, so that nobody outside knows which authorities share a slot.
    key: u64,
}

impl Default for TargetParser {
    fn default() -> Self {
        Self::new()
    }
}

impl TargetParser {
    /// A parser with an empty memory.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| ArcSwapOption::empty()).collect(), key: RandomState::new().hash_one(SLOTS) }
    }

    /// [`Target::parse`].
    ///
    /// # Errors
    /// As there.
    pub fn parse(&self, raw: &str) -> Result<Target, TargetError> {
        Target::parse_with(
            raw,
            |path| Bytes::copy_from_slice(path.as_bytes()),
            |scheme, authority| self.origin(scheme, authority),
        )
    }

    /// [`Self::parse`] of the end of a request's own path, whose memory the target's path then shares.
    pub(super) fn parse_end_of(&self, whole: &PathAndQuery, raw: &str) -> Result<Target, TargetError> {
        debug_assert!(whole.as_str().ends_with(raw));
        let share = |path: &str| {
            let mut bytes = Bytes::from_owner(Whole(whole.clone()));
            bytes.advance(bytes.len().saturating_sub(path.len()));
            bytes
        };
        Target::parse_with(raw, share, |scheme, authority| self.origin(scheme, authority))
    }

    /// [`Target::parse_connect`].
    ///
    /// # Errors
    /// As there.
    pub fn parse_connect(&self, raw: &str) -> Result<Target, TargetError> {
        Target::parse_connect_with(raw, |authority| self.origin(Scheme::Connect, authority))
    }

    /// The key is the text as written; what is remembered is what that text parses to, so that a hit cannot differ from a parse.
    fn origin(&self, scheme: Scheme, authority: &str) -> Result<Arc<Origin>, TargetError> {
        let slot = usize::try_from(self.hash(authority) % SLOTS as u64).ok().and_then(|at| self.slots.get(at));
        let Some(slot) = slot.filter(|_| authority.len() <= MAX_AUTHORITY) else {
            return parse_origin(scheme, authority).map(Arc::new);
        };
        if let Some(entry) = &*slot.load()
            && entry.scheme == scheme
            && *entry.authority == *authority
        {
            return Ok(Arc::clone(&entry.origin));
        }
        let origin = Arc::new(parse_origin(scheme, authority)?);
        slot.store(Some(Arc::new(Entry { scheme, authority: authority.into(), origin: Arc::clone(&origin) })));
        Ok(origin)
    }
}

impl TargetParser {
    /// Short rather than strong: the authority is compared in full, and a slot that somebody else takes costs a parse.
    fn hash(&self, authority: &str) -> u64 {
        let mix = |hash: u64, word: u64| {
            let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ (hash >> 32)
        };
        let (words, rest) = authority.as_bytes().as_chunks::<8>();
        let hash = words.iter().fold(self.key, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        mix(hash, rest.iter().fold(1, |word, b| word << 8 | u64::from(*b)))
    }
}

/// The memory of a request's path.
struct Whole(PathAndQuery);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

impl fmt::Debug for TargetParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetParser").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_equals_a_parse() {
        let parser = TargetParser::new();
        for _ in 0..2 {
            for url in [
                "http://EXAMPLE.com./a",
                "https://EXAMPLE.com./a",
                "http://127.1:81/",
                "http://[::1]/?x",
                "ws://example.com:443/",
            ] {
                assert_eq!(parser.parse(url), Target::parse(url));
            }
            assert_eq!(parser.parse_connect("example.com:443"), Target::parse_connect("example.com:443"));
            assert_eq!(parser.parse_connect("example.com"), Err(TargetError::Port));
            assert_eq!(parser.parse("http://u@example.com/"), Err(TargetError::Userinfo));
        }
        for path in ["/p/http://a.example/x?y", "/p/http://a.example", "/p/http://a.example?y", "/p/http:/a.example/%20\\"] {
            let whole = PathAndQuery::try_from(path).unwrap();
            let raw = path.strip_prefix("/p/").unwrap();
            assert_eq!(parser.parse_end_of(&whole, raw), Target::parse(raw));
        }
        let (a, b) = (parser.parse("http://a.example/1").unwrap(), parser.parse("http://a.example/2").unwrap());
        assert!(Arc::ptr_eq(a.origin(), b.origin()));
    }
}
