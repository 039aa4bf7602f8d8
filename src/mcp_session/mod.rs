//! `McpSessionLayer`: an MCP session belongs to the token and the target that it was issued to.
//!
//! ```
//! use portcullis::{mcp_session::McpSessionLayer, stores::MemorySessions};
//!
//! let layer = McpSessionLayer::new(MemorySessions::bounded(100_000));
//! ```
//!
//! # Rules
//! 1. An `Mcp-Session-Id` that a target issues is bound to the principal that asked, for this target.
//! 2. A request with the id of another principal's session is a 403 (`Denied`, reason `session`). Never a 404: clients read that as
//!    "the session is gone" and start over.
//! 3. An id that nobody is bound to (issued before this server started, say) is bound to the first principal that uses it.
//! 4. Two ids in one request are a 400. A store that does not answer is a 503, reason `session_store_unavailable`.
//! 5. Without a principal or a target the request is refused (`Misconfigured`).
//!
//! # Where it stands
//! After `TargetLayer` and `TokenScopeLayer`. Whoever steals a session id of another tenant has to steal the
//! token as well.
//!
//! # Cost
//! A request without a session id passes untouched. With one: a keyed hash and one look-up.

mod future;
mod layer;
mod service;

pub use future::ResponseFuture;
pub use layer::McpSessionLayer;
pub use service::McpSession;
