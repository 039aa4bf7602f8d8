//! The future.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    LOOK, ScopedBody,
    judge::{self, Named},
    scan::Scanner,
};
use crate::{
    body::ResponseBody,
    rejection::{self, Rejection, RejectionKind},
    reply,
    tokens::Principal,
};

/// A request whose body is being looked at.
pub(super) struct Looking<S, B> {
    inner: S,
    parts: Parts,
    body: Pin<Box<B>>,
    principal: Principal,
    named: Named,
    scanner: Box<Scanner>,
    held: VecDeque<Frame<Bytes>>,
    seen: usize,
}

impl<S, B> Looking<S, B> {
    pub(super) fn new(inner: S, request: Request<B>, principal: Principal, named: Named) -> Self {
        let (parts, body) = request.into_parts();
        let (scanner, held) = (Box::new(Scanner::new()), VecDeque::new());
        Self { inner, parts, body: Box::pin(body), principal, named, scanner, held, seen: 0 }
    }
}

impl<S, B> Looking<S, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Reads until the body ends or the look is full; then says whether it ended.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Rejection>> {
        while self.seen < LOOK {
            match ready!(self.body.as_mut().poll_frame(cx)) {
                None => return Poll::Ready(Ok(true)),
                Some(Err(error)) => {
                    let rejection = rejection::find_in(error.into().as_ref()).cloned();
                    return Poll::Ready(Err(rejection
                        .unwrap_or_else(|| Rejection::new(RejectionKind::MalformedRequest).with_reason("request_body_failed"))));
                }
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.seen = self.seen.saturating_add(data.len());
                        if self.scanner.feed(data).is_err() {
                            return Poll::Ready(Err(judge::denied("the body is no plain JSON-RPC")));
                        }
                    }
                    self.held.push_back(frame);
                }
            }
        }
        Poll::Ready(Ok(self.body.is_end_stream()))
    }

    fn verdict(&self, ended: bool) -> Result<(), Rejection> {
        // An empty body asks for nothing.
        if ended && self.seen == 0 { Ok(()) } else { judge::body(self.principal.scopes(), &self.named, &self.scanner, ended) }
    }
}

pin_project! {
    /// The response of the inner service, or a refusal; first, where it has to be, the look into the body.
    pub struct ResponseFuture<S, B, F, R> {
        #[pin]
        kind: Kind<S, B, F, R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, B, F, R> {
        Looking { looking: Option<Box<Looking<S, B>>> },
        Reply { #[pin] reply: reply::ResponseFuture<F, R> },
    }
}

impl<S, B, F, R> ResponseFuture<S, B, F, R> {
    pub(super) fn inner(future: F) -> Self {
        Self { kind: Kind::Reply { reply: reply::ResponseFuture::inner(future) } }
    }

    pub(super) fn refused(rejection: Rejection) -> Self {
        Self { kind: Kind::Reply { reply: reply::ResponseFuture::refused(rejection) } }
    }

    pub(super) fn looking(looking: Looking<S, B>) -> Self {
        Self { kind: Kind::Looking { looking: Some(Box::new(looking)) } }
    }
}

impl<S, B, R, E> Future for ResponseFuture<S, B, S::Future, R>
where
    S: Service<Request<ScopedBody<B>>, Response = Response<R>, Error = E>,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let next = match this.kind.as_mut().project() {
                KindProj::Reply { reply } => return reply.poll(cx),
                KindProj::Looking { looking } => {
                    let Some(look) = looking.as_mut() else { return Poll::Pending };
                    let verdict = ready!(look.poll_look(cx)).and_then(|ended| look.verdict(ended).map(|()| ended));
                    match (verdict, looking.take()) {
                        (Ok(ended), Some(done)) => {
                            let Looking { mut inner, parts, body, scanner, held, .. } = *done;
                            let body = ScopedBody::looked(held, body, (!ended).then_some(scanner));
                            Self::inner(inner.call(Request::from_parts(parts, body)))
                        }
                        (Ok(_), None) => return Poll::Pending,
                        (Err(rejection), _) => Self::refused(rejection),
                    }
                }
            };
            this.kind.set(next.kind);
        }
    }
}

impl<S, B, F, R> fmt::Debug for ResponseFuture<S, B, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
