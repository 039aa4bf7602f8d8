//! The guarded client: judged connections, a pool split by principal and policy generation, HTTP/1.1 and HTTP/2.
//!
//! [`Upstream`] is what [`ProxyService`](crate::proxy::ProxyService) forwards through, and a client of its own for webhooks and
//! link previews: see [`Upstream::fetch`].
//!
//! 1. A request needs an [`EgressPermit`]; only a policy makes one.
//! 2. Every new connection asks DNS once, judges every answer, and dials only what was judged ([`connect`](crate::connect)).
//! 3. No proxy variables of the environment, no `Alt-Svc`, no coalescing of names on one HTTP/2 connection.
//! 4. A request is sent again only if nothing of it was written, or if it is idempotent, has no body, was sent on a connection
//!    that had rested in the pool, and not a byte of an answer came. The new connection goes through the whole guard again.
//! 5. An HTTP/1.1 connection is polled by the task that reads the response, so a client that goes away closes it at once.
//! 6. HTTP/1.1 is this crate's own code, strict by RFC 9112; HTTP/2 is hyper's.

mod body;
mod error;
mod fetch;
mod h1;
mod h2;
mod pool;
mod response;
mod timer;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio::time::Instant;

use crate::{
    clock::moment::tokio_now,
    connect::{Connected, ConnectedIo, GuardedConnector},
    egress::{EgressPermit, PolicyHandle},
};

pub use body::Body;
pub use error::Error;
pub(crate) use error::Kind as ErrorKind;
pub use fetch::Redirects;
use h1::{Failed, H1, HeadLimits};
use pool::{KeyRef, Pool, PoolLimits};
pub use response::UpstreamBody;

/// As good as no limit, and short enough to be added to any moment.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// How a response came about.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UpstreamInfo {
    /// The address of the connection.
    pub addr: SocketAddr,
    /// Whether the connection had served before.
    pub reused: bool,
    /// From the call to the response head.
    pub head_after: Duration,
}

/// A guarded HTTP client. Clones share connections and configuration.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: PolicyHandle,
    connector: GuardedConnector,
    pool: Arc<Pool>,
    head: HeadLimits,
    idle: Duration,
}

/// Builds an [`Upstream`].
#[derive(Debug)]
#[must_use]
pub struct UpstreamBuilder {
    policy: PolicyHandle,
    connector: GuardedConnector,
    head: HeadLimits,
    pool: PoolLimits,
    idle: Duration,
    shared: Option<Arc<Pool>>,
}

impl Upstream {
    /// A client that dials through `connector`, under `policy`.
    pub fn builder(policy: PolicyHandle, connector: GuardedConnector) -> UpstreamBuilder {
        UpstreamBuilder {
            policy,
            connector,
            head: HeadLimits {
                timeout: Duration::from_secs(30),
                max_bytes: 64 * 1024,
                max_count: 100,
                continue_wait: Duration::from_secs(1),
            },
            pool: PoolLimits { per_key: 256, total: 4096, timeout: Duration::from_secs(60) },
            idle: Duration::from_secs(300),
            shared: None,
        }
    }

    /// A builder with this client's settings, for a client that differs in its times and goes on with the same connections:
    /// requests under way keep the settings that they began with. The pool's own limits stay.
    pub fn rebuild(&self) -> UpstreamBuilder {
        let inner = &*self.0;
        UpstreamBuilder {
            head: inner.head,
            idle: inner.idle,
            shared: Some(Arc::clone(&inner.pool)),
            ..Self::builder(inner.policy.clone(), inner.connector.clone())
        }
    }

    /// The policy under which this client works.
    #[must_use]
    pub fn policy(&self) -> &PolicyHandle {
        &self.0.policy
    }

    /// Number of connections at rest in the pool.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.0.pool.idle()
    }

    /// Sends one request to the permit's origin. The URI's path and query are sent; scheme, authority and `Host` come from the
    /// permit. `tenant` splits the pool: connections opened for one are never used for another.
    ///
    /// # Errors
    /// [`Error`] says what failed; [`Error::into_rejection`] is the answer that a proxy gives.
    pub async fn send(
        &self,
        permit: &EgressPermit,
        tenant: Option<&Arc<str>>,
        mut request: Request<Body>,
    ) -> Result<(Response<UpstreamBody>, UpstreamInfo), Error> {
        let (answer, info) = self.send_from(permit, tenant, &mut request).await?;
        Ok((answer.into_response(request.headers_mut(), |body| body), info))
    }

    /// The same, taking the request out of its place only when it is written: a future holds every argument of its own twice. The
    /// answer's fields then lie where the request's were.
    pub(crate) async fn send_from(
        &self,
        permit: &EgressPermit,
        tenant: Option<&Arc<str>>,
        request: &mut Request<Body>,
    ) -> Result<(Answer, UpstreamInfo), Error> {
        let inner = &*self.0;
        let start = tokio_now();
        let key = KeyRef::new(permit.origin(), permit.generation(), tenant);
        if let Some(conn) = inner.pool.take(&key) {
            let peer = conn.peer;
            let again = is_replayable(request);
            match inner.send_h1(conn, request, permit, start).await {
                Ok(answer) => {
                    let info = info(peer, true, answer.at - start);
                    return Ok((answer, info));
                }
                Err(failed) if failed.unsent || again && failed.silent && failed.error.kind() == ErrorKind::Terminated => {}
                Err(failed) => return Err(failed.error),
            }
        } else if let Some((sender, peer)) = inner.pool.take_multiplexed(&key) {
            let spare = is_replayable(request).then(|| copy(request));
            match Box::pin(inner.send_h2(sender, request, permit)).await {
                Ok(answer) => {
                    let info = info(peer, true, answer.at - start);
                    return Ok((answer, info));
                }
                Err(failed) => {
                    if failed.error.kind() == ErrorKind::HeadTimeout {
                        inner.pool.forget_multiplexed(&key);
                    }
                    again(failed, spare, request)?;
                }
            }
        }
        // Boxed: a new connection is the rare case, and its futures are large.
        let (answer, peer) = Box::pin(inner.send_fresh(permit, request, &key)).await?;
        let info = info(peer, false, answer.at - start);
        Ok((answer, info))
    }

    /// Sends an HTTP/1.1 upgrade on a connection of its own. A `101` comes with the connection to go on with; any other answer is
    /// an ordinary response.
    pub(crate) async fn upgrade(&self, permit: &EgressPermit, mut request: Request<Body>) -> Result<Upgrade, Error> {
        let inner = &*self.0;
        let start = Instant::now();
        let Connected { io, peer, .. } = inner.connector.connect(permit, true).await?;
        let mut conn = H1::new(io, peer, &inner.head);
        let sent = conn.exchange(&mut request, permit.origin().authority(), &inner.head, Instant::now()).await;
        let head = sent.map_err(|failed| failed.error)?;
        let at = Instant::now();
        let info = info(peer, false, at - start);
        let fields = request.headers_mut();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let response = response(head.status, head.version, fields, ());
            return Ok(Upgrade::Switched { response, conn, info });
        }
        // Not for the pool: the target has seen an `Upgrade` and may think otherwise about this connection than we do.
        let body = UpstreamBody::of_connection(conn, None, inner.idle, at);
        Ok(Upgrade::Refused { response: response(head.status, head.version, fields, body), info })
    }

    /// Opens a judged connection and nothing else: for `CONNECT`.
    pub(crate) async fn dial(&self, permit: &EgressPermit) -> Result<(ConnectedIo, SocketAddr), Error> {
        let connected = self.0.connector.connect(permit, true).await?;
        Ok((connected.io, connected.peer))
    }
}

/// Takes a request out of its place.
pub(crate) fn take(place: &mut Request<Body>) -> Request<Body> {
    std::mem::replace(place, Request::new(Body::empty()))
}

/// The outcome of [`Upstream::upgrade`].
pub(crate) enum Upgrade {
    Switched { response: Response<()>, conn: Box<H1>, info: UpstreamInfo },
    Refused { response: Response<UpstreamBody>, info: UpstreamInfo },
}

fn info(addr: SocketAddr, reused: bool, head_after: Duration) -> UpstreamInfo {
    UpstreamInfo { addr, reused, head_after }
}

/// What came back, but for its fields: they lie where the request's were.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) body: UpstreamBody,
    /// When the head came.
    at: Instant,
}

impl Answer {
    /// The response, with its fields taken out of that map.
    pub(crate) fn into_response<T>(self, fields: &mut HeaderMap, wrap: impl FnOnce(UpstreamBody) -> T) -> Response<T> {
        response(self.status, self.version, fields, wrap(self.body))
    }
}

fn response<T>(status: StatusCode, version: Version, fields: &mut HeaderMap, body: T) -> Response<T> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = std::mem::take(fields);
    response
}

/// Whether a request may be sent a second time (RFC 9110 §9.2.2): idempotent and without a body.
fn is_replayable(request: &Request<Body>) -> bool {
    request.body().is_empty()
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
        )
}

/// A copy of a request without a body, for a sender that takes it away.
fn copy(request: &Request<Body>) -> Box<Request<Body>> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.version_mut() = request.version();
    Box::new(copy)
}

/// Whether the request may go out again; it is then in its place.
fn again(failed: Failed, spare: Option<Box<Request<Body>>>, place: &mut Request<Body>) -> Result<(), Error> {
    match spare {
        _ if failed.unsent => Ok(()),
        Some(request) if failed.silent && failed.error.kind() == ErrorKind::Terminated => {
            *place = *request;
            Ok(())
        }
        _ => Err(failed.error),
    }
}

impl Inner {
    async fn send_fresh(
        &self,
        permit: &EgressPermit,
        request: &mut Request<Body>,
        key: &KeyRef<'_>,
    ) -> Result<(Answer, SocketAddr), Error> {
        let Connected { io, peer, is_h2, .. } = self.connector.connect(permit, false).await?;
        let sent = if is_h2 {
            let sender = self.handshake_h2(io).await?;
            self.pool.put_multiplexed(key.owned(), sender.clone(), peer);
            self.send_h2(sender, request, permit).await
        } else {
            let mut conn = H1::new(io, peer, &self.head);
            conn.key = Some(key.owned());
            self.send_h1(conn, request, permit, Instant::now()).await
        };
        Ok((sent.map_err(|failed| failed.error)?, peer))
    }

    async fn send_h1(
        &self,
        mut conn: Box<H1>,
        request: &mut Request<Body>,
        permit: &EgressPermit,
        start: Instant,
    ) -> Result<Answer, Failed> {
        let head = conn.exchange(request, permit.origin().authority(), &self.head, start).await?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it (RFC 9110 §15.2.2); the connection is lost with it.
            let error = Error::new(ErrorKind::UpgradeFailed).with_detail("unsolicited 101");
            return Err(Failed { error, unsent: false, silent: false });
        }
        let at = tokio_now();
        let body = UpstreamBody::of_connection(conn, Some(&self.pool), self.idle, at);
        Ok(Answer { status: head.status, version: head.version, body, at })
    }
}

impl UpstreamBuilder {
    /// Time from the end of the request to the response head. Default 30 s: generous for a tool call, short of a browser's patience.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.head.timeout = timeout.min(FOREVER);
        self
    }

    /// Longest silence in a response body. Default 5 min; comments on event streams count as bytes.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = timeout.min(FOREVER);
        self
    }

    /// Largest response header section in bytes, and the largest number of fields. Default 64 KiB and 100.
    pub fn max_response_headers(mut self, bytes: usize, count: usize) -> Self {
        self.head.max_bytes = bytes;
        self.head.max_count = count;
        self
    }

    /// Dials through another connector. For [`Upstream::rebuild`]; the TLS settings of both have to be the same, because connections
    /// of the old one may still rest.
    pub fn connector(mut self, connector: GuardedConnector) -> Self {
        self.connector = connector;
        self
    }

    /// How many connections may rest per key, in total, and for how long. Default 256, 4,096 and 60 s.
    pub fn pool(mut self, per_key: usize, total: usize, idle_timeout: Duration) -> Self {
        self.pool = PoolLimits { per_key, total, timeout: idle_timeout };
        self
    }

    /// The client.
    #[must_use]
    pub fn build(self) -> Upstream {
        Upstream(Arc::new(Inner {
            policy: self.policy,
            connector: self.connector,
            pool: self.shared.unwrap_or_else(|| Pool::new(self.pool)),
            head: self.head,
            idle: self.idle,
        }))
    }
}

/// For the fuzzer: see `fuzz/fuzz_targets/h1_response.rs`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_h1_response(bytes: &[u8], sizes: &[u8], to_head: bool) {
    h1::fuzz::check(bytes, sizes, to_head);
}

/// The `User-Agent` that [`Upstream::fetch`] sends where the caller names none.
pub(crate) const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));
