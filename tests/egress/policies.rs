//! Lists, exceptions and explanations, as an operator writes them.

use std::time::{Duration, Instant};

use portcullis::{
    egress::{EgressPolicy, Step},
    net::Target,
};

use crate::{PUBLIC, block_on, builder, check_url::egress_config::EgressSection, ip, run, sock};

/// The policy of a file's `[egress]` part, or the entry that an error names.
fn load(text: &str) -> Result<EgressPolicy, String> {
    let section: EgressSection = toml::from_str(text).map_err(|e| e.to_string())?;
    let error = |e: portcullis::ConfigError| e.entry().to_owned();
    section.builder().map_err(error)?.build().map_err(error)
}

fn reason(policy: &EgressPolicy, url: &str, answers: &[&str]) -> &'static str {
    let verdict = block_on(run(policy, url, answers));
    assert_eq!(verdict.reason == "ok", !verdict.dialled.is_empty(), "{url}: {verdict:?}");
    verdict.reason
}

const SAMPLE: &str = r#"
allow_hosts = []
deny_hosts = ["*.blocked.example", "blocked.example"]
deny_cidrs = ["10.1.200.0/24"]
ports = [443, "1024-65535"]
denial_floor = "100ms"
[[exception]]
host = "mcp.corp.example"
cidrs = ["10.1.0.0/16"]
[[exception]]
cidrs = ["127.0.0.1/32"]
ports = [3101]
[[exception]]
host = "localhost"
cidrs = ["127.0.0.0/8", "::1/128"]
"#;

#[test]
fn the_sample_file() {
    let p = load(SAMPLE).unwrap();
    for (url, answers, want) in [
        ("https://example.com/", &[PUBLIC][..], "ok"),
        ("http://example.com/", &[PUBLIC], "port"),
        ("https://a.blocked.example/", &[PUBLIC], "denied_host"),
        ("https://mcp.corp.example/", &["10.1.2.3"], "ok"),
        ("https://mcp.corp.example/", &["10.1.200.3"], "denied_address"),
        ("https://mcp.corp.example/", &["10.2.0.1"], "address"),
        ("https://MCP.corp.example./", &["10.1.2.3"], "ok"),
        ("https://x.mcp.corp.example/", &["10.1.2.3"], "address"),
        ("https://10.1.2.3/", &[], "address"),
        ("http://127.0.0.1:3101/mcp", &[], "ok"),
        ("http://127.1:3101/mcp", &[], "ok"),
        ("http://127.0.0.2:3101/mcp", &[], "address"),
        ("http://127.0.0.1:3102/mcp", &[], "address"),
        ("http://rebind.example:3101/", &["127.0.0.1"], "ok"),
        ("http://rebind.example:3102/", &["127.0.0.1"], "address"),
        ("http://localhost:8080/", &["8.8.8.8"], "ok"),
        ("http://foo.localhost:8080/", &["127.0.0.1"], "name"),
    ] {
        assert_eq!(reason(&p, url, answers), want, "{url} {answers:?}");
    }
    let dialled = block_on(run(&p, "http://localhost:8080/", &["8.8.8.8"])).dialled;
    assert_eq!(dialled, [sock("127.0.0.1:8080"), sock("[::1]:8080")]);
}

#[test]
fn rule_12_contradictory_and_senseless_entries_name_themselves() {
    for (text, entry) in [
        ("ports = []", "ports"),
        ("ports = [25]", "25"),
        (r#"ports = ["6667-6667"]"#, "6667-6667"),
        ("ports = [0]", "0"),
        ("ports = [-1]", "-1"),
        ("ports = [65536]", "65536"),
        (r#"ports = ["2000-1000"]"#, "2000-1000"),
        (r#"allow_hosts = ["*"]"#, "*"),
        (r#"allow_hosts = ["https://example.com"]"#, "https://example.com"),
        (r#"allow_hosts = ["example.com:443"]"#, "example.com:443"),
        (r#"allow_hosts = ["ex*mple.com"]"#, "ex*mple.com"),
        (r#"allow_hosts = ["::ffff:8.8.8.8"]"#, "::ffff:8.8.8.8"),
        (r#"allow_hosts = ["64:ff9b::8.8.8.8"]"#, "64:ff9b::8.8.8.8"),
        (r#"allow_hosts = ["2002:808:808::"]"#, "2002:808:808::"),
        (r#"allow_hosts = ["0x8.8.8.8"]"#, "0x8.8.8.8"),
        (r#"allow_hosts = ["10.0.0.0/8"]"#, "10.0.0.0/8"),
        ("allow_hosts = [\"A.example\"]\ndeny_hosts = [\"a.example.\"]", "A.example"),
        ("allow_hosts = [\"a.b.example\"]\ndeny_hosts = [\"*.example\"]", "a.b.example"),
        ("allow_hosts = [\"8.8.8.8\"]\ndeny_cidrs = [\"8.8.0.0/16\"]", "8.8.8.8"),
        (r#"deny_hosts = [""]"#, ""),
        (r#"deny_cidrs = ["10.0.0.1/8"]"#, "10.0.0.1/8"),
        (r#"deny_cidrs = ["10.0.0.0/33"]"#, "10.0.0.0/33"),
        (r#"deny_cidrs = ["::ffff:10.0.0.0/104"]"#, "::ffff:10.0.0.0/104"),
        (r#"deny_cidrs = ["2001:db8::1/32"]"#, "2001:db8::1/32"),
        (r#"nat64_prefixes = ["64:ff9b::/95"]"#, "64:ff9b::/95"),
        ("[[exception]]\ncidrs = []", "exception"),
        ("[[exception]]\nhost = \"a.example\"\ncidrs = []", "a.example"),
        ("[[exception]]\nhost = \"*.example\"\ncidrs = [\"10.0.0.0/8\"]", "*.example"),
        ("[[exception]]\nhost = \"x.onion\"\ncidrs = [\"10.0.0.0/8\"]", "x.onion"),
        ("[[exception]]\nhost = \"localhost\"\ncidrs = [\"10.0.0.0/8\"]", "localhost"),
        ("[[exception]]\ncidrs = [\"64:ff9b::/96\"]", "64:ff9b::/96"),
        ("[[exception]]\ncidrs = [\"64:ff9b::10.0.0.0/104\"]", "64:ff9b::10.0.0.0/104"),
        ("[[exception]]\ncidrs = [\"2002:a00::/24\"]", "2002:a00::/24"),
        ("[[exception]]\ncidrs = [\"10.0.0.0/8\"]\nports = [22]", "22"),
        ("deny_hosts = [\"a.example\"]\n[[exception]]\nhost = \"a.example\"\ncidrs = [\"10.0.0.0/8\"]", "a.example"),
        ("deny_cidrs = [\"10.0.0.0/8\"]\n[[exception]]\ncidrs = [\"10.1.0.0/16\"]", "10.1.0.0/16"),
    ] {
        match load(text) {
            Err(named) if entry == "64:ff9b::10.0.0.0/104" => assert_eq!(named, "64:ff9b::a00:0/104"),
            Err(named) => assert_eq!(named, entry, "{text}"),
            Ok(_) => panic!("accepted: {text}"),
        }
    }
    for unknown in
        ["allow_host = []", "[[exception]]\ncidr = []", "[[exception]]\nhost = \"a.example\"", "ports = [4.5]", "https_only = 1"]
    {
        assert!(load(unknown).is_err(), "{unknown}");
    }
    assert!(load("").is_ok() && load("ports = [\"1-65535\"]").is_ok());
}

#[test]
fn rule_5_no_broad_network_lifts_the_hard_floor() {
    let broad = load("[[exception]]\ncidrs = [\"0.0.0.0/0\", \"::/0\", \"169.254.0.0/16\", \"fd00:ec2::/32\"]").unwrap();
    for host in [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.169.253",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "169.254.0.23",
        "169.254.42.42",
        "169.254.169.250",
        "0.0.0.0",
        "0",
        "[::]",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd00:ec2::253]",
        "[fd00:42::42]",
        "[fe80::a9fe:a9fe]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[::ffff:0.0.0.0]",
    ] {
        assert_eq!(reason(&broad, &format!("http://{host}/"), &[]), "address", "{host}");
    }
    assert_eq!(reason(&broad, "http://metadata.example/", &["169.254.169.254"]), "address");
    assert_eq!(reason(&broad, "http://169.254.1.1/", &[]), "ok");
    let named = load("[[exception]]\ncidrs = [\"169.254.169.254/32\", \"fd00:ec2::254/128\"]").unwrap();
    for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"] {
        assert_eq!(reason(&named, &format!("http://{host}/"), &[]), "ok", "{host}");
    }
    assert_eq!(reason(&named, "http://169.254.169.253/", &[]), "address");
}

#[test]
fn rule_12_families_are_not_compared() {
    let p = load("deny_cidrs = [\"::/0\"]").unwrap();
    assert_eq!(reason(&p, "http://8.8.8.8/", &[]), "ok");
    assert_eq!(reason(&p, "http://[::ffff:8.8.8.8]/", &[]), "ok");
    assert_eq!(reason(&p, "http://[2606::1]/", &[]), "denied_address");
    let p = load("[[exception]]\ncidrs = [\"0.0.0.0/0\"]").unwrap();
    assert_eq!(reason(&p, "http://[fd00::1]/", &[]), "address");
    assert_eq!(reason(&p, "http://[2002:a00:1::]/", &[]), "address");
    assert_eq!(reason(&p, "http://[::ffff:10.0.0.1]/", &[]), "ok");
}

#[test]
fn rule_6_mixed_answers_refuse_and_order_is_kept() {
    let p = EgressPolicy::default();
    assert_eq!(reason(&p, "http://a.example/", &["8.8.8.8", "1.1.1.1", "10.0.0.1"]), "address");
    assert_eq!(reason(&p, "http://a.example/", &["10.0.0.1", "8.8.8.8"]), "address");
    assert_eq!(reason(&p, "http://a.example/", &["8.8.8.8", "fd00::1"]), "address");
    let dialled = block_on(run(
        &p,
        "http://a.example/",
        &["9.9.9.9", "2606::1", "8.8.8.8", "9.9.9.9", "::ffff:8.8.8.8", "1.1.1.1", "7.7.7.7"],
    ))
    .dialled;
    assert_eq!(dialled, [sock("9.9.9.9:80"), sock("[2606::1]:80"), sock("8.8.8.8:80"), sock("1.1.1.1:80")]);
    let dropping = load("[dangerous]\ndrop_bad_answers = true").unwrap();
    let verdict = block_on(run(&dropping, "http://a.example/", &["10.0.0.1", "8.8.8.8", "::1"]));
    assert_eq!(verdict.dialled, [sock("8.8.8.8:80")]);
    assert_eq!(reason(&dropping, "http://a.example/", &["10.0.0.1"]), "address");
}

#[test]
fn rule_13_the_keyword_rule_is_an_option() {
    let p = load("keyword_rule = true").unwrap();
    assert_eq!(reason(&p, "http://localnews.com/", &[PUBLIC]), "keyword");
    assert_eq!(reason(&EgressPolicy::default(), "http://localnews.com/", &[PUBLIC]), "ok");
}

#[test]
fn rule_15_own_listeners() {
    let b = builder().exception("me.example", ["127.0.0.0/8", "::1"]).unwrap();
    let p = b.refuse_listeners([sock("[::]:8000"), sock("127.0.0.1:9000")]).build().unwrap();
    assert_eq!(reason(&p, "http://me.example:8000/", &["127.0.0.1"]), "listener");
    assert_eq!(reason(&p, "http://me.example:8000/", &["::1"]), "listener");
    assert_eq!(reason(&p, "http://me.example:9000/", &["::ffff:127.0.0.1"]), "listener");
    assert_eq!(reason(&p, "http://me.example:9001/", &["127.0.0.1"]), "ok");
}

#[test]
fn a_hundred_thousand_entries_cost_no_more_than_one() {
    let hosts: Vec<String> =
        (0..100_000).map(|i| if i % 2 == 0 { format!("h{i}.example") } else { format!("*.w{i}.a.example") }).collect();
    let nets: Vec<String> =
        (0..100_000_u32).map(|i| format!("{}/32", std::net::Ipv4Addr::from_bits(0x0b00_0000 + i * 2))).collect();
    let mut b = builder().deny_hosts(&hosts).unwrap().deny_cidrs(&nets).unwrap();
    for i in 0..1000 {
        b = b.exception(&format!("e{i}.example"), ["10.0.0.0/8"]).unwrap();
    }
    let p = b.build().unwrap();
    assert_eq!(reason(&p, "http://h99998.example/", &[PUBLIC]), "denied_host");
    assert_eq!(reason(&p, "http://x.y.w99999.a.example/", &[PUBLIC]), "denied_host");
    assert_eq!(reason(&p, "http://w99999.a.example/", &[PUBLIC]), "ok");
    assert_eq!(reason(&p, "http://ok.example/", &["11.0.0.2"]), "denied_address");
    assert_eq!(reason(&p, "http://ok.example/", &["11.0.0.1"]), "ok");
    assert_eq!(reason(&p, "http://e999.example/", &["10.0.0.1"]), "ok");
    // A scan would take 10,000 times longer than this allows on a slow machine.
    let deep = format!("http://{}w99999.a.example/", "a.".repeat(110));
    let started = Instant::now();
    for _ in 0..1000 {
        assert_eq!(p.explain(&deep).reason(), Some("denied_host"));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn an_explanation_tells_every_rule_and_the_one_that_decided() {
    let p = load(SAMPLE).unwrap();
    let e = p.explain("http://2130706433/");
    assert_eq!((e.reason(), e.deciding().map(Step::rule)), (Some("address"), Some("address")));
    assert!(e.to_string().contains("127.0.0.1 is loopback"), "{e}");
    let e = p.explain("https://mcp.corp.example/");
    assert!(e.is_allowed() && e.needs_dns() && e.addresses().is_empty());
    let e = p.explain_with_answers("https://mcp.corp.example/", &[ip("10.1.2.3")]);
    assert_eq!(e.addresses(), [sock("10.1.2.3:443")]);
    let rules: Vec<_> = e.steps().iter().map(Step::rule).collect();
    assert_eq!(rules, ["parse", "scheme", "deny_hosts", "name", "port", "exception"]);
    let e = p.explain("http://user@x/");
    assert_eq!((e.reason(), e.target().is_none()), (Some("invalid"), true));
    assert_eq!(p.explain("http://localhost:8080/").addresses().len(), 2);
    assert_eq!(Target::parse("http://2130706433/").unwrap().to_string(), "http://127.0.0.1/");
}
