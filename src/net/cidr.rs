//! Sets of networks.

/// A set of networks.
#[derive(Clone, Debug, Default)]
pub struct CidrSet {}
