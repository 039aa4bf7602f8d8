//! Denials leave on a time grid, so that their timing draws no map of the network behind this server.
//!
//! ```
//! use std::time::Duration;
//!
//! use portcullis::{body::ResponseBody, denial_floor::DenialFloorLayer, rejection::{Rejection, RejectionKind}};
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let denied = service_fn(|_: http::Request<()>| async {
//!     Ok::<_, std::convert::Infallible>(Rejection::new(RejectionKind::Denied).into_response::<ResponseBody<http_body_util::Empty<bytes::Bytes>>>())
//! });
//! let service = DenialFloorLayer::new(Duration::from_millis(100)).layer(denied);
//! let start = tokio::time::Instant::now();
//! assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 403);
//! assert_eq!(start.elapsed().as_millis(), 100);
//! # Ok(()) }
//! ```
//!
//! # Rules
//! 1. Only responses that carry a [`Rejection`](crate::rejection::Rejection) of kind
//!    [`Denied`](crate::rejection::RejectionKind::Denied) wait; everything else passes at once.
//! 2. They leave at the next multiple of the step after the request's *arrival* at this layer, at the earliest after one step:
//!    a refused literal (microseconds) and a name that does not exist (a look-up) look the same unless the look-up crosses a
//!    multiple.
//! 3. Nothing is held while waiting: the inner future and the inner body are gone, with the permits in them.
//! 4. A step of zero turns the grid off.
//!
//! # Where it stands
//! Near the outside, directly inside `AuditLayer`: the wait belongs to the request's duration, and every inner layer's denials
//! pass through.
//!
//! # Cost
//! One read of the clock a request; a timer for a denial only.
//!
//! # What it does not hide
//! Failures that are not denials (a DNS server that fails or does not answer, a refused connection) answer 502 or 504 when they
//! happen. A look-up that takes longer than a step moves its answer to a later multiple.

mod future;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use layer::DenialFloorLayer;
pub use service::DenialFloor;
