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

use super::events::EventSize;
use crate::context::{Outcome, RecordHandle};

/// Why an answer's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseLimitError<E> {
    /// The body went over the limit of so many bytes.
    TooLong(u64),
    /// An event of an event stream went over the limit of so many bytes.
    EventTooLong(u64),
    /// The body itself failed.
    Body(E),
}

impl<E> fmt::Display for ResponseLimitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(limit) => write!(f, "the response body is longer than {limit} bytes"),
            Self::EventTooLong(limit) => write!(f, "an event is longer than {limit} bytes"),
            Self::Body(_) => f.write_str("response body failed"),
        }
    }
}

impl<E: Error + 'static> Error for ResponseLimitError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(error),
            _ => None,
        }
    }
}

/// What is counted in a body.
#[derive(Debug)]
pub(super) enum Cap {
    None,
    Length {
        limit: u64,
        left: u64,
    },
    /// The limit and the event that is being received. Boxed: most answers are no event streams, and every layer moves them.
    Event(Box<(u64, EventSize)>),
    /// It went over.
    Over,
}

pin_project! {
    /// An answer's body that ends with an error where it goes over the limit.
    #[derive(Debug)]
    pub struct CappedBody<B> {
        #[pin]
        inner: B,
        cap: Cap,
        record: Option<RecordHandle>,
    }
}

impl<B> CappedBody<B> {
    pub(super) fn new(inner: B, cap: Cap, record: Option<RecordHandle>) -> Self {
        Self { inner, cap, record }
    }
}

impl Cap {
    fn take<E>(&mut self, data: &[u8]) -> Result<(), ResponseLimitError<E>> {
        match self {
            Self::None | Self::Over => Ok(()),
            Self::Length { limit, left } => {
                *left = left.checked_sub(data.len() as u64).ok_or(ResponseLimitError::TooLong(*limit))?;
                Ok(())
            }
            Self::Event(event) => {
                let (limit, size) = &mut **event;
                if size.exceeds(data, *limit) { Err(ResponseLimitError::EventTooLong(*limit)) } else { Ok(()) }
            }
        }
    }
}

impl<B: Body<Data = Bytes>> Body for CappedBody<B> {
    type Data = Bytes;
    type Error = ResponseLimitError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if matches!(this.cap, Cap::Over) {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(ResponseLimitError::Body(error)))),
            None => return Poll::Ready(None),
        };
        if let Some(Err(error)) = frame.data_ref().map(|data| this.cap.take(data)) {
            *this.cap = Cap::Over;
            note(this.record.take().as_ref());
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.cap, Cap::Over) || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cold]
fn note(record: Option<&RecordHandle>) {
    if let Some(record) = record {
        record.with(|record| {
            record.outcome = Outcome::Aborted;
            record.reason = Some("response_too_large");
        });
    }
}
