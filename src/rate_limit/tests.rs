use std::{
    convert::Infallible,
    future::Ready,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tower::{Service, ServiceExt as _};
use tower_layer::Layer as _;

use super::*;
use crate::{
    clock::ManualClock,
    context::{ClientAddr, McpCall, Record, RecordHandle, RequestContext},
    limiter::{Batch, CheckFuture, Key, LimitStore, MemoryStore, OwnedAsk, Quota, StoreUnavailable},
    rejection::Rejection,
    tokens::Principal,
};

/// Answers with what it found; panics when a clone is called that was not polled ready.
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

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        let mut response = Response::new(Full::from("0123456789"));
        if let Some(state) = RequestContext::of(request.extensions()).and_then(RequestContext::rate_limit).cloned() {
            response.extensions_mut().insert(state);
        }
        std::future::ready(Ok(response))
    }
}

fn request(ip: &str, id: &str) -> Request<()> {
    let mut request = Request::new(());
    let client = ClientAddr::new(ip.parse().unwrap(), "127.0.0.1:1".parse().unwrap(), false);
    RequestContext::of_mut(request.extensions_mut()).set_client(client).set_principal(Principal::new(id));
    request
}

fn mcp(method: &str) -> Request<()> {
    let mut request = request("192.0.2.1", "a");
    let call = McpCall { method: Some(method.into()), ..McpCall::default() };
    RequestContext::of_mut(request.extensions_mut()).set_mcp(call);
    request
}

async fn send(
    service: &mut RateLimit<Probe>,
    request: Request<()>,
) -> Response<crate::body::ResponseBody<AmendBody<Full<Bytes>>>> {
    service.ready().await.unwrap().call(request).await.unwrap()
}

fn field<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|v| v.to_str().unwrap())
}

#[tokio::test]
async fn burst_and_sustained_are_taken_together() {
    let clock = ManualClock::default();
    let policies = [
        Policy::new("burst", Quota::per_second(10).burst(2)).unwrap().key(ByPrincipal),
        Policy::new("sustained", Quota::per_hour(3)).unwrap().key(ByPrincipal),
    ];
    let mut service = RateLimitLayer::policies(policies)
        .unwrap()
        .store(MemoryStore::bounded(1000))
        .clock(clock.clone())
        .layer(Probe::default());
    let first = send(&mut service, request("192.0.2.1", "a")).await;
    assert_eq!(field(&first, "ratelimit-policy"), Some(r#""burst";q=10;w=1, "sustained";q=3;w=3600"#));
    assert_eq!(field(&first, "ratelimit"), Some(r#""burst";r=1;t=1, "sustained";r=2;t=1200"#));
    assert_eq!(send(&mut service, request("192.0.2.1", "a")).await.status().as_u16(), 200);

    let refused = send(&mut service, request("192.0.2.1", "a")).await;
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (429, Some("1")));
    assert_eq!(field(&refused, "ratelimit"), Some(r#""burst";r=0;t=1, "sustained";r=1;t=2400"#));
    assert_eq!(field(&refused, "content-type"), Some("application/problem+json"));
    assert!(refused.extensions().get::<Rejection>().is_some_and(|r| r.reason() == "rate_limited"));
    let problem: serde_json::Value = serde_json::from_slice(&refused.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(problem["violated-policies"], serde_json::json!(["burst"]));

    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&mut service, request("192.0.2.1", "a")).await.status().as_u16(), 200);
    clock.advance(Duration::from_secs(1));
    let refused = send(&mut service, request("192.0.2.1", "a")).await;
    assert_eq!(field(&refused, "retry-after"), Some("1198"), "the sustained quota has one more in 1200 s from the first");
    assert_eq!(send(&mut service, request("192.0.2.1", "b")).await.status().as_u16(), 200, "another principal");
}

#[tokio::test]
async fn a_missing_key_is_a_refusal() {
    for key in [true, false] {
        let layer = RateLimitLayer::new(Quota::per_second(1));
        let layer = if key { layer.key(ByPrincipal) } else { layer.key(ByClient.and(ByTargetHost)) };
        let response = layer.store(MemoryStore::bounded(100)).layer(Probe::default()).oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status().as_u16(), 500);
        assert!(response.extensions().get::<Rejection>().unwrap().detail().is_some());
    }
}

#[tokio::test]
async fn keys_are_what_they_say() {
    let per_key =
        |layer: RateLimitLayer| layer.store(MemoryStore::bounded(1000)).clock(ManualClock::default()).layer(Probe::default());
    let once = Quota::per_hour(1);
    let mut service = per_key(RateLimitLayer::new(once).key(ByClient));
    let mut codes = Vec::new();
    for ip in ["2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"] {
        codes.push(send(&mut service, request(ip, "a")).await.status().as_u16());
    }
    assert_eq!(codes, [200, 429, 200, 200, 200]);

    let mut service = per_key(RateLimitLayer::new(once).key(ByPrincipal.and(ByMcpMethod)));
    let mut codes = Vec::new();
    for method in ["tools/call", "tools/list", "tools/call"] {
        codes.push(send(&mut service, mcp(method)).await.status().as_u16());
    }
    assert_eq!(codes, [200, 200, 429]);

    let header = |r: &RequestView<'_>, key: &mut Key| {
        key.push_bytes(r.headers.get("x-tenant").ok_or(MissingKey("tenant"))?.as_bytes());
        Ok(())
    };
    let mut service = per_key(RateLimitLayer::new(once).key(header));
    assert_eq!(send(&mut service, Request::builder().header("x-tenant", "t").body(()).unwrap()).await.status().as_u16(), 200);
    assert_eq!(send(&mut service, Request::new(())).await.status().as_u16(), 500);
}

#[tokio::test]
async fn probes_have_a_quota_of_their_own() {
    let policies = [
        Policy::new("token", Quota::per_hour(1)).unwrap().key(ByPrincipal).unless(is_mcp_probe),
        Policy::new("probes", Quota::per_hour(2)).unwrap().key(ByPrincipal).when(is_mcp_probe),
    ];
    let layer = RateLimitLayer::policies(policies).unwrap().store(MemoryStore::bounded(1000)).clock(ManualClock::default());
    let mut service = layer.layer(Probe::default());
    let call = send(&mut service, mcp("tools/call")).await;
    assert_eq!(field(&call, "ratelimit-policy"), Some(r#""token";q=1;w=3600"#));
    assert_eq!(send(&mut service, mcp("tools/call")).await.status().as_u16(), 429);
    assert_eq!(send(&mut service, mcp("initialize")).await.status().as_u16(), 200);
    assert_eq!(field(&send(&mut service, mcp("server/discover")).await, "ratelimit"), Some(r#""probes";r=0;t=3600"#));
    assert_eq!(send(&mut service, mcp("initialize")).await.status().as_u16(), 429);
}

#[tokio::test]
async fn a_shadow_counts_and_never_refuses() {
    let layer = RateLimitLayer::new(Quota::per_hour(1)).key(ByPrincipal).shadow(true).store(MemoryStore::bounded(1000));
    let mut service = layer.layer(Probe::default());
    let record = RecordHandle::new(Record::default());
    for refused in [0, 1] {
        let mut request = request("192.0.2.1", "a");
        RequestContext::of_mut(request.extensions_mut()).set_record(record.clone());
        let response = send(&mut service, request).await;
        assert_eq!((response.status().as_u16(), field(&response, "ratelimit")), (200, None));
        let state = response.extensions().get::<crate::limiter::RateLimitState>().unwrap();
        assert_eq!(state.shadow_refusals().count(), refused);
        assert!(state.tightest().is_none());
        assert_eq!(record.with(|r| r.detail.is_some()), refused == 1);
    }
}

#[tokio::test]
async fn bytes_are_charged_when_the_body_ends() {
    let clock = ManualClock::default();
    let policy = Policy::response_bytes("bytes", Quota::per_second(5).burst(5)).unwrap().key(ByPrincipal);
    let layer = RateLimitLayer::policies([policy]).unwrap().store(MemoryStore::bounded(1000)).clock(clock.clone());
    let mut service = layer.layer(Probe::default());
    let first = send(&mut service, request("192.0.2.1", "a")).await;
    assert_eq!(field(&first, "ratelimit-policy"), Some(r#""bytes";q=5;qu="content-bytes";w=1"#));
    assert_eq!(
        send(&mut service, request("192.0.2.1", "a")).await.status().as_u16(),
        200,
        "a body that was dropped unread is free"
    );
    first.into_body().collect().await.unwrap();
    let refused = send(&mut service, request("192.0.2.1", "a")).await;
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (429, Some("1")));
    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&mut service, request("192.0.2.1", "a")).await.status().as_u16(), 200);
}

#[tokio::test]
async fn a_quota_of_failures_only_counts_failures() {
    #[derive(Clone)]
    struct Answers(u16);
    impl Service<Request<()>> for Answers {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::ready(Ok(Response::builder().status(self.0).body(Full::default()).unwrap()))
        }
    }
    let policy = Policy::new("failed-auth", Quota::per_hour(2)).unwrap().key(ByClient).cost(|_| 0);
    let policy = policy.amend(|used| u64::from(used.status.as_u16() == 401));
    let layer = RateLimitLayer::policies([policy]).unwrap().store(MemoryStore::bounded(1000)).clock(ManualClock::default());
    let status = |code: u16| {
        let service = layer.layer(Answers(code));
        async move { service.oneshot(request("192.0.2.1", "a")).await.unwrap().status().as_u16() }
    };
    for _ in 0..5 {
        assert_eq!(status(200).await, 200);
    }
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(status(401).await);
    }
    // At nothing left it still looks full to a look that takes nothing; the next failure is the debt that closes the door.
    assert_eq!(codes, [401, 401, 401, 429]);
    assert_eq!(status(200).await, 429);
}

#[tokio::test]
async fn legacy_fields_and_none() {
    let service = |fields| {
        let layer = RateLimitLayer::new(Quota::per_minute(60).burst(2)).key(ByPrincipal).fields(fields);
        layer.store(MemoryStore::bounded(1000)).clock(ManualClock::default()).layer(Probe::default())
    };
    let mut legacy = service(Fields::Legacy);
    let response = send(&mut legacy, request("192.0.2.1", "a")).await;
    let values = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(|n| field(&response, n).unwrap());
    assert_eq!(values, ["2", "1", "1"]);
    assert_eq!(field(&response, "ratelimit"), None);
    let mut off = service(Fields::Off);
    send(&mut off, request("192.0.2.1", "a")).await;
    send(&mut off, request("192.0.2.1", "a")).await;
    let refused = send(&mut off, request("192.0.2.1", "a")).await;
    assert_eq!((refused.status().as_u16(), field(&refused, "retry-after")), (429, Some("1")));
    assert!(refused.headers().keys().all(|name| !name.as_str().contains("ratelimit")));
}

#[tokio::test]
async fn two_layers_both_tell() {
    let (store, clock) = (MemoryStore::bounded(1000), ManualClock::default());
    let layer = |name: &str, n, fields| {
        let policy = Policy::new(name, Quota::per_hour(n)).unwrap().key(ByPrincipal);
        RateLimitLayer::policies([policy]).unwrap().store(store.clone()).fields(fields).clock(clock.clone())
    };
    let service = layer("outer", 10, Fields::Draft11).layer(layer("inner", 5, Fields::Draft11).layer(Probe::default()));
    let response = service.clone().oneshot(request("192.0.2.1", "a")).await.unwrap();
    let lines = |headers: &http::HeaderMap, name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        lines(response.headers(), "ratelimit"),
        [r#""outer";r=9;t=360, "inner";r=4;t=720"#],
        "the inner one tells of both"
    );
    assert_eq!(lines(response.headers(), "ratelimit-policy"), [r#""outer";q=10;w=3600, "inner";q=5;w=3600"#]);
    let state = response.extensions().get::<crate::limiter::RateLimitState>().unwrap();
    assert_eq!(state.iter().map(crate::limiter::PolicyState::policy).collect::<Vec<_>>(), ["outer", "inner"]);
    assert_eq!(state.tightest().unwrap().policy(), "inner");
    for n in (0..=4).rev() {
        let response = service.clone().oneshot(request("192.0.2.1", "b")).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{n}");
    }
    let refused = service.clone().oneshot(request("192.0.2.1", "b")).await.unwrap();
    assert_eq!(lines(refused.headers(), "ratelimit"), [r#""outer";r=4;t=2160, "inner";r=0;t=720"#]);

    // What never comes to the inner layer is told by the outer one alone.
    let service = layer("outer", 10, Fields::Draft11).layer(tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(
            Response::builder().header("ratelimit", r#""outer";r=9;t=3601"#).body(Full::<Bytes>::default()).unwrap(),
        )
    }));
    let response = service.oneshot(request("192.0.2.1", "c")).await.unwrap();
    assert_eq!(lines(response.headers(), "ratelimit"), [r#""outer";r=9;t=3601"#, r#""outer";r=9;t=360"#]);
    assert_eq!(lines(response.headers(), "ratelimit-policy"), [r#""outer";q=10;w=3600"#]);

    // Three, of which the middle one has two policies and tells nothing of its shadow.
    let two = [("m1", false), ("m2", true)]
        .map(|(name, shadow)| Policy::new(name, Quota::per_hour(8)).unwrap().key(ByPrincipal).shadow(shadow));
    let middle = RateLimitLayer::policies(two).unwrap().store(store.clone()).clock(clock.clone());
    let service = layer("o3", 10, Fields::Draft11).layer(middle.layer(layer("i3", 5, Fields::Draft11).layer(Probe::default())));
    let response = service.oneshot(request("192.0.2.1", "a")).await.unwrap();
    assert_eq!(lines(response.headers(), "ratelimit"), [r#""o3";r=9;t=360, "m1";r=7;t=450, "i3";r=4;t=720"#]);
    assert_eq!(lines(response.headers(), "ratelimit-policy"), [r#""o3";q=10;w=3600, "m1";q=8;w=3600, "i3";q=5;w=3600"#]);
    // Too long to be left to others: every layer says its own.
    let (long, longer) = ("l".repeat(60), "m".repeat(60));
    let service = layer(&long, 10, Fields::Draft11).layer(layer(&longer, 5, Fields::Draft11).layer(Probe::default()));
    let response = service.oneshot(request("192.0.2.1", "a")).await.unwrap();
    let want = [format!("\"{longer}\";r=4;t=720"), format!("\"{long}\";r=9;t=360")];
    assert_eq!(lines(response.headers(), "ratelimit"), want);
    assert_eq!(lines(response.headers(), "ratelimit-policy").len(), 2);
    let silent = layer("outer4", 10, Fields::Off).layer(layer("inner4", 5, Fields::Draft11).layer(Probe::default()));
    let response = silent.oneshot(request("192.0.2.1", "a")).await.unwrap();
    assert_eq!(lines(response.headers(), "ratelimit"), [r#""inner4";r=4;t=720"#]);
    let service = layer("a", 10, Fields::Legacy).layer(layer("b", 5, Fields::Legacy).layer(Probe::default()));
    assert_eq!(field(&service.oneshot(request("192.0.2.1", "a")).await.unwrap(), "x-ratelimit-limit"), Some("5"));
}

#[tokio::test]
async fn a_swap_keeps_what_was_used() {
    let layer =
        RateLimitLayer::new(Quota::per_hour(1)).key(ByPrincipal).store(MemoryStore::bounded(1000)).clock(ManualClock::default());
    let (handle, mut service) = (layer.handle(), layer.layer(Probe::default()));
    assert_eq!(send(&mut service, request("192.0.2.1", "a")).await.status().as_u16(), 200);
    let policy = |n| Policy::new("default", Quota::per_hour(n)).unwrap().key(ByPrincipal);
    handle.swap([policy(2)]).unwrap();
    assert_eq!(send(&mut service, request("192.0.2.1", "a")).await.status().as_u16(), 429, "an hour of the old quota is used");
    assert!(handle.swap([policy(3), policy(4)]).is_err() && handle.swap([]).is_err());
    assert_eq!(handle.policies().len(), 1);
    assert_eq!(handle.policies()[0].quota(), Quota::per_hour(2));
}

#[tokio::test]
async fn retry_after_is_never_before_the_reset_and_jitter_only_adds() {
    let layer =
        RateLimitLayer::new(Quota::per_minute(1)).key(ByPrincipal).jitter(Duration::from_secs(30)).clock(ManualClock::default());
    let mut service = layer.store(MemoryStore::bounded(1000)).layer(Probe::default());
    send(&mut service, request("192.0.2.1", "a")).await;
    let refused = send(&mut service, request("192.0.2.1", "a")).await;
    let after: u64 = field(&refused, "retry-after").unwrap().parse().unwrap();
    assert!((60..=90).contains(&after), "{after}");
    assert_eq!(field(&refused, "ratelimit"), Some(r#""default";r=0;t=60"#));
}

/// A store that has to be waited for.
#[derive(Debug)]
struct Slow(MemoryStore, bool);

impl LimitStore for Slow {
    fn try_check(&self, _: &mut Batch<'_>, _: Duration) -> bool {
        false
    }

    fn check(self: Arc<Self>, asks: Box<[OwnedAsk]>, now: Duration) -> CheckFuture {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.1 { Arc::new(self.0.clone()).check(asks, now).await } else { Err(StoreUnavailable) }
        })
    }

    fn charge(&self, _: &OwnedAsk, _: Duration) {}
}

#[tokio::test]
async fn a_remote_store_is_waited_for() {
    let service = |works| {
        RateLimitLayer::new(Quota::per_hour(1))
            .key(ByPrincipal)
            .store(Slow(MemoryStore::bounded(100), works))
            .layer(Probe::default())
    };
    let mut remote = service(true);
    assert_eq!(field(&send(&mut remote, request("192.0.2.1", "a")).await, "ratelimit"), Some(r#""default";r=0;t=3600"#));
    assert_eq!(send(&mut remote, request("192.0.2.1", "a")).await.status().as_u16(), 429);
    let away = send(&mut service(false), request("192.0.2.1", "a")).await;
    assert_eq!((away.status().as_u16(), field(&away, "retry-after")), (503, Some("1")));
    assert_eq!(away.extensions().get::<Rejection>().unwrap().reason(), "limit_store_unavailable");
}

#[test]
fn names_are_fit_to_be_sent() {
    for bad in ["", "a b", "a\"b", "a\\b", "ä", &"x".repeat(65)] {
        assert_eq!(Policy::new(bad, Quota::per_second(1)).unwrap_err().entry(), bad);
    }
    assert!(RateLimitLayer::policies([]).is_err());
}
