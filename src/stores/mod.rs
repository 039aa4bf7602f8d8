//! Where tokens, tickets and session bindings are kept.
//!
//! * [`WatchedFile`] reads a file again when it has changed; with it and
//!   [`StaticTokens::replace`](crate::tokens::StaticTokens::replace) a token file is in force within a second or two.
//! * [`CachedTokens`] asks a remote store and remembers its answers for a few seconds.
//! * `RedisStore` (feature `redis`) counts quotas for several servers.
//! * [`MemoryTickets`] and [`MemorySessions`] keep what one process needs to know.
//!
//! All of them are bounded, and none lets anybody in because something else is away.

mod cached;
mod file;
#[cfg(feature = "redis")]
mod redis;
mod sessions;
mod tickets;

pub use cached::{CachedTokens, RemoteTokens};
pub use file::{Change, FileError, WatchedFile};
#[cfg(feature = "redis")]
pub use redis::{RedisStore, RedisStoreBuilder, WhenAway};
pub use sessions::MemorySessions;
pub use tickets::{MemoryTickets, Ticket, TicketsFull};
