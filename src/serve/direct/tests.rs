//! Over real sockets: what is served here, what is handed over, and that nobody can tell the difference.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::serve::{RequestBody, Server};

/// A body from a list of what it yields.
#[derive(Default)]
struct Script {
    frames: Vec<Step>,
    exact: Option<u64>,
    polled: Arc<AtomicUsize>,
}

enum Step {
    Data(&'static str),
    Big(usize),
    Trailers(HeaderMap),
    Fail,
    Never,
}

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.polled.fetch_add(1, SeqCst);
        if self.frames.is_empty() {
            return Poll::Ready(None);
        }
        match self.frames.remove(0) {
            Step::Data(text) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
            Step::Big(len) => Poll::Ready(Some(Ok(Frame::data(vec![b'x'; len].into())))),
            Step::Trailers(map) => Poll::Ready(Some(Ok(Frame::trailers(map)))),
            Step::Fail => Poll::Ready(Some(Err(std::io::Error::other("broken")))),
            Step::Never => {
                self.frames.insert(0, Step::Never);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[derive(Clone, Default)]
struct Seen {
    /// Services at work.
    alive: Arc<AtomicUsize>,
    /// Frames asked of bodies.
    polled: Arc<AtomicUsize>,
}

async fn answer(seen: Seen, request: Request<RequestBody>) -> Result<Response<Script>, Infallible> {
    seen.alive.fetch_add(1, SeqCst);
    let _held = Held(seen.alive.clone());
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let (frames, exact) = match path.as_str() {
        "/echo" => match body {
            Ok(body) => (
                vec![Step::Data(Box::leak(String::from_utf8_lossy(&body).into_owned().into_boxed_str()))],
                Some(body.len() as u64),
            ),
            Err(_) => (vec![Step::Data("bad body")], None),
        },
        "/stream" => (vec![Step::Data("one"), Step::Data(""), Step::Big(70_000), Step::Data("two")], None),
        "/big" => (vec![Step::Big(70_000)], None),
        "/trailers" => {
            let map = [("x-sum", "7"), ("content-length", "1")].map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)));
            (vec![Step::Data("one"), Step::Trailers(HeaderMap::from_iter(map))], None)
        }
        "/fails" => (vec![Step::Data("one"), Step::Fail], None),
        "/short" => (vec![Step::Data("one")], None),
        "/endless" => ((0..4096).map(|_| Step::Big(64 * 1024)).collect(), None),
        "/quiet" => (vec![Step::Data("one"), Step::Never], None),
        "/never" => {
            std::future::pending::<()>().await;
            (Vec::new(), None)
        }
        _ => (Vec::new(), Some(0)),
    };
    let mut response = Response::new(Script { frames, exact, polled: seen.polled });
    match path.as_str() {
        "/trailers" => drop(response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum, content-length"))),
        "/short" => drop(response.headers_mut().insert("content-length", HeaderValue::from_static("10"))),
        "/204" => *response.status_mut() = StatusCode::NO_CONTENT,
        "/304" => *response.status_mut() = StatusCode::NOT_MODIFIED,
        "/101" => *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS,
        "/close" => drop(response.headers_mut().insert("connection", HeaderValue::from_static("close"))),
        _ => {}
    }
    Ok(response)
}

struct Running {
    addr: std::net::SocketAddr,
    server: Server,
    seen: Seen,
}

async fn start() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, seen) = (listener.local_addr().unwrap(), Seen::default());
    let server = Server::builder().drain(Duration::from_secs(60)).build();
    let (serving, state) = (server.clone(), seen.clone());
    let service = tower::service_fn(move |r| answer(state.clone(), r));
    tokio::spawn(async move { serving.serve(listener, service, std::future::pending()).await });
    Running { addr, server, seen }
}

/// Makes hyper the reader of the connection.
const HAND_OVER: &str = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0; 4096];
    let read = async {
        while !String::from_utf8_lossy(&all).ends_with(end) {
            match stream.read(&mut byte).await {
                Ok(0) | Err(_) => break,
                Ok(n) => all.extend_from_slice(&byte[..n]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer in time");
    String::from_utf8_lossy(&all).into_owned()
}

/// Head lines in order of their names, and the rest, with the date taken out.
fn normal(answer: &str) -> (Vec<String>, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines: Vec<String> = head.lines().map(str::to_owned).filter(|l| !l.starts_with("date: ")).collect();
    lines[1..].sort();
    (lines, body.to_owned())
}

#[tokio::test]
async fn the_answers_are_those_of_hyper() {
    let running = start().await;
    for request in [
        "GET /echo HTTP/1.1\r\nhost: a\r\n",
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nBODY",
        "HEAD /echo HTTP/1.1\r\nhost: a\r\n",
        "HEAD /stream HTTP/1.1\r\nhost: a\r\n",
        "GET /stream HTTP/1.1\r\nhost: a\r\n",
        "GET /big HTTP/1.1\r\nhost: a\r\n",
        "GET /trailers HTTP/1.1\r\nhost: a\r\n",
        "GET /trailers HTTP/1.1\r\nhost: a\r\nte: gzip, Trailers\r\n",
        "GET /204 HTTP/1.1\r\nhost: a\r\n",
        "GET /304 HTTP/1.1\r\nhost: a\r\n",
        "GET /close HTTP/1.1\r\nhost: a\r\n",
        "DELETE /none?x=%20y HTTP/1.1\r\nhost: a\r\n",
    ] {
        let mut answers = Vec::new();
        for through_hyper in [false, true] {
            let mut stream = TcpStream::connect(running.addr).await.unwrap();
            if through_hyper {
                stream.write_all(HAND_OVER.as_bytes()).await.unwrap();
                assert!(read_until(&mut stream, "\r\n\r\nhi").await.starts_with("HTTP/1.1 200"));
            }
            let text = match request.strip_suffix("BODY") {
                Some(head) => format!("{head}connection: close\r\n\r\nhello"),
                None => format!("{request}connection: close\r\n\r\n"),
            };
            stream.write_all(text.as_bytes()).await.unwrap();
            answers.push(normal(&read_until(&mut stream, "\0").await));
        }
        // Chunks are cut where it suits the writer.
        let unchunked =
            |(head, body): &(Vec<String>, String)| (head.clone(), body.matches('x').count(), body.ends_with("0\r\n\r\n"));
        assert_eq!(unchunked(&answers[0]), unchunked(&answers[1]), "{request}");
        if !request.contains("/stream") {
            assert_eq!(answers[0], answers[1], "{request}");
        }
    }
}

/// hyper may drop the head with the body that fails behind it; here the client sees what there was, and no regular end.
#[tokio::test]
async fn a_body_that_fails_is_cut_and_not_ended() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(b"GET /fails HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (head, body) = normal(&read_until(&mut stream, "\0").await);
    assert_eq!(head, ["HTTP/1.1 200 OK", "transfer-encoding: chunked"]);
    assert_eq!(body, "3\r\none\r\n");
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(b"GET /short HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (head, body) = normal(&read_until(&mut stream, "\0").await);
    assert_eq!(head, ["HTTP/1.1 200 OK", "content-length: 10"]);
    assert_eq!(body, "one");
}

#[tokio::test]
async fn plain_and_other_requests_take_turns_on_one_connection() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    let plain = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok";
    let all = [plain, plain, "GET /none HTTP/1.1\r\nhost: a\r\n\r\n", plain, HAND_OVER, plain, HAND_OVER, plain].concat();
    stream.write_all(all.as_bytes()).await.unwrap();
    stream.write_all(b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let answers = read_until(&mut stream, "\0").await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 9, "{answers}");
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).map(|b| b.split("HTTP/1.1").next().unwrap()).collect();
    assert_eq!(bodies, ["ok", "ok", "", "ok", "hi", "ok", "hi", "ok", ""]);
}

#[tokio::test]
async fn requests_may_come_in_any_pieces() {
    let running = start().await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    for size in [1, 7, 40, request.len() - 5, request.len() - 1] {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for _ in 0..2 {
            for piece in request.as_bytes().chunks(size) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert!(read_until(&mut stream, "\r\n\r\nhello").await.starts_with("HTTP/1.1 200"), "{size}");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_work_for_it() {
    let running = start().await;
    for path in ["/never", "/quiet"] {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        if path == "/quiet" {
            assert!(read_until(&mut stream, "3\r\none\r\n").await.contains("chunked"));
        } else {
            wait(|| running.seen.alive.load(SeqCst) == 1).await;
        }
        drop(stream);
        wait(|| running.seen.alive.load(SeqCst) == 0 && running.server.stats().open == 0).await;
    }
}

async fn wait(done: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in time");
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_body() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let polled = running.seen.polled.load(SeqCst);
        if polled == last && polled > 0 {
            break;
        }
        last = polled;
    }
    assert!(last < 1_000, "{last} frames of 64 KiB were taken for a client that reads none");
    let mut rest = Vec::new();
    let read = async {
        let mut buf = vec![0; 1 << 20];
        while !rest.ends_with(b"0\r\n\r\n") {
            let n = stream.read(&mut buf).await.unwrap();
            assert_ne!(n, 0);
            rest.extend_from_slice(&buf[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the whole body");
    assert_eq!(memchr::memchr_iter(b'x', &rest).count(), 4096 * 64 * 1024);
}

#[tokio::test]
async fn an_answer_that_switches_protocols_unasked_is_an_error() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(b"GET /101 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "\0").await.starts_with("HTTP/1.1 500"));
}

#[tokio::test]
async fn a_goodbye_lets_the_request_in_flight_finish() {
    let running = start().await;
    let mut idle = TcpStream::connect(running.addr).await.unwrap();
    idle.write_all(b"GET /none HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(read_until(&mut idle, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    let mut busy = TcpStream::connect(running.addr).await.unwrap();
    busy.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    wait(|| running.seen.polled.load(SeqCst) > 1).await;
    running.server.shut_down();
    assert_eq!(read_until(&mut idle, "\0").await, "");
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), busy.read_to_end(&mut rest)).await.expect("an end").unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"));
}
