//! The server, its settings, and the loop that accepts.

use std::{convert::Infallible, error::Error, fmt, future::Future, io, pin::pin, sync::Arc, task::Poll, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::server::conn::http1;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower_service::Service;

#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{
    body::RequestBody,
    connection::{Connection, Place},
    drain::{Drained, Stage, Stages, Tunnels},
    keeper::Times,
    pace::PaceLimit,
    stats::{ConnectionStats, Counter, Counters},
};
use crate::{error::ConfigError, signal::Signal};

/// How long accepting pauses after an error that will not go away by itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many turned-away clients are told so at the same time; others are closed without a word.
const SHED_TASKS: usize = 256;
/// How many unsent bytes the kernel takes before it lets this server wait. It asks for more when half of them have gone, and that
/// is how this server learns that a reader moves: with megabytes a slow but steady one looks stalled. Less is held for it, too.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 32 * 1024;
/// How long a client may keep this server waiting, if nobody says otherwise: far longer than a client that means it needs.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is left of the drain time when streams that carry an answer are ended.
const END_BEFORE_CUT: Duration = Duration::from_millis(500);

/// What is decided when the server is built.
pub(super) struct Settings {
    /// What a connection takes with it when it is accepted.
    live: ArcSwap<PerConnection>,
    max_connections: usize,
    pub(super) hsts: Option<HeaderValue>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl Settings {
    pub(super) fn live(&self) -> Arc<PerConnection> {
        self.live.load_full()
    }
}

/// What another builder may change while the server runs.
pub(super) struct PerConnection {
    pub(super) times: Arc<Times>,
    pub(super) h1: http1::Builder,
    /// The parser's caps, as hyper has them: bytes and fields of a head.
    pub(super) head_caps: (usize, usize),
    pub(super) h2: H2Settings,
    pub(super) drain: Duration,
    pub(super) trusted_balancers: Option<Arc<[ipnet::IpNet]>>,
}

#[derive(Clone, Copy)]
pub(super) struct H2Settings {
    pub(super) max_streams: u32,
    pub(super) header_list: u32,
    pub(super) ping_interval: Duration,
    pub(super) ping_timeout: Duration,
}

/// The settings of a [`Server`]. Every limit has a default that suits the open internet.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    header_timeout: Duration,
    keep_alive: Duration,
    linger: Duration,
    max_headers: usize,
    max_header_bytes: usize,
    max_connections: usize,
    max_streams: u32,
    body_idle: Option<Duration>,
    write_idle: Option<Duration>,
    min_rate_in: Option<u32>,
    min_rate_out: Option<u32>,
    rate_window: Option<Duration>,
    ping_interval: Duration,
    ping_timeout: Duration,
    drain: Duration,
    hsts: Option<HeaderValue>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    trusted_balancers: Option<Arc<[ipnet::IpNet]>>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            header_timeout: PATIENCE,
            keep_alive: Duration::from_secs(75),
            linger: Duration::from_secs(2),
            max_headers: 100,
            max_header_bytes: 64 * 1024,
            max_connections: 10_000,
            max_streams: 100,
            body_idle: Some(PATIENCE),
            write_idle: Some(PATIENCE),
            min_rate_in: Some(100),
            min_rate_out: Some(100),
            rate_window: None,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
            drain: Duration::from_secs(30),
            hsts: None,
            #[cfg(feature = "tls")]
            tls: None,
            trusted_balancers: None,
        }
    }
}

impl Builder {
    /// Time for a complete request head, TLS handshake and PROXY header included; counted from its first byte, for the first
    /// request from the connection's start. Default 10 s: a real client sends its head in one piece.
    pub fn header_timeout(mut self, time: Duration) -> Self {
        self.header_timeout = time;
        self
    }

    /// How long a connection may rest between two requests. Default 75 s, a little more than most clients keep one.
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = time;
        self
    }

    /// How long a client that keeps sending after the final answer is listened to, so that it can read that answer; at most
    /// 1 MiB is thrown away. Default 2 s.
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// How many header fields a request may have. Default 100. This is the limit of
    /// [`RequestHeadLayer`](crate::request_head::RequestHeadLayer); the parser's own cap stands above it.
    pub fn max_headers(mut self, n: usize) -> Self {
        self.max_headers = n;
        self
    }

    /// How many bytes a header section may have. Default 64 KiB; see [`Self::max_headers`].
    pub fn max_header_bytes(mut self, n: usize) -> Self {
        self.max_header_bytes = n;
        self
    }

    /// How many connections, tunnels included, may be open. Default 10,000. One more is answered with 503 and `Retry-After`
    /// (without TLS; with TLS it is closed, because a handshake is what an overloaded server cannot afford).
    pub fn max_connections(mut self, n: usize) -> Self {
        self.max_connections = n;
        self
    }

    /// How many concurrent HTTP/2 streams a connection may have. Default 100.
    pub fn max_streams(mut self, n: u32) -> Self {
        self.max_streams = n;
        self
    }

    /// Longest pause inside a request body that somebody waits for; answered with 408. Default 10 s, `None` for no limit.
    pub fn body_idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.body_idle = time.into();
        self
    }

    /// How long a client may take no byte of its reply, before its connection is reset. Default 10 s, `None` for no limit. An event
    /// stream on which nothing happens is not touched: only unsent bytes count. The kernel tells of what was taken in steps of some
    /// 16 KiB, so that a steady reader of a large reply needs about 3 KiB a second; a reply that fits into the kernel's buffers is
    /// done for this server, and the connection rests for the keep-alive time.
    pub fn write_idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.write_idle = time.into();
        self
    }

    /// Fewest bytes a second that a client has to send and to take while this server waits for it, averaged over `window`.
    /// Default 100 bytes, `None` for no limit, over the longest pause that the two times above allow. It catches clients that drip
    /// just fast enough for those.
    pub fn min_rate(mut self, sent: impl Into<Option<u32>>, taken: impl Into<Option<u32>>, window: Duration) -> Self {
        (self.min_rate_in, self.min_rate_out, self.rate_window) = (sent.into(), taken.into(), Some(window));
        self
    }

    /// HTTP/2 keep-alive pings: how often, and how long an answer may take. Default 20 s each.
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> Self {
        (self.ping_interval, self.ping_timeout) = (interval, timeout);
        self
    }

    /// How long requests in flight may take to finish after the shutdown signal. Default 30 s.
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Terminates TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sends `Strict-Transport-Security` with this max-age (RFC 6797) on replies over TLS.
    pub fn hsts(mut self, max_age: Duration) -> Self {
        self.hsts = HeaderValue::try_from(format!("max-age={}", max_age.as_secs())).ok();
        self
    }

    /// Expects a PROXY protocol v2 header in front of every connection from these peers, and takes the client's address from
    /// it. Connections from other peers are refused.
    ///
    /// # Errors
    /// [`ConfigError`] for a text that is not a network.
    pub fn proxy_protocol<T: AsRef<str>>(mut self, trusted: impl IntoIterator<Item = T>) -> Result<Self, ConfigError> {
        let parse = |text: T| {
            let text = text.as_ref();
            text.parse()
                .or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
                .map_err(|_| ConfigError::new(text, "not a network in CIDR notation"))
        };
        self.trusted_balancers = Some(trusted.into_iter().map(parse).collect::<Result<_, _>>()?);
        Ok(self)
    }

    fn per_connection(&self) -> PerConnection {
        let mut h1 = http1::Builder::new();
        // The parser's caps stand above ours: what passes them is answered by a layer, with a body and an audit record.
        let header_cap = self.max_header_bytes + self.max_header_bytes / 2;
        let head_caps = (header_cap, self.max_headers + self.max_headers / 4 + 1);
        h1.half_close(false)
            .header_read_timeout(None)
            .timer(hyper_util::rt::TokioTimer::new())
            .max_headers(head_caps.1)
            .max_header_size(header_cap)
            .max_buf_size(header_cap.max(128 * 1024));
        let pace = |idle: Option<Duration>, rate| {
            let window = self.rate_window.or(idle).unwrap_or(PATIENCE);
            PaceLimit { idle, rate, window }
        };
        let times = Times {
            header: self.header_timeout,
            keep_alive: self.keep_alive,
            linger: self.linger,
            read: pace(self.body_idle, self.min_rate_in),
            write: pace(self.write_idle, self.min_rate_out),
        };
        let h2 = H2Settings {
            max_streams: self.max_streams,
            header_list: u32::try_from(header_cap).unwrap_or(u32::MAX),
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
        };
        let trusted_balancers = self.trusted_balancers.clone();
        PerConnection { times: Arc::new(times), h1, head_caps, h2, drain: self.drain, trusted_balancers }
    }

    /// The server.
    #[must_use]
    pub fn build(self) -> Server {
        let live = ArcSwap::from_pointee(self.per_connection());
        #[cfg(feature = "tls")]
        let hsts = self.hsts.filter(|_| self.tls.is_some());
        #[cfg(not(feature = "tls"))]
        let hsts = None;
        let settings = Settings {
            live,
            max_connections: self.max_connections,
            hsts,
            #[cfg(feature = "tls")]
            tls: self.tls,
        };
        Server(Arc::new(Inner {
            places: Arc::new(Semaphore::new(settings.max_connections)),
            shed: Arc::new(Semaphore::new(SHED_TASKS)),
            settings,
            stages: Stages::new(),
            counters: Arc::default(),
        }))
    }
}

pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) stages: Arc<Stages>,
    pub(super) counters: Arc<Counters>,
    places: Arc<Semaphore>,
    shed: Arc<Semaphore>,
}

/// A hardened HTTP/1.1 and HTTP/2 server. Clones are the same server: a second listener shares cap, signal and drain.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Refuses to expose credentials: a listener that others than this machine can reach needs TLS, unless the operator has said by
/// name that something in front of it terminates TLS.
///
/// # Errors
/// [`ConfigError`] for a plain listener on an address that is not loopback.
pub fn check_listener(addr: std::net::SocketAddr, tls: bool, plain_allowed: bool) -> Result<(), ConfigError> {
    if tls || plain_allowed || addr.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ConfigError::new(
        addr.to_string(),
        "tokens would cross the network in clear text: configure TLS, listen on a loopback address, or allow it by name if a \
         balancer in front terminates TLS",
    ))
}

impl Server {
    /// The settings, at their defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Fires with [`CloseReason::Shutdown`](crate::signal::CloseReason::Shutdown) when the drain begins: for tunnels,
    /// readiness answers and whatever else has to end.
    #[must_use]
    pub fn shutdown_signal(&self) -> Signal {
        self.0.stages.signal()
    }

    /// Where tunnels report, so that the drain waits for them.
    #[must_use]
    pub fn tunnels(&self) -> Tunnels {
        self.0.stages.tunnels().clone()
    }

    /// What the listeners have counted.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        let mut stats = self.0.counters.snapshot();
        stats.open = self.0.stages.connections().len();
        stats.tunnels = self.0.stages.tunnels().len();
        stats
    }

    /// Accepts connections and serves them until `shutdown` resolves, then drains: the listener closes, idle connections close,
    /// requests in flight may finish within the drain time, the shutdown signal fires for tunnels, event streams opened by
    /// `GET` end at once and others shortly before the drain time is over; what is left then is cut.
    ///
    /// It has to run inside a tokio runtime with time and I/O enabled.
    pub async fn serve<S, B>(&self, listener: TcpListener, service: S, shutdown: impl Future<Output = ()>) -> Drained
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut shutdown = pin!(shutdown);
        let mut stopped = pin!(self.0.stages.reached(Stage::Draining));
        loop {
            let accepted = {
                let mut accept = pin!(listener.accept());
                std::future::poll_fn(|cx| {
                    if shutdown.as_mut().poll(cx).is_ready() || stopped.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    accept.as_mut().poll(cx).map(Some)
                })
                .await
            };
            match accepted {
                None => break,
                Some(Ok((stream, peer))) => self.admit(stream, peer, &service),
                Some(Err(error)) => self.accept_failed(&error).await,
            }
        }
        drop(listener);
        self.drain().await
    }

    /// Puts another builder's times and sizes in force while the server runs: for connections that are accepted from now on; those
    /// that are open keep theirs. The drain time is the one that is in force when the drain begins.
    ///
    /// [`Builder::max_connections`], [`Builder::hsts`] and whether there is TLS are decided when the server is built, and stay.
    pub fn reconfigure(&self, builder: &Builder) {
        self.0.settings.live.store(Arc::new(builder.per_connection()));
    }

    /// Begins the drain without waiting for it; [`Self::serve`] returns when it is done.
    pub fn shut_down(&self) {
        self.0.stages.advance(Stage::Draining);
    }

    fn admit<S, B>(&self, stream: TcpStream, peer: std::net::SocketAddr, service: &S)
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.0.counters.add(Counter::Accepted);
        let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() else {
            self.shed(stream);
            return;
        };
        // Small writes, such as an event or a WebSocket frame, must not wait for the other side's acknowledgement.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        let place = Place { permit: place, alive: self.0.stages.connections().track() };
        let connection = Connection { inner: Arc::clone(&self.0), peer, place };
        tokio::spawn(connection.run(stream, service.clone()));
    }

    fn shed(&self, mut stream: TcpStream) {
        self.0.counters.add(Counter::Shed);
        #[cfg(feature = "tls")]
        if self.0.settings.tls.is_some() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.0.shed).try_acquire_owned() else { return };
        tokio::spawn(async move {
            const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
                content-length: 132\r\ncache-control: no-store\r\nretry-after: 1\r\nconnection: close\r\n\
                proxy-status: portcullis; error=connection_limit_reached\r\n\r\n\
                {\"type\":\"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity\",\
                \"title\":\"Temporarily at capacity\",\"status\":503}";
            let answer = async {
                stream.write_all(FULL).await?;
                stream.shutdown().await?;
                let mut scratch = [0; 1024];
                for _ in 0..64 {
                    if tokio::io::AsyncReadExt::read(&mut stream, &mut scratch).await? == 0 {
                        break;
                    }
                }
                io::Result::Ok(())
            };
            let _ = tokio::time::timeout(Duration::from_millis(500), answer).await;
            drop(permit);
        });
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.0.counters.add(Counter::AcceptErrors);
        let gone = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
        );
        if !gone {
            tracing::warn!(%error, "accept failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    async fn drain(&self) -> Drained {
        let stages = &self.0.stages;
        let drain = self.0.settings.live().drain;
        stages.advance(Stage::Draining);
        let all = || async {
            stages.connections().wait_empty().await;
            stages.tunnels().wait_empty().await;
        };
        if tokio::time::timeout(drain.saturating_sub(END_BEFORE_CUT), all()).await.is_ok() {
            return Drained::default();
        }
        stages.advance(Stage::Ending);
        if tokio::time::timeout(drain.min(END_BEFORE_CUT), all()).await.is_ok() {
            return Drained::default();
        }
        let drained = Drained { connections_cut: stages.connections().len(), tunnels_cut: stages.tunnels().len() };
        stages.advance(Stage::Cut);
        let _ = tokio::time::timeout(END_BEFORE_CUT, stages.connections().wait_empty()).await;
        drained
    }
}
