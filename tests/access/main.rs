//! Who may reach what, over real sockets and real TLS: carriers, revocation, client networks and certificates, scopes, sessions.
//!
//! Everything that any test logs, at the finest level, is kept, and so is every byte that the origin receives and every audit
//! line. Each test ends by asking that none of its tokens is in any of them.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail by panicking, and measure real time"
)]

mod carriers;
mod identity;
mod revocation;
mod scopes;
mod support;
