//! Forwarding, on real sockets with raw bytes on both sides.

mod exchange;
mod heads;
mod hostile;
mod support;
mod websocket;

fn connector() -> portcullis::connect::GuardedConnector {
    portcullis::connect::GuardedConnector::builder().build().unwrap()
}
