//! The bodies as the server sees them: it has to know when a request body stalls or is given up, and when a reply has ended.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::{
    drain::StreamEnd,
    flow::Flow,
    streams::{Round, Streams},
};
use crate::rejection::{Rejection, RejectionKind};

/// The request body that [`Server`](super::Server) hands to the service: hyper's, with the server's time limits, or one that had
/// arrived as a whole together with its head.
#[derive(Debug)]
pub struct RequestBody(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Bytes),
    Stream { inner: Incoming, flow: Option<Arc<Flow>> },
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, flow: Option<Arc<Flow>>) -> Self {
        Self(Inner::Stream { inner, flow })
    }

    /// All of it; empty for none.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Inner::Whole(bytes))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (inner, flow_slot) = match &mut self.0 {
            Inner::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Inner::Stream { inner, flow } => (inner, flow),
        };
        let Some(flow) = flow_slot else {
            return Pin::new(inner).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(BodyError::client)));
        };
        if flow.malformed() {
            flow.body_abandoned();
            *flow_slot = None;
            return Poll::Ready(Some(Err(BodyError::malformed())));
        }
        if flow.body_timed_out() {
            flow.body_abandoned();
            *flow_slot = None;
            return Poll::Ready(Some(Err(BodyError::timeout())));
        }
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Pending => {
                flow.body_pending(cx.waker());
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                flow.body_bytes(frame.data_ref().map_or(0, |d| d.remaining() as u64));
                if frame.is_trailers() || inner.is_end_stream() {
                    flow.body_ended();
                    *flow_slot = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                flow.body_abandoned();
                *flow_slot = None;
                Poll::Ready(Some(Err(BodyError::client(error))))
            }
            Poll::Ready(None) => {
                flow.body_ended();
                *flow_slot = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Stream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Stream { inner, .. } => inner.size_hint(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Inner::Stream { flow: Some(flow), .. } = &self.0 {
            flow.body_abandoned();
        }
    }
}

/// Why a request body ended early. The cause lies with the client: its `source` is a [`Rejection`] (408) where the client was
/// too slow, and hyper's error otherwise (400, if it can be answered at all).
#[derive(Debug)]
pub struct BodyError(Kind);

#[derive(Debug)]
enum Kind {
    Timeout(Box<Rejection>),
    Malformed(Box<Rejection>),
    Client(hyper::Error),
}

impl BodyError {
    fn timeout() -> Self {
        Self(Kind::Timeout(Box::new(Rejection::new(RejectionKind::RequestTimeout).with_reason("body_stalled"))))
    }

    fn malformed() -> Self {
        Self(Kind::Malformed(Box::new(Rejection::new(RejectionKind::MalformedRequest).with_reason("body_malformed"))))
    }

    fn client(error: hyper::Error) -> Self {
        Self(Kind::Client(error))
    }

    /// Whether the client was too slow.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0, Kind::Timeout(_))
    }

    /// The answer that fits, if one can still be sent: 408 for a stalled client, 400 for bad framing or a broken connection.
    #[must_use]
    pub fn rejection(&self) -> Rejection {
        match &self.0 {
            Kind::Timeout(rejection) | Kind::Malformed(rejection) => (**rejection).clone(),
            Kind::Client(error) => {
                Rejection::new(RejectionKind::MalformedRequest).with_reason("body_malformed").with_detail(error.to_string())
            }
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Timeout(_) => "the client was too slow to send its request body",
            Kind::Malformed(_) | Kind::Client(_) => "the request body could not be read",
        })
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Kind::Timeout(rejection) | Kind::Malformed(rejection) => Some(&**rejection),
            Kind::Client(error) => Some(error),
        }
    }
}

/// Ends the reply in the books when it is dropped, whoever drops it.
#[derive(Debug)]
pub(super) struct ReplyGuard(Arc<Flow>);

impl ReplyGuard {
    pub(super) fn new(flow: Arc<Flow>) -> Self {
        Self(flow)
    }

    pub(super) fn flow(&self) -> &Arc<Flow> {
        &self.0
    }
}

impl Drop for ReplyGuard {
    fn drop(&mut self) {
        self.0.reply_ended();
    }
}

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

pin_project! {
    /// The service's response body under the server's eyes.
    #[derive(Debug)]
    pub(super) struct ReplyBody<B> {
        #[pin]
        inner: B,
        guard: ReplyGuard,
        streams: Option<Arc<Streams>>,
        end: Option<StreamEnd>,
        failed: Option<(BoxError, Round)>,
    }
}

impl<B> ReplyBody<B> {
    /// `streams`: HTTP/2, where only the body shows whether the client takes its bytes. `end`: an event stream that the drain may
    /// end.
    pub(super) fn new(inner: B, guard: ReplyGuard, streams: Option<Arc<Streams>>, end: Option<StreamEnd>) -> Self {
        Self { inner, guard, streams, end, failed: None }
    }
}

impl<B> Body for ReplyBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let me = self.project();
        if let (Some((_, round)), Some(streams)) = (&me.failed, &me.streams) {
            ready!(streams.poll_round(*round, cx));
            return Poll::Ready(me.failed.take().map(|(error, _)| Err(error)));
        }
        let result = me.inner.poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Into::into)));
        if let Some(streams) = me.streams {
            let bytes = match &result {
                Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |d| d.remaining() as u64),
                _ => 0,
            };
            me.guard.flow().reply_polled(result.is_pending(), bytes);
            if let Poll::Ready(Some(Err(error))) = result {
                // The error resets the stream, and a reset throws away what is queued for it: without a word more the client
                // would not even see the head. So the connection's task gets the time to write that out.
                me.guard.flow().reply_polled(true, 0);
                let round = streams.round_after_next();
                *me.failed = Some((error, round));
                return streams.poll_round(round, cx).map(|()| me.failed.take().map(|(error, _)| Err(error)));
            }
        }
        if result.is_pending()
            && let Some(end) = me.end
            && end.poll_ended(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        result
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
