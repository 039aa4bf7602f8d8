//! A raw origin, a raw client, and the service between them on real sockets.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis::{
    context::{CloseRecord, Record, RecordHandle, RequestContext},
    egress::{EgressPolicy, Exception, PolicyHandle},
    net::{Target, TargetStyle},
    proxy::{ProxyBody, ProxyService},
    rejection::{Rejection, RejectionKind},
    tokens::Principal,
    upstream::Upstream,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

/// Everything ends long before that; a test that hangs fails here.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// An origin that treats each connection with a closure and keeps every byte it receives.
pub struct Origin {
    pub addr: SocketAddr,
    pub seen: Arc<Mutex<Vec<u8>>>,
    pub connections: Arc<AtomicUsize>,
}

impl Origin {
    pub async fn new<F, Fut>(handle: F) -> Self
    where
        F: Fn(usize, Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let handle = Arc::new(handle);
        let (seen2, connections2) = (seen.clone(), connections.clone());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let index = connections2.fetch_add(1, Ordering::SeqCst);
                let (handle, wire) = (handle.clone(), Wire { stream, buf: Vec::new(), seen: Some(seen2.clone()) });
                tokio::spawn(async move { handle(index, wire).await });
            }
        });
        Self { addr, seen, connections }
    }

    /// Answers every request on every connection with the same bytes.
    pub async fn fixed(answer: &'static [u8]) -> Self {
        Self::new(move |_, mut wire| async move {
            while wire.request().await.is_some() {
                wire.send(answer).await;
            }
        })
        .await
    }

    pub fn url(&self, path: &str) -> String {
        format!("/proxy/http://{}{path}", self.addr)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

/// One end of a connection, read and written as bytes.
pub struct Wire {
    pub stream: TcpStream,
    pub buf: Vec<u8>,
    seen: Option<Arc<Mutex<Vec<u8>>>>,
}

#[derive(Debug)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
    /// The body came to its end as its framing says.
    pub complete: bool,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

impl Wire {
    pub async fn connect(addr: SocketAddr) -> Self {
        assert!(addr.ip().is_loopback());
        Self { stream: TcpStream::connect(addr).await.unwrap(), buf: Vec::new(), seen: None }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads more; false at the end of the stream or on a reset.
    pub async fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        match soon("a read", self.stream.read(&mut piece)).await {
            Ok(n) if n > 0 => {
                self.buf.extend_from_slice(&piece[..n]);
                if let Some(seen) = &self.seen {
                    seen.lock().unwrap().extend_from_slice(&piece[..n]);
                }
                true
            }
            _ => false,
        }
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

    async fn body(&mut self, head: &str, until_close: bool) -> (Vec<u8>, bool) {
        let field = |name: &str| {
            head.lines().skip(1).find_map(|l| {
                let (n, v) = l.split_once(':')?;
                n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
            })
        };
        if field("transfer-encoding").is_some() {
            return self.chunked().await;
        }
        let Some(length) = field("content-length").and_then(|v| v.parse::<usize>().ok()) else {
            if until_close {
                while self.fill().await {}
                return (std::mem::take(&mut self.buf), true);
            }
            return (Vec::new(), true);
        };
        while self.buf.len() < length {
            if !self.fill().await {
                return (std::mem::take(&mut self.buf), false);
            }
        }
        (self.buf.drain(..length).collect(), true)
    }

    /// Chunks, with their trailer section appended as it is.
    async fn chunked(&mut self) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        loop {
            let Some(line) = self.line().await else { return (out, false) };
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            if size == 0 {
                loop {
                    let Some(line) = self.line().await else { return (out, false) };
                    if line.is_empty() {
                        return (out, true);
                    }
                    out.extend_from_slice(format!("[{line}]").as_bytes());
                }
            }
            while self.buf.len() < size + 2 {
                if !self.fill().await {
                    return (out, false);
                }
            }
            out.extend(self.buf.drain(..size));
            self.buf.drain(..2);
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

    /// A whole request.
    pub async fn request(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let (body, complete) = self.body(&head, false).await;
        Some(Message { head, body, complete })
    }

    /// A whole response to a method that has a body.
    pub async fn response(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status < 200 || matches!(status, 204 | 304) {
            return Some(Message { head, body: Vec::new(), complete: true });
        }
        let (body, complete) = self.body(&head, true).await;
        Some(Message { head, body, complete })
    }

    /// Waits until the other end has gone.
    pub async fn gone(&mut self) {
        while self.fill().await {}
    }
}

/// The service behind a plain hyper server, its target read from the path.
pub struct Proxy {
    pub addr: SocketAddr,
    pub policy: PolicyHandle,
    pub upstream: Upstream,
    pub records: Arc<Records>,
}

/// The records of what has ended.
#[derive(Default)]
pub struct Records(Mutex<Vec<Record>>);

impl CloseRecord for Records {
    fn close(&self, record: &mut Record) {
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Records {
    pub async fn next(&self) -> Record {
        soon("a record", async {
            loop {
                if let Some(record) = self.0.lock().unwrap().pop() {
                    return record;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

pub fn policy() -> EgressPolicy {
    EgressPolicy::builder().with_exception(Exception::any_host(["127.0.0.1/32"]).unwrap()).build().unwrap()
}

impl Proxy {
    pub async fn new() -> Self {
        Self::with(|b| b, |b| b).await
    }

    pub async fn with(
        upstream: impl FnOnce(portcullis::upstream::UpstreamBuilder) -> portcullis::upstream::UpstreamBuilder,
        service: impl FnOnce(portcullis::proxy::ProxyServiceBuilder) -> portcullis::proxy::ProxyServiceBuilder,
    ) -> Self {
        let policy = PolicyHandle::new(policy());
        let upstream = upstream(Upstream::builder(policy.clone(), crate::connector())).build();
        let service = service(ProxyService::builder(upstream.clone())).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (handle, records) = (policy.clone(), Arc::<Records>::default());
        let kept = records.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = listener.accept().await else { return };
                let (service, handle, records) = (service.clone(), handle.clone(), records.clone());
                let respond = service_fn(move |mut request: Request<Incoming>| {
                    let (service, handle) = (service.clone(), handle.clone());
                    let record = RecordHandle::closing(Record::default(), records.clone());
                    RequestContext::of_mut(request.extensions_mut()).set_record(record);
                    async move { Ok::<_, Infallible>(respond(request, peer, service, handle).await) }
                });
                tokio::spawn(async move {
                    let mut server = hyper::server::conn::http1::Builder::new();
                    server.timer(TokioTimer::new());
                    let _ = server.serve_connection(TokioIo::new(stream), respond).with_upgrades().await;
                });
            }
        });
        Self { addr, policy, upstream, records: kept }
    }

    /// Behind the hardened server, which looks at framing by the letter.
    pub async fn hardened() -> Self {
        let policy = PolicyHandle::new(policy());
        let upstream = Upstream::builder(policy.clone(), crate::connector()).build();
        let service = ProxyService::new(upstream.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let handle = policy.clone();
        let respond = tower::service_fn(move |request: Request<portcullis::serve::RequestBody>| {
            let (service, handle) = (service.clone(), handle.clone());
            async move { Ok::<_, Infallible>(respond(request, addr, service, handle).await) }
        });
        let stack = tower::ServiceBuilder::new().layer(portcullis::request_head::RequestHeadLayer::new()).service(respond);
        let server = portcullis::serve::Server::builder().build();
        tokio::spawn(async move { server.serve(listener, stack, std::future::pending()).await });
        Self { addr, policy, upstream, records: Arc::default() }
    }

    pub async fn client(&self) -> Wire {
        Wire::connect(self.addr).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Message {
        let mut client = self.client().await;
        client.send(request).await;
        client.response().await.unwrap_or(Message { head: String::new(), body: Vec::new(), complete: false })
    }

    pub async fn get(&self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n")).await
    }
}

async fn respond<B>(mut request: Request<B>, peer: SocketAddr, service: ProxyService, policy: PolicyHandle) -> Response<ProxyBody>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let line = request.uri().to_string();
    let target = if request.method() == http::Method::CONNECT {
        Target::parse_connect(&line).map(|t| t.with_style(TargetStyle::Connect))
    } else if let Some(url) = line.strip_prefix("/proxy/") {
        Target::parse(url).map(|t| t.with_style(TargetStyle::Path))
    } else if let Some(url) = line.strip_prefix("/fixed/") {
        Target::parse(url).map(|t| t.with_style(TargetStyle::Fixed))
    } else {
        Target::parse(&line).map(|t| t.with_style(TargetStyle::AbsoluteForm))
    };
    let permit = target.as_ref().ok().and_then(|t| policy.permit(t).ok());
    let tenant = request.headers_mut().remove("x-tenant");
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_client(portcullis::context::ClientAddr::new(peer.ip(), peer, false));
    if let Some(tenant) = tenant {
        context.set_principal(Principal::new(tenant.to_str().unwrap()));
    }
    match (target, permit) {
        (Ok(target), Some(permit)) => {
            context.set_target(target);
            context.set_permit(permit);
        }
        (Ok(_), None) => return Rejection::new(RejectionKind::Denied).into_response(),
        (Err(_), _) => return Rejection::new(RejectionKind::MalformedTarget).into_response(),
    }
    service.oneshot(request).await.unwrap()
}
