//! The browser rules over real sockets, in front of the token layer and of a page that says everything it should not.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail by panicking, and measure real time"
)]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    browser::BrowserLayer,
    client_addr::ClientAddrLayer,
    proxy_token::ProxyTokenLayer,
    serve::{RequestBody, Server},
    tokens::{StaticTokens, TokenHasher, TokenRecord},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::ServiceBuilder;

const TOKEN: &str = "a-token-of-more-than-32-characters-a";
const APP: &str = "https://app.example.com";

async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let record = TokenRecord::new("ci").unwrap().with_hash(TokenHasher::plain().hash(TOKEN).unwrap()).unwrap();
    let tokens = StaticTokens::new(TokenHasher::plain(), [record]).unwrap();
    let browser = BrowserLayer::new().allow_hosts(["proxy.example.com"]).unwrap().allow_origins([APP]).unwrap();
    let browser = browser.loopback_listener(true).exempt(|head| head.uri.path() == "/health");
    let page = tower::service_fn(|_: Request<RequestBody>| async {
        let response = Response::builder()
            .header("access-control-allow-origin", "*")
            .header("access-control-allow-credentials", "true")
            .header("access-control-expose-headers", "x-theirs")
            .header("mcp-session-id", "s")
            .header("content-type", "text/html")
            .header("vary", "accept");
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from("<script>alert(1)</script>"))).unwrap())
    });
    let stack = ServiceBuilder::new()
        .layer(ClientAddrLayer::connection())
        .layer(browser)
        .layer(ProxyTokenLayer::new(tokens))
        .service(page);
    let server = Server::builder().build();
    tokio::spawn(async move { server.serve(listener, stack, std::future::pending()).await });
    addr
}

/// Sends the bytes and reads the answer's head, names in lower case.
async fn ask(addr: SocketAddr, request: &str) -> (u16, Vec<(String, String)>) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut read)).await.expect("an answer in time").unwrap();
    let text = String::from_utf8(read).unwrap();
    let head = text.split("\r\n\r\n").next().unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let fields = head.lines().skip(1).filter_map(|l| l.split_once(':'));
    (status, fields.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect())
}

fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
}

fn get(host: &str, more: &str) -> String {
    format!("GET /proxy/x HTTP/1.1\r\n{host}Connection: close\r\nX-Proxy-Token: {TOKEN}\r\n{more}\r\n")
}

#[tokio::test]
async fn hosts_that_are_missing_double_broken_or_foreign_get_no_further() {
    let addr = server().await;
    let port = addr.port();
    for (host, want) in [
        ("Host: proxy.example.com\r\n".to_owned(), 200),
        (format!("Host: localhost:{port}\r\n"), 200),
        (format!("Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("Host: [::1]:{port}\r\n"), 200),
        (String::new(), 400),
        ("Host: proxy.example.com\r\nHost: proxy.example.com\r\n".to_owned(), 400),
        ("Host: proxy.example.com\r\nHost: evil.example\r\n".to_owned(), 400),
        ("Host: \r\n".to_owned(), 400),
        ("Host: proxy.example.com, evil.example\r\n".to_owned(), 400),
        ("Host: proxy.example.com/evil\r\n".to_owned(), 400),
        // A page whose own name was made to lead here.
        (format!("Host: evil.example:{port}\r\n"), 421),
        (format!("Host: 192.168.0.7:{port}\r\n"), 421),
    ] {
        assert_eq!(ask(addr, &get(&host, "")).await.0, want, "{host}");
    }
    let health = format!("GET /health HTTP/1.1\r\nHost: 10.0.0.9\r\nConnection: close\r\nX-Proxy-Token: {TOKEN}\r\n\r\n");
    assert_eq!(ask(addr, &health).await.0, 200);
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_an_unlisted_origin_gets_nothing() {
    let addr = server().await;
    let preflight = |origin: &str, more: &str| {
        format!(
            "OPTIONS /forward HTTP/1.1\r\nHost: proxy.example.com\r\nConnection: close\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n{more}\r\n"
        )
    };
    let asked = "Access-Control-Request-Headers: mcp-method,mcp-name,mcp-param-region,mcp-protocol-version,x-proxy-token,x-target-url\r\nAccess-Control-Request-Private-Network: true\r\n";
    let (status, fields) = ask(addr, &preflight(APP, asked)).await;
    assert_eq!(status, 204);
    assert_eq!(all(&fields, "access-control-allow-origin"), [APP]);
    let allowed = "mcp-method, mcp-name, mcp-param-region, mcp-protocol-version, x-proxy-token, x-target-url";
    assert_eq!(all(&fields, "access-control-allow-headers"), [allowed]);
    assert_eq!(all(&fields, "access-control-allow-private-network"), ["true"]);
    assert!(all(&fields, "access-control-allow-methods")[0].contains("DELETE"));
    for origin in ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com"] {
        let (status, fields) = ask(addr, &preflight(origin, asked)).await;
        assert_eq!(status, 403, "{origin}");
        assert!(!fields.iter().any(|(n, _)| n.starts_with("access-control-")), "{origin}");
    }
    // The same goes for requests that need no preflight, and for WebSockets.
    assert_eq!(ask(addr, &get("Host: proxy.example.com\r\n", "Origin: https://evil.example\r\n")).await.0, 403);
    let upgrade =
        get("Host: proxy.example.com\r\n", "Origin: https://evil.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n");
    assert_eq!(ask(addr, &upgrade).await.0, 403);
}

#[tokio::test]
async fn a_page_reads_what_it_may_and_runs_nothing() {
    let addr = server().await;
    let (status, fields) = ask(addr, &get("Host: proxy.example.com\r\n", &format!("Origin: {APP}\r\n"))).await;
    assert_eq!(status, 200);
    assert_eq!(all(&fields, "access-control-allow-origin"), [APP]);
    assert_eq!(all(&fields, "access-control-allow-credentials"), [""; 0]);
    let exposed = all(&fields, "access-control-expose-headers");
    for name in ["mcp-session-id", "www-authenticate", "retry-after", "ratelimit", "ratelimit-policy"] {
        assert!(exposed.len() == 1 && exposed[0].split(", ").any(|n| n == name), "{name} in {exposed:?}");
    }
    assert_eq!(all(&fields, "vary"), ["accept", "Origin"]);
    assert_eq!(all(&fields, "x-content-type-options"), ["nosniff"]);
    assert_eq!(all(&fields, "content-security-policy"), ["sandbox"]);

    // A refusal from further in can be read as well: the page sees the 401 and not "Failed to fetch".
    let anonymous = format!("GET / HTTP/1.1\r\nHost: proxy.example.com\r\nConnection: close\r\nOrigin: {APP}\r\n\r\n");
    let (status, fields) = ask(addr, &anonymous).await;
    assert_eq!((status, all(&fields, "access-control-allow-origin")), (401, vec![APP]));
    assert!(all(&fields, "www-authenticate")[0].starts_with("ProxyToken "));

    let (_, fields) = ask(addr, &get("Host: proxy.example.com\r\n", "")).await;
    assert!(!fields.iter().any(|(n, _)| n.starts_with("access-control-")), "what the page behind said is gone");
    assert_eq!(all(&fields, "vary"), ["accept", "Origin"]);
}

#[tokio::test]
async fn http2_names_its_host_in_the_authority() {
    let addr = server().await;
    for (uri, host, want) in [
        ("http://proxy.example.com/", None, 200),
        ("http://evil.example/", None, 421),
        ("http://proxy.example.com/", Some("evil.example"), 400),
        ("http://evil.example/", Some("proxy.example.com"), 400),
    ] {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(uri).header("x-proxy-token", TOKEN);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let response = send.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), want, "{uri} {host:?}");
    }
}
