//! The one body type that layers wrap a response in: the inner body, or a short text of their own.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::wire::read_decimal;

pin_project! {
    /// A response body: the inner service's, or a refusal's.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Full { data: Option<Bytes> },
    }
}

impl<B> ResponseBody<B> {
    /// The inner service's body.
    pub fn inner(body: B) -> Self {
        Self { kind: Kind::Inner { body } }
    }

    /// A body of known bytes.
    pub fn full(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self { kind: Kind::Full { data: (!data.is_empty()).then_some(data) } }
    }

    /// An empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self { kind: Kind::Full { data: None } }
    }
}

/// What a layer answers itself is rare, and its code is kept away from that of the others: every layer has this choice.
mod own {
    use bytes::Bytes;
    use http_body::SizeHint;

    #[cold]
    pub(super) fn take(data: &mut Option<Bytes>) -> Option<Bytes> {
        data.take()
    }

    #[cold]
    pub(super) fn is_end(data: Option<&Bytes>) -> bool {
        data.is_none()
    }

    #[cold]
    pub(super) fn size_hint(data: Option<&Bytes>) -> SizeHint {
        SizeHint::with_exact(data.map_or(0, |d| d.len() as u64))
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Full { data } => Poll::Ready(own::take(data).map(|d| Ok(Frame::data(d)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Full { data } => own::is_end(data.as_ref()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Full { data } => own::size_hint(data.as_ref()),
        }
    }
}

/// The length of a body as far as it is announced: by `Content-Length` or by the body itself, whichever says more.
pub(crate) fn announced_length<B: Body>(headers: &HeaderMap, body: &B) -> u64 {
    let field = headers.get(header::CONTENT_LENGTH).and_then(|value| read_decimal(value.as_bytes()));
    field.unwrap_or(0).max(body.size_hint().lower())
}
