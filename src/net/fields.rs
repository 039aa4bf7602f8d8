//! Which fields belong to one hop, say who is asking, or speak for a whole origin: one table for header and trailer sections.

use http::{HeaderMap, header};

/// Every option of every `Connection` field line, as written; reading only the first line is a known bypass.
pub(crate) fn connection_options(headers: &HeaderMap) -> Vec<Box<str>> {
    let mut options = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        // An option that is not text cannot name a field, so nothing is lost by passing over it.
        for option in String::from_utf8_lossy(line.as_bytes()).split(',') {
            let option = option.trim_matches([' ', '\t']);
            if !option.is_empty() {
                options.push(option.into());
            }
        }
    }
    options
}

/// Fields of one hop (RFC 9110 §7.6.1), in either direction.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "proxy-authentication-info"
    )
}

/// Fields that frame, route, authenticate or describe a message: they do not come behind it (RFC 9110 §6.5.1). Each direction has a
/// few more.
pub(crate) fn belongs_in_head(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "cache-control"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "host"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
    )
}

/// What says where a request comes from, or who is asking: only this server may say so.
pub(crate) fn is_identity(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || name.starts_with("x-ssl-")
        || name.starts_with("ssl-client-")
        || name.starts_with("x-client-cert")
        || name.starts_with("x-original-")
        || matches!(
            name,
            "forwarded"
                | "x-forwarded"
                | "x-real-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "true-client-ip"
                | "cf-connecting-ip"
                | "fastly-client-ip"
                | "client-ip"
                | "client-cert"
                | "client-cert-chain"
                | "x-rewrite-url"
                | "x-proxy-token"
                | "x-target-url"
        )
}

/// Fields by which a target would speak for this server's own origin.
pub(crate) fn speaks_for_our_origin(name: &str) -> bool {
    name.starts_with("access-control-")
        || name.starts_with("ratelimit")
        || name.starts_with("x-ratelimit-")
        || matches!(
            name,
            "set-cookie"
                | "set-cookie2"
                | "clear-site-data"
                | "strict-transport-security"
                | "public-key-pins"
                | "alt-svc"
                | "service-worker-allowed"
                | "nel"
                | "report-to"
                | "reporting-endpoints"
                | "origin-agent-cluster"
                | "refresh"
        )
}
