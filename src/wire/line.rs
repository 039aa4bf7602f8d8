//! Lines of HTTP/1.1 messages (RFC 9112 §5 and §7.1).

use http::{HeaderName, HeaderValue};

use super::push_decimal;

/// Appends a field line. The types of `http` hold neither line ends nor NUL.
#[inline]
pub(crate) fn field(dst: &mut Vec<u8>, name: &str, value: &[u8]) {
    dst.extend_from_slice(name.as_bytes());
    dst.extend_from_slice(b": ");
    dst.extend_from_slice(value);
    dst.extend_from_slice(b"\r\n");
}

/// Appends `Content-Length`.
#[inline]
pub(crate) fn content_length(dst: &mut Vec<u8>, n: u64) {
    dst.extend_from_slice(b"content-length: ");
    push_decimal(dst, n);
    dst.extend_from_slice(b"\r\n");
}

/// Appends the size line of a chunk.
pub(crate) fn chunk_size(dst: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (size >> (digit * 4)) & 0xf;
        dst.push(b"0123456789abcdef".get(nibble).copied().unwrap_or(b'0'));
    }
    dst.extend_from_slice(b"\r\n");
}

/// Appends the last chunk and the trailer section.
pub(crate) fn last_chunk<'a>(dst: &mut Vec<u8>, trailers: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    dst.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        field(dst, name.as_str(), value.as_bytes());
    }
    dst.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        let mut out = Vec::new();
        for n in [0, 1, 15, 16, 4096, 0xfff_ffff] {
            chunk_size(&mut out, n);
        }
        assert_eq!(out, b"0\r\n1\r\nf\r\n10\r\n1000\r\nfffffff\r\n");
    }

    proptest! {
        #[test]
        fn sizes_are_read_back(size in any::<usize>()) {
            let mut out = Vec::new();
            chunk_size(&mut out, size);
            let text = std::str::from_utf8(&out).unwrap().trim_end();
            prop_assert_eq!(usize::from_str_radix(text, 16).unwrap(), size);
        }
    }
}
