//! `--demo`, and how a server is started.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    process::Command,
    support::{Proxy, command, token_hash},
};

async fn run(line: &str) -> String {
    let output = timeout(Duration::from_secs(20), Command::new("sh").args(["-c", line]).output()).await.expect("no end").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test]
async fn every_line_that_the_demo_prints_answers() {
    let proxy = Proxy::start_with("", &["--demo"], &[]).await;
    proxy.said("curl -sS -i -N").await;
    let lines: Vec<String> = proxy.stderr.lock().unwrap().lines().filter(|l| l.starts_with("curl ")).map(str::to_owned).collect();
    let mut seen = Vec::new();
    for line in &lines {
        let answer = run(line).await;
        seen.push(match () {
            () if answer.contains("\"serverInfo\"") => "initialized",
            () if answer.contains("\"hello\"") && answer.contains("\"id\":1") => "echo",
            () if answer.contains("\"5\"") && answer.contains("\"id\":2") => "add",
            () if answer.starts_with("HTTP/1.1 101 ") && answer.contains("hello from the demo") => "websocket",
            () => panic!("{line}\n{answer}"),
        });
    }
    assert_eq!(seen, ["initialized", "initialized", "echo", "add", "websocket"]);
}

#[tokio::test]
async fn without_a_token_one_is_made_and_printed_once() {
    let proxy = Proxy::start("").await;
    proxy.said("X-Proxy-Token: pcl_").await;
    let said = proxy.stderr.lock().unwrap().clone();
    let token = said.split_whitespace().find(|w| w.trim_matches('\'').starts_with("pcl_")).expect("no token was printed");
    let token = token.trim_matches('\'').to_owned();
    let refused = proxy.get("/proxy/http://127.0.0.1:1/").await;
    assert_eq!(refused.status, 401);
    let request =
        http::Request::get("/proxy/http://127.0.0.1:1/").header("host", proxy.addr.to_string()).header("x-proxy-token", &token);
    assert_eq!(proxy.send(request.body(http_body_util::Full::default()).unwrap()).await.status(), 403);
    assert!(proxy.stdout.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_environment_adds_a_token_and_sets_the_address() {
    let config = format!("[[token]]\nid = \"test\"\nsha256 = \"{}\"\n[audit]\npath = \"-\"\n", token_hash());
    let env = "an-environment-token-of-forty-characters";
    let proxy = Proxy::start_with(&config, &[], &[("PROXY_TOKEN", env)]).await;
    for token in [env, crate::support::TOKEN] {
        let request = http::Request::get("/proxy/http://127.0.0.1:1/")
            .header("host", proxy.addr.to_string())
            .header("x-proxy-token", token);
        assert_eq!(proxy.send(request.body(http_body_util::Full::default()).unwrap()).await.status(), 403);
    }
    timeout(Duration::from_secs(5), async {
        while !proxy.stdout.lock().unwrap().contains("\"env\"") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the audit does not name the token");
    assert!(!proxy.stderr.lock().unwrap().contains(env));

    let mut child = command(&[]).env("HOST", "127.0.0.1").env("PORT", "0").env("PROXY_TOKEN", "short").spawn().unwrap();
    let status = timeout(Duration::from_secs(10), child.wait()).await.expect("a short token is taken").unwrap();
    assert!(!status.success());
}
