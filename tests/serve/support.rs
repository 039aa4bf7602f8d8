//! A server on loopback with the tests' application, and readers for its answers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper_util::rt::TokioIo;
use portcullis::{
    context::RequestContext,
    serve::{BodyError, Drained, RequestBody, Server, ServerBuilder},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

pub type Body = BoxBody<Bytes, Infallible>;

pub struct Running {
    pub addr: SocketAddr,
    /// Requests that have reached the application.
    pub asked: Arc<AtomicUsize>,
    pub server: Server,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<Drained>,
}

impl Running {
    pub async fn start(builder: ServerBuilder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = builder.build();
        let (stop, stopped) = oneshot::channel::<()>();
        let signal = server.shutdown_signal();
        let tunnels = server.tunnels();
        let asked = Arc::<AtomicUsize>::default();
        let count = asked.clone();
        let service = tower::service_fn(move |request| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(request, signal.clone(), tunnels.clone())
        });
        let task = tokio::spawn({
            let server = server.clone();
            async move {
                server
                    .serve(listener, service, async {
                        let _ = stopped.await;
                    })
                    .await
            }
        });
        Self { addr, asked, server, stop: Some(stop), task }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !condition(self) {
            assert!(started.elapsed() < Duration::from_secs(10), "{what}: {:?}", self.server.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// The test's application.
pub async fn answer(
    request: Request<RequestBody>,
    mut signal: portcullis::signal::Signal,
    tunnels: portcullis::serve::Tunnels,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let response = match path.as_str() {
        "/peer" => {
            let peer = RequestContext::of(request.extensions()).and_then(|c| c.connection()).unwrap().peer();
            Response::new(full(peer.to_string()))
        }
        "/certs" => {
            let connection = RequestContext::of(request.extensions()).and_then(|c| c.connection()).unwrap();
            assert!(connection.is_tls());
            Response::new(full(connection.client_certs().map_or(0, <[_]>::len).to_string()))
        }
        // An early refusal: the body is not looked at.
        "/413" => Response::builder().status(413).body(full("too large")).unwrap(),
        "/echo" => match request.into_body().collect().await {
            Ok(body) => Response::new(full(body.to_bytes())),
            Err(error) => {
                let error: BodyError = error;
                Response::builder().status(error.rejection().status()).body(full(error.to_string())).unwrap()
            }
        },
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Response::new(full("done"))
        }
        "/big" => {
            let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
            let frames = (0..1024).map(move |_| Ok::<_, Infallible>(http_body::Frame::data(chunk.clone())));
            Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed())
        }
        "/late" => {
            let many = std::iter::repeat_n(Bytes::from(vec![b'x'; 64 * 1024]), 128);
            let many = futures_util::stream::iter(many.map(|chunk| Ok::<_, Infallible>(http_body::Frame::data(chunk))));
            let last = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Ok(http_body::Frame::data(Bytes::from("last words")))
            });
            Response::new(StreamBody::new(futures_util::StreamExt::chain(many, last)).boxed())
        }
        "/events" => {
            let first = futures_util::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(Bytes::from("data: 1\n\n")))]);
            let rest = futures_util::stream::pending();
            let body = StreamBody::new(futures_util::StreamExt::chain(first, rest)).boxed();
            Response::builder().header("content-type", "text/event-stream; charset=utf-8").body(body).unwrap()
        }
        "/tunnel" => {
            let upgrade = hyper::upgrade::on(request);
            let guard = tunnels.track();
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut buf = [0; 64];
                loop {
                    tokio::select! {
                        n = io.read(&mut buf) => match n {
                            Ok(n) if n > 0 => io.write_all(&buf[..n]).await.unwrap(),
                            _ => break,
                        },
                        reason = signal.fired() => {
                            io.write_all(reason.websocket_code().to_string().as_bytes()).await.unwrap();
                            io.shutdown().await.unwrap();
                            break;
                        }
                    }
                }
                drop(guard);
            });
            Response::builder().status(101).header("upgrade", "echo").header("connection", "upgrade").body(full("")).unwrap()
        }
        _ => Response::new(full("hello")),
    };
    Ok(response)
}

pub async fn read_to_end(stream: &mut TcpStream) -> (String, std::io::Result<usize>) {
    let mut bytes = Vec::new();
    let result = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("closed in time");
    (String::from_utf8_lossy(&bytes).into_owned(), result)
}

/// Reads one response with a Content-Length.
pub async fn read_response(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk)).await.expect("answered").unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let Some(length) = head.lines().find_map(|l| l.strip_prefix("content-length: ")) else { return text };
        if body.len() >= length.trim().parse::<usize>().unwrap() {
            return text;
        }
    }
}

pub fn short() -> ServerBuilder {
    Server::builder()
        .header_timeout(Duration::from_millis(500))
        .keep_alive(Duration::from_millis(800))
        .body_idle_timeout(Duration::from_millis(500))
        .write_idle_timeout(Duration::from_millis(500))
        .linger(Duration::from_millis(300))
        .drain(Duration::from_secs(2))
}
