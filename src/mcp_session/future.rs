//! The future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::service::{Parties, SESSION_ID, judge};
use crate::{
    body::ResponseBody,
    mcp_wire::first,
    rejection::Rejection,
    reply,
    tokens::{Lookup, SessionKey, StoreUnavailable},
};

type Answer = Pin<Box<dyn Future<Output = Result<Option<Arc<str>>, StoreUnavailable>> + Send>>;

/// A request that waits for its store's answer.
pub(super) struct Waiting<S, B> {
    pub(super) inner: S,
    pub(super) request: Request<B>,
    pub(super) parties: Arc<Parties>,
}

pin_project! {
    /// The response of the inner service, or a refusal; with a remote store, its answers before and after.
    pub struct ResponseFuture<S, B, F, R> {
        #[pin]
        kind: Kind<S, B, F, R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<S, B, F, R> {
        Asking { answer: Answer, waiting: Option<Box<Waiting<S, B>>> },
        Inner { #[pin] reply: reply::ResponseFuture<F, R>, parties: Option<Arc<Parties>> },
        Binding { answer: Answer, response: Option<Box<Response<ResponseBody<R>>>> },
    }
}

impl<S, B, F, R> ResponseFuture<S, B, F, R> {
    pub(super) fn inner(future: F, parties: Arc<Parties>) -> Self {
        Self { kind: Kind::Inner { reply: reply::ResponseFuture::inner(future), parties: Some(parties) } }
    }

    pub(super) fn refused(rejection: Rejection) -> Self {
        Self { kind: Kind::Inner { reply: reply::ResponseFuture::refused(rejection), parties: None } }
    }

    pub(super) fn asking(answer: Answer, waiting: Waiting<S, B>) -> Self {
        Self { kind: Kind::Asking { answer, waiting: Some(Box::new(waiting)) } }
    }
}

/// Binds the session that the target has issued, if it has.
fn bind<R>(parties: &Parties, response: &Response<R>) -> Lookup<Arc<str>> {
    match first(response.headers(), &SESSION_ID) {
        Some(session) if !response.status().is_client_error() && !response.status().is_server_error() => {
            parties.store.claim(SessionKey::new(session.as_bytes(), &parties.origin), &parties.owner)
        }
        _ => Lookup::Ready(Ok(None)),
    }
}

/// A session that could not be bound is not handed out. One that the target has given to somebody else already is: its next use
/// is refused, and the client learns why.
fn bound<R>(
    answer: &Result<Option<Arc<str>>, StoreUnavailable>,
    response: Response<ResponseBody<R>>,
) -> Response<ResponseBody<R>> {
    if answer.is_ok() {
        return response;
    }
    let rejection = Rejection::new(crate::rejection::RejectionKind::Saturated).with_reason("session_store_unavailable");
    rejection.with_retry_after(std::time::Duration::from_secs(1)).into_response()
}

impl<S, B, R, E> Future for ResponseFuture<S, B, S::Future, R>
where
    S: Service<Request<B>, Response = Response<R>, Error = E>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let next = match this.kind.as_mut().project() {
                KindProj::Asking { answer, waiting } => {
                    if waiting.is_none() {
                        return Poll::Pending;
                    }
                    let owner = ready!(answer.as_mut().poll(cx));
                    let Some(Waiting { mut inner, request, parties }) = waiting.take().map(|w| *w) else { return Poll::Pending };
                    match judge(&parties, owner) {
                        Ok(()) => Self::inner(inner.call(request), parties),
                        Err(rejection) => Self::refused(rejection),
                    }
                }
                KindProj::Inner { reply, parties } => {
                    let response = ready!(reply.poll(cx))?;
                    match parties.take().map(|parties| bind(&parties, &response)) {
                        None => return Poll::Ready(Ok(response)),
                        Some(Lookup::Ready(answer)) => return Poll::Ready(Ok(bound(&answer, response))),
                        Some(Lookup::Later(answer)) => {
                            Self { kind: Kind::Binding { answer, response: Some(Box::new(response)) } }
                        }
                    }
                }
                KindProj::Binding { answer, response } => {
                    if response.is_none() {
                        return Poll::Pending;
                    }
                    let answer = ready!(answer.as_mut().poll(cx));
                    return response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(bound(&answer, *response))));
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
