//! The service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    ResponseFuture,
    decide::{Served, Verdict},
    layer::Rules,
    respond,
};
use crate::{body::ResponseBody, reply};

/// The service that [`BrowserLayer`](super::BrowserLayer) makes.
#[derive(Clone)]
pub struct Browser<S> {
    pub(super) inner: S,
    pub(super) rules: Arc<Rules>,
    pub(super) served: Served,
}

impl<S, B, R> Service<Request<B>> for Browser<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (reply, marks) = match self.rules.decide(&request, &mut self.served) {
            Ok(Verdict::Pass(marks)) => (reply::ResponseFuture::inner(self.inner.call(request)), Some(marks)),
            Ok(Verdict::Leave) => (reply::ResponseFuture::inner(self.inner.call(request)), None),
            Ok(Verdict::Preflight { origin, fields, private_network }) => {
                (reply::ResponseFuture::ready(respond::preflight(origin, fields, private_network)), None)
            }
            Err(rejection) => (reply::ResponseFuture::refused(rejection), None),
        };
        ResponseFuture::new(reply, marks)
    }
}

impl<S: fmt::Debug> fmt::Debug for Browser<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
