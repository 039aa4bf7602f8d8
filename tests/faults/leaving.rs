//! Clients that go away: what they had asked for is given up at once.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::support::*;

/// From the client's end to the target's.
const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_is_left_at_once() {
    let _alone = alone().await;
    // Silent for `/silent`, otherwise an answer that does not end.
    let target = Target::new(|mut wire| async move {
        let head = wire.head().await.unwrap_or_default();
        if field(&head, "upgrade").is_some() {
            wire.send(format!("{SWITCH}\u{2}\u{5}early")).await;
        } else if head.contains("/events") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
        } else if head.contains("/begun") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nearly").await;
        }
        wire.gone().await;
    })
    .await;
    // No time limit of this server helps here.
    let stack = Stack::start(Setup { upstream: |b| b, service: |b| b, in_flight: 100, ..Setup::default() }).await;
    let get = |path: &str| format!("GET {} HTTP/1.1\r\nHost: p\r\n\r\n", target.path(path));
    let post = |path: &str, length: usize| {
        format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: {length}\r\n\r\nsome", target.path(path))
    };
    let requests = [
        ("GET, nothing yet", get("/silent"), false),
        ("GET, in the answer", get("/begun"), true),
        ("POST, in the upload", post("/silent", 100), false),
        ("POST, after the upload", post("/silent", 4), false),
        ("POST, in both", post("/begun", 100), true),
        ("events", get("/events"), true),
        ("WebSocket", handshake(&target.path("/ws")), true),
    ];
    let mut late = Vec::new();
    for (what, request, answers) in &requests {
        for reset in [true, false] {
            let mut client = stack.connect().await;
            client.send(request).await;
            if *answers {
                assert!(soon("the answer", client.fill()).await, "{what}");
            }
            until("the target's connection", PATIENCE, || target.open() == 1).await;
            // It has to have what was sent, or there is nothing to give up.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let left = Instant::now();
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            while target.open() > 0 && left.elapsed() < AT_ONCE * 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let took = left.elapsed();
            println!("{what:>24} reset: {reset:<5} {took:?}");
            if took > AT_ONCE {
                late.push(format!("{what}, reset: {reset}, {took:?}"));
            }
            until(what, PATIENCE, || target.open() == 0).await;
        }
    }
    assert!(late.is_empty(), "{late:#?}");
    until("permits", PATIENCE, || stack.permits.running() == 0).await;
    until("connections", PATIENCE, || stack.server.stats().open == 0 && stack.server.tunnels().is_empty()).await;
}

/// A target that ends its side of a tunnel first is answered by the client, and the other way round.
#[tokio::test]
async fn a_half_closed_tunnel_still_carries_the_other_direction() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        wire.head().await;
        wire.send(SWITCH).await;
        let _ = wire.stream.shutdown().await;
        while wire.fill().await {}
        assert_eq!(wire.buf, b"\x82\x80\0\0\0\0");
    })
    .await;
    let stack = Stack::start(Setup { service: |b| b, ..Setup::default() }).await;
    let mut client = stack.connect().await;
    client.send(handshake(&target.path("/ws"))).await;
    let seen = soon("the target's end", client.response()).await;
    assert_eq!((seen.status(), seen.body.len()), (101, 0));
    assert_eq!(stack.server.tunnels().len(), 1, "the other direction is open");
    client.send(b"\x82\x80\0\0\0\0").await;
    client.stream.shutdown().await.unwrap();
    until("the target's connection", T, || target.open() == 0).await;
    until("tunnels", T, || stack.server.tunnels().is_empty()).await;
}
