//! A pattern and a URL: a denied host is denied however the URL spells it, and a wildcard is never its own apex.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::{egress::EgressPolicy, net::Target};

fuzz_target!(|data: (&str, &str)| {
    let (pattern, url) = data;
    let Ok(builder) = EgressPolicy::builder().deny_host(pattern) else { return };
    let Ok(policy) = builder.build() else { return };
    let Ok(target) = Target::parse(url) else { return };
    let host = target.host().to_string();
    let refused = !policy.explain(url).is_allowed();
    // The same text as a pattern of its own has to match the host that it names.
    if let Ok(own) = EgressPolicy::builder().deny_host(&host).and_then(|b| b.build()) {
        assert!(!own.explain(url).is_allowed(), "{host}");
    }
    if let Some(suffix) = pattern.strip_prefix("*.") {
        let open = EgressPolicy::default().explain(url).is_allowed();
        if host == suffix && open {
            assert!(!refused, "{pattern} refused its apex");
        }
        if host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')) {
            assert!(refused, "{pattern} let {host} through");
        }
    }
});
