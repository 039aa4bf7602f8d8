//! Tower middleware for servers that fetch URLs somebody else chose.
#![cfg_attr(docsrs, feature(doc_cfg))]

// F0: values
pub mod body;
pub mod clock;
mod error;
pub mod net;
pub mod rejection;
pub mod reply;
mod request_form;
mod secret;
pub mod signal;
// F1: pure decisions
pub mod context;
pub mod egress;
pub mod forwarded;
pub mod limiter;
pub mod mcp_wire;
pub mod tokens;
// F2: layers
pub mod audit;
pub mod body_limit;
pub mod browser;
pub mod client_addr;
pub mod client_allow;
#[cfg(feature = "tls")]
pub mod client_cert;
pub mod concurrency_limit;
pub mod denial_floor;
pub mod mcp_session;
pub mod proxy_token;
pub mod rate_limit;
pub mod request_head;
pub mod request_line;
pub mod response_limit;
pub mod ssrf_guard;
pub mod target;
pub mod token_scope;
pub mod trace_span;
// F3: input and output
#[cfg(feature = "proxy")]
pub mod connect;
#[cfg(feature = "proxy")]
pub mod resolve;
pub mod stores;
#[cfg(feature = "proxy")]
pub mod upstream;
// F4: forwarding
pub mod mcp;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy")]
pub mod serve;
// F5: presets
#[cfg(feature = "proxy")]
pub mod stack;

pub use error::ConfigError;
pub use secret::Secret;
