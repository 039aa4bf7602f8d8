//! Where a token may be, and that it goes no further.

use std::time::Duration;

use portcullis::proxy_token::{FailureLimit, TokenSource};

use crate::support::{Plan, UPGRADE, basic, carrier, get_h2, record, token};

#[tokio::test]
async fn every_carrier_opens_the_door_and_none_reaches_the_origin() {
    let (good, theirs) = (token(), token());
    let house = Plan::new([record("ci", &good)]).build().await;
    let ok = house.get("/field", &format!("X-Proxy-Token: {good}\r\nAuthorization: Bearer {theirs}\r\n")).await;
    assert_eq!(ok.status, 200, "{ok:?}");
    assert!(
        house.seen.text().to_lowercase().contains(&format!("authorization: bearer {}", theirs.to_lowercase())),
        "the target's own passes"
    );
    assert_eq!(house.get("/bearer", &format!("Proxy-Authorization: Bearer {good}\r\n")).await.status, 200);
    assert_eq!(house.get("/basic", &format!("Proxy-Authorization: {}\r\n", basic(&good))).await.status, 200);
    assert_eq!(get_h2(house.addr, &house.to("/h2"), &good).await, 200);

    let (head, _) = house.open(&format!("/ws?a=%20b&proxy_token={good}&c=+"), UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let offer = format!("{UPGRADE}Sec-WebSocket-Protocol: chat, {}, mcp\r\n", carrier(&good));
    let (head, _) = house.open("/ws", &offer).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("sec-websocket-protocol: chat\r\n"), "{head}");
    let (head, _) = house.open("/ws", &format!("{UPGRADE}Sec-WebSocket-Protocol: {}\r\n", carrier(&good))).await;
    assert!(head.contains(&carrier(&good)), "a browser that offers the carrier alone gets a protocol selected");
    let (head, _) = house.open(&format!("/events?proxy_token={good}"), "Accept: text/event-stream\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");

    let seen = house.seen.text();
    for path in ["GET /field ", "GET /bearer ", "GET /basic ", "GET /h2 ", "GET /ws?a=%20b&c=+ ", "GET /events "] {
        assert!(seen.contains(path), "{path} in {seen}");
    }
    assert!(seen.contains("chat, mcp"));
    house.audited("/basic").await;
    house.assert_unseen(&[&good]);
    assert!(!house.audit.text().contains(&theirs));
}

#[tokio::test]
async fn trailers_and_duplicates_carry_no_token_either() {
    let good = token();
    let house = Plan::new([record("ci", &good)]).build().await;
    let field = format!("X-Proxy-Token: {good}\r\n");
    let fields = format!("{field}{field}Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Proxy-Token\r\n");
    let body = format!("5\r\nhello\r\n0\r\nX-Proxy-Token: {good}\r\nX-Other: 1\r\n\r\n");
    let answer = house.post("/upload", &fields, &body).await;
    assert_eq!((answer.status, answer.body.contains("origin says hello")), (200, true), "{answer:?}");
    assert!(house.seen.text().contains("hello"));
    house.audited("/upload").await;
    house.assert_unseen(&[&good]);

    // The same with a field of the operator's choice.
    let mut plan = Plan::new([record("ci", &good)]);
    plan.sources = vec![TokenSource::header("x-gate-key").unwrap()];
    let house = plan.build().await;
    let fields = format!("X-Gate-Key: {good}\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Gate-Key, X-Other\r\n");
    let body = format!("5\r\nhello\r\n0\r\nX-Gate-Key: {good}\r\nX-Other: 1\r\n\r\n");
    assert_eq!(house.post("/upload", &fields, &body).await.status, 200);
    assert!(house.seen.text().to_lowercase().contains("x-other: 1"), "other trailers pass: {}", house.seen.text());
    house.audited("/upload").await;
    house.assert_unseen(&[&good]);
}

#[tokio::test]
async fn all_that_is_wrong_gets_one_answer_and_the_audit_says_which() {
    let (good, off, old, unknown) = (token(), token(), token(), token());
    let past = std::time::SystemTime::UNIX_EPOCH;
    let records = [record("ci", &good), record("off", &off).disabled(true), record("old", &old).expires(past)];
    let house = Plan::new(records).build().await;
    let mut mangled = unknown.clone();
    mangled.replace_range(20..21, if &unknown[20..21] == "A" { "B" } else { "A" });
    let mut answers = Vec::new();
    for (path, token, reason) in [
        ("/unknown", unknown.as_str(), "unknown_token"),
        ("/disabled", &off, "disabled_token"),
        ("/expired", &old, "expired_token"),
        ("/mangled", &mangled, "token_checksum"),
        ("/missing", "", "missing_token"),
    ] {
        let answer = house.get(path, &format!("X-Proxy-Token: {token}\r\n")).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.field("www-authenticate"), Some("ProxyToken realm=\"portcullis\""));
        let stable = |head: &str| head.lines().filter(|l| !l.to_lowercase().starts_with("date:")).collect::<Vec<_>>().join("\n");
        answers.push((stable(&answer.head), answer.body));
        let line = house.audited(reason).await;
        assert!(line.contains(path) || line.contains("\"status\":401"), "{line}");
    }
    assert!(answers.iter().all(|a| a == &answers[0]), "{answers:#?}");
    assert!(house.audited("disabled_token").await.contains("\"token\":\"off\""));
    let query = house.get(&format!("/query?proxy_token={good}"), "").await;
    assert_eq!(query.status, 401, "a query token counts on upgrades and event streams only");
    house.audited("query_token_not_allowed").await;
    let two = house.get("/two", &format!("X-Proxy-Token: {good}\r\nProxy-Authorization: Bearer {unknown}\r\n")).await;
    assert_eq!(two.status, 400);
    house.audited("two_credentials").await;
    assert_eq!(house.seen.text(), "", "nothing of it reached the origin");
    house.assert_unseen(&[&good, &off, &old, &unknown, &mangled]);
}

#[tokio::test]
async fn forward_proxy_requests_are_asked_with_a_407() {
    let good = token();
    let house = Plan::new([record("ci", &good)]).build().await;
    for line in ["CONNECT 127.0.0.1:443", "GET http://127.0.0.1:1/"] {
        let answer = house.ask(line, "", "").await;
        assert_eq!((answer.status, answer.field("proxy-authenticate")), (407, Some("Basic realm=\"portcullis\"")), "{line}");
        assert_eq!(answer.field("www-authenticate"), None);
    }
}

#[tokio::test]
async fn a_ticket_opens_one_stream_at_its_own_target() {
    let good = token();
    let house = Plan::new([record("ci", &good)]).build().await;
    let principal = {
        let live = house.tokens.get("ci").unwrap();
        let digest = portcullis::tokens::TokenHasher::plain().digest(good.as_bytes());
        portcullis::tokens::verify(Some(&live), &digest, std::time::SystemTime::UNIX_EPOCH).unwrap().clone()
    };
    let issue = |target: &str| {
        let target = portcullis::net::Target::parse(target).unwrap();
        house.tickets.issue(&principal, target.origin()).unwrap().secret.expose().to_owned()
    };
    let ticket = issue(&house.target("/").to_string());
    let (head, _) = house.open(&format!("/ws?ticket={ticket}"), UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let (head, _) = house.open(&format!("/ws?ticket={ticket}"), UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 401"), "used once: {head}");
    let foreign = issue("ws://127.0.0.1:1/");
    let (head, _) = house.open(&format!("/ws?ticket={foreign}"), UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 403"), "for another target: {head}");
    let plain = issue(&house.target("/").to_string());
    assert_eq!(house.get(&format!("/x?ticket={plain}"), "").await.status, 401, "not on a plain request");
    house.assert_unseen(&[&ticket, &foreign, &plain, &good]);
}

#[tokio::test]
async fn guessing_is_held_up_per_client() {
    let good = token();
    let mut plan = Plan::new([record("ci", &good)]);
    plan.sources = vec![TokenSource::header("x-proxy-token").unwrap()];
    plan.tokens = |layer| layer.failure_gate(FailureLimit::with(3, Duration::from_secs(60)));
    plan.trusted = &["127.0.0.1/32"];
    let house = plan.build().await;
    let guess = |client: &'static str, token: String| {
        let fields = format!("X-Forwarded-For: {client}\r\nX-Proxy-Token: {token}\r\n");
        let house = &house;
        async move { house.get("/", &fields).await }
    };
    for want in [401, 401, 401, 429] {
        assert_eq!(guess("192.0.2.7", token()).await.status, want);
    }
    let held = guess("192.0.2.7", good.clone()).await;
    assert_eq!((held.status, held.field("retry-after")), (429, Some("60")), "before anything is looked up");
    assert_eq!(guess("192.0.2.8", good.clone()).await.status, 200);
    for i in 1..=3 {
        let client: &'static str = ["2001:db8::1", "2001:db8::2", "2001:db8::3"][i - 1];
        assert_eq!(guess(client, token()).await.status, 401);
    }
    assert_eq!(guess("2001:db8::4", good.clone()).await.status, 429, "IPv6 counts by its /64");
    house.audited("failed_attempts").await;
    house.assert_unseen(&[&good]);
}
