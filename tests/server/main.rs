//! The bundled server as a program: spawned, configured by a file, asked over real sockets.

mod browser;
mod config;
mod demo;
mod forwarding;
mod mcp;
mod operations;
mod refusals;
mod support;
mod websocket;
