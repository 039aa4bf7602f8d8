//! What happens when targets, clients or this server itself misbehave or go away: real sockets on loopback, the whole stack.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::large_futures,
    clippy::large_stack_arrays,
    clippy::items_after_statements,
    clippy::used_underscore_binding,
    clippy::similar_names,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail by panicking, and measure real time"
)]

mod drain;
mod http2;
mod leaving;
mod matrix;
mod overload;
mod slow;
mod slow_http2;
mod support;
mod total;
mod uploads;
#[path = "../shared/wire.rs"]
mod wire;
