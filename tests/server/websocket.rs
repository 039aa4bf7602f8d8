//! WebSockets by every route.

use std::{
    net::SocketAddr,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::support::{Proxy, TOKEN, usual};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Echoes; "bye" makes it close with 4321. Counts its connections; tells how clients close.
async fn echo() -> (SocketAddr, Arc<AtomicUsize>, tokio::sync::mpsc::Receiver<Option<u16>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::<AtomicUsize>::default();
    let (closed, closed_rx) = tokio::sync::mpsc::channel(8);
    let connections = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let closed = closed.clone();
            tokio::spawn(async move {
                #[expect(clippy::result_large_err, reason = "the callback's signature is not ours")]
                let accept = |request: &Request, mut response: Response| {
                    assert!(!format!("{request:?}").contains(TOKEN));
                    if request.headers().get("sec-websocket-protocol").is_some_and(|v| v.to_str().unwrap().contains("chat")) {
                        response.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
                    }
                    if let Some(v) = request.headers().get("authorization") {
                        response.headers_mut().insert("x-seen-authorization", v.clone());
                    }
                    Ok(response)
                };
                let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
                let Ok(mut socket) = tokio_tungstenite::accept_hdr_async_with_config(stream, accept, Some(config)).await else {
                    return;
                };
                while let Some(message) = socket.next().await {
                    match message {
                        Ok(Message::Text(text)) if text.as_str() == "bye" => {
                            let frame = CloseFrame { code: CloseCode::from(4321), reason: "so long".into() };
                            let _ = socket.close(Some(frame)).await;
                        }
                        Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).await.unwrap(),
                        Ok(Message::Close(frame)) => {
                            let _ = closed.send(frame.map(|f| f.code.into())).await;
                        }
                        Ok(_) => {}
                        Err(_) => break,
                    }
                }
                let _ = closed.send(None).await;
            });
        }
    });
    (addr, count, closed_rx)
}

async fn connect(
    proxy: &Proxy,
    path: &str,
    token: bool,
) -> Result<(Socket, tungstenite::handshake::client::Response), tungstenite::Error> {
    let mut request = format!("ws://{}{path}", proxy.addr).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "other, chat".parse().unwrap());
    if token {
        request.headers_mut().insert("x-proxy-token", TOKEN.parse().unwrap());
    }
    timeout(Duration::from_secs(10), connect_async(request)).await.expect("no answer to the handshake")
}

#[tokio::test]
async fn messages_of_every_kind_cross_both_ways() {
    let (target, _, mut closed) = echo().await;
    let proxy = Proxy::start(&usual(&[target])).await;
    let paths = [
        (format!("/proxy/ws://{target}/x"), true),
        (format!("/proxy/http://{target}/x"), true),
        (format!("/proxy/ws://{target}/x?proxy_token={TOKEN}"), false),
        (format!("/ws?proxy_token={TOKEN}&mcp_server_url=ws%3A%2F%2F{target}%2Fx&mcp_token=mine"), false),
        (format!("/ws?proxy_token={TOKEN}&mcp_server_url=http://{target}/x"), false),
    ];
    for (path, token) in &paths {
        let (mut socket, response) = connect(&proxy, path, *token).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!((response.status().as_u16(), &response.headers()["sec-websocket-protocol"]), (101, &"chat".parse().unwrap()));
        let seen = response.headers().get("x-seen-authorization").map(|v| v.to_str().unwrap());
        assert_eq!(seen, path.contains("mcp_token").then_some("Bearer mine"));
        let big: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
        for message in [Message::text("héllo"), Message::binary(vec![0, 255, 1]), Message::binary(big)] {
            socket.send(message.clone()).await.unwrap();
            let back = timeout(Duration::from_secs(10), socket.next()).await.expect("no echo").unwrap().unwrap();
            assert!(back == message);
        }
        // The target closes.
        socket.send(Message::text("bye")).await.unwrap();
        let close = timeout(Duration::from_secs(5), socket.next()).await.unwrap().unwrap().unwrap();
        assert!(
            matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 4321 && frame.reason.as_str() == "so long")
        );
        drop(socket);
        while closed.try_recv().is_ok() {}
        // The client closes.
        let (mut socket, _) = connect(&proxy, path, *token).await.unwrap();
        socket.close(Some(CloseFrame { code: CloseCode::from(4321), reason: "".into() })).await.unwrap();
        let code = timeout(Duration::from_secs(5), async {
            loop {
                if let Some(Some(code)) = closed.recv().await {
                    return code;
                }
            }
        });
        assert_eq!(code.await.expect("no close arrives"), 4321, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_is_seen() {
    let (target, _, mut closed) = echo().await;
    let proxy = Proxy::start(&usual(&[target])).await;
    let (socket, _) = connect(&proxy, &format!("/proxy/ws://{target}/"), true).await.unwrap();
    drop(socket);
    let end = timeout(Duration::from_secs(2), closed.recv()).await;
    assert!(end.is_ok(), "the target still waits");
}

#[tokio::test]
async fn authentication_and_guard_run_before_101() {
    let (target, connections, _closed) = echo().await;
    let proxy = Proxy::start(&usual(&[target])).await;
    for (path, token, want) in [
        (format!("/proxy/ws://{target}/"), false, 401),
        (format!("/ws?mcp_server_url=ws://{target}/"), false, 401),
        (format!("/ws?proxy_token=wrong-wrong-wrong-wrong-wrong-wrong-wrong&mcp_server_url=ws://{target}/"), false, 401),
        (format!("/proxy/ws://127.0.0.1:{}/", target.port() ^ 1), true, 403),
        (format!("/ws?proxy_token={TOKEN}&mcp_server_url=ws://127.1:1/"), false, 403),
        (format!("/ws?proxy_token={TOKEN}"), false, 400),
    ] {
        match connect(&proxy, &path, token).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), want, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn quiet_clients_are_pinged_and_given_up_without_an_answer() {
    let (target, _, mut closed) = echo().await;
    let limits = "[limits]\nwebsocket_ping = \"100ms\"\nwebsocket_pong = \"500ms\"\n";
    let proxy = Proxy::start(&format!("{}{limits}", usual(&[target]))).await;
    let (mut socket, _) = connect(&proxy, &format!("/proxy/ws://{target}/"), true).await.unwrap();
    // The client answers by itself as long as it reads.
    for _ in 0..6 {
        let message = timeout(Duration::from_secs(5), socket.next()).await.expect("a Ping").unwrap().unwrap();
        assert!(matches!(&message, Message::Ping(mark) if mark.len() == 8), "{message:?}");
    }
    socket.send(Message::text("still here")).await.unwrap();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Ping(_) => {}
            message => break assert_eq!(message, Message::text("still here")),
        }
    }
    // Now it does not read any more.
    assert_eq!(timeout(Duration::from_secs(5), closed.recv()).await.expect("the tunnel goes on"), Some(Some(1011)));
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_tunnel() {
    let (target, _, _closed) = echo().await;
    let proxy = Proxy::start(&format!("{}[limits]\nwebsocket_message = \"1KiB\"\n", usual(&[target]))).await;
    let (mut socket, _) = connect(&proxy, &format!("/proxy/ws://{target}/"), true).await.unwrap();
    socket.send(Message::text("small")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("small"));
    socket.send(Message::binary(vec![0; 5000])).await.unwrap();
    let end = timeout(Duration::from_secs(5), socket.next()).await.expect("the tunnel goes on");
    match end {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1009),
        Some(Ok(other)) => panic!("{other:?}"),
        None | Some(Err(_)) => {}
    }
}
