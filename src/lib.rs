//! Tower middleware for servers that fetch URLs somebody else chose: forwarding proxies, MCP gateways for browser front-ends,
//! webhook senders, link previews.
//!
//! # The way of a request
//!
//! ```text
//!  client ──▶ AuditLayer             one record a request or tunnel, whatever becomes of it
//!             DenialFloorLayer       refused targets leave on a time grid
//!             RequestHeadLayer       sizes, Host                          431 414 400 417
//!             RequestLineLayer       TRACE, CONNECT, absolute form        405 501 400
//!             ClientAddrLayer        who is it, through trusted hops
//!             ClientAllowLayer       may this network come at all         403
//!             BrowserLayer           Host, Origin, preflight              400 421 403
//!             TotalTimeoutLayer      the whole exchange, if it is limited 504
//!             RateLimitLayer         by client address                    429
//!             ConcurrencyLimitLayer  of all                               503
//!             ClientCertLayer        whom a certificate stands for
//!             ProxyTokenLayer        who is asking                        401 407
//!             TargetLayer            where to, parsed once                400
//!             ConcurrencyLimitLayer  by token, to the end of the body     429
//!             RateLimitLayer         by token                             429
//!             TokenScopeLayer        may this token go there              403
//!             SsrfGuardLayer         may anybody: gives the permit        403
//!             BodyLimitLayer, ResponseLimitLayer                          413 502
//!             ProxyService           takes the permit, forwards           502 504 508
//!               └ GuardedConnector   resolve once, judge every answer, dial only those, check the peer, TLS by name
//! ```
//!
//! Each layer stands alone; a stack takes those it needs, in this order. They speak through one request extension, the
//! [`RequestContext`](context::RequestContext): an outer layer writes there what an inner one needs, and what is missing is a
//! refusal, never a pass. A refusal is an ordinary response, with its typed cause in the response's extensions; all of them are in
//! [one table](rejection).
//!
//! Two things hold whatever the stack looks like. The forwarder needs an [`EgressPermit`](egress::EgressPermit), which only a
//! policy can make, so the guard cannot be left out. And the connector dials only addresses that the permit's policy has judged,
//! so there is no gap between what was checked and what is used.
#![cfg_attr(
    feature = "proxy",
    doc = r#"
# A whole proxy

```
use portcullis::{
    connect::GuardedConnector, egress::{EgressPolicy, PolicyHandle}, proxy::ProxyService, proxy_token::ProxyTokenLayer,
    resolve::FixedResolver, ssrf_guard::SsrfGuardLayer, target::{PathPrefix, TargetLayer},
    tokens::{StaticTokens, TokenHasher, TokenRecord}, upstream::{Body, Upstream},
};
use http::Request;
use tower::{ServiceBuilder, ServiceExt as _};

# #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
let hasher = TokenHasher::plain();
let token = TokenRecord::new("ci")?.with_hash(hasher.hash("an-example-of-at-least-32-characters")?)?;
let policy = PolicyHandle::new(EgressPolicy::builder().build()?);
// Without `resolver` the system's name servers are asked.
let connector = GuardedConnector::builder().resolver(FixedResolver::new(["10.0.0.7".parse()?])).build()?;

let stack = ServiceBuilder::new()
    .layer(ProxyTokenLayer::new(StaticTokens::new(hasher, [token])?))
    .layer(TargetLayer::new(PathPrefix::new("/proxy/")?))
    .layer(SsrfGuardLayer::new(policy.clone()))
    .service(ProxyService::new(Upstream::builder(policy, connector).build()));

// A public name that leads to a private address: refused, and nothing was dialled.
let request = Request::get("/proxy/https://rebind.example.com/")
    .header("x-proxy-token", "an-example-of-at-least-32-characters")
    .body(Body::empty())?;
assert_eq!(stack.oneshot(request).await?.status(), 403);
# Ok(()) }
```

The service's error is `Infallible`, so axum and hyper take it as it is; [`serve`] is a hardened server for those who have none.
Longer walks are in the [`guide`].
"#
)]
//! # The rooms
//!
//! * Values: [`net`], [`body`], [`clock`], [`signal`], [`rejection`], [`reply`], [`check`], [`ConfigError`], [`Secret`].
//! * Pure decisions: [`context`], [`egress`], [`forwarded`], [`limiter`], [`tokens`].
//! * Layers: [`audit`], [`trace_span`], [`request_head`], [`request_line`], [`denial_floor`], [`client_addr`], [`client_allow`],
//!   [`browser`], [`rate_limit`], [`concurrency_limit`], `client_cert` (feature `tls`), [`proxy_token`], [`target`],
//!   [`token_scope`], [`mcp_session`], [`ssrf_guard`], [`body_limit`], [`response_limit`], [`total_timeout`].
//! * Input and output: [`stores`], and with the feature `proxy` `resolve`, `connect` and `upstream`, the guarded client.
//! * Forwarding: [`mcp`], and with the feature `proxy` `proxy` and `serve`.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `proxy` | yes | the guarded client, `ProxyService`, the server; hyper and httparse under them |
//! | `hickory` | yes | DNS through hickory, the connector's default resolver |
//! | `tls` | yes | rustls with ring and Mozilla's roots, towards targets and on the listener; client certificates |
//! | `redis` | no | `RedisStore`: rate limits that several servers share |
//! | `metrics` | no | `MetricsSink`: counters and histograms through the `metrics` facade |
//!
//! A feature adds items and never changes how others behave. Without any, the layers remain, without hyper and sockets.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(all(feature = "proxy", feature = "tls")), allow(rustdoc::broken_intra_doc_links))]

// F0: values
pub mod body;
pub mod check;
pub mod clock;
mod error;
pub mod net;
pub mod rejection;
pub mod reply;
mod request_form;
mod secret;
pub mod signal;
mod spare;
mod wire;
// F1: pure decisions
pub mod context;
pub mod egress;
pub mod forwarded;
pub mod limiter;
mod mcp_wire;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use mcp_wire::fuzz_json_peek;
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
pub mod total_timeout;
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
// F5: the whole
#[cfg(feature = "proxy")]
pub mod guide;

pub use error::ConfigError;
pub use secret::Secret;

/// The code of the README, compiled.
#[cfg(all(doctest, feature = "proxy"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
