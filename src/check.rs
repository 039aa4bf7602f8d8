//! `CheckLayer`: several checks of a request's head, run one behind the other in one layer.
//!
//! A check looks at the head and lets the request pass, or answers it. Some layers of this crate are nothing else; they are checks as
//! well ([`Check`] says which), and in a `CheckLayer` they cost what they look at, and not also the way through a service each. A check
//! of one's own is a function's worth of code:
//!
//! ```
//! use http::{Request, Response, StatusCode, header};
//! use portcullis::{
//!     check::{Check, CheckLayer, Refusal},
//!     rejection::{Rejection, RejectionKind},
//!     request_head::RequestHeadLayer,
//!     request_line::RequestLineLayer,
//! };
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! /// Nobody sends cookies here.
//! #[derive(Clone, Copy)]
//! struct NoCookies;
//!
//! impl Check for NoCookies {
//!     fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
//!         if request.headers().contains_key(header::COOKIE) {
//!             return Err(Rejection::new(RejectionKind::MalformedRequest).with_reason("cookie").into());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let service = ServiceBuilder::new()
//!     .layer(CheckLayer::new((RequestHeadLayer::new(), RequestLineLayer::origin(), NoCookies)))
//!     .service(service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }));
//! let request = Request::get("/").header("host", "a.example").header("cookie", "a=b").body(()).unwrap();
//! assert_eq!(service.oneshot(request).await?.status(), StatusCode::BAD_REQUEST);
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//! 1. Checks run in the order of the tuple; the first that refuses ends it, and the inner service is not called.
//! 2. A check may write into the request, for the checks and layers behind it.
//!
//! # Where it stands
//! Where its checks would stand as layers.
//!
//! # Cost
//! That of its checks. Each layer that is saved is one move less of the request, of the inner future and of the response.

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{body::ResponseBody, rejection::Rejection, reply::ResponseFuture};

/// Lets a request pass, or answers it, from its head alone and at once.
///
/// Of this crate's layers these are checks: [`RequestHeadLayer`](crate::request_head::RequestHeadLayer),
/// [`RequestLineLayer`](crate::request_line::RequestLineLayer), [`ClientAddrLayer`](crate::client_addr::ClientAddrLayer),
/// [`ClientAllowLayer`](crate::client_allow::ClientAllowLayer), `ClientCertLayer` and
/// [`SsrfGuardLayer`](crate::ssrf_guard::SsrfGuardLayer). Tuples of checks are checks.
pub trait Check {
    /// Looks at the request; it may note something in it.
    ///
    /// # Errors
    /// The answer to a request that does not pass.
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal>;
}

/// How a check answers a request that does not pass.
#[derive(Debug)]
pub struct Refusal(Kind);

#[derive(Debug)]
enum Kind {
    Rejection { rejection: Rejection, fields: Option<Box<HeaderMap>> },
    Response(Box<Response<Bytes>>),
}

impl Refusal {
    /// The answer.
    #[must_use]
    #[cold]
    pub fn into_response<B>(self) -> Response<ResponseBody<B>> {
        match self.0 {
            Kind::Rejection { rejection, fields } => {
                let mut response = rejection.into_response();
                response.headers_mut().extend(fields.map(|fields| *fields).unwrap_or_default());
                response
            }
            Kind::Response(response) => response.map(ResponseBody::full),
        }
    }

    /// The rejection, unless the answer is of another kind.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match &self.0 {
            Kind::Rejection { rejection, .. } => Some(rejection),
            Kind::Response(response) => response.extensions().get(),
        }
    }

    /// The answer has this field.
    #[must_use]
    pub fn with_field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        match &mut self.0 {
            Kind::Rejection { fields, .. } => fields.get_or_insert_default().insert(name, value),
            Kind::Response(response) => response.headers_mut().insert(name, value),
        };
        self
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self(Kind::Rejection { rejection, fields: None })
    }
}

impl From<Response<Bytes>> for Refusal {
    fn from(response: Response<Bytes>) -> Self {
        Self(Kind::Response(Box::new(response)))
    }
}

macro_rules! tuple {
    ($($check:ident)+) => {
        impl<$($check: Check),+> Check for ($($check,)+) {
            #[inline]
            fn check<Body>(&self, request: &mut Request<Body>) -> Result<(), Refusal> {
                #[allow(non_snake_case, reason = "named as their types")]
                let ($($check,)+) = self;
                $($check.check(request)?;)+
                Ok(())
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
tuple!(A B C D E F G);
tuple!(A B C D E F G H);

/// Runs checks before the inner service is called. See the [module](self).
#[derive(Clone, Copy)]
pub struct CheckLayer<C>(C);

impl<C: Check> CheckLayer<C> {
    /// Runs a check, or a tuple of up to eight.
    #[must_use]
    pub fn new(checks: C) -> Self {
        Self(checks)
    }
}

impl<S, C: Clone> Layer<S> for CheckLayer<C> {
    type Service = Checked<S, C>;

    fn layer(&self, inner: S) -> Checked<S, C> {
        Checked::new(inner, self.0.clone())
    }
}

impl<C> fmt::Debug for CheckLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckLayer(..)")
    }
}

/// The service of [`CheckLayer`], and of each layer that is a check.
#[derive(Clone, Copy)]
pub struct Checked<S, C> {
    inner: S,
    checks: C,
}

impl<S, C> Checked<S, C> {
    pub(crate) fn new(inner: S, checks: C) -> Self {
        Self { inner, checks }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Checked<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, C, B, R> Service<Request<B>> for Checked<S, C>
where
    S: Service<Request<B>, Response = Response<R>>,
    C: Check,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.checks.check(&mut request) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(refusal) => ResponseFuture::ready(refusal.into_response()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{rejection::RejectionKind, reply::probe::Probe};

    /// Notes its number, and refuses paths that end in it.
    #[derive(Clone, Copy)]
    struct Numbered(char);

    impl Check for Numbered {
        fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
            request.extensions_mut().get_or_insert_default::<String>().push(self.0);
            match request.uri().path().ends_with(self.0) {
                true if self.0 == '2' => {
                    Err(Response::builder().status(StatusCode::NO_CONTENT).body(Bytes::new()).unwrap().into())
                }
                true => Err(Rejection::new(RejectionKind::MalformedRequest).with_reason("numbered").into()),
                false => Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn the_first_that_refuses_ends_it_and_the_ready_instance_is_called() {
        for (path, status, reason, seen) in
            [("/0", 200, None, Some("123")), ("/1", 400, Some("numbered"), None), ("/2", 204, None, None)]
        {
            let probe = Probe::default();
            let layer = CheckLayer::new((Numbered('1'), (Numbered('2'), Numbered('3'))));
            let response = layer.layer(probe.handle()).oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.extensions().get::<Rejection>().map(Rejection::reason), reason, "{path}");
            let last = probe.last();
            assert_eq!(last.as_ref().and_then(|p| p.extensions.get::<String>()).map(String::as_str), seen, "{path}");
        }
    }

    #[test]
    fn fields_are_added_to_either_kind() {
        let (name, value) = (HeaderName::from_static("allow"), HeaderValue::from_static("GET"));
        for refusal in [Rejection::new(RejectionKind::MethodNotAllowed).into(), Refusal::from(Response::new(Bytes::new()))] {
            let response = refusal.with_field(name.clone(), value.clone()).into_response::<()>();
            assert_eq!(response.headers()["allow"], "GET");
        }
    }

    #[test]
    fn a_refusal_names_its_rejection() {
        let refusal = Refusal::from(Rejection::new(RejectionKind::MalformedRequest));
        assert_eq!(refusal.rejection().map(Rejection::kind), Some(RejectionKind::MalformedRequest));
        assert!(Refusal::from(Response::new(Bytes::new())).rejection().is_none());
    }
}
