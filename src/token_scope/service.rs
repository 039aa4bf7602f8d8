//! The service.

use std::{
    mem,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    ResponseFuture, ScopedBody,
    future::Looking,
    judge::{self, Head},
};
use crate::body::ResponseBody;

/// The service that [`TokenScopeLayer`](super::TokenScopeLayer) makes.
#[derive(Clone, Debug)]
pub struct TokenScope<S> {
    pub(super) inner: S,
}

impl<S, B, R> Service<Request<B>> for TokenScope<S>
where
    S: Service<Request<ScopedBody<B>>, Response = Response<R>> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match judge::head(&request, !request.body().is_end_stream()) {
            Ok(Head::Pass) => ResponseFuture::inner(self.inner.call(request.map(ScopedBody::plain))),
            Ok(Head::Look(principal, named)) => {
                // The one that was polled ready goes with the request; its clone waits for its own turn.
                let next = self.inner.clone();
                let inner = mem::replace(&mut self.inner, next);
                ResponseFuture::looking(Looking::new(inner, request, principal, named))
            }
            Err(rejection) => ResponseFuture::refused(rejection),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
