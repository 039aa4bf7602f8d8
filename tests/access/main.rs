//! Who may reach what, over real sockets and real TLS: carriers, revocation, client networks and certificates, scopes, sessions.
//!
//! Everything that any test logs, at the finest level, is kept, and so is every byte that the origin receives and every audit
//! line. Each test ends by asking that none of its tokens is in any of them.

mod carriers;
mod identity;
mod revocation;
mod scopes;
mod support;
