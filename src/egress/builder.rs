//! Building a policy: every entry is parsed where it is given, contradictions are found at the end.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};

use super::{
    exceptions::{Exception, Exceptions},
    names,
    nat64::Nat64Prefixes,
    patterns::{HostPatterns, Pattern},
    policy::{EgressPolicy, LOCALHOST},
    ports::PortSet,
};
use crate::{
    ConfigError,
    net::{CidrSet, Host, classify, nat64_inner, parse_cidr, unwrap_mapped},
};

/// Collects the entries of an [`EgressPolicy`].
#[derive(Clone, Debug, Default)]
pub struct EgressPolicyBuilder {
    policy: EgressPolicy,
    allow: Vec<(Box<str>, Pattern)>,
    deny_nets: Vec<IpNet>,
    exceptions: Vec<Exception>,
}

impl EgressPolicyBuilder {
    /// `https`, `wss` and `CONNECT` only.
    #[must_use]
    pub fn https_only(mut self, on: bool) -> Self {
        self.policy.https_only = on;
        self
    }

    /// The ports that may be reached: numbers, or ranges such as `1024-65535`. Default: 80, 443 and 1024-65535. The Fetch
    /// standard's bad ports stay closed inside a range.
    ///
    /// # Errors
    /// An entry that is neither, an empty list, or a bad port on its own.
    pub fn ports<S: AsRef<str>>(mut self, ports: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        self.policy.ports = PortSet::parse(ports)?;
        Ok(self)
    }

    /// Adds to the allow-list: an exact name, `*.example.com` (any depth below, not the name itself) or an address. Once there
    /// is an entry, nothing else may be reached. An address here does not make a private address reachable: see [`Exception`].
    ///
    /// # Errors
    /// An entry that is none of these, or an address inside a translation prefix.
    pub fn allow_host(mut self, pattern: &str) -> Result<Self, ConfigError> {
        let parsed = Pattern::parse(pattern)?;
        if let Pattern::Ip(ip) = parsed
            && (unwrap_mapped(ip) != ip || is_translated(ip))
        {
            return Err(ConfigError::new(pattern, "lies inside a translation prefix; allow the IPv4 address instead"));
        }
        self.policy.allow.insert(&parsed);
        self.allow.push((pattern.into(), parsed));
        Ok(self)
    }

    /// [`Self::allow_host`] for each.
    ///
    /// # Errors
    /// As there.
    pub fn allow_hosts<S: AsRef<str>>(self, patterns: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        patterns.into_iter().try_fold(self, |b, p| b.allow_host(p.as_ref()))
    }

    /// Denies a host, whatever else allows it: an exact name, `*.example.com` or an address (which is then denied as an answer
    /// too).
    ///
    /// # Errors
    /// An entry that is none of these.
    pub fn deny_host(mut self, pattern: &str) -> Result<Self, ConfigError> {
        let parsed = Pattern::parse(pattern)?;
        if let Pattern::Ip(ip) = parsed {
            self.deny_nets.push(IpNet::from(unwrap_mapped(ip)));
        }
        self.policy.deny.insert(&parsed);
        Ok(self)
    }

    /// [`Self::deny_host`] for each.
    ///
    /// # Errors
    /// As there.
    pub fn deny_hosts<S: AsRef<str>>(self, patterns: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        patterns.into_iter().try_fold(self, |b, p| b.deny_host(p.as_ref()))
    }

    /// Denies networks, whatever else allows them. An IPv4 network also denies the NAT64 addresses that lead into it.
    ///
    /// # Errors
    /// An entry that is not a network.
    pub fn deny_cidrs<S: AsRef<str>>(mut self, cidrs: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        for cidr in cidrs {
            self.deny_nets.push(parse_cidr(cidr.as_ref())?);
        }
        Ok(self)
    }

    /// `host` may lead into `cidrs` on the policy's ports: short for [`Self::with_exception`] and [`Exception::host`].
    ///
    /// # Errors
    /// As [`Exception::host`].
    pub fn exception<S: AsRef<str>>(self, host: &str, cidrs: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        Ok(self.with_exception(Exception::host(host, cidrs)?))
    }

    /// Adds an exception.
    #[must_use]
    pub fn with_exception(mut self, exception: Exception) -> Self {
        self.exceptions.push(exception);
        self
    }

    /// A NAT64 prefix of the network this server runs in, beside `64:ff9b::/96` (RFC 6052): addresses below it are judged by
    /// the IPv4 address inside.
    ///
    /// # Errors
    /// Text that is not a prefix of one of RFC 6052's lengths, or overlaps a range that has another meaning.
    pub fn nat64_prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        self.policy.nat64.insert(prefix)?;
        Ok(self)
    }

    /// The server's own listening addresses: never dialled, whatever exception there is. A wildcard address stands for every
    /// loopback address; the machine's other addresses have to be listed to be known.
    #[must_use]
    pub fn refuse_listeners(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        for addr in addrs {
            self.policy.listeners.push((addr.port(), unwrap_mapped(addr.ip())));
        }
        self
    }

    /// Also refuses names that contain a word such as `internal` or `local` anywhere. Off by default: it refuses public names
    /// such as `localnews.com`.
    #[must_use]
    pub fn keyword_rule(mut self, on: bool) -> Self {
        self.policy.keyword_rule = on;
        self
    }

    /// The switches that loosen the guard stand behind this word.
    #[must_use]
    pub fn dangerous(self) -> Dangerous {
        Dangerous(self)
    }

    /// Looks for contradictions and makes the policy.
    ///
    /// # Errors
    /// The entry that contradicts another, or can never have an effect.
    pub fn build(self) -> Result<EgressPolicy, ConfigError> {
        let Self { mut policy, allow, deny_nets, exceptions } = self;
        policy.deny_nets = deny_nets.into_iter().collect();
        for (entry, pattern) in &allow {
            if denies(&policy.deny, &policy.deny_nets, pattern) {
                return Err(ConfigError::new(entry.as_ref(), "is allowed and denied; deny wins, so the entry has no effect"));
            }
        }
        for exception in &exceptions {
            check_exception(exception, &policy.deny, &policy.deny_nets, &policy.nat64)?;
        }
        policy.exceptions = Exceptions::build(&exceptions);
        Ok(policy)
    }
}

fn denies(deny: &HostPatterns, deny_nets: &CidrSet, pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Ip(ip) => deny_nets.contains(*ip),
        name => deny.covers(name),
    }
}

fn check_exception(e: &Exception, deny: &HostPatterns, deny_nets: &CidrSet, nat64: &Nat64Prefixes) -> Result<(), ConfigError> {
    let err = |why: &str| Err(ConfigError::new(e.entry.as_ref(), why));
    match &e.host {
        Some(Host::Name(name)) => {
            if names::is_onion(name) {
                return err("is an exception for an onion service, which is never reached through DNS");
            }
            if deny.has_name(name) {
                return err("is an exception for a denied host; deny wins, so it has no effect");
            }
            let within = |ip: &IpAddr| e.nets.iter().any(|net| net.contains(ip));
            if names::is_localhost(name) && !LOCALHOST.iter().any(within) {
                return err("is answered by 127.0.0.1 and ::1, and the exception's networks hold neither");
            }
        }
        Some(Host::Ip(ip)) => {
            if unwrap_mapped(*ip) != *ip || is_translated(*ip) {
                return err("lies inside a translation prefix; name the IPv4 address instead");
            }
            if !e.nets.iter().any(|net| net.contains(ip)) {
                return err("is an address, and the exception's networks do not hold it");
            }
        }
        None => {}
    }
    for net in &e.nets {
        let entry = net.to_string();
        if deny_nets.contains_net(net) {
            return Err(ConfigError::new(entry, "is an exception inside a denied network; deny wins, so it has no effect"));
        }
        let IpNet::V6(v6) = net else { continue };
        if translation_prefixes().any(|p| p.contains(v6)) && !is_single(v6) || nat64.contain(v6) {
            return Err(ConfigError::new(entry, "lies inside a translation prefix; write the IPv4 network instead"));
        }
    }
    Ok(())
}

/// The ranges that stand for IPv4 addresses.
fn translation_prefixes() -> impl Iterator<Item = Ipv6Net> {
    [
        (Ipv6Addr::UNSPECIFIED, 96),
        (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
        (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
        (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    ]
    .into_iter()
    .filter_map(|(ip, len)| Ipv6Net::new(ip, len).ok())
}

/// `::1` and `::`, which lie in `::/96` and carry nothing.
fn is_single(net: &Ipv6Net) -> bool {
    net.prefix_len() == 128 && (net.addr().is_loopback() || net.addr().is_unspecified())
}

/// Whether an address lies in a range whose addresses stand for IPv4 ones.
fn is_translated(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => nat64_inner(v6).is_some() || classify(ip).is_transition(),
    }
}

/// Switches that make the guard weaker than its defaults. Each returns to the builder.
#[derive(Clone, Debug)]
pub struct Dangerous(EgressPolicyBuilder);

impl Dangerous {
    /// Where some answers of a name are good and some are not, uses the good ones instead of refusing the name. A name that
    /// resolves to both is usually an attack, or a mistake that leaks an internal address.
    #[must_use]
    pub fn drop_bad_answers(mut self) -> EgressPolicyBuilder {
        self.0.policy.drop_bad_answers = true;
        self.0
    }

    /// Asks DNS for special-use and single-label names too. Their answers are still judged. `.localhost` and `.onion` stay as
    /// they are.
    #[must_use]
    pub fn without_name_rules(mut self) -> EgressPolicyBuilder {
        self.0.policy.name_rules = false;
        self.0
    }
}
