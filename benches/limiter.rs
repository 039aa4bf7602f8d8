//! The limiter beside `governor`, and its layer beside `tower_governor`: time, allocations, memory. One run, rounds interleaved,
//! medians printed as ratios.
//!
//! `cargo bench --bench limiter` (about a minute). Memory is measured first, in a fresh process for each contender.
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
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    pin::pin,
    process::Command,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use allocation_counter::measure;
use axum::body::Body;
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use http::{Request, Response};
use portcullis::{
    clock::{Clock, SystemClock},
    context::{ClientAddr, RequestContext},
    limiter::{Ask, Batch, Key, MemoryStore, PolicyId, Quota},
    rate_limit::{ByClient, Fields, Policy, RateLimitLayer},
};
use tower_governor::{GovernorError, GovernorLayer, governor::GovernorConfigBuilder, key_extractor::KeyExtractor};
use tower_layer::Layer;
use tower_service::Service;

const ROUNDS: usize = 9;
const MILLION: u64 = 1_000_000;

fn main() {
    match std::env::args().skip(1).find(|a| a.starts_with("memory-")).as_deref() {
        Some("memory-ours") => return memory_ours(),
        Some("memory-governor") => return memory_governor(),
        _ => {}
    }
    let all = !std::env::args().skip(1).any(|a| !a.starts_with('-'));
    for who in ["memory-ours", "memory-governor"].into_iter().filter(|_| all) {
        let out = Command::new(std::env::current_exe().unwrap()).arg(who).output().unwrap();
        print!("{}", String::from_utf8_lossy(&out.stdout));
    }
    checks();
    layers();
}

fn net(n: u64) -> Ipv6Addr {
    // Spread as clients are: neighbours are not in the same bucket of anybody's map.
    Ipv6Addr::from(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64)
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0
}

/// Ten million keys come once each, as fast as they can, while a limited key is asked again and again.
fn memory_ours() {
    let policy = PolicyId::new("client").unwrap();
    let quota = Quota::per_minute(60).burst(10);
    let before = resident();
    let store = MemoryStore::default();
    let idle = resident() - before;
    let limited = Key::of_client("192.0.2.1".parse().unwrap());
    let start = Instant::now();
    let (mut slowest, mut let_through) = (Vec::with_capacity(10_000_000), 0);
    // The limited key's own minute passes while the flood runs, so its quota is an hour long.
    let slow = Quota::per_hour(10).burst(10);
    while store.check(&policy, slow, &limited, 1, SystemClock.monotonic()).allowed() {}
    for n in 0..10 * MILLION {
        let key = Key::of_client(net(n).into());
        let t = Instant::now();
        let _ = black_box(store.check(&policy, quota, &key, 1, SystemClock.monotonic()));
        slowest.push(u32::try_from(t.elapsed().as_nanos()).unwrap_or(u32::MAX));
        if n % 1000 == 0 {
            let_through += u32::from(store.check(&policy, slow, &limited, 1, SystemClock.monotonic()).allowed());
        }
    }
    let took = start.elapsed();
    // The list of times itself is 40 MB.
    let grown = resident() - before - 40_000_000;
    slowest.sort_unstable();
    let p = |q: usize| slowest[slowest.len() * q / 10_000];
    println!(
        "store: empty {:.2} MiB (the counting allocator touches every page), after 10 million keys {:.1} MiB ({:.1} s)",
        mib(idle),
        mib(grown),
        took.as_secs_f64()
    );
    println!(
        "store: check under the flood, with two clock reads: p50 {} ns, p99 {} ns, p99.9 {} ns; limited key let through {let_through} times, folded {}",
        p(5000),
        p(9900),
        p(9990),
        store.folded()
    );
}

fn governor_quota() -> governor::Quota {
    governor::Quota::per_minute(NonZeroU32::new(60).unwrap()).allow_burst(NonZeroU32::new(10).unwrap())
}

fn memory_governor() {
    let before = resident();
    let limiter: DefaultKeyedRateLimiter<IpAddr> = RateLimiter::keyed(governor_quota());
    let start = Instant::now();
    for n in 0..10 * MILLION {
        let _ = black_box(limiter.check_key(&IpAddr::V6(net(n))));
    }
    println!("governor: after 10 million keys {:.1} MiB ({:.1} s)", mib(resident() - before), start.elapsed().as_secs_f64());
    limiter.retain_recent();
    println!("governor: after retain_recent {:.1} MiB", mib(resident() - before));
}

struct Contender<'a> {
    name: &'a str,
    run: Box<dyn FnMut(u64) + 'a>,
    times: Vec<f64>,
}

/// Runs all contenders in turn, round by round, and prints medians, ratios to the first, and allocations of one call.
fn compare(title: &str, calls: u64, contenders: Vec<(&str, Box<dyn FnMut(u64) + '_>)>) {
    // `cargo bench --bench limiter -- refused two` runs what has one of these words in its title.
    let words: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if !words.is_empty() && !words.iter().any(|w| title.contains(w.as_str())) {
        return;
    }
    let mut all: Vec<_> = contenders.into_iter().map(|(name, run)| Contender { name, run, times: Vec::new() }).collect();
    for round in 0..=ROUNDS {
        for c in &mut all {
            let start = Instant::now();
            for n in 0..calls {
                (c.run)(n);
            }
            let each = start.elapsed().as_secs_f64() * 1e9 / Duration::from_nanos(calls).as_secs_f64() / 1e9;
            if round > 0 {
                c.times.push(each);
            }
        }
    }
    println!("\n{title}");
    let mut base = 0.0;
    for c in &mut all {
        c.times.sort_by(f64::total_cmp);
        let median = c.times[c.times.len() / 2];
        if base == 0.0 {
            base = median;
        }
        let allocations = measure(|| (c.run)(1)).count_total;
        println!("  {:<44} {:>8.1} ns  {:>5.2} x  {allocations} allocations", c.name, median, median / base);
    }
}

fn checks() {
    let policy = PolicyId::new("client").unwrap();
    let sustained = PolicyId::new("sustained").unwrap();
    // So large that nothing is refused: admitting writes, refusing only reads.
    let quota = Quota::per_second(MILLION).burst(MILLION * 1000);
    let wide =
        governor::Quota::per_second(NonZeroU32::new(1_000_000).unwrap()).allow_burst(NonZeroU32::new(1_000_000_000).unwrap());
    let ip: IpAddr = "192.0.2.1".parse().unwrap();

    let later = SystemClock.monotonic() + Duration::from_secs(1);
    let store = MemoryStore::default();
    let both = MemoryStore::default();
    let gov: DefaultKeyedRateLimiter<IpAddr> = RateLimiter::keyed(wide);
    compare(
        "hot key, allowed (clock read included)",
        MILLION,
        vec![
            ("governor", Box::new(|_| drop(black_box(gov.check_key(&ip))))),
            (
                "portcullis",
                Box::new(|_| {
                    let key = Key::of_client(ip);
                    let _ = black_box(store.check(&policy, quota, &key, 1, SystemClock.monotonic()));
                }),
            ),
            (
                "portcullis, two policies at once",
                Box::new(|_| {
                    let mut batch = Batch::new();
                    for policy in [&policy, &sustained] {
                        batch.push(Ask { policy, quota, key: Key::of_client(ip), cost: 1, shadow: false, decision: None });
                    }
                    both.check_all(&mut batch, SystemClock.monotonic());
                    black_box(batch.allowed());
                }),
            ),
            (
                "portcullis, the time given",
                Box::new(|_| {
                    let _ = black_box(store.check(&policy, quota, &Key::of_client(ip), 1, later));
                }),
            ),
            (
                "the clock alone",
                Box::new(|_| {
                    let _ = black_box(SystemClock.monotonic());
                }),
            ),
        ],
    );

    let tight = Quota::per_hour(1);
    let other: IpAddr = "192.0.2.2".parse().unwrap();
    let _ = store.check(&policy, tight, &Key::of_client(other), 1, SystemClock.monotonic());
    let gov_tight: DefaultKeyedRateLimiter<IpAddr> = RateLimiter::keyed(governor::Quota::per_hour(NonZeroU32::new(1).unwrap()));
    let _ = gov_tight.check_key(&ip);
    compare(
        "hot key, refused",
        MILLION,
        vec![
            ("governor", Box::new(|_| drop(black_box(gov_tight.check_key(&ip))))),
            (
                "portcullis",
                Box::new(|_| {
                    let key = Key::of_client(other);
                    let _ = black_box(store.check(&policy, tight, &key, 1, SystemClock.monotonic()));
                }),
            ),
        ],
    );

    // A million keys that stay live: every request is a minute's worth.
    let hour = Quota::per_hour(60).burst(MILLION);
    let million = MemoryStore::bounded(1 << 21);
    let default = MemoryStore::default();
    let gov_million: DefaultKeyedRateLimiter<IpAddr> = RateLimiter::keyed(
        governor::Quota::per_hour(NonZeroU32::new(60).unwrap()).allow_burst(NonZeroU32::new(1_000_000).unwrap()),
    );
    let far = |n: u64| Key::of_client(net(n.wrapping_mul(48_271) % MILLION).into());
    compare(
        "a million live keys, in random order",
        MILLION,
        vec![
            (
                "governor",
                Box::new(|n| {
                    drop(black_box(gov_million.check_key(&IpAddr::V6(net(n.wrapping_mul(48_271) % MILLION)))));
                }),
            ),
            (
                "portcullis, 2^20 cells (16 MiB)",
                Box::new(|n| {
                    let _ = black_box(default.check(&policy, hour, &far(n), 1, SystemClock.monotonic()));
                }),
            ),
            (
                "portcullis, 2^21 cells (32 MiB)",
                Box::new(|n| {
                    let _ = black_box(million.check(&policy, hour, &far(n), 1, SystemClock.monotonic()));
                }),
            ),
        ],
    );
    println!("  folded: {} in 2^20 cells, {} in 2^21 cells", default.folded(), million.folded());
}

#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(Body::empty())))
    }
}

/// The same key for both: the client that an outer layer has found.
#[derive(Clone, Debug)]
struct FromContext;

impl KeyExtractor for FromContext {
    type Key = IpAddr;

    fn extract<T>(&self, request: &Request<T>) -> Result<IpAddr, GovernorError> {
        RequestContext::of(request.extensions())
            .and_then(RequestContext::client)
            .map(ClientAddr::ip)
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

fn now_or_never<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

fn call<S: Service<Request<()>, Error = Infallible>>(service: &mut S, peer: SocketAddr) {
    let mut request = Request::new(());
    RequestContext::of_mut(request.extensions_mut()).set_client(ClientAddr::new(peer.ip(), peer, false));
    let _ = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    drop(black_box(now_or_never(service.call(request))));
}

fn layers() {
    let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
    let wide = Quota::per_second(MILLION).burst(MILLION * 1000);
    let governed = |n: u32, every: Duration| {
        let config = GovernorConfigBuilder::default()
            .period(every)
            .burst_size(n)
            .key_extractor(FromContext)
            .use_headers()
            .finish()
            .unwrap();
        GovernorLayer::<FromContext, _, Body>::new(Arc::new(config)).layer(Inner)
    };
    let ours = |quota, fields| RateLimitLayer::new(quota).key(ByClient).fields(fields).layer(Inner);
    let two = |a, b| {
        let policies = [Policy::new("burst", a).unwrap(), Policy::new("sustained", b).unwrap()];
        RateLimitLayer::policies(policies).unwrap().layer(Inner)
    };
    let (mut bare, mut tg) = (Inner, governed(1_000_000_000, Duration::from_micros(1)));
    let (mut draft, mut off) = (ours(wide, Fields::Draft11), ours(wide, Fields::Off));
    let mut both = two(wide, wide);
    compare(
        "the layer, allowed (the request is made in each)",
        MILLION / 4,
        vec![
            ("no layer", Box::new(|_| call(&mut bare, peer))),
            ("tower_governor, with its fields", Box::new(|_| call(&mut tg, peer))),
            ("portcullis, draft fields", Box::new(|_| call(&mut draft, peer))),
            ("portcullis, no fields", Box::new(|_| call(&mut off, peer))),
            ("portcullis, two policies, draft fields", Box::new(|_| call(&mut both, peer))),
        ],
    );
    let (mut bare, mut tg) = (Inner, governed(1, Duration::from_secs(3600)));
    let (mut draft, mut off) = (ours(Quota::per_hour(1), Fields::Draft11), ours(Quota::per_hour(1), Fields::Off));
    let mut both = two(Quota::per_hour(1), Quota::per_hour(1).burst(1));
    compare(
        "the layer, refused",
        MILLION / 4,
        vec![
            ("no layer", Box::new(|_| call(&mut bare, peer))),
            ("tower_governor, with its fields", Box::new(|_| call(&mut tg, peer))),
            ("portcullis, draft fields", Box::new(|_| call(&mut draft, peer))),
            ("portcullis, no fields", Box::new(|_| call(&mut off, peer))),
            ("portcullis, two policies, draft fields", Box::new(|_| call(&mut both, peer))),
        ],
    );
}
