//! Every refusal and failure that this crate answers itself, in one table.
//!
//! | kind | status | Proxy-Status error | reason |
//! |---|---|---|---|
//! | `Unauthenticated` | 401 | `http_request_denied` | `unauthenticated` |
//! | `ProxyUnauthenticated` | 407 | `http_request_denied` | `proxy_unauthenticated` |
//! | `Denied` | 403 | `http_request_denied` | `denied` |
//! | `ClientDenied` | 403 | `http_request_denied` | `client_denied` |
//! | `OriginDenied` | 403 | `http_request_error` | `origin_denied` |
//! | `Misdirected` | 421 | `http_request_error` | `misdirected` |
//! | `RateLimited` | 429 | `http_request_denied` | `rate_limited` |
//! | `ConcurrencyLimited` | 429 | `http_request_denied` | `concurrency_limited` |
//! | `Saturated` | 503 | `connection_limit_reached` | `saturated` |
//! | `Draining` | 503 | `destination_unavailable` | `draining` |
//! | `MalformedTarget` | 400 | `http_request_error` | `malformed_target` |
//! | `MalformedRequest` | 400 | `http_request_error` | `malformed_request` |
//! | `NotFound` | 404 | `http_request_error` | `not_found` |
//! | `MethodNotAllowed` | 405 | `http_request_error` | `method_not_allowed` |
//! | `RequestTimeout` | 408 | `http_request_error` | `request_timeout` |
//! | `BodyTooLarge` | 413 | `http_request_error` | `body_too_large` |
//! | `UriTooLong` | 414 | `http_request_error` | `uri_too_long` |
//! | `ExpectationFailed` | 417 | `http_request_error` | `expectation_failed` |
//! | `UpgradeRequired` | 426 | `http_request_error` | `upgrade_required` |
//! | `HeadersTooLarge` | 431 | `http_request_error` | `headers_too_large` |
//! | `NotImplemented` | 501 | `http_request_error` | `not_implemented` |
//! | `DnsFailed` | 502 | `dns_error` | `dns_failed` |
//! | `ConnectFailed` | 502 | `connection_refused` | `connect_failed` |
//! | `TlsFailed` | 502 | `tls_protocol_error` | `tls_failed` |
//! | `ConnectionTerminated` | 502 | `connection_terminated` | `connection_terminated` |
//! | `BadResponse` | 502 | `http_protocol_error` | `bad_response` |
//! | `UpgradeFailed` | 502 | `http_upgrade_failed` | `upgrade_failed` |
//! | `ResponseHeadersTooLarge` | 502 | `http_response_header_section_size` | `response_headers_too_large` |
//! | `ResponseTooLarge` | 502 | `http_response_body_size` | `response_too_large` |
//! | `DnsTimeout` | 504 | `dns_timeout` | `dns_timeout` |
//! | `ConnectTimeout` | 504 | `connection_timeout` | `connect_timeout` |
//! | `HeaderTimeout` | 504 | `http_response_timeout` | `header_timeout` |
//! | `TotalTimeout` | 504 | `http_response_timeout` | `total_timeout` |
//! | `Loop` | 508 | `proxy_loop_detected` | `loop` |
//! | `Misconfigured` | 500 | `proxy_configuration_error` | `misconfigured` |
//! | `Internal` | 500 | `proxy_internal_error` | `internal` |
//!
//! Statuses follow RFC 9110 §15, errors RFC 9209 §2.3. The client sees `destination_unavailable` instead of `dns_error`,
//! `connection_refused` and `tls_protocol_error`, unless the operator asks for the difference: it draws a map of the network.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::body::ResponseBody;

// The registered problem types (RFC 9457 §4.2), as text that `concat!` takes.
macro_rules! quota_exceeded {
    () => {
        "https://iana.org/assignments/http-problem-types#quota-exceeded"
    };
}
macro_rules! reduced_capacity {
    () => {
        "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    };
}

macro_rules! table {
    ($($(#[$doc:meta])* $kind:ident $status:ident $code:literal $proxy_status:literal $reason:literal $title:literal;)*) => {
        /// What kind of refusal or failure it is. The table is in the module's documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RejectionKind { $($(#[$doc])* $kind,)* }

        impl RejectionKind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The kind's name, as in the table.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$kind => stringify!($kind),)* } }

            /// The status of the answer (RFC 9110 §15).
            #[must_use]
            pub fn status(self) -> StatusCode { match self { $(Self::$kind => StatusCode::$status,)* } }

            /// The `error` parameter of Proxy-Status (RFC 9209 §2.3).
            #[must_use]
            pub fn proxy_status(self) -> &'static str { match self { $(Self::$kind => $proxy_status,)* } }

            /// `Proxy-Status` for the client, written beforehand: refusing is to be as cheap as admitting.
            fn public_field(self) -> HeaderValue {
                if matches!(self, Self::DnsFailed | Self::ConnectFailed | Self::TlsFailed) {
                    return const { HeaderValue::from_static("portcullis; error=destination_unavailable") };
                }
                match self {
                    $(Self::$kind => const { HeaderValue::from_static(concat!("portcullis; error=", $proxy_status)) },)*
                }
            }

            /// The problem document where there is nothing to say beyond the kind, written beforehand.
            fn plain_problem(self) -> &'static str {
                if self == Self::RateLimited {
                    return concat!(r#"{"type":""#, quota_exceeded!(), r#"","title":"Quota exceeded","status":429}"#);
                }
                if self == Self::Saturated {
                    return concat!(r#"{"type":""#, reduced_capacity!(), r#"","title":"Temporarily at capacity","status":503}"#);
                }
                match self {
                    $(Self::$kind => concat!(r#"{"type":"about:blank","title":""#, $title, r#"","status":"#, $code, "}"),)*
                }
            }

            /// The default reason for logs and metrics.
            #[must_use]
            pub fn reason(self) -> &'static str { match self { $(Self::$kind => $reason,)* } }

            /// The title of the problem document (RFC 9457 §3.1.3).
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$kind => $title,)* } }
        }
    };
}

table! {
    /// No valid credential; all causes look the same.
    Unauthenticated UNAUTHORIZED 401 "http_request_denied" "unauthenticated" "Authentication required";
    /// The same where this server is asked as a forward proxy.
    ProxyUnauthenticated PROXY_AUTHENTICATION_REQUIRED 407 "http_request_denied" "proxy_unauthenticated" "Proxy authentication required";
    /// The target may not be reached, or its name does not exist; all causes look the same.
    Denied FORBIDDEN 403 "http_request_denied" "denied" "Target not allowed";
    /// The client's network may not use this server.
    ClientDenied FORBIDDEN 403 "http_request_denied" "client_denied" "Client not allowed";
    /// The `Origin` is not on the list.
    OriginDenied FORBIDDEN 403 "http_request_error" "origin_denied" "Origin not allowed";
    /// The `Host` is not one of this server's.
    Misdirected MISDIRECTED_REQUEST 421 "http_request_error" "misdirected" "Host not served here";
    /// A quota is used up.
    RateLimited TOO_MANY_REQUESTS 429 "http_request_denied" "rate_limited" "Quota exceeded";
    /// Too many requests of one key at the same time.
    ConcurrencyLimited TOO_MANY_REQUESTS 429 "http_request_denied" "concurrency_limited" "Too many concurrent requests";
    /// The server as a whole is at its limit.
    Saturated SERVICE_UNAVAILABLE 503 "connection_limit_reached" "saturated" "Temporarily at capacity";
    /// The server is shutting down.
    Draining SERVICE_UNAVAILABLE 503 "destination_unavailable" "draining" "Shutting down";
    /// The target is not a URL that can be fetched.
    MalformedTarget BAD_REQUEST 400 "http_request_error" "malformed_target" "Malformed target";
    /// Something else in the request is wrong.
    MalformedRequest BAD_REQUEST 400 "http_request_error" "malformed_request" "Malformed request";
    /// Nothing is served under this path.
    NotFound NOT_FOUND 404 "http_request_error" "not_found" "Not found";
    /// The method is not served here.
    MethodNotAllowed METHOD_NOT_ALLOWED 405 "http_request_error" "method_not_allowed" "Method not allowed";
    /// The client was too slow to send its request.
    RequestTimeout REQUEST_TIMEOUT 408 "http_request_error" "request_timeout" "Request timeout";
    /// The request body is larger than the limit.
    BodyTooLarge PAYLOAD_TOO_LARGE 413 "http_request_error" "body_too_large" "Request body too large";
    /// The request target is longer than the limit.
    UriTooLong URI_TOO_LONG 414 "http_request_error" "uri_too_long" "Request target too long";
    /// An `Expect` other than `100-continue`.
    ExpectationFailed EXPECTATION_FAILED 417 "http_request_error" "expectation_failed" "Expectation failed";
    /// The route is for WebSocket upgrades only.
    UpgradeRequired UPGRADE_REQUIRED 426 "http_request_error" "upgrade_required" "Upgrade required";
    /// The header section is larger than the limit.
    HeadersTooLarge REQUEST_HEADER_FIELDS_TOO_LARGE 431 "http_request_error" "headers_too_large" "Request header section too large";
    /// The method or transfer coding is not implemented.
    NotImplemented NOT_IMPLEMENTED 501 "http_request_error" "not_implemented" "Not implemented";
    /// The name server failed (not: the name does not exist).
    DnsFailed BAD_GATEWAY 502 "dns_error" "dns_failed" "Target not reachable";
    /// No connection could be opened.
    ConnectFailed BAD_GATEWAY 502 "connection_refused" "connect_failed" "Target not reachable";
    /// The TLS handshake with the target failed.
    TlsFailed BAD_GATEWAY 502 "tls_protocol_error" "tls_failed" "Target not reachable";
    /// The target closed the connection before it answered.
    ConnectionTerminated BAD_GATEWAY 502 "connection_terminated" "connection_terminated" "Target closed the connection";
    /// The target's answer is not HTTP that can be forwarded.
    BadResponse BAD_GATEWAY 502 "http_protocol_error" "bad_response" "Invalid answer from the target";
    /// The target's answer to an upgrade is not a valid one.
    UpgradeFailed BAD_GATEWAY 502 "http_upgrade_failed" "upgrade_failed" "Upgrade failed at the target";
    /// The target's header section is larger than the limit.
    ResponseHeadersTooLarge BAD_GATEWAY 502 "http_response_header_section_size" "response_headers_too_large" "Answer from the target too large";
    /// The target's body is larger than the limit.
    ResponseTooLarge BAD_GATEWAY 502 "http_response_body_size" "response_too_large" "Answer from the target too large";
    /// The name server did not answer in time.
    DnsTimeout GATEWAY_TIMEOUT 504 "dns_timeout" "dns_timeout" "Target did not answer in time";
    /// No connection in time.
    ConnectTimeout GATEWAY_TIMEOUT 504 "connection_timeout" "connect_timeout" "Target did not answer in time";
    /// No response header section in time.
    HeaderTimeout GATEWAY_TIMEOUT 504 "http_response_timeout" "header_timeout" "Target did not answer in time";
    /// The whole exchange took longer than the operator allows; the error is the one for a complete response (RFC 9209 §2.3.11).
    TotalTimeout GATEWAY_TIMEOUT 504 "http_response_timeout" "total_timeout" "No complete answer in time";
    /// The request has been here before.
    Loop LOOP_DETECTED 508 "proxy_loop_detected" "loop" "Loop detected";
    /// A layer that has to run before is missing from the stack.
    Misconfigured INTERNAL_SERVER_ERROR 500 "proxy_configuration_error" "misconfigured" "Server misconfigured";
    /// A fault of this server.
    Internal INTERNAL_SERVER_ERROR 500 "proxy_internal_error" "internal" "Internal error";
}

impl RejectionKind {
    /// What the client is told unless the operator asks for more: which of the ways a target is out of reach is not its business.
    #[must_use]
    pub fn public_proxy_status(self) -> &'static str {
        match self {
            Self::DnsFailed | Self::ConnectFailed | Self::TlsFailed => "destination_unavailable",
            other => other.proxy_status(),
        }
    }
}

/// A refusal or failure: a response that this crate makes itself. It is put into the response's extensions, so that outer
/// layers (audit, metrics, another error format) see the typed cause.
/// One pointer in size: the decisions of layers return it in a `Result` on every request.
#[derive(Clone, Debug)]
pub struct Rejection(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: RejectionKind,
    reason: &'static str,
    proxy_status: Option<&'static str>,
    retry_after: Option<Duration>,
    public_detail: Option<Cow<'static, str>>,
    detail: Option<Box<str>>,
    challenge: Option<HeaderValue>,
    violated: Option<Arc<[Arc<str>]>>,
    exposed: bool,
}

/// The name under which this crate reports in `Proxy-Status` and `Via` unless told otherwise.
pub const DEFAULT_PSEUDONYM: &str = "portcullis";

impl Rejection {
    /// A rejection of a kind, with the kind's own reason.
    #[must_use]
    #[cold]
    pub fn new(kind: RejectionKind) -> Self {
        Self(Box::new(Inner {
            kind,
            reason: kind.reason(),
            proxy_status: None,
            retry_after: None,
            public_detail: None,
            detail: None,
            challenge: None,
            violated: None,
            exposed: false,
        }))
    }

    /// A more exact reason for audit and metrics: a documented `snake_case` word. The client never sees it.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.0.reason = reason;
        self
    }

    /// A more exact Proxy-Status error for audit; the client sees it only together with [`Self::exposed`].
    #[must_use]
    pub fn with_proxy_status(mut self, error: &'static str) -> Self {
        self.0.proxy_status = Some(error);
        self
    }

    /// A sentence for the client: it must be constant or about the client's own input, and never echo it raw.
    #[must_use]
    pub fn with_public_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.public_detail = Some(detail.into());
        self
    }

    /// A sentence for the operator: addresses and error texts may be in it, secrets may not.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// When the client may come back; sent as `Retry-After` in whole seconds, rounded up, at least 1.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// The `WWW-Authenticate` (or, for 407, `Proxy-Authenticate`) value.
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// The names of the quota policies that refused (`violated-policies` of the problem document).
    #[must_use]
    pub fn with_violated_policies(mut self, names: impl Into<Arc<[Arc<str>]>>) -> Self {
        self.0.violated = Some(names.into());
        self
    }

    /// Tells the client everything: the exact Proxy-Status error and the operator's detail. The operator's explicit choice.
    #[must_use]
    pub fn exposed(mut self) -> Self {
        self.0.exposed = true;
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> RejectionKind {
        self.0.kind
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.kind.status()
    }

    /// The exact reason, for audit and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The exact Proxy-Status error, for audit.
    #[must_use]
    pub fn proxy_status(&self) -> &'static str {
        self.0.proxy_status.unwrap_or_else(|| self.0.kind.proxy_status())
    }

    /// The operator's detail, for audit.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// `Retry-After` in seconds, if there is one.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.0.retry_after.map(|d| (d.as_secs() + u64::from(d.subsec_nanos() > 0)).max(1))
    }

    /// The sentence for the client: the problem document's `detail`.
    #[must_use]
    pub fn public_detail(&self) -> Option<&str> {
        if self.0.exposed && self.0.detail.is_some() { self.0.detail.as_deref() } else { self.0.public_detail.as_deref() }
    }

    /// The problem document (RFC 9457).
    #[must_use]
    pub fn problem_json(&self) -> Bytes {
        if self.public_detail().is_none() && self.0.violated.is_none() {
            return Bytes::from_static(self.0.kind.plain_problem().as_bytes());
        }
        self.full_problem()
    }

    fn full_problem(&self) -> Bytes {
        let kind = match self.0.kind {
            RejectionKind::RateLimited => quota_exceeded!(),
            RejectionKind::Saturated => reduced_capacity!(),
            _ => "about:blank",
        };
        let mut doc = serde_json::Map::new();
        doc.insert("type".into(), kind.into());
        doc.insert("title".into(), self.0.kind.title().into());
        doc.insert("status".into(), self.0.kind.status().as_u16().into());
        if let Some(detail) = self.public_detail() {
            doc.insert("detail".into(), detail.into());
        }
        if let Some(names) = &self.0.violated {
            doc.insert("violated-policies".into(), names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().into());
        }
        Bytes::from(serde_json::Value::Object(doc).to_string())
    }

    /// The response: `application/problem+json`, `Proxy-Status`, `Retry-After` and the challenge where they belong, never
    /// stored by caches. The rejection itself goes into the response's extensions.
    #[must_use]
    pub fn into_response<B>(self) -> Response<ResponseBody<B>> {
        let body = self.problem_json();
        let mut response = Response::new(ResponseBody::full(body));
        self.apply(&mut response);
        response.headers_mut().insert(header::CONTENT_TYPE, const { HeaderValue::from_static("application/problem+json") });
        response
    }

    /// Puts status, fields and extension of this rejection on a response whose body another format has made.
    pub fn apply<B>(self, response: &mut Response<B>) {
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
        let status =
            if self.0.exposed { proxy_status_value(DEFAULT_PSEUDONYM, self.proxy_status()) } else { self.0.kind.public_field() };
        headers.insert(PROXY_STATUS, status);
        if let Some(secs) = self.retry_after_secs() {
            // What most refusals say has no need to be written.
            let value = if secs == 1 { const { HeaderValue::from_static("1") } } else { HeaderValue::from(secs) };
            headers.insert(header::RETRY_AFTER, value);
        }
        if let Some(challenge) = &self.0.challenge {
            let name = if self.0.kind == RejectionKind::ProxyUnauthenticated {
                header::PROXY_AUTHENTICATE
            } else {
                header::WWW_AUTHENTICATE
            };
            headers.insert(name, challenge.clone());
        }
        response.extensions_mut().insert(self);
    }
}

/// `Proxy-Status` (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

fn proxy_status_value(name: &str, error: &str) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(format!("{name}; error={error}")))
        .unwrap_or_else(|_| HeaderValue::from_static(DEFAULT_PSEUDONYM))
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status().as_u16(), self.0.reason)?;
        if let Some(detail) = &self.0.detail { write!(f, " ({detail})") } else { Ok(()) }
    }
}

impl std::error::Error for Rejection {}

/// What an outer part of this server says about a body's error, if it is among the error's sources.
pub(crate) fn find_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Rejection> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_the_table() {
        let rows: Vec<String> = include_str!("rejection.rs")
            .lines()
            .filter(|l| l.starts_with("//! | `"))
            .map(|l| l.trim_start_matches("//! ").to_owned())
            .collect();
        let want: Vec<String> = RejectionKind::ALL
            .iter()
            .map(|k| format!("| `{}` | {} | `{}` | `{}` |", k.name(), k.status().as_u16(), k.proxy_status(), k.reason()))
            .collect();
        assert_eq!(rows, want);
    }

    #[test]
    fn the_written_fields_are_the_table() {
        for kind in RejectionKind::ALL {
            let rejection = Rejection::new(*kind);
            let (written, made): (serde_json::Value, serde_json::Value) = (
                serde_json::from_slice(&rejection.problem_json()).unwrap(),
                serde_json::from_slice(&rejection.full_problem()).unwrap(),
            );
            assert_eq!(written, made);
            assert_eq!(kind.public_field(), proxy_status_value(DEFAULT_PSEUDONYM, kind.public_proxy_status()));
        }
    }

    #[test]
    fn retry_after_is_rounded_up_and_at_least_one() {
        let r = |ms| Rejection::new(RejectionKind::RateLimited).with_retry_after(Duration::from_millis(ms)).retry_after_secs();
        assert_eq!((r(0), r(1), r(1000), r(1001)), (Some(1), Some(1), Some(1), Some(2)));
    }

    #[test]
    fn the_operators_detail_stays_with_the_operator() {
        let rejection = Rejection::new(RejectionKind::ConnectFailed).with_detail("10.0.0.1:80 refused");
        let hidden = rejection.clone().into_response::<()>();
        assert_eq!(hidden.headers()["proxy-status"], "portcullis; error=destination_unavailable");
        assert!(!rejection.problem_json().windows(4).any(|w| w == b"10.0"));
        let shown = rejection.exposed().into_response::<()>();
        assert_eq!(shown.headers()["proxy-status"], "portcullis; error=connection_refused");
    }
}
