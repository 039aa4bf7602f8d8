//! What is kept of a token: a digest, never the token.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Checksum, MIN_TOKEN_LEN, TokenHash, checksum};
use crate::ConfigError;

/// SHA-256 or HMAC-SHA-256 of a token. Compared in constant time; not shown by `Debug`.
#[derive(Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// If it is something else. The error does not repeat the text: it may be a token that was pasted into the wrong place.
    pub fn from_hex(text: &str) -> Result<Self, ConfigError> {
        let fail = || ConfigError::new("sha256", "not 64 hexadecimal digits");
        if text.len() != 64 {
            return Err(fail());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |i: usize| pair.get(i).and_then(|b| char::from(*b).to_digit(16));
            let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(fail()) };
            *byte = u8::try_from(high * 16 + low).map_err(|_| fail())?;
        }
        Ok(Self(bytes))
    }

    /// A digest that another store has computed.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits, as records hold them.
    #[must_use]
    pub fn to_hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut out, b| {
            let _ = write!(out, "{b:02x}");
            out
        })
    }
}

/// Constant time: every word is looked at, and the judgment falls once, at the end.
impl PartialEq for TokenDigest {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let words = self.0.as_chunks::<8>().0.iter().zip(other.0.as_chunks::<8>().0);
        let differing = words.fold(0, |bits, (a, b)| bits | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b)));
        differing.ct_eq(&0).into()
    }
}

impl Eq for TokenDigest {}

impl Hash for TokenDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// Turns tokens into digests: plain SHA-256, or HMAC-SHA-256 under a pepper.
#[derive(Clone, Default)]
pub struct TokenHasher {
    pepper: Option<Hmac<Sha256>>,
}

impl TokenHasher {
    /// SHA-256.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// HMAC-SHA-256: a copy of the records alone is then not enough to try guesses on.
    ///
    /// # Errors
    /// If the pepper is shorter than 16 bytes.
    pub fn peppered(pepper: &[u8]) -> Result<Self, ConfigError> {
        if pepper.len() < 16 {
            return Err(ConfigError::new("pepper", "shorter than 16 bytes"));
        }
        let mac = Hmac::new_from_slice(pepper).map_err(|_| ConfigError::new("pepper", "not usable as a key"))?;
        Ok(Self { pepper: Some(mac) })
    }

    /// The digest of a token as it came in.
    #[must_use]
    pub fn digest(&self, token: &[u8]) -> TokenDigest {
        TokenDigest(match &self.pepper {
            None => Sha256::digest(token).into(),
            Some(mac) => mac.clone().chain_update(token).finalize().into_bytes().into(),
        })
    }

    /// The hash to keep of a token that the operator has chosen or generated.
    ///
    /// # Errors
    /// If it is shorter than [`MIN_TOKEN_LEN`], is not visible ASCII (no header could carry it), or is a generated token with a
    /// wrong check sum.
    pub fn hash(&self, token: &str) -> Result<TokenHash, ConfigError> {
        if token.len() < MIN_TOKEN_LEN {
            return Err(ConfigError::new("token", "shorter than 32 characters, so it could be guessed"));
        }
        self.weak(token)
    }

    /// The same without the least length. For tokens that exist already and cannot be changed.
    ///
    /// # Errors
    /// As [`Self::hash`], and if the token is empty.
    pub fn weak(&self, token: &str) -> Result<TokenHash, ConfigError> {
        if token.is_empty() || token.len() > super::format::MAX_TOKEN_LEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::new("token", "not 1 to 512 visible ASCII characters"));
        }
        if checksum(token.as_bytes()) == Checksum::Wrong {
            return Err(ConfigError::new("token", "a generated token with a wrong check sum"));
        }
        Ok(TokenHash::new(self.digest(token.as_bytes())))
    }
}

impl fmt::Debug for TokenHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenHasher").field("peppered", &self.pepper.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_what_sha256sum_and_openssl_print() {
        // printf abc | sha256sum; printf abc | openssl dgst -sha256 -hmac 0123456789abcdef
        let plain = TokenHasher::plain().digest(b"abc");
        assert_eq!(plain.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(TokenDigest::from_hex(&plain.to_hex().to_uppercase()).unwrap() == plain);
        let peppered = TokenHasher::peppered(b"0123456789abcdef").unwrap().digest(b"abc");
        assert!(peppered != plain);
        assert_eq!(peppered.to_hex(), "bcaa92843247bc258080d2824bddeba4afb1bd61b4688ca65f60a214e1d9759e");
        assert!(TokenHasher::peppered(b"short").is_err());
    }

    #[test]
    fn short_tokens_load_only_by_name() {
        let hasher = TokenHasher::plain();
        assert!(hasher.hash("hunter2").is_err() && hasher.weak("hunter2").is_ok());
        assert!(hasher.hash(&"x".repeat(32)).is_ok() && hasher.hash(&"x".repeat(31)).is_err());
        assert!(hasher.weak("with space").is_err() && hasher.weak("").is_err() && hasher.weak("ü").is_err());
    }

    #[test]
    fn every_bit_makes_a_difference() {
        let one = TokenHasher::plain().digest(b"abc");
        for bit in 0..256 {
            let mut bytes = *one.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(TokenDigest::from_bytes(bytes) != one, "bit {bit}");
        }
        assert!(TokenDigest::from_bytes(*one.as_bytes()) == one);
    }

    #[test]
    fn errors_and_debug_do_not_repeat_the_secret() {
        let pasted = "pasted-by-mistake-into-the-hash-field";
        assert!(!TokenDigest::from_hex(pasted).unwrap_err().to_string().contains("pasted"));
        assert!(!TokenHasher::plain().hash("hunter2").unwrap_err().to_string().contains("hunter2"));
        assert_eq!(format!("{:?}", TokenHasher::plain().digest(b"abc")), "TokenDigest(..)");
    }
}
