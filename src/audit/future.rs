use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{AuditBody, layer::Shared};
use crate::{
    clock::{Clock, moment},
    context::{Outcome, RecordHandle},
    rejection::Rejection,
};

pin_project! {
    /// The response of [`Audit`](super::Audit). Dropped before its end, it leaves the record of a client that went away.
    pub struct AuditFuture<F, T, C> {
        #[pin]
        inner: F,
        open: Option<RecordHandle>,
        connect: bool,
        head: bool,
        // Who closes the record: the handle knows.
        shared: PhantomData<Arc<Shared<T, C>>>,
    }
}

impl<F, T, C> AuditFuture<F, T, C> {
    pub(super) fn new(inner: F, handle: RecordHandle, connect: bool, head: bool) -> Self {
        Self { inner, open: Some(handle), connect, head, shared: PhantomData }
    }
}

impl<F, T, C> fmt::Debug for AuditFuture<F, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditFuture(..)")
    }
}

impl<F, D, E, T, C> Future for AuditFuture<F, T, C>
where
    F: Future<Output = Result<Response<D>, E>>,
    D: Body,
    C: Clock,
{
    type Output = Result<Response<AuditBody<D, T, C>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _moment = moment::begin();
        let me = self.project();
        let result = ready!(me.inner.poll(cx));
        let Some(handle) = me.open.take() else { return Poll::Pending };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                handle.with(|r| r.outcome = Outcome::Failed);
                return Poll::Ready(Err(error));
            }
        };
        let status = response.status();
        let tunnel = status == StatusCode::SWITCHING_PROTOCOLS || (*me.connect && status.is_success());
        let no_body = *me.head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let ended = !tunnel && (no_body || response.body().is_end_stream());
        let lasts = tunnel || !ended && response.body().size_hint().exact().is_none();
        let now = handle.now();
        handle.with(|r| {
            r.status = Some(status);
            r.tunnel = tunnel;
            if lasts {
                r.let_go_of_the_request();
            }
            let after = now.saturating_sub(r.arrived);
            r.head_after = Some(after);
            if let Some(rejection) = response.extensions().get::<Rejection>() {
                r.reason = Some(rejection.reason());
                r.proxy_status = Some(rejection.proxy_status());
                if r.detail.is_none() {
                    r.detail = rejection.detail().map(Into::into);
                }
                r.outcome = outcome_of(rejection);
            }
            if ended {
                r.duration = Some(after);
                if r.outcome == Outcome::Open {
                    r.outcome = Outcome::Complete;
                }
            }
        });
        // A tunnel's record is its task's to end.
        let handle = (!tunnel && !ended).then_some(handle);
        Poll::Ready(Ok(response.map(|body| AuditBody::new(body, handle))))
    }
}

/// Refusals are this server's decision, failures are the target's or our own fault.
fn outcome_of(rejection: &Rejection) -> Outcome {
    match rejection.status() {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::NOT_IMPLEMENTED | StatusCode::LOOP_DETECTED => Outcome::Refused,
        status if status.is_server_error() => Outcome::Failed,
        _ => Outcome::Refused,
    }
}
