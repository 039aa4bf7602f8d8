//! How this server is called from outside.

use http::HeaderValue;

use crate::ConfigError;

/// The outside base of this server's links.
#[derive(Clone, Debug)]
pub struct PublicBase(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Fixed(Box<str>),
    Host { secure: bool },
}

impl PublicBase {
    /// A base that the operator writes: `https://proxy.example.com`, with a path where a front server adds one.
    ///
    /// # Errors
    /// Anything that is not an absolute `http` or `https` URL without user information, query and fragment.
    pub fn fixed(url: &str) -> Result<Self, ConfigError> {
        let parsed = url::Url::parse(url).map_err(|_| ConfigError::new(url, "not an absolute URL"))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(ConfigError::new(url, "not an http or https URL"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() || parsed.fragment().is_some()
        {
            return Err(ConfigError::new(url, "user information, query and fragment have no place here"));
        }
        Ok(Self(Kind::Fixed(parsed.as_str().trim_end_matches('/').into())))
    }

    /// The host that the client wrote, which an outer layer has validated; `secure` says `https`.
    #[must_use]
    pub fn from_host(secure: bool) -> Self {
        Self(Kind::Host { secure })
    }

    /// Whether it depends on the host that the client has written.
    pub(super) fn asks_for_host(&self) -> bool {
        matches!(self.0, Kind::Host { .. })
    }

    pub(super) fn prefix(&self, authority: Option<&HeaderValue>, path: &str) -> Option<String> {
        match &self.0 {
            Kind::Fixed(base) => Some(format!("{base}{path}")),
            Kind::Host { secure } => {
                let scheme = if *secure { "https" } else { "http" };
                Some(format!("{scheme}://{}{path}", authority?.to_str().ok()?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases() {
        let base = PublicBase::fixed("https://p.example/mcp/").unwrap();
        assert_eq!(base.prefix(None, "/proxy/").unwrap(), "https://p.example/mcp/proxy/");
        assert_eq!(PublicBase::from_host(true).prefix(Some(&HeaderValue::from_static("h:1")), "/p/").unwrap(), "https://h:1/p/");
        assert_eq!(PublicBase::from_host(true).prefix(None, "/p/"), None);
        for bad in ["p.example", "ftp://p.example", "https://u@p.example", "https://p.example/?q", "https://p.example/#f"] {
            assert!(PublicBase::fixed(bad).is_err(), "{bad}");
        }
    }
}
