//! What a token may do, and whose a session is.

use std::time::Duration;

use portcullis::tokens::TokenScopes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Plan, UPGRADE, record, scoped, soon, token};

#[tokio::test]
async fn targets_paths_methods_and_websockets() {
    let (paths, reads, elsewhere) = (token(), token(), token());
    let house = Plan::new([
        scoped("paths", &paths, TokenScopes::new().targets(["http://127.0.0.1:*/mcp/*"]).unwrap()),
        scoped("reads", &reads, TokenScopes::new().methods(["GET"]).unwrap().websocket(false)),
        scoped("elsewhere", &elsewhere, TokenScopes::new().targets(["https://*.example.com", "http://127.0.0.2:*"]).unwrap()),
    ])
    .build()
    .await;
    let with = |token: &str| format!("X-Proxy-Token: {token}\r\n");
    assert_eq!(house.get("/mcp/x?y=/../z", &with(&paths)).await.status, 200);
    for path in [
        "/admin",
        "/mcp",
        "/mcp/../admin",
        "/mcp/%2e%2e/admin",
        "/mcp/%2E./admin",
        "/mcp/a%2fb",
        "/mcp/a%5cb",
        "/mcp/a\\b",
        "/mcp/..;/admin",
    ] {
        let answer = house.get(path, &with(&paths)).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(!answer.body.contains("scope"), "the client learns nothing of the rule");
    }
    assert_eq!(house.get("/x", &with(&reads)).await.status, 200);
    assert_eq!(house.post("/x", &with(&reads), "").await.status, 403);
    let (head, _) = house.open("/ws", &format!("{UPGRADE}{}", with(&reads))).await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert_eq!(house.get("/x", &with(&elsewhere)).await.status, 403);
    house.audited("\"reason\":\"scope\"").await;
    let seen = house.seen.text();
    assert!(seen.contains("GET /mcp/x?y=/../z ") && !seen.contains("admin") && !seen.contains("POST"));
    house.assert_unseen(&[&paths, &reads, &elsewhere]);
}

#[tokio::test]
async fn tools_are_judged_in_the_body_whatever_the_fields_say() {
    let tools = token();
    let scopes = TokenScopes::new().tools(["echo"]).unwrap().mcp_methods(["initialize", "tools/*"]).unwrap();
    let house = Plan::new([scoped("tools", &tools, scopes)]).build().await;
    let fields = |more: &str| format!("X-Proxy-Token: {tools}\r\nContent-Type: application/json\r\n{more}");
    let call =
        |tool: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#);
    let old = "MCP-Protocol-Version: 2025-06-18\r\n";
    let new = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n";
    for more in ["", old, new] {
        let good = house.post("/mcp", &fields(more), &call("echo")).await;
        assert_eq!((good.status, good.body.contains(&call("echo"))), (200, true), "{more} {good:?}");
        assert_eq!(house.post("/mcp", &fields(more), &call("rm")).await.status, 403, "{more}");
    }
    let encoded = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: =?base64?ZWNobw==?=\r\n";
    assert_eq!(house.post("/mcp", &fields(encoded), &call("echo")).await.status, 200);
    let denied = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: rm\r\n";
    assert_eq!(house.post("/mcp", &fields(denied), &call("echo")).await.status, 403);
    for body in [
        r#"[{"method":"initialize","id":1},{"method":"tools/call","id":2,"params":{"name":"rm"}}]"#,
        r#"{"method":"tools/call","params":{"name":"echo"},"method":"resources/read"}"#,
        r#"{"method":"tools/call","params":{"name":"echo","n\u0061me":"rm"}}"#,
        r#"{"method":"resources/read","id":1,"params":{"uri":"x"}}"#,
        "method=tools/call&name=rm",
    ] {
        assert_eq!(house.post("/mcp", &fields(""), body).await.status, 403, "{body}");
    }
    assert_eq!(house.post("/mcp", &fields("Content-Encoding: gzip\r\n"), &call("echo")).await.status, 403);
    let (head, _) = house.open("/ws", &format!("{UPGRADE}X-Proxy-Token: {tools}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 403"), "a tunnel cannot be looked into: {head}");
    let (head, _) = house.open("/events", &format!("Accept: text/event-stream\r\nX-Proxy-Token: {tools}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let seen = house.seen.text();
    assert!(!seen.contains("\"rm\"") && !seen.contains("resources/read"));
    house.assert_unseen(&[&tools]);
}

#[tokio::test]
async fn a_long_call_streams_on_after_the_look() {
    let tools = token();
    let house = Plan::new([scoped("tools", &tools, TokenScopes::new().tools(["echo"]).unwrap())]).build().await;
    let start = r#"{"method":"tools/call","id":1,"params":{"name":"echo","arguments":{"text":""#;
    let filler = "x".repeat(100_000);
    let mut client = house.connect().await;
    let length = start.len() + 2 * filler.len() + 4;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\nX-Proxy-Token: {tools}\r\nContent-Length: {length}\r\n\r\n{start}{filler}",
        house.to("/mcp")
    );
    client.write_all(head.as_bytes()).await.unwrap();
    soon("the beginning at the origin while the end is not sent yet", async {
        while house.seen.text().len() < 90_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    client.write_all(format!("{filler}\"}}}}}}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..200.min(answer.len())]);

    // The same with a second call behind the look: the origin never sees the end of it.
    let tail = r#""}},"params":{"name":"rm-second"}}"#;
    let length = start.len() + filler.len() + tail.len();
    let mut client = house.connect().await;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\nX-Proxy-Token: {tools}\r\nContent-Length: {length}\r\n\r\n{start}{filler}",
        house.to("/evil")
    );
    client.write_all(head.as_bytes()).await.unwrap();
    soon("the beginning at the origin", async {
        while !house.seen.text().contains("POST /evil") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    client.write_all(tail.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = soon("the answer", client.read_to_string(&mut answer)).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!house.seen.text().contains("rm-second"));
    house.assert_unseen(&[&tools]);
}

#[tokio::test]
async fn a_session_is_its_owners() {
    let (a, b) = (token(), token());
    let house = Plan::new([record("a", &a), record("b", &b)]).build().await;
    let with = |token: &str, more: &str| format!("X-Proxy-Token: {token}\r\n{more}");
    let issued = house.post("/session", &with(&a, ""), "{}").await;
    assert_eq!(issued.field("mcp-session-id"), Some("the-session"));
    let session = "Mcp-Session-Id: the-session\r\n";
    assert_eq!(house.post("/mcp", &with(&a, session), "{}").await.status, 200);
    let foreign = house.post("/mcp", &with(&b, session), "{}").await;
    assert_eq!(foreign.status, 403, "never 404: clients would start over");
    house.audited("\"reason\":\"session\"").await;
    assert_eq!(house.ask(&format!("DELETE {}", house.to("/mcp")), &with(&b, session), "").await.status, 403);
    house.assert_unseen(&[&a, &b]);
}
