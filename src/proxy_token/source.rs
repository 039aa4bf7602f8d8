//! Where a credential may be.

use http::{HeaderName, header};

use crate::ConfigError;

/// The beginning of the subprotocol entry that carries a token, unless another is chosen.
const CARRIER: &str = "base64url.bearer.authorization.portcullis.";

/// Where a credential may be. See the [module](super) for the rules that hold for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSource(pub(super) Source);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Header(HeaderName),
    /// `Bearer` only.
    Authorization,
    /// `Bearer`, or `Basic` with the token for a password.
    ProxyAuthorization,
    Protocol(Box<str>),
    Query(Box<str>),
    Ticket(Box<str>),
}

impl TokenSource {
    /// A field whose whole value is the token.
    ///
    /// # Errors
    /// If it is not a field name, or one that has a meaning of its own.
    pub fn header(name: &str) -> Result<Self, ConfigError> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| ConfigError::new(name, "not a field name"))?;
        let taken = [
            header::AUTHORIZATION,
            header::PROXY_AUTHORIZATION,
            header::HOST,
            header::COOKIE,
            header::CONNECTION,
            header::UPGRADE,
        ];
        if taken.contains(&parsed) || parsed.as_str().starts_with("sec-") {
            return Err(ConfigError::new(name, "this field has a meaning of its own"));
        }
        Ok(Self(Source::Header(parsed)))
    }

    /// `Authorization: Bearer`. The field is then this server's and never the target's.
    #[must_use]
    pub fn authorization() -> Self {
        Self(Source::Authorization)
    }

    /// `Proxy-Authorization`: `Bearer`, or `Basic` with the token for a password and any user name.
    #[must_use]
    pub fn proxy_authorization() -> Self {
        Self(Source::ProxyAuthorization)
    }

    /// An entry of `Sec-WebSocket-Protocol`, in the manner of Kubernetes. Any entry that begins like the carrier is removed.
    #[must_use]
    pub fn websocket_protocol() -> Self {
        Self(Source::Protocol(CARRIER.into()))
    }

    /// The same under another beginning, which should end with a dot.
    ///
    /// # Errors
    /// If it cannot be part of a subprotocol's name.
    pub fn websocket_protocol_named(prefix: &str) -> Result<Self, ConfigError> {
        let plain = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if prefix.len() < 8 || !plain {
            return Err(ConfigError::new(prefix, "a carrier begins with 8 or more letters, digits and `.-_`"));
        }
        Ok(Self(Source::Protocol(prefix.into())))
    }

    /// A query parameter. It has to be said where it counts.
    ///
    /// # Errors
    /// If the name would have to be escaped.
    pub fn query(name: &str) -> Result<QueryToken, ConfigError> {
        parameter(name).map(QueryToken)
    }

    /// A query parameter that carries a single-use ticket, on WebSocket upgrades and event streams.
    ///
    /// # Errors
    /// If the name would have to be escaped.
    pub fn ticket(name: &str) -> Result<Self, ConfigError> {
        parameter(name).map(|name| Self(Source::Ticket(name)))
    }

    /// The field that this source reads.
    pub(super) fn field(&self) -> Option<HeaderName> {
        match &self.0 {
            Source::Header(name) => Some(name.clone()),
            Source::Authorization => Some(header::AUTHORIZATION),
            Source::ProxyAuthorization => Some(header::PROXY_AUTHORIZATION),
            Source::Protocol(_) | Source::Query(_) | Source::Ticket(_) => None,
        }
    }
}

/// A query parameter, before it is said where it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryToken(Box<str>);

impl QueryToken {
    /// Counts on WebSocket upgrades and on `GET` with `Accept: text/event-stream`, and nowhere else.
    #[must_use]
    pub fn on_upgrades_and_event_streams(self) -> TokenSource {
        TokenSource(Source::Query(self.0))
    }
}

fn parameter(name: &str) -> Result<Box<str>, ConfigError> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~'));
    if name.is_empty() || !plain {
        return Err(ConfigError::new(name, "a query parameter's name of letters, digits and `.-_~`"));
    }
    Ok(name.into())
}
