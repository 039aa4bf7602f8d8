use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf as _;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::layer::Shared;
use crate::{
    clock::Clock,
    context::{Outcome, RecordHandle},
};

pin_project! {
    /// A response body that is counted, and whose end, or loss, ends the record.
    pub struct AuditBody<D, T, C> {
        #[pin]
        inner: D,
        tail: Tail,
        // Who closes the record: the handle knows.
        shared: PhantomData<Arc<Shared<T, C>>>,
    }
}

/// What is written into the record when the body goes, however it goes.
struct Tail {
    handle: Option<RecordHandle>,
    bytes: u64,
    /// A body of known length is complete when its last byte has been taken: nobody asks it for more.
    expected: Option<u64>,
    /// No frame had to be waited for since the head: the body's end is then the head's moment, and no clock is read for it.
    at_once: bool,
}

impl<D: Body, T, C> AuditBody<D, T, C> {
    pub(super) fn new(inner: D, handle: Option<RecordHandle>) -> Self {
        let expected = inner.size_hint().exact();
        Self { inner, tail: Tail { handle, bytes: 0, expected, at_once: true }, shared: PhantomData }
    }
}

impl Tail {
    fn end(&mut self, outcome: Outcome) {
        let Some(handle) = self.handle.take() else { return };
        let (bytes, at_once) = (self.bytes, self.at_once);
        handle.with(|r| {
            r.bytes_out = bytes;
            r.duration = r.head_after.filter(|_| at_once).or_else(|| Some(handle.now().saturating_sub(r.arrived)));
            if r.outcome == Outcome::Open {
                r.outcome = outcome;
            }
        });
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let (bytes, complete) = (self.bytes, self.expected == Some(self.bytes));
        handle.with(|r| {
            r.bytes_out = bytes;
            if r.outcome == Outcome::Open {
                r.outcome = if complete { Outcome::Complete } else { Outcome::ClientGone };
            }
        });
    }
}

impl<D: Body, T, C: Clock> Body for AuditBody<D, T, C> {
    type Data = D::Data;
    type Error = D::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<D::Data>, D::Error>>> {
        let mut me = self.project();
        let Poll::Ready(frame) = me.inner.as_mut().poll_frame(cx) else {
            me.tail.at_once = false;
            return Poll::Pending;
        };
        if me.tail.handle.is_some() {
            match &frame {
                Some(Ok(frame)) => {
                    let first = me.tail.bytes == 0;
                    me.tail.bytes += frame.data_ref().map_or(0, |d| d.remaining() as u64);
                    me.tail.at_once &= first;
                    if me.inner.is_end_stream() {
                        me.tail.end(Outcome::Complete);
                    }
                }
                Some(Err(_)) => me.tail.end(Outcome::UpstreamFailed),
                None => me.tail.end(Outcome::Complete),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<D: fmt::Debug, T, C> fmt::Debug for AuditBody<D, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

pin_project! {
    /// A request body that is counted.
    #[derive(Debug)]
    pub struct AuditRequestBody<B> {
        #[pin]
        inner: B,
        count: Count,
    }
}

#[derive(Debug)]
struct Count {
    handle: Option<RecordHandle>,
    bytes: u64,
}

impl<B> AuditRequestBody<B> {
    pub(super) fn new(inner: B, handle: Option<RecordHandle>) -> Self {
        Self { inner, count: Count { handle, bytes: 0 } }
    }

    /// The body itself, no longer counted.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl Count {
    fn end(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.with(|r| r.bytes_in += self.bytes);
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.end();
    }
}

impl<B: Body> Body for AuditRequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut me = self.project();
        let frame = ready!(me.inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                me.count.bytes += frame.data_ref().map_or(0, |d| d.remaining() as u64);
                if me.inner.is_end_stream() {
                    me.count.end();
                }
            }
            Some(Err(_)) | None => me.count.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
