//! A `tracing` span around each request, named and filled by the HTTP semantic conventions of OpenTelemetry (1.23, server side).
//!
//! ```
//! use http::{Request, Response};
//! use portcullis::trace_span::TraceSpanLayer;
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let service = ServiceBuilder::new()
//!     .layer(TraceSpanLayer::new())
//!     .service(service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }));
//! service.oneshot(Request::new(String::new())).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//! 1. The span is called `HTTP request`, level INFO, target `portcullis::http`; a subscriber that is not interested costs one check.
//! 2. Fields: `otel.kind`, `http.request.method`, `url.scheme`, `url.path` (never the query: tokens travel there),
//!    `client.address`, `network.protocol.version`, and when the head is there `http.response.status_code`, `error.type` for 5xx
//!    and refusals, `server.address` and `server.port` of the target.
//! 3. No trace context is read from clients or sent to targets: both are somebody else's.
//!
//! # Where it stands
//! Right inside [`AuditLayer`](crate::audit::AuditLayer); the span ends with the response head, the record with the body.
//!
//! # Cost
//! Nothing but the check where no subscriber is interested; else what the subscriber makes of a span.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, Version};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Span, field};

use crate::{
    context::{RecordHandle, RequestContext},
    rejection::Rejection,
};

/// Opens a span for each request. See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceSpanLayer(());

impl TraceSpanLayer {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for TraceSpanLayer {
    type Service = TraceSpan<S>;

    fn layer(&self, inner: S) -> TraceSpan<S> {
        TraceSpan { inner }
    }
}

/// The service that [`TraceSpanLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct TraceSpan<S> {
    inner: S,
}

impl<S, B, C> Service<Request<B>> for TraceSpan<S>
where
    S: Service<Request<B>, Response = Response<C>>,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = TraceSpanFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> TraceSpanFuture<S::Future> {
        let span = open(&request);
        let record = (!span.is_disabled())
            .then(|| RequestContext::of(request.extensions()).and_then(RequestContext::record).cloned())
            .flatten();
        let future = span.in_scope(|| self.inner.call(request));
        TraceSpanFuture { future, span, record }
    }
}

fn open<B>(request: &Request<B>) -> Span {
    let context = RequestContext::of(request.extensions());
    let span = tracing::info_span!(
        target: "portcullis::http",
        "HTTP request",
        otel.kind = "server",
        http.request.method = %request.method(),
        url.scheme = if context.and_then(RequestContext::connection).is_some_and(crate::context::ConnectionInfo::is_tls) { "https" } else { "http" },
        url.path = request.uri().path(),
        network.protocol.version = version(request.version()),
        client.address = field::Empty,
        server.address = field::Empty,
        server.port = field::Empty,
        http.response.status_code = field::Empty,
        error.type = field::Empty,
    );
    if let Some(client) = context.and_then(RequestContext::client).map(crate::context::ClientAddr::ip) {
        span.record("client.address", field::display(client));
    } else if let Some(connection) = context.and_then(RequestContext::connection) {
        span.record("client.address", field::display(connection.peer().ip()));
    }
    span
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

pin_project! {
    /// The response of [`TraceSpan`].
    #[derive(Debug)]
    pub struct TraceSpanFuture<F> {
        #[pin]
        future: F,
        span: Span,
        record: Option<RecordHandle>,
    }
}

impl<F, C, E> Future for TraceSpanFuture<F>
where
    F: Future<Output = Result<Response<C>, E>>,
{
    type Output = Result<Response<C>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.project();
        let result = {
            let _entered = me.span.enter();
            ready!(me.future.poll(cx))
        };
        if let (Ok(response), false) = (&result, me.span.is_disabled()) {
            close(me.span, response, me.record.as_ref());
        }
        // The record must not wait for the span.
        *me.record = None;
        Poll::Ready(result)
    }
}

fn close<C>(span: &Span, response: &Response<C>, record: Option<&RecordHandle>) {
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        span.record("error.type", rejection.reason());
    } else if status.is_server_error() {
        span.record("error.type", status.as_str());
    }
    if let Some(target) = record.and_then(|r| r.with(|r| r.target.clone())) {
        span.record("server.address", field::display(target.host()));
        span.record("server.port", target.port());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Debug,
        sync::{Arc, Mutex},
    };

    use tower::{Layer as _, ServiceExt};
    use tracing_subscriber::{layer::SubscriberExt as _, registry::LookupSpan};

    use super::*;
    use crate::{net::Target, rejection::RejectionKind, reply::probe::Probe};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl field::Visit for Seen {
        fn record_debug(&mut self, field: &field::Field, value: &dyn Debug) {
            self.0.lock().unwrap().push(format!("{field}={value:?}"));
        }
    }

    impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Seen {
        fn on_new_span(
            &self,
            attrs: &tracing::span::Attributes<'_>,
            _: &tracing::span::Id,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            attrs.record(&mut self.clone());
        }

        fn on_record(
            &self,
            _: &tracing::span::Id,
            values: &tracing::span::Record<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            values.record(&mut self.clone());
        }
    }

    #[test]
    fn fields_follow_the_conventions_and_leave_the_query_out() {
        let seen = Seen::default();
        let subscriber = tracing_subscriber::registry().with(seen.clone());
        tracing::subscriber::with_default(subscriber, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let refuse = tower::service_fn(|request: Request<()>| async move {
                    let record = RequestContext::of(request.extensions()).and_then(RequestContext::record).unwrap();
                    record.with(|r| r.target = Some(Target::parse("https://t.example:8443/x").unwrap()));
                    Ok::<_, std::convert::Infallible>(Rejection::new(RejectionKind::Denied).into_response::<String>())
                });
                let mut request = Request::post("/proxy/https://t.example:8443/x?proxy_token=s3cret").body(()).unwrap();
                let context = RequestContext::of_mut(request.extensions_mut());
                context.set_record(RecordHandle::new(crate::context::Record::default()));
                context.set_connection(crate::context::ConnectionInfo::new("192.0.2.7:1".parse().unwrap()));
                TraceSpanLayer::new().layer(refuse).oneshot(request).await.unwrap();
            });
        });
        let seen = seen.0.lock().unwrap().join(" ");
        for part in [
            "otel.kind=\"server\"",
            "http.request.method=POST",
            "client.address=192.0.2.7",
            "http.response.status_code=403",
            "error.type=\"denied\"",
            "server.address=t.example",
            "server.port=8443",
        ] {
            assert!(seen.contains(part), "{part} in {seen}");
        }
        assert!(!seen.contains("s3cret"), "{seen}");
    }

    #[tokio::test]
    async fn the_ready_instance_is_called() {
        let mut service = TraceSpanLayer::new().layer(Probe::default());
        let response = ServiceExt::<Request<()>>::ready(&mut service).await.unwrap().call(Request::new(())).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
