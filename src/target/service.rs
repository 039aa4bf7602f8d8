use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, Request, Response};
use tower_service::Service;

use super::{ResponseFuture, TargetExtractor, layer::Shared};
use crate::{
    body::ResponseBody,
    context::RequestContext,
    net::{Target, TargetError},
    rejection::{Rejection, RejectionKind},
};

/// The service of [`TargetLayer`](super::TargetLayer).
pub struct TargetService<S, X> {
    inner: S,
    shared: Arc<Shared<X>>,
}

impl<S, X> TargetService<S, X> {
    pub(super) fn new(inner: S, shared: Arc<Shared<X>>) -> Self {
        Self { inner, shared }
    }
}

impl<S: Clone, X> Clone for TargetService<S, X> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, X> fmt::Debug for TargetService<S, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The answer to a target that is not one.
fn malformed(error: TargetError) -> Rejection {
    let rejection = Rejection::new(RejectionKind::MalformedTarget);
    rejection.with_public_detail(error.to_string()).with_detail(error.as_str())
}

fn remember(extensions: &mut Extensions, target: Target) {
    let context = RequestContext::of_mut(extensions);
    if let Some(record) = context.record() {
        record.with(|r| r.target = Some(target.clone()));
    }
    context.set_target(target);
}

impl<S, X, B, ResBody> Service<Request<B>> for TargetService<S, X>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    X: TargetExtractor,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.shared.extractor.extract_from_uri(request.uri(), &self.shared.parser) {
            Some(Ok(target)) => {
                remember(request.extensions_mut(), target);
                return ResponseFuture::inner(self.inner.call(request));
            }
            Some(Err(error)) => return ResponseFuture::refused(malformed(error)),
            None => {}
        }
        let (mut parts, body) = request.into_parts();
        match self.shared.extractor.extract(&mut parts, &self.shared.parser) {
            Ok(target) => {
                remember(&mut parts.extensions, target);
                ResponseFuture::inner(self.inner.call(Request::from_parts(parts, body)))
            }
            Err(error) => ResponseFuture::refused(malformed(error)),
        }
    }
}
