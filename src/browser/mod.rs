//! `BrowserLayer`: what a browser may do here, and what pages that come through here may do in a browser.
//!
//! ```
//! use portcullis::browser::BrowserLayer;
//!
//! let layer = BrowserLayer::new()
//!     .allow_hosts(["proxy.example.com"])?
//!     .allow_origins(["https://app.example.com"])?
//!     .exempt(|request| request.uri.path() == "/health")
//!     .proxied(|request| request.uri.path().starts_with("/proxy/"));
//! # Ok::<(), portcullis::ConfigError>(())
//! ```
//!
//! # Rules
//! 1. `Host` is checked as RFC 9112 §3.2 asks: in HTTP/1.1 exactly one, well formed (else 400); where HTTP/2 names an authority as
//!    well, both are the same (RFC 9113 §8.3.1).
//! 2. The host has to be on the list, else 421: that stops DNS rebinding, where a page's own name leads to this server
//!    (CVE-2025-49596, CVE-2025-66414). An empty list serves nobody. `localhost`, `127.0.0.0/8` and `[::1]` are always on the list
//!    of a loopback listener.
//! 3. What the operator exempts (health, metrics, a fixed reverse proxy) and forward-proxy requests are not asked about the list,
//!    but about the syntax all the same.
//! 4. A request with an `Origin` has to come from a listed origin, compared byte for byte, or from the host it asks for; else 403.
//!    `null` is never listed: it is the origin of every page that rule 9 sandboxes.
//! 5. A preflight is answered here, before any credential is asked for, because browsers send none with it. The fields it names
//!    are checked and reflected, since the names of `Mcp-Param-*` cannot be known beforehand.
//! 6. A Private Network Access preflight (a public page that wants a private server) gets its answer from the same list.
//! 7. Every other response to a listed origin names it in `Access-Control-Allow-Origin` and exposes what MCP clients read; a 401
//!    and a 429 too, or the page could not see why.
//! 8. `Access-Control-*` from the target is removed: two answers are none. `Vary: Origin` is added to what is there.
//! 9. Proxied pages get `X-Content-Type-Options: nosniff` and `Content-Security-Policy: sandbox` (beside the target's own policy):
//!    nothing from a target runs as script on this server's origin (CVE-2025-58444).
//!
//! Credentials (cookies) are never allowed: this server's token is a field that the page sets.
//!
//! # Where it stands
//! After the client networks, before the first limiter and before credentials. In front of a forward proxy it
//! changes nothing: origins and preflights there are the target's.
//!
//! # Cost
//! One comparison with each listed host or origin; the fields of a listed origin's response are allocated.

mod decide;
mod future;
mod host;
mod layer;
mod respond;
mod service;

pub use future::ResponseFuture;
pub use layer::{BrowserLayer, RequestHead};
pub use service::Browser;
