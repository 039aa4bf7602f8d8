//! TLS on the listener: rustls with the ring provider, certificates exchangeable while it runs.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::error::ConfigError;

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// They have to.
    Required,
    /// They may; the one they show is verified.
    Optional,
}

/// What the listener's TLS is made of, all in PEM.
#[derive(Clone)]
pub struct TlsFiles {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<(Vec<u8>, ClientAuth)>,
}

impl TlsFiles {
    /// A certificate chain, leaf first, and its private key.
    #[must_use]
    pub fn new(cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self { cert: cert.into(), key: key.into(), client_ca: None }
    }

    /// Verifies client certificates against these authorities.
    #[must_use]
    pub fn client_ca(mut self, ca: impl Into<Vec<u8>>, auth: ClientAuth) -> Self {
        self.client_ca = Some((ca.into(), auth));
        self
    }

    fn config(&self) -> Result<Arc<ServerConfig>, ConfigError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| ConfigError::new("tls", e.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some((ca, auth)) => {
                let mut roots = RootCertStore::empty();
                for cert in certs("tls.client_ca", ca)? {
                    roots.add(cert).map_err(|e| ConfigError::new("tls.client_ca", e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if *auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| ConfigError::new("tls.client_ca", e.to_string()))?)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|e| ConfigError::new("tls.key", e.to_string()))?;
        let mut config = builder
            .with_single_cert(certs("tls.cert", &self.cert)?, key)
            .map_err(|e| ConfigError::new("tls.cert", e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The key stays out of sight.
impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles").field("client_ca", &self.client_ca.as_ref().map(|c| c.1)).finish_non_exhaustive()
    }
}

fn certs(entry: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certs: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| ConfigError::new(entry, e.to_string()))?;
    if certs.is_empty() { Err(ConfigError::new(entry, "there is no certificate in it")) } else { Ok(certs) }
}

/// The listener's TLS. Clones share it, so that one of them can put new certificates in force.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    /// TLS from certificate, key and perhaps client authorities; HTTP/2 and HTTP/1.1 are offered by ALPN.
    ///
    /// # Errors
    /// [`ConfigError`] names the part that cannot be used.
    pub fn new(files: &TlsFiles) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(ArcSwap::new(files.config()?))))
    }

    /// Puts other certificates in force for new connections. Open ones keep theirs.
    ///
    /// # Errors
    /// [`ConfigError`] names the part that cannot be used; what was in force stays so.
    pub fn swap(&self, files: &TlsFiles) -> Result<(), ConfigError> {
        self.0.store(files.config()?);
        Ok(())
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(self.0.load_full())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}
