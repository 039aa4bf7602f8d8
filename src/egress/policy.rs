//! The decision itself: one path for permits, answers and explanations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    builder::EgressPolicyBuilder,
    denial::{Denial, DenialReason as Reason},
    exceptions::Exceptions,
    explain::Explanation,
    names::{self, NameRule},
    nat64::{Inner, Nat64Prefixes},
    patterns::HostPatterns,
    permit::ApprovedAddrs,
    ports::{PortSet, is_bad_port},
};
use crate::net::{AddressClass, CidrSet, Host, Name, Origin, classify, unwrap_mapped};

/// Which targets and addresses may be reached. Immutable; see [`super::PolicyHandle`] for exchanging it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own that the operator sets")]
pub struct EgressPolicy {
    pub(super) https_only: bool,
    pub(super) ports: PortSet,
    pub(super) allow: HostPatterns,
    pub(super) deny: HostPatterns,
    pub(super) deny_nets: CidrSet,
    pub(super) exceptions: Exceptions,
    pub(super) nat64: Nat64Prefixes,
    /// A handful: looked through, not hashed.
    pub(super) listeners: Vec<(u16, IpAddr)>,
    pub(super) keyword_rule: bool,
    pub(super) name_rules: bool,
    pub(super) drop_bad_answers: bool,
}

/// The secure defaults: public addresses, public names, default ports.
impl Default for EgressPolicy {
    fn default() -> Self {
        Self {
            https_only: false,
            ports: PortSet::default(),
            allow: HostPatterns::default(),
            deny: HostPatterns::default(),
            deny_nets: CidrSet::default(),
            exceptions: Exceptions::default(),
            nat64: Nat64Prefixes::default(),
            listeners: Vec::new(),
            keyword_rule: false,
            name_rules: true,
            drop_bad_answers: false,
        }
    }
}

/// How the addresses of a permitted target are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution<'a> {
    /// The target is an address.
    Literal(IpAddr),
    /// A `.localhost` name: these two, and never DNS (RFC 6761 §6.3).
    Localhost,
    /// Ask DNS for this name, as an absolute one.
    Dns(&'a Name),
}

/// The answers for `.localhost` names.
pub const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Hears which rules are asked. The silent one costs nothing.
pub(super) trait Trace {
    fn passed(&mut self, rule: &'static str, why: impl FnOnce() -> String);
    fn refused(&mut self, rule: &'static str, denial: &Denial);
}

impl Trace for () {
    fn passed(&mut self, _: &'static str, _: impl FnOnce() -> String) {}
    fn refused(&mut self, _: &'static str, _: &Denial) {}
}

fn refuse<T>(trace: &mut impl Trace, rule: &'static str, reason: Reason, detail: String) -> Result<T, Denial> {
    let denial = Denial::new(reason, detail);
    trace.refused(rule, &denial);
    Err(denial)
}

impl EgressPolicy {
    /// Starts from the defaults.
    #[must_use]
    pub fn builder() -> EgressPolicyBuilder {
        EgressPolicyBuilder::default()
    }

    /// Runs a URL through the policy and tells every rule that was asked, without asking DNS.
    #[must_use]
    pub fn explain(&self, url: &str) -> Explanation {
        Explanation::of(self, url, None)
    }

    /// The same with the answers that a look-up of the name has given; none means that the name does not exist.
    #[must_use]
    pub fn explain_with_answers(&self, url: &str, answers: &[IpAddr]) -> Explanation {
        Explanation::of(self, url, Some(answers))
    }

    /// What the address rules alone say about an address: its class, if denied networks, exceptions without a name (on whatever
    /// port) and the class leave it open.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn judge_ip(&self, ip: IpAddr) -> Result<AddressClass, Denial> {
        let ip = unwrap_mapped(ip);
        let (judged, class) = self.see_through(ip);
        if self.is_denied(ip, judged) {
            return Err(Denial::new(Reason::DeniedAddress, format!("{ip} lies in a denied network")));
        }
        if class.is_global() || (!class.is_transition() && self.exceptions.cover_somewhere(judged, class.is_hard_floor())) {
            return Ok(class);
        }
        Err(Denial::new(Reason::Address, format!("{ip} is {class}")))
    }

    /// Whether the address, or the one inside it, lies in a denied network.
    fn is_denied(&self, ip: IpAddr, inside: IpAddr) -> bool {
        !self.deny_nets.is_empty() && (self.deny_nets.contains(ip) || self.deny_nets.contains(inside))
    }

    /// The address that a translation prefix leads to, or the address itself, and its class.
    fn see_through(&self, ip: IpAddr) -> (IpAddr, AddressClass) {
        match self.nat64.inner(ip) {
            Inner::None => (ip, classify(ip)),
            Inner::V4(inner) => (IpAddr::V4(inner), classify(IpAddr::V4(inner))),
            Inner::Malformed => (ip, AddressClass::Nat64),
        }
    }

    /// How the addresses of a host are found.
    pub(super) fn resolution(host: &Host) -> Resolution<'_> {
        match host {
            Host::Ip(ip) => Resolution::Literal(unwrap_mapped(*ip)),
            Host::Name(name) if names::is_localhost(name) => Resolution::Localhost,
            Host::Name(name) => Resolution::Dns(name),
        }
    }

    /// Everything that can be said before DNS is asked.
    pub(super) fn check_origin(&self, origin: &Origin, trace: &mut impl Trace) -> Result<(), Denial> {
        let (host, port) = (origin.host(), origin.port());
        if self.https_only && matches!(origin.scheme().as_str(), "http" | "ws") {
            return refuse(trace, "scheme", Reason::Scheme, format!("{} is not TLS and https_only is set", origin.scheme()));
        }
        trace.passed("scheme", || origin.scheme().to_string());
        if is_bad_port(port) {
            return refuse(trace, "port", Reason::Port, format!("{port} is a bad port of the Fetch standard"));
        }
        match host {
            Host::Ip(ip) => self.check_literal(host, *ip, port, trace),
            Host::Name(name) => self.check_name(host, name, port, trace),
        }
    }

    fn check_literal(&self, host: &Host, ip: IpAddr, port: u16, trace: &mut impl Trace) -> Result<(), Denial> {
        if self.is_list_mode() {
            if self.allow.has_ip(ip) {
                trace.passed("allow_hosts", || format!("{ip} is listed"));
            } else if self.exceptions.names(host, port, &self.ports) {
                trace.passed("allow_hosts", || format!("an exception names {ip}"));
            } else {
                return refuse(trace, "allow_hosts", Reason::NotListed, format!("{ip} is not listed"));
            }
        }
        self.check_address(host, port, ip, trace).map(drop)
    }

    fn check_name(&self, host: &Host, name: &Name, port: u16, trace: &mut impl Trace) -> Result<(), Denial> {
        if names::is_onion(name) {
            return refuse(trace, "name", Reason::Name, format!("{name} is an onion service, which DNS does not know"));
        }
        if self.deny.has_name(name) {
            return refuse(trace, "deny_hosts", Reason::DeniedHost, format!("{name} is a denied host"));
        }
        trace.passed("deny_hosts", || format!("{name} is not denied"));
        let named = self.exceptions.names(host, port, &self.ports);
        if self.is_list_mode() {
            if self.allow.has_name(name) {
                trace.passed("allow_hosts", || format!("{name} is listed"));
            } else if named {
                trace.passed("allow_hosts", || format!("an exception names {name}"));
            } else {
                return refuse(trace, "allow_hosts", Reason::NotListed, format!("{name} is not listed"));
            }
        }
        if named {
            trace.passed("name", || format!("an exception names {name}"));
        } else {
            self.check_name_rules(name, trace)?;
        }
        if !self.ports.contains(port) && !self.exceptions.may_open(host, port, &self.ports) {
            return refuse(trace, "port", Reason::Port, format!("{port} is not open; open are {}", self.ports));
        }
        trace.passed("port", || format!("{port} may be open"));
        Ok(())
    }

    fn check_name_rules(&self, name: &Name, trace: &mut impl Trace) -> Result<(), Denial> {
        // A `.localhost` name is never asked of DNS, so that without an exception nothing could answer for it.
        if self.name_rules || names::is_localhost(name) {
            match names::rule_for(name) {
                None => {}
                Some(NameRule::SingleLabel) => {
                    return refuse(trace, "name", Reason::Name, format!("{name} is a single label"));
                }
                Some(NameRule::Suffix(suffix)) => {
                    return refuse(trace, "name", Reason::Name, format!("{name} lies under {suffix}, which is not public"));
                }
            }
        }
        trace.passed("name", || format!("{name} is an ordinary name"));
        if self.keyword_rule {
            if let Some(word) = names::keyword_in(name) {
                return refuse(trace, "keyword", Reason::Keyword, format!("{name} contains `{word}`"));
            }
            trace.passed("keyword", || format!("{name} contains no keyword"));
        }
        Ok(())
    }

    fn is_list_mode(&self) -> bool {
        !self.allow.is_empty()
    }

    /// The one judge of addresses, for literals and answers alike. Returns the address that is dialled.
    pub(super) fn check_address(&self, host: &Host, port: u16, ip: IpAddr, trace: &mut impl Trace) -> Result<IpAddr, Denial> {
        let ip = unwrap_mapped(ip);
        let (judged, class) = self.see_through(ip);
        if self.is_listener(ip, port) || (judged != ip && self.is_listener(judged, port)) {
            return refuse(trace, "listener", Reason::Listener, format!("{ip} port {port} is this server's own"));
        }
        if self.is_denied(ip, judged) {
            return refuse(trace, "deny_cidrs", Reason::DeniedAddress, format!("{ip} lies in a denied network"));
        }
        // Whatever such an address carries, no exception was written for it.
        let liftable = !class.is_transition();
        if liftable && self.exceptions.cover(host, port, &self.ports, judged, class.is_hard_floor()) {
            trace.passed("exception", || format!("{ip} ({class}) is covered on port {port}"));
            return Ok(ip);
        }
        if !class.is_global() {
            let inside = if judged == ip { String::new() } else { format!(" with {judged} inside") };
            return refuse(trace, "address", Reason::Address, format!("{ip}{inside} is {class}"));
        }
        trace.passed("address", || format!("{ip} is {class}"));
        if !self.ports.contains(port) {
            return refuse(trace, "port", Reason::Port, format!("{port} is not open for {ip}; open are {}", self.ports));
        }
        Ok(ip)
    }

    fn is_listener(&self, ip: IpAddr, port: u16) -> bool {
        // A wildcard listener is there on every address of the machine; of those the loopback ones are known.
        let is = |own: &IpAddr| *own == ip || (own.is_unspecified() && (ip.is_loopback() || ip.is_unspecified()));
        self.listeners.iter().any(|(own_port, own)| *own_port == port && is(own))
    }

    /// Judges all answers for a target.
    pub(super) fn judge(&self, origin: &Origin, answers: &[IpAddr], trace: &mut impl Trace) -> Result<ApprovedAddrs, Denial> {
        let (host, port) = (origin.host(), origin.port());
        let resolution = Self::resolution(host);
        if let Some(stranger) = answers.iter().find(|ip| match resolution {
            Resolution::Literal(own) => unwrap_mapped(**ip) != own,
            Resolution::Localhost => !LOCALHOST.contains(ip),
            Resolution::Dns(_) => false,
        }) {
            return refuse(trace, "answers", Reason::Permit, format!("{stranger} does not belong to {host}"));
        }
        if answers.is_empty() {
            return refuse(trace, "answers", Reason::NoSuchName, format!("{host} has no address"));
        }
        // Of the two loopback addresses those count that the policy allows; they are ours, not somebody's answer.
        let drop_bad = self.drop_bad_answers || resolution == Resolution::Localhost;
        let mut approved = Vec::with_capacity(answers.len());
        let mut refused = None;
        for ip in answers {
            match self.check_address(host, port, *ip, trace) {
                Ok(ip) => {
                    let addr = SocketAddr::new(ip, port);
                    if !approved.contains(&addr) {
                        approved.push(addr);
                    }
                }
                Err(denial) if drop_bad => refused = refused.or(Some(denial)),
                Err(denial) => return Err(denial),
            }
        }
        match refused {
            Some(denial) if approved.is_empty() => Err(denial),
            _ => Ok(ApprovedAddrs::new(approved)),
        }
    }
}
