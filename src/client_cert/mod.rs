//! `ClientCertLayer`: whom a client certificate stands for.
//!
//! ```
//! use portcullis::client_cert::{CertRule, ClientCertLayer};
//!
//! let layer = ClientCertLayer::new([CertRule::uri("spiffe://corp.example/app/*")?, CertRule::dns("ci.clients.example")?]);
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. The certificate is the one that the TLS listener has verified against its `client_ca`
//!    ([`ConnectionInfo::client_certs`](crate::context::ConnectionInfo::client_certs)). It is never read from a field: `Client-Cert`
//!    (RFC 9440) and its relatives from outside are only text.
//! 2. The rules are asked in their order: a URI or a DNS name among the certificate's subject alternative names, or the SHA-256 of
//!    the whole certificate. The subject's common name counts for nothing (RFC 9525 §2).
//! 3. The first rule that fits names the principal: one of the operator's, or `cert:` and the name that fitted.
//! 4. No certificate, or none that fits: nobody is named. Whether that is enough is for
//!    [`ProxyTokenLayer`](crate::proxy_token::ProxyTokenLayer) to say.
//! 5. Without the connection's facts the request is refused (`Misconfigured`).
//!
//! # Where it stands
//! Right before `ProxyTokenLayer`, which asks for its answer with `or_client_certificate` or
//! `and_client_certificate`, and throws it away without either.
//!
//! # Cost
//! A walk over the names of the certificate for each request that has one; one allocation for the principal.

mod layer;
mod rule;
mod service;

pub use layer::ClientCertLayer;
pub use rule::CertRule;
pub use service::ClientCert;

pub use crate::reply::ResponseFuture;
