//! The three layers: the readiness contract, and what a client and the inner service see.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use portcullis::{
    body::ResponseBody,
    context::{Record, RecordHandle, RequestContext},
    denial_floor::DenialFloorLayer,
    egress::{EgressPolicy, PolicyHandle},
    net::Target,
    rejection::{Rejection, RejectionKind},
    ssrf_guard::SsrfGuardLayer,
    target::{FromHeader, PathPrefix, TargetLayer},
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt as _, service_fn};

type Body = Full<Bytes>;

/// Ready once polled, and only for the instance that was polled.
struct Probe {
    ready: bool,
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl Service<Request<()>> for Probe {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        ready(Ok(Response::new(Body::default())))
    }
}

async fn holds_the_readiness_contract<L>(layer: L)
where
    L: Layer<Probe>,
    L::Service: Service<Request<()>, Error = Infallible> + Clone,
{
    let mut service = layer.layer(Probe { ready: false });
    for _ in 0..3 {
        let mut request = Request::builder().uri("/proxy/http://8.8.8.8/").body(()).unwrap();
        RequestContext::of_mut(request.extensions_mut()).set_target(Target::parse("http://8.8.8.8/").unwrap());
        assert!(service.ready().await.unwrap().call(request).await.is_ok());
        service = service.clone();
    }
}

#[tokio::test]
async fn readiness() {
    holds_the_readiness_contract(SsrfGuardLayer::new(PolicyHandle::new(EgressPolicy::default()))).await;
    holds_the_readiness_contract(TargetLayer::new(PathPrefix::new("/proxy/").unwrap())).await;
    holds_the_readiness_contract(DenialFloorLayer::default()).await;
}

async fn text(response: Response<ResponseBody<Body>>) -> (StatusCode, String) {
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn the_guard_gives_a_permit_or_one_constant_answer() {
    let policy = PolicyHandle::new(EgressPolicy::default());
    let inner = service_fn(|request: Request<()>| async move {
        let context = RequestContext::of(request.extensions()).unwrap();
        let origin = context.permit().unwrap().origin().to_string();
        Ok::<_, Infallible>(Response::new(Body::from(origin)))
    });
    let guard = SsrfGuardLayer::new(policy).layer(inner);
    let ask = |url: &str| {
        let mut request = Request::new(());
        RequestContext::of_mut(request.extensions_mut()).set_target(Target::parse(url).unwrap());
        guard.clone().oneshot(request)
    };
    assert_eq!(text(ask("http://EXAMPLE.com/").await.unwrap()).await, (StatusCode::OK, "http://example.com".into()));
    let mut bodies = Vec::new();
    for url in ["http://127.1/", "http://a.internal/", "http://example.com:25/", "http://[fd00::1]/"] {
        let response = ask(url).await.unwrap();
        assert_eq!(response.extensions().get::<Rejection>().unwrap().kind(), RejectionKind::Denied);
        assert_eq!(response.headers()["proxy-status"], "portcullis; error=http_request_denied");
        bodies.push(text(response).await);
    }
    assert!(bodies.iter().all(|b| b == &bodies[0] && b.0 == StatusCode::FORBIDDEN), "{bodies:?}");
    // No target: a refusal, not a pass.
    let response = guard.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.extensions().get::<Rejection>().unwrap().kind(), RejectionKind::Misconfigured);
}

#[tokio::test]
async fn a_permit_from_outside_does_not_survive() {
    let policy = PolicyHandle::new(EgressPolicy::default());
    let good = Target::parse("http://example.com/").unwrap();
    let mut request = Request::new(());
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_permit(policy.permit(&good).unwrap());
    context.set_target(Target::parse("http://127.0.0.1/").unwrap());
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Body::default())) });
    let response = SsrfGuardLayer::new(policy.clone()).layer(inner).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);

    let mut request = Request::new(());
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_permit(policy.permit(&good).unwrap());
    context.set_target(Target::parse("http://other.example/").unwrap());
    let inner = service_fn(|request: Request<()>| async move {
        let origin = RequestContext::of(request.extensions()).and_then(|c| c.permit()).map(|p| p.origin().to_string());
        assert_eq!(origin.as_deref(), Some("http://other.example"));
        Ok::<_, Infallible>(Response::new(Body::default()))
    });
    assert!(SsrfGuardLayer::new(policy).layer(inner).oneshot(request).await.is_ok());
}

#[tokio::test]
async fn the_target_layer_tells_which_part_is_wrong_and_nothing_else() {
    let inner = service_fn(|request: Request<()>| async move {
        assert!(request.headers().get("x-target-url").is_none());
        let target = RequestContext::of(request.extensions()).and_then(|c| c.target()).map(ToString::to_string);
        Ok::<_, Infallible>(Response::new(Body::from(target.unwrap())))
    });
    let service = TargetLayer::new(FromHeader::new("x-target-url").unwrap()).layer(inner);
    let ask = |url: &str| service.clone().oneshot(Request::builder().header("x-target-url", url).body(()).unwrap());
    assert_eq!(text(ask("https://Example.com/A").await.unwrap()).await, (StatusCode::OK, "https://example.com/A".into()));
    for (url, part) in
        [("http://user:hunter2@example.com/", "user information"), ("gopher://x/", "scheme"), ("http://x.example/#f", "fragment")]
    {
        let response = ask(url).await.unwrap();
        assert_eq!(response.extensions().get::<Rejection>().unwrap().kind(), RejectionKind::MalformedTarget);
        let (status, body) = text(response).await;
        assert!(status == StatusCode::BAD_REQUEST && body.contains(part) && !body.contains("hunter2"), "{body}");
    }
    let record = RecordHandle::new(Record::default());
    let mut request = Request::builder().header("x-target-url", "http://example.com/").body(()).unwrap();
    RequestContext::of_mut(request.extensions_mut()).set_record(record.clone());
    service.oneshot(request).await.unwrap();
    assert_eq!(record.with(|r| r.target.as_ref().unwrap().to_string()), "http://example.com/");
}

/// Answers with a rejection of this kind after a while; the body and the future hold the permit.
async fn floor(kind: RejectionKind, after: u64, step: u64) -> (u128, StatusCode, usize) {
    let permit = Arc::new(());
    let held = Arc::clone(&permit);
    let inner = service_fn(move |_: Request<()>| {
        let held = Arc::clone(&held);
        async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let body = Rejection::new(kind).problem_json();
            let mut response = Response::new(Full::new(body).map_frame(move |frame| {
                let _ = &held;
                frame
            }));
            Rejection::new(kind).apply(&mut response);
            Ok::<_, Infallible>(response)
        }
    });
    let service = DenialFloorLayer::new(Duration::from_millis(step)).layer(inner.clone());
    let started = Instant::now();
    let answer = tokio::spawn(service.oneshot(Request::new(())));
    tokio::time::sleep(Duration::from_millis(after + 1)).await;
    drop(inner);
    let holders = Arc::strong_count(&permit) - 1;
    let response = answer.await.unwrap().unwrap();
    let took = started.elapsed().as_millis();
    let status = response.status();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), Rejection::new(kind).problem_json());
    (took, status, holders)
}

#[tokio::test(start_paused = true)]
async fn denials_leave_on_the_grid_and_hold_nothing_meanwhile() {
    for (after, leaves) in [(0, 100), (1, 100), (99, 100), (101, 200), (250, 300)] {
        let (took, status, holders) = floor(RejectionKind::Denied, after, 100).await;
        assert_eq!((took, status), (leaves, StatusCode::FORBIDDEN), "{after}");
        assert!(after == 99 || holders == 0, "{after}: {holders} still hold the permit");
    }
    for kind in
        [RejectionKind::RateLimited, RejectionKind::DnsFailed, RejectionKind::ConnectFailed, RejectionKind::Unauthenticated]
    {
        assert!(floor(kind, 7, 100).await.0 <= 8, "{kind:?}");
    }
    assert!(floor(RejectionKind::Denied, 7, 0).await.0 <= 8);
}
