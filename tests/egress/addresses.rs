//! Addresses, in every spelling and every transition form.

use std::net::{IpAddr, Ipv4Addr};

use portcullis::{egress::EgressPolicy, net::classify};

use crate::{block_on, ip, run};

/// First and last address of every refused IPv4 range, metadata addresses, and some inside.
const BAD4: &[&str] = &[
    "0.0.0.0",
    "0.0.0.1",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "100.100.100.200",
    "127.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0",
    "169.254.255.255",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.169.253",
    "169.254.169.250",
    "169.254.0.23",
    "169.254.42.42",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.0.10",
    "192.0.0.170",
    "192.0.0.192",
    "192.0.0.255",
    "192.0.2.0",
    "192.0.2.255",
    "192.31.196.0",
    "192.31.196.255",
    "192.52.193.0",
    "192.52.193.255",
    "192.88.99.0",
    "192.88.99.255",
    "192.168.0.0",
    "192.168.255.255",
    "192.175.48.0",
    "192.175.48.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.0",
    "198.51.100.255",
    "203.0.113.0",
    "203.0.113.255",
    "224.0.0.0",
    "224.0.0.251",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.254",
    "255.255.255.255",
];

/// Their neighbours, which are ordinary.
const GOOD4: &[&str] = &[
    "1.0.0.0",
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.31.195.255",
    "192.31.197.0",
    "192.52.192.255",
    "192.52.194.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "192.175.47.255",
    "192.175.49.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
];

const BAD6: &[&str] = &[
    "::",
    "::1",
    "::2",
    "::ffff:ffff",
    "::1:0:0",
    "0:ffff::",
    "64:ff9a::1",
    "64:ff9b:0:0:0:1::",
    "64:ff9b:1::",
    "64:ff9b:1:ffff::",
    "64:ff9b:1::8.8.8.8",
    "64:ff9b:2::",
    "64:ff9c::1",
    "100::",
    "100::ffff:ffff:ffff:ffff",
    "100:0:0:1::",
    "100:0:0:2::1",
    "200::1",
    "400::1",
    "1000::1",
    "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001::",
    "2001:0:ffff::1",
    "2001:1::",
    "2001:1::1",
    "2001:1::2",
    "2001:1::3",
    "2001:2::",
    "2001:2:0:ffff::1",
    "2001:2:1::",
    "2001:3::",
    "2001:4:112::1",
    "2001:5::1",
    "2001:10::1",
    "2001:1f::1",
    "2001:20::1",
    "2001:2f::1",
    "2001:30::1",
    "2001:3f::1",
    "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db8::",
    "2001:db8:ffff:ffff::1",
    "2002::1",
    "2002:808:808::1",
    "2002:ffff:ffff:ffff::",
    "2620:4f:8000::",
    "2620:4f:8000:ffff::1",
    "3fff::",
    "3fff:fff:ffff:ffff::1",
    "4000::1",
    "5f00::",
    "5f00:ffff::1",
    "6000::1",
    "8000::1",
    "a000::1",
    "c000::1",
    "e000::1",
    "f000::1",
    "fbff::1",
    "fc00::",
    "fd00::1",
    "fd00:ec2::254",
    "fd00:ec2::253",
    "fd00:ec2::23",
    "fd00:42::42",
    "fd20:ce::254",
    "fdff:ffff::1",
    "fe00::1",
    "fe80::",
    "fe80::a9fe:a9fe",
    "febf:ffff::1",
    "fec0::1",
    "feff:ffff::1",
    "ff00::",
    "ff02::1",
    "ff0e::1",
    "ffff:ffff::1",
];

const GOOD6: &[&str] = &[
    "2000::",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2400:cb00::1",
    "2606:4700:4700::1111",
    "2620:4f:7fff:ffff::1",
    "2620:4f:8001::1",
    "2620:fe::fe",
    "2a00:1450:4001:80b::200e",
    "2c0f:fb50::1",
    "3ffe:ffff::1",
    "3fff:1000::1",
];

#[test]
fn cve_2025_8020_and_the_whole_table_by_class() {
    for text in BAD4.iter().chain(BAD6) {
        assert!(!classify(ip(text)).is_global(), "{text}");
        assert!(EgressPolicy::default().judge_ip(ip(text)).is_err(), "{text}");
    }
    for text in GOOD4.iter().chain(GOOD6) {
        assert!(classify(ip(text)).is_global(), "{text}");
        assert!(EgressPolicy::default().judge_ip(ip(text)).is_ok(), "{text}");
    }
}

/// Spellings that all mean the IPv4 address, where they are one at all.
fn spellings(ip: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = ip.octets();
    let n = ip.to_bits();
    let low16 = n & 0xffff;
    let low24 = n & 0xff_ffff;
    let wide = |text: &str| text.chars().map(|ch| char::from_u32(u32::from(ch) + 0xfee0).unwrap()).collect::<String>();
    vec![
        format!("{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.{d}."),
        format!("{n}"),
        format!("0x{n:x}"),
        format!("0X{n:08X}"),
        format!("0{n:o}"),
        format!("{a}.{b}.{low16}"),
        format!("{a}.{low24}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0x{a:x}.{b}.0{c:o}.{d}"),
        format!("0000{a:o}.{b}.{c}.{d}"),
        format!("{a}%2e{b}%2E{c}.{d}"),
        format!("{a}。{b}．{c}｡{d}"),
        wide(&format!("{a}.{b}.{c}.{d}")),
        format!("[::ffff:{a}.{b}.{c}.{d}]"),
        format!("[::ffff:{:x}:{:x}]", n >> 16, low16),
        format!("[0:0:0:0:0:FFFF:{:04X}:{:04X}]", n >> 16, low16),
        format!("[64:ff9b::{a}.{b}.{c}.{d}]"),
        format!("[0064:ff9b:0:0:0:0:{:x}:{:x}]", n >> 16, low16),
    ]
}

/// Forms that are refused whatever IPv4 address is inside.
fn refused_forms(ip: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = ip.octets();
    let (hi, lo) = (ip.to_bits() >> 16, ip.to_bits() & 0xffff);
    vec![
        format!("[::{a}.{b}.{c}.{d}]"),
        format!("[::ffff:0:{a}.{b}.{c}.{d}]"),
        format!("[2002:{hi:x}:{lo:x}::]"),
        format!("[2002:{hi:x}:{lo:x}::1]"),
        format!("[2001:0:{hi:x}:{lo:x}::1]"),
        format!("[2001:0:53aa:64c:0:ffff:{:x}:{:x}]", hi ^ 0xffff, lo ^ 0xffff),
        format!("[64:ff9b:1::{a}.{b}.{c}.{d}]"),
    ]
}

#[test]
fn cve_2024_29415_every_spelling_of_a_forbidden_address_is_refused() {
    let policy = EgressPolicy::default();
    for text in BAD4 {
        let IpAddr::V4(v4) = ip(text) else { unreachable!() };
        for host in spellings(v4).into_iter().chain(refused_forms(v4)) {
            for url in [format!("http://{host}/"), format!("https://{host}:8443/x")] {
                let verdict = block_on(run(&policy, &url, &[crate::PUBLIC]));
                assert!(verdict.reason == "address", "{url}: {verdict:?}");
                assert!(verdict.dialled.is_empty(), "{url}");
            }
        }
    }
    for text in BAD6 {
        let verdict = block_on(run(&policy, &format!("http://[{text}]/"), &[crate::PUBLIC]));
        assert!(verdict.reason == "address" && verdict.dialled.is_empty(), "{text}: {verdict:?}");
    }
}

#[test]
fn every_spelling_of_a_public_address_is_dialled_as_that_address() {
    let policy = EgressPolicy::default();
    for text in GOOD4 {
        let IpAddr::V4(v4) = ip(text) else { unreachable!() };
        for host in spellings(v4) {
            let verdict = block_on(run(&policy, &format!("http://{host}/"), &["10.0.0.1"]));
            assert_eq!(verdict.reason, "ok", "{host}");
            assert_eq!(verdict.dialled.len(), 1, "{host}");
            let dialled = verdict.dialled[0].ip();
            let nat64 = format!("64:ff9b::{text}");
            assert!(
                dialled == ip(text) || (host.starts_with("[64") || host.starts_with("[0064")) && dialled == ip(&nat64),
                "{host}"
            );
        }
    }
    for text in GOOD6 {
        let verdict = block_on(run(&policy, &format!("http://[{text}]:8080/"), &[]));
        assert!(verdict.reason == "ok" && verdict.dialled[0].ip() == ip(text), "{text}: {verdict:?}");
    }
}

#[test]
fn cve_2026_44589_transition_forms_with_a_public_inside_are_refused_too() {
    let policy = EgressPolicy::default();
    for text in GOOD4 {
        let IpAddr::V4(v4) = ip(text) else { unreachable!() };
        for host in refused_forms(v4) {
            let verdict = block_on(run(&policy, &format!("http://{host}/"), &[]));
            assert!(verdict.reason == "address" && verdict.dialled.is_empty(), "{host}: {verdict:?}");
        }
    }
}

#[test]
fn the_same_judge_serves_answers() {
    let policy = EgressPolicy::default();
    for text in BAD4.iter().chain(BAD6) {
        let mapped = if text.contains(':') { (*text).to_owned() } else { format!("::ffff:{text}") };
        for answer in [*text, &mapped] {
            let alone = block_on(run(&policy, "http://name.example/", &[answer]));
            let mixed = block_on(run(&policy, "http://name.example/", &[crate::PUBLIC, answer]));
            for verdict in [alone, mixed] {
                assert!(verdict.reason == "address" && verdict.dialled.is_empty(), "{answer}: {verdict:?}");
            }
        }
    }
    for text in GOOD4.iter().chain(GOOD6) {
        let verdict = block_on(run(&policy, "http://name.example/", &[text]));
        assert!(verdict.reason == "ok" && verdict.dialled[0].ip() == ip(text), "{text}");
    }
}
