//! response_limit
