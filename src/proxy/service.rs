//! [`ProxyService`]: takes the permit, forwards, and hands tunnels over.

use std::{
    any::Any,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::{
    credentials::{self, WithoutFields},
    forwarded::{self, ForwardedFields},
    frames::WebSocketLimits,
    ping::WebSocketPing,
    place::Place,
    sanitize::{self, Via},
    tunnel::{self, TunnelLimits},
    websocket::{self, Asked, Offer},
};
use crate::{
    ConfigError,
    body::ResponseBody,
    concurrency_limit::Permit,
    context::{ConnectionInfo, RequestContext},
    egress::{EgressPermit, PolicyHandle},
    mcp_wire::is_event_stream,
    net::{Origin, Target, TargetStyle},
    rejection::{DEFAULT_PSEUDONYM, Rejection, RejectionKind},
    signal::{CloseReason, Signal},
    tokens::Principal,
    upstream::{self, Body, Error, Upgrade, Upstream, UpstreamBody, UpstreamInfo},
};

/// The response body of [`ProxyService`].
pub type ProxyBody = ResponseBody<UpstreamBody>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// In a place of its own: an `async` block holds what is moved into it twice, and tunnels are many.
type Closing = Pin<Box<dyn Future<Output = u16> + Send>>;
type Track = Arc<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>;

/// Forwards requests that carry an [`EgressPermit`]. `Error` is `Infallible`: every failure is a response.
#[derive(Clone)]
pub struct ProxyService(Arc<Config>);

pub(super) struct Config {
    upstream: Upstream,
    via: Via,
    expose: bool,
    forwarded: ForwardedFields,
    stream_idle: Duration,
    tunnel: TunnelLimits,
    shutdown: Option<Signal>,
    close_on_swap: bool,
    track: Option<Track>,
}

/// Builds a [`ProxyService`].
#[must_use]
pub struct ProxyServiceBuilder(Config);

impl ProxyService {
    /// Forwards through `upstream` with the defaults of [`ProxyService::builder`].
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self::builder(upstream).build()
    }

    /// Forwards through `upstream`.
    pub fn builder(upstream: Upstream) -> ProxyServiceBuilder {
        let mut random = [0u8; 8];
        // Without randomness the name is only guessable; a guessed one makes a client refuse its own requests, nobody else's.
        let _ = getrandom::fill(&mut random);
        let pseudonym = format!("{DEFAULT_PSEUDONYM}-{:016x}", u64::from_be_bytes(random));
        let idle = Duration::from_secs(3600);
        ProxyServiceBuilder(Config {
            upstream,
            via: Via::new(&pseudonym).unwrap_or_else(unreachable_via),
            expose: false,
            forwarded: ForwardedFields::Off,
            stream_idle: idle,
            tunnel: TunnelLimits { idle, total: None, websocket: WebSocketLimits::none(), ping: None },
            shutdown: None,
            close_on_swap: true,
            track: None,
        })
    }
}

fn unreachable_via() -> Via {
    // Hexadecimal digits always make a field value; should they not, an empty name detects no loops.
    Via::new(DEFAULT_PSEUDONYM).unwrap_or_else(|| unreachable!("a constant is a field value"))
}

impl ProxyServiceBuilder {
    /// The name in `Via`, by which loops are recognised. Several replicas of one deployment share it. Default: random for each
    /// process, because a name that can be guessed lets others make false loops.
    ///
    /// # Errors
    /// If it is not a token of RFC 9110.
    pub fn pseudonym(mut self, name: &str) -> Result<Self, ConfigError> {
        let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        match Via::new(name).filter(|_| token) {
            Some(via) => {
                self.0.via = via;
                Ok(self)
            }
            None => Err(ConfigError::new(name, "a pseudonym is a token of RFC 9110")),
        }
    }

    /// Tells clients why a target was not reached (name server, connection, TLS, address). Off by default: the answers draw a map
    /// of the network behind this server.
    pub fn expose_errors(mut self, on: bool) -> Self {
        self.0.expose = on;
        self
    }

    /// The forwarded fields for a fixed upstream. Off by default.
    pub fn forwarded(mut self, fields: ForwardedFields) -> Self {
        self.0.forwarded = fields;
        self
    }

    /// Longest silence on an event stream (`text/event-stream`); comments count. Default 1 h: a subscription may be quiet for long.
    pub fn stream_idle_timeout(mut self, timeout: Duration) -> Self {
        self.0.stream_idle = timeout;
        self
    }

    /// Longest silence in a tunnel, both directions together. Default 1 h.
    pub fn tunnel_idle_timeout(mut self, timeout: Duration) -> Self {
        self.0.tunnel.idle = timeout;
        self
    }

    /// Longest life of a tunnel. Default: no limit.
    pub fn tunnel_total_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.0.tunnel.total = timeout;
        self
    }

    /// Limits of each direction of a WebSocket. Default: none.
    pub fn websocket_limits(mut self, limits: WebSocketLimits) -> Self {
        self.0.tunnel.websocket = limits;
        self
    }

    /// Pings into quiet WebSockets: they keep middleboxes from forgetting the connection, and find ends that are gone. Default:
    /// none.
    pub fn websocket_ping(mut self, ping: Option<WebSocketPing>) -> Self {
        self.0.tunnel.ping = ping;
        self
    }

    /// Ends tunnels and event streams when the server shuts down.
    pub fn shutdown(mut self, signal: Signal) -> Self {
        self.0.shutdown = Some(signal);
        self
    }

    /// Whether live tunnels and event streams are judged again, and closed if need be, when another policy comes into force.
    /// Default: yes.
    pub fn close_on_policy_swap(mut self, on: bool) -> Self {
        self.0.close_on_swap = on;
        self
    }

    /// Makes a guard for each tunnel, kept until the tunnel ends: how a server that drains knows what it waits for.
    pub fn track_tunnels<T: Send + 'static>(mut self, track: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.0.track = Some(Arc::new(move || Box::new(track())));
        self
    }

    /// The service.
    #[must_use]
    pub fn build(self) -> ProxyService {
        ProxyService(Arc::new(self.0))
    }
}

impl fmt::Debug for ProxyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyService").field("upstream", &self.0.upstream).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxyServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyServiceBuilder").field("upstream", &self.0.upstream).finish_non_exhaustive()
    }
}

/// The future of [`ProxyService`]. It has a place of its own, because its size would otherwise travel through every layer's future,
/// and the place is one that has served before.
pub struct ResponseFuture(Place);

impl Future for ResponseFuture {
    type Output = Result<Response<ProxyBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(Ok)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}

impl<B> Service<Request<B>> for ProxyService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let config = self.0.clone();
        let own = RequestContext::of(request.extensions()).and_then(RequestContext::credential_fields);
        let own = own.filter(|fields| credentials::has_own(fields)).cloned();
        let request = request.map(|body| match own {
            Some(fields) => Body::stream(WithoutFields::new(body, fields)),
            None => Body::stream(body),
        });
        ResponseFuture(Place::of(config, request))
    }
}

/// One request and its answer.
pub(super) async fn exchange(config: Arc<Config>, mut request: Request<Body>) -> Response<ProxyBody> {
    match config.answer(&mut request).await {
        Ok(response) => response,
        Err(rejection) => if config.expose { rejection.exposed() } else { rejection }.into_response(),
    }
}

fn misconfigured(what: &'static str) -> Rejection {
    Rejection::new(RejectionKind::Misconfigured).with_detail(what)
}

impl Config {
    /// The request stays in its place, and the rare forms have a box of their own: the future of the common one is then small.
    async fn answer(self: &Arc<Self>, request: &mut Request<Body>) -> Result<Response<ProxyBody>, Rejection> {
        let context = RequestContext::of_mut(request.extensions_mut());
        let permit = context.take_permit().ok_or_else(|| misconfigured("no egress permit: SsrfGuardLayer is missing"))?;
        let target = context.target().cloned().ok_or_else(|| misconfigured("no target: TargetLayer is missing"))?;
        if !Arc::ptr_eq(permit.origin(), target.origin()) && permit.origin() != target.origin() {
            return Err(misconfigured("the permit is for another target"));
        }
        if *request.method() == Method::TRACE {
            // It would echo what other layers have added (RFC 9110 §9.3.8).
            return Err(Rejection::new(RejectionKind::MethodNotAllowed));
        }
        if target.style() == TargetStyle::Connect {
            return Box::pin(Arc::clone(self).connect(upstream::take(request), &permit, target)).await;
        }
        if sanitize::is_last_hop(request.method(), request.headers()) {
            return Ok(options_here());
        }
        match websocket::asked(request)? {
            Asked::WebSocket(offer) => Box::pin(Arc::clone(self).websocket(upstream::take(request), permit, target, offer)).await,
            Asked::Nothing if target.scheme().is_websocket() => Err(Rejection::new(RejectionKind::UpgradeRequired)),
            Asked::Nothing if *request.method() == Method::CONNECT => Err(Rejection::new(RejectionKind::NotImplemented)),
            Asked::Nothing => self.forward(request, &permit, &target).await,
        }
    }

    async fn forward(
        &self,
        request: &mut Request<Body>,
        permit: &EgressPermit,
        target: &Target,
    ) -> Result<Response<ProxyBody>, Rejection> {
        // A stream that carries the answer to a POST is a request in flight: `serve` gives it the drain time.
        let ends_at_shutdown = *request.method() == Method::GET;
        let extensions = std::mem::take(request.extensions_mut());
        let context = RequestContext::of(&extensions);
        let (method, version) = (request.method().clone(), request.version());
        self.clean(request.headers_mut(), &method, version, target, context)?;
        *request.uri_mut() = Uri::from(target.path_and_query().clone());
        let tenant = context.and_then(RequestContext::principal).map(Principal::id);
        let sent = self.upstream.send_from(permit, tenant, request).await;
        let (mut answer, info) = sent.map_err(Error::into_rejection)?;
        note(context, &info);
        let status = answer.status;
        if status.as_u16() < 200 || status.as_u16() > 599 {
            return Err(Rejection::new(RejectionKind::BadResponse).with_detail("a status outside of 200 to 599"));
        }
        let headers = request.headers_mut();
        sanitize::response(headers, status, target.style());
        if !answer.body.is_whole() && is_event_stream(headers.get(header::CONTENT_TYPE)) {
            answer.body.set_idle_timeout(self.stream_idle);
            if let Some(closing) = context.and_then(|c| self.closing(c, permit, target, info.addr, ends_at_shutdown)) {
                answer.body.end_on(Box::pin(async move {
                    closing.await;
                }));
            }
        }
        let mut response = answer.into_response(headers, ResponseBody::inner);
        self.answer_as_ourselves(&mut response, target);
        // The request's extensions ride on the response: outer layers find the context there, and the map is not built twice.
        *response.extensions_mut() = extensions;
        response.extensions_mut().insert(info);
        Ok(response)
    }

    fn clean(
        &self,
        headers: &mut HeaderMap,
        method: &Method,
        version: Version,
        target: &Target,
        context: Option<&RequestContext>,
    ) -> Result<(), Rejection> {
        let client = context.and_then(RequestContext::client);
        let fixed = target.style() == TargetStyle::Fixed && self.forwarded != ForwardedFields::Off;
        let trusted = fixed && client.is_some_and(crate::context::ClientAddr::peer_is_trusted);
        let host = fixed.then(|| headers.get(header::HOST).cloned()).flatten();
        sanitize::request(headers, method, version, target.style(), &self.via, trusted)?;
        if let Some(client) = client.filter(|_| fixed) {
            let secure = context.and_then(RequestContext::connection).is_some_and(ConnectionInfo::is_tls);
            forwarded::set(headers, self.forwarded, client.peer().ip(), host.as_ref(), secure);
        }
        Ok(())
    }

    fn answer_as_ourselves<B>(&self, response: &mut Response<B>, target: &Target) {
        // A message that is passed on is ours in version (RFC 9112 §2.3), and a proxy names itself (RFC 9110 §7.6.3).
        let received = response.version();
        *response.version_mut() = Version::HTTP_11;
        if target.style() == TargetStyle::AbsoluteForm {
            response.headers_mut().append(header::VIA, self.via.entry(received));
        }
    }

    async fn websocket(
        self: Arc<Self>,
        mut request: Request<Body>,
        permit: EgressPermit,
        target: Target,
        mut offer: Offer,
    ) -> Result<Response<ProxyBody>, Rejection> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, _) = request.into_parts();
        let mut extensions = std::mem::take(&mut parts.extensions);
        let held = extensions.remove::<Permit>();
        let context = RequestContext::of(&extensions);
        self.clean(&mut parts.headers, &Method::GET, parts.version, &target, context)?;
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::EXPECT);
        offer.put_on(&mut parts.headers);
        let mut handshake = Request::new(Body::empty());
        *handshake.uri_mut() = Uri::from(target.path_and_query().clone());
        *handshake.headers_mut() = parts.headers;
        let sent = self.upstream.upgrade(&permit, handshake).await.map_err(Error::into_rejection)?;
        let (answer, conn, info) = match sent {
            Upgrade::Switched { response, conn, info } => (response, conn, info),
            Upgrade::Refused { mut response, info } => {
                note(context, &info);
                let status = response.status();
                sanitize::response(response.headers_mut(), status, target.style());
                self.answer_as_ourselves(&mut response, &target);
                *response.extensions_mut() = extensions;
                response.extensions_mut().insert(info);
                return Ok(response.map(ResponseBody::inner));
            }
        };
        note(context, &info);
        offer.check(answer.headers())?;

        let mut response = Response::new(ResponseBody::empty());
        *response.headers_mut() = answer.into_parts().0.headers;
        sanitize::response(response.headers_mut(), StatusCode::SWITCHING_PROTOCOLS, target.style());
        let headers = response.headers_mut();
        if offer.over_http2 {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        let closing = context.and_then(|c| self.closing(c, &permit, &target, info.addr, true));
        let record = context.and_then(RequestContext::record).cloned();
        if let Some(record) = &record {
            record.with(|r| r.tunnel = true);
        }
        let guard = self.track.as_ref().map(|track| track());
        let limits = self.tunnel;
        let (io, early) = (*conn).into_io();
        tokio::spawn(async move {
            let _held = (held, guard);
            let closing = until(closing);
            match on_upgrade.await {
                Ok(client) => {
                    tunnel::run(TokioIo::new(client), io, early, true, limits, closing).await.note(record.as_ref());
                }
                Err(_) => drop(record),
            }
        });
        *response.extensions_mut() = extensions;
        response.extensions_mut().insert(info);
        Ok(response)
    }

    /// `CONNECT`: a judged connection, and bytes.
    async fn connect(
        self: Arc<Self>,
        mut request: Request<Body>,
        permit: &EgressPermit,
        target: Target,
    ) -> Result<Response<ProxyBody>, Rejection> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, _) = request.into_parts();
        let mut extensions = std::mem::take(&mut parts.extensions);
        let held = extensions.remove::<Permit>();
        let context = RequestContext::of(&extensions);
        let (io, peer) = self.upstream.dial(permit).await.map_err(Error::into_rejection)?;
        if let Some(record) = context.and_then(RequestContext::record) {
            record.with(|r| {
                r.dialed = Some(peer);
                r.tunnel = true;
            });
        }
        let closing = context.and_then(|c| self.closing(c, permit, &target, peer, true));
        let record = context.and_then(RequestContext::record).cloned();
        let guard = self.track.as_ref().map(|track| track());
        let limits = self.tunnel;
        tokio::spawn(async move {
            let _held = (held, guard);
            let closing = until(closing);
            match on_upgrade.await {
                Ok(client) => {
                    let client = TokioIo::new(client);
                    tunnel::run(client, io, Bytes::new(), false, limits, closing).await.note(record.as_ref());
                }
                Err(_) => drop(record),
            }
        });
        let mut response = Response::new(ResponseBody::empty());
        *response.extensions_mut() = extensions;
        Ok(response)
    }

    /// Resolves to a WebSocket close code when something alive has to end: its token was revoked, a new policy forbids it, or the
    /// server shuts down. `None` if nothing of that can happen.
    fn closing(
        &self,
        context: &RequestContext,
        permit: &EgressPermit,
        target: &Target,
        peer: std::net::SocketAddr,
        at_shutdown: bool,
    ) -> Option<Closing> {
        let revoked = context.principal().and_then(|p| p.revoked().cloned());
        let shutdown = self.shutdown.clone().filter(|_| at_shutdown);
        let policy = self.close_on_swap.then(|| (self.upstream.policy().clone(), permit.clone(), Arc::clone(target.origin())));
        if revoked.is_none() && shutdown.is_none() && policy.is_none() {
            return None;
        }
        Some(Box::pin(async move {
            tokio::select! {
                reason = fired(revoked) => reason,
                reason = fired(shutdown) => reason,
                reason = forbidden(policy, peer) => reason,
            }
            .websocket_code()
        }))
    }
}

async fn fired(signal: Option<Signal>) -> CloseReason {
    match signal {
        Some(mut signal) => signal.fired().await,
        None => std::future::pending().await,
    }
}

/// Waits for a policy that would not have allowed the connection.
async fn forbidden(policy: Option<(PolicyHandle, EgressPermit, Arc<Origin>)>, peer: std::net::SocketAddr) -> CloseReason {
    let Some((handle, permit, origin)) = policy else { return std::future::pending().await };
    let mut generation = permit.policy_generation().clone();
    drop(permit);
    loop {
        generation.superseded().clone().fired().await;
        generation = handle.load();
        if generation.recheck(&origin, peer).is_err() {
            return CloseReason::Policy;
        }
    }
}

async fn until(closing: Option<Closing>) -> u16 {
    match closing {
        Some(closing) => closing.await,
        None => std::future::pending().await,
    }
}

fn note(context: Option<&RequestContext>, info: &UpstreamInfo) {
    if let Some(record) = context.and_then(RequestContext::record) {
        record.with(|r| {
            r.dialed = Some(info.addr);
            r.reused = info.reused;
        });
    }
}

/// `OPTIONS` with `Max-Forwards: 0` ends here (RFC 9110 §7.6.2).
fn options_here() -> Response<ProxyBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(header::ALLOW, methods);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_by_their_type() {
        let mut h = HeaderMap::new();
        for (value, want) in
            [("text/event-stream; charset=utf-8", true), ("Text/Event-Stream", true), ("text/event-streams", false)]
        {
            h.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_event_stream(h.get(header::CONTENT_TYPE)), want);
        }
    }
}
