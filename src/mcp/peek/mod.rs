//! A bounded look into JSON-RPC bodies.
//!
//! ```
//! use portcullis::{context::RequestContext, mcp::{PeekLayer, PeekedBody}};
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new().layer(PeekLayer::new(64 * 1024)).service_fn(
//!     async |request: Request<PeekedBody<axum::body::Body>>| {
//!         let call = RequestContext::of(request.extensions()).and_then(RequestContext::mcp).cloned();
//!         Ok::<_, std::convert::Infallible>(Response::new(call))
//!     },
//! );
//! let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
//! let request = Request::post("/").header("content-type", "application/json").body(body.into()).unwrap();
//! let call = service.oneshot(request).await.unwrap().into_body().unwrap();
//! assert_eq!((call.method.as_deref(), call.name.as_deref()), (Some("tools/call"), Some("echo")));
//! # });
//! ```
//!
//! # Rules
//! 1. Looked at is a `POST` with a JSON content type and without `Expect`; everything else passes untouched.
//! 2. At most the configured number of bytes is held. A longer body goes on as a stream and nothing is noted.
//! 3. A single message is noted in the request context and in the audit record: method, name, id. A batch, an ambiguous or a
//!    malformed body is not: what is not noted is not exempt and not known, and inner layers decide for themselves.
//!
//! # Where it stands
//! It stands after authentication, because it makes the proxy hold client bytes, and before the limiter that exempts probes
//! ([`is_mcp_probe`](crate::limiter::is_mcp_probe)).
//!
//! # Cost
//! Bodies up to the limit are held until they are whole, and scanned once, without building a document. One that has come with its
//! head is looked at in `call`; another one waits in a box.

mod body;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::PeekedBody;
use crate::{
    context::RequestContext,
    mcp_wire::{Peek, is_json, peek},
};

/// Notes what small JSON-RPC bodies ask for; see the [module's rules](self).
#[derive(Clone, Copy, Debug)]
pub struct PeekLayer {
    max: usize,
}

impl PeekLayer {
    /// Looks at bodies of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max }
    }
}

impl<S> Layer<S> for PeekLayer {
    type Service = PeekService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PeekService { inner, max: self.max }
    }
}

/// The service of [`PeekLayer`].
#[derive(Clone, Debug)]
pub struct PeekService<S> {
    inner: S,
    max: usize,
}

impl<S, B> Service<Request<B>> for PeekService<S>
where
    S: Service<Request<PeekedBody<B>>> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = PeekFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let wanted = wanted(&request, self.max);
        let mut request = request.map(PeekedBody::untouched);
        // As a rule the body has come with the head. Nobody is woken by this look: a body that is not there yet is asked again, with
        // the waker of whoever waits for it.
        let looked = if wanted { look(&mut request, &mut Context::from_waker(Waker::noop()), self.max) } else { Poll::Ready(()) };
        if looked.is_ready() {
            return PeekFuture { state: State::Calling { future: self.inner.call(request) } };
        }
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        PeekFuture { state: State::Reading { reading: Some(Box::new(Reading { service, request, max: self.max })) } }
    }
}

fn wanted<B: Body>(request: &Request<B>, max: usize) -> bool {
    request.method() == Method::POST && is_json_at_once(request.headers()) && request.body().size_hint().lower() <= max as u64
}

/// Whether the content type is JSON and the body comes without being asked for; found in one walk, because each look-up by name
/// would hash it.
fn is_json_at_once(headers: &HeaderMap) -> bool {
    let mut content_type = None;
    for (name, value) in headers {
        if *name == header::CONTENT_TYPE {
            content_type = content_type.or(Some(value));
        } else if *name == header::EXPECT {
            return false;
        }
    }
    is_json(content_type)
}

struct Reading<S, B: Body> {
    service: S,
    request: Request<PeekedBody<B>>,
    max: usize,
}

pin_project! {
    /// The future of [`PeekService`].
    pub struct PeekFuture<S, B>
    where
        S: Service<Request<PeekedBody<B>>>,
        B: Body<Data = Bytes>,
    {
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, B: Body> {
        // Boxed: the future is moved by every layer outside of this one.
        Reading { reading: Option<Box<Reading<S, B>>> },
        Calling { #[pin] future: F },
    }
}

impl<S, B> std::fmt::Debug for PeekFuture<S, B>
where
    S: Service<Request<PeekedBody<B>>>,
    B: Body<Data = Bytes>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeekFuture").finish_non_exhaustive()
    }
}

impl<S, B> Future for PeekFuture<S, B>
where
    S: Service<Request<PeekedBody<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project().state.project() {
                StateProj::Calling { future } => return future.poll(cx),
                StateProj::Reading { reading } => {
                    let Some(held) = reading else { return Poll::Pending };
                    ready!(look(&mut held.request, cx, held.max));
                    let Some(done) = reading.take() else { return Poll::Pending };
                    let Reading { mut service, request, .. } = *done;
                    let future = service.call(request);
                    self.as_mut().project().state.set(State::Calling { future });
                }
            }
        }
    }
}

/// Holds the body, as far as it may be held, and notes what it says if that is all of it.
fn look<B: Body<Data = Bytes> + Unpin>(request: &mut Request<PeekedBody<B>>, cx: &mut Context<'_>, max: usize) -> Poll<()> {
    if ready!(request.body_mut().poll_hold(cx, max)) {
        note(request);
    }
    Poll::Ready(())
}

fn note<B: Body<Data = Bytes> + Unpin>(request: &mut Request<PeekedBody<B>>) {
    let Some(data) = request.body().data() else { return };
    let Ok(Peek::Single(call)) = peek(&data) else { return };
    let call = Arc::new(call);
    let context = RequestContext::of_mut(request.extensions_mut());
    if let Some(record) = context.record() {
        record.with(|r| r.mcp = Some(Arc::clone(&call)));
    }
    context.set_mcp(call);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::StreamExt as _;
    use http::Response;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{context::McpText, mcp::testing::Probe};

    const CALL: &str = r#"{"jsonrpc":"2.0","id":9,"method":"initialize"}"#;

    async fn run<B>(request: Request<B>) -> (Option<McpText>, String)
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
    {
        let inner = Probe::new(async |request: Request<PeekedBody<B>>| {
            let method = RequestContext::of(request.extensions()).and_then(|c| c.mcp()?.method.clone());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new((method, String::from_utf8(body.to_vec()).unwrap()))
        });
        PeekLayer::new(100).layer(inner).oneshot(request).await.unwrap().into_body()
    }

    fn post<B>(content_type: &str, body: B) -> Request<B> {
        Request::post("/").header(header::CONTENT_TYPE, content_type).body(body).unwrap()
    }

    #[tokio::test]
    async fn small_json_is_noted_and_passes_whole() {
        let (method, body) = run(post("application/json", Full::new(Bytes::from(CALL)))).await;
        assert_eq!((method.as_deref(), body.as_str()), (Some("initialize"), CALL));
        let (method, _) = run(post("text/plain", Full::new(Bytes::from(CALL)))).await;
        assert_eq!(method, None);
        let batch = format!("[{CALL}]");
        assert_eq!(run(post("application/json", Full::new(Bytes::from(batch.clone())))).await, (None, batch));
    }

    #[tokio::test]
    async fn chunks_and_long_bodies_pass_whole() {
        let chunks = |parts: Vec<String>| {
            StreamBody::new(futures_util::stream::iter(
                parts.into_iter().map(|p| Ok::<_, Infallible>(Frame::data(Bytes::from(p)))),
            ))
        };
        let split: Vec<String> = CALL.split_inclusive(',').map(str::to_owned).collect();
        let (method, body) = run(post("application/json", chunks(split))).await;
        assert_eq!((method.as_deref(), body.as_str()), (Some("initialize"), CALL));
        let slow = futures_util::stream::iter(CALL.split_inclusive(',')).then(|part| async move {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(Frame::data(Bytes::from(part)))
        });
        let (method, body) = run(post("application/json", StreamBody::new(Box::pin(slow)))).await;
        assert_eq!((method.as_deref(), body.as_str()), (Some("initialize"), CALL));
        let long: Vec<String> = vec!["x".repeat(60); 5];
        let (method, body) = run(post("application/json", chunks(long))).await;
        assert_eq!((method, body.len()), (None, 300));
        let (method, body) = run(post("application/json", Full::new(Bytes::from("y".repeat(500))))).await;
        assert_eq!((method, body.len()), (None, 500));
    }

    #[tokio::test]
    async fn trailers_and_failures_are_replayed() {
        let frames = |frames: Vec<Result<Frame<Bytes>, &'static str>>| StreamBody::new(futures_util::stream::iter(frames));
        let trailers = || HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("1"))]);
        let seen = |body| async move {
            let inner = tower::service_fn(|request: Request<PeekedBody<_>>| async move {
                let method = RequestContext::of(request.extensions()).and_then(|c| c.mcp()?.method.clone());
                let hint = request.body().size_hint().lower();
                let body = request.into_body().collect().await.map(|c| (c.trailers().cloned(), c.to_bytes()));
                Ok::<_, Infallible>(Response::new((method.map(|m| m.to_string()), hint, body)))
            });
            PeekLayer::new(100).layer(inner).oneshot(post("application/json", body)).await.unwrap().into_body()
        };
        let whole = frames(vec![Ok(Frame::data(Bytes::from(CALL))), Ok(Frame::trailers(trailers()))]);
        assert_eq!(seen(whole).await, (Some("initialize".into()), CALL.len() as u64, Ok((Some(trailers()), CALL.into()))));
        let cut = frames(vec![Ok(Frame::data(Bytes::from(CALL))), Err("gone")]);
        assert_eq!(seen(cut).await, (None, CALL.len() as u64, Err("gone")));
        assert_eq!(seen(frames(vec![])).await, (None, 0, Ok((None, Bytes::new()))));
    }
}
