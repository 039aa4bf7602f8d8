//! The bundled server as a program: spawned, configured by a file, asked over real sockets.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that panics has failed"
)]

mod browser;
mod config;
mod demo;
mod drain;
// The example's own tests of its values run with these.
#[allow(dead_code, unused_imports)]
#[path = "../../examples/mcp_proxy/config/mod.rs"]
mod example_config;
#[path = "../../examples/mcp_proxy/rotate.rs"]
mod example_rotate;
mod forwarding;
mod mcp;
mod operations;
#[path = "../shared/process.rs"]
mod process;
mod refusals;
mod reload;
#[cfg(feature = "redis")]
mod replicas;
mod rotation;
mod slow;
mod support;
mod websocket;
#[path = "../shared/wire.rs"]
mod wire;
