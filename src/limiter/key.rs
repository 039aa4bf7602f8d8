//! Whose quota it is.

use std::{fmt, net::IpAddr};

use super::sip::Sip;
use crate::net::unwrap_mapped;

/// A multiple of eight, because it is hashed in words.
const INLINE: usize = 32;

/// The key of a quota: typed parts one after another, each with its length, so that no two composites are the same bytes.
///
/// Short keys live on the stack. A client's network inside a key can become coarser (see [`Key::levels`]).
#[derive(Clone)]
pub struct Key {
    bytes: Bytes,
    /// Where the network's octets begin, and how many there are.
    net: Option<(u16, u8)>,
}

#[derive(Clone)]
enum Bytes {
    Inline { len: u8, buf: [u8; INLINE] },
    Heap(Vec<u8>),
}

const TEXT: u8 = b't';
const NUMBER: u8 = b'n';
const IPV4: u8 = b'4';
const IPV6: u8 = b'6';

impl Key {
    /// A key with no part yet: everybody's.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Bytes::Inline { len: 0, buf: [0; INLINE] }, net: None }
    }

    /// A key of one text part.
    #[must_use]
    pub fn of_str(text: &str) -> Self {
        let mut key = Self::new();
        key.push_str(text);
        key
    }

    /// A key of one client.
    #[must_use]
    #[inline]
    pub fn of_client(ip: IpAddr) -> Self {
        let mut key = Self::new();
        key.push_client(ip);
        key
    }

    /// Adds a text.
    pub fn push_str(&mut self, text: &str) -> &mut Self {
        self.push(TEXT, text.as_bytes())
    }

    /// Adds bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.push(TEXT, bytes)
    }

    /// Adds a number.
    pub fn push_u64(&mut self, number: u64) -> &mut Self {
        self.push(NUMBER, &number.to_be_bytes())
    }

    /// Adds a client: an IPv4 address, or the /64 of an IPv6 address, because one customer has at least that many addresses
    /// (RFC 6177). IPv4-mapped addresses count as IPv4.
    #[inline]
    pub fn push_client(&mut self, ip: IpAddr) -> &mut Self {
        match unwrap_mapped(ip) {
            IpAddr::V4(ip) => self.push_net(IPV4, &ip.octets()),
            IpAddr::V6(ip) => self.push_net(IPV6, ip.octets().get(..8).unwrap_or_default()),
        }
    }

    #[inline]
    fn push_net(&mut self, tag: u8, octets: &[u8]) -> &mut Self {
        self.push(tag, octets);
        let start = self.as_bytes().len() - octets.len();
        self.net = u16::try_from(start).ok().zip(u8::try_from(octets.len()).ok());
        self
    }

    #[inline]
    fn push(&mut self, tag: u8, data: &[u8]) -> &mut Self {
        let [hi, lo] = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes();
        if let Bytes::Inline { len, buf } = &mut self.bytes {
            let start = usize::from(*len);
            let room = buf.get_mut(start..start + 3 + data.len()).and_then(<[u8]>::split_first_chunk_mut::<3>);
            if let Some((head, rest)) = room {
                *head = [tag, hi, lo];
                rest.copy_from_slice(data);
                *len += 3 + lo;
                return self;
            }
        }
        self.push_heap([tag, hi, lo], data);
        self
    }

    #[cold]
    fn push_heap(&mut self, intro: [u8; 3], data: &[u8]) {
        let mut heap = match std::mem::replace(&mut self.bytes, Self::new().bytes) {
            Bytes::Heap(heap) => heap,
            Bytes::Inline { len, buf } => {
                let mut heap = Vec::with_capacity(2 * INLINE + data.len());
                heap.extend_from_slice(buf.get(..usize::from(len)).unwrap_or_default());
                heap
            }
        };
        heap.extend_from_slice(&intro);
        heap.extend_from_slice(data);
        self.bytes = Bytes::Heap(heap);
    }

    /// The key's bytes: the same on every machine.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Inline { len, buf } => buf.get(..usize::from(*len)).unwrap_or_default(),
            Bytes::Heap(heap) => heap,
        }
    }

    /// How many coarser forms the key has: two for one with a client's network (IPv6 /48 and /32, IPv4 /24 and /16), none for
    /// others.
    #[must_use]
    pub fn levels(&self) -> u8 {
        if self.net.is_some() { 2 } else { 0 }
    }

    /// The hash of the key, `level` steps coarser, under a hash that has begun. Never 0.
    #[inline]
    pub(crate) fn hash(&self, level: u8, sip: Sip) -> u64 {
        // Zeros at the end add nothing: no part begins with one, and every part says how long it is.
        let sip = match &self.bytes {
            _ if level > 0 => self.coarse(level, sip),
            Bytes::Inline { len, buf } => {
                let words = buf.as_chunks::<8>().0.iter().take(usize::from(*len).div_ceil(8));
                words.fold(sip, |sip, word| sip.word(u64::from_le_bytes(*word)))
            }
            Bytes::Heap(heap) => sip.bytes(heap),
        };
        sip.finish().max(1)
    }

    fn coarse(&self, level: u8, sip: Sip) -> Sip {
        let sip = sip.word(u64::from(level));
        let Some((start, len)) = self.net.filter(|_| level <= 2) else { return sip };
        let (bytes, start, len) = (self.as_bytes(), usize::from(start), usize::from(len));
        let kept = len - usize::from(level) * if len > 4 { 2 } else { 1 };
        sip.bytes(bytes.get(..start + kept).unwrap_or_default()).bytes(bytes.get(start + len..).unwrap_or_default())
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

/// Keys hold client addresses and token ids, never tokens; still, a dump shows only the size.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("len", &self.as_bytes().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::sip::SipKey;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn hash(key: &Key, level: u8) -> u64 {
        key.hash(level, SipKey::fixed().start())
    }

    #[test]
    fn composites_are_not_confused() {
        let two = |a: &str, b: &str| {
            let mut key = Key::of_str(a);
            key.push_str(b);
            key
        };
        assert_ne!(two("ab", "c"), two("a", "bc"));
        assert_ne!(two("a", ""), two("", "a"));
        assert_ne!(Key::of_str("abcd").as_bytes(), Key::of_client(ip("97.98.99.100")).as_bytes());
        let mut client = Key::of_client(ip("2001:db8::1"));
        client.push_str(&"x".repeat(30));
        assert_eq!((client.levels(), client.as_bytes().len()), (2, 44), "still a client's after it has moved to the heap");
        let long = two(&"x".repeat(40), &"y".repeat(300));
        assert_eq!(long, long.clone());
        assert!(long.as_bytes().ends_with(&[b'y'; 300]) && long.as_bytes().len() == 346);
    }

    #[test]
    fn clients_are_addresses_or_64_prefixes() {
        assert_eq!(Key::of_client(ip("2001:db8:1:2::1")), Key::of_client(ip("2001:db8:1:2:ffff::9")));
        assert_ne!(Key::of_client(ip("2001:db8:1:2::1")), Key::of_client(ip("2001:db8:1:3::1")));
        assert_ne!(Key::of_client(ip("192.0.2.1")), Key::of_client(ip("192.0.2.2")));
        assert_eq!(Key::of_client(ip("::ffff:192.0.2.1")), Key::of_client(ip("192.0.2.1")));
    }

    #[test]
    fn coarser_forms() {
        let key = |text: &str| {
            let mut key = Key::of_client(ip(text));
            key.push_str("tail");
            key
        };
        let (a, b, c, d) = (key("2001:db8:1:2::"), key("2001:db8:1:3::"), key("2001:db8:2:2::"), key("2001:db9:1:2::"));
        assert_eq!(a.levels(), 2);
        assert!(hash(&a, 0) != hash(&b, 0) && hash(&a, 1) == hash(&b, 1), "/48");
        assert!(hash(&a, 1) != hash(&c, 1) && hash(&a, 2) == hash(&c, 2), "/32");
        assert!(hash(&a, 2) != hash(&d, 2) && hash(&a, 1) != hash(&a, 2));
        let (a, b, c) = (key("192.0.2.1"), key("192.0.2.9"), key("192.0.7.1"));
        assert!(hash(&a, 0) != hash(&b, 0) && hash(&a, 1) == hash(&b, 1), "/24");
        assert!(hash(&a, 1) != hash(&c, 1) && hash(&a, 2) == hash(&c, 2), "/16");
        assert_eq!(Key::of_str("x").levels(), 0);
    }
}
