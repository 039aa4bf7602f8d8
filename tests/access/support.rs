//! A whole stack on a loopback socket in front of an origin that keeps every byte it is sent.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    audit::{AuditLayer, ChannelSink, JsonFormat},
    client_addr::ClientAddrLayer,
    client_allow::{ClientAllowLayer, ClientNetworks},
    client_cert::{CertRule, ClientCertLayer},
    connect::GuardedConnector,
    egress::{EgressPolicy, Exception, PolicyHandle},
    mcp_session::McpSessionLayer,
    net::Target,
    proxy::ProxyService,
    proxy_token::{ProxyTokenLayer, TokenSource},
    serve::{Server, Tls},
    ssrf_guard::SsrfGuardLayer,
    stores::{MemorySessions, MemoryTickets},
    target::{PathPrefix, TargetLayer},
    token_scope::TokenScopeLayer,
    tokens::{StaticTokens, TokenHasher, TokenRecord, TokenScopes},
    upstream::Upstream,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tower::ServiceBuilder;

/// Everything ends long before that; a test that hangs fails here.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the whole process logs, down to the frames of HTTP/2.
static LOG: LazyLock<Kept> = LazyLock::new(|| {
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    subscriber.with_ansi(false).init();
    kept
});

/// A stream that keeps what is read from it.
struct Recorded(TcpStream, Kept);

impl AsyncRead for Recorded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.0).poll_read(cx, buf);
        self.1.add(&buf.filled()[before..]);
        poll
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// An origin that accepts `WebSockets` on `/ws`, streams events on `/events`, issues a session on `/session`, and echoes the rest.
async fn origin() -> (SocketAddr, Kept) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, kept) = (listener.local_addr().unwrap(), Kept::default());
    let seen = kept.clone();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let io = TokioIo::new(Recorded(stream, seen.clone()));
            tokio::spawn(async move {
                let service = hyper::service::service_fn(answer);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
            });
        }
    });
    (addr, kept)
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let full = |bytes: Bytes| Full::new(bytes).boxed();
    let mut response = match request.uri().path() {
        "/ws" => {
            let key = request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes();
            let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key);
            let protocol = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned();
            tokio::spawn(async move {
                let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
                let _ = TokioIo::new(upgraded).read_to_end(&mut Vec::new()).await;
            });
            let mut response = Response::new(full(Bytes::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
            headers.insert(header::UPGRADE, "websocket".parse().unwrap());
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
            if let Some(protocol) = protocol {
                let first = protocol.to_str().unwrap().split(',').next().unwrap().trim().to_owned();
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, first.parse().unwrap());
            }
            return Ok(response);
        }
        "/events" => {
            let first = futures_util::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(Bytes::from("data: 1\n\n")))]);
            let body = StreamBody::new(futures_util::StreamExt::chain(first, futures_util::stream::pending())).boxed();
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
            return Ok(response);
        }
        "/session" => {
            let mut response = Response::new(full(Bytes::from("session")));
            response.headers_mut().insert("mcp-session-id", "the-session".parse().unwrap());
            response
        }
        _ => Response::new(full(Bytes::from("origin says "))),
    };
    if let Ok(body) = request.into_body().collect().await {
        let echoed = [&b"origin says "[..], &body.to_bytes()].concat();
        *response.body_mut() = full(echoed.into());
    }
    Ok(response)
}

/// A stack, and what there is to know about it.
pub struct House {
    pub addr: SocketAddr,
    pub origin: SocketAddr,
    pub seen: Kept,
    pub audit: Kept,
    pub tokens: Arc<StaticTokens>,
    pub tickets: MemoryTickets,
}

/// What differs between tests.
pub struct Plan {
    pub records: Vec<TokenRecord>,
    pub sources: Vec<TokenSource>,
    pub tls: Option<Tls>,
    pub certs: Vec<CertRule>,
    pub tokens: fn(ProxyTokenLayer<Arc<StaticTokens>>) -> ProxyTokenLayer<Arc<StaticTokens>>,
    pub networks: &'static [&'static str],
    pub trusted: &'static [&'static str],
}

impl Plan {
    pub fn new(records: impl IntoIterator<Item = TokenRecord>) -> Self {
        Self {
            records: records.into_iter().collect(),
            sources: vec![
                TokenSource::header("x-proxy-token").unwrap(),
                TokenSource::query("proxy_token").unwrap().on_upgrades_and_event_streams(),
                TokenSource::proxy_authorization(),
                TokenSource::websocket_protocol(),
                TokenSource::ticket("ticket").unwrap(),
            ],
            tls: None,
            certs: Vec::new(),
            tokens: |layer| layer,
            networks: &[],
            trusted: &[],
        }
    }

    pub async fn build(self) -> House {
        LazyLock::force(&LOG);
        tracing::trace!("a house is built");
        let (origin, seen) = origin().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tokens = Arc::new(StaticTokens::new(TokenHasher::plain(), self.records).unwrap());
        let tickets = MemoryTickets::bounded(100);
        let policy = EgressPolicy::builder().with_exception(Exception::any_host(["127.0.0.1/32"]).unwrap()).build().unwrap();
        let policy = PolicyHandle::new(policy);
        let (sink, mut records) = ChannelSink::new(10_000);
        let audit = Kept::default();
        let lines = audit.clone();
        tokio::spawn(async move {
            while let Some(record) = records.recv().await {
                let mut line = Vec::new();
                JsonFormat::new().write(&record, &mut line);
                lines.add(&line);
            }
        });
        let mut server = Server::builder();
        if let Some(tls) = self.tls {
            server = server.tls(tls);
        }
        let server = server.build();
        let tunnels = server.tunnels();
        let upstream = Upstream::builder(policy.clone(), GuardedConnector::builder().build().unwrap()).build();
        let proxy = ProxyService::builder(upstream).track_tunnels(move || tunnels.track()).build();
        let token_layer = ProxyTokenLayer::new(Arc::clone(&tokens)).sources(self.sources).tickets(tickets.clone());
        let stack = ServiceBuilder::new()
            .layer(AuditLayer::new(sink))
            .layer(ClientAddrLayer::connection().trust(self.trusted.iter().copied()).unwrap())
            .layer(ClientAllowLayer::new(ClientNetworks::new(self.networks.iter().copied()).unwrap()))
            .layer(ClientCertLayer::new(self.certs))
            .layer((self.tokens)(token_layer))
            .layer(TargetLayer::new(PathPrefix::new("/proxy/").unwrap()))
            .layer(TokenScopeLayer::new())
            .layer(McpSessionLayer::new(MemorySessions::bounded(100)))
            .layer(SsrfGuardLayer::new(policy))
            .service(proxy);
        tokio::spawn(async move { server.serve(listener, stack, std::future::pending()).await });
        House { addr, origin, seen, audit, tokens, tickets }
    }
}

/// A record with this token, restricted to nothing.
pub fn record(id: &str, token: &str) -> TokenRecord {
    TokenRecord::new(id).unwrap().with_hash(TokenHasher::plain().hash(token).unwrap()).unwrap()
}

pub fn scoped(id: &str, token: &str, scopes: TokenScopes) -> TokenRecord {
    record(id, token).with_scopes(scopes)
}

/// A token of this test's own.
pub fn token() -> String {
    portcullis::tokens::generate("pcl").unwrap().secret.expose().to_owned()
}

pub fn carrier(token: &str) -> String {
    format!("base64url.bearer.authorization.portcullis.{}", BASE64_URL_SAFE_NO_PAD.encode(token))
}

pub fn basic(token: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("user:{token}")))
}

/// The fields of a WebSocket handshake.
pub const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl House {
    /// The request path of a target path at the origin.
    pub fn to(&self, path: &str) -> String {
        format!("/proxy/http://{}{path}", self.origin)
    }

    pub fn target(&self, path: &str) -> Target {
        Target::parse(&format!("http://{}{path}", self.origin)).unwrap()
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&self, line: &str, fields: &str, body: &str) -> Answer {
        ask_on(self.connect().await, line, fields, body).await
    }

    pub async fn get(&self, path: &str, fields: &str) -> Answer {
        self.ask(&format!("GET {}", self.to(path)), fields, "").await
    }

    pub async fn post(&self, path: &str, fields: &str, body: &str) -> Answer {
        self.ask(&format!("POST {}", self.to(path)), fields, body).await
    }

    /// Opens a stream (a tunnel, or an event stream) and reads the answer's head.
    pub async fn open(&self, path_and_query: &str, fields: &str) -> (String, TcpStream) {
        let mut stream = self.connect().await;
        let head = format!("GET {} HTTP/1.1\r\nHost: proxy\r\n{fields}\r\n", self.to(path_and_query));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(soon("a head", stream.read(&mut byte)).await.unwrap(), 1, "{}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        (String::from_utf8(read).unwrap(), stream)
    }

    /// Waits for an audit line that has this in it.
    pub async fn audited(&self, what: &str) -> String {
        soon(what, async {
            loop {
                if let Some(line) = self.audit.text().lines().find(|l| l.contains(what)) {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// None of the tokens, in any of the forms in which it travels, is anywhere but where it was sent.
    pub fn assert_unseen(&self, tokens: &[&str]) {
        let places = [("origin", self.seen.text()), ("audit", self.audit.text()), ("log", LOG.text())];
        assert!(
            places[1].1.contains("\"status\":") && places[2].1.contains("a house is built"),
            "the places are really looked at"
        );
        for token in tokens {
            // Any alignment of the base64 forms has the token's middle third in one of three spellings.
            let encoded = [0, 1, 2].map(|shift| {
                let inner = BASE64_STANDARD.encode([&b"xx"[..shift], token.as_bytes()].concat());
                inner[4..inner.len() - 4].to_owned()
            });
            for form in encoded.iter().map(String::as_str).chain([*token]) {
                for (place, text) in &places {
                    assert!(!text.contains(form), "the token is in the {place}");
                }
            }
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

pub async fn ask_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str, fields: &str, body: &str) -> Answer {
    // A chunked body brings its own framing.
    let length = if fields.contains("Transfer-Encoding") { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let connection = if fields.contains("Connection: ") { "" } else { "Connection: close\r\n" };
    let head = format!("{line} HTTP/1.1\r\nHost: proxy\r\n{connection}{length}{fields}\r\n{body}");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let _ = soon("an answer", stream.read_to_end(&mut read)).await;
    let text = String::from_utf8_lossy(&read).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A GET over HTTP/2 with prior knowledge.
pub async fn get_h2(addr: SocketAddr, path: &str, token: &str) -> u16 {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://proxy{path}")).header("x-proxy-token", token);
    let response = soon("h2", send.send_request(request.body(Full::<Bytes>::default()).unwrap())).await.unwrap();
    response.status().as_u16()
}
