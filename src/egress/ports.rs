//! Sets of ports.

use crate::ConfigError;

/// The "bad ports" of the WHATWG Fetch standard (§2.9): other protocols that would take a forged HTTP request for a command.
/// Sorted.
pub const BAD_PORTS: &[u16] = &[
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111, 113,
    115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556,
    563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

/// Whether the port is one that no configuration opens.
#[must_use]
pub(crate) fn is_bad_port(port: u16) -> bool {
    port == 0 || BAD_PORTS.binary_search(&port).is_ok()
}

/// Ports as inclusive ranges, sorted, with a port that is not in the set between any two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortSet(Vec<(u16, u16)>);

/// 80, 443 and everything from 1024 on: what servers that are meant to be reached listen on, without the system ports where
/// mail, name and file services live.
impl Default for PortSet {
    fn default() -> Self {
        Self(vec![(80, 80), (443, 443), (1024, u16::MAX)])
    }
}

impl PortSet {
    pub(super) fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let mut ranges = entries.into_iter().map(|e| range(e.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() {
            return Err(ConfigError::new("ports", "lists no port; leave it out for the default"));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Ok(Self(merged))
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= port);
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| port <= *last)
    }
}

impl std::fmt::Display for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

fn range(entry: &str) -> Result<(u16, u16), ConfigError> {
    let number = |text: &str| {
        (text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<u16>().ok().filter(|p| *p != 0))
            .flatten()
            .ok_or_else(|| ConfigError::new(entry, "is not a port (1 to 65535) or a range such as 1024-65535"))
    };
    let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(ConfigError::new(entry, "is a range that ends before it begins"));
    }
    if (first..=last).all(is_bad_port) {
        return Err(ConfigError::new(entry, "is a port that the Fetch standard blocks; no policy opens it"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let set = PortSet::parse(["443", "1-1023"]).unwrap();
        assert!(set.contains(443) && set.contains(1023) && !set.contains(1024));
        for bad in ["0", "25", "6667", "65536", "x", "", "-", "5-", "9-1", "25-25", "+80", " 80", "0-10", "6665-6669", "101-104"]
        {
            assert_eq!(PortSet::parse([bad]).unwrap_err().entry(), bad);
        }
        assert!(PortSet::parse::<&str>([]).is_err());
        let set = PortSet::parse(["8080", "90-100", "443", "95-120", "121", "442", "65535", "1-80", "70"]).unwrap();
        assert_eq!(set.to_string(), "1-80, 90-121, 442-443, 8080, 65535");
        for (port, open) in [(1, true), (80, true), (81, false), (89, false), (90, true), (121, true), (122, false), (443, true)]
        {
            assert_eq!(set.contains(port), open, "{port}");
        }
        assert!(!set.contains(0) && set.contains(65535) && !set.contains(65534));
        assert!(BAD_PORTS.is_sorted());
        assert_eq!(PortSet::default().to_string(), "80, 443, 1024-65535");
    }
}
