//! The future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{TimedBody, watch::Watch};
use crate::{
    body::ResponseBody,
    context::Deadline,
    rejection::{Rejection, RejectionKind},
};

pin_project! {
    /// Response future of [`TotalTimeout`](super::TotalTimeout).
    pub struct ResponseFuture<F> {
        // Dropped before the 504 is given: what is under way inside has to end then.
        #[pin]
        inner: Option<F>,
        watch: Option<Box<Watch>>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, watch: Option<Box<Watch>>) -> Self {
        Self { inner: Some(inner), watch }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<TimedBody<B>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Polled after completion: the caller's mistake, answered by silence rather than a panic.
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Pending };
        let mut response = match inner.poll(cx) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                let Some(watch) = this.watch else { return Poll::Pending };
                ready!(watch.poll(cx));
                let limit = watch.limit();
                this.inner.set(None);
                *this.watch = None;
                let rejection = Rejection::new(RejectionKind::TotalTimeout).with_detail(format!("no answer within {limit:?}"));
                return Poll::Ready(Ok(rejection.into_response()));
            }
        };
        let mut watch = this.watch.take();
        if watch.as_ref().is_some_and(|w| response.body().is_end_stream() || w.spares(&response)) {
            watch = None;
        }
        if let Some(watch) = &mut watch {
            watch.body_begins();
            response.extensions_mut().insert(Deadline::new(watch.deadline().into_std()));
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::inner(TimedBody::new(body, watch)))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
