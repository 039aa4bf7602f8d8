//! Host names and ports as `Host` and `Origin` carry them.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A host with the port that was written, if one was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort<'a> {
    pub(super) host: Host<'a>,
    pub(super) port: Option<u16>,
}

/// A name or an IPv4 address without the root dot, in the case in which it was written; or an IPv6 address.
#[derive(Clone, Debug)]
pub(super) enum Host<'a> {
    Text(Cow<'a, str>),
    V6(Ipv6Addr),
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.eq_ignore_ascii_case(b),
            (Self::V6(a), Self::V6(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Host<'_> {}

/// Bytes of a `reg-name` (RFC 3986 §3.2.2).
#[expect(clippy::indexing_slicing, reason = "the compiler makes the table")]
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut b = 0u8;
    while b < 128 {
        plain[b as usize] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            );
        b += 1;
    }
    plain
};

fn is_plain(b: u8) -> bool {
    PLAIN.get(usize::from(b)).is_some_and(|plain| *plain)
}

impl<'a> HostPort<'a> {
    /// Reads `uri-host [ ":" port ]` (RFC 9110 §7.2). `None` if it is none; an empty host is none either.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']')?;
            return Some(Self { host: Host::V6(ip.parse().ok()?), port: parse_port(port)? });
        }
        let end = text.bytes().position(|b| !is_plain(b)).unwrap_or(text.len());
        let (host, port) = (text.get(..end)?, text.get(end..)?);
        let host = host.strip_suffix('.').unwrap_or(host);
        let port = parse_port(port)?;
        (!host.is_empty()).then_some(Self { host: Host::Text(Cow::Borrowed(host)), port })
    }

    /// The same, kept.
    pub(super) fn into_owned(self) -> HostPort<'static> {
        let host = match self.host {
            Host::Text(text) => Host::Text(Cow::Owned(text.into_owned())),
            Host::V6(ip) => Host::V6(ip),
        };
        HostPort { host, port: self.port }
    }

    /// A name or address that cannot mean another machine.
    pub(super) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Text(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                // The usual one without a parse.
                *text == "127.0.0.1" || text.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            }
            Host::Text(text) => text.eq_ignore_ascii_case("localhost"),
            Host::V6(ip) => ip.to_canonical().is_loopback(),
        }
    }

    /// Whether an entry of the list covers this host. An entry without a port covers every port.
    pub(super) fn is_covered_by(&self, entry: &HostPort<'_>) -> bool {
        (entry.port.is_none() || self.port == entry.port) && self.host == entry.host
    }
}

/// What stands behind the host: nothing, or a colon and the port.
#[expect(clippy::option_option, reason = "the outer one says whether it can be read, the inner one whether a port is there")]
fn parse_port(text: &str) -> Option<Option<u16>> {
    // "host:" is allowed by the grammar and means no port.
    if matches!(text, "" | ":") {
        return Some(None);
    }
    let digits = text.strip_prefix(':').filter(|digits| digits.len() <= 5)?;
    let mut port = 0u32;
    for b in digits.bytes() {
        port = port * 10 + u32::from(b.is_ascii_digit().then(|| b - b'0')?);
    }
    u16::try_from(port).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_the_grammar_says() {
        let parse = |t: &str| {
            let host = |h: &Host<'_>| match h {
                Host::Text(text) => text.to_string(),
                Host::V6(ip) => ip.to_string(),
            };
            HostPort::parse(t).map(|h| (host(&h.host), h.port))
        };
        assert_eq!(parse("Example.COM.:8080"), Some(("Example.COM".into(), Some(8080))));
        assert_eq!(parse("[::0001]:1"), Some(("::1".into(), Some(1))));
        assert_eq!(parse("a:"), Some(("a".into(), None)));
        for text in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:99999", "a:-1", "a:80:80", "[::1", "::1", "[::1]x", "[a]", "a\tb", "a,b c",
            "a?b", ".",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_same_host_in_other_letters() {
        let same = |a: &str, b: &str| HostPort::parse(a).unwrap() == HostPort::parse(b).unwrap();
        assert!(same("Example.com.:80", "eXample.COM:80") && same("[::0001]", "[0:0::1]"));
        assert!(!same("example.com", "example.com:80") && !same("example.com", "example.co") && !same("[::1]", "[::2]"));
    }

    #[test]
    fn loopback_names() {
        for (text, want) in [
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("127.9.9.9:8000", true),
            ("[::1]:8000", true),
            ("[::ffff:127.0.0.1]", true),
            ("[::2]", false),
            ("127.0.0.1.", true),
            ("128.0.0.1", false),
            ("localhost.example", false),
            ("0.0.0.0", false),
            ("127.0.0.1.example", false),
            ("2130706433", false),
            ("a.localhost", false),
        ] {
            assert_eq!(HostPort::parse(text).unwrap().is_loopback(), want, "{text}");
        }
    }
}
