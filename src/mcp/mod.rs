//! What an MCP route needs beyond forwarding.
//!
//! A transparent forwarder serves every revision of MCP over HTTP; these pieces do the rest, and each is used by itself:
//!
//! * [`JsonRpcErrorLayer`] renders this crate's refusals as JSON-RPC errors where the client sent JSON;
//! * [`PeekLayer`] notes method, name and id of small JSON-RPC bodies in the request context, so that limiters, scopes and audit
//!   know what is asked;
//! * [`EventStreamLayer`] marks event streams as unbuffered, keeps idle ones alive, and in path style rewrites the `endpoint`
//!   event and `Location`;
//! * [`EnvelopeService`] answers `POST /proxy`: one JSON-RPC message in, one JSON-RPC answer out, sessions kept.
//!
//! The codes of the JSON-RPC errors are listed at [`error_code`].

pub mod envelope;
pub mod event_stream;
pub mod json_errors;
pub mod peek;

pub use crate::mcp_wire::{EndpointError, LinkError, error_code};
pub use envelope::{EnvelopeBody, EnvelopeFuture, EnvelopeService};
pub use event_stream::{EventStreamBody, EventStreamFuture, EventStreamLayer, EventStreamService, PublicBase, StreamError};
pub use json_errors::{JsonRpcErrorFuture, JsonRpcErrorLayer, JsonRpcErrorService};
pub use peek::{PeekFuture, PeekLayer, PeekService, PeekedBody};

#[cfg(test)]
pub(crate) mod testing {
    //! A service that insists on the readiness contract.

    use std::{
        convert::Infallible,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use http::{Request, Response};
    use tower_service::Service;

    type Answer<RB> = Pin<Box<dyn Future<Output = Result<Response<RB>, Infallible>> + Send>>;

    /// Calls a closure; panics when called without having been polled ready, and its clones are not ready.
    pub(crate) struct Probe<B, RB> {
        answer: Arc<dyn Fn(Request<B>) -> Answer<RB> + Send + Sync>,
        ready: bool,
    }

    impl<B, RB> Probe<B, RB> {
        pub(crate) fn new<F, Fut>(answer: F) -> Self
        where
            F: Fn(Request<B>) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Response<RB>> + Send + 'static,
        {
            let answer = move |r: Request<B>| -> Answer<RB> {
                let fut = answer(r);
                Box::pin(async move { Ok(fut.await) })
            };
            Self { answer: Arc::new(answer), ready: false }
        }
    }

    impl<B, RB> Clone for Probe<B, RB> {
        fn clone(&self) -> Self {
            Self { answer: Arc::clone(&self.answer), ready: false }
        }
    }

    impl<B, RB> Service<Request<B>> for Probe<B, RB> {
        type Response = Response<RB>;
        type Error = Infallible;
        type Future = Answer<RB>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<B>) -> Self::Future {
            assert!(std::mem::take(&mut self.ready), "called without being ready");
            (self.answer)(request)
        }
    }
}
