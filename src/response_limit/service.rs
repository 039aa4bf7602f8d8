//! The service and its future.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::{Cap, CappedBody},
    events::EventSize,
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
        let limits = (request.method() != Method::HEAD).then(|| Arc::clone(&self.limits));
        let record = RequestContext::of(request.extensions()).and_then(RequestContext::record).cloned();
        ResponseFuture { future: self.inner.call(request), limits, record }
    }
}

/// The decision: what is to be counted, or the refusal.
fn judge<B: Body>(response: &Response<B>, limits: Option<&Limits>) -> Result<Cap, Rejection> {
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let Some(limits) = limits.filter(|_| !bodiless && !response.status().is_informational()) else { return Ok(Cap::None) };
    if is_event_stream(response.headers().get(header::CONTENT_TYPE)) {
        let limit = limits.event.load(Ordering::Relaxed);
        return Ok(if limit == u64::MAX { Cap::None } else { Cap::Event(Box::new((limit, EventSize::default()))) });
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
        // None for an answer to `HEAD`.
        limits: Option<Arc<Limits>>,
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
        // In place: a response is large, and one that is taken out first is moved once more.
        let polled = this.future.poll(cx);
        let Poll::Ready(Ok(response)) = &polled else {
            return polled.map_ok(|response| response.map(|body| ResponseBody::inner(CappedBody::new(body, Cap::None, None))));
        };
        let record = this.record.take();
        match judge(response, this.limits.as_deref()) {
            Ok(cap) => polled.map_ok(|response| response.map(|body| ResponseBody::inner(CappedBody::new(body, cap, record)))),
            Err(rejection) => Poll::Ready(Ok(rejection.into_response())),
        }
    }
}
