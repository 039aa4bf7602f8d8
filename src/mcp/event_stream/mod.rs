//! Event streams on their way to the client, and links in path style.
//!
//! ```
//! use portcullis::mcp::{EventStreamLayer, PublicBase};
//! use std::time::Duration;
//!
//! let layer = EventStreamLayer::new()
//!     .rewrite_links(PublicBase::fixed("https://proxy.example.com")?, "/proxy/")
//!     .keep_alive(Duration::from_secs(15));
//! # let _ = layer;
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. Every `text/event-stream` answer gets `X-Accel-Buffering: no`, so that a front server does not hold it back.
//! 2. With [`EventStreamLayer::keep_alive`], an idle stream gets a comment (`:`) between two lines, never inside one.
//! 3. With [`EventStreamLayer::rewrite_links`], and only for targets named in path style: a `Location` on the target's own origin leads
//!    through this server again; so does the URL of an `endpoint` event on a `GET` stream, for which the target is asked not to
//!    compress. A compressed one all the same is a 502.
//! 4. An `endpoint` event that names another origin ends the stream with an error: a client that followed it would send its
//!    `Authorization` there.
//!
//! # Where it stands
//! It stands inside the target layer and outside of `ProxyService`.
//!
//! # Cost
//! Streams pass as they come. A timer for each stream that is kept alive; in path style an `endpoint` stream is scanned line by
//! line.

mod base;
mod body;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    base::PublicBase,
    body::{EventStreamBody, StreamError},
};
use crate::{
    body::ResponseBody,
    context::{RecordHandle, RequestContext},
    mcp_wire::{EndpointRewriter, LinkBase, is_event_stream, rewrite_location},
    net::{Target, TargetStyle},
    rejection::{Rejection, RejectionKind},
    request_form::accepts_event_stream,
};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Cares for event streams and links; see the [module's rules](self).
#[derive(Clone, Debug, Default)]
pub struct EventStreamLayer {
    links: Option<Arc<Links>>,
    keep_alive: Option<Duration>,
}

#[derive(Debug)]
struct Links {
    base: PublicBase,
    prefix: Box<str>,
}

impl EventStreamLayer {
    /// A layer that only marks event streams.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rewrites links of targets in path style; `prefix` is the path that stands before the target's URL, `/proxy/`.
    #[must_use]
    pub fn rewrite_links(mut self, base: PublicBase, prefix: impl Into<Box<str>>) -> Self {
        self.links = Some(Arc::new(Links { base, prefix: prefix.into() }));
        self
    }

    /// Sends a comment after that much silence; zero turns it off.
    #[must_use]
    pub fn keep_alive(mut self, after: Duration) -> Self {
        self.keep_alive = (!after.is_zero()).then_some(after);
        self
    }
}

impl<S> Layer<S> for EventStreamLayer {
    type Service = EventStreamService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        EventStreamService { inner, config: self.clone() }
    }
}

/// The service of [`EventStreamLayer`].
#[derive(Clone, Debug)]
pub struct EventStreamService<S> {
    inner: S,
    config: EventStreamLayer,
}

impl<S, B, RB> Service<Request<B>> for EventStreamService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
{
    type Response = Response<ResponseBody<EventStreamBody<RB>>>;
    type Error = S::Error;
    type Future = EventStreamFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let rewrite = self.config.links.as_ref().and_then(|links| Rewrite::of(&request, links));
        if rewrite.as_ref().is_some_and(|r| r.endpoint) && accepts_event_stream(request.headers()) {
            request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        EventStreamFuture { future: self.inner.call(request), rewrite, keep_alive: self.config.keep_alive }
    }
}

/// What the answer may need, cheap to keep for every request.
#[derive(Debug)]
struct Rewrite {
    links: Arc<Links>,
    target: Target,
    authority: Option<HeaderValue>,
    record: Option<RecordHandle>,
    endpoint: bool,
}

impl Rewrite {
    fn of<B>(request: &Request<B>, links: &Arc<Links>) -> Option<Self> {
        let context = RequestContext::of(request.extensions())?;
        let target = context.target().filter(|t| t.style() == TargetStyle::Path)?;
        let authority = match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
            None => request.headers().get(header::HOST).cloned(),
        };
        Some(Self {
            links: Arc::clone(links),
            target: target.clone(),
            authority,
            record: context.record().cloned(),
            endpoint: request.method() == Method::GET,
        })
    }

    fn base(&self) -> Option<LinkBase> {
        LinkBase::new(self.links.base.prefix(self.authority.as_ref(), &self.links.prefix)?, &self.target)
    }
}

pin_project! {
    /// The future of [`EventStreamService`].
    #[derive(Debug)]
    pub struct EventStreamFuture<F> {
        #[pin]
        future: F,
        rewrite: Option<Rewrite>,
        keep_alive: Option<Duration>,
    }
}

impl<F, RB, E> Future for EventStreamFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<ResponseBody<EventStreamBody<RB>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        let rewrite = this.rewrite.take();
        if let Some(rewrite) = &rewrite {
            rewrite_location_field(response.headers_mut(), rewrite);
        }
        if !is_event_stream(response.headers().get(header::CONTENT_TYPE)) {
            return Poll::Ready(Ok(response.map(|b| ResponseBody::inner(EventStreamBody::plain(b)))));
        }
        response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        let mut rewriter = None;
        let mut record = None;
        if let Some(rewrite) = rewrite.filter(|r| r.endpoint) {
            if is_encoded(response.headers()) {
                let rejection = Rejection::new(RejectionKind::BadResponse).with_reason("encoded_event_stream");
                return Poll::Ready(Ok(rejection.into_response()));
            }
            let Some(base) = rewrite.base() else {
                return Poll::Ready(Ok(Rejection::new(RejectionKind::Misconfigured)
                    .with_reason("no_public_base")
                    .into_response()));
            };
            rewriter = Some(EndpointRewriter::new(base));
            record = rewrite.record;
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        // A comment inside compressed bytes would break them.
        let keep_alive = this.keep_alive.filter(|_| !is_encoded(response.headers()));
        if keep_alive.is_some() {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        Poll::Ready(Ok(response.map(|b| ResponseBody::inner(EventStreamBody::stream(b, rewriter, keep_alive, record)))))
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"))
}

fn rewrite_location_field(headers: &mut HeaderMap, rewrite: &Rewrite) {
    let Some(location) = headers.get(header::LOCATION) else { return };
    let Some(base) = rewrite.base() else { return };
    if let Some(Ok(value)) = rewrite_location(location.as_bytes(), &base).map(HeaderValue::try_from) {
        headers.insert(header::LOCATION, value);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tower::ServiceExt as _;

    use super::*;
    use crate::mcp::testing::Probe;

    type Fields = &'static [(&'static str, &'static str)];

    async fn run(
        style: TargetStyle,
        method: Method,
        fields: Fields,
        body: &'static str,
    ) -> (http::response::Parts, Result<String, String>) {
        let inner = Probe::new(move |request: Request<()>| async move {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            for (name, value) in fields {
                response.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            if let Some(v) = request.headers().get(header::ACCEPT_ENCODING) {
                response.headers_mut().insert("asked", v.clone());
            }
            response
        });
        let layer = EventStreamLayer::new().rewrite_links(PublicBase::from_host(false), "/proxy/");
        let mut request = Request::builder()
            .method(method)
            .uri("/proxy/http://t.example/sse")
            .header(header::HOST, "127.0.0.1:8000")
            .header(header::ACCEPT, "text/event-stream")
            .header(header::ACCEPT_ENCODING, "gzip")
            .body(())
            .unwrap();
        let target = Target::parse("http://t.example/sse").unwrap().with_style(style);
        RequestContext::of_mut(request.extensions_mut()).set_target(target);
        let (parts, body) = layer.layer(inner).oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.map(|b| String::from_utf8(b.to_bytes().to_vec()).unwrap()).map_err(|e| e.to_string());
        (parts, body)
    }

    const SSE: (&str, &str) = ("content-type", "text/event-stream");

    #[tokio::test]
    async fn endpoint_events_are_rewritten_on_get_streams_in_path_style_only() {
        const EVENT: &str = "event: endpoint\ndata: /m?s=1\n\n";
        let (parts, body) = run(TargetStyle::Path, Method::GET, &[SSE], EVENT).await;
        assert_eq!(body.unwrap(), "event: endpoint\ndata: http://127.0.0.1:8000/proxy/http://t.example/m?s=1\n\n");
        assert_eq!(
            (&parts.headers["asked"], &parts.headers["x-accel-buffering"]),
            (&"identity".parse().unwrap(), &"no".parse().unwrap())
        );
        for (style, method) in [(TargetStyle::Header, Method::GET), (TargetStyle::Path, Method::POST)] {
            let (parts, body) = run(style, method, &[SSE], EVENT).await;
            assert_eq!((body.as_deref(), &parts.headers["asked"]), (Ok(EVENT), &HeaderValue::from_static("gzip")));
        }
    }

    #[tokio::test]
    async fn foreign_endpoints_and_compressed_streams_end_in_errors() {
        let (parts, body) = run(TargetStyle::Path, Method::GET, &[SSE], "event: endpoint\ndata: http://evil.example/\n\n").await;
        assert_eq!(parts.status, 200);
        assert_eq!(body.unwrap_err(), "the endpoint event names a URL of another origin");
        let (parts, _) = run(TargetStyle::Path, Method::GET, &[SSE, ("content-encoding", "gzip")], "x").await;
        assert_eq!(parts.status, 502);
    }

    #[tokio::test]
    async fn locations() {
        for (location, want) in [
            ("/x", "http://127.0.0.1:8000/proxy/http://t.example/x"),
            ("http://t.example:80/x#f", "http://127.0.0.1:8000/proxy/http://t.example/x#f"),
            ("https://t.example/x", "https://t.example/x"),
        ] {
            let fields: Fields = Box::leak(Box::new([("location", location)]));
            let (parts, _) = run(TargetStyle::Path, Method::POST, fields, "").await;
            assert_eq!(parts.headers["location"], want);
            let (parts, _) = run(TargetStyle::Header, Method::POST, fields, "").await;
            assert_eq!(parts.headers["location"], location);
        }
    }
}
