//! The hickory resolver against a real name server on loopback. "Public" is 127.10.0.0/16, which the policy allows; everything
//! else that a name leads to is forbidden. The dialer records, so that nothing is ever opened.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use portcullis::{
    clock::ManualClock,
    connect::{GuardedConnector, RecordingDialer},
    egress::{EgressPolicy, Exception, PolicyHandle},
    net::{Name, Target},
    rejection::{Rejection, RejectionKind},
    resolve::{HickoryResolver, Resolve as _, ResolveError},
};

use crate::{
    builder,
    dns::{DnsServer, Reply, addr, cname, zone},
    sock,
};

fn policy() -> EgressPolicy {
    builder().with_exception(Exception::any_host(["127.10.0.0/16"]).unwrap()).build().unwrap()
}

struct Guard {
    connector: GuardedConnector,
    policy: PolicyHandle,
    dialer: RecordingDialer,
    clock: ManualClock,
}

impl Guard {
    fn new(server: &DnsServer, deadline: Duration) -> Self {
        Self::with_policy(server, deadline, policy())
    }

    fn with_policy(server: &DnsServer, deadline: Duration, policy: EgressPolicy) -> Self {
        let clock = ManualClock::default();
        let resolver =
            HickoryResolver::builder().servers([server.addr]).deadline(deadline).clock(Arc::new(clock.clone())).build().unwrap();
        let dialer = RecordingDialer::default();
        let connector = GuardedConnector::builder().resolver(resolver).dialer(dialer.clone()).build().unwrap();
        Self { connector, policy: PolicyHandle::new(policy), dialer, clock }
    }

    /// The answer to a client: what was refused or failed. The recording dialer refuses everything, so there always is one.
    async fn ask(&self, url: &str) -> Rejection {
        match self.policy.permit(&Target::parse(url).unwrap()) {
            Err(denial) => denial.into_rejection(),
            Ok(permit) => self.connector.connect(&permit, false).await.unwrap_err().into_rejection(),
        }
    }

    /// The reason word; a refused dial is `connect_failed`, which here means that the guard said yes.
    async fn reason(&self, url: &str) -> &'static str {
        self.ask(url).await.reason()
    }

    fn dials(&self) -> Vec<SocketAddr> {
        self.dialer.dials()
    }
}

const OPEN: &str = "connect_failed";
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn rule_7_and_8_absolute_names_one_look_up_a_and_aaaa() {
    let server = DnsServer::start(|name, kind, _| zone(kind, [addr(name, 30, "127.10.0.2"), addr(name, 30, "127.10.0.1")])).await;
    let guard = Guard::new(&server, SOON);
    assert_eq!(guard.reason("http://Name.Example./").await, OPEN);
    assert_eq!(guard.dials(), [sock("127.10.0.2:80"), sock("127.10.0.1:80")]);
    let mut asked = server.asked();
    asked.sort();
    assert_eq!(asked, [("name.example.".to_owned(), RecordType::A), ("name.example.".to_owned(), RecordType::AAAA)]);
}

#[tokio::test]
async fn special_names_and_literals_are_never_asked_of_dns() {
    let server = DnsServer::start(|name, kind, _| zone(kind, [addr(name, 30, "127.10.0.1")])).await;
    let exceptions = builder()
        .exception("localhost", ["127.0.0.1", "::1"])
        .unwrap()
        .with_exception(Exception::any_host(["127.10.0.0/16"]).unwrap());
    let guard = Guard::with_policy(&server, SOON, exceptions.build().unwrap());
    for url in [
        "http://127.10.0.1:8080/",
        "http://2130706433/",
        "http://[::1]/",
        "http://printer.local/",
        "http://a.internal/",
        "http://x.onion/",
        "http://single/",
        "http://a.localhost/",
        "http://localhost:81/",
        "http://name.example:25/",
    ] {
        guard.ask(url).await;
    }
    assert_eq!(guard.reason("http://localhost:8080/").await, OPEN);
    assert_eq!(guard.dials(), [sock("127.10.0.1:8080"), sock("127.0.0.1:8080"), sock("[::1]:8080")]);
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn the_hosts_file_is_not_read_and_a_named_exception_is_asked_of_dns() {
    let server = DnsServer::start(|_, _, _| Reply::Code(ResponseCode::NXDomain)).await;
    let guard = Guard::with_policy(&server, SOON, builder().dangerous().without_name_rules().build().unwrap());
    assert_eq!(guard.reason("http://ip6-localhost/").await, "no_such_name");
    assert!(server.asked().iter().all(|(name, _)| name == "ip6-localhost."));
    assert_eq!(server.counts()[&RecordType::A], 1);

    let server = DnsServer::start(|name, kind, _| zone(kind, [addr(name, 30, "10.1.2.3")])).await;
    let guard = Guard::with_policy(&server, SOON, builder().exception("mcp.internal", ["10.1.0.0/16"]).unwrap().build().unwrap());
    assert_eq!(guard.reason("http://mcp.internal/").await, OPEN);
    assert_eq!(guard.dials(), [sock("10.1.2.3:80")]);
}

#[tokio::test]
async fn rebinding_with_ttl_zero_is_judged_each_time() {
    let server =
        DnsServer::start(|name, kind, nth| zone(kind, [addr(name, 0, if nth == 0 { "127.10.0.1" } else { "10.0.0.1" })])).await;
    let guard = Guard::new(&server, SOON);
    assert_eq!(guard.reason("http://rebind.example/").await, OPEN);
    assert_eq!(server.counts()[&RecordType::A], 1);
    for _ in 0..3 {
        assert_eq!(guard.reason("http://rebind.example/").await, "address");
    }
    assert_eq!(server.counts()[&RecordType::A], 4);
    assert_eq!(guard.dials(), [sock("127.10.0.1:80")]);
}

#[tokio::test]
async fn rebinding_behind_a_ttl_is_judged_when_the_answer_is_new() {
    let server =
        DnsServer::start(|name, kind, nth| zone(kind, [addr(name, 10, if nth == 0 { "127.10.0.1" } else { "169.254.169.254" })]))
            .await;
    let guard = Guard::new(&server, SOON);
    assert_eq!(guard.reason("http://rebind.example/").await, OPEN);
    guard.clock.advance(Duration::from_secs(9));
    assert_eq!(guard.reason("http://rebind.example/").await, OPEN);
    assert_eq!(server.counts()[&RecordType::A], 1);
    guard.clock.advance(Duration::from_secs(2));
    assert_eq!(guard.reason("http://rebind.example/").await, "address");
    assert_eq!(guard.dials(), [sock("127.10.0.1:80"); 2]);
    // A swap of the policy is felt by answers that are remembered.
    let server = DnsServer::start(|name, kind, _| zone(kind, [addr(name, 10, "127.10.0.1")])).await;
    let guard = Guard::new(&server, SOON);
    assert_eq!(guard.reason("http://a.example/").await, OPEN);
    guard.policy.swap(EgressPolicy::default());
    assert_eq!(guard.reason("http://a.example/").await, "address");
    assert_eq!(server.counts()[&RecordType::A], 1);
}

#[tokio::test]
async fn mixed_answers_in_one_family_and_across_both() {
    let server = DnsServer::start(|name, kind, _| match (name, kind) {
        ("one.example.", RecordType::A) => zone(kind, [addr(name, 30, "127.10.0.1"), addr(name, 30, "10.0.0.1")]),
        ("both.example.", RecordType::A) => zone(kind, [addr(name, 30, "127.10.0.1")]),
        ("both.example.", RecordType::AAAA) => zone(kind, [addr(name, 30, "fd00::1")]),
        ("late.example.", RecordType::A) => zone(kind, [addr(name, 30, "127.10.0.1")]),
        ("late.example.", RecordType::AAAA) => {
            Reply::After(Duration::from_millis(200), Box::new(zone(kind, [addr(name, 30, "::1")])))
        }
        ("mapped.example.", RecordType::AAAA) => zone(kind, [addr(name, 30, "::ffff:10.0.0.1")]),
        ("nat64.example.", RecordType::AAAA) => zone(kind, [addr(name, 30, "64:ff9b::a9fe:a9fe")]),
        ("mappedgood.example.", RecordType::AAAA) => zone(kind, [addr(name, 30, "::ffff:127.10.0.9")]),
        ("six.example.", RecordType::AAAA) => zone(kind, [addr(name, 30, "2002:7f0a:1::")]),
        _ => Reply::Records(Vec::new()),
    })
    .await;
    let guard = Guard::new(&server, SOON);
    for name in ["one", "both", "late", "mapped", "nat64", "six"] {
        assert_eq!(guard.reason(&format!("http://{name}.example/")).await, "address", "{name}");
    }
    assert_eq!(guard.dials(), []);
    assert_eq!(guard.reason("http://mappedgood.example/").await, OPEN);
    assert_eq!(guard.dials(), [sock("127.10.0.9:80")]);
}

#[tokio::test]
async fn cname_chains_are_judged_by_where_they_end() {
    let server = DnsServer::start(|name, kind, _| match name {
        "private.example." => zone(kind, [cname(name, 30, "db.inside.example."), addr("db.inside.example.", 30, "10.0.0.1")]),
        "meta.example." => zone(
            kind,
            [cname(name, 30, "x.example."), cname("x.example.", 30, "y.example."), addr("y.example.", 30, "169.254.169.254")],
        ),
        "chase.example." => zone(kind, [cname(name, 30, "end.example.")]),
        "end.example." => zone(kind, [addr(name, 30, "192.168.1.1")]),
        "local.example." => zone(kind, [cname(name, 30, "localhost.")]),
        "good.example." => zone(kind, [cname(name, 30, "cdn.example."), addr("cdn.example.", 30, "127.10.0.7")]),
        "loop.example." => zone(kind, [cname(name, 30, "pool.example.")]),
        "pool.example." => zone(kind, [cname(name, 30, "loop.example.")]),
        "long.example." => {
            let hops = (0..12).map(|i| {
                cname(&if i == 0 { name.to_owned() } else { format!("h{i}.example.") }, 30, &format!("h{}.example.", i + 1))
            });
            zone(kind, hops.chain([addr("h12.example.", 30, "127.10.0.1")]))
        }
        _ => Reply::Code(ResponseCode::NXDomain),
    })
    .await;
    let guard = Guard::new(&server, SOON);
    for name in ["private", "meta", "chase", "local"] {
        assert_eq!(guard.reason(&format!("http://{name}.example/")).await, "address", "{name}");
    }
    for name in ["loop", "long"] {
        assert_ne!(guard.reason(&format!("http://{name}.example/")).await, OPEN, "{name}");
    }
    assert_eq!(guard.dials(), []);
    assert_eq!(guard.reason("http://good.example/").await, OPEN);
    assert_eq!(guard.dials(), [sock("127.10.0.7:80")]);
}

#[tokio::test]
async fn rule_14_what_does_not_exist_looks_like_what_is_denied() {
    let server = DnsServer::start(|name, kind, _| match name {
        "none.example." => Reply::Code(ResponseCode::NXDomain),
        "empty.example." => Reply::Records(Vec::new()),
        _ => zone(kind, [addr(name, 30, "10.0.0.1")]),
    })
    .await;
    let guard = Guard::new(&server, SOON);
    let mut answers = Vec::new();
    for url in [
        "http://none.example/",
        "http://empty.example/",
        "http://private.example/",
        "http://10.0.0.1/",
        "http://a.internal/",
        "http://example.com:25/",
    ] {
        let rejection = guard.ask(url).await;
        assert_eq!(rejection.kind(), RejectionKind::Denied, "{url}");
        let body = rejection.problem_json();
        let response = rejection.into_response::<()>();
        answers.push((response.status(), response.headers().clone(), body));
    }
    assert!(answers.windows(2).all(|w| w[0] == w[1]), "{answers:?}");
    let body = String::from_utf8(answers[0].2.to_vec()).unwrap();
    assert!(!body.contains("10.0") && !body.contains("example"), "{body}");
}

#[tokio::test]
async fn servers_that_fail_are_failures() {
    let server = DnsServer::start(|name, kind, nth| match (name, kind) {
        ("refused.example.", _) => Reply::Code(ResponseCode::Refused),
        ("fail.example.", _) => Reply::Code(ResponseCode::ServFail),
        ("later.example.", _) if nth < 2 => Reply::Code(ResponseCode::ServFail),
        ("later.example.", _) => zone(kind, [addr(name, 30, "10.0.0.1")]),
        ("half.example.", RecordType::A) => zone(kind, [addr(name, 30, "127.10.0.1")]),
        ("otherhalf.example.", RecordType::AAAA) => zone(kind, [addr(name, 30, "fd00::1")]),
        ("nothing.example.", RecordType::A) => Reply::Records(Vec::new()),
        _ => Reply::Code(ResponseCode::ServFail),
    })
    .await;
    let guard = Guard::new(&server, SOON);
    for name in ["refused", "fail", "nothing"] {
        let rejection = guard.ask(&format!("http://{name}.example/")).await;
        assert_eq!(rejection.kind(), RejectionKind::DnsFailed, "{name}: {rejection}");
        assert_eq!(rejection.proxy_status(), "dns_error");
    }
    // SERVFAIL first, a private address when it is asked again: never a dial.
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(guard.reason("http://later.example/").await);
    }
    assert!(seen.iter().all(|r| ["dns_failed", "address"].contains(r)) && seen.last() == Some(&"address"), "{seen:?}");
    assert_eq!(guard.reason("http://otherhalf.example/").await, "address");
    assert_eq!(guard.dials(), []);
    assert_eq!(guard.reason("http://half.example/").await, OPEN);
    assert_eq!(guard.dials(), [sock("127.10.0.1:80")]);
}

#[tokio::test]
async fn slow_servers_run_into_the_deadline() {
    let server = DnsServer::start(|name, kind, _| match name {
        "silent.example." => Reply::Silence,
        _ => Reply::After(Duration::from_secs(3), Box::new(zone(kind, [addr(name, 30, "127.10.0.1")]))),
    })
    .await;
    let guard = Guard::new(&server, Duration::from_millis(300));
    for name in ["silent", "slow"] {
        let started = tokio::time::Instant::now();
        let rejection = guard.ask(&format!("http://{name}.example/")).await;
        assert_eq!(
            (rejection.kind(), rejection.proxy_status()),
            (RejectionKind::DnsTimeout, "dns_timeout"),
            "{name}: {rejection}"
        );
        assert!(started.elapsed() < Duration::from_secs(2), "{name}: {:?}", started.elapsed());
    }
    assert_eq!(guard.dials(), []);
}

#[tokio::test]
async fn oversized_answers_are_capped() {
    let many = |name: &str, n: u8| (0..n).map(|i| addr(name, 30, &format!("127.10.1.{i}"))).collect::<Vec<_>>();
    let server = DnsServer::start(move |name, kind, _| match name {
        "fifty.example." => zone(kind, many(name, 50)),
        "mixed.example." => zone(kind, many(name, 50).into_iter().chain([addr(name, 30, "10.0.0.1")])),
        _ => zone(kind, many(name, 200)),
    })
    .await;
    let guard = Guard::new(&server, SOON);
    assert_eq!(guard.reason("http://huge.example/").await, "dns_failed");
    assert_eq!(guard.reason("http://mixed.example/").await, "address");
    assert_eq!(guard.dials(), []);
    assert_eq!(guard.reason("http://fifty.example/").await, OPEN);
    assert_eq!(guard.dials().len(), 4, "at most four attempts: {:?}", guard.dials());
}

#[tokio::test]
async fn a_retry_stays_inside_the_answers_of_one_look_up() {
    let server = DnsServer::start(|name, kind, nth| {
        let answers: &[&str] = if nth == 0 { &["127.10.0.1", "127.10.0.2"] } else { &["10.0.0.1"] };
        zone(kind, answers.iter().map(|a| addr(name, 0, a)))
    })
    .await;
    let guard = Guard::new(&server, SOON);
    assert_eq!(guard.reason("http://retry.example/").await, OPEN);
    assert_eq!(guard.dials(), [sock("127.10.0.1:80"), sock("127.10.0.2:80")]);
    assert_eq!(server.counts()[&RecordType::A], 1);
}

#[tokio::test]
async fn odd_names_are_sent_as_labels() {
    let server = DnsServer::start(|name, kind, _| zone(kind, [addr(name, 0, "127.10.0.1")])).await;
    let resolver = HickoryResolver::with_servers([server.addr]).unwrap();
    for name in ["_dmarc.example.com", "xn--bcher-kva.example", "a--b.example", "foo_bar.example.com", "1.2.3.4.example"] {
        let answers = resolver.resolve(&Name::parse_ascii(name).unwrap()).await;
        assert!(answers.is_ok(), "{name}: {answers:?}");
    }
    let none: Result<HickoryResolver, _> = HickoryResolver::with_servers([]);
    assert!(none.is_err());
    let gone = HickoryResolver::builder().servers([sock("127.0.0.1:1")]).deadline(Duration::from_millis(500)).build().unwrap();
    let error = gone.resolve(&Name::parse_ascii("a.example").unwrap()).await.unwrap_err();
    assert_ne!(error, ResolveError::NoSuchName);
}
