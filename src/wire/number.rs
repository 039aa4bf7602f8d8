//! Numbers in digits.

/// The two digits of a number below 100.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "digits are small")]
pub(crate) fn pair(n: u32) -> [u8; 2] {
    // A multiplication instead of a division, right for all of them.
    let tens = (n * 103) >> 10;
    [b'0' + tens as u8, b'0' + (n - tens * 10) as u8]
}

/// Hands over a number's decimal digits. `core::fmt` is ten times as dear, and most numbers are small: those are put together without
/// a loop, and copied in one move.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each arm says how large it is")]
pub(crate) fn decimal(value: u64, put: impl FnOnce(&[u8])) {
    match value {
        0..=9 => put(&[b'0' + value as u8]),
        10..=99 => put(&pair(value as u32)),
        100..=9999 => {
            let ([a, b], [c, d]) = (pair(value as u32 / 100), pair(value as u32 % 100));
            if value > 999 { put(&[a, b, c, d]) } else { put(&[b, c, d]) }
        }
        _ => put(many_digits(&mut [0; 20], value)),
    }
}

/// Appends a number's decimal digits.
#[inline]
pub(crate) fn push_decimal(dst: &mut Vec<u8>, n: u64) {
    decimal(n, |digits| dst.extend_from_slice(digits));
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
        for n in (0..10_000).chain([10_000, 65_535, 12_345_678_901, u64::MAX]) {
            assert_eq!(written(n), n.to_string());
        }
    }

    proptest! {
        #[test]
        fn any_decimal(n in any::<u64>()) {
            prop_assert_eq!(written(n), n.to_string());
        }
    }
}
