//! Tickets, session bindings, metrics, audit, the end of the process.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    process::Command,
    support::{Answer, Proxy, TOKEN, Upstream, command, full, token_hash, usual},
};

const OTHER: &str = "another-token-0123456789abcdef-0123456789abcdef";

fn two_tokens(exceptions: &[std::net::SocketAddr]) -> String {
    use sha2::Digest as _;
    let hash: String = sha2::Sha256::digest(OTHER).iter().map(|b| format!("{b:02x}")).collect();
    format!("{}[[token]]\nid = \"other\"\nsha256 = \"{hash}\"\nrate = \"off\"\n", usual(exceptions))
}

#[tokio::test]
async fn a_ticket_opens_one_stream_at_its_target_and_no_second() {
    let upstream = Upstream::start(async |request: Request<_>| {
        assert!(!request.uri().to_string().contains("ticket"));
        Response::builder().header("content-type", "text/event-stream").body(full("data: x\n\n")).unwrap()
    })
    .await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let issue = async || proxy.post_json("/tickets", &json!({"target": upstream.url("/")})).await;
    let ticket = issue().await;
    assert_eq!(ticket.status, 200, "{}", ticket.text());
    let ticket = ticket.json()["ticket"].as_str().unwrap().to_owned();
    let open = async |ticket: &str, target: &str| {
        let request = Request::get(format!("/proxy/{target}?proxy_ticket={ticket}")).header("host", proxy.addr.to_string());
        proxy.send(request.header("accept", "text/event-stream").body(Full::<Bytes>::default()).unwrap()).await.status().as_u16()
    };
    assert_eq!(open(&ticket, &upstream.url("/sse")).await, 200);
    assert_eq!(open(&ticket, &upstream.url("/sse")).await, 401);
    let ticket = issue().await.json()["ticket"].as_str().unwrap().to_owned();
    assert_eq!(open(&ticket, "http://127.0.0.1:1/sse").await, 403);
    let nobody = Request::post("/tickets").header("host", proxy.addr.to_string()).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(proxy.send(nobody).await.status(), 401);
    for (body, want) in [(json!({"target": "nothing"}), 400), (json!({}), 400)] {
        assert_eq!(proxy.post_json("/tickets", &body).await.status, want);
    }
}

#[tokio::test]
async fn a_session_belongs_to_the_token_that_opened_it() {
    let upstream = Upstream::start(async |_| Response::builder().header("mcp-session-id", "s-1").body(full("{}")).unwrap()).await;
    let proxy = Proxy::start(&two_tokens(&[upstream.addr])).await;
    let ask = async |token: &str, session: bool| {
        let request = Request::post(format!("/proxy/{}", upstream.url("/mcp"))).header("host", proxy.addr.to_string());
        let mut request = request.header("x-proxy-token", token).header("content-type", "application/json");
        if session {
            request = request.header("mcp-session-id", "s-1");
        }
        proxy.send(request.body(Full::<Bytes>::from("{}")).unwrap()).await.status().as_u16()
    };
    assert_eq!(ask(TOKEN, false).await, 200);
    assert_eq!(ask(TOKEN, true).await, 200);
    assert_eq!(ask(OTHER, true).await, 403);
}

#[tokio::test]
async fn figures_are_served_apart() {
    let upstream = Upstream::start(async |_| Response::new(full("ok"))).await;
    let proxy = Proxy::start(&format!("{}[metrics]\nlisten = \"127.0.0.1:0\"\n", usual(&[upstream.addr]))).await;
    proxy.said("metrics on http://").await;
    let said = proxy.stderr.lock().unwrap().clone();
    let addr = said.split("metrics on http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    assert_eq!(proxy.get(&format!("/proxy/{}", upstream.url("/"))).await.status, 200);
    assert_eq!(proxy.get("/proxy/http://127.1:1/").await.status, 403);
    let scrape = async || {
        let request = Request::get("/metrics").header("host", "x").body(Full::<Bytes>::default()).unwrap();
        Answer::read(crate::support::send(addr, request).await).await.text()
    };
    let wait = async {
        loop {
            let text = scrape().await;
            if text.contains("portcullis_requests_total{")
                && text.contains("portcullis_rejections_total{")
                && text.contains("_bucket{")
            {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let text = timeout(Duration::from_secs(5), wait).await.expect("no figures");
    assert!(text.contains("portcullis_connections_open"), "{text}");
    assert!(!text.contains("127.0.0.1") && !text.contains("test"), "{text}");
}

#[tokio::test]
async fn the_audit_has_a_line_for_each_request_and_the_summary_reads_it() {
    let upstream = Upstream::start(async |_| Response::new(full("hello"))).await;
    let path = std::env::temp_dir().join(format!("portcullis-audit-{}.jsonl", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let config = format!("{}[audit]\npath = {:?}\n", usual(&[upstream.addr]), path.to_str().unwrap());
    let mut proxy = Proxy::start(&config).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search"}});
    assert_eq!(proxy.post_json(&format!("/proxy/{}", upstream.url("/mcp?q=secret")), &call).await.status, 200);
    assert_eq!(proxy.post_json("/proxy/http://127.1:1/mcp", &call).await.status, 403);
    let nobody =
        Request::get("/proxy/http://127.1:1/").header("host", proxy.addr.to_string()).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(proxy.send(nobody).await.status(), 401);
    proxy.terminate();
    assert!(proxy.ended().await.success());
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!((&lines[0]["status"], &lines[0]["token"], &lines[0]["mcp_name"]), (&json!(200), &json!("test"), &json!("search")));
    assert_eq!((&lines[0]["dialed"], &lines[0]["bytes_out"]), (&json!(upstream.addr.to_string()), &json!(5)));
    assert_eq!((&lines[1]["status"], &lines[1]["host"]), (&json!(403), &json!("127.0.0.1")));
    assert_eq!((&lines[2]["status"], lines[2].get("token")), (&json!(401), None));
    assert!(!text.contains(TOKEN) && !text.contains("secret"));
    let summary = command(&["audit", path.to_str().unwrap(), "--token", "test"]).output().await.unwrap();
    let summary = String::from_utf8(summary.stdout).unwrap();
    assert!(summary.contains("test") && summary.contains("127.0.0.1"), "{summary}");
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn tokens_do_not_cross_a_network_in_the_clear() {
    let config = crate::support::TempFile::new(&format!("[[token]]\nid = \"a\"\nsha256 = \"{}\"\n", token_hash()));
    let output =
        command(&["--config", config.0.to_str().unwrap(), "--listen", "0.0.0.0:0", "--check-config"]).output().await.unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("allow_plain_tokens"));
}

#[tokio::test]
async fn a_certificate_and_its_key_make_it_https() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) =
        (crate::support::TempFile::new(&made.cert.pem()), crate::support::TempFile::new(&made.signing_key.serialize_pem()));
    let config = format!("{}[tls]\ncert = {:?}\nkey = {:?}\n", usual(&[]), cert.0.to_str().unwrap(), key.0.to_str().unwrap());
    let proxy = Proxy::start(&config).await;
    let url = format!("https://localhost:{}/health", proxy.addr.port());
    let args = ["-sS", "-i", "--cacert", cert.0.to_str().unwrap(), &url];
    let curl = Command::new("curl").args(args).output().await.unwrap();
    let text = String::from_utf8_lossy(&curl.stdout).into_owned() + &String::from_utf8_lossy(&curl.stderr);
    assert!(text.starts_with("HTTP/2 200") && text.to_ascii_lowercase().contains("strict-transport-security"), "{text}");
}

#[tokio::test]
async fn a_token_that_leaves_the_file_ends_its_streams_and_tunnels() {
    use futures_util::StreamExt as _;
    let upstream = Upstream::start(async |_| {
        let parts = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"data: x\n\n")))]);
        let body = http_body_util::StreamBody::new(parts.chain(futures_util::stream::pending())).boxed_unsync();
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    })
    .await;
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo_addr = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = echo.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while socket.next().await.is_some() {}
    });
    let exceptions = [upstream.addr, echo_addr];
    let proxy = Proxy::start(&two_tokens(&exceptions)).await;
    let request = Request::get(format!("/proxy/{}", upstream.url("/"))).header("host", proxy.addr.to_string());
    let request = request.header("x-proxy-token", OTHER).body(Full::<Bytes>::default()).unwrap();
    let mut stream = proxy.send(request).await.into_body();
    assert!(stream.frame().await.unwrap().is_ok());
    let ws = format!("ws://{}/ws?proxy_token={OTHER}&mcp_server_url=ws://{echo_addr}/", proxy.addr);
    let (mut socket, _) = tokio_tungstenite::connect_async(ws).await.unwrap();
    std::fs::write(&proxy.config.0, usual(&exceptions)).unwrap();
    let end = timeout(Duration::from_secs(5), async { while let Some(Ok(_)) = stream.frame().await {} });
    assert!(end.await.is_ok(), "the stream goes on");
    let close = timeout(Duration::from_secs(5), socket.next()).await.expect("the tunnel goes on").unwrap().unwrap();
    assert!(
        matches!(&close, tokio_tungstenite::tungstenite::Message::Close(Some(frame)) if u16::from(frame.code) == 1008),
        "{close:?}"
    );
}

#[tokio::test]
async fn a_client_certificate_stands_for_its_principal() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    let file = |text: String| crate::support::TempFile::new(&text);
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let issue = |uri: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        (file(params.signed_by(&key, &issuer).unwrap().pem()), file(key.serialize_pem()))
    };
    let server = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key, ca) = (file(server.cert.pem()), file(server.signing_key.serialize_pem()), file(ca.pem()));
    let upstream = Upstream::start(async |_| Response::new(full("by certificate"))).await;
    let path = |f: &crate::support::TempFile| f.0.to_str().unwrap().to_owned();
    let config = format!(
        "{}[audit]\npath = \"-\"\n[tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
         [[tls.client]]\nid = \"front\"\nuri = \"spiffe://corp.example/front\"\n",
        usual(&[upstream.addr]),
        path(&cert),
        path(&key),
        path(&ca)
    );
    let proxy = Proxy::start(&config).await;
    let url = format!("https://localhost:{}/proxy/{}", proxy.addr.port(), upstream.url("/"));
    for (uri, want) in [("spiffe://corp.example/front", "200"), ("spiffe://corp.example/other", "401")] {
        let (client, client_key) = issue(uri);
        let (server_ca, client, client_key) = (path(&cert), path(&client), path(&client_key));
        let args = [
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--cacert",
            &server_ca,
            "--cert",
            &client,
            "--key",
            &client_key,
            &url,
        ];
        let curl = Command::new("curl").args(args).output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&curl.stdout), want, "{uri} {}", String::from_utf8_lossy(&curl.stderr));
    }
    let wait = async {
        while !proxy.stdout.lock().unwrap().contains("\"front\"") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(Duration::from_secs(5), wait).await.is_ok(), "the audit does not name it");
}
