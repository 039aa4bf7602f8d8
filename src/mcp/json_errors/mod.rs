//! Refusals as JSON-RPC errors.
//!
//! ```
//! use http::{Request, Response};
//! use portcullis::{body::ResponseBody, mcp::JsonRpcErrorLayer, rejection::{Rejection, RejectionKind}};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new().layer(JsonRpcErrorLayer::new()).service_fn(async |_: Request<()>| {
//!     Ok::<_, std::convert::Infallible>(Rejection::new(RejectionKind::Denied).into_response::<ResponseBody<axum::body::Body>>())
//! });
//! let request = Request::post("/").header("content-type", "application/json").body(()).unwrap();
//! let response = service.oneshot(request).await.unwrap();
//! assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (403, &"application/json".parse().unwrap()));
//! # });
//! ```
//!
//! # Rules
//! 1. Only answers that carry a [`Rejection`] change, and only for a `POST` with a JSON content type.
//! 2. Status and fields stay; the body becomes a JSON-RPC error of type `application/json`, with a code of its own for each kind
//!    ([`error_code`](super::error_code)).
//! 3. The id is echoed where an inner layer has noted it in the audit record; else it is null.
//!
//! # Where it stands
//! It stands outside of everything that refuses (directly inside the audit layer), on MCP routes only.
//!
//! # Cost
//! A look at one header field; a body is rendered for refusals only.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Method, Request, Response, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    context::{RecordHandle, RequestContext},
    mcp_wire::{error_body, first, is_json},
    rejection::Rejection,
};

/// Renders refusals as JSON-RPC errors; see the [module's rules](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonRpcErrorLayer(());

impl JsonRpcErrorLayer {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for JsonRpcErrorLayer {
    type Service = JsonRpcErrorService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        JsonRpcErrorService { inner }
    }
}

/// The service of [`JsonRpcErrorLayer`].
#[derive(Clone, Debug)]
pub struct JsonRpcErrorService<S> {
    inner: S,
}

impl<S, B, RB> Service<Request<B>> for JsonRpcErrorService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
{
    type Response = Response<ResponseBody<RB>>;
    type Error = S::Error;
    type Future = JsonRpcErrorFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let wanted = request.method() == Method::POST && is_json(first(request.headers(), &header::CONTENT_TYPE));
        let record = if wanted { RequestContext::of(request.extensions()).and_then(|c| c.record().cloned()) } else { None };
        JsonRpcErrorFuture { future: self.inner.call(request), wanted, record }
    }
}

pin_project! {
    /// The future of [`JsonRpcErrorService`].
    #[derive(Debug)]
    pub struct JsonRpcErrorFuture<F> {
        #[pin]
        future: F,
        wanted: bool,
        record: Option<RecordHandle>,
    }
}

impl<F, RB, E> Future for JsonRpcErrorFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<ResponseBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        // The rest of the questions are for refusals, and those are errors.
        let status = response.status();
        if !*this.wanted || !(status.is_client_error() || status.is_server_error()) {
            return Poll::Ready(Ok(response.map(ResponseBody::inner)));
        }
        let is_json_rpc = || response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == "application/json");
        let Some(rejection) = response.extensions().get::<Rejection>().filter(|_| !is_json_rpc()) else {
            return Poll::Ready(Ok(response.map(ResponseBody::inner)));
        };
        let id = this.record.take().and_then(|r| r.with(|r| r.mcp.as_ref().and_then(|m| m.id.clone())));
        let body = error_body(rejection, id.as_ref());
        let mut response = response.map(|_| ResponseBody::full(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        context::{McpCall, Record},
        mcp::testing::Probe,
        rejection::RejectionKind,
    };

    async fn answer(request: Request<()>) -> (u16, http::HeaderMap, Vec<u8>) {
        let inner = Probe::new(async |request: Request<()>| {
            if let Some(record) = RequestContext::of(request.extensions()).and_then(RequestContext::record) {
                let call = McpCall { id: Some(json!("seven")), ..McpCall::default() };
                record.with(|r| r.mcp = Some(call.into()));
            }
            Rejection::new(RejectionKind::RateLimited).into_response::<http_body_util::Empty<bytes::Bytes>>()
        });
        let response = JsonRpcErrorLayer::new().layer(inner).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    fn post(content_type: &str) -> Request<()> {
        Request::post("/").header(header::CONTENT_TYPE, content_type).body(()).unwrap()
    }

    #[tokio::test]
    async fn json_posts_get_json_rpc_and_others_the_problem_document() {
        let (status, headers, body) = answer(post("application/json; charset=utf-8")).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &body["id"], &body["error"]["code"]), (429, &Value::Null, &json!(-32005)));
        assert!(headers.contains_key("proxy-status"));
        let get = Request::get("/").header(header::CONTENT_TYPE, "application/json").body(()).unwrap();
        for other in [post("text/plain"), get] {
            let (status, headers, _) = answer(other).await;
            assert_eq!((status, &headers[header::CONTENT_TYPE]), (429, &HeaderValue::from_static("application/problem+json")));
        }
    }

    #[tokio::test]
    async fn the_id_comes_from_the_record() {
        let mut request = post("application/json");
        RequestContext::of_mut(request.extensions_mut()).set_record(RecordHandle::new(Record::default()));
        let (_, _, body) = answer(request).await;
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["id"], "seven");
    }
}
