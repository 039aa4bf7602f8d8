//! Reads the target of a request, once, into the shared [`RequestContext`](crate::context::RequestContext).
//!
//! ```
//! use portcullis::{context::RequestContext, target::{PathPrefix, TargetLayer}};
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = TargetLayer::new(PathPrefix::new("/proxy/")?);
//! let service = layer.layer(service_fn(|request: http::Request<()>| async move {
//!     let target = RequestContext::of(request.extensions()).and_then(|c| c.target()).map(ToString::to_string);
//!     assert_eq!(target.as_deref(), Some("https://example.com/a?b=c"));
//!     Ok::<_, std::convert::Infallible>(http::Response::new(()))
//! }));
//! let request = http::Request::builder().uri("/proxy/https://EXAMPLE.com/a?proxy_token=x&b=c").body(())?;
//! assert_eq!(service.oneshot(request).await?.status(), 200);
//! # Ok(()) }
//! ```
//!
//! # Rules
//! 1. One [`TargetExtractor`] says where the target is written: behind a path prefix, in a header, in a query parameter, in the
//!    request line, or fixed by the operator.
//! 2. The text is parsed by [`Target::parse`](crate::net::Target::parse) and nothing else. No target, two targets, userinfo, a
//!    fragment or a malformed URL is [`RejectionKind::MalformedTarget`](crate::rejection::RejectionKind::MalformedTarget) with a
//!    text that names the part and echoes nothing.
//! 3. The header that named the target is removed. Behind a path prefix the query is the target's, byte for byte, except that a
//!    parameter named exactly `proxy_token` is removed.
//! 4. A target that is in the context already is replaced. An open audit record is told.
//!
//! # Where it stands
//! Right behind `ProxyTokenLayer`: the limiter of the principal, the scopes and the guard all ask for the target.
//!
//! # Cost
//! A URL without a query that was seen twice a short while ago is a look-up, without an allocation; one whose origin alone was
//! seen costs two. A new origin costs a whole URL parse.
//!
//! # Deployment
//! A front server that normalises paths (merges slashes, decodes `%2F`) breaks path-style targets; `https:/host/` with one
//! slash is understood, anything else it does is not.

mod cache;
mod extract;
mod layer;
mod service;

pub use cache::TargetParser;
pub use extract::{AbsoluteForm, Connect, Fixed, FromHeader, FromQuery, PathPrefix, TargetExtractor};
pub use layer::TargetLayer;
pub use service::TargetService;

pub use crate::reply::ResponseFuture;
