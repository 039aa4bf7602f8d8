//! A target that does not play by the rules.

use std::time::Duration;

use crate::support::*;

async fn answer_to(bytes: &'static [u8]) -> Message {
    let origin = Target::recording(move |mut wire| async move {
        wire.request().await;
        wire.send(bytes).await;
    })
    .await;
    Proxy::new().await.get(&origin.path("/")).await
}

#[tokio::test]
async fn broken_heads_are_502() {
    for (bytes, why) in [
        (&b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"[..], "an unsolicited 101"),
        (b"HTTP/1.1 099 Low\r\n\r\n", "a status below 100"),
        (b"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n", "a status above 599"),
        (b"SSH-2.0-OpenSSH_9\r\n", "another protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "two lengths"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello", "a length that is none"),
        (b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n", "a space in a name"),
        (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "a NUL"),
        (b"", "nothing at all"),
        (b"HTTP/1.1 200 OK\r\nX: ", "half a head"),
    ] {
        let answer = answer_to(bytes).await;
        assert_eq!(answer.status(), 502, "{why}: {}", answer.head);
        assert!(answer.field("proxy-status").unwrap().starts_with("portcullis; error="), "{why}");
    }
}

#[tokio::test]
async fn a_head_too_large_or_with_too_many_fields_is_502() {
    let proxy = Proxy::new().await;
    for fields in ["X: y\r\n".repeat(101), format!("X: {}\r\n", "y".repeat(100 * 1024))] {
        let origin = Target::recording(move |mut wire| {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            async move {
                wire.request().await;
                wire.send(head).await;
            }
        })
        .await;
        let answer = proxy.get(&origin.path("/")).await;
        assert_eq!(answer.field("proxy-status"), Some("portcullis; error=http_response_header_section_size"));
    }
}

#[tokio::test]
async fn endless_interim_responses_end() {
    let origin = Target::recording(|mut wire| async move {
        wire.request().await;
        loop {
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
            tokio::task::yield_now().await;
            if wire.stream.try_write(b"").is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::with(|b| b.header_timeout(Duration::from_secs(2)), |b| b).await;
    let answer = proxy.get(&origin.path("/")).await;
    assert!(matches!(answer.status(), 502 | 504), "{}", answer.head);
}

#[tokio::test]
async fn both_framings_at_once_lose_the_length() {
    let answer =
        answer_to(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!((answer.field("content-length"), answer.body.as_slice()), (None, &b"hello"[..]));
}

#[tokio::test]
async fn a_body_cut_short_is_never_a_clean_end() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    ] {
        let answer = answer_to(bytes).await;
        assert!(!answer.complete || answer.status() == 502, "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn bytes_after_a_response_poison_nothing() {
    let origin = Target::recording(|mut wire| async move {
        while wire.request().await.is_some() {
            if wire.index == 0 {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
            } else {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
            }
        }
    })
    .await;
    let proxy = Proxy::new().await;
    assert_eq!(proxy.get(&origin.path("/")).await.body, b"ok");
    assert_eq!(proxy.get(&origin.path("/")).await.body, b"good");
    assert_eq!(origin.accepted(), 2);
}

#[tokio::test]
async fn a_broken_upload_is_the_clients_fault_and_aborts_the_target() {
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    let origin = Target::recording(move |mut wire| {
        let tx = tx.clone();
        async move {
            wire.head().await;
            wire.gone().await;
            tx.send(String::from_utf8_lossy(&wire.buf).into_owned()).unwrap();
        }
    })
    .await;
    let proxy = Proxy::new().await;
    let answer = proxy
        .ask(format!("POST {} HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", origin.path("/")))
        .await;
    assert_eq!(answer.status(), 400);
    let body = soon("the abort", rx.recv()).await.unwrap();
    assert!(!body.ends_with("0\r\n\r\n"), "no clean end upstream: {body:?}");
}
