//! The audit record of one request or tunnel, shared by the layers that fill it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode};

use super::{ClientAddr, McpCall};
use crate::net::Target;

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Not ended yet.
    #[default]
    Open,
    /// The response, or the tunnel, ran to its end.
    Complete,
    /// This server refused it.
    Refused,
    /// The client went away before the end.
    ClientGone,
    /// The target failed after its head had been relayed.
    UpstreamFailed,
    /// A limit, a revocation or the shutdown ended it in mid-body.
    Aborted,
}

/// Which side ended a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedBy {
    /// The client.
    Client,
    /// The target.
    Target,
    /// This server.
    Proxy,
}

/// Everything that is known about one request. Layers fill in what they learn; the audit layer writes it when the body or the
/// tunnel ends.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// When the request head had arrived.
    pub started: Option<SystemTime>,
    /// From arrival to the end of the body or tunnel.
    pub duration: Option<Duration>,
    /// From arrival to the response head.
    pub head_after: Option<Duration>,
    /// The request's id.
    pub request_id: u128,
    /// The client.
    pub client: Option<ClientAddr>,
    /// The token's id, never the token.
    pub token: Option<Arc<str>>,
    /// The request's method.
    pub method: Option<Method>,
    /// Where it was to go.
    pub target: Option<Target>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// Why it was refused or failed: `Rejection::reason`.
    pub reason: Option<&'static str>,
    /// The Proxy-Status error in full.
    pub proxy_status: Option<&'static str>,
    /// The operator's detail of a rejection.
    pub detail: Option<Box<str>>,
    /// The address that was dialled.
    pub dialed: Option<SocketAddr>,
    /// Whether a pooled connection was used.
    pub reused: bool,
    /// Body (or tunnel) bytes from the client.
    pub bytes_in: u64,
    /// Body (or tunnel) bytes to the client.
    pub bytes_out: u64,
    /// What was asked of an MCP server.
    pub mcp: Option<Box<McpCall>>,
    /// The WebSocket close code that passed.
    pub close_code: Option<u16>,
    /// Who closed a tunnel.
    pub closed_by: Option<ClosedBy>,
    /// Whether the response was an upgrade.
    pub tunnel: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// A handle on the open record. When the last one is dropped the record is complete.
#[derive(Clone, Debug)]
pub struct RecordHandle(Arc<Mutex<Record>>);

impl RecordHandle {
    /// Opens a record.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self(Arc::new(Mutex::new(record)))
    }

    /// Reads or fills the record.
    pub fn with<R>(&self, f: impl FnOnce(&mut Record) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
