//! Rules from names to principals.

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;

use crate::{
    ConfigError,
    net::Name,
    tokens::{Principal, TokenDigest},
};

/// Longest name that becomes a principal, in bytes.
const MAX_NAME: usize = 256;

/// Which certificates stand for whom.
#[derive(Clone, Debug)]
pub struct CertRule {
    pattern: Pattern,
    principal: Option<Principal>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Uri { start: Box<str>, open: bool },
    Dns { name: Name, below: bool },
    Fingerprint(TokenDigest),
}

impl CertRule {
    /// Certificates with this URI: exact, or what begins so with a `*` at its end. Compared byte for byte.
    ///
    /// # Errors
    /// If it is no URI with a scheme and an authority, or has `*` elsewhere than behind a `/`.
    pub fn uri(pattern: &str) -> Result<Self, ConfigError> {
        let fail = || ConfigError::new(pattern, "a URI such as spiffe://corp.example/app, or with /* at its end");
        let (start, open) = pattern.strip_suffix('*').map_or((pattern, false), |start| (start, true));
        let (_, rest) = start.split_once("://").ok_or_else(fail)?;
        let whole_segment = !open || rest.contains('/') && rest.ends_with('/');
        if rest.is_empty()
            || rest.starts_with('/')
            || start.contains('*')
            || !whole_segment
            || !start.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(fail());
        }
        Ok(Self { pattern: Pattern::Uri { start: start.into(), open }, principal: None })
    }

    /// Certificates with this DNS name, or with `*.` in front any name below it.
    ///
    /// # Errors
    /// If it is no DNS name.
    pub fn dns(pattern: &str) -> Result<Self, ConfigError> {
        let (name, below) = pattern.strip_prefix("*.").map_or((pattern, false), |name| (name, true));
        let name = Some(name).filter(|n| !n.contains('*')).and_then(|n| Name::parse_ascii(n).ok());
        let name = name.ok_or_else(|| ConfigError::new(pattern, "not a DNS name"))?;
        Ok(Self { pattern: Pattern::Dns { name, below }, principal: None })
    }

    /// The certificate with this SHA-256 over its DER form, in hexadecimal digits with or without colons.
    ///
    /// # Errors
    /// If it is something else.
    pub fn fingerprint(sha256: &str) -> Result<Self, ConfigError> {
        let digest = TokenDigest::from_hex(&sha256.replace(':', ""))?;
        Ok(Self { pattern: Pattern::Fingerprint(digest), principal: None })
    }

    /// Names this principal, with its scopes and quota, instead of one made of the certificate's name.
    #[must_use]
    pub fn principal(mut self, principal: Principal) -> Self {
        self.principal = Some(principal);
        self
    }

    /// The name in the certificate that fits.
    fn matched(&self, cert: &EndEntityCert<'_>, der: &[u8]) -> Option<String> {
        match &self.pattern {
            Pattern::Fingerprint(want) => {
                let have = TokenDigest::from_bytes(Sha256::digest(der).into());
                (have == *want).then(|| have.to_hex())
            }
            Pattern::Uri { start, open } => {
                let fits =
                    |uri: &&str| if *open { uri.len() > start.len() && uri.starts_with(&**start) } else { **uri == **start };
                cert.valid_uri_names().find(fits).map(ToOwned::to_owned)
            }
            Pattern::Dns { name, below } => {
                // A wildcard in a certificate says what it may serve, not who it is.
                let names =
                    cert.valid_dns_names().filter_map(|n| Name::parse_ascii(n).ok()).filter(|n| !n.as_str().contains('*'));
                let mut fitting = names.filter(|n| if *below { n != name && n.is_or_below(name.as_str()) } else { n == name });
                fitting.next().map(|n| n.to_string())
            }
        }
    }
}

/// The principal that the first fitting rule names.
pub(super) fn principal(rules: &[CertRule], der: &[u8]) -> Option<Principal> {
    let owned = CertificateDer::from(der);
    let cert = EndEntityCert::try_from(&owned).ok()?;
    rules.iter().find_map(|rule| {
        let name = rule.matched(&cert, der)?;
        match &rule.principal {
            Some(principal) => Some(principal.clone()),
            None if name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_graphic()) => {
                Some(Principal::new(format!("cert:{name}")))
            }
            None => None,
        }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    pub(crate) fn cert(uris: &[&str], names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ci.clients.example");
        let uris = uris.iter().map(|u| SanType::URI((*u).try_into().unwrap()));
        params.subject_alt_names = uris.chain(names.iter().map(|n| SanType::DnsName((*n).try_into().unwrap()))).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn who(rule: CertRule, der: &[u8]) -> Option<String> {
        principal(&[rule], der).map(|p| p.id().to_string())
    }

    #[test]
    fn uris_are_exact_or_whole_prefixes() {
        let der = cert(&["https://other.example/", "spiffe://corp.example/app/ci"], &[]);
        let uri = |p: &str| who(CertRule::uri(p).unwrap(), &der);
        let id = Some("cert:spiffe://corp.example/app/ci".to_owned());
        assert_eq!(uri("spiffe://corp.example/app/ci"), id);
        assert_eq!(uri("spiffe://corp.example/app/*"), id);
        assert_eq!(uri("spiffe://corp.example/ap"), None);
        assert_eq!(uri("spiffe://corp.example/app/c"), None);
        assert_eq!(uri("spiffe://corp.example/app/ci/*"), None);
        for bad in [
            "*",
            "spiffe://corp.exam*",
            "spiffe://*",
            "spiffe:///x",
            "corp.example/app",
            "spiffe://a/*/b",
            "spiffe://corp.example/app*",
        ] {
            assert!(CertRule::uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_count_as_alternative_names_only() {
        let der = cert(&[], &["CI.clients.example", "*.wild.example"]);
        let dns = |p: &str| who(CertRule::dns(p).unwrap(), &der);
        assert_eq!(dns("ci.clients.example").as_deref(), Some("cert:ci.clients.example"));
        assert_eq!(dns("*.clients.example").as_deref(), Some("cert:ci.clients.example"));
        assert_eq!(dns("clients.example"), None);
        assert_eq!(dns("*.ci.clients.example"), None);
        assert_eq!(dns("*.wild.example"), None, "a wildcard is nobody");
        assert_eq!(
            who(CertRule::dns("ci.clients.example").unwrap(), &cert(&["spiffe://x/y"], &[])),
            None,
            "the common name counts for nothing"
        );
        for bad in ["", "*", "*.*.example", "a b"] {
            assert!(CertRule::dns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_of_the_whole_certificate_and_the_first_rule_wins() {
        let (der, other) = (cert(&[], &["a.example"]), cert(&[], &["a.example"]));
        let hex = TokenDigest::from_bytes(Sha256::digest(&der).into()).to_hex();
        let colons: Vec<String> = hex.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).to_uppercase()).collect();
        let rule = CertRule::fingerprint(&colons.join(":")).unwrap().principal(Principal::new("ops"));
        assert_eq!(who(rule.clone(), &der).as_deref(), Some("ops"));
        assert_eq!(who(rule.clone(), &other), None);
        let rules = [rule, CertRule::dns("a.example").unwrap()];
        assert_eq!(&**principal(&rules, &der).unwrap().id(), "ops");
        assert_eq!(&**principal(&rules, &other).unwrap().id(), "cert:a.example");
        assert!(principal(&rules, b"not a certificate").is_none());
        assert!(principal(&rules, &der[..der.len() - 1]).is_none());
    }
}
