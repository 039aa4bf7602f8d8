//! Which stack a request belongs to. The hot paths are compared here, by hand, and their stack is not boxed.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use portcullis::serve::RequestBody;
use tower::{Service, util::BoxCloneSyncService};

/// Everything that is not hot.
pub type Rest = BoxCloneSyncService<Request<RequestBody>, Response<axum::body::Body>, Infallible>;

/// The stacks.
#[derive(Clone)]
pub struct Front<H> {
    /// `/proxy/<url>`, `/forward` and the upgrades on `/ws`.
    pub hot: H,
    /// `POST /proxy`.
    pub envelope: Rest,
    /// `POST /tickets`, and what operators ask through the console.
    pub tickets: Rest,
    /// The others.
    pub rest: Rest,
}

enum Route {
    Hot,
    Envelope,
    Tickets,
    Rest,
}

fn route<B>(request: &Request<B>) -> Route {
    match request.uri().path() {
        "/forward" => Route::Hot,
        "/ws" if is_websocket(request.method(), request.headers()) => Route::Hot,
        "/proxy" if *request.method() == Method::POST || *request.method() == Method::OPTIONS => Route::Envelope,
        path if path.starts_with("/proxy/") => Route::Hot,
        "/tickets" | "/console/explain" | "/console/events" => Route::Tickets,
        _ => Route::Rest,
    }
}

/// An upgrade of HTTP/1.1, an extended `CONNECT` of HTTP/2, or a preflight for one.
fn is_websocket(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::CONNECT
        || headers
            .get_all(header::UPGRADE)
            .iter()
            .any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|p| p.trim().eq_ignore_ascii_case("websocket"))))
}

impl<H, B> Service<Request<RequestBody>> for Front<H>
where
    H: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
{
    type Response = Response<FrontBody<B>>;
    type Error = Infallible;
    type Future = FrontFuture<H::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.hot.poll_ready(cx))?;
        ready!(self.envelope.poll_ready(cx))?;
        ready!(self.tickets.poll_ready(cx))?;
        self.rest.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        match route(&request) {
            Route::Hot => FrontFuture::Hot { future: self.hot.call(request) },
            Route::Envelope => FrontFuture::Rest { future: self.envelope.call(request) },
            Route::Tickets => FrontFuture::Rest { future: self.tickets.call(request) },
            Route::Rest => FrontFuture::Rest { future: self.rest.call(request) },
        }
    }
}

pin_project! {
    #[project = FutureProj]
    pub enum FrontFuture<F> {
        Hot { #[pin] future: F },
        Rest { future: Pin<Box<dyn Future<Output = Result<Response<axum::body::Body>, Infallible>> + Send>> },
    }
}

impl<F, B> Future for FrontFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<FrontBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            FutureProj::Hot { future } => future.poll(cx).map_ok(|r| r.map(|body| FrontBody::Hot { body })),
            FutureProj::Rest { future } => future.as_mut().poll(cx).map_ok(|r| r.map(|body| FrontBody::Rest { body })),
        }
    }
}

pin_project! {
    #[project = BodyProj]
    pub enum FrontBody<B> {
        Hot { #[pin] body: B },
        Rest { #[pin] body: axum::body::Body },
    }
}

impl<B> Body for FrontBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            BodyProj::Hot { body } => body.poll_frame(cx).map_err(Into::into),
            BodyProj::Rest { body } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hot { body } => body.is_end_stream(),
            Self::Rest { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hot { body } => body.size_hint(),
            Self::Rest { body } => body.size_hint(),
        }
    }
}
