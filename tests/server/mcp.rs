//! MCP by path, by header and by envelope; the legacy transport.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rmcp::{
    ServiceExt as _,
    model::{CallToolRequestParams, ClientConfig, ClientJsonRpcMessage},
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{
            SseError, StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError, StreamableHttpPostResponse,
        },
    },
};
use serde_json::{Value, json};
use sse_stream::{Sse, SseStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Answer, Body, Proxy, TOKEN, Upstream, full, usual};

/// rmcp's transport over plain hyper, with the fields that the proxy wants.
#[derive(Clone)]
struct Client {
    proxy: SocketAddr,
    fields: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

type Error = StreamableHttpError<Failed>;

fn failed(e: impl fmt::Display) -> Error {
    StreamableHttpError::Client(Failed(e.to_string()))
}

impl Client {
    async fn send(
        &self,
        method: &str,
        uri: &str,
        session: Option<Arc<str>>,
        custom: HashMap<HeaderName, HeaderValue>,
        body: String,
    ) -> Result<Response<Incoming>, Error> {
        let path = uri.split_once("//").and_then(|(_, r)| r.find('/').map(|i| r[i..].to_owned())).unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", self.proxy.to_string());
        request = request.header("accept", "application/json, text/event-stream").header("content-type", "application/json");
        if let Some(session) = session {
            request = request.header("mcp-session-id", &*session);
        }
        for (name, value) in self.fields.iter().map(|(n, v)| (n.clone(), v.clone())).chain(custom) {
            request = request.header(name, value);
        }
        let stream = TcpStream::connect(self.proxy).await.map_err(failed)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        sender.send_request(request.body(Full::<Bytes>::from(body)).map_err(failed)?).await.map_err(failed)
    }
}

fn is(response: &Response<Incoming>, content_type: &str) -> bool {
    response.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(content_type.as_bytes()))
}

impl StreamableHttpClient for Client {
    type Error = Failed;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        custom: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Error> {
        let body = serde_json::to_string(&message).map_err(failed)?;
        let response = self.send("POST", &uri, session, custom, body).await?;
        let id = response.headers().get("mcp-session-id").map(|v| v.to_str().unwrap().to_owned());
        if response.status() == 202 {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        if is(&response, "text/event-stream") {
            return Ok(StreamableHttpPostResponse::Sse(SseStream::new(response.into_body()).boxed(), id));
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        match serde_json::from_slice(&body) {
            Ok(message) => Ok(StreamableHttpPostResponse::Json(message, id)),
            Err(e) => Err(failed(format!("{status}: {e}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        custom: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Error> {
        self.send("DELETE", &uri, Some(session), custom, String::new()).await.map(drop)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        _: Option<String>,
        mut custom: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Error> {
        if let Some(last) = last {
            custom.insert(HeaderName::from_static("last-event-id"), last.parse().map_err(failed)?);
        }
        let response = self.send("GET", &uri, session, custom, String::new()).await?;
        if !is(&response, "text/event-stream") {
            return Err(StreamableHttpError::ServerDoesNotSupportSse);
        }
        Ok(SseStream::new(response.into_body()).boxed())
    }
}

/// A server with the demo's MCP server, and that one's URL.
async fn demo() -> (Proxy, String) {
    let proxy = Proxy::start_with(&usual(&[]), &["--demo"], &[]).await;
    proxy.said("X-Target-Url: ").await;
    let said = proxy.stderr.lock().unwrap().clone();
    let target = said.split("X-Target-Url: ").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    (proxy, target)
}

#[tokio::test]
async fn the_official_client_reaches_the_official_server() {
    let (proxy, target) = demo().await;
    let token = (HeaderName::from_static("x-proxy-token"), HeaderValue::from_static(TOKEN));
    let header = (HeaderName::from_static("x-target-url"), HeaderValue::from_str(&target).unwrap());
    for (uri, fields) in
        [(proxy.url(&format!("/proxy/{target}")), vec![token.clone()]), (proxy.url("/forward"), vec![token.clone(), header])]
    {
        let client = Client { proxy: proxy.addr, fields };
        let config = StreamableHttpClientTransportConfig::with_uri(uri.clone());
        let transport = StreamableHttpClientTransport::with_client(client, config);
        let session =
            timeout(Duration::from_secs(10), ClientConfig::default().serve(transport)).await.expect("no handshake").unwrap();
        let tools = session.list_all_tools().await.unwrap();
        let mut names: Vec<_> = tools.iter().map(|t| t.name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["add", "count", "echo"], "{uri}");
        let Value::Object(arguments) = json!({"message": "through"}) else { unreachable!() };
        let result = session.call_tool(CallToolRequestParams::new("echo").with_arguments(arguments)).await.unwrap();
        assert!(serde_json::to_string(&result).unwrap().contains("through"));
        session.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn the_envelope_speaks_to_the_official_server() {
    let (proxy, target) = demo().await;
    let ask = |message: Value| {
        let mut doc = json!({"mcp_server_url": target, "jsonrpc": "2.0"});
        for (key, value) in message.as_object().unwrap() {
            doc[key] = value.clone();
        }
        let proxy = &proxy;
        async move { proxy.post_json("/proxy", &doc).await }
    };
    for id in [json!(1), json!("a"), json!(null), json!({"k": [1]}), json!(1.5)] {
        let params = json!({"name": "add", "arguments": {"a": 20, "b": 22}});
        let answer = ask(json!({"method": "tools/call", "params": params, "id": id})).await;
        let doc = answer.json();
        assert_eq!((answer.status, &doc["id"], &doc["result"]["content"][0]["text"]), (200, &id, &json!("42")), "{doc}");
    }
    // Progress comes first on the stream and is folded away.
    let params = json!({"name": "count", "arguments": {"steps": 3, "milliseconds": 10}, "_meta": {"progressToken": "p"}});
    let doc = ask(json!({"method": "tools/call", "params": params, "id": "slow"})).await.json();
    assert_eq!((&doc["id"], &doc["result"]["content"][0]["text"]), (&json!("slow"), &json!("counted to 3")));
    // Errors of the server pass whole.
    let doc = ask(json!({"method": "tools/call", "params": {"name": "nothing"}, "id": 7})).await.json();
    assert!(doc["id"] == 7 && doc["error"]["code"].is_i64() && doc.get("result").is_none(), "{doc}");
    // The caller's own handshake.
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "me", "version": "1"}});
    let doc = ask(json!({"method": "initialize", "params": params, "id": "i"})).await.json();
    assert_eq!((&doc["id"], &doc["result"]["protocolVersion"]), (&json!("i"), &json!("2025-06-18")));
    let answer = ask(json!({"method": "notifications/initialized"})).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
    assert_eq!(ask(json!({"method": "tools/list", "id": 1})).await.json()["result"]["tools"].as_array().unwrap().len(), 3);
    // The revision without sessions.
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientInfo": {"name": "me", "version": "1"}, "io.modelcontextprotocol/clientCapabilities": {}});
    let doc =
        ask(json!({"method": "tools/call", "params": {"name": "echo", "arguments": {"message": "new"}, "_meta": meta}, "id": 2}))
            .await
            .json();
    assert_eq!(doc["result"]["content"][0]["text"], "new", "{doc}");
}

/// An upstream of the 2024-11-05 transport: `GET` streams what is given, `POST` is noted.
async fn legacy(events: &'static str, gzip: bool) -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let posted = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&posted);
    let upstream = Upstream::start(move |request: Request<Incoming>| {
        let log = Arc::clone(&log);
        async move {
            if request.method() == "POST" {
                let uri = request.uri().to_string();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                log.lock().unwrap().push(format!("{uri} {}", String::from_utf8_lossy(&body)));
                return Response::builder().status(202).body(full("")).unwrap();
            }
            let accepts = request.headers().get("accept-encoding").map(|v| v.to_str().unwrap().to_owned());
            assert!(accepts.is_none_or(|v| v == "identity"));
            // In two halves, and then silence.
            let (one, two) = events.split_at(events.len() / 2);
            let parts = futures_util::stream::iter([one, two]).map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes()))));
            let body: Body = StreamBody::new(parts.chain(futures_util::stream::pending()).boxed()).boxed_unsync();
            let response = Response::builder().header("content-type", "text/event-stream");
            let response = if gzip { response.header("content-encoding", "gzip") } else { response };
            response.body(body).unwrap()
        }
    })
    .await;
    (upstream, posted)
}

async fn open(proxy: &Proxy, path: &str) -> Response<Incoming> {
    let request = proxy.request("GET", path).header("accept", "text/event-stream").header("accept-encoding", "gzip, br");
    proxy.send(request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn the_endpoint_event_leads_back_through_the_proxy() {
    let (upstream, posted) = legacy(": hi\n\ndata: /messages?session=1\nevent: endpoint\n\n", false).await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let mut body = open(&proxy, &format!("/proxy/{}", upstream.url("/sse"))).await.into_body();
    let mut text = String::new();
    while !text.contains("data: ") {
        let frame = timeout(Duration::from_secs(5), body.frame()).await.expect("held back").unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    let url = text.lines().find_map(|l| l.strip_prefix("data: ")).unwrap();
    assert_eq!(url, proxy.url(&format!("/proxy/{}", upstream.url("/messages?session=1"))));
    let path = url.strip_prefix(&proxy.url("")).unwrap();
    assert_eq!(proxy.post_json(path, &json!({"id": 1})).await.status, 202);
    assert_eq!(*posted.lock().unwrap(), ["/messages?session=1 {\"id\":1}"]);
}

#[tokio::test]
async fn a_foreign_endpoint_breaks_the_stream_and_a_compressed_one_is_502() {
    let (upstream, _) = legacy("event: endpoint\ndata: http://evil.example/steal\n\n", false).await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    let target = upstream.url("/sse");
    let head = format!(
        "GET /proxy/{target} HTTP/1.1\r\nHost: {}\r\nX-Proxy-Token: {TOKEN}\r\nAccept: text/event-stream\r\n\r\n",
        proxy.addr
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    // The connection breaks; it does not end as a complete answer would, and the event is not in it.
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut seen)).await.expect("the stream goes on");
    let seen = String::from_utf8_lossy(&seen);
    assert!(!seen.contains("steal") && !seen.ends_with("0\r\n\r\n"), "{seen}");
    let (upstream, _) = legacy("event: endpoint\ndata: /x\n\n", true).await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    assert_eq!(open(&proxy, &format!("/proxy/{}", upstream.url("/sse"))).await.status(), 502);
}

#[tokio::test]
async fn redirects_are_relayed_and_lead_back_through_the_proxy() {
    let upstream =
        Upstream::start(async |_| Response::builder().status(307).header("location", "/next?x").body(full("")).unwrap()).await;
    let proxy = Proxy::start(&format!("public_url = \"https://p.example/base\"\n{}", usual(&[upstream.addr]))).await;
    let answer = proxy.get(&format!("/proxy/{}", upstream.url("/a"))).await;
    let want = format!("https://p.example/base/proxy/{}", upstream.url("/next?x"));
    assert_eq!((answer.status, answer.header("location")), (307, Some(want.as_str())));
    let request = proxy.request("GET", "/forward").header("x-target-url", upstream.url("/a")).body(Full::default()).unwrap();
    assert_eq!(Answer::read(proxy.send(request).await).await.header("location"), Some("/next?x"));
}

#[tokio::test]
async fn refusals_of_json_posts_are_json_rpc_errors() {
    let proxy = Proxy::start(&usual(&[])).await;
    let message = json!({"jsonrpc": "2.0", "id": "seven", "method": "tools/list"});
    let answer = proxy.post_json("/proxy/http://127.1:1/mcp", &message).await;
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/json")));
    let doc = answer.json();
    assert_eq!(
        (&doc["error"]["code"], &doc["id"], &doc["error"]["data"]["status"]),
        (&json!(-32004), &json!("seven"), &json!(403))
    );
    let answer = proxy.get("/proxy/http://127.1:1/mcp").await;
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/problem+json")));
}

#[tokio::test]
async fn probes_are_exempt_from_the_tokens_limit_within_a_quota_of_their_own() {
    let upstream = Upstream::start(async |_| Response::new(full("{}"))).await;
    let config = usual(&[upstream.addr])
        .replace("rate = \"off\"\n", "")
        .replace("per_token = \"off\"", "per_token = \"2/hour\"\nprobes = \"4/hour\"");
    let proxy = Proxy::start(&config).await;
    let path = format!("/proxy/{}", upstream.url("/mcp"));
    let statuses = async |method: &str, times: usize| {
        let mut statuses = Vec::new();
        for _ in 0..times {
            statuses.push(proxy.post_json(&path, &json!({"jsonrpc": "2.0", "id": 1, "method": method})).await.status);
        }
        statuses
    };
    assert_eq!(statuses("tools/list", 4).await, [200, 200, 429, 429]);
    assert_eq!(statuses("initialize", 3).await, [200; 3]);
    assert_eq!(statuses("server/discover", 2).await, [200, 429]);
}

#[tokio::test]
async fn tools_of_a_token_hold_for_every_route() {
    let (proxy, target) = {
        let upstream = demo().await;
        let target = upstream.1.clone();
        let addr: SocketAddr = target.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap();
        let config = usual(&[addr]).replace("rate = \"off\"\n", "rate = \"off\"\ntools = [\"echo\"]\n");
        ((Proxy::start(&config).await, upstream.0), target)
    };
    let (proxy, _demo) = proxy;
    let call = |tool: &str, arguments: Value| json!({"jsonrpc": "2.0", "id": 1, "mcp_server_url": target, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
    assert_eq!(proxy.post_json("/proxy", &call("echo", json!({"message": "x"}))).await.status, 200);
    assert_eq!(proxy.post_json("/proxy", &call("add", json!({"a": 1, "b": 2}))).await.status, 403);
    assert_eq!(proxy.post_json(&format!("/proxy/{target}"), &call("add", json!({"a": 1, "b": 2}))).await.status, 403);
}
