//! Why there is no connection.

use std::{fmt, io};

use crate::{
    egress::{Denial, DenialReason},
    rejection::{Rejection, RejectionKind},
    resolve::ResolveError,
};

/// Why there is no connection. Opaque: ask the predicates, or turn it into the answer for the client.
#[derive(Debug)]
pub struct ConnectError(Box<Kind>);

#[derive(Debug)]
enum Kind {
    Denied(Denial),
    Resolve(ResolveError),
    Connect { error: io::Error, token: &'static str },
    Timeout { during: &'static str },
    Tls { error: io::Error, token: &'static str },
}

impl ConnectError {
    pub(super) fn connect(error: io::Error) -> Self {
        let token = match error.kind() {
            io::ErrorKind::TimedOut => return Self::timeout("the kernel's connect"),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => {
                "destination_ip_unroutable"
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "connection_terminated",
            _ => "connection_refused",
        };
        Self(Box::new(Kind::Connect { error, token }))
    }

    pub(super) fn timeout(during: &'static str) -> Self {
        Self(Box::new(Kind::Timeout { during }))
    }

    pub(super) fn tls(error: io::Error, token: &'static str) -> Self {
        Self(Box::new(Kind::Tls { error, token }))
    }

    /// The guard refused the name, the literal or an answer, or the name does not exist.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(*self.0, Kind::Denied(_))
    }

    /// What the guard refused.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        match &*self.0 {
            Kind::Denied(denial) => Some(denial),
            _ => None,
        }
    }

    /// The name server failed or was too slow.
    #[must_use]
    pub fn is_dns(&self) -> bool {
        matches!(*self.0, Kind::Resolve(_))
    }

    /// A deadline passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Kind::Timeout { .. } | Kind::Resolve(ResolveError::Timeout))
    }

    /// The TLS handshake failed.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(*self.0, Kind::Tls { .. })
    }

    /// The answer for the client, with the exact Proxy-Status error (RFC 9209 §2.3) and the text for the operator.
    #[must_use]
    pub fn into_rejection(self) -> Rejection {
        let detail = self.to_string();
        let (kind, token) = match *self.0 {
            Kind::Denied(denial) => return denial.into_rejection(),
            Kind::Resolve(ResolveError::Timeout) => (RejectionKind::DnsTimeout, "dns_timeout"),
            Kind::Resolve(_) => (RejectionKind::DnsFailed, "dns_error"),
            Kind::Connect { token, .. } => (RejectionKind::ConnectFailed, token),
            Kind::Timeout { .. } => (RejectionKind::ConnectTimeout, "connection_timeout"),
            Kind::Tls { token, .. } => (RejectionKind::TlsFailed, token),
        };
        Rejection::new(kind).with_proxy_status(token).with_detail(detail)
    }
}

impl From<Denial> for ConnectError {
    fn from(denial: Denial) -> Self {
        Self(Box::new(Kind::Denied(denial)))
    }
}

/// A name that does not exist is a denial like any other.
impl From<ResolveError> for ConnectError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::NoSuchName => Denial::new(DenialReason::NoSuchName, error.to_string()).into(),
            error => Self(Box::new(Kind::Resolve(error))),
        }
    }
}

impl From<ConnectError> for Rejection {
    fn from(error: ConnectError) -> Self {
        error.into_rejection()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Denied(denial) => denial.fmt(f),
            Kind::Resolve(error) => error.fmt(f),
            Kind::Connect { error, .. } => write!(f, "no connection: {error}"),
            Kind::Timeout { during } => write!(f, "the deadline passed during {during}"),
            Kind::Tls { error, .. } => write!(f, "TLS: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Denied(denial) => Some(denial),
            Kind::Resolve(error) => Some(error),
            Kind::Connect { error, .. } | Kind::Tls { error, .. } => Some(error),
            Kind::Timeout { .. } => None,
        }
    }
}
