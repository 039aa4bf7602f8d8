//! Comma-separated lists (RFC 9110 §5.6.1).

use http::{HeaderMap, HeaderName};

/// The members of a list, without the blanks around them. An empty one is a member too.
#[inline]
pub(crate) fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// Whether a list has a token, without regard to case.
#[inline]
pub(crate) fn has_token(list: &[u8], token: &[u8]) -> bool {
    members(list).any(|member| member.eq_ignore_ascii_case(token))
}

/// Whether any line of a field has a token in its list.
pub(crate) fn field_has_token(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    headers.get_all(name).iter().any(|line| has_token(line.as_bytes(), token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_whole_and_in_any_case() {
        for list in ["close", "x, Close", "CLOSE\t,x", ",, close ,"] {
            assert!(has_token(list.as_bytes(), b"close"), "{list}");
        }
        for list in ["", ",", "closed", "x close", "close;q=1"] {
            assert!(!has_token(list.as_bytes(), b"close"), "{list}");
        }
    }
}
