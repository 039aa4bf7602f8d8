//! The future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{layer::Config, service::Verdict};
use crate::{
    body::ResponseBody,
    context::RequestContext,
    rejection::Rejection,
    reply,
    tokens::{LiveToken, Principal, StoreUnavailable, TokenDigest, TokenStore},
};

type Answer<T> = Pin<Box<dyn Future<Output = Result<Option<T>, StoreUnavailable>> + Send>>;

/// What a store was asked.
pub(super) enum Asked {
    Token { answer: Answer<Arc<LiveToken>>, digest: TokenDigest },
    Ticket { answer: Answer<Principal> },
}

/// A request that waits for its store's answer.
pub(super) struct Waiting<S, T, B> {
    pub(super) asked: Asked,
    pub(super) inner: S,
    pub(super) request: Request<B>,
    pub(super) verdict: Verdict,
    pub(super) config: Arc<Config<T>>,
}

pin_project! {
    /// The response of the inner service, or a refusal; first, where the store is a remote one, its answer.
    pub struct ResponseFuture<S, T, B, F, R> {
        #[pin]
        kind: Kind<S, T, B, F, R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, T, B, F, R> {
        Asking { waiting: Option<Box<Waiting<S, T, B>>> },
        Reply { #[pin] reply: reply::ResponseFuture<F, R> },
        // A WebSocket's. Boxed, so that the others do not carry the place for it through every layer.
        Selecting { reply: Pin<Box<reply::ResponseFuture<F, R>>>, carrier: Option<Box<HeaderValue>> },
    }
}

impl<S, T, B, F, R> ResponseFuture<S, T, B, F, R> {
    pub(super) fn inner(future: F, carrier: Option<Box<HeaderValue>>) -> Self {
        let reply = reply::ResponseFuture::inner(future);
        match carrier {
            None => Self { kind: Kind::Reply { reply } },
            carrier => Self { kind: Kind::Selecting { reply: Box::pin(reply), carrier } },
        }
    }

    pub(super) fn refused(rejection: Rejection) -> Self {
        Self { kind: Kind::Reply { reply: reply::ResponseFuture::refused(rejection) } }
    }

    pub(super) fn asking(waiting: Waiting<S, T, B>) -> Self {
        Self { kind: Kind::Asking { waiting: Some(Box::new(waiting)) } }
    }
}

impl<S, T, B, R, E> Future for ResponseFuture<S, T, B, S::Future, R>
where
    S: Service<Request<B>, Response = Response<R>, Error = E>,
    T: TokenStore,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let next = match this.kind.as_mut().project() {
                KindProj::Reply { reply } => return reply.poll(cx),
                KindProj::Selecting { reply, carrier } => {
                    let mut response = ready!(reply.as_mut().poll(cx))?;
                    if let Some(carrier) = carrier.take() {
                        select_protocol(&mut response, *carrier);
                    }
                    return Poll::Ready(Ok(response));
                }
                KindProj::Asking { waiting } => {
                    let Some(w) = waiting.as_mut() else { return Poll::Pending };
                    let judged = match &mut w.asked {
                        Asked::Token { answer, digest } => {
                            let answer = ready!(answer.as_mut().poll(cx));
                            let context = RequestContext::of_mut(w.request.extensions_mut());
                            w.config.judge(context, &w.verdict, digest, answer)
                        }
                        Asked::Ticket { answer } => {
                            let answer = ready!(answer.as_mut().poll(cx));
                            let context = RequestContext::of_mut(w.request.extensions_mut());
                            w.config.judge_ticket(context, &w.verdict, answer)
                        }
                    };
                    match (judged, waiting.take()) {
                        (Ok(()), Some(waiting)) => {
                            let Waiting { mut inner, request, verdict, .. } = *waiting;
                            Self::inner(inner.call(request), verdict.carrier)
                        }
                        (Ok(()), None) => return Poll::Pending,
                        (Err(rejection), _) => Self::refused(rejection),
                    }
                }
            };
            this.kind.set(next.kind);
        }
    }
}

/// A client that offered nothing but the carrier has to see it selected, or a browser closes the socket at once.
fn select_protocol<R>(response: &mut Response<R>, carrier: HeaderValue) {
    let opened = response.status() == StatusCode::SWITCHING_PROTOCOLS || response.status() == StatusCode::OK;
    if opened && !response.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, carrier);
    }
}

impl<S, T, B, F, R> fmt::Debug for ResponseFuture<S, T, B, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
