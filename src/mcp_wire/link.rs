//! Links of a target, written so that they lead through this server again.

use std::fmt;

use url::Url;

use crate::net::Target;

/// Where the links of one target lead: the public prefix of the path style, `https://proxy.example/proxy/`.
#[derive(Clone, Debug)]
pub(crate) struct LinkBase {
    prefix: Box<str>,
    base: Url,
}

/// Why a link is not rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// Not a URL reference.
    Invalid,
    /// It leads to another origin than the target's.
    Foreign,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "not a URL",
            Self::Foreign => "a URL of another origin",
        })
    }
}

impl std::error::Error for LinkError {}

impl LinkBase {
    /// `prefix` ends with the path prefix of the target (`…/proxy/`); `target` is what relative links are relative to. `None` for
    /// a target that has no URL (`CONNECT`).
    #[must_use]
    pub(crate) fn new(prefix: impl Into<Box<str>>, target: &Target) -> Option<Self> {
        Some(Self { prefix: prefix.into(), base: Url::parse(&target.to_string()).ok()? })
    }

    /// Resolves a reference against the target and writes it behind the prefix.
    ///
    /// # Errors
    /// [`LinkError::Foreign`] when scheme, host or port differ from the target's or user information is written.
    pub(crate) fn rewrite(&self, reference: &str) -> Result<String, LinkError> {
        let url = self.base.join(reference).map_err(|_| LinkError::Invalid)?;
        let same = url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default()
            && url.username().is_empty()
            && url.password().is_none();
        if same { Ok(format!("{}{url}", self.prefix)) } else { Err(LinkError::Foreign) }
    }
}

/// The `Location` of a target as the client has to see it in path style; `None` where it is to be left as it is.
#[must_use]
pub(crate) fn rewrite_location(location: &[u8], base: &LinkBase) -> Option<String> {
    base.rewrite(std::str::from_utf8(location).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_targets_own_origin_is_rewritten() {
        let target = Target::parse("https://example.com/a/b?x=1").unwrap();
        let base = LinkBase::new("http://127.0.0.1:8000/proxy/", &target).unwrap();
        for (link, want) in [
            ("/m?s=1", Some("https://example.com/m?s=1")),
            ("c", Some("https://example.com/a/c")),
            ("?y", Some("https://example.com/a/b?y")),
            ("//example.com:443/z#f", Some("https://example.com/z#f")),
            ("https://EXAMPLE.com/", Some("https://example.com/")),
            ("http://example.com/", None),
            ("https://example.com:444/", None),
            ("https://example.com@evil.example/", None),
            ("https://u@example.com/", None),
            ("//evil.example/", None),
            ("\\\\evil.example/", None),
            ("javascript:alert(1)", None),
            ("data:text/html,x", None),
        ] {
            let want = want.map(|w| format!("http://127.0.0.1:8000/proxy/{w}"));
            assert_eq!(rewrite_location(link.as_bytes(), &base), want, "{link}");
        }
    }
}
