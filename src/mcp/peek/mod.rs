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
//! Bodies up to the limit are held until they are whole, and scanned once, without building a document.

mod body;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, header, request};
use http_body::{Body, Frame};
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
        if !wanted(&request, self.max) {
            return PeekFuture { state: State::Calling { future: self.inner.call(request.map(PeekedBody::untouched)) } };
        }
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        let (parts, body) = request.into_parts();
        PeekFuture {
            state: State::Reading {
                reading: Some(Box::new(Reading { service, parts, body, held: Vec::with_capacity(1), len: 0, max: self.max })),
            },
        }
    }
}

fn wanted<B: Body>(request: &Request<B>, max: usize) -> bool {
    request.method() == Method::POST
        && is_json(request.headers().get(header::CONTENT_TYPE))
        && !request.headers().contains_key(header::EXPECT)
        && request.body().size_hint().lower() <= max as u64
}

struct Reading<S, B> {
    service: S,
    parts: request::Parts,
    body: B,
    held: Vec<Frame<Bytes>>,
    len: usize,
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
    enum State<S, F, B> {
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
                    let Some(state) = reading else { return Poll::Pending };
                    let end = ready!(state.poll(cx));
                    let Some(done) = reading.take() else { return Poll::Pending };
                    let future = done.call(end);
                    self.as_mut().project().state.set(State::Calling { future });
                }
            }
        }
    }
}

enum End<E> {
    Whole,
    TooLong,
    Failed(E),
}

impl<S, B> Reading<S, B>
where
    S: Service<Request<PeekedBody<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End<B::Error>> {
        loop {
            if self.body.is_end_stream() {
                return Poll::Ready(End::Whole);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(End::Whole),
                Some(Err(error)) => return Poll::Ready(End::Failed(error)),
                Some(Ok(frame)) => {
                    self.len += frame.data_ref().map_or(0, Bytes::len);
                    self.held.push(frame);
                    // Many tiny frames cost more than their bytes.
                    if self.len > self.max || self.held.len() > 1024 {
                        return Poll::Ready(End::TooLong);
                    }
                }
            }
        }
    }

    fn call(self, end: End<B::Error>) -> S::Future {
        let Self { mut service, mut parts, body, held, .. } = self;
        if matches!(end, End::Whole) {
            note(&mut parts, &held);
        }
        let (rest, error) = match end {
            End::Whole => (None, None),
            End::TooLong => (Some(body), None),
            End::Failed(error) => (None, Some(error)),
        };
        service.call(Request::from_parts(parts, PeekedBody::held(held, rest, error)))
    }
}

fn note(parts: &mut request::Parts, held: &[Frame<Bytes>]) {
    let mut data = held.iter().filter_map(Frame::data_ref);
    let joined;
    let body: &[u8] = match (data.next(), data.next()) {
        (None, _) => return,
        (Some(one), None) => one,
        (Some(one), Some(two)) => {
            let mut all = BytesMut::from(&one[..]);
            all.extend_from_slice(two);
            data.for_each(|d| all.extend_from_slice(d));
            joined = all;
            &joined
        }
    };
    let Ok(Peek::Single(call)) = peek(body) else { return };
    let call = Arc::new(call);
    let context = RequestContext::of_mut(&mut parts.extensions);
    if let Some(record) = context.record() {
        record.with(|r| r.mcp = Some(Arc::clone(&call)));
    }
    context.set_mcp(call);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tower::ServiceExt as _;

    use super::*;
    use crate::mcp::testing::Probe;

    const CALL: &str = r#"{"jsonrpc":"2.0","id":9,"method":"initialize"}"#;

    async fn run<B>(request: Request<B>) -> (Option<Box<str>>, String)
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
        let long: Vec<String> = vec!["x".repeat(60); 5];
        let (method, body) = run(post("application/json", chunks(long))).await;
        assert_eq!((method, body.len()), (None, 300));
        let (method, body) = run(post("application/json", Full::new(Bytes::from("y".repeat(500))))).await;
        assert_eq!((method, body.len()), (None, 500));
    }
}
