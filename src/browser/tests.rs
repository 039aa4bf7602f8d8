//! The layer as a whole.

use std::convert::Infallible;

use http::{HeaderMap, Version, request::Builder};
use tower::ServiceExt as _;
use tower_layer::Layer as _;

use super::*;
use crate::{browser::BrowserLayer, rejection::Rejection, reply::probe::Probe};

const APP: &str = "https://app.example.com";

fn layer() -> BrowserLayer {
    let layer = BrowserLayer::new().allow_hosts(["proxy.example.com", "[2001:db8::1]:8443"]).unwrap();
    let layer = layer.allow_origins([APP, "http://127.0.0.1:3000"]).unwrap();
    layer.exempt(|head| head.uri.path() == "/health").proxied(|head| head.uri.path().starts_with("/proxy/"))
}

async fn send(layer: BrowserLayer, request: Builder) -> (u16, HeaderMap, bool) {
    let probe = Probe::default();
    let response = layer.layer(probe.handle()).oneshot(request.body(()).unwrap()).await.unwrap();
    (response.status().as_u16(), response.headers().clone(), probe.last().is_some())
}

async fn status(request: Builder) -> u16 {
    let (status, headers, reached) = send(layer(), request).await;
    assert_eq!(reached, status == 200);
    if status != 200 {
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
    status
}

fn get(path: &str, host: &str) -> Builder {
    Request::get(path).header("host", host)
}

#[tokio::test]
async fn a_host_that_was_good_vouches_for_no_other_request() {
    use tower::Service as _;
    let probe = Probe::default();
    let mut service = layer().layer(probe.handle());
    let good = || get("/", "proxy.example.com");
    let h2 = |host: &str| Request::get(format!("https://{host}/")).version(Version::HTTP_2);
    for (request, want) in [
        (get("/health", "evil.example"), 200),
        (get("/", "evil.example"), 421),
        (good(), 200),
        (good(), 200),
        (get("/", "evil.example"), 421),
        (get("/", "proxy.example.com:x"), 400),
        (good().header("host", "proxy.example.com"), 400),
        (good().header("host", "evil.example"), 400),
        (Request::get("/"), 400),
        (good().header("origin", "https://evil.example"), 403),
        (good().header("origin", "https://proxy.example.com"), 200),
        (good().header("origin", APP), 200),
        (h2("evil.example"), 421),
        (h2("evil.example").header("host", "proxy.example.com"), 400),
        (good(), 200),
    ] {
        let request = request.body(()).unwrap();
        let told = format!("{request:?}");
        let ready = tower::ServiceExt::<Request<()>>::ready(&mut service).await.unwrap();
        assert_eq!(ready.call(request).await.unwrap().status().as_u16(), want, "{told}");
    }
}

#[tokio::test]
async fn hosts_are_asked_of_the_list() {
    for (host, want) in [
        ("proxy.example.com", 200),
        ("PROXY.example.com.:8000", 200),
        ("[2001:db8::1]:8443", 200),
        ("[2001:DB8:0::1]:8443", 200),
        ("[2001:db8::1]", 421),
        ("evil.example", 421),
        ("proxy.example.com.evil.example", 421),
        ("localhost", 421),
        ("127.0.0.1", 421),
        ("", 400),
        ("a b", 400),
        ("a/b", 400),
        ("proxy.example.com:x", 400),
        ("user@proxy.example.com", 400),
    ] {
        assert_eq!(status(get("/", host)).await, want, "{host}");
    }
    assert_eq!(status(Request::get("/")).await, 400);
    assert_eq!(status(get("/", "proxy.example.com").header("host", "proxy.example.com")).await, 400);
    assert_eq!(status(Request::get("/").version(Version::HTTP_10)).await, 421);
    assert_eq!(send(BrowserLayer::new(), get("/", "proxy.example.com")).await.0, 421, "an empty list serves nobody");
    assert_eq!(send(BrowserLayer::new().dangerously_allow_any_host(), get("/", "any.example")).await.0, 200);
}

#[tokio::test]
async fn loopback_names_are_served_on_a_loopback_listener() {
    for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"] {
        assert_eq!(send(layer().loopback_listener(true), get("/", host)).await.0, 200);
    }
    for host in ["evil.example:8000", "localhost.evil.example", "10.0.0.1", "0.0.0.0:8000"] {
        assert_eq!(send(layer().loopback_listener(true), get("/", host)).await.0, 421, "{host}");
    }
}

#[tokio::test]
async fn exemptions_are_from_the_list_and_not_from_the_syntax() {
    assert_eq!(status(get("/health", "10.1.2.3:8000")).await, 200);
    assert_eq!(status(get("/health", "a b")).await, 400);
    assert_eq!(status(Request::get("/health")).await, 400);
    assert_eq!(status(Request::get("/health").version(Version::HTTP_10)).await, 200);
    assert_eq!(status(get("http://anywhere.example/", "anywhere.example")).await, 200);
    assert_eq!(status(Request::connect("anywhere.example:443").header("host", "anywhere.example:443")).await, 200);
    assert_eq!(status(Request::get("http://anywhere.example/")).await, 400);
}

#[tokio::test]
async fn http2_authority_and_host_agree() {
    let get = |uri: &str| Request::get(uri.to_owned()).version(Version::HTTP_2);
    assert_eq!(status(get("https://proxy.example.com/")).await, 200);
    assert_eq!(status(get("https://evil.example/")).await, 421);
    assert_eq!(status(get("https://proxy.example.com/").header("host", "Proxy.example.com")).await, 200);
    assert_eq!(status(get("https://proxy.example.com/").header("host", "evil.example")).await, 400);
}

#[tokio::test]
async fn origins_are_exact_or_the_host_itself() {
    let from = |origin: &str| get("/", "proxy.example.com").header("origin", origin);
    for (origin, want) in [
        (APP, 200),
        ("http://127.0.0.1:3000", 200),
        ("https://proxy.example.com", 200),
        ("https://APP.example.com", 403),
        ("https://app.example.com:443", 403),
        ("http://app.example.com", 403),
        ("https://app.example.com.evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("https://proxy.example.com:8443", 403),
        ("ftp://proxy.example.com", 403),
        ("http://127.0.0.1:3001", 403),
    ] {
        assert_eq!(status(from(origin)).await, want, "{origin}");
    }
    assert_eq!(status(from(APP).header("origin", APP)).await, 403, "two are none");
    // In front of a forward proxy, origins are the target's.
    assert_eq!(status(get("http://a.example/", "a.example").header("origin", "http://b.example")).await, 200);
}

#[tokio::test]
async fn preflights_are_answered_before_anything_else() {
    let preflight = |origin: &str| {
        let request =
            Request::options("/proxy/https://t.example/mcp").header("host", "proxy.example.com").header("origin", origin);
        request.header("access-control-request-method", "POST")
    };
    let asked = preflight(APP).header("access-control-request-headers", "x-proxy-token,Mcp-Param-City, content-type");
    let (status, headers, reached) = send(layer(), asked.header("access-control-request-private-network", "true")).await;
    assert_eq!((status, reached), (204, false));
    assert_eq!(headers["access-control-allow-origin"], APP);
    assert_eq!(headers["access-control-allow-headers"], "x-proxy-token, mcp-param-city, content-type");
    assert!(headers["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));
    assert_eq!(headers["access-control-allow-private-network"], "true");
    assert!(headers["vary"].to_str().unwrap().starts_with("Origin"));
    assert!(!headers.contains_key("access-control-allow-credentials"));

    let (status, headers, _) = send(layer(), preflight(APP)).await;
    assert!(
        status == 204
            && !headers.contains_key("access-control-allow-private-network")
            && !headers.contains_key("access-control-allow-headers")
    );
    let (status, headers, reached) =
        send(layer(), preflight("https://evil.example").header("access-control-request-private-network", "true")).await;
    assert!(status == 403 && !reached && !headers.keys().any(|k| k.as_str().starts_with("access-control")));
    for bad in ["a b", "x-token, \u{1}", "a:b", &"x".repeat(9000)] {
        if let Ok(value) = http::HeaderValue::from_bytes(bad.as_bytes()) {
            assert_eq!(send(layer(), preflight(APP).header("access-control-request-headers", value)).await.0, 400);
        }
    }
    // An OPTIONS that is no preflight is the target's.
    assert_eq!(send(layer(), Request::options("/proxy/https://t.example/").header("host", "proxy.example.com")).await.0, 200);
}

async fn relayed(path: &str, origin: Option<&str>, upstream: &[(&'static str, &'static str)]) -> HeaderMap {
    let upstream = upstream.to_vec();
    let inner = tower::service_fn(move |_: Request<()>| {
        let mut response = Response::new(String::new());
        for (name, value) in &upstream {
            response.headers_mut().append(*name, http::HeaderValue::from_static(value));
        }
        async move { Ok::<_, Infallible>(response) }
    });
    let mut request = get(path, "proxy.example.com");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    layer().layer(inner).oneshot(request.body(()).unwrap()).await.unwrap().headers().clone()
}

#[tokio::test]
async fn the_targets_cors_is_replaced_by_ours() {
    let upstream = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://evil.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x"),
        ("vary", "accept"),
    ];
    let headers = relayed("/proxy/x", Some(APP), &upstream).await;
    assert_eq!(headers.get_all("access-control-allow-origin").iter().collect::<Vec<_>>(), [APP]);
    assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("mcp-session-id"));
    assert!(!headers.contains_key("access-control-allow-credentials"));
    assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), ["accept", "Origin"]);
    let headers = relayed("/proxy/x", None, &upstream).await;
    assert!(!headers.keys().any(|k| k.as_str().starts_with("access-control")));
    assert_eq!(relayed("/proxy/x", None, &[("vary", "a, ORIGIN")]).await.get_all("vary").iter().count(), 1);
    assert_eq!(relayed("/proxy/x", None, &[("vary", "*")]).await.get_all("vary").iter().count(), 1);
}

#[tokio::test]
async fn proxied_pages_are_sandboxed_and_own_pages_are_not() {
    let headers =
        relayed("/proxy/x", None, &[("content-security-policy", "default-src *"), ("x-content-type-options", "none")]).await;
    assert_eq!(headers.get_all("content-security-policy").iter().collect::<Vec<_>>(), ["default-src *", "sandbox"]);
    assert_eq!(headers.get_all("x-content-type-options").iter().collect::<Vec<_>>(), ["nosniff"]);
    assert!(!relayed("/console", None, &[]).await.contains_key("content-security-policy"));
}

#[tokio::test]
async fn a_refusal_from_further_in_can_be_read_by_the_page() {
    let inner = tower::service_fn(|_: Request<()>| async {
        let rejection = Rejection::new(crate::rejection::RejectionKind::Unauthenticated);
        Ok::<_, Infallible>(rejection.into_response::<String>())
    });
    let response =
        layer().layer(inner).oneshot(get("/", "proxy.example.com").header("origin", APP).body(()).unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["access-control-allow-origin"]),
        (401, &http::HeaderValue::from_static(APP))
    );
}

#[test]
fn the_lists_take_nothing_that_would_not_match() {
    for origin in [
        "*",
        "null",
        "https://app.example.com/",
        "https://APP.example.com",
        "https://a.example:443",
        "app.example.com",
        "https://*.example.com",
        "",
    ] {
        assert!(BrowserLayer::new().allow_origins([origin]).is_err(), "{origin}");
    }
    assert!(BrowserLayer::new().allow_origins(["chrome-extension://abcdef", "tauri://localhost"]).is_ok());
    for host in ["", "*", "*.example.com", "https://a.example", "a.example/x", "a:b"] {
        assert!(BrowserLayer::new().allow_hosts([host]).is_err(), "{host}");
    }
}
