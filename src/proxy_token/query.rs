//! Query parameters taken out of a URI, every other byte left as it is.

use http::{Uri, uri::PathAndQuery};
use zeroize::Zeroizing;

/// Takes every parameter of that name out of the query. The values come back percent-decoded.
///
/// `None` if there is no such parameter, and the URI is then untouched.
pub(super) fn take(uri: &mut Uri, name: &str) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    let query = uri.query()?;
    if !query.split('&').any(|pair| value_of(pair, name).is_some()) {
        return None;
    }
    let mut values = Vec::new();
    let mut rest = String::with_capacity(query.len());
    let mut kept = 0_usize;
    for pair in query.split('&') {
        if let Some(value) = value_of(pair, name) {
            values.push(percent_decoded(value));
            continue;
        }
        rest.push(if kept == 0 { '?' } else { '&' });
        rest.push_str(pair);
        kept += 1;
    }
    let mut parts = std::mem::take(uri).into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::path);
    parts.path_and_query = Some(format!("{path}{rest}").parse().unwrap_or_else(|_| PathAndQuery::from_static("/")));
    *uri = Uri::from_parts(parts).unwrap_or_default();
    Some(values)
}

/// The raw value, if the pair's name is exactly this one.
fn value_of<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    match pair.strip_prefix(name)? {
        "" => Some(""),
        rest => rest.strip_prefix('='),
    }
}

fn percent_decoded(text: &str) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digit = |i: usize| tail.get(i).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        rest = if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            out.push(high << 4 | low);
            tail.get(2..).unwrap_or_default()
        } else {
            out.push(*first);
            tail
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_left_is_what_was_there_without_the_pairs(pairs in prop::collection::vec("(t=[a-z%0-9+]{0,6})|(t)|([a-su-z=?/%&;.~]{0,8})", 0..6)) {
            let query = pairs.join("&");
            let mut uri: Uri = format!("/p?{query}").parse().unwrap();
            let taken = take(&mut uri, "t").unwrap_or_default();
            let ours = |p: &&str| *p == "t" || p.starts_with("t=");
            let kept: Vec<&str> = query.split('&').filter(|p| !ours(p)).collect();
            prop_assert_eq!(taken.len(), query.split('&').filter(|p| ours(p)).count());
            let want = if kept.is_empty() { "/p".to_owned() } else { format!("/p?{}", kept.join("&")) };
            prop_assert_eq!(uri.to_string(), want);
        }
    }

    #[test]
    fn every_other_byte_stays() {
        for (before, after, values) in [
            ("/x?proxy_token=T", "/x", &["T"][..]),
            ("/x?a=1&proxy_token=T&b=%20", "/x?a=1&b=%20", &["T"]),
            ("/x?proxy_token=T&", "/x?", &["T"]),
            ("/x?&&proxy_token=T&&a", "/x?&&&a", &["T"]),
            ("/x?proxy_token", "/x", &[""]),
            ("/x?proxy_token=a%2Bb+c%zz&proxy_token=2", "/x", &["a+b+c%zz", "2"]),
            ("/proxy/https://h/%2e?q=a+b&proxy_token=T&z='~", "/proxy/https://h/%2e?q=a+b&z='~", &["T"]),
            ("http://h:1/x?proxy_token=T&y", "http://h:1/x?y", &["T"]),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            let taken = take(&mut uri, "proxy_token").unwrap();
            assert_eq!(uri.to_string(), after, "{before}");
            assert_eq!(taken.iter().map(|v| std::str::from_utf8(v).unwrap()).collect::<Vec<_>>(), values, "{before}");
        }
    }

    #[test]
    fn other_names_are_the_targets() {
        for text in
            ["/x", "/x?", "/x?Proxy_Token=T", "/x?proxy%5Ftoken=T", "/x?my_proxy_token=T&proxy_token2=T", "/x?a?proxy_token=T"]
        {
            let mut uri: Uri = text.parse().unwrap();
            assert!(take(&mut uri, "proxy_token").is_none());
            assert_eq!(uri.to_string(), text);
        }
    }
}
