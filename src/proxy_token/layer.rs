//! The layer.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue};
use tower_layer::Layer;

use super::{FailureGate, ProxyToken, TokenSource, source::Source};
use crate::{
    clock::{Clock, SystemClock},
    tokens::{TicketStore, TokenStore},
};

/// What a principal from a client certificate is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Certificate {
    #[default]
    Ignored,
    Instead,
    AsWell,
}

/// Asks for a token. See the [module](super).
pub struct ProxyTokenLayer<T> {
    config: Config<T>,
}

/// What the service reads; shared by its clones.
pub(super) struct Config<T> {
    pub(super) store: Arc<T>,
    pub(super) tickets: Option<Arc<dyn TicketStore>>,
    pub(super) sources: Arc<[TokenSource]>,
    pub(super) fields: Arc<[HeaderName]>,
    pub(super) gate: Option<Arc<dyn FailureGate>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) certificate: Certificate,
    pub(super) challenge: HeaderValue,
    pub(super) proxy_challenge: HeaderValue,
}

impl<T: TokenStore> ProxyTokenLayer<T> {
    /// Looks tokens up in `store`; takes them from the `X-Proxy-Token` field until [`Self::sources`] says otherwise.
    #[must_use]
    pub fn new(store: T) -> Self {
        let config = Config {
            store: Arc::new(store),
            tickets: None,
            sources: Arc::default(),
            fields: Arc::default(),
            gate: None,
            clock: Arc::new(SystemClock),
            certificate: Certificate::default(),
            challenge: HeaderValue::from_static("ProxyToken realm=\"portcullis\""),
            proxy_challenge: HeaderValue::from_static("Basic realm=\"portcullis\""),
        };
        Self { config }.sources([TokenSource(Source::Header(HeaderName::from_static("x-proxy-token")))])
    }

    /// Where credentials may be. What any of them names is removed from every request.
    #[must_use]
    pub fn sources(mut self, sources: impl IntoIterator<Item = TokenSource>) -> Self {
        self.config.sources = sources.into_iter().collect();
        self.config.fields = self.config.sources.iter().filter_map(TokenSource::field).collect();
        self
    }

    /// Redeems tickets there. Without this a ticket is worth nothing.
    #[must_use]
    pub fn tickets(mut self, tickets: impl TicketStore) -> Self {
        self.config.tickets = Some(Arc::new(tickets));
        self
    }

    /// Limits failed attempts per client network. The client's address is then needed: put `ClientAddrLayer` outside of this one.
    #[must_use]
    pub fn failure_gate(mut self, gate: impl FailureGate) -> Self {
        self.config.gate = Some(Arc::new(gate));
        self
    }

    /// Reads the time from another clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Arc::new(clock);
        self
    }

    /// A client certificate does instead of a token; a token that is sent has to be good all the same, and then counts.
    #[must_use]
    pub fn or_client_certificate(mut self) -> Self {
        self.config.certificate = Certificate::Instead;
        self
    }

    /// A client certificate is needed as well as a token; the token says who it is.
    #[must_use]
    pub fn and_client_certificate(mut self) -> Self {
        self.config.certificate = Certificate::AsWell;
        self
    }
}

impl<S, T> Layer<S> for ProxyTokenLayer<T> {
    type Service = ProxyToken<S, T>;

    fn layer(&self, inner: S) -> ProxyToken<S, T> {
        ProxyToken { inner, config: Arc::new(self.config.clone()) }
    }
}

// By hand: a derive would ask the store to be `Clone`.
impl<T> Clone for ProxyTokenLayer<T> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone() }
    }
}

impl<T> Clone for Config<T> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            tickets: self.tickets.clone(),
            sources: Arc::clone(&self.sources),
            fields: Arc::clone(&self.fields),
            gate: self.gate.clone(),
            clock: Arc::clone(&self.clock),
            certificate: self.certificate,
            challenge: self.challenge.clone(),
            proxy_challenge: self.proxy_challenge.clone(),
        }
    }
}

impl<T> fmt::Debug for ProxyTokenLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyTokenLayer").field("sources", &self.config.sources).finish_non_exhaustive()
    }
}
