//! Host names and address literals.

use std::{fmt, net::IpAddr};

use super::target::TargetError;

/// A host: a name, or an address literal in whatever spelling it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name.
    Name(Name),
    /// An address literal, as written (an IPv4-mapped IPv6 literal stays one; the judge unwraps it).
    Ip(IpAddr),
}

impl Host {
    /// Parses a host as a URL's authority would be: IDNA, letter case and the root dot are normalised, every spelling of an
    /// address becomes the address. IPv6 may stand with or without brackets.
    ///
    /// # Errors
    /// [`TargetError::HostTooLong`] and [`TargetError::Host`].
    pub fn parse(raw: &str) -> Result<Self, TargetError> {
        if raw.len() > super::target::MAX_HOST_LEN {
            return Err(TargetError::HostTooLong);
        }
        if let Ok(ip) = raw.parse() {
            return Ok(Self::Ip(ip));
        }
        match url::Host::parse(raw) {
            Ok(url::Host::Ipv4(ip)) => Ok(Self::Ip(IpAddr::V4(ip))),
            Ok(url::Host::Ipv6(ip)) => Ok(Self::Ip(IpAddr::V6(ip))),
            Ok(url::Host::Domain(name)) => Name::parse_ascii(&name).map(Self::Name),
            Err(_) => Err(TargetError::Host),
        }
    }

    /// The name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }

    /// The address, if it is a literal.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Ip(ip) => Some(*ip),
        }
    }
}

/// As in a URL: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// A DNS name in lower-case ASCII (A-labels), without the root dot, of 1 to 253 octets and labels of 1 to 63.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// Takes a name that is already ASCII (the output of IDNA) and normalises case and root dot.
    ///
    /// # Errors
    /// [`TargetError::HostTooLong`] for empty or over-long labels or names, [`TargetError::Host`] for other bytes than a URL
    /// host may have.
    pub fn parse_ascii(raw: &str) -> Result<Self, TargetError> {
        let raw = raw.strip_suffix('.').unwrap_or(raw);
        if raw.is_empty() || raw.len() > super::target::MAX_HOST_LEN {
            return Err(TargetError::HostTooLong);
        }
        if raw.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(TargetError::HostTooLong);
        }
        if !raw.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(
                    b,
                    b'-' | b'_' | b'.' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
                )
        }) {
            return Err(TargetError::Host);
        }
        Ok(Self(raw.to_ascii_lowercase().into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is `suffix` or a name below it, by whole labels. `suffix` is lower case without dots at its ends.
    #[must_use]
    pub(crate) fn is_or_below(&self, suffix: &str) -> bool {
        self.0.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_match_whole_labels() {
        let n = Name::parse_ascii("a.Local.").unwrap();
        assert_eq!(n.as_str(), "a.local");
        assert!(n.is_or_below("local") && n.is_or_below("a.local"));
        assert!(!Name::parse_ascii("globallocal").unwrap().is_or_below("local"));
    }
}
