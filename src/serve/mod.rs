//! A hardened server for the stack: HTTP/1.1 and HTTP/2 connections with every limit set.
//!
//! `axum::serve` and a bare hyper loop hold a client that never finishes its request head for ever, forget upgraded
//! connections when they shut down, and answer an early refusal of an upload with a reset. This server does not:
//!
//! 1. A request head has to be complete within 10 s of its first byte, the first one within 10 s of the connection's start, TLS
//!    handshake and PROXY header included.
//! 2. A request body that stalls (10 s) or drips (under 100 bytes a second) fails with a [`BodyError`] whose
//!    [`rejection`](BodyError::rejection) is 408. Only time in which somebody waits for the client counts.
//! 3. A client that does not take its reply for 10 s, or takes it at under 100 bytes a second, is reset. Under HTTP/2 its stream
//!    alone is reset. A quiet event stream is not touched. A reply that has a [`Deadline`](crate::context::Deadline) and is not taken
//!    by then is cut.
//! 4. After an early final answer the connection is closed for writing only, and up to 1 MiB is read and thrown away for 2 s,
//!    so that the client sees the 413 or 401 and not a reset.
//! 5. At most 10,000 connections, tunnels included; one more gets 503 with `Retry-After`.
//! 6. HTTP/2: 100 streams, windows of 64 KiB and 1 MiB, pings, extended CONNECT (RFC 8441), few tolerated resets. Without TLS
//!    it is recognised by its preface, with TLS by ALPN. A reply that breaks off resets its stream only after its head and what
//!    else was queued have been written: h2 throws away what is queued when it resets.
//! 7. On shutdown the listener closes, idle connections close, requests in flight may finish, tunnels are told and waited for.
//!    What has not ended within the drain time is cut; [`Drained`] says how much.
//!
//! Plain HTTP/1.1 requests (a path, a few fields, no body or a small one that comes with its head) are read by `httparse` and called
//! at once. Whatever else a connection carries, hyper reads, from there to the connection's end.
//!
//! [`Server::reconfigure`] puts other times and sizes in force while the server runs.
//!
//! The parser's own limits stand a little above those of [`RequestHeadLayer`](crate::request_head::RequestHeadLayer), so that
//! refusals come from the layer, with a problem document and an audit record. What hyper refuses by itself (bad framing, 400;
//! a header section far over the limit, 431) reaches no layer; it is counted in [`ConnectionStats::parse_errors`]. Interim
//! (1xx) replies other than 100 and 101 cannot be sent: hyper 1.12 has no way to.
//!
//! Each request carries a [`RequestContext`](crate::context::RequestContext) with its
//! [`ConnectionInfo`](crate::context::ConnectionInfo), the only extension that the server adds.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use portcullis::{body::ResponseBody, serve::{RequestBody, Server}};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let hello = tower::service_fn(|_request: http::Request<RequestBody>| async {
//!     Ok::<_, Infallible>(http::Response::new(ResponseBody::<RequestBody>::full("hello\n")))
//! });
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let server = Server::builder().header_timeout(Duration::from_secs(5)).drain(Duration::from_secs(10)).build();
//! let shutdown = async { /* wait for SIGTERM */ };
//! let drained = server.serve(listener, hello, shutdown).await;
//! assert!(drained.is_clean());
//! # Ok(())
//! # }
//! ```

mod body;
mod connection;
mod direct;
mod drain;
mod flow;
mod framing;
mod io;
mod keeper;
mod pace;
mod proxy_protocol;
mod server;
mod service;
mod stats;
mod streams;
#[cfg(feature = "tls")]
mod tls;

pub use body::{BodyError, RequestBody};
pub use drain::{Drained, TunnelGuard, Tunnels};
pub use server::{Builder as ServerBuilder, Server, check_listener};
pub use stats::ConnectionStats;
#[cfg(feature = "tls")]
pub use tls::{ClientAuth, Tls, TlsFiles};
