//! HTTP/1.1 connections in their plainest form, without hyper.
//!
//! Nearly all requests of an API are alike: HTTP/1.1, a path, a few fields, no body or a small one of known length that arrives
//! together with its head. For these this module does what hyper's dispatcher does at about a third of its instructions: the head is
//! read by `httparse` (the parser that hyper uses), the request is called at once with its body in one piece, and the reply goes
//! straight into the socket.
//!
//! **Whatever else it is, hyper reads it**: any other version, target form, transfer coding, expectation or connection option, an
//! upgrade, repeated or odd lengths, a body that is large or late, a head that is large, has many fields or does not parse. The
//! connection is then handed over with the bytes as they came, for the rest of its life, and everything that can be wrong with a
//! request is still judged in one place: by hyper's parser and [`framing`](super::framing).
//!
//! Kept from hyper's conduct: a client that goes away while it is served ends the service's future at once; one request at a time;
//! nothing is read ahead but what came in the same read; bodies are framed by what they are, never by what a service's
//! `Transfer-Encoding` says.

mod head;
mod reply;
mod spent;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::io::AsyncWrite as _;
use tower_service::Service;

use self::{
    head::{Caps, Front, Whole},
    reply::{Framing, Out},
};
use super::{
    body::{BoxError, ReplyBody, ReplyGuard, RequestBody},
    flow::Flow,
    io::Io,
    service::{Facts, Shared, finish, queued},
};
use crate::context::RequestContext;

/// Room that a read is given.
const READ: usize = 8 * 1024;
/// Most that is held of requests that are not served yet.
const HELD: usize = 64 * 1024;

/// How it went on.
pub(super) enum Direct<S> {
    /// The connection has ended.
    Ended,
    /// It broke off.
    Broken,
    /// What comes next is hyper's to read; the bytes are back in `io`.
    HandOver { io: Box<Io>, service: S },
}

enum Stage {
    /// Waiting for a request, or its rest.
    Reading,
    /// The service is at work.
    Calling,
    /// Its reply is on the way.
    Replying,
    Closing,
}

/// One connection.
#[expect(clippy::struct_excessive_bools, reason = "four facts that hold independently of each other")]
pub(super) struct Connection<S, B>
where
    S: Service<Request<RequestBody>>,
{
    /// There until the end.
    parts: Option<(Box<Io>, S)>,
    shared: Arc<Shared>,
    flow: Arc<Flow>,
    stage: Stage,
    read: BytesMut,
    /// So many of these were looked at and are the beginning of a head.
    looked_at: usize,
    caps: Caps,
    out: Out,
    framing: Framing,
    method: Method,
    /// The connection closes behind the reply.
    close: bool,
    /// The client takes trailer fields.
    trailers: bool,
    /// The reply cannot be completed: what there is of it is sent, and then no regular end.
    broken: bool,
    /// The server says goodbye.
    leaving: bool,
    facts: Facts,
    guard: Option<ReplyGuard>,
    /// A service that is not ready, and what waits for it.
    queued: Option<Box<(S, Request<RequestBody>)>>,
    // The places stay, so that a request costs no allocation for them.
    call: Pin<Box<Option<S::Future>>>,
    body: Pin<Box<Option<ReplyBody<B>>>>,
}

impl<S: Service<Request<RequestBody>>, B> Unpin for Connection<S, B> {}

impl<S, B> Connection<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(mut io: Box<Io>, service: S, shared: Arc<Shared>, flow: Arc<Flow>, caps: (usize, usize)) -> Self {
        let read = io.take_prefix();
        Self {
            parts: Some((io, service)),
            shared,
            flow,
            stage: Stage::Reading,
            read,
            looked_at: 0,
            caps: Caps::new(caps),
            out: Out::default(),
            framing: Framing::Empty,
            method: Method::GET,
            close: false,
            trailers: false,
            broken: false,
            leaving: false,
            facts: Facts::default(),
            guard: None,
            queued: None,
            call: Box::pin(None),
            body: Box::pin(None),
        }
    }

    /// The connection closes as soon as nothing is being served.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.close = true;
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some((io, _)) = &mut self.parts else { return Poll::Ready(Ok(0)) };
        // From the front where nothing of it is in use any more: those bytes are still in the processor's cache.
        let from_front = self.read.is_empty() && self.read.try_reclaim(READ);
        if !from_front && self.read.capacity() - self.read.len() < READ / 4 {
            self.read.reserve(READ);
        }
        let n = ready!(io.poll_fill(cx, &mut self.read))?;
        if n > 0 {
            self.flow.head_bytes();
        }
        Poll::Ready(Ok(n))
    }

    fn hand_over(&mut self) -> Poll<Direct<S>> {
        let Some((mut io, service)) = self.parts.take() else { return Poll::Ready(Direct::Ended) };
        io.put_back(std::mem::take(&mut self.read));
        Poll::Ready(Direct::HandOver { io, service })
    }

    /// Whether the client has gone. Bytes of a next request are kept, and nothing is read behind them.
    fn client_gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.read.is_empty() && matches!(self.fill(cx), Poll::Ready(Ok(0) | Err(_)))
    }

    fn start(&mut self, whole: Whole) {
        let Whole { mut request, close, trailers } = whole;
        let Some((_, service)) = &mut self.parts else { return };
        if self.read.is_empty() && request.body().size_hint().lower() > READ as u64 {
            // Its memory goes with the body, and not on with the connection.
            self.read = BytesMut::new();
        }
        self.flow.begin(false);
        self.flow.whole_body(request.body().size_hint().lower());
        RequestContext::of_mut(request.extensions_mut()).set_connection(self.shared.info.clone());
        self.facts = Facts { connect: false, get: *request.method() == Method::GET, large_body: false };
        self.method.clone_from(request.method());
        (self.close, self.trailers) = (close || self.leaving, trailers);
        self.guard = Some(ReplyGuard::new(Arc::clone(&self.flow)));
        self.stage = Stage::Calling;
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.call.set(Some(service.call(request))),
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => self.queued = Some(Box::new((queued(service), request))),
        }
    }

    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Option<Response<B>>> {
        if let Some(waiting) = &mut self.queued {
            match ready!(waiting.0.poll_ready(cx)) {
                Ok(()) => {}
                Err(never) => match never {},
            }
            let Some(waiting) = self.queued.take() else { return Poll::Ready(None) };
            let (mut service, request) = *waiting;
            self.call.set(Some(service.call(request)));
        }
        let Some(call) = self.call.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        match ready!(call.poll(cx)) {
            Ok(response) => Poll::Ready(Some(response)),
            Err(never) => match never {},
        }
    }

    fn reply(&mut self, mut response: Response<B>) {
        let Some(guard) = self.guard.take() else { return };
        let end = finish(&mut response, &self.flow, self.facts, &self.shared);
        let (mut parts, body) = response.into_parts();
        let mut exact = body.size_hint().exact().or_else(|| body.is_end_stream().then_some(0));
        let mut keep = true;
        if parts.status.is_informational() {
            // Nothing was asked for that could be answered so, and a final answer there has to be.
            parts = Response::new(()).into_parts().0;
            parts.status = StatusCode::INTERNAL_SERVER_ERROR;
            (exact, keep, self.close) = (Some(0), false, true);
            self.flow.not_upgraded();
        }
        self.framing = self.out.head(&parts, exact, &self.method, &mut self.close);
        spent::put(parts.headers, parts.extensions);
        if keep && self.framing != Framing::Empty {
            self.body.set(Some(ReplyBody::new(body, guard, None, end)));
        }
        self.stage = Stage::Replying;
    }

    /// Takes what the body has, as far as there is room for it. `Ready`: it has ended.
    fn take_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.out.has_room() {
            let Some(body) = self.body.as_mut().as_pin_mut() else { return Poll::Ready(()) };
            let frame = match body.poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            };
            let ended = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        let data = data.copy_to_bytes(data.remaining());
                        self.broken |= !self.out.body(&mut self.framing, data);
                        let ended = self.body.as_ref().as_pin_ref().is_none_or(|b| b.is_end_stream());
                        if ended {
                            self.broken |= !self.out.end(&mut self.framing, None);
                        }
                        ended || self.broken || self.framing == Framing::Length(0)
                    }
                    Err(frame) => {
                        self.broken |= !self.out.end(&mut self.framing, frame.trailers_ref().filter(|_| self.trailers));
                        true
                    }
                },
                Some(Err(_)) => {
                    self.broken = true;
                    true
                }
                None => {
                    self.broken |= !self.out.end(&mut self.framing, None);
                    true
                }
            };
            if ended {
                self.body.set(None);
            }
        }
        Poll::Ready(())
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((io, _)) = &mut self.parts else { return Poll::Ready(Ok(())) };
        while !self.out.is_empty() {
            ready!(self.out.poll_write(&mut **io, cx))?;
        }
        Pin::new(&mut **io).poll_flush(cx)
    }

    /// Reads until there is a request.
    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<Option<Direct<S>>> {
        loop {
            let mut late = false;
            if head::may_end(&self.read, self.looked_at, self.caps) {
                let seen = self.read.len();
                let found = head::take(&mut self.read, self.caps);
                self.looked_at = if matches!(found, Front::Part) { seen } else { 0 };
                match found {
                    Front::Whole(whole) => {
                        self.start(whole);
                        return Poll::Ready(None);
                    }
                    Front::Other => return self.hand_over().map(Some),
                    Front::Body => late = true,
                    Front::Part => {}
                }
            }
            // A head that has begun is read to its end: its client has been told nothing yet.
            if self.leaving && self.read.is_empty() {
                self.stage = Stage::Closing;
                return Poll::Ready(None);
            }
            if late && self.read.len() > HELD {
                return self.hand_over().map(Some);
            }
            match self.fill(cx) {
                // A body that is late may stall, and hyper's side has the clock for that.
                Poll::Pending if late => return self.hand_over().map(Some),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if self.read.is_empty() => {
                    self.stage = Stage::Closing;
                    return Poll::Ready(None);
                }
                // In the middle of something: hyper counts it as what it is.
                Poll::Ready(Ok(0)) => return self.hand_over().map(Some),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => {
                    let end = if self.read.is_empty() { Direct::Ended } else { Direct::Broken };
                    return Poll::Ready(Some(end));
                }
            }
        }
    }

    fn poll_replying(&mut self, cx: &mut Context<'_>) -> Poll<Option<Direct<S>>> {
        loop {
            let more = self.take_body(cx);
            if ready!(self.flush(cx)).is_err() {
                return Poll::Ready(Some(Direct::Broken));
            }
            if self.body.is_some() {
                if more.is_ready() {
                    continue;
                }
                return if self.client_gone(cx) { Poll::Ready(Some(Direct::Broken)) } else { Poll::Pending };
            }
            if self.broken {
                return Poll::Ready(Some(Direct::Broken));
            }
            self.stage = if self.close { Stage::Closing } else { Stage::Reading };
            if !self.read.is_empty() {
                self.flow.head_bytes();
            }
            return Poll::Ready(None);
        }
    }
}

impl<S, B> Future for Connection<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Direct<S>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Direct<S>> {
        let me = &mut *self;
        loop {
            match me.stage {
                Stage::Reading => {
                    if let Some(end) = ready!(me.poll_reading(cx)) {
                        return Poll::Ready(end);
                    }
                }
                Stage::Calling => match me.poll_call(cx) {
                    Poll::Ready(Some(response)) => {
                        me.call.set(None);
                        me.reply(response);
                    }
                    Poll::Ready(None) => return Poll::Ready(Direct::Ended),
                    Poll::Pending if me.client_gone(cx) => return Poll::Ready(Direct::Broken),
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Replying => {
                    if let Some(end) = ready!(me.poll_replying(cx)) {
                        return Poll::Ready(end);
                    }
                }
                Stage::Closing => {
                    if let Some((io, _)) = &mut me.parts {
                        // A failed close is a close.
                        let _ = ready!(Pin::new(&mut **io).poll_shutdown(cx));
                    }
                    return Poll::Ready(Direct::Ended);
                }
            }
        }
    }
}
