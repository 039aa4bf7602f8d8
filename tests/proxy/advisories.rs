//! Advisories of this class, each with the request or answer that it was about.

use crate::support::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends raw bytes through the hardened server; returns the first answer and what the origin has seen.
async fn through(request: impl Fn(&str) -> String) -> (u16, String) {
    let origin = Target::fixed(OK).await;
    let proxy = Proxy::hardened().await;
    let mut client = proxy.client().await;
    client.send(request(&origin.path("/"))).await;
    let status = match client.head().await {
        Some(head) => Message { head, body: vec![], complete: true }.status(),
        None => 0,
    };
    (status, origin.seen())
}

/// Refused or closed, and nothing reached the origin that could be taken for a whole request.
async fn refused(request: impl Fn(&str) -> String) {
    let (status, seen) = through(request).await;
    assert!(matches!(status, 0 | 400 | 501), "{status}");
    assert!(!seen.contains("GET /smuggled") && !seen.ends_with("0\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn cve_2021_32813_and_cve_2024_45410_connection_names_the_proxys_own_fields() {
    for name in ["X-Forwarded-For", "x-forwarded-host", "X-Real-Ip", "Forwarded", "Via"] {
        let (status, seen) =
            through(|url| format!("GET {url} HTTP/1.1\r\nHost: p\r\nConnection: keep-alive, {name}\r\n\r\n")).await;
        assert_eq!((status, seen.as_str()), (400, ""), "{name}");
    }
}

#[tokio::test]
async fn go_46313_an_empty_connection_line_hides_no_second_one() {
    let (status, seen) =
        through(|url| format!("GET {url} HTTP/1.1\r\nHost: p\r\nConnection:\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n")).await;
    assert!(status == 200 && !seen.to_ascii_lowercase().contains("x-hop"), "{seen}");
}

#[tokio::test]
async fn ghsa_x677_9fxg_v5c5_aliases_with_underscores_and_dots() {
    let (status, seen) = through(|url| {
        format!("GET {url} HTTP/1.1\r\nHost: p\r\nX_Forwarded_For: 6.6.6.6\r\nX.Real.Ip: 6.6.6.6\r\nX_Forwarded.Proto: 6\r\n\r\n")
    })
    .await;
    assert!(status == 200 && !seen.contains("6.6.6.6") && !seen.to_ascii_lowercase().contains("forwarded"), "{seen}");
}

#[tokio::test]
async fn cve_2021_40346_a_content_length_that_overflows() {
    refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\nContent-Length: 18446744073709551621\r\n\r\nhello")).await;
}

#[tokio::test]
async fn cve_2023_25725_an_empty_field_name_ends_nothing() {
    refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\n: x\r\nContent-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"))
        .await;
}

#[tokio::test]
async fn cve_2023_40225_and_45539_an_empty_length_and_a_fragment() {
    refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\nContent-Length:\r\n\r\nhello")).await;
    refused(|url| format!("GET {url}x.png#/admin HTTP/1.1\r\nHost: p\r\n\r\n")).await;
}

#[tokio::test]
async fn cve_2025_22871_and_cve_2025_55315_bare_line_feeds_in_chunked_framing() {
    for body in ["5\nhello\r\n0\r\n\r\n", "5;a=b\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n"] {
        refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
    }
}

#[tokio::test]
async fn cve_2025_43859_a_chunk_that_does_not_end_in_crlf() {
    refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n")).await;
}

#[tokio::test]
async fn cve_2026_2835_http_1_0_with_a_transfer_coding() {
    refused(|url| {
        format!("POST {url} HTTP/1.0\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: p\r\n\r\n")
    })
    .await;
}

#[tokio::test]
async fn rustsec_2020_0008_and_2021_0078_both_framings_or_a_signed_length() {
    refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\nContent-Length: +5\r\n\r\nhello")).await;
    refused(|url| format!("POST {url} HTTP/1.1\r\nHost: p\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")).await;
    let (status, seen) = through(|url| {
        format!("POST {url} HTTP/1.1\r\nHost: p\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: p\r\n\r\n")
    })
    .await;
    assert!(!seen.contains("smuggled") && !seen.to_ascii_lowercase().contains("content-length: 4"), "{status} {seen}");
}

#[tokio::test]
async fn cve_2022_2880_a_query_that_does_not_parse_crosses_as_it_is() {
    let origin = Target::fixed(OK).await;
    let proxy = Proxy::hardened().await;
    proxy.get(&origin.path("/?a=%zz;b=1&a=2&&=x")).await;
    assert!(origin.seen().starts_with("GET /?a=%zz;b=1&a=2&&=x HTTP/1.1\r\n"), "{}", origin.seen());
}

#[test]
fn rustsec_2026_0258_and_the_other_floods_need_a_current_h2() {
    let lock = include_str!("../../Cargo.lock");
    let version = lock.split("name = \"h2\"\nversion = \"").nth(1).and_then(|v| v.split('"').next()).unwrap();
    let parts: Vec<u32> = version.split('.').map(|p| p.parse().unwrap()).collect();
    assert!(parts >= vec![0, 4, 16], "{version}");
}
