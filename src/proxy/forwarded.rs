//! What a fixed upstream is told about the client.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Which `X-Forwarded-*` or `Forwarded` fields a target gets. Only for [`TargetStyle::Fixed`]: a target of the caller's choice is
/// told nothing about the client.
///
/// [`TargetStyle::Fixed`]: crate::net::TargetStyle::Fixed
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedFields {
    /// None.
    #[default]
    Off,
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`: appended to what a trusted hop has sent, replaced otherwise.
    XForwarded,
    /// `Forwarded` (RFC 7239), by the same rule.
    Rfc7239,
}

/// Tells a target who is asking, in cleaned fields. `host` is what the client has asked this server for.
pub(super) fn set(headers: &mut HeaderMap, fields: ForwardedFields, peer: IpAddr, host: Option<&HeaderValue>, secure: bool) {
    let proto = if secure { "https" } else { "http" };
    let value = |text: String| HeaderValue::from_maybe_shared(Bytes::from(text)).ok();
    match fields {
        ForwardedFields::Off => {}
        ForwardedFields::XForwarded => {
            headers.remove("forwarded");
            if let Some(peer) = value(peer.to_string()) {
                headers.append(X_FORWARDED_FOR, peer);
            }
            headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(proto));
            if let Some(host) = host {
                headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
            }
        }
        ForwardedFields::Rfc7239 => {
            for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
                headers.remove(name);
            }
            let node = match peer {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("\"[{ip}]\""),
            };
            let host = host.and_then(|h| h.to_str().ok()).map(|h| format!(";host=\"{}\"", h.replace(['"', '\\'], "")));
            if let Some(element) = value(format!("for={node};proto={proto}{}", host.unwrap_or_default())) {
                headers.append(header::FORWARDED, element);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_elements_quote_ipv6() {
        let mut h = HeaderMap::new();
        let host = HeaderValue::from_static("a.example:8000");
        set(&mut h, ForwardedFields::Rfc7239, "2001:db8::1".parse().unwrap(), Some(&host), true);
        assert_eq!(h["forwarded"], "for=\"[2001:db8::1]\";proto=https;host=\"a.example:8000\"");
    }

    #[test]
    fn x_forwarded_appends_the_peer() {
        let mut h = HeaderMap::new();
        h.insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
        set(&mut h, ForwardedFields::XForwarded, "10.0.0.1".parse().unwrap(), None, false);
        let all: Vec<_> = h.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["203.0.113.7", "10.0.0.1"]);
    }
}
