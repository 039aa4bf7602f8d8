//! One parse from text to [`Target`]: what is judged, dialled and sent comes from this value.
//!
//! The authority goes through the WHATWG parser ([`url::Url`]) exactly once. The path and the query are kept byte for byte
//! as they were written, because a target's own signature or routing may depend on them.

use std::{
    fmt,
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
    net::IpAddr,
    str::FromStr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{HeaderValue, uri::PathAndQuery};
use url::Url;

use super::host::{Host, Name};

/// Longest URL that is looked at, in bytes (RFC 9110 §4.1 recommends at least 8,000).
pub const MAX_URL_LEN: usize = 8 * 1024;
/// Longest host name in octets, counted before any IDNA mapping (RFC 1035 §2.3.4).
pub const MAX_HOST_LEN: usize = 253;

/// The scheme a target was named with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
    /// `ws`: dialled as `http`, only as a WebSocket upgrade.
    Ws,
    /// `wss`: dialled as `https`, only as a WebSocket upgrade.
    Wss,
    /// No scheme: the authority of a `CONNECT` request (RFC 9110 §9.3.6).
    Connect,
}

impl Scheme {
    /// The scheme as it is written, in lower case; `connect` for an authority without one.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Connect => "connect",
        }
    }

    /// Whether the connection itself is TLS that this crate opens.
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Wss)
    }

    /// Whether the scheme names a WebSocket.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The port that is meant when none is written; `None` for `CONNECT`, which has to write one.
    #[must_use]
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http | Self::Ws => Some(80),
            Self::Https | Self::Wss => Some(443),
            Self::Connect => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https, Self::Ws, Self::Wss].into_iter().find(|s| text.eq_ignore_ascii_case(s.as_str()))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Scheme, host and port: what a connection is opened to (RFC 6454 §4).
#[derive(Debug)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
    authority: HeaderValue,
    hash: u64,
    permitted: AtomicU64,
}

/// The rest follows from these.
impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.port == other.port && self.host == other.host
    }
}

impl Eq for Origin {}

impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.scheme, &self.host, self.port).hash(state);
    }
}

impl Origin {
    fn new(scheme: Scheme, host: Host, port: u16) -> Result<Self, TargetError> {
        let text = if scheme.default_port() == Some(port) { host.to_string() } else { format!("{host}:{port}") };
        let authority = HeaderValue::from_maybe_shared(Bytes::from(text)).map_err(|_| TargetError::Host)?;
        let hash = HASHER.hash_one((scheme.is_secure(), authority.as_bytes(), port));
        Ok(Self { scheme, host, port, authority, hash, permitted: AtomicU64::new(0) })
    }

    /// Whether [`Self::note_permitted`] was last called with this number.
    pub(crate) fn was_permitted_by(&self, generation: u64) -> bool {
        self.permitted.load(Relaxed) == generation
    }

    /// Notes that the policy of this generation, which never changes, permits this origin, which never changes either. Zero is no
    /// generation.
    pub(crate) fn note_permitted(&self, generation: u64) {
        self.permitted.store(generation, Relaxed);
    }

    /// A hash of what connections to it have in common: host, port and whether there is TLS. Made once, under a key of this process.
    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "only connections are kept by it"))]
    pub(crate) fn connection_hash(&self) -> u64 {
        self.hash
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: a lower-case name without a root dot, or an address literal.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, written or implied by the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `Host` field value: the port is left out where the scheme implies it (RFC 9110 §7.2).
    #[must_use]
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme == Scheme::Connect {
            return write!(f, "{}:{}", self.host, self.port);
        }
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.scheme.default_port() == Some(self.port) { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// How the caller named the target; it decides what may be rewritten on the way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetStyle {
    /// Behind a path prefix, `/proxy/https://host/…`: links on the target's own origin can be rewritten.
    Path,
    /// In a header or a query parameter: nothing is rewritten.
    #[default]
    Header,
    /// An absolute-form request line (RFC 9112 §3.2.2).
    AbsoluteForm,
    /// The authority of a `CONNECT` (RFC 9112 §3.2.3).
    Connect,
    /// Fixed by the operator: an ordinary reverse proxy.
    Fixed,
}

/// A parsed target: an [`Origin`] and the path and query as they were written. A clone shares them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts {
    origin: Arc<Origin>,
    path: PathAndQuery,
    style: TargetStyle,
}

impl Target {
    /// Parses an absolute `http`, `https`, `ws` or `wss` URL.
    ///
    /// # Errors
    /// A [`TargetError`] says which part is not acceptable. Userinfo, fragments, control characters, backslashes in front of
    /// the path and over-long hosts are refused; nothing is repaired silently.
    pub fn parse(raw: &str) -> Result<Self, TargetError> {
        let origin = |scheme, authority: &str| parse_origin(scheme, authority).map(Arc::new);
        Self::parse_with(raw, |path| Bytes::copy_from_slice(path.as_bytes()), origin)
    }

    /// [`Self::parse`] where `origin` may know the authority already, and `bytes` may share what the URL was written in. `origin` is
    /// asked with exactly what [`parse_origin`] takes, `bytes` with the end of `raw`.
    pub(crate) fn parse_with(
        raw: &str,
        bytes: impl FnOnce(&str) -> Bytes,
        origin: impl FnOnce(Scheme, &str) -> Result<Arc<Origin>, TargetError>,
    ) -> Result<Self, TargetError> {
        if raw.len() > MAX_URL_LEN {
            return Err(TargetError::TooLong);
        }
        // One walk over all bytes, without an early way out, so that the compiler looks at many at once. What is plain needs none of
        // the closer looks below.
        let odd = |b: u8| u8::from(!matches!(b, 0x21 | 0x22 | 0x24..=0x5b | 0x5d..=0x7e));
        let plain = raw.bytes().fold(0, |any, b| any | odd(b)) == 0;
        if !plain && (raw.bytes().any(|b| b < 0x20 || b == 0x7f) || raw.starts_with(' ') || raw.ends_with(' ')) {
            return Err(TargetError::ControlCharacter);
        }
        let (scheme, rest) = split_scheme(raw)?;
        let end = rest.bytes().position(|b| matches!(b, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !plain && path.starts_with('\\') {
            return Err(TargetError::Host);
        }
        if !plain && path.contains('#') {
            return Err(TargetError::Fragment);
        }
        let origin = origin(scheme, authority)?;
        Ok(Self::of(origin, parse_path(path, plain, bytes)?, TargetStyle::default()))
    }

    /// Parses the authority of a `CONNECT`: `host:port`, the port written out (RFC 9112 §3.2.3).
    ///
    /// # Errors
    /// A [`TargetError`] says which part is not acceptable.
    pub fn parse_connect(raw: &str) -> Result<Self, TargetError> {
        Self::parse_connect_with(raw, |authority| parse_origin(Scheme::Connect, authority).map(Arc::new))
    }

    pub(crate) fn parse_connect_with(
        raw: &str,
        origin: impl FnOnce(&str) -> Result<Arc<Origin>, TargetError>,
    ) -> Result<Self, TargetError> {
        if raw.len() > MAX_URL_LEN {
            return Err(TargetError::TooLong);
        }
        if raw.bytes().any(|b| b <= 0x20 || b == 0x7f || matches!(b, b'/' | b'?' | b'#' | b'\\')) {
            return Err(TargetError::Host);
        }
        let origin = origin(raw)?;
        Ok(Self::of(origin, PathAndQuery::from_static("/"), TargetStyle::Connect))
    }

    fn of(origin: Arc<Origin>, path: PathAndQuery, style: TargetStyle) -> Self {
        Self(Arc::new(Parts { origin, path, style }))
    }

    /// The same target, noted as named in `style`.
    #[must_use]
    pub fn with_style(mut self, style: TargetStyle) -> Self {
        if self.0.style != style {
            Arc::make_mut(&mut self.0).style = style;
        }
        self
    }

    /// The same origin with another path and query.
    #[must_use]
    pub fn with_path(mut self, path: PathAndQuery) -> Self {
        Arc::make_mut(&mut self.0).path = path;
        self
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Arc<Origin> {
        &self.0.origin
    }

    /// The path and query, byte for byte as written.
    #[must_use]
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.0.path
    }

    /// How the caller named it.
    #[must_use]
    pub fn style(&self) -> TargetStyle {
        self.0.style
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.0.origin.scheme
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.0.origin.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.origin.port
    }
}

/// The URL, as it would be written in full; parses back to the same target.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.origin)?;
        if self.0.origin.scheme == Scheme::Connect { Ok(()) } else { f.write_str(self.0.path.as_str()) }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

/// The scheme, and what stands behind it and its slashes.
fn split_scheme(raw: &str) -> Result<(Scheme, &str), TargetError> {
    // The usual spellings first.
    for (prefix, scheme) in [("https://", Scheme::Https), ("http://", Scheme::Http)] {
        if let Some(rest) = raw.strip_prefix(prefix) {
            return Ok((scheme, rest));
        }
    }
    let (scheme, rest) = raw.split_once(':').ok_or(TargetError::Scheme)?;
    let scheme = Scheme::parse(scheme).ok_or(TargetError::Scheme)?;
    // Some front servers merge the two slashes of `https://` inside a path into one; more or fewer are not a URL.
    let rest = rest.strip_prefix("//").or_else(|| rest.strip_prefix('/')).ok_or(TargetError::Host)?;
    Ok((scheme, rest))
}

pub(crate) fn parse_origin(scheme: Scheme, authority: &str) -> Result<Origin, TargetError> {
    if authority.is_empty() {
        return Err(TargetError::Host);
    }
    if authority.contains('@') {
        return Err(TargetError::Userinfo);
    }
    let (raw_host, raw_port) = split_port(authority);
    if raw_host.strip_suffix('.').unwrap_or(raw_host).len() > MAX_HOST_LEN {
        return Err(TargetError::HostTooLong);
    }
    if scheme == Scheme::Connect && raw_port.is_none_or(str::is_empty) {
        return Err(TargetError::Port);
    }
    // The parser only ever sees the authority, under a scheme whose rules ("special") are the same for all of ours.
    let url = Url::parse(&format!("http://{authority}/")).map_err(|e| match e {
        url::ParseError::InvalidPort => TargetError::Port,
        _ => TargetError::Host,
    })?;
    let host = match url.host() {
        Some(url::Host::Ipv4(ip)) => Host::Ip(IpAddr::V4(ip)),
        Some(url::Host::Ipv6(ip)) => Host::Ip(IpAddr::V6(ip)),
        Some(url::Host::Domain(name)) => Host::Name(Name::parse_ascii(name)?),
        None => return Err(TargetError::Host),
    };
    // `Url` drops `:80`, which is a port that an https URL may well have written.
    let port = match raw_port {
        Some(text) if !text.is_empty() => url.port().or(Some(80)),
        _ => scheme.default_port(),
    };
    match port {
        Some(port) if port != 0 => Origin::new(scheme, host, port),
        _ => Err(TargetError::Port),
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_bracket = authority.rfind(']').map_or(0, |i| i + 1);
    match authority.get(after_bracket..).and_then(|s| s.rfind(':')) {
        Some(i) => {
            let at = after_bracket + i;
            (authority.get(..at).unwrap_or(authority), authority.get(at + 1..))
        }
        None => (authority, None),
    }
}

/// `plain`: nothing but printable ASCII.
fn parse_path(raw: &str, plain: bool, bytes: impl FnOnce(&str) -> Bytes) -> Result<PathAndQuery, TargetError> {
    if raw.is_empty() {
        return Ok(PathAndQuery::from_static("/"));
    }
    let slash = if raw.starts_with('/') { "" } else { "/" };
    if plain || raw.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        let bytes = if slash.is_empty() { bytes(raw) } else { Bytes::from(format!("/{raw}")) };
        if let Ok(path) = PathAndQuery::from_maybe_shared(bytes) {
            return Ok(path);
        }
    }
    // Only text that no request line can carry gets here (spaces, non-ASCII, `<`, …): percent-encoded as a browser would.
    let mut encoded = String::with_capacity(raw.len() + 16);
    encoded.push_str(slash);
    for b in raw.bytes() {
        if b > 0x7e || matches!(b, b' ' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'^' | b'|') {
            use fmt::Write as _;
            let _ = write!(encoded, "%{b:02X}");
        } else {
            encoded.push(char::from(b));
        }
    }
    PathAndQuery::from_maybe_shared(Bytes::from(encoded)).map_err(|_| TargetError::Path)
}

/// Which part of a target is not acceptable. The text is for the client and never echoes the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetError {
    /// No target was given.
    Missing,
    /// More than one target was given.
    Duplicate,
    /// Longer than [`MAX_URL_LEN`].
    TooLong,
    /// A control character, or a space at either end.
    ControlCharacter,
    /// Not `http`, `https`, `ws` or `wss`.
    Scheme,
    /// `user:password@` in front of the host.
    Userinfo,
    /// The host is empty or not one.
    Host,
    /// The host is longer than [`MAX_HOST_LEN`], or a label is not 1 to 63 octets.
    HostTooLong,
    /// The port is not one, or zero, or missing in a `CONNECT`.
    Port,
    /// The path or query has a byte that cannot be sent.
    Path,
    /// A `#fragment`, which is never sent to a server.
    Fragment,
}

impl TargetError {
    /// A stable `snake_case` word for logs and machines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Duplicate => "duplicate",
            Self::TooLong => "too_long",
            Self::ControlCharacter => "control_character",
            Self::Scheme => "scheme",
            Self::Userinfo => "userinfo",
            Self::Host => "host",
            Self::HostTooLong => "host_too_long",
            Self::Port => "port",
            Self::Path => "path",
            Self::Fragment => "fragment",
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no target URL was given",
            Self::Duplicate => "more than one target URL was given",
            Self::TooLong => "the target URL is longer than 8 KiB",
            Self::ControlCharacter => "the target URL contains a control character",
            Self::Scheme => "the target's scheme is not http, https, ws or wss",
            Self::Userinfo => "the target URL carries user information",
            Self::Host => "the target's host is not valid",
            Self::HostTooLong => "the target's host or one of its labels is too long or empty",
            Self::Port => "the target's port is not valid",
            Self::Path => "the target's path or query is not valid",
            Self::Fragment => "the target URL has a fragment",
        })
    }
}

impl std::error::Error for TargetError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(s: &str) -> Target {
        Target::parse(s).unwrap()
    }

    #[test]
    fn path_and_query_stay_byte_for_byte() {
        for path in ["/a/../b/%2e%2E/./c?x=%7E&y=a%20b&&=", "/?", "/%zz", "/a\\b", "//x//"] {
            assert_eq!(t(&format!("http://example.com{path}")).path_and_query().as_str(), path);
        }
        assert_eq!(t("http://example.com").path_and_query().as_str(), "/");
        assert_eq!(t("http://example.com?q=1").path_and_query().as_str(), "/?q=1");
        assert_eq!(t("http://example.com/ü x").path_and_query().as_str(), "/%C3%BC%20x");
    }

    #[test]
    fn odd_spellings_of_addresses_become_addresses() {
        for s in ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "１２７.0.0.1", "127。0。0。1", "%31%32%37.1"]
        {
            assert_eq!(t(&format!("http://{s}/")).host(), &Host::Ip("127.0.0.1".parse().unwrap()), "{s}");
        }
    }

    #[test]
    fn ports() {
        assert_eq!(t("https://example.com:80/").port(), 80);
        assert_eq!(t("https://example.com/").port(), 443);
        assert_eq!(t("http://example.com:/").port(), 80);
        assert_eq!(t("wss://example.com:443/").to_string(), "wss://example.com/");
        assert_eq!(t("https://[2001:db8::1]:8443/x").to_string(), "https://[2001:db8::1]:8443/x");
        for bad in ["http://example.com:0/", "http://example.com:65536/", "http://example.com:x/", "http://example.com:-1/"] {
            assert_eq!(Target::parse(bad), Err(TargetError::Port), "{bad}");
        }
    }

    #[test]
    fn refused_forms() {
        use TargetError as E;
        let long = format!("http://{}.com/", "a".repeat(64));
        let longer = format!("http://{}com/", "a.".repeat(130));
        for (raw, want) in [
            ("", E::Scheme),
            ("example.com", E::Scheme),
            ("ftp://example.com/", E::Scheme),
            ("http:example.com", E::Host),
            ("http:///example.com", E::Host),
            ("http:\\\\example.com\\", E::Host),
            ("http://", E::Host),
            ("http://user@example.com/", E::Userinfo),
            ("http://@example.com/", E::Userinfo),
            ("http://example.com\\@127.0.0.1/", E::Host),
            ("http://[example.com]/", E::Host),
            ("http://[fe80::1%25eth0]/", E::Host),
            ("http://1.2.3.4.5/", E::Host),
            ("http://exa mple.com/", E::Host),
            ("http://example.com/\tx", E::ControlCharacter),
            ("http://example.com/\u{0}", E::ControlCharacter),
            (" http://example.com/", E::ControlCharacter),
            ("http://example.com/#x", E::Fragment),
            ("http://example.com#@127.0.0.1/", E::Fragment),
            ("http://a..example.com/", E::HostTooLong),
            ("http://example.com../", E::HostTooLong),
            (&long, E::HostTooLong),
            (&longer, E::HostTooLong),
        ] {
            assert_eq!(Target::parse(raw), Err(want), "{raw:?}");
        }
    }

    #[test]
    fn names_are_lower_case_without_the_root_dot_and_idn_is_mapped() {
        assert_eq!(t("HTTP://EXAMPLE.Com./x").to_string(), "http://example.com/x");
        assert_eq!(t("https://bücher.example/").host().to_string(), "xn--bcher-kva.example");
        assert_eq!(t("https:/example.com/x").to_string(), "https://example.com/x");
        assert_eq!(t("http://_dmarc.example.com/").host().to_string(), "_dmarc.example.com");
    }

    #[test]
    fn connect_authorities_write_their_port() {
        assert_eq!(Target::parse_connect("example.com:443").unwrap().to_string(), "example.com:443");
        assert_eq!(Target::parse_connect("[::1]:443").unwrap().port(), 443);
        assert_eq!(Target::parse_connect("example.com:80").unwrap().port(), 80);
        for bad in ["example.com", "example.com:", "example.com:443/", "u@example.com:443", ":443", "", "example.com:0"] {
            assert!(Target::parse_connect(bad).is_err(), "{bad}");
        }
    }
}
