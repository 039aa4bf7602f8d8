//! Quotas for requests.
//!
//! ```
//! use http::{Request, Response};
//! use portcullis::{
//!     context::{ClientAddr, RequestContext},
//!     limiter::{MemoryStore, Quota},
//!     rate_limit::{ByClient, RateLimitLayer},
//! };
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new(Quota::per_minute(600).burst(1)).key(ByClient).store(MemoryStore::bounded(100_000)))
//!     .service(service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }));
//!
//! let request = || {
//!     let mut request = Request::new(String::new());
//!     let peer = "192.0.2.7:4711".parse().unwrap();
//!     RequestContext::of_mut(request.extensions_mut()).set_client(ClientAddr::new("192.0.2.7".parse().unwrap(), peer, false));
//!     request
//! };
//! let first = service.clone().oneshot(request()).await.unwrap();
//! assert_eq!(first.headers()["ratelimit"], "\"default\";r=0;t=1");
//! let second = service.oneshot(request()).await.unwrap();
//! assert_eq!((second.status().as_u16(), &second.headers()["retry-after"]), (429, &"1".parse().unwrap()));
//! # }
//! ```
//!
//! # Rules
//! 1. A layer holds one to eight named policies. They are asked together and take all or none: a request that one of them
//!    refuses costs nothing with the others.
//! 2. A policy is a quota, a key (whose quota), a cost, and optionally a condition. A request that lacks what a key needs (no
//!    client address, no principal) is refused as `Misconfigured`: the layer that provides it is missing from the stack.
//! 3. A refusal is 429 with `Retry-After` (rounded up, at least 1, jitter on request), the violated policies in the problem
//!    document, and the rate-limit fields. It never reaches the inner service.
//! 4. Answers carry `RateLimit-Policy` and `RateLimit` as of draft-ietf-httpapi-ratelimit-headers-11, or the older
//!    `X-RateLimit-*`, or nothing ([`Fields`]). Where several layers tell, the innermost that was reached tells of all of them, the
//!    outermost first, and an outer one adds only what was not told.
//! 5. A policy in shadow mode never refuses; what it would have done stands in the request's
//!    [`RateLimitState`](crate::limiter::RateLimitState) and in the audit record.
//! 6. A cost may be amended by what the answer's body has cost in the end; a debt made in this way holds back later requests.
//! 7. Policies can be swapped while requests run ([`RateLimitHandle`]); a key's state belongs to the policy's name and survives.
//!
//! # Where it stands
//! Twice: right after `ClientAddrLayer` with [`ByClient`], before any credential is looked at, so that guessing is slowed down
//! and an unknown token never makes an entry; and after `ProxyTokenLayer` with [`ByPrincipal`].
//!
//! # Cost
//! With the store in memory the layer is synchronous: no clone of the inner service, and nothing boxed. An allowed request that
//! is told the same as the last one on its thread, as those are whose clients have nearly all left, needs no allocation; another
//! one needs three to five, for the words. A remote store costs its round trip, within its budget.

mod body;
mod fields;
mod future;
mod layer;
mod policy;
mod service;

#[cfg(test)]
mod tests;

pub use body::AmendBody;
pub use fields::Fields;
pub use future::ResponseFuture;
pub use layer::{RateLimitHandle, RateLimitLayer};
pub use policy::{Policy, Used};
pub use service::RateLimit;

pub use crate::limiter::{
    And, ByClient, ByMcpMethod, ByPrincipal, ByTargetHost, Everybody, KeyExtractor, MissingKey, RequestView, is_mcp_probe,
};
