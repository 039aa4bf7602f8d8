//! The layer and its list.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use tower_layer::Layer;

use super::ClientAllow;
use crate::{ConfigError, check::Checked, forwarded::Networks};

/// The networks that may talk to this server. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct ClientNetworks(Arc<Place>);

#[derive(Debug, Default)]
struct Place {
    /// Whether there has ever been a network on the list: until then there is nothing to look at. It never goes back, so that no two
    /// exchanges at once can leave it wrong.
    in_use: AtomicBool,
    networks: ArcSwap<Networks>,
}

impl ClientNetworks {
    /// A list of networks; empty for everyone.
    ///
    /// # Errors
    /// If an entry is not a network in CIDR notation or an address.
    pub fn new<S: AsRef<str>>(networks: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        let list = Self::default();
        list.replace(networks)?;
        Ok(list)
    }

    /// Puts another list in force.
    ///
    /// # Errors
    /// As [`Self::new`]; the old list then stays.
    pub fn replace<S: AsRef<str>>(&self, networks: impl IntoIterator<Item = S>) -> Result<(), ConfigError> {
        let networks = Networks::parse(networks)?;
        if !networks.is_empty() {
            self.0.in_use.store(true, Ordering::Release);
        }
        self.0.networks.store(Arc::new(networks));
        Ok(())
    }

    /// The list in force; `None` where everyone may come, and always has been able to.
    pub(super) fn now(&self) -> Option<arc_swap::Guard<Arc<Networks>>> {
        self.0.in_use.load(Ordering::Acquire).then(|| self.0.networks.load())
    }
}

/// Lets only some networks in. See the [module](super).
#[derive(Clone, Debug)]
pub struct ClientAllowLayer {
    pub(super) networks: ClientNetworks,
}

impl ClientAllowLayer {
    /// Lets these networks in.
    #[must_use]
    pub fn new(networks: ClientNetworks) -> Self {
        Self { networks }
    }
}

impl<S> Layer<S> for ClientAllowLayer {
    type Service = ClientAllow<S>;

    fn layer(&self, inner: S) -> ClientAllow<S> {
        Checked::new(inner, self.clone())
    }
}
