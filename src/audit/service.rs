use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{AuditBody, AuditFuture, AuditRequestBody, AuditSink, layer::Shared};
use crate::{
    clock::{Clock, SystemClock, moment},
    context::{ClientAddr, CloseInTime, RecordHandle, RequestContext},
};

/// The service that [`AuditLayer`](super::AuditLayer) makes.
pub struct Audit<S, T, C = SystemClock> {
    inner: S,
    shared: Arc<Shared<T, C>>,
}

impl<S, T, C> Audit<S, T, C> {
    pub(super) fn new(inner: S, shared: Arc<Shared<T, C>>) -> Self {
        Self { inner, shared }
    }
}

impl<S: Clone, T, C> Clone for Audit<S, T, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, T, C> fmt::Debug for Audit<S, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, T, C, B, D> Service<Request<B>> for Audit<S, T, C>
where
    S: Service<Request<AuditRequestBody<B>>, Response = Response<D>>,
    T: AuditSink,
    C: Clock,
    B: Body,
    D: Body,
{
    type Response = Response<AuditBody<D, T, C>>;
    type Error = S::Error;
    type Future = AuditFuture<S::Future, T, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let _moment = moment::begin();
        let connect = request.method() == Method::CONNECT;
        let head = request.method() == Method::HEAD;
        let with_body = !request.body().is_end_stream();
        let (method, path) = (request.method().clone(), request.uri().path_and_query().cloned());
        let context = RequestContext::of_mut(request.extensions_mut());
        let connection = context.connection();
        let handle = RecordHandle::closing_filled(Arc::clone(&self.shared) as Arc<dyn CloseInTime>, |record| {
            self.shared.open(record);
            record.method = Some(method);
            record.path = path;
            // Until a layer knows better, the client is the other end of the connection.
            record.client = connection.map(|c| ClientAddr::new(c.peer().ip().to_canonical(), c.peer(), false));
        });
        context.set_record(handle.clone());
        let count = with_body.then(|| handle.clone());
        let future = self.inner.call(request.map(|body| AuditRequestBody::new(body, count)));
        AuditFuture::new(future, handle, connect, head)
    }
}
