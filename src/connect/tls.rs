//! TLS towards targets: rustls with the ring provider, verified by the host's name.

use std::{io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName},
    },
};

use super::ConnectError;
use crate::{ConfigError, net::Host};

/// Two configurations that differ in ALPN only.
#[derive(Clone)]
pub(super) struct Tls {
    h2_too: TlsConnector,
    h1_only: TlsConnector,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// The operator's own configuration; ALPN is set here in any case.
    pub(super) fn from_config(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let h1_only = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols.insert(0, b"h2".to_vec());
        Self { h2_too: TlsConnector::from(Arc::new(config)), h1_only }
    }

    /// The public roots (webpki-roots) and these.
    pub(super) fn with_roots(extra: Vec<CertificateDer<'static>>) -> Result<Self, ConfigError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in extra {
            roots.add(root).map_err(|e| ConfigError::new("root certificate", e.to_string()))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| ConfigError::new("tls", e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::from_config(config))
    }

    pub(super) async fn handshake(
        &self,
        host: &Host,
        stream: TcpStream,
        http1_only: bool,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let name = match host {
            // The address as the URL says it, not as it was dialled: that is what a certificate is for.
            Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|e| ConnectError::tls(io::Error::new(io::ErrorKind::InvalidInput, e), "tls_protocol_error"))?,
        };
        let connector = if http1_only { &self.h1_only } else { &self.h2_too };
        connector.connect(name, stream).await.map_err(|e| {
            let token = token(&e);
            ConnectError::tls(e, token)
        })
    }
}

/// The Proxy-Status error (RFC 9209 §2.3) of a failed handshake.
fn token(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => "tls_certificate_error",
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        Some(_) => "tls_protocol_error",
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection_terminated",
            _ => "tls_protocol_error",
        },
    }
}
