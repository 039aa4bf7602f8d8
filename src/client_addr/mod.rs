//! `ClientAddrLayer`: who the client is.
//!
//! ```
//! use std::net::SocketAddr;
//! use portcullis::client_addr::ClientAddrLayer;
//!
//! #[derive(Clone)]
//! struct ConnectInfo(SocketAddr);                     // axum has one, hyper servers make one
//!
//! let layer = ClientAddrLayer::peer::<ConnectInfo>(|c| c.0).trust(["10.0.0.0/8"])?;
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. The other end of the connection is read from a request extension that the server sets.
//! 2. If it is a trusted hop, the client is read out of what the hops have written, from the right: see [`crate::forwarded`].
//! 3. The answer goes into the [`RequestContext`](crate::context::RequestContext) and into the open audit record.
//! 4. Without the extension nothing is known, and the request is refused (`Misconfigured`).
//!
//! # Where it stands
//! Outermost but for the audit layer. Everything that counts per client or lets networks in asks for its answer.
//!
//! # Cost
//! No allocation without a trusted hop; with one, the reading of its field.
//!
//! **Mind:** a trusted hop has to *write* the header. One that passes it on as it came lets every client choose its address.

mod layer;
mod service;

pub use layer::ClientAddrLayer;
pub use service::ClientAddrService;

pub use crate::reply::ResponseFuture;
