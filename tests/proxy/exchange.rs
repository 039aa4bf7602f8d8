//! Connections, retries, streaming and the end of either side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, sync::Notify};

use crate::support::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_are_reused_but_never_across_principals_or_policies() {
    let origin = Target::fixed(OK).await;
    let proxy = Proxy::new().await;
    let ask = async |tenant: &str| {
        let answer = proxy.ask(format!("GET {} HTTP/1.1\r\nHost: p\r\nX-Tenant: {tenant}\r\n\r\n", origin.path("/"))).await;
        assert_eq!(answer.status(), 200);
    };
    ask("a").await;
    ask("a").await;
    assert_eq!(origin.accepted(), 1);
    ask("b").await;
    assert_eq!(origin.accepted(), 2, "another principal has another connection");
    ask("a").await;
    assert_eq!(origin.accepted(), 2);
    proxy.policy.swap(policy());
    ask("a").await;
    assert_eq!(origin.accepted(), 3, "another policy has another pool");
    assert_eq!(proxy.upstream.idle_connections(), 1, "and the old one is purged");
}

/// A request that crosses with the target's close is lost, and a POST cannot be sent again.
#[tokio::test]
async fn a_connection_that_its_target_is_about_to_close_is_not_reused() {
    for (field, connections) in [("timeout=1", 2), ("timeout=60, max=5", 1)] {
        let origin = Target::new(move |mut wire| async move {
            while wire.request().await.is_some() {
                wire.send(format!("HTTP/1.1 200 OK\r\nKeep-Alive: {field}\r\nContent-Length: 2\r\n\r\nok")).await;
            }
        })
        .await;
        let proxy = Proxy::new().await;
        for _ in 0..2 {
            assert_eq!(proxy.get(&origin.path("/")).await.status(), 200);
        }
        assert_eq!(origin.accepted(), connections, "{field}");
    }
}

#[tokio::test]
async fn a_dead_reused_connection_costs_a_get_nothing_and_a_post_is_seen_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let origin = Target::recording(move |mut wire| {
        let count = count.clone();
        async move {
            // One answer, then the next request is swallowed and the connection closed.
            wire.request().await;
            wire.send(OK).await;
            if wire.request().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = Proxy::new().await;
    assert_eq!(proxy.get(&origin.path("/")).await.status(), 200);
    assert_eq!(proxy.get(&origin.path("/")).await.status(), 200, "sent again on a new connection");
    assert_eq!((requests.load(Ordering::SeqCst), origin.accepted()), (1, 2));
    let post = proxy.ask(format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\nhi", origin.path("/"))).await;
    assert_eq!(post.status(), 502);
    assert_eq!((requests.load(Ordering::SeqCst), origin.accepted()), (2, 2), "a POST is not sent twice");
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_upstream_at_once() {
    let closed = Arc::new(Notify::new());
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    let origin = Target::recording(move |mut wire| {
        let (closed, tx) = (closed.clone(), tx.clone());
        async move {
            let request = wire.request().await.unwrap();
            if request.head.contains("/stream") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
            }
            tx.send("arrived").unwrap();
            wire.gone().await;
            tx.send("gone").unwrap();
            closed.notify_one();
        }
    })
    .await;
    let proxy = Proxy::new().await;
    for path in ["/silent", "/stream"] {
        let mut client = proxy.client().await;
        client.send(format!("GET {} HTTP/1.1\r\nHost: p\r\n\r\n", origin.path(path))).await;
        assert_eq!(soon("arrival", rx.recv()).await, Some("arrived"));
        if path == "/stream" {
            client.head().await.unwrap();
        }
        let left = Instant::now();
        drop(client);
        assert_eq!(soon("the end", rx.recv()).await, Some("gone"));
        assert!(left.elapsed() < Duration::from_millis(50), "{path}: {:?}", left.elapsed());
    }
}

#[tokio::test]
async fn a_response_streams_while_the_upload_still_runs() {
    let origin = Target::recording(|mut wire| async move {
        wire.head().await.unwrap();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let piece = std::mem::take(&mut wire.buf);
            if !piece.is_empty() {
                wire.send(format!("{:x}\r\n", piece.len())).await;
                wire.send(&piece).await;
                wire.send("\r\n").await;
            }
            if piece.ends_with(b"0\r\n\r\n") {
                wire.send("0\r\n\r\n").await;
                return;
            }
            if !wire.fill().await {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n", origin.path("/"))).await;
    client.head().await.unwrap();
    for word in ["first", "second"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        while !String::from_utf8_lossy(&client.buf).contains(word) {
            assert!(client.fill().await, "{word} comes back before the upload ends");
        }
    }
    client.send("0\r\n\r\n").await;
    while !client.buf.ends_with(b"0\r\n\r\n") {
        assert!(client.fill().await);
    }
}

#[tokio::test]
async fn expect_100_continue_waits_for_the_target() {
    let origin = Target::recording(|mut wire| async move {
        let head = wire.head().await.unwrap();
        if head.contains("/no") {
            wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
            wire.gone().await;
        } else {
            assert!(wire.buf.is_empty(), "no body before the 100");
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            while wire.buf.len() < 5 {
                assert!(wire.fill().await);
            }
            wire.send(OK).await;
        }
    })
    .await;
    let proxy = Proxy::new().await;
    let head = |path: &str| {
        format!("POST {} HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", origin.path(path))
    };
    let mut client = proxy.client().await;
    client.send(head("/yes")).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 100"));
    client.send("hello").await;
    assert_eq!(client.response().await.status(), 200);

    let mut client = proxy.client().await;
    client.send(head("/no")).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 413"), "the final answer, and no 100 before it");
}

#[tokio::test]
async fn a_stalled_reader_holds_back_the_target() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let origin = Target::recording(move |mut wire| {
        let count = count.clone();
        async move {
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").await;
            let piece = vec![0; 64 * 1024];
            while let Ok(n) = wire.stream.write(&piece).await {
                count.fetch_add(n, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    client.send(format!("GET {} HTTP/1.1\r\nHost: p\r\n\r\n", origin.path("/"))).await;
    client.head().await.unwrap();
    // Until the sockets between them are full, then nothing moves.
    let mut last = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = sent.load(Ordering::SeqCst);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(last < 24 << 20, "{last} bytes were taken from the target for a client that reads nothing");
}

#[tokio::test]
async fn time_limits_answer_504_before_the_head_and_cut_the_body_after_it() {
    let origin = Target::recording(|mut wire| async move {
        let request = wire.request().await.unwrap();
        if request.head.contains("/body") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        }
        wire.gone().await;
    })
    .await;
    let short = Duration::from_millis(200);
    let proxy = Proxy::with(|b| b.header_timeout(short).idle_timeout(short), |b| b).await;
    let start = Instant::now();
    let answer = proxy.get(&origin.path("/head")).await;
    assert_eq!((answer.status(), answer.field("proxy-status")), (504, Some("portcullis; error=http_response_timeout")));
    assert!(start.elapsed() >= short && start.elapsed() < short + Duration::from_millis(500));
    let start = Instant::now();
    let answer = proxy.get(&origin.path("/body")).await;
    assert_eq!((answer.status(), answer.complete), (200, false));
    assert!(start.elapsed() < short + Duration::from_millis(500));
}

#[tokio::test]
async fn connect_is_a_tunnel_with_half_close() {
    let origin = Target::recording(|mut wire| async move {
        wire.send("hello first").await;
        wire.gone().await;
        let all = wire.buf.clone();
        wire.send(all).await;
    })
    .await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr)).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    client.send("and back").await;
    client.stream.shutdown().await.unwrap();
    client.gone().await;
    assert_eq!(String::from_utf8_lossy(&client.buf), "hello firstand back");
}
