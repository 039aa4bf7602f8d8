//! The layer.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::McpSession;
use crate::tokens::SessionStore;

/// Binds sessions to their owners. See the [module](super).
#[derive(Clone)]
pub struct McpSessionLayer {
    store: Arc<dyn SessionStore>,
}

impl McpSessionLayer {
    /// Keeps the bindings in `store`.
    #[must_use]
    pub fn new(store: impl SessionStore) -> Self {
        Self { store: Arc::new(store) }
    }
}

impl<S> Layer<S> for McpSessionLayer {
    type Service = McpSession<S>;

    fn layer(&self, inner: S) -> McpSession<S> {
        McpSession::new(inner, Arc::clone(&self.store))
    }
}

impl fmt::Debug for McpSessionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpSessionLayer").finish_non_exhaustive()
    }
}
