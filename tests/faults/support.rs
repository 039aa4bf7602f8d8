//! The stack under test, targets that do as they are told, and a client that reads bytes.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

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
    serve::{Builder, Drained, Server},
    ssrf_guard::SsrfGuardLayer,
    target::{Connect, PathPrefix, TargetExtractor as _, TargetLayer, TargetParser},
    total_timeout::TotalTimeoutLayer,
    upstream::{Upstream, UpstreamBuilder},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Mutex, MutexGuard, oneshot},
    task::{AbortHandle, JoinHandle},
};
use tower::ServiceBuilder;

/// The time limit of every step in these tests.
pub const T: Duration = Duration::from_millis(800);
/// What a step may take beyond its limit.
pub const SLACK: Duration = Duration::from_millis(500);
/// A test that hangs fails here.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Times and descriptors are the process's, so these tests run one after the other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

pub async fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
    pub server: Builder,
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

/// A target that treats every connection with a closure.
pub struct Target {
    pub addr: SocketAddr,
    pub open: Arc<AtomicUsize>,
    task: AbortHandle,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Target {
    pub async fn new<F, Fut>(handle: F) -> Self
    where
        F: Fn(Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let count = open.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let guard = Open(count.clone());
                let handled = handle(Wire { stream, buf: Vec::new() });
                tokio::spawn(async move {
                    handled.await;
                    drop(guard);
                });
            }
        });
        Self { addr, open, task: task.abort_handle() }
    }

    pub fn path(&self, path: &str) -> String {
        format!("/proxy/http://{}{path}", self.addr)
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One end of a connection, read and written as bytes.
pub struct Wire {
    pub stream: TcpStream,
    pub buf: Vec<u8>,
}

/// How the wait for an answer ended.
#[derive(Debug, Default)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    /// The body came to the end that its framing says.
    pub complete: bool,
}

impl Seen {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The code of a close frame from the server at the end of what was received.
    pub fn close_code(&self) -> Option<u16> {
        match self.body.as_slice() {
            [.., 0x88, 2, high, low] => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }
}

pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

impl Wire {
    pub async fn connect(addr: SocketAddr) -> Self {
        assert!(addr.ip().is_loopback());
        Self { stream: TcpStream::connect(addr).await.unwrap(), buf: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    pub async fn get(&mut self, path: &str) -> Seen {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n")).await;
        self.response().await
    }

    /// Reads more; false at the end of the stream or on a reset.
    pub async fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece).await {
            Ok(n) if n > 0 => {
                self.buf.extend_from_slice(&piece[..n]);
                true
            }
            _ => false,
        }
    }

    /// Waits until the other end has gone.
    pub async fn gone(&mut self) {
        while self.fill().await {
            self.buf.clear();
        }
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                self.buf.drain(..end + 4);
                return Some(head);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// A request with its body, framed by `Content-Length` or chunks.
    pub async fn request(&mut self) -> Option<Seen> {
        let head = self.head().await?;
        let (body, complete) = self.body(&head).await?;
        Some(Seen { head, body, complete })
    }

    /// A response; after a `101` everything until the end of the stream.
    pub async fn response(&mut self) -> Seen {
        let Some(head) = self.head().await else { return Seen::default() };
        let status = Seen { head: head.clone(), ..Seen::default() }.status();
        if status == 101 {
            while self.fill().await {}
            return Seen { head, body: std::mem::take(&mut self.buf), complete: true };
        }
        match self.body(&head).await {
            Some((body, complete)) => Seen { head, body, complete },
            None => Seen { head, body: std::mem::take(&mut self.buf), complete: false },
        }
    }

    /// `None` if the stream ends too early inside of a body of known length.
    async fn body(&mut self, head: &str) -> Option<(Vec<u8>, bool)> {
        if field(head, "transfer-encoding").is_some() {
            return Some(self.chunked().await);
        }
        let length: usize = field(head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        while self.buf.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        Some((self.buf.drain(..length).collect(), true))
    }

    async fn chunked(&mut self) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        loop {
            let Some(line) = self.line().await else { return (out, false) };
            let Ok(size) = usize::from_str_radix(line.trim(), 16) else { return (out, false) };
            while self.buf.len() < size + 2 {
                if !self.fill().await {
                    return (out, false);
                }
            }
            out.extend(self.buf.drain(..size));
            self.buf.drain(..2);
            if size == 0 {
                return (out, true);
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                self.buf.drain(..end + 2);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }
}

/// A WebSocket handshake for a target.
pub fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}
