//! Exceptions: "this name may resolve into this network, on these ports".

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{patterns, ports::PortSet};
use crate::{
    ConfigError,
    net::{CidrSet, Host, parse_cidr},
};

/// One exception from the address rules, as the operator states it.
#[derive(Clone, Debug)]
pub struct Exception {
    pub(super) host: Option<Host>,
    /// As written, for errors.
    pub(super) entry: Box<str>,
    pub(super) nets: Vec<IpNet>,
    ports: Option<PortSet>,
}

impl Exception {
    /// The host of exactly this name (or this literal) may lead into these networks; the name rule is lifted for it, and in
    /// allow-list mode it counts as listed.
    ///
    /// # Errors
    /// A host that is not one or has a wildcard; no network at all; a network that is not one.
    pub fn host<S: AsRef<str>>(host: &str, cidrs: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let parsed = patterns::parse_host(host, host)?;
        Self::new(Some(parsed), host, cidrs)
    }

    /// Any host may lead into these networks, and so may literals. Lifts neither the name rule nor the allow-list.
    ///
    /// # Errors
    /// No network at all, or one that is not.
    pub fn any_host<S: AsRef<str>>(cidrs: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        Self::new(None, "exception", cidrs)
    }

    fn new<S: AsRef<str>>(host: Option<Host>, entry: &str, cidrs: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let nets = cidrs.into_iter().map(|c| parse_cidr(c.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if nets.is_empty() {
            return Err(ConfigError::new(entry, "is an exception without a network"));
        }
        Ok(Self { host, entry: entry.into(), nets, ports: None })
    }

    /// On these ports and no others: numbers, or ranges such as `1024-65535`. Without this call, on the policy's ports.
    ///
    /// # Errors
    /// An entry that is neither, or a port that the Fetch standard blocks.
    pub fn ports<S: AsRef<str>>(mut self, ports: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        self.ports = Some(PortSet::parse(ports)?);
        Ok(self)
    }
}

/// The networks of one or several exceptions that have the same ports.
#[derive(Clone, Debug)]
struct Opening {
    ports: Option<PortSet>,
    nets: CidrSet,
    /// Sorted single addresses: the hard floor is lifted by these alone.
    exact: Vec<IpAddr>,
}

impl Opening {
    fn is_open(&self, port: u16, policy: &PortSet) -> bool {
        self.ports.as_ref().unwrap_or(policy).contains(port)
    }

    fn covers(&self, ip: IpAddr, hard_floor: bool) -> bool {
        if hard_floor { self.exact.binary_search(&ip).is_ok() } else { self.nets.contains(ip) }
    }
}

/// The networks of one host's exceptions on the same ports.
type Group<'a> = (Option<&'a PortSet>, Vec<IpNet>);

/// Every exception of a policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Exceptions {
    any_host: Vec<Opening>,
    by_host: HashMap<Host, Vec<Opening>>,
}

impl Exceptions {
    pub(super) fn build(list: &[Exception]) -> Self {
        let mut grouped: HashMap<Option<&Host>, Vec<Group<'_>>> = HashMap::new();
        for e in list {
            let group = grouped.entry(e.host.as_ref()).or_default();
            match group.iter_mut().find(|(ports, _)| *ports == e.ports.as_ref()) {
                Some((_, nets)) => nets.extend_from_slice(&e.nets),
                None => group.push((e.ports.as_ref(), e.nets.clone())),
            }
        }
        let mut all = Self::default();
        for (host, group) in grouped {
            let openings = group.into_iter().map(|(ports, nets)| {
                let mut exact: Vec<_> = nets.iter().filter(|n| n.prefix_len() == n.max_prefix_len()).map(IpNet::addr).collect();
                exact.sort_unstable();
                Opening { ports: ports.cloned(), nets: nets.into_iter().collect(), exact }
            });
            match host {
                Some(host) => all.by_host.entry(host.clone()).or_default().extend(openings),
                None => all.any_host.extend(openings),
            }
        }
        all
    }

    /// Whether there is an exception for exactly this host on this port.
    pub(super) fn names(&self, host: &Host, port: u16, policy: &PortSet) -> bool {
        !self.by_host.is_empty() && self.by_host.get(host).is_some_and(|list| list.iter().any(|o| o.is_open(port, policy)))
    }

    /// Whether an answer for this host could be covered on this port.
    pub(super) fn may_open(&self, host: &Host, port: u16, policy: &PortSet) -> bool {
        self.any_host.iter().any(|o| o.is_open(port, policy)) || self.names(host, port, policy)
    }

    /// Whether the address is covered for any host, on some port.
    pub(super) fn cover_somewhere(&self, ip: IpAddr, hard_floor: bool) -> bool {
        self.any_host.iter().any(|o| o.covers(ip, hard_floor))
    }

    /// Whether the address is covered.
    pub(super) fn cover(&self, host: &Host, port: u16, policy: &PortSet, ip: IpAddr, hard_floor: bool) -> bool {
        let hit = |o: &Opening| o.covers(ip, hard_floor) && o.is_open(port, policy);
        self.any_host.iter().any(hit) || (!self.by_host.is_empty() && self.by_host.get(host).is_some_and(|l| l.iter().any(hit)))
    }
}
