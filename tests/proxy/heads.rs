//! What crosses in heads.

use crate::support::*;

#[tokio::test]
async fn a_request_reaches_the_target_cleaned_and_byte_exact() {
    let origin = Target::fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let proxy = Proxy::new().await;
    let path = "/a/../%2e%2E/b//c?x=%7E&&y=a%20b&z=';";
    let answer = proxy
        .ask(format!(
            "GET {} HTTP/1.1\r\nHost: proxy\r\nConnection: close, X-Hop\r\nConnection: x-hop2\r\nX-Hop: 1\r\nX-Hop2: 1\r\n\
             Origin: http://page\r\nCookie: a=b\r\nSec-Fetch-Mode: cors\r\nX-Forwarded-For: 1.2.3.4\r\nX_Real_IP: 1.2.3.4\r\n\
             Proxy-Authorization: Basic x\r\nTE: gzip\r\nAuthorization: Bearer theirs\r\nMcp-Param-X: y\r\n\r\n",
            origin.path(path)
        ))
        .await;
    assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"ok"[..]));
    let seen = origin.seen();
    assert!(seen.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{seen}");
    let seen = seen.to_ascii_lowercase();
    assert!(seen.contains(&format!("\r\nhost: {}\r\n", origin.addr)) && !seen.contains("host: proxy"));
    assert!(seen.contains("\r\nauthorization: bearer theirs\r\n") && seen.contains("\r\nmcp-param-x: y\r\n"));
    assert!(seen.contains("\r\nvia: 1.1 portcullis-"));
    for gone in ["x-hop", "origin:", "cookie:", "sec-fetch", "x-forwarded", "x_real", "proxy-authorization", "te:", "connection:"]
    {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
}

#[tokio::test]
async fn responses_lose_what_speaks_for_our_origin_and_are_sandboxed() {
    let origin = Target::fixed(
        b"HTTP/1.0 200 OK\r\nSet-Cookie: a=b\r\nStrict-Transport-Security: max-age=1\r\nAlt-Svc: h3=\":443\"\r\n\
          Clear-Site-Data: \"*\"\r\nAccess-Control-Allow-Origin: *\r\nX-Own: 1\r\nConnection: keep-alive, X-Named\r\nX-Named: 1\r\n\
          Content-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = Proxy::new().await;
    let answer = proxy.get(&origin.path("/")).await;
    assert!(answer.head.starts_with("HTTP/1.1 200"), "our own version: {}", answer.head);
    assert_eq!(answer.field("x-own"), Some("1"));
    assert_eq!(answer.field("content-security-policy"), Some("sandbox"));
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
    for gone in
        ["set-cookie", "strict-transport-security", "alt-svc", "clear-site-data", "access-control-allow-origin", "x-named"]
    {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_loop_is_508_and_trace_405_and_a_protected_option_400() {
    let origin = Target::fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = Proxy::with(|b| b, |b| b.pseudonym("me-1234").unwrap()).await;
    for (line, status) in [("GET", 200), ("TRACE", 405)] {
        let answer = proxy.ask(format!("{line} {} HTTP/1.1\r\nHost: p\r\n\r\n", origin.path("/"))).await;
        assert_eq!(answer.status(), status, "{line}");
    }
    for (field, status) in [
        ("Via: 1.1 other, 1.1 me-1234", 508),
        ("Via: 1.1 other", 200),
        ("Connection: host", 400),
        ("Connection: X-Forwarded-For", 400),
        ("Expect: 200-maybe", 417),
    ] {
        let answer = proxy.ask(format!("GET {} HTTP/1.1\r\nHost: p\r\n{field}\r\n\r\n", origin.path("/"))).await;
        assert_eq!(answer.status(), status, "{field}");
        if status != 200 {
            assert!(answer.field("proxy-status").is_some() && answer.field("content-type") == Some("application/problem+json"));
        }
    }
    let answer = proxy.ask(format!("OPTIONS {} HTTP/1.1\r\nHost: p\r\nMax-Forwards: 0\r\n\r\n", origin.path("/"))).await;
    assert_eq!(answer.status(), 204);
    assert!(!origin.seen().contains("OPTIONS"));
}

#[tokio::test]
async fn bodyless_answers_stay_bodyless() {
    let origin = Target::recording(|mut wire| async move {
        while let Some(request) = wire.request().await {
            let answer: &[u8] = if request.head.contains("/204") {
                b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
            } else if request.head.contains("/304") {
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
            };
            wire.send(answer).await;
        }
    })
    .await;
    let proxy = Proxy::new().await;
    let mut client = proxy.client().await;
    for (method, path, status, length) in
        // hyper's server leaves the optional length of a 304 out.
        [
            ("GET", "/204", 204, None),
            ("GET", "/304", 304, None),
            ("HEAD", "/", 200, Some("5")),
            ("GET", "/204", 204, None),
        ]
    {
        client.send(format!("{method} {} HTTP/1.1\r\nHost: p\r\n\r\n", origin.path(path))).await;
        let head = client.head().await.unwrap();
        let answer = Message { head, body: vec![], complete: true };
        assert_eq!((answer.status(), answer.field("content-length")), (status, length), "{method} {path}");
        assert_eq!(answer.field("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn forwarded_fields_for_a_fixed_upstream_replace_what_a_stranger_says() {
    use portcullis::proxy::ForwardedFields;
    let origin = Target::fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = Proxy::with(|b| b, |b| b.forwarded(ForwardedFields::XForwarded)).await;
    proxy
        .ask(format!(
            "GET /fixed/http://{}/ HTTP/1.1\r\nHost: front.example\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             Forwarded: for=6.6.6.6\r\n\r\n",
            origin.addr
        ))
        .await;
    let seen = origin.seen().to_ascii_lowercase();
    assert!(seen.contains("\r\nx-forwarded-for: 127.0.0.1\r\n") && seen.contains("\r\nx-forwarded-proto: http\r\n"), "{seen}");
    assert!(seen.contains("\r\nx-forwarded-host: front.example\r\n") && !seen.contains("6.6.6.6"), "{seen}");
}

#[tokio::test]
async fn trailers_cross_both_ways_without_what_does_not_belong_there() {
    let origin = Target::recording(|mut wire| async move {
        while wire.request().await.is_some() {
            wire.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let proxy = Proxy::new().await;
    let answer = proxy
        .ask(format!(
            "POST {} HTTP/1.1\r\nHost: p\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-Up, Authorization\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Up: 2\r\nAuthorization: x\r\n\r\n",
            origin.path("/")
        ))
        .await;
    assert!(answer.complete);
    assert_eq!(String::from_utf8_lossy(&answer.body).to_ascii_lowercase(), "ok[x-sum: 1]");
    let seen = origin.seen().to_ascii_lowercase();
    assert!(seen.contains("x-up: 2") && !seen.contains("authorization: x"), "{seen}");
    assert!(seen.contains("\r\nte: trailers\r\n") && seen.contains("\r\nconnection: te\r\n"), "{seen}");
}
