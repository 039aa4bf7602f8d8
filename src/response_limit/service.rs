//! The service and its future.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::{Cap, CappedBody},
    layer::Limits,
};
use crate::{
    body::{ResponseBody, announced_length},
    context::{RecordHandle, RequestContext},
    mcp_wire::is_event_stream,
    rejection::{Rejection, RejectionKind},
};

/// The service of [`ResponseLimitLayer`](super::ResponseLimitLayer).
#[derive(Clone, Debug)]
pub struct ResponseLimit<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S> ResponseLimit<S> {
    pub(super) fn new(inner: S, limits: Arc<Limits>) -> Self {
        Self { inner, limits }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ResponseLimit<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<CappedBody<ResBody>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let head = request.method() == Method::HEAD;
        let record = RequestContext::of(request.extensions()).and_then(RequestContext::record).cloned();
        ResponseFuture { future: self.inner.call(request), limits: Arc::clone(&self.limits), head, record }
    }
}

/// The decision: what is to be counted, or the refusal.
fn judge<B: Body>(response: &Response<B>, head: bool, limits: &Limits) -> Result<Cap, Rejection> {
    if head
        || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || response.status().is_informational()
    {
        return Ok(Cap::None);
    }
    if is_event_stream(response.headers().get(header::CONTENT_TYPE)) {
        let limit = limits.event.load(Ordering::Relaxed);
        return Ok(if limit == u64::MAX { Cap::None } else { Cap::Event { limit, size: super::events::EventSize::default() } });
    }
    let limit = limits.body.load(Ordering::Relaxed);
    let length = announced_length(response.headers(), response.body());
    if length > limit {
        return Err(
            Rejection::new(RejectionKind::ResponseTooLarge).with_detail(format!("{length} bytes announced, {limit} allowed"))
        );
    }
    Ok(Cap::Length { limit, left: limit })
}

pin_project! {
    /// The future of [`ResponseLimit`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        limits: Arc<Limits>,
        head: bool,
        record: Option<RecordHandle>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<CappedBody<B>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let record = this.record.take();
        Poll::Ready(Ok(match judge(&response, *this.head, this.limits) {
            Ok(cap) => response.map(|body| ResponseBody::inner(CappedBody::new(body, cap, record))),
            Err(rejection) => rejection.into_response(),
        }))
    }
}
