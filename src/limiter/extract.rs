//! Whose quota a request is counted under.

use std::fmt;

use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::Key;
use crate::{context::RequestContext, net::Host};

/// A request's head, whatever its body.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// The header section.
    pub headers: &'a HeaderMap,
    /// The extensions.
    pub extensions: &'a Extensions,
    context: Option<&'a RequestContext>,
}

impl<'a> RequestView<'a> {
    /// A view of a request.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        let extensions = request.extensions();
        let context = RequestContext::of(extensions);
        Self { method: request.method(), uri: request.uri(), headers: request.headers(), extensions, context }
    }

    /// What outer layers have found out.
    #[must_use]
    pub fn context(&self) -> Option<&'a RequestContext> {
        self.context
    }
}

/// What a key needs is not in the request: the layer that provides it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingKey(pub &'static str);

impl fmt::Display for MissingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request has no {}", self.0)
    }
}

impl std::error::Error for MissingKey {}

/// Reads from a request whose quota it is counted under. Closures of the same form are extractors too:
///
/// ```
/// use portcullis::{
///     limiter::{Key, MissingKey, Quota, RequestView},
///     rate_limit::Policy,
/// };
///
/// let policy = Policy::new("per-path", Quota::per_second(5)).unwrap().key(|request: &RequestView<'_>, key: &mut Key| {
///     key.push_str(request.uri.path());
///     Ok::<(), MissingKey>(())
/// });
/// ```
pub trait KeyExtractor: Send + Sync + 'static {
    /// Adds its part to the key.
    ///
    /// # Errors
    /// [`MissingKey`] when the request lacks it; the request is then refused.
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey>;

    /// This part and another one.
    fn and<K: KeyExtractor>(self, other: K) -> And<Self, K>
    where
        Self: Sized,
    {
        And(self, other)
    }
}

impl<F> KeyExtractor for F
where
    F: Fn(&RequestView<'_>, &mut Key) -> Result<(), MissingKey> + Send + Sync + 'static,
{
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
        self(request, key)
    }
}

/// The client: an IPv4 address, or the /64 of an IPv6 address. Needs `ClientAddrLayer`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByClient;

impl KeyExtractor for ByClient {
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
        let client = request.context.and_then(RequestContext::client).ok_or(MissingKey("client address"))?;
        key.push_client(client.ip());
        Ok(())
    }
}

/// The principal's id. Needs `ProxyTokenLayer` or another layer that sets a principal.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByPrincipal;

impl KeyExtractor for ByPrincipal {
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
        let principal = request.context.and_then(RequestContext::principal).ok_or(MissingKey("principal"))?;
        key.push_str(principal.id());
        Ok(())
    }
}

/// The target's host, as a name or an address. Needs `TargetLayer`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByTargetHost;

impl KeyExtractor for ByTargetHost {
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
        let target = request.context.and_then(RequestContext::target).ok_or(MissingKey("target"))?;
        match target.host() {
            Host::Name(name) => key.push_str(name.as_str()),
            Host::Ip(ip) => match crate::net::unwrap_mapped(*ip) {
                std::net::IpAddr::V4(ip) => key.push_bytes(&ip.octets()),
                std::net::IpAddr::V6(ip) => key.push_bytes(&ip.octets()),
            },
        };
        Ok(())
    }
}

/// The JSON-RPC method of an MCP request. Requests that are none, or whose method is not known, are counted together.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByMcpMethod;

impl KeyExtractor for ByMcpMethod {
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
        key.push_str(mcp_method(request).unwrap_or_default());
        Ok(())
    }
}

/// One quota for everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

impl KeyExtractor for Everybody {
    fn extract(&self, _: &RequestView<'_>, _: &mut Key) -> Result<(), MissingKey> {
        Ok(())
    }
}

/// Two parts: made by [`KeyExtractor::and`].
#[derive(Clone, Copy, Debug)]
pub struct And<A, B>(A, B);

impl<A: KeyExtractor, B: KeyExtractor> KeyExtractor for And<A, B> {
    fn extract(&self, request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
        self.0.extract(request, key)?;
        self.1.extract(request, key)
    }
}

fn mcp_method<'a>(request: &RequestView<'a>) -> Option<&'a str> {
    request.context?.mcp()?.method.as_deref()
}

/// Whether the request only asks an MCP server who it is (`initialize`, `server/discover`). Such probes come from clients that
/// look for a server; give them a policy of their own with [`Policy::when`](crate::rate_limit::Policy::when), and exempt them from the others
/// with [`Policy::unless`](crate::rate_limit::Policy::unless).
#[must_use]
pub fn is_mcp_probe(request: &RequestView<'_>) -> bool {
    matches!(mcp_method(request), Some("initialize" | "server/discover"))
}
