//! How long an answer's body may be.
//!
//! ```
//! use http::{Request, Response};
//! use portcullis::response_limit::ResponseLimitLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(ResponseLimitLayer::new(4))
//!     .service(service_fn(|_: Request<()>| async { Ok::<_, std::convert::Infallible>(Response::new("five!".to_owned())) }));
//! assert_eq!(service.oneshot(Request::new(())).await.unwrap().status().as_u16(), 502);
//! # }
//! ```
//!
//! # Rules
//! 1. An answer whose announced length is above the limit is replaced by 502 `response_too_large` before its head is sent.
//! 2. Every other answer is counted while it streams. Over the limit the stream is aborted with an error, so that the client sees
//!    a broken transfer and never a short body that looks complete.
//! 3. Event streams (`text/event-stream`) have no end, so their length is not limited; the size of a single event may be
//!    ([`ResponseLimitLayer::event_size`]).
//! 4. Answers without a body (to `HEAD`; 101, 204, 304) are never refused for the length they announce.
//!
//! # Where it stands
//! Outside the service that fetches the answer, inside everything that records it.
//!
//! # Cost
//! One counter for each body; no allocation. With an event size the bytes of event streams are scanned for line ends.

mod body;
mod events;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use body::{CappedBody, ResponseLimitError};
pub use layer::{ResponseLimitHandle, ResponseLimitLayer};
pub use service::{ResponseFuture, ResponseLimit};
