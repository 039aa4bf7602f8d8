//! Proxy tokens: format, hashes, records, scopes and the table that finds them. Pure decisions.
//!
//! 1. A token made here reads `<prefix>_<id>_<secret><crc>`, for instance `pcl_4kT9…_…`: eight characters of id, 32 random bytes
//!    and a CRC-32, all in Base62. A slip of the pen fails the check sum and never reaches a store. Any other string of 32 or more
//!    visible ASCII characters is accepted too; a shorter one only under a name that says so ([`TokenHasher::weak`]).
//! 2. At rest a token is its SHA-256, or its HMAC-SHA-256 under a pepper that lives elsewhere. Random secrets need no slow hash,
//!    and a slow hash would be a lever for whoever floods the server.
//! 3. A [`TokenRecord`] has one or two hashes, each with its own time window, so that a rotation can overlap.
//! 4. The table is asked by digest; what it finds is compared in constant time, and where it finds nothing a dummy is compared.
//! 5. A token that is removed, disabled, expired or narrowed fires the revocation signal of its [`Principal`], which ends what is
//!    still open under it.
//!
//! ```
//! use portcullis::tokens::{StaticTokens, TokenHasher, TokenRecord, generate};
//!
//! let new = generate("pcl")?;                       // shown once: new.secret.expose()
//! let hasher = TokenHasher::plain();
//! let record = TokenRecord::new("ci")?.with_hash(hasher.hash(new.secret.expose())?)?;
//! let tokens = StaticTokens::new(hasher, [record])?;
//! assert_eq!(tokens.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod digest;
mod format;
mod live;
mod pattern;
mod principal;
mod record;
mod scopes;
mod session;
mod static_store;
mod store;

pub use digest::{TokenDigest, TokenHasher};
pub(crate) use format::{Checksum, checksum};
pub use format::{DEFAULT_PREFIX, GeneratedToken, MIN_TOKEN_LEN, generate};
pub use live::{LiveToken, TokenFault, verify};
pub use pattern::TargetPattern;
pub use principal::Principal;
pub use record::{TokenHash, TokenRecord};
pub use scopes::TokenScopes;
pub use session::{SessionKey, SessionStore};
pub use static_store::StaticTokens;
pub use store::{Lookup, StoreUnavailable, TicketStore, TokenStore};
