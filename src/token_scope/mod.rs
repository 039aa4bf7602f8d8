//! `TokenScopeLayer`: what this token may do with this target.
//!
//! ```
//! use portcullis::{token_scope::TokenScopeLayer, tokens::TokenScopes};
//!
//! let scopes = TokenScopes::new().targets(["https://*.example.com/mcp/*"])?.tools(["search", "echo"])?;
//! let layer = TokenScopeLayer::new();
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. The principal's [`TokenScopes`](crate::tokens::TokenScopes) are held against the target, the HTTP method and, for a
//!    handshake, against the right to open a WebSocket. What does not fit is a 403 like every other denial, reason `scope`.
//! 2. Only where the scopes name MCP methods or tools, the JSON-RPC messages in the request body are looked at. The body goes on
//!    streaming: at most [`LOOK`] bytes are held back, and they are replayed.
//! 3. The look is strict, because a server may read odd JSON otherwise than we do: a key given twice or in another case, a byte
//!    order mark, a second document, another character set or a content coding are refused. Every element of a batch is judged; a
//!    batch has to fit into the look.
//! 4. When a body is longer than the look, its method (and for `tools/call` the tool) has to stand in what was seen, else it is
//!    refused. The rest is scanned as it streams by: a second `method` further back breaks the request off before its end.
//! 5. `Mcp-Method` and `Mcp-Name` (also in the `=?base64?…?=` form) are judged as well and have to agree with the body. They alone
//!    decide nothing, not even where `MCP-Protocol-Version` makes servers verify them (2026-07-28): the version is the client's
//!    word, and an older server behind it ignores all three. They give the early refusal, before the body has come.
//! 6. A tunnel cannot be looked into: a token with MCP scopes opens neither a WebSocket nor `CONNECT` tunnels.
//! 7. Without a principal, or with scopes and no target, the request is refused (`Misconfigured`).
//!
//! # Where it stands
//! After the target is known and before the guard, so that a token never learns what the policy says of
//! targets that are none of its business.
//!
//! # Cost
//! Nothing for a token without MCP scopes but the comparison of its targets. With them at most [`LOOK`] bytes of a body are
//! held back, and the rest is scanned as it passes.

mod body;
mod future;
mod judge;
mod layer;
mod scan;
mod service;

pub use body::{ScopedBody, ScopedBodyError};
pub use future::ResponseFuture;
pub use layer::TokenScopeLayer;
pub use service::TokenScope;

/// How much of a body is held back to be looked at, in bytes.
pub const LOOK: usize = 64 * 1024;
