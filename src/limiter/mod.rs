//! F1: rate-limit arithmetic and the bounded memory store. Pure decisions.

/// What is left of the quotas of one request, for the answer's fields.
#[derive(Clone, Debug, Default)]
pub struct RateLimitState {}
