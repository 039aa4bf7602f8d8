//! Looking names up. Whatever a resolver answers is judged afterwards; a resolver is never the guard.
//!
//! Rules:
//! 1. One look-up per connection, as an absolute name: no search list, no hosts file.
//! 2. Everything the resolver saw is handed on, in its order: hiding a bad answer would hide a mixed answer.
//! 3. A name that does not exist and one without addresses are the same: [`ResolveError::NoSuchName`].
//! 4. Answers are remembered no longer than their TTL, at most a minute, and a TTL of zero not at all.

mod cache;
mod fixed;
#[cfg(feature = "hickory")]
mod hickory;

use std::{fmt, future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

pub use cache::CachingResolver;
pub use fixed::{FixedResolver, MapResolver};
#[cfg(feature = "hickory")]
pub use hickory::{HickoryBuilder, HickoryResolver};

use crate::net::Name;

/// Most addresses that a name may have.
pub const MAX_ANSWERS: usize = 64;

/// The future of a look-up. Boxed, because look-ups happen for new connections only.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Answers, ResolveError>> + Send + 'a>>;

/// Looks names up.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// All addresses of an absolute name, in the order in which they are to be tried.
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a>;
}

impl<R: Resolve + ?Sized> Resolve for Arc<R> {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        (**self).resolve(name)
    }
}

/// What a look-up has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    addrs: Vec<IpAddr>,
    valid_for: Duration,
}

impl Answers {
    /// Addresses and how long they may be remembered.
    #[must_use]
    pub fn new(addrs: Vec<IpAddr>, valid_for: Duration) -> Self {
        Self { addrs, valid_for }
    }

    /// The addresses.
    #[must_use]
    pub fn addrs(&self) -> &[IpAddr] {
        &self.addrs
    }

    /// How long they may be remembered.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.valid_for
    }
}

/// Why a look-up has no answer. Texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveError {
    /// NXDOMAIN, or no address record (NODATA).
    NoSuchName,
    /// The name server failed, refused, or answered something that is not taken.
    Failed(Box<str>),
    /// No answer in time.
    Timeout,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("the name does not exist or has no address"),
            Self::Failed(why) => write!(f, "the look-up failed: {why}"),
            Self::Timeout => f.write_str("the look-up took too long"),
        }
    }
}

impl std::error::Error for ResolveError {}
