//! Upgrades, byte by byte.

use std::time::Duration;

use portcullis::proxy::WebSocketLimits;
use tokio::io::AsyncWriteExt;

use crate::support::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub fn handshake(origin: &Target, more: &str) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: p\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{more}\r\n",
        origin.path("/ws")
    )
}

pub fn switch(more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{more}\r\n"
    )
}

/// Switches, sends a frame at once, then echoes bytes.
async fn echo() -> Target {
    Target::recording(|mut wire| async move {
        wire.head().await.unwrap();
        assert!(wire.buf.is_empty(), "nothing after the head before the 101");
        wire.send(format!("{}Z\u{5}early", switch("Sec-WebSocket-Protocol: chat\r\n"))).await;
        wire.echo().await;
        wire.send("last words").await;
    })
    .await
}

#[tokio::test]
async fn bytes_cross_untouched_with_early_ones_and_half_close() {
    let origin = echo().await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    client
        .send(handshake(&origin, "Sec-WebSocket-Protocol: chat, other\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"))
        .await;
    let head = client.head().await.unwrap();
    let answer = Message { head, body: vec![], complete: true };
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.field("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(answer.field("sec-websocket-protocol"), Some("chat"));
    assert!(origin.seen().to_ascii_lowercase().contains("sec-websocket-extensions: permessage-deflate"));
    let frame = [0x82, 0x85, 1, 2, 3, 4, 9, 9, 9, 9, 9];
    client.send(frame).await;
    client.stream.shutdown().await.unwrap();
    client.gone().await;
    let mut want = b"Z\x05early".to_vec();
    want.extend_from_slice(&frame);
    want.extend_from_slice(b"last words");
    assert_eq!(client.buf, want);
}

#[tokio::test]
async fn wrong_answers_to_the_handshake_are_502_and_refusals_are_relayed() {
    let proxy = Proxy::new().await;
    for (answer, status) in [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_owned(), 502),
        (switch("").replace(ACCEPT, "wrong"), 502),
        (switch("Sec-WebSocket-Protocol: unoffered\r\n"), 502),
        (switch("Sec-WebSocket-Extensions: x-unoffered\r\n"), 502),
        (switch("").replace("Upgrade: websocket", "Upgrade: h2c"), 502),
        ("HTTP/1.1 401 Unauthorized\r\nX-Why: no\r\nContent-Length: 4\r\n\r\nno!!".to_owned(), 401),
    ] {
        let sent = answer.clone();
        let origin = Target::recording(move |mut wire| {
            let answer = answer.clone();
            async move {
                wire.head().await;
                wire.send(answer).await;
            }
        })
        .await;
        let got = proxy.ask(handshake(&origin, "")).await;
        assert_eq!(got.status(), status, "{sent}");
        if status == 401 {
            assert_eq!((got.field("x-why"), got.body.as_slice()), (Some("no"), &b"no!!"[..]));
        }
    }
}

#[tokio::test]
async fn cve_2026_2833_nothing_follows_the_head_before_the_101() {
    let origin = echo().await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    // The request behind the handshake must not reach the target as one.
    client
        .send(format!("{}GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", handshake(&origin, "Sec-WebSocket-Protocol: chat\r\n")))
        .await;
    client.head().await.unwrap();
    client.stream.shutdown().await.unwrap();
    client.gone().await;
    assert!(String::from_utf8_lossy(&client.buf).contains("GET /smuggled"), "it came as tunnel bytes, after the 101");
}

#[tokio::test]
async fn other_upgrades_are_dropped_and_broken_ones_refused() {
    let origin = Target::fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = Proxy::new().await;
    let answer = proxy
        .ask(format!(
            "GET {} HTTP/1.1\r\nHost: p\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            origin.path("/")
        ))
        .await;
    assert_eq!(answer.status(), 200);
    let seen = origin.seen().to_ascii_lowercase();
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
    let broken = handshake(&origin, "").replace(KEY, "short");
    assert_eq!(proxy.ask(broken).await.status(), 400);
    let plain = format!("GET /proxy/ws://{}/ HTTP/1.1\r\nHost: p\r\n\r\n", origin.addr);
    assert_eq!(proxy.ask(plain).await.status(), 426);
}

#[tokio::test]
async fn a_message_too_large_closes_with_1009_at_a_frame_boundary() {
    let origin = echo().await;
    let proxy = Proxy::with(|b| b, |b| b.websocket_limits(WebSocketLimits::none().max_message(100))).await;
    let mut client = proxy.client().await;
    client.send(handshake(&origin, "Sec-WebSocket-Protocol: chat\r\n")).await;
    client.head().await.unwrap();
    let small = [0x82, 0x82, 0, 0, 0, 0, 1, 2];
    client.send(small).await;
    let mut large = vec![0x82, 0xfe, 0, 200, 0, 0, 0, 0];
    large.resize(large.len() + 200, 7);
    client.send(&large).await;
    client.gone().await;
    assert!(client.buf.ends_with(&[0x88, 0x02, 0x03, 0xf1]), "1009 to the client: {:?}", client.buf);
    let want = [0x82, 0x82, 0, 0, 0, 0, 1, 2, 0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf1];
    soon("1009 to the target, at a boundary", async {
        while !origin.seen_bytes().ends_with(&want) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let origin = echo().await;
    let proxy = Proxy::with(|b| b, |b| b.tunnel_idle_timeout(Duration::from_millis(200))).await;
    let mut client = proxy.client().await;
    client.send(handshake(&origin, "Sec-WebSocket-Protocol: chat\r\n")).await;
    client.head().await.unwrap();
    soon("the end of the tunnel", client.gone()).await;
}

#[tokio::test]
async fn a_policy_that_forbids_the_target_closes_its_tunnel_with_1008() {
    let origin = Target::recording(|mut wire| async move {
        wire.head().await.unwrap();
        wire.send(switch("")).await;
        wire.gone().await;
    })
    .await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    client.send(handshake(&origin, "")).await;
    client.head().await.unwrap();
    proxy.policy.swap(policy());
    client.send([0x89, 0x80, 0, 0, 0, 0]).await;
    while !origin.seen_bytes().ends_with(&[0x89, 0x80, 0, 0, 0, 0]) {
        tokio::task::yield_now().await;
    }
    proxy.policy.swap(portcullis::egress::EgressPolicy::builder().build().unwrap());
    client.gone().await;
    assert!(client.buf.ends_with(&[0x88, 0x02, 0x03, 0xf0]), "{:?}", client.buf);
}
