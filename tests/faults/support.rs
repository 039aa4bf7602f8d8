//! The stack under test.

use std::{net::SocketAddr, time::Duration};

use portcullis::{
    audit::{AuditLayer, ChannelSink},
    body_limit::BodyLimitLayer,
    client_addr::ClientAddrLayer,
    concurrency_limit::{ConcurrencyLimitHandle, ConcurrencyLimitLayer},
    connect::{GuardedConnector, GuardedConnectorBuilder},
    egress::{EgressPolicy, Exception, PolicyHandle},
    proxy::{ProxyService, ProxyServiceBuilder},
    request_head::RequestHeadLayer,
    request_line::RequestLineLayer,
    response_limit::ResponseLimitLayer,
    serve::{Drained, Server, ServerBuilder},
    ssrf_guard::SsrfGuardLayer,
    target::{Connect, PathPrefix, TargetExtractor as _, TargetLayer, TargetParser},
    total_timeout::TotalTimeoutLayer,
    upstream::{Upstream, UpstreamBuilder},
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, MutexGuard, oneshot},
    task::JoinHandle,
};
use tower::ServiceBuilder;

pub use crate::wire::*;

/// The time limit of every step in these tests.
pub const T: Duration = Duration::from_millis(800);
/// What a step may take beyond its limit.
pub const SLACK: Duration = Duration::from_millis(500);

/// Times and descriptors are the process's, so these tests run one after the other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Descriptors but those of tokio's runtimes, of which tests that wait for their turn have one each.
pub fn open_files() -> usize {
    let unix = std::fs::read_to_string("/proc/self/net/unix").unwrap();
    let unix: Vec<_> = unix.lines().filter_map(|l| l.split_whitespace().nth(6)).collect();
    let counts = |link: &str| match link.strip_prefix("socket:[").and_then(|l| l.strip_suffix(']')) {
        Some(inode) => !unix.contains(&inode),
        None => !link.starts_with("anon_inode:"),
    };
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter_map(|entry| std::fs::read_link(entry.path()).ok()).filter(|link| counts(&link.to_string_lossy())).count()
}

pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// How the stack is put together.
pub struct Setup {
    pub server: ServerBuilder,
    pub connector: GuardedConnectorBuilder,
    pub in_flight: usize,
    pub upstream: fn(UpstreamBuilder) -> UpstreamBuilder,
    pub service: fn(ProxyServiceBuilder) -> ProxyServiceBuilder,
    pub total: Option<Duration>,
    pub audit: ChannelSink,
    /// Also a forward proxy: takes `CONNECT`.
    pub forward: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            server: Server::builder(),
            connector: GuardedConnector::builder().connect_timeout(T).dns_timeout(T),
            in_flight: usize::MAX,
            upstream: |b| b.header_timeout(T).idle_timeout(T).pool(64, 256, Duration::from_millis(400)),
            service: |b| b.stream_idle_timeout(T).tunnel_idle_timeout(T),
            total: None,
            audit: ChannelSink::new(1).0,
            forward: false,
        }
    }
}

/// The whole stack on a socket.
pub struct Stack {
    pub addr: SocketAddr,
    pub server: Server,
    pub permits: ConcurrencyLimitHandle,
    pub upstream: Upstream,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

impl Stack {
    pub async fn start(setup: Setup) -> Self {
        let exception = Exception::any_host(["127.0.0.0/8"]).unwrap();
        let policy = PolicyHandle::new(EgressPolicy::builder().with_exception(exception).build().unwrap());
        let server = setup.server.build();
        let tunnels = server.tunnels();
        let upstream = (setup.upstream)(Upstream::builder(policy.clone(), setup.connector.build().unwrap())).build();
        let proxy =
            ProxyService::builder(upstream.clone()).shutdown(server.shutdown_signal()).track_tunnels(move || tunnels.track());
        let in_flight = ConcurrencyLimitLayer::new().total(setup.in_flight);
        let permits = in_flight.handle();
        let prefix = PathPrefix::new("/proxy/").unwrap();
        let target = move |request: &mut http::request::Parts, parser: &TargetParser| match request.method {
            http::Method::CONNECT if setup.forward => Connect.extract(request, parser),
            _ => prefix.extract(request, parser),
        };
        let service = ServiceBuilder::new()
            .layer(AuditLayer::new(setup.audit))
            .layer(RequestHeadLayer::new())
            .layer(if setup.forward { RequestLineLayer::forward_proxy() } else { RequestLineLayer::origin() })
            .layer(ClientAddrLayer::connection())
            .layer(TotalTimeoutLayer::new(setup.total))
            .layer(in_flight)
            .layer(BodyLimitLayer::new(64 << 20))
            .layer(TargetLayer::new(target))
            .layer(ResponseLimitLayer::new(64 << 20))
            .layer(SsrfGuardLayer::new(policy))
            .service((setup.service)(proxy).build());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = server.clone();
        let task = tokio::spawn(async move {
            running
                .serve(listener, service, async {
                    let _ = stopped.await;
                })
                .await
        });
        Self { addr, server, permits, upstream, stop: Some(stop), task }
    }

    pub async fn connect(&self) -> Wire {
        Wire::connect(self.addr).await
    }

    /// Begins the drain.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until the drain is over.
    pub async fn ended(&mut self) -> Drained {
        soon("the drain", &mut self.task).await.unwrap()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.server.shut_down();
    }
}
