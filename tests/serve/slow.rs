//! Clients that are slow to send or to take.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::serve::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Running, read_response, read_to_end, short};

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
