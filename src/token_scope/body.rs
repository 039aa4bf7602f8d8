//! The request body, with what was held back in front.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::scan::Scanner;

pin_project! {
    /// A request body: as it came, or after a look into its beginning.
    pub struct ScopedBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Plain { #[pin] body: B },
        Looked { held: VecDeque<Frame<Bytes>>, body: Pin<Box<B>>, rest: Option<Box<Scanner>>, broken: bool },
    }
}

impl<B> ScopedBody<B> {
    pub(super) fn plain(body: B) -> Self {
        Self { kind: Kind::Plain { body } }
    }

    /// `rest` goes on reading what was not seen yet.
    pub(super) fn looked(held: VecDeque<Frame<Bytes>>, body: Pin<Box<B>>, rest: Option<Box<Scanner>>) -> Self {
        Self { kind: Kind::Looked { held, body, rest, broken: false } }
    }
}

/// Why a request body ended before its end.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScopedBodyError<E> {
    /// The client's body failed.
    Body(E),
    /// Further back the body said something else than in its beginning.
    Scope,
}

impl<E: fmt::Display> fmt::Display for ScopedBodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::Scope => f.write_str("the request body contradicts its beginning"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ScopedBodyError<E> {}

impl<B: Body<Data = Bytes>> Body for ScopedBody<B> {
    type Data = Bytes;
    type Error = ScopedBodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().kind.project() {
            KindProj::Plain { body } => body.poll_frame(cx).map_err(ScopedBodyError::Body),
            KindProj::Looked { broken: true, .. } => Poll::Ready(None),
            KindProj::Looked { held, body, rest, broken } => {
                if let Some(frame) = held.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                let frame = ready!(body.as_mut().poll_frame(cx)).transpose().map_err(ScopedBodyError::Body);
                if let (Some(scanner), Ok(Some(frame))) = (rest, &frame)
                    && frame.data_ref().is_some_and(|data| scanner.feed(data).is_err())
                {
                    *broken = true;
                    return Poll::Ready(Some(Err(ScopedBodyError::Scope)));
                }
                Poll::Ready(frame.transpose())
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { body } => body.is_end_stream(),
            Kind::Looked { held, body, broken, .. } => *broken || held.is_empty() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { body } => body.size_hint(),
            Kind::Looked { held, body, .. } => {
                let bytes: usize = held.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
                let (bytes, rest) = (bytes as u64, body.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(bytes));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(bytes));
                }
                hint
            }
        }
    }
}

impl<B> fmt::Debug for ScopedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedBody").finish_non_exhaustive()
    }
}
