//! Properties: what holds for every target and every answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis::{
    egress::{EgressPolicy, PolicyHandle},
    net::{Host, Target, classify, nat64_inner, unwrap_mapped},
    target::TargetParser,
};
use proptest::prelude::*;

use crate::{block_on, run};

fn any_ip() -> impl Strategy<Value = IpAddr> {
    let near_edges = prop::sample::select(vec![
        "127.0.0.1",
        "10.0.0.0",
        "169.254.169.254",
        "168.63.129.16",
        "192.168.0.0",
        "8.8.8.8",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::",
        "fd00::1",
        "2606:4700::1111",
    ]);
    prop_oneof![
        any::<u32>().prop_map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))),
        any::<u128>().prop_map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))),
        any::<u128>().prop_map(|n| IpAddr::V6(Ipv6Addr::from_bits(n >> 3 | 1 << 125))),
        any::<u32>().prop_map(|n| IpAddr::V6(Ipv4Addr::from_bits(n).to_ipv6_mapped())),
        any::<u32>().prop_map(|n| IpAddr::V6(Ipv6Addr::from_bits(0x64_ff9b_u128 << 96 | u128::from(n)))),
        near_edges.prop_map(crate::ip),
    ]
}

/// Text that looks like a URL more often than chance would have it.
fn url_like() -> impl Strategy<Value = String> {
    let scheme = prop::sample::select(vec![
        "http://",
        "https://",
        "ws://",
        "wss://",
        "http:/",
        "HTTP://",
        "http:",
        "ftp://",
        "http:\\\\",
        "",
    ]);
    let host = prop_oneof![
        "[a-z0-9._-]{0,20}",
        "[0-9a-fx.]{1,16}",
        "\\[[0-9a-f:.]{1,24}\\]",
        "\\PC{0,12}",
        "(%[0-9a-f]{2}|[a-z.]){1,8}",
        prop::sample::select(vec![
            "localhost",
            "127.1",
            "example.com",
            "a.internal",
            "[::ffff:7f00:1]",
            "EXAMPLE.com.",
            "１２７.1"
        ])
        .prop_map(str::to_owned),
        any_ip().prop_map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }),
    ];
    let port = prop_oneof![Just(String::new()), "(:[0-9]{0,6})?", Just(":8080".to_owned())];
    let rest = prop_oneof![Just(String::new()), "/\\PC{0,20}", "[/?#\\\\@]\\PC{0,20}"];
    (scheme, host, port, rest).prop_map(|(a, b, c, d)| format!("{a}{b}{c}{d}"))
}

/// What may be dialled under the default policy, said once more in other words.
fn is_public(ip: IpAddr) -> bool {
    let plain = match unwrap_mapped(ip) {
        IpAddr::V6(v6) => nat64_inner(v6).map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    };
    classify(plain).is_global() && !plain.is_loopback() && !plain.is_unspecified() && !plain.is_multicast()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_dial_ever_goes_to_a_forbidden_address(url in url_like(), answers in prop::collection::vec(any_ip(), 0..5)) {
        let texts: Vec<String> = answers.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let verdict = block_on(run(&EgressPolicy::default(), &url, &texts));
        prop_assert!(verdict.dialled.iter().all(|a| is_public(a.ip())), "{url} {answers:?} {verdict:?}");
        prop_assert_eq!(verdict.reason == "ok", !verdict.dialled.is_empty());
        if answers.iter().any(|ip| !is_public(*ip)) && let Ok(target) = Target::parse(&url) {
            prop_assert!(target.host().ip().is_some() || verdict.dialled.is_empty(), "mixed answers were dialled");
        }
    }

    #[test]
    fn a_target_displays_as_text_that_parses_to_it(url in url_like()) {
        if let Ok(target) = Target::parse(&url) {
            let text = target.to_string();
            let again = Target::parse(&text);
            prop_assert_eq!(again.as_ref(), Ok(&target), "{}", text);
            prop_assert_eq!(again.unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_parser_with_a_memory_agrees_with_the_one_without(url in url_like()) {
        let parser = TargetParser::new();
        let first = parser.parse(&url);
        prop_assert_eq!(&first, &Target::parse(&url));
        prop_assert_eq!(&first, &parser.parse(&url));
    }

    #[test]
    fn an_accepted_name_is_lower_case_ascii_and_no_address(url in url_like()) {
        if let Ok(target) = Target::parse(&url) && let Host::Name(name) = target.host() {
            let text = name.as_str();
            prop_assert!(text.is_ascii() && !text.bytes().any(|b| b.is_ascii_uppercase()) && !text.ends_with('.'));
            prop_assert!(text.parse::<IpAddr>().is_err());
            let last = text.rsplit('.').next().unwrap_or("");
            prop_assert!(!last.bytes().all(|b| b.is_ascii_digit()), "{}", text);
        }
    }

    #[test]
    fn judging_is_the_same_for_a_literal_and_for_an_answer(ip in any_ip()) {
        let handle = PolicyHandle::new(EgressPolicy::default());
        let literal = if ip.is_ipv6() { format!("http://[{ip}]/") } else { format!("http://{ip}/") };
        let as_literal = handle.permit(&Target::parse(&literal).unwrap()).is_ok();
        let as_answer = handle.permit(&Target::parse("http://a.example/").unwrap()).unwrap().judge(&[ip]).is_ok();
        prop_assert_eq!(as_literal, as_answer);
        prop_assert_eq!(as_literal, handle.load().policy().judge_ip(ip).is_ok());
        prop_assert_eq!(as_literal, is_public(ip));
    }
}
