//! The guard's decision beside `url::Url::parse` alone: nanoseconds and allocations, in one run with rounds interleaved.
//!
//! `cargo bench --bench guard` (about ten seconds). Medians; the ratio is to the first line of each group.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing
)]

use std::{
    future::Future,
    hint::black_box,
    net::IpAddr,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use allocation_counter::measure;
use http::Request;
use portcullis::{
    connect::{GuardedConnector, RecordingDialer},
    context::RequestContext,
    egress::{EgressPolicy, PolicyHandle},
    net::{Name, Target, classify},
    resolve::{Answers, CachingResolver, Resolve, Resolving},
    ssrf_guard::SsrfGuardLayer,
    target::{PathPrefix, TargetLayer, TargetParser},
};
use tower::{Layer as _, Service as _};

const ROUNDS: usize = 15;
const CALLS: u32 = 20_000;

struct Contender<'a> {
    name: &'a str,
    run: Box<dyn FnMut() + 'a>,
    times: Vec<f64>,
}

type Named<'a> = (&'a str, Box<dyn FnMut() + 'a>);

fn compare(title: &str, contenders: Vec<Named<'_>>) {
    let mut all: Vec<_> = contenders.into_iter().map(|(name, run)| Contender { name, run, times: Vec::new() }).collect();
    for round in 0..=ROUNDS {
        for c in &mut all {
            let start = Instant::now();
            for _ in 0..CALLS {
                (c.run)();
            }
            if round > 0 {
                c.times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
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
        let allocations = measure(|| (c.run)()).count_total;
        println!("  {:<58} {median:>8.1} ns  {:>5.2} x  {allocations} allocations", c.name, median / base);
    }
}

/// For futures that never wait.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// Answers at once, for a long time.
#[derive(Debug)]
struct Fixed(Vec<IpAddr>);

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, _: &'a Name) -> Resolving<'a> {
        Box::pin(std::future::ready(Ok(Answers::new(self.0.clone(), Duration::from_secs(60)))))
    }
}

const LITERAL: &str = "https://93.184.215.14/a/b?c=d";
const NAME: &str = "https://api.service.example.com/a/b?c=d";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    addresses();
    decisions("the default policy", &EgressPolicy::default());
    decisions("a policy of 100,000 hosts and 100,000 networks", &large());
    layers();
}

fn large() -> EgressPolicy {
    let hosts = (0..100_000).map(|i| format!("*.h{i}.example.net"));
    let nets = (0..100_000_u32).map(|i| std::net::Ipv4Addr::from_bits(0x0b00_0000 + i * 2).to_string());
    EgressPolicy::builder().deny_hosts(hosts).unwrap().deny_cidrs(nets).unwrap().build().unwrap()
}

fn addresses() {
    let policy = EgressPolicy::default();
    // Read through a slot that the optimiser cannot see through.
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let (v4, v6, bad) = (ip("93.184.215.14"), ip("2606:4700:4700::1111"), ip("169.254.169.254"));
    let hand = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => {
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified())
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unique_local()),
    };
    compare(
        "one address",
        vec![
            ("a handful of std's predicates (incomplete)", Box::new(|| _ = black_box(hand(black_box(v4))))),
            ("classify, IPv4", Box::new(|| _ = black_box(classify(black_box(v4))))),
            ("classify, IPv6", Box::new(|| _ = black_box(classify(black_box(v6))))),
            ("classify, forbidden", Box::new(|| _ = black_box(classify(black_box(bad))))),
            ("EgressPolicy::judge_ip, IPv4", Box::new(|| drop(black_box(policy.judge_ip(black_box(v4)))))),
            ("EgressPolicy::judge_ip, IPv6", Box::new(|| drop(black_box(policy.judge_ip(black_box(v6)))))),
        ],
    );
}

fn decisions(title: &str, policy: &EgressPolicy) {
    let handle = PolicyHandle::new(policy.clone());
    let parser = TargetParser::new();
    let answers: Vec<IpAddr> = vec!["93.184.215.14".parse().unwrap(), "2606:4700:4700::1111".parse().unwrap()];
    let resolver = CachingResolver::new(Fixed(answers.clone()));
    let connector = GuardedConnector::builder().resolver(resolver).dialer(RecordingDialer::default()).build().unwrap();
    let decide = |parser: &TargetParser, url: &str| {
        let permit = handle.permit(&parser.parse(black_box(url)).unwrap()).unwrap();
        now(connector.plan(&permit)).unwrap()
    };
    let permit = handle.permit(&Target::parse(NAME).unwrap()).unwrap();
    let blocked = Target::parse("http://2130706433/").unwrap();
    compare(
        title,
        vec![
            ("url::Url::parse alone, name", Box::new(|| drop(black_box(url::Url::parse(black_box(NAME)))))),
            ("Target::parse, name", Box::new(|| drop(black_box(Target::parse(black_box(NAME)))))),
            ("TargetParser::parse, origin seen before", Box::new(|| drop(black_box(parser.parse(black_box(NAME)))))),
            ("permit, name", Box::new(|| drop(black_box(handle.permit(black_box(permit_target())))))),
            ("judge two answers", Box::new(|| drop(black_box(permit.judge(black_box(&answers)))))),
            (
                "refuse a literal, with its text for the operator",
                Box::new(|| drop(black_box(handle.permit(black_box(&blocked))))),
            ),
            ("full decision, literal (parse, permit, plan)", Box::new(|| drop(black_box(decide(&TARGETS, LITERAL))))),
            ("full decision, name with answers remembered", Box::new(|| drop(black_box(decide(&TARGETS, NAME))))),
        ],
    );
}

static TARGETS: std::sync::LazyLock<TargetParser> = std::sync::LazyLock::new(TargetParser::new);

fn permit_target() -> &'static Target {
    static TARGET: std::sync::LazyLock<Target> = std::sync::LazyLock::new(|| Target::parse(NAME).unwrap());
    &TARGET
}

fn layers() {
    let inner = || {
        tower::service_fn(|request: Request<()>| {
            black_box(RequestContext::of(request.extensions()));
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
                http_body_util::Empty::<bytes::Bytes>::new(),
            )))
        })
    };
    let request = || {
        let mut request = Request::builder().uri("/proxy/https://api.service.example.com/a/b?c=d").body(()).unwrap();
        RequestContext::of_mut(request.extensions_mut());
        request
    };
    let guard = SsrfGuardLayer::new(PolicyHandle::new(EgressPolicy::default()));
    let target = TargetLayer::new(PathPrefix::new("/proxy/").unwrap());
    let mut bare = inner();
    let mut with_target = target.layer(inner());
    let mut both = target.layer(guard.layer(inner()));
    compare(
        "layers, the request's own making included",
        vec![
            ("no layer", Box::new(|| drop(black_box(now(bare.call(request())))))),
            ("TargetLayer", Box::new(|| drop(black_box(now(with_target.call(request())))))),
            ("TargetLayer and SsrfGuardLayer", Box::new(|| drop(black_box(now(both.call(request())))))),
        ],
    );
}
