//! Forwarding, on real sockets with raw bytes on both sides.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail by panicking, and measure real time"
)]

mod advisories;
mod exchange;
mod heads;
mod hostile;
mod pings;
mod support;
mod websocket;
#[path = "../shared/wire.rs"]
mod wire;

fn connector() -> portcullis::connect::GuardedConnector {
    portcullis::connect::GuardedConnector::builder().build().unwrap()
}
