//! Host, Origin and preflights.

use bytes::Bytes;
use http::{Method, Request, Response, request::Builder};
use http_body_util::Full;

use crate::support::{Answer, Proxy, TOKEN, Upstream, full, usual};

const APP: &str = "https://app.example.com";

async fn start() -> (Upstream, Proxy) {
    let upstream = Upstream::start(async |_| {
        let mut response = Response::new(full("ok"));
        for (name, value) in [("access-control-allow-origin", "https://evil.example"), ("mcp-session-id", "s1")] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let config = format!("allowed_hosts = [\"proxy.example.com\"]\nallowed_origins = [\"{APP}\"]\n{}", usual(&[upstream.addr]));
    let proxy = Proxy::start(&config).await;
    (upstream, proxy)
}

async fn send(proxy: &Proxy, request: Builder) -> Answer {
    Answer::read(proxy.send(request.body(Full::<Bytes>::default()).unwrap()).await).await
}

#[tokio::test]
async fn a_preflight_is_answered_before_authentication() {
    let (upstream, proxy) = start().await;
    let path = format!("/proxy/{}", upstream.url("/mcp"));
    let preflight = |origin: &str| {
        Request::builder()
            .method(Method::OPTIONS)
            .uri(&path)
            .header("host", proxy.addr.to_string())
            .header("origin", origin)
            .header("access-control-request-method", "DELETE")
            .header("access-control-request-headers", "content-type,mcp-method,mcp-param-x,x-proxy-token")
    };
    let answer = send(&proxy, preflight(APP)).await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
    let headers = answer.header("access-control-allow-headers").unwrap();
    for name in ["content-type", "mcp-method", "mcp-param-x", "x-proxy-token"] {
        assert!(headers.contains(name), "{headers}");
    }
    assert!(answer.header("access-control-allow-methods").unwrap().contains("DELETE"));
    assert!(answer.header("vary").unwrap().to_ascii_lowercase().contains("origin"));
    let answer = send(&proxy, preflight("https://evil.example")).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.status, 403);
    assert_eq!(upstream.connected(), 0);
}

#[tokio::test]
async fn origins_are_exact_and_answers_are_exposed() {
    let (upstream, proxy) = start().await;
    let path = format!("/proxy/{}", upstream.url("/mcp"));
    let answer = send(&proxy, proxy.request("GET", &path).header("origin", APP)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers.get_all("access-control-allow-origin").iter().collect::<Vec<_>>(), [APP]);
    let exposed = answer.header("access-control-expose-headers").unwrap().to_ascii_lowercase();
    for name in ["mcp-session-id", "www-authenticate", "retry-after", "ratelimit", "ratelimit-policy"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    for origin in [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "null",
        "https://app.example.com:444",
    ] {
        let answer = send(&proxy, proxy.request("GET", &path).header("origin", origin)).await;
        assert_eq!(answer.status, 403, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // A refusal is readable for the page too.
    let refused = Request::get(&path).header("host", proxy.addr.to_string()).header("origin", APP);
    let answer = send(&proxy, refused).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some(APP)));
}

#[tokio::test]
async fn foreign_hosts_are_421_but_health_is_for_everybody() {
    let (upstream, proxy) = start().await;
    let path = format!("/proxy/{}", upstream.url("/"));
    let get = |path: &str, host: &str| Request::get(path.to_owned()).header("host", host).header("x-proxy-token", TOKEN);
    for host in ["proxy.example.com", &format!("localhost:{}", proxy.addr.port()), &proxy.addr.to_string()] {
        assert_eq!(send(&proxy, get(&path, host)).await.status, 200, "{host}");
    }
    for host in ["evil.example", "proxy.example.com.evil.example", &format!("evil.example:{}", proxy.addr.port())] {
        assert_eq!(send(&proxy, get(&path, host)).await.status, 421, "{host}");
        assert_eq!(send(&proxy, get("/", host)).await.status, 421, "{host}");
        assert_eq!(send(&proxy, get("/health", host)).await.status, 200, "{host}");
    }
    assert_eq!(send(&proxy, get("/health", "a b")).await.status, 400);
}
