//! The layer.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::Extensions;
use tower_layer::Layer;

use super::ClientAddrService;
use crate::{
    ConfigError,
    check::Checked,
    context::RequestContext,
    forwarded::{ForwardedField, Networks},
};

/// Where the connection's other end is read from.
type Peer = dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync;

/// Says who the client is. See the [module](super).
#[derive(Clone)]
pub struct ClientAddrLayer {
    pub(super) peer: Arc<Peer>,
    pub(super) trusted: Arc<Networks>,
    pub(super) field: ForwardedField,
}

impl ClientAddrLayer {
    /// Reads the connection's other end out of an extension of type `E`.
    #[must_use]
    pub fn peer<E: Send + Sync + 'static>(address: impl Fn(&E) -> SocketAddr + Send + Sync + 'static) -> Self {
        let peer = move |extensions: &Extensions| extensions.get::<E>().map(&address);
        Self { peer: Arc::new(peer), trusted: Arc::default(), field: ForwardedField::default() }
    }

    /// Takes the connection's other end from [`serve`](crate::serve), which notes it in the request's context.
    #[must_use]
    pub fn connection() -> Self {
        let peer = |extensions: &Extensions| Some(RequestContext::of(extensions)?.connection()?.peer());
        Self { peer: Arc::new(peer), trusted: Arc::default(), field: ForwardedField::default() }
    }

    /// The hops whose forwarded header is believed. Without this, none.
    ///
    /// # Errors
    /// If an entry is not a network in CIDR notation or an address.
    pub fn trust<S: AsRef<str>>(mut self, networks: impl IntoIterator<Item = S>) -> Result<Self, ConfigError> {
        self.trusted = Arc::new(Networks::parse(networks)?);
        Ok(self)
    }

    /// The header that the trusted hops write; `X-Forwarded-For` unless this says otherwise.
    #[must_use]
    pub fn field(mut self, field: ForwardedField) -> Self {
        self.field = field;
        self
    }
}

impl<S> Layer<S> for ClientAddrLayer {
    type Service = ClientAddrService<S>;

    fn layer(&self, inner: S) -> ClientAddrService<S> {
        Checked::new(inner, self.clone())
    }
}

impl fmt::Debug for ClientAddrLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAddrLayer").field("trusted", &self.trusted).field("field", &self.field).finish_non_exhaustive()
    }
}
