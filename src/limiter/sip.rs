//! SipHash-1-3 (Aumasson and Bernstein) over words and bytes, in one pass without the buffer that `std`'s streaming hasher needs.

use std::hash::{BuildHasher as _, RandomState};

/// A hash function that nobody outside can predict.
#[derive(Clone, Copy)]
pub(crate) struct SipKey(u64, u64);

/// A hash under way. Bytes of one part are padded with their length, so parts cannot run into each other.
#[derive(Clone, Copy)]
pub(crate) struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipKey {
    /// Keyed by the process's random source.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        Self(random.hash_one(0u8), random.hash_one(1u8))
    }

    #[cfg(test)]
    pub(super) fn fixed() -> Self {
        Self(1, 2)
    }

    #[inline]
    pub(crate) fn start(self) -> Sip {
        let Self(k0, k1) = self;
        Sip {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }
}

impl Sip {
    #[inline]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32).wrapping_add(self.v3);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline]
    pub(crate) fn word(mut self, word: u64) -> Self {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
        self
    }

    #[inline]
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self = self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        // The top byte is free: a rest has at most seven.
        self.word(u64::from_le_bytes(last) | (bytes.len() as u64) << 56)
    }

    #[inline]
    pub(crate) fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vectors of the reference implementation's list for SipHash-1-3: the bytes 0..n under the key 0..16.
    #[test]
    fn is_siphash_1_3() {
        let key = SipKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let data: Vec<u8> = (0..64).collect();
        assert_eq!(key.start().bytes(&[]).finish(), 0xabac_0158_050f_c4dc);
        assert_eq!(key.start().bytes(&data[..1]).finish(), 0xc9f4_9bf3_7d57_ca93);
    }

    #[test]
    fn every_length_and_key_differs() {
        let zero = [0u8; 64];
        let one = SipKey(1, 2);
        let mut seen: Vec<u64> = (0..64).map(|n| one.start().bytes(&zero[..n]).finish()).collect();
        seen.push(SipKey(2, 1).start().bytes(&[]).finish());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 65);
        assert_ne!(SipKey::random().start().finish(), SipKey::random().start().finish());
    }
}
