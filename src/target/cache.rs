//! A bounded memory of parsed authorities: most requests name one that was named before, and IDNA is the slow part of a parse.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwapOption;

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
    hasher: RandomState,
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
        Self { slots: (0..SLOTS).map(|_| ArcSwapOption::empty()).collect(), hasher: RandomState::new() }
    }

    /// [`Target::parse`].
    ///
    /// # Errors
    /// As there.
    pub fn parse(&self, raw: &str) -> Result<Target, TargetError> {
        Target::parse_with(raw, |scheme, authority| self.origin(scheme, authority))
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
        let hash = self.hasher.hash_one(authority);
        let slot = usize::try_from(hash % SLOTS as u64).ok().and_then(|at| self.slots.get(at));
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
        let (a, b) = (parser.parse("http://a.example/1").unwrap(), parser.parse("http://a.example/2").unwrap());
        assert!(Arc::ptr_eq(a.origin(), b.origin()));
    }
}
