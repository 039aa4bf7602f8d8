//! How connections end: the drain, and what is left afterwards.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Running, read_response, read_to_end, short};

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
