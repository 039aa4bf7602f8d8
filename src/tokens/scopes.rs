//! What a token may do.

use std::sync::Arc;

use http::Method;

use super::TargetPattern;
use crate::{
    ConfigError,
    net::{Origin, Target},
};

/// What a token may do. Every part that is set has to agree; what is not set does not restrict. The egress policy holds in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenScopes {
    targets: Option<Vec<TargetPattern>>,
    origin: Option<Arc<Origin>>,
    methods: Option<Vec<Method>>,
    no_websocket: bool,
    mcp_methods: Option<Vec<Box<str>>>,
    tools: Option<Vec<Box<str>>>,
    operator: bool,
}

impl TokenScopes {
    /// No restriction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only targets that one of these patterns matches. An empty list allows none.
    ///
    /// # Errors
    /// If one is not a [`TargetPattern`].
    pub fn targets<S: AsRef<str>>(mut self, patterns: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        self.targets =
            Some(patterns.into_iter().map(|pattern| TargetPattern::parse(pattern.as_ref())).collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// Only these HTTP methods.
    ///
    /// # Errors
    /// If one is not a method's name, or is written in lower case (methods are case-sensitive, RFC 9110 §9.1).
    pub fn methods<S: AsRef<str>>(mut self, methods: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let parse = |name: &str| match Method::from_bytes(name.as_bytes()) {
            Ok(method) if !name.bytes().any(|b| b.is_ascii_lowercase()) => Ok(method),
            _ => Err(ConfigError::new(name, "not an HTTP method in upper case")),
        };
        self.methods = Some(methods.into_iter().map(|method| parse(method.as_ref())).collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// Whether a WebSocket may be opened.
    #[must_use]
    pub fn websocket(mut self, allowed: bool) -> Self {
        self.no_websocket = !allowed;
        self
    }

    /// Only these JSON-RPC methods: exact names, or `tools/*` for what begins so.
    ///
    /// # Errors
    /// If a name is empty or has `*` elsewhere than at its end.
    pub fn mcp_methods<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        self.mcp_methods = Some(names.into_iter().map(|text| name(text.as_ref())).collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// Only these tools in `tools/call`: exact names, or `search_*` for what begins so.
    ///
    /// # Errors
    /// If a name is empty or has `*` elsewhere than at its end.
    pub fn tools<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        self.tools = Some(names.into_iter().map(|text| name(text.as_ref())).collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// Whether the server may explain its decisions to whoever holds the token. It is the only scope that gives something.
    #[must_use]
    pub fn operator(mut self, yes: bool) -> Self {
        self.operator = yes;
        self
    }

    /// The same scopes for this one origin only, as a ticket has them.
    #[must_use]
    pub fn bound_to(mut self, origin: Arc<Origin>) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Whether nothing is restricted.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        *self == Self { operator: self.operator, ..Self::default() }
    }

    /// Whether what is inside the requests has to be looked at.
    #[must_use]
    pub fn restricts_mcp(&self) -> bool {
        self.mcp_methods.is_some() || self.tools.is_some()
    }

    /// Whether the server may explain its decisions. What is bound to one origin, a ticket, never has that.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.operator && self.origin.is_none()
    }

    /// Whether the target may be reached.
    #[must_use]
    pub fn allows_target(&self, target: &Target) -> bool {
        self.targets.as_ref().is_none_or(|list| list.iter().any(|p| p.matches(target)))
            && self.origin.as_ref().is_none_or(|bound| same_server(bound, target.origin()))
    }

    /// Whether the HTTP method may be used.
    #[must_use]
    pub fn allows_method(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|list| list.contains(method))
    }

    /// Whether a WebSocket may be opened.
    #[must_use]
    pub fn allows_websocket(&self) -> bool {
        !self.no_websocket
    }

    /// Whether the JSON-RPC method may be called.
    #[must_use]
    pub fn allows_mcp_method(&self, method: &str) -> bool {
        self.mcp_methods.as_ref().is_none_or(|list| list.iter().any(|p| hit(p, method)))
    }

    /// Whether the tool may be called.
    #[must_use]
    pub fn allows_tool(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|list| list.iter().any(|p| hit(p, tool)))
    }
}

/// The same host and port, over TLS or not alike: `ws` and `http` name one server.
fn same_server(a: &Origin, b: &Origin) -> bool {
    a.host() == b.host() && a.port() == b.port() && a.scheme().is_secure() == b.scheme().is_secure()
}

fn name(text: &str) -> Result<Box<str>, ConfigError> {
    if text.is_empty() || text.strip_suffix('*').unwrap_or(text).contains('*') {
        return Err(ConfigError::new(text, "a name, or the beginning of one with `*` at its end"));
    }
    Ok(text.into())
}

fn hit(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_has_to_agree() {
        let scopes =
            TokenScopes::new().targets(["https://*.example.com"]).unwrap().methods(["GET", "POST"]).unwrap().websocket(false);
        assert!(scopes.allows_target(&Target::parse("https://a.example.com/").unwrap()));
        assert!(!scopes.allows_target(&Target::parse("https://example.com/").unwrap()));
        assert!(scopes.allows_method(&Method::GET) && !scopes.allows_method(&Method::DELETE) && !scopes.allows_websocket());
        assert!(!scopes.restricts_mcp() && scopes.allows_tool("x") && !scopes.is_unrestricted());
        assert!(!TokenScopes::new().targets([""; 0]).unwrap().allows_target(&Target::parse("https://a.example/").unwrap()));
    }

    #[test]
    fn mcp_names_are_exact_or_prefixes() {
        let scopes = TokenScopes::new().mcp_methods(["initialize", "tools/*"]).unwrap().tools(["search", "read_*"]).unwrap();
        assert!(scopes.restricts_mcp() && scopes.allows_mcp_method("tools/call") && !scopes.allows_mcp_method("Initialize"));
        assert!(scopes.allows_tool("read_file") && scopes.allows_tool("search") && !scopes.allows_tool("searching"));
        assert!(TokenScopes::new().tools(["a*b"]).is_err() && TokenScopes::new().tools([""]).is_err());
        assert!(TokenScopes::new().methods(["get"]).is_err());
    }

    #[test]
    fn operators_are_named_and_tickets_are_none() {
        let origin = Arc::clone(Target::parse("https://a.example/").unwrap().origin());
        assert!(!TokenScopes::new().is_operator());
        let scopes = TokenScopes::new().operator(true);
        assert!(scopes.is_operator() && scopes.is_unrestricted());
        assert!(!scopes.bound_to(origin).is_operator());
    }

    #[test]
    fn a_bound_scope_is_for_one_server() {
        let origin = |t: &str| Arc::clone(Target::parse(t).unwrap().origin());
        let scopes = TokenScopes::new().bound_to(origin("wss://a.example/"));
        assert!(scopes.allows_target(&Target::parse("https://a.example/x").unwrap()));
        for other in ["http://a.example:443/", "https://b.example/", "https://a.example:8443/"] {
            assert!(!scopes.allows_target(&Target::parse(other).unwrap()), "{other}");
        }
    }
}
