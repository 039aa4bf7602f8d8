//! The service and its future.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::LimitedBody;
use crate::{
    body::{ResponseBody, announced_length},
    rejection::{Rejection, RejectionKind},
};

/// The service of [`BodyLimitLayer`](super::BodyLimitLayer).
#[derive(Clone, Debug)]
pub struct BodyLimit<S> {
    inner: S,
    limit: Arc<AtomicU64>,
}

impl<S> BodyLimit<S> {
    pub(super) fn new(inner: S, limit: Arc<AtomicU64>) -> Self {
        Self { inner, limit }
    }
}

/// The decision on what is announced.
fn judge<B: Body>(request: &Request<B>, limit: u64) -> Result<(), Rejection> {
    let length = announced_length(request.headers(), request.body());
    if length > limit {
        return Err(Rejection::new(RejectionKind::BodyTooLarge).with_detail(format!("{length} bytes announced, {limit} allowed")));
    }
    Ok(())
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for BodyLimit<S>
where
    S: Service<Request<LimitedBody<ReqBody>>, Response = Response<ResBody>>,
    ReqBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let limit = self.limit.load(Ordering::Relaxed);
        let state = match judge(&request, limit) {
            Ok(()) => State::Inner { future: self.inner.call(request.map(|body| LimitedBody::new(body, limit))) },
            Err(rejection) => State::Refused { rejection: Some(Box::new(rejection)) },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`BodyLimit`].
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
        Refused { rejection: Option<Box<Rejection>> },
        Inner { #[pin] future: F },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Refused { rejection } => match rejection.take() {
                Some(rejection) => Poll::Ready(Ok(rejection.into_response())),
                None => Poll::Pending,
            },
            StateProj::Inner { future } => Poll::Ready(ready!(future.poll(cx)).map(|r| r.map(ResponseBody::inner))),
        }
    }
}
