use std::time::Duration;

use tower_layer::Layer;

use super::DenialFloor;

/// Puts denials on a time grid. See the [module](super).
#[derive(Clone, Copy, Debug)]
pub struct DenialFloorLayer {
    step: Duration,
}

impl DenialFloorLayer {
    /// The grid's step; zero turns it off.
    #[must_use]
    pub fn new(step: Duration) -> Self {
        Self { step }
    }
}

/// 100 ms.
impl Default for DenialFloorLayer {
    fn default() -> Self {
        Self::new(Duration::from_millis(100))
    }
}

impl<S> Layer<S> for DenialFloorLayer {
    type Service = DenialFloor<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DenialFloor::new(inner, self.step)
    }
}
