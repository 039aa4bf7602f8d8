//! Target patterns: `https://*.example.com/mcp/*`.

use std::fmt;

use crate::{
    ConfigError,
    net::{Host, Scheme, Target},
};

/// Which targets a token may reach: `[scheme://]host[:port][/path]`.
///
/// * scheme: `http` (also `ws`), `https` (also `wss`), `ws`, `wss`, `connect`, or `*` and nothing for any;
/// * host: a name, an address literal (IPv6 in brackets), `*.example.com` for any depth below but not the apex, or `*`;
/// * port: a number, a range `8000-8999` or `*`; without one the scheme's own port, which for `CONNECT` is 443;
/// * path: nothing or `/*` for any, `/mcp/*` for what begins with `/mcp/`, `/mcp` for exactly that. It is compared byte for byte
///   with the path as it is sent, without the query.
///
/// `*` alone is any target at all. A path cannot be seen inside a `CONNECT` tunnel, so a pattern with a path never matches one.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetPattern {
    text: Box<str>,
    scheme: Option<Scheme>,
    host: HostPattern,
    ports: Ports,
    path: PathPattern,
}

#[derive(Clone, PartialEq, Eq)]
enum HostPattern {
    Any,
    Exactly(Host),
    Below(Box<str>),
}

#[derive(Clone, PartialEq, Eq)]
enum Ports {
    Any,
    Default,
    Range(u16, u16),
}

#[derive(Clone, PartialEq, Eq)]
enum PathPattern {
    Any,
    Exactly(Box<str>),
    Prefix(Box<str>),
}

impl TargetPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// If a part is none of the forms above; nothing is guessed.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let fail = |why: &str| ConfigError::new(text, why);
        if text == "*" {
            let (host, ports, path) = (HostPattern::Any, Ports::Any, PathPattern::Any);
            return Ok(Self { text: text.into(), scheme: None, host, ports, path });
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("*", rest)) => (None, rest),
            Some((scheme, rest)) => {
                let scheme = parse_scheme(scheme).ok_or_else(|| fail("the scheme is not http, https, ws, wss, connect or *"))?;
                (Some(scheme), rest)
            }
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let host = parse_host(host).ok_or_else(|| fail("the host is not a name, an address, `*.name` or `*`"))?;
        let ports = match port {
            None => Ports::Default,
            Some("*") => Ports::Any,
            Some(port) => parse_ports(port).ok_or_else(|| fail("the port is not a number, a range or `*`"))?,
        };
        let path = parse_path(path).map_err(fail)?;
        if scheme == Some(Scheme::Connect) && path != PathPattern::Any {
            return Err(fail("a path cannot be seen inside a CONNECT tunnel"));
        }
        Ok(Self { text: text.into(), scheme, host, ports, path })
    }

    /// Whether the target is one of these.
    #[must_use]
    pub fn matches(&self, target: &Target) -> bool {
        self.scheme_matches(target.scheme())
            && self.host_matches(target.host())
            && self.port_matches(target)
            && self.path_matches(target)
    }

    fn scheme_matches(&self, scheme: Scheme) -> bool {
        match self.scheme {
            None => true,
            Some(Scheme::Http) => matches!(scheme, Scheme::Http | Scheme::Ws),
            Some(Scheme::Https) => matches!(scheme, Scheme::Https | Scheme::Wss),
            Some(exactly) => scheme == exactly,
        }
    }

    fn host_matches(&self, host: &Host) -> bool {
        match &self.host {
            HostPattern::Any => true,
            HostPattern::Exactly(Host::Ip(ip)) => host.ip().is_some_and(|h| h.to_canonical() == ip.to_canonical()),
            HostPattern::Exactly(exactly) => host == exactly,
            HostPattern::Below(apex) => host.name().is_some_and(|n| n.as_str() != &**apex && n.is_or_below(apex)),
        }
    }

    fn port_matches(&self, target: &Target) -> bool {
        match self.ports {
            Ports::Any => true,
            Ports::Default => target.port() == target.scheme().default_port().unwrap_or(443),
            Ports::Range(first, last) => (first..=last).contains(&target.port()),
        }
    }

    fn path_matches(&self, target: &Target) -> bool {
        let fits = |f: &dyn Fn(&str) -> bool| {
            let path = target.path_and_query().path();
            target.scheme() != Scheme::Connect && f(path) && !path_is_ambiguous(path)
        };
        match &self.path {
            PathPattern::Any => true,
            PathPattern::Exactly(exactly) => fits(&|path| path == &**exactly),
            PathPattern::Prefix(prefix) => fits(&|path| path.starts_with(&**prefix)),
        }
    }
}

impl fmt::Display for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// Whether a server could read another path out of these bytes than we do: `.` and `..` segments (also as `%2e`, and before the
/// parameters that some servers cut off at `;`), `\`, and the escapes `%2f` and `%5c`.
#[must_use]
pub(crate) fn path_is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    let escapes = |code: &[u8]| {
        bytes.windows(3).any(|w| w.first() == Some(&b'%') && w.get(1..).is_some_and(|c| c.eq_ignore_ascii_case(code)))
    };
    memchr::memchr(b'\\', bytes).is_some() || escapes(b"2f") || escapes(b"5c") || path.split('/').any(is_dot_segment)
}

fn is_dot_segment(segment: &str) -> bool {
    let mut rest = segment.split(';').next().unwrap_or_default().as_bytes();
    let mut dots = 0;
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            b'.' => tail,
            b'%' if tail.len() >= 2 && tail.starts_with(b"2") && tail.get(1).is_some_and(|b| b.eq_ignore_ascii_case(&b'e')) => {
                tail.get(2..).unwrap_or_default()
            }
            _ => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}

fn parse_scheme(text: &str) -> Option<Scheme> {
    let all = [Scheme::Http, Scheme::Https, Scheme::Ws, Scheme::Wss, Scheme::Connect];
    all.into_iter().find(|scheme| scheme.as_str() == text)
}

fn parse_host(text: &str) -> Option<HostPattern> {
    if text == "*" {
        return Some(HostPattern::Any);
    }
    // The same parser as for targets, so that both sides are written alike (case, IDNA, odd spellings of addresses).
    let one = |text: &str| {
        let plain = !text.is_empty() && !text.contains(['*', '?', '#', '@', '\\']);
        plain.then(|| Target::parse(&format!("http://{text}/")).ok()).flatten().map(|t| t.host().clone())
    };
    match text.strip_prefix("*.") {
        Some(apex) => one(apex).and_then(|h| h.name().map(|n| HostPattern::Below(n.as_str().into()))),
        None => one(text).map(HostPattern::Exactly),
    }
}

fn parse_ports(text: &str) -> Option<Ports> {
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u16>().ok()).flatten().filter(|p| *p != 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(Ports::Range(first, last))
}

fn parse_path(text: &str) -> Result<PathPattern, &'static str> {
    let (path, prefix) = match text.strip_suffix('*') {
        Some(path) => (path, true),
        None => (text, false),
    };
    if path.contains('*') {
        return Err("`*` may stand only at the end of the path");
    }
    if path.contains(['?', '#', ' ']) || !path.is_ascii() {
        return Err("the path has a query, a fragment or a character that is never sent raw");
    }
    if path_is_ambiguous(path) {
        return Err("the path could be read as another one");
    }
    Ok(match (path, prefix) {
        ("" | "/", true) | ("", false) => PathPattern::Any,
        (path, true) => PathPattern::Prefix(path.into()),
        (path, false) => PathPattern::Exactly(path.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pattern: &str, target: &str) -> bool {
        TargetPattern::parse(pattern).unwrap().matches(&Target::parse(target).unwrap())
    }

    #[test]
    fn every_part_decides() {
        for (pattern, yes, no) in [
            ("https://*.example.com/mcp/*", "https://a.b.example.com/mcp/x?y", "https://example.com/mcp/x"),
            ("https://*.example.com/mcp/*", "wss://a.example.com/mcp/", "https://a.example.com/mcp"),
            ("https://a.example/", "https://A.example./", "http://a.example/"),
            ("https://a.example", "https://a.example:443/x", "https://a.example:8443/x"),
            ("a.example", "http://a.example/", "http://a.example:8080/"),
            ("a.example:*", "http://a.example:8080/", "http://b.example/"),
            ("a.example:8000-8999", "http://a.example:8999/", "http://a.example:9000/"),
            ("*://a.example/x", "ws://a.example/x?q", "ws://a.example/x/y"),
            ("wss://a.example", "wss://a.example/", "https://a.example/"),
            ("http://127.0.0.1", "http://0x7f.1/", "http://127.0.0.2/"),
            ("http://127.0.0.1", "http://[::ffff:127.0.0.1]/", "http://[::1]/"),
            ("http://[::1]:3000", "http://[::1]:3000/", "http://[::1]/"),
            ("https://bücher.example", "https://xn--bcher-kva.example/", "https://bucher.example/"),
            ("*.example.com", "http://a.example.com/", "http://aexample.com/"),
            ("https://*/a*", "https://x.example/abc", "https://x.example/b"),
        ] {
            assert!(hits(pattern, yes), "{pattern} {yes}");
            assert!(!hits(pattern, no), "{pattern} {no}");
        }
        assert!(hits("*", "https://x.example:1234/anything/../at/all"));
    }

    #[test]
    fn a_path_that_could_be_read_otherwise_matches_no_path_pattern() {
        for path in [
            "/mcp/../admin",
            "/mcp/./x",
            "/mcp/%2e%2E/admin",
            "/mcp/.%2e/x",
            "/mcp/..",
            "/mcp/a%2fb",
            "/mcp/a%5Cb",
            "/mcp/a\\b",
            "/mcp/..;x=1/admin",
            "/mcp/%2E",
        ] {
            assert!(path_is_ambiguous(path), "{path}");
            assert!(!hits("https://a.example/mcp/*", &format!("https://a.example{path}")), "{path}");
            assert!(hits("https://a.example", &format!("https://a.example{path}")), "{path}");
        }
        for path in ["/mcp/...", "/mcp/.well-known", "/mcp/a..b", "/mcp/%2ex", "/mcp//x", "/mcp/%"] {
            assert!(!path_is_ambiguous(path), "{path}");
        }
    }

    #[test]
    fn connect_has_no_path() {
        let tunnel = Target::parse_connect("a.example:443").unwrap();
        let hits = |p: &str| TargetPattern::parse(p).unwrap().matches(&tunnel);
        assert!(hits("a.example") && hits("connect://*.example") && hits("*://a.example:443") && hits("*"));
        assert!(!hits("a.example/mcp/*") && !hits("https://a.example") && !hits("a.example:8443"));
    }

    #[test]
    fn nonsense_is_not_a_pattern() {
        for text in [
            "",
            "ftp://a",
            "https://",
            "https://*a.example",
            "https://a.*",
            "https://a.example:0",
            "https://a.example:9-1",
            "https://a:x",
            "https://a/*/b",
            "https://a/?q",
            "https://a/../b",
            "https://u@a/",
            "*.1.2.3.4",
            "connect://a/x",
            "a.example:",
            "https://*.*",
        ] {
            assert!(TargetPattern::parse(text).is_err(), "{text}");
        }
    }
}
