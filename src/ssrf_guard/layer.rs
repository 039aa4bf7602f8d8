use tower_layer::Layer;

use super::SsrfGuard;
use crate::{check::Checked, egress::PolicyHandle};

/// Gives permits, or refuses. See the [module](super).
#[derive(Clone, Debug)]
pub struct SsrfGuardLayer {
    pub(super) policy: PolicyHandle,
}

impl SsrfGuardLayer {
    /// Judges by the policy in force behind the handle at the time of each request.
    #[must_use]
    pub fn new(policy: PolicyHandle) -> Self {
        Self { policy }
    }
}

impl<S> Layer<S> for SsrfGuardLayer {
    type Service = SsrfGuard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Checked::new(inner, self.clone())
    }
}
