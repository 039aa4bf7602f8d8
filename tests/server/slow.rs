//! A client that stops in the middle of its body is told 408, whatever looks at that body.

use std::time::{Duration, Instant};

use crate::{
    support::{Proxy, token_hash, usual},
    wire::{Target, Wire, soon},
};

#[tokio::test]
async fn a_stalled_body_is_408_on_every_route() {
    let target = Target::new(|mut wire| async move { wire.gone().await }).await;
    let scoped = format!("[[token]]\nid = \"test\"\nsha256 = \"{}\"\nrate = \"off\"\ntools = [\"search\"]\n", token_hash());
    let limits = "[limits]\nrequest_body_timeout = \"1s\"\n";
    let plain = usual(&[target.addr]) + limits;
    // What follows the token's own table is the same.
    let narrow = scoped + plain.split_once("rate = \"off\"\n").unwrap().1;
    for (config, path, content_type) in [
        (&plain, target.path("/mcp"), "application/json"),
        (&plain, target.path("/file"), "application/octet-stream"),
        (&narrow, target.path("/mcp"), "application/json"),
        (&plain, "/proxy".to_owned(), "application/json"),
    ] {
        let proxy = Proxy::start(config).await;
        let mut client = Wire::connect(proxy.addr).await;
        let head =
            format!("POST {path} HTTP/1.1\r\n{}Content-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n", proxy.fields());
        let started = Instant::now();
        client.send(head + "{\"jsonrpc\":\"2.0\",").await;
        let seen = soon("the answer", client.response()).await;
        assert_eq!(seen.status(), 408, "{path}: {} {}", seen.head, String::from_utf8_lossy(&seen.body));
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}
