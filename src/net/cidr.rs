//! Sets of networks.

use std::{fmt, net::IpAddr, str::FromStr as _};

use ipnet::IpNet;

use super::class::unwrap_mapped;
use crate::ConfigError;

/// A set of networks: merged ranges, looked up by binary search, so that 100,000 entries cost little more than one.
///
/// The families are never compared with each other, but an IPv4-mapped IPv6 address counts as the IPv4 address inside.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// One network as an operator writes it: `10.0.0.0/8`, or a bare address for that address alone.
///
/// # Errors
/// Text that is no network, bits set behind the prefix, or an IPv4-mapped network (which could never match, because mapped
/// addresses are unwrapped first).
pub fn parse_cidr(text: &str) -> Result<IpNet, ConfigError> {
    let bad = || ConfigError::new(text, "is not a network such as 10.0.0.0/8 or 2001:db8::/32, nor an address");
    // `ipnet` would read `010.0.0.0`; std refuses the octal spelling.
    let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
    let ip = IpAddr::from_str(ip).map_err(|_| bad())?;
    let net = match len {
        None => IpNet::from(ip),
        Some(len) if len.len() <= 3 && len.bytes().all(|b| b.is_ascii_digit()) => {
            len.parse().ok().and_then(|len| IpNet::new(ip, len).ok()).ok_or_else(bad)?
        }
        Some(_) => return Err(bad()),
    };
    if net.addr() != net.network() {
        return Err(ConfigError::new(text, format!("has bits set behind the prefix; did you mean {}?", net.trunc())));
    }
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && v6.network().to_ipv4_mapped().is_some()
    {
        return Err(ConfigError::new(text, "is IPv4-mapped; write the IPv4 network instead"));
    }
    Ok(net)
}

impl CidrSet {
    /// Parses networks; a bare address stands for itself alone.
    ///
    /// # Errors
    /// The first entry that is not a network as [`parse_cidr`] wants it.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        entries.into_iter().map(|e| parse_cidr(e.as_ref())).collect()
    }

    /// Whether the set holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether the address lies in one of the networks.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match unwrap_mapped(ip) {
            IpAddr::V4(ip) => covers(&self.v4, ip.to_bits(), ip.to_bits()),
            IpAddr::V6(ip) => covers(&self.v6, ip.to_bits(), ip.to_bits()),
        }
    }

    /// Whether the whole network lies in the set.
    #[must_use]
    pub fn contains_net(&self, net: &IpNet) -> bool {
        match net {
            IpNet::V4(net) => covers(&self.v4, net.network().to_bits(), net.broadcast().to_bits()),
            IpNet::V6(net) => covers(&self.v6, net.network().to_bits(), net.broadcast().to_bits()),
        }
    }

    /// Whether an address of the network lies in the set.
    #[must_use]
    pub fn overlaps(&self, net: &IpNet) -> bool {
        match net {
            IpNet::V4(net) => touches(&self.v4, net.network().to_bits(), net.broadcast().to_bits()),
            IpNet::V6(net) => touches(&self.v6, net.network().to_bits(), net.broadcast().to_bits()),
        }
    }
}

fn covers<T: Copy + Ord>(ranges: &[(T, T)], first: T, last: T) -> bool {
    let at = ranges.partition_point(|r| r.0 <= first);
    at.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|r| last <= r.1)
}

fn touches<T: Copy + Ord>(ranges: &[(T, T)], first: T, last: T) -> bool {
    let at = ranges.partition_point(|r| r.1 < first);
    ranges.get(at).is_some_and(|r| r.0 <= last)
}

/// Sorts ranges and joins those that overlap or touch. `follows(a, b)`: `b` begins at or before the address behind `a`.
fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>, follows: impl Fn(T, T) -> bool) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joined = follows(kept.1, next.0);
        if joined {
            kept.1 = kept.1.max(next.1);
        }
        joined
    });
}

impl FromIterator<IpNet> for CidrSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut set = Self::default();
        set.extend(nets);
        set
    }
}

impl Extend<IpNet> for CidrSet {
    fn extend<I: IntoIterator<Item = IpNet>>(&mut self, nets: I) {
        for net in nets {
            match net {
                IpNet::V4(net) => self.v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => self.v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        merge(&mut self.v4, |end, start| end.checked_add(1).is_none_or(|next| start <= next));
        merge(&mut self.v6, |end, start| end.checked_add(1).is_none_or(|next| start <= next));
    }
}

impl fmt::Debug for CidrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.v4.iter().map(|r| (IpAddr::V4(r.0.into()), IpAddr::V4(r.1.into())));
        let v6 = self.v6.iter().map(|r| (IpAddr::V6(r.0.into()), IpAddr::V6(r.1.into())));
        f.debug_list().entries(v4.chain(v6).map(|(first, last)| format!("{first}-{last}"))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_merged_and_families_kept_apart() {
        let set = CidrSet::parse(["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "192.0.2.1", "2001:db8::/32", "::/0"]).unwrap();
        assert_eq!(set.v4.len(), 2);
        assert!(set.contains(ip("10.255.255.255")) && set.contains(ip("::ffff:10.0.0.1")) && set.contains(ip("192.0.2.1")));
        assert!(!set.contains(ip("11.0.0.0")) && !set.contains(ip("9.255.255.255")) && !set.contains(ip("::ffff:192.0.2.2")));
        assert!(set.contains(ip("fe80::1")));
        assert!(set.contains_net(&"10.0.0.0/8".parse().unwrap()) && !set.contains_net(&"8.0.0.0/5".parse().unwrap()));
        assert!(set.overlaps(&"8.0.0.0/5".parse().unwrap()) && !set.overlaps(&"12.0.0.0/8".parse().unwrap()));
        let all = CidrSet::parse(["0.0.0.0/0", "255.255.255.255"]).unwrap();
        assert!(all.contains(ip("255.255.255.255")) && all.contains(ip("0.0.0.0")) && !all.contains(ip("::1")));
        assert!(!CidrSet::default().contains(ip("::1")) && CidrSet::default().is_empty());
    }

    #[test]
    fn senseless_entries_are_named() {
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "x",
            "",
            "::ffff:10.0.0.0/104",
            "::ffff:1.2.3.4",
            "10.0.0/8",
            "fe80::1%eth0",
            " 10.0.0.0/8",
            "10.0.0.0/",
            "010.0.0.0/8",
        ] {
            let error = CidrSet::parse([bad]).unwrap_err();
            assert_eq!(error.entry(), bad);
        }
        assert!(CidrSet::parse(["10.0.0.1/8"]).unwrap_err().to_string().contains("10.0.0.0/8"));
    }
}
