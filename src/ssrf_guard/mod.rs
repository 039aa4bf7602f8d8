//! The early answer of the egress guard, and the permit for what follows.
//!
//! ```
//! use portcullis::{context::RequestContext, egress::{EgressPolicy, PolicyHandle}, net::Target, ssrf_guard::SsrfGuardLayer};
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guard = SsrfGuardLayer::new(PolicyHandle::new(EgressPolicy::default()));
//! let service = guard.layer(service_fn(|request: http::Request<()>| async move {
//!     assert!(RequestContext::of(request.extensions()).is_some_and(|c| c.permit().is_some()));
//!     Ok::<_, std::convert::Infallible>(http::Response::new(()))
//! }));
//!
//! let mut request = http::Request::new(());
//! RequestContext::of_mut(request.extensions_mut()).set_target(Target::parse("http://169.254.169.254/")?);
//! assert_eq!(service.oneshot(request).await?.status(), 403);
//! # Ok(()) }
//! ```
//!
//! # Rules
//! 1. The target comes from the shared [`RequestContext`](crate::context::RequestContext); without one the answer is
//!    [`RejectionKind::Misconfigured`](crate::rejection::RejectionKind::Misconfigured).
//! 2. Scheme, host, port and literal addresses are judged by the policy generation in force at this moment. A refusal is
//!    [`RejectionKind::Denied`](crate::rejection::RejectionKind::Denied); the client cannot tell which rule it was.
//! 3. What passes gets an [`EgressPermit`](crate::egress::EgressPermit) that carries the generation. A permit that an outer
//!    layer left behind is replaced or removed, never kept.
//! 4. Names are not looked up here: the connector does that once, and dials what was judged.
//!
//! # Where it stands
//! Behind the layers that say who is asking and whether that one may ask for this target (`TargetLayer`, `TokenScopeLayer`),
//! in front of whatever forwards. Nothing that changes the target may stand behind it: the connector dials what the permit
//! says, not what the context says.
//!
//! # Cost
//! About 50 ns and no allocation: the permit shares the target that the target layer has parsed. A refusal costs the operator's
//! text.
//!
//! # Deployment
//! This layer alone does not stop a name that resolves to a private address. The proof does that: only the guarded connector
//! turns a permit into a connection. Forwarding with another client behind this layer throws the proof away.

mod layer;
mod service;

pub use layer::SsrfGuardLayer;
pub use service::SsrfGuard;

pub use crate::reply::ResponseFuture;
