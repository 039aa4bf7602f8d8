//! Between hyper and the Tower service: one extension in, one thin body wrapper out, no box, no clone of a ready service.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::{ReplyBody, ReplyGuard, RequestBody},
    drain::{Stage, Stages, StreamEnd},
    flow::Flow,
    framing::Follows,
    streams::Streams,
};
use crate::{
    context::{ConnectionInfo, Deadline, RequestContext},
    mcp_wire::is_event_stream,
};

/// A refused request body up to this size is left to hyper, which reads it if it is already there and keeps the connection.
const SMALL_BODY: u64 = 16 * 1024;

/// What all requests of one connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) info: ConnectionInfo,
    pub(super) stages: Arc<Stages>,
    pub(super) hsts: Option<HeaderValue>,
    /// HTTP/2 only.
    pub(super) streams: Option<Arc<Streams>>,
}

/// hyper calls through `&self` and one call at a time, so a `RefCell` does where others clone the service per request.
pub(super) struct Adapter<S> {
    service: RefCell<S>,
    shared: Arc<Shared>,
    flow: Arc<Flow>,
}

impl<S> Adapter<S> {
    pub(super) fn new(service: S, shared: Arc<Shared>, flow: Arc<Flow>) -> Self {
        Self { service: RefCell::new(service), shared, flow }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Adapter<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<ReplyBody<B>>;
    type Error = Infallible;
    type Future = ReplyFuture<S>;

    fn call(&self, request: Request<Incoming>) -> ReplyFuture<S> {
        let flow = match &self.shared.streams {
            None => Arc::clone(&self.flow),
            Some(streams) => {
                self.flow.begin(false);
                streams.open()
            }
        };
        let with_body = !request.body().is_end_stream();
        // Nor to be waited for where the client waits for a `100`: it may as well send its next request instead.
        let large_body = with_body
            && (request.body().size_hint().exact().is_none_or(|n| n > SMALL_BODY)
                || request.headers().contains_key(header::EXPECT));
        flow.begin(with_body);
        let facts = Facts { connect: request.method() == Method::CONNECT, get: request.method() == Method::GET, large_body };
        let body_flow = with_body.then(|| Arc::clone(&flow));
        let mut request = request.map(|body| RequestBody::new(body, body_flow));
        let fault = if self.shared.streams.is_none() { flow.head_parsed(follows(&request)) } else { None };
        let context = RequestContext::of_mut(request.extensions_mut());
        context.set_connection(self.shared.info.clone());
        if fault.is_some() {
            context.set_malformed();
        }

        begin(&mut *self.service.borrow_mut(), request, facts, flow, &self.shared)
    }
}

/// Calls the service, or queues with it.
fn begin<S>(service: &mut S, request: Request<RequestBody>, facts: Facts, flow: Arc<Flow>, shared: &Arc<Shared>) -> ReplyFuture<S>
where
    S: Service<Request<RequestBody>, Error = Infallible> + Clone,
{
    let state = match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => State::Calling { future: service.call(request) },
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => State::NotReady { service: queued(service), request: Some(Box::new(request)) },
    };
    ReplyFuture { state, facts, guard: Some(ReplyGuard::new(flow)), shared: Arc::clone(shared) }
}

/// Takes a service that is not ready out of its place. What this instance has queued for must not be left behind unpolled: it goes with
/// the request.
pub(super) fn queued<S: Clone>(service: &mut S) -> S {
    let fresh = service.clone();
    mem::replace(service, fresh)
}

#[derive(Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) connect: bool,
    pub(super) get: bool,
    pub(super) large_body: bool,
}

pin_project! {
    /// The service's future, then a few fields on its response.
    pub(super) struct ReplyFuture<S: Service<Request<RequestBody>>> {
        #[pin]
        state: State<S, S::Future>,
        facts: Facts,
        guard: Option<ReplyGuard>,
        shared: Arc<Shared>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        NotReady { service: S, request: Option<Box<Request<RequestBody>>> },
        Calling { #[pin] future: F },
    }
}

impl<S, B> Future for ReplyFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
{
    type Output = Result<Response<ReplyBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut me = self.project();
        loop {
            match me.state.as_mut().project() {
                StateProj::NotReady { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else { return Poll::Pending };
                    let future = service.call(*request);
                    me.state.set(State::Calling { future });
                }
                StateProj::Calling { future } => {
                    let response = ready!(future.poll(cx))?;
                    let Some(guard) = me.guard.take() else { return Poll::Pending };
                    let mut response = response;
                    let end = finish(&mut response, guard.flow(), *me.facts, me.shared);
                    let streams = me.shared.streams.clone();
                    return Poll::Ready(Ok(response.map(|body| ReplyBody::new(body, guard, streams, end))));
                }
            }
        }
    }
}

/// What is done about a reply that has come. `Some`: it is a stream that the drain may end.
pub(super) fn finish<B>(response: &mut Response<B>, flow: &Flow, facts: Facts, shared: &Shared) -> Option<StreamEnd> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS || (facts.connect && status.is_success()) {
        flow.upgrade();
    } else if shared.streams.is_none()
        // The drain may have begun while the service was at work: whoever is told so is told of the close as well.
        && (flow.malformed() || facts.large_body && flow.body_unread() || shared.stages.stage() != Stage::Running)
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(deadline) = response.extensions().get::<Deadline>() {
        flow.reply_ends_by(deadline.at().into());
    }
    flow.reply_started();
    if let Some(hsts) = &shared.hsts {
        response.headers_mut().entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
    }
    // A stream that the client opened to listen can be opened again elsewhere; one that carries the answer to a POST is a
    // request in flight and gets the drain time.
    is_event_stream(response.headers().get(header::CONTENT_TYPE)).then(|| {
        let stage = if facts.get { Stage::Draining } else { Stage::Ending };
        StreamEnd::at(Arc::clone(&shared.stages), stage)
    })
}

/// What hyper has read out of the head about what follows it.
fn follows(request: &Request<RequestBody>) -> Follows {
    if *request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE) {
        Follows::Anything
    } else if request.headers().contains_key(header::TRANSFER_ENCODING) {
        Follows::Chunks
    } else {
        Follows::Length(request.body().size_hint().exact().unwrap_or(0))
    }
}
