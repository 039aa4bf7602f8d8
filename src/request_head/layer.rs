use http::Request;
use tower_layer::Layer;

use super::check::{Head, Limits, check};
use crate::{
    check::{Check, Checked, Refusal},
    context::RequestContext,
};

/// Refuses request heads that are too large or malformed. See the [module](super).
#[derive(Clone, Copy, Debug)]
pub struct RequestHeadLayer {
    limits: Limits,
}

impl Default for RequestHeadLayer {
    fn default() -> Self {
        Self { limits: Limits { fields: 100, bytes: 64 * 1024, uri: 8 * 1024, host: true } }
    }
}

impl RequestHeadLayer {
    /// 100 fields, 64 KiB, a target of 8 KiB, `Host` checked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Most header fields.
    #[must_use]
    pub fn max_fields(mut self, n: usize) -> Self {
        self.limits.fields = n;
        self
    }

    /// Most bytes of the header section, the request line apart.
    #[must_use]
    pub fn max_bytes(mut self, n: usize) -> Self {
        self.limits.bytes = n;
        self
    }

    /// Most bytes of the request target.
    #[must_use]
    pub fn max_uri(mut self, n: usize) -> Self {
        self.limits.uri = n;
        self
    }

    /// Leaves `Host` alone; for services behind a server that has checked it.
    #[must_use]
    pub fn without_host_check(mut self) -> Self {
        self.limits.host = false;
        self
    }
}

impl<S> Layer<S> for RequestHeadLayer {
    type Service = RequestHead<S>;

    fn layer(&self, inner: S) -> RequestHead<S> {
        Checked::new(inner, *self)
    }
}

/// The service that [`RequestHeadLayer`] makes.
pub type RequestHead<S> = Checked<S, RequestHeadLayer>;

impl Check for RequestHeadLayer {
    fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        let malformed = RequestContext::of(request.extensions()).is_some_and(RequestContext::is_malformed);
        let head = Head { uri: request.uri(), version: request.version(), headers: request.headers(), malformed };
        check(&self.limits, &head).map_err(Refusal::from)
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;
    use tower_service::Service as _;

    use super::*;
    use crate::{rejection::Rejection, reply::probe::Probe};

    #[tokio::test]
    async fn the_ready_instance_is_called_and_refusals_carry_their_cause() {
        let mut service = RequestHeadLayer::new().layer(Probe::default());
        for (host, status) in [("a", 200), ("a b", 400)] {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            let response = ServiceExt::<Request<()>>::ready(&mut service).await.unwrap().call(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.extensions().get::<Rejection>().is_some(), status != 200);
        }
    }
}
