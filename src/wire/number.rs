//! Numbers in digits.

/// The two digits of a number below 100.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "digits are small")]
pub(crate) fn pair(n: u32) -> [u8; 2] {
    // A multiplication instead of a division, right for all of them.
    let tens = (n * 103) >> 10;
    [b'0' + tens as u8, b'0' + (n - tens * 10) as u8]
}

/// A nought in every place.
const ZEROS: u32 = u32::from_ne_bytes([b'0'; 4]);

/// The values of the four digits of a number below 10,000, the first one lowest: two pairs side by side, each of which becomes a ten and
/// a one.
#[inline]
fn digits(n: u32) -> u32 {
    let pairs = (n / 100) | ((n % 100) << 16);
    // A multiplication instead of a division, right for all numbers below 100.
    let tens = (pairs * 103) >> 10 & 0x000f_000f;
    tens | (pairs - tens * 10) << 8
}

/// A number below 10,000 with noughts in front.
#[inline]
pub(crate) fn four_digits(n: u32) -> [u8; 4] {
    (digits(n) | ZEROS).to_le_bytes()
}

/// Appends a number's decimal digits. `core::fmt` is ten times as dear, and most numbers are small: those are put together without a loop,
/// and copied in one move.
#[inline]
pub(crate) fn push_decimal(dst: &mut Vec<u8>, n: u64) {
    match u32::try_from(n) {
        Ok(n @ 0..=9999) => push_short(dst, n),
        Ok(n @ 10_000..=99_999_999) => {
            push_short(dst, n / 10_000);
            dst.extend_from_slice(&four_digits(n % 10_000));
        }
        _ => dst.extend_from_slice(many_digits(&mut [0; 20], n)),
    }
}

/// A number below 10,000.
#[inline]
fn push_short(dst: &mut Vec<u8>, n: u32) {
    let digits = digits(n);
    // The first digit is lowest, and the last one stays even if it is zero.
    let noughts = (digits | 1 << 24).trailing_zeros() / 8;
    push_block(dst, ((digits | ZEROS) >> (8 * noughts)).to_le_bytes(), 4 - noughts as usize);
}

/// Appends the first bytes of a block. All of it is copied, which is a move or two, and what is too much is given back.
#[inline]
pub(crate) fn push_block<const N: usize>(dst: &mut Vec<u8>, block: [u8; N], len: usize) {
    let end = dst.len() + len;
    dst.extend_from_slice(&block);
    dst.truncate(end);
}

#[inline(never)]
fn many_digits(text: &mut [u8; 20], mut n: u64) -> &[u8] {
    let mut at = text.len();
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
        at -= 1;
        if n == 0 {
            break;
        }
    }
    text.get(at..).unwrap_or_default()
}

/// Reads digits and nothing else: no sign, no blank, no overflow.
pub(crate) fn read_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(n: u64) -> String {
        let mut out = Vec::new();
        push_decimal(&mut out, n);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals() {
        for n in (0..10_000).chain([10_000, 65_535, 99_999_999, 100_000_000, 12_345_678_901, u64::MAX]) {
            assert_eq!(written(n), n.to_string());
        }
        for n in 0..10_000 {
            assert_eq!(four_digits(n), *format!("{n:04}").as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_decimal(n in prop_oneof![any::<u64>(), 0..200_000_000u64]) {
            prop_assert_eq!(written(n), n.to_string());
        }
    }
}
