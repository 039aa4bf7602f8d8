//! The service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{LimitedBody, ResponseFuture};
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
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let limit = self.limit.load(Ordering::Relaxed);
        match judge(&request, limit) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request.map(|body| LimitedBody::new(body, limit)))),
            Err(rejection) => ResponseFuture::refused(rejection),
        }
    }
}
