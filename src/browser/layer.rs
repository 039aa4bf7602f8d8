//! The layer.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tower_layer::Layer;

use super::{Browser, decide::Served, host::HostPort};
use crate::ConfigError;

/// What a rule of the operator's may look at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// The fields.
    pub headers: &'a HeaderMap,
}

type Rule = dyn Fn(RequestHead<'_>) -> bool + Send + Sync;

/// Browser rules. See the [module](super).
#[derive(Clone)]
pub struct BrowserLayer {
    rules: Rules,
}

/// What the service reads; shared by its clones.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) hosts: Vec<HostPort<'static>>,
    pub(super) any_host: bool,
    pub(super) loopback: bool,
    pub(super) origins: Vec<HeaderValue>,
    pub(super) exempt: Option<Arc<Rule>>,
    pub(super) proxied: Option<Arc<Rule>>,
    pub(super) exposed: HeaderValue,
}

/// What MCP clients and careful callers read of a response.
const EXPOSED: &str =
    "mcp-session-id, mcp-protocol-version, www-authenticate, retry-after, ratelimit, ratelimit-policy, proxy-status";

impl BrowserLayer {
    /// No host, no origin; every response counts as a proxied page.
    #[must_use]
    pub fn new() -> Self {
        let exposed = HeaderValue::from_static(EXPOSED);
        let rules = Rules {
            hosts: Vec::new(),
            any_host: false,
            loopback: false,
            origins: Vec::new(),
            exempt: None,
            proxied: None,
            exposed,
        };
        Self { rules }
    }

    /// Adds names under which this server is asked: `host`, for every port, or `host:port`.
    ///
    /// # Errors
    /// If an entry is no host.
    pub fn allow_hosts<'a>(mut self, hosts: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        for text in hosts {
            let host = HostPort::parse(text).filter(|_| !text.contains(['*', '%', ',']));
            let host = host.ok_or_else(|| ConfigError::new(text, "not a host, with or without a port"))?;
            self.rules.hosts.push(host.into_owned());
        }
        Ok(self)
    }

    /// Serves every host name. Only for a server that no browser on its own machine or network may reach: this gives up the guard
    /// against DNS rebinding.
    #[must_use]
    pub fn dangerously_allow_any_host(mut self) -> Self {
        self.rules.any_host = true;
        self
    }

    /// Whether the listener is bound to a loopback address: loopback names are then on the list.
    #[must_use]
    pub fn loopback_listener(mut self, loopback: bool) -> Self {
        self.rules.loopback = loopback;
        self
    }

    /// Adds origins whose pages may call this server: `https://host` or `https://host:port`, as a browser writes it.
    ///
    /// # Errors
    /// If an entry is not an origin in the form in which browsers send it. `*` and `null` are not.
    pub fn allow_origins<'a>(mut self, origins: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        for text in origins {
            let why =
                "not an origin as browsers write it: scheme and host in lower case, the port only if it is not the scheme's own";
            let fail = || ConfigError::new(text, why);
            if text.starts_with("http") {
                let url = url::Url::parse(text).map_err(|_| fail())?;
                if text.contains('*') || url.origin().ascii_serialization() != text {
                    return Err(fail());
                }
            } else {
                // Browser extensions and shells have schemes of their own: `chrome-extension://id`, `tauri://localhost`.
                let (scheme, host) = text.split_once("://").ok_or_else(fail)?;
                let scheme_fits = !scheme.is_empty()
                    && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
                if !scheme_fits || host.contains('*') || HostPort::parse(host).is_none() {
                    return Err(fail());
                }
            }
            self.rules.origins.push(HeaderValue::from_str(text).map_err(|_| fail())?);
        }
        Ok(self)
    }

    /// Requests that are not asked about the host list: health, readiness, metrics, a fixed reverse proxy.
    #[must_use]
    pub fn exempt(mut self, rule: impl Fn(RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.rules.exempt = Some(Arc::new(rule));
        self
    }

    /// Requests whose response comes from a target. Without this rule, all.
    #[must_use]
    pub fn proxied(mut self, rule: impl Fn(RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.rules.proxied = Some(Arc::new(rule));
        self
    }

    /// Exposes more response fields to pages.
    ///
    /// # Errors
    /// If one is not a field name.
    pub fn expose<'a>(mut self, fields: impl IntoIterator<Item = &'a str>) -> Result<Self, ConfigError> {
        let mut list = self.rules.exposed.to_str().unwrap_or(EXPOSED).to_owned();
        for text in fields {
            let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| ConfigError::new(text, "not a field name"))?;
            list.push_str(", ");
            list.push_str(name.as_str());
        }
        self.rules.exposed = HeaderValue::from_str(&list).map_err(|_| ConfigError::new(list, "not a list of field names"))?;
        Ok(self)
    }
}

impl Default for BrowserLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for BrowserLayer {
    type Service = Browser<S>;

    fn layer(&self, inner: S) -> Browser<S> {
        Browser { inner, rules: Arc::new(self.rules.clone()), served: Served::default() }
    }
}

impl fmt::Debug for BrowserLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rules { hosts, loopback, origins, .. } = &self.rules;
        f.debug_struct("BrowserLayer")
            .field("hosts", hosts)
            .field("loopback", loopback)
            .field("origins", origins)
            .finish_non_exhaustive()
    }
}
