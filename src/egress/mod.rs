//! The egress policy: which targets and addresses may be reached. Pure decisions.
//!
//! A decision has two halves that use the same judge of addresses:
//!
//! 1. [`PolicyHandle::permit`] looks at scheme, port and host of a [`Target`](crate::net::Target), and at the address where the
//!    host is a literal. It gives an [`EgressPermit`].
//! 2. [`EgressPermit::judge`] looks at every answer for the host. It gives [`ApprovedAddrs`], the only thing a dialer takes.
//!
//! The rules, in the order in which they are asked:
//!
//! 1. `https_only` refuses `http` and `ws`.
//! 2. The Fetch standard's bad ports ([`BAD_PORTS`]) are refused always.
//! 3. `.onion` is refused always; then denied hosts; then, where there is an allow-list, everything that is not on it.
//! 4. Names that are not public by their labels are refused: `localhost`, `local`, `internal`, `intranet`, `lan`, `home.arpa`,
//!    `corp`, `home`, `private`, `test`, `invalid`, `alt`, `svc`, `localdomain`, `resolver.arpa`, `service.arpa`,
//!    `ipv4only.arpa`, the metadata names of clouds, and single labels.
//! 5. The port must be open, by the policy (default 80, 443 and 1024-65535) or by an exception.
//! 6. For each address, IPv4-mapped ones unwrapped and NAT64 ones seen as the IPv4 address inside: the server's own listeners
//!    and denied networks refuse; an exception that covers it allows; otherwise it has to be
//!    [global](crate::net::AddressClass::Global), on a port of the policy.
//! 7. Metadata addresses, `0.0.0.0` and `::` are covered only by an exception for exactly that address; 6to4, Teredo, SIIT,
//!    IPv4-compatible and unknown NAT64 addresses by none.
//!
//! A named [`Exception`] lifts rule 4 for exactly its name, and counts as listed in rule 3, on its ports. `.localhost` names
//! need one, and are answered by 127.0.0.1 and `::1` without DNS. An exception without a name lifts neither.
//!
//! ```
//! use portcullis::{egress::{EgressPolicy, Exception, PolicyHandle}, net::Target};
//!
//! let policy = EgressPolicy::builder()
//!     .deny_host("*.bad.example")?
//!     .exception("mcp.corp.example", ["10.1.0.0/16"])?
//!     .with_exception(Exception::any_host(["127.0.0.1"])?.ports(["3101"])?)
//!     .build()?;
//! let handle = PolicyHandle::new(policy);
//!
//! let permit = handle.permit(&Target::parse("https://mcp.corp.example/")?)?;
//! assert!(permit.judge(&["10.1.2.3".parse()?]).is_ok());
//! assert!(permit.judge(&["10.1.2.3".parse()?, "10.2.0.1".parse()?]).is_err());
//! assert!(handle.permit(&Target::parse("http://2130706433:3101/")?).is_ok());
//! assert!(handle.permit(&Target::parse("http://127.1:3102/")?).is_err());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod denial;
mod exceptions;
mod explain;
mod handle;
mod names;
mod nat64;
mod patterns;
mod permit;
mod policy;
mod ports;
#[cfg(test)]
mod tests;

pub use builder::{Dangerous, EgressPolicyBuilder};
pub use denial::{Denial, DenialReason};
pub use exceptions::Exception;
pub use explain::{Explanation, Step};
pub use handle::{Generation, PolicyHandle};
pub use permit::{ApprovedAddr, ApprovedAddrs, EgressPermit};
pub use policy::{EgressPolicy, LOCALHOST, Resolution};
pub use ports::BAD_PORTS;
