//! Where the target of a request is written.

use std::{borrow::Cow, fmt};

use http::{HeaderName, Method, Uri, request::Parts, uri::PathAndQuery};
use memchr::memmem;

use super::TargetParser;
use crate::{
    ConfigError,
    net::{Target, TargetError, TargetStyle},
};

/// Finds the target of a request. What names the target and is not meant for it is removed from the request.
///
/// Closures `Fn(&mut Parts, &TargetParser) -> Result<Target, TargetError>` are extractors.
pub trait TargetExtractor {
    /// Finds and parses the target.
    ///
    /// # Errors
    /// [`TargetError::Missing`] when there is none, [`TargetError::Duplicate`] when there is more than one, or what the parser
    /// finds wrong.
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError>;

    /// The same where the URI alone says it and nothing has to be removed from the request: it is then not taken apart and put
    /// together again. `None` asks [`Self::extract`].
    fn extract_from_uri(&self, uri: &Uri, parser: &TargetParser) -> Option<Result<Target, TargetError>> {
        let _ = (uri, parser);
        None
    }
}

impl<F> TargetExtractor for F
where
    F: Fn(&mut Parts, &TargetParser) -> Result<Target, TargetError>,
{
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        self(request, parser)
    }
}

/// Behind a path prefix: `/proxy/https://example.com/path?query`. Everything behind the prefix is the target's, the query
/// included, but for a parameter named exactly `proxy_token`.
///
/// In an axum router the stack goes under `route_service("/proxy/{*target}", stack)`: `nest_service` would hide the prefix.
#[derive(Clone, Debug)]
pub struct PathPrefix(Box<str>);

impl PathPrefix {
    /// The prefix begins and ends with a slash.
    ///
    /// # Errors
    /// A prefix that does not.
    pub fn new(prefix: &str) -> Result<Self, ConfigError> {
        if prefix.starts_with('/') && prefix.ends_with('/') && PathAndQuery::try_from(prefix).is_ok_and(|p| p.query().is_none()) {
            Ok(Self(prefix.into()))
        } else {
            Err(ConfigError::new(prefix, "is not a path that begins and ends with `/`"))
        }
    }
}

impl PathPrefix {
    fn find(&self, uri: &Uri, parser: &TargetParser) -> Result<Target, TargetError> {
        let whole = uri.path_and_query().ok_or(TargetError::Missing)?;
        let raw = whole.as_str().strip_prefix(&*self.0).filter(|r| !r.is_empty()).ok_or(TargetError::Missing)?;
        match whole.query().map(|_| without_proxy_token(raw)) {
            None | Some(Cow::Borrowed(_)) => parser.parse_end_of(whole, raw, TargetStyle::Path),
            Some(Cow::Owned(kept)) => Ok(parser.parse(&kept)?.with_style(TargetStyle::Path)),
        }
    }
}

impl TargetExtractor for PathPrefix {
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        self.find(&request.uri, parser)
    }

    fn extract_from_uri(&self, uri: &Uri, parser: &TargetParser) -> Option<Result<Target, TargetError>> {
        Some(self.find(uri, parser))
    }
}

/// The parameter that carries the proxy's own token on path-style requests.
const PROXY_TOKEN: &str = "proxy_token";

/// The URL without query parameters named exactly `proxy_token`; every other byte stays.
fn without_proxy_token(url: &str) -> Cow<'_, str> {
    let Some(mark) = memchr::memchr(b'?', url.as_bytes()) else { return Cow::Borrowed(url) };
    let (Some(head), Some(query)) = (url.get(..mark), url.get(mark + 1..)) else { return Cow::Borrowed(url) };
    if memmem::find(query.as_bytes(), PROXY_TOKEN.as_bytes()).is_none() {
        return Cow::Borrowed(url);
    }
    let is_token = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name) == PROXY_TOKEN;
    if !query.split('&').any(is_token) {
        return Cow::Borrowed(url);
    }
    let mut kept = String::with_capacity(url.len());
    kept.push_str(head);
    for (i, pair) in query.split('&').filter(|p| !is_token(p)).enumerate() {
        kept.push(if i == 0 { '?' } else { '&' });
        kept.push_str(pair);
    }
    Cow::Owned(kept)
}

/// In a header field, which is removed. Two fields of that name are refused.
#[derive(Clone, Debug)]
pub struct FromHeader(HeaderName);

impl FromHeader {
    /// The field's name, such as `x-target-url`.
    ///
    /// # Errors
    /// Text that is no field name.
    pub fn new(name: &str) -> Result<Self, ConfigError> {
        HeaderName::try_from(name).map(Self).map_err(|_| ConfigError::new(name, "is not a header field name"))
    }
}

impl TargetExtractor for FromHeader {
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        if request.headers.get_all(&self.0).iter().nth(1).is_some() {
            return Err(TargetError::Duplicate);
        }
        let value = request.headers.remove(&self.0).ok_or(TargetError::Missing)?;
        let raw = std::str::from_utf8(value.as_bytes()).map_err(|_| TargetError::ControlCharacter)?;
        if raw.is_empty() {
            return Err(TargetError::Missing);
        }
        Ok(parser.parse(raw)?.with_style(TargetStyle::Header))
    }
}

/// In a query parameter, percent-encoded. Two parameters of that name are refused. `+` stays `+`.
#[derive(Clone, Debug)]
pub struct FromQuery(Box<str>);

impl FromQuery {
    /// The parameter's name, such as `mcp_server_url`.
    #[must_use]
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self(name.into())
    }
}

impl TargetExtractor for FromQuery {
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        let query = request.uri.query().unwrap_or("");
        let mut found = query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (*percent_decode(name)? == *self.0.as_bytes()).then_some(value)
        });
        let value = found.next().ok_or(TargetError::Missing)?;
        if found.next().is_some() {
            return Err(TargetError::Duplicate);
        }
        let bytes = percent_decode(value).ok_or(TargetError::Path)?;
        let raw = std::str::from_utf8(&bytes).map_err(|_| TargetError::ControlCharacter)?;
        if raw.is_empty() {
            return Err(TargetError::Missing);
        }
        Ok(parser.parse(raw)?.with_style(TargetStyle::Header))
    }
}

/// Decodes once; `None` where a `%` is not followed by two hex digits.
fn percent_decode(text: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = text.as_bytes();
    if memchr::memchr(b'%', bytes).is_none() {
        return Some(Cow::Borrowed(bytes));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    let digit = |b: &u8| char::from(*b).to_digit(16);
    while let Some(b) = rest.next() {
        if *b != b'%' {
            decoded.push(*b);
            continue;
        }
        let value = rest.next().and_then(digit)? * 16 + rest.next().and_then(digit)?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(Cow::Owned(decoded))
}

/// In the request line: `GET http://example.com/path HTTP/1.1`, or the scheme and authority of an HTTP/2 request.
#[derive(Clone, Copy, Debug, Default)]
pub struct AbsoluteForm;

impl TargetExtractor for AbsoluteForm {
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        let uri = &request.uri;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(TargetError::Missing) };
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        // Authority and path have been apart since the request line was read, and stay so: no second look for the border.
        if path.as_str().starts_with('/') || path.as_str().starts_with('?') {
            let target = parser.parse(&format!("{scheme}://{authority}{path}"))?;
            return Ok(target.with_style(TargetStyle::AbsoluteForm));
        }
        Err(TargetError::Path)
    }
}

/// The authority of a `CONNECT` request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect;

impl TargetExtractor for Connect {
    fn extract(&self, request: &mut Parts, parser: &TargetParser) -> Result<Target, TargetError> {
        if request.method != Method::CONNECT {
            return Err(TargetError::Missing);
        }
        let authority = request.uri.authority().ok_or(TargetError::Missing)?;
        Ok(parser.parse_connect(authority.as_str())?.with_style(TargetStyle::Connect))
    }
}

/// One origin for every request: the request's path is appended to the target's.
#[derive(Clone)]
pub struct Fixed {
    base: Target,
    /// The base path without the slash at its end.
    prefix: Box<str>,
}

impl Fixed {
    /// Every request goes to this target.
    ///
    /// # Errors
    /// A target with a query: there is no one way to join two of them.
    pub fn new(base: Target) -> Result<Self, ConfigError> {
        if base.path_and_query().query().is_some() {
            return Err(ConfigError::new(base.to_string(), "is a base URL with a query"));
        }
        let path = base.path_and_query().path();
        let prefix = path.strip_suffix('/').unwrap_or(path).into();
        Ok(Self { base: base.with_style(TargetStyle::Fixed), prefix })
    }
}

impl fmt::Debug for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fixed({})", self.base)
    }
}

impl TargetExtractor for Fixed {
    fn extract(&self, request: &mut Parts, _: &TargetParser) -> Result<Target, TargetError> {
        if request.uri.scheme_str().is_some_and(|s| s != "http" && s != "https") {
            return Err(TargetError::Scheme);
        }
        let root = || PathAndQuery::from_static("/");
        let path = request.uri.path_and_query().cloned().unwrap_or_else(root);
        if !path.as_str().starts_with('/') {
            return Err(TargetError::Path);
        }
        if self.prefix.is_empty() {
            return Ok(self.base.clone().with_path(path));
        }
        if leaves_its_folder(path.path()) {
            return Err(TargetError::Path);
        }
        let joined = PathAndQuery::try_from(format!("{}{path}", self.prefix)).map_err(|_| TargetError::Path)?;
        Ok(self.base.clone().with_path(joined))
    }
}

/// Whether some server could take the path for one outside the folder it is appended to.
fn leaves_its_folder(path: &str) -> bool {
    let dots = |segment: &str| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        plain == "." || plain == ".."
    };
    let hidden = ["%2f", "%2F", "%5c", "%5C", "\\"].iter().any(|s| path.contains(s));
    hidden || path.split('/').any(dots)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn run(x: &impl TargetExtractor, request: http::request::Builder) -> Result<String, TargetError> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        x.extract(&mut parts, &TargetParser::new()).map(|t| format!("{t} {:?}", t.style()))
    }

    fn get(uri: &str) -> http::request::Builder {
        Request::builder().uri(uri)
    }

    #[test]
    fn path_prefix_keeps_every_byte_but_the_token() {
        let x = PathPrefix::new("/proxy/").unwrap();
        for (uri, want) in [
            ("/proxy/https://example.com/a?b=c&&d=%2f+", "https://example.com/a?b=c&&d=%2f+"),
            ("/proxy/https:/example.com/a", "https://example.com/a"),
            ("/proxy/https://example.com", "https://example.com/"),
            ("/proxy/https://example.com?x", "https://example.com/?x"),
            ("/proxy/https://example.com/?proxy_token=s&a=b", "https://example.com/?a=b"),
            ("/proxy/https://example.com/?a=b&proxy_token=s", "https://example.com/?a=b"),
            ("/proxy/https://example.com/?proxy_token=s", "https://example.com/"),
            ("/proxy/https://example.com/?proxy_token", "https://example.com/"),
            ("/proxy/https://example.com/?a&proxy_token=s&&b&proxy_token=t", "https://example.com/?a&&b"),
            (
                "/proxy/https://example.com/?xproxy_token=s&proxy_tokens=1&a=proxy_token",
                "https://example.com/?xproxy_token=s&proxy_tokens=1&a=proxy_token",
            ),
            ("/proxy/https://example.com/proxy_token=s", "https://example.com/proxy_token=s"),
            ("/proxy/ws://example.com/a/../b", "ws://example.com/a/../b"),
            ("/proxy/http://[::1]:8080/x|y?a[]={}", "http://[::1]:8080/x|y?a[]={}"),
            ("/proxy/http://127.1:3101/mcp", "http://127.0.0.1:3101/mcp"),
        ] {
            assert_eq!(run(&x, get(uri)), Ok(format!("{want} Path")), "{uri}");
        }
        for (uri, want) in [
            ("/proxy/", TargetError::Missing),
            ("/other", TargetError::Missing),
            ("/proxy/example.com/", TargetError::Scheme),
            ("/proxy//https://example.com/", TargetError::Scheme),
            ("/proxy/https://u@example.com/", TargetError::Userinfo),
            ("/proxy/https:///example.com/", TargetError::Host),
            ("/proxy/file:///etc/passwd", TargetError::Scheme),
        ] {
            assert_eq!(run(&x, get(uri)), Err(want), "{uri}");
        }
        assert!(PathPrefix::new("proxy/").is_err() && PathPrefix::new("/proxy").is_err() && PathPrefix::new("/p?/").is_err());
    }

    #[test]
    fn headers_are_taken_out_and_not_doubled() {
        let x = FromHeader::new("X-Target-Url").unwrap();
        let (mut parts, ()) = get("/forward").header("x-target-url", "https://example.com/").body(()).unwrap().into_parts();
        assert_eq!(x.extract(&mut parts, &TargetParser::new()).unwrap().style(), TargetStyle::Header);
        assert!(parts.headers.is_empty());
        let two = get("/").header("x-target-url", "https://a.example/").header("x-target-url", "https://a.example/");
        assert_eq!(run(&x, two), Err(TargetError::Duplicate));
        assert_eq!(run(&x, get("/")), Err(TargetError::Missing));
        assert_eq!(run(&x, get("/").header("x-target-url", "")), Err(TargetError::Missing));
        assert_eq!(
            run(&x, get("/").header("x-target-url", "https://bücher.example/")),
            Ok("https://xn--bcher-kva.example/ Header".into())
        );
    }

    #[test]
    fn query_parameters_are_decoded_once() {
        let x = FromQuery::new("url");
        assert_eq!(
            run(&x, get("/ws?a=1&url=wss%3A%2F%2Fexample.com%2F%3Fq%3D%2525+1")),
            Ok("wss://example.com/?q=%25+1 Header".into())
        );
        assert_eq!(run(&x, get("/ws?url=wss://example.com/&u%72l=x")), Err(TargetError::Duplicate));
        assert_eq!(run(&x, get("/ws?urls=x")), Err(TargetError::Missing));
        assert_eq!(run(&x, get("/ws?url=")), Err(TargetError::Missing));
        assert_eq!(run(&x, get("/ws?url=https://example.com/%0d%0a")), Err(TargetError::ControlCharacter));
        assert_eq!(run(&x, get("/ws?url=https://example.com/%")), Err(TargetError::Path));
        assert_eq!(run(&x, get("/ws?url=%ff")), Err(TargetError::ControlCharacter));
    }

    #[test]
    fn request_line_forms() {
        assert_eq!(run(&AbsoluteForm, get("http://127.1/x?y")), Ok("http://127.0.0.1/x?y AbsoluteForm".into()));
        assert_eq!(run(&AbsoluteForm, get("/x")), Err(TargetError::Missing));
        assert_eq!(run(&AbsoluteForm, get("http://u:p@example.com/")), Err(TargetError::Userinfo));
        let connect = |uri: &str| Request::builder().method("CONNECT").uri(uri);
        assert_eq!(run(&Connect, connect("example.com:443")), Ok("example.com:443 Connect".into()));
        assert_eq!(run(&Connect, connect("example.com")), Err(TargetError::Port));
        assert_eq!(run(&Connect, get("example.com:443")), Err(TargetError::Missing));
    }

    #[test]
    fn fixed_appends_and_stays_below_its_base() {
        let x = |base: &str| Fixed::new(Target::parse(base).unwrap()).unwrap();
        assert_eq!(run(&x("http://a.example/"), get("/x/../y?q")), Ok("http://a.example/x/../y?q Fixed".into()));
        assert_eq!(run(&x("http://a.example/"), get("ftp://b.example/x")), Err(TargetError::Scheme));
        assert_eq!(run(&x("http://a.example/api/"), get("/x?q")), Ok("http://a.example/api/x?q Fixed".into()));
        assert_eq!(run(&x("http://a.example/api"), get("/x")), Ok("http://a.example/api/x Fixed".into()));
        for bad in ["/../x", "/%2e%2E/x", "/a/..", "/a/%2e./b", "/a%2f..", "/a\\..", "/./x"] {
            assert_eq!(run(&x("http://a.example/api"), get(bad)), Err(TargetError::Path), "{bad}");
        }
        assert!(Fixed::new(Target::parse("http://a.example/?q").unwrap()).is_err());
    }
}
