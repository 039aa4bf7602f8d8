//! Host patterns: exact names, everything below a name, address literals.

use std::{collections::HashSet, net::IpAddr};

use crate::{
    ConfigError,
    net::{Host, Name, unwrap_mapped},
};

/// One entry of a host list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    /// `example.com`: that name alone.
    Exact(Name),
    /// `*.example.com`: every name below it at any depth, not the name itself.
    Below(Name),
    /// An address literal.
    Ip(IpAddr),
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let (below, host) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        match (parse_host(host, text)?, below) {
            (Host::Name(name), true) => Ok(Self::Below(name)),
            (Host::Name(name), false) => Ok(Self::Exact(name)),
            (Host::Ip(ip), false) => Ok(Self::Ip(ip)),
            (Host::Ip(_), true) => Err(ConfigError::new(text, "is a wildcard in front of an address")),
        }
    }
}

/// A host in the configuration: like a URL's, but an address has to be written the usual way.
pub(super) fn parse_host(host: &str, entry: &str) -> Result<Host, ConfigError> {
    if host.contains('*') {
        return Err(ConfigError::new(entry, "has a `*` elsewhere than in front, as in `*.example.com`"));
    }
    if host.bytes().any(|b| b <= b' ' || b == 0x7f || matches!(b, b'/' | b'@' | b'?' | b'#' | b'\\' | b'%')) {
        return Err(ConfigError::new(entry, "is not a host: write the name alone, without scheme, port or path"));
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match Host::parse(host) {
        Ok(Host::Ip(ip)) if bare.parse() == Ok(ip) => Ok(Host::Ip(ip)),
        Ok(Host::Ip(ip)) => Err(ConfigError::new(entry, format!("is an odd spelling of the address {ip}; write that"))),
        Ok(name @ Host::Name(_)) => Ok(name),
        Err(_) => Err(ConfigError::new(entry, "is not a host name, an address or `*.` in front of a name")),
    }
}

/// A list of patterns, looked up by hash: the length of the list does not matter.
#[derive(Clone, Debug, Default)]
pub(super) struct HostPatterns {
    exact: HashSet<Box<str>>,
    below: HashSet<Box<str>>,
    /// Bit `n` is set when `below` has a name of `n` labels, so that a name of many labels costs few look-ups.
    depths: u128,
    ips: HashSet<IpAddr>,
}

impl HostPatterns {
    pub(super) fn insert(&mut self, pattern: &Pattern) {
        match pattern {
            Pattern::Exact(name) => {
                self.exact.insert(name.as_str().into());
            }
            Pattern::Below(name) => {
                self.depths |= depth_bit(labels(name.as_str()));
                self.below.insert(name.as_str().into());
            }
            Pattern::Ip(ip) => {
                self.ips.insert(unwrap_mapped(*ip));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.ips.is_empty()
    }

    pub(super) fn has_ip(&self, ip: IpAddr) -> bool {
        !self.ips.is_empty() && self.ips.contains(&unwrap_mapped(ip))
    }

    /// Whether the list covers a name.
    pub(super) fn has_name(&self, name: &Name) -> bool {
        let text = name.as_str();
        (!self.exact.is_empty() && self.exact.contains(text)) || self.has_above(text)
    }

    /// Whether the list covers everything that the pattern covers.
    pub(super) fn covers(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Exact(name) => self.has_name(name),
            Pattern::Below(name) => self.below.contains(name.as_str()) || self.has_above(name.as_str()),
            Pattern::Ip(ip) => self.has_ip(*ip),
        }
    }

    /// Whether a name above `text` is in `below`.
    fn has_above(&self, text: &str) -> bool {
        if self.depths == 0 {
            return false;
        }
        let mut rest = text;
        let mut left = labels(text);
        while let Some((_, above)) = rest.split_once('.') {
            left -= 1;
            rest = above;
            if self.depths & depth_bit(left) != 0 && self.below.contains(rest) {
                return true;
            }
        }
        false
    }
}

fn labels(name: &str) -> usize {
    name.bytes().filter(|b| *b == b'.').count() + 1
}

/// A name has at most 127 labels, so that every depth has a bit.
fn depth_bit(labels: usize) -> u128 {
    1 << labels.min(127)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> HostPatterns {
        let mut list = HostPatterns::default();
        for e in entries {
            list.insert(&Pattern::parse(e).unwrap());
        }
        list
    }

    fn has(list: &HostPatterns, name: &str) -> bool {
        list.has_name(&Name::parse_ascii(name).unwrap())
    }

    #[test]
    fn a_wildcard_is_any_depth_and_not_the_apex() {
        let l = list(&["*.example.com", "Example.NET.", "bücher.example", "192.0.2.1", "[2001:db8::1]"]);
        assert!(has(&l, "a.example.com") && has(&l, "a.b.c.example.com") && has(&l, "example.net"));
        assert!(has(&l, "xn--bcher-kva.example"));
        assert!(!has(&l, "example.com") && !has(&l, "badexample.com") && !has(&l, "a.example.net") && !has(&l, "com"));
        assert!(l.has_ip("192.0.2.1".parse().unwrap()) && l.has_ip("::ffff:192.0.2.1".parse().unwrap()));
        assert!(l.has_ip("2001:db8::1".parse().unwrap()) && !l.has_ip("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn coverage() {
        let l = list(&["*.example.com"]);
        for (p, want) in [
            ("*.example.com", true),
            ("*.a.example.com", true),
            ("a.example.com", true),
            ("example.com", false),
            ("*.com", false),
        ] {
            assert_eq!(l.covers(&Pattern::parse(p).unwrap()), want, "{p}");
        }
    }

    #[test]
    fn senseless_patterns() {
        for bad in [
            "",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            "foo*.com",
            "http://a.com",
            "a.com/",
            "a.com:80",
            "*.127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "a b.com",
            "u@a.com",
            "a..com",
            ".a.com",
            "%61.com",
            "[::1",
            "a.com#",
            "xn--a",
        ] {
            assert_eq!(Pattern::parse(bad).unwrap_err().entry(), bad);
        }
    }
}
