//! The future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project_lite::pin_project;

use super::respond::{self, Marks};
use crate::{body::ResponseBody, reply};

pin_project! {
    /// The response of the inner service with what browsers have to see, or an answer of this layer's own.
    pub struct ResponseFuture<F, R> {
        #[pin]
        reply: reply::ResponseFuture<F, R>,
        marks: Option<Marks>,
    }
}

impl<F, R> ResponseFuture<F, R> {
    pub(super) fn new(reply: reply::ResponseFuture<F, R>, marks: Option<Marks>) -> Self {
        Self { reply, marks }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.reply.poll(cx))?;
        if let Some(marks) = this.marks.take() {
            respond::mark(response.headers_mut(), marks);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
