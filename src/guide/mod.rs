//! Chapters: how the pieces are put together, and what they do not do.
//!
//! * [`webhooks`]: guard outgoing webhooks in an axum app in 20 lines
//! * [`mcp_gateway`]: an MCP gateway for a browser front-end
//! * [`front_servers`]: behind nginx, Caddy or a cloud balancer
//! * [`replicas`]: from one machine to many
//! * [`extending`]: a token store, a limit store, a layer of one's own
//! * [`limits`]: what this does not protect against
//! * [`contributing`]: where a layer, a refusal, a metric, a rule goes

#[doc = include_str!("webhooks.md")]
pub mod webhooks {}

#[doc = include_str!("mcp_gateway.md")]
pub mod mcp_gateway {}

#[doc = include_str!("front_servers.md")]
pub mod front_servers {}

#[doc = include_str!("replicas.md")]
pub mod replicas {}

#[doc = include_str!("extending.md")]
pub mod extending {}

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("contributing.md")]
pub mod contributing {}
