//! The service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{ResponseFuture, TimedBody, layer::Limit, watch::Watch};
use crate::{
    body::ResponseBody,
    context::{RecordHandle, RequestContext},
};

/// The service of [`TotalTimeoutLayer`](super::TotalTimeoutLayer).
#[derive(Clone, Debug)]
pub struct TotalTimeout<S> {
    inner: S,
    limit: Arc<Limit>,
}

impl<S> TotalTimeout<S> {
    pub(super) fn new(inner: S, limit: Arc<Limit>) -> Self {
        Self { inner, limit }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for TotalTimeout<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<TimedBody<ResBody>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let watch = self.limit.get().map(|limit| {
            let record: Option<RecordHandle> = RequestContext::of(request.extensions()).and_then(RequestContext::record).cloned();
            Box::new(Watch::new(limit, record, *request.method() == Method::CONNECT))
        });
        ResponseFuture::new(self.inner.call(request), watch)
    }
}
