//! The layer.

use tower_layer::Layer;

use super::TokenScope;

/// Holds a token to its scopes. See the [module](super).
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenScopeLayer(());

impl TokenScopeLayer {
    /// A layer; everything it needs to know comes with the principal.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for TokenScopeLayer {
    type Service = TokenScope<S>;

    fn layer(&self, inner: S) -> TokenScope<S> {
        TokenScope { inner }
    }
}
