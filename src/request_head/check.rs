use http::{HeaderMap, HeaderValue, Version, header, request::Parts, uri::Authority};

use crate::{
    context::RequestContext,
    rejection::{Rejection, RejectionKind},
};

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) fields: usize,
    pub(super) bytes: usize,
    pub(super) uri: usize,
    pub(super) host: bool,
}

/// What [`check`] looks at.
pub(super) struct Head<'a> {
    pub(super) uri: &'a http::Uri,
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
    /// The server has found a fault that no field shows.
    pub(super) malformed: bool,
}

impl<'a> From<&'a Parts> for Head<'a> {
    fn from(parts: &'a Parts) -> Self {
        let malformed = RequestContext::of(&parts.extensions).is_some_and(RequestContext::is_malformed);
        Self { uri: &parts.uri, version: parts.version, headers: &parts.headers, malformed }
    }
}

pub(super) fn check(limits: &Limits, head: &Head<'_>) -> Result<(), Rejection> {
    if head.malformed {
        return Err(Rejection::new(RejectionKind::MalformedRequest)
            .with_reason("framing")
            .with_public_detail("the request line has a fragment, or the chunked framing is not by RFC 9112"));
    }
    let uri = head.uri.path_and_query().map_or(0, |p| p.as_str().len()) + head.uri.authority().map_or(0, |a| a.as_str().len());
    if uri > limits.uri {
        return Err(Rejection::new(RejectionKind::UriTooLong));
    }
    // One walk for everything that the fields decide: each look-up by name would hash it.
    let (mut bytes, mut seen) = (0, Seen::default());
    for (name, value) in head.headers {
        // `: ` and the line end belong to each line (RFC 9112 §5).
        bytes += name.as_str().len() + value.len() + 4;
        if *name == header::HOST {
            seen.hosts += 1;
            seen.host = Some(value);
        } else if *name == header::EXPECT {
            seen.expects += 1;
            seen.expect = Some(value);
        }
    }
    if head.headers.len() > limits.fields || bytes > limits.bytes {
        return Err(Rejection::new(RejectionKind::HeadersTooLarge));
    }
    if limits.host {
        check_host(head, &seen)?;
    }
    check_expect(&seen)
}

/// The fields that are looked at, and how often they came.
#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a HeaderValue>,
    hosts: usize,
    expect: Option<&'a HeaderValue>,
    expects: usize,
}

fn check_host(head: &Head<'_>, seen: &Seen<'_>) -> Result<(), Rejection> {
    let bad =
        |reason, detail| Err(Rejection::new(RejectionKind::MalformedRequest).with_reason(reason).with_public_detail(detail));
    match seen.host {
        _ if seen.hosts > 1 => bad("host_duplicate", "more than one Host field"),
        None if head.version == Version::HTTP_11 => bad("host_missing", "no Host field"),
        None => Ok(()),
        Some(host) => {
            if !is_host(host) {
                return bad("host_invalid", "the Host field is not valid");
            }
            let differs = head.version == Version::HTTP_2
                && head.uri.authority().is_some_and(|a| !a.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()));
            if differs { bad("host_differs", "Host and :authority differ") } else { Ok(()) }
        }
    }
}

/// `uri-host [ ":" port ]` without user information (RFC 9110 §7.2). It may be empty only where the target has no authority,
/// which no target that is served here lacks.
fn is_host(value: &HeaderValue) -> bool {
    // Most hosts are plain names; the general parser is for the rest.
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let bytes = value.as_bytes();
    let end = bytes.iter().position(|b| !plain(b)).unwrap_or(bytes.len());
    match bytes.get(end..) {
        Some([]) if end > 0 => return true,
        Some([b':', port @ ..]) if end > 0 && port.len() <= 5 && port.iter().all(u8::is_ascii_digit) => return true,
        _ => {}
    }
    let Ok(text) = value.to_str() else { return false };
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port_ok = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|p| p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit())),
        None => false,
    };
    port_ok && !authority.host().is_empty()
}

fn check_expect(seen: &Seen<'_>) -> Result<(), Rejection> {
    let good = seen.expect.is_none_or(|value| seen.expects == 1 && value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if good { Ok(()) } else { Err(Rejection::new(RejectionKind::ExpectationFailed)) }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LIMITS: Limits = Limits { fields: 100, bytes: 64 * 1024, uri: 8 * 1024, host: true };

    fn kind(request: http::request::Builder) -> Option<&'static str> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&LIMITS, &Head::from(&parts)).err().map(|r| r.reason())
    }

    fn get() -> http::request::Builder {
        Request::get("/").version(Version::HTTP_11)
    }

    #[test]
    fn hosts() {
        for good in
            ["example.com", "example.com:8080", "127.0.0.1", "[::1]", "[2001:db8::1]:443", "a_b.example", "EXAMPLE.com.", "x:"]
        {
            assert_eq!(kind(get().header("host", good)), None, "{good}");
        }
        for bad in
            ["", "a b", "user@example.com", "example.com:x", "example.com:123456", "a/b", "[::1", "a,b c", "http://x", ":80", "é"]
        {
            assert_eq!(kind(get().header("host", bad)), Some("host_invalid"), "{bad}");
        }
        assert_eq!(kind(get()), Some("host_missing"));
        assert_eq!(kind(get().header("host", "a").header("host", "a")), Some("host_duplicate"));
        assert_eq!(kind(Request::get("/").version(Version::HTTP_10)), None);
        let h2 = || Request::get("https://example.com/").version(Version::HTTP_2);
        assert_eq!(kind(h2()), None);
        assert_eq!(kind(h2().header("host", "Example.com")), None);
        assert_eq!(kind(h2().header("host", "other.example")), Some("host_differs"));
    }

    #[test]
    fn sizes() {
        let many = |n| (0..n).fold(get().header("host", "a"), |r, i| r.header(format!("x-{i}"), "v"));
        assert_eq!(kind(many(99)), None);
        assert_eq!(kind(many(100)), Some("headers_too_large"));
        let big = |n| get().header("host", "a").header("x", "v".repeat(n));
        assert_eq!(kind(big(65_536 - 14)), None);
        assert_eq!(kind(big(65_536)), Some("headers_too_large"));
        let long = |n: usize| Request::get(format!("/{}", "a".repeat(n - 1))).version(Version::HTTP_11).header("host", "a");
        assert_eq!(kind(long(8192)), None);
        assert_eq!(kind(long(8193)), Some("uri_too_long"));
    }

    #[test]
    fn expectations() {
        let expect = |v: &'static str| get().header("host", "a").header("expect", v);
        assert_eq!(kind(expect("100-Continue")), None);
        assert_eq!(kind(expect("200-ok")), Some("expectation_failed"));
        assert_eq!(kind(expect("100-continue").header("expect", "100-continue")), Some("expectation_failed"));
    }
}
