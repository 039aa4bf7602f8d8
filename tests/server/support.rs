//! The server as a child process, upstreams on loopback, and a plain HTTP client.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::process::{Child, Command};

/// The token that every test's server knows.
pub const TOKEN: &str = "test-token-0123456789abcdef-0123456789abcdef";
/// Its SHA-256.
pub fn token_hash() -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(TOKEN).iter().map(|b| format!("{b:02x}")).collect()
}

/// The tables that most tests want: one token, no limits on rates, denials at once.
pub fn usual(exceptions: &[SocketAddr]) -> String {
    let mut text = format!("[[token]]\nid = \"test\"\nsha256 = \"{}\"\nrate = \"off\"\n", token_hash());
    text.push_str("[rate_limit]\nper_client = \"off\"\nper_token = \"off\"\n[egress]\ndenial_floor = \"0ms\"\n");
    for addr in exceptions {
        text.push_str(&format!("[[egress.exception]]\ncidrs = [\"{}/32\"]\nports = [{}]\n", addr.ip(), addr.port()));
    }
    text
}

/// Where `cargo test` puts examples, seen from the test's own program.
pub fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push(format!("examples/mcp_proxy{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} is missing: build it with `cargo build --example mcp_proxy`", path.display());
    path
}

/// A file that goes away with the test.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(text: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("portcullis-{}-{}.toml", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A running server.
pub struct Proxy {
    pub addr: SocketAddr,
    pub child: Child,
    pub stderr: Arc<Mutex<String>>,
    pub stdout: Arc<Mutex<String>>,
    pub config: TempFile,
    readers: [JoinHandle<()>; 2],
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env_remove("PROXY_TOKEN").env_remove("HOST").env_remove("PORT");
    command
}

impl Proxy {
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, &[], &[]).await
    }

    pub async fn start_with(config: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let config = TempFile::new(config);
        let mut all = vec!["--config", config.0.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        all.extend(args);
        let mut child = command(&all).envs(env.iter().copied()).spawn().unwrap();
        let (stderr, stdout) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = Arc::clone(&stdout);
        let listener = tokio::spawn(async move {
            while let Ok(Some(line)) = out.next_line().await {
                let mut seen = seen.lock().unwrap();
                seen.push_str(&line);
                seen.push('\n');
            }
        });
        let (seen, told) = (Arc::clone(&stderr), Arc::new(tokio::sync::Notify::new()));
        let tell = Arc::clone(&told);
        let other = tokio::spawn(async move {
            while let Ok(Some(line)) = err.next_line().await {
                let mut seen = seen.lock().unwrap();
                seen.push_str(&line);
                seen.push('\n');
                tell.notify_one();
            }
            tell.notify_one();
        });
        let wait = async {
            loop {
                if let Some(addr) = listening(&stderr.lock().unwrap()) {
                    return addr;
                }
                told.notified().await;
                if let Ok(Some(status)) = child.try_wait() {
                    panic!("ended with {status}: {}", stderr.lock().unwrap());
                }
            }
        };
        let addr = timeout(Duration::from_secs(20), wait).await.expect("the server does not say that it listens");
        Self { addr, child, stderr, stdout, config, readers: [listener, other] }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// A request with the token and the right Host.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("host", self.addr.to_string()).header("x-proxy-token", TOKEN)
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        send(self.addr, request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::read(self.send(self.request("GET", path).body(Full::default()).unwrap()).await).await
    }

    pub async fn post_json(&self, path: &str, body: &serde_json::Value) -> Answer {
        let request = self.request("POST", path).header("content-type", "application/json");
        let request = request.header("accept", "application/json, text/event-stream").body(Full::from(body.to_string())).unwrap();
        Answer::read(self.send(request).await).await
    }

    /// The fields that a raw request needs besides.
    pub fn fields(&self) -> String {
        format!("Host: {}\r\nX-Proxy-Token: {TOKEN}\r\n", self.addr)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.child.signal("-TERM");
    }

    /// Waits until the process has ended and everything it said is known.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let status = timeout(Duration::from_secs(20), self.child.wait()).await.expect("it does not end").unwrap();
        for reader in &mut self.readers {
            timeout(Duration::from_secs(20), reader).await.expect("its output does not end").unwrap();
        }
        status
    }

    /// Waits until standard error holds a text.
    pub async fn said(&self, text: &str) {
        let wait = async {
            while !self.stderr.lock().unwrap().contains(text) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(10), wait).await.is_ok(), "never said `{text}`: {}", self.stderr.lock().unwrap());
    }
}

fn listening(stderr: &str) -> Option<SocketAddr> {
    let line = stderr.lines().find_map(|l| l.split_once("listening on http"))?.1;
    let line = line.split_once("://")?.1;
    line.split_whitespace().next()?.trim_end_matches('/').parse().ok()
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn read(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = timeout(Duration::from_secs(10), body.collect()).await.expect("no end of the answer").unwrap().to_bytes();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
}

/// One request on a connection of its own.
pub async fn send(addr: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    timeout(Duration::from_secs(10), sender.send_request(request)).await.expect("no answer").unwrap()
}

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// An HTTP/1.1 server on loopback; its connections are counted.
pub struct Upstream {
    pub addr: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::bind("127.0.0.1:0", answer).await
    }

    pub async fn bind<F, Fut>(addr: &str, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let answer = answer(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { addr, connections }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn connected(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A TCP server that notes every byte and answers each connection's first request head with fixed bytes.
pub struct RawUpstream {
    pub addr: SocketAddr,
    pub seen: Arc<Mutex<Vec<u8>>>,
}

impl RawUpstream {
    pub async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    let (mut buf, mut head, mut answered) = (vec![0; 65536], Vec::new(), false);
                    while let Ok(n @ 1..) = stream.read(&mut buf).await {
                        log.lock().unwrap().extend_from_slice(&buf[..n]);
                        head.extend_from_slice(&buf[..n]);
                        if !answered && head.windows(4).any(|w| w == b"\r\n\r\n") {
                            answered = true;
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { addr, seen }
    }

    pub fn contains(&self, text: &str) -> bool {
        self.seen.lock().unwrap().windows(text.len()).any(|w| w == text.as_bytes())
    }
}
