//! How many requests run at the same time, for each key and in all.
//!
//! ```
//! use http::{Request, Response};
//! use portcullis::{concurrency_limit::ConcurrencyLimitLayer, limiter::Everybody};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(ConcurrencyLimitLayer::new().per_key(1, Everybody).total(1000))
//!     .service(service_fn(|_: Request<String>| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }));
//!
//! let first = service.clone().oneshot(Request::default()).await.unwrap();
//! let second = service.clone().oneshot(Request::default()).await.unwrap();
//! assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 429));
//! drop(first);
//! assert_eq!(service.oneshot(Request::default()).await.unwrap().status().as_u16(), 200);
//! # }
//! ```
//!
//! # Rules
//! 1. A request takes a permit when it comes and gives it back when the answer's body has ended or was dropped, not when the
//!    head is sent: an event stream counts as long as it is open.
//! 2. A request that asks for an upgrade (`Upgrade`, or `CONNECT`) finds a [`Permit`] in its extensions. Whoever runs the tunnel
//!    takes it and keeps it to the tunnel's end. Every clone has to be dropped before the permit is given back.
//! 3. Too many of one key: 429 `concurrency_limited`. Too many in all: 503 `saturated`. Both carry `Retry-After` and fall at
//!    once; nothing waits in a queue.
//! 4. A request that lacks what the key needs is refused as `Misconfigured`.
//!
//! # Where it stands
//! After the principal's rate limit: a request that is refused for its rate never holds a permit.
//!
//! # Cost
//! One short lock on the key's shard when a request comes and one when it ends; the state is one entry for each key that has a
//! request running.

mod layer;
mod permit;
mod service;

#[cfg(test)]
mod tests;

pub use layer::{ConcurrencyLimitHandle, ConcurrencyLimitLayer};
pub use permit::{Permit, PermitBody};
pub use service::{ConcurrencyLimit, ResponseFuture};
