//! Which request lines are served at all, before anything looks for a target.
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use portcullis::request_line::RequestLineLayer;
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let service = ServiceBuilder::new()
//!     .layer(RequestLineLayer::origin())
//!     .service(service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }));
//! let request = Request::connect("example.com:443").body(String::new()).unwrap();
//! assert_eq!(service.oneshot(request).await?.status(), StatusCode::NOT_IMPLEMENTED);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//! 1. `TRACE` is 405: it would echo what other layers add (RFC 9110 §9.3.8).
//! 2. `CONNECT` is 501 unless the server is a forward proxy; an extended `CONNECT` (RFC 8441) passes.
//! 3. `OPTIONS *` is answered here, 204 with `Allow`; `*` with another method is 400 (RFC 9112 §3.2.4).
//! 4. An absolute-form line is 400 unless the server is a forward proxy, or names the host it was sent to (RFC 9112 §3.2.2): two
//!    names for one request are how guards that look at only one of them are passed by.
//!
//! # Where it stands
//! Inside the audit and outside of everything that reads the path.
//!
//! # Cost
//! A look at method and target, no allocation.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use tower_layer::Layer;

use crate::{
    check::{Check, Checked, Refusal},
    rejection::{Rejection, RejectionKind},
};

/// Refuses request lines that this server has no use for.
#[derive(Clone, Copy, Debug)]
pub struct RequestLineLayer {
    forward_proxy: bool,
}

impl RequestLineLayer {
    /// For a server with paths of its own: a gateway or a reverse proxy.
    #[must_use]
    pub fn origin() -> Self {
        Self { forward_proxy: false }
    }

    /// For a forward proxy: absolute-form lines and `CONNECT` are its job.
    #[must_use]
    pub fn forward_proxy() -> Self {
        Self { forward_proxy: true }
    }
}

impl<S> Layer<S> for RequestLineLayer {
    type Service = RequestLine<S>;

    fn layer(&self, inner: S) -> RequestLine<S> {
        Checked::new(inner, *self)
    }
}

/// The service of [`RequestLineLayer`].
pub type RequestLine<S> = Checked<S, RequestLineLayer>;

enum Verdict {
    Pass,
    Allow,
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

fn judge<B>(request: &Request<B>, forward_proxy: bool) -> Result<Verdict, Rejection> {
    let (method, uri) = (request.method(), request.uri());
    let refuse = |kind, why: &'static str| Err(Rejection::new(kind).with_reason("request_line").with_public_detail(why));
    if *method == Method::TRACE {
        return refuse(RejectionKind::MethodNotAllowed, "TRACE is not served");
    }
    if *method == Method::CONNECT {
        // With a path it is an extended CONNECT: a WebSocket over HTTP/2.
        return if forward_proxy || uri.path_and_query().is_some() {
            Ok(Verdict::Pass)
        } else {
            refuse(RejectionKind::NotImplemented, "CONNECT is not served")
        };
    }
    if uri.path() == "*" {
        return if *method == Method::OPTIONS {
            Ok(Verdict::Allow)
        } else {
            refuse(RejectionKind::MalformedRequest, "the asterisk form is for OPTIONS")
        };
    }
    if uri.path_and_query().is_none() {
        return refuse(RejectionKind::MalformedRequest, "the authority form is for CONNECT");
    }
    let absolute = request.version() <= Version::HTTP_11 && uri.scheme().is_some();
    if absolute && !forward_proxy {
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return refuse(RejectionKind::MalformedRequest, "the request line names a scheme that is not served");
        }
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        let same = uri.authority().zip(host).is_some_and(|(a, h)| a.as_str().as_bytes().eq_ignore_ascii_case(h));
        if !same {
            return refuse(RejectionKind::MalformedRequest, "the request line names another host than Host");
        }
    }
    Ok(Verdict::Pass)
}

/// An absolute-form line that names this server is served as if it were in origin form, so that no inner layer takes it for a
/// request to a forward proxy, which other rules hold for.
fn as_origin_form<B>(request: &mut Request<B>) {
    let absolute = request.version() <= Version::HTTP_11 && request.uri().scheme().is_some();
    if let Some(path) = request.uri().path_and_query().filter(|_| absolute) {
        *request.uri_mut() = Uri::from(path.clone());
    }
}

impl Check for RequestLineLayer {
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        match judge(request, self.forward_proxy) {
            Ok(Verdict::Pass) => {
                if !self.forward_proxy {
                    as_origin_form(request);
                }
                Ok(())
            }
            Ok(Verdict::Allow) => {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(header::ALLOW, METHODS);
                Err(response.into())
            }
            Err(rejection) if rejection.kind() == RejectionKind::MethodNotAllowed => {
                Err(Refusal::from(rejection).with_field(header::ALLOW, METHODS))
            }
            Err(rejection) => Err(rejection.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, uri: &str, host: &str, forward: bool) -> Option<StatusCode> {
        let request = Request::builder().method(method).uri(uri).header("host", host).body(()).unwrap();
        judge(&request, forward).err().map(|r| r.status())
    }

    #[test]
    fn forms_and_methods() {
        for (method, uri, origin, forward) in [
            ("GET", "/x", None, None),
            ("TRACE", "/", Some(405), Some(405)),
            ("CONNECT", "example.com:443", Some(501), None),
            ("CONNECT", "https://a.example/ws", None, None),
            ("OPTIONS", "*", None, None),
            ("GET", "*", Some(400), Some(400)),
            ("GET", "http://a.example/x", None, None),
            ("GET", "http://b.example/x", Some(400), None),
            ("GET", "ftp://a.example/x", Some(400), None),
            ("GET", "b.example:80", Some(400), Some(400)),
        ] {
            let code = |s: Option<StatusCode>| s.map(|s| s.as_u16());
            assert_eq!(code(status(method, uri, "a.example", false)), origin, "{method} {uri}");
            assert_eq!(code(status(method, uri, "a.example", true)), forward, "{method} {uri}, forward");
        }
    }

    #[tokio::test]
    async fn an_absolute_form_line_for_this_server_is_served_in_origin_form() {
        use tower::ServiceExt as _;
        let probe = crate::reply::probe::Probe::default();
        let service = RequestLineLayer::origin().layer(probe.handle());
        let request = Request::get("http://a.example/x?y").header("host", "a.example").body(()).unwrap();
        service.oneshot(request).await.unwrap();
        assert_eq!(probe.last().unwrap().uri, "/x?y");
    }

    #[tokio::test]
    async fn the_inner_service_is_called_only_when_ready() {
        use tower::ServiceExt as _;
        let service = RequestLineLayer::origin().layer(crate::reply::probe::Probe::default());
        let response = service.oneshot(Request::get("/").body(()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
