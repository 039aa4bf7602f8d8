//! A list of networks.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{ConfigError, net::unwrap_mapped};

/// A list of networks, IPv4-mapped IPv6 addresses counting as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Reads CIDR notation; an address alone is a network of one.
    ///
    /// # Errors
    /// If an entry is neither.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let one = |text: &str| {
            let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            net.ok_or_else(|| ConfigError::new(text, "not a network in CIDR notation"))
        };
        entries.into_iter().map(|entry| one(entry.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the address is in one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = unwrap_mapped(ip);
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
