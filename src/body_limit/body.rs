//! The body that counts.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// A request body was longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthLimitError {
    limit: u64,
}

impl LengthLimitError {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit }
    }

    /// The limit in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether this is the error, or somewhere among its sources.
    #[must_use]
    pub fn is_in(error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            next = error.source();
        }
        false
    }
}

impl fmt::Display for LengthLimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request body is longer than {} bytes", self.limit)
    }
}

impl Error for LengthLimitError {}

/// Why a limited body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyLimitError<E> {
    /// It went over the limit.
    TooLong(LengthLimitError),
    /// The body itself failed.
    Body(E),
}

impl<E> fmt::Display for BodyLimitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(_) => f.write_str("request body over the limit"),
            Self::Body(_) => f.write_str("request body failed"),
        }
    }
}

impl<E: Error + 'static> Error for BodyLimitError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooLong(limit) => Some(limit),
            Self::Body(error) => Some(error),
        }
    }
}

pin_project! {
    /// A request body that ends with an error where it goes over the limit.
    #[derive(Debug)]
    pub struct LimitedBody<B> {
        #[pin]
        inner: B,
        limit: u64,
        left: u64,
        over: bool,
    }
}

impl<B> LimitedBody<B> {
    pub(super) fn new(inner: B, limit: u64) -> Self {
        Self { inner, limit, left: limit, over: false }
    }
}

impl<B: Body<Data = Bytes>> Body for LimitedBody<B> {
    type Data = Bytes;
    type Error = BodyLimitError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyLimitError::Body(error)))),
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(left) = this.left.checked_sub(length) {
            *this.left = left;
            return Poll::Ready(Some(Ok(frame)));
        }
        *this.over = true;
        Poll::Ready(Some(Err(BodyLimitError::TooLong(LengthLimitError::new(*this.limit)))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    /// What the body announces, as it is: a smaller promise would turn a body that is too long into one that looks complete.
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
