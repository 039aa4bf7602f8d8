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

mod closing;
mod slow;
mod support;
mod tls;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::serve::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use support::{Running, read_response, read_to_end, short};

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
