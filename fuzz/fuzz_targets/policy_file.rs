//! The `[egress]` part of the server's file: it never panics, and whatever it says, the hard floor and the bad ports stand
//! unless the exact address is in the text.
#![no_main]

#[path = "../../examples/shared/egress_config.rs"]
mod egress_config;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(section) = toml::from_str::<egress_config::EgressSection>(text) else { return };
    let _ = section.denial_floor();
    let Ok(policy) = section.builder().and_then(portcullis::egress::EgressPolicyBuilder::build) else { return };
    for (url, exact) in [
        ("http://169.254.169.254:8080/", "169.254.169.254"),
        ("http://168.63.129.16:8080/", "168.63.129.16"),
        ("http://[fd00:ec2::254]:8080/", "fd00"),
        ("http://0:8080/", "0.0.0.0"),
    ] {
        assert!(text.contains(exact) || !policy.explain(url).is_allowed(), "{url}");
    }
    for url in ["http://8.8.8.8:25/", "http://example.com:6667/", "http://[2002:7f00:1::]/", "http://x.onion/"] {
        assert!(!policy.explain(url).is_allowed(), "{url}");
    }
});
