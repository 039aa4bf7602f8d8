//! HTTP/2 from the client, HTTP/1.1 to the target: plain requests, and WebSockets by extended `CONNECT` (RFC 8441).

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest, ext::Protocol};
use http::{Method, Request};
use portcullis::{
    proxy::{ProxyServiceBuilder, WebSocketPing},
    serve::Server,
};
use tokio::net::TcpStream;

use crate::support::*;

pub async fn client(stack: &Stack) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(stack.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    // The settings have arrived when the first answer has.
    let (answer, _) = sender.send_request(Request::get("http://proxy/none").body(()).unwrap(), true).unwrap();
    assert_eq!(soon("the first answer", answer).await.unwrap().status(), 400);
    sender
}

/// Everything up to the end of the stream; an error is a reset.
pub async fn rest(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn connect(path: &str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://proxy{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat, other")
        .header("origin", "http://proxy")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

fn accept(key: &str) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let hash = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::engine::general_purpose::STANDARD.encode(hash)
}

/// Greets and echoes; with `/refuse` it does not switch.
async fn websocket_target() -> Target {
    Target::new(|mut wire| async move {
        let Some(head) = wire.head().await else { return };
        assert!(head.starts_with("GET /"), "{head}");
        assert_eq!(field(&head, "connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"), "{head}");
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "sec-websocket-version"), Some("13"));
        assert_eq!(field(&head, "sec-websocket-protocol"), Some("chat, other"));
        assert!(wire.buf.is_empty(), "bytes of the new protocol came before the switch");
        if head.contains("/refuse") {
            wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
            return wire.gone().await;
        }
        let accept = accept(field(&head, "sec-websocket-key").unwrap());
        let accept = if head.contains("/wrong") { "wrong".into() } else { accept };
        wire.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n\u{2}\u{5}early"
        ))
        .await;
        wire.echo().await;
    })
    .await
}

#[tokio::test]
async fn websockets_over_one_http2_connection() {
    let _alone = alone().await;
    let target = websocket_target().await;
    let stack = Stack::start(Setup { service: |b| b, ..Setup::default() }).await;
    let sender = client(&stack).await;
    let mut sender = sender.ready().await.unwrap();
    assert!(sender.is_extended_connect_protocol_enabled(), "SETTINGS_ENABLE_CONNECT_PROTOCOL is missing");
    let mut tunnels = Vec::new();
    for i in 0..10u8 {
        let (answer, mut send) = sender.send_request(connect(&target.path("/ws")), false).unwrap();
        let answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for gone in ["sec-websocket-accept", "connection", "upgrade"] {
            assert!(!answer.headers().contains_key(gone), "{gone}");
        }
        send.send_data(Bytes::from(vec![0x82, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', i]), false).unwrap();
        tunnels.push((i, send, answer.into_body()));
        sender = sender.ready().await.unwrap();
    }
    until("tunnels", PATIENCE, || stack.server.tunnels().len() == 10).await;
    for (i, mut send, mut body) in tunnels {
        send.send_data(Bytes::new(), true).unwrap();
        let all = soon("the echo", rest(&mut body)).await.unwrap();
        assert_eq!(all, [&b"\x02\x05early\x82\x85\0\0\0\0hell"[..], &[i]].concat());
    }
    until("tunnels", PATIENCE, || stack.server.tunnels().is_empty()).await;
    until("the target's connections", PATIENCE, || target.open() == 0).await;

    // What the target says instead is passed on, and what is no valid answer is not.
    for (path, status) in [("/refuse", 403), ("/wrong", 502)] {
        let (answer, _send) = sender.send_request(connect(&target.path(path)), false).unwrap();
        assert_eq!(soon("the answer", answer).await.unwrap().status(), status, "{path}");
        sender = sender.ready().await.unwrap();
    }
    // Plain `CONNECT` and a wrong version are refused.
    let mut wrong = connect(&target.path("/ws"));
    wrong.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
    let (answer, _send) = sender.send_request(wrong, false).unwrap();
    assert_eq!(soon("the answer", answer).await.unwrap().status(), 400);
    until("the target's connections", PATIENCE, || target.open() == 0).await;
}

/// A client that leaves one stream closes one tunnel.
#[tokio::test]
async fn a_reset_stream_ends_its_tunnel_only() {
    let _alone = alone().await;
    let target = websocket_target().await;
    let stack = Stack::start(Setup { service: |b| b, ..Setup::default() }).await;
    let mut sender = client(&stack).await.ready().await.unwrap();
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let (answer, send) = sender.send_request(connect(&target.path("/ws")), false).unwrap();
        tunnels.push((send, soon("the answer", answer).await.unwrap().into_body()));
        sender = sender.ready().await.unwrap();
    }
    let (mut gone, _) = tunnels.remove(0);
    gone.send_reset(h2::Reason::CANCEL);
    until("the target's connection", T, || target.open() == 1).await;
    let (mut send, mut body) = tunnels.remove(0);
    send.send_data(Bytes::from_static(b"\x82\x80\0\0\0\0"), true).unwrap();
    assert!(soon("the echo", rest(&mut body)).await.unwrap().ends_with(b"\x82\x80\0\0\0\0"));
}

#[tokio::test]
async fn plain_requests_and_their_ends() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        while let Some(request) = wire.request().await {
            assert!(field(&request.head, "host").is_some() && !request.head.contains(":authority"), "{}", request.head);
            if request.head.contains("/broken") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
                // A reset overtakes a head that has not been written yet.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return;
            } else if request.head.contains("/silent") {
                return wire.gone().await;
            }
            let framing = field(&request.head, "transfer-encoding").or(field(&request.head, "content-length")).unwrap_or("none");
            let text = format!("{} {framing}", request.body.len());
            wire.send(format!("HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nContent-Length: {}\r\n\r\n{text}", text.len())).await;
        }
    })
    .await;
    let stack = Stack::start(Setup::default()).await;
    let mut sender = client(&stack).await.ready().await.unwrap();
    // Many at once over one connection.
    let mut running = Vec::new();
    for i in 0..30usize {
        let body = Bytes::from(vec![b'x'; i * 1000]);
        let request = Request::post(format!("http://proxy{}", target.path("/echo")));
        let request = if i % 2 == 0 { request.header("content-length", body.len()) } else { request };
        let (answer, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        send.send_data(body, true).unwrap();
        running.push((i, answer));
        sender = sender.ready().await.unwrap();
    }
    for (i, answer) in running {
        let answer = soon("the answer", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("keep-alive"));
        let text = String::from_utf8(soon("the body", rest(&mut answer.into_body())).await.unwrap()).unwrap();
        let framing = if i % 2 == 0 { (i * 1000).to_string() } else { "chunked".into() };
        assert_eq!(text, format!("{} {framing}", i * 1000));
    }
    // A body that breaks off is a reset, never an end.
    let request = Request::get(format!("http://proxy{}", target.path("/broken"))).body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(soon("the reset", rest(&mut answer.into_body())).await.unwrap_err().is_reset());
    // A silent target is 504; a client that gives the stream up frees it at once.
    sender = sender.ready().await.unwrap();
    let silent = || Request::get(format!("http://proxy{}", target.path("/silent"))).body(()).unwrap();
    let (answer, _) = sender.send_request(silent(), true).unwrap();
    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["proxy-status"]),
        (504, &"portcullis; error=http_response_timeout".parse().unwrap())
    );
    until("idle connections", PATIENCE, || stack.upstream.idle_connections() == 0).await;
    until("the target's connections", PATIENCE, || target.open() == 0).await;
    sender = sender.ready().await.unwrap();
    let (answer, _send) = sender.send_request(silent(), true).unwrap();
    until("the target's connection", T / 2, || target.open() == 1).await;
    drop((answer, _send));
    until("the target's connection", T / 2, || target.open() == 0).await;
}

#[tokio::test]
async fn the_drain_of_an_http2_connection() {
    let _alone = alone().await;
    let ws = websocket_target().await;
    let target = Target::new(|mut wire| async move {
        while let Some(request) = wire.request().await {
            if request.head.contains("text/event-stream") {
                wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
                return wire.gone().await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
        }
    })
    .await;
    let mut stack = Stack::start(Setup {
        server: Server::builder().drain(Duration::from_secs(3)),
        in_flight: 100,
        service: |b| b,
        ..Setup::default()
    })
    .await;
    let mut sender = client(&stack).await.ready().await.unwrap();
    let (answer, _send) = sender.send_request(connect(&ws.path("/ws")), false).unwrap();
    let mut socket = soon("the tunnel", answer).await.unwrap().into_body();
    sender = sender.ready().await.unwrap();
    let request = Request::get(format!("http://proxy{}", target.path("/"))).header("accept", "text/event-stream");
    let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    let mut events = soon("events", answer).await.unwrap().into_body();
    sender = sender.ready().await.unwrap();
    let request = Request::get(format!("http://proxy{}", target.path("/"))).body(()).unwrap();
    let (late, _) = sender.send_request(request, true).unwrap();
    until("permits", PATIENCE, || stack.permits.running() == 3).await;

    let started = std::time::Instant::now();
    stack.stop();
    let bytes = soon("the tunnel's end", rest(&mut socket)).await.unwrap();
    assert!(bytes.ends_with(b"\x88\x02\x03\xe9"), "{bytes:?}");
    assert_eq!(soon("the events' end", rest(&mut events)).await.unwrap(), b"data: 1\n\n");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let answer = soon("the request in flight", late).await.unwrap();
    assert_eq!(soon("its body", rest(&mut answer.into_body())).await.unwrap(), b"late");
    let drained = stack.ended().await;
    assert!(drained.is_clean(), "{drained:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(stack.permits.running(), 0);
    assert!(stack.server.tunnels().is_empty());
}

/// The head had been queued when the body failed; a reset alone would throw it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_breaks_off_right_after_its_head_is_seen_with_its_head() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        let Some(head) = wire.head().await else { return };
        let (length, body) = if head.contains("/some") { ("Content-Length: 9", "half") } else { ("Content-Length: 5", "") };
        let chunked = if head.contains("/chunks") { "Transfer-Encoding: chunked" } else { length };
        wire.send(format!("HTTP/1.1 200 OK\r\nX-Seen: yes\r\n{chunked}\r\n\r\n{body}")).await;
    })
    .await;
    let stack = Stack::start(Setup::default()).await;
    let mut sender = client(&stack).await;
    for round in 0..100 {
        let mut answers = Vec::new();
        for path in ["/none", "/some", "/chunks"] {
            sender = sender.ready().await.unwrap();
            let request = Request::get(format!("http://proxy{}", target.path(path))).body(()).unwrap();
            answers.push((path, sender.send_request(request, true).unwrap().0));
        }
        for (path, answer) in answers {
            let answer = soon("the answer", answer).await.unwrap_or_else(|error| panic!("round {round}, {path}: {error}"));
            assert_eq!((answer.status().as_u16(), answer.headers()["x-seen"].as_bytes()), (200, &b"yes"[..]));
            let mut body = answer.into_body();
            let mut got = Vec::new();
            let end = soon("the end", async {
                loop {
                    match body.data().await {
                        Some(Ok(piece)) => got.extend_from_slice(&piece),
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                }
            })
            .await;
            let error = end.unwrap_or_else(|| panic!("{path}: it looks whole"));
            assert!(error.is_reset() && !error.is_go_away(), "{path}: {error}");
            assert_eq!(got, if path == "/some" { &b"half"[..] } else { b"" }, "{path}");
        }
    }
    until("the target's connections", PATIENCE, || target.open() == 0).await;
}

/// Pings of the proxy reach a WebSocket over HTTP/2 as well, and its answers stay with the proxy.
#[tokio::test]
async fn quiet_websockets_over_http2_are_pinged() {
    let _alone = alone().await;
    let target = websocket_target().await;
    let ping = |b: ProxyServiceBuilder| b.websocket_ping(Some(WebSocketPing::every(T / 8).timeout(T)));
    let stack = Stack::start(Setup { service: ping, ..Setup::default() }).await;
    let mut sender = client(&stack).await.ready().await.unwrap();
    let (answer, mut send) = sender.send_request(connect(&target.path("/ws")), false).unwrap();
    let mut body = soon("the answer", answer).await.unwrap().into_body();
    let mut got = Vec::new();
    let mut pings = 0;
    // The target echoes what it gets, our masked Ping too; so to the client that is a Ping of the target's, mask and all.
    let early = b"\x02\x05early";
    while pings < 3 {
        let piece = soon("a Ping", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        got.extend_from_slice(&piece);
        let Some(rest) = got.strip_prefix(&early[..]) else { continue };
        let mut rest = rest.to_vec();
        while rest.len() >= 2 {
            let masked = rest[1] & 0x80 != 0;
            let length = if masked { 14 } else { 10 };
            if rest.len() < length {
                break;
            }
            assert_eq!((rest[0], rest[1] & 0x7f), (0x89, 8), "{rest:?}");
            let frame: Vec<_> = rest.drain(..length).collect();
            if masked {
                continue;
            }
            pings += 1;
            let answer = [&[0x8a, 0x88, 0, 0, 0, 0][..], &frame[2..]].concat();
            send.send_data(Bytes::from(answer), false).unwrap();
        }
        got = [&early[..], &rest].concat();
    }
    // From here on it is silent.
    let all = soon("the end", rest(&mut body)).await.unwrap();
    assert!(all.ends_with(&[0x88, 0x02, 0x03, 0xf3]), "1011: {all:?}");
    until("tunnels", PATIENCE, || stack.server.tunnels().is_empty()).await;
}
