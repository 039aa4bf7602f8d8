//! The layer and its list.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tower_layer::Layer;

use super::ClientAllow;
use crate::{ConfigError, forwarded::Networks};

/// The networks that may talk to this server. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct ClientNetworks(Arc<ArcSwap<Networks>>);

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
        self.0.store(Arc::new(Networks::parse(networks)?));
        Ok(())
    }

    pub(super) fn now(&self) -> arc_swap::Guard<Arc<Networks>> {
        self.0.load()
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
        ClientAllow { inner, networks: self.networks.clone() }
    }
}
