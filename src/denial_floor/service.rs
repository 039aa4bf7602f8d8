use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::ResponseFuture;
use crate::body::ResponseBody;

/// The service of [`DenialFloorLayer`](super::DenialFloorLayer).
#[derive(Clone, Copy, Debug)]
pub struct DenialFloor<S> {
    inner: S,
    step: Duration,
}

impl<S> DenialFloor<S> {
    pub(super) fn new(inner: S, step: Duration) -> Self {
        Self { inner, step }
    }
}

impl<S, B, ResBody> Service<Request<B>> for DenialFloor<S>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // tokio's clock, because it is tokio's timer that waits: both stand still together in tests. Read anew, so that what was done
        // before in the same poll does not move the grid.
        let arrived = Instant::now();
        ResponseFuture::new(self.inner.call(request), arrived, self.step)
    }
}
