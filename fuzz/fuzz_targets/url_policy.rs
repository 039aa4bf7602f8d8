//! A URL and answers, both the fuzzer's: no approved address is one that the default policy forbids, what is accepted displays
//! as text that parses to it, and the parser with a memory agrees with the one without.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use portcullis::{
    egress::{EgressPolicy, PolicyHandle, Resolution},
    net::{Target, classify},
    target::TargetParser,
};

/// The first byte counts the answers; each is a family byte and 4 or 16 bytes. The rest is the URL.
fn split(data: &[u8]) -> Option<(Vec<IpAddr>, &str)> {
    let (count, mut rest) = data.split_first()?;
    let mut answers = Vec::new();
    for _ in 0..count % 4 {
        let (family, tail) = rest.split_first()?;
        if family % 2 == 0 {
            let (ip, tail) = tail.split_first_chunk::<4>()?;
            answers.push(IpAddr::V4(Ipv4Addr::from(*ip)));
            rest = tail;
        } else {
            let (ip, tail) = tail.split_first_chunk::<16>()?;
            answers.push(IpAddr::V6(Ipv6Addr::from(*ip)));
            rest = tail;
        }
    }
    Some((answers, std::str::from_utf8(rest).ok()?))
}

fuzz_target!(|data: &[u8]| {
    let Some((answers, url)) = split(data) else { return };
    let parsed = Target::parse(url);
    assert_eq!(parsed, TargetParser::new().parse(url));
    let _ = Target::parse_connect(url);
    let Ok(target) = parsed else { return };
    assert_eq!(Target::parse(&target.to_string()).as_ref(), Ok(&target));
    let handle = PolicyHandle::new(EgressPolicy::default());
    let Ok(permit) = handle.permit(&target) else { return };
    let answers = match permit.resolution() {
        Resolution::Literal(ip) => vec![ip],
        _ => answers,
    };
    if let Ok(approved) = permit.judge(&answers) {
        assert!(!approved.as_slice().is_empty());
        for addr in approved.as_slice() {
            assert!(classify(addr.ip()).is_global(), "{url} {addr}");
            assert_eq!(addr.port(), target.port());
        }
        assert!(answers.iter().all(|ip| classify(*ip).is_global()), "a bad answer was dropped silently");
    }
    // The readable form runs the same rules and must agree.
    assert_eq!(permit.judge(&answers).is_ok(), permit.policy_generation().policy().explain_with_answers(url, &answers).is_allowed());
});
