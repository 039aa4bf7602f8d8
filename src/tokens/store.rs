//! Where tokens are looked up.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use super::{LiveToken, Principal, TokenDigest, TokenHasher};

/// The store cannot answer. The request is refused: nobody comes in because a store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreUnavailable;

impl fmt::Display for StoreUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the token store does not answer")
    }
}

impl std::error::Error for StoreUnavailable {}

/// An answer now, or later.
pub enum Lookup<T> {
    /// Known at once; `None` if there is no such thing.
    Ready(Result<Option<T>, StoreUnavailable>),
    /// Somebody else has to be asked.
    Later(Pin<Box<dyn Future<Output = Result<Option<T>, StoreUnavailable>> + Send>>),
}

impl<T> fmt::Debug for Lookup<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(Ok(Some(_))) => "Ready(found)",
            Self::Ready(Ok(None)) => "Ready(unknown)",
            Self::Ready(Err(_)) => "Ready(unavailable)",
            Self::Later(_) => "Later",
        })
    }
}

/// Where tokens are looked up, by digest.
///
/// A store has to be bounded: an unknown token may not leave anything behind that grows.
pub trait TokenStore: Send + Sync + 'static {
    /// Looks a digest up.
    fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>>;

    /// How this store's digests are made.
    fn hasher(&self) -> &TokenHasher;
}

impl<T: TokenStore + ?Sized> TokenStore for Arc<T> {
    fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>> {
        (**self).lookup(digest)
    }

    fn hasher(&self) -> &TokenHasher {
        (**self).hasher()
    }
}

/// Where single-use tickets are redeemed.
pub trait TicketStore: Send + Sync + 'static {
    /// Takes the ticket out and answers with the principal it was issued to, its scopes narrowed to the ticket's target. A second
    /// call with the same ticket finds nothing.
    fn redeem(&self, ticket: &[u8]) -> Lookup<Principal>;
}

impl<T: TicketStore + ?Sized> TicketStore for Arc<T> {
    fn redeem(&self, ticket: &[u8]) -> Lookup<Principal> {
        (**self).redeem(ticket)
    }
}
