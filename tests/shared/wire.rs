//! Connections read and written as bytes, and targets that treat them as they are told. Several test programs include this file.
#![allow(dead_code, reason = "each program uses a part of it")]

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// A test that hangs fails here.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// Waits for a condition that nothing tells about.
pub async fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A request or a response, and how the wait for it ended.
#[derive(Debug, Default)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
    /// The body came to the end that its framing says.
    pub complete: bool,
}

impl Message {
    /// 0 where no head came.
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

/// A WebSocket handshake for a target.
pub fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

type Log = Arc<Mutex<Vec<u8>>>;

/// One end of a connection.
pub struct Wire {
    pub stream: TcpStream,
    pub buf: Vec<u8>,
    /// How many connections its target took before this one.
    pub index: usize,
    log: Option<Log>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buf: Vec::new(), index: 0, log: None }
    }

    pub async fn connect(addr: SocketAddr) -> Self {
        assert!(addr.ip().is_loopback());
        Self::new(TcpStream::connect(addr).await.unwrap())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    pub async fn get(&mut self, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n")).await;
        self.response().await
    }

    /// Reads more; false at the end of the stream or on a reset.
    pub async fn fill(&mut self) -> bool {
        let mut piece = vec![0; 16 * 1024];
        match soon("a read", self.stream.read(&mut piece)).await {
            Ok(n) if n > 0 => {
                self.buf.extend_from_slice(&piece[..n]);
                if let Some(log) = &self.log {
                    log.lock().unwrap().extend_from_slice(&piece[..n]);
                }
                true
            }
            _ => false,
        }
    }

    /// Waits until the other end has gone; what it says until then is in `buf`.
    pub async fn gone(&mut self) {
        while self.fill().await {}
    }

    /// Sends everything back until the other end has gone.
    pub async fn echo(&mut self) {
        loop {
            let piece = std::mem::take(&mut self.buf);
            self.send(piece).await;
            if !self.fill().await {
                return;
            }
        }
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub async fn head(&mut self) -> Option<String> {
        self.take_until(b"\r\n\r\n").await
    }

    async fn line(&mut self) -> Option<String> {
        self.take_until(b"\r\n").await
    }

    /// What stands before an end, which goes with it.
    async fn take_until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.buf.windows(end.len()).position(|w| w == end) {
                let text = String::from_utf8_lossy(&self.buf[..at]).into_owned();
                self.buf.drain(..at + end.len());
                return Some(text);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// A whole request, framed by `Content-Length` or chunks.
    pub async fn request(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let (body, complete) = self.body(&head, false).await;
        complete.then_some(Message { head, body, complete })
    }

    /// A response to a method that has a body; after a `101` everything until the end of the stream.
    pub async fn response(&mut self) -> Message {
        let Some(head) = self.head().await else { return Message::default() };
        let answer = Message { head, body: Vec::new(), complete: true };
        let (body, complete) = match answer.status() {
            101 => (self.rest().await, true),
            100..200 | 204 | 304 => return answer,
            _ => self.body(&answer.head, true).await,
        };
        Message { body, complete, ..answer }
    }

    async fn rest(&mut self) -> Vec<u8> {
        self.gone().await;
        std::mem::take(&mut self.buf)
    }

    async fn body(&mut self, head: &str, until_close: bool) -> (Vec<u8>, bool) {
        if field(head, "transfer-encoding").is_some() {
            return self.chunked().await;
        }
        let Some(length) = field(head, "content-length").and_then(|v| v.parse().ok()) else {
            return (if until_close { self.rest().await } else { Vec::new() }, true);
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
            let Ok(size) = usize::from_str_radix(line.trim(), 16) else { return (out, false) };
            if size == 0 {
                loop {
                    match self.line().await {
                        None => return (out, false),
                        Some(line) if line.is_empty() => return (out, true),
                        Some(line) => out.extend_from_slice(format!("[{line}]").as_bytes()),
                    }
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
}

/// A target that treats every connection with a closure.
pub struct Target {
    pub addr: SocketAddr,
    /// How many connections are open.
    pub open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    seen: Option<Log>,
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
        Self::start(None, handle).await
    }

    /// One that keeps every byte it receives.
    pub async fn recording<F, Fut>(handle: F) -> Self
    where
        F: Fn(Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::start(Some(Log::default()), handle).await
    }

    /// One that answers every request with the same bytes, and keeps what it receives.
    pub async fn fixed(answer: &'static [u8]) -> Self {
        Self::recording(move |mut wire| async move {
            while wire.request().await.is_some() {
                wire.send(answer).await;
            }
        })
        .await
    }

    async fn start<F, Fut>(seen: Option<Log>, handle: F) -> Self
    where
        F: Fn(Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (open, accepted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (now, ever, log) = (open.clone(), accepted.clone(), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                now.fetch_add(1, Ordering::SeqCst);
                let guard = Open(now.clone());
                let index = ever.fetch_add(1, Ordering::SeqCst);
                let handled = handle(Wire { stream, buf: Vec::new(), index, log: log.clone() });
                tokio::spawn(async move {
                    handled.await;
                    drop(guard);
                });
            }
        });
        Self { addr, open, accepted, seen, task: task.abort_handle() }
    }

    /// Where a proxy with the target in its path finds it.
    pub fn path(&self, path: &str) -> String {
        format!("/proxy/http://{}{path}", self.addr)
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many connections there were.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// What a recording target has received.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen_bytes()).into_owned()
    }

    pub fn seen_bytes(&self) -> Vec<u8> {
        self.seen.as_ref().unwrap().lock().unwrap().clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}
