//! `ClientAllowLayer`: which networks may talk to this server at all.
//!
//! ```
//! use portcullis::client_allow::{ClientAllowLayer, ClientNetworks};
//!
//! let networks = ClientNetworks::new(["192.168.0.0/16", "fd00::/8"])?;
//! let layer = ClientAllowLayer::new(networks.clone());
//! networks.replace(["192.168.7.0/24"])?;               // later, at a reload
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. An empty list lets everyone pass.
//! 2. Otherwise the client, as [`ClientAddrLayer`](crate::client_addr) trusts it to be, has to be in one of the networks; else 403
//!    (`ClientDenied`).
//! 3. With a list and without a client address nobody passes (`Misconfigured`).
//! 4. The list is replaced in place with [`ClientNetworks::replace`]; the next request sees the new one.
//!
//! # Where it stands
//! Right after the client's address is known, before the browser rules, limits and credentials: whoever is not
//! let in costs nothing more than this look.
//!
//! # Cost
//! One look at the list, linear in its length; no allocation, no lock. Where there has never been a list, a look at one flag.

mod layer;
mod service;

pub use layer::{ClientAllowLayer, ClientNetworks};
pub use service::ClientAllow;

pub use crate::reply::ResponseFuture;
