use std::{
    convert::Infallible,
    future::Ready,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tower::{Service, ServiceExt as _};
use tower_layer::Layer as _;

use super::*;
use crate::context::RequestContext;
use crate::{
    limiter::{ByPrincipal, Everybody, RequestView},
    tokens::Principal,
};

/// Answers at once; panics when a clone is called that was not polled ready. Gives the permit back where it finds one.
#[derive(Debug, Default)]
struct Probe {
    ready: bool,
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<()>> for Probe {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        let mut response = Response::new(Full::from("text"));
        if let Some(permit) = request.extensions_mut().remove::<Permit>() {
            response.extensions_mut().insert(permit);
        }
        std::future::ready(Ok(response))
    }
}

fn of(id: &str) -> Request<()> {
    let mut request = Request::new(());
    RequestContext::of_mut(request.extensions_mut()).set_principal(Principal::new(id));
    request
}

fn status<B>(response: &Response<B>) -> u16 {
    response.status().as_u16()
}

#[tokio::test]
async fn a_permit_lives_as_long_as_the_body() {
    let layer = ConcurrencyLimitLayer::new().per_key(1, ByPrincipal);
    let (handle, mut service) = (layer.handle(), layer.layer(Probe::default()));
    let first = service.ready().await.unwrap().call(of("a")).await.unwrap();
    let refused = service.ready().await.unwrap().call(of("a")).await.unwrap();
    assert_eq!(status(&refused), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(status(&service.ready().await.unwrap().call(of("b")).await.unwrap()), 200);
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "text");
    let again = service.ready().await.unwrap().call(of("a")).await.unwrap();
    assert_eq!((status(&again), handle.running(), handle.keys()), (200, 1, 1));
    drop(again);
    assert_eq!((handle.running(), handle.keys()), (0, 0), "nothing is left of a key that has nothing running");
}

#[tokio::test]
async fn a_permit_is_given_back_when_the_future_is_dropped() {
    let layer = ConcurrencyLimitLayer::new().total(1);
    let (handle, mut service) = (layer.handle(), layer.layer(Probe::default()));
    let future = service.ready().await.unwrap().call(of("a"));
    assert_eq!(handle.running(), 1);
    drop(future);
    assert_eq!(handle.running(), 0);
}

#[tokio::test]
async fn the_total_sheds_with_503_and_leaves_the_key_alone() {
    let layer = ConcurrencyLimitLayer::new().per_key(5, ByPrincipal).total(1).retry_after(std::time::Duration::from_millis(2500));
    let (handle, mut service) = (layer.handle(), layer.layer(Probe::default()));
    let held = service.ready().await.unwrap().call(of("a")).await.unwrap();
    let shed = service.ready().await.unwrap().call(of("b")).await.unwrap();
    assert_eq!((status(&shed), &shed.headers()["retry-after"]), (503, &"3".parse().unwrap()));
    assert_eq!(handle.keys(), 1);
    handle.set_total(2);
    assert_eq!(status(&service.ready().await.unwrap().call(of("b")).await.unwrap()), 200);
    drop(held);
}

#[tokio::test]
async fn a_tunnel_keeps_the_permits_of_all_layers() {
    let outer = ConcurrencyLimitLayer::new().total(10);
    let inner = ConcurrencyLimitLayer::new().per_key(10, Everybody);
    let handles = [outer.handle(), inner.handle()];
    let service = outer.layer(inner.layer(Probe::default()));
    for request in [Request::builder().method("CONNECT").body(()), Request::builder().header("upgrade", "websocket").body(())] {
        let mut response = service.clone().oneshot(request.unwrap()).await.unwrap();
        let permit = response.extensions_mut().remove::<Permit>().expect("a request that may become a tunnel finds a permit");
        drop(response);
        assert_eq!(handles.each_ref().map(ConcurrencyLimitHandle::running), [1, 1]);
        let clone = permit.clone();
        drop(permit);
        assert_eq!(handles.each_ref().map(ConcurrencyLimitHandle::running), [1, 1]);
        drop(clone);
        assert_eq!(handles.each_ref().map(ConcurrencyLimitHandle::running), [0, 0]);
    }
    let plain = service.oneshot(Request::new(())).await.unwrap();
    assert!(plain.extensions().get::<Permit>().is_none());
}

#[tokio::test]
async fn only_what_the_condition_names_counts() {
    let streams = |r: &RequestView<'_>| r.headers.get("accept").is_some_and(|v| v == "text/event-stream");
    let service = ConcurrencyLimitLayer::new().per_key(0, Everybody).when(streams).layer(Probe::default());
    assert_eq!(status(&service.clone().oneshot(Request::new(())).await.unwrap()), 200);
    let stream = Request::builder().header("accept", "text/event-stream").body(()).unwrap();
    assert_eq!(status(&service.oneshot(stream).await.unwrap()), 429);
}

#[tokio::test]
async fn a_missing_principal_is_a_refusal() {
    let service = ConcurrencyLimitLayer::new().per_key(1, ByPrincipal).layer(Probe::default());
    assert_eq!(status(&service.oneshot(Request::new(())).await.unwrap()), 500);
}
