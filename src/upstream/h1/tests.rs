//! The parts together, on real sockets.

use std::{convert::Infallible, future::poll_fn, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{
    super::{
        body::Body,
        error::{Error, Kind},
    },
    Failed, H1, HeadLimits, MAX_INTERIM,
    head::Head,
};
use crate::connect::ConnectedIo;

pub(super) const LIMITS: HeadLimits =
    HeadLimits { timeout: Duration::from_secs(5), max_bytes: 64 * 1024, max_count: 100, continue_wait: Duration::from_secs(1) };

async fn pair() -> (Box<H1>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (H1::new(ConnectedIo::plain(ours.unwrap()), addr, &LIMITS), theirs.unwrap().0)
}

async fn exchange(conn: &mut H1, mut request: Request<Body>) -> Result<Head, Failed> {
    conn.exchange(&mut request, &HeaderValue::from_static("t.example"), &LIMITS, Instant::now()).await
}

async fn read(conn: &mut H1) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    if let Some(whole) = conn.whole_body() {
        return Ok(whole.to_vec());
    }
    while let Some(frame) = poll_fn(|cx| conn.poll_body(cx)).await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
        }
    }
    Ok(all)
}

/// Sends a GET; the target answers with these bytes and closes.
async fn answer(bytes: &[u8]) -> (Box<H1>, Result<(Head, Result<Vec<u8>, Error>), Failed>) {
    let (mut conn, mut target) = pair().await;
    target.write_all(bytes).await.unwrap();
    target.shutdown().await.unwrap();
    let result = match exchange(&mut conn, Request::new(Body::empty())).await {
        Ok(head) => {
            let body = read(&mut conn).await;
            Ok((head, body))
        }
        Err(failed) => Err(failed),
    };
    (conn, result)
}

fn stream(pieces: Vec<&'static [u8]>) -> Body {
    let frames = pieces.into_iter().map(|p| Ok::<_, Infallible>(Frame::data(Bytes::from_static(p))));
    Body::stream(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn hyper_reads_what_is_sent_and_one_connection_serves_many() {
    let (mut conn, target) = pair().await;
    let echo = service_fn(async |request: Request<Incoming>| {
        let line = format!("{} {} {}\n", request.method(), request.uri(), request.headers()["host"].to_str().unwrap());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from([line.as_bytes(), &body].concat()))))
    });
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(target), echo));
    let large = vec![b'x'; 300_000];
    for (method, body, want) in [
        ("GET", Body::empty(), Vec::new()),
        ("POST", Body::from("hello"), b"hello".to_vec()),
        ("POST", stream(vec![b"he", b"", b"llo"]), b"hello".to_vec()),
        ("GET", stream(vec![b"with", b"body"]), b"withbody".to_vec()),
        ("PUT", Body::from(Bytes::from(large.clone())), large),
        ("POST", Body::empty(), Vec::new()),
    ] {
        let request = Request::builder().method(method).uri("/a?b=%20").body(body).unwrap();
        assert_eq!(exchange(&mut conn, request).await.ok().unwrap().status, StatusCode::OK);
        let got = read(&mut conn).await.unwrap();
        assert_eq!(got, [format!("{method} /a?b=%20 t.example\n").as_bytes(), &want].concat());
        assert!(conn.rest() && conn.is_usable());
    }
}

#[tokio::test]
async fn a_response_cut_anywhere_is_an_error_and_never_a_clean_end() {
    for whole in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n3\r\nabc\r\n0\r\nX-A: b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let (mut conn, result) = answer(whole.as_bytes()).await;
        assert!(matches!(result, Ok((_, Ok(_)))), "{whole:?}");
        assert!(conn.rest());
        assert!(!conn.is_usable(), "the target has closed");
        for cut in 0..whole.len() {
            let (mut conn, result) = answer(&whole.as_bytes()[..cut]).await;
            match result {
                Err(failed) => {
                    assert_eq!((failed.error.kind(), failed.silent, failed.unsent), (Kind::Terminated, cut == 0, false), "{cut}");
                }
                Ok((_, body)) => assert_eq!(body.unwrap_err().kind(), Kind::Incomplete, "{cut} of {whole:?}"),
            }
            assert!(!conn.rest(), "{cut} of {whole:?}");
        }
    }
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_stream_and_its_connection_too() {
    let (mut conn, result) = answer(b"HTTP/1.1 200 OK\r\n\r\nhello").await;
    assert_eq!(result.ok().unwrap().1.unwrap(), b"hello");
    assert!(!conn.rest());
}

#[tokio::test]
async fn connections_that_are_not_used_again() {
    for (answer, kept) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", true),
        ("HTTP/1.1 304 Not Modified\r\n\r\nbody", false),
    ] {
        let (mut conn, mut target) = pair().await;
        target.write_all(answer.as_bytes()).await.unwrap();
        exchange(&mut conn, Request::new(Body::empty())).await.ok().unwrap();
        let body = read(&mut conn).await.unwrap();
        assert!(body.is_empty() || body == b"ok");
        assert_eq!(conn.rest() && conn.is_usable(), kept, "{answer:?}");
    }
    let (mut conn, mut target) = pair().await;
    target.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    let request = Request::get("/").header("connection", "close").body(Body::empty()).unwrap();
    exchange(&mut conn, request).await.ok().unwrap();
    read(&mut conn).await.unwrap();
    assert!(!conn.rest(), "we have asked for its end");
}

#[tokio::test]
async fn bytes_while_it_rests_end_a_connection() {
    let (mut conn, mut target) = pair().await;
    assert!(conn.is_usable());
    target.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
    conn.io_readable().await;
    assert!(!conn.is_usable());
}

#[tokio::test]
async fn interim_responses_are_dropped_up_to_a_number() {
    let final_one = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let interim = |n: u32| format!("{}{final_one}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(n as usize));
    let (_, result) = answer(interim(MAX_INTERIM).as_bytes()).await;
    assert_eq!(result.ok().unwrap().0.status, StatusCode::OK);
    let (_, result) = answer(interim(MAX_INTERIM + 1).as_bytes()).await;
    assert_eq!(result.err().unwrap().error.kind(), Kind::HeadTooLarge);
    let large = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "y".repeat(60_000)).repeat(5);
    let (_, result) = answer(format!("{large}{final_one}").as_bytes()).await;
    assert_eq!(result.err().unwrap().error.kind(), Kind::HeadTooLarge);
}

#[tokio::test]
async fn a_switch_hands_over_the_socket_and_what_came_behind_the_head() {
    let (mut conn, mut target) = pair().await;
    target.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nearly").await.unwrap();
    let head = exchange(&mut conn, Request::new(Body::empty())).await.ok().unwrap();
    assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    let (mut io, early) = conn.into_io();
    assert_eq!(early, "early");
    io.write_all(b"and back").await.unwrap();
    drop(io);
    let mut sent = Vec::new();
    target.read_to_end(&mut sent).await.unwrap();
    assert!(sent.ends_with(b"\r\n\r\nand back"));
}

#[tokio::test]
async fn an_answer_is_read_even_if_the_upload_was_refused() {
    let (mut conn, mut target) = pair().await;
    tokio::spawn(async move {
        let mut head = [0; 64];
        target.read_exact(&mut head).await.unwrap();
        target.write_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        // The rest of the request is unread: the end is a reset.
    });
    let request = Request::post("/").body(Body::from(Bytes::from(vec![0; 8 << 20]))).unwrap();
    let head = exchange(&mut conn, request).await.ok().unwrap();
    assert_eq!(head.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(read(&mut conn).await.unwrap(), b"no");
    assert!(!conn.rest());
}

#[tokio::test]
async fn a_request_that_could_not_be_written_comes_back_whole() {
    let (mut conn, target) = pair().await;
    socket2::SockRef::from(&target).set_linger(Some(Duration::ZERO)).unwrap();
    drop(target);
    conn.io_readable().await;
    let mut request = Request::post("/x").body(Body::empty()).unwrap();
    let failed = conn.exchange(&mut request, &HeaderValue::from_static("t"), &LIMITS, Instant::now()).await.err().unwrap();
    assert!(failed.unsent && failed.silent, "{}", failed.error);
    assert_eq!(request.uri().path(), "/x");
}

#[tokio::test]
async fn a_body_that_breaks_its_promise_is_the_clients_fault() {
    for pieces in [vec![&b"four"[..]], vec![b"four", b"four"]] {
        let (mut conn, mut target) = pair().await;
        let request = Request::post("/").header("content-length", "6").body(stream(pieces)).unwrap();
        let failed = exchange(&mut conn, request).await.err().unwrap();
        assert_eq!((failed.error.kind(), failed.unsent), (Kind::RequestBroken, false));
        drop(conn);
        let mut sent = Vec::new();
        target.read_to_end(&mut sent).await.unwrap();
        assert!(!sent.ends_with(b"four"), "nothing went out that looks whole");
    }
}

#[tokio::test]
async fn buffers_grow_with_use_and_are_small_at_rest() {
    let (mut conn, mut target) = pair().await;
    let large = vec![b'x'; 4 << 20];
    let sent = large.clone();
    let server = tokio::spawn(async move {
        target.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()).as_bytes()).await.unwrap();
        target.write_all(&sent).await.unwrap();
        target
    });
    exchange(&mut conn, Request::new(Body::empty())).await.ok().unwrap();
    assert_eq!(read(&mut conn).await.unwrap().len(), large.len());
    let _target = server.await.unwrap();
    assert!(conn.room() > 8 * 1024, "{}", conn.room());
    assert!(conn.rest());
    assert_eq!(conn.room(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_has_an_end() {
    let (mut conn, mut target) = pair().await;
    let failed = exchange(&mut conn, Request::new(Body::empty())).await.err().unwrap();
    assert_eq!(failed.error.kind(), Kind::HeadTimeout);
    let (mut conn, mut other) = pair().await;
    other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf").await.unwrap();
    exchange(&mut conn, Request::new(Body::empty())).await.ok().unwrap();
    conn.set_idle(Duration::from_secs(60));
    let begun = Instant::now();
    assert_eq!(read(&mut conn).await.unwrap_err().kind(), Kind::Idle);
    assert_eq!(begun.elapsed().as_secs(), 60);
    target.shutdown().await.unwrap();
}

proptest::proptest! {
    #[test]
    fn streams_of_responses_do_not_depend_on_how_they_are_cut(
        parts in proptest::collection::vec(proptest::prop_oneof![
            proptest::prelude::Just("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
            proptest::prelude::Just("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n"),
            proptest::prelude::Just("HTTP/1.1 100 Continue\r\n\r\n"),
            proptest::prelude::Just("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
            proptest::prelude::Just("HTTP/1.1 200 OK\r\n\r\nrest"),
            proptest::prelude::Just("HTTP/1.1 200 OK\nX: y\r\n\r\n"),
            proptest::prelude::Just("\r\n"),
            proptest::prelude::Just("0"),
        ], 0..6),
        sizes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20),
        to_head: bool,
    ) {
        super::fuzz::check(parts.concat().as_bytes(), &sizes, to_head);
    }
}
