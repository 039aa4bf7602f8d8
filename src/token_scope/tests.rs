//! The layer as a whole.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
};

use http::request::Builder;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tower::ServiceExt as _;
use tower_layer::Layer as _;

use super::*;
use crate::{
    context::RequestContext,
    net::Target,
    rejection::Rejection,
    reply::probe::Probe,
    token_scope::{LOOK, ScopedBodyError, TokenScopeLayer},
    tokens::{Principal, TokenScopes},
};

/// A body of several frames.
struct Frames(Vec<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready((!self.0.is_empty()).then(|| Ok(Frame::data(self.0.remove(0)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|b| b.len() as u64).sum())
    }
}

fn request<B>(builder: Builder, scopes: TokenScopes, target: &str, body: B) -> Request<B> {
    let mut request = builder.body(body).unwrap();
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_principal(Principal::new("ci").with_scopes(scopes)).set_target(Target::parse(target).unwrap());
    request
}

async fn status(builder: Builder, scopes: TokenScopes, target: &str) -> u16 {
    let response = TokenScopeLayer::new()
        .layer(Probe::default())
        .oneshot(request(builder, scopes, target, Full::<Bytes>::default()))
        .await
        .unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn targets_methods_and_websockets() {
    let scopes = || {
        TokenScopes::new().targets(["https://*.example.com/mcp/*"]).unwrap().methods(["GET", "POST"]).unwrap().websocket(false)
    };
    let good = "https://a.example.com/mcp/x";
    assert_eq!(status(Request::get("/"), scopes(), good).await, 200);
    assert_eq!(status(Request::delete("/"), scopes(), good).await, 403);
    assert_eq!(status(Request::get("/"), scopes(), "https://a.example.com/mcp/../admin").await, 403);
    assert_eq!(status(Request::get("/"), scopes(), "http://a.example.com/mcp/x").await, 403);
    let upgrade = || Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(status(upgrade(), scopes(), good).await, 403);
    assert_eq!(status(Request::get("/"), scopes(), "wss://a.example.com/mcp/x").await, 403);
    assert_eq!(status(upgrade(), scopes().websocket(true), good).await, 200);
    assert_eq!(
        status(upgrade(), scopes().websocket(true).tools(["echo"]).unwrap(), good).await,
        403,
        "a tunnel cannot be looked into"
    );
    assert_eq!(status(Request::delete("/"), TokenScopes::new(), "http://elsewhere.example/").await, 200);
    assert_eq!(
        status(Request::get("/"), TokenScopes::new().tools(["echo"]).unwrap(), good).await,
        200,
        "an event stream carries no call"
    );
}

#[tokio::test]
async fn what_is_missing_is_a_refusal() {
    let send = |request: Request<Full<Bytes>>| TokenScopeLayer::new().layer(Probe::default()).oneshot(request);
    assert_eq!(send(Request::new(Full::default())).await.unwrap().status().as_u16(), 500);
    let mut request = Request::new(Full::default());
    let scoped = Principal::new("ci").with_scopes(TokenScopes::new().websocket(false));
    RequestContext::of_mut(request.extensions_mut()).set_principal(scoped);
    assert_eq!(send(request).await.unwrap().status().as_u16(), 500);
}

type Seen = Arc<Mutex<Option<Result<Bytes, String>>>>;

/// Sends a body in frames and says the status, the reason and what the inner service read, if it was called.
async fn post(scopes: TokenScopes, frames: Vec<Bytes>) -> (u16, &'static str, Option<Result<Bytes, String>>) {
    let seen = Seen::default();
    let inner = {
        let seen = Arc::clone(&seen);
        tower::service_fn(move |request: Request<ScopedBody<Frames>>| {
            let seen = Arc::clone(&seen);
            async move {
                let hint = request.body().size_hint().exact();
                let read = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                if let Ok(bytes) = &read {
                    assert_eq!(hint, Some(bytes.len() as u64));
                }
                assert!(!matches!(read, Err(ScopedBodyError::Body(_))));
                *seen.lock().unwrap() = Some(read.map_err(|e| e.to_string()));
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        })
    };
    let response = TokenScopeLayer::new()
        .layer(inner)
        .oneshot(request(Request::post("/"), scopes, "https://a.example/", Frames(frames)))
        .await
        .unwrap();
    let reason = response.extensions().get::<Rejection>().map_or("", Rejection::reason);
    let seen = seen.lock().unwrap().take();
    (response.status().as_u16(), reason, seen)
}

fn tools() -> TokenScopes {
    TokenScopes::new().tools(["echo"]).unwrap()
}

#[tokio::test]
async fn calls_are_judged_and_bodies_replayed() {
    let call = |tool: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    let frames = |text: &str| text.as_bytes().chunks(7).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let (status, _, seen) = post(tools(), frames(&call("echo"))).await;
    assert_eq!((status, seen.unwrap().unwrap()), (200, Bytes::from(call("echo"))));
    assert_eq!(post(tools(), frames(&call("rm"))).await, (403, "scope", None));
    assert_eq!(post(tools(), frames("not json")).await, (403, "scope", None));
    assert_eq!(post(tools(), frames(&call("echo")[..40])).await, (403, "scope", None));
    assert_eq!(post(tools(), vec![]).await.0, 200);
    let (status, _, seen) = post(TokenScopes::new(), frames("not json")).await;
    assert_eq!((status, seen.unwrap().unwrap()), (200, Bytes::from("not json")));
}

#[tokio::test]
async fn a_long_body_streams_on_but_may_not_contradict_its_beginning() {
    let filler = |n: usize| Bytes::from("x".repeat(n));
    let head = r#"{"method":"tools/call","params":{"name":"echo","arguments":{"text":""#;
    let long = |tail: &'static str| vec![Bytes::from(head), filler(LOOK), filler(LOOK), Bytes::from(tail)];
    let (status, _, seen) = post(tools(), long(r#""}},"id":1}"#)).await;
    assert_eq!((status, seen.unwrap().unwrap().len()), (200, head.len() + 2 * LOOK + 11));
    for tail in [r#""}},"method":"x"}"#, r#""},"name":"rm"}}"#, r#""}}}{"#, r#""}},"params":{"name":"rm"}}"#] {
        let (status, _, seen) = post(tools(), long(tail)).await;
        assert_eq!((status, seen), (200, Some(Err("the request body contradicts its beginning".into()))), "{tail}");
    }
    // The method behind the look, or a batch that goes on: nothing can be said in time.
    let late = vec![Bytes::from(r#"{"x":""#), filler(LOOK), Bytes::from(r#"","method":"tools/call","params":{"name":"echo"}}"#)];
    assert_eq!(post(tools(), late).await, (403, "scope", None));
    let batch = vec![Bytes::from(r#"[{"method":"ping","x":""#), filler(LOOK), Bytes::from("\"}]")];
    assert_eq!(post(tools(), batch).await, (403, "scope", None));
}

#[tokio::test]
async fn the_ready_service_is_the_one_that_is_called() {
    let call = Full::new(Bytes::from(r#"{"method":"ping"}"#));
    let probe = Probe::default();
    let request = request(Request::post("/"), tools(), "https://a.example/", call);
    assert_eq!(TokenScopeLayer::new().layer(probe.handle()).oneshot(request).await.unwrap().status().as_u16(), 200);
    assert!(probe.last().is_some());
}
