use std::sync::Mutex;

use http_body_util::{BodyExt as _, Full};
use tower::ServiceExt as _;

use super::*;
use crate::{clock::ManualClock, mcp::testing::Probe, tokens::Principal};

/// What the server was asked: method, id, session id, protocol version, `Mcp-Method`, `Mcp-Name`, `Authorization`, params.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    id: Value,
    headers: HeaderMap,
    params: Value,
    target: String,
}

type Log = Arc<Mutex<Vec<Asked>>>;
type Scripted = Box<dyn Fn(&Asked, usize) -> Response<Full<Bytes>> + Send + Sync>;

fn server(
    script: impl Fn(&Asked, usize) -> Response<Full<Bytes>> + Send + Sync + 'static,
) -> (Probe<EnvelopeBody, Full<Bytes>>, Log) {
    let log: Log = Arc::default();
    let script: Arc<Scripted> = Arc::new(Box::new(script));
    let seen = Arc::clone(&log);
    let probe = Probe::new(move |request: Request<EnvelopeBody>| {
        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
        async move {
            let (parts, body) = request.into_parts();
            let mut doc: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            let context = parts.extensions.get::<RequestContext>().unwrap();
            assert!(context.principal().is_some());
            let asked = Asked {
                method: doc["method"].as_str().unwrap().to_owned(),
                id: doc["id"].take(),
                headers: parts.headers,
                params: doc["params"].take(),
                target: context.target().unwrap().to_string(),
            };
            let n = {
                let mut seen = seen.lock().unwrap();
                seen.push(asked.clone());
                seen.len()
            };
            script(&asked, n)
        }
    });
    (probe, log)
}

fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder().status(status).header("content-type", "application/json").body(body.to_string().into()).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the value in place")]
fn result(asked: &Asked, result: Value) -> Response<Full<Bytes>> {
    json_response(200, &json!({"jsonrpc": "2.0", "id": asked.id, "result": result}))
}

fn accepted() -> Response<Full<Bytes>> {
    Response::builder().status(202).body(Full::default()).unwrap()
}

/// A server of revision 2025-11-25 whose sessions are numbered by their opening.
fn session_server(asked: &Asked, n: usize) -> Response<Full<Bytes>> {
    match asked.method.as_str() {
        "initialize" => {
            let mut r = result(asked, json!({"protocolVersion": "2025-06-18", "capabilities": {}}));
            r.headers_mut().insert("mcp-session-id", HeaderValue::from(n));
            r
        }
        m if m.starts_with("notifications/") => accepted(),
        _ => result(asked, json!({"params": asked.params})),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the value in place")]
fn envelope(message: Value) -> Request<Full<Bytes>> {
    let mut doc = json!({"mcp_server_url": "https://t.example/mcp", "jsonrpc": "2.0"});
    for (k, v) in message.as_object().unwrap() {
        doc[k] = v.clone();
    }
    let mut request =
        Request::post("/proxy").header("content-type", "application/json").body(Full::from(doc.to_string())).unwrap();
    RequestContext::of_mut(request.extensions_mut()).set_principal(Principal::new("ci"));
    request
}

async fn ask<S>(service: &EnvelopeService<S>, request: Request<Full<Bytes>>) -> (u16, Value)
where
    EnvelopeService<S>: Service<Request<Full<Bytes>>, Response = Answer, Error = std::convert::Infallible> + Clone,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
}

fn methods(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|a| a.method.clone()).collect()
}

#[tokio::test]
async fn a_session_is_opened_once_and_kept() {
    let (server, log) = server(session_server);
    let service = EnvelopeService::new(server);
    for id in [json!("a"), json!(null), json!({"x": [1.5]})] {
        let (status, body) = ask(&service, envelope(json!({"method": "tools/list", "id": id, "mcp_token": "tok"}))).await;
        assert_eq!((status, &body["id"]), (200, &id));
        assert_eq!(body.as_object().unwrap().len(), 3);
    }
    assert_eq!(methods(&log), ["initialize", "notifications/initialized", "tools/list", "tools/list", "tools/list"]);
    let log = log.lock().unwrap();
    assert!(!log[0].headers.contains_key("mcp-session-id") && log[0].id.is_u64() && log[1].id.is_null());
    for asked in &log[1..] {
        assert_eq!(
            (&asked.headers["mcp-session-id"], &asked.headers["mcp-protocol-version"]),
            (&HeaderValue::from(1), &HeaderValue::from_static("2025-06-18"))
        );
        assert_eq!(
            (&asked.headers["authorization"], asked.target.as_str()),
            (&HeaderValue::from_static("Bearer tok"), "https://t.example/mcp")
        );
        assert_eq!(asked.headers["accept"], "application/json, text/event-stream");
    }
}

#[tokio::test]
async fn sessions_differ_by_token_target_and_principal() {
    let (server, log) = server(session_server);
    let service = EnvelopeService::new(server);
    ask(&service, envelope(json!({"method": "ping", "id": 1}))).await;
    ask(&service, envelope(json!({"method": "ping", "id": 1, "mcp_token": "x"}))).await;
    ask(&service, envelope(json!({"method": "ping", "id": 1, "mcp_server_url": "https://t.example/mcp2"}))).await;
    let mut other = envelope(json!({"method": "ping", "id": 1}));
    RequestContext::of_mut(other.extensions_mut()).set_principal(Principal::new("other"));
    ask(&service, other).await;
    assert_eq!(methods(&log).iter().filter(|m| *m == "initialize").count(), 4);
}

#[tokio::test]
async fn many_at_once_open_one_session() {
    let (server, log) = server(session_server);
    let service = EnvelopeService::new(server);
    let all = (0..20).map(|i| ask(&service, envelope(json!({"method": "ping", "id": i}))));
    for (i, (_, body)) in futures_util::future::join_all(all).await.into_iter().enumerate() {
        assert_eq!(body["id"], i);
    }
    assert_eq!(methods(&log).iter().filter(|m| *m == "initialize").count(), 1);
}

#[tokio::test]
async fn the_callers_own_handshake_is_passed_on_and_remembered() {
    let (server, log) = server(session_server);
    let service = EnvelopeService::new(server);
    let params =
        json!({"protocolVersion": "2025-03-26", "capabilities": {"roots": {}}, "clientInfo": {"name": "me", "version": "1"}});
    let (_, body) = ask(&service, envelope(json!({"method": "initialize", "id": "i", "params": params}))).await;
    assert_eq!(body["result"]["protocolVersion"], "2025-06-18");
    let (status, body) = ask(&service, envelope(json!({"method": "notifications/initialized"}))).await;
    assert_eq!((status, body), (202, Value::Null));
    ask(&service, envelope(json!({"method": "ping", "id": 1}))).await;
    assert_eq!(methods(&log), ["initialize", "notifications/initialized", "ping"]);
    assert_eq!(log.lock().unwrap()[0].params, params);
    // Without the notification it is made up for.
    ask(&service, envelope(json!({"method": "initialize", "id": "i", "params": params}))).await;
    ask(&service, envelope(json!({"method": "ping", "id": 1}))).await;
    assert_eq!(methods(&log)[3..], ["initialize", "notifications/initialized", "ping"]);
    assert_eq!(log.lock().unwrap()[5].headers["mcp-session-id"], HeaderValue::from(4));
}

#[tokio::test]
async fn a_404_opens_a_new_session_once() {
    let (server, log) = server(|asked, n| match asked.method.as_str() {
        "gone" | "lost" if asked.method == "lost" || asked.headers["mcp-session-id"] == HeaderValue::from(1) => {
            json_response(404, &json!({}))
        }
        _ => session_server(asked, n),
    });
    let service = EnvelopeService::new(server);
    let (status, body) = ask(&service, envelope(json!({"method": "gone", "id": 5}))).await;
    assert_eq!((status, &body["id"]), (200, &json!(5)));
    assert_eq!(
        methods(&log),
        ["initialize", "notifications/initialized", "gone", "initialize", "notifications/initialized", "gone"]
    );
    let (status, body) = ask(&service, envelope(json!({"method": "lost", "id": 6}))).await;
    assert_eq!((status, &body["id"], &body["error"]["code"]), (502, &json!(6), &json!(-32012)));
    assert_eq!(methods(&log).len(), 10);
}

#[tokio::test]
async fn an_event_stream_is_folded_to_the_answer() {
    let (server, _) = server(|asked, n| match asked.method.as_str() {
        "slow" => {
            let id = &asked.id;
            let body = format!(
                ": hi\r\n\r\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{}}}}\n\n\
                 data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"sampling/createMessage\"}}\n\n\
                 data: {{\"jsonrpc\":\"2.0\",\"id\":999,\"result\":{{}}}}\n\n\
                 data: {{\"jsonrpc\":\"2.0\",\ndata: \"id\":{id},\"result\":{{\"done\":true}}}}\n\ndata: junk\n\n"
            );
            Response::builder().header("content-type", "text/event-stream").body(body.into()).unwrap()
        }
        "cut" => Response::builder().header("content-type", "text/event-stream").body("data: {}\n\n".into()).unwrap(),
        _ => session_server(asked, n),
    });
    let service = EnvelopeService::new(server);
    let (status, body) = ask(&service, envelope(json!({"method": "slow", "id": "s"}))).await;
    assert_eq!((status, body), (200, json!({"jsonrpc": "2.0", "id": "s", "result": {"done": true}})));
    let (status, body) = ask(&service, envelope(json!({"method": "cut", "id": "s"}))).await;
    assert_eq!((status, &body["id"], &body["error"]["data"]["status"]), (502, &json!("s"), &json!(502)));
}

#[tokio::test]
async fn errors_of_the_server_pass_whole() {
    let (server, _) = server(|asked, n| match asked.method.as_str() {
        "bad" => {
            json_response(400, &json!({"jsonrpc": "2.0", "id": asked.id, "error": {"code": -32602, "message": "m", "data": [1]}}))
        }
        "null" => json_response(429, &json!({"jsonrpc": "2.0", "id": null, "error": {"code": 7, "message": "m"}})),
        "auth" => json_response(401, &json!({"jsonrpc": "2.0", "id": null, "error": {"code": 8, "message": "m"}})),
        "html" => Response::builder().status(401).header("content-type", "text/html").body("<h1>secret</h1>".into()).unwrap(),
        _ => session_server(asked, n),
    });
    let service = EnvelopeService::new(server);
    for (method, want) in [("bad", (400, -32602)), ("null", (429, 7)), ("auth", (502, 8)), ("html", (502, -32012))] {
        let (status, body) = ask(&service, envelope(json!({"method": method, "id": "q"}))).await;
        assert_eq!(((status, body["error"]["code"].as_i64().unwrap()), &body["id"]), (want, &json!("q")), "{method}");
        assert!(!body.to_string().contains("secret"));
    }
}

/// A server that has no `initialize`.
fn stateless_server(asked: &Asked, _: usize) -> Response<Full<Bytes>> {
    let meta = &asked.params["_meta"]["io.modelcontextprotocol/protocolVersion"];
    if asked.headers.get("mcp-method").is_none_or(|m| m != asked.method.as_str()) || meta != "2026-07-28" {
        return json_response(
            400,
            &json!({"jsonrpc": "2.0", "id": asked.id, "error": {"code": -32022, "message": "unsupported"}}),
        );
    }
    assert_eq!(asked.headers["mcp-protocol-version"], "2026-07-28");
    match asked.method.as_str() {
        "server/discover" => result(asked, json!({"supportedVersions": ["2026-07-28"]})),
        _ => result(asked, json!({"name": asked.headers.get("mcp-name").map(|v| v.to_str().unwrap())})),
    }
}

#[tokio::test]
async fn stateless_servers_are_found_out_once() {
    let (server, log) = server(stateless_server);
    let service = EnvelopeService::new(server);
    for _ in 0..2 {
        let (status, body) =
            ask(&service, envelope(json!({"method": "tools/call", "id": 1, "params": {"name": "écho", "_meta": {"x": 1}}})))
                .await;
        assert_eq!((status, &body["result"]["name"]), (200, &json!("=?base64?w6ljaG8=?=")));
    }
    assert_eq!(methods(&log), ["initialize", "server/discover", "tools/call", "tools/call"]);
    let (_, body) = ask(&service, envelope(json!({"method": "server/discover", "id": 1}))).await;
    assert_eq!(body["result"]["supportedVersions"][0], "2026-07-28");
}

#[tokio::test]
async fn a_caller_of_the_stateless_revision_opens_nothing() {
    let (server, log) = server(stateless_server);
    let service = EnvelopeService::new(server);
    let params = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    let (status, _) = ask(&service, envelope(json!({"method": "tools/list", "id": 1, "params": params}))).await;
    assert_eq!((status, methods(&log)), (200, vec!["tools/list".to_owned()]));
}

#[tokio::test]
async fn what_is_malformed_or_refused_carries_the_id() {
    let (server, log) = server(session_server);
    let service = EnvelopeService::new(server);
    let (status, body) = ask(&service, envelope(json!({"method": 1, "id": "q"}))).await;
    assert_eq!((status, &body["id"], &body["error"]["code"]), (400, &json!("q"), &json!(-32008)));
    let (status, body) = ask(&service, envelope(json!({"method": "m", "id": "q", "mcp_server_url": "http://u@x/"}))).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!(-32007)));
    let mut text = envelope(json!({"method": "m", "id": 1}));
    text.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    assert_eq!(ask(&service, text).await.0, 400);
    let mut nobody = envelope(json!({"method": "m", "id": 1}));
    nobody.extensions_mut().clear();
    assert_eq!(ask(&service, nobody).await.0, 500);
    let small = service.clone();
    let small = small.max_bodies(10, 10);
    assert_eq!(ask(&small, envelope(json!({"method": "m", "id": 1}))).await.0, 413);
    assert!(methods(&log).is_empty());
}

#[tokio::test]
async fn refusals_of_the_stack_become_json_rpc_errors() {
    let inner = Probe::new(async |_: Request<EnvelopeBody>| {
        Rejection::new(RejectionKind::RateLimited).with_retry_after(Duration::from_secs(3)).into_response::<Full<Bytes>>()
    });
    let response = EnvelopeService::new(inner).oneshot(envelope(json!({"method": "m", "id": [1]}))).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &HeaderValue::from_static("3")));
    assert!(response.extensions().get::<Rejection>().is_some());
    let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&body["id"], &body["error"]["code"]), (&json!([1]), &json!(-32005)));
}

#[tokio::test]
async fn idle_sessions_are_opened_anew() {
    let (server, log) = server(session_server);
    let clock = ManualClock::default();
    let service = EnvelopeService::new(server).clock(clock.clone());
    ask(&service, envelope(json!({"method": "ping", "id": 1}))).await;
    clock.advance(Duration::from_secs(3601));
    ask(&service, envelope(json!({"method": "ping", "id": 1}))).await;
    assert_eq!(methods(&log).iter().filter(|m| *m == "initialize").count(), 2);
}
