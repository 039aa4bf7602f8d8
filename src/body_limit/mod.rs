//! How long a request's body may be.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use portcullis::body_limit::{BodyLimitLayer, LimitedBody};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = ServiceBuilder::new().layer(BodyLimitLayer::new(4)).service(service_fn(
//!     |request: Request<LimitedBody<Full<Bytes>>>| async {
//!         let bytes = request.into_body().collect().await.unwrap().to_bytes();
//!         Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes)))
//!     },
//! ));
//! let status = |body: &'static str| service.clone().oneshot(Request::new(Full::from(body)));
//! assert_eq!(status("four").await.unwrap().status().as_u16(), 200);
//! assert_eq!(status("fives").await.unwrap().status().as_u16(), 413);
//! # }
//! ```
//!
//! # Rules
//! 1. A body whose announced length (`Content-Length`) is above the limit is refused with 413 before a byte of it is read, so a
//!    client that sent `Expect: 100-continue` never sends it.
//! 2. Every other body is counted while it streams. When it goes over the limit it ends with a [`BodyLimitError`] whose source is
//!    a [`LengthLimitError`]; nothing above the limit is passed on. The service that reads it answers 413:
//!    [`LengthLimitError::is_in`] finds the cause however deep it was wrapped. `ProxyService` does.
//! 3. Trailers do not count.
//!
//! # Where it stands
//! Right before the service that reads the body. It changes the request's body type to [`LimitedBody`].
//!
//! # Cost
//! One counter for each body; no allocation.

mod body;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use body::{BodyLimitError, LengthLimitError, LimitedBody};
pub use layer::{BodyLimitHandle, BodyLimitLayer};
pub use service::BodyLimit;

pub use crate::reply::ResponseFuture;
