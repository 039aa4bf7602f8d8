//! concurrency_limit
