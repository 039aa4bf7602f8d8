//! How long a whole exchange may take, from the request's arrival to the last byte of the answer.
//!
//! ```
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use portcullis::total_timeout::TotalTimeoutLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let service = ServiceBuilder::new().layer(TotalTimeoutLayer::new(Duration::from_secs(60))).service(service_fn(
//!     |_: Request<()>| async {
//!         tokio::time::sleep(Duration::from_secs(3600)).await;
//!         Ok::<_, std::convert::Infallible>(Response::new(String::new()))
//!     },
//! ));
//! assert_eq!(service.oneshot(Request::new(())).await.unwrap().status().as_u16(), 504);
//! # }
//! ```
//!
//! # Rules
//! 1. Off unless a limit is set ([`TotalTimeoutLayer::off`] is the default): then nothing is timed and no timer exists.
//! 2. The time counts from the moment the request reaches this layer. It covers the upload, everything that inner layers wait for
//!    (a limit store, the name server, the target), and the answer's body.
//! 3. Before the answer's head: 504 [`TotalTimeout`](crate::rejection::RejectionKind::TotalTimeout). What was under way inside is
//!    dropped, so that the exchange with the target ends at once.
//! 4. After the head: the body ends with [`TotalTimeoutError::Elapsed`], so that the client sees a broken transfer and never a
//!    short body that looks whole. The audit record ends `aborted`, with the reason `total_timeout`.
//! 5. Answers that are meant to last are never timed once their head is there: event streams (`text/event-stream`, so also the
//!    answer to MCP's `subscriptions/listen`), upgrades (`101`, WebSocket) and `CONNECT` tunnels. Until then the limit holds for
//!    them as for any other request: a stream that has not begun is an answer that is not coming.
//! 6. A new limit ([`TotalTimeoutHandle::set`]) is for requests that arrive from then on.
//!
//! # Where it stands
//! Inside of what marks and formats answers (audit, browser rules, JSON-RPC errors), so that its 504 is marked and formatted too;
//! outside of everything that waits.
//!
//! # Cost
//! Nothing while it is off. Else one read of the clock a request, and a timer where the inner service is not ready at once.
//!
//! # Deployment
//! It has a timer of its own, made when a limit is set and the inner service is not ready at once: the timers of connection and
//! forwarder belong to one step each, and stand still while a client does not take what is there. A server that keeps time for
//! slow readers finds the moment in the response's extensions ([`Deadline`](crate::context::Deadline)); this crate's `serve` cuts
//! such a connection then. Behind another server a client that reads nothing is only noticed when it reads again.

mod body;
mod future;
mod layer;
mod service;
mod watch;

#[cfg(test)]
mod tests;

pub use body::{TimedBody, TotalTimeoutError};
pub use future::ResponseFuture;
pub use layer::{TotalTimeoutHandle, TotalTimeoutLayer};
pub use service::TotalTimeout;
