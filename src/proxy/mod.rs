//! [`ProxyService`]: the end of the stack. It takes the egress permit and forwards.
//!
//! 1. Without an [`EgressPermit`](crate::egress::EgressPermit) in the request's context it answers 500: the guard cannot be forgotten.
//! 2. Heads are cleaned in both directions by one table: hop-by-hop fields and everything that any `Connection` line names, in
//!    headers and trailers; identity fields and their `_` and `.` spellings; for targets of the caller's choice also what a browser
//!    says about its page, and on the way back what would speak for this server's own origin.
//! 3. `Via` is added; an own entry in it is a loop (508). `TRACE` is 405, a wrong `Expect` 417, a protected field named in
//!    `Connection` 400.
//! 4. Only WebSocket upgrades are relayed. Both sides of the handshake are checked before a byte of the new protocol crosses; an
//!    answer that was not asked for is 502.
//! 5. Bodies stream. A client that goes away closes its upstream connection at once.
//! 6. In a WebSocket only Pings of the proxy's own are added, if [`WebSocketPing`] is set, and their answers kept back.
//! 7. Tunnels and event streams end when their token is revoked, a new policy forbids their target, or the server drains.
//!
//! **Not forwarded**: interim responses but `100` (hyper's server cannot send them), and `Proxy-Status` trailers: a response that
//! breaks off in mid-body is aborted, so that it cannot be taken for a whole one.
//!
//! ```
//! use http::Request;
//! use portcullis::{
//!     connect::{GuardedConnector, RecordingDialer}, context::RequestContext, egress::{EgressPolicy, PolicyHandle}, net::Target,
//!     proxy::ProxyService, resolve::FixedResolver, upstream::{Body, Upstream},
//! };
//! use tower::ServiceExt as _;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = PolicyHandle::new(EgressPolicy::default());
//! let connector = GuardedConnector::builder()
//!     .resolver(FixedResolver::new(["93.184.215.14".parse()?]))
//!     .dialer(RecordingDialer::default())
//!     .build()?;
//! let proxy = ProxyService::new(Upstream::builder(policy, connector).build());
//!
//! // A target, but no guard in front: nothing is asked of DNS and nothing is dialled.
//! let mut request = Request::new(Body::empty());
//! RequestContext::of_mut(request.extensions_mut()).set_target(Target::parse("https://example.com/")?);
//! assert_eq!(proxy.oneshot(request).await?.status(), 500);
//! # Ok(()) }
//! ```

mod credentials;
mod flow;
mod forwarded;
mod frames;
mod ping;
mod place;
mod sanitize;
mod service;
mod tunnel;
mod websocket;

pub use forwarded::ForwardedFields;
pub use frames::WebSocketLimits;
pub use ping::WebSocketPing;
pub use service::{ProxyBody, ProxyService, ProxyServiceBuilder, ResponseFuture};
