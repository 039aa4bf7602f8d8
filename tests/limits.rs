//! The limit layers in an axum app, over real connections.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::StatusCode,
    routing::{get, post},
};
use futures_util::stream;
use portcullis::{
    body_limit::{BodyLimitLayer, LengthLimitError},
    client_addr::ClientAddrLayer,
    concurrency_limit::{ConcurrencyLimitLayer, Permit},
    limiter::{ByClient, MemoryStore, Quota, RequestView},
    rate_limit::RateLimitLayer,
    response_limit::ResponseLimitLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::ServiceBuilder;

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await });
    address
}

fn clients() -> ClientAddrLayer {
    ClientAddrLayer::peer::<ConnectInfo<SocketAddr>>(|c| c.0).trust(["127.0.0.1/32"]).unwrap()
}

/// Sends one request on a connection of its own and reads until the head is there or, for `whole`, until the end.
async fn send(address: SocketAddr, request: &str, whole: bool) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while whole || !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        match timeout(Duration::from_secs(5), stream.read(&mut piece)).await.expect("an answer in time") {
            Ok(0) | Err(_) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
        }
    }
    (String::from_utf8_lossy(&answer).into_owned(), stream)
}

fn from(client: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nConnection: close\r\n\r\n")
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[tokio::test]
async fn clients_are_limited_by_prefix() {
    let limit = RateLimitLayer::new(Quota::per_hour(2)).key(ByClient).store(MemoryStore::bounded(1000));
    // `Router::layer` makes a service for each route; they share the quota.
    let routes = Router::new().route("/a", get(|| async { "a" })).route("/b", get(|| async { "b" }));
    let address = serve(routes.layer(ServiceBuilder::new().layer(clients()).layer(limit))).await;
    let mut codes = Vec::new();
    for (client, path) in [
        ("2001:db8::1", "/a"),
        ("2001:db8::2", "/b"),
        ("2001:db8::3", "/a"),
        ("2001:db8:0:1::1", "/a"),
        ("192.0.2.1", "/b"),
        ("203.0.113.9, 192.0.2.1", "/a"),
        ("192.0.2.1", "/a"),
    ] {
        codes.push(status(&send(address, &from(client, path), true).await.0));
    }
    assert_eq!(codes, [200, 200, 429, 200, 200, 200, 429]);
    let (refused, _) = send(address, &from("192.0.2.1", "/b"), true).await;
    for line in ["ratelimit: \"default\";r=0;t=1800", "retry-after: 1800", "proxy-status: portcullis; error=http_request_denied"]
    {
        assert!(refused.contains(line), "{line} in {refused}");
    }
    assert!(refused.ends_with('}'), "{refused}");
}

#[tokio::test]
async fn event_streams_hold_their_permit_until_the_client_goes() {
    let streams = |r: &RequestView<'_>| r.headers.get("accept").is_some_and(|v| v == "text/event-stream");
    let limit = ConcurrencyLimitLayer::new().per_key(2, ByClient).when(streams);
    let handle = limit.handle();
    let endless = || async {
        let ticks = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b"data: tick\n\n")), ()))
        });
        Body::from_stream(ticks)
    };
    let address = serve(Router::new().route("/", get(endless)).layer(ServiceBuilder::new().layer(clients()).layer(limit))).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
    let (one, first) = send(address, request, false).await;
    let (two, _second) = send(address, request, false).await;
    let (three, _) = send(address, request, false).await;
    assert_eq!((status(&one), status(&two), status(&three)), (200, 200, 429));
    assert_eq!(handle.running(), 2);
    drop(first);
    let gone = Instant::now();
    while handle.running() > 1 {
        assert!(gone.elapsed() < Duration::from_secs(2), "the permit of a client that has gone is still held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(&send(address, request, false).await.0), 200);
}

#[tokio::test]
async fn a_full_server_sheds_at_once() {
    let limit = ConcurrencyLimitLayer::new().total(8);
    let never = || async { std::future::pending::<&str>().await };
    let address = serve(Router::new().route("/", get(never)).layer(limit.clone())).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        held.push(stream);
    }
    while limit.handle().running() < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut times = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let start = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut opening = [0; 16];
        stream.read_exact(&mut opening).await.unwrap();
        times.push(start.elapsed());
        assert!(opening.starts_with(b"HTTP/1.1 503"));
    }
    times.sort_unstable();
    assert!(times[25] < Duration::from_millis(5), "{times:?}");
}

#[tokio::test]
async fn a_tunnel_holds_its_permit() {
    let limit = ConcurrencyLimitLayer::new().per_key(1, ByClient);
    let handle = limit.handle();
    let upgrade = |mut request: axum::extract::Request| async move {
        let permit = request.extensions_mut().remove::<Permit>();
        let on = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let _permit = permit;
            let mut io = hyper_util::rt::TokioIo::new(on.await.unwrap());
            let mut byte = [0];
            while io.read(&mut byte).await.is_ok_and(|n| n > 0) {}
        });
        http::Response::builder().status(101).header("upgrade", "x").header("connection", "upgrade").body(Body::empty()).unwrap()
    };
    let address = serve(Router::new().route("/", get(upgrade)).layer(ServiceBuilder::new().layer(clients()).layer(limit))).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let (answer, tunnel) = send(address, request, false).await;
    assert_eq!(status(&answer), 101);
    // The answer and its body are long gone; the tunnel still counts.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(handle.running(), 1);
    assert_eq!(status(&send(address, request, false).await.0), 429);
    drop(tunnel);
    let gone = Instant::now();
    while handle.running() > 0 {
        assert!(gone.elapsed() < Duration::from_secs(2), "the tunnel has ended and its permit is still held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn long_uploads_and_answers_are_stopped() {
    let read = |request: axum::extract::Request| async move {
        match axum::body::to_bytes(request.into_body(), usize::MAX).await {
            Ok(bytes) => (StatusCode::OK, bytes.len().to_string()),
            Err(error) if LengthLimitError::is_in(&error) => (StatusCode::PAYLOAD_TOO_LARGE, String::new()),
            Err(_) => (StatusCode::BAD_REQUEST, String::new()),
        }
    };
    let long = || async {
        let pieces = stream::unfold(0, |n| async move {
            // So slowly that the head is on its way before the end.
            tokio::time::sleep(Duration::from_millis(5)).await;
            (n < 100).then_some((Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 100])), n + 1))
        });
        Body::from_stream(pieces)
    };
    let routes =
        Router::new().route("/up", post(read)).route("/down", get(long)).route("/known", get(|| async { vec![b'x'; 2000] }));
    let layers = ServiceBuilder::new().layer(ResponseLimitLayer::new(1000)).layer(BodyLimitLayer::new(10));
    let address = serve(routes.layer(layers)).await;

    // Announced: refused although not a byte of it is ever sent, and without `100 Continue`.
    let announced = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(status(&send(address, announced, false).await.0), 413);
    let chunked =
        |body: &str| format!("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{body}");
    assert_eq!(status(&send(address, &chunked("5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n"), false).await.0), 200);
    assert_eq!(status(&send(address, &chunked("5\r\n12345\r\n6\r\n678901\r\n"), false).await.0), 413);

    let (known, _) = send(address, "GET /known HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", true).await;
    assert_eq!(status(&known), 502);
    let (aborted, _) = send(address, "GET /down HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", true).await;
    assert_eq!(status(&aborted), 200);
    assert!(!aborted.ends_with("0\r\n\r\n"), "a stream that was cut must not look complete");
    assert!(aborted.matches('x').count() <= 1000);
}
