//! Host names and ports as `Host` and `Origin` carry them.

use std::net::{IpAddr, Ipv6Addr};

/// A host with the port that was written, if one was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    /// Lower case, without the root dot; an IPv6 literal without its brackets.
    pub(super) host: Box<str>,
    pub(super) port: Option<u16>,
}

impl HostPort {
    /// Reads `uri-host [ ":" port ]` (RFC 9110 §7.2). `None` if it is none; an empty host is none either.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (ip, rest) = rest.split_once(']')?;
            let ip: Ipv6Addr = ip.parse().ok()?;
            (ip.to_string(), rest)
        } else {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b);
            if !host.bytes().all(plain) {
                return None;
            }
            (host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(), port)
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            // "host:" is allowed by the grammar and means no port.
            Some("") => None,
            Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            None | Some(_) => return None,
        };
        (!host.is_empty()).then(|| Self { host: host.into(), port })
    }

    /// A name or address that cannot mean another machine.
    pub(super) fn is_loopback(&self) -> bool {
        &*self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Whether an entry of the list covers this host. An entry without a port covers every port.
    pub(super) fn is_covered_by(&self, entry: &Self) -> bool {
        self.host == entry.host && (entry.port.is_none() || self.port == entry.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_the_grammar_says() {
        let parse = |t: &str| HostPort::parse(t).map(|h| (h.host.to_string(), h.port));
        assert_eq!(parse("Example.COM.:8080"), Some(("example.com".into(), Some(8080))));
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
    fn loopback_names() {
        for (text, want) in [
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("127.9.9.9:8000", true),
            ("[::1]:8000", true),
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
