//! Rate-limit arithmetic, keys, and the bounded memory store. Pure decisions: no I/O, time comes in as a number.
//!
//! * [`Quota`]: how much in which time, and how much of it at once; decided by GCRA (the leaky bucket of ITU-T I.371 as a
//!   virtual schedule), so that a key's whole state is one number: its theoretical arrival time (TAT).
//! * [`Key`]: whose quota it is, read from a request by a [`KeyExtractor`]. Built from parts, so that composites cannot be confused, and able to become coarser.
//! * [`MemoryStore`]: cells of 16 bytes in a table of fixed size. A cell whose TAT has passed equals an absent one, so only such
//!   cells are given to other keys. Where a key finds no cell, it shares one with its neighbours (`/64`, then `/48`, then `/32`,
//!   then one cell for everybody): a flood of new keys costs the flood its own quota, and nobody who is limited is forgotten.
//! * [`LimitStore`]: the interface the layers use; the Redis store implements it too.
//! * [`Meter`]: one stream's own allowance of messages or bytes: first slower, then closed.
//!
//! ```
//! use std::time::Duration;
//! use portcullis::limiter::{Key, MemoryStore, PolicyId, Quota};
//!
//! let store = MemoryStore::bounded(1 << 12);
//! let policy = PolicyId::new("per-user")?;
//! let quota = Quota::per_minute(60).burst(2);
//! let key = Key::of_str("alice");
//! let now = Duration::from_secs(1000);
//! assert!(store.check(&policy, quota, &key, 1, now).allowed());
//! assert!(store.check(&policy, quota, &key, 1, now).allowed());
//! let refused = store.check(&policy, quota, &key, 1, now);
//! assert!(!refused.allowed());
//! assert_eq!(refused.retry_after(), Duration::from_secs(1));
//! # Ok::<(), portcullis::ConfigError>(())
//! ```

mod extract;
mod key;
mod memory;
mod meter;
mod quota;
mod sip;
mod state;
mod store;
mod table;

pub use extract::{
    And, ByClient, ByMcpMethod, ByPrincipal, ByTargetHost, Everybody, KeyExtractor, MissingKey, RequestView, is_mcp_probe,
};
pub use key::Key;
pub use memory::{DEFAULT_CELLS, MemoryStore};
pub use meter::{Meter, MeterVerdict};
pub use quota::{Decision, Quota};
pub(crate) use sip::SipKey;
pub(crate) use state::Told;
pub use state::{PolicyState, RateLimitState};
pub use store::{Ask, Batch, CheckFuture, LimitStore, MAX_POLICIES, OwnedAsk, PolicyId, StoreUnavailable};
