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
        // Boxed, because the body travels through all inner layers, most of the time without having been looked at.
        Looked { looked: Box<Looked<B>> },
    }
}

struct Looked<B> {
    held: VecDeque<Frame<Bytes>>,
    body: Pin<Box<B>>,
    rest: Option<Box<Scanner>>,
    broken: bool,
}

impl<B> ScopedBody<B> {
    pub(super) fn plain(body: B) -> Self {
        Self { kind: Kind::Plain { body } }
    }

    /// `rest` goes on reading what was not seen yet.
    pub(super) fn looked(held: VecDeque<Frame<Bytes>>, body: Pin<Box<B>>, rest: Option<Box<Scanner>>) -> Self {
        Self { kind: Kind::Looked { looked: Box::new(Looked { held, body, rest, broken: false }) } }
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

impl<E> fmt::Display for ScopedBodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(_) => f.write_str("request body failed"),
            Self::Scope => f.write_str("the request body contradicts its beginning"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ScopedBodyError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Body(error) => Some(error),
            Self::Scope => None,
        }
    }
}

type NextFrame<E> = Poll<Option<Result<Frame<Bytes>, ScopedBodyError<E>>>>;

impl<B: Body<Data = Bytes>> Looked<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> NextFrame<B::Error> {
        if self.broken {
            return Poll::Ready(None);
        }
        if let Some(frame) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = ready!(self.body.as_mut().poll_frame(cx)).transpose().map_err(ScopedBodyError::Body);
        if let (Some(scanner), Ok(Some(frame))) = (&mut self.rest, &frame)
            && frame.data_ref().is_some_and(|data| scanner.feed(data).is_err())
        {
            self.broken = true;
            return Poll::Ready(Some(Err(ScopedBodyError::Scope)));
        }
        Poll::Ready(frame.transpose())
    }
}

impl<B: Body<Data = Bytes>> Body for ScopedBody<B> {
    type Data = Bytes;
    type Error = ScopedBodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().kind.project() {
            KindProj::Plain { body } => body.poll_frame(cx).map_err(ScopedBodyError::Body),
            KindProj::Looked { looked } => looked.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { body } => body.is_end_stream(),
            Kind::Looked { looked: l } => l.broken || l.held.is_empty() && l.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { body } => body.size_hint(),
            Kind::Looked { looked } => {
                let Looked { held, body, .. } = &**looked;
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
