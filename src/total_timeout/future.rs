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
        // In place: a response is large, and one that is taken out first is moved once more.
        let mut polled = inner.poll(cx);
        let watch = match &mut polled {
            Poll::Ready(Ok(response)) => this.watch.take().and_then(|watch| of_body(watch, response)),
            Poll::Ready(Err(_)) => None,
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
        polled.map_ok(|response| response.map(|body| ResponseBody::inner(TimedBody::new(body, watch))))
    }
}

/// The watch goes on with the body, if there is one, and it may not last as long as it likes.
fn of_body<B: Body>(mut watch: Box<Watch>, response: &mut Response<B>) -> Option<Box<Watch>> {
    if response.body().is_end_stream() || watch.spares(response) {
        return None;
    }
    watch.body_begins();
    response.extensions_mut().insert(Deadline::new(watch.deadline().into_std()));
    Some(watch)
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
