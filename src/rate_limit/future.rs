//! The answer to come.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::{AmendBody, Charge},
    layer::Shared,
    policy::PolicySet,
    service::{Passed, Settled, settle, unavailable},
};
use crate::{body::ResponseBody, limiter::CheckFuture};

pin_project! {
    /// The future of [`RateLimit`](super::RateLimit).
    pub struct ResponseFuture<F, S, B> {
        #[pin]
        state: State<F, S, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, S, B> {
        Refused { response: Option<Box<Response<Bytes>>> },
        Inner { #[pin] future: F, passed: Passed },
        Asking { check: CheckFuture, pending: Option<Box<Pending<S, B>>> },
    }
}

/// A request that waits for a remote store.
pub(super) struct Pending<S, B> {
    pub(super) inner: S,
    pub(super) request: Request<B>,
    pub(super) shared: Arc<Shared>,
    pub(super) set: Arc<PolicySet>,
    pub(super) asked: u8,
    pub(super) charge: Option<Box<Charge>>,
}

impl<F, S, B> ResponseFuture<F, S, B> {
    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self { state: State::Refused { response: Some(Box::new(response)) } }
    }

    pub(super) fn inner(future: F, passed: Passed) -> Self {
        Self { state: State::Inner { future, passed } }
    }

    pub(super) fn asking(check: CheckFuture, pending: Pending<S, B>) -> Self {
        Self { state: State::Asking { check, pending: Some(Box::new(pending)) } }
    }
}

impl<F, S, B, ResBody, E> Future for ResponseFuture<F, S, B>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    S: Service<Request<B>, Response = Response<ResBody>, Error = E, Future = F>,
{
    type Output = Result<Response<ResponseBody<AmendBody<ResBody>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Refused { response } => return refused(response),
                StateProj::Inner { future, passed } => {
                    // In place: a response is large, and one that is taken out first is moved once more.
                    let mut polled = future.poll(cx);
                    let charge = match &mut polled {
                        Poll::Ready(Ok(response)) => mem::replace(passed, Passed::Nothing).apply(response),
                        _ => None,
                    };
                    return polled.map_ok(|r| r.map(|body| ResponseBody::inner(AmendBody::new(body, charge))));
                }
                StateProj::Asking { check, pending } => {
                    let next = ready!(answered(check, pending, cx));
                    state.set(next);
                }
            }
        }
    }
}

#[cold]
fn refused<B, E>(response: &mut Option<Box<Response<Bytes>>>) -> Poll<Result<Response<ResponseBody<B>>, E>> {
    // Nothing: polled again after it was ready.
    response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response.map(ResponseBody::full))))
}

/// Goes on with what the store has said.
#[cold]
fn answered<F, S, B>(
    check: &mut CheckFuture,
    pending: &mut Option<Box<Pending<S, B>>>,
    cx: &mut Context<'_>,
) -> Poll<State<F, S, B>>
where
    S: Service<Request<B>, Future = F>,
{
    let answer = ready!(check.as_mut().poll(cx));
    let Some(pending) = pending.take() else { return Poll::Pending };
    let Pending { mut inner, mut request, shared, set, asked, charge } = *pending;
    Poll::Ready(match answer {
        Ok(said) => match settle(&shared, &set, asked, &said, charge, request.extensions_mut()) {
            Settled::Passed(passed) => State::Inner { future: inner.call(request), passed },
            Settled::Refused(response) => State::Refused { response: Some(Box::new(response)) },
        },
        Err(_) => State::Refused { response: Some(Box::new(unavailable())) },
    })
}

impl<F, S, B> fmt::Debug for ResponseFuture<F, S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
