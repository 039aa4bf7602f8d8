//! The layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::{CertRule, ClientCert};
use crate::check::Checked;

/// Names the principal of a client certificate. See the [module](super).
#[derive(Clone, Debug)]
pub struct ClientCertLayer {
    pub(super) rules: Arc<[CertRule]>,
}

impl ClientCertLayer {
    /// Asks these rules, in their order.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = CertRule>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }
}

impl<S> Layer<S> for ClientCertLayer {
    type Service = ClientCert<S>;

    fn layer(&self, inner: S) -> ClientCert<S> {
        Checked::new(inner, self.clone())
    }
}
