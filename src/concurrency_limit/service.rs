//! The service and its future.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, header};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    layer::Limits,
    permit::{Hold, Permit, PermitBody},
};
use crate::{body::ResponseBody, rejection::Rejection};

/// The service of [`ConcurrencyLimitLayer`](super::ConcurrencyLimitLayer).
#[derive(Clone)]
pub struct ConcurrencyLimit<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S> ConcurrencyLimit<S> {
    pub(super) fn new(inner: S, limits: Arc<Limits>) -> Self {
        Self { inner, limits }
    }
}

impl<S: fmt::Debug> fmt::Debug for ConcurrencyLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimit").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ConcurrencyLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<PermitBody<ResBody>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let admitted = match self.limits.admit(&request) {
            Ok(admitted) => admitted,
            Err(rejection) => return ResponseFuture::refused(rejection),
        };
        let hold = match admitted {
            None => Hold::NONE,
            Some(held) if !may_become_tunnel(&request) => Hold::Own(held),
            Some(held) => {
                let outer = request.extensions_mut().remove::<Permit>();
                let permit = Permit::new(held, outer);
                request.extensions_mut().insert(permit.clone());
                Hold::Shared(Some(permit))
            }
        };
        ResponseFuture::inner(self.inner.call(request), hold)
    }
}

fn may_become_tunnel<B>(request: &Request<B>) -> bool {
    // A walk over the names costs less than the hash of a look-up.
    request.method() == Method::CONNECT || request.headers().keys().any(|name| *name == header::UPGRADE)
}

pin_project! {
    /// The future of [`ConcurrencyLimit`]. It holds the permit until there is a body to hold it.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Refused { rejection: Option<Rejection> },
        Inner { #[pin] future: F, hold: Hold },
    }
}

impl<F> ResponseFuture<F> {
    fn inner(future: F, hold: Hold) -> Self {
        Self { state: State::Inner { future, hold } }
    }

    fn refused(rejection: Rejection) -> Self {
        Self { state: State::Refused { rejection: Some(rejection) } }
    }
}

#[cold]
fn refused<B, E>(rejection: &mut Option<Rejection>) -> Poll<Result<Response<ResponseBody<B>>, E>> {
    rejection.take().map_or(Poll::Pending, |rejection| Poll::Ready(Ok(rejection.into_response())))
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<PermitBody<B>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Refused { rejection } => refused(rejection),
            StateProj::Inner { future, hold } => {
                let polled = future.poll(cx);
                let hold = if polled.is_ready() { mem::replace(hold, Hold::NONE) } else { Hold::NONE };
                polled.map_ok(|response| response.map(|body| ResponseBody::inner(PermitBody::new(body, hold))))
            }
        }
    }
}
