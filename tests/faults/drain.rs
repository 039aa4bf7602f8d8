//! The server is told to go while everything is in use.

use std::time::{Duration, Instant};

use portcullis::serve::Server;
use tokio::net::TcpStream;

use crate::support::*;

const DRAIN: Duration = Duration::from_secs(3);

/// Answers late, takes uploads, sends events, echoes bytes.
async fn target() -> Target {
    Target::new(|mut wire| async move {
        while let Some(request) = wire.request().await {
            if field(&request.head, "upgrade").is_some() {
                wire.send(SWITCH).await;
                return wire.echo().await;
            } else if request.head.contains("text/event-stream") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
                wire.gone().await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(600)).await;
            let text = format!("{} {}", request.body.len(), request.complete);
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_flight_ends_well_and_nothing_new_begins() {
    let _alone = alone().await;
    let target = target().await;
    let long = Duration::from_secs(60);
    let mut stack = Stack::start(Setup {
        server: Server::builder().drain(DRAIN),
        in_flight: 1000,
        upstream: |b| b.header_timeout(Duration::from_secs(10)),
        service: |b| b,
        ..Setup::default()
    })
    .await;
    let (path, addr) = (target.path("/"), stack.addr);

    let mut gets = Vec::new();
    for _ in 0..20 {
        let path = path.clone();
        gets.push(tokio::spawn(async move { Wire::connect(addr).await.get(&path).await }));
    }
    let upload = tokio::spawn({
        let path = path.clone();
        async move {
            let mut client = Wire::connect(addr).await;
            client.send(format!("POST {path} HTTP/1.1\r\nHost: p\r\nContent-Length: 150\r\n\r\n")).await;
            for _ in 0..15 {
                tokio::time::sleep(Duration::from_millis(80)).await;
                client.send([b'x'; 10]).await;
            }
            client.response().await
        }
    });
    let mut events = stack.connect().await;
    events.send(format!("GET {path} HTTP/1.1\r\nHost: p\r\nAccept: text/event-stream\r\n\r\n")).await;
    let head = soon("events", events.head()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = stack.connect().await;
        socket.send(handshake(&path)).await;
        assert!(soon("a tunnel", socket.head()).await.unwrap().starts_with("HTTP/1.1 101"));
        socket.send(b"\x82\x85\0\0\0\0hello").await;
        while socket.buf.len() < 11 {
            assert!(soon("the echo", socket.fill()).await);
        }
        socket.buf.clear();
        sockets.push(socket);
    }
    let mut idle = stack.connect().await;
    assert_eq!(soon("a request", idle.get("/nothing")).await.status(), 400);
    until("permits", PATIENCE, || stack.permits.running() == 42).await;
    assert_eq!(stack.server.tunnels().len(), 20);

    let started = Instant::now();
    stack.stop();
    // Told at once.
    for mut socket in sockets {
        soon("the close frame", async { while socket.fill().await {} }).await;
        let seen = Message { head: String::new(), body: socket.buf, complete: true };
        assert_eq!(seen.close_code(), Some(1001));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    let (body, whole) = soon("the end of the events", async {
        while events.fill().await {}
        let text = String::from_utf8_lossy(&events.buf).into_owned();
        let whole = text.ends_with("0\r\n\r\n");
        (text, whole)
    })
    .await;
    assert!(whole && body.contains("data: 1"), "{body}");
    soon("the idle connection", idle.gone()).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(TcpStream::connect(addr).await.is_err(), "still listening");
    // Not one is lost.
    for get in gets {
        let seen = soon("a request in flight", get).await.unwrap();
        assert_eq!((seen.status(), seen.body.as_slice()), (200, &b"0 true"[..]));
    }
    let seen = soon("the upload", upload).await.unwrap();
    assert_eq!((seen.status(), seen.body.as_slice()), (200, &b"150 true"[..]));
    let drained = stack.ended().await;
    assert!(drained.is_clean(), "{drained:?}");
    assert!(started.elapsed() < DRAIN, "{:?}", started.elapsed());
    assert_eq!(stack.permits.running(), 0, "permits are left");
    assert!(stack.server.tunnels().is_empty());
    assert_eq!(stack.server.stats().open, 0);
    until("the target's connections", long, || target.open() <= stack.upstream.idle_connections()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_cut_and_leaves_nothing() {
    let _alone = alone().await;
    // Never answers; a tunnel whose client stays silent after the close frame.
    let target = Target::new(|mut wire| async move {
        let head = wire.head().await.unwrap_or_default();
        if field(&head, "upgrade").is_some() {
            wire.send(SWITCH).await;
        } else if head.contains("event-stream") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
        }
        wire.gone().await;
    })
    .await;
    let drain = Duration::from_millis(1200);
    let mut stack = Stack::start(Setup {
        server: Server::builder().drain(drain),
        in_flight: 100,
        upstream: |b| b,
        service: |b| b,
        ..Setup::default()
    })
    .await;
    let path = target.path("/");
    let mut silent = stack.connect().await;
    silent.send(format!("GET {path} HTTP/1.1\r\nHost: p\r\n\r\n")).await;
    let mut socket = stack.connect().await;
    socket.send(handshake(&path)).await;
    assert!(soon("a tunnel", socket.head()).await.is_some());
    // A frame that is not finished: no close frame fits in.
    socket.send(b"\x82\x85\0\0\0\0he").await;
    // The answer to a POST may go on until the drain time is nearly over.
    let mut post = stack.connect().await;
    post.send(format!("POST {path} HTTP/1.1\r\nHost: p\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n")).await;
    assert!(soon("events", post.head()).await.is_some());
    until("permits", PATIENCE, || stack.permits.running() == 3).await;

    let started = Instant::now();
    stack.stop();
    soon("the tunnel's end", socket.gone()).await;
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    let rest = soon("the stream's end", async {
        while post.fill().await {}
        String::from_utf8_lossy(&post.buf).into_owned()
    })
    .await;
    assert!(rest.ends_with("0\r\n\r\n"), "a stream ends, it is not cut: {rest}");
    let drained = stack.ended().await;
    assert_eq!((drained.connections_cut, drained.tunnels_cut), (1, 0));
    let took = started.elapsed();
    assert!(took < drain + Duration::from_secs(1), "{took:?}");
    soon("the cut connection", silent.gone()).await;
    until("permits", PATIENCE, || stack.permits.running() == 0).await;
    until("the target's connections", PATIENCE, || target.open() == 0).await;
}
