//! What a running server takes from a changed file, what it keeps, and what it says of it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    example_config::RESTART,
    support::{Answer, Proxy, TOKEN, TempFile, Upstream, command, full, usual},
};

const APP: &str = "https://app.example.com";

/// Writes the file, asks for it, and waits until the server says that it has it.
async fn reload(proxy: &Proxy, config: &str) {
    let before = proxy.stderr.lock().unwrap().matches("reloaded").count();
    std::fs::write(&proxy.config.0, config).unwrap();
    proxy.child.signal("-HUP");
    let said = async {
        while proxy.stderr.lock().unwrap().matches("reloaded").count() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), said).await.is_ok(), "nothing said: {}", proxy.stderr.lock().unwrap());
}

/// Several requests over one connection, which was there before any reload.
struct Connection(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Connection {
    async fn open(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.addr).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn get(&mut self, path: &str, host: &str, origin: Option<&str>) -> Answer {
        let mut request = Request::get(path).header("host", host).header("x-proxy-token", TOKEN);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request.body(Full::default()).unwrap();
        self.0.ready().await.unwrap();
        Answer::read(timeout(Duration::from_secs(10), self.0.send_request(request)).await.expect("no answer").unwrap()).await
    }
}

#[tokio::test]
async fn hosts_and_origins_change_on_open_connections_too() {
    let upstream = Upstream::start(async |_| Response::new(full("ok"))).await;
    let usual = usual(&[upstream.addr]);
    let proxy = Proxy::start(&usual).await;
    let path = format!("/proxy/{}", upstream.url("/"));
    let host = proxy.addr.to_string();
    let mut connection = Connection::open(&proxy).await;
    assert_eq!(connection.get(&path, &host, None).await.status, 200);
    assert_eq!(connection.get(&path, "proxy.example.com", None).await.status, 421);
    assert_eq!(connection.get(&path, &host, Some(APP)).await.status, 403);

    reload(&proxy, &format!("allowed_hosts = [\"proxy.example.com\"]\nallowed_origins = [\"{APP}\"]\n{usual}")).await;
    assert_eq!(connection.get(&path, "proxy.example.com", None).await.status, 200);
    let answer = connection.get(&path, &host, Some(APP)).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(APP)));

    // One that is wrong changes nothing, not even what is right in it.
    reload(&proxy, &format!("allowed_hosts = []\nallowed_origins = [\"not an origin\"]\n{usual}")).await;
    proxy.said("not reloaded, the old one stays in force: allowed_origins").await;
    assert_eq!(connection.get(&path, "proxy.example.com", Some(APP)).await.status, 200);

    reload(&proxy, &usual).await;
    assert_eq!(connection.get(&path, "proxy.example.com", None).await.status, 421);
    assert_eq!(connection.get(&path, &host, Some(APP)).await.status, 403);
}

#[tokio::test]
async fn timeouts_change_and_requests_under_way_keep_theirs() {
    let upstream = Upstream::start(async |request: Request<_>| {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
        Response::new(full("ok"))
    })
    .await;
    let usual = usual(&[upstream.addr]);
    let proxy = Proxy::start(&usual).await;
    let path = format!("/proxy/{}", upstream.url("/slow"));
    let mut before = Connection::open(&proxy).await;
    let host = proxy.addr.to_string();
    let under_way = {
        let (path, host) = (path.clone(), host.clone());
        tokio::spawn(async move { before.get(&path, &host, None).await })
    };
    while upstream.connected() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (limits, reason) in
        [("header_timeout = \"300ms\"", "http_response_timeout"), ("total_timeout = \"300ms\"", "http_response_timeout")]
    {
        reload(&proxy, &format!("{usual}[limits]\n{limits}\n")).await;
        let (mut connection, started) = (Connection::open(&proxy).await, Instant::now());
        let answer = connection.get(&path, &host, None).await;
        assert_eq!(answer.status, 504, "{limits}");
        assert!(answer.header("proxy-status").unwrap().ends_with(reason) && started.elapsed() < Duration::from_secs(1));
    }
    reload(&proxy, &format!("{usual}[limits]\nheader_timeout = \"10s\"\n")).await;
    let mut connection = Connection::open(&proxy).await;
    assert_eq!(connection.get(&path, &host, None).await.status, 200);
    assert_eq!(under_way.await.unwrap().status, 200);
}

#[tokio::test]
async fn limits_on_clients_are_for_connections_that_come_then() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let proxy = Proxy::start(&usual(&[])).await;
    let closed = async |mut stream: TcpStream| {
        let started = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let ended = timeout(Duration::from_secs(3), stream.read(&mut [0; 16])).await;
        ended.is_ok().then(|| started.elapsed())
    };
    let before = TcpStream::connect(proxy.addr).await.unwrap();
    // The server has taken it when it has taken the next one.
    assert_eq!(proxy.get("/health").await.status, 200);
    reload(&proxy, &format!("{}[limits]\nrequest_head_timeout = \"300ms\"\n", usual(&[]))).await;
    let after = TcpStream::connect(proxy.addr).await.unwrap();
    let (before, after) = tokio::join!(closed(before), closed(after));
    assert!(after.is_some_and(|took| took < Duration::from_secs(2)) && before.is_none(), "{before:?} {after:?}");
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_is_in_force() {
    let upstream = Upstream::start(async |_| Response::new(full("ok"))).await;
    let proxy = Proxy::start(&usual(&[])).await;
    let path = format!("/proxy/{}", upstream.url("/"));
    let changed = format!(
        "listen = \"127.0.0.1:1\"\n{}[limits]\nconnections = 7\n[audit]\npath = \"off\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n",
        usual(&[upstream.addr])
    );
    reload(&proxy, &changed).await;
    // `listen` is said on the command line here, so the file's makes no difference.
    proxy.said("reloaded; changed, but as they were until a restart: limits.connections, audit.path, metrics.listen\n").await;
    assert_eq!(proxy.get(&path).await.status, 200);
    // Compared is with the start and not with the last reload.
    reload(&proxy, &usual(&[upstream.addr])).await;
    proxy.said("reloaded\n").await;
    let pem = TempFile::new("any file will do");
    reload(&proxy, &format!("{}[tls]\ncert = {:?}\nkey = {:?}\n", usual(&[]), pem.0, pem.0)).await;
    proxy.said("not reloaded, the old one stays in force: [tls]: turning it on or off needs a restart").await;
    assert_eq!(proxy.get(&path).await.status, 200);
}

#[tokio::test]
async fn an_event_stream_and_a_session_go_on_over_a_reload() {
    use futures_util::StreamExt as _;
    let upstream = Upstream::start(async |request: Request<hyper::body::Incoming>| {
        if request.method() == http::Method::POST {
            let session = request.headers().get("mcp-session-id").cloned();
            let call: serde_json::Value =
                serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
            let result =
                serde_json::json!({"protocolVersion": "2025-11-25", "session": session.map(|s| s.to_str().unwrap().to_owned())});
            let body = serde_json::json!({"jsonrpc": "2.0", "id": call["id"], "result": result}).to_string();
            return Response::builder()
                .header("content-type", "application/json")
                .header("mcp-session-id", "s-1")
                .body(full(body))
                .unwrap();
        }
        let ticks = futures_util::stream::unfold(0, async |n| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (n < 20).then(|| (Ok(http_body::Frame::data(Bytes::from(format!("data: {n}\n\n")))), n + 1))
        });
        let body = http_body_util::StreamBody::new(ticks.boxed()).boxed_unsync();
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    })
    .await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let call = async |method: &str| {
        let call = serde_json::json!({"mcp_server_url": upstream.url("/mcp"), "method": method, "params": {}, "id": 1});
        proxy.post_json("/proxy", &call).await.json()
    };
    call("initialize").await;
    assert_eq!(call("tools/list").await["result"]["session"], "s-1");
    let stream =
        proxy.send(proxy.request("GET", &format!("/proxy/{}", upstream.url("/events"))).body(Full::default()).unwrap()).await;
    for n in 1..4 {
        let config =
            format!("{}[limits]\ntotal_timeout = \"{n}00ms\"\nstream_idle_timeout = \"{n}0ms\"\n", usual(&[upstream.addr]));
        reload(&proxy, &config).await;
    }
    let all = timeout(Duration::from_secs(10), stream.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert!(all.ends_with(b"data: 19\n\n"), "{all:?}");
    // The envelope has not forgotten the session: nothing is opened again.
    assert_eq!(call("tools/list").await["result"]["session"], "s-1");
}

#[tokio::test]
async fn the_documents_name_the_same_keys() {
    let sample = include_str!("../../examples/mcp_proxy/mcp_proxy.toml");
    let written = sample.split("A restart is needed only for: ").nth(1).unwrap().split(';').next().unwrap();
    let written: Vec<_> = written.split(',').map(|key| key.trim_matches(|c: char| c.is_whitespace() || c == '#')).collect();
    assert_eq!(written, RESTART);
    let output = {
        let file = TempFile::new(sample);
        command(&["--config", file.0.to_str().unwrap(), "--check-config"]).output().await.unwrap()
    };
    let explained = String::from_utf8(output.stdout).unwrap();
    assert!(explained.contains(&RESTART.join(", ")) && explained.contains("total_timeout        off"), "{explained}");
    // And they are keys.
    let keys =
        crate::example_config::File::parse("[limits]\nconnections = 1\nsessions = 1\n[audit]\nkeep = 1\nrotate = \"daily\"");
    assert!(keys.is_ok());
    let readme = include_str!("../../README.md");
    for key in RESTART {
        assert!(readme.contains(&format!("`{key}`")), "README.md does not name {key}");
    }
}
