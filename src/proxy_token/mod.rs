//! `ProxyTokenLayer`: nobody comes in without a token.
//!
//! ```
//! use portcullis::{proxy_token::{FailureLimit, ProxyTokenLayer, TokenSource}, tokens::{StaticTokens, TokenHasher, TokenRecord}};
//!
//! let hasher = TokenHasher::plain();
//! let record = TokenRecord::new("ci")?.with_hash(hasher.hash("an-example-of-at-least-32-characters")?)?;
//! let layer = ProxyTokenLayer::new(StaticTokens::new(hasher, [record])?)
//!     .sources([TokenSource::header("x-proxy-token")?, TokenSource::query("proxy_token")?.on_upgrades_and_event_streams()])
//!     .failure_gate(FailureLimit::new());
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. A credential is taken from the [`TokenSource`]s that the operator names, by default the `X-Proxy-Token` field. Exactly one
//!    credential counts: two different ones are a 400, the same one twice is one.
//! 2. Whatever could carry a credential is removed before anything further in sees it: the field, the query parameter (every other
//!    byte of the query stays), the subprotocol entry. The names of the fields go into the
//!    [`RequestContext`](crate::context::RequestContext), so that the forwarder drops them from trailers too.
//! 3. A token in a query ends up in logs, so it is taken on WebSocket upgrades and event streams only, where browsers can set no
//!    field. Elsewhere it does not count.
//! 4. Attempts that fail are limited per client network by the [`FailureGate`], before anything is hashed.
//! 5. Missing, unknown, disabled, expired: one answer, a constant 401. It is a 407 for `CONNECT` and absolute-form requests only.
//!    The audit reason tells them apart: `missing_token`, `unknown_token`, `token_checksum`, `disabled_token`,
//!    `token_not_yet_valid`, `expired_token`, `query_token_not_allowed`, `unknown_ticket`, `client_certificate_required`.
//! 6. The challenge names the scheme `ProxyToken` and not `Bearer`: MCP clients take a Bearer challenge for the target's and would
//!    start an OAuth registration with the proxy.
//! 7. A store that does not answer lets nobody in: 503, reason `token_store_unavailable`.
//! 8. A principal that a client certificate has brought counts only where [`ProxyTokenLayer::or_client_certificate`] or
//!    [`ProxyTokenLayer::and_client_certificate`] says so.
//!
//! # Where it stands
//! After the client's own limiter, so that guessing is bounded before credentials are looked at; before
//! everything that asks who it is. The target's `Authorization` passes untouched, but is marked sensitive.
//!
//! # Cost
//! One hash of the token (SHA-256, most of the layer's 0.25 µs where the processor has instructions for it), one look-up, one comparison
//! in constant time, no allocation.
//! Removing a token from a query writes the query anew.
//!
//! **Carrier in the WebSocket handshake.** Browsers cannot set fields on a WebSocket, but they can offer subprotocols. An entry
//! `base64url.bearer.authorization.portcullis.<token in base64url without padding>` beside the real ones is taken as the token and
//! removed. A browser that offers nothing else gets that entry back as the selected protocol: it would close the socket otherwise.
//! That repeats the token to the client that has just sent it, so offer a real protocol beside it where there is one.

mod extract;
mod future;
mod gate;
mod layer;
mod query;
mod service;
mod source;

pub use future::ResponseFuture;
pub use gate::{FailureGate, FailureLimit};
pub use layer::ProxyTokenLayer;
pub use service::ProxyToken;
pub use source::{QueryToken, TokenSource};
