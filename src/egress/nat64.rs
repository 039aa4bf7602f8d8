//! Translation prefixes: the well-known one and those that an operator names (RFC 6052 §2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::{
    ConfigError,
    net::{nat64_inner, parse_cidr},
};

/// What a translation prefix makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inner {
    /// No translation prefix: the address stands for itself.
    None,
    /// The IPv4 address that it leads to.
    V4(Ipv4Addr),
    /// It lies under a translation prefix but is not an address that RFC 6052 can make.
    Malformed,
}

/// NAT64 prefixes beside `64:ff9b::/96`.
#[derive(Clone, Debug, Default)]
pub(super) struct Nat64Prefixes(Vec<Ipv6Net>);

/// Where no NAT64 prefix can lie, because these addresses already mean something else.
const TAKEN: &[(Ipv6Addr, u8)] = &[
    (Ipv6Addr::UNSPECIFIED, 64), // loopback, mapped, compatible, SIIT
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

impl Nat64Prefixes {
    pub(super) fn insert(&mut self, text: &str) -> Result<(), ConfigError> {
        let IpNet::V6(net) = parse_cidr(text)? else {
            return Err(ConfigError::new(text, "is not an IPv6 prefix"));
        };
        if !matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(ConfigError::new(text, "is not a NAT64 prefix: RFC 6052 knows the lengths 32, 40, 48, 56, 64 and 96"));
        }
        let overlaps = |other: &Ipv6Net| other.contains(&net) || net.contains(other);
        if TAKEN.iter().any(|(ip, len)| Ipv6Net::new(*ip, *len).is_ok_and(|taken| overlaps(&taken))) {
            return Err(ConfigError::new(text, "overlaps a range that is no NAT64 prefix or is one already"));
        }
        if self.0.iter().any(overlaps) {
            return Err(ConfigError::new(text, "overlaps another NAT64 prefix"));
        }
        // Octet 8 (bits 64 to 71) has to be zero in every translated address.
        if net.prefix_len() == 96 && net.network().octets()[8] != 0 {
            return Err(ConfigError::new(text, "has bits 64 to 71 set, which RFC 6052 reserves as zero"));
        }
        self.0.push(net);
        Ok(())
    }

    pub(super) fn inner(&self, ip: IpAddr) -> Inner {
        let IpAddr::V6(ip) = ip else { return Inner::None };
        if let Some(v4) = nat64_inner(ip) {
            return Inner::V4(v4);
        }
        match self.0.iter().find(|net| net.contains(&ip)) {
            Some(net) => decode(ip, net.prefix_len()),
            None => Inner::None,
        }
    }

    /// Whether the network lies inside one of the prefixes.
    pub(super) fn contain(&self, net: &Ipv6Net) -> bool {
        self.0.iter().any(|prefix| prefix.contains(net))
    }
}

fn decode(ip: Ipv6Addr, len: u8) -> Inner {
    let o = ip.octets();
    let (v4, reserved) = match len {
        32 => ([o[4], o[5], o[6], o[7]], o[8]),
        40 => ([o[5], o[6], o[7], o[9]], o[8]),
        48 => ([o[6], o[7], o[9], o[10]], o[8]),
        56 => ([o[7], o[9], o[10], o[11]], o[8]),
        64 => ([o[9], o[10], o[11], o[12]], o[8]),
        _ => ([o[12], o[13], o[14], o[15]], o[8]),
    };
    if reserved == 0 { Inner::V4(v4.into()) } else { Inner::Malformed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_6052() {
        for (prefix, ip) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let mut set = Nat64Prefixes::default();
            set.insert(prefix).unwrap();
            assert_eq!(set.inner(ip.parse().unwrap()), Inner::V4(Ipv4Addr::new(192, 0, 2, 33)), "{prefix}");
            assert_eq!(set.inner("2001:db9::1".parse().unwrap()), Inner::None);
        }
        let mut set = Nat64Prefixes::default();
        set.insert("2001:db8:122:344::/64").unwrap();
        assert_eq!(set.inner("2001:db8:122:344:1c0:2:2100::".parse().unwrap()), Inner::Malformed);
        assert_eq!(set.inner("64:ff9b::1.2.3.4".parse().unwrap()), Inner::V4(Ipv4Addr::new(1, 2, 3, 4)));
    }

    #[test]
    fn senseless_prefixes() {
        for bad in [
            "10.0.0.0/8",
            "2001:db8::/33",
            "64:ff9b::/96",
            "2002::/32",
            "::/96",
            "2001::/32",
            "fe80::/64",
            "2001:db8::1/96",
            "2001:db8:0:0:ff00::/96",
        ] {
            assert_eq!(Nat64Prefixes::default().insert(bad).unwrap_err().entry(), bad);
        }
        Nat64Prefixes::default().insert("64:ff9b:1::/48").unwrap();
        Nat64Prefixes::default().insert("fd00:64::/96").unwrap();
    }
}
