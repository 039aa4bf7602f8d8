//! F3: the guarded client: judged connections, a pool split by principal and policy generation, HTTP/1.1 and HTTP/2.
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

mod body;
mod drive;
mod error;
mod fetch;
mod h1;
mod pool;
mod response;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, Uri, Version, header, uri};
use http_body::Body as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use crate::{
    connect::{Connected, ConnectedIo, GuardedConnector},
    egress::{EgressPermit, PolicyHandle},
};

pub use body::Body;
use drive::Shared;
pub use error::Error;
pub(crate) use error::Kind as ErrorKind;
pub use fetch::Redirects;
use h1::{Failed, H1, HeadLimits};
use pool::{Key, Pool, PoolLimits};
pub use response::UpstreamBody;

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
        self.send_from(permit, tenant, &mut request).await
    }

    /// The same, taking the request out of its place only when it is written: a future holds every argument of its own twice.
    pub(crate) async fn send_from(
        &self,
        permit: &EgressPermit,
        tenant: Option<&Arc<str>>,
        request: &mut Request<Body>,
    ) -> Result<(Response<UpstreamBody>, UpstreamInfo), Error> {
        let inner = &*self.0;
        let start = Instant::now();
        let key = Key::new(permit.origin(), permit.generation(), tenant);
        prepare(permit, request);

        if let Some((sender, peer)) = inner.pool.take_multiplexed(&key) {
            let spare = spare(request);
            match Box::pin(inner.send_h2(sender, request, permit)).await {
                Ok((response, now)) => return Ok((response, info(peer, true, now - start))),
                Err(failed) => {
                    if failed.error.kind() == ErrorKind::HeadTimeout {
                        inner.pool.forget_multiplexed(&key);
                    }
                    again(failed, spare, request)?;
                }
            }
        } else if let Some(conn) = inner.pool.take(&key) {
            let spare = spare(request);
            let peer = conn.peer;
            match inner.send_h1(conn, request, &key, start).await {
                Ok((response, now)) => return Ok((response, info(peer, true, now - start))),
                Err(failed) => again(failed, spare, request)?,
            }
        }
        // Boxed: a new connection is the rare case, and its futures are large.
        let (response, now, peer) = Box::pin(inner.send_fresh(permit, request, key)).await?;
        Ok((response, info(peer, false, now - start)))
    }

    /// Sends an HTTP/1.1 upgrade on a connection of its own. A `101` comes with the connection to go on with; any other answer is
    /// an ordinary response.
    pub(crate) async fn upgrade(&self, permit: &EgressPermit, mut request: Request<Body>) -> Result<Upgrade, Error> {
        let inner = &*self.0;
        let start = Instant::now();
        prepare(permit, &mut request);
        let Connected { io, peer, .. } = inner.connector.connect(permit, true).await?;
        let mut conn = Box::new(H1::handshake(io, peer, &inner.head).await?);
        let response = conn.exchange(&mut request, &inner.head, Instant::now()).await.map_err(|failed| failed.error)?;
        let now = Instant::now();
        let info = info(peer, false, now - start);
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Upgrade::Switched { response: response.map(drop), conn, info });
        }
        let (parts, incoming) = response.into_parts();
        // Not for the pool: the target has seen an `Upgrade` and may think otherwise about this connection than we do.
        let body = UpstreamBody::alone(incoming, conn, inner.idle, now);
        Ok(Upgrade::Refused { response: Response::from_parts(parts, body), info })
    }

    /// Opens a judged connection and nothing else: for `CONNECT`.
    pub(crate) async fn dial(&self, permit: &EgressPermit) -> Result<(ConnectedIo, SocketAddr), Error> {
        let connected = self.0.connector.connect(permit, true).await?;
        Ok((connected.io, connected.peer))
    }
}

fn prepare(permit: &EgressPermit, request: &mut Request<Body>) {
    request.headers_mut().insert(header::HOST, permit.origin().authority().clone());
    *request.version_mut() = Version::HTTP_11;
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

/// A copy of a request that may be sent a second time (RFC 9110 §9.2.2): idempotent and without a body.
fn spare(request: &Request<Body>) -> Option<Box<Request<Body>>> {
    let idempotent =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE);
    (idempotent && request.body().is_empty()).then(|| {
        let mut copy = Request::new(Body::empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        *copy.version_mut() = request.version();
        Box::new(copy)
    })
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
        key: Key,
    ) -> Result<(Response<UpstreamBody>, Instant, SocketAddr), Error> {
        let Connected { io, peer, is_h2, .. } = self.connector.connect(permit, false).await?;
        // A first try over HTTP/2 has taken the `Host` field away.
        prepare(permit, request);
        let sent = if is_h2 {
            let sender = self.handshake_h2(io).await?;
            self.pool.put_multiplexed(key, sender.clone(), peer);
            self.send_h2(sender, request, permit).await
        } else {
            let conn = Box::new(H1::handshake(io, peer, &self.head).await?);
            self.send_h1(conn, request, &key, Instant::now()).await
        };
        let (response, now) = sent.map_err(|failed| failed.error)?;
        Ok((response, now, peer))
    }

    /// The response, and the moment of its head.
    async fn send_h1(
        &self,
        mut conn: Box<H1>,
        request: &mut Request<Body>,
        key: &Key,
        start: Instant,
    ) -> Result<(Response<UpstreamBody>, Instant), Failed> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        // hyper drops the body of a GET or HEAD whose length it does not know, unless the framing is spelled out.
        if matches!(*request.method(), Method::GET | Method::HEAD)
            && !request.body().is_end_stream()
            && request.body().size_hint().exact().is_none()
            && !request.headers().contains_key(header::CONTENT_LENGTH)
        {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let response = conn.exchange(request, &self.head, start).await?;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it (RFC 9110 §15.2.2); the connection is lost with it.
            let error = Error::new(ErrorKind::UpgradeFailed).with_detail("unsolicited 101");
            return Err(Failed { error, unsent: false, silent: false });
        }
        let (parts, incoming) = response.into_parts();
        let now = Instant::now();
        let body = if conn.is_abandoned() {
            UpstreamBody::alone(incoming, conn, self.idle, now)
        } else {
            UpstreamBody::inline(incoming, conn, (self.pool.clone(), key.clone()), self.idle, now)
        };
        Ok((Response::from_parts(parts, body), now))
    }

    async fn handshake_h2(&self, io: ConnectedIo) -> Result<http2::SendRequest<Body>, Error> {
        let (sender, conn) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_header_list_size(u32::try_from(self.head.max_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| Error::from_hyper(&e))?;
        tokio::spawn(async move {
            let _ = conn.await;
        });
        Ok(sender)
    }

    async fn send_h2(
        &self,
        mut sender: http2::SendRequest<Body>,
        request: &mut Request<Body>,
        permit: &EgressPermit,
    ) -> Result<(Response<UpstreamBody>, Instant), Failed> {
        let fail = |error| Failed { error, unsent: false, silent: false };
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
        let authority = request.headers_mut().remove(header::HOST).unwrap_or_else(|| permit.origin().authority().clone());
        let uri = Uri::builder()
            .scheme(if permit.origin().scheme().is_secure() { "https" } else { "http" })
            .authority(authority.as_bytes())
            .path_and_query(path)
            .build()
            .map_err(|e| fail(Error::new(ErrorKind::MalformedTarget).with_detail(e.to_string())))?;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            request.headers_mut().remove(name);
        }
        // HTTP/2 multiplexes, so a body that waits costs nobody else anything: no need to hold it back for a `100`.
        request.headers_mut().remove(header::EXPECT);
        let shared = Arc::new(Shared::default());
        let watched = take(request).map(|body| if body.is_empty() { body } else { body.watched(shared.clone()) });
        let mut deadline = Instant::now() + self.head.timeout;
        let mut answer = pin!(sender.try_send_request(watched));
        let answer = loop {
            match tokio::time::timeout_at(deadline, answer.as_mut()).await {
                Ok(answer) => break answer,
                Err(_) => match shared.due(self.head.timeout) {
                    Some(due) => deadline = due,
                    None => return Err(fail(Error::new(ErrorKind::HeadTimeout))),
                },
            }
        };
        match answer {
            Ok(response) => {
                let (parts, incoming) = response.into_parts();
                Ok((Response::from_parts(parts, UpstreamBody::driven(incoming, self.idle)), Instant::now()))
            }
            Err(mut e) => {
                let message = e.take_message();
                let unsent = message.is_some();
                if let Some(message) = message {
                    *request = message;
                }
                // No head has come, which is all that the retry rule asks.
                Err(Failed { error: shared.blame(Error::from_hyper(&e.into_error())), unsent, silent: true })
            }
        }
    }
}

impl UpstreamBuilder {
    /// Time from the end of the request to the response head. Default 30 s: generous for a tool call, short of a browser's patience.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.head.timeout = timeout;
        self
    }

    /// Longest silence in a response body. Default 5 min; comments on event streams count as bytes.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = timeout;
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

/// The `User-Agent` that [`Upstream::fetch`] sends where the caller names none.
pub(crate) const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));
