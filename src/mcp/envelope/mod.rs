//! `POST /proxy`: one JSON-RPC message in an envelope, answered with one JSON-RPC message.
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use portcullis::{context::RequestContext, mcp::{EnvelopeBody, EnvelopeService}, tokens::Principal};
//! use tower::{ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! // In the place of the guarded stack: a server that answers every message with an empty result.
//! let stack = service_fn(async |request: Request<EnvelopeBody>| {
//!     let body = request.into_body().collect().await.unwrap().to_bytes();
//!     let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
//!     let answer = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": {}}).to_string();
//!     let response = Response::builder().header("content-type", "application/json").body(Full::<bytes::Bytes>::from(answer));
//!     Ok::<_, std::convert::Infallible>(response.unwrap())
//! });
//! let body = r#"{"mcp_server_url":"https://mcp.example.com/mcp","method":"ping","jsonrpc":"2.0","id":["x"]}"#;
//! let mut request = Request::post("/proxy").header("content-type", "application/json").body(Full::<bytes::Bytes>::from(body)).unwrap();
//! RequestContext::of_mut(request.extensions_mut()).set_principal(Principal::new("ci"));
//! let response = EnvelopeService::new(stack).oneshot(request).await.unwrap();
//! let answer = response.into_body().collect().await.unwrap().to_bytes();
//! assert_eq!(answer, r#"{"id":["x"],"jsonrpc":"2.0","result":{}}"#);
//! # });
//! ```
//!
//! The envelope names the server and the message (`mcp_server_url`, `mcp_token`, `method`, `params`, `id`); the service speaks
//! Streamable HTTP to that server:
//!
//! # Rules
//! 1. Both types stand in `Accept`; an event stream is read up to the answer with the request's id and dropped. Requests and
//!    notifications of the server in between are skipped.
//! 2. Ids of any JSON type are echoed. The server sees an integer of our own, because MCP takes only strings and integers.
//! 3. A session (`initialize`, `notifications/initialized`, `Mcp-Session-Id`, `MCP-Protocol-Version`) is kept for each principal, target
//!    and `mcp_token`, and opened when the caller has not. An explicit `initialize` is passed on and its session kept. A 404 within a
//!    session opens a new one, once.
//! 4. A server that knows no `initialize` but answers `server/discover` is of revision 2026-07-28: messages go to it one by one with
//!    `Mcp-Method`, `Mcp-Name` and the protocol fields in `_meta`. A caller that writes `_meta` itself speaks that revision by itself.
//! 5. JSON-RPC errors of the server pass whole, with its status (a 401 or 407 becomes 502: here they would mean our own token). A
//!    message without an id is answered with 202.
//! 6. Refusals of this service and of the stack below it are JSON-RPC errors with the request's id.
//!
//! # Where it stands
//! It stands where `TargetLayer` stands otherwise: behind authentication and the principal's limits, in front of scopes and guard.
//! Each message of a handshake goes through the whole inner stack. A stream that the server closes before its answer, to be resumed
//! with `Last-Event-ID`, is not resumed; `Mcp-Param-*` fields, which need a tool's schema, are not made; a session that makes room for
//! another one is not closed at its server, which ends it by its own idle time.
//!
//! # Cost
//! The whole message is held, at most the size that [`EnvelopeService::max_bodies`] allows, and so is its answer. A first call
//! may cost a handshake of three requests.

mod body;
mod call;
mod service;
mod sessions;

pub use self::{
    body::EnvelopeBody,
    service::{EnvelopeFuture, EnvelopeService},
};
