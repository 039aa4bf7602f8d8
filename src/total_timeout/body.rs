//! The body that ends in time.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::watch::Watch;

/// Why an answer's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TotalTimeoutError<E> {
    /// The exchange took longer than this.
    Elapsed(Duration),
    /// The body itself failed.
    Body(E),
}

impl<E> fmt::Display for TotalTimeoutError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elapsed(limit) => write!(f, "the exchange took longer than {limit:?}"),
            Self::Body(_) => f.write_str("response body failed"),
        }
    }
}

impl<E: Error + 'static> Error for TotalTimeoutError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(error),
            Self::Elapsed(_) => None,
        }
    }
}

pin_project! {
    /// An answer's body that ends with an error when its time is over.
    #[derive(Debug)]
    pub struct TimedBody<B> {
        #[pin]
        inner: B,
        watch: Option<Box<Watch>>,
    }
}

impl<B> TimedBody<B> {
    pub(super) fn new(inner: B, watch: Option<Box<Watch>>) -> Self {
        Self { inner, watch }
    }
}

fn is_cut(watch: Option<&Watch>) -> bool {
    watch.is_some_and(Watch::is_cut)
}

fn end(watch: &mut Option<Box<Watch>>) {
    if let Some(watch) = watch {
        watch.body_ended();
    }
    *watch = None;
}

impl<B: Body<Data = Bytes>> Body for TimedBody<B> {
    type Data = Bytes;
    type Error = TotalTimeoutError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        if is_cut(this.watch.as_deref()) {
            return Poll::Ready(None);
        }
        let polled = this.inner.as_mut().poll_frame(cx).map(|frame| frame.map(|f| f.map_err(TotalTimeoutError::Body)));
        let Some(watch) = this.watch else { return polled };
        match &polled {
            Poll::Pending => ready!(watch.poll(cx)),
            // The last of it is there, if late: a whole body is not made a broken one.
            Poll::Ready(Some(Ok(_))) if this.inner.is_end_stream() => {
                end(this.watch);
                return polled;
            }
            // A body that always has more to give is never pending.
            Poll::Ready(Some(Ok(_))) if !watch.is_over() => return polled,
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None | Some(Err(_))) => {
                end(this.watch);
                return polled;
            }
        }
        let limit = watch.limit();
        watch.cut();
        Poll::Ready(Some(Err(TotalTimeoutError::Elapsed(limit))))
    }

    fn is_end_stream(&self) -> bool {
        is_cut(self.watch.as_deref()) || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
