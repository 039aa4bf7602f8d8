//! Clients that are slow on purpose, and the others beside them.

use std::time::{Duration, Instant};

use portcullis::serve::Server;

use crate::support::*;

pub fn short() -> portcullis::serve::ServerBuilder {
    Server::builder()
        .header_timeout(T)
        .body_idle_timeout(T)
        .write_idle_timeout(T)
        .min_rate(1000, 1000, T * 2)
        .linger(Duration::from_millis(300))
}

pub async fn target() -> Target {
    Target::new(|mut wire| async move {
        while let Some(request) = wire.request().await {
            if request.head.contains("/big") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n").await;
                for _ in 0..500 {
                    use tokio::io::AsyncWriteExt as _;
                    if wire.stream.write_all(&[b'x'; 100_000]).await.is_err() {
                        return;
                    }
                }
            } else {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

/// Others are served while the slow ones hang on: the slowest of their answers.
async fn others(stack: &Stack, path: &str, while_running: impl Fn() -> bool) -> Duration {
    let mut worst = Duration::ZERO;
    loop {
        let asked = Instant::now();
        assert_eq!(soon("another client", stack.connect().await.get(path)).await.status(), 200);
        worst = worst.max(asked.elapsed());
        if !while_running() {
            return worst;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_slow_heads() {
    let _alone = alone().await;
    let (target, stack) = (target().await, Stack::start(Setup { server: short(), ..Setup::default() }).await);
    let mut slow = Vec::new();
    for i in 0..200 {
        let mut client = stack.connect().await;
        let started = Instant::now();
        slow.push(tokio::spawn(async move {
            client.send("GET /proxy/http://127.0.0.1/ HTTP/1.1\r\nHost: p\r\n").await;
            let drip = async {
                tokio::time::sleep(Duration::from_millis(i % 100)).await;
                let mut ended = false;
                while !ended {
                    client.send("X-a: b\r\n").await;
                    ended = tokio::time::timeout(Duration::from_millis(100), client.fill()).await.is_ok_and(|more| !more);
                }
                assert!(client.buf.is_empty(), "answered");
            };
            soon("the end", drip).await;
            started.elapsed()
        }));
    }
    let worst = others(&stack, &target.path("/"), || slow.iter().any(|s| !s.is_finished())).await;
    for one in slow {
        let took = one.await.unwrap();
        assert!(took > T / 2 && took < T + Duration::from_secs(1), "{took:?}");
    }
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    assert_eq!(stack.server.stats().header_timeouts, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_slow_bodies() {
    let _alone = alone().await;
    let (target, stack) = (target().await, Stack::start(Setup { server: short(), ..Setup::default() }).await);
    let mut slow = Vec::new();
    for i in 0..50 {
        let mut client = stack.connect().await;
        let path = target.path("/");
        slow.push(tokio::spawn(async move {
            let started = Instant::now();
            client.send(format!("POST {path} HTTP/1.1\r\nHost: p\r\nContent-Length: 100000\r\n\r\nx")).await;
            // Every second one drips instead of stopping.
            while client.buf.is_empty() {
                assert!(started.elapsed() < PATIENCE, "no answer");
                let _ = tokio::time::timeout(Duration::from_millis(50), client.fill()).await;
                if i % 2 == 1 && client.buf.is_empty() {
                    client.send("x").await;
                }
            }
            let text = String::from_utf8_lossy(&client.buf).into_owned();
            assert!(text.starts_with("HTTP/1.1 408"), "{text}");
            started.elapsed()
        }));
    }
    let worst = others(&stack, &target.path("/"), || slow.iter().any(|s| !s.is_finished())).await;
    for one in slow {
        let took = one.await.unwrap();
        assert!(took < T * 2 + Duration::from_secs(2), "{took:?}");
    }
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    until("the target's connections", PATIENCE, || target.open() <= stack.upstream.idle_connections()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_slow_readers() {
    let _alone = alone().await;
    let (target, stack) = (target().await, Stack::start(Setup { server: short(), ..Setup::default() }).await);
    let mut slow = Vec::new();
    for i in 0..20 {
        let mut client = stack.connect().await;
        socket2::SockRef::from(&client.stream).set_recv_buffer_size(8 * 1024).unwrap();
        client.send(format!("GET {} HTTP/1.1\r\nHost: p\r\n\r\n", target.path("/big"))).await;
        // Every second one reads nothing at all, the others a few bytes now and then.
        slow.push(tokio::spawn(async move {
            use tokio::io::AsyncReadExt as _;
            let started = Instant::now();
            let mut byte = [0; 16];
            while started.elapsed() < T * 6 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if i % 2 == 0 && !matches!(client.stream.read(&mut byte).await, Ok(n) if n > 0) {
                    break;
                }
            }
        }));
    }
    let started = Instant::now();
    let worst = others(&stack, &target.path("/"), || {
        stack.server.stats().write_stalls < 20 && started.elapsed() < T * 2 + Duration::from_secs(4)
    })
    .await;
    assert_eq!(stack.server.stats().write_stalls, 20, "{:?}", stack.server.stats());
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    until("the target's connections", PATIENCE, || target.open() <= stack.upstream.idle_connections()).await;
    for one in slow {
        one.abort();
    }
}

/// Whether the connection ends with a reset, and not with the rest of what was sent.
pub async fn is_reset(client: &mut Wire) -> bool {
    use tokio::io::AsyncReadExt as _;
    let mut piece = vec![0; 64 * 1024];
    loop {
        match soon("the end", client.stream.read(&mut piece)).await {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test]
async fn what_a_stalled_reader_has_not_taken_is_not_kept_for_it() {
    let _alone = alone().await;
    let (target, stack) = (target().await, Stack::start(Setup { server: short(), ..Setup::default() }).await);
    let mut client = stack.connect().await;
    client.send(format!("GET {} HTTP/1.1\r\nHost: p\r\n\r\n", target.path("/big"))).await;
    until("the stall", PATIENCE, || stack.server.stats().write_stalls == 1).await;
    until("connections", PATIENCE, || stack.server.stats().open == 0).await;
    assert!(is_reset(&mut client).await);
}
