//! The future of a layer that decides at once: the inner service's, or a refusal that is ready.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;

use crate::{body::ResponseBody, rejection::Rejection};

pin_project! {
    /// The response of the inner service, or a refusal.
    pub struct ResponseFuture<F, B> {
        #[pin]
        kind: Kind<F, B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F, B> {
        Inner { #[pin] future: F },
        Refused { response: Option<Box<Response<ResponseBody<B>>>> },
    }
}

impl<F, B> ResponseFuture<F, B> {
    /// The inner service's future.
    pub fn inner(future: F) -> Self {
        Self { kind: Kind::Inner { future } }
    }

    /// A refusal.
    #[must_use]
    pub fn refused(rejection: Rejection) -> Self {
        Self::ready(rejection.into_response())
    }

    /// A response that this layer has made itself.
    #[must_use]
    pub fn ready(response: Response<ResponseBody<B>>) -> Self {
        Self { kind: Kind::Refused { response: Some(Box::new(response)) } }
    }
}

#[cold]
fn refused<B, E>(response: &mut Option<Box<Response<B>>>) -> Poll<Result<Response<B>, E>> {
    response.take().map_or(Poll::Pending, |r| Poll::Ready(Ok(*r)))
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Inner { future } => future.poll(cx).map_ok(|response| response.map(ResponseBody::inner)),
            // Polled after completion: the caller's mistake, answered by silence rather than a panic.
            KindProj::Refused { response } => refused(response),
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod probe {
    //! An inner service that holds its callers to the readiness contract of `tower_service::Service`.

    use std::{
        convert::Infallible,
        future::{Ready, ready},
        sync::{Arc, Mutex},
        task::{Context, Poll},
    };

    use http::{Request, Response, request::Parts};
    use tower_service::Service;

    /// Keeps the requests it sees, answers 200, and panics when a clone is called that was not polled ready.
    #[derive(Debug, Default)]
    pub(crate) struct Probe {
        ready: bool,
        seen: Arc<Mutex<Vec<Parts>>>,
    }

    impl Probe {
        /// The last request that came through, if any did.
        pub(crate) fn last(&self) -> Option<Parts> {
            self.seen.lock().unwrap().pop()
        }

        /// The same record, as a service of its own.
        pub(crate) fn handle(&self) -> Self {
            self.clone()
        }
    }

    /// As the contract says: readiness is not cloned.
    impl Clone for Probe {
        fn clone(&self) -> Self {
            Self { ready: false, seen: Arc::clone(&self.seen) }
        }
    }

    impl<B> Service<Request<B>> for Probe {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = Ready<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<B>) -> Self::Future {
            assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
            self.seen.lock().unwrap().push(request.into_parts().0);
            ready(Ok(Response::new("inner".into())))
        }
    }
}
