use std::sync::Arc;

use tower_layer::Layer;

use super::{TargetParser, TargetService};

/// Reads the target of each request. See the [module](super).
#[derive(Clone, Debug)]
pub struct TargetLayer<X> {
    shared: Arc<Shared<X>>,
}

#[derive(Debug)]
pub(super) struct Shared<X> {
    pub(super) extractor: X,
    pub(super) parser: TargetParser,
}

impl<X> TargetLayer<X> {
    /// Reads targets where the extractor finds them. All services of one layer share its memory of parsed origins.
    #[must_use]
    pub fn new(extractor: X) -> Self {
        Self { shared: Arc::new(Shared { extractor, parser: TargetParser::new() }) }
    }
}

impl<S, X> Layer<S> for TargetLayer<X> {
    type Service = TargetService<S, X>;

    fn layer(&self, inner: S) -> Self::Service {
        TargetService::new(inner, Arc::clone(&self.shared))
    }
}
