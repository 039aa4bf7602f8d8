use http::Request;

use super::SsrfGuardLayer;
use crate::{
    check::{Check, Checked, Refusal},
    context::RequestContext,
    egress::{Denial, PolicyHandle},
    rejection::{Rejection, RejectionKind},
};

/// The service of [`SsrfGuardLayer`](super::SsrfGuardLayer).
pub type SsrfGuard<S> = Checked<S, SsrfGuardLayer>;

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

impl Check for SsrfGuardLayer {
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        decide(&self.policy, RequestContext::of_mut(request.extensions_mut())).map_err(Refusal::from)
    }
}
