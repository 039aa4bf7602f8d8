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
    num::NonZeroU64,
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
    mcp_wire::{EndpointRewriter, LinkBase, first, is_event_stream, rewrite_location},
    net::{Target, TargetStyle},
    rejection::{Rejection, RejectionKind},
    request_form::accepts_event_stream,
};

/// Longer names of this server are not remembered.
const MAX_AUTHORITY: usize = 256;
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Cares for event streams and links; see the [module's rules](self).
#[derive(Clone, Debug, Default)]
pub struct EventStreamLayer {
    links: Option<Arc<Links>>,
    /// In nanoseconds.
    keep_alive: Option<NonZeroU64>,
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
        self.keep_alive = NonZeroU64::new(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
        self
    }
}

impl<S> Layer<S> for EventStreamLayer {
    type Service = EventStreamService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        EventStreamService { inner, config: self.clone(), outside: None }
    }
}

/// The service of [`EventStreamLayer`].
#[derive(Clone, Debug)]
pub struct EventStreamService<S> {
    inner: S,
    config: EventStreamLayer,
    /// What the last request was answered with: a connection's requests name one host, as a rule.
    outside: Option<Arc<Outside>>,
}

/// How this server looks from outside to those who name it so.
#[derive(Debug)]
struct Outside {
    authority: Option<Box<[u8]>>,
    /// What stands before a target's URL, if that can be said.
    prefix: Option<Box<str>>,
}

impl Outside {
    #[cold]
    fn new(links: &Links, authority: Option<&[u8]>) -> Self {
        let value = authority.and_then(|a| HeaderValue::from_bytes(a).ok());
        let prefix = links.base.prefix(value.as_ref(), &links.prefix).map(String::into_boxed_str);
        Self { authority: authority.map(Box::from), prefix }
    }
}

impl<S> EventStreamService<S> {
    /// What the answer may need, cheap to keep for every request.
    fn rewrite<B>(&mut self, request: &Request<B>) -> Option<Rewrite> {
        let links = self.config.links.as_ref()?;
        let context = RequestContext::of(request.extensions())?;
        let target = context.target().filter(|t| t.style() == TargetStyle::Path)?;
        let endpoint = (request.method() == Method::GET).then(|| Endpoint { record: context.record().cloned() });
        let authority = match request.uri().authority() {
            _ if !links.base.asks_for_host() => None,
            Some(authority) => Some(authority.as_str().as_bytes()),
            None => first(request.headers(), &header::HOST).map(HeaderValue::as_bytes),
        };
        let outside = match &self.outside {
            Some(outside) if outside.authority.as_deref() == authority => Arc::clone(outside),
            _ => {
                let outside = Arc::new(Outside::new(links, authority));
                self.outside = authority.is_none_or(|a| a.len() <= MAX_AUTHORITY).then(|| Arc::clone(&outside));
                outside
            }
        };
        Some(Rewrite { outside, target: target.clone(), endpoint })
    }
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
        let rewrite = self.rewrite(&request);
        if rewrite.as_ref().is_some_and(|r| r.endpoint.is_some()) && accepts_event_stream(request.headers()) {
            request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        EventStreamFuture { future: self.inner.call(request), rewrite, keep_alive: self.config.keep_alive }
    }
}

/// A few words, because every layer outside of this one moves them.
#[derive(Debug)]
struct Rewrite {
    outside: Arc<Outside>,
    target: Target,
    /// On `GET`.
    endpoint: Option<Endpoint>,
}

/// An `endpoint` event has to be rewritten, and this is the record that says so if it cannot.
#[derive(Debug)]
struct Endpoint {
    record: Option<RecordHandle>,
}

impl Rewrite {
    fn base(&self) -> Option<LinkBase> {
        LinkBase::new(self.outside.prefix.clone()?, &self.target)
    }
}

pin_project! {
    /// The future of [`EventStreamService`].
    #[derive(Debug)]
    pub struct EventStreamFuture<F> {
        #[pin]
        future: F,
        rewrite: Option<Rewrite>,
        keep_alive: Option<NonZeroU64>,
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
        let (leads, content_type) = leads_and_content_type(response.headers());
        let event_stream = is_event_stream(content_type);
        if leads && let Some(rewrite) = &rewrite {
            rewrite_location_field(response.headers_mut(), rewrite);
        }
        if !event_stream {
            return Poll::Ready(Ok(response.map(|b| ResponseBody::inner(EventStreamBody::plain(b)))));
        }
        response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        let mut rewriter = None;
        let mut record = None;
        if let Some(mut rewrite) = rewrite
            && let Some(endpoint) = rewrite.endpoint.take()
        {
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
            record = endpoint.record;
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        // A comment inside compressed bytes would break them.
        let keep_alive = this.keep_alive.filter(|_| !is_encoded(response.headers()));
        if keep_alive.is_some() {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let keep_alive = keep_alive.map(|nanos| Duration::from_nanos(nanos.get()));
        Poll::Ready(Ok(response.map(|b| ResponseBody::inner(EventStreamBody::stream(b, rewriter, keep_alive, record)))))
    }
}

/// Whether there is a `Location`, and the content type; found in one walk, because each look-up by name would hash it.
fn leads_and_content_type(headers: &HeaderMap) -> (bool, Option<&HeaderValue>) {
    let (mut leads, mut content_type) = (false, None);
    for (name, value) in headers {
        if *name == header::CONTENT_TYPE {
            content_type = content_type.or(Some(value));
        } else {
            leads |= *name == header::LOCATION;
        }
    }
    (leads, content_type)
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

    #[tokio::test]
    async fn each_request_is_answered_under_the_name_that_it_used() {
        let inner = tower::service_fn(|_: Request<()>| async {
            let response = Response::builder().header("location", "/x").body(Full::new(Bytes::new())).unwrap();
            Ok::<_, std::convert::Infallible>(response)
        });
        let layer = EventStreamLayer::new().rewrite_links(PublicBase::from_host(false), "/proxy/");
        let mut service = layer.layer(inner);
        for (host, target) in
            [("a", "http://t.example"), ("a", "http://u.example"), ("b", "http://u.example"), ("a", "http://t.example")]
        {
            let mut request = Request::post("/").header(header::HOST, host).body(()).unwrap();
            let context = RequestContext::of_mut(request.extensions_mut());
            context.set_target(Target::parse(target).unwrap().with_style(TargetStyle::Path));
            let response = service.call(request).await.unwrap();
            assert_eq!(response.headers()["location"], format!("http://{host}/proxy/{target}/x"));
        }
    }
}
