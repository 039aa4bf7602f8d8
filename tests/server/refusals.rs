//! What is refused, and that all refusals of a target look the same.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hickory_proto::rr::{LowerName, Name, RData, Record, rdata};
use hickory_server::{
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

use crate::support::{Proxy, TOKEN, Upstream, full, usual};

type Zone = InMemoryZoneHandler;

/// A name server on loopback for `example.com`.
async fn name_server(records: &[(&str, &[&str])]) -> (SocketAddr, Arc<Zone>) {
    let origin: Name = "example.com.".parse().unwrap();
    let mut zone = Zone::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let soa = rdata::SOA::new("ns.example.com.".parse().unwrap(), "admin.example.com.".parse().unwrap(), 1, 60, 60, 60, 0);
    zone.upsert_mut(Record::from_rdata(origin.clone(), 0, RData::SOA(soa)), 0);
    for (name, addresses) in records {
        for address in *addresses {
            zone.upsert_mut(a(name, address), 0);
        }
    }
    let zone = Arc::new(zone);
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::from(origin), vec![Arc::clone(&zone) as _]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let mut server = hickory_server::Server::new(catalog);
    server.register_socket(socket);
    tokio::spawn(async move {
        let _ = server.block_until_done().await;
    });
    (addr, zone)
}

fn a(name: &str, address: &str) -> Record {
    Record::from_rdata(format!("{name}.").parse().unwrap(), 0, RData::A(rdata::A(address.parse().unwrap())))
}

async fn hello() -> Upstream {
    Upstream::start(async |_| Response::new(full("hello"))).await
}

#[tokio::test]
async fn every_way_to_name_loopback_is_the_same_403() {
    let upstream = hello().await;
    let (dns, _zone) = name_server(&[
        ("loop.example.com", &["127.0.0.1"]),
        ("mixed.example.com", &["93.184.216.34", "127.0.0.1"]),
        ("mixed2.example.com", &["127.0.0.1", "93.184.216.34"]),
    ])
    .await;
    let proxy = Proxy::start(&format!("{}[dns]\nservers = [\"{dns}\"]\n[audit]\npath = \"-\"\n", usual(&[]))).await;
    let port = upstream.addr.port();
    let mut answers = Vec::new();
    for host in [
        "127.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "127.0.0.1",
        "0x7f.1",
        "localhost",
        "loop.example.com",
        "mixed.example.com",
        "mixed2.example.com",
        "nothing.example.com",
        "10.0.0.1",
        "169.254.169.254",
        "printer.local",
    ] {
        let url = format!("http://{host}:{port}/");
        let by_path = proxy.get(&format!("/proxy/{url}")).await;
        let by_header =
            proxy.send(proxy.request("GET", "/forward").header("x-target-url", &url).body(Full::default()).unwrap()).await;
        let by_header = crate::support::Answer::read(by_header).await;
        let envelope = json!({"mcp_server_url": url, "jsonrpc": "2.0", "id": "x", "method": "tools/list"});
        let by_envelope = proxy.post_json("/proxy", &envelope).await;
        assert_eq!((by_path.status, by_header.status, by_envelope.status), (403, 403, 403), "{host}: {}", by_path.text());
        assert_eq!(by_path.body, by_header.body, "{host}");
        assert_eq!(by_envelope.json()["id"], "x");
        answers.push((by_path.body, by_path.headers.get("proxy-status").cloned(), by_envelope.body));
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(upstream.connected(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_judged_each_time() {
    let upstream = Upstream::bind("127.0.0.2:0", async |_| Response::new(full("allowed"))).await;
    let port = upstream.addr.port();
    let (dns, zone) = name_server(&[("flip.example.com", &["127.0.0.2"])]).await;
    let proxy = Proxy::start(&format!("{}[dns]\nservers = [\"{dns}\"]\n", usual(&[upstream.addr]))).await;
    let path = format!("/proxy/http://flip.example.com:{port}/");
    let answer = proxy.get(&path).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "allowed"));
    zone.records_mut().await.retain(|key, _| key.name != LowerName::from("flip.example.com.".parse::<Name>().unwrap()));
    zone.upsert(a("flip.example.com", "127.0.0.1"), 0).await;
    // The pooled connection was judged when it was opened and may still serve; a new one may not be opened.
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = Request::get(path.as_str()).header("x-proxy-token", TOKEN).header("host", proxy.addr.to_string());
        statuses.push(proxy.send(request.header("connection", "close").body(Full::default()).unwrap()).await.status().as_u16());
    }
    assert!(statuses.iter().all(|s| matches!(s, 200 | 403)), "{statuses:?}");
    assert_eq!(upstream.connected(), 1);
}

#[tokio::test]
async fn malformed_targets_are_400_and_tokens_come_first() {
    let proxy = Proxy::start(&usual(&[])).await;
    for path in ["/proxy/ftp://example.com/", "/proxy/http://user@example.com/", "/proxy/nothing", "/forward"] {
        assert_eq!(proxy.get(path).await.status, 400, "{path}");
        let request = Request::get(path).header("host", proxy.addr.to_string());
        let answer = proxy.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status(), 401, "{path}");
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(!challenge.to_ascii_lowercase().starts_with("bearer"), "{challenge}");
    }
    for body in [json!([]), json!({"id": 1}), json!({"mcp_server_url": "ftp://x/", "method": "m", "id": 1})] {
        assert_eq!(proxy.post_json("/proxy", &body).await.status, 400, "{body}");
    }
}

/// The head of a 50 MB upload with a bad token; how much of the body the server lets through before it closes.
#[tokio::test]
async fn a_large_body_with_a_bad_token_is_refused_unread() {
    let upstream = hello().await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    for path in ["/proxy".to_owned(), format!("/proxy/{}", upstream.url("/")), "/forward".to_owned()] {
        let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nX-Proxy-Token: wrong-wrong-wrong-wrong-wrong-wrong-wrong\r\n\
             X-Target-Url: {}\r\nContent-Type: application/json\r\nContent-Length: 50000000\r\n\r\n",
            proxy.addr,
            upstream.url("/")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let n = timeout(Duration::from_secs(1), stream.read(&mut answer)).await.expect("it waits for the body").unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        // What is still sent does not fit anywhere: socket buffers and a bounded lingering read, and then it fails.
        let (chunk, mut sent, begin) = (vec![b'x'; 65536], 0, Instant::now());
        while begin.elapsed() < Duration::from_secs(5) && sent < 50_000_000 {
            match timeout(Duration::from_secs(5), stream.write(&chunk)).await {
                Ok(Ok(n)) => sent += n,
                _ => break,
            }
        }
        assert!(sent < 16 << 20, "{sent} bytes went through on {path}");
    }
    assert_eq!(upstream.connected(), 0);
}

#[tokio::test]
async fn a_token_never_reaches_an_upstream() {
    let raw = crate::support::RawUpstream::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    let mut config = usual(&[raw.addr]);
    config.push_str("[audit]\npath = \"-\"\n");
    let proxy = Proxy::start(&config).await;
    let target = format!("http://{}/x?keep=1", raw.addr);
    let send = |request: http::request::Builder, body: &'static str| {
        let request = request.header("host", proxy.addr.to_string()).body(Full::from(body)).unwrap();
        async { timeout(Duration::from_secs(5), proxy.send(request)).await.unwrap().status().as_u16() }
    };
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = |r: http::request::Builder| {
        r.header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", key)
    };
    let encoded = target.replace("://", "%3A%2F%2F").replace('?', "%3F").replace('=', "%3D");
    let mut statuses = vec![
        send(Request::post(format!("/proxy/{target}")).header("x-proxy-token", TOKEN), "body").await,
        send(Request::get(format!("/proxy/{target}&proxy_token={TOKEN}")).header("accept", "text/event-stream"), "").await,
        send(Request::get("/forward").header("x-target-url", &target).header("x-proxy-token", TOKEN), "").await,
        send(upgrade(Request::get(format!("/proxy/{target}&proxy_token={TOKEN}"))), "").await,
        send(upgrade(Request::get(format!("/ws?proxy_token={TOKEN}&mcp_server_url={encoded}&mcp_token=for-the-target"))), "")
            .await,
    ];
    statuses.sort_unstable();
    // The upstream answers upgrades with 200, which is relayed.
    assert_eq!(statuses, [200; 5]);
    let envelope = json!({"mcp_server_url": target, "method": "ping", "id": 1, "mcp_token": "for-the-target"});
    assert_eq!(proxy.post_json("/proxy", &envelope).await.status, 502);
    assert!(raw.contains("keep=1") && raw.contains("for-the-target") && raw.contains("GET /x?keep=1 HTTP/1.1"));
    assert!(!raw.contains(TOKEN), "{}", String::from_utf8_lossy(&raw.seen.lock().unwrap()));
    assert!(!raw.contains("proxy-token") && !raw.contains("proxy_token"));
    // Nor does it stand in what the server writes.
    assert!(!proxy.stdout.lock().unwrap().contains(TOKEN) && !proxy.stderr.lock().unwrap().contains(TOKEN));
    assert!(!proxy.stdout.lock().unwrap().contains("for-the-target"));
}

#[tokio::test]
async fn plain_routes() {
    let proxy = Proxy::start(&usual(&[])).await;
    let plain = |path: &'static str| {
        let request = Request::get(path).header("host", proxy.addr.to_string()).body(Full::<Bytes>::default()).unwrap();
        async { crate::support::Answer::read(proxy.send(request).await).await }
    };
    let root = plain("/").await;
    assert_eq!((root.status, &root.json()["name"], &root.json()["status"]), (200, &json!("MCP Proxy Server"), &json!("running")));
    assert_eq!(root.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(plain("/health").await.json(), json!({"status": "healthy"}));
    assert_eq!(plain("/ready").await.status, 200);
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server/mcp",
        "/register",
        "/nothing",
        "/metrics",
    ] {
        assert_eq!(plain(path).await.status, 404, "{path}");
    }
    assert_eq!(proxy.post_json("/register", &json!({})).await.status, 404);
    assert_eq!(proxy.get("/proxy").await.status, 405);
    assert_eq!(proxy.get("/ws?mcp_server_url=ws%3A%2F%2Fexample.com").await.status, 426);
}
