//! The timers of connections on a runtime of their own, which is set once for a process and so is a test program of its own.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure real time"
)]

use std::{convert::Infallible, future::pending, thread, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use portcullis::{clock::set_timer_runtime, serve::Server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::timeout,
};

const KEEP_ALIVE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn they_ring_only_while_their_runtime_is_driven() {
    let timers = Builder::new_current_thread().enable_time().build().unwrap();
    set_timer_runtime(timers.handle().clone()).unwrap();
    set_timer_runtime(timers.handle().clone()).unwrap_err();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let service = tower::service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let server = Server::builder().keep_alive(KEEP_ALIVE).build();
    tokio::spawn(async move { server.serve(listener, service, pending()).await });

    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 512];
    let read = timeout(Duration::from_secs(10), stream.read(&mut answer)).await.expect("answered").unwrap();
    assert!(answer.get(..read).unwrap().starts_with(b"HTTP/1.1 200"));

    // Served by this runtime, timed by the other, which nobody drives as yet.
    timeout(KEEP_ALIVE * 4, stream.read(&mut answer)).await.expect_err("still open");
    thread::spawn(move || timers.block_on(pending::<()>()));
    assert_eq!(timeout(Duration::from_secs(10), stream.read(&mut answer)).await.expect("closed in time").unwrap(), 0);
}
