//! What the layers cost: each alone and all together over a service that is always ready, time and allocations, beside
//! `tower-http`'s usual four in the same run. `cargo bench --bench stack` (a few seconds); with the beginning of a line behind `--`, the
//! lines that begin so.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::type_complexity
)]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    audit::{AuditLayer, JsonLinesSink},
    body_limit::BodyLimitLayer,
    browser::BrowserLayer,
    check::CheckLayer,
    client_addr::ClientAddrLayer,
    client_allow::{ClientAllowLayer, ClientNetworks},
    concurrency_limit::ConcurrencyLimitLayer,
    context::{ConnectionInfo, RequestContext},
    denial_floor::DenialFloorLayer,
    egress::{EgressPolicy, Exception, PolicyHandle},
    limiter::{MemoryStore, Quota},
    net::Target,
    proxy_token::ProxyTokenLayer,
    rate_limit::{ByClient, ByPrincipal, RateLimitLayer},
    request_head::RequestHeadLayer,
    request_line::RequestLineLayer,
    response_limit::ResponseLimitLayer,
    ssrf_guard::SsrfGuardLayer,
    target::{PathPrefix, TargetLayer},
    token_scope::TokenScopeLayer,
    tokens::{Principal, StaticTokens, TokenHasher, TokenRecord},
};
use tower::{Layer, Service, ServiceBuilder};
use tower_http::{
    limit::RequestBodyLimitLayer, timeout::TimeoutLayer, trace::TraceLayer, validate_request::ValidateRequestHeaderLayer,
};

const TOKEN: &str = "bench-token-0123456789abcdef0123";
const BEARER: &str = "Bearer bench-token-0123456789abcdef0123";
const ROUNDS: usize = 9;
const LOOPS: u32 = 20_000;
const BATCH: u32 = 16;

type Body = Full<Bytes>;

/// Always ready, always 200.
#[derive(Clone)]
struct Inner;

impl<B> Service<Request<B>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Full::default())))
    }
}

fn request(token: &'static str, url: &'static str) -> Request<Body> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(url);
    let headers = request.headers_mut();
    headers.insert("host", "127.0.0.1:8000".parse().unwrap());
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("accept", "application/json, text/event-stream".parse().unwrap());
    headers.insert("x-proxy-token", HeaderValue::from_static(token));
    RequestContext::of_mut(request.extensions_mut())
        .set_connection(ConnectionInfo::new(SocketAddr::from(([127, 0, 0, 1], 5000))));
    request
}

const URL: &str = "/proxy/http://127.0.0.1:31000/mcp?session=1";

fn with_context() -> Request<Body> {
    let mut request = request(TOKEN, URL);
    let context = RequestContext::of_mut(request.extensions_mut());
    context.set_client(portcullis::context::ClientAddr::new(
        [127, 0, 0, 1].into(),
        SocketAddr::from(([127, 0, 0, 1], 5000)),
        false,
    ));
    context.set_principal(Principal::new("bench"));
    context.set_target(Target::parse("http://127.0.0.1:31000/mcp?session=1").unwrap());
    request
}

fn run<S, R>(service: &mut S, request: Request<Body>) -> R
where
    S: Service<Request<Body>, Response = R, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(response) => response.unwrap(),
        Poll::Pending => panic!("everything here is ready at once"),
    }
}

struct Row {
    name: &'static str,
    times: Vec<f64>,
    allocations: u64,
}

/// Times `f` and, without it, the making of the requests; the difference is the service.
fn bench<S, R>(name: &'static str, rows: &mut Vec<Row>, mut service: S, make: impl Fn() -> Request<Body>, want: u16)
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible>,
{
    if !std::env::args().nth(1).is_none_or(|only| only.starts_with('-') || name.starts_with(&only)) {
        return;
    }
    // The first request may still find a quota.
    drop(run(&mut service, make()));
    assert_eq!(run(&mut service, make()).status().as_u16(), want, "{name}");
    for _ in 0..2000 {
        black_box(run(&mut service, make()));
    }
    let index = rows.iter().position(|r| r.name == name).unwrap_or_else(|| {
        let prepared = make();
        let allocations = measure(|| drop(black_box(run(&mut service, prepared)))).count_total;
        rows.push(Row { name, times: Vec::new(), allocations });
        rows.len() - 1
    });
    // In small batches: requests that were made long before they are used would be measured out of the cache.
    let mut spent = Duration::ZERO;
    for _ in 0..LOOPS / BATCH {
        let requests: [_; BATCH as usize] = std::array::from_fn(|_| make());
        let start = Instant::now();
        for request in requests {
            black_box(run(&mut service, request));
        }
        spent += start.elapsed();
    }
    rows[index].times.push(spent.as_secs_f64() * 1e9 / f64::from(LOOPS / BATCH * BATCH));
}

fn policy() -> PolicyHandle {
    let exception = Exception::any_host(["127.0.0.1/32"]).unwrap();
    PolicyHandle::new(EgressPolicy::builder().with_exception(exception).build().unwrap())
}

fn tokens() -> Arc<StaticTokens> {
    let hasher = TokenHasher::plain();
    let record = TokenRecord::new("bench").unwrap().with_hash(hasher.hash(TOKEN).unwrap()).unwrap();
    Arc::new(StaticTokens::new(hasher, [record]).unwrap())
}

fn peers() -> impl Service<Request<Body>, Response = Response<impl Sized>, Error = Infallible> + Clone {
    #[expect(deprecated, reason = "too simple for use, and so the fastest that could stand here")]
    let bearer = ValidateRequestHeaderLayer::bearer(TOKEN);
    ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(bearer)
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(30)))
        .layer(RequestBodyLimitLayer::new(4 << 20))
        .service(Inner)
}

fn main() {
    let sink = JsonLinesSink::builder().writer(std::io::sink()).unwrap();
    let quota = Quota::per_second(1_000_000_000).burst(1_000_000_000);
    let store = MemoryStore::bounded(100_000);
    let client_rate = RateLimitLayer::new(quota).key(ByClient).store(store.clone());
    let token_rate = RateLimitLayer::new(quota).key(ByPrincipal).store(store.clone());
    let nobody = RateLimitLayer::new(Quota::per_hour(1)).key(ByClient).store(MemoryStore::bounded(1000));
    let (policy, tokens) = (policy(), tokens());
    let body = BodyLimitLayer::new(4 << 20);
    let response = ResponseLimitLayer::new(64 << 20);
    let target = || TargetLayer::new(PathPrefix::new("/proxy/").unwrap());
    let browser = BrowserLayer::new().loopback_listener(true);

    // As the bundled server has them.
    let edge = ServiceBuilder::new()
        .layer(AuditLayer::new(sink.clone()))
        .layer(DenialFloorLayer::new(Duration::from_millis(100)))
        .layer(CheckLayer::new((
            RequestHeadLayer::new(),
            RequestLineLayer::origin(),
            ClientAddrLayer::connection(),
            ClientAllowLayer::new(ClientNetworks::default()),
        )))
        .layer(browser.clone());
    let rest = |limiter| {
        edge.clone()
            .layer(limiter)
            .layer(ConcurrencyLimitLayer::new().total(10_000))
            .layer(ProxyTokenLayer::new(tokens.clone()))
            .layer(target())
            .layer(token_rate.clone())
            .layer(ConcurrencyLimitLayer::new().per_key(10_000, ByPrincipal))
            .layer(TokenScopeLayer::new())
            .layer(SsrfGuardLayer::new(policy.clone()))
            .layer(body.clone())
            .layer(response.clone())
            .service(Inner)
    };

    // The timer of its timeout wants a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let peers = peers();
    let with_bearer = || {
        let mut request = request(TOKEN, URL);
        request.headers_mut().insert("authorization", HeaderValue::from_static(BEARER));
        request
    };

    let mut rows = Vec::new();
    for _ in 0..ROUNDS {
        let plain = || request(TOKEN, URL);
        bench("the ready service alone", &mut rows, Inner, plain, 200);
        bench("the same, with a full context", &mut rows, Inner, with_context, 200);
        bench("AuditLayer (JSON lines)", &mut rows, AuditLayer::new(sink.clone()).layer(Inner), plain, 200);
        bench("RequestHeadLayer", &mut rows, RequestHeadLayer::new().layer(Inner), plain, 200);
        bench("RequestLineLayer", &mut rows, RequestLineLayer::origin().layer(Inner), plain, 200);
        bench("DenialFloorLayer", &mut rows, DenialFloorLayer::new(Duration::from_millis(100)).layer(Inner), plain, 200);
        bench("ClientAddrLayer", &mut rows, ClientAddrLayer::connection().layer(Inner), plain, 200);
        bench("BrowserLayer", &mut rows, browser.clone().layer(Inner), plain, 200);
        bench("RateLimitLayer", &mut rows, client_rate.clone().layer(Inner), with_context, 200);
        bench("ProxyTokenLayer", &mut rows, ProxyTokenLayer::new(tokens.clone()).layer(Inner), plain, 200);
        bench("TargetLayer", &mut rows, target().layer(Inner), plain, 200);
        bench(
            "ConcurrencyLimitLayer",
            &mut rows,
            ConcurrencyLimitLayer::new().per_key(100, ByPrincipal).layer(Inner),
            with_context,
            200,
        );
        bench("TokenScopeLayer", &mut rows, TokenScopeLayer::new().layer(Inner), with_context, 200);
        bench("SsrfGuardLayer", &mut rows, SsrfGuardLayer::new(policy.clone()).layer(Inner), with_context, 200);
        bench("BodyLimitLayer + ResponseLimitLayer", &mut rows, body.clone().layer(response.clone().layer(Inner)), plain, 200);
        bench("tower-http's trace, authorization, timeout, body limit", &mut rows, peers.clone(), with_bearer, 200);
        bench("all layers", &mut rows, rest(client_rate.clone()), plain, 200);
        bench(
            "all layers, refused: 401",
            &mut rows,
            rest(client_rate.clone()),
            || request("another-token-0123456789abcdef012", URL),
            401,
        );
        bench("all layers, refused: 429", &mut rows, rest(nobody.clone()), plain, 429);
        bench(
            "target and guard, refused: 403",
            &mut rows,
            ServiceBuilder::new().layer(target()).layer(SsrfGuardLayer::new(policy.clone())).service(Inner),
            || request(TOKEN, "/proxy/http://169.254.169.254/latest"),
            403,
        );
    }
    println!("\n{:<54} {:>8} {:>12}", "in process, over a ready service", "ns", "allocations");
    let alone = |name: &str| rows.iter().find(|r| r.name == name).map_or(0.0, |r| median(&r.times));
    let (base, full) = (alone("the ready service alone"), alone("the same, with a full context"));
    for row in &rows {
        let over = match row.name {
            name if name.starts_with("the ") => 0.0,
            "RateLimitLayer" | "ConcurrencyLimitLayer" | "TokenScopeLayer" | "SsrfGuardLayer" => full,
            _ => base,
        };
        println!("{:<54} {:>8.0} {:>12}", row.name, median(&row.times) - over, row.allocations);
    }
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
