//! What the layers tell each other about one request, in a single extension.
//!
//! `http::Extensions` allocates for every entry, so the layers share one entry instead of adding one each. A layer finds what an
//! outer layer has written with [`RequestContext::of`]; what is missing there is a refusal, never a pass.

mod connection;
mod record;
mod text;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use http::{Extensions, HeaderName};

pub use connection::ConnectionInfo;
pub(crate) use record::CloseInTime;
pub use record::{CloseRecord, ClosedBy, Outcome, Record, RecordHandle};
pub use text::McpText;

use crate::{egress::EgressPermit, limiter::RateLimitState, net::Target, tokens::Principal};

/// The client as this server trusts it to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr {
    ip: IpAddr,
    peer: SocketAddr,
    peer_trusted: bool,
}

impl ClientAddr {
    /// `ip` is the client, `peer` the other end of the connection; `peer_trusted` says whether that is one of our own hops.
    #[must_use]
    pub fn new(ip: IpAddr, peer: SocketAddr, peer_trusted: bool) -> Self {
        Self { ip, peer, peer_trusted }
    }

    /// The client's address, IPv4-mapped ones unwrapped.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The other end of the connection: the client or the nearest hop.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the connection comes from a hop whose forwarded headers are believed.
    #[must_use]
    pub fn peer_is_trusted(&self) -> bool {
        self.peer_trusted
    }
}

/// What is known about a JSON-RPC request on an MCP route.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct McpCall {
    /// The JSON-RPC method.
    pub method: Option<McpText>,
    /// The tool, prompt or resource that is asked for.
    pub name: Option<McpText>,
    /// The request's id, of whatever JSON type; refusals are answered with it.
    pub(crate) id: Option<serde_json::Value>,
}

/// When a response has to be at its end, in the extensions of a response that has such a moment: from `TotalTimeoutLayer`, for
/// whoever writes the response to a client that may be slow to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Instant);

impl Deadline {
    /// The response has to be at its end then.
    #[must_use]
    pub fn new(at: Instant) -> Self {
        Self(at)
    }

    /// The moment.
    #[must_use]
    pub fn at(self) -> Instant {
        self.0
    }
}

/// The extension that the layers share.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    connection: Option<ConnectionInfo>,
    malformed: bool,
    client: Option<ClientAddr>,
    principal: Option<Principal>,
    target: Option<Target>,
    permit: Option<EgressPermit>,
    rate_limit: Option<RateLimitState>,
    record: Option<RecordHandle>,
    mcp: Option<Arc<McpCall>>,
    credential_fields: Option<Arc<[HeaderName]>>,
}

/// As a rule nothing was there.
#[inline]
fn set<T>(slot: &mut Option<T>, value: T) {
    match slot {
        None => *slot = Some(value),
        Some(before) => replace(before, value),
    }
}

#[cold]
fn replace<T>(before: &mut T, value: T) {
    *before = value;
}

macro_rules! field {
    ($field:ident $set:ident: $ty:ty, $doc:literal) => {
        #[doc = $doc]
        #[must_use]
        pub fn $field(&self) -> Option<&$ty> {
            self.$field.as_ref()
        }

        #[doc = concat!("Sets: ", $doc)]
        pub fn $set(&mut self, value: $ty) -> &mut Self {
            set(&mut self.$field, value);
            self
        }
    };
}

impl RequestContext {
    /// The context of a request, if any layer has written one.
    #[must_use]
    // Asked by nearly every layer: one copy of the look-up is in the cache for all of them.
    #[inline(never)]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    /// The context of a request, made if there is none yet.
    pub fn of_mut(extensions: &mut Extensions) -> &mut Self {
        extensions.get_or_insert_default::<Self>()
    }

    field!(connection set_connection: ConnectionInfo, "the connection it came by, from `serve`.");
    field!(client set_client: ClientAddr, "the client's address, from `ClientAddrLayer`.");
    field!(principal set_principal: Principal, "who is asking, from `ProxyTokenLayer` or a client certificate.");
    field!(target set_target: Target, "the parsed target, from `TargetLayer`.");
    field!(permit set_permit: EgressPermit, "the permit to dial, from `SsrfGuardLayer`.");
    field!(rate_limit set_rate_limit: RateLimitState, "what is left of the quotas, from `RateLimitLayer`.");
    field!(record set_record: RecordHandle, "the open audit record, from `AuditLayer`.");

    field!(
        credential_fields set_credential_fields: Arc<[HeaderName]>,
        "the fields that carry this server's own credentials. They are gone from the header section and may not be forwarded as trailers either."
    );

    /// Takes the permit: it is used once, by whoever forwards.
    pub fn take_permit(&mut self) -> Option<EgressPermit> {
        self.permit.take()
    }

    /// Takes the principal: a layer that names one first throws away what was there.
    pub fn take_principal(&mut self) -> Option<Principal> {
        self.principal.take()
    }

    /// What is left of the quotas, to be added to.
    pub fn rate_limit_mut(&mut self) -> &mut RateLimitState {
        self.rate_limit.get_or_insert_default()
    }

    /// Whether the server found the request's line or framing not to be by the letter: `RequestHeadLayer` refuses it.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Notes that the request's line or framing is not by the letter.
    pub fn set_malformed(&mut self) -> &mut Self {
        self.malformed = true;
        self
    }

    /// What is known of the JSON-RPC request.
    #[must_use]
    pub fn mcp(&self) -> Option<&McpCall> {
        self.mcp.as_deref()
    }

    /// Sets what is known of the JSON-RPC request.
    pub fn set_mcp(&mut self, call: impl Into<Arc<McpCall>>) -> &mut Self {
        set(&mut self.mcp, call.into());
        self
    }
}
