//! The token format `<prefix>_<id>_<secret><crc>`.

use zeroize::Zeroizing;

use crate::{ConfigError, Secret};

/// The prefix of generated tokens unless the operator chooses another.
pub const DEFAULT_PREFIX: &str = "pcl";
/// Shortest token, in characters, that loads without being forced.
pub const MIN_TOKEN_LEN: usize = 32;
/// Longest token that is looked at, in bytes.
pub(super) const MAX_TOKEN_LEN: usize = 512;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LEN: usize = 8;
/// 32 bytes in Base62: 62^43 > 2^256.
const SECRET_LEN: usize = 43;
/// 62^6 > 2^32.
const CRC_LEN: usize = 6;

/// A new token: the secret to hand over once, and its public id.
#[derive(Debug)]
#[non_exhaustive]
pub struct GeneratedToken {
    /// The eight characters of id inside the token; they may be shown.
    pub id: Box<str>,
    /// The whole token.
    pub secret: Secret,
}

/// Makes a token `<prefix>_<id>_<secret><crc>` from the system's random source.
///
/// # Errors
/// If the prefix is not 2 to 16 lower-case letters and digits that begin with a letter, or if the system has no randomness.
pub fn generate(prefix: &str) -> Result<GeneratedToken, ConfigError> {
    let starts_with_letter = prefix.starts_with(|c: char| c.is_ascii_lowercase());
    let plain = prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !(2..=16).contains(&prefix.len()) || !starts_with_letter || !plain {
        return Err(ConfigError::new(prefix, "a token prefix is 2 to 16 lower-case letters and digits, a letter first"));
    }
    let mut random = Zeroizing::new([0_u8; 32 + ID_LEN]);
    getrandom::fill(random.as_mut()).map_err(|_| ConfigError::new("token", "the system's random source failed"))?;
    let (secret, id) = random.split_at(32);
    let id = base62(id, ID_LEN);
    let mut text = Zeroizing::new(format!("{prefix}_{}_{}", id.as_str(), base62(secret, SECRET_LEN).as_str()));
    let crc = crc_digits(crc32(text.as_bytes()));
    text.extend(crc.map(char::from));
    Ok(GeneratedToken { id: id.as_str().into(), secret: Secret::new(text.as_str()) })
}

/// What the check sum of a string says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// It has the form of a generated token and the check sum is right.
    Right,
    /// It has the form, but nobody has generated it: not worth a look-up.
    Wrong,
    /// It has another form: a token of the operator's own making.
    Absent,
}

/// Looks at the form and the check sum of a string that is offered as a token. The answer depends on nothing secret.
#[must_use]
pub(crate) fn checksum(token: &[u8]) -> Checksum {
    // From the end: only the prefix has no length of its own.
    let tail_at = token.len().checked_sub(SECRET_LEN + CRC_LEN);
    let Some((head, tail)) = tail_at.and_then(|at| token.split_at_checked(at)) else { return Checksum::Absent };
    let parts = head.strip_suffix(b"_").and_then(|head| head.split_at_checked(head.len().checked_sub(ID_LEN)?));
    let Some((head, id)) = parts else { return Checksum::Absent };
    let fits = head.strip_suffix(b"_").is_some_and(|prefix| {
        (2..=16).contains(&prefix.len())
            && prefix.first().is_some_and(u8::is_ascii_lowercase)
            && prefix.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    if !fits || !id.iter().chain(tail).all(u8::is_ascii_alphanumeric) {
        return Checksum::Absent;
    }
    let (body, crc) = token.split_at(token.len() - CRC_LEN);
    if crc_digits(crc32(body)) == crc { Checksum::Right } else { Checksum::Wrong }
}

/// The check sum as it is written. It is no secret, and it is looked at on every request: no wiped buffers for it.
fn crc_digits(mut crc: u32) -> [u8; CRC_LEN] {
    let mut digits = [b'0'; CRC_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = usize::try_from(crc % 62).ok().and_then(|i| ALPHABET.get(i)).copied().unwrap_or(b'0');
        crc /= 62;
    }
    digits
}

/// The number in `bytes` (big-endian) modulo 62^`len`, in `len` digits.
fn base62(bytes: &[u8], len: usize) -> Zeroizing<String> {
    let mut number = Zeroizing::new([0_u8; 32]);
    let width = bytes.len().min(32);
    for (to, from) in number.iter_mut().zip(bytes) {
        *to = *from;
    }
    let mut digits = Zeroizing::new(vec![b'0'; len]);
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in number.iter_mut().take(width) {
            let value = rest << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            rest = value % 62;
        }
        *digit = usize::try_from(rest).ok().and_then(|i| ALPHABET.get(i)).copied().unwrap_or(b'0');
    }
    Zeroizing::new(digits.iter().map(|b| char::from(*b)).collect())
}

/// CRC-32 as in zlib (IEEE 802.3, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let index = usize::from(crc.to_le_bytes()[0] ^ byte);
        crc >> 8 ^ CRC_TABLE.get(index).copied().unwrap_or_default()
    };
    !bytes.iter().fold(!0, step)
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0_u32;
    while i < 256 {
        let mut crc = i;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[i as usize] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn base62_counts_in_order() {
        assert_eq!(base62(&61_u32.to_be_bytes(), 6).as_str(), "00000z");
        assert_eq!(base62(&62_u32.to_be_bytes(), 6).as_str(), "000010");
        assert_eq!(base62(&[0xFF; 32], SECRET_LEN).len(), 43);
        for crc in [0, 61, 62, 12_345, u32::MAX] {
            assert_eq!(base62(&crc.to_be_bytes(), CRC_LEN).as_bytes(), crc_digits(crc));
        }
        // 2^256 - 1 still fits into 43 digits: the first one is not the largest.
        assert!(base62(&[0xFF; 32], SECRET_LEN).as_bytes()[0] < b'z');
    }

    #[test]
    fn a_generated_token_has_the_form_and_no_other_character_may_change() {
        let token = generate(DEFAULT_PREFIX).unwrap();
        let text = token.secret.expose();
        assert!(text.starts_with("pcl_") && text.contains(&*token.id) && text.len() == 3 + 1 + 8 + 1 + 43 + 6);
        assert_eq!(checksum(text.as_bytes()), Checksum::Right);
        for i in 4..text.len() {
            let mut other = text.as_bytes().to_vec();
            if other[i] == b'_' {
                continue;
            }
            other[i] = if other[i] == b'x' { b'y' } else { b'x' };
            assert_eq!(checksum(&other), Checksum::Wrong, "position {i}");
        }
        assert_ne!(text, generate(DEFAULT_PREFIX).unwrap().secret.expose());
        assert!(!format!("{token:?}").contains(text));
    }

    #[test]
    fn other_strings_are_the_operators() {
        for text in ["", "hunter2", "a_b_c", "ghp_abc_def", &"x".repeat(64), "pcl__", "__"] {
            assert_eq!(checksum(text.as_bytes()), Checksum::Absent, "{text}");
        }
        // The form, with a prefix that is none.
        let made = generate("ab").unwrap();
        for (from, to) in [("ab_", "_"), ("ab_", "a_"), ("ab_", "Ab_"), ("ab_", "a_b_"), ("ab_", "abcdefghijklmnopq_")] {
            let text = made.secret.expose().replacen(from, to, 1);
            assert_eq!(checksum(text.as_bytes()), Checksum::Absent, "{to}");
        }
        for prefix in ["", "p", "Pcl", "1ab", "with_underscore", "much-too-long-for-it"] {
            assert!(generate(prefix).is_err(), "{prefix}");
        }
    }
}
