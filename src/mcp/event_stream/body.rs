//! An event stream whose endpoint events are rewritten and whose silences are filled.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    context::{Outcome, RecordHandle},
    mcp_wire::{EndpointError, EndpointRewriter},
};

const COMMENT: &[u8] = b":\n";

/// Why a stream ended in the middle.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The inner body failed.
    Inner(E),
    /// An `endpoint` event must not reach the client.
    Endpoint(EndpointError),
}

impl<E: fmt::Display> fmt::Display for StreamError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::Endpoint(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for StreamError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Inner(error) => error.source(),
            Self::Endpoint(error) => error.source(),
        }
    }
}

pin_project! {
    /// The body of [`EventStreamLayer`](super::EventStreamLayer)'s answers; anything but an event stream passes untouched.
    pub struct EventStreamBody<B> {
        #[pin]
        inner: B,
        stream: Option<Box<Stream>>,
    }
}

struct Stream {
    rewriter: Option<EndpointRewriter>,
    keep_alive: Option<(Duration, Pin<Box<Sleep>>)>,
    record: Option<RecordHandle>,
    /// The last byte that went out; a comment fits after a line feed and before everything.
    last: Option<u8>,
    ended: bool,
}

impl<B> EventStreamBody<B> {
    pub(super) fn plain(inner: B) -> Self {
        Self { inner, stream: None }
    }

    pub(super) fn stream(
        inner: B,
        rewriter: Option<EndpointRewriter>,
        keep_alive: Option<Duration>,
        record: Option<RecordHandle>,
    ) -> Self {
        if rewriter.is_none() && keep_alive.is_none() {
            return Self::plain(inner);
        }
        let keep_alive = keep_alive.map(|after| (after, Box::pin(sleep(after))));
        Self { inner, stream: Some(Box::new(Stream { rewriter, keep_alive, record, last: None, ended: false })) }
    }
}

impl<B> fmt::Debug for EventStreamBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStreamBody").field("event_stream", &self.stream.is_some()).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes>> Body for EventStreamBody<B> {
    type Data = Bytes;
    type Error = StreamError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        let Some(stream) = this.stream else {
            return this.inner.poll_frame(cx).map_err(StreamError::Inner);
        };
        loop {
            if stream.ended {
                return Poll::Ready(None);
            }
            match this.inner.as_mut().poll_frame(cx) {
                Poll::Pending => return stream.poll_silence(cx),
                Poll::Ready(None) => {
                    stream.ended = true;
                    let rest = stream.rewriter.as_mut().map(EndpointRewriter::finish).unwrap_or_default();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
                Poll::Ready(Some(Err(error))) => {
                    stream.ended = true;
                    return Poll::Ready(Some(Err(StreamError::Inner(error))));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    Ok(data) => match stream.pass(data) {
                        Ok(data) if data.is_empty() => {}
                        Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(error) => return Poll::Ready(Some(Err(StreamError::Endpoint(error)))),
                    },
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stream {
            None => self.inner.is_end_stream(),
            Some(stream) => stream.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_none() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

impl Stream {
    fn pass(&mut self, mut data: Bytes) -> Result<Bytes, EndpointError> {
        if let Some(rewriter) = &mut self.rewriter {
            data = match rewriter.push(&data) {
                Ok(data) => data,
                Err(error) => {
                    self.ended = true;
                    if let Some(record) = &self.record {
                        record.with(|r| {
                            r.reason = Some("foreign_endpoint");
                            r.outcome = Outcome::Aborted;
                        });
                    }
                    return Err(error);
                }
            };
        }
        if let Some(last) = data.last() {
            self.last = Some(*last);
            if let Some((after, sleep)) = &mut self.keep_alive {
                sleep.as_mut().reset(Instant::now() + *after);
            }
        }
        Ok(data)
    }

    fn poll_silence<E>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        let Some((after, sleep)) = &mut self.keep_alive else { return Poll::Pending };
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            sleep.as_mut().reset(Instant::now() + *after);
            // After a CR a line feed may still belong to the same line end, and a comment between them would make a blank line.
            if matches!(self.last, None | Some(b'\n')) {
                self.last = Some(b'\n');
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn comments_fill_silences_between_lines_only() {
        let source = futures_util::stream::iter(["data: a", "\n", "\n", "data: b\r", "\n\r\n"]).then(|part| async move {
            sleep(Duration::from_millis(2500)).await;
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(part)))
        });
        let mut body = Box::pin(EventStreamBody::stream(StreamBody::new(source), None, Some(Duration::from_secs(1)), None));
        let mut out = Vec::new();
        while let Some(frame) = body.frame().await {
            out.push(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap());
        }
        assert_eq!(out, [":\n", ":\n", "data: a", "\n", ":\n", ":\n", "\n", ":\n", ":\n", "data: b\r", "\n\r\n"]);
    }
}
