//! The routes of the bundled server's console, over real sockets. What the page itself does, Chromium shows: `tests/interop`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::pedantic,
    reason = "a test that panics has failed"
)]

#[allow(dead_code, reason = "written for other tests")]
#[path = "egress/dns.rs"]
mod dns;
#[path = "shared/process.rs"]
mod process;
#[allow(dead_code, reason = "written for other tests")]
#[path = "server/support.rs"]
mod support;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use bytes::Bytes;
use dns::{DnsServer, Reply, addr, zone};
use hickory_server::proto::op::ResponseCode;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use support::{Answer, Proxy, TOKEN, Upstream, full, token_hash, usual};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const PLAIN: &str = "plain-token-0123456789abcdef-0123456789abcde";

/// The usual tables, where the usual token is an operator's; `plain` is another one.
fn config(exceptions: &[std::net::SocketAddr]) -> String {
    use sha2::Digest as _;
    let plain: String = sha2::Sha256::digest(PLAIN).iter().map(|b| format!("{b:02x}")).collect();
    let usual = usual(exceptions).replacen("rate = \"off\"\n", "rate = \"off\"\noperator = true\n", 1);
    format!("{usual}[[token]]\nid = \"plain\"\nsha256 = \"{plain}\"\nrate = \"off\"\n")
}

fn with_token(proxy: &Proxy, method: &str, path: &str, token: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", proxy.addr.to_string()).header("x-proxy-token", token)
}

async fn ask(proxy: &Proxy, token: &str, body: impl Into<Bytes>) -> Answer {
    let request = with_token(proxy, "POST", "/console/explain", token).header("content-type", "application/json");
    Answer::read(proxy.send(request.body(Full::new(body.into())).unwrap()).await).await
}

async fn explain(proxy: &Proxy, url: &str) -> Value {
    let answer = ask(proxy, TOKEN, json!({ "url": url }).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

/// The rules that were asked, and which one decided.
fn rules(answer: &Value) -> (Vec<&str>, &str) {
    let steps = answer["steps"].as_array().unwrap();
    let decides: Vec<_> = steps.iter().filter(|s| s["decides"] == true).map(|s| s["rule"].as_str().unwrap()).collect();
    assert_eq!(decides.len(), 1, "{answer}");
    (steps.iter().map(|s| s["rule"].as_str().unwrap()).collect(), decides[0])
}

/// An open event stream, cut into events.
struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    async fn open(proxy: &Proxy) -> Self {
        let response = proxy.send(proxy.request("GET", "/console/events").body(Full::default()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event: its name and data. None at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
                let Some(data) = field("data: ") else { continue };
                return Some((field("event: ").unwrap_or_else(|| "message".into()), serde_json::from_str(&data).unwrap()));
            }
            let frame = timeout(Duration::from_secs(10), self.body.frame()).await.expect("no event in 10 s")?;
            self.text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn the_page_and_all_it_names_come_from_here_under_one_strict_policy() {
    let proxy = Proxy::start(&config(&[])).await;
    let mut wanted: BTreeSet<String> = ["/console".to_owned()].into();
    let mut seen = BTreeSet::new();
    while let Some(path) = wanted.pop_first() {
        // No token.
        let request = Request::get(&path).header("host", proxy.addr.to_string()).body(Full::default()).unwrap();
        let answer = Answer::read(proxy.send(request).await).await;
        assert_eq!(answer.status, 200, "{path}");
        let kind = match path.rsplit_once('.').map(|(_, end)| end) {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        let text = answer.text();
        for bad in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "style=\""] {
            assert!(!text.contains(bad), "{path}: {bad}");
        }
        seen.insert(path);
        let imports = text.split("from './").chain(text.split("import './")).skip(1).filter_map(|t| t.split_once("';"));
        let linked = text.split("=\"/").skip(1).filter_map(|t| t.split_once('"').map(|(p, _)| format!("/{p}")));
        let named = imports.filter(|(p, _)| p.ends_with(".js") && !p.contains('\n')).map(|(p, _)| format!("/console/{p}"));
        for path in named.chain(linked.filter(|p| p.starts_with("/console/"))) {
            if !seen.contains(&path) {
                wanted.insert(path);
            }
        }
    }
    assert!(seen.len() >= 11, "{seen:?}");
    assert_eq!(proxy.send(proxy.request("POST", "/console").body(Full::default()).unwrap()).await.status(), 405);
}

#[tokio::test]
async fn explanations_and_records_are_for_operators_only() {
    let proxy = Proxy::start(&config(&[])).await;
    let nobody = |method: &str, path: &str| Request::builder().method(method).uri(path).header("host", proxy.addr.to_string());
    for (method, path) in [("POST", "/console/explain"), ("GET", "/console/events")] {
        assert_eq!(proxy.send(nobody(method, path).body(Full::default()).unwrap()).await.status(), 401, "{path}");
        let wrong = with_token(&proxy, method, path, "wrong-token-0123456789abcdef-0123456789abcdef");
        assert_eq!(proxy.send(wrong.body(Full::default()).unwrap()).await.status(), 401, "{path}");
        let plain = with_token(&proxy, method, path, PLAIN).header("content-type", "application/json");
        let answer = Answer::read(proxy.send(plain.body(Full::from(r#"{"url":"http://10.0.0.1/"}"#)).unwrap()).await).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.text().contains("operator") && !answer.text().contains("private"), "{}", answer.text());
    }
    // An operator's ticket is a key for one target, not for this.
    let ticket = proxy.post_json("/tickets", &json!({"target": "https://example.com/"})).await.json();
    let path = format!("/console/events?proxy_ticket={}", ticket["ticket"].as_str().unwrap());
    let request = nobody("GET", &path).header("accept", "text/event-stream").body(Full::default()).unwrap();
    assert_eq!(proxy.send(request).await.status(), 403);
    // Another page cannot ask in its visitor's name.
    let foreign = proxy.request("POST", "/console/explain").header("origin", "https://evil.example");
    assert_eq!(proxy.send(foreign.body(Full::default()).unwrap()).await.status(), 403);

    for (body, status) in [("", 400), ("{}", 400), ("{\"url\":1}", 400), ("[", 400)] {
        assert_eq!(ask(&proxy, TOKEN, body).await.status, status, "{body}");
    }
    let long = json!({"url": "x".repeat(100_000)}).to_string();
    assert_eq!(ask(&proxy, TOKEN, long).await.status, 400);
    assert_eq!(proxy.get("/console/explain").await.status, 405);
}

#[tokio::test]
async fn an_explanation_is_the_decision_rule_by_rule() {
    let server = DnsServer::start(|name, kind, _| match name {
        "good.example.com." => zone(kind, [addr(name, 60, "93.184.216.34"), addr(name, 60, "2606:4700:4700::1111")]),
        "mixed.example.com." => zone(kind, [addr(name, 60, "93.184.216.34"), addr(name, 60, "10.1.2.3")]),
        "broken.example.com." => Reply::Code(ResponseCode::ServFail),
        "silent.example.com." => Reply::Silence,
        _ => Reply::Code(ResponseCode::NXDomain),
    })
    .await;
    let upstream = Upstream::start(async |_| http::Response::new(full("hello"))).await;
    let text = format!("{}[dns]\nservers = [\"{}\"]\ntimeout = \"500ms\"\n", config(&[upstream.addr]), server.addr);
    let proxy = Proxy::start(&text).await;

    let good = explain(&proxy, "https://good.example.com/path?query").await;
    assert_eq!((&good["allowed"], &good["reason"]), (&json!(true), &Value::Null));
    assert_eq!(good["target"], "https://good.example.com");
    let dialled: BTreeSet<&str> = good["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    assert_eq!(dialled, ["93.184.216.34:443", "[2606:4700:4700::1111]:443"].into());
    assert_eq!(good["dns"]["answers"].as_array().unwrap().len(), 2);
    assert!(rules(&good).0.starts_with(&["parse", "scheme"]), "{good}");

    let mixed = explain(&proxy, "https://mixed.example.com/").await;
    assert_eq!((&mixed["allowed"], &mixed["reason"]), (&json!(false), &json!("address")));
    assert_eq!(rules(&mixed).1, "address");
    assert!(mixed.to_string().contains("10.1.2.3 is private"), "{mixed}");
    assert_eq!(mixed["addresses"], json!([]));

    let none = explain(&proxy, "https://none.example.com/").await;
    assert_eq!((&none["allowed"], rules(&none).1), (&json!(false), "answers"));
    let broken = explain(&proxy, "https://broken.example.com/").await;
    assert_eq!((&broken["reason"], rules(&broken).1), (&json!("dns_failed"), "dns"));
    let silent = explain(&proxy, "https://silent.example.com/").await;
    assert_eq!((&silent["reason"], rules(&silent).1), (&json!("dns_timeout"), "dns"));

    for (url, reason, rule) in [
        ("http://[::ffff:169.254.169.254]/", "address", "address"),
        ("http://0x7f.1:22/", "port", "port"),
        ("http://printer.local/", "name", "name"),
        ("gopher://example.com/", "invalid", "parse"),
        ("not a url", "invalid", "parse"),
    ] {
        let answer = explain(&proxy, url).await;
        assert_eq!((answer["reason"].as_str(), rules(&answer).1), (Some(reason), rule), "{answer}");
        assert_eq!(answer["dns"], Value::Null);
    }
    let exception = explain(&proxy, &upstream.url("/")).await;
    assert_eq!((&exception["allowed"], rules(&exception).1), (&json!(true), "exception"));
    assert_eq!(exception["addresses"], json!([upstream.addr.to_string()]));
    assert_eq!(upstream.connected(), 0, "nothing is dialled");
}

#[tokio::test]
async fn records_come_live_and_a_slow_listener_is_told_what_it_lost() {
    let upstream = Upstream::start(async |_| http::Response::new(full("hello"))).await;
    let proxy = Proxy::start(&config(&[upstream.addr])).await;
    let path = format!("/proxy/{}", upstream.url("/a"));
    assert_eq!(proxy.get(&path).await.status, 200);
    let mut events = Events::open(&proxy).await;
    let (name, hello) = events.next().await.unwrap();
    assert_eq!((name.as_str(), hello["token"].as_str()), ("hello", Some("test")));
    // What was before is not told.
    assert_eq!(proxy.get("/proxy/http://10.0.0.1/b%0Ac?secret=1").await.status, 403);
    let (name, record) = events.next().await.unwrap();
    assert_eq!(name, "message");
    assert_eq!((record["outcome"].as_str(), record["reason"].as_str()), (Some("refused"), Some("address")));
    assert_eq!((record["host"].as_str(), record["token"].as_str()), (Some("10.0.0.1"), Some("test")));
    assert!(!record.to_string().contains("secret"), "{record}");

    // Another one, with small buffers, that does not read for a while.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&proxy.addr.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut slow = tokio::net::TcpStream::from_std(socket.into()).unwrap();
    let head = format!("GET /console/events HTTP/1.1\r\nhost: {}\r\nx-proxy-token: {TOKEN}\r\n\r\n", proxy.addr);
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buf = vec![0; 65536];
    while !text.contains("event: hello") {
        let n = timeout(Duration::from_secs(10), slow.read(&mut buf)).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&buf[..n]).unwrap());
    }
    let tcp = tokio::net::TcpStream::connect(proxy.addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    // Long paths fill the socket's buffers soon.
    let path = format!("/proxy/http://10.0.0.1/{}", "x".repeat(7000));
    let (mut sent, mut heard) = (0_u64, 0_u64);
    while sent < 3000 {
        let request = proxy.request("GET", &path).body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 403);
        response.into_body().collect().await.unwrap();
        sent += 1;
        // The quick one misses nothing.
        let (name, _) = events.next().await.unwrap();
        assert_eq!(name, "message");
        heard += 1;
    }
    assert_eq!(heard, sent);
    let (mut lost, mut got) = (0, 0);
    let mut rest = String::new();
    while got + lost < sent {
        let n = timeout(Duration::from_secs(10), slow.read(&mut buf)).await.expect("no more records").unwrap();
        assert!(n > 0, "the stream ended after {got} records and {lost} lost");
        rest.push_str(std::str::from_utf8(&buf[..n]).unwrap());
        let whole = rest.rfind("\n\n").map_or(0, |at| at + 2);
        for line in rest[..whole].lines() {
            if let Some(event) = line.strip_prefix("data: {\"lost\":") {
                lost += event.trim_end_matches('}').parse::<u64>().unwrap();
            } else if line.starts_with("data: {\"time\"") {
                got += 1;
            }
        }
        rest.drain(..whole);
    }
    assert!(lost > 0 && got >= 1024, "{got} and {lost}");
    assert_eq!(got + lost, sent);
}

#[tokio::test]
async fn listeners_are_bounded_and_a_place_becomes_free_again() {
    let proxy = Proxy::start(&config(&[])).await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut events = Events::open(&proxy).await;
        events.next().await.unwrap();
        open.push(events);
    }
    let answer = proxy.get("/console/events").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    open.pop();
    let again = async {
        loop {
            let response = proxy.send(proxy.request("GET", "/console/events").body(Full::default()).unwrap()).await;
            if response.status() == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(5), again).await.is_ok());
}

#[tokio::test]
async fn watching_ends_with_the_scope_and_with_the_server() {
    let mut proxy = Proxy::start(&config(&[])).await;
    let mut events = Events::open(&proxy).await;
    assert_eq!(events.next().await.unwrap().0, "hello");
    std::fs::write(&proxy.config.0, config(&[]).replace("operator = true\n", "")).unwrap();
    proxy.child.signal("-HUP");
    assert_eq!(events.next().await, Some(("end".into(), json!({"reason": "revoked"}))));
    assert_eq!(events.next().await, None);
    assert_eq!(proxy.get("/console/events").await.status, 403);

    std::fs::write(&proxy.config.0, config(&[])).unwrap();
    proxy.child.signal("-HUP");
    let back = async {
        while ask(&proxy, TOKEN, r#"{"url":"http://10.0.0.1/"}"#).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), back).await.is_ok());
    let mut events = Events::open(&proxy).await;
    assert_eq!(events.next().await.unwrap().0, "hello");
    proxy.child.signal("-TERM");
    loop {
        match events.next().await {
            // The record of the question before may still come.
            Some((name, _)) if name == "message" => {}
            other => break assert_eq!(other, Some(("end".into(), json!({"reason": "shutdown"})))),
        }
    }
    let status = timeout(Duration::from_secs(5), proxy.child.wait()).await.expect("watching holds up the end").unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_token_that_is_made_at_the_start_is_the_operators_own_and_that_of_the_environment_is_not() {
    let secret = "environment-token-0123456789abcdef-012345678";
    let proxy = Proxy::start_with("[audit]\npath = \"off\"\n", &[], &[("PROXY_TOKEN", secret)]).await;
    assert_eq!(ask(&proxy, secret, r#"{"url":"http://10.0.0.1/"}"#).await.status, 403);

    let proxy = Proxy::start("").await;
    proxy.said("X-Proxy-Token: ").await;
    let said = proxy.stderr.lock().unwrap().clone();
    let made = said.split_once("X-Proxy-Token: ").unwrap().1.split('\'').next().unwrap().to_owned();
    assert_ne!(made, TOKEN);
    assert!(!said.contains(&token_hash()));
    assert_eq!(ask(&proxy, &made, r#"{"url":"http://10.0.0.1/"}"#).await.status, 200);
}
