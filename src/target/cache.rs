//! Bounded memories of what was parsed before: most requests name an authority that was named before, and IDNA is the slow part of a
//! parse; and most of those name one and the same URL again and again.

use std::{
    cell::RefCell,
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use bytes::{Buf as _, Bytes};
use http::uri::PathAndQuery;

use crate::net::{Origin, Scheme, Target, TargetError, TargetStyle, parse_origin};

/// How many origins are remembered. A newer one takes the slot of an older one with the same hash.
const SLOTS: usize = 1024;
/// Longer authorities are parsed each time, so that the memory stays below half a megabyte.
const MAX_AUTHORITY: usize = 128;

/// How many whole targets a thread remembers.
const LATEST_SLOTS: usize = 64;
/// Longer URLs are parsed each time.
const MAX_LATEST: usize = 256;

thread_local! {
    /// Of each thread its own: threads that counted the clones of one target would take the memory of that count from each other.
    static LATEST: RefCell<Vec<Latest>> = const { RefCell::new(Vec::new()) };
}

/// A URL that was asked for at least twice in a row, as far as this slot can tell, and what it parses to.
#[derive(Default)]
struct Latest {
    /// The hash of what was not found here last.
    missed: u64,
    kept: Option<(Box<str>, Target)>,
}

/// What the memory of this thread says about a URL.
enum Known {
    Target(Target),
    /// It would be worth its place.
    Again,
    New,
}

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
        self.remembered(raw, TargetStyle::default(), || self.parse_copy(raw))
    }

    /// [`Self::parse`] of the end of a request's own path, noted as named in `style`. The target's path shares the memory of the
    /// request's, unless the whole target is remembered.
    pub(super) fn parse_end_of(&self, whole: &PathAndQuery, raw: &str, style: TargetStyle) -> Result<Target, TargetError> {
        debug_assert!(whole.as_str().ends_with(raw));
        let share = |path: &str| {
            let mut bytes = Bytes::from_owner(Whole(whole.clone()));
            bytes.advance(bytes.len().saturating_sub(path.len()));
            bytes
        };
        self.remembered(raw, style, || Target::parse_with(raw, share, |scheme, authority| self.origin(scheme, authority)))
    }

    fn parse_copy(&self, raw: &str) -> Result<Target, TargetError> {
        let copy = |path: &str| Bytes::copy_from_slice(path.as_bytes());
        Target::parse_with(raw, copy, |scheme, authority| self.origin(scheme, authority))
    }

    /// What this thread remembers of the URL, or else what `parse` says.
    #[inline]
    fn remembered(
        &self,
        raw: &str,
        style: TargetStyle,
        parse: impl FnOnce() -> Result<Target, TargetError>,
    ) -> Result<Target, TargetError> {
        let hash = self.hash(raw);
        match latest(hash, raw, style) {
            Known::Target(target) => Ok(target),
            Known::Again => {
                let target = self.parse_copy(raw)?.with_style(style);
                keep(hash, raw, &target);
                Ok(target)
            }
            Known::New => Ok(parse()?.with_style(style)),
        }
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
    /// Short rather than strong: the text is compared in full, and a slot that somebody else takes costs a parse.
    fn hash(&self, text: &str) -> u64 {
        let mix = |hash: u64, word: u64| {
            let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ (hash >> 32)
        };
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        let hash = words.iter().fold(self.key, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        mix(hash, rest.iter().fold(1, |word, b| word << 8 | u64::from(*b)))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lowest digits are as good as any")]
fn slot_of(hash: u64) -> usize {
    hash as usize % LATEST_SLOTS
}

/// Looks a URL up, and notes that it was asked for.
fn latest(hash: u64, raw: &str, style: TargetStyle) -> Known {
    let look = |memory: &RefCell<Vec<Latest>>| {
        let Ok(mut slots) = memory.try_borrow_mut() else { return Known::New };
        let Some(slot) = slots.get_mut(slot_of(hash)) else {
            slots.resize_with(LATEST_SLOTS, Latest::default);
            return Known::New;
        };
        if let Some((url, target)) = &slot.kept
            && **url == *raw
            && target.style() == style
        {
            return Known::Target(target.clone());
        }
        let again = slot.missed == hash;
        slot.missed = hash;
        // A query is often made for one request, and carries secrets more often than one thinks.
        if again && raw.len() <= MAX_LATEST && !raw.contains('?') { Known::Again } else { Known::New }
    };
    LATEST.try_with(look).unwrap_or(Known::New)
}

fn keep(hash: u64, raw: &str, target: &Target) {
    let _ = LATEST.try_with(|memory| {
        if let Ok(mut slots) = memory.try_borrow_mut()
            && let Some(slot) = slots.get_mut(slot_of(hash))
        {
            slot.kept = Some((raw.into(), target.clone()));
        }
    });
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
        for path in
            ["/p/http://a.example/x?y", "/p/http://a.example", "/p/http://a.example?y", "/p/http:/a.example/%20\\", "/p/ftp:x"]
        {
            let whole = PathAndQuery::try_from(path).unwrap();
            let raw = path.strip_prefix("/p/").unwrap();
            for style in [TargetStyle::Header, TargetStyle::Path].repeat(4) {
                assert_eq!(parser.parse_end_of(&whole, raw, style), Target::parse(raw).map(|t| t.with_style(style)));
            }
        }
        let whole = PathAndQuery::from_static("/p/http://a.example/x");
        let [.., a, b] = [(); 5].map(|()| parser.parse_end_of(&whole, "http://a.example/x", TargetStyle::Path).unwrap());
        assert!(std::ptr::eq(a.path_and_query(), b.path_and_query()), "what is asked for again is remembered whole");
        let (a, b) = (parser.parse("http://a.example/1").unwrap(), parser.parse("http://a.example/2").unwrap());
        assert!(Arc::ptr_eq(a.origin(), b.origin()));
    }
}
