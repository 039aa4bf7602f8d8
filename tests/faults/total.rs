//! A whole exchange has its time, unless it is one that is meant to last.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use portcullis::{
    audit::{ChannelSink, Records},
    context::{Outcome, Record},
    rejection::RejectionKind,
    serve::Server,
};
use tokio::net::TcpStream;

use crate::support::*;

const LONG: Duration = Duration::from_secs(30);

/// Nothing but the total time ends anything here.
async fn stack(forward: bool) -> (Stack, Records) {
    let (audit, records) = ChannelSink::new(100);
    let setup = Setup {
        server: Server::builder().min_rate(None, None, LONG),
        upstream: |b| b.header_timeout(LONG).idle_timeout(LONG),
        service: |b| b.stream_idle_timeout(LONG).tunnel_idle_timeout(LONG),
        total: Some(T),
        audit,
        forward,
        ..Setup::default()
    };
    (Stack::start(setup).await, records)
}

async fn record(records: &mut Records) -> Record {
    soon("the record", records.recv()).await.unwrap()
}

fn in_time(started: Instant) {
    let took = started.elapsed();
    assert!(took >= T.saturating_sub(Duration::from_millis(50)) && took < T + SLACK, "{took:?}");
}

/// What the target does is in the path.
async fn target() -> Target {
    Target::new(|mut wire| async move {
        let Some(head) = wire.head().await else { return };
        let drip = Duration::from_millis(100);
        if field(&head, "upgrade").is_some() {
            wire.send(SWITCH).await;
            for n in 0..20u8 {
                tokio::time::sleep(drip).await;
                wire.send([0x82, 1, n]).await;
            }
        } else if head.contains("/events") || head.starts_with("POST /mcp") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for _ in 0..20 {
                tokio::time::sleep(drip).await;
                wire.send("9\r\ndata: 1\n\n\r\n").await;
            }
            wire.send("0\r\n\r\n").await;
        } else if head.contains("/drip") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while wire.stream.peer_addr().is_ok() {
                wire.send("1\r\nx\r\n").await;
                if tokio::time::timeout(drip, wire.fill()).await == Ok(false) {
                    return;
                }
            }
        } else if head.contains("/big") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n").await;
            wire.send(vec![b'x'; 60_000_000]).await;
        } else if head.contains("/quick") {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        wire.gone().await;
    })
    .await
}

fn refused(seen: &Message, record: &Record) {
    let row = RejectionKind::TotalTimeout;
    assert_eq!(seen.status(), row.status().as_u16());
    assert_eq!(seen.field("proxy-status"), Some("portcullis; error=http_response_timeout"));
    assert!(seen.complete && seen.field("content-type") == Some("application/problem+json"));
    assert_eq!((record.outcome, record.reason), (Outcome::Failed, Some("total_timeout")));
}

fn aborted(record: &Record) {
    let seen = (record.outcome, record.reason, record.proxy_status, record.status.map(|s| s.as_u16()));
    assert_eq!(seen, (Outcome::Aborted, Some("total_timeout"), Some("http_response_timeout"), Some(200)));
}

#[tokio::test]
async fn no_answer_in_time_is_504_and_lets_go_of_the_target() {
    let _alone = alone().await;
    let ((stack, mut records), target) = (stack(false).await, target().await);
    let (mut client, started) = (stack.connect().await, Instant::now());
    let seen = soon("the answer", client.get(&target.path("/silent"))).await;
    in_time(started);
    refused(&seen, &record(&mut records).await);
    until("the target's connection", SLACK, || target.open() == 0).await;
    until("permits", SLACK, || stack.permits.running() == 0).await;
    // The connection to the client is as good as before.
    assert_eq!(soon("the next answer", client.get(&target.path("/quick"))).await.body, b"ok");
}

#[tokio::test]
async fn an_upload_that_does_not_end_in_time_is_504_too() {
    let _alone = alone().await;
    let ((stack, mut records), target) = (stack(false).await, target().await);
    let (mut client, started) = (stack.connect().await, Instant::now());
    client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 1000000\r\n\r\n", target.path("/up"))).await;
    let seen = loop {
        // It never pauses for long, so that no other limit has a reason.
        client.send("x").await;
        if tokio::time::timeout(Duration::from_millis(50), client.fill()).await.is_ok() {
            break soon("the answer", client.response()).await;
        }
        assert!(started.elapsed() < PATIENCE, "the upload goes on");
    };
    in_time(started);
    let record = record(&mut records).await;
    refused(&seen, &record);
    assert!(record.bytes_in > 1, "{record:?}");
    until("the target's connection", SLACK, || target.open() == 0).await;
}

#[tokio::test]
async fn a_body_that_goes_on_breaks_off_and_does_not_look_whole() {
    let _alone = alone().await;
    let ((stack, mut records), target) = (stack(false).await, target().await);
    let (mut client, started) = (stack.connect().await, Instant::now());
    let seen = soon("the end", client.get(&target.path("/drip"))).await;
    in_time(started);
    assert!(seen.status() == 200 && !seen.complete && seen.body.len() > 3, "{seen:?}");
    let record = record(&mut records).await;
    aborted(&record);
    assert_eq!(record.bytes_out, seen.body.len() as u64);
    until("the target's connection", SLACK, || target.open() == 0).await;
}

#[tokio::test]
async fn a_client_that_takes_its_time_with_the_answer_is_cut() {
    let _alone = alone().await;
    let ((stack, mut records), target) = (stack(false).await, target().await);
    let (mut client, started) = (stack.connect().await, Instant::now());
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(8 * 1024).unwrap();
    client.send(format!("GET {} HTTP/1.1\r\nHost: p\r\n\r\n", target.path("/big"))).await;
    let record = record(&mut records).await;
    in_time(started);
    aborted(&record);
    assert!(record.bytes_out < 60_000_000);
    until("the target's connection", SLACK, || target.open() == 0).await;
    until("the client's connection", SLACK, || stack.server.stats().open == 0).await;
    let seen = soon("what is left", client.response()).await;
    assert!(!seen.complete, "{} bytes look whole", seen.body.len());
    assert_eq!((stack.server.stats().overdue, stack.server.stats().write_stalls), (1, 0));
}

#[tokio::test]
async fn over_http2_the_stream_is_reset_and_its_neighbour_goes_on() {
    let _alone = alone().await;
    let ((stack, mut records), target) = (stack(false).await, target().await);
    let socket = TcpStream::connect(stack.addr).await.unwrap();
    let (mut sender, connection) =
        h2::client::Builder::new().initial_connection_window_size(1 << 20).handshake::<_, Bytes>(socket).await.unwrap();
    tokio::spawn(connection);
    let started = Instant::now();
    let mut ask = |path: &str| {
        let request = Request::get(format!("http://p{}", target.path(path))).body(()).unwrap();
        sender.send_request(request, true).unwrap().0
    };
    // One drips, of one the client takes nothing, and one is an event stream.
    let (drip, big, events) = (ask("/drip"), ask("/big"), ask("/events"));
    let mut drip = soon("the head", drip).await.unwrap().into_body();
    let _big = soon("the head", big).await.unwrap().into_body();
    let mut events = soon("the head", events).await.unwrap().into_body();
    let all = async |body: &mut h2::RecvStream| {
        let mut all: Vec<Bytes> = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len()).unwrap();
            all.push(piece);
        }
        Ok::<_, h2::Error>(all.concat())
    };
    assert!(soon("the end", all(&mut drip)).await.is_err(), "it looks whole");
    in_time(started);
    aborted(&record(&mut records).await);
    // Streams that stand still are looked at every second.
    aborted(&record(&mut records).await);
    assert!(started.elapsed() < T + SLACK + Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(soon("the events", all(&mut events)).await.unwrap(), b"data: 1\n\n".repeat(20));
    assert_eq!(record(&mut records).await.outcome, Outcome::Complete);
}

#[tokio::test]
async fn event_streams_websockets_and_tunnels_last() {
    let _alone = alone().await;
    let ((stack, mut records), target) = (stack(false).await, target().await);
    let (tunnels, mut tunnel_records) = self::stack(true).await;
    // A stream that a client opens, and one that answers a POST, as that to `subscriptions/listen` does.
    let get = format!("GET {} HTTP/1.1\r\nHost: p\r\nAccept: text/event-stream\r\n\r\n", target.path("/events"));
    let listen = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}"#;
    let post = format!(
        "POST {} HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{listen}",
        target.path("/mcp"),
        listen.len()
    );
    let mut running = Vec::new();
    for request in [get, post] {
        let mut client = stack.connect().await;
        running.push(tokio::spawn(async move {
            client.send(request).await;
            let (started, seen) = (Instant::now(), soon("the events", client.response()).await);
            assert!(seen.complete && seen.body == b"data: 1\n\n".repeat(20), "{seen:?}");
            assert!(started.elapsed() > T * 2);
        }));
    }
    let mut client = stack.connect().await;
    let path = target.path("/ws");
    running.push(tokio::spawn(async move {
        client.send(handshake(&path)).await;
        let head = soon("the head", client.head()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        while client.buf.len() < 60 {
            assert!(soon("frames", client.fill()).await, "closed after {} bytes", client.buf.len());
        }
        assert_eq!(client.buf[57..60], [0x82, 1, 19]);
    }));
    let echo = Target::new(|mut wire| async move {
        while wire.fill().await {
            let piece = std::mem::take(&mut wire.buf);
            wire.send(piece).await;
        }
    })
    .await;
    let mut client = tunnels.connect().await;
    running.push(tokio::spawn(async move {
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.addr)).await;
        let head = soon("the head", client.head()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        tokio::time::sleep(T * 2).await;
        client.send("still here").await;
        while client.buf.len() < 10 {
            assert!(soon("the echo", client.fill()).await, "closed");
        }
    }));
    for one in running {
        one.await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(record(&mut records).await.reason, None);
    }
    assert_eq!(record(&mut tunnel_records).await.reason, None);
}
