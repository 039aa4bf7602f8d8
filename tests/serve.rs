//! The server over real loopback sockets: limits, closes, drain.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    clippy::large_stack_arrays,
    reason = "tests fail by panicking, and measure real time"
)]

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
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    context::RequestContext,
    serve::{BodyError, Builder, Drained, RequestBody, Server},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

type Body = BoxBody<Bytes, Infallible>;

struct Running {
    addr: SocketAddr,
    /// Requests that have reached the application.
    asked: Arc<AtomicUsize>,
    server: Server,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

impl Running {
    async fn start(builder: Builder) -> Self {
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

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !condition(self) {
            assert!(started.elapsed() < Duration::from_secs(10), "{what}: {:?}", self.server.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// The test's application.
async fn answer(
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

async fn read_to_end(stream: &mut TcpStream) -> (String, std::io::Result<usize>) {
    let mut bytes = Vec::new();
    let result = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("closed in time");
    (String::from_utf8_lossy(&bytes).into_owned(), result)
}

/// Reads one response with a Content-Length.
async fn read_response(stream: &mut TcpStream) -> String {
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

fn short() -> Builder {
    Server::builder()
        .header_timeout(Duration::from_millis(500))
        .keep_alive(Duration::from_millis(800))
        .body_idle_timeout(Duration::from_millis(500))
        .write_idle_timeout(Duration::from_millis(500))
        .linger(Duration::from_millis(300))
        .drain(Duration::from_secs(2))
}

#[tokio::test]
async fn http1_keeps_alive_and_knows_its_peer() {
    let server = Running::start(Server::builder()).await;
    let mut stream = server.connect().await;
    let local = stream.local_addr().unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let response = read_response(&mut stream).await;
        assert!(response.starts_with("http/1.1 200") && response.ends_with(&local.to_string()), "{response}");
    }
    assert_eq!(server.server.stats().accepted, 1);
}

#[tokio::test]
async fn http2_by_prior_knowledge() {
    let server = Running::start(Server::builder()).await;
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let requests = (0..50).map(|i| {
        let mut sender = sender.clone();
        async move {
            let body = Bytes::from(format!("body {i}"));
            let request = Request::post("http://a/echo").body(Full::new(body.clone())).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
        }
    });
    futures_util::future::join_all(requests).await;
    sender.ready().await.unwrap();
}

#[tokio::test]
async fn a_client_in_the_middle_of_its_upload_sees_the_early_answer() {
    let server = Running::start(Server::builder()).await;
    for _ in 0..20 {
        let mut stream = server.connect().await;
        stream.write_all(b"POST /413 HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n").await.unwrap();
        let (mut read, mut write) = stream.split();
        let upload = async {
            for _ in 0..30 {
                write.write_all(&[b'x'; 30_000]).await?;
            }
            std::io::Result::Ok(())
        };
        let mut bytes = Vec::new();
        let (sent, received) = tokio::join!(upload, read.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        assert!(sent.is_ok(), "{sent:?}");
        assert!(received.is_ok(), "{received:?}");
        assert!(text.starts_with("HTTP/1.1 413") && text.ends_with("too large"), "{text}");
        assert!(text.contains("connection: close"), "{text}");
    }
}

#[tokio::test]
async fn an_endless_upload_after_the_answer_is_cut() {
    let server = Running::start(short()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /413 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let started = Instant::now();
    let mut sent = 0;
    while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(started.elapsed() < Duration::from_secs(3), "still open after {sent} chunks");
    }
}

#[tokio::test]
async fn slow_heads_are_cut_while_others_are_served() {
    let server = Running::start(short()).await;
    let started = Instant::now();
    let mut slow = Vec::new();
    for i in 0..50 {
        let mut stream = server.connect().await;
        // Every fifth says nothing at all, every fifth begins like HTTP/2.
        match i % 5 {
            0 => {}
            1 => stream.write_all(b"PRI * HT").await.unwrap(),
            _ => stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap(),
        }
        slow.push(tokio::spawn(async move {
            let dripped = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if i % 5 > 1 && stream.write_all(b"X-a: b\r\n").await.is_err() {
                        break;
                    }
                    let mut buf = [0; 512];
                    match stream.try_read(&mut buf) {
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                        Ok(0) | Err(_) => break,
                        Ok(n) => panic!("answered {:?}", String::from_utf8_lossy(&buf[..n])),
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(3), dripped).await.expect("cut in time");
            started.elapsed()
        }));
    }
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_response(&mut stream).await.starts_with("http/1.1 200"));
    for task in slow {
        let took = task.await.unwrap();
        assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1500), "{took:?}");
    }
    assert_eq!(server.server.stats().header_timeouts, 50);
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_keep_alive_time() {
    let server = Running::start(short()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_response(&mut stream).await;
    let started = Instant::now();
    let (rest, result) = read_to_end(&mut stream).await;
    assert!(rest.is_empty() && result.is_ok());
    let took = started.elapsed();
    assert!(took > Duration::from_millis(700) && took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test]
async fn a_stalled_body_is_answered_with_408() {
    let server = Running::start(short()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome").await.unwrap();
    let (text, result) = read_to_end(&mut stream).await;
    assert!(result.is_ok() && text.starts_with("HTTP/1.1 408"), "{text}");
    assert_eq!(server.server.stats().body_stalls, 1);
}

#[tokio::test]
async fn a_dripping_body_is_answered_with_408() {
    let server =
        Running::start(short().body_idle_timeout(Duration::from_secs(10)).min_rate(1000, None, Duration::from_secs(1))).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut bytes = Vec::new();
    let drip = async {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if write.write_all(b"x").await.is_err() {
                break;
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(4), read.read_to_end(&mut bytes));
    tokio::select! {
        () = drip => panic!("the drip went on"),
        result = answer => { result.expect("answered in time").unwrap(); }
    }
    assert!(bytes.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&bytes));
}

#[tokio::test]
async fn a_reader_that_stops_is_cut() {
    let server = Running::start(short()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).await.unwrap();
    server.until("the stall", |s| s.server.stats().write_stalls == 1).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 64 * 1024 * 1024);
}

#[tokio::test]
async fn an_http2_reader_that_stops_loses_its_stream_only() {
    let server = Running::start(short()).await;
    let io = TokioIo::new(server.connect().await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str| sender.clone().send_request(Request::get(format!("http://a{path}")).body(Full::default()).unwrap());
    let mut stalled = get("/big").await.unwrap().into_body();
    stalled.frame().await.unwrap().unwrap();
    server.until("the stall", |s| s.server.stats().write_stalls == 1).await;
    assert!(stalled.collect().await.is_err());
    assert_eq!(get("/").await.unwrap().into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn a_quiet_event_stream_outlives_every_timeout_and_ends_with_the_drain() {
    let mut server = Running::start(short()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a/events").body(Full::default()).unwrap();
    let mut second = sender.send_request(request).await.unwrap().into_body();
    second.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut buf = [0; 1024];
    let n = stream.read(&mut buf).await.unwrap();
    assert!(String::from_utf8_lossy(&buf[..n]).contains("data: 1"));
    let started = Instant::now();
    server.stop();
    let (rest, result) = read_to_end(&mut stream).await;
    assert!(result.is_ok() && rest.ends_with("0\r\n\r\n"), "{rest}");
    assert!(second.collect().await.unwrap().to_bytes().is_empty());
    assert!(server.task.await.unwrap().is_clean());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_drain_lets_requests_finish_and_tells_tunnels() {
    let mut server = Running::start(short()).await;
    let mut tunnel = server.connect().await;
    tunnel.write_all(b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    assert!(read_response(&mut tunnel).await.starts_with("http/1.1 101"));
    // A tunnel is nobody's business for the time limits.
    tokio::time::sleep(Duration::from_secs(4)).await;
    tunnel.write_all(b"ping").await.unwrap();
    let mut buf = [0; 4];
    tunnel.read_exact(&mut buf).await.unwrap();
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_response(&mut idle).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.until("three requests", |s| s.asked.load(Ordering::SeqCst) == 3).await;
    assert_eq!(server.server.stats().tunnels, 1);

    let started = Instant::now();
    server.stop();
    let (text, _) = read_to_end(&mut tunnel).await;
    assert_eq!(text, "1001");
    assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(read_to_end(&mut idle).await.0, "");
    let (text, result) = read_to_end(&mut busy).await;
    assert!(result.is_ok() && text.ends_with("done"), "{text}");
    assert!(server.task.await.unwrap().is_clean());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(TcpStream::connect(server.addr).await.is_err());
    assert_eq!(server.server.stats().open, 0);
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_drain_time() {
    let mut server = Running::start(short().drain(Duration::from_millis(700))).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.until("a request", |s| s.asked.load(Ordering::SeqCst) == 1).await;
    let started = Instant::now();
    server.stop();
    // It reads, but too slowly to finish.
    let reader = tokio::spawn(async move {
        let mut buf = vec![0; 16 * 1024];
        while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let drained = server.task.await.unwrap();
    assert_eq!(drained.connections_cut, 1, "{:?}", server.server.stats());
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_millis(1700), "{took:?}");
    reader.abort();
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_at_once() {
    let server = Running::start(Server::builder().max_connections(2)).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        read_response(&mut stream).await;
        kept.push(stream);
    }
    // The fastest of ten: the others may have met a busy machine.
    let (mut fastest, mut text) = (Duration::MAX, String::new());
    for _ in 0..10 {
        let started = Instant::now();
        let mut third = server.connect().await;
        third.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        text = read_response(&mut third).await;
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(5), "{fastest:?}");
    assert!(text.starts_with("http/1.1 503") && text.contains("\r\nretry-after: 1\r\n"), "{text}");
    let body = text.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 503);
    assert_eq!(server.server.stats().shed, 10);
    drop(kept);
    server.until("places", |s| s.server.stats().open == 0).await;
    let mut again = server.connect().await;
    again.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_response(&mut again).await.starts_with("http/1.1 200"));
}

/// The preset as it ships, against 200 clients that drip headers as `slowhttptest -H` does, while others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_slow_clients_are_gone_by_12_seconds_with_the_preset() {
    let server = Running::start(Server::builder()).await;
    let started = Instant::now();
    let mut slow = Vec::new();
    for i in 0..200u64 {
        let mut stream = server.connect().await;
        slow.push(tokio::spawn(async move {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
            let (mut read, mut write) = stream.split();
            let drip = async {
                tokio::time::sleep(Duration::from_millis(i * 20)).await;
                loop {
                    if write.write_all(b"X-a: b\r\n").await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let mut byte = [0];
            tokio::select! {
                () = drip => unreachable!(),
                n = read.read(&mut byte) => assert!(n.unwrap_or(0) == 0, "answered"),
            }
            started.elapsed()
        }));
    }
    let mut worst = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(9) {
        let asked = Instant::now();
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_response(&mut stream).await.starts_with("http/1.1 200"));
        worst = worst.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for task in slow {
        let took =
            tokio::time::timeout(Duration::from_secs(12).saturating_sub(started.elapsed()), task).await.expect("gone").unwrap();
        assert!(took > Duration::from_secs(9), "{took:?}");
    }
    assert_eq!(server.server.stats().header_timeouts, 200);
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

/// Descriptors and tasks go back to where they were, whatever ended the connections.
#[tokio::test]
async fn nothing_is_left_behind() {
    let server = Running::start(short()).await;
    for round in 0..300 {
        let mut stream = server.connect().await;
        let head: &[u8] = match round % 6 {
            0 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            1 => b"POST /413 HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\nxx",
            2 => b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n",
            3 => b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
            4 => b"\0\0garbage\r\n\r\n",
            _ => b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        };
        stream.write_all(head).await.unwrap();
        let mut buf = [0; 16];
        if round % 6 != 5 {
            let _ = stream.read(&mut buf).await;
        }
        // Half of them leave with a reset.
        if round % 2 == 0 {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    server.until("connections", |s| s.server.stats().open == 0 && s.server.stats().tunnels == 0).await;
    assert_eq!(server.server.stats().accepted, 300);
}

fn proxy_header(client: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(client);
    bytes.extend([127, 0, 0, 1]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 80]);
    bytes
}

#[tokio::test]
async fn a_trusted_balancer_says_who_the_client_is() {
    let server = Running::start(short().proxy_protocol(["127.0.0.0/8"]).unwrap()).await;
    let mut stream = server.connect().await;
    let mut bytes = proxy_header([192, 0, 2, 9], 4711);
    bytes.extend(b"GET /peer HTTP/1.1\r\nHost: a\r\n\r\n");
    // In pieces: the header need not come in one.
    for piece in bytes.chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_response(&mut stream).await.ends_with("192.0.2.9:4711"));
    // Without a header nothing is served, and waiting for one takes no longer than waiting for a head.
    let mut plain = server.connect().await;
    plain.write_all(b"GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(read_to_end(&mut plain).await.0, "");
    let mut silent = server.connect().await;
    let started = Instant::now();
    assert_eq!(read_to_end(&mut silent).await.0, "");
    assert!(started.elapsed() < Duration::from_secs(1));

    let strict = Running::start(short().proxy_protocol(["192.0.2.0/24"]).unwrap()).await;
    let mut stream = strict.connect().await;
    let _ = stream.write_all(&bytes).await;
    assert_eq!(read_to_end(&mut stream).await.0, "");
    assert_eq!(strict.server.stats().proxy_header_errors, 1);
    assert!(Server::builder().proxy_protocol(["balancer"]).is_err());
}

#[test]
fn tokens_do_not_travel_in_clear_text_by_accident() {
    use portcullis::serve::check_listener;
    let check = |addr: &str, tls, plain| check_listener(addr.parse().unwrap(), tls, plain).is_ok();
    assert!(
        check("127.0.0.1:80", false, false) && check("[::1]:80", false, false) && check("[::ffff:127.0.0.1]:80", false, false)
    );
    assert!(!check("0.0.0.0:80", false, false) && !check("[::]:80", false, false) && !check("192.0.2.1:80", false, false));
    assert!(check("0.0.0.0:443", true, false) && check("0.0.0.0:80", false, true));
}

mod tls {
    use portcullis::serve::{ClientAuth, Tls, TlsFiles};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio_rustls::{
        TlsConnector,
        client::TlsStream,
        rustls::{
            ClientConfig, RootCertStore,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName},
        },
    };

    use super::*;

    struct Ca(CertifiedIssuer<'static, KeyPair>);

    impl Ca {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
            let key = KeyPair::generate().unwrap();
            (CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
        }

        fn files(&self) -> TlsFiles {
            let (cert, key) = self.issue("localhost");
            TlsFiles::new(cert.pem(), key.serialize_pem())
        }

        fn client(&self, alpn: &[&str], cert: Option<(rcgen::Certificate, KeyPair)>) -> TlsConnector {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(self.0.der().to_vec())).unwrap();
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let mut config = match cert {
                None => builder.with_no_client_auth(),
                Some((cert, key)) => builder
                    .with_client_auth_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
                    .unwrap(),
            };
            config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        }
    }

    async fn connect(server: &Running, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        connector.connect(ServerName::try_from("localhost").unwrap(), server.connect().await).await
    }

    async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn alpn_hsts_and_other_certificates_while_it_runs() {
        let (ca, next) = (Ca::new(), Ca::new());
        let tls = Tls::new(&ca.files()).unwrap();
        let server = Running::start(short().tls(tls.clone()).hsts(Duration::from_secs(3600))).await;
        let mut stream = connect(&server, &ca.client(&["http/1.1"], None)).await.unwrap();
        let text = get(&mut stream, "/").await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("strict-transport-security: max-age=3600\r\n"), "{text}");

        let stream = connect(&server, &ca.client(&["h2", "http/1.1"], None)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = || Request::get("https://localhost/").body(Full::default()).unwrap();
        assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);

        // Other certificates: new connections see them, the open one goes on.
        assert!(tls.swap(&TlsFiles::new("nonsense", "nonsense")).is_err());
        assert!(connect(&server, &ca.client(&[], None)).await.is_ok());
        tls.swap(&next.files()).unwrap();
        assert!(connect(&server, &ca.client(&[], None)).await.is_err());
        assert!(connect(&server, &next.client(&[], None)).await.is_ok());
        assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn client_certificates() {
        let (ca, foreign) = (Ca::new(), Ca::new());
        for (auth, without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
            let tls = Tls::new(&ca.files().client_ca(ca.0.pem(), auth)).unwrap();
            let server = Running::start(short().tls(tls)).await;
            let certs = async |cert| {
                let mut stream = connect(&server, &ca.client(&[], cert)).await?;
                get(&mut stream, "/certs").await
            };
            assert!(certs(Some(ca.issue("client"))).await.unwrap().ends_with("\r\n\r\n1"));
            assert!(certs(Some(foreign.issue("client"))).await.is_err());
            assert_eq!(certs(None).await.is_ok_and(|text| text.ends_with("\r\n\r\n0")), without);
        }
    }

    #[tokio::test]
    async fn a_handshake_that_never_ends_is_cut() {
        let server = Running::start(short().tls(Tls::new(&Ca::new().files()).unwrap())).await;
        let mut stream = server.connect().await;
        stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
        let started = Instant::now();
        assert_eq!(read_to_end(&mut stream).await.0, "");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(400) && took < Duration::from_secs(1), "{took:?}");
    }

    /// The last bytes wait in the TLS session for a reader that is slower than the server; then there is silence.
    #[tokio::test]
    async fn a_slow_reader_who_has_caught_up_is_no_stalled_one() {
        let ca = Ca::new();
        let builder = short().write_idle_timeout(Duration::from_secs(2));
        let server = Running::start(builder.tls(Tls::new(&ca.files()).unwrap())).await;
        let mut stream = connect(&server, &ca.client(&[], None)).await.unwrap();
        stream.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut tail, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let n = stream.read(&mut piece).await.expect("the connection was cut");
            if n == 0 {
                break;
            }
            tail.extend_from_slice(&piece[..n]);
            tail.drain(..tail.len().saturating_sub(100));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(tail.ends_with(b"last words\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&tail));
        assert_eq!(server.server.stats().write_stalls, 0);
    }

    #[tokio::test]
    async fn an_early_answer_survives_tls_too() {
        let ca = Ca::new();
        let server = Running::start(Server::builder().tls(Tls::new(&ca.files()).unwrap())).await;
        let mut stream = connect(&server, &ca.client(&[], None)).await.unwrap();
        stream.write_all(b"POST /413 HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n").await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let upload = async {
            for _ in 0..30 {
                write.write_all(&[b'x'; 30_000]).await?;
            }
            write.flush().await
        };
        let mut bytes = Vec::new();
        let (sent, received) = tokio::join!(upload, read.read_to_end(&mut bytes));
        assert!(bytes.starts_with(b"HTTP/1.1 413"), "{sent:?} {received:?} {}", String::from_utf8_lossy(&bytes));
        assert!(received.is_ok() && sent.is_ok(), "{sent:?} {received:?}");
    }
}
