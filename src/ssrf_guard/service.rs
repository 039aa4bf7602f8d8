use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::ResponseFuture;
use crate::{
    body::ResponseBody,
    context::RequestContext,
    egress::{Denial, PolicyHandle},
    rejection::{Rejection, RejectionKind},
};

/// The service of [`SsrfGuardLayer`](super::SsrfGuardLayer).
#[derive(Clone, Debug)]
pub struct SsrfGuard<S> {
    inner: S,
    policy: PolicyHandle,
}

impl<S> SsrfGuard<S> {
    pub(super) fn new(inner: S, policy: PolicyHandle) -> Self {
        Self { inner, policy }
    }
}

/// The decision: puts the permit into the context, or says why not.
fn decide(policy: &PolicyHandle, context: &mut RequestContext) -> Result<(), Rejection> {
    context.take_permit();
    let target = context.target().ok_or_else(|| {
        let rejection = Rejection::new(RejectionKind::Misconfigured);
        rejection.with_detail("SsrfGuardLayer found no target: TargetLayer has to stand before it")
    })?;
    let permit = policy.permit(target).map_err(Denial::into_rejection)?;
    context.set_permit(permit);
    Ok(())
}

impl<S, B, ResBody> Service<Request<B>> for SsrfGuard<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match decide(&self.policy, RequestContext::of_mut(request.extensions_mut())) {
            Ok(()) => ResponseFuture::inner(self.inner.call(request)),
            Err(rejection) => ResponseFuture::refused(rejection),
        }
    }
}
