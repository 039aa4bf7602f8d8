//! One sanitiser for both directions: what crosses the proxy, decided by one table.
//!
//! Strip first, set afterwards: fields that this server sets are never taken from the other side, nor can `Connection` take them
//! away again (CVE-2022-31813, CVE-2021-32813, CVE-2024-45410 come from the other order).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use crate::{
    net::{TargetStyle, connection_options, is_hop_by_hop, is_identity, speaks_for_our_origin},
    rejection::{PROXY_STATUS, Rejection, RejectionKind},
    wire::field_has_token,
};

/// What a browser adds about the page that is asking; official servers answer 403 or 421 to a foreign one.
fn is_browser_metadata(name: &str) -> bool {
    matches!(name, "origin" | "referer" | "cookie" | "cookie2" | "dnt")
        || name.starts_with("access-control-")
        || (name.starts_with("sec-") && !name.starts_with("sec-websocket-"))
}

/// Names that a `Connection` option must not take away, because framing, routing or a decision hangs on them.
fn is_protected(name: &str) -> bool {
    is_identity(name)
        || matches!(
            name,
            "host"
                | "content-length"
                | "content-type"
                | "content-encoding"
                | "authorization"
                | "cookie"
                | "cache-control"
                | "via"
                | "expect"
                | "date"
                | "max-forwards"
                | "origin"
        )
}

/// Another spelling of a name that matters: some servers read `X_Forwarded_For` and `X.Forwarded.For` as the real one.
fn is_alias(name: &str) -> bool {
    if !name.bytes().any(|b| b == b'_' || b == b'.') {
        return false;
    }
    let plain = name.replace(['_', '.'], "-");
    is_identity(&plain) || is_hop_by_hop(&plain) || is_protected(&plain)
}

/// Names that most messages consist of, and that no rule here is about. A message of nothing else needs no second look.
static PLAIN: [HeaderName; 16] = [
    header::HOST,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::ACCEPT,
    header::DATE,
    header::USER_AGENT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::SERVER,
    header::VARY,
    header::ETAG,
    HeaderName::from_static("mcp-session-id"),
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("last-event-id"),
];

fn is_all_plain(headers: &HeaderMap) -> bool {
    headers.keys().all(|name| PLAIN.contains(name))
}

/// Removes every field for which `doomed` holds, without a list on the side: there are few of them in an honest message.
fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| doomed(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Whether a target of that style is chosen by the caller and answered on this server's own origin.
pub(crate) fn is_gateway(style: TargetStyle) -> bool {
    matches!(style, TargetStyle::Path | TargetStyle::Header)
}

/// `Via` entries of this deployment.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pseudonym: Box<[u8]>,
    http1: HeaderValue,
    http2: HeaderValue,
    http10: HeaderValue,
}

impl Via {
    pub(crate) fn new(pseudonym: &str) -> Option<Self> {
        let line = |version: &str| HeaderValue::from_maybe_shared(Bytes::from(format!("{version} {pseudonym}"))).ok();
        Some(Self { pseudonym: pseudonym.as_bytes().into(), http1: line("1.1")?, http2: line("2.0")?, http10: line("1.0")? })
    }

    /// The entry for a message that came in as `version`.
    pub(crate) fn entry(&self, version: Version) -> HeaderValue {
        match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 | Version::HTTP_09 => &self.http10,
            _ => &self.http1,
        }
        .clone()
    }

    fn seen_in(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::VIA).iter().any(|v| memchr::memmem::find(v.as_bytes(), &self.pseudonym).is_some())
    }
}

/// Cleans the head of a request. Nothing is set yet but `Via`.
pub(crate) fn request(
    headers: &mut HeaderMap,
    method: &Method,
    version: Version,
    style: TargetStyle,
    via: &Via,
    keep_forwarded: bool,
) -> Result<(), Rejection> {
    if is_all_plain(headers) {
        headers.append(header::VIA, via.entry(version));
        return Ok(());
    }
    if via.seen_in(headers) {
        return Err(Rejection::new(RejectionKind::Loop));
    }
    check_coding(headers)?;
    let wants_trailers = field_has_token(headers, &header::TE, b"trailers");
    if headers.contains_key(header::CONNECTION) {
        for option in connection_options(headers) {
            let option = option.to_ascii_lowercase();
            if matches!(option.as_str(), "close" | "keep-alive" | "upgrade" | "te") {
                continue;
            }
            if is_protected(&option) || is_alias(&option) {
                return Err(Rejection::new(RejectionKind::MalformedRequest)
                    .with_reason("connection_option")
                    .with_public_detail("the Connection field names a field that may not be removed"));
            }
            if let Ok(name) = HeaderName::from_bytes(option.as_bytes()) {
                headers.remove(name);
            }
        }
    }
    let gateway = is_gateway(style);
    remove_where(headers, |name| {
        is_hop_by_hop(name)
            || (is_identity(name)
                && !(keep_forwarded && name.starts_with("x-forwarded-"))
                && !(keep_forwarded && name == "forwarded"))
            || is_alias(name)
            || (gateway && is_browser_metadata(name))
    });
    check_expect(headers)?;
    check_max_forwards(headers, method)?;
    if wants_trailers {
        // To HTTP/1.1 only together (RFC 9110 §10.1.4); the HTTP/2 sender drops `Connection` again.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    headers.append(header::VIA, via.entry(version));
    Ok(())
}

/// RFC 9112 §6.1: one coding, `chunked`, once. hyper looks at the last one only, and the bytes under another would lose their label.
fn check_coding(headers: &HeaderMap) -> Result<(), Rejection> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Rejection::new(RejectionKind::MalformedRequest)
            .with_reason("transfer_coding")
            .with_public_detail("the transfer coding is not `chunked`, once")),
    }
}

fn check_expect(headers: &HeaderMap) -> Result<(), Rejection> {
    let mut lines = headers.get_all(header::EXPECT).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(Rejection::new(RejectionKind::ExpectationFailed)),
    }
}

/// RFC 9110 §7.6.2: counted down for `OPTIONS` (and `TRACE`, which is not forwarded at all); zero is answered by the caller.
fn check_max_forwards(headers: &mut HeaderMap, method: &Method) -> Result<(), Rejection> {
    if *method != Method::OPTIONS {
        return Ok(());
    }
    let Some(value) = headers.get(header::MAX_FORWARDS) else { return Ok(()) };
    let hops = value.to_str().ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit())).and_then(|v| v.parse::<u32>().ok());
    match hops {
        Some(hops) if hops > 0 => {
            headers.insert(header::MAX_FORWARDS, HeaderValue::from(hops - 1));
            Ok(())
        }
        _ => Err(Rejection::new(RejectionKind::MalformedRequest).with_public_detail("Max-Forwards is not a number")),
    }
}

/// Whether an `OPTIONS` ends here: `Max-Forwards: 0`.
pub(crate) fn is_last_hop(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.get(header::MAX_FORWARDS).is_some_and(|v| v.as_bytes() == b"0")
}

/// Cleans the head of a response.
pub(crate) fn response(headers: &mut HeaderMap, status: StatusCode, style: TargetStyle) {
    let gateway = is_gateway(style);
    if !is_all_plain(headers) {
        // A Content-Length beside a Transfer-Encoding is not to be believed.
        if headers.contains_key(header::TRANSFER_ENCODING) {
            headers.remove(header::CONTENT_LENGTH);
        }
        if headers.contains_key(header::CONNECTION) {
            for option in connection_options(headers) {
                if let Ok(name) = HeaderName::from_bytes(option.as_bytes()) {
                    headers.remove(name);
                }
            }
        }
        let ours = style != TargetStyle::AbsoluteForm;
        remove_where(headers, |name| {
            is_hop_by_hop(name) || (gateway && speaks_for_our_origin(name)) || (ours && name == PROXY_STATUS.as_str())
        });
    }
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        headers.remove(header::CONTENT_LENGTH);
    }
    if gateway {
        // A page from a target must not run as script on this server's origin (CVE-2025-58444).
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn via() -> Via {
        Via::new("test-7f3a").unwrap()
    }

    fn clean(headers: &mut HeaderMap, style: TargetStyle) -> Result<(), Rejection> {
        request(headers, &Method::GET, Version::HTTP_11, style, &via(), false)
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn hop_by_hop_and_named_fields_go_whatever_line_they_are_named_on() {
        let mut h = map(&[
            ("connection", "close"),
            ("connection", "X-One, x-TWO"),
            ("connection", ""),
            ("x-one", "1"),
            ("x-two", "2"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("te", "gzip"),
            ("proxy-authorization", "Basic x"),
            ("x-kept", "3"),
        ]);
        clean(&mut h, TargetStyle::Header).unwrap();
        let mut names: Vec<_> = h.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["via", "x-kept"]);
    }

    #[test]
    fn cve_2022_31813_connection_cannot_remove_what_decisions_hang_on() {
        for name in ["x-forwarded-for", "Host", "content-length", "authorization", "X_Forwarded_For", "via"] {
            let mut h = map(&[("connection", &format!("close, {name}")), ("x-forwarded-for", "1.2.3.4")]);
            assert_eq!(clean(&mut h, TargetStyle::Fixed).unwrap_err().kind(), RejectionKind::MalformedRequest, "{name}");
        }
    }

    #[test]
    fn aliases_and_identity_fields_never_come_from_outside() {
        let mut h = map(&[
            ("x_forwarded_for", "1.2.3.4"),
            ("x.real.ip", "1.2.3.4"),
            ("client-cert", ":x:"),
            ("x-forwarded-client-cert", "x"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("my_own.header", "stays"),
        ]);
        clean(&mut h, TargetStyle::Fixed).unwrap();
        let mut names: Vec<_> = h.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["my_own.header", "via"]);
    }

    #[test]
    fn browser_metadata_stays_here_for_targets_of_the_callers_choice() {
        let lines =
            [("origin", "https://a"), ("cookie", "a=b"), ("sec-fetch-site", "x"), ("sec-websocket-key", "k"), ("accept", "*/*")];
        let mut h = map(&lines);
        clean(&mut h, TargetStyle::Path).unwrap();
        let mut names: Vec<_> = h.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "sec-websocket-key", "via"]);
        let mut h = map(&lines);
        clean(&mut h, TargetStyle::AbsoluteForm).unwrap();
        assert_eq!(h.len(), lines.len() + 1);
    }

    /// The short way must not lead past a rule.
    #[test]
    fn no_rule_is_about_plain_names() {
        for name in &PLAIN {
            let name = name.as_str();
            assert!(!is_hop_by_hop(name) && !is_identity(name) && !is_alias(name) && !is_browser_metadata(name), "{name}");
            assert!(!speaks_for_our_origin(name) && name != PROXY_STATUS.as_str(), "{name}");
            assert!(!["via", "te", "transfer-encoding", "connection", "expect", "max-forwards", "trailer"].contains(&name));
        }
    }

    #[test]
    fn our_own_via_is_a_loop_and_others_are_kept() {
        let mut h = map(&[("via", "1.1 other"), ("via", "1.0 proxy, 1.1 more")]);
        clean(&mut h, TargetStyle::Header).unwrap();
        assert_eq!(h.get_all("via").iter().collect::<Vec<_>>(), ["1.1 other", "1.0 proxy, 1.1 more", "1.1 test-7f3a"]);
        assert_eq!(clean(&mut h, TargetStyle::Header).unwrap_err().kind(), RejectionKind::Loop);
    }

    #[test]
    fn trailers_are_asked_for_only_together_with_connection_te() {
        let mut h = map(&[("te", "gzip;q=0.5, Trailers")]);
        clean(&mut h, TargetStyle::Header).unwrap();
        assert_eq!((h["te"].as_bytes(), h["connection"].as_bytes()), (&b"trailers"[..], &b"te"[..]));
    }

    #[test]
    fn one_transfer_coding_once() {
        for good in [&[][..], &[("transfer-encoding", "chunked")], &[("transfer-encoding", " Chunked ")]] {
            clean(&mut map(good), TargetStyle::Fixed).unwrap();
        }
        for bad in ["chunked, chunked", "gzip, chunked", "identity", "", "chunked;q=1"] {
            let refused = clean(&mut map(&[("transfer-encoding", bad)]), TargetStyle::Fixed).unwrap_err();
            assert_eq!(refused.kind(), RejectionKind::MalformedRequest, "{bad}");
        }
        assert!(
            clean(&mut map(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), TargetStyle::Fixed).is_err()
        );
    }

    #[test]
    fn expectations_and_max_forwards() {
        for (lines, want) in [
            (&[("expect", "100-Continue")][..], None),
            (&[("expect", "200-ok")], Some(RejectionKind::ExpectationFailed)),
            (&[("expect", "100-continue"), ("expect", "100-continue")], Some(RejectionKind::ExpectationFailed)),
        ] {
            assert_eq!(clean(&mut map(lines), TargetStyle::Header).err().map(|r| r.kind()), want);
        }
        let mut h = map(&[("max-forwards", "7")]);
        request(&mut h, &Method::OPTIONS, Version::HTTP_11, TargetStyle::Fixed, &via(), false).unwrap();
        assert_eq!(h["max-forwards"], "6");
        for bad in ["x", "-1", "99999999999", ""] {
            let mut h = map(&[("max-forwards", bad)]);
            assert!(request(&mut h, &Method::OPTIONS, Version::HTTP_11, TargetStyle::Fixed, &via(), false).is_err(), "{bad}");
        }
        assert!(is_last_hop(&Method::OPTIONS, &map(&[("max-forwards", "0")])));
    }

    #[test]
    fn a_target_does_not_speak_for_our_origin() {
        let lines = [
            ("set-cookie", "a=b"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3"),
            ("clear-site-data", "\"*\""),
            ("access-control-allow-origin", "*"),
            ("proxy-status", "evil; error=dns_error"),
            ("ratelimit", "\"x\";r=1"),
            ("proxy-authenticate", "Basic"),
            ("connection", "x-named"),
            ("x-named", "1"),
            ("etag", "\"1\""),
        ];
        let mut h = map(&lines);
        response(&mut h, StatusCode::OK, TargetStyle::Path);
        let mut names: Vec<_> = h.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-security-policy", "etag", "x-content-type-options"]);
        let mut h = map(&lines);
        response(&mut h, StatusCode::OK, TargetStyle::Fixed);
        assert!(h.contains_key("set-cookie") && !h.contains_key("x-named") && !h.contains_key("proxy-authenticate"));
    }

    #[test]
    fn framing_of_responses() {
        let mut h = map(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        response(&mut h, StatusCode::OK, TargetStyle::Fixed);
        assert!(h.is_empty());
        let mut h = map(&[("content-length", "5")]);
        response(&mut h, StatusCode::NO_CONTENT, TargetStyle::Fixed);
        assert!(h.is_empty());
        let mut h = map(&[("content-length", "5")]);
        response(&mut h, StatusCode::NOT_MODIFIED, TargetStyle::Fixed);
        assert_eq!(h["content-length"], "5");
    }

    proptest! {
        #[test]
        fn no_field_named_in_connection_survives(
            names in proptest::collection::vec("[A-Za-z][A-Za-z0-9-]{0,12}", 1..8),
            lines in 1usize..4,
            spaces in " {0,2}",
        ) {
            let mut h = HeaderMap::new();
            for (i, name) in names.iter().enumerate() {
                h.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "v".parse().unwrap());
                if i % lines == 0 {
                    let list: Vec<String> = names[i..].iter().map(|n| format!("{spaces}{n}{spaces}")).collect();
                    h.append(header::CONNECTION, list.join(",").parse().unwrap());
                }
            }
            let mut up = h.clone();
            if clean(&mut up, TargetStyle::Fixed).is_ok() {
                for name in &names {
                    let ours = name.eq_ignore_ascii_case("te") || name.eq_ignore_ascii_case("via");
                    prop_assert!(ours || !up.contains_key(name.as_str()), "{}", name);
                }
            }
            response(&mut h, StatusCode::OK, TargetStyle::Fixed);
            for name in &names {
                prop_assert!(!h.contains_key(name.as_str()), "{}", name);
            }
        }
    }
}
