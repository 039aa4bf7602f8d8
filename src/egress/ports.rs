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

/// Ports as inclusive ranges.
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
        let ranges = entries.into_iter().map(|e| range(e.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() {
            return Err(ConfigError::new("ports", "lists no port; leave it out for the default"));
        }
        Ok(Self(ranges))
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|&(first, last)| first <= port && port <= last)
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
        assert!(BAD_PORTS.is_sorted());
        assert_eq!(PortSet::default().to_string(), "80, 443, 1024-65535");
    }
}
