//! Name rules: names that are never public, by whole labels.

use crate::net::Name;

/// What refuses a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameRule {
    /// One label: a search list or a hosts file would answer.
    SingleLabel,
    /// The name lies under this suffix, or is it.
    Suffix(&'static str),
}

/// Suffixes of one label. RFC 6761, 6762, 7686, 9476, the ICANN resolution on `.internal`, and names that private networks use.
const TOP: &[&str] = &[
    "alt",
    "corp",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "svc",
    "test",
];

/// Longer suffixes: RFC 8375, 9462, 6763bis, 8880, and metadata services with public-looking names.
const LONGER: &[&str] = &[
    "home.arpa",
    "resolver.arpa",
    "service.arpa",
    "ipv4only.arpa",
    "metadata.goog",
    "metadata.platformequinix.com",
    "metadata.packet.net",
    "metadata.tencentyun.com",
];

/// The rule that refuses a name, if one does.
pub(super) fn rule_for(name: &Name) -> Option<NameRule> {
    let text = name.as_str();
    let Some((_, top)) = text.rsplit_once('.') else {
        return TOP.iter().find(|t| **t == text).map(|t| NameRule::Suffix(t)).or(Some(NameRule::SingleLabel));
    };
    if let Ok(at) = TOP.binary_search(&top) {
        return TOP.get(at).map(|t| NameRule::Suffix(t));
    }
    // Almost every name ends here: the long suffixes share four top labels.
    if !matches!(top, "arpa" | "goog" | "com" | "net") {
        return None;
    }
    LONGER.iter().find(|suffix| name.is_or_below(suffix)).map(|s| NameRule::Suffix(s))
}

/// `localhost` and everything below it (RFC 6761 §6.3).
pub(super) fn is_localhost(name: &Name) -> bool {
    name.is_or_below("localhost")
}

/// Onion services are never reached through DNS (RFC 7686).
pub(super) fn is_onion(name: &Name) -> bool {
    name.is_or_below("onion")
}

/// The coarse rule: words that hint at an inside, anywhere in the name. It also refuses `localnews.com`.
pub(super) fn keyword_in(name: &Name) -> Option<&'static str> {
    ["internal", "intranet", "local", "private", "corp"].into_iter().find(|word| name.as_str().contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> bool {
        rule_for(&Name::parse_ascii(name).unwrap()).is_some()
    }

    #[test]
    fn whole_labels_only() {
        assert!(TOP.is_sorted());
        for name in [
            "localhost",
            "a.localhost",
            "LOCALHOST.",
            "printer.local",
            "db.internal",
            "x.intranet",
            "nas.lan",
            "router.home.arpa",
            "home.arpa",
            "ad.corp",
            "nas.home",
            "x.private",
            "x.test",
            "x.invalid",
            "x.onion",
            "x.alt",
            "kubernetes.default.svc",
            "api.default.svc.cluster.local",
            "intranet",
            "metadata.google.internal",
            "metadata.goog",
            "metadata.platformequinix.com",
            "metadata.packet.net",
            "metadata.tencentyun.com",
            "host.docker.internal",
            "com",
            "localhost.localdomain",
            "_dns.resolver.arpa",
            "x.service.arpa",
            "ipv4only.arpa",
            "instance-data.ec2.internal",
            "x.metadata.goog",
        ] {
            assert!(refused(name), "{name}");
        }
        for name in [
            "example.com",
            "foo.example",
            "localnews.com",
            "globallocalmarket.com",
            "lan.example.com",
            "metadata.example.com",
            "_dmarc.example.com",
            "foo_bar.example.com",
            "xn--bcher-kva.example",
            "internal.example.com",
            "mylocal.net",
            "corp.com",
            "local.com",
            "home.com",
            "test.com",
            "private.dev",
            "a.b.photography",
            "xmetadata.goog",
            "notmetadata.packet.net",
            "packet.net",
            "tencentyun.com",
            "google.com",
            "homearpa.arpa.com",
            "svc.com",
            "1.1.in-addr.arpa",
            "localhost.com",
            "127.0.0.1.nip.io",
            "x.homes",
            "x.tests",
            "alt.org",
        ] {
            assert!(!refused(name), "{name}");
        }
    }
}
