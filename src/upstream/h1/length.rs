//! `Content-Length`, in both directions (RFC 9110 §8.6).

use crate::wire::{members, read_decimal};

/// Takes another field value into account: digits, or a list of the same number. `None`: it is not valid, or contradicts `known`.
pub(super) fn merge(known: Option<u64>, value: &[u8]) -> Option<u64> {
    let mut known = known;
    for member in members(value) {
        let n = read_decimal(member)?;
        if known.is_some_and(|k| k != n) {
            return None;
        }
        known = Some(n);
    }
    known
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::push_decimal;

    #[test]
    fn table() {
        for (value, want) in [
            (&b"5"[..], Some(5)),
            (b" 5", Some(5)),
            (b"0005", Some(5)),
            (b"5, 5 ,5", Some(5)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"99999999999999999999999999", None),
            (b"", None),
            (b",", None),
            (b"5,", None),
            (b"5, 6", None),
            (b"+5", None),
            (b"-5", None),
            (b"0x5", None),
            (b"5 5", None),
            (b"1e1", None),
            (b"5.0", None),
            (b"\x0b5", None),
            (b"5\0", None),
            ("\u{0665}".as_bytes(), None),
        ] {
            assert_eq!(merge(None, value), want, "{}", String::from_utf8_lossy(value));
        }
        assert_eq!(merge(Some(5), b"5"), Some(5));
        assert_eq!(merge(Some(5), b"6"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in any::<u64>()) {
            let mut out = Vec::new();
            push_decimal(&mut out, n);
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), n.to_string());
            prop_assert_eq!(merge(None, &out), Some(n));
        }
    }
}
