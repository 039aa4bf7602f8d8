//! The same clients over HTTP/2: heads that never end, bodies that drip, replies that are not taken. Frames are written by hand
//! where no client would send them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use crate::{
    http2::{client, rest},
    slow::{short, target},
    support::*,
};

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn preface() -> Vec<u8> {
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
}

/// Fields as literals that are not indexed (RFC 7541 §6.2.2).
fn block(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":authority", "proxy"), (":path", path)] {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// Drips `piece` until the connection has ended.
async fn drip(client: &mut Wire, piece: &[u8]) {
    let ends = async {
        loop {
            client.send(piece).await;
            if tokio::time::timeout(T / 8, client.fill()).await.is_ok_and(|more| !more) {
                return;
            }
        }
    };
    soon("the end", ends).await;
}

#[tokio::test]
async fn a_first_head_that_does_not_end_has_the_header_time() {
    let _alone = alone().await;
    let stack = Stack::start(Setup { server: short(), ..Setup::default() }).await;
    let begun = frame(HEADERS, END_STREAM, 1, &block("/none")[..10]);
    let settings = [preface(), frame(SETTINGS, 0, 0, &[])].concat();
    for (what, first, then) in [
        ("no settings", preface(), Vec::new()),
        ("no request", settings.clone(), Vec::new()),
        ("only pings", settings.clone(), frame(6, 0, 0, &[0; 8])),
        ("half a head", [&settings[..], &begun].concat(), Vec::new()),
        // Empty ones add nothing to the size of the header section.
        ("empty continuations", [&settings[..], &begun].concat(), frame(CONTINUATION, 0, 1, &[])),
        ("dripping continuations", [&settings[..], &begun].concat(), frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y'])),
    ] {
        let mut client = stack.connect().await;
        let started = Instant::now();
        client.send(first).await;
        drip(&mut client, &then).await;
        let took = started.elapsed();
        assert!(took < T + SLACK, "{what}: {took:?}");
    }
    until("connections", PATIENCE, || stack.server.stats().open == 0).await;
}

#[tokio::test]
async fn a_later_head_that_does_not_end_holds_its_own_connection_and_that_not_for_ever() {
    let _alone = alone().await;
    let target = target().await;
    let stack = Stack::start(Setup { server: short().keep_alive(T), ..Setup::default() }).await;
    let mut slow = stack.connect().await;
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&target.path("/")));
    slow.send([preface(), frame(SETTINGS, 0, 0, &[]), whole].concat()).await;
    while !slow.buf.ends_with(b"ok") && !slow.buf.windows(2).any(|w| w == b"ok") {
        assert!(soon("the answer", slow.fill()).await);
    }
    let started = Instant::now();
    slow.send(frame(HEADERS, END_STREAM, 3, &block("/none")[..10])).await;
    let dripping = tokio::spawn(async move { drip(&mut slow, &frame(CONTINUATION, 0, 3, &[0, 1, b'x', 1, b'y'])).await });
    assert_eq!(soon("another client", stack.connect().await.get(&target.path("/"))).await.status(), 200);
    soon("the end", dripping).await.unwrap();
    // Told to go after the keep-alive time, and cut after another one.
    assert!(started.elapsed() < T * 2 + Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_that_stalls_or_drips_is_408_and_its_neighbours_go_on() {
    let _alone = alone().await;
    let target = target().await;
    let stack = Stack::start(Setup { server: short(), ..Setup::default() }).await;
    let mut sender = client(&stack).await.ready().await.unwrap();
    let mut slow = Vec::new();
    for i in 0..10 {
        let request = Request::post(format!("http://proxy{}", target.path("/"))).header("content-length", 100_000);
        let (answer, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        sender = sender.ready().await.unwrap();
        slow.push(tokio::spawn(async move {
            let (started, mut answer) = (Instant::now(), std::pin::pin!(answer));
            let _ = send.send_data(Bytes::from_static(b"x"), false);
            loop {
                // Every second one stops after the first byte.
                if let Ok(answer) = tokio::time::timeout(T / 16, answer.as_mut()).await {
                    return (answer.unwrap().status(), started.elapsed());
                }
                if i % 2 == 0 {
                    let _ = send.send_data(Bytes::from_static(b"x"), false);
                }
            }
        }));
    }
    while slow.iter().any(|s| !s.is_finished()) {
        let request = Request::get(format!("http://proxy{}", target.path("/"))).body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let answer = soon("a neighbour", answer).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), soon("its body", rest(&mut answer.into_body())).await.unwrap()),
            (200, b"ok".into())
        );
        sender = sender.ready().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for one in slow {
        let (status, took) = soon("a slow one", one).await.unwrap();
        assert_eq!(status, 408);
        // The server looks at streams once a second.
        assert!(took < T * 2 + Duration::from_secs(2), "{took:?}");
    }
    assert_eq!(stack.server.stats().body_stalls, 10);
    until("the target's connections", PATIENCE, || target.open() <= stack.upstream.idle_connections()).await;
}

/// Windows as large as they can be, and a socket that is not read.
#[tokio::test]
async fn a_connection_that_takes_nothing_is_reset() {
    let _alone = alone().await;
    let target = target().await;
    let stack =
        Stack::start(Setup { server: short().ping(Duration::from_secs(60), Duration::from_secs(60)), ..Setup::default() }).await;
    let mut client = stack.connect().await;
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(8 * 1024).unwrap();
    let window = 0x7fff_ffffu32 - 65535;
    let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &0x7fff_ffffu32.to_be_bytes()].concat());
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&target.path("/big")));
    client.send([preface(), settings, frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes()), request].concat()).await;
    until("the stall", PATIENCE, || stack.server.stats().write_stalls == 1).await;
    until("connections", PATIENCE, || stack.server.stats().open == 0).await;
    assert!(crate::slow::is_reset(&mut client).await, "what was not taken is kept by the kernel");
    until("the target's connections", PATIENCE, || target.open() <= stack.upstream.idle_connections()).await;
}
