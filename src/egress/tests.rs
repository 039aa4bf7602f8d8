use std::net::IpAddr;

use super::*;
use crate::{ConfigError, net::Target, signal::CloseReason};

/// The reason, or `ok`, for a URL under a policy, with these answers.
fn ask(policy: &EgressPolicy, url: &str, answers: &[&str]) -> &'static str {
    let answers: Vec<IpAddr> = answers.iter().map(|a| a.parse().unwrap()).collect();
    policy.explain_with_answers(url, &answers).reason().unwrap_or("ok")
}

const GOOD: &[&str] = &["93.184.215.14"];

fn b() -> EgressPolicyBuilder {
    EgressPolicy::builder()
}

#[test]
fn defaults() {
    let p = EgressPolicy::default();
    for (url, want) in [
        ("http://example.com/", "ok"),
        ("https://example.com:8443/", "ok"),
        ("http://8.8.8.8/", "ok"),
        ("http://[2606:4700:4700::1111]/", "ok"),
        ("http://[::ffff:8.8.8.8]/", "ok"),
        ("http://[64:ff9b::808:808]/", "ok"),
        ("wss://example.com/", "ok"),
        ("https://example.com:80/", "ok"),
        ("http://example.com:81/", "port"),
        ("http://8.8.8.8:22/", "port"),
        ("http://8.8.8.8:1023/", "port"),
        ("http://example.com:6667/", "port"),
        ("http://example.com:10080/", "port"),
        ("http://example.com:1024/", "ok"),
        ("http://127.1/", "address"),
        ("http://[::]/", "address"),
        ("http://[::ffff:127.0.0.1]/", "address"),
        ("http://[64:ff9b::7f00:1]/", "address"),
        ("http://[2002:808:808::]/", "address"),
        ("http://localhost/", "name"),
        ("http://intranet/", "name"),
        ("http://a.local./", "name"),
        ("http://localnews.com/", "ok"),
        ("ftp://example.com/", "invalid"),
    ] {
        assert_eq!(ask(&p, url, GOOD), want, "{url}");
    }
    assert_eq!(ask(&p, "http://example.com/", &[]), "no_such_name");
    assert_eq!(ask(&p, "http://example.com/", &["93.184.215.14", "10.0.0.1"]), "address");
    assert_eq!(ask(&p, "http://example.com/", &["::ffff:10.0.0.1"]), "address");
}

#[test]
fn https_only_takes_connect() {
    let p = b().https_only(true).build().unwrap();
    assert_eq!(ask(&p, "http://example.com/", GOOD), "scheme");
    assert_eq!(ask(&p, "ws://example.com/", GOOD), "scheme");
    assert_eq!(ask(&p, "https://example.com/", GOOD), "ok");
    assert_eq!(ask(&p, "wss://example.com/", GOOD), "ok");
    let handle = PolicyHandle::new(p);
    assert!(handle.permit(&Target::parse_connect("example.com:80").unwrap()).is_ok());
}

#[test]
fn allow_list_mode() {
    let p = b()
        .allow_hosts(["*.example.com", "one.example.net", "8.8.8.8"])
        .unwrap()
        .deny_host("bad.example.com")
        .unwrap()
        .exception("mcp.corp", ["10.1.0.0/16"])
        .unwrap()
        .with_exception(Exception::any_host(["127.0.0.1/32", "10.9.0.0/16"]).unwrap())
        .build()
        .unwrap();
    for (url, answers, want) in [
        ("http://a.example.com/", GOOD, "ok"),
        ("http://a.b.example.com/", GOOD, "ok"),
        ("http://example.com/", GOOD, "not_listed"),
        ("http://bad.example.com/", GOOD, "denied_host"),
        ("http://one.example.net/", GOOD, "ok"),
        ("http://8.8.8.8/", GOOD, "ok"),
        ("http://8.8.4.4/", GOOD, "not_listed"),
        ("http://mcp.corp/", &["10.1.2.3"], "ok"),
        ("http://mcp.corp/", &["10.2.2.3"], "address"),
        ("http://other.corp/", &["10.1.2.3"], "not_listed"),
        ("http://127.0.0.1/", GOOD, "not_listed"),
        ("http://a.example.com/", &["10.9.0.1"], "ok"),
        ("http://a.example.com/", &["10.1.0.1"], "address"),
    ] {
        assert_eq!(ask(&p, url, answers), want, "{url} {answers:?}");
    }
}

#[test]
fn named_and_unnamed_exceptions() {
    let p = b()
        .exception("mcp.corp.example", ["10.1.0.0/16"])
        .unwrap()
        .with_exception(Exception::host("db.internal", ["10.2.0.0/16"]).unwrap().ports(["5432"]).unwrap())
        .with_exception(Exception::any_host(["127.0.0.1"]).unwrap().ports(["3101", "81"]).unwrap())
        .exception("localhost", ["127.0.0.0/8"])
        .unwrap()
        .build()
        .unwrap();
    for (url, answers, want) in [
        ("http://mcp.corp.example/", &["10.1.9.9"][..], "ok"),
        ("http://mcp.corp.example:81/", &["10.1.9.9"], "address"),
        ("http://mcp.corp.example/", &["10.1.9.9", "10.2.0.1"], "address"),
        ("http://other.example/", &["10.1.9.9"], "address"),
        ("http://10.1.9.9/", &[], "address"),
        ("http://db.internal:5432/", &["10.2.0.1"], "ok"),
        ("http://db.internal/", &["10.2.0.1"], "name"),
        ("http://x.db.internal:5432/", &["10.2.0.1"], "name"),
        ("http://127.0.0.1:3101/", &[], "ok"),
        ("http://[::ffff:127.0.0.1]:3101/", &[], "ok"),
        ("http://[64:ff9b::7f00:1]:3101/", &[], "ok"),
        ("http://127.0.0.1:3102/", &[], "address"),
        ("http://127.0.0.2:3101/", &[], "address"),
        ("http://any.example:3101/", &["127.0.0.1"], "ok"),
        ("http://any.example:81/", &["127.0.0.1"], "ok"),
        ("http://any.example:81/", GOOD, "port"),
        ("http://any.example:82/", &["127.0.0.1"], "port"),
        ("http://any.local:3101/", &["127.0.0.1"], "name"),
        ("http://localhost/", &["8.8.8.8"], "ok"),
        ("http://a.localhost/", &["127.0.0.1"], "name"),
    ] {
        assert_eq!(ask(&p, url, answers), want, "{url} {answers:?}");
    }
    let local = p.explain("http://LOCALHOST.:8080/");
    assert_eq!(local.addresses(), ["127.0.0.1:8080".parse().unwrap()]);
}

#[test]
fn hard_floor() {
    let broad = b().with_exception(Exception::any_host(["0.0.0.0/0", "::/0"]).unwrap()).build().unwrap();
    for ip in [
        "169.254.169.254",
        "168.63.129.16",
        "0.0.0.0",
        "100.100.100.200",
        "192.0.0.192",
        "[::]",
        "[fd00:ec2::254]",
        "[64:ff9b::a9fe:a9fe]",
    ] {
        assert_eq!(ask(&broad, &format!("http://{ip}/"), &[]), "address", "{ip}");
    }
    for ip in ["[2002:7f00:1::]", "[2001::1]", "[::7f00:1]", "[::ffff:0:7f00:1]", "[64:ff9b:1::1]"] {
        assert_eq!(ask(&broad, &format!("http://{ip}/"), &[]), "address", "{ip}");
    }
    for ip in ["10.0.0.1", "[::1]", "0.0.0.1", "[fe80::1]"] {
        assert_eq!(ask(&broad, &format!("http://{ip}/"), &[]), "ok", "{ip}");
    }
    let exact = b().with_exception(Exception::any_host(["169.254.169.254", "::/128"]).unwrap()).build().unwrap();
    assert_eq!(ask(&exact, "http://169.254.169.254/", &[]), "ok");
    assert_eq!(ask(&exact, "http://[::]/", &[]), "ok");
    assert_eq!(ask(&exact, "http://168.63.129.16/", &[]), "address");
}

#[test]
fn deny_beats_everything() {
    let p = b()
        .deny_cidrs(["93.184.0.0/16", "10.1.1.0/24"])
        .unwrap()
        .deny_hosts(["*.evil.example", "9.9.9.9"])
        .unwrap()
        .exception("x.example", ["10.1.0.0/16"])
        .unwrap()
        .build()
        .unwrap();
    for (url, answers, want) in [
        ("http://example.com/", GOOD, "denied_address"),
        ("http://[64:ff9b::5db8:1]/", &[], "denied_address"),
        ("http://x.example/", &["10.1.2.1"], "ok"),
        ("http://x.example/", &["10.1.1.1"], "denied_address"),
        ("http://a.evil.example/", &["8.8.8.8"], "denied_host"),
        ("http://evil.example/", &["8.8.8.8"], "ok"),
        ("http://evil.example/", &["9.9.9.9"], "denied_address"),
        ("http://9.9.9.9/", &[], "denied_address"),
    ] {
        assert_eq!(ask(&p, url, answers), want, "{url}");
    }
}

#[test]
fn listeners_are_not_dialled() {
    let p = b()
        .with_exception(Exception::any_host(["127.0.0.0/8", "::1"]).unwrap())
        .refuse_listeners(["0.0.0.0:8000".parse().unwrap(), "127.0.0.1:9000".parse().unwrap()])
        .build()
        .unwrap();
    for (url, want) in [
        ("http://127.0.0.1:8000/", "listener"),
        ("http://127.9.9.9:8000/", "listener"),
        ("http://[::1]:8000/", "listener"),
        ("http://[::ffff:127.0.0.1]:9000/", "listener"),
        ("http://127.0.0.2:9000/", "ok"),
        ("http://127.0.0.1:8001/", "ok"),
    ] {
        assert_eq!(ask(&p, url, &[]), want, "{url}");
    }
}

#[test]
fn extra_nat64_prefix() {
    let p = b().nat64_prefix("2001:db8:64::/96").unwrap().deny_cidrs(["8.8.0.0/16"]).unwrap().build().unwrap();
    assert_eq!(ask(&p, "http://[2001:db8:64::9.9.9.9]/", &[]), "ok");
    assert_eq!(ask(&p, "http://[2001:db8:64::10.0.0.1]/", &[]), "address");
    assert_eq!(ask(&p, "http://[2001:db8:64::8.8.8.8]/", &[]), "denied_address");
    assert_eq!(ask(&p, "http://[2001:db8:65::9.9.9.9]/", &[]), "address");
}

#[test]
fn dangerous_switches() {
    let p = b().dangerous().drop_bad_answers().build().unwrap();
    let e = p.explain_with_answers("http://a.example/", &["10.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap()]);
    assert_eq!(e.addresses(), ["8.8.8.8:80".parse().unwrap()]);
    assert_eq!(ask(&p, "http://a.example/", &["10.0.0.1"]), "address");
    let p = b().dangerous().without_name_rules().build().unwrap();
    assert_eq!(ask(&p, "http://a.internal/", GOOD), "ok");
    assert_eq!(ask(&p, "http://a.internal/", &["10.0.0.1"]), "address");
    assert_eq!(ask(&p, "http://a.localhost/", GOOD), "name");
    assert_eq!(ask(&p, "http://a.onion/", GOOD), "name");
}

#[test]
fn keyword_rule_is_an_option() {
    let p = b().keyword_rule(true).build().unwrap();
    assert_eq!(ask(&p, "http://localnews.com/", GOOD), "keyword");
    assert_eq!(ask(&p, "http://example.com/", GOOD), "ok");
}

fn entry(result: Result<EgressPolicy, ConfigError>) -> String {
    result.unwrap_err().entry().to_owned()
}

#[test]
fn contradictions_are_named() {
    let any = |cidr: &str| Ok(b().with_exception(Exception::any_host([cidr])?));
    assert_eq!(entry(b().allow_host("a.example").unwrap().deny_host("a.example").unwrap().build()), "a.example");
    assert_eq!(entry(b().allow_host("*.a.example").unwrap().deny_host("*.example").unwrap().build()), "*.a.example");
    assert_eq!(entry(b().exception("a.example", ["10.0.0.0/8"]).unwrap().deny_host("*.example").unwrap().build()), "a.example");
    assert_eq!(entry(any("10.1.0.0/16").unwrap().deny_cidrs(["10.0.0.0/8"]).unwrap().build()), "10.1.0.0/16");
    for cidr in [
        "64:ff9b::/96",
        "64:ff9b::a00:0/104",
        "64:ff9b:1::/64",
        "2002::/16",
        "2002:7f00::/24",
        "2001::/32",
        "::ffff:0:0:0/96",
        "::/96",
    ] {
        let result = any(cidr).and_then(EgressPolicyBuilder::build);
        assert_eq!(entry(result), cidr);
    }
    assert_eq!(entry(any("::ffff:10.0.0.0/104").and_then(EgressPolicyBuilder::build)), "::ffff:10.0.0.0/104");
    assert_eq!(entry(any("10.0.0.1/8").and_then(EgressPolicyBuilder::build)), "10.0.0.1/8");
    let prefixed = any("2001:db8:64::a00:0/104").unwrap().nat64_prefix("2001:db8:64::/96").unwrap().build();
    assert_eq!(entry(prefixed), "2001:db8:64::a00:0/104");
    assert_eq!(entry(b().exception("x.onion", ["127.0.0.1"]).and_then(EgressPolicyBuilder::build)), "x.onion");
    assert_eq!(entry(b().exception("localhost", ["10.0.0.0/8"]).and_then(EgressPolicyBuilder::build)), "localhost");
    assert_eq!(entry(b().exception("*.example", ["10.0.0.0/8"]).and_then(EgressPolicyBuilder::build)), "*.example");
    assert_eq!(entry(b().exception::<&str>("x.example", []).and_then(EgressPolicyBuilder::build)), "x.example");
    assert_eq!(entry(b().exception("10.0.0.1", ["10.1.0.0/16"]).and_then(EgressPolicyBuilder::build)), "10.0.0.1");
    assert_eq!(entry(b().allow_host("[64:ff9b::1]").and_then(EgressPolicyBuilder::build)), "[64:ff9b::1]");
    assert!(any("::1").unwrap().build().is_ok() && any("::/0").unwrap().build().is_ok());
}

#[test]
fn swap_fires_the_old_generation_and_keeps_its_permits() {
    let handle = PolicyHandle::new(EgressPolicy::default());
    let old = handle.load();
    let permit = handle.permit(&Target::parse("http://example.com/").unwrap()).unwrap();
    let id = handle.swap(b().deny_host("example.com").unwrap().build().unwrap());
    assert!(id > old.id() && handle.load().id() == id);
    assert_eq!(old.superseded().get(), Some(CloseReason::Policy));
    assert_eq!(handle.load().superseded().get(), None);
    assert_eq!(permit.generation(), old.id());
    assert!(permit.judge(&["8.8.8.8".parse().unwrap()]).is_ok());
    let again = handle.load().recheck(permit.origin(), "8.8.8.8:80".parse().unwrap());
    assert_eq!(again.unwrap_err().reason(), DenialReason::DeniedHost);
}

#[test]
fn a_remembered_origin_is_asked_again_by_each_policy() {
    // One origin, as the parser's memory keeps it, under several policies in turn.
    for url in ["http://example.com/", "http://8.8.8.8/"] {
        let target = Target::parse(url).unwrap();
        let strict = || b().deny_host("example.com").and_then(|b| b.deny_cidrs(["8.0.0.0/8"])).unwrap().build().unwrap();
        let (one, other) = (PolicyHandle::new(EgressPolicy::default()), PolicyHandle::new(strict()));
        for _ in 0..2 {
            assert!(one.permit(&target).is_ok() && one.permit(&target).is_ok());
            assert!(other.permit(&target).is_err() && other.permit(&target).is_err());
        }
        one.swap(strict());
        assert!(one.permit(&target).is_err());
        one.swap(EgressPolicy::default());
        assert!(one.permit(&target).is_ok());
    }
}

#[test]
fn a_permit_takes_only_its_own_answers() {
    let handle = PolicyHandle::new(EgressPolicy::default());
    let permit = handle.permit(&Target::parse("http://[::ffff:8.8.8.8]:81/").unwrap());
    assert_eq!(permit.unwrap_err().reason(), DenialReason::Port);
    let permit = handle.permit(&Target::parse("http://[::ffff:8.8.8.8]/").unwrap()).unwrap();
    assert_eq!(permit.resolution(), Resolution::Literal("8.8.8.8".parse().unwrap()));
    assert_eq!(permit.judge(&["8.8.4.4".parse().unwrap()]).unwrap_err().reason(), DenialReason::Permit);
    assert_eq!(permit.judge(&["::ffff:8.8.8.8".parse().unwrap()]).unwrap().as_slice(), ["8.8.8.8:80".parse().unwrap()]);
    let permit = handle.permit(&Target::parse("http://example.com/").unwrap()).unwrap();
    let approved =
        permit.judge(&["8.8.8.8".parse().unwrap(), "::ffff:8.8.8.8".parse().unwrap(), "1.1.1.1".parse().unwrap()]).unwrap();
    assert_eq!(approved.as_slice(), ["8.8.8.8:80".parse().unwrap(), "1.1.1.1:80".parse().unwrap()]);
}

#[test]
fn one_body_for_every_denial() {
    let bodies: Vec<_> = DenialReason::ALL
        .iter()
        .map(|r| {
            let rejection = Denial::new(*r, "10.0.0.1").into_rejection();
            (rejection.problem_json(), rejection.status(), rejection.into_response::<()>().headers()["proxy-status"].clone())
        })
        .collect();
    assert!(bodies.windows(2).all(|w| w[0] == w[1]));
}
