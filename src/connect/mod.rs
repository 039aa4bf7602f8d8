//! The guarded connector, the authority of the egress guard: the addresses that were judged are the addresses dialled.
//!
//! Rules:
//! 1. Without an [`EgressPermit`](crate::egress::EgressPermit) there is no connection.
//! 2. One look-up per connect: a literal is itself, `.localhost` is 127.0.0.1 and `::1`, everything else is asked of the resolver,
//!    once. Retries stay inside the answers.
//! 3. Every answer is judged through the permit. A dialer takes [`ApprovedAddr`](crate::egress::ApprovedAddr), which only the
//!    guard can make.
//! 4. At most [`MAX_ATTEMPTS`] addresses are tried, in their order, inside one deadline that TLS belongs to. The look-up has a
//!    deadline of its own.
//! 5. Before a byte is written, the connection's peer address has to be the one that was dialled.
//! 6. TLS verifies the host's name (or the address, for a literal); no proxy variables, no Alt-Svc, no HTTPS records.
//!
//! ```
//! use std::sync::Arc;
//! use portcullis::{connect::{GuardedConnector, RecordingDialer}, egress::{EgressPolicy, PolicyHandle}, net::Target, resolve::FixedResolver};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dialer = RecordingDialer::default();
//! let connector = GuardedConnector::builder()
//!     .resolver(FixedResolver::new(["8.8.8.8".parse()?, "10.0.0.1".parse()?]))
//!     .dialer(dialer.clone())
//!     .build()?;
//! let policy = PolicyHandle::new(EgressPolicy::default());
//! let permit = policy.permit(&Target::parse("http://mixed.example/")?)?;
//! assert!(connector.connect(&permit, false).await.is_err());
//! assert!(dialer.dials().is_empty());
//! # Ok(()) }
//! ```

mod connector;
mod dial;
mod error;
mod io;
#[cfg(feature = "tls")]
mod tls;

pub use connector::{ConnectTimings, Connected, GuardedConnector, GuardedConnectorBuilder, MAX_ATTEMPTS};
pub use dial::{Dial, Dialing, RecordingDialer, TcpDialer};
pub use error::ConnectError;
pub use io::ConnectedIo;
