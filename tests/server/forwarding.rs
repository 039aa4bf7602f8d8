//! Requests and answers on their way.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::support::{Answer, Body, Proxy, TOKEN, Upstream, full, usual};

/// Says what it was asked.
async fn mirror() -> Upstream {
    Upstream::start(async |request: Request<hyper::body::Incoming>| {
        let (parts, body) = request.into_parts();
        let headers: Vec<_> = parts.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        let body = body.collect().await.unwrap().to_bytes();
        let doc = json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": body.len()});
        let mut response = Response::new(full(doc.to_string()));
        for (name, value) in [
            ("content-type", "text/html"),
            ("set-cookie", "a=b"),
            ("alt-svc", "h3"),
            ("x-own", "kept"),
            ("access-control-allow-origin", "*"),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await
}

fn header<'a>(doc: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    doc["headers"].as_array().unwrap().iter().find(|h| h[0] == name).map(|h| h[1].as_str().unwrap())
}

#[tokio::test]
async fn the_target_sees_its_own_request_and_nothing_of_the_browser() {
    let upstream = mirror().await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let path = format!("/proxy/{}", upstream.url("/a/../b/%2e?x=%7E&&y"));
    let request = proxy
        .request("PUT", &path)
        .header("authorization", "Bearer target")
        .header("cookie", "a=b")
        .header("referer", "http://x/")
        .header("sec-fetch-mode", "cors")
        .header("mcp-session-id", "s")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-forwarded-for", "1.2.3.4")
        .body(Full::from("12345"))
        .unwrap();
    let answer = Answer::read(proxy.send(request).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let doc = answer.json();
    assert_eq!((&doc["method"], &doc["uri"], &doc["body"]), (&json!("PUT"), &json!("/a/../b/%2e?x=%7E&&y"), &json!(5)));
    assert_eq!(header(&doc, "host"), Some(upstream.addr.to_string().as_str()));
    assert_eq!((header(&doc, "authorization"), header(&doc, "mcp-session-id")), (Some("Bearer target"), Some("s")));
    for gone in ["cookie", "referer", "sec-fetch-mode", "origin", "x-hop", "x-proxy-token", "x-forwarded-for", "forwarded"] {
        assert_eq!(header(&doc, gone), None, "{gone}");
    }
    assert_eq!((answer.header("x-own"), answer.header("x-content-type-options")), (Some("kept"), Some("nosniff")));
    assert_eq!(answer.header("content-security-policy"), Some("sandbox"));
    for gone in ["set-cookie", "alt-svc", "access-control-allow-origin"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    // The same with one slash, as some front servers leave it, and by header.
    let merged = path.replacen("http://", "http:/", 1);
    assert_eq!(proxy.get(&merged).await.json()["uri"], doc["uri"]);
    let request = proxy.request("GET", "/forward").header("x-target-url", upstream.url("/h?q")).body(Full::default()).unwrap();
    let doc = Answer::read(proxy.send(request).await).await.json();
    assert_eq!((&doc["uri"], header(&doc, "x-target-url")), (&json!("/h?q"), None));
}

/// An upstream whose answer a channel feeds, and that tells when its connection is gone.
async fn channel_upstream(content_type: &'static str) -> (Upstream, mpsc::Sender<Bytes>, Arc<Mutex<Option<Instant>>>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let upstream = Upstream::start(move |_| {
        let receiver = receiver.lock().unwrap().take();
        async move {
            let stream = futures_util::stream::unfold(receiver, |r| async {
                let mut r = r?;
                let next = r.recv().await?;
                Some((Ok(Frame::data(next)), Some(r)))
            });
            let body: Body = StreamBody::new(stream.boxed()).boxed_unsync();
            Response::builder().header("content-type", content_type).body(body).unwrap()
        }
    })
    .await;
    (upstream, sender, Arc::default())
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (upstream, sender, _) = channel_upstream("text/event-stream").await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let response =
        proxy.send(proxy.request("POST", &format!("/proxy/{}", upstream.url("/"))).body(Full::default()).unwrap()).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut body = response.into_body();
    for i in 0..3 {
        let event = Bytes::from(format!("data: {i}\n\n"));
        sender.send(event.clone()).await.unwrap();
        let frame = timeout(Duration::from_secs(2), body.frame()).await.expect("held back").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
}

/// A target that takes a request and reports when its connection ends.
async fn waiting_target(answer: &'static [u8]) -> (std::net::SocketAddr, mpsc::Receiver<()>, mpsc::Receiver<Instant>) {
    use tokio::io::AsyncWriteExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (asked, asked_rx) = mpsc::channel(8);
    let (gone, gone_rx) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (asked, gone) = (asked.clone(), gone.clone());
            tokio::spawn(async move {
                let mut buf = vec![0; 65536];
                let _ = stream.read(&mut buf).await;
                stream.write_all(answer).await.unwrap();
                asked.send(()).await.unwrap();
                while matches!(stream.read(&mut buf).await, Ok(1..)) {}
                let _ = gone.send(Instant::now()).await;
            });
        }
    });
    (addr, asked_rx, gone_rx)
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_by_the_target_within_50_ms() {
    let stream_head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n";
    for answer in [&b""[..], &stream_head[..]] {
        let (target, mut asked, mut gone) = waiting_target(answer).await;
        let proxy = Proxy::start(&usual(&[target])).await;
        let mut worst = Duration::ZERO;
        for path in [format!("/proxy/http://{target}/"), "/forward".to_owned()] {
            let stream = TcpStream::connect(proxy.addr).await.unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let request = proxy
                .request("POST", &path)
                .header("x-target-url", format!("http://{target}/"))
                .body(Full::<Bytes>::from("{}"))
                .unwrap();
            let answered = tokio::spawn(async move { sender.send_request(request).await });
            timeout(Duration::from_secs(5), asked.recv()).await.expect("never asked").unwrap();
            if !answer.is_empty() {
                // The head is through before the client leaves.
                let response = timeout(Duration::from_secs(5), answered).await.unwrap().unwrap().unwrap();
                assert_eq!(response.status(), 200);
                drop(response);
            }
            let left = Instant::now();
            connection.abort();
            let seen = timeout(Duration::from_secs(5), gone.recv()).await.expect("the target never sees it").unwrap();
            worst = worst.max(seen.saturating_duration_since(left));
        }
        assert!(worst < Duration::from_millis(50), "{worst:?}");
    }
}

#[tokio::test]
async fn limits_of_the_file_hold() {
    let upstream = Upstream::start(async |request: Request<hyper::body::Incoming>| {
        let path = request.uri().path().to_owned();
        let _ = request.into_body().collect().await;
        Response::new(full(if path == "/big" { "x".repeat(5000) } else { "ok".into() }))
    })
    .await;
    let config = format!(
        "{}[limits]\nrequest_body = \"1KiB\"\nresponse_body = \"2KiB\"\n",
        usual(&[upstream.addr]).replace("per_token = \"off\"", "per_token = \"3/hour\"").replace("rate = \"off\"\n", "")
    );
    let proxy = Proxy::start(&config).await;
    let path = format!("/proxy/{}", upstream.url("/"));
    let big = proxy.request("POST", &path).body(Full::from(vec![b'x'; 2000])).unwrap();
    assert_eq!(proxy.send(big).await.status(), 413);
    let answer = proxy.get(&format!("/proxy/{}", upstream.url("/big"))).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let answer = proxy.get(&path).await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses.last(), Some(&429));
    assert!(statuses.contains(&200));
    let request =
        Request::get("/").header("host", proxy.addr.to_string()).header("x-proxy-token", TOKEN).body(Full::default()).unwrap();
    assert_eq!(proxy.send(request).await.status(), 200);
}
